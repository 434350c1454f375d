"""The hard pairs of rows of logs: logits of any size, divergences however small, outcomes impossible on one side only.

The terms are those of normalised.py, taken relative to the greatest elements, so that no difference is rounded.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from .cumulants import LOG2E
from .decode import BLOCK, NO_LOG, view
from .elementary import log1p_minus, phi_near_one
from .far import half_weight, normaliser, unit_of
from .lanes import absolute, both, either, equal, fma, inlined, kernel, number, select, smaller, splat, sum_lanes, width
from .memory import stack, stream
from .scans import argmax
from .separate import separate


class Apart(NamedTuple):
    """What `apart_lanes` needs of a pair of rows, in registers; tops are the greatest elements in units, apart by
    `tops`, which has lost `tops_lost` to rounding."""

    unit: Any
    scale: Any
    top_p: Any
    top_q: Any
    tops: Any
    tops_lost: Any
    mass_p: Any
    mass_q: Any
    half_scale: Any
    offset: Any


@separate(types.none)
@kernel
def direct_row(p, q, vocab, k, result):
    """The statistics of any pair of log rows into `result`, in float64 lanes relative to the greatest elements.

    d = k·((b - a) - (top_q - top_p)) + ..., in which no rounding of a difference is lost. What the normalisers' own
    rounding makes of the terms is taken off again: with r = Σ q - p of the terms, Σ q - p - p·d is KL - log1p(r) + r.
    """
    like = 0.0
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    top_p, block_p, mass_p, result.entropy_p = normaliser(p, vocab, k, None, room_p)
    top_q, block_q, mass_q, result.entropy_q = normaliser(q, vocab, k, None, room_q)
    result.beside_p, result.beside_q = mass_p, mass_q
    result.lse_p = k * top_p + mass_p if block_p >= 0 else top_p
    result.lse_q = k * top_q + mass_q if block_q >= 0 else top_q
    result.argmax_p = argmax(p, vocab, block_p, top_p, room_p)
    result.argmax_q = argmax(q, vocab, block_q, top_q, room_q)
    result.kl, result.reverse_kl, result.lse_gap, result.beside_gap = np.nan, np.nan, np.nan, np.nan
    if block_p < 0 or block_q < 0:
        return
    unit, scale = unit_of(max(abs(top_p), abs(top_q)), k)
    constants = apart_constants(unit, scale, top_p, top_q, mass_p, mass_q, mass_q - mass_p, like)
    forward, reverse, excess = 0.0, 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        z = view(q, start, n, room_q, NO_LOG)
        zero = splat(0.0, like)
        f, r, e = zero, zero, zero
        for i in range(0, n, width(like)):
            forward_term, reverse_term, gain = direct_terms(stream(x, i, like), stream(z, i, like), constants)
            f = f + forward_term
            r = r + reverse_term
            e = e + gain
        forward += sum_lanes(f)
        reverse += sum_lanes(r)
        excess += sum_lanes(e)
    result.kl = max(forward + log1p_minus(excess), 0.0)
    result.reverse_kl = max(reverse / (1.0 + excess) + log1p_minus(-excess / (1.0 + excess)), 0.0)
    result.beside_gap = (mass_q - mass_p) + math.log1p(excess)
    result.lse_gap = k * (top_q - top_p) + result.beside_gap


@inlined
def apart_constants(unit, scale, top_p, top_q, mass_p, mass_q, gap, like):
    """`Apart` of the greatest elements of two rows and the logs of the masses beside them; `gap` is mass_q - mass_p, as
    well as it is known."""
    x, y = unit * top_p, unit * top_q
    d = y - x
    again = y - d
    lost = (y - (d + again)) - (x - again)
    return Apart(
        splat(unit, like),
        splat(scale, like),
        splat(x, like),
        splat(y, like),
        splat(d, like),
        splat(lost, like),
        splat(mass_p, like),
        splat(mass_q, like),
        splat(0.5 * LOG2E * scale, like),
        splat(-gap, like),
    )


@inlined
def lost_lanes(a, b, difference):
    """What the difference a - b has lost to rounding (Knuth's two-sum)."""
    again = a - difference
    return (a - (difference + again)) - (b - again)


@inlined
def apart_lanes(a, b, constants):
    """(√p, √q, (b - a) - (top_q - top_p), d) of logs of any size; where one is -inf the differences are no numbers."""
    half = number(a, "1/2") * number(a, "log2(e)")
    zero = number(a, "0")
    x, y = a * constants.unit, b * constants.unit
    root_p, _ = half_weight(x - constants.top_p, constants.half_scale, zero - half * constants.mass_p)
    root_q, _ = half_weight(y - constants.top_q, constants.half_scale, zero - half * constants.mass_q)
    d = y - x
    gap = d - constants.tops
    lost = (lost_lanes(d, constants.tops, gap) + lost_lanes(y, x, d)) - constants.tops_lost
    # beside the greatest float64 what is lost may overflow where the difference does not, and is next to nothing
    gap = gap + select(smaller(absolute(lost), number(a, "infinity")), lost, zero)
    return root_p, root_q, gap, fma(gap, constants.scale, constants.offset)


@inlined
def direct_terms(a, b, constants):
    """The generalised terms of one outcome and its q - p. p·k is taken before p·k·(b - a): p may be as little as the
    difference is great."""
    zero = number(a, "0")
    nothing = number(a, "-infinity")
    infinite = number(a, "infinity")
    scale, offset = constants.scale, constants.offset
    root_p, root_q, gap, d = apart_lanes(a, b, constants)
    no_p, no_q = equal(a, nothing), equal(b, nothing)
    p, q = root_p * root_p, root_q * root_q
    near = smaller(absolute(d), number(d, "2"))
    phi, phi_reverse = phi_near_one(d), phi_near_one(zero - d)
    gain = select(near, p * (d + phi), q - p)
    forward = select(near, p * phi, (q - p) - ((root_p * scale) * (root_p * gap) + p * offset))
    reverse = select(near, q * phi_reverse, (p - q) + ((root_q * scale) * (root_q * gap) + q * offset))
    one_sided = either(no_p, no_q)
    neither = both(no_p, no_q)
    forward = select(no_p, q, select(no_q, infinite, forward))
    reverse = select(no_q, p, select(no_p, infinite, reverse))
    gain = select(one_sided, q - p, gain)
    return select(neither, zero, forward), select(neither, zero, reverse), gain
