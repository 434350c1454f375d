"""c₁·KL(p‖q) + c₂·KL(q‖p), from the cumulant sums alone; c₁ and c₂ are `first` and `second`.

Its gradient along the logits of q is k·(c₁·(q - p) + q·(c₂·d - R)), R = c₂·KL(q‖p); q - p is p·expm1(d).
"""

import math

import numpy as np

from ..beyond import linear_beyond
from ..elementary import phi_and_exp
from ..far_gradients import RATIO, far_gradient
from ..ladder import DISTANT, RATIOS, STATISTICS, UNDEFINED, normalise_pair
from ..lanes import absolute, equal, fma, kernel, select, smaller, splat, width
from ..memory import load, store
from ..pair_loops import expm1_series, gradient_loop
from ..pairs import NEAR
from ..polynomials import series
from ..records import Divergence
from ..status import LOGS

APART = 20.0  # nats of KL(q‖p) from which on the rounding of d and R is too much where q is nearly all on one outcome


@kernel
def valid(space, weight, first, second):
    return abs(first) < np.inf and abs(second) < np.inf


@kernel
def weighted_sum(first, forward, second, reverse):
    """first·forward + second·reverse, where a weight of 0 drops its term even if that is infinite."""
    return (first * forward if first != 0.0 else 0.0) + (second * reverse if second != 0.0 else 0.0)


@kernel
def value(pair, divergence, with_moment, facts):
    _, _, first, second = divergence
    normalise_pair(pair, RATIOS if with_moment else STATISTICS, True, facts)
    state = facts.state
    state.moment = np.nan
    if state.path >= UNDEFINED:
        return np.nan
    state.moment = second * state.reverse if second != 0.0 else 0.0
    result = weighted_sum(first, state.forward, second, state.reverse)
    lesser, greater = min(first, second), max(first, second)
    if result == np.inf and pair.space == LOGS and lesser >= 0.0 and (lesser > 0.0 or greater < 1.0):
        result = linear_beyond(pair, first, second, state)
    return result


@kernel
def linear_gradient(outcomes, terms, moment, factor, out):
    """LINEAR where every d is moderate."""
    probs, _, diffs, n, like = outcomes
    c1 = splat(terms.first * factor, like)
    c2 = splat(terms.second * factor, like)
    r = splat(-moment * factor, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        phi, ratio = phi_and_exp(d)
        store(out, i, p * fma(c1, phi + d, ratio * fma(c2, d, r)))


@kernel
def distant_linear_gradient(outcomes, terms, moment, factor, out):
    """LINEAR for any d; an outcome with q = 0 has no part in the second term."""
    probs, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    c1 = splat(terms.first * factor, like)
    c2 = splat(terms.second * factor, like)
    r = splat(-moment * factor, like)
    limit = splat(NEAR, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        gap = select(smaller(absolute(d), limit), p * (d * series(d, terms.slope)), q - p)
        store(out, i, fma(c1, gap, select(equal(q, zero), zero, q * fma(c2, d, r))))


@kernel
def gradient_block(near, outcomes, terms, moment, factor, out):
    if near:
        linear_gradient(outcomes, terms, moment, factor, out)
    else:
        distant_linear_gradient(outcomes, terms, moment, factor, out)


row_gradient = gradient_loop(gradient_block, expm1_series)


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    kind, weight, first, second = divergence
    if side == 0:
        first, second = second, first
    state, moment = facts.state, facts.state.moment
    far = state.path == DISTANT or abs(moment) > APART * abs(second)
    # a KL whose half is within float64 may itself be beyond it, and so its moment
    known = math.isfinite(moment) or math.isfinite(value)
    if second != 0.0 and far and known and state.path < UNDEFINED:
        far_gradient(pair, RATIO, first * own_weight, second * own_weight, 0.0, target)
    else:
        # beyond 4, q is better computed for itself than as p·exp(d)
        seen = Divergence(kind, weight, first, second)
        row_gradient(pair, 4.0, seen, moment, -(first + second), pair.k * own_weight, facts, target)
