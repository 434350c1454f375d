"""Pieces of different lengths that lie end to end: their offsets, and lists of ids a row. Checked copies."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import views


def offsets_within(x: Any, name: str, end: int, of: str) -> NDArray[np.int64]:
    """Offsets of consecutive pieces, one more than pieces: 0, never falling, then `end`, the length of `of`.

    Neighbours are compared, not subtracted: a difference may wrap around 2⁶³.
    """
    starts = views.whole_numbers(x, name)
    if starts.ndim != 1 or starts.size == 0:
        raise ValueError(f"`{name}` has shape {starts.shape}, expected (B + 1,): 0, then the end of each sequence")
    if starts[0] != 0 or starts[-1] != end:
        raise ValueError(f"`{name}` runs from {starts[0]} to {starts[-1]}, expected 0 to {end}, the length of `{of}`")
    falls = starts[1:] < starts[:-1]
    if falls.any():
        where = int(np.argmax(falls))
        raise ValueError(f"`{name}` falls from {starts[where]} to {starts[where + 1]} at sequence {where}")
    return starts


def kept_lists(kept: Any, name: str, rows: int, vocab: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, ids) of the outcomes kept of each row, ids rising within a row."""
    if hasattr(kept, "offsets") and hasattr(kept, "token_ids"):
        kept = (kept.offsets, kept.token_ids)
    if not isinstance(kept, (tuple, list)) or len(kept) != 2:
        raise TypeError(f"`{name}` is {type(kept).__name__}, expected (offsets, ids)")
    ids = views.whole_numbers(kept[1], f"{name}[1]")
    if ids.ndim != 1:
        raise ValueError(f"the ids of `{name}` have shape {ids.shape}, expected one axis")
    offsets = offsets_within(kept[0], f"{name}[0]", ids.size, f"{name}[1]")
    if offsets.size != rows + 1:
        raise ValueError(f"`{name}` has {offsets.size} offsets, expected {rows + 1}: one more than rows")
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
