"""Several sources one after the other: the windows of one file, or a directory of shards."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.llama_cpp import Dump, LlamaCppLogits, code_dtype
from kullback.evaluation.sources.pipes import StreamFile


class Concatenated(Source):
    """The rows of several sources of equal vocabulary and dtype, in the order given.

    Their groups go on from one to the next: ids that rise through all of them are kept, ids that begin again in each
    are made distinct. A source without groups is one group, and `by_shard` says if all are.
    """

    def __init__(self, path: str, format: str, sources: Sequence[Source]) -> None:
        first = sources[0]
        for source in sources:
            if (source.shape[1], source.dtype) != (first.shape[1], first.dtype):
                raise ValueError(
                    f"{path}: {source.path} holds rows of {source.shape[1]} x {source.dtype.name}, expected "
                    f"{first.shape[1]} x {first.dtype.name} as in {first.path}"
                )
        self._sources = list(sources)
        self._starts = list(accumulate((source.shape[0] for source in sources), initial=0))
        super().__init__(path, format, (self._starts[-1], first.shape[1]), first.dtype)
        self.array = first.array
        if len({source.stored and source.stored[1:] for source in sources}) == 1:
            self.stored = first.stored
        tokens = [source.tokens for source in sources if source.tokens is not None]
        if len(tokens) == len(sources):
            self.tokens = np.concatenate(tokens)
        self._found = self.groups = _joined_groups(sources)
        self._nothing_known = all(source.groups is None or source.by_shard for source in sources)

    @property
    def by_shard(self) -> bool:  # type: ignore[override]
        """Whether the groups are the shards, for want of better knowledge."""
        return self._nothing_known and self.groups is self._found

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Any, int, int, slice]]:
        """(source, its first row, its end, where they go) of rows start ... stop."""
        i = bisect_right(self._starts, start) - 1
        row = start
        while row < stop:
            first, end = self._starts[i], min(stop, self._starts[i + 1])
            yield self._sources[i], row - first, end - first, slice(row - start, end - start)
            row, i = end, i + 1

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for source, first, end, where in self._parts(start, stop):
            source.rows(first, end, out[where])

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"parts": len(self._sources)}

    def stamp(self) -> list[Any]:
        return [entry for source in self._sources for entry in source.stamp()]

    def streams(self) -> list[StreamFile]:
        return [stream for source in self._sources for stream in source.streams()]

    def close(self) -> None:
        for source in self._sources:
            source.close()


class ConcatenatedDumps(Concatenated, Dump):
    """Several llama.cpp dumps as one, with their codes: what is clipped stays known."""

    _sources: list[LlamaCppLogits]  # type: ignore[assignment]

    def __init__(self, path: str, dumps: Sequence[LlamaCppLogits]) -> None:
        reach = max(dump.widest for dump in dumps)
        for dump in dumps:
            # 16 nats to the digit are the end of a window, not of a row
            if reach > 16.001 and abs(dump.widest - 16) < 0.001:
                raise ValueError(
                    f"{path}: the codes of {dump.path} end 16 nats under the maximum, those of others at {reach:.4g}; "
                    "they were written by different programs: compare them one by one"
                )
        super().__init__(path, "llama.cpp", dumps)

    def codes(self, start: int, stop: int, out: NDArray[np.void] | None = None) -> NDArray[np.void]:
        count = self._range(start, stop)
        dtype = code_dtype(self.shape[1])
        if out is None:
            out = np.empty(count, dtype)
        elif out.shape != (count,) or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"`out` has shape {out.shape} and dtype {out.dtype}, expected ({count},) {dtype}")
        for source, first, end, where in self._parts(start, stop):
            source.codes(first, end, out[where])
        return out

    @property
    def chunk_tokens(self) -> NDArray[np.int32]:  # type: ignore[override]
        tables = [source.chunk_tokens for source in self._sources]
        if len({table.shape[1] for table in tables}) > 1:
            raise ValueError(f"{self.path}: dumps of different n_ctx, which one dump cannot hold")
        return np.concatenate(tables)

    @property
    def widest(self) -> float:  # type: ignore[override]
        return max(source.widest for source in self._sources)

    def check(self) -> dict[str, Any]:
        for source in self._sources:
            source.check()
        return self.facts()

    def facts(self) -> dict[str, Any]:
        facts = [source.facts() for source in self._sources]
        contexts = sorted({f["n_ctx"] for f in facts})
        sums = ("chunks", "announced_chunks", "rows_read", "clipped_targets")
        return (
            super().facts()
            | {"n_ctx": contexts[0] if len(contexts) == 1 else contexts, "window": self.window}
            | {name: sum(f[name] for f in facts) for name in sums}
        )


def concatenated(path: str, sources: Sequence[Any]) -> Concatenated:
    """The sources as one, llama.cpp dumps with their codes."""
    dumps = [source for source in sources if isinstance(source, LlamaCppLogits)]
    if not dumps:
        return Concatenated(path, sources[0].format, sources)
    if len(dumps) < len(sources):
        other = next(source for source in sources if not isinstance(source, LlamaCppLogits))
        raise ValueError(f"{path}: {other.path} is {other.format}, {dumps[0].path} a llama.cpp dump; expected one kind")
    return ConcatenatedDumps(path, dumps)


def _joined_groups(sources: Sequence[Source]) -> NDArray[np.int64]:
    """One column of the groups of all sources."""
    parts = [np.zeros(s.shape[0], np.int64) if s.groups is None else s.groups for s in sources]
    filled = [part for part in parts if part.size]
    lows = {int(part.min()) for part in filled}
    rising = all(int(b.min()) >= int(a.max()) for a, b in pairwise(filled))
    stored = not any(s.groups is None or s.by_shard or isinstance(s, LlamaCppLogits) for s in sources)
    if stored and rising and (len(lows) > 1 or len(filled) < 2):
        return np.concatenate(parts)
    found, next_id = [], 0
    for part in parts:
        if part.size:
            part = part - part.min() + next_id
            next_id = int(part.max()) + 1
        found.append(part)
    return np.concatenate(found)


def shard_names(names: Sequence[str], suffixes: Sequence[str], path: str, salvage: bool) -> list[str]:
    """The files of a folder that are its shards, in numeric order.

    Those named `row_N` (exllamav3) or `logits_N` (vLLM) if there are any, so that files beside them are left
    out; else all files of a known suffix, which must then be one. A gap in their numbers is an error unless
    `salvage`.
    """
    known = [name for name in names if name.endswith(tuple(suffixes)) and not name.startswith(".")]
    shards = [name for name in known if re.match(r"(?:row|logits)_\d+\.", name)]
    numbered = bool(shards)
    shards = shards or known
    found = sorted({name[name.rindex(".") :] for name in shards})
    if len(found) != 1:
        raise ValueError(
            f"{path}: a folder with {'files of several formats' if found else 'no file of a known format'} "
            f"({', '.join(found or suffixes)}); expected shards of one"
        )
    numbers = {name: [int(n) for n in re.findall(r"\d+", name)] for name in shards}
    shards.sort(key=lambda name: (numbers[name], name))
    if numbered and not salvage:
        for before, after in pairwise(shards):
            if numbers[after][0] > numbers[before][0] + 1:
                raise ValueError(
                    f"{path}: shards between {before} and {after} are missing; salvage=True reads the others"
                )
    return shards
