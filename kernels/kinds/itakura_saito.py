"""Itakura's and Saito's divergence Σ p/q - ln(p/q) - 1 of rows of masses, which are normalised; it has no parameters.

It is Σ φ(-d), d = ln q - ln p, and not weighted by p: the least outcome counts like the greatest, and an error of the
totals as it is. So d is found of each outcome as good as it is stored, and the totals to twice the digits of float64,
where divergences that are weighted may forget what is nothing beside the others. An outcome impossible under both
contributes nothing, under one of the two inf. Float64 lanes.
"""

import numpy as np

from ..decode import BLOCK, view
from ..elementary import log, phi_anywhere, phi_near_one
from ..ladder import DOUBLE, NEGATIVE_MASS, STATISTICS, normalise_pair
from ..lanes import (
    absolute,
    both,
    either,
    equal,
    greatest,
    inlined,
    kernel,
    maximum,
    minimum,
    number,
    select,
    smaller,
    splat,
    sum_lanes,
    width,
)
from ..mass_sums import gap
from ..memory import stack, stream
from ..polynomials import horner
from ..probabilities import scale_rows
from ..records import DivergenceSums, clear_record, record
from ..status import MASSES

TINY, RISE = 1e-200, 2.0**600  # what is below in a row as it is scaled is raised before: subnormal numbers are rounded


@kernel
def valid(space, weight, first, second):
    return space == MASSES


@inlined
def half_tangent(a, b, raises, excess):
    """tanh(d/2) of lanes of two rows of masses as they are stored; NaN where they leave the range, 0 for two zeros."""
    tiny = smaller(minimum((a * raises[0]) * raises[1], (b * raises[2]) * raises[3]), splat(TINY, 0.0))
    rise = select(tiny, splat(RISE, 0.0), number(a, "1"))
    p = ((a * rise) * raises[0]) * raises[1]
    q = ((b * rise) * raises[2]) * raises[3]
    e = gap(p, q, excess, 0.0)
    return e / maximum((p + p) + e, number(a, "smallest"))


@inlined
def raises_of(scales):
    like = 0.0
    return (
        splat(scales.raise_p, like), splat(scales.raise_p_again, like), splat(scales.raise_q, like),
        splat(scales.raise_q_again, like),
    )  # fmt: skip


@kernel
def near_block(x, y, n, scales, part):
    """(Σ φ(-d), greatest |tanh(d/2)|, least mass) of a block, the sum being right where the second is below 1/3."""
    zero = splat(0.0, 0.0)
    raises, excess = raises_of(scales), (scales.excess, scales.excess_low)
    total, far, least = zero, zero, zero
    for i in range(0, n, width(0.0)):
        a = stream(x, i, 0.0)
        b = stream(y, i, 0.0)
        least = minimum(minimum(a, b), least)
        r = half_tangent(a, b, raises, excess)
        far = maximum(absolute(r), far)
        t = r * r
        half = r + (r * t) * horner(t, "(atanh(s)/s-1)/s²")
        total = total + phi_near_one(zero - (half + half))
    part.value, part.moment, part.far = sum_lanes(total), greatest(far), -greatest(zero - least)


@kernel
def any_block(x, y, n, scales):
    """Σ φ(-d) of any block."""
    zero = splat(0.0, 0.0)
    raises, excess = raises_of(scales), (scales.excess, scales.excess_low)
    log_excess = splat(scales.log_excess, 0.0)
    total = zero
    for i in range(0, n, width(0.0)):
        a = stream(x, i, 0.0)
        b = stream(y, i, 0.0)
        no_p, no_q = equal(a, zero), equal(b, zero)
        r = half_tangent(a, b, raises, excess)
        t = r * r
        half = r + (r * t) * horner(t, "(atanh(s)/s-1)/s²")
        d = select(smaller(absolute(r), number(zero, "1/3")), half + half, (log(b) - log(a)) + log_excess)
        term = select(either(no_p, no_q), number(zero, "infinity"), phi_anywhere(zero - d))
        total = total + select(both(no_p, no_q), zero, term)
    return sum_lanes(total)


@kernel
def value(pair, divergence, with_moment, facts):
    p, q, vocab, _, _ = pair
    state, scales = facts.state, facts.scales
    clear_record(state)
    state.path = DOUBLE
    if not scale_rows(p, q, vocab, scales):
        normalise_pair(pair, STATISTICS, False, facts)  # which says what is wrong
        return np.nan
    room_p = stack(2048, 0.0)
    room_q = stack(2048, 0.0)
    part = record(DivergenceSums)
    total = 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, 0.0)
        y = view(q, start, n, room_q, 0.0)
        near_block(x, y, n, scales, part)
        if part.far < 0.0:
            state.path = NEGATIVE_MASS
            return np.nan
        # a NaN is passed over by the greatest, and so it is asked for by the sum
        near = part.moment < 0.333 and part.value == part.value
        total += part.value if near else any_block(x, y, n, scales)
    return total
