"""The numbers other drift tools compute, formula by formula, quirks included; each rule says what is odd
about it.

A rule takes the reference and the current column, as float64 values without NaN or as counts by category, and
returns one number.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.samples import evaluate, psi_terms, wasserstein_distance

Float64s = NDArray[np.float64]
Categories = Mapping[Hashable, int]


def shares_between(values: Float64s, edges: Float64s) -> Float64s:
    """Of all values, not only of those between the edges."""
    return np.asarray(np.histogram(values, edges)[0] / values.size)


def aligned(reference: Categories, current: Categories) -> tuple[Float64s, Float64s]:
    """Shares of the categories of either side, in one order."""
    keys = list(dict.fromkeys([*reference, *current]))
    r = np.array([reference.get(key, 0) for key in keys], dtype=np.float64)
    c = np.array([current.get(key, 0) for key in keys], dtype=np.float64)
    return r / r.sum(), c / c.sum()


def normalized(p: Float64s) -> Float64s:
    return np.asarray(p / p.sum())


# ------------------------------------------------------------------------------------------------ Evidently


def _evidently_bins(r: Float64s, c: Float64s) -> tuple[Float64s, Float64s]:
    """Sturges' rule on both sides together; values as categories where the reference has 20 or fewer."""
    values, counts = np.unique(r, return_counts=True)
    if values.size > 20:
        edges = np.histogram_bin_edges(np.concatenate([r, c]), "sturges")
        return shares_between(r, edges), shares_between(c, edges)
    return aligned(_by_value(values, counts), _by_value(*np.unique(c, return_counts=True)))


def _by_value(values: NDArray[Any], counts: NDArray[Any]) -> dict[Hashable, int]:
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _evidently_filled(p: Float64s) -> Float64s:
    """Empty bins get 1e-4, or a millionth of the smallest share if that is 1e-4 or less; not renormalised."""
    least = p[p > 0].min()
    return np.where(p == 0, least / 1e6 if least <= 1e-4 else 1e-4, p)


def _evidently_shares(r: Any, c: Any) -> tuple[Float64s, Float64s]:
    return aligned(r, c) if isinstance(r, Mapping) else _evidently_bins(r, c)


def evidently_psi(r: Any, c: Any) -> float:
    """PSI of filled shares, which do not sum to one."""
    p, q = _evidently_shares(r, c)
    return float(psi_terms(_evidently_filled(p), _evidently_filled(q)).sum())


def evidently_kl(r: Any, c: Any) -> float:
    """KL(reference‖current) of filled shares, normalised again."""
    p, q = (normalized(_evidently_filled(x)) for x in _evidently_shares(r, c))
    return float(evaluate("kl", p, q))


def evidently_js(r: Any, c: Any) -> float:
    """Jensen-Shannon distance in nats; nothing filled."""
    p, q = (normalized(x) for x in _evidently_shares(r, c))
    return float(evaluate("js_distance", p, q))


def evidently_hellinger(r: Any, c: Any) -> float:
    """Numbers always in Sturges' bins, as many as the distinct values of both sides ask for."""
    if isinstance(r, Mapping):
        p, q = aligned(r, c)
    else:
        edges = np.histogram_bin_edges(np.union1d(r, c), "sturges")
        p, q = shares_between(r, edges), shares_between(c, edges)
    return float(evaluate("hellinger", p, q))


def evidently_wasserstein(r: Float64s, c: Float64s) -> float:
    """W1 over the standard deviation of the reference, or over 0.001 if that is larger."""
    return wasserstein_distance(r, c) / max(float(np.std(r)), 0.001)


# ------------------------------------------------------------------------------------------- feature_engine


def feature_engine_psi(
    r: Any, c: Any, bins: int = 10, strategy: str = "equal_frequency", min_pct_empty_bins: float = 1e-4
) -> float:
    """PSI in bins closed on the right; empty ones get a constant, nothing is renormalised."""
    if isinstance(r, Mapping):
        p, q = aligned(r, c)
    else:
        if strategy == "equal_frequency":
            # pandas.qcut nudges the quantiles that rounding left below their fraction
            shares = np.linspace(0.0, 1.0, bins + 1)
            shares = np.where(bins * shares != np.arange(bins + 1), np.nextafter(shares, 1.0), shares)
            inner = np.unique(np.quantile(r, shares))[1:-1]
        elif strategy == "equal_width":
            inner = np.linspace(r.min(), r.max(), bins + 1)[1:-1]
        else:
            raise ValueError(f"`strategy` is {strategy!r}, expected 'equal_frequency' or 'equal_width'")
        p, q = (np.bincount(np.searchsorted(inner, x, side="left"), minlength=inner.size + 1) / x.size for x in (r, c))
    used = (p > 0) | (q > 0)
    p, q = (np.where(x[used] == 0, min_pct_empty_bins, x[used]) for x in (p, q))
    return float(psi_terms(p, q).sum())


