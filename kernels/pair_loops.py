"""The loops over a pair of rows that the kinds of divergence share: blocks of p, q and d in, sums or a gradient out.

What a kind does to a block are functions of its own file, which the loops are made of. (Numba would take them as
arguments too, and keep their addresses in the machine code.)

    write(weight, first, second, value, slope)
        its power series in d, 31 coefficients each, lowest first: what they are of is its own business
    block(near, probs, partners, diffs, n, like, limit, weight, first, second, value, slope, with_moment, part)
        (value, moment, what must not exceed `reach`) of a block into `part`. Where `near`, every |d| ≤ `limit`, and
        `partners` are not filled
    gradient_block(near, probs, partners, diffs, n, like, weight, first, second, moment, factor, slope, out)
        factor times its gradient along the logits of q into `out`
"""

import math

import numpy as np

from .decode import item_bytes
from .encode import fill, write as write_row
from .lanes import fma, kernel, load, pointer_like, rounded, splat, stack, storage_of, sum_lanes, width
from .pairs import PAIRS, SINGLE, UNDEFINED, coefficient_count, read_pairs, scale_pair, series
from .records import DivergenceSums, record
from .status import LOGS


@kernel
def expm1_series(weight, first, second, value, slope):
    """expm1(d)/d into `slope`."""
    factorial = 1.0
    for n in range(1, 31):
        factorial *= n
        slope[n - 1] = 1.0 / factorial


@kernel
def near_value(probs, diffs, n, like, value):
    """Σ p·f(d) of a block in which every |d| ≤ 0.9."""
    total = splat(0.0, like)
    for i in range(0, n, width(like)):
        d = load(diffs, i, like)
        total = fma(load(probs, i, like) * d * d, series(d, value), total)
    return sum_lanes(total)


def series_writer(write):
    """The kernel that writes the power series of `write`."""

    @kernel
    def write_series(like, weight, first, second, value, slope):
        """The power series of a kind into `value` and `slope`, in the type of `like`."""
        wide_value = stack(32, 0.0)
        wide_slope = stack(32, 0.0)
        for i in range(32):
            wide_value[i], wide_slope[i] = 0.0, 0.0
        write(weight, first, second, wide_value, wide_slope)
        for i in range(coefficient_count(like)):
            value[i] = wide_value[i]
            slope[i] = wide_slope[i]

    return write_series


def sum_loop(block):
    """The kernel that adds up what `block` makes of a whole row."""

    @kernel
    def pair_sums(
        p, q, vocab, space, k, like, limit, reach, weight, first, second, state, scales, value, slope, with_moment,
        sums,
    ):  # fmt: skip
        """(value, moment) of a whole row into `sums`; False where a block leaves `reach`."""
        room_p = stack(1024, like)
        room_q = stack(1024, like)
        probs = stack(1024, like)
        partners = stack(1024, like)
        diffs = stack(1024, like)
        part = record(DivergenceSums)
        part.value, part.moment, part.far = 0.0, 0.0, 0.0
        path = state.path
        near = True
        total, total_moment = 0.0, 0.0
        for start in range(0, vocab, PAIRS):
            n = min(PAIRS, vocab - start)
            near = read_pairs(
                p, q, start, n, space, k, like, path, limit, near, scales, room_p, room_q, probs, partners, diffs
            )
            block(near, probs, partners, diffs, n, like, limit, weight, first, second, value, slope, with_moment, part)
            if not part.far <= reach:
                return False
            total += part.value
            total_moment += part.moment
        sums.value, sums.moment = total, total_moment
        return True

    return pair_sums


def value_loops(block, write):
    """(`row_value`, `summed`) of a kind: its sum over a row in the lanes that serve it, and in those it is told."""
    write_series, pair_sums = series_writer(write), sum_loop(block)

    @kernel
    def summed(p, q, vocab, space, k, like, limit, weight, first, second, state, scales, with_moment):
        """`row_value` in lanes like `like`."""
        value = stack(32, like)
        slope = stack(32, like)
        sums = record(DivergenceSums)
        write_series(like, weight, first, second, value, slope)
        pair_sums(
            p, q, vocab, space, k, like, limit, np.inf, weight, first, second, state, scales, value, slope,
            with_moment, sums,
        )  # fmt: skip
        state.moment = sums.moment
        return max(sums.value, 0.0)

    @kernel
    def row_value(p, q, vocab, space, k, limit, weight, first, second, state, scales, with_moment):
        """Σ over a pair of rows whose `state` is known, in the lanes that served it; fills moment."""
        scale_pair(p, q, vocab, space, k, state, scales)
        if state.path == SINGLE:
            return summed(
                p, q, vocab, space, k, np.float32(0.0), limit, weight, first, second, state, scales,
                with_moment,
            )  # fmt: skip
        return summed(
            p, q, vocab, space, k, 0.0, limit, weight, first, second, state, scales, with_moment
        )  # fmt: skip

    return row_value, summed


def gradient_loop(block, write):
    """`row_gradient` of a kind."""
    write_series = series_writer(write)

    @kernel
    def gradient_lanes(
        p, q, vocab, k, like, limit, weight, first, second, moment, by_gap, factor, state, scales, address,
        storage,
    ):  # fmt: skip
        """The gradient of one row, in lanes like `like`, written as `storage` at `address`."""
        room_p = stack(1024, like)
        room_q = stack(1024, like)
        probs = stack(1024, like)
        partners = stack(1024, like)
        diffs = stack(1024, like)
        room = stack(1024, like)
        value = stack(32, like)
        slope = stack(32, like)
        write_series(like, weight, first, second, value, slope)
        path = state.path
        straight = storage == storage_of(room)
        # float32 lanes round GAP, which all d have in them: in a row of next to one outcome that is more than its own
        # d. A gradient moves by that times its slope where d is little, and by next to nothing of itself elsewhere.
        if path == SINGLE:
            moment += by_gap * (scales.minus_gap - rounded(scales.minus_gap, like))
        for start in range(0, vocab, PAIRS):
            n = min(PAIRS, vocab - start)
            near = read_pairs(
                p, q, start, n, LOGS, k, like, path, limit, True, scales, room_p, room_q, probs, partners, diffs
            )
            place = address + start * item_bytes(storage)
            direct = straight and n % width(like) == 0
            out = pointer_like(place, room) if direct else room
            block(near, probs, partners, diffs, n, like, weight, first, second, moment, factor, slope, out)
            if not direct:
                write_row(room, n, place, storage)

    @kernel
    def row_gradient(
        p, q, vocab, k, limit, weight, first, second, moment, by_gap, factor, state, scales, address, storage
    ):
        """The gradient of a pair of rows whose `state` is known, times `factor`; NaN where `moment` says that there is
        none. Where every |d| ≤ limit, q is not asked for. `by_gap`: how `moment` changes with what is taken off every
        d, unless it is a sum over the same d, which moves along."""
        if state.path >= UNDEFINED or not math.isfinite(moment):
            fill(np.nan, vocab, address, storage)
            return
        scale_pair(p, q, vocab, LOGS, k, state, scales)
        if state.path == SINGLE:
            gradient_lanes(
                p, q, vocab, k, np.float32(0.0), limit, weight, first, second, moment, by_gap, factor, state,
                scales, address, storage,
            )  # fmt: skip
        else:
            gradient_lanes(
                p, q, vocab, k, 0.0, limit, weight, first, second, moment, by_gap, factor, state, scales,
                address, storage,
            )  # fmt: skip

    return row_gradient
