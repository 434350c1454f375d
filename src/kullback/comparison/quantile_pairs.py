"""Differences of quantiles between candidates, with an error that respects groups.

Groups (without groups, runs of 1,024 rows) are dealt into 61 batches by their number, whatever order they come in. Of
each batch and candidate a histogram is kept, of values cut to some significant bits. A quantile of all batches but one,
for each one left out, gives the jackknife's error of the difference: whole batches are left out, so that the error is
right for quantiles too (J. Shao & C. F. J. Wu, "A general theory for jackknife variance estimation", 1989).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.binned import Binned
from kullback.comparison.clusters import FEWEST

BATCHES = 61  # a prime: numbers that are all multiples of 64 or 1,000 (where chunks begin) do not fall into one batch
RUN = 1024  # rows that go into one batch where there are no groups
MOST = 1 << 11  # different values of a batch that are kept apart


class Batches:
    """Values of N candidates over the same rows, by batch."""

    def __init__(self, candidates: int) -> None:
        self.grouped = False
        self._kept: dict[int, list[Binned]] = {}
        self._candidates = candidates
        self._found: dict[tuple[int, float], tuple[float, NDArray[np.float64]]] = {}  # asked for by pair after pair

    def add(self, x: NDArray[np.float64], names: NDArray[np.int64], grouped: bool) -> None:
        """Values (N, T); `names`: the group of each row, or its number."""
        self.grouped = grouped
        batch = (names if grouped else names // RUN) % BATCHES
        for k in np.unique(batch).tolist():
            self._add(k, [Binned.of(row[batch == k], MOST) for row in x])

    def _add(self, k: int, new: list[Binned]) -> None:
        old = self._kept.get(k)
        self._found.clear()
        self._kept[k] = new if old is None else [a.merge(b, MOST) for a, b in zip(old, new, strict=True)]

    def merge(self, other: Batches) -> Batches:
        new = Batches(self._candidates)
        for part in (self, other):
            new.grouped |= part.grouped
            for k, some in part._kept.items():
                new._add(k, some)
        return new

    def __bool__(self) -> bool:
        return bool(self._kept)

    def difference(self, a: int, b: int, level: float) -> tuple[float, float, int]:
        """Of the quantiles of two candidates, its standard error, and the batches that it comes from."""
        count = len(self._kept)
        if not count:
            return math.nan, math.nan, 0
        (whole_a, parts_a), (whole_b, parts_b) = (self._quantiles(one, level) for one in (a, b))
        with np.errstate(invalid="ignore"):
            moved = parts_a - parts_b
        error = math.nan
        if count >= FEWEST and np.isfinite(moved).all():
            error = math.sqrt((count - 1) / count * float(np.sum((moved - moved.mean()) ** 2)))
        with np.errstate(invalid="ignore"):
            return float(np.subtract(whole_a, whole_b)), error, count

    def _quantiles(self, candidate: int, level: float) -> tuple[float, NDArray[np.float64]]:
        """Of all batches, and of all but each one."""
        if (candidate, level) not in self._found:
            self._found[candidate, level] = self._quantiles_of(candidate, level)
        return self._found[candidate, level]

    def _quantiles_of(self, candidate: int, level: float) -> tuple[float, NDArray[np.float64]]:
        batches = [self._kept[k][candidate] for k in sorted(self._kept)]
        whole = batches[0]
        for batch in batches[1:]:
            whole = whole.merge(batch)
        counts = [batch.counts_in(whole).astype(np.float64) for batch in batches]
        total = np.sum(counts, axis=0)
        ends = np.append(whole.values[1:], whole.high)
        found = [_quantile(total - own, whole.values, ends, level) for own in counts]
        return _quantile(total, whole.values, ends, level), np.array(found)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batches):
            return NotImplemented
        if self._kept.keys() != other._kept.keys():
            return False
        return all(self._kept[k] == other._kept[k] for k in self._kept)

    __hash__ = None  # type: ignore[assignment]


def _quantile(
    counts: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64], level: float
) -> float:
    """Of a histogram whose values lie evenly between the ends of each cell: it moves smoothly with the counts."""
    below = np.cumsum(counts)
    if not below.size or not below[-1]:
        return math.nan
    rank = level * below[-1]
    i = min(int(np.searchsorted(below, rank, side="left")), below.size - 1)
    share = (rank - (below[i] - counts[i])) / counts[i] if counts[i] else 0.0
    low, high = float(starts[i]), float(ends[i])
    return low if low == high or not math.isfinite(high) else low + (high - low) * float(share)
