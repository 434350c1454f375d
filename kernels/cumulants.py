"""One block of a pair of rows -> the six sums from which every cumulant statistic follows.

Shape letters: V outcomes, n of them in this block. Space: `a` and `b` are logs of unnormalised measures (logits,
log-probs), k = 1/temperature, y = k·(b - a) - centre, log2 w = k·log2(e)·a - shift. Precision: storage as it lies;
arithmetic in lanes like `like`, summed by SPAN elements first, then these sums of a block.

    S = Σw   B = Σw·y   A = Σw·φ(y)   G = Σw·(y·exp(y) - exp(y) + 1)
    U = Σw·(k·log2(e)·a - top_log_p)   Q = Σw·exp(y)·(k·log2(e)·b - top_log_q)

with φ(y) = exp(y) - 1 - y ≥ 0. No term of A or of G is negative, so nothing cancels however close the rows are.
U and Q are taken relative to about the greatest of a row, in the same scale: that is where a logarithm is small. k,
shift, centre and the two top_log are a Frame (records.py).
"""

import math

import numpy as np
from numba import types

from .elementary import phi_and_exp, phi_near_one, phi_near_zero, scaled_exp2
from .lanes import (
    absolute,
    both,
    either,
    equal,
    fma,
    greatest,
    inlined,
    kernel,
    maximum,
    negative,
    number,
    rounded,
    select,
    smaller,
    splat,
    sum_lanes,
    widened,
    width,
)
from .memory import load, stream
from .separate import separate

LOG2E = 1.44269504088896340736


# A lane adds SPAN/16 float32 terms, then BLOCK/SPAN such sums: errors that all go one way stay below 1.5·2^-21 of it.
SPAN = 256

# greatest |y| that each set of sums serves: `cumulants_near`, `cumulants_wide`; `cumulants` serves any
NEAR, WIDE = 0.35, 2.0


@kernel
def least_argument(k, shift, like):
    """The x below which exp2(k·log2(e)·x - shift) would leave the normal numbers; weights stop there, at 2^-125."""
    return (shift - (125.0 if width(like) == 16 else 1021.0)) / (k * LOG2E)


@kernel
def weight(x, k, shift, like):
    """The weight that the lanes give to the one element x."""
    origin = number(splat(0.0, like), "round") - splat(shift, like)
    return np.float64(greatest(scaled_exp2(splat(x, like), splat(k * LOG2E, like), origin)))


@kernel
def beside_heaviest(a, n, like, k, shift, value):
    """(Σw, Σw·k·log2(e)·(a - value)) over what is not `value`, and how often that is, of a block whose greatest it is.

    In float64 lanes from the first addition on: what lies beside one heavy element is not lost.
    """
    s, u, equals = splat(0.0, 0.0), splat(0.0, 0.0), splat(0.0, 0.0)
    zero = splat(0.0, like)
    one = number(zero, "1")
    nothing = number(zero, "-infinity")
    top = splat(value, like)
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(shift, like)
    least = splat(least_argument(k, shift, like), like)
    for i in range(0, n, width(like)):
        x = load(a, i, like)
        at_top = equal(x, top)
        gone = either(at_top, equal(x, nothing))
        x = maximum(x, least)
        w = select(gone, zero, scaled_exp2(x, scale, origin))
        s = s + widened(w)
        u = u + widened(w * ((x - top) * scale))
        equals = equals + widened(select(at_top, one, zero))
    return sum_lanes(s), sum_lanes(u), sum_lanes(equals)


@kernel
def settled(mass, moment, k, like):
    """What weights w of outcomes beside the greatest, Σw = `mass` and Σw·log2(w) = `moment`, must be multiplied by: the
    lanes have rounded k·log2(e), which is worth as much of a weight as it lies nats below the greatest."""
    if not mass > 0.0 or width(like) == 8:
        return 1.0
    scale = k * LOG2E
    return 1.0 + (scale - rounded(scale, like)) * moment / (scale * LOG2E * mass)


@kernel
def in_reach(k, like):
    """Whether k and what is made of it lie well within the range of the lanes."""
    return 1e-30 < k < 1e30 if width(like) == 16 else 1e-280 < k < 1e280


@kernel
def lse_in_reach(lse, like):
    """Whether the rounding of a normaliser, which moves every probability, is nothing beside that of the lanes."""
    return abs(lse) < (1e5 if width(like) == 16 else 1e3)


@kernel
def least_rest(like):
    """Share of the heaviest outcome below which weights that stop at 2^-125 or 2^-1021 are not nothing."""
    return 1e-26 if width(like) == 16 else 1e-290


@inlined
def difference(z, x, k, minus_centre, like):
    """k·(z - x) - centre. In float64 lanes to full relative accuracy, however near k·(z - x) is to the centre:
    the rounding of z - x is recovered (Knuth's two-sum) and added back. Float32 rows that need it go to float64.
    """
    d = z - x
    y = fma(d, k, minus_centre)
    if width(like) == 8:
        x_again = z - d
        rounding = (z - (d + x_again)) - (x - x_again)
        y = fma(rounding, k, y)
    return y


