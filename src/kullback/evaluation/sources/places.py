"""From a path or URL to a file that is read by position, or to the names in a folder."""

from __future__ import annotations

import os

from kullback.evaluation.sources.files import ByteReader, LocalFile
from kullback.evaluation.sources.http import HttpFile
from kullback.evaluation.sources.remote import RemoteFile, is_web, listing


def file_at(path: str | os.PathLike[str]) -> ByteReader:
    """The file at a path or URL."""
    name = os.fspath(path)
    if is_web(name):
        return HttpFile(name)
    return RemoteFile(name) if "://" in name else LocalFile(name)


def names_in(path: str) -> list[str] | None:
    """What a folder holds; None if it is none."""
    if "://" in path:
        return listing(path)
    return os.listdir(path) if os.path.isdir(path) else None
