"""NannyML's numbers: each rule takes the reference, and returns what takes one chunk after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kullback.drift.rules import Categories, Float64s, aligned, normalized
from kullback.samples import evaluate, wasserstein_distance

Shares = Callable[[Any], tuple[Float64s, Float64s]]
Measure = Callable[[Any], float]


def _nannyml_shares(r: Any) -> Shares:
    """Bins of the reference (Doane's rule) or its values, and one more for whatever lies outside."""
    edges = np.empty(0) if isinstance(r, Mapping) else np.histogram_bin_edges(r, "doane")

    def shares(c: Any) -> Float64s:
        if isinstance(r, Mapping):
            return np.asarray(np.array([c.get(key, 0) for key in r]) / sum(c.values()))
        # bins of equal width are found by division, bins by their edges by sorting
        return np.asarray(np.histogram(c, edges.size - 1, (edges[0], edges[-1]))[0] / c.size)

    p = shares(r)

    def of(c: Any) -> tuple[Float64s, Float64s]:
        q = shares(c)
        left_over = 1.0 - q.sum()
        return (np.append(p, 0.0), np.append(q, left_over)) if left_over > 0 else (p, q)

    return of


def nannyml_js(r: Any) -> Measure:
    """Jensen-Shannon distance, base 2; the reference's bins are found once for all chunks."""
    shares = _nannyml_shares(r)

    def of(c: Any) -> float:
        p, q = (normalized(x) for x in shares(c))
        return float(evaluate("js_distance", p, q) / np.sqrt(np.log(2.0)))

    return of


def nannyml_hellinger(r: Any) -> Measure:
    """Hellinger distance."""
    shares = _nannyml_shares(r)
    return lambda c: float(evaluate("hellinger", *shares(c)))


def nannyml_l_infinity(r: Categories) -> Measure:
    """The largest difference of a share."""

    def of(c: Categories) -> float:
        p, q = aligned(r, c)
        return float(np.abs(p - q).max())

    return of


def nannyml_wasserstein(r: Float64s, n_bins: int = 10_000) -> Measure:
    """W1 exactly below 10,000 reference values; above, from bins.

    There F is taken at the end of each bin, and a side beyond the reference counts one value too many: the
    edge itself, which stands for the area's other end.
    """
    if r.size < 10_000:
        ordered = np.sort(r)
        return lambda c: wasserstein_distance(ordered, c)
    counts, edges = np.histogram(r, n_bins)
    cumulated = np.cumsum(counts / r.size)

    def of(c: Float64s) -> float:
        smaller, larger = c[c < edges[0]], c[c > edges[-1]]
        area, share_below = 0.0, 0.0
        if smaller.size:
            share_below = (smaller.size + 1) / c.size
            area += share_below * _area(np.append(smaller, edges[0]), below=True)
        if larger.size:
            area += (larger.size + 1) / c.size * _area(np.append(larger, edges[-1]), below=False)
        shares = np.histogram(c, n_bins, (edges[0], edges[-1]))[0] / c.size
        difference = cumulated - (np.cumsum(shares) + share_below)
        return float(np.abs(difference).sum() * (edges[1] - edges[0]) + area)

    return of


def _area(values: Float64s, below: bool) -> float:
    """Under (or over) the distribution function of a few values."""
    points, counts = np.unique(values, return_counts=True)
    height = np.cumsum(counts)[:-1] / values.size
    return float(((height if below else 1.0 - height) * np.diff(points)).sum())
