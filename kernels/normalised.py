"""Pairs of rows of logs that are far apart: both are normalised first, then the terms are summed.

With lp, lq the log-probabilities and d = lq - lp, the generalised terms are each ≥ 0 and need no common exponent:

    KL(p‖q) = Σ p·φ(d)    = Σ q - p - p·d      p = 0: q;   q = 0 < p: inf;   both 0: nothing
    KL(q‖p) = Σ q·φ(-d)   = Σ p - q + q·d      q = 0: p;   p = 0 < q: inf;   both 0: nothing

An error δ of a normaliser moves every d by δ and these sums by δ²/2 only, so float32 lanes serve 32-bit rows to
1e-6; `direct_row` (direct.py) remains for what they do not: logits of any size and divergences however small.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from .cumulants import LOG2E, SPAN, least_argument
from .decode import BLOCK, FLOAT64, NO_LOG, view
from .elementary import phi_near_zero, scaled_exp2
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
    sum_lanes,
    widened,
    width,
)
from .memory import stack, stream
from .records import RowStatistics, record
from .scans import LN2
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


class NormalisedLanes(NamedTuple):
    """What turns logs a and b into probabilities and d, in registers: 2^(scale·a - shift)·rest, k·(b - a) + offset."""

    scale: Any
    origin_p: Any
    origin_q: Any
    least_p: Any  # the log of what the least weight is given to
    least_q: Any
    rest_p: Any
    rest_q: Any
    k: Any
    offset: Any


@inlined
def plain_block(x, z, n, like, lanes, far):
    """(forward terms, reverse terms, greatest |d|, mask of what is below the least weight) of a block; the terms are
    right where that is nothing."""
    zero = splat(0.0, like)
    forward = splat(0.0, 0.0)
    reverse = forward
    under = equal(zero, number(zero, "1"))
    for j in range(0, n, SPAN):
        f, r = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            a = stream(x, i, like)
            b = stream(z, i, like)
            under = either(under, either(smaller(a, lanes.least_p), smaller(b, lanes.least_q)))
            prob_p = scaled_exp2(a, lanes.scale, lanes.origin_p) * lanes.rest_p
            prob_q = scaled_exp2(b, lanes.scale, lanes.origin_q) * lanes.rest_q
            d = fma(b - a, lanes.k, lanes.offset)
            forward_term, reverse_term = both_terms(prob_p, prob_q, d, d, absolute(d))
            far = maximum(absolute(d), far)
            f = f + forward_term
            r = r + reverse_term
        forward = forward + widened(f)
        reverse = reverse + widened(r)
    return forward, reverse, far, under


@inlined
def masked_block(x, z, n, like, lanes, sums):
    """The `sums` (forward, reverse, greatest |d|) and those of any block."""
    zero = splat(0.0, like)
    forward, reverse, far = sums
    for j in range(0, n, SPAN):
        f, r = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            a = stream(x, i, like)
            b = stream(z, i, like)
            a_held, b_held = maximum(a, lanes.least_p), maximum(b, lanes.least_q)
            prob_p = scaled_exp2(a_held, lanes.scale, lanes.origin_p) * lanes.rest_p
            prob_q = scaled_exp2(b_held, lanes.scale, lanes.origin_q) * lanes.rest_q
            # masked under both: the masks' own difference, which is as good as 0 if small, and else is seen
            masked = both(smaller(a, lanes.least_p), smaller(b, lanes.least_q))
            d = fma(b - select(masked, a, a_held), lanes.k, lanes.offset)
            d_reverse = fma(select(masked, b, b_held) - a, lanes.k, lanes.offset)
            forward_term, reverse_term, size = terms(a, b, prob_p, prob_q, d, d_reverse)
            far = maximum(size, far)
            f = f + forward_term
            r = r + reverse_term
        forward = forward + widened(f)
        reverse = reverse + widened(r)
    return forward, reverse, far


@kernel
def rows_alone(p, q, vocab, k, like, result):
    """What is known of either row by itself into `result`: (whether the lanes serve, greatest of p, greatest of q)."""
    one = record(RowStatistics)
    served_p = log_row(p, vocab, k, like, True, one)
    result.lse_p, result.entropy_p, result.argmax_p, result.beside_p = one.lse, one.entropy, one.argmax, one.beside
    top_p = one.greatest
    served_q = log_row(q, vocab, k, like, True, one)
    result.lse_q, result.entropy_q, result.argmax_q, result.beside_q = one.lse, one.entropy, one.argmax, one.beside
    result.lse_gap = result.lse_q - result.lse_p
    result.beside_gap = result.beside_q - result.beside_p
    result.kl = np.nan
    result.reverse_kl = np.nan
    return served_p and served_q, top_p, one.greatest


@kernel
def known_normalised(result, far, exact, like):
    """Whether lanes know KL both ways: far is the greatest |d|, `exact` whether elements are float64."""
    lse_p, lse_q = result.lse_p, result.lse_q
    least = min(result.kl, result.reverse_kl)
    # a weight that stops at 2^-125 (2^-1021) is nothing, unless d is such that their product is not
    if not far < (1e20 if width(like) == 16 else 1e250):
        return False
    if width(like) == 16:
        # float32 rounds d to 2^-24 of the offset between the rows, and each normaliser by as much of a whole
        return least > 0.3 and (lse_p - lse_q) ** 2 <= 64.0 * least
    error = 2.2e-16 * (1.0 + abs(lse_p) + abs(lse_q))
    # each d is rounded for itself, to as much of the offset between the rows: relative to d, about the root of the KL
    own = 2.2e-16 * (lse_p - lse_q)
    return least > (1e12 if exact else 1e7) * error * error and least > (1e22 if exact else 1e12) * own * own


@separate(types.boolean)
@kernel
def normalised_row(p, q, vocab, k, like, result):
    """The statistics of any pair of log rows into `result`, in lanes like `like`; False where those cannot serve."""
    served, top_p, top_q = rows_alone(p, q, vocab, k, like, result)
    if not served:
        return False
    if result.argmax_p < 0.0 or result.argmax_q < 0.0:
        return True
    lse_p, lse_q = result.lse_p, result.lse_q
    exact = width(like) == 8 and (p.storage == FLOAT64 or q.storage == FLOAT64)
    if exact and not abs(lse_p) + abs(lse_q) < 1e3:
        return False
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    zero = splat(0.0, like)
    # probabilities are 2^(k·log2(e)·a - shift) times the rest of the normaliser
    shift_p, shift_q = np.rint(LOG2E * lse_p), np.rint(LOG2E * lse_q)
    lanes = NormalisedLanes(
        splat(k * LOG2E, like),
        number(zero, "round") - splat(shift_p, like),
        number(zero, "round") - splat(shift_q, like),
        splat(least_argument(k, shift_p, like), like),
        splat(least_argument(k, shift_q, like), like),
        splat(rest(top_p, shift_p, k, result.beside_p, like), like),
        splat(rest(top_q, shift_q, k, result.beside_q, like), like),
        splat(k, like),
        splat(lse_p - lse_q, like),
    )
    forward = splat(0.0, 0.0)
    reverse = forward
    far = zero
    plain = True  # so far nothing was below the least weight
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        if plain:
            f_block, r_block, far_block, under = plain_block(x, z, n, like, lanes, far)
            plain = not any_lane(under)
            if plain:
                forward, reverse, far = forward + f_block, reverse + r_block, far_block
                continue
        forward, reverse, far = masked_block(x, z, n, like, lanes, (forward, reverse, far))
    result.kl = sum_lanes(forward)
    result.reverse_kl = sum_lanes(reverse)
    return known_normalised(result, np.float64(greatest(far)), exact, like)
