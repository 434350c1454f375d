"""Which rows an update brings: their numbers, tokens, documents and places in these, checked against what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.label_files import JobLabels
from kullback.evaluation.live.batch import Incoming
from kullback.evaluation.sources import Source
from kullback.evaluation.tokens import target_tokens

__all__ = ["Numbered", "Order"]

_FIRST_ROOM = 1 << 12


@dataclass(frozen=True)
class Numbered:
    """The next rows, start ... stop."""

    start: int
    stop: int
    positions: NDArray[np.int64]
    tokens: NDArray[np.int64] | None
    groups: NDArray[np.int64] | None
    mode: str | None  # where the groups come from; None for rows of an earlier comparison
    sequences: int = 0  # of the batch
    remark: str = ""

    def columns(self, labels: JobLabels | None) -> dict[str, NDArray[Any]]:
        """What a job's columns say of its rows, beside what is computed."""
        found: dict[str, NDArray[Any]] = {"row": np.arange(self.start, self.stop), "position": self.positions}
        if self.tokens is not None:
            found["token"] = self.tokens
        if self.groups is not None:
            found["group"] = self.groups
        return found if labels is None else found | labels.columns(slice(self.start, self.stop))


class Order:
    """Rows counted as they come; what is asked of an update is kept only when it is added."""

    def __init__(self, source: Source | None, total: int | None, ignore_index: int) -> None:
        self.row = 0
        self.total = total
        self._source = source
        self._known = None if source is None else target_tokens(source, (), None, ignore_index)
        self._groups = None if source is None else source.groups
        self._mode: str | None = None
        self._with_tokens = False
        self._sequences = 0
        self._last = (0, -1)  # group and position of the last row
        self._given_last: int | None = None
        self._seen = np.empty(0, np.int64)
        self._longest = 0
        self.remarks: list[str] = []

    @property
    def targets(self) -> NDArray[np.int64] | None:
        """The tokens of the rows so far, perhaps of more."""
        return self._known if self._known is not None else self._seen if self._with_tokens else None

    @property
    def longest(self) -> int:
        """Rows of the longest document, as far as it is known."""
        if self._mode == "none" and self.total is not None:
            return max(self.total, 1)
        return max(self._longest, 1)

    def next(self, batch: Incoming) -> Numbered:
        """The rows of a batch; ValueError where they cannot be the next ones."""
        start, count = self.row, len(batch.places)
        stop = start + count
        if self.total is not None and stop > self.total:
            name = "`rows`" if self._source is None else self._source.path
            raise ValueError(
                f"the update has rows {start} to {stop}, but {name} has {self.total}: {stop - self.total} too many"
            )
        tokens = self._tokens(batch, start, stop)
        mode, groups, remark = self._documents(batch, start, stop)
        positions = np.arange(start, stop)
        if groups is not None and count:
            places = np.arange(count)
            begins = np.r_[start == 0 or groups[0] != self._last[0], groups[1:] != groups[:-1]]
            first = np.where(begins, places, -1)
            first[0] = 0 if begins[0] else -(self._last[1] + 1)
            positions = places - np.maximum.accumulate(np.where(begins | (places == 0), first, -(1 << 62)))
        return Numbered(
            start, stop, positions, tokens, groups, mode, batch.lead[0] if len(batch.lead) == 2 else 1, remark
        )

    def _tokens(self, batch: Incoming, start: int, stop: int) -> NDArray[np.int64] | None:
        if self._known is None:
            if start and (batch.tokens is not None) != self._with_tokens:
                came = "came" if self._with_tokens else "did not come"
                raise ValueError(f"`tokens` {came} with the updates before: expected with every update or with none")
            return batch.tokens
        assert self._source is not None
        known = self._known[start:stop]
        if batch.tokens is not None and not np.array_equal(batch.tokens, known):
            place = int(np.flatnonzero(batch.tokens != known)[0])
            raise ValueError(
                f"`tokens` and {self._source.path} have different tokens from row {start + place} on "
                f"({batch.tokens[place]} and {known[place]}): they do not score the same text"
            )
        return known

    def _documents(self, batch: Incoming, start: int, stop: int) -> tuple[str, NDArray[np.int64] | None, str]:
        source, given, remark = self._source, batch.groups, ""
        if self._groups is not None and source is not None and not (source.by_shard and given is not None):
            mode, found = "reference", self._groups[start:stop]
            if given is not None and len(given):
                before = (self._given_last, self._last[0]) if start else (None, None)
                other = np.flatnonzero(_begins(given, before[0]) != _begins(found, before[1]))
                if other.size:
                    remark = (
                        f"`groups` and {source.path} divide the rows into different chunks or documents, from row "
                        f"{start + int(other[0])} on; those of the latter are used"
                    )
        elif given is not None:
            mode, found = "given", given
        elif len(batch.lead) == 2:
            mode, found = "sequence", self._sequences + batch.sequences
        else:
            mode, found = "none", None
        if self._mode is not None and mode != self._mode:
            raise ValueError(
                f"the rows of the updates before were divided by {_MODES[self._mode]}, those of this one by "
                f"{_MODES[mode]}: give `groups` with every update or with none"
            )
        return mode, found, remark

    def add(self, rows: Numbered, given: NDArray[np.int64] | None) -> None:
        """Take rows for the last ones."""
        self._mode, self._with_tokens = rows.mode, rows.tokens is not None
        self._sequences += rows.sequences
        if rows.mode is None and rows.groups is not None and len(rows.groups):
            self._sequences = int(rows.groups[-1]) + 1  # where they were sequences
        if rows.stop == rows.start:
            return
        self.row = rows.stop
        self._last = (0 if rows.groups is None else int(rows.groups[-1]), int(rows.positions[-1]))
        self._given_last = None if given is None else int(given[-1])
        self._longest = max(self._longest, int(rows.positions.max()) + 1)
        if rows.remark and not self.remarks:
            self.remarks.append(rows.remark)
        if rows.tokens is not None and self._known is None:
            if len(self._seen) < rows.stop:
                room = np.empty(max(2 * len(self._seen), rows.stop, _FIRST_ROOM), np.int64)
                room[: rows.start] = self._seen[: rows.start]
                self._seen = room
            self._seen[rows.start : rows.stop] = rows.tokens


_MODES = {"reference": "the reference", "given": "`groups`", "sequence": "sequences", "none": "nothing"}


def _begins(groups: NDArray[np.int64], before: int | None) -> NDArray[np.bool_]:
    return np.asarray(np.r_[before is None or groups[0] != before, groups[1:] != groups[:-1]])
