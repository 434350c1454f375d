"""What a sparse teacher needs of a dense student beside its log-probabilities: the mass outside the listed ids.

Summed over those outcomes themselves: 1 - Σ over the listed ones would lose the digits of a small rest.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E, in_reach, least_argument
from .decode import FLOAT64, NO_LOG, element, row_of, view
from .elementary import scaled_exp2
from .far import half_weight, normaliser, unit_of
from .lanes import (
    equal,
    fma,
    kernel,
    load,
    maximum,
    number,
    pointer,
    select,
    splat,
    stack,
    store,
    sum_lanes,
    widened,
    width,
)
from .pairs import PAIRS
from .rows import LN2
from .status import ARGUMENT, LOGS, OK, TOKEN, readable, report


@kernel
def rest_of_row(row, vocab, k, like, lse, greatest, ids, first, last):
    """Σ softmax over the outcomes that are not among ids[first:last], which rise."""
    room = stack(1024, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    shift = np.rint(lse * LOG2E)
    scale = np.float64(np.float32(k * LOG2E)) if width(like) == 16 else k * LOG2E
    times = splat(scale, like)
    origin = number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    total, next_id = 0.0, first
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        next_id = without_listed(row, start, n, room, block, like, ids, next_id, last)
        part = splat(0.0, 0.0)
        for i in range(0, n, width(like)):
            a = load(block, i, like)
            gone = equal(a, number(zero, "-infinity"))
            part = part + widened(select(gone, zero, scaled_exp2(maximum(a, least), times, origin)))
        total += sum_lanes(part)
    return total * math.exp((k * greatest - lse) - LN2 * (scale * greatest - shift))


@kernel
def far_rest_of_row(row, vocab, k, ids, first, last):
    """`rest_of_row` of a row of logs of any size."""
    like = 0.0
    room = stack(2048, like)
    block = stack(1024, like)
    top, _, beside, _ = normaliser(row, vocab, k, None, room)
    unit, scale = unit_of(top, k)
    half_scale = splat(0.5 * LOG2E * scale, like)
    half_beside = splat(-0.5 * LOG2E * beside, like)
    total, next_id = 0.0, first
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        next_id = without_listed(row, start, n, room, block, like, ids, next_id, last)
        part = splat(0.0, like)
        for i in range(0, n, width(like)):
            gap = fma(load(block, i, like), splat(unit, like), splat(-unit * top, like))
            half, _ = half_weight(gap, half_scale, half_beside)
            part = fma(half, half, part)
        total += sum_lanes(part)
    return total


@kernel
def without_listed(row, start, n, room, block, like, ids, next_id, last):
    """Elements start ... start + n into `block`, -inf for ids[next_id:last] among them; the first id beyond."""
    x = view(row, start, n, room, NO_LOG)
    for i in range(0, n, width(like)):
        store(block, i, load(x, i, like))
    while next_id < last and ids[next_id] < start + n:
        block[ids[next_id] - start] = -np.inf
        next_id += 1
    return next_id


@kernel
def kullback_rest_mass(x, lse, top1, offsets, ids, vocab, inverse_temperature, out, start, stop, bad_row):
    """Into `out` (T,) the softmax mass of row t outside ids[offsets[t]:offsets[t+1]], which rise without repeats."""
    if not readable(x, vocab, LOGS) or lse == 0 or top1 == 0 or offsets == 0 or out == 0:
        return report(bad_row, start, ARGUMENT)
    listed = pointer(ids, types.int64)
    for t in range(start, stop):
        first = pointer(offsets, types.int64)[t]
        last = pointer(offsets, types.int64)[t + 1]
        if last > first and not (listed[first] >= 0 and listed[last - 1] < vocab):
            return report(bad_row, t, TOKEN)
        log_mass = pointer(lse, types.float64)[t]
        row = row_of(x, t)
        if pointer(top1, types.int64)[t] < 0:
            pointer(out, types.float64)[t] = np.nan
            continue
        greatest = element(row, pointer(top1, types.int64)[t])
        small = abs(log_mass) < (1e3 if row[2] == FLOAT64 else 1e5)
        if not (small and in_reach(inverse_temperature, np.float32(0.0))):
            rest = far_rest_of_row(row, vocab, inverse_temperature, listed, first, last)
        elif row[2] == FLOAT64:
            rest = rest_of_row(row, vocab, inverse_temperature, 0.0, log_mass, greatest, listed, first, last)
        else:
            rest = rest_of_row(
                row, vocab, inverse_temperature, np.float32(0.0), log_mass, greatest, listed, first, last
            )
        pointer(out, types.float64)[t] = rest
    return OK
