"""One row of logs on its own: normaliser, entropy, argmax (masses.py has those of masses).

w = exp(k·a), lse = ln Σw, H = lse - Σw·k·a/Σw, with the greatest a factored out; what lies beside it is kept apart, so
that a log-probability or an entropy near 0 is as good as any other.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import LOG2E, SPAN, beside_heaviest, in_reach, least_argument, least_rest, settled, weight
from .decode import BLOCK, NO_LOG, by_words, view
from .elementary import parted_exp2
from .far import undefined
from .lanes import (
    fma,
    greatest,
    inlined,
    kernel,
    maximum,
    number,
    rounded,
    splat,
    stack,
    stream,
    sum_lanes,
    widened,
    width,
)  # fmt: skip
from .order import see_block
from .records import BlockSums, record
from .rows import LN2, MAX_RISE, MAX_SHIFT, argmax, binades_above, greatest_of
from .storage import STORAGES


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
    sums.mass = sum_lanes(s_all) + sum_lanes(odd)
    sums.moment = sum_lanes(u_all)
    sums.top = greatest(top)


@inlined
def _words_block(words, n, room, like, k, shift, top_log, entropy, sums):
    log_block(words, n, like, k, shift, top_log, entropy, sums)
    return room


@kernel
def _decoded_block(row, start, n, room, like, k, shift, top_log, entropy, sums):
    x = view(row, start, n, room, NO_LOG)
    log_block(x, n, like, k, shift, top_log, entropy, sums)
    return x


_block_in_registers = by_words([kind for kind in STORAGES if kind.in_registers], _words_block, _decoded_block)


def log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
    """`log_block` of elements start ... start + n, which are returned decoded if somebody is to look at them."""


@overload(log_sums)
def _log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
    def decoded(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
        return _decoded_block(row, start, n, room, like, k, shift, top_log, entropy, sums)

    def in_registers(row, start, n, room, like, k, shift, top_log, entropy, order, sums):
        if n % width(like) == 0:
            return _block_in_registers(row, start, n, room, like, k, shift, top_log, entropy, sums)
        return _decoded_block(row, start, n, room, like, k, shift, top_log, entropy, sums)

    return in_registers if like == types.float32 and isinstance(order, types.NoneType) else decoded


@kernel
def log_row(row, vocab, k, like, entropy, result):
    """All of far.py's statistics of a row of logs (`entropy` None: it may be NaN), in lanes like `like`: False if they
    cannot serve.

    lse of an all -inf row is -inf.
    """
    return ordered_log_row(row, vocab, k, like, entropy, None, result)


@kernel
def ordered_log_row(row, vocab, k, like, entropy, order, result):
    """`log_row`, showing each block to `order` (see order.py; None: nobody looks) while it is at hand."""
    undefined(result)
    if not in_reach(k, like):
        return False
    room = stack(2048, like)
    sums = record(BlockSums)
    n = min(BLOCK, vocab)
    top = greatest_of(view(row, 0, n, room, NO_LOG), n, like)
    shift, top_log = -MAX_SHIFT, -MAX_SHIFT
    if -np.inf < top < np.inf:
        top_log = rounded(k * LOG2E * top, like)
        shift = np.rint(top_log)
        if not abs(shift) <= MAX_SHIFT:
            return False
    # sums of the block that holds the greatest element, and of the others
    s_top, u_top, s, u = 0.0, 0.0, 0.0, 0.0
    top, block, start = -np.inf, -1, 0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        x = log_sums(row, start, n, room, like, k, shift, top_log, entropy, order, sums)
        if k * LOG2E * sums.top - shift > MAX_RISE:
            raised = np.rint(k * LOG2E * sums.top)
            if not raised < MAX_SHIFT:
                return False
            fall = top_log
            top_log = rounded(k * LOG2E * sums.top, like)
            fall -= top_log
            shrink = 2.0 ** (shift - raised)
            s_top, u_top = s_top * shrink, (u_top + fall * s_top) * shrink
            s, u, shift = s * shrink, (u + fall * s) * shrink, raised
            continue
        if sums.top > top:
            s, u = s + s_top, u + u_top
            s_top, u_top, top, block = sums.mass, sums.moment, sums.top, start
        else:
            s, u = s + sums.mass, u + sums.moment
        see_block(order, row, x, n, start, like, sums.top)
        start += n
    if top > -np.inf and k * LOG2E * top < shift - 1.0:
        return False  # nothing was possible in the first block, and weights relative to its guess say nothing
    total, moment = s + s_top, u + u_top
    if total != total or moment != moment:
        return True
    if top == -np.inf:
        result.lse = -np.inf
        return True
    heaviest = weight(top, k, shift, like)
    depth = binades_above(top, k, top_log, like)
    if total < 4.0 * heaviest:  # the sums have rounded what shares a lane with it
        n = min(BLOCK, vocab - block)
        mass, moment_beside, equals = beside_heaviest(view(row, block, n, room, NO_LOG), n, like, k, shift, top)
        rest = s + (mass + (equals - 1.0) * heaviest)
        if rest < least_rest(like) * heaviest:
            return False
        # without the entropy the mean depth of what lies beside is guessed, and with it too: the same bits
        guess = moment_beside + s * math.log(rest / heaviest) * LOG2E
        beside = math.log1p(settled(rest, guess, k, like) * rest / heaviest)
        fall = moment_beside + (u - depth * s)
        spread = -LN2 * settled(rest, fall, k, like) * fall / (heaviest + rest)
    else:
        beside = math.log(total / heaviest)
        spread = LN2 * (depth - moment / total)
    result.lse = k * top + beside
    if entropy is not None:
        result.entropy = max(beside + spread, 0.0)
    result.argmax = argmax(row, vocab, block, top, room)
    result.beside = beside
    result.greatest = top
    return True
