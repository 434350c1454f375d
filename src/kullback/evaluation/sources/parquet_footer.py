"""What the footer of a Parquet file says of its column chunks, read without the library.

pyarrow ends the process where it is asked for the column chunk of a damaged footer (a C++ exception that nothing
catches), and readers must know what a file claims before any of it is decoded. The footer is one structure of Thrift's
compact protocol (parquet.thrift of apache/parquet-format; fields that are not needed are read and left): each field
has a number and a type, whole numbers are zigzag integers of variable length.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from kullback.evaluation.sources.files import ByteReader

MAGIC = b"PAR1"
_DEEPEST = 16  # structures within structures: a footer has about eight
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12
# numbers of the fields, from parquet.thrift
_ROW_GROUPS, _COLUMNS, _FILE_PATH, _META_DATA, _PATH_IN_SCHEMA, _NUM_VALUES = 4, 1, 1, 3, 3, 5
_UNCOMPRESSED, _COMPRESSED, _DATA_PAGE, _DICTIONARY_PAGE = 6, 7, 9, 11  # of a chunk: bytes, and where pages begin
_PAGE_UNCOMPRESSED, _PAGE_COMPRESSED = 2, 3
_SMALL = 64 << 20  # bytes of a file whose pages are looked at; of a larger one a page, 2 GiB at most, is no great part
_HEADER = 4096  # bytes that the header of a page takes, with its statistics


class ColumnChunk(NamedTuple):
    """One column of one row group."""

    path: tuple[str, ...]
    values: int  # nulls included
    elsewhere: bool  # in another file


def column_chunks(file: ByteReader) -> list[ColumnChunk]:
    """The column chunks of all row groups, in order; OSError where the footer is damaged."""
    end = file.read(8, max(0, file.size - 8))
    size = int.from_bytes(end[:4], "little")
    if len(end) < 8 or end[4:] != MAGIC or size > file.size - 8:
        raise OSError("no Parquet footer")
    try:
        footer = _Compact(file.read(size, file.size - 8 - size)).structure()
        chunks = [chunk for group in footer[_ROW_GROUPS] for chunk in group[_COLUMNS]]
        if file.size <= _SMALL:
            for chunk in chunks:
                _check_pages(file, chunk[_META_DATA])
        return [_chunk(chunk, chunk[_META_DATA]) for chunk in chunks]
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error):
        raise OSError("a damaged Parquet footer") from None


def _chunk(chunk: dict[int, Any], metadata: dict[int, Any]) -> ColumnChunk:
    path = tuple(name.decode() for name in metadata[_PATH_IN_SCHEMA])
    values = int(metadata[_NUM_VALUES])
    if values < 0:
        raise OSError(f"column {'.'.join(path)!r} has {values} values")
    return ColumnChunk(path, values, _FILE_PATH in chunk)


def _check_pages(file: ByteReader, metadata: dict[int, Any]) -> None:
    """That no page claims more memory than its chunk has, which the library would ask for before it looks at the page.

    A header that is longer than is looked at ends the look.
    """
    at, most = metadata.get(_DICTIONARY_PAGE) or metadata[_DATA_PAGE], max(metadata[_UNCOMPRESSED], _SMALL)
    end = min(at + metadata[_COMPRESSED], file.size)
    while 0 <= at < end:
        header = _Compact(file.read(min(_HEADER, end - at), at))
        try:
            page = header.structure()
            claimed, taken = int(page[_PAGE_UNCOMPRESSED]), int(page[_PAGE_COMPRESSED])
        except IndexError:
            return
        if claimed > most or taken < 0:
            raise OSError(f"a page of {claimed} bytes in a column chunk of {metadata[_UNCOMPRESSED]}")
        at += header.at + taken


class _Compact:
    """Values of the compact protocol, one after another; each takes a byte or more, so that no claim costs memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def at(self) -> int:
        """Bytes that were read."""
        return self._at

    def structure(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        if depth > _DEEPEST:
            raise struct.error
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == _MAP:
            count = self._unsigned()
            kinds = self._byte() if count else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(count)]
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _DOUBLE:
            return struct.unpack("<d", self._bytes(8))[0]
        if kind in (_TRUE, _FALSE, _BYTE):  # truths in lists are bytes too
            return self._byte()
        if _BYTE < kind <= _I64:
            return self._integer()
        raise struct.error

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise IndexError
        self._at += count
        return self._data[self._at - count : self._at]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise struct.error

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
