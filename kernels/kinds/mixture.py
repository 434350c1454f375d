"""c₁·KL(p‖m) + c₂·KL(q‖m), m = w·p + (1-w)·q, 0 < w < 1: Jensen-Shannon, skew KL.

c₁ and c₂ are `first` and `second`, w is `weight`. Its gradient along the logits of q is k·q·(r - R),
r = c₂·ln(q/m) - κ·(p - q)/m, R = Σ q·r, κ = (1-w)·((1-w)·c₁ - w·c₂).
"""

import numpy as np
from numba import types

from ..cumulants import SPAN
from ..elementary import log, phi_and_exp, scaled_exp2
from ..ladder import OUTCOMES, RATIOS, UNDEFINED, normalise_pair
from ..lanes import (
    absolute,
    both,
    equal,
    fma,
    inlined,
    kernel,
    maximum,
    negative,
    number,
    select,
    smaller,
    splat,
    sum_lanes,
    width,
)
from ..memory import load, stack, store
from ..mixture_series import mixture_series
from ..pair_loops import gradient_loop, near_value, value_loops
from ..pairs import NEAR, is_identical
from ..polynomials import coefficient_count, horner, series
from ..records import Divergence
from ..separate import separate

# Beyond the reach of the series the float32 terms of a mixture cancel as 2/(w·(1-w)·d): float64 lanes for w near 0 or
# 1, and sooner where KL to the mixture is wanted from one side only, whose terms do not bound each other.
LEAST_WEIGHT, LEAST_WEIGHT_OF_ONE_SIDE = 0.1, 0.4

# ln((1+r)/2) for 0 ≤ r ≤ 0.505, lowest degree first; interpolated at Chebyshev points to 2.9e-11
LOG_HALF = (
    -0.693147181, 0.999999989, -0.499999241, 0.333313689, -0.249738314, 0.197961186, -0.156719643, 0.111322628,
    -0.0586287822, 0.0159363553,
)  # fmt: skip


@kernel
def valid(space, weight, first, second):
    return 0.0 < weight < 1.0 and abs(first) < np.inf and abs(second) < np.inf


