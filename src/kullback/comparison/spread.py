"""Spread: the distribution of one quantity over tokens, mergeable in any order to the same bits.

Sums are exact (exact.py), quantiles come from the values themselves, so that merging loses nothing. Jobs over more
tokens than they want to keep call `compact`: quantiles then come from the values cut to 15 significant bits (binned.py;
fewer where the values fill more than 32 octaves), in any order to the same bits; everything else stays exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, views
from kullback.comparison.batched import Batched, ranks
from kullback.comparison.binned import MOST, Binned
from kullback.comparison.exact import Group, Mean, json_number
from kullback.comparison.grouped import Grouped
from kullback.comparison.short_sums import sums_of_groups

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


class Spread(Grouped):
    """The distribution of one quantity over tokens: exact moments, exact quantiles, mergeable.

    NaN values (rows without a distribution, ignored tokens) are counted in `undefined` and left out of the rest.
    """

    def __init__(self) -> None:
        self.undefined = 0
        self.infinite = 0
        self._mean = Mean()  # of the values that are not NaN
        self._parts: list[NDArray[np.float64]] = []
        self._groups: dict[int, Group] = {}
        self._batches = Batched()  # the values again, cut, by batch of groups
        self._intervals: dict[tuple[float, int, int], tuple[float, float]] = {}  # drawn already
        self._binned: Binned | None = None  # the values that `_parts` no longer has
        self._bins = MOST  # different values that it has at most

    @classmethod
    def of(cls, values: NDArray[Any], groups: NDArray[Any] | None = None, batched: bool = True) -> Spread:
        """The spread of an array, each value in its group; quantiles have intervals with groups if `batched`."""
        new = cls()
        flat = np.asarray(values, np.float64).ravel()
        defined = ~np.isnan(flat)
        new.undefined = int(flat.size - defined.sum())
        kept = np.sort(flat[defined])
        new._parts = [kept] if kept.size else []
        new.infinite = int(np.isinf(kept).sum())
        new._mean.add(kept)
        if groups is not None and kept.size:
            inside = groups[defined]
            new._batches = Batched.of(flat[defined], inside) if batched else Batched()
            new._groups = sums_of_groups(flat[defined], inside)
        return new

    def merge(self, other: Spread) -> Spread:
        """The spread of both together."""
        new = Spread()
        new.undefined = self.undefined + other.undefined
        new.infinite = self.infinite + other.infinite
        new._parts = self._parts + other._parts
        new._mean = self._mean.merge(other._mean)
        new._groups = dict(self._groups)  # the sums in it are never added to in place
        for name, group in other._groups.items():
            new._groups[name] = new._groups[name].merge(group) if name in new._groups else group
        new._batches = self._batches.merge(other._batches)
        new._bins = min(self._bins, other._bins)
        new._binned = self._binned or other._binned
        if self._binned is not None and other._binned is not None:
            new._binned = self._binned.merge(other._binned, new._bins)
        return new

    def compact(self, most: int, bins: int = MOST) -> None:
        """Beyond `most` values, keep them cut to some significant bits instead, `bins` different ones at most."""
        self._bins = min(self._bins, bins)
        if sum(part.size for part in self._parts) > most:
            self._bin()

    def _bin(self) -> None:
        values = self._sorted()
        if values.size:
            found = Binned.of(values, self._bins)
            self._binned = found if self._binned is None else self._binned.merge(found, self._bins)
        self._parts = []

    def _settled(self) -> Spread:
        """This one, its values either all in bins or none."""
        if self._binned is not None:
            self._bin()
        return self

    @property
    def finite(self) -> Spread:
        """The spread of the finite values alone."""
        if not self.infinite:
            return self
        new = Spread()
        new.undefined = self.undefined
        new._mean = self._mean.finite_part(self.infinite)
        new._parts = [part[np.isfinite(part)] for part in self._parts]
        new._binned = None if self._binned is None else self._binned.finite()
        new._batches = self._batches.finite()
        new._bins = self._bins
        new._groups = {
            name: Group(group.size - group.infinite, 0, group.total.finite_part())
            for name, group in self._groups.items()
            if group.size > group.infinite
        }
        return new

    def _sorted(self) -> NDArray[np.float64]:
        if len(self._parts) > 1:
            self._parts = [np.sort(np.concatenate(self._parts), kind="stable")]
        return self._parts[0] if self._parts else np.empty(0)

    @property
    def sketched(self) -> bool:
        """Whether quantiles come from values that were cut to some significant bits."""
        return self._binned is not None

    @property
    def quantile_error(self) -> float:
        """How far quantiles may be from those of the values themselves, as a share of the values beside them."""
        binned = self._settled()._binned
        return 0.0 if binned is None else binned.error

    @property
    def quantile_digits(self) -> int:
        """Significant digits that are known of a quantile, 4 at most."""
        error = self.quantile_error
        return 4 if error == 0 else min(4, math.floor(-math.log10(error)))

    @property
    def count(self) -> int:
        """Values that are not NaN."""
        return self._mean.count

    @property
    def mean(self) -> float:
        return self._mean.mean

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        if self.infinite:
            return math.inf
        return math.sqrt(float(self._mean.squares) / self.count) if self.count else math.nan

    @property
    def standard_deviation(self) -> float:
        """With n - 1 below the line."""
        return self._mean.standard_deviation

    @property
    def standard_error(self) -> float:
        """Of the mean, as if tokens were independent."""
        return self._mean.standard_error

    @property
    def min(self) -> float:
        return self._end(-1)

    @property
    def max(self) -> float:
        return self._end(1)

    def _end(self, sign: int) -> float:
        if not self.count:
            return math.nan
        ends = [float(part[-1 if sign > 0 else 0]) for part in self._parts if part.size]
        if self._binned is not None:
            ends.append(self._binned.high if sign > 0 else self._binned.low)
        return max(ends) if sign > 0 else min(ends)

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def quantile(self, level: float) -> float:
        """The value below which a share `level` of the tokens lies, linear between neighbours (NumPy's "linear")."""
        level = keywords.number(level, "level", 0.0, 1.0)
        if not self.count:
            return math.nan
        place = level * (self.count - 1)
        below = int(place)
        low, high = self._at(below), self._at(min(below + 1, self.count - 1))
        share = place - below
        if low == high or share == 0.0:
            return low
        if math.isinf(low) or math.isinf(high):
            return low + high
        return low + (high - low) * share if share < 0.5 else high - (high - low) * (1.0 - share)

    def _at(self, place: int) -> float:
        """The value with `place` values before it in rising order."""
        binned = self._settled()._binned
        return float(self._sorted()[place]) if binned is None else binned.at(place)

    def quantile_interval(self, level: float, confidence: float = 0.95) -> tuple[float, float]:
        """Of `quantile(level)`, between two of the values; (NaN, NaN) where groups are known and fewer than five.

        Exact for independent values, whatever their law; where groups are known, by the error between them of the share
        below the quantile (batched.py). An end for which there are too few values is ±inf, or 0 of values that are
        never negative.
        """
        level, confidence = (
            keywords.number(level, "level", 0.0, 1.0),
            keywords.number(confidence, "confidence", 0.0, 1.0),
        )
        count, independent = self.count, float(self.count)
        if self._groups:
            whole = sum(group.size for group in self._groups.values()) == count  # else some values are in no group
            independent = self._batches.independent(self.quantile(level), confidence) if whole else math.nan
        if not count or math.isnan(independent):
            return math.nan, math.nan
        low, high = ranks(level, count, independent, confidence)
        least = 0.0 if self.min >= 0.0 else -math.inf
        return (self._at(low - 1) if low else least), (self._at(high - 1) if high <= count else math.inf)

    def over_mean(self, level: float) -> float:
        """`quantile(level)` as a multiple of the mean: how heavy the tail is; NaN where the mean is not above 0."""
        return self.quantile(level) / self.mean if 0.0 < self.mean < math.inf else math.nan

    def worst_share(self, share: float = 0.01) -> float:
        """What the greatest values, a share of all that goes by count, bring of the sum; NaN where one is negative.

        Where values are cut (`sketched`), to `quantile_error` of itself.
        """
        share = keywords.number(share, "share", 0.0, 1.0)
        if not self.count or not self.min >= 0.0 or not 0.0 < self.mean < math.inf:
            return math.nan
        binned = self._settled()._binned
        values = self._sorted() if binned is None else binned.values
        counts = np.ones(values.size) if binned is None else binned.counts.astype(np.float64)
        above = np.concatenate([np.cumsum(counts[::-1])[-2::-1], [0.0]])  # how many are greater, or equal and later
        taken = np.clip(share * self.count - above, 0.0, counts)
        return float((taken * values).sum() / (counts * values).sum())

    def histogram(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of values in each interval [edges[i], edges[i+1]); of cut values where they are."""
        edges = views.reals(edges, "edges")
        if edges.ndim != 1 or not edges.size or not np.all(edges[:-1] <= edges[1:]):
            raise ValueError(f"`edges` is {keywords.shown(edges)}, expected one axis of rising numbers")
        if not self.count:
            return np.zeros(edges.size - 1)
        binned = self._settled()._binned
        if binned is not None:
            return np.diff(binned.below(edges)) / self.count
        return np.diff(np.searchsorted(self._sorted(), edges, side="left")) / self.count

    def to_dict(self) -> dict[str, Any]:
        """For JSON: null where undefined, "inf" and "-inf" where infinite."""
        tree: dict[str, Any] = {
            name: json_number(getattr(self, name)) for name in ("mean", "standard_error", "median", "max", "min")
        }
        if self._groups:
            tree |= self.group_figures() | {"group_interval": [json_number(end) for end in self.group_interval()]}
        tree["undefined"] = self.undefined
        tree["infinite"] = self.infinite
        tree["quantiles"] = {f"{level:g}": json_number(self.quantile(level)) for level in QUANTILES}
        tree["quantile_intervals"] = {
            f"{level:g}": [json_number(end) for end in self.quantile_interval(level)] for level in QUANTILES
        }
        tree["quantiles_are"] = "of values cut to some significant bits" if self.sketched else "exact"
        tree["quantile_error"] = self.quantile_error
        return tree

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spread):
            return NotImplemented
        return (
            self.undefined == other.undefined
            and self.infinite == other.infinite
            and self._mean == other._mean
            and self._groups == other._groups
            and self._batches == other._batches
            and self._settled()._binned == other._settled()._binned
            and np.array_equal(self._sorted(), other._sorted())
        )

    __hash__ = None  # type: ignore[assignment]  # it is made of arrays
