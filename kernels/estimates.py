"""φ(x) = exp(x) - 1 - x of single numbers to full accuracy over the whole range: what the estimator k3 is, φ(-d).

Around 0 by its series, elsewhere as it stands; the exponential of large arguments needs log2(e) to more than 53 bits.
"""

import math

from numba import types

from .lanes import (
    absolute,
    equal,
    fma,
    horner,
    inlined,
    is_nan,
    kernel,
    load,
    maximum,
    number,
    pointer,
    select,
    shift_exponent,
    smaller,
    splat,
    stack,
    store,
    width,
)
from .status import ARGUMENT, OK, report

LOG2E_LOW = 2.0355273740931033e-17  # log2(e) less its float64
SERIES = 1.6  # greatest |x| of the series; beyond it exp(x) - 1 - x loses less than two bits
TERMS = tuple(1.0 / math.factorial(n) for n in range(23, 1, -1))


@inlined
def accurate_phi(x):
    """φ(x) in float64 lanes: 1e-15 relative, inf above 709.78, φ(-inf) = inf; a NaN stays."""
    series = splat(TERMS[0], 0.0)
    for i in range(1, len(TERMS)):
        series = fma(series, x, splat(TERMS[i], 0.0))
    series = x * x * series
    # exp(x)/2, so that results up to the greatest number are reached
    within = maximum(splat(-700.0, 0.0), x)
    within = select(smaller(splat(710.0, 0.0), within), splat(710.0, 0.0), within)
    origin = number(x, "round") - number(x, "1")
    rounded = fma(within, number(x, "log2(e)"), origin)
    f = fma(within, number(x, "log2(e)"), origin - rounded)
    f = fma(within, splat(LOG2E_LOW, 0.0), f)
    half = shift_exponent(horner(f, "exp2"), rounded)
    far = ((half + half) - number(x, "1")) - x
    far = select(equal(x, number(x, "infinity")), x, far)
    value = select(smaller(absolute(x), splat(SERIES, 0.0)), series, far)
    return select(is_nan(x), x, value)


@kernel
def kullback_phi(x, out, start, stop, bad_row):
    if x == 0 or out == 0:
        return report(bad_row, start, ARGUMENT)
    source, target = pointer(x, types.float64), pointer(out, types.float64)
    lanes = width(0.0)
    whole = start + (stop - start) // lanes * lanes if stop > start else start
    for i in range(start, whole, lanes):
        store(target, i, accurate_phi(load(source, i, 0.0)))
    if whole < stop:
        room = stack(8, 0.0)
        for i in range(lanes):
            room[i] = source[whole + i] if whole + i < stop else 0.0
        store(room, 0, accurate_phi(load(room, 0, 0.0)))
        for i in range(stop - whole):
            target[whole + i] = room[i]
    return OK
