"""Blocks of a pair of rows as normalised pairs: p, q and d = ln q - ln p, whatever the rows were given as.

The second pass of everything that needs normalised terms. `d` comes from the difference of the inputs and the
difference of the normalisers, never from two rounded logs, so it keeps its relative accuracy near equality. Outcomes
impossible under both have p = q = 0 and d = 0; those impossible under one have d = ±FARTHEST, finite, so that 0·d is 0.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from .cumulants import LOG2E, difference, least_argument
from .decode import FLOAT64, NO_LOG, element, view
from .direct import apart_constants, apart_lanes, direct_row, normalised_row
from .elementary import log, scaled_exp2
from .far import GREATEST_FLOAT, far_row, unit_of
from .lanes import (
    _intrinsic_call,
    absolute,
    binades_between,
    both,
    either,
    equal,
    fma,
    greatest,
    horner,
    inlined,
    kernel,
    maximum,
    minimum,
    negative,
    number,
    select,
    shift_exponent,
    smaller,
    splat,
    store,
    stream,
    width,
)  # fmt: skip
from .mass_sums import gap, level
from .masses import NEGATIVE, scaled_view
from .probabilities import DOUBLE, SINGLE, mass_pair
from .records import Pair, RowStatistics, record
from .rows import DONE, TOO_CLOSE, TOO_FAR, cumulant_row
from .scans import LN2
from .separate import separate
from .single import log_row
from .status import LOGS, MASSES

PAIRS = 1024  # outcomes a block: p, q, d and the decoded rows in float32 take 20 KiB of first-level cache
FARTHEST = 1e30
# A KL from which on q is normalised by itself: found from p's weights and exp(d), whose d is rounded, its mass is off
# by 1e-5 at a KL of 10. That is nothing to the KL, but something to a gradient.
DISTINCT = 1.0
APART = 0.05  # from which on rounding of the normalisers, 1e-7, is as good as nothing to a mixture's divergence
NEAR = 0.9  # |d| up to which power series serve; beyond, what is subtracted is below 6 times the result

# how a pair of rows is read: float32 lanes, float64 lanes, or float64 lanes with zeros on one side and any exponents
DISTANT, UNDEFINED, NEGATIVE_MASS = 2, 3, 4  # SINGLE and DOUBLE are those of probabilities.py


def _count(elem):
    """Coefficients of a series in d: (0.9/π)^15 = 7e-9, (0.9/π)^28 = 6e-16."""
    return 15 if elem == types.float32 else 28


@intrinsic
def coefficient_count(typingctx, like):
    """Coefficients that `series` reads for lanes like `like`."""
    count = _count(like)
    return types.intp(like), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), count)


@intrinsic
def series(typingctx, x, coefficients):
    """The polynomial with the coefficients in memory, lowest first, at the lanes x."""
    if coefficients.dtype != x.elem:
        return None

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(x)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), x.count), [0] * x.count)

        def coefficient(i):
            value = builder.load(builder.gep(args[1], [ir.Constant(ir.IntType(64), i)], inbounds=True))
            first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, first, everywhere)

        def fused(a, b, c):
            return _intrinsic_call(builder, "fma", x, [a, b, c])

        # as in `horner`: c0 + x·(pairs c1 + c2·x, joined in x²)
        count = _count(x.elem)
        square = builder.fmul(args[0], args[0])
        parts = [
            fused(args[0], coefficient(i + 1), coefficient(i)) if i + 1 < count else coefficient(i)
            for i in range(1, count, 2)
        ]
        total = parts[-1]
        for part in parts[-2::-1]:
            total = fused(total, square, part)
        return fused(args[0], total, coefficient(0))

    return x(x, coefficients), codegen


@inlined
def turned(pair):
    """The pair with its rows exchanged."""
    return Pair(pair.q, pair.p, pair.vocab, pair.space, pair.k)


@separate(types.none)
@kernel
def normalise_pair(pair, single, apart, facts):
    """Fill the state, and the scales of masses, from the first pass over a pair of rows. `single`: float32 lanes are
    good enough for 32-bit rows; `apart`: also where d is so large that float32 rounds it to 1e-6, because p and q are
    looked at one by one then."""
    p, q, vocab, space, k = pair
    result, state, scales = facts
    narrow = single and p.storage != FLOAT64 and q.storage != FLOAT64
    path, outcome = SINGLE, TOO_CLOSE
    if space == LOGS:
        if narrow:
            outcome = cumulant_row(p, q, vocab, k, np.float32(0.0), result)
            if outcome == DONE and max(result.kl, result.reverse_kl) > DISTINCT:
                alone = record(RowStatistics)
                if not log_row(q, vocab, k, np.float32(0.0), None, alone):
                    far_row(q, vocab, k, None, alone)
                result.lse_q, result.beside_q = alone.lse, alone.beside
                result.lse_gap = alone.lse - result.lse_p
            if outcome == TOO_FAR and apart and normalised_row(p, q, vocab, k, np.float32(0.0), result):
                # float32 serves rows far apart on the whole of which nothing is possible under one alone
                known = min(result.kl, result.reverse_kl) > APART and max(result.kl, result.reverse_kl) < np.inf
                outcome = DONE if known else TOO_FAR
        if outcome != DONE:
            path, outcome = DOUBLE, cumulant_row(p, q, vocab, k, 0.0, result)
        exact = p.storage == FLOAT64 or q.storage == FLOAT64
        if outcome == DONE and not abs(result.lse_p) + abs(result.lse_q) < (1e3 if exact else 1e6):
            outcome = TOO_FAR  # the rounding of a normaliser would be worth too much of a probability
        if outcome != DONE:
            path = DISTANT
            direct_row(p, q, vocab, k, result)
    else:
        path = mass_pair(pair, single, False, result, scales)
        if path == SINGLE and max(result.kl, result.reverse_kl) == np.inf:
            # what else is different may be as little as the rounding of float32 masses
            path = mass_pair(pair, False, False, result, scales)
        if path == NEGATIVE:
            path = NEGATIVE_MASS
    if path != NEGATIVE_MASS and result.kl != result.kl:
        path = UNDEFINED
    state.path = path
    state.log_mass_p = result.beside_p if space == LOGS else result.lse_p
    state.log_mass_q = result.beside_q if space == LOGS else result.lse_q
    state.gap = result.beside_gap if path == DISTANT else result.lse_gap
    state.greatest_p = element(p, np.int64(result.argmax_p)) if result.argmax_p >= 0.0 else np.nan
    state.greatest_q = element(q, np.int64(result.argmax_q)) if result.argmax_q >= 0.0 else np.nan
    state.forward = result.kl
    state.reverse = result.reverse_kl


@kernel
def scale_pair(pair, facts):
    """Fill the scales with the constants of a pair of rows of logs that turn stored elements into p, q and d."""
    if pair.space == MASSES:
        return
    k, state, scales = pair.k, facts.state, facts.scales
    log_mass_p, log_mass_q = state.log_mass_p, state.log_mass_q
    if state.path == DISTANT:
        scales.top_p, scales.log_rest_p = state.greatest_p, state.log_mass_p
        scales.top_q, scales.log_rest_q = state.greatest_q, state.log_mass_q
        scales.rest_gap = state.gap
    else:
        # in the lanes k·log2(e) is rounded; the greatest element, which weighs most, is given its own probability
        scale = np.float64(np.float32(k * LOG2E)) if state.path == SINGLE else k * LOG2E
        top, top_q = state.greatest_p, state.greatest_q
        scales.shift = np.rint((k * top + log_mass_p) * LOG2E)
        scales.shift_q = np.rint((k * top_q + log_mass_q) * LOG2E)
        scales.factor = math.exp(-log_mass_p - LN2 * (scale * top - scales.shift))
        scales.factor_q = math.exp(-log_mass_q - LN2 * (scale * top_q - scales.shift_q))
        scales.minus_gap = -state.gap


@kernel
def read_pairs(pair, start, path, limit, near, scales, rooms, outcomes):
    """Fill a block of p, d and, unless every |d| ≤ limit, of q. True where that was so: q was not needed.

    `near`: the blocks before were so, which is worth a try with masses.
    """
    if pair.space == MASSES:
        return read_masses(pair, start, limit, near, scales, rooms, outcomes)
    x = view(pair.p, start, outcomes.n, rooms.p, NO_LOG)
    y = view(pair.q, start, outcomes.n, rooms.q, NO_LOG)
    if path == DISTANT:
        distant_log_pairs(x, y, pair.k, scales, outcomes)
        return False
    if log_pairs(x, y, pair.k, scales, outcomes) <= limit:
        return True
    fill_partners(y, pair.k, scales, outcomes)
    return False


@separate(types.float64)
@kernel
def log_pairs(x, z, k, scales, outcomes):
    """p and d of a block of logs whose differences are moderate; the greatest |d|."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    nothing = number(zero, "-infinity")
    far = zero
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(scales.shift, like)
    factor = splat(scales.factor, like)
    least = splat(least_argument(k, scales.shift, like), like)
    k_lanes = splat(k, like)
    minus_gap = splat(scales.minus_gap, like)
    for i in range(0, n, width(like)):
        a = stream(x, i, like)
        b = stream(z, i, like)
        gone = equal(a, nothing)
        p = factor * scaled_exp2(maximum(a, least), scale, origin)
        d = select(gone, zero, difference(b, a, k_lanes, minus_gap, like))
        far = maximum(absolute(d), far)
        store(probs, i, select(gone, zero, p))
        store(diffs, i, d)
    return np.float64(greatest(far))


