"""Blocks of a pair of rows of masses as p, q and d (see pairs.py)."""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .decode import view
from .elementary import log
from .exponents import binades_between, shift_exponent
from .lanes import (
    absolute,
    both,
    either,
    equal,
    fma,
    greatest,
    kernel,
    maximum,
    minimum,
    negative,
    number,
    select,
    smaller,
    splat,
    width,
)
from .mass_sums import gap, level
from .masses import scaled_view
from .memory import store, stream
from .polynomials import horner
from .separate import separate

FARTHEST = 1e30  # |d| of what is impossible under one of the two


def placed_blocks(p, q, start, n, like, scales, room_p, room_q):
    """Blocks of two rows of masses times their raises; and the least number in them but 0 (1 where none is raised)."""


@overload(placed_blocks)
def _placed_blocks(p, q, start, n, like, scales, room_p, room_q):
    def as_they_are(p, q, start, n, like, scales, room_p, room_q):
        return view(p, start, n, room_p, 0.0), view(q, start, n, room_q, 0.0), 1.0

    def placed(p, q, start, n, like, scales, room_p, room_q):
        if scales.raise_p == 1.0 and scales.raise_q == 1.0:
            return view(p, start, n, room_p, 0.0), view(q, start, n, room_q, 0.0), 1.0
        x, low_p = scaled_view(p, start, n, room_p, scales.raise_p, scales.raise_p_again)
        y, low_q = scaled_view(q, start, n, room_q, scales.raise_q, scales.raise_q_again)
        return x, y, min(low_p, low_q)

    return as_they_are if like == types.float32 else placed


@separate(types.boolean)
@kernel
def read_masses(pair, start, limit, near, scales, rooms, outcomes):
    """`read_pairs` of masses."""
    n = outcomes.n
    x, y, low = placed_blocks(pair.p, pair.q, start, n, outcomes.like, scales, rooms.p, rooms.q)
    if low > 1e-300:
        if near:
            r = mass_pairs_near(x, y, scales, outcomes)
            if r < 1.0 / 3.0 and 2.0 * math.atanh(r) <= limit:
                return True
        if mass_pairs(x, y, scales, outcomes):
            return False
    x = view(pair.p, start, n, rooms.p, 0.0)
    y = view(pair.q, start, n, rooms.q, 0.0)
    any_mass_pairs(x, y, scales, outcomes)
    return False


@kernel
def mass_pairs_near(x, y, scales, outcomes):
    """p and d of a block of masses, valid where the answer, the greatest |tanh(d/2)|, is at most 1/3.

    r = (q - p)/(q + p) and d = 2·atanh(r), from the difference of the masses at one total (see mass_sums.py).
    """
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    far = zero
    tiniest = number(zero, "smallest")
    excess = scales.excess, scales.excess_low
    inverse = splat(scales.inverse, like)
    for i in range(0, n, width(like)):
        p = stream(x, i, like)
        e = gap(p, stream(y, i, like), excess, like)
        r = e / maximum((p + p) + e, tiniest)
        far = maximum(absolute(r), far)
        t = r * r
        d = fma(r * t, horner(t, "(atanh(s)/s-1)/s²"), r)
        store(probs, i, p * inverse)
        store(diffs, i, d + d)
    return np.float64(greatest(far))


@kernel
def mass_pairs(x, y, scales, outcomes):
    """p, q and d of a block of zeros and normal numbers by one division an outcome; False if there was anything else.

    q at p's total is 2ᵏ·z with z within a factor 1.5 of p, or k = 0 within a factor 2, and d is k·ln2 +
    2·atanh((z - p)/(z + p)).
    """
    probs, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    one = number(zero, "1")
    most = splat(FARTHEST, like)
    origin = number(zero, "round")
    excess = scales.excess, scales.excess_low
    inverse = splat(scales.inverse, like)
    low, far = one, zero
    for i in range(0, n, width(like)):
        p = stream(x, i, like)
        q = stream(y, i, like)
        no_p = equal(p, zero)
        no_q = equal(q, zero)
        e = gap(p, q, excess, like)
        q = level(q, excess, like)
        prob_p = p * inverse
        prob_q = q * inverse
        none = either(no_p, no_q)
        low = minimum(select(none, one, minimum(minimum(p, q), minimum(prob_p, prob_q))), low)
        k = binades_between(p, q)
        alike = both(smaller(q, p + p), smaller(p, q + q))
        k = select(either(none, alike), zero, k)
        far = maximum(absolute(k), far)
        z = shift_exponent(q, origin - k)
        r = select(alike, e, z - p) / (z + p)
        t = r * r
        atanh = fma(r * t, horner(t, "(atanh(s)/s-1)/s²"), r)
        d = fma(k, number(zero, "ln2"), atanh + atanh)
        d = select(no_p, most, select(no_q, zero - most, d))
        store(probs, i, prob_p)
        store(partners, i, prob_q)
        store(diffs, i, select(both(no_p, no_q), zero, d))
    normal = -greatest(negative(low)) >= greatest(number(zero, "smallest normal"))
    return normal and greatest(far) <= -greatest(number(zero, "least exponent"))


@kernel
def any_mass_pairs(x, y, scales, outcomes):
    """`mass_pairs` of any masses as they are stored, by three logarithms."""
    probs, partners, diffs, n, like = outcomes
    zero = splat(0.0, like)
    most = splat(FARTHEST, like)
    tiniest = number(zero, "smallest")
    smallest = number(zero, "smallest normal")
    infinite = number(zero, "infinity")
    excess = scales.excess, scales.excess_low
    inverse, log_excess = splat(scales.inverse, like), splat(scales.log_excess, like)
    for i in range(0, n, width(like)):
        raw_p = stream(x, i, like)
        raw_q = stream(y, i, like)
        no_p = equal(raw_p, zero)
        no_q = equal(raw_q, zero)
        p = (raw_p * splat(scales.raise_p, like)) * splat(scales.raise_p_again, like)
        q = (raw_q * splat(scales.raise_q, like)) * splat(scales.raise_q_again, like)
        e = gap(p, q, excess, like)
        q = level(q, excess, like)
        r = e / maximum((p + p) + e, tiniest)
        t = r * r
        d = fma(r * t, horner(t, "(atanh(s)/s-1)/s²"), r)
        ratio = q / p
        in_range = both(both(smaller(smallest, ratio), smaller(ratio, infinite)), smaller(smallest, minimum(p, q)))
        u = select(in_range, log(ratio), (log(raw_q) - log(raw_p)) + log_excess)
        d = select(smaller(absolute(r), number(zero, "1/3")), d + d, u)
        d = select(no_p, most, select(no_q, zero - most, d))
        store(probs, i, p * inverse)
        store(partners, i, q * inverse)
        store(diffs, i, select(both(no_p, no_q), zero, d))
