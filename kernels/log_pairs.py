"""Blocks of a pair of rows of logs as p, q and d (see pairs.py)."""

import numpy as np
from numba import types

from .cumulants import LOG2E, difference, least_argument
from .direct import apart_constants, apart_lanes
from .elementary import scaled_exp2
from .far import GREATEST_FLOAT, unit_of
from .lanes import absolute, both, equal, greatest, kernel, maximum, number, select, splat, width
from .memory import store, stream
from .separate import separate


@separate(types.float64)
@kernel
def log_pairs(x, z, k, scales, outcomes):
    """p and d of a block of logs whose differences are moderate; the greatest |d|."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    nothing = number(zero, "-infinity")
    far = zero
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(scales.shift, like)
    factor = splat(scales.factor, like)
    least = splat(least_argument(k, scales.shift, like), like)
    k_lanes = splat(k, like)
    minus_gap = splat(scales.minus_gap, like)
    for i in range(0, n, width(like)):
        a = stream(x, i, like)
        b = stream(z, i, like)
        gone = equal(a, nothing)
        p = factor * scaled_exp2(maximum(a, least), scale, origin)
        d = select(gone, zero, difference(b, a, k_lanes, minus_gap, like))
        far = maximum(absolute(d), far)
        store(probs, i, select(gone, zero, p))
        store(diffs, i, d)
    return np.float64(greatest(far))


@kernel
def fill_partners(z, k, scales, outcomes):
    """q of a block of logs, from its own exponential: p·exp(d) would have the rounding of d in it."""
    _, partners, _, n, like = outcomes
    zero = splat(0.0, like)
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(scales.shift_q, like)
    factor = splat(scales.factor_q, like)
    least = splat(least_argument(k, scales.shift_q, like), like)
    for i in range(0, n, width(like)):
        b = stream(z, i, like)
        gone = equal(b, number(zero, "-infinity"))
        store(partners, i, select(gone, zero, factor * scaled_exp2(maximum(b, least), scale, origin)))


@separate(types.none)
@kernel
def distant_log_pairs(x, z, k, scales, outcomes):
    """p, q and d of a block of any logs, for float64; only -inf is impossible, whatever p and q have come to."""
    probs, partners, diffs, n, like = outcomes
    top_p, top_q = scales.top_p, scales.top_q
    unit, scale = unit_of(max(abs(top_p), abs(top_q)), k)
    rest_p, rest_q, rest_gap = scales.log_rest_p, scales.log_rest_q, scales.rest_gap
    constants = apart_constants(unit, scale, top_p, top_q, rest_p, rest_q, rest_gap, like)
    zero = splat(0.0, like)
    nothing = number(zero, "-infinity")
    most = splat(GREATEST_FLOAT, like)
    for i in range(0, n, width(like)):
        a = stream(x, i, like)
        b = stream(z, i, like)
        no_p = equal(a, nothing)
        no_q = equal(b, nothing)
        root_p, root_q, _, d = apart_lanes(a, b, constants)
        d = maximum(zero - most, zero - maximum(zero - most, zero - d))
        d = select(no_p, most, select(no_q, zero - most, d))
        store(probs, i, root_p * root_p)
        store(partners, i, root_q * root_q)
        store(diffs, i, select(both(no_p, no_q), zero, d))
