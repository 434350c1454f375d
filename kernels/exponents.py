"""The exponent field of a float: powers of two by integer instructions, for lanes that are positive and normal."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .lanes import _INTS, F32, F64, _constant, _floats

_MANTISSA_BITS = {F32: 23, F64: 52}


@intrinsic
def shift_exponent(typingctx, x, rounded):
    """x·2^n, where `rounded` = n + 1.5·2^23 (float32) or n + 1.5·2^52 (float64) carries n in its low bits.

    An integer addition to the exponent field: x must be normal and so must the result.
    """
    if not _floats(x, rounded):
        return None

    def codegen(context, builder, signature, args):
        ints = context.get_value_type(_INTS[x])
        n = builder.shl(builder.bitcast(args[1], ints), _constant(ints, _MANTISSA_BITS[x]))
        return builder.bitcast(builder.add(builder.bitcast(args[0], ints), n), args[0].type)

    return x(x, rounded), codegen


@intrinsic
def mantissa(typingctx, x, lowest):
    """The factor m of x = m·2^e with m in [lowest, 2·lowest), x positive and normal; `lowest` a splat."""
    if not _floats(x, lowest):
        return None

    def codegen(context, builder, signature, args):
        ints = context.get_value_type(_INTS[x])
        low = builder.bitcast(args[1], ints)
        fraction = _constant(ints, (1 << _MANTISSA_BITS[x]) - 1)
        offset = builder.and_(builder.sub(builder.bitcast(args[0], ints), low), fraction)
        return builder.bitcast(builder.add(offset, low), args[0].type)

    return x(x, lowest), codegen


@intrinsic
def exponent(typingctx, x, lowest):
    """The integer e, as a float, of x = m·2^e with m in [lowest, 2·lowest), x positive and normal."""
    if not _floats(x, lowest):
        return None

    def codegen(context, builder, signature, args):
        ints = context.get_value_type(_INTS[x])
        offset = builder.sub(builder.bitcast(args[0], ints), builder.bitcast(args[1], ints))
        return builder.sitofp(builder.ashr(offset, _constant(ints, _MANTISSA_BITS[x])), args[0].type)

    return x(x, lowest), codegen


@intrinsic
def binades_between(typingctx, x, y):
    """The integer k, as a float, for which y/2^k lies within a factor 1.5 of x; both positive and normal."""
    if not _floats(x, y):
        return None

    def codegen(context, builder, signature, args):
        ints = context.get_value_type(_INTS[x])
        apart = builder.sub(builder.bitcast(args[1], ints), builder.bitcast(args[0], ints))
        apart = builder.add(apart, _constant(ints, 1 << (_MANTISSA_BITS[x] - 1)))
        return builder.sitofp(builder.ashr(apart, _constant(ints, _MANTISSA_BITS[x])), args[0].type)

    return x(x, y), codegen


@intrinsic
def bits_to_float(typingctx, word):
    """The float32 whose bits are the uint32 `word`."""
    return types.float32(word), lambda context, builder, signature, args: builder.bitcast(args[0], ir.FloatType())
