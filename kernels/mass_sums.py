"""One block of a pair of rows of masses -> the four sums from which KL both ways follows.

With x the masses of p and y those of q, brought to about the same total:

    P = Σx   Δ = Σ(y - x)   A = Σ x·ln(x/y) - x + y   R = Σ y·ln(y/x) - y + x

Every term of A and R is ≥ 0. Near equality, with r = (y - x)/(y + x) and g = (atanh(r)/r - 1)/r², they need no log:

    x·ln(x/y) - x + y = (y - x)·r - 2x·r³·g        y·ln(y/x) - y + x = (y - x)·r + 2y·r³·g        |r| ≤ 1/3

Farther apart, y = 2ᵏ·z with z within a factor 1.5 of x takes one division as well, and cancels at most by half:

    x·ln(x/y) - x + y = [x·ln(x/z) - x + z] + (2ᵏ - 1)·z - x·k·ln2
    y·ln(y/x) - y + x = 2ᵏ[z·ln(z/x) - z + x] - (2ᵏ - 1)·x + y·k·ln2

Rows that weigh about the same are read as they are, without an excess. Else y is q + ε·q, where ε, the excess, comes
as a sum of two numbers, and y - x is two fma from q - x, which is exact near equality: nothing is rounded that is
large beside it.
"""

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import SPAN
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
    sum_lanes,
    width,
)
from .masses import scaled_view
from .memory import stream
from .polynomials import horner
from .separate import separate

NEAR, NORMAL, ALL = 0, 1, 2  # which sums serve a row: of masses alike, of normal numbers, of any


def level(y, excess, like):
    """y brought to the total of x: y·(1 + excess), or y where that is None."""


@overload(level)
def _level(y, excess, like):
    if isinstance(excess, types.NoneType):
        return lambda y, excess, like: y
    return lambda y, excess, like: fma(y, splat(excess[0], like), y)


def gap(x, y, excess, like):
    """y·(1 + excess) - x to the relative accuracy of the lanes, where y is within a factor 2 of x."""


@overload(gap)
def _gap(x, y, excess, like):
    if isinstance(excess, types.NoneType):
        return lambda x, y, excess, like: y - x
    return lambda x, y, excess, like: fma(y, splat(excess[1], like), fma(y, splat(excess[0], like), y - x))


def gap_in_binade(x, z, k, e, excess):
    """z - x, where z = y/2ᵏ: e itself for k = 0."""


@overload(gap_in_binade)
def _gap_in_binade(x, z, k, e, excess):
    if isinstance(excess, types.NoneType):
        return lambda x, z, k, e, excess: z - x
    return lambda x, z, k, e, excess: select(equal(k, number(x, "0")), e, z - x)


@separate(types.none)
@kernel
def masses_near(a, b, n, like, excess, sums):
    """The sums of a block in which every |r| ≤ 1/3, without a logarithm. far tells afterwards whether that held."""
    zero = splat(0.0, like)
    mass_all, delta_all, forward_all, reverse_all, far, least = zero, zero, zero, zero, zero, zero
    top_p = number(zero, "-infinity")
    top_q = top_p
    tiniest = number(zero, "smallest")
    for j in range(0, n, SPAN):
        mass, delta, forward, reverse = zero, zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            q = stream(b, i, like)
            top_p = maximum(x, top_p)
            top_q = maximum(q, top_q)
            least = minimum(x, minimum(q, least))
            e = gap(x, q, excess, like)
            y = level(q, excess, like)
            r = e / maximum(y + x, tiniest)
            far = maximum(absolute(r), far)
            t = r * r
            cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
            cubic = cubic + cubic
            square = e * r
            mass = mass + x
            delta = delta + e
            forward = forward + fma(zero - x, cubic, square)
            reverse = reverse + fma(y, cubic, square)
        mass_all, delta_all = mass_all + mass, delta_all + delta
        forward_all, reverse_all = forward_all + forward, reverse_all + reverse
    write_sums(mass_all, delta_all, forward_all, reverse_all, top_p, top_q, least, sums)
    sums.far = greatest(far)


@separate(types.none)
@kernel
def masses_far(a, b, n, like, excess, sums):
    """The sums of a block of zeros and normal numbers. far tells afterwards, by inf, if there was anything else."""
    zero = splat(0.0, like)
    mass_all, delta_all, forward_all, reverse_all, far, least = zero, zero, zero, zero, zero, zero
    one = number(zero, "1")
    low = one
    top_p = number(zero, "-infinity")
    top_q = top_p
    infinite = number(zero, "infinity")
    origin = number(zero, "round")
    for j in range(0, n, SPAN):
        mass, delta, forward, reverse = zero, zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            q = stream(b, i, like)
            top_p = maximum(x, top_p)
            top_q = maximum(q, top_q)
            least = minimum(x, minimum(q, least))
            e = gap(x, q, excess, like)
            y = level(q, excess, like)
            no_x = equal(x, zero)
            no_y = equal(y, zero)
            low = minimum(select(no_x, one, x), minimum(select(no_y, one, y), low))
            k = binades_between(x, y)
            k = select(either(no_x, no_y), zero, k)
            far = maximum(absolute(k), far)
            z = shift_exponent(y, origin - k)
            power = shift_exponent(one, origin + k)
            apart = gap_in_binade(x, z, k, e, excess)
            r = apart / (z + x)
            t = r * r
            cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
            cubic = cubic + cubic
            square = apart * r
            k_ln2 = k * number(zero, "ln2")
            forward_term = fma(negative(x), cubic, square) + fma(negative(x), k_ln2, y - z)
            reverse_term = fma(power, fma(z, cubic, square), fma(y, k_ln2, fma(negative(x), power, x)))
            forward = forward + select(no_x, y, select(no_y, infinite, forward_term))
            reverse = reverse + select(no_y, x, select(no_x, infinite, reverse_term))
            mass = mass + x
            delta = delta + e
        mass_all, delta_all = mass_all + mass, delta_all + delta
        forward_all, reverse_all = forward_all + forward, reverse_all + reverse
    write_sums(mass_all, delta_all, forward_all, reverse_all, top_p, top_q, least, sums)
    normal = -greatest(negative(low)) >= greatest(number(zero, "smallest normal"))
    in_range = greatest(far) <= -greatest(number(zero, "least exponent"))
    sums.far = 0.0 if normal and in_range else np.inf


