"""A log of the columns computed so far, so that a job that was killed goes on where it stopped, to the same bits.

One line of JSON that identifies the job, then a record a chunk: a fixed head (magic, rows, length, CRC-32) and an
`.npz` archive of the columns of every candidate. The CRC is of the whole record, head included, and begins with that of
the job: no record is taken for that of other rows or of another job. Records are only appended; one cut short by a kill
fails its check and is dropped. The log has about 150 bytes a token where the logits have 100,000: it is also the form
in which the parts of a job that was split over machines are brought together.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.outputs import naming
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.npy import LONGEST_HEADER, parse_header

__all__ = ["Checkpoint", "difference", "locked", "read_log"]

_FORMAT = "kullback checkpoint 3"
_HEAD = struct.Struct("<4sqqQ")  # magic, first row, end, bytes of the archive; its CRC follows
_CRC = struct.Struct("<I")
_MAGIC = b"rows"
_LONGEST_LINE = 1 << 24
_SHOWN = 60  # characters of a value in an error
_SYNC_SECONDS = 10.0  # what a power cut may cost; a killed process loses nothing that was appended

Candidates = list[dict[str, NDArray[Any]]]


class Record(NamedTuple):
    """The columns of rows first ... stop, of every candidate."""

    first: int
    stop: int
    candidates: Candidates


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
        line = _line(self.identity)
        self._file = locked(self.path)
        try:
            there = self._file.read(len(line))
            if line.startswith(there) and there != line:  # new, or its writer was killed in the first line
                self._file.seek(0)
                self._file.truncate()
                self._file.write(line)
                self._file.flush()
            elif not resume:
                raise ValueError(f"{self.path} exists; resume it (--resume), or remove it to start again")
            self._file.seek(0)
            found = _header(self._file, self.path)
            # where a job began is no part of what it is: a folder may move as a whole
            differing = difference(found | {"folder": ""}, self.identity | {"folder": ""})
            if differing:
                raise ValueError(f"{self.path}: is of another job ({differing})")
            self.identity = found
        except BaseException:
            self._file.close()
            raise
        self._seed = zlib.crc32(_line(self.identity))
        self.done = start
        self._synced = time.monotonic()

    def replay(self) -> Iterator[Candidates]:
        """The columns of every whole record in order; what follows the last one is cut off."""
        end = self._file.tell()
        for record in _records(self._file, self.identity, self.path):
            if record.first != self.done:
                break
            self.done = record.stop
            end = self._file.tell()
            yield record.candidates
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
        head = _HEAD.pack(_MAGIC, start, stop, len(data))
        with naming(self.path):
            self._file.write(head + _CRC.pack(zlib.crc32(data, zlib.crc32(head, self._seed))) + data)
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        self.done = stop

    def close(self) -> None:
        """Write everything to the disk and let others have the log."""
        if not self._file.closed:
            with naming(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


def read_log(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Record]]:
    """The identity of a log and its whole records.

    Raises
    ------
    ValueError
        If it is no checkpoint, or a record holds something else than the columns of its rows.
    OSError
        If it cannot be read.
    """
    name = os.fspath(path)
    with LocalFile(name).open() as file:
        identity = _header(file, name)
        return identity, list(_records(file, identity, name))


def read_job(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The identity of a log, without its records."""
    with LocalFile(path).open() as file:
        return _header(file, os.fspath(path))


def locked(path: str) -> BinaryIO:
    """The file at `path`, made if there is none, open and locked: whoever makes it is its only writer."""
    while True:
        if os.path.exists(path):
            LocalFile(path)  # a regular file, or it says what else
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                return file
        except BlockingIOError:
            file.close()
            raise OSError(f"{path}: another process is writing to it") from None
        except BaseException:
            file.close()
            raise
        file.close()  # removed or replaced in the meantime: the lock is on what nobody would find


def _line(identity: Mapping[str, Any]) -> bytes:
    """The first line: what is checked against its own CRC when it is read."""
    job = json.dumps(identity)
    return f'{{"format": "{_FORMAT}", "crc32": {zlib.crc32(job.encode())}, "job": {job}}}\n'.encode()


def _header(file: BinaryIO, path: str) -> dict[str, Any]:
    """The job of a log; the file is left at its first record."""
    line = file.readline(_LONGEST_LINE)
    try:
        header = json.loads(line)
        version, job = header["format"], header.get("job")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError(f"{path}: not a checkpoint of kullback") from None
    if version != _FORMAT:
        raise ValueError(f"{path}: {version!r}, expected {_FORMAT!r}: start again with a new checkpoint")
    if not isinstance(job, dict) or line != _line(job):
        raise ValueError(f"{path}: its first line is damaged, so that its job is not known")
    _check_job(job, path)
    return job


