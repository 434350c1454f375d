"""A log of the columns computed so far, so that a job that was killed goes on where it stopped, to the same bits.

One line of JSON that identifies the job, then a record a chunk: a fixed head (magic, rows, length, CRC-32) and an
`.npz` archive of the columns of every candidate. Records are only appended; one cut short by a kill fails its check
and is dropped. The log has about 150 bytes a token where the logits have 100,000: it is also the form in which the
parts of a job that was split over machines are brought together.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.outputs import atomic_file

__all__ = ["Checkpoint", "read_log"]

_FORMAT = "kullback checkpoint 1"
_HEAD = struct.Struct("<4sqqQI")
_MAGIC = b"rows"
_SYNC_SECONDS = 10.0  # what a power cut may cost; a killed process loses nothing that was appended

Candidates = list[dict[str, NDArray[Any]]]


class Checkpoint:
    """The log at `path`, open for appending; `done` says up to which row it goes.

    Parameters
    ----------
    path : path-like
    identity : dict
        What the job is, JSON-able: resuming another job's log is refused.
    resume : bool
        Whether a log that is there may be continued.
    start : int
        First row of the job.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any], resume: bool, start: int) -> None:
        self.path = os.fspath(path)
        self.identity = json.loads(json.dumps(identity))
        self._start = start
        if os.path.exists(self.path):
            if not resume:
                raise ValueError(f"{self.path} exists; resume it (--resume), or remove it to start again")
        else:
            with atomic_file(self.path) as file:
                file.write(json.dumps({"format": _FORMAT} | self.identity).encode() + b"\n")
        self._file: BinaryIO = open(self.path, "r+b")  # noqa: SIM115 - closed by `close`
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise OSError(f"{self.path}: another process is writing to it") from None
        try:
            found = _header(self._file, self.path)
            if found != self.identity:
                raise ValueError(f"{self.path}: is of another job ({_difference(found, self.identity)})")
        except BaseException:
            self._file.close()
            raise
        self.done = start
        self._synced = time.monotonic()

    def replay(self) -> Iterator[Candidates]:
        """The columns of every whole record in order; what follows the last one is cut off."""
        end = self._file.tell()
        for first, stop, candidates in _records(self._file):
            if first != self.done:
                break
            self.done = stop
            end = self._file.tell()
            yield candidates
        self._file.seek(end)
        self._file.truncate(end)

    def append(self, start: int, stop: int, candidates: Candidates) -> None:
        """Add the columns of rows start ... stop."""
        archive = io.BytesIO()
        arrays: dict[str, Any] = {
            f"{i}/{name}": x for i, columns in enumerate(candidates) for name, x in columns.items()
        }
        np.savez(archive, **arrays)
        data = archive.getvalue()
        self._file.write(_HEAD.pack(_MAGIC, start, stop, len(data), zlib.crc32(data)) + data)
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self.done = stop

    def close(self) -> None:
        """Write everything to the disk and let others have the log."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


def read_log(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[tuple[int, int, Candidates]]]:
    """The identity of a log and its whole records (first row, end, columns of every candidate)."""
    with open(path, "rb") as file:
        return _header(file, os.fspath(path)), list(_records(file))


def _header(file: BinaryIO, path: str) -> dict[str, Any]:
    line = file.readline(1 << 24)
    try:
        header = json.loads(line)
        if header.pop("format") != _FORMAT:
            raise ValueError
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path}: not a checkpoint of this version of kullback") from None
    return dict(header)


def _records(file: BinaryIO) -> Iterator[tuple[int, int, Candidates]]:
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        magic, start, stop, length, checksum = _HEAD.unpack(head)
        if magic != _MAGIC or length > os.fstat(file.fileno()).st_size:
            return
        data = file.read(length)
        if len(data) < length or zlib.crc32(data) != checksum:
            return
        candidates: Candidates = []
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            for key in archive.files:
                place, _, name = key.partition("/")
                while len(candidates) <= int(place):
                    candidates.append({})
                candidates[int(place)][name] = archive[key]
        yield start, stop, candidates


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    for name in sorted(set(found) | set(expected)):
        if found.get(name) != expected.get(name):
            return f"`{name}` is {str(found.get(name))[:120]} there, {str(expected.get(name))[:120]} here"
    return ""
