"""exp, log, tanh and φ over lanes, in float32 and float64 from one text; coefficients.py holds their polynomials.

φ(y) = exp(y) - 1 - y. Three of its forms are for the inner loops, `phi_anywhere` is to the last digits of float64 over
the whole range, and `phi` is that of one number.
"""

import math

from .exponents import exponent, mantissa, shift_exponent
from .lanes import absolute, equal, fma, greatest, inlined, is_nan, kernel, maximum, number, select, smaller, splat
from .polynomials import horner

_LOG2E_LOW = 2.0355273740931033e-17  # log2(e) less its float64
_PHI_SERIES = 1.6  # greatest |x| of the series; beyond it exp(x) - 1 - x loses less than two bits
_PHI_TERMS = tuple(1.0 / math.factorial(n) for n in range(23, 1, -1))


@inlined
def exp2(t):
    """2^t for t in [least exponent, 127]: 8e-8 relative in float32, 2e-16 in float64, exact for integers."""
    return scaled_exp2(t, number(t, "1"), number(t, "round"))


@inlined
def scaled_exp2(x, scale, origin):
    """2^(scale·x - shift), where `origin` is "round" - shift and shift an integer.

    The reduced argument f = scale·x - (n + shift) is one fma away from x, so it is rounded at |f| ≤ 1/2 however large
    x is: 8e-8 relative in float32, for one operation less than rounding scale·x - shift first.
    """
    return parted_exp2(x, scale, origin)[0]


@inlined
def parted_exp2(x, scale, origin):
    """`scaled_exp2` and its f, which is NaN where x is; the bits of a NaN may leave 2^(...) as a number."""
    rounded = fma(x, scale, origin)
    f = fma(x, scale, origin - rounded)
    return shift_exponent(horner(f, "exp2"), rounded), f


@inlined
def phi_near_zero(y):
    """φ(y) = exp(y) - 1 - y for |y| ≤ 0.35, without cancellation."""
    return horner(y, "φ(y)/y²") * (y * y)


@inlined
def phi_near_one(y):
    """φ(y) for |y| ≤ 2, without cancellation: four operations more."""
    return horner(y, "φ(y)/y² wide") * (y * y)


@inlined
def phi_and_exp(y):
    """φ(y) and exp(y) for |y| ≤ 80.

    y = n·ln2 + r and exp(r) = 1 + r + r²P(r), so φ(y) = 2ⁿr²P(r) + (2ⁿ - 1)r + (2ⁿ - 1 - n·ln2): exactly r²P(r)
    where n = 0, and where n ≠ 0 no term is more than 3 times the result.
    """
    rounded = fma(y, number(y, "log2(e)"), number(y, "round"))
    n = rounded - number(y, "round")
    r = fma(n, number(y, "-ln2 low"), fma(n, number(y, "-ln2 high"), y))
    one = number(y, "1")
    power = shift_exponent(one, rounded)
    tail = horner(r, "φ(y)/y²") * (r * r)
    constant = (power - one) - n * number(y, "ln2")
    return fma(power, tail, fma(power - one, r, constant)), power * ((tail + r) + one)


@inlined
def phi_anywhere(x):
    """φ(x) in float64 lanes: 1e-15 relative, inf above 709.78, φ(-inf) = inf; a NaN stays.

    Around 0 its Taylor series, elsewhere as it stands, the exponential by a log2(e) of more than 53 bits.
    """
    series = splat(_PHI_TERMS[0], 0.0)
    for i in range(1, len(_PHI_TERMS)):
        series = fma(series, x, splat(_PHI_TERMS[i], 0.0))
    series = x * x * series
    # exp(x)/2, so that results up to the greatest number are reached
    within = maximum(splat(-700.0, 0.0), x)
    within = select(smaller(splat(710.0, 0.0), within), splat(710.0, 0.0), within)
    origin = number(x, "round") - number(x, "1")
    rounded = fma(within, number(x, "log2(e)"), origin)
    f = fma(within, number(x, "log2(e)"), origin - rounded)
    f = fma(within, splat(_LOG2E_LOW, 0.0), f)
    half = shift_exponent(horner(f, "exp2"), rounded)
    far = ((half + half) - number(x, "1")) - x
    far = select(equal(x, number(x, "infinity")), x, far)
    value = select(smaller(absolute(x), splat(_PHI_SERIES, 0.0)), series, far)
    return select(is_nan(x), x, value)


@kernel
def phi(y):
    """φ of one number."""
    return greatest(phi_anywhere(splat(y, 0.0)))


@inlined
def log(x):
    """ln x of positive x, subnormals too: 2e-7 relative in float32 and 4e-16 in float64, near 1 as well."""
    tiny = smaller(x, number(x, "smallest normal"))
    x = select(tiny, x * number(x, "2^24 or 2^53"), x)
    lowest = number(x, "sqrt(1/2)")
    m = mantissa(x, lowest)
    e = exponent(x, lowest) - select(tiny, number(x, "24 or 53"), number(x, "0"))
    one = number(x, "1")
    s = (m - one) / (m + one)
    log_m = (s + s) * horner(s * s, "atanh(s)/s")
    return fma(e, number(x, "ln2 high"), fma(e, number(x, "ln2 low"), log_m))


@inlined
def tanh_rise(x, anchor, slope, scale, origin, power, floor):
    """(tanh a - tanh b)/(1 - tanh b) for 2a = slope·x, 2b = slope·anchor: 8e-7 relative in float32, 2.4e-15 in float64.

    With n the integer nearest 2b·log2(e): scale = slope·log2(e), origin = "round" - n, floor = 2^-n and power =
    scaled_exp2(anchor, scale, origin). Then e = exp(2a)·2^-n and the result is (e - power)/(e + floor), where the
    difference comes from expm1(2a - 2b) if that is small. |a| and |b| at most 20.
    """
    y = slope * (x - anchor)
    e = scaled_exp2(x, scale, origin)
    near = smaller(absolute(y), number(x, "small φ"))
    rise = select(near, power * (phi_near_zero(y) + y), e - power)
    return rise / (e + floor)


@inlined
def finite(x):
    """Mask of the lanes that are neither infinite nor NaN."""
    return smaller(absolute(x), number(x, "infinity"))


@kernel
def log1p_minus(x):
    """log1p(x) - x ≤ 0 for x > -1, to 4e-16 relative near 0 too."""
    if abs(x) > 0.05:
        return math.log1p(x) - x
    total, power = 0.0, x
    for n in range(2, 14):
        power = -power * x
        total += power / n
    return total
