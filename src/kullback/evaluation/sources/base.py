"""What every reader gives: a shape, a dtype and rows on demand; and the one way bytes are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import library, views
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.pipes import StreamFile

FLOAT_DTYPES = tuple(kind.name for kind in views.FLOATS)
# what these files cannot name: it comes as raw words
UNNAMED = {kind.name: kind for kind in views.FLOATS if not kind.numpy}
# what a compressed file may say of itself, however small it is, and what no file of logits comes near
FREE_ROWS = 1 << 20
FREE_ROW_BYTES = 1 << 26
LARGEST_EXPANSION = 1 << 12
# what the header of a stream may say, whose size nobody knows: some numbers are kept of every row
MOST_STREAMED_ROWS = 1 << 26


class Source:
    """Rows of logits (or log-probabilities, or probabilities) in a file, read on demand.

    Attributes
    ----------
    path : str
        The file or directory.
    format : str
        Short name of the format: "npy", "safetensors", "llama.cpp", ...
    shape : tuple of int
        (T, V): rows (tokens) and vocabulary.
    dtype : numpy.dtype
        What `rows` returns: float64, float32, float16, or bfloat16, float8_e4m3fn or float8_e5m2 of ml_dtypes.
    tokens : ndarray of int64 (T,) or None
        Target token of each row: the token whose probability the row should be asked for.
    groups : ndarray of int64 (T,) or None
        Chunk, window or document that each row comes from.
    array : str or None
        Name of the array or column, where the format has names.
    stored : tuple of int or None
        Shape of that array as the file has it, where it may have three axes.
    """

    record: np.dtype[Any] | None = None  # of a row of what has no logits, which `records` gives
    array: str | None = None
    stored: tuple[int, ...] | None = None

    def __init__(
        self,
        path: str,
        format: str,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        tokens: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        if shape[1] < 1:
            raise ValueError(f"{path}: a vocabulary of {shape[1]} entries; rows need at least one")
        self.path = path
        self.format = format
        self.shape = shape
        self.dtype = dtype
        self.tokens = tokens
        self.groups = groups

    by_shard: bool = False  # whether `groups` are merely the files that the rows lie in

    def rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read rows `start` to `stop` and nothing else.

        Parameters
        ----------
        start, stop : int
            0 <= start <= stop <= T.
        out : ndarray (stop - start, V), optional
            C-contiguous array of the source's dtype to fill; reusing one saves an allocation a chunk.

        Returns
        -------
        ndarray (stop - start, V)
            `out`, or a new array, with the values as the file stores them (decoded where it stores codes).

        Raises
        ------
        ValueError
            If the range or `out` does not fit.
        OSError
            If the file was truncated or replaced since it was opened.
        """
        shape = self._range(start, stop), self.shape[1]
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"`out` is {out.dtype} of shape {out.shape}, expected C-contiguous {self.dtype} {shape}")
        if shape[0]:
            self._read(start, stop, out)
        return out

    def facts(self) -> dict[str, Any]:
        """Facts about the file, ready for JSON."""
        return {
            "path": self.path,
            "format": self.format,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "tokens": self.tokens is not None,
            "groups": None if self.groups is None else int(np.unique(self.groups).size),
        } | ({} if self.array is None else {"array": self.array})

    def stamp(self) -> list[Any]:
        """What tells the files that rows are read from, one entry each, from others under their names."""
        file: ByteReader | None = getattr(self, "_file", None)
        return [] if file is None else [file.stamp()]

    def streams(self) -> list[StreamFile]:
        """The pipes that rows are read from, whose rows come once and in order; for files there are none."""
        file = getattr(self, "_file", None)
        return [file] if isinstance(file, StreamFile) else []

    def close(self) -> None:
        """Release whatever the reader holds open; for most formats that is nothing."""
        for stream in self.streams():
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.format} {self.path!r}: {self.shape[0]} x {self.shape[1]} {self.dtype.name}>"

    def records(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` of a source that has records."""
        raise NotImplementedError

    def _range(self, start: int, stop: int) -> int:
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} asked for; {self.path} has rows 0 to {self.shape[0]}")
        return stop - start

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        raise NotImplementedError


class ReaderOptions(TypedDict, total=False):
    """The keywords of `open_logits`, where another function hands them on."""

    tensor: str | None
    dtype: str | None
    salvage: bool
    lm_head: str | os.PathLike[str] | Source | None
    norm: str | None
    layer: int | None


class JobOptions(ReaderOptions, total=False):
    """Those of a job: of all its files, and of one of them where it differs."""

    read: Mapping[str, ReaderOptions] | None


class FlatRows(Source):
    """Rows of one dtype that lie one after the other from `offset` on."""

    def __init__(
        self,
        file: ByteReader,
        format: str,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        offset: int,
        tokens: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(file.path, format, shape, dtype.newbyteorder("="), tokens, groups)
        needed = offset + shape[0] * shape[1] * dtype.itemsize
        if needed > file.size:
            raise ValueError(
                f"{file.path}: {file.size} bytes, but its header makes {needed} ({shape[0]} x {shape[1]} "
                f"{dtype.name}); the file is truncated"
            )
        if isinstance(file, StreamFile):
            check_stream(shape[0], shape[1] * dtype.itemsize, file.path)
            file.place_rows(offset, shape[1] * dtype.itemsize, shape[0])
        self._file = file
        self._offset = offset
        self._swapped = not dtype.isnative

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        self._file.read_into(out, self._offset + start * self.shape[1] * self.dtype.itemsize)
        if self._swapped:
            out.byteswap(inplace=True)


def check_claim(rows: int, row_bytes: int, size: int, what: str) -> None:
    """Refuse what a file that is compressed, or has holes, may claim in no proportion to its `size` on disk.

    Some numbers are kept of every row, and a row at least is decoded at a time: both are bounded by the file's size.
    """
    if rows > max(FREE_ROWS, size) or row_bytes > max(FREE_ROW_BYTES, LARGEST_EXPANSION * size):
        raise ValueError(
            f"{what} claims {rows} rows of {row_bytes} bytes in {size} bytes; no writer of logits does that"
        )


def check_stream(rows: int, row_bytes: int, path: str) -> None:
    """Refuse what the header of a stream claims beyond reason: there is no size to compare it with."""
    if rows > MOST_STREAMED_ROWS or row_bytes > FREE_ROW_BYTES:
        raise ValueError(
            f"{path}: its header claims {rows} rows of {row_bytes} bytes; expected of a stream at most "
            f"{MOST_STREAMED_ROWS} rows of {FREE_ROW_BYTES} bytes"
        )


def float_dtype(name: str, path: str) -> np.dtype[Any]:
    """The NumPy dtype of a supported float type by name; ValueError for anything else."""
    if name not in FLOAT_DTYPES:
        raise ValueError(f"{path}: holds {name}, expected one of {', '.join(FLOAT_DTYPES)}")
    if name not in UNNAMED:
        return np.dtype(name)
    dtype: np.dtype[Any] = np.dtype(getattr(library("ml_dtypes", f"{path}: {name}"), name))
    return dtype


def stored_dtype(stored: np.dtype[Any], asked: str | None, path: str) -> np.dtype[Any]:
    """`stored`, a supported float type; or the one of those NumPy lacks that `asked` says the words are."""
    if stored.kind in "Vui" and stored.itemsize <= 2 and stored.name not in UNNAMED:
        possible = [name for name, kind in UNNAMED.items() if kind.bytes == stored.itemsize]
        if asked is not None and asked in possible:
            return float_dtype(asked, path)
        said = " or ".join(f'dtype="{name}"' for name in possible)
        raise ValueError(
            f"{path}: holds {stored.itemsize}-byte words ({stored}); if they are {' or '.join(possible)} say {said}"
        )
    if asked not in (None, stored.name):
        raise ValueError(f"{path}: holds {stored.name}, but `dtype` says {asked}")
    float_dtype(stored.name, path)
    return stored


def batches(start: int, stop: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Split rows of a (B, length, V) array: batch, rows in it, and where they go in the result."""
    row = start
    while row < stop:
        batch, first = divmod(row, length)
        count = min(length - first, stop - row)
        yield batch, slice(first, first + count), slice(row - start, row - start + count)
        row += count


def chosen(tensor: str | None, names: list[str], candidates: list[str], path: str) -> str:
    """`tensor`, or without it `logits`, or the only candidate; ValueError if that does not settle it."""
    if tensor is None and "logits" in names:
        return "logits"
    if tensor is None and len(candidates) == 1:
        return candidates[0]
    if tensor is None or tensor not in names:
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ValueError(f"{path}: no array {tensor or 'logits'!r}; it holds {listed or 'none'}, see `tensor`")
    return tensor


def flat_shape(shape: tuple[int, ...], what: str) -> tuple[int, int]:
    """(T, V) of a 2-D or 3-D array, (B, T, V) being B*T rows; ValueError for anything else."""
    if len(shape) not in (2, 3) or any(n < 0 for n in shape):
        raise ValueError(f"{what} has shape {tuple(shape)}, expected (T, V) or (B, T, V)")
    rows = shape[0] if len(shape) == 2 else shape[0] * shape[1]
    if max(rows, shape[-1]) > sys.maxsize:
        raise ValueError(f"{what} has shape {tuple(shape)}, more rows or columns than a file can hold")
    return rows, shape[-1]


def integer_column(values: ArrayLike, rows: int, what: str) -> NDArray[np.int64]:
    """One integer a row as int64 (T,), from any shape with T elements; ValueError for anything else."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.size != rows:
        raise ValueError(f"{what} is {array.dtype} of shape {array.shape}, expected {rows} integers, one a row")
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{what} has {array.max()}, expected integers of 64 bits with a sign")
    return array.reshape(-1).astype(np.int64)
