"""One row of masses (probabilities, counts, any unnormalised numbers ≥ 0): total, entropy, argmax.

With T the greatest element and B the sum of all others, both known without the rounding of their sum:

    lse = ln T + log1p(B/T)        H = log1p(B/T) + Σ x·ln(T/x)/(T + B)

No term is negative, so a row nearly all of which is one outcome keeps its digits. Float32 lanes serve rows whose
greatest element is no farther from 1 than 2^16, where ln x is rounded to 6e-7 at most; float64 lanes serve nearly
everything else, and rows beyond (whose total may exceed every float64) are multiplied by a power of two first.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import SPAN
from .decode import BLOCK, element, view
from .elementary import log
from .lanes import equal, fma, greatest, kernel, maximum, number, select, splat, sum_lanes, widened, width
from .memory import load, stack, store, stream
from .scans import greatest_of
from .separate import separate

DONE, NEGATIVE, OUT_OF_RANGE = 0, 3, 4


MAX_RISE = 2.0  # by which a logarithm may exceed the row's anchor before its block is done again with another
PEAKED = 4.0  # a total below so many times the greatest element is summed without that element
GREATEST_SHIFT = 940  # binary logarithm of the greatest element of a row that was scaled: 2^31 such are a number

# greatest elements that a type of lanes serves, as binary logarithms; and the least sum beside one, whose terms are not
# to leave the normal numbers (of float64 what is lost beside 2^-8 is below its normal numbers in the end)
_REACH = {types.float32: (-16.0, 16.0, -90.0), types.float64: (-8.0, 900.0, -np.inf)}


@kernel
def undefined_row(result):
    result.lse = np.nan
    result.entropy = np.nan
    result.argmax = -1.0
    result.beside = np.nan


# ------------------------------------------------------------------------------------------------- powers of two


@kernel
def split_power(exponent):
    """Two powers of two whose product is 2^exponent, |exponent| ≤ 2045."""
    first = min(max(exponent, -1022.0), 1022.0)
    return 2.0**first, 2.0 ** (exponent - first)


@kernel
def scaled_view(row, start, n, room, first, second):
    """`room` with elements start ... start + n times two factors, padded with 0; and the least that is not 0."""
    like = 0.0
    x = view(row, start, n, room, 0.0)
    zero = splat(0.0, like)
    infinite = number(zero, "infinity")
    low = zero - infinite
    for i in range(0, n, width(like)):
        raw = load(x, i, like)
        scaled = (raw * splat(first, like)) * splat(second, like)
        low = maximum(select(equal(raw, zero), zero - infinite, zero - scaled), low)
        store(room, i, scaled)
    return room, -greatest(low)


@kernel
def greatest_mass(row, vocab, room):
    """The greatest element of a row, NaN passed over."""
    top = -np.inf
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        top = max(top, greatest_of(view(row, start, n, room, 0.0), n, room[0]))
    return top


# ---------------------------------------------------------------------------------------------------- one block


@kernel
def mass_block(a, n, like, anchor):
    """(Σx, Σx·(ln x - anchor), greatest x, greatest -x) of a block of masses."""
    zero = splat(0.0, like)
    wide = splat(0.0, 0.0)
    s_all, u_all = wide, wide
    least = zero
    top = number(zero, "-infinity")
    anchors = splat(anchor, like)
    for j in range(0, n, SPAN):
        s, u = zero, zero
        for i in range(j, min(j + SPAN, n), width(like)):
            x = stream(a, i, like)
            top = maximum(x, top)
            least = maximum(zero - x, least)
            s = s + x
            u = fma(x, log(x) - anchors, u)  # log(0) is a number
        s_all = s_all + widened(s)
        u_all = u_all + widened(u)
    return sum_lanes(s_all), sum_lanes(u_all), greatest(top), greatest(least)


@kernel
def log_in_lanes(x, like):
    """ln x as the lanes know it."""
    return np.float64(greatest(log(splat(x, like))))


@kernel
def beside_greatest(a, n, top):
    """(Σx, Σx·ln(x/top)) of a block but for one element equal to `top`, in float64."""
    like = 0.0
    zero = splat(0.0, like)
    s, u, count = zero, zero, zero
    tops = splat(top, like)
    log_top = splat(log_in_lanes(top, like), like)
    for i in range(0, n, width(like)):
        x = load(a, i, like)
        at_top = equal(x, tops)
        count = count + select(at_top, number(zero, "1"), zero)
        x = select(at_top, zero, x)
        s = s + x
        u = fma(x, log(x) - log_top, u)
    return sum_lanes(s) + (sum_lanes(count) - 1.0) * top, sum_lanes(u)


# ------------------------------------------------------------------------------------------------------ one row


def mass_view(row, start, n, room, scale):
    """A block of a row of masses, as it is or (where `scale` is not None) times both numbers of `scale`."""


@overload(mass_view)
def _mass_view(row, start, n, room, scale):
    if isinstance(scale, types.NoneType):
        return lambda row, start, n, room, scale: view(row, start, n, room, 0.0)
    return lambda row, start, n, room, scale: scaled_view(row, start, n, room, scale[0], scale[1])[0]


def within_reach(top, rest, like):
    """True where lanes like `like` serve a row whose greatest element is `top`; `rest` is the sum of other blocks."""


@overload(within_reach)
def _within_reach(top, rest, like):
    low, high, least = (2.0**exponent for exponent in _REACH[like])
    return lambda top, rest, like: low <= top <= high and (rest == 0.0 or rest >= least)


@separate(types.int64)
@kernel
def mass_statistics(row, vocab, like, scale, result):
    """lse, entropy, argmax, beside of a row times `scale`: DONE, NEGATIVE or OUT_OF_RANGE. No mass: lse is -inf."""
    room = stack(2048, like)
    undefined_row(result)
    top = greatest_of(mass_view(row, 0, min(BLOCK, vocab), room, scale), min(BLOCK, vocab), like)
    anchor = log_in_lanes(top, like) if 0.0 < top < np.inf else 0.0
    # of the block with the greatest element, and of all others
    s_block, u_block, s_rest, u_rest, top, block, start = 0.0, 0.0, 0.0, 0.0, -np.inf, -1, 0
    while start < vocab:
        n = min(BLOCK, vocab - start)
        mass, moment, highest, negative = mass_block(mass_view(row, start, n, room, scale), n, like, anchor)
        if negative > 0.0:
            return NEGATIVE
        if top < highest < np.inf and log_in_lanes(highest, like) - anchor > MAX_RISE:
            risen = log_in_lanes(highest, like)
            u_block += (anchor - risen) * s_block
            u_rest += (anchor - risen) * s_rest
            anchor = risen
            continue
        if highest > top:
            s_rest, u_rest = s_rest + s_block, u_rest + u_block
            s_block, u_block, top, block = mass, moment, highest, start
        else:
            s_rest, u_rest = s_rest + mass, u_rest + moment
        start += n
    total = s_rest + s_block
    if total != total or top == np.inf:
        return DONE
    if top == 0.0:
        result.lse = -np.inf
        return DONE
    if not within_reach(top, s_rest, like):
        return OUT_OF_RANGE
    if total < PEAKED * top:
        n = min(BLOCK, vocab - block)
        s_block, u_block = beside_greatest(mass_view(row, block, n, room, scale), n, top)
        beside = math.log1p((s_rest + s_block) / top)
        total = s_rest + s_block + top
        spread = u_block + u_rest + (anchor - log_in_lanes(top, like)) * s_rest
    else:
        beside = math.log(total / top)
        spread = u_block + u_rest + (anchor - log_in_lanes(top, like)) * total
    result.beside = beside
    result.entropy = max(beside - spread / total, 0.0)
    result.lse = math.log(top) + beside
    result.argmax = argmax_of(row, vocab, block, top, room, scale)
    return DONE


@kernel
def argmax_of(row, vocab, block, top, room, scale):
    """The lowest index of the greatest element of a row, whose scaled value is `top`."""
    x = mass_view(row, block, min(BLOCK, vocab - block), room, scale)
    for i in range(min(BLOCK, vocab - block)):
        if x[i] == top:
            return block + i
    return -1


@kernel
def mass_log_prob(row, v, top, beside):
    """The log-probability of outcome v of a row, from its greatest element and beside; NaN for a negative id."""
    if v < 0:
        return np.nan
    x = element(row, v)
    share = x / top
    return (np.log(share) if share > 1e-290 else np.log(x) - np.log(top)) - beside
