"""The one way bytes are read: from a place in a file, by several threads at once, noticing a file that changed."""

from __future__ import annotations

import io
import os
import stat
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

_STREAM_BUFFER = 1 << 22


class ByteReader(Protocol):
    """A file read by position: what a reader of a flat format needs, local or remote."""

    path: str
    size: int

    def read(self, count: int, offset: int = 0) -> bytes: ...

    def read_into(self, out: NDArray[Any], offset: int) -> None: ...

    def open(self) -> BinaryIO: ...

    def check(self) -> None: ...

    def stamp(self) -> list[Any]: ...


class LocalFile:
    """A local file read by position, never mapped.

    A page of a mapped file that was truncated meanwhile kills the process with SIGBUS; a read comes back
    short and becomes an error here. The file is opened for each read (about 10 µs, against milliseconds for
    a chunk of rows): no descriptor is shared between threads or forks, thousands of shards need no more than
    one, and a file that was replaced under its name is noticed. Only regular files: what a pipe or a device would give
    has no size, and may have no end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
            raise ValueError(f"{self.path}: is {kind}, expected a regular file")
        self.size = status.st_size
        self._identity = _identity(status)
        self._changed = status.st_ctime_ns

    def read(self, count: int, offset: int = 0) -> bytes:
        """Up to `count` bytes at `offset`; fewer only where the file ends."""
        buffer = np.empty(max(0, min(count, self.size - offset)), np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        view = out.reshape(-1).view(np.uint8).data
        with open(self.path, "rb", buffering=0, opener=_opener) as file:
            self._check(file.fileno())
            file.seek(offset)
            filled = 0
            while filled < len(view):
                count = file.readinto(view[filled:])
                if not count:
                    raise OSError(
                        f"{self.path}: ended at byte {offset + filled}, {offset + len(view)} were expected; "
                        "it was truncated while it was being read"
                    )
                filled += count
            self._check(file.fileno())

    def open(self) -> BinaryIO:
        """A file object, for the libraries that want one."""
        return open(self.path, "rb", opener=_opener)

    def check(self) -> None:
        """OSError if this is no longer the file that was opened."""
        self._check(self.path)

    def stamp(self) -> list[Any]:
        """What tells this file from another under its name: size and times, of which one cannot be set back."""
        return [self.size, self._identity[-1], self._changed]

    def _check(self, descriptor: int | str) -> None:
        if _identity(os.stat(descriptor)) != self._identity:
            raise OSError(f"{self.path}: replaced or modified since it was opened; open it again to read it")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that took the file's place would wait for its other end


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Stream(io.RawIOBase):
    """A file object over reads by position."""

    def __init__(self, file: ByteReader) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        out = np.frombuffer(buffer, np.uint8)
        out = out[: max(0, self._file.size - self._at)]
        self._file.read_into(out, self._at)
        self._at += len(out)
        return len(out)


def stream(file: ByteReader) -> BinaryIO:
    """A buffered file object whose reads are those of `file`, with its checks."""
    return io.BufferedReader(_Stream(file), _STREAM_BUFFER)
