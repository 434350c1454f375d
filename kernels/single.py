"""One row on its own: normaliser, entropy, argmax; and its log-softmax.

Logs:   w = exp(k·a), lse = ln Σw, H = lse - Σw·k·a/Σw, with the greatest a factored out.
Masses: lse = ln Σx, H = lse - Σx·ln x/Σx.
"""

import math

import numpy as np

from .cumulants import LOG2E, SPAN, least_argument, weight
from .decode import BLOCK, NO_LOG, view
from .elementary import log, scaled_exp2
from .lanes import (
    equal,
    fma,
    greatest,
    kernel,
    load,
    maximum,
    number,
    rounded,
    select,
    splat,
    stack,
    sum_lanes,
    widened,
    width,
)  # fmt: skip
from .order import see_block
from .probabilities import NEGATIVE
from .rows import DONE, LN2, MAX_RISE, MAX_SHIFT, argmax, greatest_of

# statistics of one row
LSE, ENTROPY, ARGMAX = 0, 1, 2


@kernel
def log_block(a, n, like, k, shift, top_log, sums):
    """(Σw, Σw·t, greatest a) of a block of logs, w = 2^(k·log2(e)·a - shift), t = k·log2(e)·a - top_log.

    Σw is taken in float64 lanes, so that what lies beside one heavy element is not lost: the log-probability of a
    nearly certain token and the entropy of its row keep their relative accuracy. A NaN makes the sums NaN.
    """
    zero = splat(0.0, like)
    wide = splat(0.0, 0.0)
    s, u_all = wide, wide
    top = number(zero, "-infinity")
    scale = splat(k * LOG2E, like)
    minus_top = splat(-top_log, like)
    origin = number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    for j in range(0, n, SPAN):
        u = zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = load(a, i, like)
            top = maximum(x, top)
            x = maximum(least, x)  # in this order a NaN stays
            w = scaled_exp2(x, scale, origin)
            s = s + widened(w)
            u = fma(w, fma(x, scale, minus_top), u)
        u_all = u_all + widened(u)
    sums[0] = sum_lanes(s)
    sums[1] = sum_lanes(u_all)
    sums[2] = greatest(top)


@kernel
def undefined(result):
    result[LSE] = np.nan
    result[ENTROPY] = np.nan
    result[ARGMAX] = -1.0


@kernel
def log_row(row, vocab, k, like, result):
    """LSE, ENTROPY and ARGMAX of a row of logs, in lanes like `like`; LSE of an all -inf row is -inf."""
    return ordered_log_row(row, vocab, k, like, None, result)


@kernel
def ordered_log_row(row, vocab, k, like, order, result):
    """`log_row`, showing each block to `order` (see order.py; None: nobody looks) while it is at hand."""
    room = stack(2048, like)
    sums = stack(3, 0.0)
    n = min(BLOCK, vocab)
    top = greatest_of(view(row, 0, n, room, NO_LOG), n, like)
    shift, top_log = -MAX_SHIFT, -MAX_SHIFT
    if -np.inf < top < np.inf:
        top_log = rounded(k * LOG2E * top, like)
        shift = np.rint(top_log)
    s, u, top, block, start = 0.0, 0.0, -np.inf, -1, 0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        log_block(x, n, like, k, shift, top_log, sums)
        if k * LOG2E * sums[2] - shift > MAX_RISE:
            raised = np.rint(k * LOG2E * sums[2])
            if not raised < MAX_SHIFT:
                break
            u += (top_log - rounded(k * LOG2E * sums[2], like)) * s
            top_log = rounded(k * LOG2E * sums[2], like)
            shrink = 2.0 ** (shift - raised)
            s, u, shift = s * shrink, u * shrink, raised
            continue
        s += sums[0]
        u += sums[1]
        if sums[2] > top:
            top, block = sums[2], start
        see_block(order, row, x, n, start, like, sums[2])
        start += n
    undefined(result)
    if start < vocab or not abs(shift) <= MAX_SHIFT:
        return False
    if s != s or u != u:  # the bits of a NaN can leave the exponential as a number, but not a product
        return True
    if top == -np.inf:
        result[LSE] = -np.inf
        return True
    heaviest = weight(top, k, shift, like)
    beside = math.log1p((s - heaviest) / heaviest)
    spread = LN2 * (rounded(k * LOG2E, like) * top - top_log - u / s)
    result[LSE] = k * top + beside
    result[ENTROPY] = max(beside + spread, 0.0) if s > heaviest else 0.0
    result[ARGMAX] = argmax(row, vocab, block, top, room)
    return True


@kernel
def mass_block(a, n, like, sums):
    """(Σx, Σx·ln x, greatest x, greatest -x) of a block of masses."""
    zero = splat(0.0, like)
    s, u, least = zero, zero, zero
    top = number(zero, "-infinity")
    for i in range(0, n, width(like)):
        x = load(a, i, like)
        top = maximum(x, top)
        least = maximum(zero - x, least)
        s = s + x
        u = u + select(equal(x, zero), zero, x * log(x))
    sums[0] = sum_lanes(s)
    sums[1] = sum_lanes(u)
    sums[2] = greatest(top)
    sums[3] = greatest(least)


@kernel
def mass_alone(row, vocab, like, result):
    """LSE (log of the mass), ENTROPY and ARGMAX of a row of masses: DONE or NEGATIVE. No mass: LSE is -inf."""
    room = stack(2048, like)
    sums = stack(4, 0.0)
    s, u, top, block = 0.0, 0.0, -np.inf, -1
    undefined(result)
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        mass_block(view(row, start, n, room, 0.0), n, like, sums)
        if sums[3] > 0.0:
            return NEGATIVE
        s += sums[0]
        u += sums[1]
        if sums[2] > top:
            top, block = sums[2], start
    if s == 0.0:
        result[LSE] = -np.inf
    elif s < np.inf:
        result[LSE] = math.log(s)
        result[ENTROPY] = max(math.log(s) - u / s, 0.0)
        result[ARGMAX] = argmax(row, vocab, block, top, room)
    return DONE
