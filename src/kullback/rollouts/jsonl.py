"""JSON lines, plain or compressed: a block of whole lines at a time, whatever the size of the file."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

import numpy as np

from kullback._engine import library
from kullback.evaluation.sources.files import LocalFile
from kullback.rollouts.batches import Lists, ParsedRows
from kullback.rollouts.fields import LISTS
from kullback.rollouts.skipped import DAMAGED, Skipped

__all__ = ["first_rows", "lines_before", "read_lines"]

BLOCK = 8 << 20  # bytes of lines at a time: some 100,000 tokens
LONGEST_LINE = 1 << 30
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# how a file may end in the midst of a line, if it is not DAMAGED
_TRUNCATED = "truncated last line"
_KINDS = {"mask": "?", "tokens": "q"}


def _parser() -> Callable[[bytes], Any]:
    """orjson where it is (7 times as fast), and the standard library for what it refuses: NaN, odd surrogates."""
    fast = json.loads
    with suppress(ImportError):
        fast = importlib.import_module("orjson").loads
    return fast


@contextmanager
def opened(file: LocalFile) -> Iterator[tuple[BinaryIO, BinaryIO | None]]:
    """The text of a file, and what it is decompressed from: then there is but one way through it."""
    head = file.read(4)
    if head.startswith(GZIP_MAGIC):
        with file.open() as raw, gzip.GzipFile(fileobj=raw) as stream:
            yield cast(BinaryIO, stream), raw
    elif head == ZSTD_MAGIC:
        arrow = library("pyarrow", f"{file.path}: zstd")
        with file.open() as raw, arrow.CompressedInputStream(arrow.PythonFile(raw), "zstd") as stream:
            yield io.BufferedReader(stream), raw
    else:
        with file.open() as raw:
            yield raw, None


def _blocks(stream: BinaryIO, start: int, stop: int | None, path: str) -> Iterator[tuple[bytes, str]]:
    """The lines that begin in bytes start to stop, some at a time; and how the file ends in the midst of the last."""
    rest = b""
    if start:
        stream.seek(start - 1)
        rest = _to_newline(stream.read(1), stream)  # the line that began before is the last of the part before
        start += len(rest) - 1
        rest = b""
    at = start
    while stop is None or at < stop:
        block, broken = _read(stream, BLOCK if stop is None else min(BLOCK, stop - at))
        if broken:
            yield rest + block, DAMAGED
            return
        if not block:
            break
        at += len(block)
        if not block.endswith(b"\n"):
            block = _to_newline(block, stream) if stop is not None and at >= stop else block
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest += block
            if len(rest) > LONGEST_LINE:
                raise ValueError(f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB; is this JSON lines?")
            continue
        yield rest + block[:cut], ""
        rest = block[cut:]
    if rest:
        yield rest, _TRUNCATED


def _read(stream: BinaryIO, count: int) -> tuple[bytes, bool]:
    """Up to `count` bytes, and whether decompressing failed after them."""
    parts: list[bytes] = []
    while count > 0:
        try:
            part = stream.read1(count)  # type: ignore[attr-defined]  # what there is, before an error is raised
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return b"".join(parts), True
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts), False


def _to_newline(block: bytes, stream: BinaryIO) -> bytes:
    """`block` up to the end of its last line."""
    parts = [block]
    while not parts[-1].endswith(b"\n"):
        more = stream.readline(BLOCK)
        if not more:
            break
        parts.append(more)
    return b"".join(parts)


def lines_before(file: LocalFile, starts: Sequence[int]) -> list[int]:
    """How many lines begin before each of these bytes, which rise; the file is read once."""
    found = []
    count = at = 0
    last = b"\n"
    with file.open() as stream:
        for start in starts:
            while at < start:
                block = stream.read(min(BLOCK, start - at))
                if not block:
                    break
                count += block.count(b"\n")
                at += len(block)
                last = block[-1:]
            # a line that began before ends later: ours begins after it
            found.append(count + (last != b"\n"))
    return found


def first_rows(file: LocalFile, count: int = 64) -> Iterator[dict[str, Any]]:
    """The first rows that can be parsed."""
    loads = _parser()
    with opened(file) as (stream, _):
        for _ in range(count):
            try:
                line = stream.readline(LONGEST_LINE)
            except (EOFError, zlib.error, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                return
            if not line:
                return
            row = _parsed(line, loads)
            if isinstance(row, dict):
                yield row


def read_lines(
    file: LocalFile, number: int, names: dict[str, str], skipped: Skipped, start: int, stop: int, row: int
) -> Iterator[tuple[ParsedRows, int]]:
    """The lines that begin in these bytes, the first of which has the number `row`; and how many bytes they took."""
    loads = _parser()
    with opened(file) as (stream, raw):
        done = 0
        for block, cut in _blocks(stream, start, None if raw else stop, file.path):
            done, before = raw.tell() if raw else done + len(block), done
            lines = block.split(b"\n")
            yield _rows(lines, row, number, names, skipped, loads, cut), done - before
            row += len(lines) - 1


def _rows(
    lines: list[bytes], first: int, number: int, names: dict[str, str], skipped: Skipped, loads: Callable[[bytes], Any],
    cut: str,
) -> ParsedRows:  # fmt: skip
    numbers: list[int] = []
    lists = {role: Lists(_KINDS.get(role, "d")) for role in names if role in LISTS}
    scalars: dict[str, list[Any]] = {role: [] for role in names if role not in LISTS}
    # what is done with a value, by its field: a row's numbers are packed before the next line is parsed
    takers = [(name, lists[role].add if role in lists else scalars[role].append) for role, name in names.items()]
    for at, line in enumerate(lines, first):
        last = at == first + len(lines) - 1
        if last and cut == DAMAGED:  # nobody knows how many rows came after
            skipped.add(cut, number, at)
            break
        if not line or line.isspace():
            continue
        row = _parsed(line, loads)
        if not isinstance(row, dict):
            broken = cut if last and cut else "not a line of JSON"
            skipped.add(broken if row is _parsed else "JSON, but no object", number, at)
            continue
        numbers.append(at)
        for name, take in takers:
            take(row.get(name))
    return ParsedRows(np.array(numbers, np.int64), {role: x.ragged() for role, x in lists.items()}, scalars)


def _parsed(line: bytes, loads: Callable[[bytes], Any]) -> Any:
    """The value of a line; this function itself, which no JSON is, where it is none."""
    try:
        return loads(line)
    except (ValueError, RecursionError):
        if loads is json.loads:
            return _parsed
    return _parsed(line, json.loads)
