"""Σ min(p, q) of a pair of rows: what both have in common, and the share of q's draws that speculative decoding keeps.

    Σ min(p, q) = 1 - ½ Σ |p - q|

is as near to 1 as the total variation is to 0, and is taken from the right where that is at most ½; elsewhere, where
1 - ½ Σ |p - q| cancels, it is summed as it stands. Rows that have next to nothing in common have it at outcomes many
nats below the greatest of either: in float64 lanes.

The statistics of a pair come first, and most of what this needs with them: it reads the pair once more, out of cache.
Of a pair that float32 lanes serve and whose outcomes are all near, ½ Σ |p - q| is a sum in registers,

    Σ |p·expm1(d)|        Σ p·expm1(d) = Σ q - p = 0

of which the second says what the normalisers' rounding is worth; where it is not nothing, and of all other pairs,
kinds/variation.py has the sum.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from .cumulants import LOG2E, NEAR, SPAN, WIDE, least_argument
from .decode import BLOCK, NO_LOG, view
from .elementary import phi_near_one, phi_near_zero, scaled_exp2
from .kinds import KINDS
from .kinds.variation import known_value, lost_of_gap
from .ladder import OUTCOMES, SINGLE, UNDEFINED, good_for_outcomes, keep_state, normalise_pair
from .lanes import (
    absolute,
    equal,
    fma,
    greatest,
    inlined,
    kernel,
    maximum,
    minimum,
    number,
    select,
    splat,
    sum_lanes,
    widened,
    width,
)
from .memory import load, stack, stream
from .pair_loops import expm1_series, value_loops
from .pairs import is_identical, scale_pair
from .records import Divergence
from .separate import separate
from .status import LOGS

VARIATION = KINDS["variation"]

LITTLE = 1e-2  # in common, below which outcomes count whose depth float32 lanes round
LEVEL = 4e-7  # of Σ |q - p|: a |Σ q - p| that is nothing

# how the outcomes of a block are: |d| ≤ NEAR; |d| ≤ WIDE; that, or impossible under both
ALL_NEAR, ALL_WIDE, SOME_GONE = 0, 1, 2


@kernel
def common_block(near, outcomes, limit, terms, with_moment, part):
    """Σ min(p, q) of a block; `near` is never asked for."""
    probs, partners, _, n, like = outcomes
    total = splat(0.0, like)
    for j in range(0, n, SPAN):
        few = splat(0.0, like)
        for i in range(j, min(j + SPAN, n), width(like)):
            few = few + minimum(load(probs, i, like), load(partners, i, like))
        total = total + few
    part.value = sum_lanes(total)


common, _ = value_loops(common_block, expm1_series)


class NearLanes(NamedTuple):
    """What turns logs a and b into p, but for a factor, and d in registers: 2^(scale·a - shift), k·(b - a) - gap."""

    scale: Any
    origin: Any
    least: Any  # the log of what the least weight is given to
    k: Any
    minus_gap: Any
    lost: Any  # of the gap to rounding


@inlined
def near_block(x, z, n, like, lanes, how):
    """(Σ |p·expm1(d)|, Σ p·expm1(d), greatest |d|) of a block, right where the last is within reach and it is no NaN.

    `how` is a constant.
    """
    zero = splat(0.0, like)
    total, net, far = splat(0.0, 0.0), splat(0.0, 0.0), zero
    for j in range(0, n, SPAN):
        few, few_net = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            a = stream(x, i, like)
            b = stream(z, i, like)
            p = scaled_exp2(maximum(a, lanes.least), lanes.scale, lanes.origin)
            d = fma(b - a, lanes.k, lanes.minus_gap) + lanes.lost
            if how == SOME_GONE:
                d = select(equal(maximum(a, b), number(a, "-infinity")), zero, d)
            phi = phi_near_zero(d) if how == ALL_NEAR else phi_near_one(d)
            e = p * (phi + d)
            far = maximum(d * d, far)
            few = few + absolute(e)
            few_net = few_net + e
        total = total + widened(few)
        net = net + widened(few_net)
    return sum_lanes(total), sum_lanes(net), math.sqrt(np.float64(greatest(far)))


@separate(types.float64)
@kernel
def near_variation(pair, scales, lost):
    """½ Σ |p - q| of a pair of rows of logs that float32 lanes serve; NaN where that is for others to find."""
    like = np.float32(0.0)
    room_p, room_q = stack(2048, like), stack(2048, like)
    k = pair.k
    lanes = NearLanes(
        splat(k * LOG2E, like),
        number(splat(0.0, like), "round") - splat(scales.shift, like),
        splat(least_argument(k, scales.shift, like), like),
        splat(k, like),
        splat(scales.minus_gap, like),
        splat(lost, like),
    )
    total, net, how, start = 0.0, 0.0, ALL_NEAR, 0
    while start < pair.vocab:
        n = min(BLOCK, pair.vocab - start)
        if n % width(like) != 0:
            how = SOME_GONE  # what pads it
        x = view(pair.p, start, n, room_p, NO_LOG)
        z = view(pair.q, start, n, room_q, NO_LOG)
        if how == ALL_NEAR:
            part, part_net, far = near_block(x, z, n, like, lanes, ALL_NEAR)
        elif how == ALL_WIDE:
            part, part_net, far = near_block(x, z, n, like, lanes, ALL_WIDE)
        else:
            part, part_net, far = near_block(x, z, n, like, lanes, SOME_GONE)
        if part != part or far > (NEAR if how == ALL_NEAR else WIDE):
            if far > WIDE or how == SOME_GONE:
                return np.nan
            how = SOME_GONE if part != part else ALL_WIDE
            continue
        total += part
        net += part_net
        start += n
    return 0.5 * scales.factor * total if abs(net) <= LEVEL * total else np.nan


@kernel
def acceptance(pair, path, facts):
    """Σ min(p, q) of a pair of rows whose statistics, which may change, are known and were served by `path`."""
    result, state, scales = facts
    if good_for_outcomes(path, result):
        keep_state(pair, path, OUTCOMES, facts)
    else:
        normalise_pair(pair, OUTCOMES, True, facts)
    if state.path >= UNDEFINED:
        return np.nan
    if is_identical(pair.space, state):
        return 1.0
    variation = np.nan
    if pair.space == LOGS and state.path == SINGLE:
        scale_pair(pair, facts)
        variation = near_variation(pair, scales, lost_of_gap(state))
    if variation != variation:
        variation = known_value(pair, Divergence(VARIATION, 0.0, 0.0, 0.0), False, facts)
    if variation <= 0.5:
        return 1.0 - variation
    terms = Divergence(VARIATION, 0.0, 0.0, 0.0)
    shared = common(pair, -1.0, terms, facts, False)
    if shared < LITTLE and state.path == SINGLE:
        normalise_pair(pair, OUTCOMES, False, facts)
        shared = common(pair, -1.0, terms, facts, False)
    return min(shared, 1.0)
