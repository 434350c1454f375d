"""The functions for numba against long double, from compiled code, and as metrics of nearest-neighbour searches."""

import numba
import numpy as np
import pytest

from kullback.integrations import numba as face

L = np.longdouble


def truths(x, y):
    p, q = x.astype(L) / x.astype(L).sum(), y.astype(L) / y.astype(L).sum()

    def kl(a, b):
        at = a > 0
        with np.errstate(divide="ignore"):
            return (a[at] * np.log(a[at] / b[at])).sum()

    m = (p + q) / 2
    return {
        "kl": kl(p, q),
        "jensen_shannon": (kl(p, m) + kl(q, m)) / 2,
        "hellinger": np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2),
        "total_variation": abs(p - q).sum() / 2,
    }


@numba.njit
def all_of(x, y):
    return face.kl(x, y), face.jensen_shannon(x, y), face.hellinger(x, y), face.total_variation(x, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [1e-3, 0.3, 5.0])
def test_within_the_stated_bounds_of_long_double_called_from_compiled_code(dtype, spread):
    rng = np.random.default_rng(3)
    for n in (1, 2, 500):
        x = rng.gamma(0.5, size=n) + 1e-6
        y = x * np.exp(spread * rng.normal(size=n))
        x, y = x.astype(dtype), (7 * y).astype(dtype)
        for (name, truth), got in zip(truths(x, y).items(), all_of(x, y), strict=True):
            floor = 1e-15 * np.sqrt(truth) + 1e-18 if name in ("kl", "jensen_shannon") else 1e-15
            # 1e-18: what summing the truth in long double itself loses
            assert abs(got - truth) <= 1e-12 * truth + floor, name


def test_zeros_and_rows_without_a_distribution():
    x, y = np.array([1.0, 0, 1]), np.array([2.0, 2, 0])
    assert face.kl(x, y) == np.inf
    assert face.kl(x[:2], y[:2]) == pytest.approx(np.log(2), rel=1e-15)
    assert face.total_variation(x, y) == 0.5
    for bad in ([0.0, 0, 0], [-1.0, 1, 1], [np.nan, 1, 1], [np.inf, 1, 1]):
        assert np.isnan(all_of(np.array(bad), y)).all()
        assert np.isnan(all_of(y, np.array(bad))).all()
    with pytest.raises(ValueError, match="same length"):
        face.kl(x, y[:2])


def test_sums_over_tokens():
    logits = np.random.default_rng(1).normal(0, 5, 1000) + 1e4
    truth = logits.astype(L) - np.log(np.exp(logits.astype(L) - L(1e4)).sum()) - L(1e4)
    got = [face.token_log_prob(logits, i) for i in range(1000)]
    assert (abs(got - truth) <= 1e-12 * np.maximum(1, abs(truth))).all()
    assert np.isnan(face.token_log_prob(logits, 1000))
    assert np.isnan(face.token_log_prob(logits, -1))
    assert face.log_ratio_sum(np.array([-1.0, -2, -3]), np.array([-2.0, -4, -6]), 1, 3) == 5
    assert np.isnan(face.log_ratio_sum(logits, logits, 0, 1001))


# not `kl`: pynndescent offers the distance of a pair to both sides, and so needs a symmetric one
@pytest.mark.integration
@pytest.mark.parametrize("name", ["jensen_shannon", "hellinger", "total_variation"])
def test_as_a_metric_of_pynndescent(name):
    from pynndescent import NNDescent

    rows = np.random.default_rng(0).dirichlet(np.full(20, 0.3), 1000).astype(np.float32)
    metric = getattr(face, name)
    found, distances = NNDescent(rows, metric=metric, n_neighbors=15, random_state=0).neighbor_graph
    every = np.array([[metric(a, b) for b in rows] for a in rows])
    nearest = np.argsort(every, axis=1)[:, :15]
    shared = [np.intersect1d(a, b).size for a, b in zip(found, nearest, strict=True)]
    assert np.mean(shared) >= 0.9 * 15
    # it keeps distances in float32
    np.testing.assert_allclose(distances, np.take_along_axis(every, found, 1), rtol=1e-6, atol=1e-12)
