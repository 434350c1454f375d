"""Rows of logs of any size: the greatest element is taken off before anything is multiplied by k = 1/temperature.

k·x may leave the range of a float, or be so large that its rounding is worth nats; k·(x - top) is neither where it
matters. Weights are squares of exp(k·(x - top)/2), so that they fade out below the normal numbers instead of stopping
there. Float64 lanes; slower than the sums of the ordinary range (single.py, rows.py), which send here what they cannot
serve. Where the greatest element is beyond 1e290 elements are taken in a fourth, so that no difference overflows.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E
from .decode import BLOCK, NO_LOG, view
from .elementary import exp2
from .lanes import (
    any_lane,
    equal,
    fma,
    inlined,
    is_nan,
    kernel,
    maximum,
    number,
    select,
    smaller,
    splat,
    sum_lanes,
    width,
)
from .memory import load, stack, stream
from .order import see_block
from .scans import LN2, argmax, greatest_of
from .separate import separate

GREATEST_FLOAT = 1.7976931348623157e308


@kernel
def undefined(result):
    result.lse = np.nan
    result.entropy = np.nan
    result.argmax = -1.0
    result.beside = np.nan
    result.greatest = np.nan


@kernel
def below(x, top, k):
    """k·(x - top) for x ≤ top: -inf only where that is below the float64 range, or x is -inf."""
    gap = x - top
    if gap == -np.inf and x > -np.inf:
        return 4.0 * (k * (0.25 * x - 0.25 * top))
    return k * gap


@kernel
def apart(x, y, top_x, top_y, k):
    """k·((y - top_y) - (x - top_x)), the difference rounded once however much of it cancels."""
    if max(max(abs(x), abs(y)), max(abs(top_x), abs(top_y))) > 1e300:
        return 4.0 * (k * _apart(0.25 * x, 0.25 * y, 0.25 * top_x, 0.25 * top_y))
    return k * _apart(x, y, top_x, top_y)


@kernel
def _lost(a, b, difference):
    """What the difference a - b has lost to rounding (Knuth's two-sum)."""
    again = a - difference
    return (a - (difference + again)) - (b - again)


@kernel
def _apart(x, y, top_x, top_y):
    d, d_tops = y - x, top_y - top_x
    r = d - d_tops
    if not abs(r) < np.inf:
        return r
    return r + ((_lost(d, d_tops, r) + _lost(y, x, d)) - _lost(top_y, top_x, d_tops))


@kernel
def unit_of(top, k):
    """(u, k/u): the elements times u are what differences are taken of."""
    return (0.25, min(4.0 * k, GREATEST_FLOAT)) if abs(top) > 1e290 else (1.0, k)


@inlined
def half_weight(gap, half_scale, half_beside):
    """exp(½(k·gap - beside)) and its base-2 logarithm, held at -1022, below which the weight is 0."""
    least = number(gap, "least exponent")
    h = fma(gap, half_scale, half_beside)
    gone = smaller(h, least)
    h = maximum(h, least)
    return select(gone, number(gap, "0"), exp2(h)), h


@kernel
def normaliser(row, vocab, k, order, room):
    """(top, block, log mass beside the top, entropy) of a row of logs; NaN and block -1 where it is undefined.

    The row is shown to `order` (order.py; None: nobody looks).
    """
    like = 0.0
    top, block, broken = -np.inf, -1, False
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        highest = greatest_of(x, n, like)
        if highest > top:
            top, block = highest, start
        for i in range(0, n, width(like)):
            broken |= any_lane(is_nan(load(x, i, like)))
        see_block(order, row, x, n, start, like, highest)
    if broken or top == np.inf:
        return np.nan, -1, np.nan, np.nan
    if top == -np.inf:
        return top, -1, np.nan, np.nan
    unit, scale = unit_of(top, k)
    zero = splat(0.0, like)
    one = number(zero, "1")
    units = splat(unit, like)
    minus_top = splat(-unit * top, like)
    half_scale = splat(0.5 * LOG2E * scale, like)
    greatest = splat(top, like)
    mass, moment, equals = 0.0, 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        s, u, count = zero, zero, zero
        for i in range(0, n, width(like)):
            a = stream(x, i, like)
            at_top = equal(a, greatest)
            half, h = half_weight(fma(a, units, minus_top), half_scale, zero)
            w = select(at_top, zero, half * half)
            count = count + select(at_top, one, zero)
            s = s + w
            u = fma(w, h, u)
        mass += sum_lanes(s)
        moment += sum_lanes(u)
        equals += sum_lanes(count)
    rest = mass + (equals - 1.0)
    beside = math.log1p(rest)
    return top, block, beside, beside - 2.0 * LN2 * moment / (1.0 + rest)


@separate(types.none)
@kernel
def far_row(row, vocab, k, order, result):
    """lse, entropy, argmax, beside and greatest of any row of logs. lse of an all -inf row is -inf."""
    room = stack(2048, 0.0)
    top, block, beside, entropy = normaliser(row, vocab, k, order, room)
    undefined(result)
    if block < 0:
        result.lse = top
        return
    result.lse = k * top + beside
    result.entropy = entropy
    result.argmax = argmax(row, vocab, block, top, room)
    result.beside = beside
    result.greatest = top
