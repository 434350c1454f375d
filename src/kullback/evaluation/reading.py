"""Rows of several files side by side, read a few chunks ahead of the computation into memory that is reused."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.llama_cpp import Dump, code_dtype

__all__ = ["CHUNK_BYTES", "chunks", "row_type", "rows_per_chunk"]

# of all files together
CHUNK_BYTES = 32 << 20
# chunks in memory: one is compared, the others are read or wait, so that neither side idles when the other is late
HELD = 4


def row_type(source: Source) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """How a row lies in memory: the stored codes of a llama.cpp dump, the values of anything else."""
    if isinstance(source, Dump):
        return code_dtype(source.shape[1]), ()
    return source.dtype, (source.shape[1],)


def rows_per_chunk(sources: Sequence[Source], chunk_bytes: int) -> int:
    """Rows of all files that fit into `chunk_bytes`; one at least."""
    row = sum(dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in map(row_type, sources))
    return max(1, chunk_bytes // row)


def chunks(
    sources: Sequence[Source], start: int, stop: int, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[int, int, list[NDArray[Any]]]]:
    """(first row, end, one block a source) over rows start ... stop; a block is valid until the next one."""
    step = min(rows_per_chunk(sources, chunk_bytes), max(stop - start, 1))
    ranges = [(row, min(row + step, stop)) for row in range(start, stop, step)]
    room = [
        [np.empty((step, *shape), dtype) for dtype, shape in map(row_type, sources)]
        for _ in range(min(HELD, len(ranges)))
    ]

    def read(place: int, which: int) -> NDArray[Any]:
        first, end = ranges[place]
        source, into = sources[which], room[place % HELD][which][: end - first]
        if isinstance(source, Dump):
            source.codes(first, end, into)
        else:
            source.rows(first, end, into)
        return into

    waiting: deque[list[Future[NDArray[Any]]]] = deque()
    with ExitStack() as stack:
        # a thread a file: two read 1.6 times as fast as one (virtual disk, 1 GB/s), and no source serves two threads
        threads = {id(source): ThreadPoolExecutor(1, thread_name_prefix="kullback-reader") for source in sources}
        for thread in threads.values():
            stack.callback(thread.shutdown, cancel_futures=True)

        def ask(place: int) -> None:
            if place < len(ranges):
                waiting.append([threads[id(source)].submit(read, place, i) for i, source in enumerate(sources)])

        for place in range(HELD - 1):
            ask(place)
        for place, (first, end) in enumerate(ranges):
            ask(place + HELD - 1)
            yield first, end, [block.result() for block in waiting.popleft()]
