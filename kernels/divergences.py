"""Divergences that need normalised terms: Σ p·f(d) over d = ln q - ln p, with f convex, f(0) = f'(0) = 0.

Four kinds cover the family; w is `weight`, c₁ and c₂ are `first` and `second`:

    LINEAR      c₁·KL(p‖q) + c₂·KL(q‖p)                     from the cumulant sums alone
    MIXTURE     c₁·KL(p‖m) + c₂·KL(q‖m), m = w·p + (1-w)·q     Jensen-Shannon, skew KL
    VARIATION   ½ Σ|p - q|
    RENYI       D_w(p‖q) of order w ≥ 0, w ≠ 1; Hellinger is 1 - exp(-D_½/2), χ² is exp(D₂) - 1. Inside, c₁ is
                ε = 1 - w, which an order near 1 does not tell, and c₂ is 1 where the order is mirrored

Where |d| ≤ 0.9, f is its own power series in d, whose coefficients `write_series` derives from the kind: no term
cancels, and a block costs one exponential an outcome. MOMENT is Σ q·r with r the slope of the divergence along ln q
(gradients.py): what a gradient needs beside the normalisers.
"""

import math

import numpy as np
from numba import types

from .beyond import ABOUT_THE_END, linear_beyond, renyi_beyond
from .decode import element
from .elementary import log, phi, phi_and_exp
from .far import apart, below
from .lanes import (
    absolute,
    equal,
    fma,
    greatest,
    horner,
    inlined,
    kernel,
    load,
    maximum,
    number,
    pointer,
    select,
    smaller,
    splat,
    stack,
    sum_lanes,
    width,
)  # fmt: skip
from .masses import NEGATIVE, mass_alone
from .pairs import (
    DISTANT,
    FORWARD,
    GAP,
    GREATEST_P,
    GREATEST_Q,
    LOG_MASS_P,
    LOG_MASS_Q,
    MOMENT,
    NEAR,
    NEGATIVE_MASS,
    PAIRS,
    PATH,
    REVERSE,
    SINGLE,
    STATE,
    UNDEFINED,
    coefficient_count,
    normalise_pair,
    read_pairs,
    scale_pair,
    series,
)  # fmt: skip
from .probabilities import IDENTICAL, mass_difference
from .status import LOGS, MASSES, NEGATIVE_P, NEGATIVE_Q, OK

LINEAR, MIXTURE, VARIATION, RENYI = 0, 1, 2, 3
CROSS_ENTROPY = 4  # of gradients along p alone: that of the KL and of the entropy may be nothing but each other's rest

# Beyond the reach of the series the float32 terms of a mixture cancel as 2/(w·(1-w)·d): float64 lanes for w near 0 or
# 1, and sooner where KL to the mixture is wanted from one side only, whose terms do not bound each other.
LEAST_WEIGHT, LEAST_WEIGHT_OF_ONE_SIDE = 0.1, 0.4

# ln((1+r)/2) for 0 ≤ r ≤ 0.505, lowest degree first; interpolated at Chebyshev points to 2.9e-11
LOG_HALF = (
    -0.693147181, 0.999999989, -0.499999241, 0.333313689, -0.249738314, 0.197961186, -0.156719643, 0.111322628,
    -0.0586287822, 0.0159363553,
)  # fmt: skip


