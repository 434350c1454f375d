"""The gate: every dtype, shape, layout and range check of arrays, and every error about them.

`rows(x, "p")` -> `Rows`, where an array lies and how its elements are stored, without a copy; `leading_shape`,
`vocabulary` and `row_places` say what a call needs of one or two of them. What is looked at is always an ndarray of
that very type: a subclass may say what it likes of its shape. Small things (ids, offsets) are copied, then checked, so
that nobody can change them in between.
"""

import contextlib
import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.kernels.storage import AFFINE16, BFLOAT16, FLOAT32, FLOAT64, FLOATS, STORAGES, Storage

__all__ = ["AFFINE16", "BFLOAT16", "FLOAT32", "FLOAT64", "FLOATS", "STORAGES", "Storage"]  # for the package

LOGS, MASSES = 0, 1
CONVERTED = -1  # what the kernels do not read as it lies: integers, long double, foreign byte order
_STORAGE: dict[str, int] = {kind.name: kind.tag for kind in FLOATS}
_STORAGE_OF_DTYPE = {np.dtype(kind.name): kind.tag for kind in FLOATS if kind.numpy}  # a name costs 2 µs
# (tag, bytes) of tensors that NumPy cannot view
_NOT_OF_NUMPY: dict[str, tuple[int, int]] = {
    f"torch.{kind.name}": (kind.tag, kind.bytes) for kind in FLOATS if not kind.numpy
}
_SPACES = {"probs": MASSES, "log_probs": LOGS, "logits": LOGS}
_AFFINE_FIELDS = ("scale", "min", "code")


class Rows(NamedTuple):
    """An array seen by the kernels: rows of V elements along its last axis."""

    owner: NDArray[Any]  # the memory, vocabulary last; of torch what NumPy has not as its words
    lead: tuple[int, ...]
    lead_strides: tuple[int, ...]  # bytes
    vocab: int
    stride: int  # bytes between neighbouring elements of a row
    storage: int  # of what the kernels read
    converted: bool  # the owner holds something else: rows of it are converted before a kernel reads them

    @property
    def data(self) -> int:
        """The address of the first element of the first row."""
        first = self.owner.dtype.fields["code"][1] if self.storage == AFFINE16 else 0  # type: ignore[index]
        return self.owner.ctypes.data + first if self.owner.size else 0


def rows(x: Any, name: str, axis: int = -1) -> Rows:
    """View `x` without copying it; lists and tuples become float64 arrays."""
    array, storage = _as_array(x, name)
    array = array.view()  # our own: its shape stays what it is here, and the memory cannot be resized away
    if storage == AFFINE16:
        if axis != -1:
            raise ValueError(f"`axis` is {axis}, expected -1: rows of 16-bit codes are their own axis")
        codes = array.dtype.fields["code"]  # type: ignore[index]
        return Rows(array, array.shape, array.strides, codes[0].shape[0], 2, storage, False)
    if array.ndim == 0:
        raise ValueError(f"`{name}` is a scalar, expected an array of at least one axis, the vocabulary")
    if axis != -1:
        array = _vocabulary_last(array, name, axis)
    if array.shape[-1] == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected a vocabulary of at least 1")
    converted = storage == CONVERTED or not array.flags.aligned
    return Rows(
        array, array.shape[:-1], array.strides[:-1], array.shape[-1], array.strides[-1],
        _storage_converted(array.dtype) if storage == CONVERTED else storage, converted,
    )  # fmt: skip


def _vocabulary_last(array: NDArray[Any], name: str, axis: int) -> NDArray[Any]:
    axis = integer(axis, "axis")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"`axis` is {axis}, expected from {-array.ndim} to {array.ndim - 1} for `{name}`")
    return np.moveaxis(array, axis, -1)


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


def _as_array(x: Any, name: str) -> tuple[NDArray[Any], int]:
    """(array, storage tag) of anything NumPy or DLPack can view in place."""
    if type(x) is np.ndarray and (known := _STORAGE_OF_DTYPE.get(x.dtype)) is not None:
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


