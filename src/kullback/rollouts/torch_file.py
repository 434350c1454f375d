"""What `torch.save` wrote, read without torch and without running anything of it.

The file is a zip archive of a pickle and the bytes of tensors. A pickle may name any function to be called; here it
gets tensors as NumPy arrays, and of everything else that has a class of its own an object that holds nothing.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.npz import DAMAGED

__all__ = ["DAMAGES", "PLAIN", "Nothing", "holds_torch", "load", "load_stream", "of_words"]

_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_NAMES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16", "int64": "i8", "int32": "i4",
    "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "b1",
}  # fmt: skip
PLAIN = {("collections", "OrderedDict"): dict, ("builtins", "set"): set, ("torch", "Size"): tuple}


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


# what goes wrong in reading bytes that are not what they should be
DAMAGES: tuple[type[Exception], ...] = (
    *DAMAGED, pickle.UnpicklingError, NotImplementedError, KeyError, IndexError, TypeError, AttributeError,
    OverflowError, ValueError,
)  # fmt: skip


def load(file: LocalFile) -> Any:
    """Dicts, lists, numbers, text and tensors as they were saved; ValueError for a damaged file."""
    try:
        with file.open() as stream:
            return load_stream(stream)
    except DAMAGES as error:
        raise ValueError(f"{file.path}: not a readable file of torch.save ({str(error)[:80]})") from None


def load_stream(stream: Any) -> Any:
    """The same of an open file; one of DAMAGES where it is damaged."""
    with zipfile.ZipFile(stream) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
        with archive.open(name) as text:
            return _Reader(text, archive, root, ">" if order == b"big" else "<").load()


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str, order: str) -> None:
        super().__init__(stream)
        self._archive, self._root, self._order = archive, root, order

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        if (module, name) in _CALLED:
            return _CALLED[module, name]
        return PLAIN.get((module, name), Nothing)

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


def _of_state(_: Any, state: Any) -> Any:
    """A TensorDict as a dict of its tensors."""
    return dict(state["_tensordict"])


def _consolidated(facts: Any, storage: Any) -> Any:
    """The same of one whose tensors lie end to end in one: (type, shape, begin, end, padding) of each by name."""
    found = {}
    for name, (dtype, shape, start, stop, *_) in facts["leaves"].items():
        if not 0 <= start <= stop <= storage.size:
            raise ValueError("a tensor reaches beyond its storage")
        if not name.startswith("<NJT"):  # parts of a nested tensor
            found[name] = of_words(storage[start:stop], dtype, tuple(shape))
    return found


def of_words(words: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Bytes, padded perhaps, as an array of torch's type of that name."""
    name = _NAMES[dtype.removeprefix("torch.")]
    data = np.ascontiguousarray(words).view(np.uint8)[: math.prod(shape) * (2 if name == "bfloat16" else int(name[-1]))]
    if name == "bfloat16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return data.view(f"<{name}").reshape(shape)


_CALLED = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("tensordict._reductions", "_make_td"): _of_state,
    ("tensordict._reductions", "_rebuild_tensordict_files_consolidated"): _consolidated,
}