@kernel
def fill_partners(z, k, scales, outcomes):
    """q of a block of logs, from its own exponential: p·exp(d) would have the rounding of d in it."""
    _, partners, _, n, like = outcomes
    zero = splat(0.0, like)
    scale = splat(k * LOG2E, like)
    origin = number(zero, "round") - splat(scales.shift_q, like)
    factor = splat(scales.factor_q, like)
    least = splat(least_argument(k, scales.shift_q, like), like)
    for i in range(0, n, width(like)):
        b = stream(z, i, like)
        gone = equal(b, number(zero, "-infinity"))
        store(partners, i, select(gone, zero, factor * scaled_exp2(maximum(b, least), scale, origin)))


@separate(types.none)
@kernel
def distant_log_pairs(x, z, k, scales, outcomes):
    """p, q and d of a block of any logs, for float64; only -inf is impossible, whatever p and q have come to."""
    probs, partners, diffs, n, like = outcomes
    top_p, top_q = scales.top_p, scales.top_q
    unit, scale = unit_of(max(abs(top_p), abs(top_q)), k)
    rest_p, rest_q, rest_gap = scales.log_rest_p, scales.log_rest_q, scales.rest_gap
    constants = apart_constants(unit, scale, top_p, top_q, rest_p, rest_q, rest_gap, like)
    zero = splat(0.0, like)
    nothing = number(zero, "-infinity")
    most = splat(GREATEST_FLOAT, like)
    for i in range(0, n, width(like)):
        a = stream(x, i, like)
        b = stream(z, i, like)
        no_p = equal(a, nothing)
        no_q = equal(b, nothing)
        root_p, root_q, _, d = apart_lanes(a, b, constants)
        d = maximum(zero - most, zero - maximum(zero - most, zero - d))
        d = select(no_p, most, select(no_q, zero - most, d))
        store(probs, i, root_p * root_p)
        store(partners, i, root_q * root_q)
        store(diffs, i, select(both(no_p, no_q), zero, d))


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


@kernel
def is_identical(space, state):
    """True for rows of masses that are the same as far as KL can tell."""
    return space == MASSES and state.forward == 0.0 and state.reverse == 0.0