@kernel
def mixture_series(weight, first, second, value, moment):
    """Coefficients of f(d)/d² and of exp(d)·r(d)/d for MIXTURE, c₁·G + c₂·exp(d)·G', r below.

    With u = (1-w)·expm1(d) = m/p - 1:  G = u - log1p(u), and (log1p u)'·(1 + u) = u' gives the coefficients
    n·Gₙ = Σ j·Lⱼ·uₙ₋ⱼ without cancellation. G' is the same from v = w·expm1(-d) = m/q - 1.
    r = -c₂·log1p(v) + κ·expm1(d)/(1 + u), κ = (1-w)·((1-w)·c₁ - w·c₂).
    """
    u = stack(32, 0.0)
    log_u = stack(32, 0.0)
    gap_u = stack(32, 0.0)
    v = stack(32, 0.0)
    log_v = stack(32, 0.0)
    gap_v = stack(32, 0.0)
    slope = stack(32, 0.0)
    ratio = stack(32, 0.0)
    inverse = stack(32, 0.0)
    factorial, sign = 1.0, 1.0
    inverse[0] = 1.0
    for n in range(1, 32):
        factorial *= n
        sign = -sign
        inverse[n] = 1.0 / factorial
        u[n] = (1.0 - weight) / factorial
        v[n] = weight * sign / factorial
        sum_u, sum_v = 0.0, 0.0
        for j in range(1, n):
            sum_u += j * log_u[j] * u[n - j]
            sum_v += j * log_v[j] * v[n - j]
        gap_u[n] = sum_u / n
        gap_v[n] = sum_v / n
        log_u[n] = u[n] - gap_u[n]
        log_v[n] = v[n] - gap_v[n]
        # expm1(d)/(1 + u)
        total = inverse[n]
        for j in range(1, n):
            total -= ratio[j] * u[n - j]
        ratio[n] = total
        slope[n] = (1.0 - weight) * ((1.0 - weight) * first - weight * second) * ratio[n] - second * log_v[n]
    for n in range(1, 31):
        total, total_slope = 0.0, 0.0
        for j in range(1, n + 1):
            total += gap_v[j] * inverse[n - j]
            total_slope += slope[j] * inverse[n - j]
        if n > 1:
            value[n - 2] = first * gap_u[n] + second * total
        moment[n - 1] = total_slope


@kernel
def write_series(kind, like, weight, first, second, value, moment):
    """The power series of a kind into `value` (f(d)/d²) and `moment` (exp(d)·r(d)/d, or expm1(d)/d)."""
    wide_value = stack(32, 0.0)
    wide_moment = stack(32, 0.0)
    if kind == MIXTURE:
        mixture_series(weight, first, second, wide_value, wide_moment)
    else:
        factorial, power = 1.0, 1.0
        for n in range(1, 31):
            factorial *= n
            wide_moment[n - 1] = 1.0 / factorial
            if n > 1:
                power *= first
                wide_value[n - 2] = (1.0 - power) / factorial
    for i in range(coefficient_count(like)):
        value[i] = wide_value[i]
        moment[i] = wide_moment[i]


@kernel
def near_value(probs, diffs, n, like, value):
    """Σ p·f(d) of a block in which every |d| ≤ 0.9."""
    total = splat(0.0, like)
    for i in range(0, n, width(like)):
        d = load(diffs, i, like)
        total = fma(load(probs, i, like) * d * d, series(d, value), total)
    return sum_lanes(total)


@kernel
def near_sums(probs, diffs, n, like, kind, value, moment, sums):
    """(value, moment) of a block in which every |d| ≤ 0.9."""
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    if kind == VARIATION:
        for i in range(0, n, width(like)):
            p = load(probs, i, like)
            d = load(diffs, i, like)
            e = p * (d * series(d, moment))
            total = total + absolute(e)
            total_moment = total_moment + (p + e) * sign(d)
        sums[0] = 0.5 * sum_lanes(total)
        sums[1] = 0.5 * sum_lanes(total_moment)
    else:
        for i in range(0, n, width(like)):
            p = load(probs, i, like)
            d = load(diffs, i, like)
            pd = p * d
            total = fma(pd * d, series(d, value), total)
            if kind == MIXTURE:
                total_moment = fma(pd, series(d, moment), total_moment)
        sums[0] = sum_lanes(total)
        sums[1] = sum_lanes(total_moment)


@inlined
def sign(d):
    """-1, 0 or 1 in every lane."""
    zero = number(d, "0")
    one = number(d, "1")
    return select(smaller(zero, d), one, select(smaller(d, zero), zero - one, zero))


@inlined
def log_of_one_and(e):
    """ln(1 + e) of what is not near -1; a small e, as of a small weight, is not rounded into 1 + e first."""
    one = number(e, "1")
    s = e / ((one + one) + e)
    return select(
        smaller(absolute(s) * (one + one), number(e, "1/3")), (s + s) * horner(s * s, "atanh(s)/s"), log(one + e)
    )


@inlined
def mixture_logs(p, q, d, weight, rest):
    """(ln m/p, ln m/q) for lanes of p, q and d, not near equality; `rest` is 1 - weight."""
    swapped = smaller(p, q)
    great = maximum(p, q)
    small = select(swapped, p, q)
    share = small / maximum(great, number(p, "smallest normal"))
    # m/great is 1 + e
    ln = log_of_one_and(select(swapped, weight, rest) * (share - number(p, "1")))
    return select(swapped, ln + d, ln), select(swapped, ln, ln - d)


