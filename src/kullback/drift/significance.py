"""How likely what was counted is without drift: permutations where counts are few, limit laws where they are many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library, number, share, whole
from kullback.rows import relative_entropy_term
from kullback.samples import psi_terms

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

_ENOUGH = 50.0  # values expected in the smallest bin from which the limit laws hold to the tolerance of tests/
_DRAWS, _BATCH = 2000, 200
_EXCEEDING = 40  # draws at least as large as what was seen, after which more would not change the verdict
_LARGEST = 10**9  # values that NumPy's hypergeometric draws take
_POOLED = 5  # values on both sides together below which categories share a cell
_MOST_CELLS = 2000


@dataclass(frozen=True)
class ValueTests:
    """p-values of one column's values, and the mean of PSI without drift."""

    g: float
    psi: float
    ks: float
    noise: float


def special() -> Any:
    """scipy.special."""
    return library("scipy.special", "a p-value")


def chi2_survival(statistic: float, freedom: int) -> float:
    """P(χ² > statistic); 1 without degrees of freedom."""
    return float(special().chdtrc(freedom, statistic)) if freedom > 0 else 1.0


def smoothed_where_empty(r: NDArray[Any], c: NDArray[Any]) -> tuple[Float64s, Float64s]:
    """Shares (..., bins) of bins in use; rows with a bin that is empty on one side get half a count in every bin.

    Bins that are empty on both sides take no part.
    """
    used = (r > 0) | (c > 0)
    half = np.where(np.any(used & ((r == 0) | (c == 0)), axis=-1, keepdims=True), 0.5, 0.0) * used
    p, q = r + half, c + half
    return p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)


def pooled_cells(r: Int64s, c: Int64s) -> tuple[Int64s, Int64s]:
    """Counts by category with rare ones in one cell, which depends on the sum of both sides alone.

    Cells chosen by what the reference holds would differ without drift too: its rare values are rarer in any
    other sample, and what it lacks it lacks by choice. The order is that of the counts, not of any names.
    """
    pooled = r + c
    least = _POOLED
    if np.count_nonzero(pooled >= least) > _MOST_CELLS:
        least = int(np.sort(pooled)[-_MOST_CELLS - 1]) + 1
    rare = pooled < least
    order = np.lexsort((r[~rare], pooled[~rare]))
    sides = [np.append(side[~rare][order], side[rare].sum()) for side in (r, c)]
    return sides[0], sides[1]


def value_tests(r: Int64s, c: Int64s, bins: Int64s | None, seed: list[int]) -> ValueTests:
    """Tests of two rows of cells; `bins` says to which bin each of ordered cells belongs, None that each is one."""
    n, m = int(r.sum()), int(c.sum())
    if n == 0 or m == 0:
        return ValueTests(np.nan, np.nan, np.nan, np.nan)
    used = (r + c) > 0
    r, c = r[used], c[used]
    if bins is not None:
        bins = np.unique(bins[used], return_inverse=True)[1]
    seen = _statistics(r, c, bins)
    pooled = r + c
    sizes = pooled if bins is None else np.bincount(bins, pooled)
    freedom, scale = sizes.size - 1, 1 / n + 1 / m
    if freedom == 0 and (bins is None or pooled.size == 1):
        return ValueTests(1.0, 1.0, np.nan if bins is None else 1.0, 0.0)
    if sizes.min() * min(n, m) / (n + m) < _ENOUGH and n + m < _LARGEST:
        p, noise = _permuted(seen, pooled, n, bins, np.random.default_rng(seed))
    else:
        # Kolmogorov's law with Stephens' correction for finite samples
        root = (n * m / (n + m)) ** 0.5
        p = np.array(
            [
                chi2_survival(seen[0], freedom),
                chi2_survival(seen[1] / scale, freedom),
                special().kolmogorov(seen[2] * (root + 0.12 + 0.11 / root)),
            ]
        )
        noise = freedom * scale
    return ValueTests(float(p[0]), float(p[1]), float(p[2]) if bins is not None else np.nan, float(noise))


