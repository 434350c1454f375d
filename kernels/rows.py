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
    FAR,
    LOG2E,
    NEAR,
    TOP_P,
    TOP_Q,
    WIDE,
    A,
    B,
    G,
    Q,
    S,
    U,
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
from .storage import STORAGES

LN2 = 0.69314718055994530942

# statistics of a pair of rows, all in float64
KL, REVERSE_KL, ENTROPY_P, ENTROPY_Q, LSE_P, LSE_Q, ARGMAX_P, ARGMAX_Q, LSE_GAP = 0, 1, 2, 3, 4, 5, 6, 7, 8
# LSE_GAP is LSE_Q - LSE_P, without the rounding of either. Of logs also: BESIDE, LSE less k times the row's greatest
# element, and BESIDE_GAP, BESIDE_Q - BESIDE_P without their rounding
BESIDE_P, BESIDE_Q, BESIDE_GAP = 9, 10, 11
STATISTICS = 12

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


# sums of the blocks that do not hold the greatest element, and of the one that does: S and U of p, Z = S + A + B, Q and
# the size of what Z is made of of q
S_REST, U_REST, Z_REST, W_REST, SIZE_REST, S_TOP, U_TOP, Z_TOP, W_TOP, SIZE_TOP = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9


@kernel
def clear(held):
    for i in range(10):
        held[i] = 0.0


@kernel
def shrink_held(held, fall, shrink):
    """Go over to another shift and another top_log_p, which is lower by -`fall`."""
    held[U_REST] += fall * held[S_REST]
    held[U_TOP] += fall * held[S_TOP]
    for i in range(10):
        held[i] *= shrink


@kernel
def hold(held, sums, new_p, new_q):
    """Add the sums of a block; `new_p`, `new_q`: it holds the greatest element of the row so far."""
    z, size = sums[S] + sums[A] + sums[B], sums[S] + sums[A] + abs(sums[B])
    if new_p:
        held[S_REST] += held[S_TOP]
        held[U_REST] += held[U_TOP]
        held[S_TOP], held[U_TOP] = sums[S], sums[U]
    else:
        held[S_REST] += sums[S]
        held[U_REST] += sums[U]
    if new_q:
        held[Z_REST] += held[Z_TOP]
        held[W_REST] += held[W_TOP]
        held[SIZE_REST] += held[SIZE_TOP]
        held[Z_TOP], held[W_TOP], held[SIZE_TOP] = z, sums[Q], size
    else:
        held[Z_REST] += z
        held[W_REST] += sums[Q]
        held[SIZE_REST] += size


@kernel
def beside_p(row, vocab, k, like, shift, top_log, block, top, held, room, sums, result):
    """BESIDE_P and ENTROPY_P from the sums of a pair; False if the lanes cannot tell them."""
    heaviest = weight(top, k, shift, like)
    depth = binades_above(top, k, top_log, like)
    s = held[S_REST] + held[S_TOP]
    if s >= 4.0 * heaviest:
        result[BESIDE_P] = math.log(s / heaviest)
        result[ENTROPY_P] = result[BESIDE_P] + LN2 * (depth - (held[U_REST] + held[U_TOP]) / s)
        return True
    # the sums have rounded what shares a lane with the heaviest
    n = min(BLOCK, vocab - block)
    beside_heaviest(view(row, block, n, room, NO_LOG), n, like, k, shift, top, sums)
    rest = held[S_REST] + (sums[0] + (sums[2] - 1.0) * heaviest)
    fall = (held[U_REST] - depth * held[S_REST]) + sums[1]
    factor = settled(rest, fall, k, like)
    result[BESIDE_P] = math.log1p(factor * rest / heaviest)
    result[ENTROPY_P] = result[BESIDE_P] - LN2 * factor * fall / (heaviest + rest)
    return rest == 0.0 or rest > least_rest(like) * heaviest


