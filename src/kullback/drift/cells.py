"""The cells a column is counted in: fixed by the reference once, so that counts of any batches add up."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import plain, reals

Float64s = NDArray[np.float64]
Bins = int | str | ArrayLike | Mapping[str, Any]
ESTIMATORS = ("auto", "doane", "fd", "rice", "scott", "sqrt", "sturges")  # of numpy.histogram_bin_edges


@dataclass(frozen=True)
class NumericCells:
    """Rising `edges` (n,): cell 0 lies below the first, cell n at or above the last, n + 1 counts NaN.

    `bins` (n + 1,) says to which bin of the report each cell belongs; bins are few, cells fine enough for W1.
    `unit` is what distances beyond the outermost edges are counted in, `scale` the standard deviation of the
    reference. `temporal`: seconds of dates; `identifier`: row numbers or a clock, which move without drift.
    """

    edges: Float64s
    bins: NDArray[np.int64]
    step_inverse: float
    unit: float
    scale: float
    temporal: bool = False
    identifier: bool = False

    def same_as(self, other: object) -> bool:
        """Whether counts in both may be added."""
        return isinstance(other, NumericCells) and np.array_equal(self.edges, other.edges)


@dataclass(frozen=True)
class CategoricalCells:
    """One cell a category, then one for every other value, then one for missing ones.

    `identifier`: most values occurred once, so that most of a batch is new without drift.
    """

    categories: tuple[Hashable, ...]
    identifier: bool = False

    def same_as(self, other: object) -> bool:
        """Whether counts in both may be added."""
        return isinstance(other, CategoricalCells) and self.categories == other.categories


Cells = NumericCells | CategoricalCells

_FEWEST_ROWS = 20  # from which a column may be called an identifier
_COLLISIONS = 10.0  # that independent draws would have had: none at all has probability exp(-10)


def numeric_cells(name: str, finite: Float64s, bins: Bins, spacing: str, resolution: int, outside: str) -> NumericCells:
    """Cells of a numeric column from its finite reference values, which are sorted in place."""
    rule = bins.get(name, 10) if isinstance(bins, Mapping) else bins
    finite.sort()
    if isinstance(rule, str):
        if rule not in ESTIMATORS:
            raise ValueError(f"`bins` is {rule!r}, expected a number, edges or one of {', '.join(ESTIMATORS)}")
        rule = int(np.histogram_bin_edges(finite, rule).size - 1) if finite.size else 1
        spacing = "width"
    given = plain(rule, "bins")
    if given.ndim:
        coarse = _checked_edges(name, given)
    else:
        if given.dtype.kind not in "iu" or given < 1:
            raise ValueError(f"`bins` is {rule!r} for column {name!r}, expected a positive integer or edges")
        if finite.size == 0:
            return NumericCells(np.empty(0), np.zeros(1, np.int64), 0.0, np.inf, np.nan)
        shares = np.linspace(0.0, 1.0, int(given) + 1)
        coarse = np.unique(
            _quantiles(finite, shares) if spacing == "quantile" else finite[0] * (1.0 - shares) + finite[-1] * shares
        )
    edges = _refined(coarse, finite, resolution, spacing == "quantile" and not given.ndim)
    n_bins = max(coarse.size - 1, 1)
    which = np.searchsorted(coarse, edges, side="right") - 1  # the bin that begins at or before each edge
    which = np.concatenate([[-1], np.minimum(which, n_bins - 1), [n_bins]])[: edges.size + 1]
    which[-1] = n_bins
    # what lies outside: a bin of its own, or the outermost bins open to infinity (a single bin would hide it)
    open_ended = outside == "fold" and n_bins > 1
    which = np.clip(which, 0, n_bins - 1) if open_ended else which + 1
    with np.errstate(over="ignore"):
        scale = float(finite.std()) if finite.size else np.nan
        extent = edges[-1] - edges[0] if coarse.size > 1 else max(abs(edges[0]), 1.0)
    unit = max(min(extent, np.finfo(np.float64).max), 2.0**-960) * 2.0**-32
    return NumericCells(edges, which.astype(np.int64), _step_inverse(edges), float(unit), scale)


def _checked_edges(name: str, given: NDArray[Any]) -> Float64s:
    edges = reals(given, f"bins` of column `{name}")
    if edges.ndim != 1 or edges.size < 2 or not np.all(np.isfinite(edges)) or not np.all(np.diff(edges) > 0):
        raise ValueError(f"`bins` for column {name!r} is {given}, expected at least two rising finite edges")
    return edges


def _quantiles(ordered: Float64s, shares: Float64s) -> Float64s:
    """Linear quantiles of sorted values."""
    position = shares * (ordered.size - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, ordered.size - 1)
    weight = position - below
    low, high = ordered[below], ordered[above]
    return np.where(low == high, low, low * (1.0 - weight) + high * weight)  # ties stay what they are


def _refined(coarse: Float64s, ordered: Float64s, resolution: int, by_quantile: bool) -> Float64s:
    """The coarse edges and others between them for about `resolution` cells; the last one is closed.

    For quantile bins half the others lie at quantiles and half at equal distances, which the tails need.
    """
    if coarse.size < 2:
        return np.array([coarse[0], np.nextafter(coarse[0], np.inf)])
    bins = coarse.size - 1
    if by_quantile:
        half = -(-resolution // (2 * bins)) * bins + 1
        shares = np.linspace(0.0, 1.0, half)
        even = coarse[0] * (1.0 - shares) + coarse[-1] * shares
        edges = np.unique(np.concatenate([coarse, _quantiles(ordered, shares), even]))
    else:
        parts = -(-resolution // bins)
        weight = np.arange(parts) / parts
        edges = (coarse[:-1, None] * (1.0 - weight) + coarse[1:, None] * weight).reshape(-1)
        edges = np.unique(np.append(edges, coarse[-1]))
    edges = edges[(edges >= coarse[0]) & (edges <= coarse[-1])]  # an interpolation may round beyond
    edges[-1] = np.nextafter(edges[-1], np.inf)
    return np.asarray(edges)


def _step_inverse(edges: Float64s) -> float:
    """1 / step of edges equally spaced to within a quarter of a step, as the kernel's guess needs; else 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        step = (edges[-1] - edges[0]) / (edges.size - 1)
        even = edges[0] + step * np.arange(edges.size)
        uniform = edges.size > 2 and np.all(np.abs(even - edges) < 0.25 * step) and 0 < 1.0 / step < np.inf
        return float(1.0 / step) if uniform else 0.0


