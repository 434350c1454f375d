"""zarr, format 3 (or 2): an array of shape (T, V) or (B, T, V), alone or in a group.

zarr reads a chunk that is absent as zeros, on opening and at any time later. So the folder is listed, and rows are read
from files that were there when the array was opened and still are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.sources import unwritten
from kullback.evaluation.sources.base import (
    Source,
    batches,
    check_claim,
    chosen,
    flat_shape,
    integer_column,
    stored_dtype,
)
from kullback.evaluation.sources.folder import Folder
from kullback.evaluation.sources.sparse import Pick, refuse_topk

MARKERS = {"zarr.json", ".zarray", ".zgroup"}
# chunks that are looked for, however few files there are
_FREE_CHUNKS = 1 << 14
_MISSING = 2**64 - 1  # in the index of a shard


class Zarr(Source):
    """Rows of the array at `path`, or in the group there of `tensor`, `logits` or the only matrix."""

    def __init__(self, path: str, tensor: str | None = None, dtype: str | None = None, salvage: bool = False) -> None:
        zarr = library("zarr", f"{path}: zarr")
        self._folder = Folder(path)  # before the library meets a pipe in it
        try:
            node = zarr.open(path, mode="r")
            arrays = {} if isinstance(node, zarr.Array) else dict(node.arrays())
        except Exception as error:
            raise ValueError(f"{path}: not a readable zarr array or group ({error})") from None
        try:
            self._array: Any = node if isinstance(node, zarr.Array) else _find(arrays, tensor, path)
            self._open(path, dtype, salvage, arrays)
        except (ValueError, ImportError):
            raise
        except Exception as error:  # each codec of the library has its own errors
            raise ValueError(f"{path}: not a readable zarr array or group ({error})") from None

    def _open(self, path: str, dtype: str | None, salvage: bool, arrays: dict[str, Any]) -> None:
        """Check what the array holds; the columns beside it."""
        refuse_topk({name: x.shape for name, x in arrays.items()}, self._array.name.strip("/"), path)
        what = f"{path}: array {self._array.name!r}"
        stored = stored_dtype(self._array.dtype, dtype, what)
        shape = flat_shape(self._array.shape, what)
        self._chunks = _Chunks(self._array, self._folder, what)
        self._written = self._chunks.written()
        unwritten.refuse(self._written, salvage, what)
        super().__init__(path, "zarr", shape, stored.newbyteorder("="))
        self.array, self.stored = self._array.name.strip("/") or None, self._array.shape
        for name in ("tokens", "groups"):
            if name in arrays and arrays[name].name != self._array.name:
                what = f"{path}: array {name!r}"
                if arrays[name].size != shape[0]:
                    raise ValueError(f"{path}: {name} has {arrays[name].size} values, expected {shape[0]}")
                chunks = _Chunks(arrays[name], self._folder, what)
                if name == "tokens":  # zarr leaves out chunks of zeros, and group 0 is as good as any
                    unwritten.refuse(chunks.written(), False, what)
                setattr(self, name, integer_column(arrays[name][:], shape[0], what))

    def facts(self) -> dict[str, Any]:
        return super().facts() | unwritten.facts(self._written)

    def stamp(self) -> list[Any]:
        return [self._folder.files[name] for name in sorted(self._folder.files)]

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        flat = self._array.ndim == 2
        length = 0 if flat else self._array.shape[1]
        try:
            if flat:
                out[...] = self._array[start:stop].view(self.dtype)
                self._folder.check(self._chunks.names(slice(start, stop)))
            else:
                for batch, rows, to in batches(start, stop, length):
                    out[to] = self._array[batch, rows].view(self.dtype)
                    self._folder.check(self._chunks.names(slice(batch, batch + 1), rows))
        except Exception as error:  # each codec of the library has its own errors
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be read ({error})") from error
        unwritten.blank(self._written, start, out)


def load_arrays(path: str, pick: Pick) -> dict[str, NDArray[Any]]:
    """Whole arrays of a group: those that `pick` takes, of the shapes of all."""
    zarr = library("zarr", f"{path}: zarr")
    folder = Folder(path)
    try:
        node = zarr.open(path, mode="r")
        arrays = {} if isinstance(node, zarr.Array) else dict(node.arrays())
        found = {}
        for name in pick({name: x.shape for name, x in arrays.items()}):
            chunks = _Chunks(arrays[name], folder, f"{path}: array {name!r}")
            if arrays[name].dtype.kind == "f":  # zarr leaves out chunks of zeros, which are ids, but no log-probs
                unwritten.refuse(chunks.written(), False, f"{path}: array {name!r}")
            found[name] = np.asarray(arrays[name][...])
        folder.check(list(folder.files))
        return found
    except (ValueError, ImportError, OSError):
        raise
    except Exception as error:  # each codec of the library has its own errors
        raise ValueError(f"{path}: not a readable zarr group ({error})") from None


class _Chunks:
    """The files of an array: one a chunk, or one a shard with an index of its chunks."""

    def __init__(self, array: Any, folder: Folder, what: str) -> None:
        self._array, self._folder, self._what = array, folder, what
        self._shape = array.shape
        self._chunk = array.chunks
        self._file = array.shards or array.chunks  # extent of a file
        self._prefix = f"{array.path}/" if array.path else ""
        row_bytes = max(self._shape[-1], math.prod(self._chunk)) * array.dtype.itemsize
        check_claim(math.prod(self._shape[:-1]), row_bytes, folder.size, what)
        self._grid = [-(-n // c) for n, c in zip(self._shape, self._file, strict=True)]
        if math.prod(self._grid) > max(_FREE_CHUNKS, 64 * len(folder.files)):
            raise ValueError(f"{what} has {math.prod(self._grid)} chunks in a folder of {len(folder.files)} files")

    def names(self, *rows: slice) -> Iterator[str]:
        """The files of some rows, given by a range on each axis but the last."""
        spans = [range(r.start // c, -(-r.stop // c)) for r, c in zip(rows, self._file, strict=False)]
        return map(self._name, itertools.product(*spans, range(self._grid[-1])))

    def written(self) -> NDArray[np.bool_] | None:
        """Which rows are there; None if all are."""
        shape, chunk = self._shape, self._chunk
        if len(shape) == 1:
            return unwritten.written_rows((*shape, 1), (*chunk, 1), ((*at, 0) for at in self._origins()))
        return unwritten.written_rows(shape, chunk, self._origins())

    def _name(self, place: tuple[int, ...]) -> str:
        return self._prefix + str(self._array.metadata.encode_chunk_key(place))

    def _origins(self) -> Iterator[tuple[int, ...]]:
        """Where each chunk that is there begins."""
        for place in itertools.product(*map(range, self._grid)):
            name = self._name(place)
            if name not in self._folder.files:
                continue
            origin = tuple(i * c for i, c in zip(place, self._file, strict=True))
            if self._array.shards is None:
                yield origin
                continue
            inner = [f // c for f, c in zip(self._file, self._chunk, strict=True)]
            for at in np.argwhere(self._index(name).reshape(*inner, 2)[..., 0] != _MISSING).tolist():
                start = tuple(o + i * c for o, i, c in zip(origin, at, self._chunk, strict=True))
                if all(a < n for a, n in zip(start, self._shape, strict=True)):
                    yield start

    def _index(self, name: str) -> NDArray[np.uint64]:
        """(offset, length) of each chunk of a shard."""
        codec = self._array.metadata.codecs[0]
        kinds = [type(c).__name__ for c in codec.index_codecs]
        nested = any(hasattr(c, "index_codecs") for c in codec.codecs)
        if nested or kinds not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]):
            raise ValueError(f"{self._what}: its shards do not tell in a known way which chunks they have")
        count = 2 * math.prod(f // c for f, c in zip(self._file, self._chunk, strict=True))
        size = 8 * count + 4 * (len(kinds) - 1)
        if self._folder.files[name][0] < size:
            raise ValueError(f"{self._what}: the shard {name} ends before its index")
        data = self._folder.read(name, size, at_end=codec.index_location.value == "end")
        endian = codec.index_codecs[0].endian
        return np.frombuffer(data, ">u8" if endian is not None and endian.value == "big" else "<u8", count)


def _find(arrays: dict[str, Any], tensor: str | None, path: str) -> Any:
    matrices = [name for name, array in arrays.items() if array.ndim in (2, 3)]
    return arrays[chosen(tensor, list(arrays), matrices, path)]