@kernel
def beside_q(p, q, vocab, k, like, shift, top_log, centre, far, block, top, held, room, sums, result):
    """BESIDE_Q and ENTROPY_Q from the sums of a pair; False if the lanes cannot tell them."""
    depth = binades_above(top, k, top_log, like)
    z = held[Z_REST] + held[Z_TOP]
    beside = result[BESIDE_P] + result[BESIDE_GAP]
    if beside > 1.4:
        result[BESIDE_Q] = beside
        result[ENTROPY_Q] = beside + LN2 * (depth - (held[W_REST] + held[W_TOP]) / z)
        return True
    # of the block with the heaviest its own weights; of the others those that p's and y make, in units of the heaviest
    own_shift = np.rint(k * LOG2E * top)
    own = weight(top, k, own_shift, like)
    n = min(BLOCK, vocab - block)
    beside_heaviest(view(q, block, n, room, NO_LOG), n, like, k, own_shift, top, sums)
    x = max(element(p, np.int64(result[ARGMAX_Q])), least_argument(k, shift, like))
    heaviest = weight(x, k, shift, like) * math.exp(k * (top - x) - centre)
    others = held[Z_REST] / heaviest
    rest = others + (sums[0] / own + (sums[2] - 1.0))
    fall = (held[W_REST] / heaviest - depth * others) + sums[1] / own
    factor = settled(rest, fall, k, like)
    result[BESIDE_Q] = math.log1p(factor * rest)
    result[ENTROPY_Q] = result[BESIDE_Q] - LN2 * factor * fall / (1.0 + rest)
    if width(like) == 16 and held[Z_REST] < 0.05 * held[SIZE_REST]:
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
    sums = stack(9, 0.0)

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

    held = stack(10, 0.0)
    reach, centred = within_reach(farthest(x, z, n, like, k, centre), farthest_reach), False
    for attempt in range(2):
        clear(held)
        b, a, g, far = 0.0, 0.0, 0.0, 0.0
        top_p, top_q, block_p, block_q = -np.inf, -np.inf, -1, -1
        start = 0
        while start < vocab:
            n = min(BLOCK, vocab - start)
            block_sums(p, q, start, n, like, k, shift, log_p, log_q, centre, reach, room_p, room_q, sums)
            rise = k * LOG2E * sums[TOP_P] - shift
            if rise > MAX_RISE:
                raised = np.rint(k * LOG2E * sums[TOP_P])
                if not raised < MAX_SHIFT:
                    return TOO_FAR
                shrink = 2.0 ** (shift - raised)
                shrink_held(held, log_p - rounded(k * LOG2E * sums[TOP_P], like), shrink)
                log_p = rounded(k * LOG2E * sums[TOP_P], like)
                b, a, g, shift = b * shrink, a * shrink, g * shrink, raised
                continue
            if k * LOG2E * sums[TOP_Q] - log_q > MAX_RISE and sums[TOP_Q] < np.inf:
                fall = log_q - rounded(k * LOG2E * sums[TOP_Q], like)
                log_q = rounded(k * LOG2E * sums[TOP_Q], like)
                held[W_REST] += fall * held[Z_REST]
                held[W_TOP] += fall * held[Z_TOP]
                continue
            if not (sums[FAR] <= reach and sums[B] == sums[B]):
                if reach == farthest_reach:
                    return TOO_FAR
                # a NaN: outcomes impossible under both
                reach = max(within_reach(sums[FAR], farthest_reach), WIDE) if sums[B] == sums[B] else farthest_reach
                continue
            if not centred and sums[S] > 0.0:
                centred = True
                mean = sums[B] / sums[S]
                if mean * mean > (0.5 if reach == NEAR else 0.15) * sums[A] / sums[S]:
                    centre = rounded(centre + mean, like)
                    continue
            b += sums[B]
            a += sums[A]
            g += sums[G]
            far = max(far, sums[FAR])
            hold(held, sums, sums[TOP_P] > top_p, sums[TOP_Q] > top_q)
            if sums[TOP_P] > top_p:
                top_p, block_p = sums[TOP_P], start
            if sums[TOP_Q] > top_q:
                top_q, block_q = sums[TOP_Q], start
            start += n
        s = held[S_REST] + held[S_TOP]
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

    result[KL] = max(kl, 0.0)
    result[REVERSE_KL] = max(reverse, 0.0)
    result[LSE_GAP] = centre + math.log1p(e)
    result[ARGMAX_P] = argmax(p, vocab, block_p, top_p, room_p)
    result[ARGMAX_Q] = argmax(q, vocab, block_q, top_q, room_q)
    if not beside_p(p, vocab, k, like, shift, log_p, block_p, top_p, held, room_p, sums, result):
        return TOO_CLOSE if single else TOO_FAR
    result[BESIDE_GAP] = (centre - k * (top_q - top_p)) + math.log1p(e)
    if not beside_q(p, q, vocab, k, like, shift, log_q, centre, far, block_q, top_q, held, room_q, sums, result):
        return TOO_CLOSE if single else TOO_FAR
    result[LSE_P] = k * top_p + result[BESIDE_P]
    result[LSE_Q] = result[LSE_P] + result[LSE_GAP]
    return DONE
