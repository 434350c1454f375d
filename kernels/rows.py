"""One pair of rows -> its statistics, in one read of memory.

The cumulant sums (cumulants.py) of a pair in float32 lanes may miss 1e-6 of rows nearly equal up to a large constant;
where exponents leave the range (|y| > 8, 300 in float64 lanes) or a probability is zero on one side only, neither lanes
can tell. Then they say so, and what serves the pair is the business of ladder.py.

With E = (A + B)/S and Z = S·(1 + E):

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

from .cumulants import LOG2E, NEAR, WIDE, cumulants, cumulants_near, cumulants_wide, farthest, in_reach
from .decode import BLOCK, NO_LOG, pair_by_words, view
from .elementary import log1p_minus
from .held import beside_p, beside_q, clear_held, forward_of, hold, shrink_held
from .lanes import inlined, kernel, rounded, width
from .memory import stack
from .records import CumulantSums, Frame, HeldSums, Rooms, record
from .scans import MAX_RISE, MAX_SHIFT, argmax, greatest_of, index_of
from .separate import separate
from .storage import STORAGES

DONE, TOO_CLOSE, TOO_FAR = 0, 1, 2


@kernel
def _sums(a, b, n, like, frame, sums):
    if frame.reach == NEAR:
        cumulants_near(a, b, n, like, frame, sums)
    elif frame.reach == WIDE:
        cumulants_wide(a, b, n, like, frame, sums)
    else:
        cumulants(a, b, n, like, frame, sums)


@inlined
def _sums_of_words(a, b, n, rooms, frame, sums):
    _sums(a, b, n, rooms.like, frame, sums)


@kernel
def _decoded_sums(p, q, start, n, rooms, frame, sums):
    x = view(p, start, n, rooms.p, NO_LOG)
    z = view(q, start, n, rooms.q, NO_LOG)
    _sums(x, z, n, rooms.like, frame, sums)


_sums_in_registers = pair_by_words([kind for kind in STORAGES if kind.in_registers], _sums_of_words, _decoded_sums)


def block_sums(p, q, start, n, rooms, frame, sums):
    """The cumulant sums of elements start ... start + n of two rows, decoded in registers where both allow it."""


@overload(block_sums)
def _block_sums(p, q, start, n, rooms, frame, sums):
    def float32_lanes(p, q, start, n, rooms, frame, sums):
        if n % width(rooms.like) == 0:
            _sums_in_registers(p, q, start, n, rooms, frame, sums)
        else:
            _decoded_sums(p, q, start, n, rooms, frame, sums)

    def float64_lanes(p, q, start, n, rooms, frame, sums):
        _decoded_sums(p, q, start, n, rooms, frame, sums)

    return float32_lanes if rooms[2] == types.float32 else float64_lanes


@kernel
def farthest_reach(like):
    """The greatest |y| that lanes serve: float32 rounds |y| < 8 to 2.4e-7, and exp(y) to as much of itself."""
    return 8.0 if width(like) == 16 else 300.0


@kernel
def within_reach(far, like):
    """The least reach of the sums that serve |y| ≤ far."""
    return NEAR if far <= NEAR else WIDE if far <= WIDE else farthest_reach(like)


@kernel
def first_frame(p, q, vocab, k, rooms, frame):
    """A frame from the first block; False where that is beyond the lanes.

    shift: about log2 of its greatest weight; centre: k·(b - a) there. Any are right, good ones exact.
    """
    like = rooms.like
    n = min(BLOCK, vocab)
    x = view(p, 0, n, rooms.p, NO_LOG)
    z = view(q, 0, n, rooms.q, NO_LOG)
    top = greatest_of(x, n, like)
    frame.k, frame.shift, frame.log_p, frame.log_q, frame.centre = k, -MAX_SHIFT, -MAX_SHIFT, -MAX_SHIFT, 0.0
    if -np.inf < top < np.inf:
        at = index_of(x, n, top, like)
        frame.log_p = rounded(k * LOG2E * top, like)
        frame.shift = np.rint(frame.log_p)
        centre = k * (np.float64(z[at]) - np.float64(x[at]))
        frame.centre = rounded(centre, like) if abs(centre) < 1e30 else 0.0
    top = greatest_of(z, n, like)
    if -np.inf < top < np.inf:
        frame.log_q = rounded(k * LOG2E * top, like)
    frame.reach = within_reach(farthest(x, z, n, like, k, frame.centre), like)
    return abs(frame.shift) <= MAX_SHIFT and abs(frame.log_q) <= MAX_SHIFT


@kernel
def add_up(p, q, vocab, centred, rooms, frame, held, sums):
    """Fill `held`, the frame being changed where a block asks for another; False where that is beyond the lanes.

    `centred`: the centre is as good as it gets.
    """
    like, k = rooms.like, frame.k
    clear_held(held)
    start = 0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        block_sums(p, q, start, n, rooms, frame, sums)
        if k * LOG2E * sums.top_p - frame.shift > MAX_RISE:
            raised = np.rint(k * LOG2E * sums.top_p)
            if not raised < MAX_SHIFT:
                return False
            log_p = rounded(k * LOG2E * sums.top_p, like)
            shrink_held(held, frame.log_p - log_p, 2.0 ** (frame.shift - raised))
            frame.log_p, frame.shift = log_p, raised
            continue
        if k * LOG2E * sums.top_q - frame.log_q > MAX_RISE and sums.top_q < np.inf:
            log_q = rounded(k * LOG2E * sums.top_q, like)
            if not log_q < MAX_SHIFT:
                return False  # it may be rounded by more than it may rise
            held.w_rest += (frame.log_q - log_q) * held.z_rest
            held.w_top += (frame.log_q - log_q) * held.z_top
            frame.log_q = log_q
            continue
        if not (sums.far <= frame.reach and sums.b == sums.b):
            if frame.reach == farthest_reach(like):
                return False
            # a NaN: outcomes impossible under both
            frame.reach = max(within_reach(sums.far, like), WIDE) if sums.b == sums.b else farthest_reach(like)
            continue
        if not centred and sums.s > 0.0:
            centred = True
            mean = sums.b / sums.s
            if mean * mean > (0.5 if frame.reach == NEAR else 0.15) * sums.a / sums.s:
                frame.centre = rounded(frame.centre + mean, like)
                continue
        hold(held, sums, start)
        start += n
    return True


@kernel
def deep(kl, far, k, like):
    """Whether a KL rests on outcomes so far below the greatest that the rounding of k·log2(e) in the lanes, worth as
    much of a weight as it lies nats deep, is too much: KL ≤ weight·φ(far)."""
    if not 0.0 < kl < 1e-4 * far * far:
        return False
    depth = math.log(0.5 * far * far / kl) + far
    return abs(rounded(k * LOG2E, like) / (k * LOG2E) - 1.0) * depth > 6e-7


@kernel
def both_divergences(frame, held, like, result):
    """KL both ways from the sums of a pair: DONE, or TOO_CLOSE or TOO_FAR where the lanes cannot tell them."""
    single = width(like) == 16
    a, b, g, far, centre = held.a, held.b, held.g, held.far, frame.centre
    s, e, spread, kl = forward_of(held)
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
        if not (centre * centre <= 64.0 * least) or cancels or deep(least, far, frame.k, like):
            return TOO_CLOSE
    result.kl = max(kl, 0.0)
    result.reverse_kl = max(reverse, 0.0)
    result.lse_gap = centre + math.log1p(e)
    result.beside_gap = (centre - frame.k * (held.top_q - held.top_p)) + math.log1p(e)
    return DONE


@separate(types.int64)
@kernel
def cumulant_row(p, q, vocab, k, like, result):
    """The statistics of one pair of log rows into `result`, in lanes like `like`; DONE, TOO_CLOSE or TOO_FAR."""
    rooms = Rooms(stack(2048, like), stack(2048, like), like)
    frame, held, sums = record(Frame), record(HeldSums), record(CumulantSums)
    if not (in_reach(k, like) and first_frame(p, q, vocab, k, rooms, frame)):
        return TOO_FAR
    for attempt in range(2):
        if not add_up(p, q, vocab, attempt == 1, rooms, frame, held, sums):
            return TOO_FAR
        s, e, spread, kl = forward_of(held)
        if not (s > 0.0 and e > -0.999):
            return TOO_FAR
        if attempt == 0 and (spread > 2.0 * kl if e < 0.5 else abs(held.b / s) > 4.0 * kl):
            frame.centre = rounded(frame.centre + held.b / s, like)
        else:
            break
    outcome = both_divergences(frame, held, like, result)
    if outcome != DONE:
        return outcome
    result.argmax_p = argmax(p, vocab, np.int64(held.block_p), held.top_p, rooms.p)
    result.argmax_q = argmax(q, vocab, np.int64(held.block_q), held.top_q, rooms.q)
    if not (beside_p(p, vocab, frame, held, rooms, result) and beside_q(p, q, vocab, frame, held, rooms, result)):
        return TOO_CLOSE if width(like) == 16 else TOO_FAR
    result.lse_p = k * held.top_p + result.beside_p
    result.lse_q = result.lse_p + result.lse_gap
    return DONE
