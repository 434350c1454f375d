"""The hard pairs: differences beyond the reach of the cumulant sums, and outcomes impossible on one side only.

Both rows are normalised first, then the terms are summed. With lp, lq the log-probabilities and d = lq - lp, the
generalised terms are each ≥ 0 and need no common exponent:

    KL(p‖q) = Σ p·φ(d)    = Σ q - p - p·d      p = 0: q;   q = 0 < p: inf;   both 0: nothing
    KL(q‖p) = Σ q·φ(-d)   = Σ p - q + q·d      q = 0: p;   p = 0 < q: inf;   both 0: nothing

An error δ of a normaliser moves every d by δ and these sums by δ²/2 only, so float32 lanes serve 32-bit rows to
1e-6; `direct_row` remains for exponents beyond float32's and beyond any whole shift (logits above 2²¹).
"""

import math

import numpy as np

from .cumulants import LOG2E, SPAN, least_argument
from .decode import BLOCK, NO_LOG, element, view
from .elementary import exp2, phi_near_zero, scaled_exp2
from .lanes import (
    absolute,
    any_lane,
    both,
    equal,
    fma,
    inlined,
    is_nan,
    kernel,
    load,
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
from .rows import (
    ARGMAX_P,
    ARGMAX_Q,
    ENTROPY_P,
    ENTROPY_Q,
    KL,
    LN2,
    LSE_GAP,
    LSE_P,
    LSE_Q,
    REVERSE_KL,
    argmax,
    greatest_of,
)  # fmt: skip
from .single import ARGMAX, ENTROPY, LSE, log_row


@inlined
def terms(a, b, prob_p, prob_q, d):
    """The two generalised terms of one outcome, from its logs, its probabilities and d."""
    zero = number(d, "0")
    nothing = number(d, "-infinity")
    infinite = number(d, "infinity")
    no_p = equal(a, nothing)
    no_q = equal(b, nothing)
    neither = both(no_p, no_q)
    prob_p = select(no_p, zero, prob_p)
    prob_q = select(no_q, zero, prob_q)
    near = smaller(absolute(d), number(d, "small φ"))
    forward = select(near, prob_p * phi_near_zero(d), (prob_q - prob_p) - prob_p * d)
    reverse = select(near, prob_q * phi_near_zero(zero - d), (prob_p - prob_q) + prob_q * d)
    forward = select(no_p, prob_q, select(no_q, infinite, forward))
    reverse = select(no_q, prob_p, select(no_p, infinite, reverse))
    return select(neither, zero, forward), select(neither, zero, reverse)


@kernel
def rest(row, v, shift, k, lse, like):
    """What 2^(k·log2(e)·a - shift) must be multiplied by to be a probability: exact at the greatest element v, where
    the rounding of k·log2(e) in the lanes would otherwise cost 1e-8 of k·a."""
    top = element(row, np.int64(v))
    return math.exp((k * top - lse) - LN2 * (rounded(k * LOG2E, like) * top - shift))


@kernel
def normalised_row(p, q, vocab, k, like, result):
    """The statistics of any pair of log rows into `result`, in lanes like `like`; False where those cannot serve."""
    one = stack(3, 0.0)
    served_p = log_row(p, vocab, k, like, True, one)
    lse_p, result[ENTROPY_P], result[ARGMAX_P] = one[LSE], one[ENTROPY], one[ARGMAX]
    served_q = log_row(q, vocab, k, like, True, one)
    lse_q, result[ENTROPY_Q], result[ARGMAX_Q] = one[LSE], one[ENTROPY], one[ARGMAX]
    if not (served_p and served_q):
        return False
    result[LSE_P] = lse_p
    result[LSE_Q] = lse_q
    result[LSE_GAP] = lse_q - lse_p
    result[KL] = np.nan
    result[REVERSE_KL] = np.nan
    if result[ARGMAX_P] < 0.0 or result[ARGMAX_Q] < 0.0:
        return True
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
    rest_p = splat(rest(p, result[ARGMAX_P], shift_p, k, lse_p, like), like)
    rest_q = splat(rest(q, result[ARGMAX_Q], shift_q, k, lse_q, like), like)
    k_lanes = splat(k, like)
    offset = splat(lse_p - lse_q, like)
    forward = splat(0.0, 0.0)
    reverse = forward
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        for j in range(0, n, SPAN):
            f, r = zero, zero
            for i in range(j, min(j + SPAN, n), width(like)):
                a = stream(x, i, like)
                b = stream(z, i, like)
                prob_p = scaled_exp2(maximum(a, least_p), scale, origin_p) * rest_p
                prob_q = scaled_exp2(maximum(b, least_q), scale, origin_q) * rest_q
                forward_term, reverse_term = terms(a, b, prob_p, prob_q, fma(b - a, k_lanes, offset))
                f = f + forward_term
                r = r + reverse_term
            forward = forward + widened(f)
            reverse = reverse + widened(r)
    result[KL] = sum_lanes(forward)
    result[REVERSE_KL] = sum_lanes(reverse)
    if width(like) == 8:
        return True
    # float32 rounds d to 2^-24 of the offset between the rows, and each normaliser by as much of a whole
    least = min(result[KL], result[REVERSE_KL])
    return least > 0.3 and (lse_p - lse_q) ** 2 <= 64.0 * least


@kernel
def normaliser(row, vocab, k, room):
    """(top, block, log mass, entropy) of a log row: mass relative to the greatest element; NaN where undefined."""
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
    if broken or top == np.inf or top == -np.inf:
        return np.nan, -1, np.nan, np.nan
    mass, moment = 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        zero = splat(0.0, like)
        s, u = zero, zero
        scale = splat(k * LOG2E, like)
        least = number(zero, "least exponent")
        for i in range(0, n, width(like)):
            log_x = load(x, i, like)
            t = maximum((log_x - splat(top, like)) * scale, least)
            w = select(equal(log_x, number(zero, "-infinity")), zero, exp2(t))
            s = s + w
            u = fma(w, t, u)
        mass += sum_lanes(s)
        moment += sum_lanes(u)
    return top, block, math.log(mass), max(math.log(mass) - LN2 * moment / mass, 0.0)


@kernel
def direct_row(p, q, vocab, k, result):
    """The statistics of any pair of log rows into `result`, in float64 lanes relative to the greatest elements."""
    like = 0.0
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    top_p, block_p, mass_p, entropy_p = normaliser(p, vocab, k, room_p)
    top_q, block_q, mass_q, entropy_q = normaliser(q, vocab, k, room_q)
    result[ENTROPY_P] = entropy_p
    result[ENTROPY_Q] = entropy_q
    result[LSE_P] = k * top_p + mass_p
    result[LSE_Q] = k * top_q + mass_q
    result[LSE_GAP] = k * (top_q - top_p) + (mass_q - mass_p)
    result[ARGMAX_P] = argmax(p, vocab, block_p, top_p, room_p)
    result[ARGMAX_Q] = argmax(q, vocab, block_q, top_q, room_q)
    if block_p < 0 or block_q < 0:
        result[KL] = np.nan
        result[REVERSE_KL] = np.nan
        return
    forward, reverse = 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        zero = splat(0.0, like)
        f, r = zero, zero
        least = number(zero, "least exponent")
        log2e = splat(LOG2E, like)
        for i in range(0, n, width(like)):
            a = stream(x, i, like)
            b = stream(z, i, like)
            below_p = a - splat(top_p, like)
            below_q = b - splat(top_q, like)
            prob_p = exp2(maximum((below_p * splat(k, like) - splat(mass_p, like)) * log2e, least))
            prob_q = exp2(maximum((below_q * splat(k, like) - splat(mass_q, like)) * log2e, least))
            d = fma(below_q - below_p, splat(k, like), splat(mass_p - mass_q, like))
            forward_term, reverse_term = terms(a, b, prob_p, prob_q, d)
            f = f + forward_term
            r = r + reverse_term
        forward += sum_lanes(f)
        reverse += sum_lanes(r)
    result[KL] = forward
    result[REVERSE_KL] = reverse
