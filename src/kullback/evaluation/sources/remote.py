"""Files behind a URL, read in ranges through fsspec."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import library


class RemoteFile:
    """A file at `s3://`, `https://`, `memory://`, ...: each read asks for exactly its bytes.

    A file that shrinks comes back short, which is an error; one that is replaced by another of equal length
    is not noticed, as few stores say so without another request.
    """

    def __init__(self, url: str) -> None:
        self.path = url
        self._system, self._name = filesystem(url)
        self.size = int(self._system.info(self._name)["size"])

    def read(self, count: int, offset: int = 0) -> bytes:
        """Up to `count` bytes at `offset`; fewer only where the file ends."""
        stop = min(offset + count, self.size)
        return bytes(self._system.cat_file(self._name, start=offset, end=stop)) if stop > offset else b""

    def read_into(self, out: NDArray[Any], offset: int) -> None:
        """Fill the C-contiguous array `out` with the bytes at `offset`."""
        target = out.reshape(-1).view(np.uint8)
        data = b""
        if len(target):
            data = self._system.cat_file(self._name, start=offset, end=offset + len(target))
        if len(data) != len(target):
            raise OSError(f"{self.path}: {len(data)} bytes came back where {len(target)} were asked for")
        target[:] = np.frombuffer(data, np.uint8)

    def open(self) -> BinaryIO:
        """A file object, for the libraries that want one."""
        file: BinaryIO = self._system.open(self._name, "rb")
        return file

    def check(self) -> None:
        """Nothing to check without another request."""


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it."""
    system, name = library("fsspec", url).core.url_to_fs(url)
    return system, name


def listing(url: str) -> list[str] | None:
    """The names in a remote folder, or None if it is a file."""
    system, name = filesystem(url)
    if not system.isdir(name):
        return None
    return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in system.ls(name, detail=False)]
