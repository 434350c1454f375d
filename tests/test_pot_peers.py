"""Wasserstein-1 of Python Optimal Transport (POT): what its tests of the line hold, held of ours; then where we differ.

POT's tests are not in its package: their cases are made again here. POT has two functions for this distance, an exact
solver (`emd2_1d`) and quantile functions (`wasserstein_1d`).
"""

import importlib
import warnings

import numpy as np
import pytest

import kullback as kb

RNG = np.random.default_rng


def pot():
    """The package, whose docstrings warn of escapes where they are compiled."""
    with warnings.catch_warnings(action="ignore"):
        return importlib.import_module("ot")


def theirs(x, y, x_weights=None, y_weights=None):
    """By both of its functions."""
    ot = pot()
    weights = [w if w is None else np.asarray(w, np.float64) for w in (x_weights, y_weights)]
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    exact = ot.emd2_1d(x, y, *([] if w is None else w for w in weights), metric="euclidean")
    return float(exact), float(ot.wasserstein_1d(x, y, *weights, p=1))


def shares(rng, n):
    return rng.dirichlet(np.ones(n))


@pytest.mark.integration
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "m"), [(20, 30), (1, 7), (100, 100), (3, 1000)])
def test_both_of_its_functions_agree(n, m, weighted):
    """Samples of different sizes, unsorted, with ties, with and without weights; and of its linear program."""
    ot = pot()
    rng = RNG([n, m])
    for x, y in (
        (rng.normal(size=n), rng.normal(1, 2, m)),
        (rng.integers(0, 5, n).astype(float), rng.integers(0, 5, m).astype(float)),
        (rng.normal(size=n) + 1e9, rng.normal(size=m) + 1e9),
    ):
        weights = (shares(rng, n), shares(rng, m)) if weighted else (None, None)
        ours = kb.wasserstein_distance(x, y, *weights)
        assert theirs(x, y, *weights) == pytest.approx((ours, ours), rel=1e-9, abs=1e-12 * abs(x).max())
        uniform = [np.full(k, 1 / k) if w is None else w for k, w in zip((n, m), weights, strict=True)]
        program = ot.emd2(*uniform, np.abs(x[:, None] - y))
        assert float(program) == pytest.approx(ours, rel=1e-7, abs=1e-12)


@pytest.mark.integration
def test_what_its_tests_of_the_line_hold():
    """Two weights of one support, which are histograms of ours; a translation; the same samples; a change of unit."""
    rng = RNG(0)
    x = np.linspace(0, 5, 100)
    p, q = shares(rng, 100), shares(rng, 100)
    ours = kb.wasserstein_distance(x, x, p, q)
    assert theirs(x, x, p, q) == pytest.approx((ours, ours), rel=1e-9)
    assert float(kb.wasserstein_distance_histograms(p, q, x)) == pytest.approx(ours, rel=1e-12)
    for distance in (lambda *a: theirs(*a)[0], lambda *a: theirs(*a)[1], kb.wasserstein_distance):
        assert distance(x, x + 1) == pytest.approx(1.0, rel=1e-12)
        assert distance(x, x[::-1], p, p[::-1]) == pytest.approx(0.0, abs=1e-15)
        assert distance(10 * x, 10 * x, p, q) == pytest.approx(10 * ours, rel=1e-9)


@pytest.mark.integration
def test_where_we_differ_and_why():
    ot = pot()
    x, y, uniform = np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 8.0]), np.full(3, 1 / 3)
    # weights of other sums: ours are normalised; one of theirs refuses, the other integrates quantiles beyond 1
    assert kb.wasserstein_distance(x, y, 2 * uniform, uniform) == pytest.approx(5.0)
    with pytest.raises(AssertionError, match="same sum"):
        ot.emd2_1d(x, y, 2 * uniform, uniform, metric="euclidean")
    assert ot.wasserstein_1d(x, y, np.full(3, 2.0), np.ones(3)) != pytest.approx(5.0)
    # negative weights and weights without a sum are no distributions: ours refuses, theirs gives a number
    with pytest.raises(ValueError, match="`x_weights` holds -1"):
        kb.wasserstein_distance(x, y, [-1.0, 1.0, 1.0], uniform)
    assert np.isfinite(theirs(x, y, [-1.0, 1.0, 1.0], uniform)).all()
    with pytest.raises(ValueError, match="`x_weights` are all zero"):
        kb.wasserstein_distance(x, y, np.zeros(3), uniform)
    assert np.isfinite(ot.wasserstein_1d(x, y, np.zeros(3), uniform))
    # infinities: mass that stays at one has no way to go; theirs take inf - inf
    assert kb.wasserstein_distance([0.0, np.inf], [1.0, np.inf]) == 0.5
    with np.errstate(invalid="ignore"):
        assert np.isnan(theirs([0.0, np.inf], [1.0, np.inf])).all()
        assert kb.wasserstein_distance([0.0, np.inf, 1.0], y) == np.inf == theirs([0.0, np.inf, 1.0], y)[0]
        assert np.isnan(theirs([0.0, np.inf, 1.0], y)[1])  # its quantiles
        assert np.isnan([kb.wasserstein_distance([0.0, np.nan, 1.0], y), *theirs([0.0, np.nan, 1.0], y)]).all()
    # whole numbers: one of theirs stays in them, with weights of 1/3 rounded to 0
    assert kb.wasserstein_distance([0, 1, 3], [5, 6, 8]) == 5.0
    assert ot.wasserstein_1d(x.astype(int), y.astype(int)) == 0
    # its matrix of distances is of expanded squares, which cancel far from 0
    far = kb.wasserstein_distance(x + 1e9, y + 1e9)
    assert far == 5.0
    assert abs(ot.emd2(uniform, uniform, ot.dist(x[:, None] + 1e9, y[:, None] + 1e9, metric="euclidean")) - 5.0) > 0.1
    # columns at once: ours takes one pair of samples, and histograms of one support in rows
    with pytest.raises(ValueError, match=r"`x` has shape \(3, 2\), expected \(n,\)"):
        kb.wasserstein_distance(np.stack([x, x], 1), np.stack([y, y], 1))
    columns = ot.wasserstein_1d(np.stack([x, 2 * x], 1), np.stack([y, 2 * y], 1))
    assert columns == pytest.approx([kb.wasserstein_distance(k * x, k * y) for k in (1, 2)])
