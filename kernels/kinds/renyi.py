"""Rényi's divergence D_α(p‖q) of order α = `weight` ≥ 0, α ≠ 1, inf too; `first` and `second` are not looked at.

With ε = 1 - α it is Σ p·f(d), f = φ(d) - φ(ε·d)/ε, of which a logarithm is taken. Hellinger is 1 - exp(-D_½/2), χ² is
exp(D₂) - 1. Orders below 1/2 are those above, mirrored: D_α(p‖q) = α/(1-α)·D_(1-α)(q‖p).

Its gradient along the logits of q is -k·q·expm1(-(α·d + K)), K = (α-1)·D; along those of p, in whose place the rows are
exchanged, k·α/(α-1)·q·expm1(-((1-α)·d + K)).
"""

import math

import numpy as np
from numba import types

from ..beyond import ABOUT_THE_END, renyi_beyond
from ..cumulants import SPAN
from ..decode import element
from ..elementary import phi, phi_and_exp
from ..far import apart, below
from ..far_gradients import tilted_gradient
from ..ladder import DISTANT, RATIOS, SINGLE, UNDEFINED, normalise_pair
from ..lanes import absolute, equal, fma, greatest, kernel, maximum, number, select, smaller, splat, sum_lanes, width
from ..memory import load, stack, store
from ..pair_loops import expm1_series, gradient_loop, near_value, series_writer, sum_loop
from ..pairs import NEAR, is_identical, scale_pair, turned
from ..polynomials import series
from ..probabilities import IDENTICAL, mass_difference
from ..records import Divergence, DivergenceSums, Terms, record
from ..separate import separate
from ..status import LOGS
from . import KINDS

LINEAR, RENYI = KINDS["linear"], KINDS["renyi"]


@kernel
def valid(space, weight, first, second):
    return weight >= 0.0 and weight != 1.0


@kernel
def renyi_series(order, epsilon, unused, value, slope):
    """f(d)/d² into `value`."""
    factorial, power = 1.0, 1.0
    for n in range(2, 31):
        factorial *= n
        power *= epsilon
        value[n - 2] = (1.0 - power) / factorial


