"""½ Σ|p - q|, total variation.

Its gradient along the logits of q is k·q·(½ sign(q - p) - R), R = ½ Σ q·sign(q - p). moment is R - ½s with s, the sign
at q's greatest outcome, in place of REVERSE: where that outcome is nearly all, R is nearly ½s, and what others leave
would be lost to rounding. Blocks have s as `first`, and as `second` what float32 lanes lose of GAP: d may be less.
"""

import numpy as np

from ..cumulants import SPAN
from ..decode import element
from ..far import below
from ..ladder import DISTANT, OUTCOMES, RATIOS, SINGLE, UNDEFINED, normalise_pair
from ..lanes import absolute, inlined, kernel, number, rounded, select, smaller, splat, sum_lanes, width
from ..memory import load, store
from ..pair_loops import expm1_series, gradient_loop, value_loops
from ..pairs import NEAR, is_identical
from ..polynomials import series
from ..records import Divergence
from ..status import LOGS


@kernel
def valid(space, weight, first, second):
    return True


@inlined
def sign(d):
    """-1, 0 or 1 in every lane."""
    zero = number(d, "0")
    one = number(d, "1")
    return select(smaller(zero, d), one, select(smaller(d, zero), zero - one, zero))


@kernel
def near_sums(outcomes, terms, sums):
    """(½ Σ|p - q|, ½ Σ q·(sign(q - p) - s)) of a block in which every |d| ≤ 0.9."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total, total_moment, net = zero, zero, zero
    most, lost = splat(terms.first, like), splat(terms.second, like)
    for j in range(0, n, SPAN):
        part, moment_part, net_part = zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = load(probs, i, like)
            d = load(diffs, i, like) + lost
            e = p * (d * series(d, terms.slope))
            part = part + absolute(e)
            net_part = net_part + e
            moment_part = moment_part + (p + e) * (sign(d) - most)
        total, total_moment, net = total + part, total_moment + moment_part, net + net_part
    sums.value = 0.5 * sum_lanes(total)
    sums.moment = 0.5 * sum_lanes(total_moment)
    sums.net = sum_lanes(net)


@kernel
def variation_sums(outcomes, terms, sums):
    """(½ Σ|p - q|, ½ Σ q·(sign(q - p) - s)) of any block."""
    probs, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total, total_moment, net = zero, zero, zero
    limit = splat(NEAR, like)
    most, lost = splat(terms.first, like), splat(terms.second, like)
    for j in range(0, n, SPAN):
        part, moment_part, net_part = zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = load(probs, i, like)
            q = load(partners, i, like)
            d = load(diffs, i, like) + lost
            near = smaller(absolute(d), limit)
            e = select(near, p * (d * series(d, terms.slope)), q - p)
            part = part + absolute(e)
            net_part = net_part + e
            moment_part = moment_part + q * (sign(d) - most)
        total, total_moment, net = total + part, total_moment + moment_part, net + net_part
    sums.value = 0.5 * sum_lanes(total)
    sums.moment = 0.5 * sum_lanes(total_moment)
    sums.net = sum_lanes(net)


@kernel
def block(near, outcomes, limit, terms, with_moment, part):
    if near:
        near_sums(outcomes, terms, part)
    else:
        variation_sums(outcomes, terms, part)


@kernel
def balanced(sums, divergence):
    """½ Σ|q - p| less what an error of GAP, the same in every d, adds to it: q·error where q is the greater, -q·error
    where it is the lesser, R = moment + ½s times it together. The error itself is Σq - Σp."""
    return sums.value - (sums.moment + 0.5 * divergence.first) * sums.net


row_value, _ = value_loops(block, expm1_series, balanced)


@kernel
def sign_at_greatest(pair, facts):
    """s, of rows of logs."""
    state, at = facts.state, np.int64(facts.statistics.argmax_q)
    x = element(pair.p, at)
    if state.path == DISTANT:
        d = (state.log_mass_p - state.log_mass_q) - below(x, state.greatest_p, pair.k)
    else:
        d = pair.k * (element(pair.q, at) - x) - state.gap
    return 1.0 if d > 0.0 else -1.0 if d < 0.0 else 0.0


@kernel
def lost_of_gap(state):
    """What float32 lanes add to every d of rows of logs, less."""
    return rounded(state.gap, np.float32(0.0)) - state.gap if state.path == SINGLE else 0.0


@kernel
def value(pair, divergence, with_moment, facts):
    normalise_pair(pair, RATIOS if with_moment else OUTCOMES, True, facts)
    return known_value(pair, divergence, with_moment, facts)


@kernel
def known_value(pair, divergence, with_moment, facts):
    """`value` of a pair whose state is known."""
    state = facts.state
    state.moment = np.nan
    if state.path >= UNDEFINED:
        return np.nan
    if is_identical(pair.space, state):
        state.moment = 0.0
        return 0.0
    s, lost = 1.0, 0.0
    if pair.space == LOGS:
        s, lost = sign_at_greatest(pair, facts), lost_of_gap(state)
    state.reverse = s
    return row_value(pair, NEAR, Divergence(divergence.kind, 0.0, s, lost), facts, with_moment)


@kernel
def gradient_block(near, outcomes, terms, moment, factor, out):
    _, partners, diffs, n, like = outcomes
    half = splat(0.5, like)
    most, lost = splat(terms.first, like), splat(terms.second, like)
    r = splat(moment, like)
    f = splat(factor, like)
    for i in range(0, n, width(like)):
        s = sign(load(diffs, i, like) + lost)
        store(out, i, f * (load(partners, i, like) * (half * (s - most) - r)))


row_gradient = gradient_loop(gradient_block, expm1_series)


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    state = facts.state
    seen = Divergence(divergence.kind, 0.0, state.reverse, lost_of_gap(state))
    row_gradient(pair, -1.0, seen, state.moment, 0.0, pair.k * own_weight, facts, target)
