"""One pair of rows given as probabilities, counts or any unnormalised masses -> its statistics.

With x and y the masses of one outcome, the lighter row scaled up so that both weigh about the same (up: what is not
zero must not become it):

    P = Σx   Q = Σy   Δ = Σ(y - x)   A = Σ x·ln(x/y) - x + y   R = Σ y·ln(y/x) - y + x   δ = Δ/P
    KL(p‖q) = A/P + log1p(δ) - δ        KL(q‖p) = R/Q + log1p(z) - z,   z = -δ/(1 + δ)
    H(p)    = ln P - Σx·ln x/P

Every term of A and R is ≥ 0. Near equality, with r = (y - x)/(y + x) and g = (atanh(r)/r - 1)/r², they need no log:

    x·ln(x/y) - x + y = (y - x)·r - 2x·r³·g        y·ln(y/x) - y + x = (y - x)·r + 2y·r³·g        |r| ≤ 1/3

Farther apart, y = 2ᵏ·z with z within a factor 1.5 of x takes one division as well, and cancels at most by half:

    x·ln(x/y) - x + y = [x·ln(x/z) - x + z] + (2ᵏ - 1)·z - x·k·ln2
    y·ln(y/x) - y + x = 2ᵏ[z·ln(z/x) - z + x] - (2ᵏ - 1)·x + y·k·ln2
"""

import math

import numpy as np

from .decode import BLOCK, view
from .elementary import log
from .lanes import (
    absolute,
    binades_between,
    both,
    either,
    equal,
    fma,
    greatest,
    horner,
    kernel,
    maximum,
    minimum,
    negative,
    number,
    rounded,
    select,
    shift_exponent,
    smaller,
    splat,
    stack,
    stream,
    sum_lanes,
    width,
)  # fmt: skip
from .rows import (
    ARGMAX_P,
    ARGMAX_Q,
    DONE,
    ENTROPY_P,
    ENTROPY_Q,
    KL,
    LSE_GAP,
    LSE_P,
    LSE_Q,
    REVERSE_KL,
    TOO_CLOSE,
    argmax,
    log1p_minus,
)  # fmt: skip

NEGATIVE = 3  # the outcome of a row that holds a negative mass

# places of the sums of a block; XLOGX and YLOGY are filled by `masses` alone
P, Q, DELTA, A, R, XLOGX, YLOGY, TOP_P, TOP_Q, FAR, LEAST = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10

NEAR, NORMAL, ALL = 0, 1, 2  # which sums serve a row: of masses alike, of normal numbers, of any with the entropies


@kernel
def masses_near(a, b, n, like, scale_p, scale_q, sums):
    """The sums of a block in which every |r| ≤ 1/3, without a logarithm. FAR tells afterwards whether that held."""
    zero = splat(0.0, like)
    mass_p, mass_q, delta, forward, reverse, far, least = zero, zero, zero, zero, zero, zero, zero
    top_p = number(zero, "-infinity")
    top_q = top_p
    tiniest = number(zero, "smallest")
    times_p = splat(scale_p, like)
    times_q = splat(scale_q, like)
    for i in range(0, n, width(like)):
        p = stream(a, i, like)
        q = stream(b, i, like)
        top_p = maximum(p, top_p)
        top_q = maximum(q, top_q)
        least = maximum(zero - p, maximum(zero - q, least))
        x = p * times_p
        y = q * times_q
        e = y - x
        r = e / maximum(y + x, tiniest)
        far = maximum(absolute(r), far)
        t = r * r
        cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
        cubic = cubic + cubic
        square = e * r
        mass_p = mass_p + x
        mass_q = mass_q + y
        delta = delta + e
        forward = forward + fma(zero - x, cubic, square)
        reverse = reverse + fma(y, cubic, square)
    sums[P] = sum_lanes(mass_p)
    sums[Q] = sum_lanes(mass_q)
    sums[DELTA] = sum_lanes(delta)
    sums[A] = sum_lanes(forward)
    sums[R] = sum_lanes(reverse)
    sums[TOP_P] = greatest(top_p)
    sums[TOP_Q] = greatest(top_q)
    sums[FAR] = greatest(far)
    sums[LEAST] = greatest(least)