@inlined
def lopsided_mixture_logs(p, q, d, weight, rest):
    """`mixture_logs` of a weight near 0 or 1: m may be near the lesser of p and q, whose log would be d's rounding."""
    swapped = smaller(p, q)
    great = maximum(p, q)
    small = select(swapped, p, q)
    rise = great - small
    risen = select(swapped, rest, weight) * rise
    by_small = smaller(risen, number(p, "1/2") * small)
    base = select(by_small, small, great)
    change = select(by_small, risen, select(swapped, weight, rest) * (small - great))
    ln = log_of_one_and(change / maximum(base, number(p, "smallest normal")))
    by_q = equal(base, q)
    return select(by_q, ln + d, ln), select(by_q, ln, ln - d)


@kernel
def jensen_shannon_value(probs, partners, diffs, n, like, weight, value):
    """`mixture_sums` without the moment for a mixture in equal parts: weight·Σ p·ln(p/m) + q·ln(q/m).

    Beyond the series the lesser of p and q is at most half the greater, r = lesser/greater ≤ 0.41, and
    ln(m/greater) = ln((1+r)/2) is a polynomial in float32.
    """
    zero = splat(0.0, like)
    total = zero
    limit = splat(NEAR, like)
    minus = splat(-weight, like)
    half = number(zero, "1/2")
    tiniest = number(zero, "smallest normal")
    logs = stack(32, like)
    for i in range(coefficient_count(like)):
        logs[i] = LOG_HALF[i] if i < len(LOG_HALF) else 0.0
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        size = absolute(d)
        great = maximum(p, q)
        small = zero - maximum(zero - p, zero - q)
        r = small / maximum(great, tiniest)
        ln = series(r, logs) if width(like) == 16 else log(fma(r, half, half))
        far = minus * fma(p + q, ln, small * size)
        total = total + select(smaller(size, limit), p * d * d * series(d, value), far)
    return sum_lanes(total)


@kernel
def mixture_sums(probs, partners, diffs, n, like, weight, first, second, value, moment, sums):
    """(value, moment) of any block of MIXTURE."""
    zero = splat(0.0, like)
    lopsided = width(like) == 8 and min(weight, 1.0 - weight) <= LEAST_WEIGHT
    total, total_moment = zero, zero
    w = splat(weight, like)
    rest = splat(1.0 - weight, like)
    c1 = splat(first, like)
    c2 = splat(second, like)
    tilt = splat(first * (1.0 - weight) - second * weight, like)
    kappa = splat((1.0 - weight) * ((1.0 - weight) * first - weight * second), like)
    limit = splat(NEAR, like)
    tiniest = number(zero, "smallest normal")
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        near = smaller(absolute(d), limit)
        if lopsided:
            to_p, to_q = lopsided_mixture_logs(p, q, d, w, rest)
        else:
            to_p, to_q = mixture_logs(p, q, d, w, rest)
        gap = q - p
        term = fma(tilt, gap, zero - fma(c1 * p, to_p, c2 * q * to_q))
        pd = p * d
        total = total + select(near, pd * d * series(d, value), term)
        m = maximum(fma(w, p, rest * q), tiniest)
        slope = q * fma(kappa, gap / m, zero - c2 * to_q)
        total_moment = total_moment + select(near, pd * series(d, moment), slope)
    sums[0] = sum_lanes(total)
    sums[1] = sum_lanes(total_moment)