def _check_job(job: Mapping[str, Any], path: str) -> None:
    """What decides how much is allocated and how often something is repeated."""
    try:
        numbers: list[Any] = [*job["rows"], job["plan"]["rows"], job["longest_group"]]
        first, stop, total, longest = numbers
        whole = all(type(n) is int for n in numbers) and len(job["q"]) >= 1
        sound = whole and 0 <= first <= stop <= total and 1 <= longest <= max(1, total)
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: its first line describes no job")


def _records(file: BinaryIO, job: Mapping[str, Any], path: str) -> Iterator[Record]:
    """The records from here to the first that is not whole; ValueError for one that is, with the wrong columns."""
    seed = zlib.crc32(_line(job))
    first, last = job["rows"]
    while len(head := file.read(_HEAD.size + _CRC.size)) == _HEAD.size + _CRC.size:
        magic, start, stop, length = _HEAD.unpack_from(head)
        if magic != _MAGIC or length > os.fstat(file.fileno()).st_size - file.tell():
            return
        data = file.read(length)
        (checksum,) = _CRC.unpack_from(head, _HEAD.size)
        if len(data) < length or zlib.crc32(data, zlib.crc32(head[: _HEAD.size], seed)) != checksum:
            return
        if not first <= start < stop <= last:
            raise ValueError(f"{path}: has rows {start} to {stop}, expected some of {first} to {last}")
        try:
            yield Record(start, stop, _columns(data, start, stop, len(job["q"])))
        except (ValueError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path}: the record of rows {start} to {stop} is damaged ({error})") from None


def _columns(data: bytes, start: int, stop: int, count: int) -> Candidates:
    """The arrays of a record, which lie there as they are: nothing is expanded, nothing is larger than the record."""
    candidates: Candidates = [{} for _ in range(count)]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(info.file_size for info in archive.infolist()) > len(data):
            raise ValueError("columns that overlap")
        for info in archive.infolist():
            place, _, name = info.filename.removesuffix(".npy").partition("/")
            if info.compress_type != zipfile.ZIP_STORED or not (place.isdecimal() and int(place) < count):
                raise ValueError(f"column {info.filename!r}")
            member = archive.read(info)
            shape, _, dtype, offset = parse_header(member[:LONGEST_HEADER], name)
            size = (stop - start) * dtype.itemsize
            if dtype.kind not in "fiub" or shape != (stop - start,) or len(member) - offset != size:
                raise ValueError(f"column {info.filename!r} is {dtype} of shape {shape}")
            candidates[int(place)][name] = np.frombuffer(member, dtype, offset=offset)
    for columns in candidates:
        if columns.keys() != candidates[0].keys() or not {"kl", "position"} <= columns.keys():
            raise ValueError(f"columns {', '.join(sorted(columns))[:80] or 'none'}")
        if not np.array_equal(columns["row"], np.arange(start, stop)):
            raise ValueError("column 'row' has other rows")
    return candidates


def difference(found: Any, expected: Any, here: str = "here") -> str:
    """Where two jobs differ first, and what stands there in each; nothing where they do not differ."""
    name = ""
    while found != expected:
        pairs: list[tuple[str, Any, Any]] = []
        if isinstance(found, dict) and isinstance(expected, dict):
            keys = sorted(found.keys() | expected.keys())
            pairs = [(f".{key}", found.get(key, _MISSING), expected.get(key, _MISSING)) for key in keys]
        elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
            pairs = [(f"[{i}]", a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))]
        differing = next((pair for pair in pairs if pair[1] != pair[2]), None)
        if differing is None:
            there, mine = _apart(repr(found), repr(expected))
            return f"`{name.removeprefix('.')}` is {there} there, {mine} {here}"
        name, found, expected = name + differing[0], differing[1], differing[2]
    return ""


class _Missing:
    def __repr__(self) -> str:
        return "missing"


_MISSING = _Missing()


def _apart(*texts: str) -> list[str]:
    """Two texts cut short, to where they differ."""
    longest = max(map(len, texts))
    same = next((i for i, pair in enumerate(zip(*texts, strict=False)) if len(set(pair)) > 1), min(map(len, texts)))
    first = 0 if longest <= _SHOWN else max(0, min(same - _SHOWN // 4, longest - _SHOWN))
    return [
        ("…" if first else "") + x[first : first + _SHOWN] + ("…" if len(x) > first + _SHOWN else "") for x in texts
    ]
