"""Sums of segments: the one call whose rows differ in length."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine.arrays import Batch, Rows, row_places, rows
from kullback._engine.engine import run, thread_count, vector
from kullback._engine.views import FLOAT64


def sum_segments(
    values: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    offsets: NDArray[np.int64] | None,
    num_threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(sums, values in them, unmasked values) of the rows of `values`, or of the segments in `offsets`."""
    count = math.prod(values.shape[:-1]) if offsets is None else offsets.size - 1
    sums, kept, unmasked = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.int64)
    threads = thread_count(num_threads)
    if not values.size:
        return sums, kept, unmasked
    view = rows(values, "values")
    if view.converted:
        raise TypeError(f"`values` has dtype {values.dtype}, expected a float dtype in native order, aligned")
    bytes_of_mask: Rows | None = None
    if mask is not None:
        if mask.shape != values.shape or mask.dtype != np.bool_ or (mask.strides[-1] != 1 and mask.shape[-1] > 1):
            raise ValueError(f"`mask` has shape {mask.shape} and dtype {mask.dtype}, expected bool of {values.shape}")
        # a row of bytes has no storage tag; the kernel asks for none
        bytes_of_mask = Rows(mask, mask.shape[:-1], mask.strides[:-1], mask.shape[-1], 1, FLOAT64, False)
    views = (view, bytes_of_mask)
    places = tuple(_segment_places(seen, offsets) for seen in views)
    lengths = None if offsets is None else np.diff(offsets)
    row_bytes = values.size * (values.itemsize + 1) // count + 1
    run(
        "kullback_sum_segments", Batch(("values", "mask"), views, places, (), count, 1, row_bytes), row_bytes,
        threads, vector(lengths, np.int64, count, "lengths"), values.shape[-1], (sums, np.float64, count, "sums"),
        (kept, np.int64, count, "kept"), (unmasked, np.int64, count, "unmasked"),
    )  # fmt: skip
    return sums, kept, unmasked


def _segment_places(view: Rows | None, offsets: NDArray[np.int64] | None) -> tuple[NDArray[np.int64] | None, int]:
    if view is None:
        return None, 0
    return row_places(view, view.lead) if offsets is None else (offsets[:-1] * view.stride, 0)
