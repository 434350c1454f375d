"""One quantity of several candidates over the same rows, as sums from which any two of them can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.exact import ExactSum, Group, Mean


class PairedSums:
    """One quantity of N candidates over the same rows: sums of each, Σ(a - b)² and signs of each pair."""

    def __init__(self, candidates: int) -> None:
        self.count = self.left_out = 0  # rows that are finite everywhere, and those that are infinite somewhere
        self.infinite = np.zeros(candidates, np.int64)
        self.totals = [ExactSum() for _ in range(candidates)]
        self.groups: dict[int, tuple[int, list[ExactSum]]] = {}
        pairs = candidates * (candidates - 1) // 2
        self.squares = [ExactSum() for _ in range(pairs)]
        self.signs = np.zeros((pairs, 2), np.int64)  # rows in which a is above, and below

    def add(self, x: NDArray[np.float64], groups: NDArray[np.int64] | None) -> None:
        """Rows of shape (N, T), none of them NaN."""
        infinite = np.isinf(x)
        self.infinite += infinite.sum(axis=1)
        finite = ~infinite.any(axis=0)
        self.left_out += int(finite.size - finite.sum())
        x = x[:, finite]
        self.count += x.shape[1]
        for total, row in zip(self.totals, x, strict=True):
            total.add(row)
        for i, (a, b) in enumerate(combinations(x, 2)):
            with np.errstate(over="ignore"):  # then the error without groups is not known
                d = a - b
                self.squares[i].add(d * d)
            self.signs[i] += np.count_nonzero(d > 0), np.count_nonzero(d < 0)
        if groups is None or not x.shape[1]:
            return
        inside = groups[finite]
        order = np.argsort(inside, kind="stable")
        names, starts = np.unique(inside[order], return_index=True)
        for name, part in zip(names.tolist(), np.split(x[:, order], starts[1:], axis=1), strict=True):
            self._add_group(name, part.shape[1], [ExactSum(row) for row in part])

    def _add_group(self, name: int, size: int, sums: Sequence[ExactSum]) -> None:
        old, totals = self.groups.get(name, (0, [ExactSum() for _ in sums]))
        self.groups[name] = old + size, [_sum(a, b) for a, b in zip(totals, sums, strict=True)]

    def merge(self, other: PairedSums) -> PairedSums:
        new = PairedSums(len(self.totals))
        for part in (self, other):
            new.count += part.count
            new.left_out += part.left_out
            new.infinite = new.infinite + part.infinite
            new.signs = new.signs + part.signs
            for into, sums in ((new.totals, part.totals), (new.squares, part.squares)):
                for total, one in zip(into, sums, strict=True):
                    total.merge(one)
            for name, (size, totals) in part.groups.items():
                new._add_group(name, size, totals)
        return new

    def difference(self, a: int, b: int) -> tuple[Mean, dict[int, Group], tuple[int, int]]:
        """Of two candidates: the mean of a - b, its groups, and in how many rows a is above and below."""
        first, second = sorted((a, b))
        n = len(self.totals)
        place = first * n - first * (first + 1) // 2 + second - first - 1
        mean = Mean()
        mean.count = mean.clusters = mean.squared_counts = self.count
        mean.total, mean.squares = _minus(self.totals[a], self.totals[b]), self.squares[place]
        groups = {name: Group(size, 0, _minus(sums[a], sums[b])) for name, (size, sums) in self.groups.items()}
        above, below = (int(n) for n in (self.signs[place] if a < b else self.signs[place][::-1]))
        return mean, groups, (above, below)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PairedSums)
            and (self.count, self.left_out, self.totals, self.squares, self.groups)
            == (other.count, other.left_out, other.totals, other.squares, other.groups)
            and np.array_equal(self.infinite, other.infinite)
            and np.array_equal(self.signs, other.signs)
        )

    __hash__ = None  # type: ignore[assignment]


def _sum(a: ExactSum, b: ExactSum) -> ExactSum:
    new = a.copy()
    new.merge(b)
    return new


def _minus(a: ExactSum, b: ExactSum) -> ExactSum:
    return _sum(a, b.negative())
