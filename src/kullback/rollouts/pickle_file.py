"""What `pickle.dump` wrote, read without running anything of it: verl's DataProto, dicts of arrays, lists of samples.

`DataProto.save_to_disk` pickles an object of verl's whose state is (tensors as `torch.save` writes a TensorDict, or as
words by name; arrays beside them; what is the same of all rows). No class of the file is looked up.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources import torch_file
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.torch_file import DAMAGES, Nothing

__all__ = ["holds_pickle", "load"]

_PROTOCOLS = (2, 3, 4, 5)


def holds_pickle(file: LocalFile) -> bool:
    """Whether a file begins as a pickle does."""
    head = file.read(2)
    return len(head) == 2 and head[0] == 0x80 and head[1] in _PROTOCOLS


def load(file: LocalFile) -> Any:
    """Dicts, lists, numbers, text and arrays; of a DataProto its columns by name. ValueError for a damaged file."""
    try:
        with file.open() as stream:
            return _plain(_Reader(stream).load())
    except DAMAGES as error:
        raise ValueError(f"{file.path}: not a readable pickle ({str(error)[:80]})") from None


class _DataProto(Nothing):
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(Nothing):
    """An array whose shape, type and values come after it."""

    values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        order: Any = "F" if by_columns else "C"
        if isinstance(data, list):
            self.values = np.empty(len(data), object)
            self.values[:] = data
            self.values = self.values.reshape(shape, order=order)
        else:
            self.values = _of_bytes(data, kind, shape, order)


class _Type(Nothing):
    def __init__(self, code: str, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.code = state[1] + self.code.lstrip("<>=|")

    @property
    def dtype(self) -> np.dtype[Any]:
        found = np.dtype(self.code)
        if found.kind not in "biufSU":
            raise ValueError(f"an array of {self.code}")
        return found


def _of_bytes(data: Any, kind: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _latin(text: str, encoding: str) -> bytes:
    return text.encode("latin-1")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "DataProto" and module.partition(".")[0] == "verl":
            return _DataProto
        if module.partition(".")[0] == "numpy":
            known: dict[str, Any] = {"_reconstruct": _Array, "dtype": _Type, "_frombuffer": _of_bytes}
            return known.get(name, Nothing)
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 has bytes
            return _latin
        return torch_file.PLAIN.get((module, name), Nothing)


def _plain(found: Any) -> Any:
    """Without what only stood for something."""
    if isinstance(found, _DataProto):
        return _columns(found.state)
    if isinstance(found, _Array):
        return found.values
    if isinstance(found, dict):
        return {name: _plain(x) for name, x in found.items()}
    if isinstance(found, list):
        return [_plain(x) for x in found]
    return found


def _columns(state: Any) -> dict[str, Any]:
    """Tensors and arrays of a DataProto by name; numbers and text of all rows beneath them."""
    if not (isinstance(state, tuple) and len(state) == 3 and all(isinstance(x, dict) for x in state[1:])):
        raise ValueError("a DataProto of another form than (tensors, arrays, facts)")
    tensors, arrays, facts = state
    if isinstance(tensors, io.BytesIO):  # until verl 0.4
        tensors = tensors.getvalue()
    if isinstance(tensors, (bytes, bytearray)):
        tensors = torch_file.load_stream(io.BytesIO(tensors))
    elif isinstance(tensors, tuple):  # VERL_DATAPROTO_SERIALIZATION_METHOD=numpy: (size, device, words by name)
        words = {name: x for name, x in tensors[2].items() if len(x) == 3}
        tensors = {
            name: torch_file.of_words(_plain(data), dtype, tuple(shape)) for name, (dtype, shape, data) in words.items()
        }
    if not isinstance(tensors, dict):
        raise ValueError("a DataProto without tensors")
    found = {name: x for name, x in facts.items() if isinstance(x, (int, float, str))}
    found |= _plain(arrays)
    return found | tensors
