"""Arithmetic -> storage: a block of float32 or float64 lanes rounded to nearest even into any storage type."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .decode import by_words, element, item_bytes
from .lanes import F32, _constant, inlined, kernel
from .memory import STORED, has_half_conversion, load, stack
from .records import Row
from .separate import separate
from .storage import STORAGES

_I32 = ir.IntType(32)


def _float_to_half(builder, values, count):
    """float32 to float16 bits, to nearest even, for targets without a conversion instruction."""
    ints, floats = ir.VectorType(_I32, count), ir.VectorType(ir.FloatType(), count)
    bits = builder.bitcast(values, ints)
    size = builder.and_(bits, _constant(ints, 0x7FFFFFFF))
    sign = builder.and_(builder.lshr(bits, _constant(ints, 16)), _constant(ints, 0x8000))
    is_nan = builder.icmp_unsigned(">", size, _constant(ints, 0x7F800000))
    special = builder.select(is_nan, _constant(ints, 0x7E00), _constant(ints, 0x7C00))
    # subnormals: adding 1/2 leaves the 10 bits, rounded, at the low end of the float
    raised = builder.fadd(builder.bitcast(size, floats), _constant(floats, 0.5))
    tiny = builder.sub(builder.bitcast(raised, ints), _constant(ints, 0x3F000000))
    odd = builder.and_(builder.lshr(size, _constant(ints, 13)), _constant(ints, 1))
    rebiased = builder.add(builder.add(size, _constant(ints, (0xC8000000 + 0xFFF) & 0xFFFFFFFF)), odd)
    normal = builder.lshr(rebiased, _constant(ints, 13))
    is_special = builder.icmp_unsigned(">=", size, _constant(ints, 0x47800000))
    is_tiny = builder.icmp_unsigned("<", size, _constant(ints, 0x38800000))
    chosen = builder.select(is_special, special, builder.select(is_tiny, tiny, normal))
    return builder.trunc(builder.or_(chosen, sign), ir.VectorType(ir.IntType(16), count))


def _float_to_bfloat(builder, values, count):
    """float32 to bfloat16 bits, to nearest even; NaN stays NaN."""
    ints = ir.VectorType(_I32, count)
    bits = builder.bitcast(values, ints)
    odd = builder.and_(builder.lshr(bits, _constant(ints, 16)), _constant(ints, 1))
    nearest = builder.lshr(builder.add(builder.add(bits, _constant(ints, 0x7FFF)), odd), _constant(ints, 16))
    is_nan = builder.fcmp_unordered("uno", values, values)
    return builder.trunc(builder.select(is_nan, _constant(ints, 0x7FC0), nearest), ir.VectorType(ir.IntType(16), count))


@intrinsic
def store_words(typingctx, ptr, index, x):
    """Write float32 lanes as 16-bit words, through a pointer to those of float16 or bfloat16."""
    if x != F32:
        return None

    def codegen(context, builder, signature, args):
        if STORED[ptr.dtype].exponent == 8:
            words = _float_to_bfloat(builder, args[2], x.count)
        elif has_half_conversion():
            halves = builder.fptrunc(args[2], ir.VectorType(ir.HalfType(), x.count))
            words = builder.bitcast(halves, ir.VectorType(ir.IntType(16), x.count))
        else:
            words = _float_to_half(builder, args[2], x.count)
        place = builder.bitcast(builder.gep(args[0], [args[1]], inbounds=True), words.type.as_pointer())
        builder.store(words, place, align=2)
        return context.get_dummy_value()

    return types.void(ptr, index, x), codegen


@separate(types.none)
@kernel
def _write_words(destination, block, n):
    narrow = stack(1024, np.float32(0.0))
    for i in range(n):
        narrow[i] = block[i]
    whole = n - n % 16
    for i in range(0, whole, 16):
        store_words(destination, i, load(narrow, i, np.float32(0.0)))
    if whole < n:
        last = stack(16, destination[0])
        store_words(last, 0, load(narrow, whole, np.float32(0.0)))
        for i in range(whole, n):
            destination[i] = last[i - whole]


@inlined
def _write_floats(destination, block, n):
    for i in range(n):
        destination[i] = block[i]


@inlined
def _refuse(row, start, block, n):
    """Never reached: every entry has asked `takes_gradients`."""


_written = [kind for kind in STORAGES if kind.gradients]
_write = by_words([kind for kind in _written if kind.bytes == 2], _write_words, _refuse)
_write = by_words([kind for kind in _written if kind.bytes >= 4], _write_floats, _write)


@kernel
def write(block, n, address, storage):
    """Write n elements of `block`, which is readable up to a whole register beyond, as `storage` at `address`."""
    _write(row_place(address, storage), 0, block, n)


@kernel
def row_place(address, storage):
    """A contiguous row as `element` reads it."""
    return Row(address, item_bytes(storage), storage)


@kernel
def write_block(block, n, start, target):
    """Elements start ... start + n of a row."""
    address, storage, add = target
    place = row_place(address, storage)
    if add != 0:
        for i in range(n):
            block[i] += element(place, start + i)
    write(block, n, address + start * item_bytes(storage), storage)


@kernel
def fill(value, vocab, address, storage):
    """One value in a whole row."""
    block = stack(1024, np.float32(0.0))
    for i in range(1024):
        block[i] = value
    for start in range(0, vocab, 1024):
        write(block, min(1024, vocab - start), address + start * item_bytes(storage), storage)
