"""Rényi divergences of negative order, and Jensen-Shannon divergences with one weight a row."""

import math

import mpmath
import numpy as np
import pytest

import kullback as kb

RNG = np.random.default_rng


def pair(seed=0, rows=5, vocab=6):
    rng = RNG(seed)
    return rng.dirichlet(np.ones(vocab), rows), rng.dirichlet(np.ones(vocab), rows)


@pytest.mark.parametrize("alpha", [-1e-300, -1e-17, -1e-9, -0.3, -1.0, -2.5, -100.0])
def test_negative_orders_are_the_definition(alpha):
    """ln(Σ p^α·q^(1-α))/(α-1), van Erven and Harremoës (2014), section VI."""
    p, q = pair()
    truth = []
    with mpmath.workdps(400 if alpha > -1e-20 else 60):
        a = mpmath.mpf(alpha)
        for row in zip(p, q, strict=True):
            x, y = ([mpmath.mpf(float(v)) for v in side] for side in row)
            x, y = ([v / sum(side) for v in side] for side in (x, y))
            truth.append(float(mpmath.log(sum(u**a * v ** (1 - a) for u, v in zip(x, y, strict=True))) / (a - 1)))
    np.testing.assert_allclose(kb.renyi_divergence(p, q, alpha), truth, rtol=1e-13)
    np.testing.assert_allclose(kb.renyi_divergence(np.log(p), np.log(q), alpha, given="logits"), truth, rtol=1e-9)
    np.testing.assert_allclose(kb.renyi_divergence(p, q, alpha, base=2), np.divide(truth, math.log(2)), rtol=1e-13)


def test_negative_orders_at_the_edges():
    p, q = pair()
    np.testing.assert_allclose(kb.renyi_divergence(p, q, -np.inf), np.log((p / q).min(-1)), rtol=1e-13)
    assert kb.renyi_divergence([0.5, 0.5, 0], [0.2, 0.2, 0.6], -1) == -np.inf  # p = 0 < q
    assert np.isfinite(kb.renyi_divergence([0.2, 0.2, 0.6], [0.5, 0.5, 0], -1))
    for alpha in (-1e-300, -1, -np.inf):
        equal = kb.renyi_divergence(p, p, alpha)
        assert (equal == 0).all() and not np.signbit(equal).any()
    orders = [kb.renyi_divergence(p, q, a) for a in (-np.inf, -9, -1, -0.01, 0, 0.01, 1, 9, np.inf)]
    assert (np.diff(orders, axis=0) >= 0).all()  # rising in the order, through 0
    out = np.empty(5)
    assert kb.renyi_divergence(p, q, -1, out=out) is out
    with pytest.raises(ValueError, match="`alpha` is nan, expected from -inf to inf"):
        kb.renyi_divergence(p, q, math.nan)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_one_weight_a_row(dtype):
    """The kernel of one weight, to the last bit, whatever the layout; the ends and repeated weights among them."""
    rng = RNG(1)
    p, q = (rng.integers(1, 100, (3, 4, 50)).astype(dtype) for _ in range(2))
    weights = rng.uniform(0, 1, (3, 4))
    weights[0, :3] = 0.0, 1.0, weights[2, 3]
    each = [[kb.jensen_shannon_divergence(p[i, j], q[i, j], weights[i, j]) for j in range(4)] for i in range(3)]
    np.testing.assert_array_equal(kb.jensen_shannon_divergence(p, q, weights), each)
    backwards = kb.jensen_shannon_divergence(p[..., ::-1], np.ascontiguousarray(q[..., ::-1]), weights.tolist())
    np.testing.assert_allclose(backwards, each, rtol=1e-5 if dtype == np.float32 else 1e-13)
    out = np.empty((3, 4))
    kb.jensen_shannon_divergence(p, q, weights, base=2, out=out, num_threads=2)
    np.testing.assert_allclose(out, np.divide(each, math.log(2)), rtol=1e-14)
    broadcast = kb.jensen_shannon_divergence(p, q, weights[:, :1])
    for row in range(3):
        one = kb.jensen_shannon_divergence(p[row, 1], q[row, 1], weights[row, 0])
        assert broadcast[row, 1] == one


def test_weights_a_row_are_checked():
    p, q = pair()
    with pytest.raises(ValueError, match=r"`weight` holds 1\.5, expected from 0 to 1"):
        kb.jensen_shannon_divergence(p, q, [0.1, 0.2, 1.5, 0.0, 1.0])
    with pytest.raises(ValueError, match="`weight` holds nan"):
        kb.jensen_shannon_divergence(p, q, np.full(5, np.nan))
    with pytest.raises(ValueError, match=r"`weight` has shape \(4,\), expected \(5,\), one a row"):
        kb.jensen_shannon_divergence(p, q, np.full(4, 0.5))
    with pytest.raises(ValueError, match="`p` holds a negative value in row 3"):
        kb.jensen_shannon_divergence(np.where(np.arange(5)[:, None] == 3, -p, p), q, RNG(0).uniform(size=5))
    assert kb.jensen_shannon_divergence(p[:0], q[:0], np.empty(0)).shape == (0,)
