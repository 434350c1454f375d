"""-Σ p·ln q, of gradients along p alone: that of the KL and of the entropy may be nothing but each other's rest.

Its values are known, whatever the `state` holds; the gradient is NaN where one is not finite.
The rows come exchanged: what is differentiated is q.
"""

import math

import numpy as np
from numba import types

from ..cumulants import LOG2E, SPAN, in_reach, least_argument, lse_in_reach
from ..decode import FLOAT64, NO_LOG, element, view
from ..elementary import scaled_exp2
from ..encode import fill, write_block
from ..far_gradients import PARTNER, far_gradient
from ..lanes import (
    absolute,
    equal,
    greatest,
    inlined,
    kernel,
    maximum,
    number,
    rounded,
    select,
    smaller,
    splat,
    sum_lanes,
    widened,
    width,
)
from ..memory import load, stack, store
from ..normalised import rest
from ..pairs import PAIRS
from ..records import RowStatistics, record
from ..separate import separate
from ..single import log_row


@inlined
def mass_and_slope(a, b, times, origin, least, parts, own):
    """(q, -ln p less that at q's greatest outcome) in units of the lanes; 0 where q is below the least weight."""
    zero = number(b, "0")
    gone = smaller(b, least)
    mass = select(gone, zero, scaled_exp2(maximum(b, least), times, origin) * parts)
    return mass, select(equal(b, number(b, "-infinity")), zero, own - a)


@separate(types.boolean)
@kernel
def lanes_gradient(pair, like, weight, target):
    """Write weight·k·q·(g - Σ q·g), g = -ln p less that at q's greatest outcome as in far_gradients.py, in lanes like
    `like`; False, and nothing is written, where those cannot serve."""
    p, q, vocab, _, k = pair
    one = record(RowStatistics)
    if not (log_row(q, vocab, k, like, None, one) and one.argmax >= 0.0 and lse_in_reach(one.lse, like)):
        return False
    room_p = stack(1024, like)
    room_q = stack(1024, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    shift = np.rint(one.lse * LOG2E)
    times, origin = splat(rounded(k * LOG2E, like), like), number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    parts = splat(rest(one.greatest, shift, k, one.beside, like), like)
    own = splat(element(p, np.int64(one.argmax)), like)
    mean, size, farthest = 0.0, 0.0, zero
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        y = view(q, start, n, room_q, NO_LOG)
        for j in range(0, n, SPAN):
            part, whole = zero, zero
            for i in range(j, min(j + SPAN, n), width(like)):
                mass, g = mass_and_slope(load(x, i, like), load(y, i, like), times, origin, least, parts, own)
                farthest = maximum(absolute(g), farthest)
                part = part + mass * g
                whole = whole + absolute(mass * g)
            mean += sum_lanes(widened(part))
            size += sum_lanes(widened(whole))
    factor = k * (k * weight)
    most = np.float64(greatest(farthest))
    # what stops at the least weight, or leaves the range of the lanes on the way, is nothing beside the others
    if not (1e-24 * most < size and abs(factor) * size > 1e-25 and max(1.0, abs(factor)) * most < 1e30):
        return False
    factors, means = splat(factor, like), splat(mean, like)
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        y = view(q, start, n, room_q, NO_LOG)
        for i in range(0, n, width(like)):
            mass, g = mass_and_slope(load(x, i, like), load(y, i, like), times, origin, least, parts, own)
            store(block, i, mass * (factors * (g - means)))
        write_block(block, n, start, target)
    return True


@kernel
def valid_gradient(side, known, weight, first, second):
    return side == 0 and known != 0


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    if not math.isfinite(value):
        fill(np.nan, pair.vocab, target.address, target.storage)
        return
    served = False
    if in_reach(pair.k, np.float32(0.0)):
        if pair.p.storage == FLOAT64 or pair.q.storage == FLOAT64:
            served = lanes_gradient(pair, 0.0, own_weight, target)
        else:
            served = lanes_gradient(pair, np.float32(0.0), own_weight, target)
    if not served:
        far_gradient(pair, PARTNER, 0.0, own_weight, 0.0, target)
