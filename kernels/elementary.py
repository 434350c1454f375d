"""exp, log, tanh and φ over lanes, in float32 and float64 from one text; coefficients.py holds their polynomials."""

from .lanes import absolute, exponent, fma, horner, inlined, mantissa, number, select, shift_exponent, smaller


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
