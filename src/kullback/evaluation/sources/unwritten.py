"""Chunks of HDF5 and zarr arrays that nobody wrote: their libraries read them as zeros, here they are no rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ranges of rows that an error names
_NAMED = 4


def written_rows(
    shape: Sequence[int], chunk: Sequence[int], origins: Iterable[Sequence[int]]
) -> NDArray[np.bool_] | None:
    """Which rows (all axes but the last, flattened) lie wholly in chunks that begin at `origins`; None if all do."""
    grid = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    found = np.zeros(grid[:-1], np.int64)
    for origin in origins:
        found[tuple(at // c for at, c in zip(origin[:-1], chunk, strict=False))] += 1
    written = found >= grid[-1]
    if written.all():
        return None
    for axis, (n, c) in enumerate(zip(shape[:-1], chunk, strict=False)):
        written = np.repeat(written, c, axis).take(range(n), axis)
    return written.reshape(-1)


def ranges(written: NDArray[np.bool_]) -> list[list[int]]:
    """[first, end] of each run of rows that were not written."""
    edges = np.flatnonzero(np.diff(np.r_[True, written, True]))
    return [[int(a), int(b)] for a, b in list(pairwise(edges))[::2]]


def refuse(written: NDArray[np.bool_] | None, salvage: bool, what: str) -> None:
    """ValueError that names the rows which were not written, unless they are to be salvaged."""
    if written is None or salvage:
        return
    found = ranges(written)
    named = ", ".join(f"{a} to {b}" for a, b in found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
    missing = int(written.size - written.sum())
    raise ValueError(
        f"{what}: {missing} of its {written.size} rows were never written (rows {named}); salvage=True (--salvage) "
        "gives them as NaN, which every statistic leaves out and counts"
    )


def blank(written: NDArray[np.bool_] | None, start: int, out: NDArray[Any]) -> None:
    """NaN in the rows start, start + 1, ... in `out` that were not written."""
    if written is not None:
        out[~written[start : start + len(out)]] = math.nan


def facts(written: NDArray[np.bool_] | None) -> dict[str, Any]:
    """Which rows were not written, for `Source.facts`; nothing where all were."""
    return {} if written is None else {"unwritten_rows": ranges(written)}