@inlined
def polynomial_sums(a, b, n, like, frame, phi_of, sums):
    """The sums of a block by one polynomial φ, no range reduction of y. far tells afterwards if |y| stayed in it."""
    k, shift, centre = frame.k, frame.shift, frame.centre
    top_log_p, top_log_q = frame.log_p, frame.log_q
    zero = splat(0.0, like)
    s_all, b_all, a_all, g_all, u_all, q_all = zero, zero, zero, zero, zero, zero
    far = zero
    top_p = number(zero, "-infinity")
    top_q = top_p
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(shift, like)
    minus_top_p = splat(-top_log_p, like)
    least = splat(least_argument(k, shift, like), like)
    k_lanes = splat(k, like)
    minus_centre = splat(-centre, like)
    for j in range(0, n, SPAN):
        s, bb, aa, g, u, q = zero, zero, zero, zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            z = stream(b, i, like)
            top_p = maximum(x, top_p)
            top_q = maximum(z, top_q)
            y = difference(z, x, k_lanes, minus_centre, like)  # of x as it is: -inf, or far below, must be seen in far
            x = maximum(least, x)  # in this order a NaN stays
            w = scaled_exp2(x, scale, origin)
            far = maximum(y * y, far)
            phi = phi_of(y)
            expm1 = y + phi
            t = fma(x, scale, minus_top_p)
            s = s + w
            bb = fma(w, y, bb)
            aa = fma(w, phi, aa)
            g = fma(w, fma(y, expm1, negative(phi)), g)
            u = fma(w, t, u)
            q = fma(fma(w, expm1, w), t, q)
        s_all, b_all, a_all = s_all + s, b_all + bb, a_all + aa
        g_all, u_all, q_all = g_all + g, u_all + u, q_all + q
    write_sums((s_all, b_all, a_all, g_all, u_all, q_all), top_p, top_q, far, sums)
    sums.far = math.sqrt(sums.far)
    # k·log2(e)·b - top_log_q is t + log2(e)·(y + centre) + top_log_p - top_log_q: one operation an outcome less
    between = LOG2E * centre + top_log_p - top_log_q
    sums.q += LOG2E * (sums.b + sums.g + sums.a) + between * (sums.s + sums.b + sums.a)


@separate(types.none)
@kernel
def cumulants_near(a, b, n, like, frame, sums):
    """The sums of a block in which every |y| ≤ 0.35."""
    polynomial_sums(a, b, n, like, frame, phi_near_zero, sums)


@separate(types.none)
@kernel
def cumulants_wide(a, b, n, like, frame, sums):
    """The sums of a block in which every |y| ≤ 2."""
    polynomial_sums(a, b, n, like, frame, phi_near_one, sums)


@kernel
def farthest(a, b, n, like, k, centre):
    """The greatest |k·(b - a) - centre| of a block; NaN passed over."""
    far = splat(0.0, like)
    k_lanes = splat(k, like)
    minus_centre = splat(-centre, like)
    for i in range(0, n, width(like)):
        far = maximum(absolute(fma(load(b, i, like) - load(a, i, like), k_lanes, minus_centre)), far)
    return greatest(far)


@separate(types.none)
@kernel
def cumulants(a, b, n, like, frame, sums):
    """The sums of a block for any finite y; outcomes impossible under both contribute nothing.

    far is inf where only one of the two is -inf; a NaN makes the sums NaN.
    """
    k, shift, centre = frame.k, frame.shift, frame.centre
    top_log_p, top_log_q = frame.log_p, frame.log_q
    zero = splat(0.0, like)
    s_all, b_all, a_all, g_all, u_all, q_all = zero, zero, zero, zero, zero, zero
    far = zero
    one = number(zero, "1")
    nothing = number(zero, "-infinity")
    top_p = nothing
    top_q = nothing
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(shift, like)
    minus_top_p = splat(-top_log_p, like)
    minus_top_q = splat(-top_log_q, like)
    least = splat(least_argument(k, shift, like), like)
    least_q = splat(least_argument(k, shift, like) + centre / k, like)
    k_lanes = splat(k, like)
    minus_centre = splat(-centre, like)
    for j in range(0, n, SPAN):
        s, bb, aa, g, u, q = zero, zero, zero, zero, zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            z = stream(b, i, like)
            top_p = maximum(x, top_p)
            top_q = maximum(z, top_q)
            impossible = both(equal(x, nothing), equal(z, nothing))
            y = select(impossible, zero, difference(z, x, k_lanes, minus_centre, like))
            x = maximum(least, x)  # in this order a NaN stays
            z = maximum(least_q, z)
            w = select(impossible, zero, scaled_exp2(x, scale, origin))
            far = maximum(absolute(y), far)
            phi, exp_y = phi_and_exp(y)
            t = fma(x, scale, minus_top_p)
            s = s + w
            bb = fma(w, y, bb)
            aa = fma(w, phi, aa)
            near = smaller(absolute(y), one)  # beyond, exp(y) - 1 = y + φ(y) would lose what y is larger than 1
            g = fma(w, select(near, fma(y, y + phi, negative(phi)), fma(y - one, exp_y, one)), g)
            u = fma(w, t, u)
            q = fma(w * exp_y, fma(z, scale, minus_top_q), q)
        s_all, b_all, a_all = s_all + s, b_all + bb, a_all + aa
        g_all, u_all, q_all = g_all + g, u_all + u, q_all + q
    write_sums((s_all, b_all, a_all, g_all, u_all, q_all), top_p, top_q, far, sums)


@inlined
def write_sums(totals, top_p, top_q, far, sums):
    s, b, a, g, u, q = totals
    sums.s = sum_lanes(s)
    sums.b = sum_lanes(b)
    sums.a = sum_lanes(a)
    sums.g = sum_lanes(g)
    sums.u = sum_lanes(u)
    sums.q = sum_lanes(q)
    sums.top_p = greatest(top_p)
    sums.top_q = greatest(top_q)
    sums.far = greatest(far)
