"""One pair of rows -> its statistics, in one read of memory.

A pair is served by the cumulant sums (cumulants.py) in float32 lanes; where those could miss 1e-6 (rows nearly equal
up to a large constant) in float64 lanes; and where exponents leave the range (|y| > 8) or a probability is zero on
one side only, by `direct` (direct.py). With E = (A + B)/S and Z = S·(1 + E):

    KL(p‖q) = A/S + log1p(E) - E                 the bracket is -E²/2 + ...: small, as centre is near E_p[k(b - a)];
            = log1p(E) - B/S                     the same, for E ≥ 1/2
    KL(q‖p) = G/Z + log1p(z) - z           z = -E/(1 + E);
            = (A + B + G)/Z - log1p(E)               the same, for E ≥ 1/2
    H       = lse - E[k·a], both relative to the row's greatest element
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import (
    LOG2E,
    NEAR,
    WIDE,
    beside_heaviest,
    cumulants,
    cumulants_near,
    cumulants_wide,
    farthest,
    in_reach,
    least_argument,
    least_rest,
    settled,
    weight,
)
from .decode import BLOCK, NO_LOG, element, pair_by_words, view
from .elementary import log1p_minus
from .lanes import any_lane, equal, fma, greatest, inlined, kernel, load, maximum, rounded, splat, stack, width
from .records import CumulantSums, HeldSums, clear_record, record
from .storage import STORAGES

LN2 = 0.69314718055994530942


DONE, TOO_CLOSE, TOO_FAR = 0, 1, 2

MAX_RISE = 7.0  # bits by which a weight may exceed 1 before its block is done again against the new maximum
MAX_SHIFT = 2.0**21  # an integer below it is exact beside the rounding constant of float32


@kernel
def fused(x, y, z):
    """x·y + z, rounded once."""
    return np.float64(greatest(fma(splat(x, 0.0), splat(y, 0.0), splat(z, 0.0))))


@kernel
def binades_above(top, k, top_log, like):
    """k·log2(e)·top - top_log as the lanes have it: a product that is rounded, unless it is of float32, is not here."""
    scale = rounded(k * LOG2E, like)
    return scale * top - top_log if width(like) == 16 else fused(scale, top, -top_log)


@kernel
def greatest_of(x, n, like):
    """The greatest of n padded elements (NaN passed over), -inf if there is none."""
    top = splat(-np.inf, like)
    for i in range(0, n, width(like)):
        top = maximum(load(x, i, like), top)
    return greatest(top)


@kernel
def index_of(x, n, value, like):
    """The lowest index at which x equals `value`, or -1."""
    wanted = splat(value, like)
    for i in range(0, n, width(like)):
        if any_lane(equal(load(x, i, like), wanted)):
            for j in range(i, n):
                if x[j] == value:
                    return j
    return -1


@kernel
def argmax(row, vocab, block, value, scratch):
    """The lowest index of the greatest element `value`, first met in the block that starts at `block`; -1 if none."""
    if block < 0:
        return -1
    n = min(BLOCK, vocab - block)
    return block + index_of(view(row, block, n, scratch, NO_LOG), n, value, scratch[0])


@kernel
def _sums(a, b, n, like, k, shift, log_p, log_q, centre, reach, sums):
    if reach == NEAR:
        cumulants_near(a, b, n, like, k, shift, log_p, log_q, centre, sums)
    elif reach == WIDE:
        cumulants_wide(a, b, n, like, k, shift, log_p, log_q, centre, sums)
    else:
        cumulants(a, b, n, like, k, shift, log_p, log_q, centre, sums)


@inlined
def _sums_of_words(a, b, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
    _sums(a, b, n, like, k, shift, log_p, log_q, centre, reach, sums)


@kernel
def _decoded_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
    x = view(p, start, n, room_p, NO_LOG)
    z = view(q, start, n, room_q, NO_LOG)
    _sums(x, z, n, like, k, shift, log_p, log_q, centre, reach, sums)


_sums_in_registers = pair_by_words([kind for kind in STORAGES if kind.in_registers], _sums_of_words, _decoded_sums)


def block_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
    """The cumulant sums of elements start ... start + n of two rows, decoded in registers where both allow it."""


@overload(block_sums)
def _block_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
    def float32_lanes(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
        if n % width(like) == 0:
            _sums_in_registers(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums)
        else:
            _decoded_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums)

    def float64_lanes(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums):
        _decoded_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums)

    return float32_lanes if like == types.float32 else float64_lanes


@kernel
def within_reach(far, farthest_reach):
    """The least reach of the sums that serve |y| ≤ far."""
    return NEAR if far <= NEAR else WIDE if far <= WIDE else farthest_reach


@kernel
def shrink_held(held, fall, shrink):
    """Go over to another shift and another top_log_p, which is lower by -`fall`."""
    held.u_rest += fall * held.s_rest
    held.u_top += fall * held.s_top
    held.s_rest *= shrink
    held.u_rest *= shrink
    held.z_rest *= shrink
    held.w_rest *= shrink
    held.size_rest *= shrink
    held.s_top *= shrink
    held.u_top *= shrink
    held.z_top *= shrink
    held.w_top *= shrink
    held.size_top *= shrink


@kernel
def hold(held, sums, new_p, new_q):
    """Add the sums of a block; `new_p`, `new_q`: it holds the greatest element of the row so far."""
    z, size = sums.s + sums.a + sums.b, sums.s + sums.a + abs(sums.b)
    if new_p:
        held.s_rest += held.s_top
        held.u_rest += held.u_top
        held.s_top, held.u_top = sums.s, sums.u
    else:
        held.s_rest += sums.s
        held.u_rest += sums.u
    if new_q:
        held.z_rest += held.z_top
        held.w_rest += held.w_top
        held.size_rest += held.size_top
        held.z_top, held.w_top, held.size_top = z, sums.q, size
    else:
        held.z_rest += z
        held.w_rest += sums.q
        held.size_rest += size


@kernel
def beside_p(row, vocab, k, like, shift, top_log, block, top, held, room, result):
    """beside_p and entropy_p from the sums of a pair; False if the lanes cannot tell them."""
    heaviest = weight(top, k, shift, like)
    depth = binades_above(top, k, top_log, like)
    s = held.s_rest + held.s_top
    if s >= 4.0 * heaviest:
        result.beside_p = math.log(s / heaviest)
        result.entropy_p = result.beside_p + LN2 * (depth - (held.u_rest + held.u_top) / s)
        return True
    # the sums have rounded what shares a lane with the heaviest
    n = min(BLOCK, vocab - block)
    mass, moment, equals = beside_heaviest(view(row, block, n, room, NO_LOG), n, like, k, shift, top)
    rest = held.s_rest + (mass + (equals - 1.0) * heaviest)
    fall = (held.u_rest - depth * held.s_rest) + moment
    factor = settled(rest, fall, k, like)
    result.beside_p = math.log1p(factor * rest / heaviest)
    result.entropy_p = result.beside_p - LN2 * factor * fall / (heaviest + rest)
    return rest == 0.0 or rest > least_rest(like) * heaviest


@kernel
def beside_q(p, q, vocab, k, like, shift, top_log, centre, far, block, top, held, room, result):
    """beside_q and entropy_q from the sums of a pair; False if the lanes cannot tell them."""
    depth = binades_above(top, k, top_log, like)
    z = held.z_rest + held.z_top
    beside = result.beside_p + result.beside_gap
    if beside > 1.4:
        result.beside_q = beside
        result.entropy_q = beside + LN2 * (depth - (held.w_rest + held.w_top) / z)
        return True
    # of the block with the heaviest its own weights; of the others those that p's and y make, in units of the heaviest
    own_shift = np.rint(k * LOG2E * top)
    own = weight(top, k, own_shift, like)
    n = min(BLOCK, vocab - block)
    mass, moment, equals = beside_heaviest(view(q, block, n, room, NO_LOG), n, like, k, own_shift, top)
    x = max(element(p, np.int64(result.argmax_q)), least_argument(k, shift, like))
    heaviest = weight(x, k, shift, like) * math.exp(k * (top - x) - centre)
    others = held.z_rest / heaviest
    rest = others + (mass / own + (equals - 1.0))
    fall = (held.w_rest / heaviest - depth * others) + moment / own
    factor = settled(rest, fall, k, like)
    result.beside_q = math.log1p(factor * rest)
    result.entropy_q = result.beside_q - LN2 * factor * fall / (1.0 + rest)
    if width(like) == 16 and held.z_rest < 0.05 * held.size_rest:
        return False  # exp(y) = 1 + y + φ(y) has cancelled
    return rest == 0.0 or rest > least_rest(like) * math.exp(far)


@kernel
def deep(kl, far, k, like):
    """Whether a KL rests on outcomes so far below the greatest that the rounding of k·log2(e) in the lanes, worth as
    much of a weight as it lies nats deep, is too much: KL ≤ weight·φ(far)."""
    if not 0.0 < kl < 1e-4 * far * far:
        return False
    depth = math.log(0.5 * far * far / kl) + far
    return abs(rounded(k * LOG2E, like) / (k * LOG2E) - 1.0) * depth > 6e-7


@kernel
def cumulant_row(p, q, vocab, k, like, result):
    """The statistics of one pair of log rows into `result`, in lanes like `like`; DONE, TOO_CLOSE or TOO_FAR."""
    single = width(like) == 16
    if not in_reach(k, like):
        return TOO_FAR
    farthest_reach = 8.0 if single else 300.0  # float32 rounds |y| < 8 to 2.4e-7, and exp(y) to as much of itself
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    sums = record(CumulantSums)

    # shift: about log2 of the first block's greatest weight; centre: k·(b - a) there. Any are right, good ones exact.
    n = min(BLOCK, vocab)
    x = view(p, 0, n, room_p, NO_LOG)
    z = view(q, 0, n, room_q, NO_LOG)
    top = greatest_of(x, n, like)
    shift, log_p, log_q, centre = -MAX_SHIFT, -MAX_SHIFT, -MAX_SHIFT, 0.0
    if -np.inf < top < np.inf:
        at = index_of(x, n, top, like)
        log_p = rounded(k * LOG2E * top, like)
        shift = np.rint(log_p)
        centre = k * (np.float64(z[at]) - np.float64(x[at]))
        centre = rounded(centre, like) if abs(centre) < 1e30 else 0.0
    top = greatest_of(z, n, like)
    if -np.inf < top < np.inf:
        log_q = rounded(k * LOG2E * top, like)
    if not (abs(shift) <= MAX_SHIFT and abs(log_q) <= MAX_SHIFT):
        return TOO_FAR

    held = record(HeldSums)
    reach, centred = within_reach(farthest(x, z, n, like, k, centre), farthest_reach), False
    for attempt in range(2):
        clear_record(held)
        b, a, g, far = 0.0, 0.0, 0.0, 0.0
        top_p, top_q, block_p, block_q = -np.inf, -np.inf, -1, -1
        start = 0
        while start < vocab:
            n = min(BLOCK, vocab - start)
            block_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums)
            rise = k * LOG2E * sums.top_p - shift
            if rise > MAX_RISE:
                raised = np.rint(k * LOG2E * sums.top_p)
                if not raised < MAX_SHIFT:
                    return TOO_FAR
                shrink = 2.0 ** (shift - raised)
                shrink_held(held, log_p - rounded(k * LOG2E * sums.top_p, like), shrink)
                log_p = rounded(k * LOG2E * sums.top_p, like)
                b, a, g, shift = b * shrink, a * shrink, g * shrink, raised
                continue
            if k * LOG2E * sums.top_q - log_q > MAX_RISE and sums.top_q < np.inf:
                fall = log_q - rounded(k * LOG2E * sums.top_q, like)
                log_q = rounded(k * LOG2E * sums.top_q, like)
                held.w_rest += fall * held.z_rest
                held.w_top += fall * held.z_top
                continue
            if not (sums.far <= reach and sums.b == sums.b):
                if reach == farthest_reach:
                    return TOO_FAR
                # a NaN: outcomes impossible under both
                reach = max(within_reach(sums.far, farthest_reach), WIDE) if sums.b == sums.b else farthest_reach
                continue
            if not centred and sums.s > 0.0:
                centred = True
                mean = sums.b / sums.s
                if mean * mean > (0.5 if reach == NEAR else 0.15) * sums.a / sums.s:
                    centre = rounded(centre + mean, like)
                    continue
            b += sums.b
            a += sums.a
            g += sums.g
            far = max(far, sums.far)
            hold(held, sums, sums.top_p > top_p, sums.top_q > top_q)
            if sums.top_p > top_p:
                top_p, block_p = sums.top_p, start
            if sums.top_q > top_q:
                top_q, block_q = sums.top_q, start
            start += n
        s = held.s_rest + held.s_top
        if not s > 0.0:
            return TOO_FAR
        e = (a + b) / s
        if not e > -0.999:
            return TOO_FAR
        spread = a / s
        kl = spread + log1p_minus(e) if e < 0.5 else math.log1p(e) - b / s
        if attempt == 0 and (spread > 2.0 * kl if e < 0.5 else abs(b / s) > 4.0 * kl):
            centre = rounded(centre + b / s, like)
        else:
            break

    z_mass = s + a + b
    spread_q = g / z_mass
    reverse = spread_q + log1p_minus(-e / (1.0 + e)) if e < 0.5 else (b + a + g) / z_mass - math.log1p(e)
    least = min(kl, reverse)
    if not single and a > 1e3 * z_mass:
        return TOO_FAR  # q's mass lies where p has next to none: S + A + B has lost it
    if far > 0.0 and not least > (1e-25 if single else 1e-280) * math.exp(far):
        return TOO_CLOSE if single else TOO_FAR  # of the order of weights that stop at 2^-125 or 2^-1021, times exp(y)
    if not single and far > 0.0 and e < 0.5 and (spread > 1e4 * kl or spread_q > 1e4 * reverse):
        return TOO_FAR  # a constant apart up to rounding
    if single and (a > 0.0 or centre != 0.0):
        # float32 rounds y to 2^-24 of centre + y: worth less than 4e-7 of the KL while centre is below 5 of its spread
        # and what is subtracted (the last terms of each formula, the parts of E) must not be much the larger
        if e < 0.5:
            cancels = a > 4.0 * z_mass or spread > 2.0 * kl or spread_q > 2.0 * reverse
        else:
            cancels = math.log1p(e) > 2.0 * reverse
        if not (centre * centre <= 64.0 * least) or cancels or deep(least, far, k, like):
            return TOO_CLOSE

    result.kl = max(kl, 0.0)
    result.reverse_kl = max(reverse, 0.0)
    result.lse_gap = centre + math.log1p(e)
    result.argmax_p = argmax(p, vocab, block_p, top_p, room_p)
    result.argmax_q = argmax(q, vocab, block_q, top_q, room_q)
    if not beside_p(p, vocab, k, like, shift, log_p, block_p, top_p, held, room_p, result):
        return TOO_CLOSE if single else TOO_FAR
    result.beside_gap = (centre - k * (top_q - top_p)) + math.log1p(e)
    if not beside_q(p, q, vocab, k, like, shift, log_q, centre, far, block_q, top_q, held, room_q, result):
        return TOO_CLOSE if single else TOO_FAR
    result.lse_p = k * top_p + result.beside_p
    result.lse_q = result.lse_p + result.lse_gap
    return DONE
