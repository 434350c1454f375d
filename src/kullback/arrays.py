"""The gate: every dtype, shape, layout and range check, and every error about them. Nothing here copies an array.

`rows(x, "p")` -> `Rows`, where an array lies and how its elements are stored; `pair` and `single` add what a call
needs of one or two of them: vocabulary, common leading shape, row addresses.
"""

import math
import operator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FLOAT64, FLOAT32, FLOAT16, BFLOAT16, AFFINE16 = 0, 1, 2, 3, 4
LOGS, MASSES = 0, 1
_STORAGE = {"float64": FLOAT64, "float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
_STORAGE_OF_DTYPE = {np.dtype(name): tag for name, tag in _STORAGE.items() if name != "bfloat16"}  # a name costs 2 µs
_SPACES = {"probs": MASSES, "log_probs": LOGS, "logits": LOGS}
_AFFINE_FIELDS = ("scale", "min", "code")


class Rows(NamedTuple):
    """An array seen by the kernels: rows of V elements along its last axis."""

    owner: Any  # keeps the memory alive
    data: int  # address of the first element
    lead: tuple[int, ...]
    lead_strides: tuple[int, ...]  # bytes
    vocab: int
    stride: int  # bytes between neighbouring elements of a row
    storage: int


def rows(x: Any, name: str, axis: int = -1) -> Rows:
    """View `x` without copying it; lists and tuples become float64 arrays."""
    array, storage = _as_array(x, name)
    if storage == AFFINE16:
        if axis != -1:
            raise ValueError(f"`axis` is {axis}, expected -1: rows of 16-bit codes are their own axis")
        codes = array.dtype.fields["code"]  # type: ignore[index]
        return Rows(array, array.ctypes.data + codes[1], array.shape, array.strides, codes[0].shape[0], 2, storage)
    if array.ndim == 0:
        raise ValueError(f"`{name}` is a scalar, expected an array of at least one axis, the vocabulary")
    if axis != -1:
        array = _vocabulary_last(array, name, axis)
    if array.shape[-1] == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected a vocabulary of at least 1")
    data = array.ctypes.data if array.size else 0
    return Rows(array, data, array.shape[:-1], array.strides[:-1], array.shape[-1], array.strides[-1], storage)


def _vocabulary_last(array: NDArray[Any], name: str, axis: int) -> NDArray[Any]:
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"`axis` is {axis!r}, expected a whole number") from None
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"`axis` is {axis}, expected from {-array.ndim} to {array.ndim - 1} for `{name}`")
    return np.moveaxis(array, axis, -1)


