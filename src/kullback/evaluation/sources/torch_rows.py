"""A tensor that `torch.save` wrote, alone or in a dict, read in place: nothing of the pickle beside it is run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import FlatRows, chosen, flat_shape, float_dtype, integer_column
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.sparse import Pick, refuse_topk
from kullback.evaluation.sources.torch_file import Placed, placed

__all__ = ["load_arrays", "open_torch", "tensor_of"]


def open_torch(file: ByteReader, tensor: str | None, usual: tuple[str, ...]) -> FlatRows:
    """Rows of `tensor`, else of the first of the `usual` names, else of the only matrix."""
    tensors = placed(file)
    if tensor is None:
        tensor = next((name for name in usual if name in tensors), None)
    matrices = [name for name, x in tensors.items() if _is_float(x) and len(x.shape) in (2, 3)]
    name = chosen(tensor, list(tensors), matrices, file.path)
    refuse_topk({name: x.shape for name, x in tensors.items()}, name, file.path)
    found, what = tensors[name], f"{file.path}: tensor {name!r}"
    dtype = float_dtype("bfloat16", what) if isinstance(found.dtype, str) else found.dtype
    float_dtype(dtype.newbyteorder("=").name, what)
    source = FlatRows(file, "torch", flat_shape(found.shape, what), dtype, found.start)
    source.array, source.stored = name or None, found.shape
    for column in ("tokens", "groups"):
        if column in tensors and column != name:
            values = tensor_of(file, tensors[column])
            setattr(source, column, integer_column(values, source.shape[0], f"{file.path}: tensor {column!r}"))
    return source


def tensor_of(file: ByteReader, tensor: Placed) -> Any:
    """The values of one tensor; bfloat16 as float32."""
    dtype = np.dtype("<u2") if isinstance(tensor.dtype, str) else tensor.dtype
    data = file.read(math.prod(tensor.shape) * dtype.itemsize, tensor.start)
    values = np.frombuffer(data, dtype)
    if isinstance(tensor.dtype, str):
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tensor.shape)


def load_arrays(file: ByteReader, pick: Pick) -> dict[str, NDArray[Any]]:
    """Whole tensors: those that `pick` takes, of the shapes of all."""
    tensors = placed(file)
    return {name: tensor_of(file, tensors[name]) for name in pick({name: x.shape for name, x in tensors.items()})}


def _is_float(tensor: Placed) -> bool:
    return isinstance(tensor.dtype, str) or tensor.dtype.kind == "f"
