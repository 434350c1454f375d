"""Order statistics of a row, block by block: the rank of chosen tokens and the k greatest outcomes.

A block is looked at while it lies in the first-level cache for the sums (single.py, capped.py). Slope, soft-cap and
temperature keep the order, so everything here compares elements as they are stored.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from .decode import element
from .lanes import any_lane, kernel, number, select, smaller, splat, sum_lanes, width
from .memory import load, pointer


class Order(NamedTuple):
    """What is to be found of the order of a row, and where it is written."""

    tokens: int  # address of the row's token ids
    count: int  # of these
    ranks: int  # address of their ranks; 0: not wanted
    k: int  # how many of the greatest
    top_ids: int  # address of the k ids
    top_values: int  # and of the k values


@kernel
def at_least(x, n, value, like):
    """How many of n padded elements are not smaller than `value`. Padding counts where the value is -inf."""
    zero = splat(0.0, like)
    one = number(zero, "1")
    limit = splat(value, like)
    count = zero
    for i in range(0, n, width(like)):
        count = count + select(smaller(load(x, i, like), limit), zero, one)
    return np.int64(sum_lanes(count))


# ------------------------------------------------------------------------------------- a heap, its worst on top


@kernel
def worse(values, ids, i, j):
    """True if entry i goes before j: a smaller value, or the same one of a higher id."""
    return values[i] < values[j] or (values[i] == values[j] and ids[i] > ids[j])


@kernel
def exchange(values, ids, i, j):
    values[i], values[j] = values[j], values[i]
    ids[i], ids[j] = ids[j], ids[i]


@kernel
def push(values, ids, filled, value, v):
    """Entry `filled` of a heap of that many."""
    values[filled], ids[filled] = value, v
    i = filled
    while i > 0 and worse(values, ids, i, (i - 1) // 2):
        exchange(values, ids, i, (i - 1) // 2)
        i = (i - 1) // 2


@kernel
def settle(values, ids, filled):
    """Put the entry on top of the heap where it belongs."""
    i = 0
    while 2 * i + 1 < filled:
        child = 2 * i + 1
        if child + 1 < filled and worse(values, ids, child + 1, child):
            child += 1
        if not worse(values, ids, child, i):
            return
        exchange(values, ids, i, child)
        i = child


@kernel
def sort_heap(values, ids, filled):
    """The heap as a list, best first."""
    for last in range(filled - 1, 0, -1):
        exchange(values, ids, 0, last)
        settle(values, ids, last)


@kernel
def offer(values, ids, filled, k, value, v):
    """One more outcome for a heap of k at most, ids rising from call to call; the new number of entries."""
    if filled < k:
        push(values, ids, filled, value, v)
        return filled + 1
    if value > values[0]:
        values[0], ids[0] = value, v
        settle(values, ids, k)
    return filled


@kernel
def offer_block(values, ids, k, x, n, start, like, highest):
    """All of a block whose first element is outcome `start` and whose greatest is `highest`."""
    filled, i = min(k, start), 0
    while i < n and filled < k:
        filled = offer(values, ids, filled, k, np.float64(x[i]), start + i)
        i += 1
    if i == n or not highest > values[0]:
        return
    lanes = width(like)
    while i < n:
        if i % lanes == 0 and not any_lane(smaller(splat(values[0], like), load(x, i, like))):
            i += lanes
            continue
        stop = min(n, i - i % lanes + lanes)
        while i < stop:
            offer(values, ids, k, k, np.float64(x[i]), start + i)
            i += 1


# --------------------------------------------------------------------------------------------------- one block


@kernel
def order_block(order, row, x, n, start, like, highest):
    """Count and keep what a block of a row (decoded and padded in `x`) adds to its order. Start 0 begins a row."""
    tokens, count, ranks, k, top_ids, top_values = order
    if ranks != 0:
        for i in range(count):
            if start == 0:
                pointer(ranks, types.int64)[i] = 0
            v = pointer(tokens, types.int64)[i]
            if v >= 0:
                pointer(ranks, types.int64)[i] += at_least(x, n, element(row, v), like)
    if k > 0:
        offer_block(pointer(top_values, types.float64), pointer(top_ids, types.int64), k, x, n, start, like, highest)


def see_block(order, row, x, n, start, like, highest):
    """`order_block`, or nothing where `order` is None."""


@overload(see_block)
def _see_block(order, row, x, n, start, like, highest):
    if isinstance(order, types.NoneType):
        return lambda order, row, x, n, start, like, highest: None
    return lambda order, row, x, n, start, like, highest: order_block(order, row, x, n, start, like, highest)
