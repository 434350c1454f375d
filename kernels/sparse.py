"""What a sparse teacher needs of a dense student beside its log-probabilities: the mass outside the listed ids.

Summed over those outcomes themselves: 1 - Σ over the listed ones would lose the digits of a small rest.
"""

import math

import numpy as np

from .cumulants import LOG2E, in_reach, least_argument
from .decode import FLOAT64, NO_LOG, element, view
from .elementary import scaled_exp2
from .far import half_weight, normaliser, unit_of
from .lanes import equal, fma, kernel, maximum, number, select, splat, sum_lanes, width
from .memory import load, stack, store
from .pairs import PAIRS
from .scans import LN2, MAX_SHIFT


@kernel
def rest_of_row(row, vocab, k, lse, greatest, ids, first, last):
    """Σ softmax over the outcomes that are not among ids[first:last], which rise."""
    like = 0.0
    room = stack(1024, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    shift = np.rint(lse * LOG2E)
    scale = k * LOG2E
    times = splat(scale, like)
    origin = number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    total, next_id = 0.0, first
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x, next_id = without_listed(row, start, n, room, block, ids, next_id, last)
        part = zero
        for i in range(0, n, width(like)):
            a = load(x, i, like)
            gone = equal(a, number(zero, "-infinity"))
            part = part + select(gone, zero, scaled_exp2(maximum(a, least), times, origin))
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
        x, next_id = without_listed(row, start, n, room, block, ids, next_id, last)
        part = splat(0.0, like)
        for i in range(0, n, width(like)):
            gap = fma(load(x, i, like), splat(unit, like), splat(-unit * top, like))
            half, _ = half_weight(gap, half_scale, half_beside)
            part = fma(half, half, part)
        total += sum_lanes(part)
    return total


@kernel
def without_listed(row, start, n, room, block, ids, next_id, last):
    """(elements start ... start + n, -inf for ids[next_id:last] among them; the first id beyond)."""
    x = view(row, start, n, room, NO_LOG)
    if next_id == last or ids[next_id] >= start + n:
        return x, next_id
    for i in range(0, n, width(0.0)):
        store(block, i, load(x, i, 0.0))
    while next_id < last and ids[next_id] < start + n:
        block[ids[next_id] - start] = -np.inf
        next_id += 1
    return block, next_id


@kernel
def rest_mass(row, vocab, k, lse, top1, ids, first, last):
    """The softmax mass of a row of logs outside ids[first:last], which rise; NaN where the row is undefined.

    In float64 lanes whatever the row is of: a divergence of close rows is less than what float32 lanes lose of it. The
    normaliser is that of the listed log-probabilities, float32 lanes' own where those have served (up to MAX_SHIFT).
    """
    if top1 < 0:
        return np.nan
    reach = 1e3 if row.storage == FLOAT64 else MAX_SHIFT
    if abs(lse) < reach and in_reach(k, np.float32(0.0)):
        return rest_of_row(row, vocab, k, lse, element(row, top1), ids, first, last)
    return far_rest_of_row(row, vocab, k, ids, first, last)
