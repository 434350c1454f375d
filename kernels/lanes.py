"""Explicit SIMD vectors for Numba: `Lanes`, 16 float32 or 8 float64 held in registers.

Why not leave it to the vectoriser: with explicit lanes the order of every addition is written down, so the bits
are the same on SSE, AVX2 and AVX-512, under JIT and ahead of time, and need no fastmath flag; loops compile in a
third of the time; LLVM uses 512-bit registers where they exist whatever its tuning prefers.

No operation here carries a fastmath flag and none is contracted: a product is fused only where `fma` is written.
"""

import operator

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from .coefficients import NUMBERS

# How every kernel is compiled: division follows IEEE (1/0 is inf, no exception), nothing is reordered, and it can be
# called by other compiled functions alone.
_OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
kernel = njit(**_OPTIONS)
# The same, always inlined: for the few-line functions of the inner loops.
inlined = njit(forceinline=True, **_OPTIONS)


class Lanes(types.Type):
    """A register of `count` elements of one scalar type."""

    def __init__(self, elem, count):
        self.elem, self.count = elem, count
        super().__init__(name=f"Lanes({elem}x{count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        elem = ir.IntType(1) if fe_type.elem == types.boolean else dmm.lookup(fe_type.elem).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(elem, fe_type.count))


F32 = Lanes(types.float32, 16)
F64 = Lanes(types.float64, 8)
_INTS = {F32: Lanes(types.int32, 16), F64: Lanes(types.int64, 8)}
_MASKS = {F32: Lanes(types.boolean, 16), F64: Lanes(types.boolean, 8)}
_LANES = {types.float32: F32, types.float64: F64}

_I32 = ir.IntType(32)


def _constant(vector_type, value):
    return ir.Constant(vector_type, [value] * vector_type.count)


def _intrinsic_call(builder, name, lanes, args):
    suffix = f"v{lanes.count}f{lanes.elem.bitwidth}"
    kind = args[0].type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args)


def _floats(*kinds):
    return kinds[0] in _INTS and all(kind == kinds[0] for kind in kinds)


# ---------------------------------------------------------------------------------------------- making lanes


@intrinsic
def width(typingctx, like):
    """Lanes in the register for scalars like `like`: 16 for float32, 8 for float64."""
    count = _LANES[like].count
    return types.intp(like), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), count)


@intrinsic
def splat(typingctx, x, like):
    """The scalar `x`, converted to the type of the scalar `like`, in every lane."""
    lanes = _LANES[like]

    def codegen(context, builder, signature, args):
        value = context.cast(builder, args[0], x, like)
        kind = context.get_value_type(lanes)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
        return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_I32, lanes.count), [0] * lanes.count))

    return lanes(x, like), codegen


@intrinsic
def rounded(typingctx, x, like):
    """The float64 `x` rounded to the type of the scalar `like`, as float64."""

    def codegen(context, builder, signature, args):
        return context.cast(builder, context.cast(builder, args[0], x, like), like, x)

    return x(x, like), codegen


# ------------------------------------------------------------------------------------------------ arithmetic


def _arithmetic(python_operator, ir_name):
    @intrinsic
    def operation(typingctx, x, y):
        if _floats(x, y):
            return x(x, y), lambda context, builder, signature, args: getattr(builder, ir_name)(*args)
        return None

    def implementation(x, y):
        if isinstance(x, Lanes) and isinstance(y, Lanes):
            return lambda x, y: operation(x, y)
        return None

    overload(python_operator, inline="always")(implementation)


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operator, _name)


@intrinsic(prefer_literal=True)
def number(typingctx, x, name):
    """The constant `NUMBERS[name]` in every lane of a register like `x`."""
    if not isinstance(name, types.StringLiteral):
        return None
    value = NUMBERS[name.literal_value][x.elem.name]
    return x(x, name), lambda context, builder, signature, args: _constant(context.get_value_type(x), float(value))


@intrinsic
def fma(typingctx, x, y, z):
    """x·y + z, rounded once."""
    if not _floats(x, y, z):
        return None
    return x(x, y, z), lambda context, builder, signature, args: _intrinsic_call(builder, "fma", x, args)


