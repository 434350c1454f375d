"""What `torch.save` wrote, read without torch and without running anything of it.

The file is a zip archive of a pickle and the bytes of tensors. A pickle may name any function to be called; here it
gets tensors as NumPy arrays, and of everything else that has a class of its own an object that holds nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.npz import DAMAGED, member_start

__all__ = ["DAMAGES", "PLAIN", "Nothing", "Placed", "holds_torch", "load", "load_stream", "of_words", "placed"]

_DTYPES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_NAMES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16", "int64": "i8", "int32": "i4",
    "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "b1",
}  # fmt: skip
_LONGEST_PICKLE = 1 << 24  # of a file of tensors by name
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


class Placed(NamedTuple):
    """Where a contiguous tensor lies: its type, its shape, and the first of its bytes in the file."""

    dtype: np.dtype[Any] | str
    shape: tuple[int, ...]
    start: int


def holds_torch(file: ByteReader) -> bool:
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


def load(file: ByteReader) -> Any:
    """Dicts, lists, numbers, text and tensors as they were saved; ValueError for a damaged file."""
    try:
        with file.open() as stream:
            return load_stream(stream)
    except DAMAGES as error:
        raise ValueError(f"{file.path}: not a readable file of torch.save ({str(error)[:80]})") from None


def load_stream(stream: Any) -> Any:
    """The same of an open file; one of DAMAGES where it is damaged."""
    return _unpickled(stream, _Reader)


def placed(file: ByteReader) -> dict[str, Placed]:
    """Where the tensors lie that a file holds, by name; one alone is called "". ValueError for a damaged file."""
    try:
        with file.open() as stream:
            found = _unpickled(stream, _Finder)
    except DAMAGES as error:
        raise ValueError(f"{file.path}: not a readable file of torch.save ({str(error)[:80]})") from None
    named = {"": found} if isinstance(found, _Place) else found if isinstance(found, dict) else {}
    tensors = {name: x for name, x in named.items() if isinstance(name, str) and isinstance(x, _Place)}
    try:
        return {name: x.of(file, f"{file.path}: tensor {name!r}") for name, x in tensors.items()}
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{file.path}: not a readable file of torch.save ({str(error)[:80]})") from None


def _unpickled(stream: Any, reader: type[_Reader]) -> Any:
    with zipfile.ZipFile(stream) as archive:
        size = stream.seek(0, 2)
        if any(info.compress_size > size for info in archive.infolist()):
            raise ValueError("a member that is larger than the file")
        if any(info.flag_bits & 1 for info in archive.infolist()):
            raise ValueError("a member that is encrypted")
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
        with archive.open(name) as text:
            return reader(reader.sound(text), archive, root, ">" if order == b"big" else "<").load()


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str, order: str) -> None:
        super().__init__(stream)
        self._archive, self._root, self._order = archive, root, order

    @staticmethod
    def sound(text: Any) -> Any:
        """The pickle, where it is looked through before it is read."""
        return text

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


class _Stored(NamedTuple):
    """The bytes of a storage: its type, and the member of the archive that has them."""

    dtype: np.dtype[Any] | str
    bytes: int
    info: zipfile.ZipInfo


class _Place(NamedTuple):
    """A tensor in its storage."""

    storage: _Stored
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def of(self, file: ByteReader, what: str) -> Placed:
        storage, size = self.storage, tuple(self.size)
        rows = [math.prod(size[i + 1 :]) for i in range(len(size))]
        if any(n != 1 and step != row for n, step, row in zip(size, self.stride, rows, strict=True)):
            raise ValueError(f"{what} of shape {size} is not contiguous; save it after .contiguous()")
        info, first = storage.info, self.offset * storage.bytes
        if self.offset < 0 or min(size, default=0) < 0 or first + math.prod(size) * storage.bytes > info.file_size:
            raise ValueError(f"{what} reaches beyond its storage")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{what} is compressed, which torch.save does not do")
        return Placed(storage.dtype, size, member_start(file, info) + first)


class _Finder(_Reader):
    """Reads where tensors are, and none of their bytes."""

    @staticmethod
    def sound(text: Any) -> Any:
        """ValueError for a pickle too long to be of tensors, or that asks for more memory than it has bytes."""
        data = text.read(_LONGEST_PICKLE + 1)
        if len(data) > _LONGEST_PICKLE:
            raise ValueError("more than tensors by name")
        for operation, argument, _ in pickletools.genops(data):
            if "PUT" in operation.name and isinstance(argument, int) and argument > len(data):
                raise ValueError("a place in memory beyond the pickle's length")
        return io.BytesIO(data)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (
                _Place(storage, offset, size, stride) if isinstance(storage, _Stored) else storage
            )
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        return Nothing if (module, name) in _CALLED else super().find_class(module, name)

    def persistent_load(self, identity: Any) -> Any:
        _, kind, key, _, _ = identity
        if not isinstance(kind, _Storage):
            return Nothing()
        dtype = kind.dtype if kind.dtype == "bfloat16" else np.dtype(f"{self._order}{kind.dtype}")
        info = self._archive.getinfo(f"{self._root}data/{key}")
        return _Stored(dtype, 2 if isinstance(dtype, str) else dtype.itemsize, info)


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
