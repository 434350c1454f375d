"""Parquet and Arrow IPC: a few rows of the columns that are needed at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kullback._engine import library
from kullback.evaluation.sources.files import LocalFile
from kullback.rollouts.batches import ABSENT, UNREADABLE, ParsedRows, Ragged
from kullback.rollouts.fields import LISTS

__all__ = ["ARROW_MAGIC", "PARQUET_MAGIC", "STREAM_MAGIC", "column_names", "groups_of", "read_table"]

PARQUET_MAGIC, ARROW_MAGIC, STREAM_MAGIC = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
BYTES = 16 << 20  # of the columns read, at a time


def column_names(file: LocalFile) -> list[str]:
    """The columns of a table."""
    with file.open() as stream:
        return [str(name) for name in _opened(file, stream).schema_arrow_names]


def groups_of(file: LocalFile) -> list[tuple[int, int]]:
    """(rows before it, bytes) of each group of rows that can be read by itself; one group where a file has no index."""
    with file.open() as stream:
        return list(_opened(file, stream).groups)


def read_table(file: LocalFile, names: dict[str, str], start: int, stop: int) -> Iterator[tuple[ParsedRows, int]]:
    """The rows of groups start to stop, some at a time, and how many bytes they took."""
    with file.open() as stream:
        table = _opened(file, stream)
        wanted = list(dict.fromkeys(name for name in names.values() if name in table.schema_arrow_names))
        for group in range(start, stop):
            row, size = table.groups[group]
            done = 0
            for batch in table.batches(group, wanted):
                batch.validate(full=True)  # offsets of a damaged file may lead anywhere
                numbers = np.arange(row + done, row + done + batch.num_rows)
                columns = {role: batch.column(name) for role, name in names.items() if name in wanted}
                done += batch.num_rows
                yield (
                    ParsedRows(
                        numbers,
                        {role: _lists(x, role) for role, x in columns.items() if role in LISTS},
                        {role: x.to_pylist() for role, x in columns.items() if role not in LISTS},
                    ),
                    size * batch.num_rows // max(1, table.rows[group]),
                )


def _opened(file: LocalFile, stream: Any) -> Any:
    head = file.read(8)
    if head.startswith(PARQUET_MAGIC):
        return _Parquet(file, stream)
    return _Ipc(file, stream, head.startswith(ARROW_MAGIC))


class _Parquet:
    """Groups of rows, which the footer lists."""

    def __init__(self, file: LocalFile, stream: Any) -> None:
        parquet: Any = library("pyarrow.parquet", file.path)
        try:
            self._file = parquet.ParquetFile(stream)
        except ValueError as error:
            raise ValueError(f"{file.path}: not a whole Parquet file ({_short(error)})") from None
        self.schema_arrow_names = self._file.schema_arrow.names
        facts = self._file.metadata
        self.rows = [facts.row_group(i).num_rows for i in range(facts.num_row_groups)]
        self._bytes = [facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)]
        self.groups = list(zip(np.cumsum([0, *self.rows]).tolist(), self._bytes, strict=False))

    def batches(self, group: int, wanted: list[str]) -> Iterator[Any]:
        most = max(1, BYTES * self.rows[group] // max(1, self._bytes[group]))
        yield from self._file.iter_batches(most, row_groups=[group], columns=wanted)


class _Ipc:
    """Record batches: each by itself, or all one after the other in a stream, which has no index."""

    def __init__(self, file: LocalFile, stream: Any, indexed: bool) -> None:
        ipc: Any = library("pyarrow.ipc", file.path)
        try:
            self._file = ipc.open_file(stream) if indexed else ipc.open_stream(stream)
        except ValueError as error:
            raise ValueError(f"{file.path}: not a whole Arrow file ({_short(error)})") from None
        self._indexed = indexed
        self.schema_arrow_names = self._file.schema.names
        self.rows, self.groups = [0], [(0, file.size)]
        if indexed:
            self.rows = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
            share = file.size // max(1, len(self.rows))
            self.groups = [(row, share) for row in np.cumsum([0, *self.rows]).tolist()[:-1]]

    def batches(self, group: int, wanted: list[str]) -> Iterator[Any]:
        found = [self._file.get_batch(group)] if self._indexed else self._file
        for batch in found:
            yield batch.select(wanted)


def _lists(column: Any, role: str) -> Ragged:
    """A column of lists as one array; nulls among the numbers are NaN, or false in a mask."""
    arrow: Any = library("pyarrow", "a table")
    compute: Any = library("pyarrow.compute", "a table")
    depth = column.type
    while _is_list(arrow, depth) and _is_list(arrow, depth.value_type):  # a batch of one in each row
        if not compute.all(compute.equal(compute.list_value_length(column), 1)).as_py():
            break
        column = column.flatten()
        depth = column.type
    count = len(column)
    if not _is_list(arrow, depth) or not _is_number(arrow, depth.value_type):
        known = compute.is_valid(column).to_numpy(zero_copy_only=False)
        return Ragged(np.empty(0), np.where(known, UNREADABLE, ABSENT))
    lengths = compute.fill_null(compute.list_value_length(column), ABSENT).to_numpy(zero_copy_only=False)
    values = column.flatten()
    if role == "mask":
        values = compute.fill_null(values.cast(arrow.float64()), 0.0).to_numpy(zero_copy_only=False) != 0
    elif role == "tokens":
        values = compute.fill_null(values.cast(arrow.int64(), safe=False), -1).to_numpy(zero_copy_only=False)
    else:
        values = values.cast(arrow.float64()).to_numpy(zero_copy_only=False)
    assert len(lengths) == count
    return Ragged(values, lengths.astype(np.int64))


def _is_list(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_number(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:100]
