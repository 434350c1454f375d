"""One row of soft-capped logs: its normaliser and entropy.

    z = limit·tanh(k·x/limit)      w = exp(z - z_top)      lse = z_top + ln Σw      H = ln Σw - Σw·(z - z_top)/Σw

Limit and k are in units after the temperature. Near its limit z hardly changes: rounded to float32 it is off by
2e-6 at a limit of 30, and so would be every weight. So the lanes never hold z, but z - z_top to relative accuracy,
straight from x and the row's greatest element so far (`tanh_rise`); when that grows, the sums go over to the new one.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E
from .decode import BLOCK, NO_LOG, view
from .elementary import scaled_exp2, tanh_rise
from .far import below, undefined
from .lanes import inlined, is_nan, kernel, maximum, number, rounded, select, smaller, splat, sum_lanes, widened, width
from .memory import load, stack, stream
from .order import see_block
from .scans import LN2, greatest_of
from .separate import separate

SATURATED = 20.0  # tanh is 1 - 8e-18 there; beyond it nothing is told apart


@kernel
def capped(x, k, limit):
    """One element after slope and soft-cap; limit 0: no cap."""
    return limit * math.tanh((k / limit) * x) if limit > 0.0 else k * x


@kernel
def rise(x, top, k, limit):
    """`capped` of x ≤ top less that of top, to relative accuracy: limit·sinh(a - b)/(cosh a·cosh b) for a cap."""
    if limit == 0.0:
        return below(x, top, k)
    slope = k / limit
    most = SATURATED / slope
    x, top = min(max(x, -most), most), min(max(top, -most), most)
    return limit * (math.sinh(slope * (x - top)) / (math.cosh(slope * x) * math.cosh(slope * top)))


@inlined
def capped_terms(x, bounds, factor, tanh):
    """(w, w·(z - z_top)) of a register; `bounds` hold x and z - z_top, `tanh` is what `tanh_rise` needs."""
    most, minus_most, least = bounds
    anchor, slope, scale, origin, power, floor = tanh
    nan = is_nan(x)
    within = maximum(minus_most, x)
    within = select(smaller(most, within), most, within)
    gap = maximum(least, factor * tanh_rise(within, anchor, slope, scale, origin, power, floor))
    w = select(nan, x, scaled_exp2(gap, number(x, "log2(e)"), number(x, "round")))
    return w, w * gap


@kernel
def capped_block(a, n, like, k, limit, top, flags):
    """(Σw, Σw·(z - z_top)) of a block of logs ≤ `top`, clamped as the row is; flags: a register of 1, one of 0."""
    zero = splat(0.0, like)
    lanes = width(like)
    scale = rounded(2.0 * LOG2E * (k / limit), like)
    shift = np.rint(top * scale)
    most, minus_most = splat(SATURATED * (limit / k), like), splat(-SATURATED * (limit / k), like)
    anchor, slope, scales = splat(top, like), splat(LN2 * scale, like), splat(scale, like)
    origin = number(zero, "round") - splat(shift, like)
    power, floor = scaled_exp2(anchor, scales, origin), splat(2.0 ** (-shift), like)
    factor = splat(2.0 * limit / (1.0 + math.exp(LN2 * top * scale)), like)
    least = splat(-(125.0 if lanes == 16 else 1021.0) * LN2, like)
    bounds, tanh = (most, minus_most, least), (anchor, slope, scales, origin, power, floor)
    s, u = splat(0.0, 0.0), zero
    whole = n - n % lanes
    for i in range(0, whole, lanes):
        x = stream(a, i, like)
        w, wg = capped_terms(x, bounds, factor, tanh)
        s = s + widened(w)
        u = u + wg
    if whole < n:  # what pads the last register must not weigh
        x = load(a, whole, like)
        w, wg = capped_terms(x, bounds, factor, tanh)
        inside = smaller(zero, load(flags, lanes - (n - whole), like))
        s = s + widened(select(inside, w, zero))
        u = u + select(inside, wg, zero)
    return sum_lanes(s), sum_lanes(u)


@separate(types.none)
@kernel
def capped_row(row, vocab, k, limit, like, order, result):
    """lse, entropy, beside and greatest of a row of logs under a soft-cap, in lanes like `like`, greatest held within
    what tanh tells apart; what is seen goes to `order`."""
    room = stack(2048, like)
    flags = stack(32, like)
    lanes = width(like)
    for i in range(lanes):
        flags[i], flags[lanes + i] = like + 1, like
    most = rounded(SATURATED * (limit / k), like)
    s, u, top = 0.0, 0.0, -most
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        highest = np.float64(greatest_of(x, n, like))
        if highest > top and top < most:
            raised = min(highest, most)
            fall = max(rise(top, raised, k, limit), -1e3)
            u = math.exp(fall) * (u + fall * s)
            s *= math.exp(fall)
            top = raised
        mass, moment = capped_block(x, n, like, k, limit, top, flags)
        s += mass
        u += moment
        see_block(order, row, x, n, start, like, highest)
    undefined(result)
    if s == s:
        beside = math.log1p(max(s - 1.0, 0.0))
        result.lse = capped(top, k, limit) + beside
        result.entropy = max(beside - u / s, 0.0)
        result.beside = beside
        result.greatest = top
