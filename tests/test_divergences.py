"""What the row functions compute: values, units, and every keyword of theirs."""

import numpy as np
import pytest
import reference
from strategies import PAIR_FUNCTIONS, ROW_FUNCTIONS, error, logit_rows

import kullback as kb

P = [[9 / 25, 12 / 25, 4 / 25], [0.5, 0.5, 0.0]]
Q = [[1 / 3, 1 / 3, 1 / 3], [0.75, 0.25, 0.0]]
ALL = PAIR_FUNCTIONS | ROW_FUNCTIONS


def rows_for(name, rows=5, vocab=301, **options):
    return logit_rows(rows, vocab, **options)[: 2 if name in PAIR_FUNCTIONS else 1]


def kinds(name):
    return [{}] if name == "logsumexp" else [{"given": "logits"}, {"given": "log_probs"}, {"given": "probs"}]


# ---- values ----


def test_published_values():
    """Wikipedia's worked example, and Cover & Thomas, example 2.3.1, in bits."""
    got = kb.kl_divergence(np.array(P), np.array(Q), given="probs")
    assert got[0] == pytest.approx(0.085299601318370568, rel=1e-14)
    assert got[1] / np.log(2) == pytest.approx(0.20751874963942191, rel=1e-14)
    bits = kb.kl_divergence(np.array(Q), np.array(P), given="probs", base=2)
    assert bits[1] == pytest.approx(0.18872187554086714, rel=1e-14)
    assert bits[0] * np.log(2) == pytest.approx(0.097455006785387621, rel=1e-14)
    assert kb.entropy(np.full((1, 8), 0.125), given="probs", base=2)[0] == pytest.approx(3, rel=1e-15)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("vocab", [2, 17, 301, 4099])
def test_values(name, vocab):
    ours, truth = ALL[name]
    for options in kinds(name):
        rows = rows_for(name, vocab=vocab)
        if options.get("given") == "probs":
            rows = [np.exp(row) for row in rows]
        got = ours(*rows, **options)
        assert got.dtype == np.float64
        assert error(name, got, truth(*rows, **options)) < 1e-12


