"""Values cut to some significant bits, and how many there are of each: quantiles of any number of values.

What is kept depends on the values alone, not on their order or on how they came in parts: counts add up, and a value
that is cut twice is as if it had been cut once, to the fewer bits. The rank of what is found is exact among the cut
values, and a cut value is within 2⁻ᵇ of the value, b being the bits kept. (A sketch that bounds the error of the rank
instead, as t-digests, KLL and REQ do, says nothing about the value where values are sparse, which is in the tails.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BITS", "MOST", "Binned", "allowance"]

BITS = 14  # kept after the leading one, as long as there are at most MOST different values
MOST = 1 << 19  # 8 MiB; enough for 14 bits of all numbers in 32 octaves, and for 7 of all float64


@dataclass(frozen=True, eq=False)
class Binned:
    """Different values in rising order, how often each occurs, and the least and the greatest one uncut."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    low: float
    high: float
    bits: int

    @classmethod
    def of(cls, values: NDArray[np.float64], most: int = MOST, bits: int = BITS) -> Binned:
        """Of one value at least, none of them NaN."""
        found, counts = np.unique(cut(values, bits), return_counts=True)
        return cls(found, counts, float(values.min()), float(values.max()), bits)._within(most)

    def merge(self, other: Binned, most: int = MOST) -> Binned:
        """Of the values of both."""
        a, b = sorted((self, other), key=lambda binned: -binned.bits)
        both = a.coarser(b.bits)
        values, place = np.unique(np.concatenate([both.values, b.values]), return_inverse=True)
        counts = np.zeros(values.size, np.int64)
        np.add.at(counts, place.ravel(), np.concatenate([both.counts, b.counts]))
        return Binned(values, counts, min(a.low, b.low), max(a.high, b.high), b.bits)._within(most)

    def finite(self) -> Binned | None:
        """Without infinities; None where nothing else is there."""
        kept = np.isfinite(self.values)
        if not kept.any():
            return None
        values, counts = self.values[kept], self.counts[kept]
        # beside an infinity the end is known as it was cut
        low = self.low if math.isfinite(self.low) else float(values[0])
        high = self.high if math.isfinite(self.high) else float(values[-1])
        return Binned(values, counts, low, high, self.bits)

    @property
    def size(self) -> int:
        return int(self.counts.sum())

    @property
    def error(self) -> float:
        """How far, of its magnitude, a value may be from what `at` says (subnormal ones: of 2⁻¹⁰²²)."""
        return 2.0**-self.bits

    def at(self, place: int) -> float:
        """The value with `place` values before it in rising order."""
        if place <= 0:
            return self.low
        if place >= self.size - 1:
            return self.high
        index = int(np.searchsorted(np.cumsum(self.counts), place, side="right"))
        return min(max(float(self.values[index]), self.low), self.high)

    def below(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """How many (cut) values are less than each edge."""
        before = np.concatenate([[0], np.cumsum(self.counts)])
        return np.asarray(before[np.searchsorted(self.values, edges, side="left")])

    def counts_in(self, coarser: Binned) -> NDArray[np.int64]:
        """How many there are of each value of another one, which has these among its values, cut to as many bits or
        fewer."""
        counts = np.zeros(coarser.values.size, np.int64)
        np.add.at(counts, np.searchsorted(coarser.values, cut(self.values, coarser.bits)), self.counts)
        return counts

    def _within(self, most: int) -> Binned:
        found = self
        while found.values.size > most and found.bits > 0:
            found = found.coarser(found.bits - 1)
        return found

    def coarser(self, bits: int) -> Binned:
        """Cut to so many bits, no more than these have."""
        if bits == self.bits:
            return self
        values = cut(self.values, bits)  # in rising order still
        first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        return Binned(values[first], np.add.reduceat(self.counts, first), self.low, self.high, bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Binned):
            return NotImplemented
        return (
            (self.low, self.high, self.bits) == (other.low, other.high, other.bits)
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]


def allowance(most: int, summaries: int) -> tuple[int, int]:
    """The values and bins that each of some summaries may keep: four have all there are, of more each its share."""
    share = max(1, math.ceil(summaries / 4))
    return most // share, max(MOST // share, 1 << BITS)


def cut(values: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Towards 0, to `bits` bits after the leading one; infinities stay, -0 becomes 0."""
    words = np.ascontiguousarray(values, np.float64).view(np.int64)
    return (words & -(1 << (52 - bits))).view(np.float64) + 0.0
