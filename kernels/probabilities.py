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
from .decode import BLOCK, FLOAT64, view
from .elementary import log1p_minus
from .lanes import kernel, load, splat, stack, store, sum_lanes, width
from .mass_sums import (
    DELTA,
    EXCESS,
    EXCESS_LOW,
    FAR,
    INVERSE,
    LEAST,
    LOG_EXCESS,
    NEAR,
    RAISE_P,
    RAISE_P_AGAIN,
    RAISE_Q,
    RAISE_Q_AGAIN,
    TOP_P,
    TOP_Q,
    A,
    P,
    R,
    block_of_masses,
)  # fmt: skip
from .masses import (
    BESIDE,
    DONE,
    ENTROPY,
    GREATEST_SHIFT,
    LSE,
    NEGATIVE,
    OUT_OF_RANGE,
    greatest_mass,
    mass_alone,
    scaled_view,
    split_power,
)  # fmt: skip
from .rows import (
    ARGMAX_P,
    ARGMAX_Q,
    ENTROPY_P,
    ENTROPY_Q,
    KL,
    LN2,
    LSE_GAP,
    LSE_P,
    LSE_Q,
    REVERSE_KL,
    fused,
    index_of,
)

BESIDE_P, BESIDE_Q = 9, 10  # places beyond those of rows.py

# Rows of which no outcome differs by more are proportional: it is what the totals are known to.
IDENTICAL = 2.0**-90

SINGLE, DOUBLE = 0, 1  # the lanes that served a pair
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


@kernel
def scale_rows(p, q, vocab, scales):
    """Fill `scales`; False where a row has no finite elements, no mass or a NaN."""
    room = stack(2048, 0.0)
    top_p, top_q = greatest_mass(p, vocab, room), greatest_mass(q, vocab, room)
    if not (0.0 < top_p < np.inf and 0.0 < top_q < np.inf):
        return False
    rise_p = GREATEST_SHIFT - np.rint(math.log(top_p) * LOG2E)
    rise_q = GREATEST_SHIFT - np.rint(math.log(top_q) * LOG2E)
    scales[RAISE_P], scales[RAISE_P_AGAIN] = split_power(rise_p)
    first, second = split_power(rise_q)
    high, low = exact_total(p, vocab, scales[RAISE_P], scales[RAISE_P_AGAIN], room)
    high_q, low_q = exact_total(q, vocab, first, second, room)
    if not (high > 0.0 and high_q > 0.0):
        return False
    binades = np.rint((math.log(high) - math.log(high_q)) * LOG2E)
    scales[RAISE_Q], scales[RAISE_Q_AGAIN] = split_power(rise_q + binades)
    high_q, low_q = high_q * 2.0**binades, low_q * 2.0**binades
    apart, rest = high - high_q, low - low_q  # the first is exact
    scales[EXCESS] = (apart + rest) / high_q
    left = fused(-scales[EXCESS], high_q, apart) + fused(-scales[EXCESS], low_q, rest)
    scales[EXCESS_LOW] = left / high_q
    scales[INVERSE] = 1.0 / high
    scales[LOG_EXCESS] = (rise_q + binades - rise_p) * LN2 + math.log1p(scales[EXCESS])
    return True


@kernel
def mass_difference(x, y, gap, scales):
    """ln Q - ln P of an outcome whose masses, as they are stored, are x and y > 0; `gap` is LSE_Q - LSE_P."""
    d = math.log(y) - math.log(x) - gap
    x, y = x * scales[RAISE_P] * scales[RAISE_P_AGAIN], y * scales[RAISE_Q] * scales[RAISE_Q_AGAIN]
    if abs(d) < 0.5 and x > 1e-290:  # from the difference at one total, see mass_sums.py
        d = math.log1p(fused(y, scales[EXCESS_LOW], fused(y, scales[EXCESS], y - x)) / x)
    return d


@kernel
def keep_rows(total, ratio, scales):
    """Fill `scales` for rows that weigh about the same as they are, `total` and 1 + `ratio` times that."""
    for i in range(4):
        scales[i] = 1.0
    scales[EXCESS] = -ratio / (1.0 + ratio)
    scales[EXCESS_LOW] = 0.0
    scales[INVERSE] = 1.0 / total
    scales[LOG_EXCESS] = -math.log1p(ratio)


