"""Everything about one position's logits and chosen tokens: log-probabilities, entropy, normaliser, ranks, top k.

A position may come with the list of outcomes its sampler kept (top-p, top-k): the distribution is then that of the
kept outcomes alone, found in float64 from those elements, and nothing else of the row is read.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from .capped import capped, rise
from .decode import element
from .far import undefined
from .ladder import serve_capped_row, serve_row
from .lanes import kernel
from .memory import pointer
from .order import Order, offer, sort_heap
from .separate import separate
from .status import OK, TOKEN, write_number


class Cap(NamedTuple):
    """What is done to the elements of a row first: limit·tanh(slope·x/limit), or slope·x where the limit is 0."""

    slope: float
    limit: float


class Kept(NamedTuple):
    """The outcomes ids[first:last] that a sampler kept of a row, which rise; all where the address of `ids` is 0."""

    ids: int
    first: int
    last: int


@kernel
def all_outcomes(row, vocab, cap, order, result):
    """lse, entropy and the order of a whole row."""
    slope, limit = cap
    if limit > 0.0:
        serve_capped_row(row, vocab, slope, limit, order, result)
    else:
        serve_row(row, vocab, slope, True, order, result)


@kernel
def listed(ids, first, last, v):
    """True if v is among ids[first:last], which rise."""
    while first < last:
        middle = (first + last) // 2
        if ids[middle] == v:
            return True
        if ids[middle] < v:
            first = middle + 1
        else:
            last = middle
    return False


@separate(types.none)
@kernel
def kept_outcomes(row, vocab, cap, kept, order, result):
    """lse, entropy and the order of the outcomes that were kept alone."""
    slope, limit = cap
    ids, first, last = pointer(kept.ids, types.int64), kept.first, kept.last
    undefined(result)
    top, missing = -np.inf, False
    for i in range(first, last):
        x = element(row, ids[i])
        missing = missing or x != x
        top = max(top, x)
    if missing or (top == np.inf and limit == 0.0):
        return
    if last == first or (top == -np.inf and limit == 0.0):
        result.lse = -np.inf
        return
    s, u, equals = 0.0, 0.0, 0
    for i in range(first, last):
        gap = rise(element(row, ids[i]), top, slope, limit)
        if gap == 0.0:
            equals += 1
            continue
        w = math.exp(gap)
        s += w
        u += w * gap if w != 0.0 else 0.0
    rest = s + (equals - 1.0)
    beside = math.log1p(rest)
    result.lse = capped(top, slope, limit) + beside
    result.entropy = beside - u / (1.0 + rest)
    result.beside = beside
    result.greatest = top
    tokens, count, ranks, k, top_ids, top_values = order
    for i in range(count if ranks != 0 else 0):
        v = pointer(tokens, types.int64)[i]
        rank = vocab
        if v >= 0 and listed(ids, first, last, v):
            value = element(row, v)
            if value > -np.inf or limit > 0.0:
                rank = 0
                for j in range(first, last):
                    if element(row, ids[j]) >= value:
                        rank += 1
        pointer(ranks, types.int64)[i] = rank
    filled = 0
    for j in range(first, last if k > 0 else first):
        values, entries = pointer(top_values, types.float64), pointer(top_ids, types.int64)
        filled = offer(values, entries, filled, k, element(row, ids[j]), ids[j])


@kernel
def write_top(order, filled, cap, result):
    """The heap of the greatest elements as a list, their log-probabilities in place of the elements."""
    _tokens, _count, _ranks, k, top_ids, top_values = order
    if k > 0:
        values, ids = pointer(top_values, types.float64), pointer(top_ids, types.int64)
        defined = result.beside == result.beside
        filled = min(k, filled) if defined else 0
        sort_heap(values, ids, filled)
        for i in range(filled):
            values[i] = rise(values[i], result.greatest, cap.slope, cap.limit) - result.beside
        for i in range(filled, k):
            values[i], ids[i] = -np.inf if defined else np.nan, -1


@kernel
def rising(kept, vocab):
    """True if what was kept are outcomes that rise without repeats."""
    ids, first, last = pointer(kept.ids, types.int64), kept.first, kept.last
    before = -1
    for i in range(first, last):
        if not before < ids[i] < vocab:
            return False
        before = ids[i]
    return first <= last


@kernel
def kept_of(offsets, ids, t):
    """What was kept of row t, where `offsets` are not null."""
    if offsets == 0:
        return Kept(0, 0, 0)
    return Kept(ids, pointer(offsets, types.int64)[t], pointer(offsets, types.int64)[t + 1])


@kernel
def order_of(tokens, count, top_k, out, t):
    """What is to be found of the order of row t."""
    ranks = out.ranks + 8 * t * count if out.ranks != 0 else 0
    first, first_top = 8 * t * count, 8 * t * top_k
    return Order(tokens + first, count, ranks, top_k, out.top_ids + first_top, out.top_log_probs + first_top)


@kernel
def write_tokens(row, vocab, cap, order, kept, out, result, t):
    """The log-probabilities of the tokens of row t; NaN where there is none. Ranks there are -1."""
    ids = pointer(order.tokens, types.int64)
    for i in range(order.count):
        defined = ids[i] >= 0 and result.beside == result.beside
        if out.log_probs != 0:
            value = np.nan
            if defined:
                value = -np.inf
                if kept.ids == 0 or listed(pointer(kept.ids, types.int64), kept.first, kept.last, ids[i]):
                    value = rise(element(row, ids[i]), result.greatest, cap.slope, cap.limit) - result.beside
            pointer(out.log_probs, types.float64)[t * order.count + i] = value
        if order.ranks != 0:
            ranks = pointer(order.ranks, types.int64)
            ranks[i] = min(ranks[i], vocab) if defined else -1


@kernel
def describe_tokens_row(row, vocab, cap, order, kept, out, result, t):
    """Everything about row t after slope and soft-cap, its outcomes being those kept of it; OK or TOKEN."""
    ids, size = pointer(order.tokens, types.int64), vocab
    for i in range(order.count):
        if ids[i] >= vocab:
            return TOKEN
    if kept.ids != 0:
        size = kept.last - kept.first
        if not rising(kept, vocab):
            return TOKEN
        kept_outcomes(row, vocab, cap, kept, order, result)
    else:
        all_outcomes(row, vocab, cap, order, result)
    write_number(out.lse, t, result.lse)
    write_number(out.entropy, t, result.entropy)
    write_tokens(row, vocab, cap, order, kept, out, result, t)
    write_top(order, size, cap, result)
    return OK
