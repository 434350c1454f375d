"""Many short exact sums at once: by row and by key, at little more than the cost of one long one."""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.exact import LOW_BITS, ExactSum, Group, significands

_TOGETHER = 1 << 16  # numbers at a time
_SUMMED = 1 << 24  # numbers of which the halves add up exactly in float64, as `exact_sums` adds them


def exact_sums(rows: NDArray[np.float64], keys: NDArray[np.int64], count: int) -> list[list[int]]:
    """Of each row the sums of its finite numbers by key, 0 to `count` - 1, a key a column; in units of 2⁻¹⁰⁷⁴."""
    found = [[0] * count for _ in rows]
    if not keys.size:
        return found
    step = max(1, _TOGETHER // keys.size)
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        integer, exponent = (part.reshape(-1) for part in significands(some))
        least = int(exponent.min())
        width = int(exponent.max()) - least + 1
        cell = (np.arange(len(some))[:, None] * count + keys).reshape(-1) * width + (exponent - least)
        cells = np.arange(len(some) * count * width)
        if cells.size > 16 * cell.size:
            cells, cell = np.unique(cell, return_inverse=True)
        high = np.bincount(cell, weights=integer >> LOW_BITS, minlength=cells.size)
        low = np.bincount(cell, weights=integer & ((1 << LOW_BITS) - 1), minlength=cells.size)
        there = (high != 0.0) | (low != 0.0)
        for where, a, b in zip(cells[there].tolist(), high[there].tolist(), low[there].tolist(), strict=True):
            place, power = divmod(where, width)
            units = ((int(a) << LOW_BITS) + int(b)) << (power + least - 1)
            found[first + place // count][place % count] += units
    return found


def sums_of_groups(values: NDArray[np.float64], groups: NDArray[Any]) -> dict[int, Group]:
    """The values of each group, none of them NaN."""
    names, places = np.unique(groups, return_inverse=True)
    places = places.reshape(-1)
    finite = np.isfinite(values)
    infinite = np.bincount(places, ~finite, names.size).astype(np.int64).tolist()
    totals = [0] * names.size
    for start in range(0, values.size, _SUMMED):
        part = slice(start, start + _SUMMED)
        there = finite[part]
        (some,) = exact_sums(values[part][there][None], places[part][there], names.size)
        totals = list(map(add, totals, some))
    sums = [ExactSum.of_units(units) for units in totals]
    for place in np.unique(places[~finite]).tolist():
        sums[place].add(values[~finite & (places == place)])
    sizes = np.bincount(places, minlength=names.size).tolist()
    return {int(name): Group(*one) for name, *one in zip(names.tolist(), sizes, infinite, sums, strict=True)}


class GroupSums(NamedTuple):
    """Sums of the rows of one document, a candidate each: `units`·2ˢʰⁱᶠᵗ·2⁻¹⁰⁷⁴, a fifth of the size of exact sums."""

    size: int
    shift: int
    units: tuple[int, ...]

    @classmethod
    def of(cls, size: int, units: Sequence[int]) -> GroupSums:
        """Without the zeros that all of them end with: equal sums are equal."""
        ends = 0
        for one in units:
            ends |= one
        shift = (ends & -ends).bit_length() - 1 if ends else 0
        return cls(size, shift, tuple(one >> shift for one in units))

    def merge(self, other: GroupSums) -> GroupSums:
        both = [(a << self.shift) + (b << other.shift) for a, b in zip(self.units, other.units, strict=True)]
        return GroupSums.of(self.size + other.size, both)

    def minus(self, a: int, b: int) -> int:
        """The sum of candidate a minus that of b, in units of 2⁻¹⁰⁷⁴."""
        return (self.units[a] - self.units[b]) << self.shift
