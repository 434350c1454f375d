"""The hard pairs: differences beyond the reach of the cumulant sums, and outcomes impossible on one side only.

Both rows are normalised first, then the terms are summed. With lp, lq the log-probabilities and d = lq - lp, the
generalised terms are each ≥ 0 and need no common exponent:

    KL(p‖q) = Σ p·φ(d)    = Σ q - p - p·d      p = 0: q;   q = 0 < p: inf;   both 0: nothing
    KL(q‖p) = Σ q·φ(-d)   = Σ p - q + q·d      q = 0: p;   p = 0 < q: inf;   both 0: nothing

An error δ of a normaliser moves every d by δ and these sums by δ²/2 only, so float32 lanes serve 32-bit rows to
1e-6; `direct_row` remains for what they do not: logits of any size and divergences however small.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E, SPAN, least_argument
from .decode import BLOCK, FLOAT64, NO_LOG, view
from .elementary import log1p_minus, phi_near_one, phi_near_zero, scaled_exp2
from .far import half_weight, normaliser, unit_of
from .lanes import (
    absolute,
    any_lane,
    both,
    either,
    equal,
    fma,
    greatest,
    inlined,
    kernel,
    maximum,
    number,
    rounded,
    select,
    smaller,
    splat,
    stack,
    stream,
    sum_lanes,
    widened,
    width,
)  # fmt: skip
from .records import RowStatistics, record
from .scans import LN2, argmax
from .separate import separate
from .single import log_row


@inlined
def both_terms(prob_p, prob_q, d, d_reverse, size):
    """The two generalised terms of one outcome that is possible; `size` is the greater |d|."""
    zero = number(d, "0")
    near = smaller(size, number(d, "small φ"))
    forward = select(near, prob_p * phi_near_zero(d), (prob_q - prob_p) - prob_p * d)
    reverse = select(near, prob_q * phi_near_zero(zero - d_reverse), (prob_p - prob_q) + prob_q * d_reverse)
    return forward, reverse


@inlined
def terms(a, b, prob_p, prob_q, d, d_reverse):
    """The two generalised terms of one outcome and the |d| they rest on, from its logs and its probabilities; `d` and
    `d_reverse` are the same but where p or q is too small to be told from 0, which then counts as just that small."""
    zero = number(d, "0")
    nothing = number(d, "-infinity")
    infinite = number(d, "infinity")
    no_p = equal(a, nothing)
    no_q = equal(b, nothing)
    neither = both(no_p, no_q)
    prob_p = select(no_p, zero, prob_p)
    prob_q = select(no_q, zero, prob_q)
    size = maximum(absolute(d), absolute(d_reverse))
    forward, reverse = both_terms(prob_p, prob_q, d, d_reverse, size)
    forward = select(no_p, prob_q, select(no_q, infinite, forward))
    reverse = select(no_q, prob_p, select(no_p, infinite, reverse))
    size = select(either(no_p, no_q), zero, size)
    return select(neither, zero, forward), select(neither, zero, reverse), size


@kernel
def rest(top, shift, k, beside, like):
    """What 2^(k·log2(e)·a - shift) must be multiplied by to be a probability: exact at the greatest element, where
    the rounding of k·log2(e) in the lanes would otherwise cost 1e-8 of k·a."""
    return math.exp(-beside - LN2 * (rounded(k * LOG2E, like) * top - shift))


@separate(types.boolean)
@kernel
def normalised_row(p, q, vocab, k, like, result):
    """The statistics of any pair of log rows into `result`, in lanes like `like`; False where those cannot serve."""
    one = record(RowStatistics)
    served_p = log_row(p, vocab, k, like, True, one)
    lse_p, result.entropy_p, result.argmax_p, result.beside_p = one.lse, one.entropy, one.argmax, one.beside
    top_p = one.greatest
    served_q = log_row(q, vocab, k, like, True, one)
    lse_q, result.entropy_q, result.argmax_q, result.beside_q = one.lse, one.entropy, one.argmax, one.beside
    top_q = one.greatest
    if not (served_p and served_q):
        return False
    result.lse_p = lse_p
    result.lse_q = lse_q
    result.lse_gap = lse_q - lse_p
    result.beside_gap = result.beside_q - result.beside_p
    result.kl = np.nan
    result.reverse_kl = np.nan
    if result.argmax_p < 0.0 or result.argmax_q < 0.0:
        return True
    exact = width(like) == 8 and (p.storage == FLOAT64 or q.storage == FLOAT64)
    if exact and not abs(lse_p) + abs(lse_q) < 1e3:
        return False
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    zero = splat(0.0, like)
    scale = splat(k * LOG2E, like)
    # probabilities are 2^(k·log2(e)·a - shift) times the rest of the normaliser
    shift_p, shift_q = np.rint(LOG2E * lse_p), np.rint(LOG2E * lse_q)
    origin_p = number(zero, "round") - splat(shift_p, like)
    origin_q = number(zero, "round") - splat(shift_q, like)
    least_p = splat(least_argument(k, shift_p, like), like)
    least_q = splat(least_argument(k, shift_q, like), like)
    rest_p = splat(rest(top_p, shift_p, k, result.beside_p, like), like)
    rest_q = splat(rest(top_q, shift_q, k, result.beside_q, like), like)
    k_lanes = splat(k, like)
    offset = splat(lse_p - lse_q, like)
    forward = splat(0.0, 0.0)
    reverse = forward
    far = zero
    plain = True  # so far nothing was below the least weight
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        if plain:
            f_block, r_block, far_block = splat(0.0, 0.0), splat(0.0, 0.0), far
            under = equal(zero, number(zero, "1"))
            for j in range(0, n, SPAN):
                f, r = zero, zero
                for i in range(j, min(j + SPAN, n), width(like)):
                    a = stream(x, i, like)
                    b = stream(z, i, like)
                    under = either(under, either(smaller(a, least_p), smaller(b, least_q)))
                    prob_p = scaled_exp2(a, scale, origin_p) * rest_p
                    prob_q = scaled_exp2(b, scale, origin_q) * rest_q
                    d = fma(b - a, k_lanes, offset)
                    forward_term, reverse_term = both_terms(prob_p, prob_q, d, d, absolute(d))
                    far_block = maximum(absolute(d), far_block)
                    f = f + forward_term
                    r = r + reverse_term
                f_block = f_block + widened(f)
                r_block = r_block + widened(r)
            plain = not any_lane(under)
            if plain:
                forward, reverse, far = forward + f_block, reverse + r_block, far_block
                continue
        for j in range(0, n, SPAN):
            f, r = zero, zero
            for i in range(j, min(j + SPAN, n), width(like)):
                a = stream(x, i, like)
                b = stream(z, i, like)
                a_held, b_held = maximum(a, least_p), maximum(b, least_q)
                prob_p = scaled_exp2(a_held, scale, origin_p) * rest_p
                prob_q = scaled_exp2(b_held, scale, origin_q) * rest_q
                # masked under both: the masks' own difference, which is as good as 0 if small, and else is seen
                masked = both(smaller(a, least_p), smaller(b, least_q))
                d = fma(b - select(masked, a, a_held), k_lanes, offset)
                d_reverse = fma(select(masked, b, b_held) - a, k_lanes, offset)
                forward_term, reverse_term, size = terms(a, b, prob_p, prob_q, d, d_reverse)
                far = maximum(size, far)
                f = f + forward_term
                r = r + reverse_term
            forward = forward + widened(f)
            reverse = reverse + widened(r)
    result.kl = sum_lanes(forward)
    result.reverse_kl = sum_lanes(reverse)
    least = min(result.kl, result.reverse_kl)
    # a weight that stops at 2^-125 (2^-1021) is nothing, unless d is such that their product is not
    if not np.float64(greatest(far)) < (1e20 if width(like) == 16 else 1e250):
        return False
    if width(like) == 16:
        # float32 rounds d to 2^-24 of the offset between the rows, and each normaliser by as much of a whole
        return least > 0.3 and (lse_p - lse_q) ** 2 <= 64.0 * least
    error = 2.2e-16 * (1.0 + abs(lse_p) + abs(lse_q))
    # each d is rounded for itself, to as much of the offset between the rows: relative to d, about the root of the KL
    own = 2.2e-16 * (lse_p - lse_q)
    return least > (1e12 if exact else 1e7) * error * error and least > (1e22 if exact else 1e12) * own * own


@separate(types.none)
@kernel
def direct_row(p, q, vocab, k, result):
    """The statistics of any pair of log rows into `result`, in float64 lanes relative to the greatest elements.

    d = k·((b - a) - (top_q - top_p)) + ..., in which no rounding of a difference is lost. What the normalisers' own
    rounding makes of the terms is taken off again: with r = Σ q - p of the terms, Σ q - p - p·d is KL - log1p(r) + r.
    """
    like = 0.0
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    top_p, block_p, mass_p, result.entropy_p = normaliser(p, vocab, k, None, room_p)
    top_q, block_q, mass_q, result.entropy_q = normaliser(q, vocab, k, None, room_q)
    result.beside_p, result.beside_q = mass_p, mass_q
    result.lse_p = k * top_p + mass_p if block_p >= 0 else top_p
    result.lse_q = k * top_q + mass_q if block_q >= 0 else top_q
    result.argmax_p = argmax(p, vocab, block_p, top_p, room_p)
    result.argmax_q = argmax(q, vocab, block_q, top_q, room_q)
    result.kl, result.reverse_kl, result.lse_gap, result.beside_gap = np.nan, np.nan, np.nan, np.nan
    if block_p < 0 or block_q < 0:
        return
    unit, scale = unit_of(max(abs(top_p), abs(top_q)), k)
    constants = apart_constants(unit, scale, top_p, top_q, mass_p, mass_q, mass_q - mass_p, like)
    forward, reverse, excess = 0.0, 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        zero = splat(0.0, like)
        f, r, e = zero, zero, zero
        for i in range(0, n, width(like)):
            forward_term, reverse_term, gain = direct_terms(stream(x, i, like), stream(z, i, like), constants)
            f = f + forward_term
            r = r + reverse_term
            e = e + gain
        forward += sum_lanes(f)
        reverse += sum_lanes(r)
        excess += sum_lanes(e)
    result.kl = max(forward + log1p_minus(excess), 0.0)
    result.reverse_kl = max(reverse / (1.0 + excess) + log1p_minus(-excess / (1.0 + excess)), 0.0)
    result.beside_gap = (mass_q - mass_p) + math.log1p(excess)
    result.lse_gap = k * (top_q - top_p) + result.beside_gap


@inlined
def apart_constants(unit, scale, top_p, top_q, mass_p, mass_q, gap, like):
    """What `apart_lanes` needs of a pair of rows, in registers; `gap` is mass_q - mass_p, as well as it is known."""
    x, y = unit * top_p, unit * top_q
    d = y - x
    again = y - d
    lost = (y - (d + again)) - (x - again)
    return (
        splat(unit, like),
        splat(scale, like),
        splat(x, like),
        splat(y, like),
        splat(d, like),
        splat(lost, like),
        splat(mass_p, like),
        splat(mass_q, like),
        splat(0.5 * LOG2E * scale, like),
        splat(-gap, like),
    )


@inlined
def lost_lanes(a, b, difference):
    """What the difference a - b has lost to rounding (Knuth's two-sum)."""
    again = a - difference
    return (a - (difference + again)) - (b - again)


@inlined
def apart_lanes(a, b, constants):
    """(√p, √q, (b - a) - (top_q - top_p), d) of logs of any size; where one is -inf the differences are no numbers."""
    units, scale, top_p, top_q, tops, tops_lost, mass_p, mass_q, half_scale, offset = constants
    half = number(a, "1/2") * number(a, "log2(e)")
    zero = number(a, "0")
    x, y = a * units, b * units
    root_p, _ = half_weight(x - top_p, half_scale, zero - half * mass_p)
    root_q, _ = half_weight(y - top_q, half_scale, zero - half * mass_q)
    d = y - x
    gap = d - tops
    lost = (lost_lanes(d, tops, gap) + lost_lanes(y, x, d)) - tops_lost
    # beside the greatest float64 what is lost may overflow where the difference does not, and is next to nothing
    gap = gap + select(smaller(absolute(lost), number(a, "infinity")), lost, zero)
    return root_p, root_q, gap, fma(gap, scale, offset)


@inlined
def direct_terms(a, b, constants):
    """The generalised terms of one outcome and its q - p. p·k is taken before p·k·(b - a): p may be as little as the
    difference is great."""
    zero = number(a, "0")
    nothing = number(a, "-infinity")
    infinite = number(a, "infinity")
    scale = constants[1]
    offset = constants[9]
    root_p, root_q, gap, d = apart_lanes(a, b, constants)
    no_p, no_q = equal(a, nothing), equal(b, nothing)
    p, q = root_p * root_p, root_q * root_q
    near = smaller(absolute(d), number(d, "2"))
    phi, phi_reverse = phi_near_one(d), phi_near_one(zero - d)
    gain = select(near, p * (d + phi), q - p)
    forward = select(near, p * phi, (q - p) - ((root_p * scale) * (root_p * gap) + p * offset))
    reverse = select(near, q * phi_reverse, (p - q) + ((root_q * scale) * (root_q * gap) + q * offset))
    one_sided = either(no_p, no_q)
    neither = both(no_p, no_q)
    forward = select(no_p, q, select(no_q, infinite, forward))
    reverse = select(no_q, p, select(no_p, infinite, reverse))
    gain = select(one_sided, q - p, gain)
    return select(neither, zero, forward), select(neither, zero, reverse), gain
