"""HDF5: a dataset of shape (T, V) or (B, T, V), read through h5py.

What a file says lies in other files (external storage, links, virtual datasets) is refused: its maker would choose what
is read. Chunks that were never written are no rows of zeros; a dataset without chunks does not tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.sources import unwritten
from kullback.evaluation.sources.base import (
    UNNAMED,
    Source,
    batches,
    check_claim,
    chosen,
    flat_shape,
    integer_column,
    stored_dtype,
)
from kullback.evaluation.sources.files import ByteReader, LocalFile
from kullback.evaluation.sources.sparse import Pick, refuse_topk

MAGIC = b"\x89HDF\r\n\x1a\n"


class Hdf5(Source):
    """Rows of the dataset `tensor`, else of `logits`, else of the only float matrix."""

    def __init__(
        self, file: ByteReader, tensor: str | None = None, dtype: str | None = None, salvage: bool = False
    ) -> None:
        h5py = library("h5py", f"{file.path}: HDF5")
        try:
            self._handle = h5py.File(file.path if isinstance(file, LocalFile) else file.open(), "r")
        except Exception as error:
            raise ValueError(f"{file.path}: not a readable HDF5 file ({error})") from None
        try:
            self._open(file, tensor, dtype, salvage, h5py)
        except BaseException as error:
            self._handle.close()
            if isinstance(error, ValueError) or not isinstance(error, Exception):
                raise
            # RuntimeError, KeyError, TypeError, MemoryError: the library has one for each kind of damage
            raise ValueError(f"{file.path}: not a readable HDF5 file ({error})") from None
        self._file = file

    def _open(self, file: ByteReader, tensor: str | None, dtype: str | None, salvage: bool, h5py: Any) -> None:
        found = _datasets(self._handle, tensor, file.path, h5py)
        matrices = [name for name, d in found.items() if len(d.shape or ()) in (2, 3) and d.dtype.kind in "fV"]
        self._dataset = found[chosen(tensor and tensor.strip("/"), list(found), matrices, file.path)]
        refuse_topk({name: x.shape for name, x in found.items()}, self._dataset.name.strip("/"), file.path)
        what = f"{file.path}: dataset {self._dataset.name!r}"
        stored = stored_dtype(self._dataset.dtype, dtype, what)
        shape = flat_shape(self._dataset.shape, what)
        self._written = _written(self._dataset, file, what)
        unwritten.refuse(self._written, salvage, what)
        super().__init__(file.path, "hdf5", shape, stored.newbyteorder("="))
        self.array, self.stored = self._dataset.name.strip("/"), self._dataset.shape
        for name in ("tokens", "groups"):
            column = found.get(name)
            if column is not None and column.name != self._dataset.name:
                what = f"{file.path}: dataset {name!r}"
                if column.size != shape[0]:
                    raise ValueError(f"{file.path}: {name} has {column.size} values, expected {shape[0]}")
                unwritten.refuse(_written(column, file, what), False, what)
                setattr(self, name, integer_column(column[()], shape[0], what))

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        self._file.check()
        # what HDF5 does not know is read as words
        target = out.view(self._dataset.dtype) if self.dtype.name in UNNAMED else out
        try:
            if self._dataset.ndim == 2:
                self._dataset.read_direct(target, np.s_[start:stop])
            else:
                for batch, rows, to in batches(start, stop, self._dataset.shape[1]):
                    self._dataset.read_direct(target, np.s_[batch, rows], np.s_[to])
        except Exception as error:
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be read ({error})") from None
        self._file.check()
        unwritten.blank(self._written, start, out)

    def facts(self) -> dict[str, Any]:
        return super().facts() | unwritten.facts(self._written)

    def close(self) -> None:
        self._handle.close()


def load_arrays(file: ByteReader, pick: Pick) -> dict[str, NDArray[Any]]:
    """Whole datasets at the root: those that `pick` takes, of the shapes of all."""
    h5py = library("h5py", f"{file.path}: HDF5")
    try:
        with h5py.File(file.path if isinstance(file, LocalFile) else file.open(), "r") as handle:
            datasets = _datasets(handle, None, file.path, h5py)
            found = {}
            for name in pick({name: x.shape or () for name, x in datasets.items()}):
                what = f"{file.path}: dataset {name!r}"
                unwritten.refuse(_written(datasets[name], file, what), False, what)
                found[name] = np.asarray(datasets[name][()])
            return found
    except ValueError:
        raise
    except Exception as error:  # the library has one for each kind of damage
        raise ValueError(f"{file.path}: not a readable HDF5 file ({error})") from None


def _written(dataset: Any, file: ByteReader, what: str) -> NDArray[np.bool_] | None:
    """Which rows are in the file (None: all), after refusing what lies elsewhere or claims more than is there."""
    if dataset.is_virtual or dataset.external:
        kind = "virtual" if dataset.is_virtual else "stored externally"
        raise ValueError(f"{what} is {kind}: its values lie in other files; copy it into one file (h5repack, or h5py)")
    shape = dataset.shape if dataset.ndim > 1 else (*dataset.shape, 1)
    if dataset.chunks is None:
        there = dataset.size == 0 or dataset.id.get_storage_size() > 0
        return None if there else np.zeros(math.prod(shape[:-1]), np.bool_)
    row_bytes = max(shape[-1], math.prod(dataset.chunks)) * dataset.dtype.itemsize
    check_claim(math.prod(shape[:-1]), row_bytes, file.size, what)
    chunks = dataset.chunks if dataset.ndim > 1 else (*dataset.chunks, 1)
    return unwritten.written_rows(shape, chunks, _origins(dataset, file))


def _origins(dataset: Any, file: ByteReader) -> Iterator[tuple[int, ...]]:
    """Where each chunk that is in the file begins.

    Chunks as a damaged file may list them make the library's filters read beyond their buffers.
    """
    least = 5 if dataset.fletcher32 else 1  # a checksum of 4 bytes and something that it is of
    found: list[tuple[int, ...]] = []

    def check(chunk: Any) -> None:
        if not least <= chunk.size <= file.size - chunk.byte_offset:
            raise ValueError(f"{file.path}: a chunk of {chunk.size} bytes at byte {chunk.byte_offset}; it is damaged")
        if any(at >= n for at, n in zip(chunk.chunk_offset, dataset.shape, strict=True)):
            return  # left from before the dataset was made smaller
        found.append((*chunk.chunk_offset, 0) if dataset.ndim == 1 else chunk.chunk_offset)

    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(check)
    else:
        for i in range(dataset.id.get_num_chunks()):
            check(dataset.id.get_chunk_info(i))
    return iter(found)


def _datasets(handle: Any, tensor: str | None, path: str, h5py: Any) -> dict[str, Any]:
    """The datasets of the file itself by name; ValueError for a link where one of the names that count is."""
    found: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    handle.visititems(collect)  # follows no links
    for name in ("logits", "tokens", "groups", (tensor or "").strip("/")):
        if name and "/" not in name and isinstance(handle.get(name, getlink=True), (h5py.ExternalLink, h5py.SoftLink)):
            raise ValueError(f"{path}: {name!r} is a link, which may lead to other files; expected the dataset itself")
    return found
