"""Several sources one after the other: the windows of one file, or a directory of shards."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source


class Concatenated(Source):
    """The rows of several sources of equal vocabulary and dtype, in the order given."""

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
        tokens = [source.tokens for source in sources if source.tokens is not None]
        if len(tokens) == len(sources):
            self.tokens = np.concatenate(tokens)
        self.groups = np.repeat(np.arange(len(sources)), np.diff(self._starts))

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        i = bisect_right(self._starts, start) - 1
        row = start
        while row < stop:
            first, end = self._starts[i], min(stop, self._starts[i + 1])
            self._sources[i].rows(row - first, end - first, out[row - start : end - start])
            row, i = end, i + 1

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"parts": len(self._sources)}

    def close(self) -> None:
        for source in self._sources:
            source.close()


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
