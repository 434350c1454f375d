"""Pairs: all candidates of a base side by side, over all rows and over those of each label.

Columns of all candidates, the same rows -> of each quantity the exact sums of every candidate (by group where there are
groups) and, of every pair, Σ(a - b)². Sums are linear, so that the mean difference of any pair and its error by groups
come from the candidates' own; all of it merges in any order to the same bits.

By label it is the same, but for quantiles, whose histograms are kept of all rows alone, and for the sums of pairs where
there are many of both: labels times pairs may be 600,000, and between groups the candidates' own sums are enough.

A row counts if it has a distribution in the base and in every candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.columns import Columns, compared_rows, completed
from kullback.comparison.labels import LabelSet
from kullback.comparison.paired import Difference, QuantileDifference
from kullback.comparison.paired_sums import PairedSums
from kullback.comparison.quantile_pairs import Batches

QUANTITIES = {
    "kl": "kl", "reverse_kl": "reverse_kl", "log_prob": "log_prob_q", "delta_prob": "delta_prob",
    "same_top1": "same_top1", "acceptance": "acceptance",
}  # fmt: skip
MOST_PAIRS_BY_LABEL = 10_000  # labels times pairs whose sums are kept: some 250 bytes each, of each quantity


class Pairs:
    """All candidates of a base side by side; `a.merge(b)` is that of both parts' rows, in any order to the same bits.

    Attributes
    ----------
    rows, left_out : int
        Rows that count, and rows that have a distribution in some candidate but not in all.
    quantities : tuple of str
    by : dict of dict of Pairs
        Of the rows of each label, by set of labels; without quantiles.
    """

    def __init__(self, candidates: int, by_pair: bool = True) -> None:
        self.candidates = candidates
        self.rows = self.left_out = 0
        self.by: dict[str, dict[str, Pairs]] = {}
        self._sums: dict[str, PairedSums] = {}
        self._quantiles = Batches(candidates)
        self._labels = 0  # of all sets, in the whole job
        self._by_pair = by_pair

    @property
    def quantities(self) -> tuple[str, ...]:
        return tuple(self._sums)

    def add(self, columns: Sequence[Columns], sets: Mapping[str, LabelSet] | None = None) -> None:
        """Columns of the same rows, one set a candidate, and their labels."""
        whole = [completed(one) for one in columns]
        kept = [compared_rows(one) for one in whole]
        everywhere, somewhere = np.logical_and.reduce(kept), np.logical_or.reduce(kept)
        groups = whole[0].get("group")
        inside = None if groups is None else groups[everywhere]
        values = {
            name: np.stack([np.asarray(one[column][everywhere], np.float64) for one in whole])
            for name, column in QUANTITIES.items()
            if all(column in one for one in whole)
        }
        self._take(values, inside, (int(everywhere.sum()), int((somewhere & ~everywhere).sum())))
        if "kl" in values:
            rows = whole[0]["row"][everywhere] if "row" in whole[0] else np.flatnonzero(everywhere)
            self._quantiles.add(values["kl"], rows if inside is None else inside, inside is not None)
        self._labels = max(self._labels, sum(len(labels.names) for labels in (sets or {}).values()))
        for name, labels in (sets or {}).items():
            self._add_labels(name, labels, values, (inside, everywhere, somewhere & ~everywhere))
        self._settle()

    def _add_labels(
        self,
        name: str,
        labels: LabelSet,
        values: Mapping[str, NDArray[np.float64]],
        rows: tuple[NDArray[np.int64] | None, NDArray[np.bool_], NDArray[np.bool_]],
    ) -> None:
        groups, everywhere, lost = rows
        mine = self.by.setdefault(name, {})
        inside = labels.codes[everywhere]
        order = np.argsort(inside, kind="stable")
        counts, left_out = (np.bincount(x, minlength=len(labels.names)) for x in (inside, labels.codes[lost]))
        ends = np.cumsum(counts)
        for code in np.unique(labels.codes).tolist():
            some = order[ends[code] - counts[code] : ends[code]]
            own = mine.setdefault(labels.names[code], Pairs(self.candidates, self._few_labels))
            own._take(
                {quantity: x[:, some] for quantity, x in values.items()},
                None if groups is None else groups[some],
                (some.size, int(left_out[code])),
            )

    def _take(
        self, values: Mapping[str, NDArray[np.float64]], groups: NDArray[np.int64] | None, counts: tuple[int, int]
    ) -> None:
        self.rows += counts[0]
        self.left_out += counts[1]
        for name, x in values.items():
            self._sums.setdefault(name, PairedSums(self.candidates, self._by_pair)).add(x, groups)

    @property
    def _few_labels(self) -> bool:
        """Whether each pair has sums of its own of each label."""
        labels = max(self._labels, sum(map(len, self.by.values())))
        return labels * (self.candidates * (self.candidates - 1) // 2) <= MOST_PAIRS_BY_LABEL

    def _settle(self) -> None:
        """Of many labels and pairs keep the sums of candidates alone, in whatever parts they came."""
        if not self._few_labels:
            self.by = {
                name: {label: pairs._without_pairs() for label, pairs in some.items()} for name, some in self.by.items()
            }

    def _without_pairs(self) -> Pairs:
        if not self._by_pair:
            return self
        new = Pairs(self.candidates, by_pair=False)
        new.rows, new.left_out = self.rows, self.left_out
        new._sums = {name: sums.without_pairs() for name, sums in self._sums.items()}
        return new

    def merge(self, other: Pairs) -> Pairs:
        if self.candidates != other.candidates:
            raise ValueError(f"`other` has {other.candidates} candidates, expected {self.candidates}")
        new = Pairs(self.candidates, self._by_pair and other._by_pair)
        new.rows, new.left_out = self.rows + other.rows, self.left_out + other.left_out
        new._labels = max(self._labels, other._labels)
        names: Iterable[str] = dict.fromkeys((*self._sums, *other._sums))
        for name in names:
            both = [part._sums[name] for part in (self, other) if name in part._sums]
            new._sums[name] = both[0] if len(both) == 1 else both[0].merge(both[1])
        new._quantiles = self._quantiles.merge(other._quantiles)
        for name in dict.fromkeys((*self.by, *other.by)):
            mine, theirs = self.by.get(name, {}), other.by.get(name, {})
            new.by[name] = dict(mine)
            for label, pairs in theirs.items():
                new.by[name][label] = mine[label].merge(pairs) if label in mine else pairs
        new._settle()
        return new

    def difference(self, quantity: str, a: int, b: int) -> Difference:
        """Of two candidates by number."""
        sums = self._sums[quantity]
        found = Difference(*sums.difference(a, b), share=quantity == "same_top1")
        found.infinite = int(sums.infinite[a]), int(sums.infinite[b])
        return found

    @property
    def has_quantiles(self) -> bool:
        return bool(self._quantiles)

    def quantile_difference(self, a: int, b: int, level: float) -> QuantileDifference:
        """Of the KL of two candidates."""
        return QuantileDifference(*self._quantiles.difference(a, b, level))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pairs):
            return NotImplemented
        return (
            (self.candidates, self.rows, self.left_out) == (other.candidates, other.rows, other.left_out)
            and self._sums == other._sums
            and self._quantiles == other._quantiles
            and self.by == other.by
        )

    __hash__ = None  # type: ignore[assignment]