# ------------------------------------------------------------------------------------------------------ one row


@kernel
def undefined(result):
    for i in range(6):
        result[i] = np.nan
    result[LSE_GAP] = np.nan
    result[ARGMAX_P] = -1.0
    result[ARGMAX_Q] = -1.0


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


@kernel
def mass_row(p, q, vocab, like, excess, scales, result):
    """KL both ways and the normalisers of a pair of rows: DONE, NEGATIVE, OUT_OF_RANGE or UNLIKE (of this `like`).

    With an `excess` rows are read by way of `scales`, and DONE; without, as they are, and `scales` is filled.
    """
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    sums = stack(9, 0.0)
    sums_of = NEAR
    mass, delta, forward, reverse, farthest = 0.0, 0.0, 0.0, 0.0, 0.0
    top_p, top_q, block_p, block_q = -np.inf, -np.inf, 0, 0
    start = 0
    if excess is None:
        keep_rows(1.0, 0.0, scales)
    while start < vocab:
        n = min(BLOCK, vocab - start)
        block_of_masses(p, q, start, n, like, excess, scales, room_p, room_q, sums_of, sums)
        if not sums[FAR] < 1.0 / 3.0:
            sums_of += 1
            continue
        if sums[LEAST] > 0.0:
            return NEGATIVE
        farthest = max(farthest, sums[FAR])
        mass += sums[P]
        delta += sums[DELTA]
        forward += sums[A]
        reverse += sums[R]
        if sums[TOP_P] > top_p:
            top_p, block_p = sums[TOP_P], start
        if sums[TOP_Q] > top_q:
            top_q, block_q = sums[TOP_Q], start
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
    result[KL] = max(kl, 0.0)
    result[REVERSE_KL] = max(reverse_kl, 0.0)
    result[LSE_GAP] = -scales[LOG_EXCESS]
    result[LSE_P] = -(math.log(scales[INVERSE]) + math.log(scales[RAISE_P]) + math.log(scales[RAISE_P_AGAIN]))
    result[LSE_Q] = result[LSE_P] + result[LSE_GAP]
    if excess is not None:
        block_p, block_q = 0, 0
        top_p, top_q = greatest_mass(p, vocab, room_p), greatest_mass(q, vocab, room_q)
    result[ARGMAX_P] = first_at(p, vocab, block_p, top_p, room_p)
    result[ARGMAX_Q] = first_at(q, vocab, block_q, top_q, room_q)
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


@kernel
def mass_pair(p, q, vocab, single, full, result, scales):
    """The statistics of any pair of rows of masses and their `scales`: SINGLE, DOUBLE or NEGATIVE.

    `single`: float32 lanes are good enough for 32-bit rows. `full`: with the entropies, and with LSEs and BESIDEs that
    keep their digits where one outcome takes nearly all; else ENTROPY_P and ENTROPY_Q are NaN and BESIDEs untouched.
    """
    path, outcome = DOUBLE, OUT_OF_RANGE
    if single and p[2] != FLOAT64 and q[2] != FLOAT64:
        path = SINGLE
        outcome = mass_row(p, q, vocab, np.float32(0.0), None, scales, result)
    if outcome == OUT_OF_RANGE:
        path = DOUBLE
        outcome = mass_row(p, q, vocab, 0.0, None, scales, result)
    if outcome == NEGATIVE:
        return NEGATIVE
    if outcome != DONE:
        path = DOUBLE
        undefined(result)
        if scale_rows(p, q, vocab, scales):
            mass_row(p, q, vocab, 0.0, (scales[EXCESS], scales[EXCESS_LOW]), scales, result)
    if full:
        alone = stack(4, 0.0)
        defined = result[KL] == result[KL]
        mass_alone(p, vocab, alone)
        result[ENTROPY_P] = alone[ENTROPY] if defined else np.nan
        result[LSE_P] = alone[LSE] if defined else np.nan
        result[BESIDE_P] = alone[BESIDE]
        mass_alone(q, vocab, alone)
        result[ENTROPY_Q] = alone[ENTROPY] if defined else np.nan
        result[LSE_Q] = result[LSE_P] + result[LSE_GAP]
        result[BESIDE_Q] = alone[BESIDE]
    return path