@kernel
def variation_sums(probs, partners, diffs, n, like, moment, sums):
    """(½ Σ|p - q|, ½ Σ q·sign(q - p)) of any block."""
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    limit = splat(NEAR, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        near = smaller(absolute(d), limit)
        total = total + absolute(select(near, p * (d * series(d, moment)), q - p))
        total_moment = total_moment + q * sign(d)
    sums[0] = 0.5 * sum_lanes(total)
    sums[1] = 0.5 * sum_lanes(total_moment)


@kernel
def renyi_sums(probs, diffs, n, like, rest, limit, value, sums):
    """(Σ p·f(d), Σ p·exp(ε·d), greatest |d|) of a block of moderate d; f = φ(d) - φ(ε·d)/ε, ε = `rest` = 1 - α."""
    zero = splat(0.0, like)
    total, power_sum, far = zero, zero, zero
    epsilon = splat(rest, like)
    one = number(zero, "1")
    inverse = splat(1.0 / rest if abs(rest) > 1e-30 else 0.0, like)  # below, φ(ε·d)/ε is nothing beside φ(d)
    close = splat(limit, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        size = absolute(d)
        far = maximum(size, far)
        phi_d, ratio = phi_and_exp(d)
        phi_tilted, tilted = phi_and_exp(epsilon * d)
        f = phi_d - phi_tilted * inverse
        if rest > 0.0:  # both φ are about -d where it is far below 0; without it they do not cancel
            f = select(smaller(epsilon * d, zero - one), (ratio - one) - (tilted - one) * inverse, f)
        f = select(smaller(size, close), (d * d) * series(d, value), f)
        total = fma(p, f, total)
        power_sum = fma(p, tilted, power_sum)
    sums[0] = sum_lanes(total)
    sums[1] = sum_lanes(power_sum)
    sums[2] = greatest(far)


@kernel
def pair_sums(
    p, q, vocab, space, k, like, kind, weight, first, second, state, scales, value, moment, with_moment, sums
):
    """(value, moment) of a whole row into `sums`; False where RENYI leaves the range of the exponentials.

    `first` of RENYI is 1 - order, which the order itself may have rounded away.
    """
    even = kind == MIXTURE and not with_moment and weight == 0.5 and first == second
    room_p = stack(1024, like)
    room_q = stack(1024, like)
    probs = stack(1024, like)
    partners = stack(1024, like)
    diffs = stack(1024, like)
    part = stack(3, 0.0)
    reach = 80.0 if width(like) == 16 else 600.0
    limit = NEAR
    if kind == RENYI:
        limit /= max(1.0, abs(first))
        reach /= max(1.0, abs(first))
        if width(like) == 16 and weight > 1.5:
            reach = 6.0 / (weight - 1.0)
        elif with_moment and weight > 1.0:  # a gradient has exp(-w·d)
            reach = min(reach, (80.0 if width(like) == 16 else 600.0) / weight)
    path = state[PATH]
    near = True
    for attempt in range(2):
        total, total_moment = 0.0, 0.0
        for start in range(0, vocab, PAIRS):
            n = min(PAIRS, vocab - start)
            near = read_pairs(
                p, q, start, n, space, k, like, path, limit, near, scales, room_p, room_q, probs, partners, diffs
            )
            if near:
                if kind == VARIATION or with_moment:
                    near_sums(probs, diffs, n, like, kind, value, moment, part)
                else:
                    part[0], part[1] = near_value(probs, diffs, n, like, value), 0.0
            elif even:
                part[0], part[1] = jensen_shannon_value(probs, partners, diffs, n, like, first, value), 0.0
            elif kind == MIXTURE:
                mixture_sums(probs, partners, diffs, n, like, weight, first, second, value, moment, part)
            elif kind == VARIATION:
                variation_sums(probs, partners, diffs, n, like, moment, part)
            else:
                renyi_sums(probs, diffs, n, like, first, limit, value, part)
                if not part[2] <= reach:
                    return False
            total += part[0]
            total_moment += part[1]
        if kind != RENYI:
            break
        # near disjoint rows 1 + (α-1)·Σ p·f cancels; the power sum Σ p^α·q^(1-α) itself does not
        grown = -first * total
        if attempt == 1:
            total = math.log(total_moment) / -first
        elif grown > -0.5:
            total = total * (math.log1p(grown) / grown) if grown != 0.0 else total
            break
        else:
            limit = -1.0
    sums[0] = max(total, 0.0)
    sums[1] = total_moment
    return True


@kernel
def series_sums(p, q, vocab, space, k, like, kind, weight, first, second, state, scales, with_moment, sums):
    """`pair_sums` with the series of the kind, in lanes like `like`."""
    value = stack(32, like)
    moment = stack(32, like)
    write_series(kind, like, weight, first, second, value, moment)
    return pair_sums(
        p, q, vocab, space, k, like, kind, weight, first, second, state, scales, value, moment, with_moment, sums
    )


@kernel
def log_masses(p, q, v, space, k, epsilon, state, scales):
    """(p > 0, q > 0, ln p, ln q, ln q - ln p, `tilted`) of one outcome, in float64 at any distance."""
    x, y = element(p, v), element(q, v)
    if space == LOGS:
        top_p, top_q = state[GREATEST_P], state[GREATEST_Q]
        log_p, log_q = below(x, top_p, k) - state[LOG_MASS_P], below(y, top_q, k) - state[LOG_MASS_Q]
        gap = state[GAP] if state[PATH] == DISTANT else state[LOG_MASS_Q] - state[LOG_MASS_P]
        d = apart(x, y, top_p, top_q, k) - gap
        power = tilted(log_p, log_q, d, epsilon)
        if epsilon < 0.0:  # its terms, each of any size, may be the same: their difference before k rounds it
            power = 4.0 * (k * (below(x, top_p, 0.25) / -epsilon - apart(x, y, top_p, top_q, 0.25)))
            power += gap - state[LOG_MASS_P] / -epsilon
        return x > -np.inf, y > -np.inf, log_p, log_q, d, power
    log_x = math.log(x) if x > 0.0 else -np.inf
    log_y = math.log(y) if y > 0.0 else -np.inf
    d = mass_difference(x, y, state[GAP], scales) if x > 0.0 and y > 0.0 else log_y - log_x
    log_p, log_q = log_x - state[LOG_MASS_P], log_y - state[LOG_MASS_Q]
    return x > 0.0, y > 0.0, log_p, log_q, d, tilted(log_p, log_q, d, epsilon)


@kernel
def tilted(log_p, log_q, d, epsilon):
    """α·ln p + ε·ln q, ε = 1 - α; for α > 1 that over α - 1, which is within the range of float64 where the divergence
    is."""
    if epsilon > 0.0:
        return (1.0 - epsilon) * log_p + epsilon * log_q if epsilon < 1.0 else log_q
    return log_p / -epsilon - d


@kernel
def distant_renyi(p, q, vocab, space, k, order, epsilon, scale, state, scales):
    """-ln(Σ p^order·q^ε)·`scale`, which is D_order(p‖q) for 1/ε, of any rows and any order ≥ ½ (inf too) or 0.

    1 - Σ p^α·q^ε is a sum of terms of one sign, p·(ε·φ(d) - φ(ε·d)). Where it is no better than the sum itself, that
    is taken relative to its greatest term.
    """
    most, lost, outside, meets = -np.inf, 0.0, 0.0, False
    for v in range(vocab):
        in_p, in_q, log_p, log_q, d, power = log_masses(p, q, v, space, k, epsilon, state, scales)
        if in_p and not in_q and epsilon < 0.0:
            return np.inf
        if not in_p or not in_q:
            outside += math.exp(log_q) if in_q else 0.0
            lost += epsilon * math.exp(log_q) if in_q else order * math.exp(log_p) if in_p else 0.0
            continue
        meets = True
        most = max(most, power)
        if abs(d) < 1.0:
            lost += math.exp(log_p) * (epsilon * phi(d) - phi(epsilon * d))
        elif abs(epsilon * d) < 1.0:
            lost += epsilon * (math.exp(log_q) - math.exp(log_p)) - math.exp(log_p) * math.expm1(epsilon * d)
        else:
            power = math.exp(min(power if epsilon > 0.0 else -epsilon * power, 709.0))
            lost += (order * math.exp(log_p) - power) + epsilon * math.exp(log_q)
    if not meets:
        return np.inf
    if order == np.inf or most == np.inf:
        return max(most, 0.0)
    if order == 0.0 and outside < 0.5:
        return max(-math.log1p(-outside), 0.0)
    if order > 0.0 and -1e100 < lost < 0.5:
        return max(-math.log1p(-lost) * scale, 0.0)
    power_sum, units = 0.0, 1.0 if epsilon > 0.0 else -epsilon
    for v in range(vocab):
        in_p, in_q, log_p, log_q, d, power = log_masses(p, q, v, space, k, epsilon, state, scales)
        if in_p and in_q:
            power_sum += math.exp(units * (power - most))
    return -(most + math.log(power_sum)) * scale if epsilon > 0.0 else most + math.log(power_sum) / units


@kernel
def weighted_sum(first, forward, second, reverse):
    """first·forward + second·reverse, where a weight of 0 drops its term even if that is infinite."""
    return (first * forward if first != 0.0 else 0.0) + (second * reverse if second != 0.0 else 0.0)


@kernel
def upper_row(p, q, vocab, space, k, kind, weight, first, second, with_moment, work, state, scales):
    """`divergence_row` but for orders between 0 and 1/2; `first` of RENYI is 1 - order."""
    single = kind in (LINEAR, VARIATION)
    if kind == MIXTURE:
        both_sides = abs(first * (1.0 - weight) - second * weight) < 1e-9
        least = LEAST_WEIGHT if both_sides else LEAST_WEIGHT_OF_ONE_SIDE
        single = (first == 0.0 or weight <= 1.0 - least) and (second == 0.0 or weight >= least)
    # float32 rounds d to 6e-8 of itself, which exp((1-α)·d) multiplies by α - 1: pair_sums says where that is too much
    steep = kind == RENYI and weight > 1.5
    single |= kind == RENYI and (not steep or (space == LOGS and weight <= 5.0 and not with_moment))
    apart = kind in (MIXTURE, VARIATION) and not with_moment
    sums = stack(2, 0.0)
    done = False
    for attempt in range(2):
        normalise_pair(p, q, vocab, space, k, single and attempt == 0, apart, work, state, scales)
        state[MOMENT] = np.nan
        if state[PATH] >= UNDEFINED:
            return np.nan
        if kind == LINEAR:
            state[MOMENT] = second * state[REVERSE] if second != 0.0 else 0.0
            value = weighted_sum(first, state[FORWARD], second, state[REVERSE])
            if value == np.inf and space == LOGS and first > 0.0 and second > 0.0:
                value = linear_beyond(p, q, vocab, k, first, second, state)
            return value
        if space == MASSES and state[FORWARD] == 0.0 and state[REVERSE] == 0.0:
            # as good as equal, but for orders that raise the ratio of what weighs next to nothing above that
            least = distant_renyi(p, q, vocab, space, k, np.inf, -np.inf, 1.0, state, scales) if steep else 0.0
            if least < IDENTICAL:
                state[MOMENT] = 0.0
                return 0.0
        scale_pair(p, q, vocab, space, k, state, scales)
        if kind == RENYI and (state[PATH] == DISTANT or weight == 0.0 or weight == np.inf):
            pass
        elif state[PATH] == SINGLE:
            done = series_sums(
                p, q, vocab, space, k, np.float32(0.0), kind, weight, first, second, state, scales, with_moment, sums
            )
            if steep and not done:
                continue
        else:
            done = series_sums(
                p, q, vocab, space, k, 0.0, kind, weight, first, second, state, scales, with_moment, sums
            )
        break
    if not done:
        scale = 1.0 / weight if second == 1.0 else 1.0 / first
        sums[0] = distant_renyi(p, q, vocab, space, k, weight, first, scale, state, scales)
        if space == LOGS and not sums[0] < ABOUT_THE_END:
            sums[0] = renyi_beyond(p, q, vocab, k, weight, first, scale, state)
        sums[1] = np.nan
    elif kind == RENYI and second == 1.0:
        sums[0] *= first / weight
    state[MOMENT] = sums[1]
    return sums[0]


@kernel
def divergence_row(p, q, vocab, space, k, kind, weight, first, second, with_moment, work, state, scales):
    """The divergence of one pair of rows; fills `state`. NaN where a row is undefined or negative.

    Orders below 1/2 are those above, mirrored: D_α(p‖q) = α/(1-α)·D_(1-α)(q‖p).
    """
    if kind != RENYI:
        return upper_row(p, q, vocab, space, k, kind, weight, first, second, with_moment, work, state, scales)
    if not 0.0 < weight < 0.5:
        return upper_row(p, q, vocab, space, k, kind, weight, 1.0 - weight, 0.0, with_moment, work, state, scales)
    value = upper_row(q, p, vocab, space, k, kind, 1.0 - weight, weight, 1.0, with_moment, work, state, scales)
    normalise_pair(p, q, vocab, space, k, True, False, work, state, scales)
    return value


@kernel
def write_divergence(p, q, vocab, space, k, kind, weight, first, second, work, own_state, scales, out, state, t):
    """The divergence of pair t into `out`, and its state into `state` unless that is null; OK, NEGATIVE_P or _Q."""
    value = divergence_row(p, q, vocab, space, k, kind, weight, first, second, state != 0, work, own_state, scales)
    if own_state[PATH] == NEGATIVE_MASS:
        return NEGATIVE_P if mass_alone(p, vocab, work) == NEGATIVE else NEGATIVE_Q
    pointer(out, types.float64)[t] = value
    if state != 0:
        for i in range(STATE):
            pointer(state + 8 * (t * STATE + i), types.float64)[0] = own_state[i]
    return OK
