"""The kernels at work: rows shared out to threads, and what a status stands for as one error.

The engine is the compiled extension, or Numba in this process where that is missing or asked for. Rows are independent,
so they are handed out in chunks to the calling thread and to helper threads; a chunk is some milliseconds of work, so
that Ctrl-C is answered promptly. No result depends on the split. Every address that C is given is made here, of arrays
that were checked: a pointer owns the buffer it points into, and the work that threads run owns the batch it runs over,
so nothing is freed while a kernel may still touch it.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import first_use, helpers, loading, processors
from kullback._engine.arrays import Batch
from kullback._engine.views import AFFINE16, STORAGES

_CHUNK_BYTES = 16 << 20  # about 1 ms of one core
_LEAST_CHUNK_BYTES = 256 << 10  # about 20 µs: some times what it costs to take a chunk
_SHARED_BYTES = 2 << 20  # handing work to another thread costs some 50 µs: less work than this stays on one
_OF_NUMPY = tuple(kind.numpy for kind in STORAGES)  # by storage tag
_C_ITEMS: dict[Any, tuple[np.dtype[Any], str]] = {  # a small call makes several pointers: np.dtype and its name cost µs
    np.float64: (np.dtype(np.float64), "double[]"),
    np.float32: (np.dtype(np.float32), "float[]"),
    np.int64: (np.dtype(np.int64), "int64_t[]"),
    np.bool_: (np.dtype(np.bool_), "uint8_t[]"),
}
_NEGATIVE = (1, 2)  # statuses: a mass of the first array is negative, of the second
_UNSUPPORTED = 5  # a status: there is no machine code

_engine: loading.Engine | None = None
_default_threads: tuple[int, str] | None = None


def current() -> loading.Engine:
    """The engine of this process, chosen at the first call."""
    global _engine
    if _engine is None:
        with first_use.alone():
            if _engine is None:
                _engine = loading.choose()
    return _engine


def get_engine() -> str:
    """Name of the engine that runs the kernels: "compiled" (ahead of time) or "jit" (Numba).

    The environment variable KULLBACK_ENGINE forces one of them; it is read at the first call.

    Examples
    --------
    >>> import kullback as kb
    >>> kb.get_engine() in ("compiled", "jit")
    True
    """
    return current().name


def default_threads() -> int:
    """KULLBACK_NUM_THREADS, else the least of OMP_NUM_THREADS, the CPU affinity and the cgroup's quota."""
    global _default_threads
    if _default_threads is None:
        _default_threads = processors.choose()
    return _default_threads[0]


def thread_count(num_threads: Any) -> int:
    """The checked number of threads of a call."""
    if num_threads is None:
        return default_threads()
    try:
        if isinstance(num_threads, bool):
            raise TypeError
        number = operator.index(num_threads)
    except TypeError:
        raise TypeError(f"`num_threads` is a {type(num_threads).__name__}, expected a whole number or None") from None
    if number < 1:
        raise ValueError(f"`num_threads` is {number}, expected at least 1")
    return number


