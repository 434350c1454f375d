"""What rows are looked through for: the greatest element, where it lies, how it stands in the lanes."""

import numpy as np

from .cumulants import LOG2E
from .decode import BLOCK, NO_LOG, view
from .lanes import any_lane, equal, fma, greatest, kernel, maximum, rounded, splat, width
from .memory import load

LN2 = 0.69314718055994530942

MAX_RISE = 7.0  # bits by which a weight may exceed 1 before its block is done again against the new maximum
MAX_SHIFT = 2.0**21  # an integer below it is exact beside the rounding constant of float32


@kernel
def fused(x, y, z):
    """x·y + z, rounded once."""
    return np.float64(greatest(fma(splat(x, 0.0), splat(y, 0.0), splat(z, 0.0))))


@kernel
def binades_above(top, k, top_log, like):
    """k·log2(e)·top - top_log as the lanes have it: a product that is rounded, unless it is of float32, is not here."""
    scale = rounded(k * LOG2E, like)
    return scale * top - top_log if width(like) == 16 else fused(scale, top, -top_log)


@kernel
def greatest_of(x, n, like):
    """The greatest of n padded elements (NaN passed over), -inf if there is none."""
    top = splat(-np.inf, like)
    for i in range(0, n, width(like)):
        top = maximum(load(x, i, like), top)
    return greatest(top)


@kernel
def index_of(x, n, value, like):
    """The lowest index at which x equals `value`, or -1."""
    wanted = splat(value, like)
    for i in range(0, n, width(like)):
        if any_lane(equal(load(x, i, like), wanted)):
            for j in range(i, n):
                if x[j] == value:
                    return j
    return -1


@kernel
def argmax(row, vocab, block, value, scratch):
    """The lowest index of the greatest element `value`, first met in the block that starts at `block`; -1 if none."""
    if block < 0:
        return -1
    n = min(BLOCK, vocab - block)
    return block + index_of(view(row, block, n, scratch, NO_LOG), n, value, scratch[0])
