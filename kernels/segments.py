"""Sums over ragged segments in float64, the same whether the segments are padded, packed or chunked.

Each of 8 lanes keeps hi + lo; Knuth's TwoSum moves into lo, exactly, what hi loses. The result is the exact
sum rounded once, up to 2^-100 of Σ|x|: which lane a value fell into is forgotten but in the rarest ties.
"""

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .decode import BLOCK, by_words, element, is_storage
from .lanes import _MASKS, F64, both, equal, inlined, kernel, select, splat
from .memory import load, pointer, stack, store, stream
from .storage import AFFINE16, FLOATS

LANES = 8  # of float64


@intrinsic
def nonzero_bytes(typingctx, ptr, index):
    """Mask, for float64 lanes, of the bytes of `ptr[index:]` that are not 0."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(8), LANES)
        place = builder.bitcast(builder.gep(args[0], [args[1]], inbounds=True), kind.as_pointer())
        return builder.icmp_unsigned("!=", builder.load(place, align=1), ir.Constant(kind, [0] * LANES))

    return _MASKS[F64](ptr, index), codegen


@intrinsic
def last_lanes(typingctx, count):
    """Mask of the `count` last of 8 lanes."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(ir.IntType(64), LANES)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), args[0], ir.IntType(32)(0))
        every = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        counts = builder.shuffle_vector(first, first, every)
        return builder.icmp_signed(">", counts, ir.Constant(kind, list(range(LANES - 1, -1, -1))))

    return _MASKS[F64](types.int64), codegen