@kernel
def masses_far(a, b, n, like, scale_p, scale_q, sums):
    """The sums of a block of zeros and normal numbers. FAR tells afterwards, by inf, if there was anything else."""
    zero = splat(0.0, like)
    mass_p, mass_q, delta, forward, reverse, far, least = zero, zero, zero, zero, zero, zero, zero
    one = number(zero, "1")
    low = one
    top_p = number(zero, "-infinity")
    top_q = top_p
    infinite = number(zero, "infinity")
    origin = number(zero, "round")
    times_p = splat(scale_p, like)
    times_q = splat(scale_q, like)
    for i in range(0, n, width(like)):
        p = stream(a, i, like)
        q = stream(b, i, like)
        top_p = maximum(p, top_p)
        top_q = maximum(q, top_q)
        least = minimum(p, minimum(q, least))
        x = p * times_p
        y = q * times_q
        no_x = equal(x, zero)
        no_y = equal(y, zero)
        low = minimum(select(no_x, one, x), minimum(select(no_y, one, y), low))
        k = binades_between(x, y)
        k = select(either(no_x, no_y), zero, k)
        far = maximum(absolute(k), far)
        z = shift_exponent(y, origin - k)
        power = shift_exponent(one, origin + k)
        apart = z - x
        r = apart / (z + x)
        t = r * r
        cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
        cubic = cubic + cubic
        square = apart * r
        k_ln2 = k * number(zero, "ln2")
        forward_term = fma(negative(x), cubic, square) + fma(negative(x), k_ln2, y - z)
        reverse_term = fma(power, fma(z, cubic, square), fma(y, k_ln2, fma(negative(x), power, x)))
        forward = forward + select(no_x, y, select(no_y, infinite, forward_term))
        reverse = reverse + select(no_y, x, select(no_x, infinite, reverse_term))
        mass_p = mass_p + x
        mass_q = mass_q + y
        delta = delta + (y - x)
    sums[P] = sum_lanes(mass_p)
    sums[Q] = sum_lanes(mass_q)
    sums[DELTA] = sum_lanes(delta)
    sums[A] = sum_lanes(forward)
    sums[R] = sum_lanes(reverse)
    sums[TOP_P] = greatest(top_p)
    sums[TOP_Q] = greatest(top_q)
    normal = -greatest(negative(low)) >= greatest(number(zero, "smallest normal"))
    in_range = greatest(far) <= -greatest(number(zero, "least exponent"))
    sums[FAR] = 0.0 if normal and in_range else np.inf
    sums[LEAST] = greatest(negative(least))


@kernel
def masses(a, b, n, like, scale_p, scale_q, sums):
    """The sums of any block, entropies too: zero masses give their limits, inf where only the denominator is zero."""
    zero = splat(0.0, like)
    mass_p, mass_q, delta, forward, reverse = zero, zero, zero, zero, zero
    xlogx, ylogy, least = zero, zero, zero
    top_p = number(zero, "-infinity")
    top_q = top_p
    infinite = number(zero, "infinity")
    tiniest = number(zero, "smallest")
    smallest = number(zero, "smallest normal")
    times_p = splat(scale_p, like)
    times_q = splat(scale_q, like)
    for i in range(0, n, width(like)):
        p = stream(a, i, like)
        q = stream(b, i, like)
        top_p = maximum(p, top_p)
        top_q = maximum(q, top_q)
        least = maximum(zero - p, maximum(zero - q, least))
        x = p * times_p
        y = q * times_q
        no_x = equal(x, zero)
        no_y = equal(y, zero)
        e = y - x
        r = e / maximum(y + x, tiniest)
        t = r * r
        cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
        cubic = cubic + cubic
        square = e * r
        log_x = log(x)
        log_y = log(y)
        ratio = y / x
        in_range = both(smaller(smallest, ratio), smaller(ratio, infinite))
        u = select(in_range, log(ratio), log_y - log_x)
        near = smaller(absolute(r), number(zero, "1/3"))
        forward_term = select(near, fma(zero - x, cubic, square), fma(zero - x, u, e))
        reverse_term = select(near, fma(y, cubic, square), fma(y, u, zero - e))
        forward_term = select(no_x, y, select(no_y, infinite, forward_term))
        reverse_term = select(no_y, x, select(no_x, infinite, reverse_term))
        mass_p = mass_p + x
        mass_q = mass_q + y
        delta = delta + e
        forward = forward + forward_term
        reverse = reverse + reverse_term
        xlogx = xlogx + select(no_x, zero, x * log_x)
        ylogy = ylogy + select(no_y, zero, y * log_y)
    sums[P] = sum_lanes(mass_p)
    sums[Q] = sum_lanes(mass_q)
    sums[DELTA] = sum_lanes(delta)
    sums[A] = sum_lanes(forward)
    sums[R] = sum_lanes(reverse)
    sums[XLOGX] = sum_lanes(xlogx)
    sums[YLOGY] = sum_lanes(ylogy)
    sums[TOP_P] = greatest(top_p)
    sums[TOP_Q] = greatest(top_q)
    sums[FAR] = 0.0
    sums[LEAST] = greatest(least)