@kernel
def near_sums(outcomes, terms, sums):
    """(value, moment) of a block in which every |d| ≤ 0.9."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    for j in range(0, n, SPAN):
        part, moment_part = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = load(probs, i, like)
            d = load(diffs, i, like)
            pd = p * d
            part = fma(pd * d, series(d, terms.value), part)
            moment_part = fma(pd, series(d, terms.slope), moment_part)
        total, total_moment = total + part, total_moment + moment_part
    sums.value = sum_lanes(total)
    sums.moment = sum_lanes(total_moment)


@inlined
def share_of(d):
    """(exp(-|d|), |d|), |d| stopped where exp(-|d|) is nothing beside 1: lesser/greater of p and q.

    Not their own quotient: each has the rounding of its normaliser, of which what is left of a term between the series
    and a few nats would have the five-fold. With this one every term is its greater times a function of d.
    """
    x = maximum(negative(absolute(d)), number(d, "1/2") * number(d, "least exponent"))
    return scaled_exp2(x, number(d, "log2(e)"), number(d, "round")), negative(x)


@inlined
def mixture_logs(share, size, swapped, weight, rest):
    """(ln m/p, ln m/q) from `share_of`, not near equality; `swapped`: q is the greater; `rest` is 1 - weight.

    By whichever of p and q has the more weight in m and is near it: what is left of a term, which may be a small part
    of p and q times these, is within ten times the rounding of one of them. With the greater as 1 that one is `base`.
    """
    one = number(share, "1")
    own, others = select(swapped, rest, weight), select(swapped, weight, rest)
    risen = own * (one - share)
    by_small = both(smaller(own, number(share, "1/2")), smaller(risen, share + share))
    base = select(by_small, share, one)
    change = select(by_small, risen, others * (share - one))
    # ln(1 + change/base); a small change, as of a small weight, is not rounded into base + change first
    s = change / ((base + base) + change)
    near = (s + s) * horner(s * s, "atanh(s)/s")
    far = log(base + change) + select(by_small, size, number(share, "0"))
    ln = select(smaller(absolute(s) * (one + one), number(share, "1/3")), near, far)
    to_other = select(by_small, ln - size, ln + size)
    by_p = equal(select(by_small, one, share), select(swapped, one, share))
    return select(by_p, ln, to_other), select(by_p, to_other, ln)


@separate(types.float64)
@kernel
def jensen_shannon_value(outcomes, terms):
    """`mixture_sums` without the moment for a mixture in equal parts: c₁·Σ p·ln(p/m) + q·ln(q/m).

    Beyond the series the lesser of p and q is at most half the greater, r = lesser/greater ≤ 0.41, and
    ln(m/greater) = ln((1+r)/2) is a polynomial in float32.
    """
    probs, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total = zero
    limit = splat(NEAR, like)
    minus = splat(-terms.first, like)
    half = number(zero, "1/2")
    one = number(zero, "1")
    logs = stack(32, like)
    for i in range(coefficient_count(like)):
        logs[i] = LOG_HALF[i] if i < len(LOG_HALF) else 0.0
    for j in range(0, n, SPAN):
        part = zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = load(probs, i, like)
            q = load(partners, i, like)
            d = load(diffs, i, like)
            r, size = share_of(d)
            ln = series(r, logs) if width(like) == 16 else log(fma(r, half, half))
            far = (minus * maximum(p, q)) * fma(one + r, ln, r * size)
            part = part + select(smaller(size, limit), p * d * d * series(d, terms.value), far)
        total = total + part
    return sum_lanes(total)


@separate(types.none)
@kernel
def mixture_sums(outcomes, terms, sums):
    """(value, moment) of any block of MIXTURE."""
    probs, partners, diffs, n, like = outcomes
    weight, first, second, value, moment = terms
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    w = splat(weight, like)
    rest = splat(1.0 - weight, like)
    c1 = splat(first, like)
    c2 = splat(second, like)
    tilt = splat(first * (1.0 - weight) - second * weight, like)
    kappa = splat((1.0 - weight) * ((1.0 - weight) * first - weight * second), like)
    limit = splat(NEAR, like)
    tiniest = number(zero, "smallest normal")
    for j in range(0, n, SPAN):
        part, moment_part = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = load(probs, i, like)
            q = load(partners, i, like)
            d = load(diffs, i, like)
            near = smaller(absolute(d), limit)
            pd = p * d
            swapped = smaller(p, q)
            great = maximum(p, q)
            share, size = share_of(d)
            small = great * share
            p, q = select(swapped, small, great), select(swapped, great, small)
            to_p, to_q = mixture_logs(share, size, swapped, w, rest)
            gap = q - p
            term = fma(tilt, gap, zero - fma(c1 * p, to_p, c2 * q * to_q))
            part = part + select(near, pd * d * series(d, value), term)
            m = maximum(fma(w, p, rest * q), tiniest)
            slope = q * fma(kappa, gap / m, zero - c2 * to_q)
            moment_part = moment_part + select(near, pd * series(d, moment), slope)
        total, total_moment = total + part, total_moment + moment_part
    sums.value = sum_lanes(total)
    sums.moment = sum_lanes(total_moment)


@kernel
def block(near, outcomes, limit, terms, with_moment, part):
    if near and with_moment:
        near_sums(outcomes, terms, part)
    elif near:
        part.value = near_value(outcomes, terms.value)
    elif terms.weight == 0.5 and terms.first == terms.second and not with_moment:
        part.value = jensen_shannon_value(outcomes, terms)
    else:
        mixture_sums(outcomes, terms, part)


row_value, summed = value_loops(block, mixture_series)


@kernel
def value(pair, divergence, with_moment, facts):
    _, weight, first, second = divergence
    both_sides = abs(first * (1.0 - weight) - second * weight) < 1e-9
    least = LEAST_WEIGHT if both_sides else LEAST_WEIGHT_OF_ONE_SIDE
    single = (first == 0.0 or weight <= 1.0 - least) and (second == 0.0 or weight >= least)
    normalise_pair(pair, RATIOS if with_moment else OUTCOMES, single, facts)
    state = facts.state
    state.moment = np.nan
    if state.path >= UNDEFINED:
        return np.nan
    if is_identical(pair.space, state):
        state.moment = 0.0
        return 0.0
    return row_value(pair, NEAR, divergence, facts, with_moment)


@kernel
def near_mixture_gradient(outcomes, terms, moment, factor, out):
    """MIXTURE where every |d| ≤ 0.9; `slope` is the series of exp(d)·r(d)/d."""
    probs, _, diffs, n, like = outcomes
    f = splat(factor, like)
    r = splat(-moment, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        _, ratio = phi_and_exp(d)
        store(out, i, (p * f) * fma(d, series(d, terms.slope), ratio * r))


@kernel
def mixture_gradient(outcomes, terms, moment, factor, out):
    """MIXTURE for any d."""
    probs, partners, diffs, n, like = outcomes
    weight, first, second, _, slope = terms
    zero = splat(0.0, like)
    w = splat(weight, like)
    rest = splat(1.0 - weight, like)
    c2 = splat(second, like)
    kappa = splat((1.0 - weight) * ((1.0 - weight) * first - weight * second), like)
    f = splat(factor, like)
    r = splat(moment, like)
    limit = splat(NEAR, like)
    tiniest = number(zero, "smallest normal")
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        share, size = share_of(d)
        _, to_q = mixture_logs(share, size, smaller(p, q), w, rest)
        m = maximum(fma(w, p, rest * q), tiniest)
        far = q * fma(kappa, (q - p) / m, zero - c2 * to_q)
        near = (p * d) * series(d, slope)
        store(out, i, f * (select(smaller(absolute(d), limit), near, far) - q * r))


@kernel
def gradient_block(near, outcomes, terms, moment, factor, out):
    if near:
        near_mixture_gradient(outcomes, terms, moment, factor, out)
    else:
        mixture_gradient(outcomes, terms, moment, factor, out)


row_gradient = gradient_loop(gradient_block, mixture_series)


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    kind, weight, first, second = divergence
    if side == 0:
        weight, first, second = 1.0 - weight, second, first
    seen = Divergence(kind, weight, first, second)
    row_gradient(pair, NEAR, seen, facts.state.moment, 0.0, pair.k * own_weight, facts, target)