@intrinsic
def count_lanes(typingctx, mask):
    """How many lanes of the mask are set."""

    def codegen(context, builder, signature, args):
        packed = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.zext(builder.ctpop(packed), ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic(prefer_literal=True)
def rotated(typingctx, x, by):
    """The lanes of x, each moved `by` (a literal) places down, around the end."""
    if not isinstance(by, types.IntegerLiteral):
        return None

    def codegen(context, builder, signature, args):
        places = [(i + by.literal_value) % x.count for i in range(x.count)]
        index = ir.Constant(ir.VectorType(ir.IntType(32), x.count), places)
        return builder.shuffle_vector(args[0], args[0], index)

    return x(x, by), codegen


@inlined
def two_sum(a, b):
    """(a + b rounded, what the rounding lost), exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@inlined
def added(x, keep, hi, lo):
    """(hi, lo) with the lanes of x to keep, and how many those are."""
    hi, lost = two_sum(hi, select(keep, x, splat(0.0, 0.0)))
    return hi, lo + lost, count_lanes(keep)


@kernel
def add_values(values, n, state):
    """Add n >= 8 values to `state` (8 lanes of hi, then 8 of lo); how many were not NaN.

    The last register overlaps the one before, whose values it leaves out: no tail loop, no read past the end.
    """
    hi, lo = load(state, 0, 0.0), load(state, LANES, 0.0)
    kept = 0
    for i in range(0, n - LANES + 1, LANES):
        x = stream(values, i, 0.0)
        hi, lo, count = added(x, equal(x, x), hi, lo)
        kept += count
    x = load(values, n - LANES, 0.0)
    hi, lo, count = added(x, both(equal(x, x), last_lanes(n % LANES)), hi, lo)
    store(state, 0, hi)
    store(state, LANES, lo)
    return kept + count


@kernel
def add_masked_values(values, mask, n, state):
    """`add_values`, of the values whose byte in `mask` is not 0: (how many were not NaN, how many in all)."""
    hi, lo = load(state, 0, 0.0), load(state, LANES, 0.0)
    kept, unmasked = 0, 0
    for i in range(0, n - LANES + 1, LANES):
        x = stream(values, i, 0.0)
        wanted = nonzero_bytes(mask, i)
        hi, lo, count = added(x, both(equal(x, x), wanted), hi, lo)
        kept += count
        unmasked += count_lanes(wanted)
    x = load(values, n - LANES, 0.0)
    wanted = both(nonzero_bytes(mask, n - LANES), last_lanes(n % LANES))
    hi, lo, count = added(x, both(equal(x, x), wanted), hi, lo)
    store(state, 0, hi)
    store(state, LANES, lo)
    return kept + count, unmasked + count_lanes(wanted)


@kernel
def add(values, mask, n, state):
    """Add n >= 8 values; `mask` is the address of n bytes, or 0. (Not NaN, unmasked.)"""
    if mask == 0:
        return add_values(values, n, state), n
    return add_masked_values(values, pointer(mask, types.uint8), n, state)


@kernel
def add_gathered(row, start, n, mask, room, flags, state):
    """Add n <= BLOCK elements from `start` on, of any storage and stride, by way of padded scratch."""
    for i in range(n):
        room[i] = element(row, start + i)
        flags[i] = pointer(mask, types.uint8)[i] if mask != 0 else np.uint8(1)
    padded = max(n, LANES)
    for i in range(n, padded):
        flags[i] = np.uint8(0)
    return add_masked_values(room, flags, padded, state)


@kernel
def add_row(row, start, mask, n, state, room, flags):
    """Add n elements from `start` on, of any storage and stride. (Not NaN, unmasked.)"""
    kept, unmasked = 0, 0
    for first in range(start, start + n, BLOCK):
        own = mask + first - start if mask != 0 else 0
        counts = add_gathered(row, first, min(BLOCK, start + n - first), own, room, flags, state)
        kept += counts[0]
        unmasked += counts[1]
    return kept, unmasked


@inlined
def add_words(words, mask, n, state, room, flags):
    return add(words, mask, n, state)


# float8 goes by way of scratch: nobody has that many log-ratios of 8 bits
_add_in_place = by_words([kind for kind in FLOATS if kind.bytes > 1], add_words, add_row)


@kernel
def summable(x):
    """True for an array of a storage that segments can have: codes have a scale for each row."""
    return is_storage(x.storage) and x.storage != AFFINE16


@kernel
def sum_segment(row, n, mask, state, room, flags):
    """Fill `state` from n elements of a row; `mask`: the address of their bytes or 0. (Not NaN, unmasked.)"""
    zero = splat(0.0, 0.0)
    store(state, 0, zero)
    store(state, LANES, zero)
    if n >= LANES:
        return _add_in_place(row, 0, mask, n, state, room, flags)
    return add_row(row, 0, mask, n, state, room, flags)


@kernel
def collapsed(state):
    """The 8 lanes as one float64; not finite where hi overflowed or met an infinity."""
    hi, lo = load(state, 0, 0.0), load(state, LANES, 0.0)
    hi, lost = two_sum(hi, rotated(hi, 4))
    lo = lo + rotated(lo, 4) + lost
    hi, lost = two_sum(hi, rotated(hi, 2))
    lo = lo + rotated(lo, 2) + lost
    hi, lost = two_sum(hi, rotated(hi, 1))
    lo = lo + rotated(lo, 1) + lost
    store(state, 0, hi)
    store(state, LANES, lo)
    return state[0] + state[LANES] if math.isfinite(state[LANES]) else state[0]


@kernel
def far_sum(row, n, mask):
    """The sum of values that leave float64 on the way, added up in units of 2^64; that of the infinities alone where
    there are any."""
    hi, lo, rises, falls = 0.0, 0.0, False, False
    for i in range(n):
        if mask != 0 and pointer(mask, types.uint8)[i] == 0:
            continue
        x = element(row, i)
        if math.isfinite(x):
            hi, lost = two_sum(hi, x * 2.0**-64)
            lo += lost
        rises = rises or x == np.inf
        falls = falls or x == -np.inf
    if rises or falls:
        return np.nan if rises and falls else np.inf if rises else -np.inf
    return (hi + lo) * 2.0**64


@kernel
def write_segment(x, n, mask, sums, kept, unmasked, t):
    """The sum and the counts of the first n elements of row `x`, with the bytes at `mask` (0: all), into place t."""
    state = stack(16, 0.0)
    room = stack(2048, 0.0)
    flags = stack(2048, np.uint8(0))
    counts = sum_segment(x, n, mask, state, room, flags)
    total = collapsed(state)
    pointer(sums, types.float64)[t] = total if math.isfinite(total) else far_sum(x, n, mask)
    pointer(kept, types.int64)[t] = counts[0]
    pointer(unmasked, types.int64)[t] = counts[1]
