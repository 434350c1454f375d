"""Gradients of what is a function of one row of logs, along them: of normalisers, entropies and log-probabilities."""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E, in_reach, least_argument, lse_in_reach
from .decode import FLOAT64, NO_LOG, element, item_bytes, view
from .elementary import scaled_exp2
from .encode import fill, row_place, write, write_block
from .far_gradients import PARTNER, far_gradient
from .lanes import equal, fma, kernel, maximum, number, select, splat, width
from .memory import load, pointer, stack, store
from .pairs import PAIRS
from .records import Pair
from .scans import LN2
from .separate import separate
from .status import LOGS, OK, TOKEN


@separate(types.none)
@kernel
def softmax_lanes(row, vocab, k, like, softmax, mass_weight, entropy_weight, target):
    """s·(mass_weight - entropy_weight·(ln s + entropy)) of one row."""
    lse, entropy, greatest = softmax.lse, softmax.entropy, element(row, softmax.top1)
    room = stack(1024, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    beside = lse - k * greatest
    shift = np.rint(lse * LOG2E)
    scale = np.float64(np.float32(k * LOG2E)) if width(like) == 16 else k * LOG2E
    times = splat(scale, like)
    origin = number(zero, "round") - splat(shift, like)
    rest = splat(math.exp(-beside - LN2 * (scale * greatest - shift)), like)
    least = splat(least_argument(k, shift, like), like)
    top = splat(greatest, like)
    constant = splat(mass_weight - entropy_weight * (entropy - beside), like)
    minus = splat(-entropy_weight * k, like)
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        for i in range(0, n, width(like)):
            a = load(x, i, like)
            gone = equal(a, number(zero, "-infinity"))
            a = maximum(a, least)
            s = scaled_exp2(a, times, origin) * rest
            store(block, i, select(gone, zero, s * fma(minus, a - top, constant)))
        write_block(block, n, start, target)


@kernel
def moderate(weight):
    """Whether float32 lanes can hold what a weight makes of a row."""
    return weight == 0.0 or 1e-30 < abs(weight) < 1e30


@kernel
def softmax_gradient_row(row, vocab, k, softmax, mass_weight, entropy_weight, target):
    """k·s·(mass_weight - entropy_weight·(ln s + entropy)) of one row."""
    if mass_weight == 0.0 and entropy_weight == 0.0:
        if target.add == 0:
            fill(0.0, vocab, target.address, target.storage)
        return
    if softmax.top1 < 0:
        fill(np.nan, vocab, target.address, target.storage)
        return
    lse = softmax.lse
    wide = row.storage == FLOAT64
    small = lse_in_reach(lse, 0.0) if wide else lse_in_reach(lse, np.float32(0.0))
    a, b = k * mass_weight, k * entropy_weight
    if b != 0.0:
        # ln s + H of the greatest element: both lie beside it, as little as H, and the normaliser is rounded
        small = small and abs(lse) < (1e4 if wide else 1e8) * softmax.entropy
    if not (small and in_reach(k, np.float32(0.0)) and moderate(a) and moderate(b) and moderate(k * b)):
        far_gradient(Pair(row, row, vocab, LOGS, k), PARTNER, 0.0, entropy_weight, mass_weight, target)
    elif wide:
        softmax_lanes(row, vocab, k, 0.0, softmax, a, b, target)
    else:
        softmax_lanes(row, vocab, k, np.float32(0.0), softmax, a, b, target)


@kernel
def write_at_ids(ids, values, first, last, vocab, assign, address, storage):
    """values[first:last] onto (assign: in place of) the elements ids[first:last] of a row; OK or TOKEN."""
    one = stack(16, 0.0)
    place = row_place(address, storage)
    for i in range(first, last):
        v = pointer(ids, types.int64)[i]
        if v >= vocab:
            return TOKEN
        if v >= 0:
            value = pointer(values, types.float64)[i]
            one[0] = value if assign != 0 else value + element(place, v)
            write(one, 1, address + v * item_bytes(storage), storage)
    return OK
