"""Intervals of quantiles from the values themselves, groups respected.

Of n independent values the number below the quantile of a level is binomial, whatever their law: the interval ends at
two of the values in rising order, by their ranks. Where values come in groups they are worth fewer independent ones: as
many as would know the share below the estimated quantile as well as the groups do (R. Woodruff, 1952; so many as of
E. Korn & B. Graubard, 1998). Groups are dealt into 61 batches by their number, between which that share's error is;
of each batch a histogram is kept, of values cut to some significant bits, so that memory is bounded and parts merge in
any order to the same bits. In files of up to 61 groups that are numbered one by one a batch is a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.binned import Binned, cut
from kullback.comparison.clusters import FEWEST, Clusters
from kullback.comparison.quantile_pairs import BATCHES
from kullback.comparison.student import binomial_below, student_quantile

MOST = 1 << 9  # different values of a batch that are kept apart
BITS = 7  # of them, to begin with
_NORMAL = 400.0  # n·level·(1 - level) from which ranks come from the normal law and its skewness


class GroupBatch(NamedTuple):
    """The finite values of a batch, cut, and how many are -inf and inf."""

    values: Binned | None
    lowest: int
    highest: int

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> GroupBatch:
        finite = values[np.isfinite(values)]
        binned = Binned.of(finite, MOST, BITS) if finite.size else None
        return cls(binned, int(np.count_nonzero(values == -np.inf)), int(np.count_nonzero(values == np.inf)))

    def merge(self, other: GroupBatch) -> GroupBatch:
        both = self.values or other.values
        if self.values is not None and other.values is not None:
            both = self.values.merge(other.values, MOST)
        return GroupBatch(both, self.lowest + other.lowest, self.highest + other.highest)


class Batched:
    """Values by batch of groups."""

    def __init__(self, kept: dict[int, GroupBatch] | None = None) -> None:
        self._kept = kept or {}

    @classmethod
    def of(cls, values: NDArray[np.float64], groups: NDArray[np.int64]) -> Batched:
        batch = groups % BATCHES
        return cls({k: GroupBatch.of(values[batch == k]) for k in np.unique(batch).tolist()})

    def merge(self, other: Batched) -> Batched:
        both = dict(self._kept)
        for k, batch in other._kept.items():
            both[k] = both[k].merge(batch) if k in both else batch
        return Batched(both)

    def finite(self) -> Batched:
        return Batched(
            {k: GroupBatch(batch.values, 0, 0) for k, batch in self._kept.items() if batch.values is not None}
        )

    @cached_property
    def _table(self) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """The finite values of all batches, cut alike; of each batch how many are below each of them and below inf, and
        how many there are; the bits."""
        batches = [self._kept[k] for k in sorted(self._kept)]
        bits = min((batch.values.bits for batch in batches if batch.values is not None), default=BITS)
        binned = [None if batch.values is None else batch.values.coarser(bits) for batch in batches]
        values = np.unique(np.concatenate([np.empty(0), *(one.values for one in binned if one is not None)]))
        ends = np.append(values, np.inf)
        below = np.zeros((len(batches), ends.size + 1))
        for row, batch, one in zip(below, batches, binned, strict=True):
            row[:-1] = batch.lowest + (0 if one is None else one.below(ends))
            row[-1] = row[-2] + batch.highest
        return values, below, bits

    def independent(self, value: float, confidence: float) -> float:
        """As many independent values would know the share below `value` as well as the groups do, at a `confidence`;
        NaN for fewer than five batches. Of the shares below and up to the cut value the one that is known worse."""
        if len(self._kept) < FEWEST:
            return math.nan
        values, below, bits = self._table
        sizes = below[:, -1]
        found, total = float(sizes.sum()), sizes.sum()
        edge = float(cut(np.array([value]), bits)[0])
        for side in ("left", "right"):
            inside = below[:, np.searchsorted(values, edge, side)]
            share = float(inside.sum() / total)
            clusters = Clusters(share, sizes, (inside - share * sizes) / total, total * share * (1 - share))
            error = clusters.standard_error() if 0 < share < 1 else 0.0
            if error > 0 and 0 < confidence < 1:
                end = (1 + confidence) / 2
                worth = NormalDist().inv_cdf(end) / student_quantile(end, clusters.degrees_of_freedom())
                found = min(found, share * (1 - share) / error**2 * worth**2)
        return found

    def __eq__(self, other: object) -> bool:
        return self._kept == other._kept if isinstance(other, Batched) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def ranks(level: float, count: int, independent: float, confidence: float) -> tuple[int, int]:
    """The places, from 1, of the values between which the quantile lies, of `count` in rising order that are worth so
    many `independent` ones; 0 and count + 1 where there is no such value."""
    if confidence >= 1.0:
        return 0, count + 1
    n = max(1, min(count, int(independent)))
    low, high = _binomial_ranks(level, n, (1 - confidence) / 2)
    return low * count // n, (count + 1 if high > n else -(-high * count // n))


@lru_cache(maxsize=1024)
def _binomial_ranks(level: float, n: int, tail: float) -> tuple[int, int]:
    """The greatest l with P(X < l) ≤ tail and the least u with P(X ≥ u) ≤ tail, of X binomial of n and `level`."""
    variance = n * level * (1 - level)
    if variance > _NORMAL and tail > 0:
        z = -NormalDist().inv_cdf(tail)
        skew = (1 - 2 * level) * (z * z - 1) / 6
        reach = z * math.sqrt(variance)
        return max(0, math.floor(n * level + skew - reach)), math.ceil(n * level + skew + reach) + 1
    low = _first(lambda place: binomial_below(place, n, level) > tail, n)
    return low, _first(lambda place: binomial_below(n - place, n, 1 - level) <= tail, n + 1)


def _first(holds: Callable[[int], bool], end: int) -> int:
    """The least whole number up to `end` from which on it holds; `end` where none before."""
    start = 0
    while start < end:
        middle = (start + end) // 2
        start, end = (start, middle) if holds(middle) else (middle + 1, end)
    return start
