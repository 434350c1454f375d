"""The first rows of a live comparison, kept until there are enough to say what looks wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given
from kullback.evaluation.candidates import ArraySource
from kullback.evaluation.sources.llama_cpp import decode
from kullback.evaluation.suspicions import WINDOW, WINDOWS, suspicions

__all__ = ["Look"]

_ROWS = WINDOW * WINDOWS
_BYTES = 32 << 20  # of all rows that are kept

Block = tuple[NDArray[Any], list[NDArray[Any]]]


class Look:
    """Copies of the first rows of the base and of each candidate."""

    def __init__(self, given: Given, warn: Callable[[str], None] | None) -> None:
        self._given, self._warn = given, warn
        self._blocks: list[Block] = []
        self._count = 0
        self._full = False
        self._told: set[str] = set()
        self._lines: list[list[str]] = []

    def part(self, p: NDArray[Any], qs: Sequence[NDArray[Any]], taken: Sequence[Block]) -> list[Block]:
        """What to keep of some rows of an update, of which `taken` is kept already."""
        if p.dtype.names is not None and "ids" in p.dtype.names:  # a compact reference has no rows to look at
            return []
        row = sum(x.nbytes // max(len(x), 1) for x in (p, *qs))
        wanted = min(_ROWS, max(_BYTES // max(row, 1), WINDOW)) - self._count - sum(len(some) for some, _ in taken)
        if self._full or wanted <= 0:
            return []
        return [(_decoded(p[:wanted], qs[0].shape[1]), [q[:wanted].copy() for q in qs])]

    def add(self, blocks: Sequence[Block], rows: int) -> None:
        """Keep them; where an update had more `rows` than these, there are enough."""
        kept = sum(len(p) for p, _ in blocks)
        self._blocks += blocks
        self._count += kept
        self._full |= kept < rows

    def skip(self) -> None:
        """Rows come that are not seen: those after them are not the first ones."""
        self._full |= not self._blocks

    def now(self, names: Sequence[str], tokens: NDArray[np.int64] | None) -> list[list[str]]:
        """For each candidate what looks wrong, a line each."""
        if self._blocks:
            base = ArraySource(names[0], np.concatenate([p for p, _ in self._blocks]))
            qs = [
                ArraySource(name, np.concatenate([qs[i] for _, qs in self._blocks])) for i, name in enumerate(names[1:])
            ]
            known = None if tokens is None else tokens[: self._count]
            self._lines = suspicions(base, qs, self._given, known, (0, self._count), 2 * _BYTES)
            if self._full:
                self._blocks = []
        for line in dict.fromkeys(line for lines in self._lines for line in lines):
            if self._warn is not None and line not in self._told:
                self._warn(line)
            self._told.add(line)
        return self._lines


def _decoded(rows: NDArray[Any], vocab: int) -> NDArray[Any]:
    """A copy of rows; of codes their values."""
    if rows.dtype.names is None:
        return rows.copy()
    out = np.empty((len(rows), min(rows.dtype["code"].shape[0], vocab)), np.float32)
    decode(rows, out)
    return out