def _storage_converted(dtype: np.dtype[Any]) -> int:
    """The storage in which rows of a dtype that the kernels do not read reach them: its own if that is known."""
    return _STORAGE.get(dtype.newbyteorder("=").name, int(FLOAT64))


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


def same_labels(*named: tuple[str, Any]) -> None:
    """Refuse pandas and Polars objects whose labels differ: here they would meet by position, there by label."""
    labelled = [(name, x) for name, x in named if has_labels(x)]
    for (first_name, first), (name, x) in combinations(labelled, 2):
        for axis in ("index", "columns"):
            if type(x) is type(first) and _differ(getattr(first, axis, None), getattr(x, axis, None)):
                raise _other_labels(first_name, name, axis)


def same_axis(axis: int, *named: tuple[str, Any]) -> None:
    """`same_labels` of the first (0) or the last (-1) axis alone, of frames and series alike."""
    labelled = []
    for name, x in named:
        if has_labels(x):
            kind = "columns" if axis == -1 and hasattr(x, "columns") else "index"
            labelled.append((name, kind, getattr(x, kind, None)))
    for (first_name, _, first), (name, kind, labels) in combinations(labelled, 2):
        if _differ(first, labels):
            raise _other_labels(first_name, name, kind)


def has_labels(x: Any) -> bool:
    """Whether `x` is of a library whose labels are compared."""
    return _library(x) in ("pandas", "polars")


def _library(x: Any) -> str:
    return "" if type(x) is np.ndarray else type(x).__module__.partition(".")[0]


def _differ(a: Any, b: Any) -> bool:
    """Whether two sets of labels, of which Polars has names of columns alone, are there and different."""
    if a is None or b is None:
        return False
    return list(a) != list(b) if isinstance(a, list) or isinstance(b, list) else not a.equals(b)


def _other_labels(first: str, name: str, axis: str) -> ValueError:
    return ValueError(
        f"`{name}` has another {axis} than `{first}`, expected equal ones: align them (pandas: "
        f"`{name}.reindex_like({first})`), or give `.to_numpy()` to go by position"
    )


# ---------------------------------------------------------------------------------------------- checked keywords


def space(given: str) -> int:
    """What the elements mean, as the kernels count it."""
    try:
        return _SPACES[given]
    except (KeyError, TypeError):
        raise ValueError(f"`given` is {shown(given)}, expected 'probs', 'log_probs' or 'logits'") from None


def shown(x: Any) -> str:
    """`x` for a message: what it says of itself, if it can."""
    try:
        text = repr(x)
    except Exception:
        return f"of type {type(x).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


@contextlib.contextmanager
def renamed(names: dict[str, str]) -> Iterator[None]:
    """Errors of a function that is called by another, with the names that arguments have there."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if type(error) not in (ValueError, TypeError):
            raise
        words = str(error)
        for inner, outer in names.items():
            words = words.replace(f"`{inner}`", f"`{outer}`")
        raise type(error)(words) from None


def _is_scalar(x: Any) -> bool:
    """Whether `x` is no array of any axes, and of NumPy no truth value, complex number, text, date or span of time."""
    if isinstance(x, np.ndarray | np.generic):
        return x.ndim == 0 and x.dtype.kind not in "bcSUmM"
    return getattr(x, "ndim", 0) == 0


def real(x: Any, name: str) -> float:
    """`x` as a float: a number, not text that reads as one, nor a truth value or a span of time."""
    if type(x) is float:
        return x
    if isinstance(x, (str, bytes, bytearray, bool, np.ma.MaskedArray)) or not _is_scalar(x):
        raise TypeError(f"`{name}` is {shown(x)}, expected a number")
    try:
        return float(x)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` is {shown(x)}, expected a number") from None
    except OverflowError:
        raise ValueError(f"`{name}` is beyond the range of float64") from None


def number(x: Any, name: str, least: float, greatest: float) -> float:
    """`x` as a float within [least, greatest]."""
    value = real(x, name)
    if not least <= value <= greatest:
        raise ValueError(f"`{name}` is {value}, expected from {least:g} to {greatest:g}")
    return value


def share(x: Any, name: str) -> float:
    """`x` as a float between 0 and 1."""
    value = real(x, name)
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` is {value}, expected a number between 0 and 1")
    return value


def finite(x: Any, name: str) -> float:
    """`x` as a float that is neither infinite nor NaN."""
    value = real(x, name)
    if not math.isfinite(value):
        raise ValueError(f"`{name}` is {value}, expected a finite number")
    return value


def integer(x: Any, name: str, expected: str = "a whole number") -> int:
    """`x` as an int, which an array is not, nor what is masked, nor a truth value."""
    if type(x) is int:
        return x
    try:
        if isinstance(x, (bool, np.ma.MaskedArray)) or not _is_scalar(x):
            raise TypeError
        return operator.index(x)
    except TypeError:
        raise TypeError(f"`{name}` is {shown(x)}, expected {expected}") from None


def whole(x: Any, name: str, least: int) -> int:
    """`x` as an int of at least `least` that an index can hold."""
    value = integer(x, name)
    if value < least:
        raise ValueError(f"`{name}` is {value}, expected at least {least}")
    if value > sys.maxsize:
        raise ValueError(f"`{name}` is beyond 64 bits, expected at most {sys.maxsize}")
    return value


def flag(x: Any, name: str) -> bool:
    """`x` as a bool, which text is not: "no" would count as true."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"`{name}` is {shown(x)}, expected True or False")


