"""Anything as an ndarray of that very type, without a copy where NumPy or DLPack can view it, and how it is stored."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.kernels.storage import AFFINE16, BFLOAT16, FLOAT32, FLOAT64, FLOATS, STORAGES, Storage

__all__ = ["AFFINE16", "BFLOAT16", "FLOAT32", "FLOAT64", "FLOATS", "STORAGES", "Storage"]  # for the package

CONVERTED = -1  # what the kernels do not read as it lies: integers, long double, foreign byte order
_STORAGE: dict[str, int] = {kind.name: kind.tag for kind in FLOATS}
STORAGE_OF_DTYPE = {np.dtype(kind.name): kind.tag for kind in FLOATS if kind.numpy}  # a name costs 2 µs
# (tag, bytes) of tensors that NumPy cannot view
_NOT_OF_NUMPY: dict[str, tuple[int, int]] = {
    f"torch.{kind.name}": (kind.tag, kind.bytes) for kind in FLOATS if not kind.numpy
}
_AFFINE_FIELDS = ("scale", "min", "code")


def plain(x: Any, name: str) -> NDArray[Any]:
    """`x` as an ndarray of that very type, viewed where NumPy can; bfloat16 and float8 of torch as float32."""
    array = _plain(x, name)
    if array.ndim > 32:
        raise ValueError(f"`{name}` has {array.ndim} axes, expected 32 at most: NumPy broadcasts no more")
    return array


def _plain(x: Any, name: str) -> NDArray[Any]:
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a masked array, expected a plain one: fill it or select from it before the call, or give its "
            f"`.data`, and ~mask as the argument `mask` where there is one"
        )
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if is_tensor(x):
        return _of_tensor(x, name, lambda tensor: tensor.float() if str(x.dtype) in _NOT_OF_NUMPY else tensor)
    if isinstance(x, (list, tuple, float, int)):
        try:
            return np.asarray(x)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` is a nested list that is not a rectangle of numbers") from None
    try:
        return _viewed(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"`{name}` is {type(x).__name__}, which NumPy cannot view: {error}") from error


def is_real(dtype: np.dtype[Any], kinds: str = "fiu") -> bool:
    """Whether a dtype is of one of these kinds of numbers, or a float that NumPy lacks and the kernels read."""
    return dtype.kind in kinds or dtype.name in _STORAGE


def listed(kinds: Iterable[Storage]) -> str:
    """The names of storage types, for a message."""
    *names, last = [kind.name for kind in kinds]
    return f"{', '.join(names)} or {last}"


def reals(x: Any, name: str) -> NDArray[np.float64]:
    """`x` as float64 numbers, for what is small enough to be converted whole."""
    array = plain(x, name)
    if not is_real(array.dtype, "fiubO"):
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected real numbers")
    try:
        return array.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"`{name}` holds {array.dtype} values that are no real numbers: {error}") from None


def _viewed(x: Any) -> NDArray[Any]:
    """What offers DLPack or NumPy's own interfaces."""
    if hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        if x.__dlpack_device__()[0] not in (1, 3):  # kDLCPU, kDLCUDAHost
            raise TypeError("it does not lie in the memory of the CPU")
        try:
            return np.from_dlpack(x)
        except (TypeError, RuntimeError, BufferError):  # bfloat16 of JAX: NumPy has it from ml_dtypes, not from DLPack
            return np.asarray(x)
    return np.asarray(x)


def is_tensor(x: Any) -> bool:
    """Whether `x` is a torch tensor, or another library's with torch's gradients."""
    return hasattr(x, "requires_grad") and hasattr(x, "detach")


def _on_host(x: Any, name: str) -> Any:
    """A tensor that is NumPy's to read, its gradient asked for by nobody."""
    if x.device.type != "cpu":
        raise TypeError(f"`{name}` is a tensor on {x.device}, expected one on the CPU")
    if x.requires_grad:
        raise TypeError(
            f"`{name}` is a tensor that requires grad, and NumPy results have no gradient: use "
            f"kullback.integrations.torch (distillation_loss, kl_div, ...), or give {name}.detach()"
        )
    return x.detach()


def _of_tensor(x: Any, name: str, seen: Callable[[Any], Any]) -> NDArray[Any]:
    """A tensor, seen as NumPy has its dtype; sparse, nested, quantized and lazily negated ones cannot be."""
    tensor = _on_host(x, name)
    try:
        return np.asarray(seen(tensor).numpy())
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise TypeError(f"`{name}` is a tensor that NumPy cannot view: {str(error).splitlines()[0]}") from error


def stored(x: Any, name: str) -> tuple[NDArray[Any], int]:
    """(array, storage tag) of anything NumPy or DLPack can view in place."""
    if type(x) is np.ndarray and (known := STORAGE_OF_DTYPE.get(x.dtype)) is not None:
        return x, known
    if is_tensor(x) and (words := _NOT_OF_NUMPY.get(str(x.dtype))) is not None:
        import torch

        tag, size = words
        return _of_tensor(x, name, lambda tensor: tensor.view(torch.uint8 if size == 1 else torch.int16)), tag
    array = plain(x, name)
    if isinstance(x, (list, tuple, float, int)):
        if array.dtype.kind in "USMm":
            raise TypeError(f"`{name}` has dtype {array.dtype}, expected numbers")
        try:
            array = np.asarray(x, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` is a nested list that is not a rectangle of numbers") from None
        except OverflowError:
            raise ValueError(f"`{name}` holds a number beyond the range of float64") from None
    dtype = array.dtype
    storage = _STORAGE.get(dtype.name) if dtype.isnative else None
    if storage is None and dtype.names == _AFFINE_FIELDS:
        storage = _affine(dtype, name)
    if storage is None and dtype.kind in "biuf":
        storage = CONVERTED
    if storage is None:
        raise TypeError(
            f"`{name}` has dtype {dtype}, expected {listed(FLOATS)} (bfloat16 and float8 of ml_dtypes or torch), or "
            f"integers, bool or long double, which become float64"
        )
    return array, storage


def _affine(dtype: np.dtype[Any], name: str) -> int:
    """Check the record of one row of 16-bit codes: two float32, then the codes, without a gap."""
    fields = {field: (dtype.fields[field][0], dtype.fields[field][1]) for field in _AFFINE_FIELDS}  # type: ignore[index]
    code = fields["code"][0]
    expected = [np.dtype("f4"), np.dtype("f4")]
    if (
        [fields["scale"][0], fields["min"][0]] != expected
        or code.base != np.dtype("u2")
        or len(code.shape) != 1
        or code.shape[0] < 1
        or fields["min"][1] != fields["scale"][1] + 4
        or fields["code"][1] != fields["scale"][1] + 8
    ):
        raise TypeError(f"`{name}` has dtype {dtype}, expected [('scale', 'f4'), ('min', 'f4'), ('code', 'u2', (V,))]")
    return int(AFFINE16)


def whole_numbers(x: Any, name: str) -> NDArray[np.int64]:
    """`x` as an int64 array of the caller's own: what is checked of it stays so."""
    array = plain(x, name)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected integers")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size:
        array = array.copy()
        if int(array.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"`{name}` holds {array.max()}, expected at most {np.iinfo(np.int64).max}")
    return np.array(array, np.int64, order="C", copy=True)


def storage_converted(dtype: np.dtype[Any]) -> int:
    """The storage in which rows of a dtype that the kernels do not read reach them: its own if that is known."""
    return _STORAGE.get(dtype.newbyteorder("=").name, int(FLOAT64))
