"""A folder as a store of chunks: which files it has, and whether they are still the ones that were there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.remote import filesystem, same_version, version


class Folder:
    """The files below `path`, local or behind a URL, by their names in it; links to folders are not followed.

    Attributes
    ----------
    files : dict of str to list
        Size and what tells the version of each file.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self._remote = filesystem(path) if "://" in path else None
        self.files: dict[str, list[Any]] = {}
        if self._remote is not None:
            system, root = self._remote
            for name, info in system.find(root, detail=True).items():
                self.files[name[len(root.rstrip("/")) + 1 :]] = version(info)
            return
        for folder, _, names in os.walk(path):
            for name in names:
                full = os.path.join(folder, name)
                status = os.stat(full)
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError(f"{full}: is a pipe or device, expected a regular file")
                self.files[os.path.relpath(full, path)] = _stamp(status)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(found[0] or 0 for found in self.files.values())

    def read(self, name: str, count: int, at_end: bool) -> bytes:
        """The first or last `count` bytes of a file."""
        offset = self.files[name][0] - count if at_end else 0
        if self._remote is None:
            return LocalFile(os.path.join(self.path, name)).read(count, offset)
        system, root = self._remote
        return bytes(system.cat_file(f"{root}/{name}", start=offset, end=offset + count))

    def check(self, names: Iterable[str]) -> None:
        """OSError if one of these files is gone or no longer the one that was there."""
        for name in names:
            if name not in self.files:
                continue
            try:
                now = self._now(name)
            except FileNotFoundError:
                raise OSError(f"{self.path}/{name}: disappeared since it was opened") from None
            # locally by size and time: a change of mode or of a link's count is none of the data
            same = same_version(now, self.files[name]) if self._remote else now[:2] == self.files[name][:2]
            if not same:
                raise OSError(f"{self.path}/{name}: replaced or modified since it was opened")

    def _now(self, name: str) -> list[Any]:
        if self._remote is None:
            return _stamp(os.stat(os.path.join(self.path, name)))
        system, root = self._remote
        system.invalidate_cache(f"{root}/{name}")
        return version(system.info(f"{root}/{name}"))


def _stamp(status: os.stat_result) -> list[Any]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
