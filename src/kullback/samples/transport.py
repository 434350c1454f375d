"""Distances on the line from what lies between two distribution functions: Wasserstein-1 and energy."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import choice, plain, reals, same_axis
from kullback.samples.smoothing import as_counts

__all__ = ["energy_distance", "wasserstein_distance", "wasserstein_distance_histograms"]

Float64s = NDArray[np.float64]


def wasserstein_distance(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Wasserstein-1 distance of two samples on the line: ∫ abs(F_x(t) - F_y(t)) dt.

    Parameters
    ----------
    x, y : array_like, (n,) and (m,)
        The samples, in one unit.
    x_weights, y_weights : array_like, (n,) and (m,), optional
        Weights, not negative, not all zero; normalised. By default all equal.

    Returns
    -------
    float
        In the unit of the samples, symmetric, 0 exactly for equal samples. inf if one holds an infinity that
        the other does not match; NaN if any value is NaN.

    Raises
    ------
    ValueError
        An empty sample, shapes that do not match, weights that are negative or all zero.

    Notes
    -----
    L. Vaserstein, 1969; the form with distribution functions: S. Vallender, 1974. One sort of each sample,
    O((n + m)·log(n + m)) time.

    Examples
    --------
    >>> wasserstein_distance([0.0, 1.0, 3.0], [5.0, 6.0, 8.0])
    5.0
    >>> wasserstein_distance([0.0, 1.0], [0.0, 1.0], [3.0, 1.0], [2.0, 2.0])
    0.25
    """
    steps = _between(x, y, x_weights, y_weights)
    return float("nan") if steps is None else float(np.sum(steps[0] * steps[1]))


