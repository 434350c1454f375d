"""c.acceptance = Σ min(p, q): right where nearly all is accepted and where next to nothing is, of rows of any kind."""

import numpy as np
import pytest
import reference
from strategies import STORAGES, bound, logit_rows, stored

import kullback as kb
from kullback._engine import long_rows

INF = np.inf


def assert_right(p, q, limit, **options):
    got = kb.compare(p, q, **options).acceptance
    shared, apart = reference.acceptance(p, q, **options), reference.total_variation(p, q, **options)
    assert (np.abs(got - shared) <= limit * shared).all()
    # as total_variation, whose bound it is; and a number near 1 is rounded
    assert (np.abs(1 - got - apart) <= 2 * limit * apart + 2e-16).all()
    return got


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("noise", [1e-3, 0.05, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("vocab", [2, 17, 2048, 5001])
def test_against_the_reference(storage, noise, vocab):
    p, q = (stored(x, storage) for x in logit_rows(6, vocab, noise=noise, seed=vocab))
    assert_right(p, q, bound(storage, storage))
    assert_right(p, q, bound(storage, storage), temperature=0.7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth", [5.0, 20.0, 60.0, 300.0])
def test_next_to_nothing_in_common(dtype, depth):
    """1 - total variation would be 0, or noise, from a depth of 40 nats on."""
    p, q = logit_rows(5, 3000, noise=1.0, seed=1, spread=2.0)
    p[:, ::2] -= depth
    q[:, 1::2] -= depth
    got = assert_right(p.astype(dtype), q.astype(dtype), bound(dtype, dtype))
    assert (got < 20 * np.exp(-depth)).all()
    assert (got > 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("least", [1e-3, 1e-20, 1e-37])
def test_masses_with_next_to_nothing_in_common(dtype, least):
    p, q = np.random.default_rng(2).random((2, 5, 3000))
    p[:, ::2] *= least
    q[:, 1::2] *= least
    p, q = p.astype(dtype), q.astype(dtype)
    assert (assert_right(p, q, bound(dtype, dtype), given="probs") < 4 * least).all()


@pytest.mark.parametrize("scale", [3.0, 10.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 7.0, 1000.0])
def test_one_outcome_that_takes_nearly_all(scale, offset):
    """The rounding of the normalisers is more than what the rows differ by: it is balanced, or found in float64."""
    for seed, vocab in enumerate((2, 5, 16, 100)):
        p, q = (scale * x for x in logit_rows(50, vocab, noise=1e-3, seed=seed))
        p, q = p.astype(np.float32), (q + offset).astype(np.float32)
        got, apart = kb.compare(p, q).acceptance, reference.total_variation(p, q)
        size = np.maximum(1.0, np.abs(q.astype(float) - p).max(-1))  # to which the bounds of distances are relative
        assert (np.abs(1 - got - apart) <= 2e-6 * apart + 1e-14 * size).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("vocab", [16, 33, 5000])
def test_edge_cases(dtype, vocab):
    p, q = (x.astype(dtype) for x in logit_rows(10, vocab, noise=0.1))
    p[0, 3], p[1, 4], q[2, 5], q[3, vocab // 2 :] = -INF, -INF, -INF, -INF
    q[0, 3] = -INF
    p[4], q[5, 1], q[6, 1] = -INF, np.nan, INF
    p[7, :2], q[7, 2:] = -INF, -INF  # nothing in common
    p[8, 1:], q[8, 1:] = -INF, -INF  # the same one outcome
    q[9] = p[9]
    got = kb.compare(p, q).acceptance
    np.testing.assert_array_equal(np.isnan(got), [False] * 4 + [True] * 3 + [False] * 3)
    np.testing.assert_array_equal(got[7:], [0.0, 1.0, 1.0])
    np.testing.assert_allclose(got[:4], reference.acceptance(p[:4], q[:4]).astype(float), rtol=bound(dtype, dtype))
    np.testing.assert_array_equal(kb.compare(np.zeros((2, 1), dtype), np.ones((2, 1), dtype)).acceptance, [1.0, 1.0])
    masses = np.array([[1, 0, 0], [1, 1, 0], [0, 2, 2], [0, 0, 0]], dtype)
    found = kb.compare(masses, np.roll(masses, 1, 1), given="probs").acceptance
    np.testing.assert_array_equal(found, [0.0, 0.5, 0.5, np.nan])


def test_ignored_rows_are_not_read():
    p, q = logit_rows(4, 50, noise=0.5)
    p[1] = np.nan
    c = kb.compare(p, q, [3, -100, 4, 5])
    np.testing.assert_array_equal(np.isnan(c.acceptance), c.ignored)
    s = c.summary()
    assert s.acceptance.count == 3
    assert s.acceptance.mean == pytest.approx(np.mean(c.acceptance[~c.ignored]), rel=1e-15)
    assert s.to_dict()["acceptance"]["mean"] == s.acceptance.mean
    assert f"acceptance    {100 * s.acceptance.mean:.3f} %" in str(s)


def test_rows_that_are_cut(monkeypatch):
    """Parts of a row do not know what the row accepts: it is that of the whole row, to the bit."""
    p, q = logit_rows(3, 5000, noise=0.5)
    whole = kb.compare(p, q, [1, 2, 3])
    monkeypatch.setattr(long_rows, "LONGEST", 1000)
    monkeypatch.setattr(long_rows, "PART", 300)
    cut = kb.compare(p, q, [1, 2, 3])
    np.testing.assert_array_equal(cut.acceptance, whole.acceptance)
    np.testing.assert_allclose(cut.kl, whole.kl, rtol=1e-11)
