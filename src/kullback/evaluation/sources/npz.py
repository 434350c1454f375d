"""NumPy's `.npz`, a zip archive of `.npy` members: stored ones are read in place, deflated ones in order."""

from __future__ import annotations

import lzma
import math
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import (
    FlatRows,
    Source,
    check_claim,
    chosen,
    flat_shape,
    integer_column,
    stored_dtype,
)
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.npy import LONGEST_HEADER, parse_header
from kullback.evaluation.sources.sparse import Pick, refuse_topk

MAGIC = b"PK\x03\x04"
# no deflate stream expands further (zlib, "Technical Details"): a member that claims more is not read
LARGEST_EXPANSION = 1032
# what decompressing says of damaged data
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)


def open_npz(file: ByteReader, tensor: str | None = None, dtype: str | None = None) -> Source:
    """Rows of the member `tensor`, else of `logits`, else of the only one besides `tokens` and `groups`."""
    try:
        with file.open() as stream, zipfile.ZipFile(stream) as archive:
            return _open_member(file, archive, tensor, dtype)
    except (*DAMAGED, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file.path}: not a readable .npz archive ({error})") from None


def _open_member(file: ByteReader, archive: zipfile.ZipFile, tensor: str | None, dtype: str | None) -> Source:
    members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
    candidates = [name for name in members if name not in ("tokens", "groups")]
    name = chosen(tensor, list(members), candidates, file.path)
    refuse_topk(_Shapes(archive, members), name, file.path)
    info = members[name]
    if info.file_size > max(1, info.compress_size) * LARGEST_EXPANSION:
        raise ValueError(f"{file.path}: member {name!r} claims {info.file_size} bytes, more than it can hold")
    what = f"{file.path}: member {name!r}"
    with archive.open(info) as stream:
        shape, fortran, stored, header = parse_header(stream.read(LONGEST_HEADER), what)
    stored = stored_dtype(stored, dtype, what)
    rows, vocab_size = flat_shape(shape, what)
    if fortran:
        raise ValueError(f"{what} is in Fortran order, so that no row is contiguous; save it in C order")
    check_claim(rows, vocab_size * stored.itemsize, file.size, what)
    if info.file_size != header + rows * vocab_size * stored.itemsize:
        raise ValueError(f"{what} has {info.file_size} bytes, which do not fit its shape {shape}")
    columns = [
        _integers(archive, members[column], rows, f"{file.path}: member {column!r}")
        if column in members and column != name
        else None
        for column in ("tokens", "groups")
    ]
    if info.compress_type == zipfile.ZIP_STORED:
        start = member_start(file, info) + header
        source: Source = FlatRows(file, "npz", (rows, vocab_size), stored, start, *columns)
    else:
        source = Deflated(file, info, (rows, vocab_size), stored, header, *columns)
    source.array, source.stored = name, shape
    return source


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    with archive.open(info) as member:
        return parse_header(member.read(LONGEST_HEADER), f"{archive.filename}: member {info.filename!r}")


class _Shapes(Mapping[str, tuple[int, ...]]):
    """The shapes of members, whose headers are read when they are asked for."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        self._archive, self._members = archive, members

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return _head(self._archive, self._members[name])[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def load_arrays(file: ByteReader, pick: Pick) -> dict[str, NDArray[Any]]:
    """Whole members: those that `pick` takes, of the shapes of all."""
    found = {}
    try:
        with file.open() as stream, zipfile.ZipFile(stream) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
            heads = {name: _head(archive, info) for name, info in members.items()}
            for name in pick({name: head[0] for name, head in heads.items()}):
                shape, fortran, dtype, offset = heads[name]
                size, info = math.prod(shape) * dtype.itemsize, members[name]
                if info.compress_size > file.size:  # so much would be asked for at once
                    raise ValueError(f"{file.path}: member {name!r} claims {info.compress_size} bytes of {file.size}")
                most = max(1, info.compress_size) * LARGEST_EXPANSION
                if fortran or dtype.kind not in "fiub" or size + offset != info.file_size or info.file_size > most:
                    raise ValueError(
                        f"{file.path}: member {name!r} is {dtype} of shape {shape}, expected numbers in C order"
                    )
                found[name] = np.frombuffer(archive.read(info), dtype, offset=offset).reshape(shape)
    except (*DAMAGED, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file.path}: not a readable .npz archive ({error})") from None
    return found


def member_start(file: ByteReader, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    # the local header repeats the name and has an extra field of its own length
    local = file.read(30, info.header_offset)
    return info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def _integers(archive: zipfile.ZipFile, info: zipfile.ZipInfo, rows: int, what: str) -> NDArray[np.int64]:
    with archive.open(info) as stream:
        data = stream.read(LONGEST_HEADER + 8 * rows)
    shape, _, dtype, offset = parse_header(data[:LONGEST_HEADER], what)
    if dtype.kind not in "iu" or len(data) - offset != rows * dtype.itemsize:
        raise ValueError(f"{what} is {dtype} of shape {shape}, expected {rows} integers, one a row")
    return integer_column(np.frombuffer(data, dtype, offset=offset), rows, what)


class Deflated(Source):
    """Rows of a compressed member: cheap in order, from the start again when asked for earlier rows."""

    def __init__(
        self,
        file: ByteReader,
        info: zipfile.ZipInfo,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        header: int,
        tokens: NDArray[np.int64] | None,
        groups: NDArray[np.int64] | None,
    ) -> None:
        super().__init__(file.path, "npz", shape, dtype.newbyteorder("="), tokens, groups)
        self._file = file
        self._stream = file.open()
        self._member = zipfile.ZipFile(self._stream).open(info)  # noqa: SIM115 (closed by close)
        self._header = header
        self._swapped = not dtype.isnative
        self._lock = threading.Lock()

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        self._file.check()
        view = out.reshape(-1).view(np.uint8).data
        try:
            with self._lock:
                self._member.seek(self._header + start * self.shape[1] * self.dtype.itemsize)
                filled = 0
                while filled < len(view):
                    count = self._member.readinto(view[filled:])  # type: ignore[attr-defined]
                    if not count:
                        raise EOFError("ended early")
                    filled += count
        except DAMAGED as error:
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be decompressed ({error})") from None
        if self._swapped:
            out.byteswap(inplace=True)

    def close(self) -> None:
        self._member.close()
        self._stream.close()