def _statistics(r: NDArray[Any], c: NDArray[Any], bins: Int64s | None) -> Float64s:
    """(..., 3): G, PSI and, of ordered cells, Kolmogorov-Smirnov's distance."""
    n, m = r.sum(axis=-1, keepdims=True), c.sum(axis=-1, keepdims=True)
    ks = np.zeros(r.shape[:-1])
    if bins is not None:
        ks = np.abs(np.cumsum(r / n - c / m, axis=-1)[..., :-1]).max(axis=-1, initial=0.0)
        ends = np.flatnonzero(np.append(True, np.diff(bins) > 0))  # bins are runs of cells
        r, c = np.add.reduceat(r, ends, axis=-1), np.add.reduceat(c, ends, axis=-1)
    pooled = (r + c) / (n + m)
    terms = n * relative_entropy_term(r / n, pooled) + m * relative_entropy_term(c / m, pooled)
    psi = psi_terms(*smoothed_where_empty(r, c)).sum(axis=-1)
    return np.stack([2.0 * terms.sum(axis=-1), psi, ks], axis=-1)


def _permuted(
    seen: Float64s, pooled: Int64s, n: int, bins: Int64s | None, rng: np.random.Generator
) -> tuple[Float64s, float]:
    """p-values by drawing which n of the pooled values are the reference, and the mean of PSI.

    Beyond the reach of the draws a gamma law with their mean and variance goes on, as χ² does for many values.
    """
    drawn = np.empty((0, 3))
    limit = seen * (1.0 - 1e-12)  # sums of the same terms in another order
    while drawn.shape[0] < _DRAWS:
        r = rng.multivariate_hypergeometric(pooled, n, size=_BATCH, method="marginals")
        drawn = np.concatenate([drawn, _statistics(r, pooled - r, bins)])
        exceeding = (drawn >= limit).sum(axis=0)
        if exceeding.min() >= _EXCEEDING:
            break
    p = (exceeding + 1.0) / (drawn.shape[0] + 1.0)
    mean, variance = drawn.mean(axis=0), drawn.var(axis=0)
    for j in np.flatnonzero((exceeding == 0) & (variance > 0)):
        tail = special().gammaincc(mean[j] ** 2 / variance[j], seen[j] * mean[j] / variance[j])
        p[j] = min(p[j], float(tail))
    return p, float(mean[1])


def missing_test(missing_r: int, n: int, missing_c: int, m: int) -> float:
    """p-value of equal shares of missing values, n and m rows in all: twice the smaller tail of the exact law."""
    total = missing_r + missing_c
    if n == 0 or m == 0 or total in (0, n + m):
        return 1.0
    if min(total, n + m - total) * min(n, m) / (n + m) >= _ENOUGH:
        r, c = np.array([missing_r, n - missing_r]), np.array([missing_c, m - missing_c])
        return chi2_survival(float(_statistics(r, c, None)[0]), 1)
    law = library("scipy.stats", "a p-value").hypergeom(n + m, total, m)
    return float(min(1.0, 2.0 * min(law.cdf(missing_c), law.sf(missing_c - 1))))


def unseen_test(unseen: int, sizes: Int64s, n: int, m: int, seed: list[int]) -> float:
    """p-value of `unseen` values in m of categories that n reference values lack; `sizes`: of each, on both sides.

    A category of k values in n + m is without one among the n with probability π = (m/(n + m))^k; the sum of k over
    those that are is drawn 2,000 times. Beyond, Chernoff's bound: min over t of exp(-t·u)·Π (1 + π·(exp(t·k) - 1)).
    """
    if unseen == 0 or n == 0 or m == 0:
        return 1.0
    k, categories = np.unique(sizes[sizes > 0], return_counts=True)
    chance = np.exp(k * np.log(m / (n + m)))
    k, categories, chance = (a[chance > 1e-30] for a in (k, categories, chance))
    if k.size == 0:
        return 0.0
    drawn = np.random.default_rng(seed).binomial(categories, chance, size=(_DRAWS, k.size)) @ k
    exceeding = int((drawn >= unseen).sum())
    if exceeding:
        return (exceeding + 1.0) / (_DRAWS + 1.0)
    t = np.geomspace(1e-4, 700.0, 400)[:, None] / k.max()
    exponent = (categories * np.log1p(chance * np.expm1(t * k))).sum(axis=1) - t[:, 0] * unseen
    return float(min(1.0 / (_DRAWS + 1.0), np.exp(exponent.min())))


