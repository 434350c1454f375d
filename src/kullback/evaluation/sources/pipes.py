"""Bytes that come once, in order: standard input, a FIFO, a pipe; with the interface of a file read by position."""

from __future__ import annotations

import fcntl
import os
import re
import select
import stat
import sys
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

STDIN = "-"
# of what was read: the header, and the rows looked at before the work, which come again with the first chunk
KEPT_BYTES = 96 << 20
_SKIPPED_AT_ONCE = 1 << 20
_PIPE_BYTES = 1 << 20  # asked of the system, whose 64 KiB are a switch of processes each
_POLL_MILLISECONDS = 100
# how long a writer that has written everything may take to close its end
END_SECONDS = 5.0
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/(?:fd/(\d{1,9})|std(in))")


def is_stream(path: str) -> bool:
    """Whether it is standard input, a FIFO, a pipe or a socket: what is read once, from its beginning to its end."""
    try:
        status = os.fstat(0) if path == STDIN else os.stat(path)
        if path == STDIN and stat.S_ISREG(status.st_mode):
            return True
    except OSError:
        return path == STDIN
    return path == STDIN or stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)


class StreamFile:
    """What a writer sends, read by position as long as positions rise.

    What was read stays until `forward` is called, or `KEPT_BYTES` have come, so that a header can be looked at twice;
    afterwards nothing is kept. A FIFO is opened without waiting for its writer: whatever order the writers open
    theirs in, none waits for another.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = sys.maxsize  # nobody knows: it ends where it ends
        self._descriptor = _opened(path)
        status = os.fstat(self._descriptor)
        self.identity = status.st_dev, status.st_ino
        with suppress(OSError, AttributeError):  # no pipe, not allowed, or another system than Linux
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)
        self._kept = bytearray()  # the bytes before `_at`
        self._at = 0
        self._keeping = True
        self._cancelled = False
        self._spans: list[tuple[int, int, int]] = []  # where rows lie: offset, bytes a row, rows

    def read(self, count: int, offset: int = 0) -> bytes:
        """The `count` bytes at `offset`."""
        buffer = np.empty(count, np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def head(self, count: int) -> bytes:
        """The first bytes, fewer only where the stream ends; OSError if it is empty."""
        while self._at < count and self._take(count - self._at):
            pass
        if not self._at:
            raise OSError(f"{self.path}: an empty stream; its writer ended without a byte")
        return bytes(self._kept[:count])

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        view = out.reshape(-1).view(np.uint8).data
        first = self._at - len(self._kept)
        if offset < first:
            raise ValueError(
                f"{self.path}: {self._place(offset)} has gone by: a stream gives its rows once and in order; write it "
                "to a file to read them otherwise"
            )
        self.reach(offset)
        first = self._at - len(self._kept)
        here = self._kept[offset - first : offset - first + len(view)]
        view[: len(here)] = here
        filled = len(here)
        while filled < len(view):
            filled += self._must(self._take(view[filled:]))
        if not self._keeping:
            del self._kept[: max(0, offset + filled - first)]

    def reach(self, offset: int) -> None:
        """Read up to `offset`, a little at a time: whoever claims much has to send it before room is made for it."""
        while self._at < offset:
            self._must(self._take(min(offset - self._at, _SKIPPED_AT_ONCE)))

    def place_rows(self, offset: int, row_bytes: int, rows: int) -> None:
        """Say where rows lie, for errors."""
        self._spans.append((offset, row_bytes, rows))

    def forward(self) -> None:
        """Keep nothing more: from here on rows are read in order."""
        self._keeping = False

    def cancel(self) -> None:
        """Let a read that waits for the writer end, in whatever thread."""
        self._cancelled = True

    def ends(self, offset: int) -> bool:
        """Whether nothing follows the byte before `offset`; a writer that just does not close has written no more."""
        self.reach(offset)
        if self._at > offset:
            return False
        until = time.monotonic() + END_SECONDS
        while not self._ready():
            if time.monotonic() > until:
                return True
        return not self._take(1)

    def open(self) -> BinaryIO:
        """A stream is no file for libraries, which look for places in it."""
        raise ValueError(f"{self.path}: a stream cannot be read from several places; write it to a file first")

    def check(self) -> None:
        """Nothing: nobody replaces a stream that is open."""

    def stamp(self) -> list[Any]:
        """Nothing tells a stream from another."""
        return [None]

    def close(self) -> None:
        """Close our end. A writer with something behind the last row is heard out; one cut short gets its SIGPIPE."""
        if self._descriptor < 0:
            return
        until = time.monotonic() + END_SECONDS
        whole = bool(self._spans) and self._at >= max(at + row * rows for at, row, rows in self._spans)
        while whole and time.monotonic() < until:
            if self._poll.poll(_POLL_MILLISECONDS) and not os.read(self._descriptor, _SKIPPED_AT_ONCE):
                break
        os.close(self._descriptor)
        self._descriptor = -1

    def _take(self, into: Any) -> int:
        """Read some of the next bytes into a buffer, or at most so many to keep or to pass over; 0 is the end."""
        buffer = bytearray(into) if isinstance(into, int) else into
        while not self._ready():
            pass
        count = os.readv(self._descriptor, [buffer])
        self._at += count
        if self._keeping:
            self._kept += memoryview(buffer)[:count]
            self._keeping = len(self._kept) < KEPT_BYTES
        else:
            self._kept.clear()
        return count

    def _ready(self) -> bool:
        """Whether there is a byte, or the end, after a moment of waiting."""
        if self._cancelled:
            raise CancelledError
        if self._descriptor < 0:
            raise ValueError(f"{self.path}: the stream is closed")
        return bool(self._poll.poll(_POLL_MILLISECONDS))

    def _must(self, count: int) -> int:
        if count:
            return count
        where = "within its header"
        if self._spans and self._at >= self._spans[0][0]:
            where = f"after {self._rows_before(self._at)} of {sum(rows for _, _, rows in self._spans)} rows"
        raise OSError(f"{self.path}: the stream ended {where}, {self._at} bytes; its writer stopped too early")

    def _rows_before(self, offset: int) -> int:
        return sum(min(max(0, offset - at) // row, rows) for at, row, rows in self._spans)

    def _place(self, offset: int) -> str:
        if self._spans and offset >= self._spans[0][0]:
            return f"row {self._rows_before(offset)}"
        return f"byte {offset}"


def _opened(path: str) -> int:
    """A descriptor of the stream; that of an open pipe is doubled, as only it knows whether there was a writer."""
    known = _DESCRIPTOR.fullmatch(path)
    if path != STDIN and known is None:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    number = int(known[1]) if known and known[1] else 0
    status = os.fstat(number)
    if stat.S_ISCHR(status.st_mode):
        kind = "a terminal" if os.isatty(number) else "a device"
        raise ValueError(f"{path}: standard input is {kind}, expected a pipe or a file of logits")
    return os.dup(number)
