"""Mutual information, I(X; Y) = KL(joint‖product of marginals): from a table of counts, and from samples."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import choice, same_axis, unit, whole
from kullback.rows import relative_entropy_term
from kullback.samples.smoothing import as_counts
from kullback.samples.trees import as_points, scipy_modules, tree_workers

__all__ = ["conditional_mutual_information", "knn_mutual_information", "mutual_information"]


def mutual_information(
    counts: ArrayLike, *, bias_correction: Literal["miller-madow"] | None = None, base: float | None = None
) -> NDArray[np.float64]:
    """Mutual information of two categorical variables from the counts of their pairs.

    Σ_ij φ-terms n_ij·log(n_ij/e_ij) - n_ij + e_ij over N, with e_ij = n_i·n_j/N: equal to the textbook sum
    because both add up to N, but no term is negative, so neither is the result, and independence gives 0 to
    the last digit.

    Parameters
    ----------
    counts : array_like, (..., R, C)
        How often each pair was seen (or probabilities): finite, not negative.
    bias_correction : {"miller-madow"}, optional
        Subtract (K_xy - K_x - K_y + 1)/2N, K the pairs, rows and columns that were seen; may turn the result
        negative.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    ndarray, (...)
        float64; NaN for a table without counts.

    Raises
    ------
    ValueError
        Fewer than two axes, negative or infinite counts, an unknown correction.

    Notes
    -----
    2N times the plug-in in nats is the G statistic of independence. Its distribution is χ² with (R-1)(C-1) degrees of
    freedom only for many counts a cell: at two counts a cell of a 10 by 10 table, tests at 5 % reject 27 % of the
    time where there is nothing to find. `mutual_information_estimate` has a test that keeps its level, and an interval.

    Examples
    --------
    >>> round(float(mutual_information([[1, 0], [0, 1]], base=2)), 12)
    1.0
    >>> float(mutual_information([[10, 20], [30, 60]]))
    0.0
    """
    table = _as_table(counts, 2)
    choice(bias_correction, "bias_correction", ("miller-madow", None))
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic, freedom = gain(table), seen_freedom(table) if bias_correction else 0
        information = (statistic - freedom / 2) / table.sum((-2, -1))
    return np.asarray(information / unit(base))[()]


def conditional_mutual_information(
    counts: ArrayLike, *, bias_correction: Literal["miller-madow"] | None = None, base: float | None = None
) -> NDArray[np.float64]:
    """Mutual information of two categorical variables given a third, I(X; Y | Z), from counts of triples.

    Σ_z (N_z/N)·I(X; Y | Z = z), of which each is `mutual_information` of one layer: never negative, and 0 to the last
    digit where every layer is independent.

    Parameters
    ----------
    counts : array_like, (..., S, R, C)
        How often each triple was seen: one table of (R, C) for each of the S values of z.
    bias_correction : {"miller-madow"}, optional
        Subtract Σ_z (K_xy - K_x - K_y + 1)/2N, K the pairs, rows and columns seen in that layer; may turn the result
        negative.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    ndarray, (...)
        float64; layers without counts count nothing, NaN where all are.

    Raises
    ------
    ValueError
        Fewer than three axes, negative or infinite counts, an unknown correction.

    Examples
    --------
    X and Y agree because both follow Z, and say nothing of each other once it is known:

    >>> counts = [[[40, 10], [8, 2]], [[2, 8], [10, 40]]]
    >>> import numpy as np
    >>> round(float(mutual_information(np.sum(counts, axis=0))), 4), float(conditional_mutual_information(counts))
    (0.0823, 0.0)
    """
    table = _as_table(counts, 3)
    choice(bias_correction, "bias_correction", ("miller-madow", None))
    with np.errstate(invalid="ignore", divide="ignore"):
        statistic, freedom = gain(table), seen_freedom(table) if bias_correction else np.zeros(table.shape[:-2])
        information = (statistic - freedom / 2).sum(-1) / table.sum((-3, -2, -1))
    return np.asarray(information / unit(base))[()]


def _as_table(counts: ArrayLike, axes: int) -> NDArray[np.float64]:
    """Counts with at least so many axes."""
    table = as_counts("counts", counts)
    if table.ndim < axes:
        raise ValueError(f"`counts` has shape {table.shape}, expected ({'..., R, C' if axes == 2 else '..., S, R, C'})")
    return table


def gain(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """N·I of tables (..., R, C) in nats, half of the G statistic; 0 for one without counts."""
    rows, columns = table.sum(-1, keepdims=True), table.sum(-2, keepdims=True)
    total = np.maximum(rows.sum(-2, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(relative_entropy_term(table, rows * columns / total).sum(axis=(-2, -1)))


def seen_freedom(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """K_xy - K_x - K_y + 1 of tables (..., R, C), K what was seen; 0 without counts."""
    pairs = np.count_nonzero(table, axis=(-2, -1))
    rows, columns = (np.count_nonzero(table.any(axis=axis), axis=-1) for axis in (-1, -2))
    return np.where(pairs > 0, pairs - rows - columns + 1, 0).astype(np.float64)


def knn_mutual_information(
    x: ArrayLike,
    y: ArrayLike,
    k: int = 3,
    *,
    variant: int = 1,
    base: float | None = None,
    num_threads: int | None = None,
) -> float:
    """Mutual information of two continuous variables from a sample of pairs: Kraskov, Stögbauer and
    Grassberger.

    With ε the distance (greatest coordinate) of pair i to its k-th neighbour:

        variant 1   ψ(k) + ψ(n) - mean(ψ(n_x + 1) + ψ(n_y + 1)),  n_x the points with abs(x - x_i) < ε
        variant 2   ψ(k) + ψ(n) - 1/k - mean(ψ(n_x) + ψ(n_y)),    n_x the points within the k neighbours' own
                    spread in x

    Parameters
    ----------
    x, y : array_like, (n, d_x) and (n, d_y), or (n,)
        Paired observations. The result depends little on the scale of either, but not on none: standardise.
    k : int
        Neighbours: 2 to 4 by the authors; more to test independence.
    variant : {1, 2}
        Variant 2 is less biased where x or y has many dimensions and has larger variance.
    base : float, optional
        Base of the logarithm; nats by default.
    num_threads : int, optional
        Threads of the tree queries. The result does not depend on it.

    Returns
    -------
    float
        It can be negative near independence, and is then reported as such.

    Raises
    ------
    ValueError
        Samples of different length, too few points, NaN or infinity, repeated pairs.
    ImportError
        Without SciPy (`pip install kullback[stats]`).

    Notes
    -----
    A. Kraskov, H. Stögbauer, P. Grassberger, "Estimating mutual information", Phys. Rev. E 69, 066138, 2004,
    equations 8 and 9. Where k pairs or more are equal there is no density and ValueError says so: count them
    instead.

    Examples
    --------
    >>> import numpy as np
    >>> x, noise = np.random.default_rng(0).normal(size=(2, 2000))
    >>> y = 0.9 * x + np.sqrt(1 - 0.81) * noise                    # I = -log(1 - 0.81)/2 = 0.830
    >>> bool(abs(knn_mutual_information(x, y) - 0.830) < 0.05)
    True
    """
    if whole(variant, "variant", 1) > 2:
        raise ValueError(f"`variant` is {variant}, expected 1 or 2")
    same_axis(0, ("x", x), ("y", y))
    points_x, points_y = as_points("x", x), as_points("y", y)
    n = len(points_x)
    if len(points_y) != n:
        raise ValueError(f"`y` has {len(points_y)} points, expected {n} to match `x`")
    k = whole(k, "k", 1)
    if not k < n:
        raise ValueError(f"`k` is {k}, expected 1 to {n - 1} for {n} points")
    spatial, special = scipy_modules()
    workers = tree_workers(num_threads)
    joint = np.hstack([points_x, points_y])
    distance, neighbour = spatial.cKDTree(joint).query(joint, k + 1, p=np.inf, workers=workers)
    repeated = int(np.count_nonzero(distance[:, k] == 0))
    if repeated:
        raise ValueError(
            f"{repeated} pairs have {k} others equal to them: repeated values have no density. Use counts "
            "(mutual_information)"
        )
    information = float(special.digamma(k) + special.digamma(n)) - (1.0 / k if variant == 2 else 0.0)
    for points in (points_x, points_y):
        if variant == 1:
            radius = np.nextafter(distance[:, k], 0.0)  # strictly nearer
        else:
            radius = np.abs(points[neighbour] - points[:, None]).max(axis=(1, 2))
        within = spatial.cKDTree(points).query_ball_point(points, radius, p=np.inf, return_length=True, workers=workers)
        # the point itself is within: n_x + 1
        information -= float(np.mean(special.digamma(within if variant == 1 else within - 1)))
    return information / unit(base)