def is_identifier(values: Float64s, temporal: bool) -> bool:
    """Whether finite values in the order of rows are row numbers or a clock, by what independent draws cannot be.

    Whole numbers that only rise, or all differ where n draws from their range R would have met n²/2R times at
    least ten times over; times that never fall.
    """
    if values.size < _FEWEST_ROWS:
        return False
    if temporal:
        return bool(values[0] < values[-1] and np.all(values[1:] >= values[:-1]))
    first = values[:_FEWEST_ROWS]
    if np.any(first != np.floor(first)) or np.any(values != np.floor(values)) or np.abs(values).max() > 2.0**53:
        return False
    if np.all(values[1:] > values[:-1]):
        return True
    extent = float(values.max()) - float(values.min()) + 1.0
    return values.size**2 / (2.0 * extent) >= _COLLISIONS and np.unique(values).size == values.size


def categorical_cells(counts: Mapping[Hashable, int], max_categories: int, detect: bool = True) -> CategoricalCells:
    """The most frequent categories, in an order that depends on nothing else."""
    ranked = sorted(counts, key=lambda value: (-counts[value], type(value).__name__, str(value)))
    total, once = sum(counts.values()), sum(count == 1 for count in counts.values())
    return CategoricalCells(tuple(ranked[:max_categories]), detect and total >= _FEWEST_ROWS and 2 * once > total)


def category_row(
    cells: CategoricalCells, counts: Mapping[Hashable, int], missing: int
) -> tuple[NDArray[np.int64], dict[Hashable, int]]:
    """Counts of the cells of one column (categories, others, missing), and the others by value."""
    others = dict(counts)
    known = [others.pop(value, 0) for value in cells.categories]
    return np.array([*known, sum(others.values()), missing], dtype=np.int64), others


def padded(cells: Sequence[NumericCells]) -> tuple[NDArray[Any], ...]:
    """What the kernel takes for many columns: edges with +inf up to a power of two, sizes, 1/step, 1/unit."""
    longest = max((c.edges.size for c in cells), default=0)
    edges = np.full((len(cells), 1 << int(longest).bit_length()), np.inf)
    for row, column in zip(edges, cells, strict=True):
        row[: column.edges.size] = column.edges
    sizes = np.array([c.edges.size for c in cells], dtype=np.int64)
    steps = np.array([c.step_inverse for c in cells], dtype=np.float64)
    return edges, sizes, steps, np.array([1.0 / c.unit for c in cells], dtype=np.float64)
