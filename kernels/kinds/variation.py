"""½ Σ|p - q|, total variation.

Its gradient along the logits of q is k·q·(½ sign(q - p) - R), R = ½ Σ q·sign(q - p).
"""

import numpy as np

from ..lanes import absolute, fma, inlined, kernel, load, number, select, smaller, splat, store, sum_lanes, width
from ..pair_loops import expm1_series, gradient_loop, value_loops
from ..pairs import MOMENT, NEAR, PATH, UNDEFINED, is_identical, normalise_pair, series


@kernel
def valid(space, weight, first, second):
    return True


@inlined
def sign(d):
    """-1, 0 or 1 in every lane."""
    zero = number(d, "0")
    one = number(d, "1")
    return select(smaller(zero, d), one, select(smaller(d, zero), zero - one, zero))


@kernel
def near_sums(probs, diffs, n, like, expm1, sums):
    """(½ Σ|p - q|, ½ Σ q·sign(q - p)) of a block in which every |d| ≤ 0.9."""
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        d = load(diffs, i, like)
        e = p * (d * series(d, expm1))
        total = total + absolute(e)
        total_moment = total_moment + (p + e) * sign(d)
    sums[0] = 0.5 * sum_lanes(total)
    sums[1] = 0.5 * sum_lanes(total_moment)


@kernel
def variation_sums(probs, partners, diffs, n, like, moment, sums):
    """(½ Σ|p - q|, ½ Σ q·sign(q - p)) of any block."""
    zero = splat(0.0, like)
    total, total_moment = zero, zero
    limit = splat(NEAR, like)
    for i in range(0, n, width(like)):
        p = load(probs, i, like)
        q = load(partners, i, like)
        d = load(diffs, i, like)
        near = smaller(absolute(d), limit)
        total = total + absolute(select(near, p * (d * series(d, moment)), q - p))
        total_moment = total_moment + q * sign(d)
    sums[0] = 0.5 * sum_lanes(total)
    sums[1] = 0.5 * sum_lanes(total_moment)


@kernel
def block(near, probs, partners, diffs, n, like, limit, weight, first, second, value, slope, with_moment, part):
    if near:
        near_sums(probs, diffs, n, like, slope, part)
    else:
        variation_sums(probs, partners, diffs, n, like, slope, part)


row_value, _ = value_loops(block, expm1_series)


@kernel
def value(p, q, vocab, space, k, weight, first, second, with_moment, work, state, scales):
    normalise_pair(p, q, vocab, space, k, True, not with_moment, work, state, scales)
    state[MOMENT] = np.nan
    if state[PATH] >= UNDEFINED:
        return np.nan
    if is_identical(space, state):
        state[MOMENT] = 0.0
        return 0.0
    return row_value(p, q, vocab, space, k, NEAR, weight, first, second, state, scales, with_moment)


@kernel
def variation_gradient(partners, diffs, n, like, moment, factor, out):
    half = splat(0.5 * factor, like)
    r = splat(-moment * factor, like)
    for i in range(0, n, width(like)):
        store(out, i, load(partners, i, like) * fma(half, sign(load(diffs, i, like)), r))


@kernel
def gradient_block(near, probs, partners, diffs, n, like, weight, first, second, moment, factor, slope, out):
    variation_gradient(partners, diffs, n, like, moment, factor, out)


row_gradient = gradient_loop(gradient_block, expm1_series)


@kernel
def gradient(
    p, q, vocab, k, own_weight, weight, first, second, side, value, own_moment, state, scales, address, storage
):
    row_gradient(
        p, q, vocab, k, -1.0, weight, first, second, state[MOMENT], 0.0,
        k * own_weight, state, scales, address, storage,
    )  # fmt: skip