def test_the_kinds_of_input_agree():
    """Probabilities, their logs, logits off by a constant and counts off by a factor are one distribution."""
    a, b = logit_rows(3, 50)
    expected = kb.kl_divergence(a, b, given="logits")
    p, q = (np.exp(reference.log_softmax(x)).astype(np.float64) for x in (a, b))
    for got in (
        kb.kl_divergence(p, q, given="probs"),
        kb.kl_divergence(1000 * p, q / 7, given="probs"),
        kb.kl_divergence(np.log(p), np.log(q), given="log_probs"),
        kb.kl_divergence(a + 3, b - 4, given="logits"),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_probabilities_are_the_default():
    p, q = np.array([1.0, 3.0]), np.array([3.0, 1.0])
    assert kb.kl_divergence(p, q) == kb.kl_divergence(p, q, given="probs")
    assert kb.kl_divergence(p, q) == pytest.approx(np.log(3) / 2, rel=1e-14)


# ---- keywords ----


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("base", [2, 10, np.e, 0.5])
def test_base(name, base):
    ours, _ = ALL[name]
    rows = rows_for(name)
    np.testing.assert_allclose(
        ours(*rows, **kinds(name)[0], base=base),
        ours(*rows, **kinds(name)[0]) / np.log(base),
        rtol=4e-16,
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("temperature", [0.01, 0.7, 3.0, 1000.0])
def test_temperature(name, dtype, temperature):
    ours, truth = ALL[name]
    for options in kinds(name)[:2]:
        rows = [row.astype(dtype) for row in rows_for(name, noise=1e-3, spread=1.0)]
        got = ours(*rows, **options, temperature=temperature)
        assert error(name, got, truth(*rows, **options, temperature=temperature)) < (
            1e-12 if dtype == "float64" else 1e-6
        )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("vocab_size", [1, 7, 300, 301])
def test_vocab_size(name, vocab_size):
    """The first columns alone count; what lies beyond is not even looked at."""
    ours, _ = ALL[name]
    for options in kinds(name):
        rows = [np.exp(row) if options.get("given") == "probs" else row for row in rows_for(name)]
        expected = ours(*[row[:, :vocab_size].copy() for row in rows], **options)
        for row in rows:
            row[:, vocab_size:] = np.nan
        np.testing.assert_array_equal(ours(*rows, **options, vocab_size=vocab_size), expected)


def test_vocab_size_makes_padded_and_plain_arrays_match():
    a, b = logit_rows(3, 300)
    padded = np.pad(b, [(0, 0), (0, 20)])
    np.testing.assert_array_equal(
        kb.kl_divergence(a, padded, given="logits", vocab_size=300), kb.kl_divergence(a, b, given="logits")
    )


@pytest.mark.parametrize("name", ALL)
def test_axis(name):
    ours, _ = ALL[name]
    rows = [row.reshape(3, 4, 25) for row in rows_for(name, rows=12, vocab=25)]
    expected = ours(*rows, **kinds(name)[0])
    for axis in range(-3, 3):
        moved = [np.moveaxis(row, -1, axis) for row in rows]
        np.testing.assert_array_equal(ours(*moved, **kinds(name)[0], axis=axis), expected)


@pytest.mark.parametrize("name", ALL)
def test_out(name):
    ours, _ = ALL[name]
    rows = [row.reshape(3, 4, 25) for row in rows_for(name, rows=12, vocab=25)]
    expected = ours(*rows, **kinds(name)[0])
    out = np.full((3, 4), np.nan)
    assert ours(*rows, **kinds(name)[0], out=out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.full((3, 8), np.nan)
    assert ours(*rows, **kinds(name)[0], out=strided[:, ::2]).base is strided
    np.testing.assert_array_equal(strided[:, ::2], expected)
    assert np.isnan(strided[:, 1::2]).all()


@pytest.mark.parametrize("given", ["probs", "log_probs", "logits"])
@pytest.mark.parametrize("name", [name for name in ALL if name != "logsumexp"])
def test_plain_sums(name, given):
    """normalize=False takes the measures as they are."""
    ours, truth = ALL[name]
    rng = np.random.default_rng(0)
    rows = [rng.uniform(0.0, 0.1, (4, 60)) for _ in rows_for(name)]
    rows[0][:, 5] = 0
    if given != "probs":
        with np.errstate(divide="ignore"):
            rows = [np.log(row) for row in rows]
    got = ours(*rows, given=given, normalize=False)
    assert error(name, got, truth(*rows, given=given, normalize=False)) < 1e-12


def test_plain_sums_may_be_negative_and_normalised_ones_never():
    p, q = np.array([[0.1, 0.2]]), np.array([[1.0, 2.0]])
    assert kb.kl_divergence(p, q, given="probs", normalize=False)[0] == pytest.approx(0.3 * np.log(0.1))
    assert 0 <= kb.kl_divergence(p, q, given="probs")[0] < 1e-30


# ---- log_softmax ----


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 301), (2, 3, 5000)])
def test_log_softmax(dtype, shape):
    x = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
    got = kb.log_softmax(x)
    assert got.shape == shape
    np.testing.assert_allclose(
        got, reference.log_softmax(x).astype(float), rtol=1e-6, atol=1e-15 if dtype == "float64" else 1e-7
    )


def test_log_softmax_edges():
    x = np.array([[0.0, -np.inf, 1.0], [np.nan, 0, 0], [np.inf, 0, 0], [-np.inf] * 3])
    got = kb.log_softmax(x)
    assert got[0, 1] == -np.inf
    np.testing.assert_allclose(got[0, [0, 2]], reference.log_softmax(x[0])[[0, 2]].astype(float), rtol=1e-15)
    assert np.isnan(got[1:]).all()
    np.testing.assert_allclose(
        kb.log_softmax(x[:1], temperature=2.0), reference.log_softmax(x[:1], 2.0).astype(float), rtol=1e-15
    )
    np.testing.assert_array_equal(kb.log_softmax(x.T, axis=0), got.T)
    out = np.empty((4, 3))
    assert kb.log_softmax(x, out=out) is out
    np.testing.assert_array_equal(out, got)
