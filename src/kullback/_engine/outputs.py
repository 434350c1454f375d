"""Where results go: what an `out` must be, and results in the shape of the rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import views


def writable(out: Any, name: str) -> NDArray[Any]:
    """The memory of an `out` that can be written in place; what NumPy would have to copy first would never arrive."""
    if isinstance(out, np.ma.MaskedArray) or not (isinstance(out, np.ndarray) or views.is_tensor(out)):
        raise TypeError(f"`{name}` is {type(out).__name__}, expected an ndarray or a tensor on the CPU to write into")
    array = np.asarray(out) if isinstance(out, np.ndarray) else views.stored(out, name)[0]
    if not array.flags.writeable:
        raise ValueError(f"`{name}` is read-only, expected a writeable array")
    extent = array.itemsize  # of the axes so far, from the finest: the next must step over it
    for stride, n in sorted((abs(stride), n) for stride, n in zip(array.strides, array.shape, strict=True)):
        if n > 1:
            if stride < extent and array.size:
                raise ValueError(
                    f"`{name}` has strides {array.strides}: elements share memory, expected one place each"
                )
            extent += stride * (n - 1)
    return array


def check_out(out: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> None:
    """Refuse an `out` that cannot take the result."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"`out` is {type(out).__name__}, expected an ndarray")
    array = writable(out, "out")
    if array.dtype != dtype:
        raise TypeError(f"`out` has dtype {array.dtype}, expected {np.dtype(dtype)}")
    if array.shape != shape:
        raise ValueError(f"`out` has shape {array.shape}, expected {shape}")


def keep_apart(out: NDArray[Any], name: str, inputs: dict[str, NDArray[Any]], in_place: bool = False) -> None:
    """Refuse an `out` that shares memory with an array still to be read; `in_place`: but for that very array."""
    for other, array in inputs.items():
        if in_place and _same_place(out, array):
            continue
        if np.may_share_memory(out, array) and _shares_memory(out, array):
            instead = f", or `{other}` itself" if in_place else ""
            raise ValueError(f"`{name}` overlaps `{other}` in memory, expected an array of its own{instead}")


def _same_place(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def _shares_memory(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=1 << 16)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # an integer programme; layouts this intricate are taken to overlap
        return True


def finish(values: NDArray[Any], shape: tuple[int, ...], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """`values` in the leading shape: into `out`, or as a scalar where the shape is ()."""
    values = values.reshape(shape)
    if out is None:
        found: NDArray[Any] = values[()]  # a scalar is what NumPy gives for one, with the methods of an array
        return found
    np.asarray(out)[...] = values
    return out
