"""Parquet and Arrow IPC, read through pyarrow: one row of logits a record, in a column of lists."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.sources.base import Source, check_claim, chosen, float_dtype, integer_column
from kullback.evaluation.sources.files import ByteReader, LocalFile
from kullback.evaluation.sources.parquet_footer import MAGIC as PARQUET_MAGIC, column_chunks

IPC_MAGIC = b"ARROW1"
# a stream of messages has no magic but begins with this continuation marker
STREAM_MAGIC = b"\xff\xff\xff\xff"
# records decoded at a time: the files' own units (row groups, record batches) may be any size
BATCH_RECORDS = 64
BATCH_BYTES = 1 << 24
COLUMN_RECORDS = 1 << 16
# Message.fbs: what a message holds, and more than its header can be of a table of some columns
_DICTIONARY_BATCH = 2
_RECORD_BATCH = 3
_LONGEST_HEADER = 1 << 24
FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


class Arrow(Source):
    """Rows of the list column `tensor`, else of `logits`, else of the only column of lists of floats.

    Records are decoded in order; asking for rows before the last ones starts again from the row group, or the
    record batch, that holds them (from the beginning of an IPC stream, which has no index).
    """

    def __init__(self, file: ByteReader, tensor: str | None = None) -> None:
        pa = library("pyarrow", f"{file.path}: Arrow and Parquet")
        self._file = file
        self._lock = threading.Lock()
        self._next = 0
        self._records: Iterator[NDArray[Any]] | None = None
        self._rest: NDArray[Any] | None = None
        try:
            self._units = _open(file)
            self._column = _find(self._units.schema, tensor, file.path)
            what = f"{file.path}: column {self._column!r}"
            kind = self._units.schema.field(self._column).type.value_type
            dtype = float_dtype(FLOATS.get(str(kind), str(kind)), what)
            self._starts = list(accumulate(self._units.lengths, initial=0))
            if self._starts[-1] == 0:
                raise ValueError(f"{file.path}: no rows")
            width = self._units.values(self._column) // self._starts[-1]
            check_claim(self._starts[-1], width * dtype.itemsize, file.size, what)
            self._at_once = max(1, min(BATCH_RECORDS, BATCH_BYTES // max(1, width * dtype.itemsize)))
            first = next(self._decoded(0))
            super().__init__(file.path, self._units.format, (self._starts[-1], first.shape[1]), dtype)
            self.array = self._column
            for name in ("tokens", "groups"):
                if name in self._units.schema.names and name != self._column:
                    if not pa.types.is_integer(self._units.schema.field(name).type):
                        found = self._units.schema.field(name).type
                        raise ValueError(f"{file.path}: column {name!r} is {found}, expected integers, one a row")
                    pieces = self._units.batches(0, name, COLUMN_RECORDS)
                    parts = [part.to_numpy(zero_copy_only=False) for part in pieces]
                    column = integer_column(np.concatenate(parts), self.shape[0], f"{file.path}: column {name!r}")
                    setattr(self, name, column)
        except Exception as error:  # damaged files bring out any kind, MemoryError for lengths without end too
            if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
                raise
            raise ValueError(
                f"{file.path}: not a readable Arrow or Parquet file ({error or type(error).__name__})"
            ) from None

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        self._file.check()
        pa = library("pyarrow", self.path)
        try:
            with self._lock:
                self._seek(start)
                filled = 0
                while filled < stop - start:
                    if self._rest is None or not len(self._rest):
                        self._rest = next(self._records)  # type: ignore[arg-type]
                    taken = self._rest[: stop - start - filled]
                    out[filled : filled + len(taken)] = taken
                    filled += len(taken)
                    self._rest = self._rest[len(taken) :]
                self._next = stop
        except Exception as error:
            self._records = None
            if isinstance(error, ValueError) and not isinstance(error, pa.ArrowException):
                raise
            raise OSError(
                f"{self.path}: rows {start} to {stop} cannot be read ({error or type(error).__name__})"
            ) from None

    def _seek(self, start: int) -> None:
        if self._records is not None and self._next == start:
            return
        unit = int(np.searchsorted(self._starts, start, side="right")) - 1
        self._records, self._rest = self._decoded(unit), None
        skip = start - self._starts[unit]
        while skip:
            self._rest = next(self._records)
            taken = min(skip, len(self._rest))
            self._rest, skip = self._rest[taken:], skip - taken

    def _decoded(self, unit: int) -> Iterator[NDArray[Any]]:
        """The column from the given row group or batch on, a few rows at a time, as (n, V) arrays."""
        for part in self._units.batches(unit, self._column, self._at_once):
            for start in range(0, len(part), self._at_once):
                lists = part.slice(start, self._at_once)
                lists.validate(full=True)  # the library trusts the offsets it finds in a file
                values = lists.flatten()
                width = len(values) // len(lists)
                if lists.null_count or values.null_count or (lists.value_lengths().to_numpy() != width).any():
                    raise ValueError(f"{self._file.path}: nulls or lists of unequal length in {self._column!r}")
                if width != getattr(self, "shape", (0, width))[1]:
                    raise ValueError(f"{self._file.path}: lists of length {width} and others in {self._column!r}")
                yield values.to_numpy(zero_copy_only=False).reshape(len(lists), width)

    def close(self) -> None:
        self._records = None
        self._units.close()


def _open(file: ByteReader) -> Any:
    head = file.read(8)
    if head.startswith(PARQUET_MAGIC):
        return _Parquet(file)
    return _IpcStream(file) if head.startswith(STREAM_MAGIC) else _IpcFile(file)


def _find(schema: Any, tensor: str | None, path: str) -> str:
    lists = [f.name for f in schema if str(f.type).startswith(("list<", "fixed_size_list<", "large_list<"))]
    floats = [name for name in lists if str(schema.field(name).type.value_type) in FLOATS]
    return chosen(tensor, lists, floats, path)


def _batch_lengths(file: ByteReader, start: int) -> list[int]:
    """Records in each batch of the messages from `start` on, from their headers alone.

    A message is a marker, the size of its header, the header (a flatbuffer, Message.fbs) and its body, which pyarrow
    would read too. Nothing is mapped: a mapped file that is truncated meanwhile would kill the process.
    """
    lengths: list[int] = []
    while len(prefix := file.read(8, start)) >= 4:
        skip = 8 if prefix.startswith(STREAM_MAGIC) else 4  # files of before 2019 have no marker
        size = int.from_bytes(prefix[skip - 4 : skip], "little", signed=True)
        if size <= 0:
            break
        try:
            kind, records, body, packed = _message(file.read(min(size, _LONGEST_HEADER), start + skip))
        except struct.error:
            raise OSError(f"the header of the message at byte {start} is damaged") from None
        if body < 0 or start + skip + size + body > file.size:
            raise OSError(f"the message at byte {start} goes on beyond the end of the file")
        # a batch is decoded whole: what its compressed buffers say that they hold is taken for true and allocated
        sizes = (file.read(8, start + skip + size + place) for place in packed if 0 <= place <= body - 8)
        claimed = sum(max(0, int.from_bytes(data, "little", signed=True)) for data in sizes)
        if records < 0:
            raise OSError(f"a batch of {records} records")
        check_claim(sum(lengths) + records, claimed, file.size, f"{file.path}: the message at byte {start}")
        if kind == _RECORD_BATCH:
            lengths.append(records)
        start += skip + size + body
    return lengths


def _message(data: bytes) -> tuple[int, int, int, list[int]]:
    """From the flatbuffer of a message: its kind, records, size of the body, places of compressed buffers in it."""

    def field(table: int, number: int, form: str) -> tuple[int, int]:
        """(value or 0, where it stands) of a field of a table."""
        vtable = table - struct.unpack_from("<i", data, table)[0]
        if vtable < 0:
            raise struct.error
        slot = 4 + 2 * number
        present = slot < struct.unpack_from("<H", data, vtable)[0]
        at = struct.unpack_from("<H", data, vtable + slot)[0] if present else 0
        return (struct.unpack_from(form, data, table + at)[0], table + at) if at else (0, 0)

    message = struct.unpack_from("<I", data)[0]
    kind, body = field(message, 1, "<B")[0], field(message, 3, "<q")[0]
    offset, at = field(message, 2, "<I")
    batch = at + offset
    if kind == _DICTIONARY_BATCH:
        offset, at = field(batch, 1, "<I")
        batch = at + offset
    elif kind != _RECORD_BATCH:
        return kind, 0, body, []
    records = field(batch, 0, "<q")[0] if kind == _RECORD_BATCH else 0
    if not field(batch, 3, "<I")[1]:
        return kind, records, body, []
    offset, at = field(batch, 2, "<I")
    count = struct.unpack_from("<I", data, at + offset)[0]
    if 16 * count > len(data):
        raise struct.error
    return kind, records, body, [struct.unpack_from("<q", data, at + offset + 4 + 16 * i)[0] for i in range(count)]


class _Parquet:
    format = "parquet"

    def __init__(self, file: ByteReader) -> None:
        parquet = library("pyarrow.parquet", file.path)
        self._chunks = column_chunks(file)
        # buffered: a column chunk is read page by page, not at once
        self._reader = parquet.ParquetFile(
            file.path if isinstance(file, LocalFile) else file.open(), buffer_size=1 << 20, pre_buffer=False
        )
        self.schema = self._reader.schema_arrow
        metadata = self._reader.metadata
        self.lengths = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def values(self, column: str) -> int:
        """How many values the column has, by the file's own account."""
        parts = [part for part in self._chunks if part.path[0] == column]
        if any(part.elsewhere for part in parts):
            raise OSError(f"column {column!r} lies in another file")
        return sum(part.values for part in parts)

    def batches(self, unit: int, column: str, records: int) -> Iterator[Any]:
        groups = list(range(unit, len(self.lengths)))
        for batch in self._reader.iter_batches(records, row_groups=groups, columns=[column]):
            yield batch.column(0)

    def close(self) -> None:
        self._reader.close()


