"""Divergences of rows of logs about the end of float64's range, where sums of terms in nats overflow on the way.

Beside 1e290 nats neither normalisers nor the number of outcomes count: differences of logs are taken in a unit so large
that none overflows, and the result alone is brought back to nats, where it is inf if that is what it comes to.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E
from .decode import element
from .far import apart, below
from .lanes import kernel
from .masses import split_power
from .separate import separate

ABOUT_THE_END = 1e290


@kernel
def unit_beyond(k):
    """(k in that unit, two factors whose product is the unit): k·(a - b) of any float64 is at most 2^886 of it."""
    first, second = split_power(np.rint(math.log(k) * LOG2E) + 140.0)
    return (k / first) / second, first, second


@separate(types.float64)
@kernel
def linear_beyond(pair, first, second, state):
    """first·KL(p‖q) + second·KL(q‖p), no weight negative, where one of the two is beyond the range."""
    p, q, vocab, _, k = pair
    top_p, top_q = state.greatest_p, state.greatest_q
    small, unit, more = unit_beyond(k)
    total, weight = 0.0, max(first, second)  # which may be next to nothing
    first, second = first / weight, second / weight
    for v in range(vocab):
        x, y = element(p, v), element(q, v)
        if x == -np.inf and y == -np.inf:
            continue
        if x == -np.inf or y == -np.inf:
            if (first if y == -np.inf else second) > 0.0:
                return np.inf
            continue
        d = apart(x, y, top_p, top_q, small)
        root_p = math.exp(0.5 * (below(x, top_p, k) - state.log_mass_p))
        root_q = math.exp(0.5 * (below(y, top_q, k) - state.log_mass_q))
        total += second * (root_q * (root_q * d)) - first * (root_p * (root_p * d))
    return (total * unit) * weight * more if total < 2.0**400 else total * weight * unit * more


@separate(types.float64)
@kernel
def renyi_beyond(pair, order, epsilon, scale, state):
    """`distant_renyi` (kinds/renyi.py) of logs, by its greatest term alone."""
    p, q, vocab, _, k = pair
    top_p, top_q = state.greatest_p, state.greatest_q
    small, unit, more = unit_beyond(k)
    most = -np.inf
    for v in range(vocab):
        x, y = element(p, v), element(q, v)
        if x > -np.inf and y == -np.inf and epsilon < 0.0:
            return np.inf
        if x == -np.inf or y == -np.inf:
            continue
        log_p, log_q = below(x, top_p, small), below(y, top_q, small)
        if epsilon > 0.0:
            power = (order * log_p + epsilon * log_q) * scale
        else:
            power = log_p / -epsilon - apart(x, y, top_p, top_q, small)
        most = max(most, power)
    if most == -np.inf:
        return np.inf
    return max(-most if epsilon > 0.0 else most, 0.0) * unit * more
