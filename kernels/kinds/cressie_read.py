"""Cressie's and Read's power divergence 2/(λ(λ+1))·(Σ p·(p/q)^λ - 1), λ = `weight`; first and second are not looked at.

It is 2/(λ(λ+1))·expm1(K) with K = λ·D, D = D_(1+λ)(p‖q) Rényi's divergence, and 2 KL(p‖q) at λ = 0. A λ below -1/2 is
one above with the rows exchanged, -1 - λ, and K the same for both: λ = -1 is 2 KL(q‖p). K is kept as moment.

Its gradient along the logits of q is -2/(1+λ)·exp(K)·k·q·expm1(-((1+λ)·d + K)), for λ = 0 and -1 that of the KL.
"""

import math

import numpy as np

from ..encode import fill
from ..lanes import kernel
from ..pairs import DISTANT, DOUBLE, SINGLE, UNDEFINED, normalise_pair
from . import KINDS, linear
from .renyi import steep_gradient, upper_value

CRESSIE_READ = KINDS["cressie_read"]
NEXT_TO = 1e-100  # what is nearer to 0 or to -1 counts as that
MODERATE = 60.0  # nats of K up to which factors are within the range of float32 lanes


@kernel
def valid(space, weight, first, second):
    return abs(weight) < np.inf


@kernel
def value(p, q, vocab, space, k, weight, first, second, with_moment, work, state, scales):
    mirrored = weight < -0.5
    power = -1.0 - weight if mirrored else weight
    if mirrored:
        p, q = q, p
    if abs(power) < NEXT_TO:
        found, grown = 2.0 * linear.value(p, q, vocab, space, k, 0.5, 1.0, 0.0, False, work, state, scales), 0.0
        within = True
    else:
        order = 1.0 + power
        renyi = upper_value(p, q, vocab, space, k, order, -power, False, power > 0.0, with_moment, work, state, scales)
        grown = power * renyi
        found = 2.0 * (math.expm1(grown) / power) / order
        within = state.moment == state.moment
    if mirrored:
        normalise_pair(q, p, vocab, space, k, True, False, work, state, scales)
    if state.path < UNDEFINED:
        state.moment = grown
        if not within:  # some log-ratio is beyond the reach of the exponentials
            state.path = DISTANT
    return found


@kernel
def exchanged(weight, first, second):
    return CRESSIE_READ, -1.0 - weight, 0.0, 0.0


@kernel
def gradient(
    p, q, vocab, k, own_weight, weight, first, second, side, value, own_moment, state, scales, address, storage
):
    power = weight if side == 1 else -1.0 - weight
    grown = state.moment
    if abs(power) < NEXT_TO or abs(1.0 + power) < NEXT_TO:
        first, second = (2.0, 0.0) if abs(power) < NEXT_TO else (0.0, 2.0)
        state.moment = second * state.reverse if second != 0.0 else 0.0
        linear.gradient(
            p, q, vocab, k, own_weight, 0.5, first, second, 1, value, own_moment, state, scales, address, storage
        )
    elif grown == -np.inf and state.path < UNDEFINED:  # rows that have nothing in common: it is the same all around
        fill(0.0, vocab, address, storage)
    else:
        rest = 2.0 / (1.0 + power)
        factor = rest * math.exp(grown) if grown < 1.0 else power * value + rest  # both are 2·exp(K)/(1+λ)
        if state.path == SINGLE and not abs(grown) < MODERATE:
            state.path = DOUBLE
        far = state.path == DISTANT
        steep_gradient(p, q, vocab, k, 1.0 + power, grown, -own_weight * factor, far, state, scales, address, storage)
