"""Where arrays lie, as the kernels take it. Every address that C is given is made here, of arrays that were checked.

A pointer owns the buffer it points into, and the work that threads run owns the batch it runs over: nothing is freed
while a kernel may still touch it. Arrays that the kernels do not read as they lie (integers, long double, foreign byte
order, unaligned) are converted a block of rows at a time, by the thread that needs them next.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, engine

ITEM_BYTES = tuple(kind.bytes for kind in arrays.STORAGES)  # by storage tag
_OF_NUMPY = tuple(kind.numpy for kind in arrays.STORAGES)
_SCRATCH_BYTES = 1 << 20  # of converted rows a thread, but at least one row
_C_ITEMS: dict[Any, tuple[np.dtype[Any], str]] = {  # a small call makes several pointers: np.dtype and its name cost µs
    np.float64: (np.dtype(np.float64), "double[]"),
    np.float32: (np.dtype(np.float32), "float[]"),
    np.int64: (np.dtype(np.int64), "int64_t[]"),
    np.bool_: (np.dtype(np.bool_), "uint8_t[]"),
}


class Batch(NamedTuple):
    """Arrays with a common leading shape and vocabulary, as the kernels take them."""

    names: tuple[str, ...]
    structs: tuple[Any, ...]  # a kullback_array each
    views: tuple[arrays.Rows, ...]
    lead: tuple[int, ...]
    rows: int
    vocab: int
    row_bytes: int  # read for one row, all arrays together
    keep: tuple[Any, ...]  # what the structs point into besides the views
    parts: int = 1  # consecutive rows that are parts of one row of the caller's
    chosen: NDArray[np.int64] | None = None  # the caller's rows that these are, where they are not all
    converted: bool = False  # some array is converted on its way

    @property
    def memory(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {name: view.owner for name, view in zip(self.names, self.views, strict=True)}

    def side(self, index: int) -> "Batch":
        """One of the arrays alone."""
        one = slice(index, index + 1)
        view = self.views[index]
        return self._replace(names=self.names[one], structs=self.structs[one], views=(view,), converted=view.converted)

    def blocks(self, start: int, stop: int) -> Iterable[tuple[int, int, tuple[Any, ...]]]:
        """(first, last, structs) that cover rows [start, stop): all at once, or as many as fit into the scratch."""
        return self._converted_blocks(start, stop) if self.converted else ((start, stop, self.structs),)

    def _converted_blocks(self, start: int, stop: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
        ffi = engine.current().ffi
        step = min(stop - start, max(1, _SCRATCH_BYTES // (8 * self.vocab)))
        rooms = {
            i: np.empty((step, self.vocab), _scratch_dtype(view)) for i, view in enumerate(self.views) if view.converted
        }
        for first in range(start, stop, step):
            last = min(first + step, stop)
            which = np.arange(first, last) if self.chosen is None else self.chosen[first:last]
            structs = list(self.structs)
            for i, room in rooms.items():
                _read_rows(self.views[i], self.lead, which, self.names[i], room[: last - first])
                # the kernel counts rows from the first of the batch: from there it finds row `first` where it lies
                origin = (room.ctypes.data - first * room.strides[0]) % (1 << 64)
                structs[i] = ffi.new(
                    "kullback_array *",
                    (ffi.cast("void *", origin), ffi.NULL, room.strides[0], room.itemsize, self.views[i].storage),
                )
            yield first, last, tuple(structs)


def batch(*named: tuple[str, Any], axis: int = -1, vocab_size: int | None = None) -> Batch:
    """Check and place one or two arrays."""
    if not all(type(x) is np.ndarray for _, x in named):
        arrays.same_labels(*named)
    axis = arrays.integer(axis, "axis")
    viewed = [(name, arrays.rows(x, name, axis)) for name, x in named]
    vocab = arrays.vocabulary(vocab_size, *viewed)
    lead = arrays.leading_shape(*viewed)
    ffi = engine.current().ffi
    structs, keep = [], []
    for _, view in viewed:
        offsets, row_stride = arrays.row_places(view, lead)
        places = ffi.NULL if offsets is None else pointer(offsets, np.int64, offsets.size)
        if view.converted:
            data = ffi.NULL
        elif _OF_NUMPY[view.storage] and view.owner.flags.c_contiguous:
            data = ffi.cast("void *", ffi.from_buffer(view.owner))  # half the time of ndarray.ctypes
        else:
            data = ffi.cast("void *", view.data)
        structs.append(ffi.new("kullback_array *", (data, places, row_stride, view.stride, view.storage)))
        keep.append(places)
    total = 1
    for n in lead:
        total *= n
    row_bytes = vocab * sum(ITEM_BYTES[view.storage] for _, view in viewed)
    names, views = tuple([name for name, _ in viewed]), tuple([view for _, view in viewed])
    converted = views[0].converted or views[-1].converted
    return Batch(names, tuple(structs), views, lead, total, vocab, row_bytes, tuple(keep), 1, None, converted)


def pointer(array: NDArray[Any], dtype: Any, size: int, name: str = "array") -> Any:
    """The memory of a contiguous array of that scalar type and size as a C pointer, which keeps the array alive."""
    expected, items = _C_ITEMS[dtype]
    if type(array) is not np.ndarray or array.dtype != expected:
        raise TypeError(f"`{name}` has dtype {getattr(array, 'dtype', type(array))}, expected {expected}")
    flags = array.flags
    if array.size != size or not (flags.c_contiguous and flags.aligned):
        raise ValueError(f"`{name}` has shape {array.shape} and strides {array.strides}, expected {size} values on end")
    return engine.current().ffi.from_buffer(items, array)


def optional(array: NDArray[Any] | None, dtype: Any, size: int, name: str = "array") -> Any:
    """`pointer`, or NULL for None."""
    return engine.current().ffi.NULL if array is None else pointer(array, dtype, size, name)


def run(
    name: str, over: Batch, row_bytes: int, num_threads: int | None, *arguments: Any, keep: Any = None
) -> tuple[int, int] | None:
    """Run the C function `name` over all rows of a batch; (row, status) of the first row it refused, else None.

    The work holds the batch, the arguments and `keep`, what they point into, for as long as a thread may run it.
    """
    chosen = engine.current()
    function, new = chosen.function(name), chosen.ffi.new

    def work(start: int, stop: int, held: Any = keep) -> tuple[int, int] | None:
        for first, last, structs in over.blocks(start, stop):
            bad_row = new("int64_t *", first)
            status = function(*structs, *arguments, first, last, bad_row)
            if status:
                return bad_row[0], status
        return None

    findings = engine.over_rows(work, over.rows, row_bytes, engine.thread_count(num_threads))
    return min(findings) if findings else None


class Target(NamedTuple):
    """Where a gradient goes: rows of contiguous elements."""

    owner: NDArray[Any]
    data: int
    row_stride: int  # bytes
    storage: int

    @classmethod
    def of(cls, out: Any, name: str, shape: tuple[int, ...]) -> "Target":
        """A writeable array of that shape whose rows lie evenly spaced, checked."""
        arrays.writable(out, name)
        view = arrays.rows(out, name)
        if (*view.lead, view.vocab) != shape:
            raise ValueError(f"`{name}` has shape {(*view.lead, view.vocab)}, expected {shape}")
        kind = arrays.STORAGES[view.storage]
        if view.converted or not kind.gradients:
            dtype = kind.name if kind.words and not view.converted else view.owner.dtype
            written = arrays.listed(kind for kind in arrays.STORAGES if kind.gradients)
            raise TypeError(f"`{name}` has dtype {dtype}, expected {written}")
        if view.owner.size == 0:
            return cls(view.owner, view.data, 0, view.storage)
        offsets, row_stride = arrays.row_places(view, view.lead)
        width = view.vocab * ITEM_BYTES[view.storage]
        even = offsets is None and (view.owner.size == view.vocab or abs(row_stride) >= width)
        if not even or (view.stride != ITEM_BYTES[view.storage] and view.vocab > 1):
            strides = view.owner.strides
            raise ValueError(f"`{name}` has strides {strides}, expected contiguous rows at an even distance")
        return cls(view.owner, view.data, row_stride, view.storage)


def keep_apart(out: NDArray[Any], name: str, inputs: dict[str, NDArray[Any]], in_place: bool = False) -> None:
    """Refuse an `out` that shares memory with an array still to be read; `in_place`: but for that very array."""
    for other, array in inputs.items():
        if in_place and _same_place(out, array):
            continue
        if np.may_share_memory(out, array) and _shares_memory(out, array):
            instead = f", or `{other}` itself" if in_place else ""
            raise ValueError(f"`{name}` overlaps `{other}` in memory, expected an array of its own{instead}")


def check_out(out: Any, over: Batch) -> None:
    """Refuse an `out` that cannot take one number a row, or lies where the rows do."""
    arrays.check_out(out, over.lead)
    if out is not None:
        keep_apart(np.asarray(out), "out", over.memory)


def _same_place(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return (a.ctypes.data, a.shape, a.strides, a.dtype) == (b.ctypes.data, b.shape, b.strides, b.dtype)


def _shares_memory(a: NDArray[Any], b: NDArray[Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=1 << 16)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # an integer programme; layouts this intricate are taken to overlap
        return True


def _scratch_dtype(view: arrays.Rows) -> Any:
    return arrays.STORAGES[view.storage].name if _OF_NUMPY[view.storage] else view.owner.dtype  # else as it lies


def _read_rows(
    view: arrays.Rows, lead: tuple[int, ...], which: NDArray[np.int64], name: str, out: NDArray[Any]
) -> None:
    """Rows of the broadcast leading shape, by their numbers in C order, into `out`, converted to its dtype."""
    whole = np.broadcast_to(view.owner[..., : out.shape[-1]], (*lead, out.shape[-1]))
    found = whole[np.unravel_index(which, lead)] if lead else whole[None]
    with np.errstate(over="ignore"):
        np.copyto(out, found, casting="unsafe")
    if found.dtype.itemsize > 8 and np.isinf(out).any():  # long double has numbers that float64 has not
        lost = np.isinf(out) & np.isfinite(found)
        if lost.any():
            raise ValueError(f"`{name}` holds {found[lost][0]!s}, beyond the range of float64, in which it is computed")