def energy_distance(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> float:
    """Energy distance of two samples on the line: √(2·∫ (F_x(t) - F_y(t))² dt), a metric.

    Parameters
    ----------
    x, y, x_weights, y_weights
        As in `wasserstein_distance`.

    Returns
    -------
    float
        Its square is 2·E|X - Y| - E|X - X'| - E|Y - Y'|, in the unit of the samples, of which it takes no differences:
        0 exactly for equal samples, never NaN by rounding. inf if one holds an infinity that the other does not
        match; NaN if any value is NaN.

    Raises
    ------
    ValueError
        As `wasserstein_distance`.

    Notes
    -----
    G. Székely, "E-statistics", 2002; as `scipy.stats.energy_distance`. O((n + m)·log(n + m)) time. On the line alone:
    in more dimensions the double sums are all there is.

    Examples
    --------
    >>> energy_distance([0.0, 8.0], [0.0, 8.0], [3.0, 1.0], [2.0, 2.0])
    1.0
    """
    steps = _between(x, y, x_weights, y_weights)
    return float("nan") if steps is None else math.sqrt(2 * float(np.sum(steps[0] ** 2 * steps[1])))


def _between(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None, y_weights: ArrayLike | None
) -> tuple[Float64s, Float64s] | None:
    """abs(F_x - F_y) and the length of each stretch where they differ; None where a value is NaN."""
    same_axis(0, ("x", x), ("x_weights", x_weights))
    same_axis(0, ("y", y), ("y_weights", y_weights))
    x_values, x_mass = _sample("x", x, x_weights)
    y_values, y_mass = _sample("y", y, y_weights)
    if np.isnan(x_values[-1]) or np.isnan(y_values[-1]):  # NaN sorts last
        return None
    points = np.concatenate([x_values, y_values])
    points.sort(kind="stable")  # two sorted runs: one merge
    before = points[:-1]
    gap = np.abs(_distribution(x_values, x_mass, before) - _distribution(y_values, y_mass, before))
    with np.errstate(invalid="ignore"):
        steps = np.diff(points)  # inf - inf is NaN, where the two agree
    return gap, np.where(gap > 0, steps, 0.0)


def _sample(name: str, values: ArrayLike, weights: ArrayLike | None) -> tuple[Float64s, Float64s | None]:
    """Sorted values and the cumulated shares of their weights."""
    array = plain(values, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected (n,) with at least one value")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected real numbers")
    if weights is None:
        return np.sort(array.astype(np.float64)), None
    mass = as_counts(f"{name}_weights", weights)
    if mass.shape != array.shape:
        raise ValueError(f"`{name}_weights` has shape {mass.shape}, expected {array.shape} to match `{name}`")
    if mass.sum() == 0:
        raise ValueError(f"`{name}_weights` are all zero, expected a positive sum")
    order = np.argsort(array, kind="stable")
    cumulated = np.cumsum(mass[order])
    return array[order].astype(np.float64), cumulated / cumulated[-1]


def _distribution(ordered: Float64s, cumulated: Float64s | None, points: Float64s) -> Float64s:
    """F at each point."""
    rank = np.searchsorted(ordered, points, side="right")
    if cumulated is None:
        return np.asarray(rank / ordered.size)
    return np.asarray(np.concatenate([[0.0], cumulated])[rank])


def wasserstein_distance_histograms(
    p: ArrayLike, q: ArrayLike, positions: ArrayLike, *, within: Literal["points", "even"] = "points"
) -> NDArray[np.float64]:
    """Wasserstein-1 distance of histograms on the line that share their positions.

    Parameters
    ----------
    p, q : array_like, (..., K)
        Masses or counts, not negative; normalised. Leading axes broadcast.
    positions : array_like, (K,) or (K+1,)
        Where the mass sits, rising: K points with within="points", the K+1 edges of the cells with "even".
    within : {"points", "even"}
        Whether the mass of a cell sits at a point, or evenly between its edges.

    Returns
    -------
    ndarray, (...)
        float64, in the unit of `positions`; NaN for a row without mass.

    Raises
    ------
    ValueError
        Shapes that do not match, masses that are negative or not finite, positions that do not rise.

    Examples
    --------
    >>> float(wasserstein_distance_histograms([1, 0, 0], [0, 0, 1], [0.0, 1.0, 3.0]))
    3.0
    >>> float(wasserstein_distance_histograms([1, 1], [2, 0], [0.0, 1.0, 2.0], within="even"))
    0.5
    """
    choice(within, "within", ("points", "even"))
    same_axis(-1, ("p", p), ("q", q), *((("positions", positions),) if within == "points" else ()))
    p_mass, q_mass = as_counts("p", p), as_counts("q", q)
    cells = p_mass.shape[-1]
    if q_mass.shape[-1] != cells:
        raise ValueError(f"`q` has shape {q_mass.shape}, expected (..., {cells}) to match `p`")
    where = reals(positions, "positions")
    expected = cells + (within == "even")
    if where.shape != (expected,) or not np.all(np.diff(where) > 0):
        raise ValueError(f"`positions` has shape {where.shape}, expected ({expected},) rising numbers")
    with np.errstate(invalid="ignore"):
        p_share = np.cumsum(p_mass, axis=-1) / p_mass.sum(axis=-1, keepdims=True)
        q_share = np.cumsum(q_mass, axis=-1) / q_mass.sum(axis=-1, keepdims=True)
        gap = p_share - q_share
    if within == "points":
        return np.asarray((np.abs(gap[..., :-1]) * np.diff(where)).sum(axis=-1))[()]
    padded = np.concatenate([np.zeros((*gap.shape[:-1], 1)), gap], axis=-1)
    return integral_of_absolute(padded, np.diff(where))[()]


def integral_of_absolute(values: Float64s, steps: Float64s) -> Float64s:
    """∫ abs(f) of the piecewise linear f with `values` (..., n+1) at points `steps` (n,) apart.

    From a to b over h: h·(abs(a) + abs(b))/2, less what crossing zero saves: h·(a² + b²)/(2·(abs(a) +
    abs(b))).
    """
    a, b = np.abs(values[..., :-1]), np.abs(values[..., 1:])
    crosses = values[..., :-1] * values[..., 1:] < 0
    total = a + b
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(crosses, 0.5 * (a * a + b * b) / total, 0.5 * total)
        area = np.where(total == 0, 0.0, mean * steps)  # an unbounded step with nothing in it counts nothing
    return np.asarray(area.sum(axis=-1))