class _IpcFile:
    format = "arrow"

    def __init__(self, file: ByteReader) -> None:
        pa = library("pyarrow", file.path)
        self.lengths = _batch_lengths(file, len(IPC_MAGIC) + 2)
        self._file = pa.PythonFile(file.open(), mode="r")
        try:
            self._reader = pa.ipc.open_file(self._file)
            self.schema = self._reader.schema
            if len(self.lengths) != self._reader.num_record_batches:
                raise OSError(f"{len(self.lengths)} batches, {self._reader.num_record_batches} in its index")
        except BaseException:
            self._file.close()
            raise

    def values(self, column: str) -> int:
        """Not told before the batches are decoded; `_batch_lengths` has looked at what they claim."""
        return 0

    def batches(self, unit: int, column: str, records: int) -> Iterator[Any]:
        for i in range(unit, len(self.lengths)):
            yield self._reader.get_batch(i).column(column)

    def close(self) -> None:
        self._file.close()


class _IpcStream:
    format = "arrow stream"

    def __init__(self, file: ByteReader) -> None:
        self._file = file
        self.lengths = [sum(_batch_lengths(file, 0))]
        with file.open() as stream, library("pyarrow", file.path).ipc.open_stream(stream) as reader:
            self.schema = reader.schema

    def values(self, column: str) -> int:
        """Not told before the batches are decoded; `_batch_lengths` has looked at what they claim."""
        return 0

    def batches(self, unit: int, column: str, records: int) -> Iterator[Any]:
        pa = library("pyarrow", self._file.path)
        with self._file.open() as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                yield batch.column(column)

    def close(self) -> None:
        """Each pass opens the file anew."""