def adjusted(p_values: Float64s) -> Float64s:
    """Benjamini and Hochberg's q-values; NaN takes no part."""
    q = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")[::-1]]
    ranks = np.arange(known.size, 0, -1)
    q[order] = np.minimum.accumulate(np.minimum(p_values[order] * known.size / ranks, 1.0))
    return q


def psi_threshold(n_reference: int, n_current: int, bins: int, p_value: float = 0.001) -> float:
    """The PSI that two samples of one distribution exceed with probability `p_value`.

    For bins of equal shares in the reference, as `fit` makes them, and PSI as `DriftState.report` gives it: half a
    count in every bin where one is empty. Drawn from a fixed seed where fewer than 1,000 values of either side fall
    in a bin; with more, χ²(1 - p_value, bins - 1)·(1/n_reference + 1/n_current).

    Parameters
    ----------
    n_reference, n_current : int
        Values on either side.
    bins : int
        Bins, at least two.
    p_value : float
        Between 0 and 1.

    Returns
    -------
    float
        The rate of alarms is `p_value` to within a fifth of it, or the next possible value below that.

    Raises
    ------
    ValueError
        A parameter out of its range.

    Notes
    -----
    B. Yurdakul, "Statistical properties of population stability index", Western Michigan University, 2018, equation
    5.2, is the limit law. At fifty values in ten bins it alarms twice as often as it says, and, where an empty bin
    makes PSI infinite, in one batch of twenty whatever it says.

    Examples
    --------
    >>> round(psi_threshold(100_000, 50_000, 10), 6)
    0.000836
    """
    count = int(number(whole(bins, "bins", 2), "bins", 2, 2.0**53))
    n, m = (number(x, name, 1, np.inf) for x, name in ((n_reference, "n_reference"), (n_current, "n_current")))
    chance = share(p_value, "p_value")
    if min(n, m) / count >= 1000 or count > _MOST_CELLS or max(n, m) > 2.0**53:
        return limit_threshold(n, m, count, chance)
    return _drawn_threshold(int(n), int(m), count, chance)


def limit_threshold(n: float, m: float, bins: int, p_value: float) -> float:
    """The threshold of Yurdakul's limit law."""
    return float(special().chdtri(bins - 1, p_value) * (1 / n + 1 / m))


def _drawn_threshold(n: int, m: int, bins: int, chance: float) -> float:
    """The quantile of draws: shares between the reference's quantiles, then counts of the current values.

    n draws have n/bins values between neighbouring quantiles; the true shares are Dirichlet(n/bins, ...).
    """
    rng = np.random.default_rng(0)
    draws = int(min(max(200.0 / chance, 20_000), 400_000, 4e7 / bins))
    r = np.diff(np.round(np.linspace(0, n, bins + 1))).astype(np.int64)
    psi = []
    for start in range(0, draws, 10_000):
        shares = rng.standard_gamma(np.maximum(r, 0.5), size=(min(10_000, draws - start), bins))
        c = rng.multinomial(m, shares / shares.sum(axis=1, keepdims=True))
        psi.append(psi_terms(*smoothed_where_empty(np.broadcast_to(r, c.shape), c)).sum(axis=1))
    return float(np.quantile(np.concatenate(psi), 1.0 - chance, method="higher"))