def choice(x: Any, name: str, options: Iterable[str | None]) -> Any:
    """`x`, one of the options, which are text or None."""
    options = tuple(options)
    if (x is None or isinstance(x, str)) and x in options:
        return x
    raise ValueError(f"`{name}` is {shown(x)}, expected one of {', '.join(map(str, options))}")


def callback(x: Any, name: str) -> None:
    """Refuse what cannot be called, before the work that it is to be told of."""
    if not (x is None or callable(x)):
        raise TypeError(f"`{name}` is {shown(x)}, expected a function or None")


def several(x: Any, name: str, expected: str) -> tuple[Any, ...]:
    """`x` as a tuple: a list of things, not one of them, nor what has no order."""
    try:
        if not isinstance(x, (str, bytes, bytearray, set, frozenset, dict, np.ma.MaskedArray)):
            return tuple(x)
    except TypeError:
        pass
    raise TypeError(f"`{name}` is {shown(x)}, expected {expected}")


def interval(x: Any, name: str) -> tuple[float, float]:
    """`x` as two numbers."""
    ends = several(x, name, "two numbers")
    if len(ends) != 2:
        raise ValueError(f"`{name}` is {shown(x)}, expected two numbers")
    return real(ends[0], name), real(ends[1], name)


def inverse_temperature(temperature: float, given: str) -> float:
    """1/temperature, checked; probabilities have none."""
    temperature = real(temperature, "temperature")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"`temperature` is {temperature}, expected a finite number above 0")
    if temperature != 1.0 and given == "probs":
        raise ValueError(f"`temperature` is {temperature}, expected 1 where `given` is 'probs'")
    if math.isinf(1.0 / temperature):
        raise ValueError(
            f"`temperature` is {temperature}, expected at least 5.57e-309: 1/temperature is beyond the range of float64"
        )
    return 1.0 / temperature


def slope_and_limit(temperature: float, scale: float, softcap: float | None) -> tuple[float, float]:
    """Logits x go in as z = slope·x, or limit·tanh(slope·x/limit) where limit is not 0, temperature included."""
    inverse = inverse_temperature(temperature, "logits")
    slope, limit = inverse * _within(scale, "scale"), 0.0 if softcap is None else inverse * _within(softcap, "softcap")
    if not (math.isfinite(slope) and math.isfinite(limit)):
        raise ValueError(f"`temperature` is {temperature}, too small for that scale and soft-cap")
    return slope, limit


def _within(x: Any, name: str) -> float:
    value = real(x, name)
    if not 1e-6 <= value <= 1e6:
        raise ValueError(f"`{name}` is {value}, expected from 1e-06 to 1e+06")
    return value


def unit(base: float | None) -> float:
    """Nats in one unit of the result: ln(base)."""
    if base is None:
        return 1.0
    base = real(base, "base")
    if not 0.0 < base < math.inf or base == 1.0:
        raise ValueError(f"`base` is {base}, expected a finite number above 0 other than 1")
    return math.log(base)