def _as_array(x: Any, name: str) -> tuple[NDArray[Any], int]:
    """(array, storage tag) of anything NumPy or DLPack can view in place."""
    if type(x) is np.ndarray and (known := _STORAGE_OF_DTYPE.get(x.dtype)) is not None:
        return x, known
    if type(x).__module__.partition(".")[0] == "torch":
        x, storage = _from_torch(x, name)
        if storage is not None:
            return x, storage
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array, expected a plain one: fill or select before the call")
    if isinstance(x, np.ndarray):
        array = x
    elif isinstance(x, (list, tuple, float, int)):
        try:
            array = np.asarray(x, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` is a nested list that is not a rectangle of numbers") from None
    elif hasattr(x, "__dlpack__") and not isinstance(x, np.generic):
        array = np.from_dlpack(x)
    else:
        array = np.asarray(x)
    dtype = array.dtype
    storage = _STORAGE.get(dtype.name) if dtype.isnative else None
    if storage is None and dtype.names == _AFFINE_FIELDS:
        storage = _affine(dtype, name)
    if storage is None:
        raise TypeError(
            f"`{name}` has dtype {dtype}, expected native float64, float32, float16 or bfloat16 (ml_dtypes or torch)"
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
    return AFFINE16


def _from_torch(x: Any, name: str) -> tuple[Any, int | None]:
    """A CPU tensor as an array; bfloat16, which NumPy has not, as its 16-bit words."""
    if not hasattr(x, "detach"):
        return x, None
    if x.device.type != "cpu":
        raise TypeError(f"`{name}` is a tensor on {x.device}, expected one on the CPU")
    if str(x.dtype) == "torch.bfloat16":
        import torch

        return x.detach().view(torch.int16).numpy(), BFLOAT16
    return x.detach().numpy(), None


# ---------------------------------------------------------------------------------------------- checked keywords


def space(given: str) -> int:
    """What the elements mean, as the kernels count it."""
    try:
        return _SPACES[given]
    except (KeyError, TypeError):
        raise ValueError(f"`given` is {given!r}, expected 'probs', 'log_probs' or 'logits'") from None


def inverse_temperature(temperature: float, given: str) -> float:
    """1/temperature, checked; probabilities have none."""
    try:
        temperature = float(temperature)
    except (TypeError, ValueError):
        raise TypeError(f"`temperature` is {temperature!r}, expected a number") from None
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"`temperature` is {temperature}, expected a finite number above 0")
    if temperature != 1.0 and given == "probs":
        raise ValueError(f"`temperature` is {temperature}, expected 1 where `given` is 'probs'")
    return 1.0 / temperature


def slope_and_limit(temperature: float, scale: float, softcap: float | None) -> tuple[float, float]:
    """Logits x go in as z = slope·x, or limit·tanh(slope·x/limit) where limit is not 0, temperature included."""
    inverse = inverse_temperature(temperature, "logits")
    slope, limit = inverse * _within(scale, "scale"), 0.0 if softcap is None else inverse * _within(softcap, "softcap")
    if not (math.isfinite(slope) and math.isfinite(limit)):
        raise ValueError(f"`temperature` is {temperature}, too small for that scale and soft-cap")
    return slope, limit


def _within(x: Any, name: str) -> float:
    try:
        value = float(x)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` is {x!r}, expected a number") from None
    if not 1e-6 <= value <= 1e6:
        raise ValueError(f"`{name}` is {value}, expected from 1e-06 to 1e+06")
    return value


def unit(base: float | None) -> float:
    """Nats in one unit of the result: ln(base)."""
    if base is None:
        return 1.0
    try:
        base = float(base)
    except (TypeError, ValueError):
        raise TypeError(f"`base` is {base!r}, expected a number or None") from None
    if not 0.0 < base < math.inf or base == 1.0:
        raise ValueError(f"`base` is {base}, expected a finite number above 0 other than 1")
    return math.log(base)


def vocabulary(vocab_size: int | None, *arrays: tuple[str, Rows]) -> int:
    """The number of leading columns used, the same for all arrays."""
    if vocab_size is not None:
        try:
            size = operator.index(vocab_size)
        except TypeError:
            raise TypeError(f"`vocab_size` is {vocab_size!r}, expected a whole number or None") from None
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
            except ValueError:
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


def token_ids(tokens: Any, name: str, shape: tuple[int, ...], vocab: int, ignore_index: int) -> NDArray[np.int64]:
    """`tokens` as contiguous int64 ids of that leading shape, checked; ignored ones are -1."""
    if type(tokens).__module__.partition(".")[0] == "torch":
        tokens = tokens.detach().cpu().numpy()
    ids = np.asarray(tokens)
    if ids.dtype.kind not in "iu" and ids.size:
        raise TypeError(f"`{name}` has dtype {ids.dtype}, expected integers")
    if ids.shape[: len(shape)] != shape or ids.ndim > len(shape) + 1:
        raise ValueError(f"`{name}` has shape {ids.shape}, expected {shape} or {(*shape, 'K')}")
    ids = np.ascontiguousarray(ids, dtype=np.int64).reshape(ids.shape)  # a scalar stays one
    ignored = ids == ignore_index
    outside = ((ids < 0) | (ids >= vocab)) & ~ignored
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        raise ValueError(
            f"`{name}` holds the id {ids[place]} at {place}, expected from 0 to {vocab - 1} or `ignore_index` "
            f"({ignore_index})"
        )
    return np.where(ignored, -1, ids) if ignored.any() else ids


def _whole_numbers(x: Any, name: str) -> NDArray[np.int64]:
    """`x` as a contiguous int64 vector."""
    array = np.asarray(x.detach().cpu().numpy() if hasattr(x, "detach") else x)
    if array.ndim != 1:
        raise ValueError(f"{name} have shape {array.shape}, expected one axis")
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} have dtype {array.dtype}, expected integers")
    return np.ascontiguousarray(array, np.int64)


def kept_lists(kept: Any, name: str, rows: int, vocab: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, ids) of the outcomes kept of each row, ids rising within a row."""
    if hasattr(kept, "offsets") and hasattr(kept, "token_ids"):
        kept = (kept.offsets, kept.token_ids)
    if not isinstance(kept, (tuple, list)) or len(kept) != 2:
        raise TypeError(f"`{name}` is {type(kept).__name__}, expected (offsets, ids)")
    offsets = _whole_numbers(kept[0], f"the offsets of `{name}`")
    ids = _whole_numbers(kept[1], f"the ids of `{name}`")
    if offsets.size != rows + 1:
        raise ValueError(f"`{name}` has {offsets.size} offsets, expected {rows + 1}: one more than rows")
    if offsets[0] != 0 or offsets[-1] != ids.size or (np.diff(offsets) < 0).any():
        raise ValueError(f"the offsets of `{name}` do not rise from 0 to {ids.size}, the number of its ids")
    outside = (ids < 0) | (ids >= vocab)
    if outside.any():
        raise ValueError(f"`{name}` holds the id {ids[outside][0]}, expected from 0 to {vocab - 1}")
    row = np.repeat(np.arange(rows), np.diff(offsets))
    if ((np.diff(ids) <= 0) & (np.diff(row) == 0)).any():
        ids = ids[np.lexsort((ids, row))]
        again = (np.diff(ids) == 0) & (np.diff(row) == 0)
        if again.any():
            place = int(np.argmax(again))
            raise ValueError(f"`{name}` lists the id {ids[place]} twice in row {row[place]}")
    return offsets, ids


def finish(values: NDArray[Any], shape: tuple[int, ...], out: NDArray[Any] | None = None) -> Any:
    """`values` in the leading shape: into `out`, or as a scalar where the shape is ()."""
    values = values.reshape(shape)
    if out is None:
        return values[()]
    out[...] = values
    return out


def check_out(out: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> None:
    """Refuse an `out` that cannot take the result."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"`out` is {type(out).__name__}, expected an ndarray")
    if out.dtype != dtype:
        raise TypeError(f"`out` has dtype {out.dtype}, expected {np.dtype(dtype)}")
    if out.shape != shape:
        raise ValueError(f"`out` has shape {out.shape}, expected {shape}")
    if not out.flags.writeable:
        raise ValueError("`out` is read-only, expected a writeable array")
