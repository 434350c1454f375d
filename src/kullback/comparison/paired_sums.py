"""One quantity of several candidates over the same rows, as sums from which any two of them can be told apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.exact import ExactSum, Group, Mean
from kullback.comparison.short_sums import GroupSums, exact_sums

_TOGETHER = 1 << 16  # differences at a time


class PairedSums:
    """One quantity of N candidates over the same rows: sums of each; `by_pair` Σ(a - b)² and signs of pairs too."""

    def __init__(self, candidates: int, by_pair: bool = True) -> None:
        self.count = self.left_out = 0  # rows that are finite everywhere, and those that are infinite somewhere
        self.infinite = np.zeros(candidates, np.int64)
        self.totals = [ExactSum() for _ in range(candidates)]
        self.groups: dict[int, GroupSums] = {}
        self.by_pair = by_pair
        pairs = candidates * (candidates - 1) // 2 if by_pair else 0
        self.squares = [ExactSum() for _ in range(pairs)]
        self.signs = np.zeros((pairs, 2), np.int64)  # rows in which a is above, and below

    def without_pairs(self) -> PairedSums:
        """The sums of each candidate alone: errors without groups, and signs, are then not known."""
        new = PairedSums(len(self.totals), by_pair=False)
        new.count, new.left_out, new.infinite = self.count, self.left_out, self.infinite
        new.totals, new.groups = self.totals, self.groups
        return new

    def add(self, x: NDArray[np.float64], groups: NDArray[np.int64] | None) -> None:
        """Rows of shape (N, T), none of them NaN."""
        infinite = np.isinf(x)
        self.infinite += infinite.sum(axis=1)
        finite = ~infinite.any(axis=0)
        self.left_out += int(finite.size - finite.sum())
        x = x[:, finite]
        self.count += x.shape[1]
        if not x.shape[1]:
            return
        if self.by_pair:
            self._add_pairs(x)
        names, places = [0], np.zeros(x.shape[1], np.int64)
        if groups is not None:
            found, members = np.unique(groups[finite], return_inverse=True)
            names, places = found.tolist(), members.reshape(-1)
        sums = exact_sums(x, places, len(names))
        for total, parts in zip(self.totals, sums, strict=True):
            total.add_units(sum(parts))
        if groups is not None:
            sizes = np.bincount(places).tolist()
            for name, size, *parts in zip(names, sizes, *sums, strict=True):
                self._add_group(name, GroupSums.of(size, parts))

    def _add_pairs(self, x: NDArray[np.float64]) -> None:
        first, second = np.triu_indices(len(self.totals), 1)
        step = max(1, _TOGETHER // x.shape[1])
        keys = np.zeros(x.shape[1], np.int64)
        for start in range(0, first.size, step):
            part = slice(start, start + step)
            with np.errstate(over="ignore"):  # then the error without groups is not known
                d = x[first[part]] - x[second[part]]
                squares = d * d
            beyond = np.isinf(squares)
            for total, (one,) in zip(
                self.squares[part], exact_sums(np.where(beyond, 0.0, squares), keys, 1), strict=True
            ):
                total.add_units(one)
            for i in np.flatnonzero(beyond.any(axis=1)).tolist():
                self.squares[start + i].add([np.inf])
            self.signs[part, 0] += np.count_nonzero(d > 0, axis=1)
            self.signs[part, 1] += np.count_nonzero(d < 0, axis=1)

    def _add_group(self, name: int, sums: GroupSums) -> None:
        self.groups[name] = self.groups[name].merge(sums) if name in self.groups else sums

    def merge(self, other: PairedSums) -> PairedSums:
        new = PairedSums(len(self.totals), self.by_pair and other.by_pair)
        for part in (self, other):
            new.count += part.count
            new.left_out += part.left_out
            new.infinite = new.infinite + part.infinite
            for total, one in zip(new.totals, part.totals, strict=True):
                total.merge(one)
            if new.by_pair:
                new.signs = new.signs + part.signs
                for total, one in zip(new.squares, part.squares, strict=True):
                    total.merge(one)
            for name, sums in part.groups.items():
                new._add_group(name, sums)
        return new

    def difference(self, a: int, b: int) -> tuple[Mean, dict[int, Group], tuple[int, int] | None]:
        """Of two candidates: the mean of a - b, its groups, and in how many rows a is above and below, where known."""
        first, second = sorted((a, b))
        n = len(self.totals)
        place = first * n - first * (first + 1) // 2 + second - first - 1
        mean = Mean()
        mean.count = mean.clusters = mean.squared_counts = self.count
        mean.total = _minus(self.totals[a], self.totals[b])
        mean.squares = self.squares[place] if self.by_pair else ExactSum([np.nan])
        groups = {name: Group(sums.size, 0, ExactSum.of_units(sums.minus(a, b))) for name, sums in self.groups.items()}
        if not self.by_pair:
            return mean, groups, None
        above, below = (int(n) for n in (self.signs[place] if a < b else self.signs[place][::-1]))
        return mean, groups, (above, below)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PairedSums)
            and (self.count, self.left_out, self.totals, self.squares, self.groups, self.by_pair)
            == (other.count, other.left_out, other.totals, other.squares, other.groups, other.by_pair)
            and np.array_equal(self.infinite, other.infinite)
            and np.array_equal(self.signs, other.signs)
        )

    __hash__ = None  # type: ignore[assignment]


def _minus(a: ExactSum, b: ExactSum) -> ExactSum:
    new = a.copy()
    new.merge(b.negative())
    return new