@intrinsic
def negative(typingctx, x):
    return x(x), lambda context, builder, signature, args: builder.fneg(args[0])


@intrinsic
def absolute(typingctx, x):
    return x(x), lambda context, builder, signature, args: _intrinsic_call(builder, "fabs", x, args)


# ------------------------------------------------------------------------------------- comparison and choice


@intrinsic
def maximum(typingctx, x, y):
    """x where x > y, else y: one instruction on x86. A NaN in x gives y, so NaN must be seen by a sum."""
    if not _floats(x, y):
        return None

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return x(x, y), codegen


@intrinsic
def minimum(typingctx, x, y):
    """x where x < y, else y."""
    if not _floats(x, y):
        return None

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return x(x, y), codegen


def _comparison(name, doc):
    def typing(typingctx, x, y):
        if not _floats(x, y):
            return None
        return _MASKS[x](x, y), lambda context, builder, signature, args: builder.fcmp_ordered(name, *args)

    typing.__doc__ = doc
    return intrinsic(typing)


smaller = _comparison("<", "Mask of x < y (false where either is NaN).")
equal = _comparison("==", "Mask of x == y (false where either is NaN).")


@intrinsic
def is_nan(typingctx, x):
    """Mask of the lanes that are NaN."""
    if not _floats(x):
        return None
    return _MASKS[x](x), lambda context, builder, signature, args: builder.fcmp_unordered("uno", args[0], args[0])


@intrinsic
def both(typingctx, x, y):
    return x(x, y), lambda context, builder, signature, args: builder.and_(*args)


@intrinsic
def either(typingctx, x, y):
    return x(x, y), lambda context, builder, signature, args: builder.or_(*args)


@intrinsic
def select(typingctx, mask, x, y):
    """x where `mask`, else y."""
    if not (_floats(x, y) and mask == _MASKS[x]):
        return None
    return x(mask, x, y), lambda context, builder, signature, args: builder.select(*args)


@intrinsic
def any_lane(typingctx, mask):
    """True if any lane of the mask is set."""

    def codegen(context, builder, signature, args):
        packed = builder.bitcast(args[0], ir.IntType(mask.count))
        return builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))

    return types.boolean(mask), codegen


# ------------------------------------------------------------------------------------------------ reductions


def _halves(builder, vector):
    half = vector.type.count // 2
    index = ir.VectorType(_I32, half)
    low = builder.shuffle_vector(vector, vector, ir.Constant(index, list(range(half))))
    high = builder.shuffle_vector(vector, vector, ir.Constant(index, list(range(half, 2 * half))))
    return low, high


@intrinsic
def sum_lanes(typingctx, x):
    """The sum of the lanes in float64, by a fixed tree."""

    def codegen(context, builder, signature, args):
        vector = args[0]
        if x.elem == types.float32:
            vector = builder.fpext(vector, ir.VectorType(ir.DoubleType(), x.count))
        while vector.type.count > 1:
            vector = builder.fadd(*_halves(builder, vector))
        return builder.extract_element(vector, ir.Constant(_I32, 0))

    return types.float64(x), codegen


@intrinsic
def widened(typingctx, x):
    """The lanes in float64, halves and quarters of a register added until one float64 register is left."""

    def codegen(context, builder, signature, args):
        vector = args[0]
        if x.elem == types.float32:
            vector = builder.fpext(vector, ir.VectorType(ir.DoubleType(), x.count))
        while vector.type.count > F64.count:
            vector = builder.fadd(*_halves(builder, vector))
        return vector

    return F64(x), codegen


@intrinsic
def greatest(typingctx, x):
    """The greatest lane of an accumulator made by `maximum` (so free of NaN)."""

    def codegen(context, builder, signature, args):
        vector = args[0]
        while vector.type.count > 1:
            low, high = _halves(builder, vector)
            vector = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return builder.extract_element(vector, ir.Constant(_I32, 0))

    return x.elem(x), codegen
