"""The loops over a pair of rows that the kinds of divergence share: blocks of p, q and d in, sums or a gradient out.

What a kind does to a block are functions of its own file, which the loops are made of. (Numba would take them as
arguments too, and keep their addresses in the machine code.)

    write(weight, first, second, value, slope)
        its power series in d, 31 coefficients each, lowest first: what they are of is its own business
    block(near, outcomes, limit, terms, with_moment, part)
        (value, moment, what must not exceed `reach`) of a block into `part`. Where `near`, every |d| ≤ `limit`, and
        the partners are not filled
    gradient_block(near, outcomes, terms, moment, factor, out)
        factor times its gradient along the logits of q into `out`
"""

import math

import numpy as np
from numba import types

from .cumulants import SPAN
from .decode import item_bytes
from .encode import fill, write as write_row
from .ladder import SINGLE, UNDEFINED
from .lanes import fma, kernel, rounded, splat, sum_lanes, width
from .memory import load, pointer_like, stack, storage_of
from .pairs import PAIRS, read_pairs, scale_pair
from .polynomials import coefficient_count, series
from .records import DivergenceSums, Outcomes, Rooms, Terms, clear_record, record
from .separate import separate


@kernel
def expm1_series(weight, first, second, value, slope):
    """expm1(d)/d into `slope`."""
    factorial = 1.0
    for n in range(1, 31):
        factorial *= n
        slope[n - 1] = 1.0 / factorial


@kernel
def near_value(outcomes, value):
    """Σ p·f(d) of a block in which every |d| ≤ 0.9."""
    probs, _, diffs, n, like = outcomes
    zero = splat(0.0, like)
    total = zero
    for j in range(0, n, SPAN):
        part = zero
        for i in range(j, min(j + SPAN, n), width(like)):
            d = load(diffs, i, like)
            part = fma(load(probs, i, like) * d * d, series(d, value), part)
        total = total + part
    return sum_lanes(total)


def of(block):
    """What tells kernels apart that are made of different blocks."""
    return f"{block.py_func.__module__.rpartition('.')[2]}.{block.__name__}"


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
    def pair_sums(pair, like, limit, reach, terms, facts, with_moment, sums):
        """(value, moment) of a whole row into `sums`; False where a block leaves `reach`."""
        rooms = Rooms(stack(1024, like), stack(1024, like), like)
        probs = stack(1024, like)
        partners = stack(1024, like)
        diffs = stack(1024, like)
        part = record(DivergenceSums)
        clear_record(part)
        path = facts.state.path
        near = True
        total, total_moment, total_net = 0.0, 0.0, 0.0
        for start in range(0, pair.vocab, PAIRS):
            outcomes = Outcomes(probs, partners, diffs, min(PAIRS, pair.vocab - start), like)
            near = read_pairs(pair, start, path, limit, near, facts.scales, rooms, outcomes)
            block(near, outcomes, limit, terms, with_moment, part)
            if not part.far <= reach:
                return False
            total += part.value
            total_moment += part.moment
            total_net += part.net
        sums.value, sums.moment, sums.net = total, total_moment, total_net
        return True

    return pair_sums


@kernel
def as_it_is(sums, divergence):
    return sums.value


def value_loops(block, write, result=as_it_is):
    """(`row_value`, `summed`) of a kind: its sum over a row in the lanes that serve it, and in those it is told.

    `result(sums, divergence)` makes its value of the sums.
    """
    write_series, pair_sums = series_writer(write), sum_loop(block)

    @separate(types.float64, of(block))
    @kernel
    def summed(pair, like, limit, divergence, facts, with_moment):
        """`row_value` in lanes like `like`."""
        _, weight, first, second = divergence
        terms = Terms(weight, first, second, stack(32, like), stack(32, like))
        sums = record(DivergenceSums)
        write_series(like, weight, first, second, terms.value, terms.slope)
        pair_sums(pair, like, limit, np.inf, terms, facts, with_moment, sums)
        facts.state.moment = sums.moment
        return max(result(sums, divergence), 0.0)

    @kernel
    def row_value(pair, limit, divergence, facts, with_moment):
        """Σ over a pair of rows whose `state` is known, in the lanes that served it; fills moment."""
        scale_pair(pair, facts)
        if facts.state.path == SINGLE:
            return summed(pair, np.float32(0.0), limit, divergence, facts, with_moment)
        return summed(pair, 0.0, limit, divergence, facts, with_moment)

    return row_value, summed


def gradient_loop(block, write):
    """`row_gradient` of a kind."""
    write_series = series_writer(write)

    @separate(types.none, of(block))
    @kernel
    def gradient_lanes(pair, like, limit, divergence, moment, factor, facts, target):
        """The gradient of one row, in lanes like `like`, to `target`."""
        _, weight, first, second = divergence
        rooms = Rooms(stack(1024, like), stack(1024, like), like)
        probs = stack(1024, like)
        partners = stack(1024, like)
        diffs = stack(1024, like)
        room = stack(1024, like)
        terms = Terms(weight, first, second, stack(32, like), stack(32, like))
        write_series(like, weight, first, second, terms.value, terms.slope)
        path = facts.state.path
        straight = target.storage == storage_of(room)
        for start in range(0, pair.vocab, PAIRS):
            n = min(PAIRS, pair.vocab - start)
            outcomes = Outcomes(probs, partners, diffs, n, like)
            near = read_pairs(pair, start, path, limit, True, facts.scales, rooms, outcomes)
            place = target.address + start * item_bytes(target.storage)
            direct = straight and n % width(like) == 0
            out = pointer_like(place, room) if direct else room
            block(near, outcomes, terms, moment, factor, out)
            if not direct:
                write_row(room, n, place, target.storage)

    @kernel
    def row_gradient(pair, limit, divergence, moment, by_gap, factor, facts, target):
        """The gradient of a pair of rows whose `state` is known, times `factor`; NaN where `moment` says that there is
        none. Where every |d| ≤ limit, q is not asked for. `by_gap`: how `moment` changes with what is taken off every
        d, unless it is a sum over the same d, which moves along."""
        if facts.state.path >= UNDEFINED or not math.isfinite(moment):
            fill(np.nan, pair.vocab, target.address, target.storage)
            return
        scale_pair(pair, facts)
        if facts.state.path == SINGLE:
            # float32 lanes round GAP, which all d have in them: in a row of next to one outcome that is more than its
            # own d. A gradient moves by that times its slope where d is little, and by next to nothing of itself
            # elsewhere.
            moment += by_gap * (facts.scales.minus_gap - rounded(facts.scales.minus_gap, np.float32(0.0)))
            gradient_lanes(pair, np.float32(0.0), limit, divergence, moment, factor, facts, target)
        else:
            gradient_lanes(pair, 0.0, limit, divergence, moment, factor, facts, target)

    return row_gradient