# -------------------------------------------------------------------------------------------------- frouros


def frouros_emd(r: Float64s, c: Float64s) -> float:
    """W1."""
    return wasserstein_distance(r, c)


def _frouros_bins(r: Float64s, c: Float64s, num_bins: int) -> tuple[Float64s, Float64s]:
    """Equal widths over both sides."""
    edges = np.histogram_bin_edges(np.concatenate([r, c]), num_bins)
    return shares_between(r, edges), shares_between(c, edges)


def _frouros_masses(r: Float64s, c: Float64s, num_bins: int) -> tuple[Float64s, Float64s]:
    """num_bins EDGES over both sides; masses interpolated in each side's own "auto" histogram."""
    points = np.linspace(min(r.min(), c.min()), max(r.max(), c.max()), num_bins)
    masses = []
    for side in (r, c):
        counts, edges = np.histogram(side, "auto")
        cumulated = np.concatenate([[0.0], np.cumsum(counts / side.size)])
        masses.append(np.diff(np.interp(points, edges, cumulated)))
    return masses[0], masses[1]


def frouros_psi(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """PSI; an empty bin counts as the smallest normal float, hence values in the hundreds."""
    p, q = (np.where(x == 0, sys.float_info.min, x) for x in _frouros_bins(r, c, num_bins))
    return float(psi_terms(p, q).sum())


def frouros_kl(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """KL(current‖reference), often inf: also where rounding makes a mass negative; not normalised."""
    p, q = _frouros_masses(r, c, num_bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where((q > 0) & (p > 0), q * np.log(q / p), np.where((q == 0) & (p >= 0), 0.0, np.inf))
    return float(terms.sum())


def frouros_js(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """Jensen-Shannon distance in nats."""
    p, q = (normalized(x) for x in _frouros_masses(r, c, num_bins))
    return float(evaluate("js_distance", p, q))


def frouros_hellinger(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """Hellinger distance."""
    return float(evaluate("hellinger", *_frouros_bins(r, c, num_bins)))


def frouros_bhattacharyya(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """1 - Σ √(p·q): the squared Hellinger distance under another name, no logarithm."""
    return frouros_hellinger(r, c, num_bins) ** 2


def frouros_histogram_intersection(r: Float64s, c: Float64s, num_bins: int = 10) -> float:
    """1 - Σ min(p, q): total variation."""
    return float(evaluate("tv", *_frouros_bins(r, c, num_bins)))


# ------------------------------------------------------------------------- deepchecks, Great Expectations


def deepchecks_psi(
    r: Categories, c: Categories, min_category_size_ratio: float = 0.0, max_num_categories: int | None = None
) -> float:
    """PSI with every share raised to 0.01; the reference's rare categories first joined into one."""
    n, m = sum(r.values()), sum(c.values())
    kept: list[Hashable] = list(dict.fromkeys([*r, *c]))
    if max_num_categories is not None and len(kept) > max_num_categories:
        kept = sorted(r, key=lambda key: (-r[key], key))[:max_num_categories]
    kept = [key for key in kept if r.get(key, 0) >= n * min_category_size_ratio]
    rows = [[side.get(key, 0) for key in kept] for side in (r, c)]
    others = [total - sum(row) for total, row in zip((n, m), rows, strict=True)]
    if others[0] > min_category_size_ratio * n or others[1] > min_category_size_ratio * n:
        rows = [[*row, other] for row, other in zip(rows, others, strict=True)]
    p, q = (np.maximum(np.array(row) / sum(row), 0.01) for row in rows)
    return float(psi_terms(p, q).sum())


def deepchecks_earth_movers(r: Float64s, c: Float64s, margin_quantile_filter: float = 0.025) -> float:
    """W1 after cutting the tails off either side and scaling what remains of both to [0, 1]."""
    if margin_quantile_filter:
        limits = [margin_quantile_filter, 1.0 - margin_quantile_filter]
        r, c = (x[(np.quantile(x, limits)[0] <= x) & (x <= np.quantile(x, limits)[1])] for x in (r, c))
    low, high = min(r.min(), c.min()), max(r.max(), c.max())
    return 0.0 if low == high else wasserstein_distance((r - low) / (high - low), (c - low) / (high - low))


def great_expectations_kl(r: Categories, c: Categories, tail_weight_holdout: float = 0.0) -> float:
    """KL(current‖reference); unseen categories, if any, share the held-out weight; inf without it."""
    p, q = aligned(r, c)
    unseen = np.array([key not in r for key in dict.fromkeys([*r, *c])])
    if unseen.any():
        p = np.where(unseen, tail_weight_holdout / unseen.sum(), p * (1.0 - tail_weight_holdout))
    return float(evaluate("kl", q, normalized(p)))
