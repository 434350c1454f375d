"""The files of a run: of which kind each is, what its fields are, and the pieces that can be read apart."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Literal, NamedTuple

from kullback._engine import keywords
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.npz import DAMAGED
from kullback.rollouts import arrays, jsonl, pickle_file, tables
from kullback.rollouts.batches import ParsedRows, RolloutBatch, packed
from kullback.rollouts.fields import (
    LABELS,
    LISTS,
    PRESETS,
    SOURCES,
    Fields,
    choose,
    lost_field,
    mapped,
    refusal,
    shown,
    step_of,
)
from kullback.rollouts.skipped import Skipped

__all__ = ["Log", "Logs", "Piece", "find_logs"]

PIECE = 64 << 20  # bytes of lines that a worker reads at a time
_SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".npz", ".pt", ".pth", ".pkl")
_PACKED = (".gz", ".zst")

Path = str | os.PathLike[str]


class Log(NamedTuple):
    """One file."""

    path: str
    kind: Literal["lines", "table", "arrays"]
    fields: Fields
    step: int | None
    size: int


class Piece(NamedTuple):
    """A part of a file: bytes of lines, groups of rows of a table, or all of it."""

    file: int
    start: int
    stop: int
    size: int


class Logs(NamedTuple):
    """The files of a run that have log-probs of both sides, and why others are left out.

    Attributes
    ----------
    files : tuple of Log
    labels : tuple of str
        What results are broken down by.
    left_out : tuple of (path, reason)
    """

    files: tuple[Log, ...]
    labels: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def pieces(self) -> list[Piece]:
        """All there is to read, in order; however it is dealt out, the result is the same to the bit."""
        return [piece for number, log in enumerate(self.files) for piece in _pieces(number, log)]

    def spans(self, pieces: Sequence[Piece], numbers: Sequence[int]) -> dict[int, Piece]:
        """Pieces of these numbers, neighbours in a file as one, by the number of the first."""
        found: dict[int, Piece] = {}
        first = before = -1
        for number in numbers:
            piece = pieces[number]
            if number == before + 1 and found and found[first].file == piece.file:
                whole = found[first]
                found[first] = whole._replace(stop=piece.stop, size=whole.size + piece.size)
            else:
                found[first := number] = piece
            before = number
        return found

    def rows_before(self, pieces: Sequence[Piece], numbers: Iterable[int]) -> dict[int, int]:
        """How many rows of its file lie before each of these pieces of lines; every file is read once."""
        found: dict[int, int] = {}
        inside = sorted(n for n in numbers if pieces[n].start and self.files[pieces[n].file].kind == "lines")
        for file, some in groupby(inside, key=lambda n: pieces[n].file):
            mine = list(some)
            counts = jsonl.lines_before(LocalFile(self.files[file].path), [pieces[n].start for n in mine])
            found |= dict(zip(mine, counts, strict=True))
        return found

    def batches(self, piece: Piece, row: int = 0) -> Iterator[tuple[RolloutBatch, int]]:
        """The sequences of a piece, some at a time, and how many bytes they took; `row`: of `rows_before`."""
        log = self.files[piece.file]
        labels = (*self.labels, *(name for name in SOURCES if name in log.fields.names and name not in self.labels))
        names = {role: name for role, name in log.fields.names.items() if role not in LABELS or role in labels}
        file, skipped = LocalFile(log.path), Skipped()
        if log.kind == "lines":
            found = jsonl.read_lines(file, piece.file, names, skipped, piece.start, piece.stop, row)
        elif log.kind == "table":
            found = tables.read_table(file, names, piece.start, piece.stop)
        else:
            found = arrays.read_arrays(file, names)
        for rows, size in _whole(log.path, found):
            batch = packed(rows, piece.file, labels, skipped)
            if log.step is not None and "step" in batch.labels and "step" not in names:
                batch.labels["step"] = [log.step] * batch.sequences
            batch.skipped = skipped.taken()
            yield batch, size


def find_logs(
    paths: Path | Sequence[Path],
    preset: str | None = None,
    fields: Mapping[str, str] | Iterable[str] | None = None,
    by: Sequence[str] | None = None,
) -> Logs:
    """Look at the files: their kinds, their fields, and by what to break results down.

    Raises
    ------
    ValueError
        No file has log-probs of both sides; the message says what there is.
    """
    if preset is not None:
        keywords.choice(preset, "preset", tuple(PRESETS))
    pairs, wished = mapped(fields), tuple(dict.fromkeys(keywords.several(by or (), "by", "a list of roles or fields")))
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not listed:
        raise ValueError("`paths` is empty, expected files or folders")
    found, left_out, reason = [], [], ""
    present: list[str] = []
    for name in (name for path in listed for name in _files(os.fspath(path))):
        with _damage(name):
            log, there, (why, remedy) = _look(name, preset, pairs, wished)
        if log is None:
            left_out.append((name, why))
            reason = reason or why + remedy
        else:
            found.append(log)
            present += there
    if not found:
        raise ValueError(reason)
    lost = lost_field(pairs, pairs, present)
    if lost:
        raise ValueError(f"{lost}; {shown(present)}")
    known = {label for log in found for label in log.fields.names} | {"step" for log in found if log.step is not None}
    lacking = next((label for label in wished if label not in known), None)
    if lacking is not None:
        raise ValueError(f"`by` has {lacking!r}, which no row has; {shown(present)}")
    numbers = next((label for label in wished if label in LISTS), None)
    if numbers is not None:
        raise ValueError(f"`by` has {numbers!r}, which is one number a token, expected what is one value a row")
    labels = wished or tuple(label for label in LABELS if label in known)
    return Logs(tuple(found), labels, tuple(left_out))


def _files(path: str) -> list[str]:
    """A file, or the logs in a folder and those in it, by the numbers in their names."""
    if not os.path.isdir(path):
        return [path]
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if re.sub(rf"({'|'.join(map(re.escape, _PACKED))})$", "", name.lower()).endswith(_SUFFIXES)
    ]
    if not found:
        raise ValueError(
            f"{path}: a folder without logs ({', '.join(_SUFFIXES)}, lines also with {', '.join(_PACKED)})"
        )
    return sorted(found, key=lambda name: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", name)])


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """ValueError that names the file for whatever a library says of one that is damaged."""
    try:
        yield
    except (ValueError, OSError, *DAMAGED, NotImplementedError, KeyError, IndexError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the system
        if isinstance(error, ValueError) and str(error).startswith(path):
            raise
        told = " ".join(str(error).split())[:100]
        raise ValueError(f"{path}: damaged, or not what it seems ({told})") from None


def _whole(path: str, found: Iterator[tuple[ParsedRows, int]]) -> Iterator[tuple[ParsedRows, int]]:
    """The same rows; `_damage` for what goes wrong in reading them."""
    while True:
        with _damage(path):
            part = next(found, None)
        if part is None:
            return
        yield part


def _look(
    path: str, preset: str | None, pairs: dict[str, str], by: Sequence[str]
) -> tuple[Log | None, list[str], tuple[str, str]]:
    """What a file is, and the fields of its first rows; or None, why it cannot be used, and what to do about it."""
    file = LocalFile(path)
    head = file.read(8)
    if not head:
        return None, [], (f"{path}: an empty file", "")
    fields, present = None, []
    kind: Literal["lines", "table", "arrays"]
    if head.startswith((tables.PARQUET_MAGIC, tables.ARROW_MAGIC, tables.STREAM_MAGIC)):
        kind, present = "table", tables.column_names(file)
    elif head.startswith(arrays.ZIP_MAGIC) or pickle_file.holds_pickle(file):
        kind, present = "arrays", arrays.array_names(file)
    else:
        kind = "lines"
        for row in jsonl.first_rows(file):
            present += row
            fields = fields or choose(row, preset, pairs, by)
        if fields is not None:  # what only later rows have, of the same preset
            fields = choose(present, fields.preset or preset, pairs, by) or fields
        if not present:
            why = f"{path}: no line of it is a JSON object; expected JSON lines, Parquet, Arrow, .npz, .pt or .pkl"
            return None, [], (why, "")
    fields = fields or choose(present, preset, pairs, by)
    if fields is None:
        return None, present, refusal(path, present, preset, pairs)
    step = None if "step" in fields.names else step_of(path, fields)
    return Log(path, kind, fields, step, file.size), list(dict.fromkeys(present)), ("", "")


def _pieces(number: int, log: Log) -> Iterator[Piece]:
    file = LocalFile(log.path)
    if log.kind == "table":
        for i, (_, size) in enumerate(tables.groups_of(file)):
            yield Piece(number, i, i + 1, size)
        return
    whole = log.kind == "arrays" or file.read(4).startswith((jsonl.GZIP_MAGIC, jsonl.ZSTD_MAGIC))
    step = log.size if whole else PIECE
    for start in range(0, log.size, max(1, step)):
        stop = min(start + step, log.size)
        yield Piece(number, start, stop, stop - start)