@separate(types.none)
@kernel
def masses(a, b, n, like, scales, excess, sums):
    """The sums of any block, as it is stored: zero masses give their limits, inf where only the denominator is zero."""
    zero = splat(0.0, like)
    mass_all, delta_all, forward_all, reverse_all, least = zero, zero, zero, zero, zero
    top_p = number(zero, "-infinity")
    top_q = top_p
    infinite = number(zero, "infinity")
    tiniest = number(zero, "smallest")
    smallest = number(zero, "smallest normal")
    raise_p, raise_p_again = splat(scales.raise_p, like), splat(scales.raise_p_again, like)
    raise_q, raise_q_again = splat(scales.raise_q, like), splat(scales.raise_q_again, like)
    log_excess = splat(scales.log_excess, like)
    for j in range(0, n, SPAN):
        mass, delta, forward, reverse = zero, zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            p = stream(a, i, like)
            q = stream(b, i, like)
            top_p = maximum(p, top_p)
            top_q = maximum(q, top_q)
            least = minimum(p, minimum(q, least))
            x = (p * raise_p) * raise_p_again
            y = (q * raise_q) * raise_q_again
            no_x = equal(p, zero)
            no_y = equal(q, zero)
            e = gap(x, y, excess, like)
            y = level(y, excess, like)
            r = e / maximum(y + x, tiniest)
            t = r * r
            cubic = (r * t) * horner(t, "(atanh(s)/s-1)/s²")
            cubic = cubic + cubic
            square = e * r
            ratio = y / x
            in_range = both(both(smaller(smallest, ratio), smaller(ratio, infinite)), smaller(smallest, minimum(x, y)))
            u = select(in_range, log(ratio), (log(q) - log(p)) + log_excess)
            near = smaller(absolute(r), number(zero, "1/3"))
            forward_term = select(near, fma(zero - x, cubic, square), fma(zero - x, u, e))
            reverse_term = select(near, fma(y, cubic, square), fma(y, u, zero - e))
            forward = forward + select(no_x, y, select(no_y, infinite, forward_term))
            reverse = reverse + select(no_y, x, select(no_x, infinite, reverse_term))
            mass = mass + x
            delta = delta + e
        mass_all, delta_all = mass_all + mass, delta_all + delta
        forward_all, reverse_all = forward_all + forward, reverse_all + reverse
    write_sums(mass_all, delta_all, forward_all, reverse_all, top_p, top_q, least, sums)
    sums.far = 0.0


@kernel
def write_sums(mass, delta, forward, reverse, top_p, top_q, least, sums):
    sums.p = sum_lanes(mass)
    sums.delta = sum_lanes(delta)
    sums.a = sum_lanes(forward)
    sums.r = sum_lanes(reverse)
    sums.top_p = greatest(top_p)
    sums.top_q = greatest(top_q)
    sums.least = greatest(negative(least))


def block_of_masses(pair, start, n, excess, scales, rooms, sums_of, sums):
    """The sums of elements start ... start + n of two rows: scaled if there is an excess, else as they are."""


@overload(block_of_masses)
def _block_of_masses(pair, start, n, excess, scales, rooms, sums_of, sums):
    def as_they_are(pair, start, n, excess, scales, rooms, sums_of, sums):
        like = rooms.like
        x = view(pair.p, start, n, rooms.p, 0.0)
        y = view(pair.q, start, n, rooms.q, 0.0)
        if sums_of == NEAR:
            masses_near(x, y, n, like, excess, sums)
        elif sums_of == NORMAL:
            masses_far(x, y, n, like, excess, sums)
        else:
            masses(x, y, n, like, scales, excess, sums)

    def scaled(pair, start, n, excess, scales, rooms, sums_of, sums):
        like = rooms.like
        sums.far = np.inf
        if sums_of != ALL:
            x, low_p = scaled_view(pair.p, start, n, rooms.p, scales.raise_p, scales.raise_p_again)
            y, low_q = scaled_view(pair.q, start, n, rooms.q, scales.raise_q, scales.raise_q_again)
            if min(low_p, low_q) > 1e-300:  # nothing was scaled down to where digits are lost
                if sums_of == NEAR:
                    masses_near(x, y, n, like, excess, sums)
                else:
                    masses_far(x, y, n, like, excess, sums)
        else:
            x = view(pair.p, start, n, rooms.p, 0.0)
            y = view(pair.q, start, n, rooms.q, 0.0)
            masses(x, y, n, like, scales, excess, sums)

    return as_they_are if isinstance(excess, types.NoneType) else scaled
