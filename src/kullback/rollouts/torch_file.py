"""What `torch.save` wrote, read without torch and without running anything of it.

The file is a zip archive of a pickle and the bytes of tensors. A pickle may name any function to be called; here it
gets tensors as NumPy arrays, and of everything else that has a class of its own an object that holds nothing.
"""

from __future__ import annotations

import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.npz import DAMAGED

__all__ = ["Nothing", "holds_torch", "load"]

_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_PLAIN = {("collections", "OrderedDict"): dict, ("builtins", "set"): set, ("torch", "Size"): tuple}


class Nothing:
    """Stands where the file has an object of a class that is not read."""

    def __init__(self, *values: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class _Storage(NamedTuple):
    dtype: str


def holds_torch(file: LocalFile) -> bool:
    """Whether an archive is one of `torch.save`, and not of NumPy."""
    try:
        with file.open() as stream, zipfile.ZipFile(stream) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (*DAMAGED, NotImplementedError):
        return False


def load(file: LocalFile) -> Any:
    """Dicts, lists, numbers, text and tensors as they were saved; ValueError for a damaged file."""
    try:
        with file.open() as stream, zipfile.ZipFile(stream) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            root = name.removesuffix("data.pkl")
            order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
            with archive.open(name) as text:
                return _Reader(text, archive, root, ">" if order == b"big" else "<").load()
    except (*DAMAGED, pickle.UnpicklingError, NotImplementedError, KeyError, IndexError, TypeError, AttributeError,
            OverflowError, ValueError) as error:  # fmt: skip
        raise ValueError(f"{file.path}: not a readable file of torch.save ({str(error)[:80]})") from None


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str, order: str) -> None:
        super().__init__(stream)
        self._archive, self._root, self._order = archive, root, order

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _tensor
        return _PLAIN.get((module, name), Nothing)

    def persistent_load(self, identity: Any) -> Any:
        _, kind, key, _, count = identity
        if not isinstance(kind, _Storage):
            return Nothing()
        data = self._archive.read(f"{self._root}data/{key}")
        if kind.dtype == "bfloat16":
            words = np.frombuffer(data, f"{self._order}u2", count).astype(np.uint32) << 16
            return words.view(np.float32)
        return np.frombuffer(data, np.dtype(f"{self._order}{kind.dtype}"), count)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    if isinstance(storage, Nothing):
        return storage
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if 0 not in size else offset - 1
    if offset < 0 or min((*stride, 0)) < 0 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    found: NDArray[Any] = np.lib.stride_tricks.as_strided(
        storage[offset:], size, tuple(step * storage.itemsize for step in stride), writeable=False
    )
    return found
