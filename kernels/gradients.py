"""Gradients with respect to logits: each input is read once more, a few numbers a row are all that is kept.

With s the softmax of k·b, lp, lq the log-probabilities and d = lq - lp, the derivative of a divergence D along the
logits b of its second argument is k·(h - s·Σh), h = ∂D/∂lq. Kept and used per kind (divergences.py; R is MOMENT):

    LINEAR      k·(c₁·(q - p) + q·(c₂·d - R))          R = c₂·KL(q‖p)
    MIXTURE     k·q·(r - R)                            r = c₂·ln(q/m) - κ·(p - q)/m, R = Σ q·r
    VARIATION   k·q·(½ sign(q - p) - R)                R = ½ Σ q·sign(q - p)
    RENYI       k·c·q·expm1(-(a·d + K))                K = (α-1)·D; a = α, c = -1; for the first argument, in whose
                                                       place the rows are exchanged, a = 1 - α, c = α/(α-1)

q - p is p·expm1(d), so a gradient keeps its relative accuracy where the rows are close.
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E, in_reach, least_argument
from .decode import FLOAT64, NO_LOG, element, item_bytes, view
from .divergences import (
    CROSS_ENTROPY,
    LINEAR,
    MIXTURE,
    RENYI,
    VARIATION,
    divergence_row,
    mixture_logs,
    sign,
    write_series,
)  # fmt: skip
from .elementary import phi_and_exp, scaled_exp2
from .encode import row_place, write, write_block
from .far_gradients import PARTNER, RATIO, far_gradient, tilted_gradient
from .lanes import (
    absolute,
    equal,
    fma,
    kernel,
    load,
    maximum,
    number,
    pointer,
    pointer_like,
    rounded,
    select,
    smaller,
    splat,
    stack,
    storage_of,
    store,
    width,
)  # fmt: skip
from .pairs import (
    DISTANT,
    MINUS_GAP,
    MOMENT,
    NEAR,
    PAIRS,
    PATH,
    SINGLE,
    UNDEFINED,
    read_pairs,
    scale_pair,
    series,
)  # fmt: skip
from .rows import LN2
from .status import LOGS, OK, TOKEN

APART = 20.0  # nats of KL(q‖p) from which on the rounding of d and R is too much where q is nearly all on one outcome


@kernel
def linear_gradient(probs, diffs, n, like, first, second, moment, factor, out):
    """LINEAR where every d is moderate."""
    c1 = splat(first * factor, like)
    c2 = splat(second * factor, like)
    r = splat(-moment * factor, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        phi, ratio = phi_and_exp(d)
        store(out, i, p * fma(c1, phi + d, ratio * fma(c2, d, r)))


@kernel
def distant_linear_gradient(probs, partners, diffs, n, like, first, second, moment, factor, expm1, out):
    """LINEAR for any d; an outcome with q = 0 has no part in the second term."""
    zero = splat(0.0, like)
    c1 = splat(first * factor, like)
    c2 = splat(second * factor, like)
    r = splat(-moment * factor, like)
    limit = splat(NEAR, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        gap = select(smaller(absolute(d), limit), p * (d * series(d, expm1)), q - p)
        store(out, i, fma(c1, gap, select(equal(q, zero), zero, q * fma(c2, d, r))))


@kernel
def near_mixture_gradient(probs, diffs, n, like, moment, factor, slope, out):
    """MIXTURE where every |d| ≤ 0.9; `slope` is the series of exp(d)·r(d)/d."""
    f = splat(factor, like)
    r = splat(-moment, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        _, ratio = phi_and_exp(d)
        store(out, i, (p * f) * fma(d, series(d, slope), ratio * r))


@kernel
def mixture_gradient(probs, partners, diffs, n, like, weight, first, second, moment, factor, slope, out):
    """MIXTURE for any d."""
    zero = splat(0.0, like)
    w = splat(weight, like)
    rest = splat(1.0 - weight, like)
    c2 = splat(second, like)
    kappa = splat((1.0 - weight) * ((1.0 - weight) * first - weight * second), like)
    f = splat(factor, like)
    r = splat(moment, like)
    limit = splat(NEAR, like)
    tiniest = number(zero, "smallest normal")
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        _, to_q = mixture_logs(p, q, d, w, rest)
        m = maximum(fma(w, p, rest * q), tiniest)
        far = q * fma(kappa, (q - p) / m, zero - c2 * to_q)
        near = (p * d) * series(d, slope)
        store(out, i, f * (select(smaller(absolute(d), limit), near, far) - q * r))


@kernel
def variation_gradient(partners, diffs, n, like, moment, factor, out):
    half = splat(0.5 * factor, like)
    r = splat(-moment * factor, like)
    for i in range(0, n, width(like)):
        store(out, i, load(partners, i, like) * fma(half, sign(load(diffs, i, like)), r))


@kernel
def renyi_gradient(partners, diffs, n, like, slope, log_sum, factor, out):
    """factor·q·expm1(-(slope·d + log_sum)), the exponent held within the range of the lanes."""
    zero = splat(0.0, like)
    a = splat(-slope, like)
    offset = splat(-log_sum, like)
    f = splat(factor, like)
    most = splat(80.0 if width(like) == 16 else 600.0, like)
    for i in range(0, n, width(like)):
        q = load(partners, i, like)
        y = fma(a, load(diffs, i, like), offset)
        y = maximum(zero - most, zero - maximum(zero - most, zero - y))
        phi, _ = phi_and_exp(y)
        store(out, i, select(equal(q, zero), zero, f * q * (phi + y)))


@kernel
def fill(value, vocab, address, storage):
    """One value in a whole row."""
    block = stack(1024, np.float32(0.0))
    for i in range(PAIRS):
        block[i] = value
    for start in range(0, vocab, PAIRS):
        write(block, min(PAIRS, vocab - start), address + start * item_bytes(storage), storage)


@kernel
def gradient_lanes(
    p, q, vocab, k, like, kind, weight, first, second, state, scales, result, factor, slope, address, storage
):
    """The gradient of one row, in lanes like `like`, written as `storage` at `address`."""
    room_p = stack(1024, like)
    room_q = stack(1024, like)
    probs = stack(1024, like)
    partners = stack(1024, like)
    diffs = stack(1024, like)
    block = stack(1024, like)
    path = state[PATH]
    # beyond 4, q is better computed for itself than as p·exp(d)
    limit = 4.0 if kind == LINEAR else NEAR if kind == MIXTURE else -1.0
    straight = storage == storage_of(block)
    # float32 lanes round GAP, which all d have in them: in a row of next to one outcome that is more than its own d.
    # A gradient moves by that times its slope where d is little, and by next to nothing of itself elsewhere. The moment
    # of MIXTURE is a sum over the same d, and moves along.
    low = scales[MINUS_GAP] - rounded(scales[MINUS_GAP], like) if path == SINGLE else 0.0
    moment, log_sum = state[MOMENT], (weight - 1.0) * result
    if kind == LINEAR:
        moment -= low * (first + second)
    elif kind == RENYI:
        log_sum += low * first
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        near = read_pairs(
            p, q, start, n, LOGS, k, like, path, limit, True, scales, room_p, room_q, probs, partners, diffs
        )
        place = address + start * item_bytes(storage)
        direct = straight and n % width(like) == 0
        out = pointer_like(place, block) if direct else block
        if kind == LINEAR:
            if near:
                linear_gradient(probs, diffs, n, like, first, second, moment, factor, out)
            else:
                distant_linear_gradient(probs, partners, diffs, n, like, first, second, moment, factor, slope, out)
        elif kind == MIXTURE:
            if near:
                near_mixture_gradient(probs, diffs, n, like, moment, factor, slope, out)
            else:
                mixture_gradient(probs, partners, diffs, n, like, weight, first, second, moment, factor, slope, out)
        elif kind == VARIATION:
            variation_gradient(partners, diffs, n, like, moment, factor, out)
        else:
            renyi_gradient(partners, diffs, n, like, first, log_sum, second * factor, out)
        if not direct:
            write(block, n, place, storage)


@kernel
def gradient_row(p, q, vocab, k, kind, weight, first, second, state, scales, result, factor, address, storage):
    """The gradient of one row whose `state` is known, times `factor`; NaN where it does not exist."""
    needed = result if kind == RENYI else state[MOMENT]
    if state[PATH] >= UNDEFINED or not math.isfinite(needed):
        fill(np.nan, vocab, address, storage)
        return
    scale_pair(p, q, vocab, LOGS, k, state, scales)
    if state[PATH] == SINGLE:
        value = stack(32, np.float32(0.0))
        slope = stack(32, np.float32(0.0))
        write_series(kind, np.float32(0.0), weight, first, second, value, slope)
        gradient_lanes(
            p, q, vocab, k, np.float32(0.0), kind, weight, first, second, state, scales, result, factor, slope,
            address, storage,
        )  # fmt: skip
    else:
        wide_value = stack(32, 0.0)
        wide_slope = stack(32, 0.0)
        write_series(kind, 0.0, weight, first, second, wide_value, wide_slope)
        gradient_lanes(
            p, q, vocab, k, 0.0, kind, weight, first, second, state, scales, result, factor, wide_slope,
            address, storage,
        )  # fmt: skip


@kernel
def divergence_gradient_row(
    row_p, row_q, own_weight, vocab, k, kind, weight, first, second, side, known, value, of_row, work, scales,
    address, storage,
):  # fmt: skip
    """own_weight·dD/dlogits of one pair, of q's logits (side 1) or of p's (side 0). A row of weight 0 is not read."""
    factor = k * own_weight
    if own_weight == 0.0:
        if known == 0:
            value[0] = 0.0
        fill(0.0, vocab, address, storage)
        return
    if kind == CROSS_ENTROPY:
        if math.isfinite(value[0]):
            far_gradient(row_q, row_p, vocab, k, PARTNER, 0.0, own_weight, 0.0, 0, address, storage)
        else:
            fill(np.nan, vocab, address, storage)
        return
    step_kind, w, c1, c2 = kind, weight, first, second
    tilted = False
    for turn in range(2):
        if turn == 1:
            # no moment: some log-ratio is beyond the reach of the exponentials
            tilted = kind == RENYI and (of_row[PATH] == DISTANT or of_row[MOMENT] != of_row[MOMENT])
            if side == 1 or tilted:
                break
            # along p: the same with the rows exchanged
            row_p, row_q = row_q, row_p
            w, c1, c2 = 1.0 - weight, second, first
            step_kind = LINEAR if kind == RENYI else kind
        elif known != 0:
            continue
        found = divergence_row(row_p, row_q, vocab, LOGS, k, step_kind, w, c1, c2, True, work, of_row, scales)
        if turn == 0:
            value[0] = found
    if kind == RENYI:
        # a and c of the formula above
        w, c1, c2 = weight, weight, -1.0
        if side == 0:
            c1, c2 = 1.0 - weight, weight / (weight - 1.0)
        if tilted and of_row[PATH] < UNDEFINED and math.isfinite(value[0]):
            if side == 0:
                row_p, row_q = row_q, row_p
            tilted_gradient(row_p, row_q, vocab, k, c1, c2 * own_weight, address, storage)
            return
    far = of_row[PATH] == DISTANT or abs(of_row[MOMENT]) > APART * abs(c2)
    if kind == LINEAR and c2 != 0.0 and far and math.isfinite(of_row[MOMENT]) and of_row[PATH] < UNDEFINED:
        first_weight, second_weight = c1 * own_weight, c2 * own_weight
        far_gradient(row_p, row_q, vocab, k, RATIO, first_weight, second_weight, 0.0, 0, address, storage)
    else:
        gradient_row(row_p, row_q, vocab, k, kind, w, c1, c2, of_row, scales, value[0], factor, address, storage)


@kernel
def softmax_lanes(row, vocab, k, like, lse, greatest, mass_weight, entropy_weight, entropy, add, address, storage):
    """s·(mass_weight - entropy_weight·(ln s + entropy)) of one row; added to what is there if `add`."""
    room = stack(1024, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    beside = lse - k * greatest
    shift = np.rint(lse * LOG2E)
    scale = np.float64(np.float32(k * LOG2E)) if width(like) == 16 else k * LOG2E
    times = splat(scale, like)
    origin = number(zero, "round") - splat(shift, like)
    rest = splat(math.exp(-beside - LN2 * (scale * greatest - shift)), like)
    least = splat(least_argument(k, shift, like), like)
    top = splat(greatest, like)
    constant = splat(mass_weight - entropy_weight * (entropy - beside), like)
    minus = splat(-entropy_weight * k, like)
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(row, start, n, room, NO_LOG)
        for i in range(0, n, width(like)):
            a = load(x, i, like)
            gone = equal(a, number(zero, "-infinity"))
            a = maximum(a, least)
            s = scaled_exp2(a, times, origin) * rest
            store(block, i, select(gone, zero, s * fma(minus, a - top, constant)))
        write_block(block, n, start, add, address, storage)


@kernel
def moderate(weight):
    """Whether float32 lanes can hold what a weight makes of a row."""
    return weight == 0.0 or 1e-30 < abs(weight) < 1e30


@kernel
def softmax_gradient_row(
    row, vocab, k, lse, entropy, top1, mass_weight, entropy_weight, add, address, storage
):  # fmt: skip
    """k·s·(mass_weight - entropy_weight·(ln s + entropy)) of one row, added to what is there if `add`."""
    if mass_weight == 0.0 and entropy_weight == 0.0:
        if add == 0:
            fill(0.0, vocab, address, storage)
        return
    if top1 < 0:
        fill(np.nan, vocab, address, storage)
        return
    greatest = element(row, top1)
    small = abs(lse) < 60.0 and in_reach(k, np.float32(0.0))
    a, b = k * mass_weight, k * entropy_weight
    if not (small and moderate(a) and moderate(b) and moderate(k * b)):
        # what lies beside the greatest element is not to be had from the normaliser, or weights are far from 1
        far_gradient(row, row, vocab, k, PARTNER, 0.0, entropy_weight, mass_weight, add, address, storage)
    elif row[2] == FLOAT64:
        softmax_lanes(row, vocab, k, 0.0, lse, greatest, a, b, entropy, add, address, storage)
    else:
        softmax_lanes(row, vocab, k, np.float32(0.0), lse, greatest, a, b, entropy, add, address, storage)


@kernel
def write_at_ids(ids, values, first, last, vocab, assign, address, storage):
    """values[first:last] onto (assign: in place of) the elements ids[first:last] of a row; OK or TOKEN."""
    one = stack(16, 0.0)
    place = row_place(address, storage)
    for i in range(first, last):
        v = pointer(ids, types.int64)[i]
        if v >= vocab:
            return TOKEN
        if v >= 0:
            value = pointer(values, types.float64)[i]
            one[0] = value if assign != 0 else value + element(place, v)
            write(one, 1, address + v * item_bytes(storage), storage)
    return OK