def vocabulary(vocab_size: int | None, *arrays: tuple[str, Rows]) -> int:
    """The number of leading columns used, the same for all arrays."""
    if vocab_size is not None:
        size = integer(vocab_size, "vocab_size", "a whole number or None")
        for name, array in arrays:
            if not 1 <= size <= array.vocab:
                raise ValueError(
                    f"`vocab_size` is {size}, expected from 1 to {array.vocab}, the vocabulary of `{name}`"
                )
        return size
    first_name, first = arrays[0]
    for name, array in arrays[1:]:
        if array.vocab != first.vocab:
            raise ValueError(
                f"`{name}` has shape {(*array.lead, array.vocab)}, expected {(*array.lead, first.vocab)} to match "
                f"`{first_name}`; for vocabularies padded differently give `vocab_size`"
            )
    return first.vocab


def leading_shape(*arrays: tuple[str, Rows]) -> tuple[int, ...]:
    """The broadcast leading shape of all arrays."""
    (first_name, first), *others = arrays
    lead = first.lead
    for name, array in others:
        if array.lead != lead:
            try:
                lead = np.broadcast_shapes(lead, array.lead)
            except (ValueError, RuntimeError):  # the latter for more axes than NumPy has
                raise ValueError(
                    f"`{name}` has shape {(*array.lead, array.vocab)}, expected leading axes {first.lead} or such as "
                    f"broadcast with them, to match `{first_name}`"
                ) from None
    return lead


def row_places(array: Rows, lead: tuple[int, ...]) -> tuple[NDArray[np.int64] | None, int]:
    """Where each row of the broadcast leading shape starts: (None, bytes between rows), or (offsets, 0)."""
    if len(lead) == 1 and array.lead == lead:
        return None, array.lead_strides[0]
    missing = len(lead) - len(array.lead)
    steps = [
        (n, 0 if i < missing or array.lead[i - missing] == 1 else array.lead_strides[i - missing])
        for i, n in enumerate(lead)
    ]
    steps = [(n, stride) for n, stride in steps if n != 1]
    if not steps:
        return None, 0
    if all(outer == stride * n for (_, outer), (n, stride) in pairwise(steps)):
        return None, steps[-1][1]
    offsets = np.zeros((), np.int64)
    for n, stride in steps:
        offsets = np.add.outer(offsets, np.arange(n, dtype=np.int64) * stride)
    return np.ascontiguousarray(offsets).ravel(), 0


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


def token_ids(tokens: Any, name: str, shape: tuple[int, ...], vocab: int, ignore_index: int) -> NDArray[np.int64]:
    """`tokens` as contiguous int64 ids of that leading shape, checked; ignored ones are -1."""
    ignore_index = integer(ignore_index, "ignore_index")
    ids = whole_numbers(tokens, name)
    if ids.shape[: len(shape)] != shape or ids.ndim > len(shape) + 1:
        raise ValueError(f"`{name}` has shape {ids.shape}, expected {shape} or {(*shape, 'K')}")
    ignored = ids == ignore_index
    outside = ((ids < 0) | (ids >= vocab)) & ~ignored
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"`{name}` holds the id {ids[place]} at {place}, expected from 0 to {vocab - 1} or `ignore_index` "
            f"({ignore_index})"
        )
    ids[ignored] = -1
    return ids


def finish(values: NDArray[Any], shape: tuple[int, ...], out: NDArray[Any] | None = None) -> Any:
    """`values` in the leading shape: into `out`, or as a scalar where the shape is ()."""
    values = values.reshape(shape)
    if out is None:
        return values[()]
    np.asarray(out)[...] = values
    return out


def writable(out: Any, name: str) -> NDArray[Any]:
    """The memory of an `out` that can be written in place; what NumPy would have to copy first would never arrive."""
    if isinstance(out, np.ma.MaskedArray) or not (isinstance(out, np.ndarray) or is_tensor(out)):
        raise TypeError(f"`{name}` is {type(out).__name__}, expected an ndarray or a tensor on the CPU to write into")
    array = np.asarray(out) if isinstance(out, np.ndarray) else _as_array(out, name)[0]
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
