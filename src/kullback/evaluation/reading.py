"""Rows of several files side by side, read a few chunks ahead of the computation into memory that is reused."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.llama_cpp import Dump, code_dtype

__all__ = ["CHUNK_BYTES", "chunks", "read_rows", "row_type", "rows_per_chunk"]

# of all files together
CHUNK_BYTES = 32 << 20
# chunks in memory: one is compared, the others are read or wait, so that neither side idles when the other is late
HELD = 4
_POLL_SECONDS = 1e-3


def row_type(source: Source) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """How a row lies in memory: the codes of a llama.cpp dump, the records of lists, the values of all else."""
    if isinstance(source, Dump):
        return code_dtype(source.shape[1]), ()
    if source.record is not None:
        return source.record, ()
    return source.dtype, (source.shape[1],)


def read_rows(source: Source, start: int, stop: int, into: NDArray[Any]) -> NDArray[Any]:
    """Rows `start` to `stop` of a source in the memory `into`, as `row_type` says they lie."""
    if isinstance(source, Dump):
        source.codes(start, stop, into)
    elif source.record is not None:
        source.records(start, stop, into)
    else:
        source.rows(start, stop, into)
    return into


def rows_per_chunk(sources: Sequence[Source], chunk_bytes: int) -> int:
    """Rows of all files that fit into `chunk_bytes`; one at least."""
    row = sum(dtype.itemsize * int(np.prod(shape, dtype=np.int64)) for dtype, shape in map(row_type, sources))
    return max(1, chunk_bytes // row)


def chunks(
    sources: Sequence[Source], start: int, stop: int, chunk_bytes: int = CHUNK_BYTES
) -> Generator[tuple[int, int, list[NDArray[Any]]], None, None]:
    """(first row, end, one block a source) over rows start ... stop; a block is valid until the next one."""
    step = min(rows_per_chunk(sources, chunk_bytes), max(stop - start, 1))
    ranges = [(row, min(row + step, stop)) for row in range(start, stop, step)]
    room = [
        [np.empty((step, *shape), dtype) for dtype, shape in map(row_type, sources)]
        for _ in range(min(HELD, len(ranges)))
    ]

    def read(place: int, which: int) -> NDArray[Any]:
        first, end = ranges[place]
        return read_rows(sources[which], first, end, room[place % HELD][which][: end - first])

    for source in sources:
        for stream in source.streams():
            stream.forward()
    waiting: deque[list[Future[NDArray[Any]]]] = deque()
    with closing(_Readers(sources)) as readers:

        def ask(place: int) -> None:
            if place < len(ranges):
                waiting.append([readers.submit(source, read, place, i) for i, source in enumerate(sources)])

        for place in range(HELD - 1):
            ask(place)
        for place, (first, end) in enumerate(ranges):
            ask(place + HELD - 1)
            yield first, end, [block.result() for block in waiting.popleft()]


class _Readers:
    """A thread a file: two read 1.6 times as fast as one (virtual disk, 1 GB/s), and no source serves two threads.

    Once closed, no read is under way, whatever interrupts came: threads are not joined for that, as a join that was
    interrupted takes its thread for ended (Python 3.11).
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._threads = {id(source): ThreadPoolExecutor(1, thread_name_prefix="kullback-reader") for source in sources}
        self._streams = [stream for source in sources for stream in source.streams()]
        self._busy = dict.fromkeys(self._threads, False)
        self._closed = False

    def submit(self, source: Source, read: Callable[..., NDArray[Any]], *arguments: int) -> Future[NDArray[Any]]:
        """Let the thread of `source` do `read(*arguments)` when it has done what it was asked before."""
        return self._threads[id(source)].submit(self._do, id(source), read, arguments)

    def _do(self, which: int, read: Callable[..., NDArray[Any]], arguments: tuple[int, ...]) -> NDArray[Any]:
        self._busy[which] = True
        try:
            if self._closed:  # asked after `busy` is set, as `close` asks in the other order
                raise CancelledError
            return read(*arguments)
        finally:
            self._busy[which] = False

    def close(self) -> None:
        """Begin no other read and wait for those under way; an interrupt of this waiting is raised after it."""
        interrupt: KeyboardInterrupt | None = None
        ended = False
        while not ended:
            try:
                self._closed = True
                for stream in self._streams:  # or the writer would be waited for, which may have no end
                    stream.cancel()
                for thread in self._threads.values():
                    thread.shutdown(wait=False, cancel_futures=True)
                while any(self._busy.values()):
                    time.sleep(_POLL_SECONDS)
                ended = True
            except KeyboardInterrupt as another:
                interrupt = another
        if interrupt is not None:
            raise interrupt
        for thread in self._threads.values():
            thread.shutdown()