def over_rows(work: Callable[[int, int], Any], rows: int, row_bytes: int, num_threads: int) -> list[Any]:
    """Call `work(start, stop)` over chunks of [0, rows) on up to `num_threads` threads; the results that are true.

    `work` must release the GIL to gain anything, and own what it touches. The calling thread takes part, so calls may
    nest and may come from many threads at once. An exception, KeyboardInterrupt too, stops the handing out of chunks
    and is raised when the chunks under way are done.
    """
    total = rows * row_bytes
    if total <= _LEAST_CHUNK_BYTES:
        found = work(0, rows)
        return [found] if found else []
    least, most = max(1, _LEAST_CHUNK_BYTES // row_bytes), max(1, _CHUNK_BYTES // row_bytes)
    chunk = min(max(rows // (4 * num_threads), least), most)  # four a thread: the last to finish is not far behind
    others = min(num_threads, -(-rows // chunk)) - 1 if total > _SHARED_BYTES else 0
    if others == 0 and rows <= chunk:
        found = work(0, rows)
        return [found] if found else []
    return helpers.share(work, rows, chunk, others)


# ------------------------------------------------------------------------------------------------------------ calls


class Outputs(NamedTuple):
    """A struct of kullback.h whose fields are pointers, and the arrays of those that are wanted."""

    struct: str  # "kullback_comparison *"
    fields: dict[str, NDArray[Any]]


class Address(NamedTuple):
    """Memory of any strides whose rows a kernel writes where they lie."""

    owner: NDArray[Any]


class Scratch(NamedTuple):
    """So many float32 that a thread has to itself while it works on a chunk."""

    size: int


def pointer(array: NDArray[Any], dtype: Any, size: int, name: str = "array") -> Any:
    """The memory of a contiguous array of that scalar type and size as a C pointer, which keeps the array alive."""
    expected, items = _C_ITEMS[dtype]
    if type(array) is not np.ndarray or array.dtype != expected:
        raise TypeError(f"`{name}` has dtype {getattr(array, 'dtype', type(array))}, expected {expected}")
    flags = array.flags
    if array.size != size or not (flags.c_contiguous and flags.aligned):
        raise ValueError(f"`{name}` has shape {array.shape} and strides {array.strides}, expected {size} values on end")
    return (_engine or current()).ffi.from_buffer(items, array)


def vector(array: NDArray[Any] | None, dtype: Any, size: int, name: str) -> Any:
    """What `run` takes for an array that may be missing."""
    return None if array is None else (array, dtype, size, name)


def structs(over: Batch) -> tuple[Any, ...]:
    """A kullback_array of each array of a batch, which must outlive them."""
    ffi, of = (_engine or current()).ffi, []
    for view, (offsets, row_stride) in zip(over.views, over.places, strict=True):
        if view is None:
            of.append(ffi.new("kullback_array *"))
            continue
        if view.converted:
            data = ffi.NULL
        elif _OF_NUMPY[view.storage] and view.owner.flags.c_contiguous:
            data = ffi.cast("void *", ffi.from_buffer(view.owner))  # half the time of ndarray.ctypes
        else:
            data = ffi.cast("void *", _address(view.owner, view.storage))
        places = ffi.NULL if offsets is None else pointer(offsets, np.int64, offsets.size)
        of.append(ffi.new("kullback_array *", (data, places, row_stride, view.stride, view.storage)))
    return tuple(of)


def _address(array: NDArray[Any], storage: int | None = None) -> int:
    """Where the first element of the first row lies."""
    first = array.dtype.fields["code"][1] if storage == AFFINE16 else 0  # type: ignore[index]
    return array.ctypes.data + first if array.size else 0


def address(struct: Any) -> int:
    """Where a struct lies, for what Numba compiles."""
    return int((_engine or current()).ffi.cast("intptr_t", struct))


def blocks(over: Batch, of: tuple[Any, ...], start: int, stop: int) -> Iterable[tuple[int, int, tuple[Any, ...]]]:
    """(first, last, structs) that cover rows [start, stop): all at once, or as many as fit into the scratch."""
    return _converted_blocks(over, of, start, stop) if over.converted else ((start, stop, of),)


def _converted_blocks(
    over: Batch, of: tuple[Any, ...], start: int, stop: int
) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    ffi = current().ffi
    for first, last, rooms in over.converted_blocks(start, stop):
        own = list(of)
        for i, room in rooms.items():
            # the kernel counts rows from the first of the batch: from there it finds row `first` where it lies
            origin = (room.ctypes.data - first * room.strides[0]) % (1 << 64)
            own[i] = ffi.new(
                "kullback_array *",
                (ffi.cast("void *", origin), ffi.NULL, room.strides[0], room.itemsize, over.views[i].storage),
            )
        yield first, last, tuple(own)


def _passed(ffi: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments as C takes them."""
    passed = []
    for argument in arguments:
        kind = type(argument)
        if argument is None:
            passed.append(ffi.NULL)
        elif kind is tuple:
            passed.append(pointer(*argument))
        elif kind is Outputs:
            new = ffi.new(argument.struct)
            for field, array in argument.fields.items():
                setattr(new, field, pointer(array, array.dtype.type, array.size, field))
            passed.append(new)
        else:
            passed.append(ffi.cast("void *", _address(argument.owner)) if kind is Address else argument)
    return passed


def run(name: str, over: Batch, row_bytes: int, num_threads: int | None, *arguments: Any) -> None:
    """Run the C function `name` over all rows of a batch, and raise what it refuses.

    Arguments are numbers, None for NULL, (array, scalar type, size, name) as `pointer` takes them, `Outputs`, an
    `Address`, a `Scratch`. The work holds them for as long as a thread may run it.
    """
    if not over.rows:
        return
    chosen = _engine or current()
    function = chosen.functions.get(name) or chosen.function(name)
    ffi, of = chosen.ffi, structs(over)
    passed = _passed(ffi, arguments)
    scratch = [i for i, argument in enumerate(passed) if type(argument) is Scratch]
    rooms: list[NDArray[np.float32]] = []

    def work(start: int, stop: int, held: Any = arguments) -> tuple[int, int] | None:
        given = passed
        for i in scratch:
            try:
                room = rooms.pop()
            except IndexError:
                room = np.empty(held[i].size, np.float32)
            given = [*passed[:i], pointer(room, np.float32, room.size), *passed[i + 1 :]]
        for first, last, own in blocks(over, of, start, stop):
            bad_row = ffi.new("int64_t *", first)
            status = function(*own, *given, first, last, bad_row)
            if status == _UNSUPPORTED:
                raise chosen.failure()
            if status:
                return bad_row[0], status
        if scratch:
            rooms.append(room)
        return None

    findings = over_rows(work, over.rows, row_bytes, thread_count(num_threads))
    if findings:
        raise _refusal(over, *min(findings))


def _refusal(over: Batch, row: int, status: int) -> Exception:
    """What a status stands for."""
    row //= over.parts
    if over.chosen is not None:
        row = int(over.chosen[row])
    place = tuple(int(i) for i in np.unravel_index(row, over.lead)) if over.lead else ()
    where = f" in row {place if len(place) != 1 else place[0]}" if over.lead else ""
    if status in _NEGATIVE:
        name = over.names[status - 1]
        return ValueError(f"`{name}` holds a negative value{where}, expected probabilities ≥ 0")
    return RuntimeError(f"the kernel refused its arguments{where} (status {status})")
