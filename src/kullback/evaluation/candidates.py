"""The candidates of a job: their names, the files or arrays behind them, and what they are summed up into."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, views
from kullback.comparison import CandidateComparison, Pairs
from kullback.evaluation.checkpoint import Candidates
from kullback.evaluation.own_options import resolved
from kullback.evaluation.sources import Source, open_each
from kullback.evaluation.sources.base import ReaderOptions
from kullback.evaluation.sources.lists import open_lists
from kullback.evaluation.statistics import Summarizer, joined, sets_in
from kullback.evaluation.text import labels, unlike

_BLOCK = 1 << 24  # bytes of an array that are copied at a time


class ArraySource(Source):
    """Rows of an array in memory."""

    def __init__(self, name: str, array: Any, groups: NDArray[np.int64] | None = None) -> None:
        values = views.plain(array, name)
        if values.ndim != 2:
            raise ValueError(f"`{name}` has shape {values.shape}, expected (T, V)")
        self._name, self._converted = name, values.dtype.name not in (kind.name for kind in views.FLOATS)
        if values.dtype.kind == "O":  # whether all of them are numbers is known before the work
            values = views.reals(values, name)
        dtype = views.reals(values[:0], name).dtype if self._converted else values.dtype
        super().__init__(name, "array", values.shape, dtype, groups=groups)
        self._values = values

    def crc32(self) -> int:
        """Of all rows and their documents, by blocks: arrays have no date that would tell one from another."""
        step = max(1, _BLOCK // max(1, self._values[:1].nbytes))
        found = 0 if self.groups is None else zlib.crc32(np.ascontiguousarray(self.groups).tobytes())
        for start in range(0, len(self._values), step):
            found = zlib.crc32(self._values[start : start + step].tobytes(), found)
        return found

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        some = self._values[start:stop]  # whole numbers are converted a block at a time
        out[...] = views.reals(some, self._name) if self._converted else some


def named(candidates: Any) -> dict[str, Any]:
    """The candidates by name; those of a sequence by their file names."""
    if isinstance(candidates, (str, bytes, os.PathLike, Source)):
        raise TypeError(
            f"`candidates` is one path, {keywords.shown(candidates)}; expected several by name, or use compare_files"
        )
    if isinstance(candidates, Mapping):
        wrong = next((name for name in candidates if not isinstance(name, str)), None)
        if wrong is not None:
            raise TypeError(f"`candidates` has the name {keywords.shown(wrong)}, expected text")
        found = dict(candidates)
    else:
        several = keywords.several(candidates, "candidates", "a mapping of names to paths, or a sequence of paths")
        for one in several:
            if not isinstance(one, (str, os.PathLike, Source)):
                raise TypeError(f"`candidates` holds {keywords.shown(one)}; give arrays by name, in a mapping")
        found = dict(zip(names_of(several), several, strict=True))
    if not found:
        raise ValueError("`candidates` is empty, expected one at least")
    return found


def names_of(paths: Sequence[Any]) -> list[str]:
    """Names that tell paths apart: those of the files, with folders and numbers where needed."""
    return unlike(labels([path.path if isinstance(path, Source) else os.fspath(path) for path in paths]))


def opened(
    stack: ExitStack,
    p: Any,
    candidates: Mapping[str, Any],
    groups: Any,
    read: Any = None,
    **options: Unpack[ReaderOptions],
) -> list[Source]:
    """The sources of the base and the candidates; files are closed by `stack`."""
    files = (str, os.PathLike, Source)
    if groups is not None and isinstance(p, files):
        raise ValueError("`groups` goes with an array as `p`; a file says itself which rows belong together")
    inside = None
    if groups is not None:
        inside = views.plain(groups, "groups")
        if inside.dtype.kind not in "iub":
            raise TypeError(f"`groups` has dtype {inside.dtype}, expected integers")
        if inside.shape != np.shape(p)[:1]:
            raise ValueError(f"`groups` has shape {inside.shape}, expected {np.shape(p)[:1]}, one a row of `p`")
        inside = np.ascontiguousarray(inside, np.int64)
    base = p if isinstance(p, files) else ArraySource("p", p, inside)
    others = [x if isinstance(x, files) else ArraySource(name, x) for name, x in candidates.items()]
    lists = open_lists([base, *others])
    if lists is not None:
        if read or any(options.values()):
            raise ValueError(f"{lists[0].path}: lists of outcomes, for which no option of reading means a thing")
        return lists
    return open_each(stack, [base, *others], resolved(read, list(candidates)), **options)


PAIRED = 4096  # rows whose pairs are summed up at a time: each pair costs as much for one row as for some hundreds


class Summing:
    """Takes the columns of all candidates in the order of the rows."""

    def __init__(
        self,
        names: Sequence[str],
        width: int,
        targets: NDArray[np.int64] | None,
        labels: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._names, self._labels = names, dict(labels or {})
        self._summarizers = [Summarizer(width, targets, self._labels, len(names)) for _ in names]
        self._pairs = Pairs(len(names))
        self._waiting: list[Candidates] = []  # the summarizers' own arrays

    def add(self, candidates: Candidates) -> None:
        for summarizer, columns in zip(self._summarizers, candidates, strict=True):
            summarizer.add(columns)
        if len(self._names) > 1:
            self._waiting.append(candidates)
            if sum(len(some[0]["kl"]) for some in self._waiting) >= PAIRED:
                self._pair()

    def _pair(self) -> None:
        if self._waiting:
            columns = [joined(parts) for parts in zip(*self._waiting, strict=True)]
            self._pairs.add(columns, sets_in(columns[0], self._labels))
            self._waiting = []

    def widen(self, width: int, targets: NDArray[np.int64] | None) -> None:
        """Positions in bins of `width` from here on, and the tokens known by now, of a job that learns as it goes."""
        for summarizer in self._summarizers:
            summarizer.width, summarizer.targets = width, targets

    def so_far(self) -> CandidateComparison:
        """The comparison of what was added up to now; more may follow."""
        twin = copy.copy(self)
        twin._summarizers = [summarizer.copy() for summarizer in self._summarizers]
        twin._pairs, twin._waiting = copy.deepcopy(self._pairs), list(self._waiting)
        return twin.finish()

    def finish(self) -> CandidateComparison:
        """The comparison of everything added."""
        self._pair()
        summaries = [summarizer.finish() for summarizer in self._summarizers]
        return CandidateComparison(dict(zip(self._names, summaries, strict=True)), self._pairs)
