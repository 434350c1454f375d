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
from .lanes import fma, greatest, inlined, kernel, maximum, number, rounded, splat, sum_lanes, widened, width
from .memory import stack, stream
from .order import see_block
from .records import RowSums, clear_record, record
from .scans import LN2, MAX_RISE, MAX_SHIFT, argmax, binades_above, greatest_of
from .separate import separate
from .storage import STORAGES


@separate(types.none)
@kernel
def log_block(a, n, like, entropy, held):
    """mass, moment and highest of a block of logs: Σw, Σw·t and the greatest a, w = 2^(k·log2(e)·a - shift),
    t = k·log2(e)·a - top_log.

    Σw·t is 0 where `entropy` is None. A NaN makes Σw NaN.
    """
    k, shift, top_log = held.k, held.shift, held.top_log
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
    held.mass = sum_lanes(s_all) + sum_lanes(odd)
    held.moment = sum_lanes(u_all)
    held.highest = greatest(top)


@inlined
def _words_block(words, n, room, like, entropy, held):
    log_block(words, n, like, entropy, held)
    return room


@kernel
def _decoded_block(row, start, n, room, like, entropy, held):
    x = view(row, start, n, room, NO_LOG)
    log_block(x, n, like, entropy, held)
    return x


_block_in_registers = by_words([kind for kind in STORAGES if kind.in_registers], _words_block, _decoded_block)


def log_sums(row, start, n, room, like, entropy, order, held):
    """`log_block` of elements start ... start + n, which are returned decoded if somebody is to look at them."""


@overload(log_sums)
def _log_sums(row, start, n, room, like, entropy, order, held):
    def decoded(row, start, n, room, like, entropy, order, held):
        return _decoded_block(row, start, n, room, like, entropy, held)

    def in_registers(row, start, n, room, like, entropy, order, held):
        if n % width(like) == 0:
            return _block_in_registers(row, start, n, room, like, entropy, held)
        return _decoded_block(row, start, n, room, like, entropy, held)

    return in_registers if like == types.float32 and isinstance(order, types.NoneType) else decoded


@kernel
def log_row(row, vocab, k, like, entropy, result):
    """All of far.py's statistics of a row of logs (`entropy` None: it may be NaN), in lanes like `like`: False if they
    cannot serve.

    lse of an all -inf row is -inf.
    """
    return ordered_log_row(row, vocab, k, like, entropy, None, result)


@kernel
def start_row(row, vocab, k, room, like, held):
    """Clear the sums, about the greatest element of the first block; False where that is beyond the lanes."""
    clear_record(held)
    n = min(BLOCK, vocab)
    top = greatest_of(view(row, 0, n, room, NO_LOG), n, like)
    held.k, held.shift, held.top_log, held.top, held.block = k, -MAX_SHIFT, -MAX_SHIFT, -np.inf, -1.0
    if -np.inf < top < np.inf:
        held.top_log = rounded(k * LOG2E * top, like)
        held.shift = np.rint(held.top_log)
    return abs(held.shift) <= MAX_SHIFT


@kernel
def rise_row(held, like):
    """Make the sums those about the greatest element of the last block; False where that is beyond the lanes."""
    raised = np.rint(held.k * LOG2E * held.highest)
    if not raised < MAX_SHIFT:
        return False
    fall = held.top_log
    held.top_log = rounded(held.k * LOG2E * held.highest, like)
    fall -= held.top_log
    shrink = 2.0 ** (held.shift - raised)
    held.moment_top = (held.moment_top + fall * held.mass_top) * shrink
    held.mass_top *= shrink
    held.moment_rest = (held.moment_rest + fall * held.mass_rest) * shrink
    held.mass_rest *= shrink
    held.shift = raised
    return True


@kernel
def hold_row(held, start):
    """Add the sums of the last block, which starts at `start`."""
    if held.highest > held.top:
        held.mass_rest += held.mass_top
        held.moment_rest += held.moment_top
        held.mass_top, held.moment_top, held.top, held.block = held.mass, held.moment, held.highest, start
    else:
        held.mass_rest += held.mass
        held.moment_rest += held.moment


@kernel
def beside_row(row, vocab, room, like, held):
    """(log of the mass relative to the greatest element's, entropy less that, whether the lanes can tell them)."""
    k, top = held.k, held.top
    total, moment = held.mass_rest + held.mass_top, held.moment_rest + held.moment_top
    heaviest = weight(top, k, held.shift, like)
    depth = binades_above(top, k, held.top_log, like)
    if total >= 4.0 * heaviest:
        return math.log(total / heaviest), LN2 * (depth - moment / total), True
    # the sums have rounded what shares a lane with it
    block = np.int64(held.block)
    n = min(BLOCK, vocab - block)
    x = view(row, block, n, room, NO_LOG)
    mass, moment_beside, equals = beside_heaviest(x, n, like, k, held.shift, top)
    rest = held.mass_rest + (mass + (equals - 1.0) * heaviest)
    if rest < least_rest(like) * heaviest:
        return 0.0, 0.0, False
    # without the entropy the mean depth of what lies beside is guessed, and with it too: the same bits
    guess = moment_beside + held.mass_rest * math.log(rest / heaviest) * LOG2E
    beside = math.log1p(settled(rest, guess, k, like) * rest / heaviest)
    fall = moment_beside + (held.moment_rest - depth * held.mass_rest)
    return beside, -LN2 * settled(rest, fall, k, like) * fall / (heaviest + rest), True


@separate(types.boolean)
@kernel
def ordered_log_row(row, vocab, k, like, entropy, order, result):
    """`log_row`, showing each block to `order` (see order.py; None: nobody looks) while it is at hand."""
    undefined(result)
    room = stack(2048, like)
    held = record(RowSums)
    if not (in_reach(k, like) and start_row(row, vocab, k, room, like, held)):
        return False
    start = 0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        x = log_sums(row, start, n, room, like, entropy, order, held)
        if k * LOG2E * held.highest - held.shift > MAX_RISE:
            if not rise_row(held, like):
                return False
            continue
        hold_row(held, start)
        see_block(order, row, x, n, start, like, held.highest)
        start += n
    top = held.top
    if top > -np.inf and k * LOG2E * top < held.shift - 1.0:
        return False  # nothing was possible in the first block, and weights relative to its guess say nothing
    total, moment = held.mass_rest + held.mass_top, held.moment_rest + held.moment_top
    if total != total or moment != moment:
        return True
    if top == -np.inf:
        result.lse = -np.inf
        return True
    beside, spread, told = beside_row(row, vocab, room, like, held)
    if not told:
        return False
    result.lse = k * top + beside
    if entropy is not None:
        result.entropy = max(beside + spread, 0.0)
    result.argmax = argmax(row, vocab, np.int64(held.block), top, room)
    result.beside = beside
    result.greatest = top
    return True
