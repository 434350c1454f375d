"""HDF5: a dataset of shape (T, V) or (B, T, V), read through h5py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import (
    ByteReader,
    LocalFile,
    Source,
    batches,
    chosen,
    flat_shape,
    integer_column,
    library,
    stored_dtype,
)

MAGIC = b"\x89HDF\r\n\x1a\n"


class Hdf5(Source):
    """Rows of the dataset `tensor`, else of `logits`, else of the only float matrix."""

    def __init__(self, file: ByteReader, tensor: str | None = None, dtype: str | None = None) -> None:
        h5py = library("h5py", f"{file.path}: HDF5")
        try:
            self._handle = h5py.File(file.path if isinstance(file, LocalFile) else file.open(), "r")
        except Exception as error:
            raise ValueError(f"{file.path}: not a readable HDF5 file ({error})") from None
        try:
            self._dataset = _find(self._handle, tensor, file.path, h5py)
            what = f"{file.path}: dataset {self._dataset.name!r}"
            stored = stored_dtype(self._dataset.dtype, dtype, what)
            shape = flat_shape(self._dataset.shape, what)
            _check_chunks(self._dataset, file)
            super().__init__(file.path, "hdf5", shape, stored.newbyteorder("="))
            for name in ("tokens", "groups"):
                column = self._handle.get(name)
                if isinstance(column, h5py.Dataset) and column.name != self._dataset.name:
                    if column.size != shape[0]:
                        raise ValueError(f"{file.path}: {name} has {column.size} values, expected {shape[0]}")
                    what = f"{file.path}: dataset {name!r}"
                    setattr(self, name, integer_column(column[()], shape[0], what))
        except BaseException as error:
            self._handle.close()
            if isinstance(error, ValueError) or not isinstance(error, Exception):
                raise
            # RuntimeError, KeyError, TypeError, MemoryError: the library has one for each kind of damage
            raise ValueError(f"{file.path}: not a readable HDF5 file ({error})") from None
        self._file = file

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        self._file.check()
        # bfloat16 is unknown to HDF5: its words are read as such
        target = out.view(self._dataset.dtype) if self.dtype.name == "bfloat16" else out
        try:
            if self._dataset.ndim == 2:
                self._dataset.read_direct(target, np.s_[start:stop])
                return
            for batch, rows, to in batches(start, stop, self._dataset.shape[1]):
                self._dataset.read_direct(target, np.s_[batch, rows], np.s_[to])
        except Exception as error:
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be read ({error})") from None

    def close(self) -> None:
        self._handle.close()


def _check_chunks(dataset: Any, file: ByteReader) -> None:
    """Chunks as a damaged file may list them make the library's filters read beyond their buffers."""
    if dataset.chunks is None or not hasattr(dataset.id, "chunk_iter"):
        return
    least = 5 if dataset.fletcher32 else 1  # a checksum of 4 bytes and something that it is of

    def check(chunk: Any) -> None:
        if not least <= chunk.size <= file.size - chunk.byte_offset:
            raise ValueError(f"{file.path}: a chunk of {chunk.size} bytes at byte {chunk.byte_offset}; it is damaged")

    dataset.id.chunk_iter(check)


def _find(handle: Any, tensor: str | None, path: str, h5py: Any) -> Any:
    found: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    handle.visititems(collect)
    matrices = [name for name, d in found.items() if len(d.shape or ()) in (2, 3) and d.dtype.kind in "fV"]
    name = chosen(tensor and tensor.strip("/"), list(found), matrices, path)
    return found[name]
