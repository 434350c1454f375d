"""One pair of rows given as probabilities, counts or any unnormalised masses -> its statistics.

With x the masses of p and y those of q, brought to about the same total:

    P = Σx   Q = Σy   Δ = Σ(y - x)   A = Σ x·ln(x/y) - x + y   R = Σ y·ln(y/x) - y + x   δ = Δ/P
    KL(p‖q) = A/P + log1p(δ) - δ        KL(q‖p) = R/Q + log1p(z) - z,   z = -δ/(1 + δ)

Every term of A and R is ≥ 0 (mass_sums.py). Rows that weigh about the same as they are need nothing else. For others
`scale_rows` finds powers of two that bring both to totals within a factor √2, and the excess ε = P/Q - 1 of these, to
twice the digits of float64.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from .cumulants import LOG2E
from .decode import BLOCK, view
from .elementary import log1p_minus
from .lanes import kernel, splat, sum_lanes, width
from .mass_sums import NEAR, block_of_masses
from .masses import DONE, GREATEST_SHIFT, NEGATIVE, OUT_OF_RANGE, greatest_mass, scaled_view, split_power
from .memory import load, stack, store
from .records import MassSums, Rooms, record
from .scans import LN2, fused, index_of
from .separate import separate

# Rows of which no outcome differs by more are proportional: it is what the totals are known to.
IDENTICAL = 2.0**-90

UNLIKE = 5  # the outcome of rows whose totals differ by as much as the rows do

# totals that a type of lanes serves as they are, and the least total·KL whose terms do not leave its numbers
_TOTALS = {types.float32: (2.0**-80, 2.0**100, 2.0**-95), types.float64: (2.0**-400, 2.0**900, 2.0**-900)}


# ------------------------------------------------------------------------------------------- two rows, one total


@kernel
def exact_total(row, vocab, first, second, room):
    """The sum of a row times both factors, as two numbers: to 2^-100 of it."""
    like = 0.0
    zero = splat(0.0, like)
    total, rest = zero, zero
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        x, _ = scaled_view(row, start, n, room, first, second)
        for i in range(0, n, width(like)):
            term = load(x, i, like)
            risen = total + term
            back = risen - total
            rest = rest + ((total - (risen - back)) + (term - back))
            total = risen
    lanes = stack(8, 0.0)
    store(lanes, 0, total)
    high, low = 0.0, sum_lanes(rest)
    for i in range(width(like)):
        risen = high + lanes[i]
        back = risen - high
        low += (high - (risen - back)) + (lanes[i] - back)
        high = risen
    return high + low, low - ((high + low) - high)


@separate(types.boolean)
@kernel
def scale_rows(p, q, vocab, scales):
    """Fill `scales`; False where a row has no finite elements, no mass or a NaN."""
    room = stack(2048, 0.0)
    top_p, top_q = greatest_mass(p, vocab, room), greatest_mass(q, vocab, room)
    if not (0.0 < top_p < np.inf and 0.0 < top_q < np.inf):
        return False
    rise_p = GREATEST_SHIFT - np.rint(math.log(top_p) * LOG2E)
    rise_q = GREATEST_SHIFT - np.rint(math.log(top_q) * LOG2E)
    scales.raise_p, scales.raise_p_again = split_power(rise_p)
    first, second = split_power(rise_q)
    high, low = exact_total(p, vocab, scales.raise_p, scales.raise_p_again, room)
    high_q, low_q = exact_total(q, vocab, first, second, room)
    if not (high > 0.0 and high_q > 0.0):
        return False
    binades = np.rint((math.log(high) - math.log(high_q)) * LOG2E)
    scales.raise_q, scales.raise_q_again = split_power(rise_q + binades)
    high_q, low_q = high_q * 2.0**binades, low_q * 2.0**binades
    apart, rest = high - high_q, low - low_q  # the first is exact
    scales.excess = (apart + rest) / high_q
    left = fused(-scales.excess, high_q, apart) + fused(-scales.excess, low_q, rest)
    scales.excess_low = left / high_q
    scales.inverse = 1.0 / high
    scales.log_excess = (rise_q + binades - rise_p) * LN2 + math.log1p(scales.excess)
    return True


@kernel
def mass_difference(x, y, gap, scales):
    """ln Q - ln P of an outcome whose masses, as they are stored, are x and y > 0; `gap` is lse_q - lse_p."""
    d = math.log(y) - math.log(x) - gap
    x, y = x * scales.raise_p * scales.raise_p_again, y * scales.raise_q * scales.raise_q_again
    if abs(d) < 0.5 and x > 1e-290:  # from the difference at one total, see mass_sums.py
        d = math.log1p(fused(y, scales.excess_low, fused(y, scales.excess, y - x)) / x)
    return d


@kernel
def keep_rows(total, ratio, scales):
    """Fill `scales` for rows that weigh about the same as they are, `total` and 1 + `ratio` times that."""
    scales.raise_p, scales.raise_p_again, scales.raise_q, scales.raise_q_again = 1.0, 1.0, 1.0, 1.0
    scales.excess = -ratio / (1.0 + ratio)
    scales.excess_low = 0.0
    scales.inverse = 1.0 / total
    scales.log_excess = -math.log1p(ratio)


# ------------------------------------------------------------------------------------------------------ one row


@kernel
def undefined(result):
    result.kl = np.nan
    result.reverse_kl = np.nan
    result.entropy_p = np.nan
    result.entropy_q = np.nan
    result.lse_p = np.nan
    result.lse_q = np.nan
    result.lse_gap = np.nan
    result.argmax_p = -1.0
    result.argmax_q = -1.0


def totals_served(like):
    """(least total, greatest total, least total·KL) that lanes like `like` serve."""


@overload(totals_served)
def _totals_served(like):
    totals = _TOTALS[like]
    return lambda like: totals


@kernel
def first_at(row, vocab, block, value, room):
    """The lowest index of `value`, which is in no block before the one that starts at `block`; -1 if there is none."""
    for start in range(block, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        i = index_of(view(row, start, n, room, -1.0), n, value, room[0])
        if i >= 0:
            return start + i
    return -1


@separate(types.int64)
@kernel
def mass_row(pair, like, excess, scales, result):
    """KL both ways and the normalisers of a pair of rows: DONE, NEGATIVE, OUT_OF_RANGE or UNLIKE (of this `like`).

    With an `excess` rows are read by way of `scales`, and DONE; without, as they are, and `scales` is filled.
    """
    p, q, vocab, _, _ = pair
    rooms = Rooms(stack(2048, like), stack(2048, like), like)
    sums = record(MassSums)
    sums_of = NEAR
    mass, delta, forward, reverse, farthest = 0.0, 0.0, 0.0, 0.0, 0.0
    top_p, top_q, block_p, block_q = -np.inf, -np.inf, 0, 0
    start = 0
    if excess is None:
        keep_rows(1.0, 0.0, scales)
    while start < vocab:
        n = min(BLOCK, vocab - start)
        block_of_masses(pair, start, n, excess, scales, rooms, sums_of, sums)
        if not sums.far < 1.0 / 3.0:
            sums_of += 1
            continue
        if sums.least > 0.0:
            return NEGATIVE
        farthest = max(farthest, sums.far)
        mass += sums.p
        delta += sums.delta
        forward += sums.a
        reverse += sums.r
        if sums.top_p > top_p:
            top_p, block_p = sums.top_p, start
        if sums.top_q > top_q:
            top_q, block_q = sums.top_q, start
        start += n
    undefined(result)
    if mass + delta != mass + delta and not (top_p < np.inf and top_q < np.inf):
        return DONE
    ratio = delta / mass
    kl = forward / mass + log1p_minus(ratio)
    reverse_kl = reverse / (mass + delta) + log1p_minus(-ratio / (1.0 + ratio))
    if excess is None:
        outcome = served(mass, delta, forward, reverse, kl, reverse_kl, like)
        if outcome != DONE:
            return outcome
        keep_rows(mass, ratio, scales)
    elif sums_of == NEAR and farthest < IDENTICAL:
        kl, reverse_kl = 0.0, 0.0
    result.kl = max(kl, 0.0)
    result.reverse_kl = max(reverse_kl, 0.0)
    result.lse_gap = -scales.log_excess
    result.lse_p = -(math.log(scales.inverse) + math.log(scales.raise_p) + math.log(scales.raise_p_again))
    result.lse_q = result.lse_p + result.lse_gap
    if excess is not None:
        block_p, block_q = 0, 0
        top_p, top_q = greatest_mass(p, vocab, rooms.p), greatest_mass(q, vocab, rooms.q)
    result.argmax_p = first_at(p, vocab, block_p, top_p, rooms.p)
    result.argmax_q = first_at(q, vocab, block_q, top_q, rooms.q)
    return DONE


@kernel
def served(mass, delta, forward, reverse, kl, reverse_kl, like):
    """Whether lanes like `like` know KL both ways from these sums: DONE, OUT_OF_RANGE or UNLIKE."""
    least, most, least_kl = totals_served(like)
    if not (least < mass < most and abs(delta) < most):
        return OUT_OF_RANGE
    total_q = mass + delta
    if not abs(delta) <= 0.1 * mass or forward > 2.0 * kl * mass or reverse > 2.0 * reverse_kl * total_q:
        return UNLIKE
    if forward == np.inf and reverse == np.inf and abs(delta) > 1e-12 * mass:
        return UNLIKE  # what else is different may be as little as the totals
    if (delta != 0.0 or forward + reverse > 0.0) and min(kl, reverse_kl) * mass < least_kl:
        return OUT_OF_RANGE
    return DONE
