"""Where gradients go."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

from kullback._engine.arrays import ITEM_BYTES, row_places, rows
from kullback._engine.outputs import writable
from kullback._engine.views import STORAGES, listed


class Target(NamedTuple):
    """Where a gradient goes: rows of contiguous elements."""

    owner: NDArray[Any]
    row_stride: int  # bytes
    storage: int

    @classmethod
    def of(cls, out: Any, name: str, shape: tuple[int, ...]) -> "Target":
        """A writeable array of that shape whose rows lie evenly spaced, checked."""
        writable(out, name)
        view = rows(out, name)
        if (*view.lead, view.vocab) != shape:
            raise ValueError(f"`{name}` has shape {(*view.lead, view.vocab)}, expected {shape}")
        kind = STORAGES[view.storage]
        if view.converted or not kind.gradients:
            dtype = kind.name if kind.words and not view.converted else view.owner.dtype
            written = listed(kind for kind in STORAGES if kind.gradients)
            raise TypeError(f"`{name}` has dtype {dtype}, expected {written}")
        if view.owner.size == 0:
            return cls(view.owner, 0, view.storage)
        offsets, row_stride = row_places(view, view.lead)
        width = view.vocab * ITEM_BYTES[view.storage]
        even = offsets is None and (view.owner.size == view.vocab or abs(row_stride) >= width)
        if not even or (view.stride != ITEM_BYTES[view.storage] and view.vocab > 1):
            strides = view.owner.strides
            raise ValueError(f"`{name}` has strides {strides}, expected contiguous rows at an even distance")
        return cls(view.owner, row_stride, view.storage)
