"""KL of continuous distributions from samples, by distances to nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import (
    choice,
    generator,
    reals,
    same_axis,
    share,
    unit,
    whole,
)
from kullback.samples.subsamples import subsampled
from kullback.samples.trees import (
    as_points,
    check_repeats,
    distance_of_rank,
    extrapolates,
    far_neighbours,
    local_dimension,
    scipy_modules,
    tree_workers,
    warn,
)

__all__ = ["NeighbourEstimate", "knn_kl_divergence", "knn_kl_divergence_from_density"]

Float64s = NDArray[np.float64]
_METHODS = ("nearest", "bias-reduced")


@dataclass(frozen=True)
class NeighbourEstimate:
    """An estimate of KL(p‖q) from nearest neighbours.

    Attributes
    ----------
    value : float
        The estimate. It can be negative, and is then reported as such. Its bias is not taken off.
    low, high : float or None
        Interval that allows for the bias, if subsamples were asked for and neighbours are near enough to tell.
    k, method : int, str
        How it was made.
    bias : float or None
        About how much of `value` is bias, by extrapolation from subsamples, where there is an interval.
    dimension : float or None
        Local dimension of x: how fast neighbours become more with distance. None with 2k points or fewer.
    caution : str
        Why the estimate may be far off, which is warned of as well; empty if nothing speaks for that.
    """

    value: float
    low: float | None
    high: float | None
    k: int
    method: str
    bias: float | None = None
    dimension: float | None = None
    caution: str = ""


def knn_kl_divergence(
    x: ArrayLike,
    y: ArrayLike,
    k: int = 5,
    *,
    method: Literal["nearest", "bias-reduced"] = "nearest",
    resamples: int = 0,
    confidence: float = 0.95,
    rng: np.random.Generator | int | None = None,
    base: float | None = None,
    num_threads: int | None = None,
) -> NeighbourEstimate:
    """KL(p‖q) of two densities from samples x of p and y of q.

    With ρ the distance of x_i to its k-th neighbour among the other x, and ν to its k-th among the y:

        "nearest"        d/n·Σ log(ν/ρ) + log(m/(n-1))
        "bias-reduced"   d/n·Σ log(ν_j/ρ_l) + 1/n·Σ (ψ(l) - ψ(j)) + log(m/(n-1)), where l and j count the x
                         and the y within max(ρ, ν) of x_i: both densities are taken over the same ball

    Parameters
    ----------
    x, y : array_like, (n, d) and (m, d), or (n,) and (m,)
        Independent samples in the same coordinates. Distances are Euclidean: scale the coordinates to
        comparable spreads first (KL itself does not depend on the scale).
    k : int
        Neighbours; larger is smoother and more biased.
    method : {"nearest", "bias-reduced"}
        See above.
    resamples : int
        Subsamples (of a quarter of the points, without replacement: the bootstrap would repeat points) for an
        interval and the bias: 0, or 2 at least; some dozens tell.
    confidence : float
        Of the interval.
    rng : numpy.random.Generator or seed
        For the subsamples.
    base : float, optional
        Base of the logarithm; nats by default.
    num_threads : int, optional
        Threads of the tree queries. The result does not depend on it.

    Returns
    -------
    NeighbourEstimate

    Raises
    ------
    ValueError
        Samples with fewer than k + 1 (x) or k (y) points, four times as many with `resamples`; NaN or infinity,
        different dimensions, repeats.
    ImportError
        Without SciPy (`pip install kullback[stats]`).

    Notes
    -----
    Q. Wang, S. Kulkarni, S. Verdú, "Divergence estimation for multidimensional densities via
    k-nearest-neighbor distances", IEEE Trans. Inf. Theory 55(5), 2009, equations 5 and 29; F. Pérez-Cruz,
    ISIT 2008, equation 14. Consistent, slowly in high dimension. Where p has mass far from every y the
    estimate falls short of KL; it cannot be inf.

    Both methods are biased, and which of them more depends on the densities: 500 points each of N(0, I) and of
    N(μ, I) in 10 dimensions, KL = 1.25, give 0.81 on average by "nearest" and 0.69 by "bias-reduced". A
    UserWarning says so where neighbours are far, (k/n)^(1/D) ≥ 0.1 with D the local dimension, or where the bias
    that subsamples show is larger than the standard error.

    The interval of `resamples` goes from the estimate to the estimate without its bias, one and a half times over, with
    the standard errors of both outside. The bias is extrapolated from quarters of the points as if it fell with
    n^(-1/(D+1)). Where neighbours are too far for that, (k/n)^(1/D) ≥ 0.4, there is no interval. docs/intervals.md
    has the coverage.

    Repeated points have no density, the formulas no value, and ValueError says so where a k-th neighbour lies at
    distance 0. Values that repeat because they were rounded get it back by uniform noise as wide as the
    rounding, `x + rng.uniform(-step / 2, step / 2, x.shape)`: the density then is the rounded histogram's.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(0, 1, 2000), rng.normal(2, 1, 2000)      # KL = 2
    >>> bool(abs(knn_kl_divergence(x, y).value - 2) < 0.25)
    True
    """
    if getattr(x, "ndim", 0) == 2:
        same_axis(-1, ("x", x), ("y", y))
    points_x, points_y = as_points("x", x), as_points("y", y)
    if points_x.shape[1] != points_y.shape[1]:
        expected = points_x.shape[1]
        raise ValueError(f"`y` has {points_y.shape[1]} coordinates, expected {expected} to match `x`")
    k = whole(k, "k", 1)
    if points_x.shape[0] <= k or points_y.shape[0] < k:
        raise ValueError(
            f"`k` is {k} with {points_x.shape[0]} points in `x` and {points_y.shape[0]} in `y`, "
            "expected fewer than the points of `x` and at most those of `y`"
        )
    choice(method, "method", _METHODS)
    resamples, confidence, draw = (
        whole(resamples, "resamples", 0),
        share(confidence, "confidence"),
        generator(rng, "rng"),
    )
    if resamples and (resamples < 2 or points_x.shape[0] < 4 * (k + 1) or points_y.shape[0] < 4 * k):
        raise ValueError(
            f"`resamples` is {resamples} with {points_x.shape[0]} points in `x`, {points_y.shape[0]} in `y`, k = {k}: "
            f"expected 0, or 2 at least with {4 * (k + 1)} points in `x` and {4 * k} in `y`"
        )
    nats = unit(base)
    workers = tree_workers(num_threads)

    def estimate(a: Float64s, b: Float64s) -> float:
        return _two_sample(a, b, k, method, workers)

    value = estimate(points_x, points_y)
    dimension = local_dimension(points_x, k, workers)
    caution = far_neighbours(points_x, k, dimension)
    found = None
    if resamples and extrapolates(points_x, k, dimension):
        rate = dimension or points_x.shape[1]
        found = subsampled(estimate, points_x, points_y, value, rate, resamples, confidence, draw)
        if not caution and abs(found.bias) > found.error:
            caution = "subsamples say that the bias is larger than the standard error: see `bias`, `low` and `high`"
    elif resamples:
        caution += "; too far for an interval"
    warn(caution)
    low, high, bias = (None,) * 3 if found is None else (x / nats for x in found[:3])
    return NeighbourEstimate(value / nats, low, high, k, method, bias, dimension, caution)


def knn_kl_divergence_from_density(
    x: ArrayLike,
    log_q: ArrayLike | Callable[[Float64s], ArrayLike],
    k: int = 5,
    *,
    base: float | None = None,
    num_threads: int | None = None,
) -> NeighbourEstimate:
    """KL(p‖q) of a sample x of p from a density q that is known: mean of log p̂(x_i) - log q(x_i).

    log p̂ = ψ(k) - log(n-1) + lgamma(d/2+1) - d/2·log(π) - d·log(ρ), with ρ the distance to the k-th
    neighbour, which has no bias where p is flat over the ball.

    Parameters
    ----------
    x : array_like, (n, d) or (n,)
        Independent sample of p.
    log_q : array_like (n,) or callable
        log q at the points (nats), or a function from (n, d) points to it. -inf gives inf.
    k : int
        Neighbours.
    base : float, optional
        Base of the logarithm of the result; nats by default.
    num_threads : int, optional
        Threads of the tree queries.

    Returns
    -------
    NeighbourEstimate

    Raises
    ------
    ValueError
        Too few points, NaN or infinity, repeated points, log densities of another shape.
    ImportError
        Without SciPy (`pip install kullback[stats]`).

    Notes
    -----
    F. Pérez-Cruz, "Kullback-Leibler divergence estimation of continuous distributions", ISIT 2008, equation
    18; the entropy part is Kozachenko and Leonenko's, 1987. A UserWarning says where neighbours are far, as in
    `knn_kl_divergence`: p is not flat over the ball then.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=2000)
    >>> log_q = lambda t: -0.5 * (t[:, 0] - 2) ** 2 - 0.5 * np.log(2 * np.pi)   # N(2, 1): KL = 2
    >>> bool(abs(knn_kl_divergence_from_density(x, log_q).value - 2) < 0.2)
    True
    """
    same_axis(0, ("x", x), ("log_q", log_q))
    points = as_points("x", x)
    n, d = points.shape
    k = whole(k, "k", 1)
    if not k < n:
        raise ValueError(f"`k` is {k}, expected 1 to {n - 1} for {n} points in `x`")
    log_density = reals(log_q(points) if callable(log_q) else log_q, "log_q")
    if log_density.shape != (n,):
        raise ValueError(f"`log_q` has shape {log_density.shape}, expected ({n},): one value a point of `x`")
    spatial, special = scipy_modules()
    workers = tree_workers(num_threads)
    radius = spatial.cKDTree(points).query(points, [k + 1], workers=workers)[0]
    check_repeats(radius, "x")
    volume = math.lgamma(d / 2 + 1) - d / 2 * math.log(math.pi)
    log_p = float(special.digamma(k)) - math.log(n - 1) + volume - d * np.log(radius[:, 0])
    value = float(np.mean(log_p - log_density)) / unit(base)
    dimension = local_dimension(points, k, workers)
    caution = far_neighbours(points, k, dimension)
    warn(caution)
    return NeighbourEstimate(value, None, None, k, "density", None, dimension, caution)


def _two_sample(x: Float64s, y: Float64s, k: int, method: str, workers: int) -> float:
    """The estimate in nats."""
    spatial, special = scipy_modules()
    n, d = x.shape
    tree_x, tree_y = spatial.cKDTree(x), spatial.cKDTree(y)
    rho = tree_x.query(x, [k + 1], workers=workers)[0][:, 0]
    nu = tree_y.query(x, [k], workers=workers)[0][:, 0]
    check_repeats(rho, "x")
    check_repeats(nu, "y")
    correction = 0.0
    if method == "bias-reduced":
        radius = np.maximum(rho, nu) * (1 + 2.0**-50)  # the tree compares squares, which may round apart
        rank_x = tree_x.query_ball_point(x, radius, return_length=True, workers=workers)
        rank_y = tree_y.query_ball_point(x, radius, return_length=True, workers=workers)
        rho = distance_of_rank(tree_x, x, rank_x, workers)  # counts the point itself, as the tree does
        nu = distance_of_rank(tree_y, x, rank_y, workers)
        correction = float(np.mean(special.digamma(rank_x - 1) - special.digamma(rank_y)))
    return float(d * np.mean(np.log(nu) - np.log(rho)) + correction + math.log(len(y) / (n - 1)))
