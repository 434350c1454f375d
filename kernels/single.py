"""One row of logs on its own: normaliser, entropy, argmax (masses.py has those of masses).

w = exp(k·a), lse = ln Σw, H = lse - Σw·k·a/Σw, with the greatest a factored out.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import LOG2E, SPAN, least_argument, weight
from .decode import BFLOAT16, BLOCK, FLOAT16, NO_LOG, view
from .elementary import parted_exp2, scaled_exp2
from .lanes import (
    fma,
    greatest,
    kernel,
    load,
    maximum,
    number,
    pointer,
    rounded,
    splat,
    stack,
    stream,
    sum_lanes,
    widened,
    width,
)  # fmt: skip
from .order import see_block
from .rows import LN2, MAX_RISE, MAX_SHIFT, argmax, greatest_of

# statistics of one row
LSE, ENTROPY, ARGMAX = 0, 1, 2


@kernel
def log_block(a, n, like, k, shift, top_log, entropy, sums):
    """(Σw, Σw·t, greatest a) of a block of logs, w = 2^(k·log2(e)·a - shift), t = k·log2(e)·a - top_log.

    Σw·t is 0 where `entropy` is None. A NaN makes Σw NaN.
    """
    zero = splat(0.0, like)
    wide = splat(0.0, 0.0)
    s_all, u_all = wide, wide
    odd = zero
    top = number(zero, "-infinity")
    scale = splat(k * LOG2E, like)
    minus_top = splat(-top_log, like)
    origin = number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    for j in range(0, n, SPAN):
        s, u = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            top = maximum(x, top)
            x = maximum(least, x)  # in this order a NaN stays
            w, f = parted_exp2(x, scale, origin)
            odd = odd + f
            s = s + w
            if entropy is not None:
                u = fma(w, fma(x, scale, minus_top), u)
        s_all = s_all + widened(s)
        u_all = u_all + widened(u)
    odd = odd - odd  # 0, or NaN if any argument was
    sums[0] = sum_lanes(s_all) + sum_lanes(odd)
    sums[1] = sum_lanes(u_all)
    sums[2] = greatest(top)


@kernel
def beside_heaviest(a, n, like, k, shift):
    """Σw of a block in float64 lanes from the first addition on: what lies beside one heavy element is not lost."""
    s = splat(0.0, 0.0)
    scale = splat(k * LOG2E, like)
    origin = number(scale, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    for i in range(0, n, width(like)):
        s = s + widened(scaled_exp2(maximum(load(a, i, like), least), scale, origin))
    return sum_lanes(s)


def log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
    """`log_block` of elements start ... start + n, which are returned decoded if somebody is to look at them."""


@overload(log_sums)
def _log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
    def decoded(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
        x = view(row, start, n, room, NO_LOG)
        log_block(x, n, like, k, shift, top_log, entropy, sums)
        return x

    def in_registers(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
        if row[1] == 2 and row[2] == BFLOAT16 and n % width(like) == 0:
            log_block(pointer(row[0] + 2 * start, types.uint16), n, like, k, shift, top_log, entropy, sums)
        elif row[1] == 2 and row[2] == FLOAT16 and n % width(like) == 0:
            log_block(pointer(row[0] + 2 * start, types.int16), n, like, k, shift, top_log, entropy, sums)
        else:
            log_block(view(row, start, n, room, NO_LOG), n, like, k, shift, top_log, entropy, sums)
        return room

    return in_registers if like == types.float32 and isinstance(order, types.NoneType) else decoded


@kernel
def undefined(result):
    result[LSE] = np.nan
    result[ENTROPY] = np.nan
    result[ARGMAX] = -1.0


@kernel
def log_row(row, vocab, k, like, entropy, result):
    """LSE, ENTROPY (`entropy` None: NaN) and ARGMAX of a row of logs, in lanes like `like`: False if they cannot serve.

    LSE of an all -inf row is -inf.
    """
    return ordered_log_row(row, vocab, k, like, entropy, None, result)


@kernel
def ordered_log_row(row, vocab, k, like, entropy, order, result):
    """`log_row`, showing each block to `order` (see order.py; None: nobody looks) while it is at hand."""
    room = stack(2048, like)
    sums = stack(3, 0.0)
    n = min(BLOCK, vocab)
    top = greatest_of(view(row, 0, n, room, NO_LOG), n, like)
    shift, top_log = -MAX_SHIFT, -MAX_SHIFT
    if -np.inf < top < np.inf:
        top_log = rounded(k * LOG2E * top, like)
        shift = np.rint(top_log)
    s, u, top, block, start, of_block = 0.0, 0.0, -np.inf, -1, 0, 0.0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        x = log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums)
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
            top, block, of_block = sums[2], start, sums[0]
        see_block(order, row, x, n, start, like, sums[2])
        start += n
    undefined(result)
    if start < vocab or not abs(shift) <= MAX_SHIFT:
        return False
    if s != s or u != u:
        return True
    if top == -np.inf:
        result[LSE] = -np.inf
        return True
    heaviest = weight(top, k, shift, like)
    if width(like) == 16 and s < 4.0 * heaviest:  # float32 has rounded what shares a lane with it
        n = min(BLOCK, vocab - block)
        s += beside_heaviest(view(row, block, n, room, NO_LOG), n, like, k, shift) - of_block
    beside = math.log1p((s - heaviest) / heaviest)
    spread = LN2 * (rounded(k * LOG2E, like) * top - top_log - u / s)
    result[LSE] = k * top + beside
    if entropy is not None:
        result[ENTROPY] = max(beside + spread, 0.0) if s > heaviest else 0.0
    result[ARGMAX] = argmax(row, vocab, block, top, room)
    return True