@kernel
def undefined(result):
    for i in range(6):
        result[i] = np.nan
    result[LSE_GAP] = np.nan
    result[ARGMAX_P] = -1.0
    result[ARGMAX_Q] = -1.0


@kernel
def mass_row(p, q, vocab, entropies, like, result):
    """The statistics of one pair of rows of masses into `result`: DONE, TOO_CLOSE or NEGATIVE.

    Without `entropies` ENTROPY_P and ENTROPY_Q are NaN, and near rows cost no logarithm.
    """
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    sums = stack(11, 0.0)
    scale_p, scale_q, sums_of = 1.0, 1.0, ALL if entropies else NEAR
    for attempt in range(2):
        mass, mass_q, delta, forward, reverse, xlogx, ylogy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        top_p, top_q, block_p, block_q = -np.inf, -np.inf, -1, -1
        start = 0
        while start < vocab:
            n = min(BLOCK, vocab - start)
            x = view(p, start, n, room_p, 0.0)
            y = view(q, start, n, room_q, 0.0)
            if sums_of == NEAR:
                masses_near(x, y, n, like, scale_p, scale_q, sums)
            elif sums_of == NORMAL:
                masses_far(x, y, n, like, scale_p, scale_q, sums)
            else:
                masses(x, y, n, like, scale_p, scale_q, sums)
            if not sums[FAR] < 1.0 / 3.0:
                sums_of += 1
                continue
            if sums[LEAST] > 0.0:
                return NEGATIVE
            mass += sums[P]
            mass_q += sums[Q]
            delta += sums[DELTA]
            forward += sums[A]
            reverse += sums[R]
            if sums_of == ALL:
                xlogx += sums[XLOGX]
                ylogy += sums[YLOGY]
            if sums[TOP_P] > top_p:
                top_p, block_p = sums[TOP_P], start
            if sums[TOP_Q] > top_q:
                top_q, block_q = sums[TOP_Q], start
            start += n
        if not (0.0 < mass < np.inf and 0.0 < mass_q < np.inf):
            undefined(result)
            return DONE
        ratio = delta / mass
        alike = abs(ratio) <= 0.1
        kl = forward / mass + log1p_minus(ratio) if alike else 0.0
        reverse_kl = reverse / mass_q + log1p_minus(-ratio / (1.0 + ratio)) if alike else 0.0
        if attempt == 0 and (not alike or forward > 2.0 * kl * mass or reverse > 2.0 * reverse_kl * mass_q):
            scale_p = rounded(max(1.0, mass_q / mass), like)
            scale_q = rounded(max(1.0, mass / mass_q), like)
        else:
            break
    if width(like) == 16 and scale_p * scale_q != 1.0 and not min(kl, reverse_kl) > 1e-2:
        return TOO_CLOSE  # scaling rounds to 2^-24: worth more than 1e-6 of a small divergence
    result[KL] = max(kl, 0.0)
    result[REVERSE_KL] = max(reverse_kl, 0.0)
    result[ENTROPY_P] = math.log(mass) - xlogx / mass if entropies else np.nan
    result[ENTROPY_Q] = math.log(mass_q) - ylogy / mass_q if entropies else np.nan
    result[LSE_P] = math.log(mass) - math.log(scale_p)
    result[LSE_Q] = math.log(mass_q) - math.log(scale_q)
    result[LSE_GAP] = math.log1p(ratio) + math.log(scale_p) - math.log(scale_q)
    result[ARGMAX_P] = argmax(p, vocab, block_p, top_p, room_p)
    result[ARGMAX_Q] = argmax(q, vocab, block_q, top_q, room_q)
    return DONE
