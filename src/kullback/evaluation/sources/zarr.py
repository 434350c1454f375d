"""zarr, format 3 (or 2): an array of shape (T, V) or (B, T, V), alone or in a group."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from kullback.evaluation.sources.base import (
    Source,
    batches,
    chosen,
    flat_shape,
    integer_column,
    library,
    stored_dtype,
)

MARKERS = {"zarr.json", ".zarray", ".zgroup"}


class Zarr(Source):
    """Rows of the array at `path`, or in the group there of `tensor`, `logits` or the only matrix.

    zarr reads a chunk that is absent as zeros, so absent chunks are an error unless `salvage` says otherwise.
    """

    def __init__(self, path: str, tensor: str | None = None, dtype: str | None = None, salvage: bool = False) -> None:
        zarr = library("zarr", f"{path}: zarr")
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
        what = f"{path}: array {self._array.name!r}"
        stored = stored_dtype(self._array.dtype, dtype, what)
        shape = flat_shape(self._array.shape, what)
        present, chunks = self._array.nchunks_initialized, self._array.nchunks
        if present < chunks and not salvage:
            raise ValueError(
                f"{what}: {present} of its {chunks} chunks are there; salvage=True reads the others as "
                f"{self._array.fill_value}"
            )
        super().__init__(path, "zarr", shape, stored.newbyteorder("="))
        self._absent = chunks - present
        for name in ("tokens", "groups"):
            if name in arrays:
                if arrays[name].size != shape[0]:
                    raise ValueError(f"{path}: {name} has {arrays[name].size} values, expected {shape[0]}")
                setattr(self, name, integer_column(arrays[name][:], shape[0], f"{path}: array {name!r}"))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"absent_chunks": self._absent}

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        try:
            if self._array.ndim == 2:
                out[...] = self._array[start:stop].view(self.dtype)
                return
            for batch, rows, to in batches(start, stop, self._array.shape[1]):
                out[to] = self._array[batch, rows].view(self.dtype)
        except Exception as error:  # each codec of the library has its own errors
            raise OSError(f"{self.path}: rows {start} to {stop} cannot be read ({error})") from error


def _find(arrays: dict[str, Any], tensor: str | None, path: str) -> Any:
    matrices = [name for name, array in arrays.items() if array.ndim in (2, 3)]
    return arrays[chosen(tensor, list(arrays), matrices, path)]