@kernel
def renyi_sums(outcomes, rest, limit, value, sums):
    """(Σ p·f(d), Σ p·exp(ε·d), greatest |d|) of a block of moderate d; f = φ(d) - φ(ε·d)/ε, ε = `rest` = 1 - α."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total, power_sum, far = zero, zero, zero
    epsilon = splat(rest, like)
    one = number(zero, "1")
    inverse = splat(1.0 / rest if abs(rest) > 1e-30 else 0.0, like)  # below, φ(ε·d)/ε is nothing beside φ(d)
    close = splat(limit, like)
    for j in range(0, n, SPAN):
        part, power_part = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
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
            part = fma(p, f, part)
            power_part = fma(p, tilted, power_part)
        total, power_sum = total + part, power_sum + power_part
    sums.value = sum_lanes(total)
    sums.moment = sum_lanes(power_sum)
    sums.far = greatest(far)


@kernel
def block(near, outcomes, limit, terms, with_moment, part):
    if near:
        part.value = near_value(outcomes, terms.value)
    else:
        renyi_sums(outcomes, terms.first, limit, terms.value, part)


write_series, pair_sums = series_writer(renyi_series), sum_loop(block)


@separate(types.boolean)
@kernel
def power_value(pair, like, order, epsilon, steep, with_moment, facts, sums):
    """D_order(p‖q) into sums.value, in lanes like `like`; False where it leaves the range of the exponentials."""
    terms = Terms(order, epsilon, 0.0, stack(32, like), stack(32, like))
    write_series(like, order, epsilon, 0.0, terms.value, terms.slope)
    limit = NEAR / max(1.0, abs(epsilon))
    reach = (80.0 if width(like) == 16 else 600.0) / max(1.0, abs(epsilon))
    if width(like) == 16 and steep:
        reach = min(reach, 6.0 / (order - 1.0))
    if with_moment and order > 1.0:  # a gradient has exp(-order·d)
        reach = min(reach, (80.0 if width(like) == 16 else 600.0) / order)
    for attempt in range(2):
        if not pair_sums(pair, like, limit, reach, terms, facts, False, sums):
            return False
        total = sums.value
        # near disjoint rows 1 + (α-1)·Σ p·f cancels; the power sum Σ p^α·q^(1-α) itself does not
        grown = -epsilon * total
        if attempt == 1:
            total = math.log(sums.moment) / -epsilon
        elif grown > -0.5:
            total = total * (math.log1p(grown) / grown) if grown != 0.0 else total
            break
        else:
            limit = -1.0
    sums.value = max(total, 0.0)
    return True


@kernel
def log_masses(pair, v, epsilon, facts):
    """(p > 0, q > 0, ln p, ln q, ln q - ln p, `tilted`) of one outcome, in float64 at any distance."""
    x, y, k, state = element(pair.p, v), element(pair.q, v), pair.k, facts.state
    if pair.space == LOGS:
        top_p, top_q = state.greatest_p, state.greatest_q
        log_p, log_q = below(x, top_p, k) - state.log_mass_p, below(y, top_q, k) - state.log_mass_q
        gap = state.gap if state.path == DISTANT else state.log_mass_q - state.log_mass_p
        d = apart(x, y, top_p, top_q, k) - gap
        power = tilted(log_p, log_q, d, epsilon)
        if epsilon < 0.0:  # its terms, each of any size, may be the same: their difference before k rounds it
            power = 4.0 * (k * (below(x, top_p, 0.25) / -epsilon - apart(x, y, top_p, top_q, 0.25)))
            power += gap - state.log_mass_p / -epsilon
        return x > -np.inf, y > -np.inf, log_p, log_q, d, power
    log_x = math.log(x) if x > 0.0 else -np.inf
    log_y = math.log(y) if y > 0.0 else -np.inf
    d = mass_difference(x, y, state.gap, facts.scales) if x > 0.0 and y > 0.0 else log_y - log_x
    log_p, log_q = log_x - state.log_mass_p, log_y - state.log_mass_q
    return x > 0.0, y > 0.0, log_p, log_q, d, tilted(log_p, log_q, d, epsilon)


@kernel
def tilted(log_p, log_q, d, epsilon):
    """α·ln p + ε·ln q, ε = 1 - α; for α > 1 that over α - 1, which is within the range of float64 where the divergence
    is."""
    if epsilon > 0.0:
        return (1.0 - epsilon) * log_p + epsilon * log_q if epsilon < 1.0 else log_q
    return log_p / -epsilon - d


@separate(types.float64)
@kernel
def distant_renyi(pair, order, epsilon, scale, facts):
    """-ln(Σ p^order·q^ε)·`scale`, which is D_order(p‖q) for 1/ε, of any rows and any order ≥ ½ (inf too) or 0.

    1 - Σ p^α·q^ε is a sum of terms of one sign, p·(ε·φ(d) - φ(ε·d)). Where it is no better than the sum itself, that
    is taken relative to its greatest term.
    """
    most, lost, outside, meets = -np.inf, 0.0, 0.0, False
    for v in range(pair.vocab):
        in_p, in_q, log_p, log_q, d, power = log_masses(pair, v, epsilon, facts)
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
    for v in range(pair.vocab):
        in_p, in_q, log_p, log_q, d, power = log_masses(pair, v, epsilon, facts)
        if in_p and in_q:
            power_sum += math.exp(units * (power - most))
    return -(most + math.log(power_sum)) * scale if epsilon > 0.0 else most + math.log(power_sum) / units


@kernel
def upper_value(pair, order, epsilon, mirrored, steep, with_moment, facts):
    """D_order(p‖q) of an order of at least 1/2, or 0; epsilon is 1 - order, which an order near 1 does not tell.

    Of a `mirrored` pair, whose rows have been exchanged, D_epsilon(q‖p) instead. `steep`: float32 rounds d to 6e-8 of
    itself, which exp(epsilon·d) multiplies by epsilon, and what is made of it may mind; power_value says where. moment
    is NaN where some log-ratio is beyond the reach of the exponentials.
    """
    state = facts.state
    single = not steep or (pair.space == LOGS and order <= 5.0 and not with_moment)
    sums = record(DivergenceSums)
    done = False
    for attempt in range(2):
        normalise_pair(pair, RATIOS, single and attempt == 0, facts)
        state.moment = np.nan
        if state.path >= UNDEFINED:
            return np.nan
        if is_identical(pair.space, state):
            # as good as equal, but for orders that raise the ratio of what weighs next to nothing above that
            least = distant_renyi(pair, np.inf, -np.inf, 1.0, facts) if steep else 0.0
            if least < IDENTICAL:
                state.moment = 0.0
                return 0.0
        scale_pair(pair, facts)
        if state.path == DISTANT or order == 0.0 or order == np.inf:
            pass
        elif state.path == SINGLE:
            done = power_value(pair, np.float32(0.0), order, epsilon, steep, with_moment, facts, sums)
            if steep and not done:
                continue
        else:
            done = power_value(pair, 0.0, order, epsilon, steep, with_moment, facts, sums)
        break
    if done:
        state.moment = sums.moment
        return sums.value * (epsilon / order) if mirrored else sums.value
    scale = 1.0 / order if mirrored else 1.0 / epsilon
    found = distant_renyi(pair, order, epsilon, scale, facts)
    if pair.space == LOGS and not found < ABOUT_THE_END:
        found = renyi_beyond(pair, order, epsilon, scale, state)
    return found


@kernel
def value(pair, divergence, with_moment, facts):
    order, epsilon = divergence.weight, 1.0 - divergence.weight
    if not 0.0 < order < 0.5:
        return upper_value(pair, order, epsilon, False, order > 1.5, with_moment, facts)
    found = upper_value(turned(pair), epsilon, order, True, False, with_moment, facts)
    if with_moment:
        normalise_pair(pair, RATIOS, True, facts)
    return found


@kernel
def gradient_block(near, outcomes, terms, log_sum, factor, out):
    """factor·q·expm1(-(weight·d + log_sum)), the exponent held within the range of the lanes."""
    _, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    a = splat(-terms.weight, like)
    offset = splat(-log_sum, like)
    f = splat(factor, like)
    most = splat(80.0 if width(like) == 16 else 600.0, like)
    for i in range(0, n, width(like)):
        q = load(partners, i, like)
        y = fma(a, load(diffs, i, like), offset)
        y = maximum(zero - most, zero - maximum(zero - most, zero - y))
        phi, _ = phi_and_exp(y)
        store(out, i, select(equal(q, zero), zero, f * q * (phi + y)))


row_gradient = gradient_loop(gradient_block, expm1_series)


@kernel
def steep_gradient(pair, steepness, log_sum, factor, far, facts, target):
    """factor·k·q·expm1(-(steepness·d + log_sum)); `far`: some log-ratio is beyond the reach of the exponentials."""
    if far and facts.state.path < UNDEFINED and math.isfinite(log_sum):
        tilted_gradient(pair, steepness, factor, target)
        return
    seen = Divergence(RENYI, steepness, 0.0, 0.0)
    row_gradient(pair, -1.0, seen, log_sum, steepness, pair.k * factor, facts, target)


@kernel
def exchanged(weight, first, second):
    return Divergence(LINEAR, 0.5, 1.0, 0.0)  # the state of the pair alone


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    order = divergence.weight
    steepness, factor = order, -own_weight
    if side == 0:
        steepness, factor = 1.0 - order, own_weight * (order / (order - 1.0))
    far = own_moment != own_moment
    steep_gradient(pair, steepness, (order - 1.0) * value, factor, far, facts, target)
