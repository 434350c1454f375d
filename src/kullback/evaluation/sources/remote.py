"""Files behind other URLs, read in ranges through fsspec."""

from __future__ import annotations

from datetime import datetime
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.sources.files import stream

# what the stores tell of an object's version, each under a name of its own
_VERSIONS = ("etag", "versionid", "generation", "lastmodified", "updated", "mtime", "created")


class RemoteFile:
    """A file at `s3://`, `gs://`, `memory://`, ...: each read asks for exactly its bytes.

    After each read the store is asked for the object's size and version (its ETag, generation or time): one that was
    replaced is an error where the store tells. Time limits are those of fsspec's driver for the store.
    """

    def __init__(self, url: str) -> None:
        self.path = url
        self._system, self._name = filesystem(url)
        self._stamp = version(self._system.info(self._name))
        if self._stamp[0] is None:
            raise ValueError(f"{url}: the store does not say how large it is; download the file")
        self.size: int = self._stamp[0]

    def read(self, count: int, offset: int = 0) -> bytes:
        """Up to `count` bytes at `offset`; fewer only where the file ends."""
        buffer = np.empty(max(0, min(count, self.size - offset)), np.uint8)
        self.read_into(buffer, offset)
        return buffer.tobytes()

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        target = out.reshape(-1).view(np.uint8)
        data = b""
        if len(target):
            data = self._system.cat_file(self._name, start=offset, end=offset + len(target))
            self.check()
        if len(data) != len(target):
            raise OSError(f"{self.path}: {len(data)} bytes came back where {len(target)} were asked for")
        target[:] = np.frombuffer(data, np.uint8)

    def open(self) -> BinaryIO:
        """A file object, for the libraries that want one."""
        return stream(self)

    def check(self) -> None:
        """OSError if the store now has another object."""
        self._system.invalidate_cache(self._name)
        if not same_version(version(self._system.info(self._name)), self._stamp):
            raise OSError(f"{self.path}: replaced or modified since it was opened; open it again to read it")

    def stamp(self) -> list[Any]:
        """What tells this file from another under its name."""
        return self._stamp


def version(info: dict[str, Any]) -> list[Any]:
    """Size (or None) and version of an object, as far as its store tells."""
    # a time is a number in some answers and a date in others
    times = {name: x.timestamp() if isinstance(x, datetime) else x for name, x in info.items()}
    known = sorted(
        (name.lower().replace("_", ""), f"{x:.6f}" if isinstance(x, float) else str(x)) for name, x in times.items()
    )
    size = info.get("size")
    return [None if size is None else int(size), {name: value for name, value in known if name in _VERSIONS}]


def same_version(one: list[Any], other: list[Any]) -> bool:
    """Whether nothing that is known of both tells them apart; a listing may tell less than an answer for one object."""
    return one[0] == other[0] and all(one[1][name] == other[1][name] for name in one[1].keys() & other[1].keys())


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it."""
    system, name = library("fsspec", url).core.url_to_fs(url)
    return system, name


def listing(url: str) -> list[str] | None:
    """The names in a remote folder, or None if it is a file; on a web server a folder ends in a slash."""
    if is_web(url) and not url.endswith("/"):
        return None
    system, name = filesystem(url)
    if not system.isdir(name):
        return None
    return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(name, detail=False)]


def is_web(url: str) -> bool:
    """Whether it is read without fsspec."""
    return url.startswith(("http://", "https://"))
