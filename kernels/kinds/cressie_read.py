"""Cressie's and Read's power divergence 2/(λ(λ+1))·(Σ p·(p/q)^λ - 1), λ = `weight`; first and second are not looked at.

It is 2/(λ(λ+1))·expm1(K) with K = λ·D, D = D_(1+λ)(p‖q) Rényi's divergence, and 2 KL(p‖q) at λ = 0. A λ below -1/2 is
one above with the rows exchanged, -1 - λ, and K the same for both: λ = -1 is 2 KL(q‖p). K is kept as moment.

Its gradient along the logits of q is -2/(1+λ)·exp(K)·k·q·expm1(-((1+λ)·d + K)), for λ = 0 and -1 that of the KL.
"""

import math

import numpy as np

from ..encode import fill
from ..ladder import DISTANT, DOUBLE, RATIOS, SINGLE, UNDEFINED, normalise_pair
from ..lanes import kernel
from ..pairs import turned
from ..records import Divergence
from . import KINDS, linear
from .renyi import steep_gradient, upper_value

CRESSIE_READ, LINEAR = KINDS["cressie_read"], KINDS["linear"]
NEXT_TO = 1e-100  # what is nearer to 0 or to -1 counts as that
MODERATE = 60.0  # nats of K up to which factors are within the range of float32 lanes


@kernel
def valid(space, weight, first, second):
    return abs(weight) < np.inf


@kernel
def value(pair, divergence, with_moment, facts):
    weight, state, own_pair = divergence.weight, facts.state, pair
    mirrored = weight < -0.5
    power = -1.0 - weight if mirrored else weight
    if mirrored:
        pair = turned(own_pair)
    if abs(power) < NEXT_TO:
        found, grown = 2.0 * linear.value(pair, Divergence(LINEAR, 0.5, 1.0, 0.0), with_moment, facts), 0.0
        within = True
    else:
        order = 1.0 + power
        grown = power * upper_value(pair, order, -power, False, power > 0.0, with_moment, facts)
        found = 2.0 * (math.expm1(grown) / power) / order
        within = state.moment == state.moment
    if mirrored and with_moment:
        normalise_pair(own_pair, RATIOS, True, facts)
    if state.path < UNDEFINED:
        state.moment = grown
        if not within:  # some log-ratio is beyond the reach of the exponentials
            state.path = DISTANT
    return found


@kernel
def exchanged(weight, first, second):
    return Divergence(CRESSIE_READ, -1.0 - weight, 0.0, 0.0)


@kernel
def gradient(pair, divergence, own_weight, side, value, own_moment, facts, target):
    state, grown = facts.state, facts.state.moment
    power = divergence.weight if side == 1 else -1.0 - divergence.weight
    if abs(power) < NEXT_TO or abs(1.0 + power) < NEXT_TO:
        first, second = (2.0, 0.0) if abs(power) < NEXT_TO else (0.0, 2.0)
        state.moment = second * state.reverse if second != 0.0 else 0.0
        seen = Divergence(LINEAR, 0.5, first, second)
        linear.gradient(pair, seen, own_weight, 1, value, own_moment, facts, target)
    elif grown == -np.inf and state.path < UNDEFINED:  # rows that have nothing in common: it is the same all around
        fill(0.0, pair.vocab, target.address, target.storage)
    else:
        rest = 2.0 / (1.0 + power)
        factor = rest * math.exp(grown) if grown < 1.0 else power * value + rest  # both are 2·exp(K)/(1+λ)
        if state.path == SINGLE and not abs(grown) < MODERATE:
            state.path = DOUBLE
        far = state.path == DISTANT
        steep_gradient(pair, 1.0 + power, grown, -own_weight * factor, far, facts, target)
