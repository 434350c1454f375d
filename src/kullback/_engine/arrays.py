"""The gate: one look at every array of a call, before anything is computed, and every error about shapes and layouts.

`batch(("p", p), ("q", q))` -> `Batch`: where the rows of one or two arrays lie and how their elements are stored,
without a copy. What is looked at is always an ndarray of that very type: a subclass may say what it likes of its shape.
Small things (ids, offsets) are copied, then checked, so that nobody can change them in between.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, labelling, outputs, views
from kullback._engine.views import AFFINE16, STORAGES

ITEM_BYTES = tuple(kind.bytes for kind in STORAGES)  # by storage tag
_OF_NUMPY = tuple(kind.numpy for kind in STORAGES)
_SCRATCH_BYTES = 1 << 20  # of converted rows a thread, but at least one row


class Rows(NamedTuple):
    """An array seen by the kernels: rows of V elements along its last axis."""

    owner: NDArray[Any]  # the memory, vocabulary last; of torch what NumPy has not as its words
    lead: tuple[int, ...]
    lead_strides: tuple[int, ...]  # bytes
    vocab: int
    stride: int  # bytes between neighbouring elements of a row
    storage: int  # of what the kernels read
    converted: bool  # the owner holds something else: rows of it are converted before a kernel reads them


class Batch(NamedTuple):
    """Arrays with a common leading shape and vocabulary: what a call works on."""

    names: tuple[str, ...]
    views: tuple[Any, ...]  # Rows each; None is an array that is not there
    places: tuple[tuple[NDArray[np.int64] | None, int], ...]  # of each array, as `row_places` says it
    lead: tuple[int, ...]
    rows: int
    vocab: int
    row_bytes: int  # read for one row, all arrays together
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
        return self._replace(names=self.names[one], views=(view,), places=self.places[one], converted=view.converted)

    def converted_blocks(self, start: int, stop: int) -> Iterator[tuple[int, int, dict[int, NDArray[Any]]]]:
        """(first, last, {array: its rows converted}) that cover [start, stop): as many rows as fit into the scratch."""
        step = min(stop - start, max(1, _SCRATCH_BYTES // (8 * self.vocab)))
        rooms = {
            i: np.empty((step, self.vocab), _scratch_dtype(view)) for i, view in enumerate(self.views) if view.converted
        }
        for first in range(start, stop, step):
            last = min(first + step, stop)
            which = np.arange(first, last) if self.chosen is None else self.chosen[first:last]
            for i, room in rooms.items():
                _read_rows(self.views[i], self.lead, which, self.names[i], room[: last - first])
            yield first, last, rooms


def batch(*named: tuple[str, Any], axis: int = -1, vocab_size: int | None = None, out: Any = None) -> Batch:
    """Check and place one or two arrays, and an `out` of one number a row apart from them."""
    for _, x in named:
        if type(x) is not np.ndarray:
            labelling.same_labels(*named)
            break
    if type(axis) is not int:
        axis = keywords.integer(axis, "axis")
    viewed = [(name, rows(x, name, axis)) for name, x in named]
    vocab = vocabulary(vocab_size, *viewed)
    lead = leading_shape(*viewed)
    total, row_bytes, converted, places = 1, 0, False, []
    for n in lead:
        total *= n
    for _, view in viewed:
        places.append(row_places(view, lead))
        row_bytes += vocab * ITEM_BYTES[view.storage]
        converted |= view.converted
    if out is not None:
        outputs.check_out(out, lead)
        outputs.keep_apart(np.asarray(out), "out", {name: view.owner for name, view in viewed})
    names, found = tuple([name for name, _ in viewed]), tuple([view for _, view in viewed])
    return Batch(names, found, tuple(places), lead, total, vocab, row_bytes, 1, None, converted)


def rows(x: Any, name: str, axis: int = -1) -> Rows:
    """View `x` without copying it; lists and tuples become float64 arrays."""
    known = views.STORAGE_OF_DTYPE.get(x.dtype) if type(x) is np.ndarray else None
    array, storage = (x, known) if known is not None else views.stored(x, name)
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
    converted = storage == views.CONVERTED or not array.flags.aligned
    return Rows(
        array, array.shape[:-1], array.strides[:-1], array.shape[-1], array.strides[-1],
        views.storage_converted(array.dtype) if storage == views.CONVERTED else storage, converted,
    )  # fmt: skip


def _vocabulary_last(array: NDArray[Any], name: str, axis: int) -> NDArray[Any]:
    axis = keywords.integer(axis, "axis")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"`axis` is {axis}, expected from {-array.ndim} to {array.ndim - 1} for `{name}`")
    return np.moveaxis(array, axis, -1)


def vocabulary(vocab_size: int | None, *arrays: tuple[str, Rows]) -> int:
    """The number of leading columns used, the same for all arrays."""
    if vocab_size is not None:
        size = keywords.integer(vocab_size, "vocab_size", "a whole number or None")
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


def token_ids(tokens: Any, name: str, shape: tuple[int, ...], vocab: int, ignore_index: int) -> NDArray[np.int64]:
    """`tokens` as contiguous int64 ids of that leading shape, checked; ignored ones are -1."""
    ignore_index = keywords.integer(ignore_index, "ignore_index")
    ids = views.whole_numbers(tokens, name)
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


def _scratch_dtype(view: Rows) -> Any:
    return STORAGES[view.storage].name if _OF_NUMPY[view.storage] else view.owner.dtype  # else as it lies


def _read_rows(view: Rows, lead: tuple[int, ...], which: NDArray[np.int64], name: str, out: NDArray[Any]) -> None:
    """Rows of the broadcast leading shape, by their numbers in C order, into `out`, converted to its dtype."""
    whole = np.broadcast_to(view.owner[..., : out.shape[-1]], (*lead, out.shape[-1]))
    found = whole[np.unravel_index(which, lead)] if lead else whole[None]
    with np.errstate(over="ignore"):
        np.copyto(out, found, casting="unsafe")
    if found.dtype.itemsize > 8 and np.isinf(out).any():  # long double has numbers that float64 has not
        lost = np.isinf(out) & np.isfinite(found)
        if lost.any():
            raise ValueError(f"`{name}` holds {found[lost][0]!s}, beyond the range of float64, in which it is computed")
