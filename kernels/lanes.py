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

from .coefficients import NUMBERS, TABLES
from .storage import FLOATS

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
_MANTISSA_BITS = {F32: 23, F64: 52}
_ONE_BITS = {F32: 0x3F800000, F64: 0x3FF0000000000000}
_EXPONENT_BIAS = {F32: 127, F64: 1023}

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


@intrinsic(prefer_literal=True)
def horner(typingctx, x, table):
    """The polynomial whose coefficients `TABLES[table]` lists, at `x`: c0 + x·(pairs c1 + c2·x, joined in x²).

    The pairs are independent of one another: little more than half the latency of Horner's rule, for one operation
    more; and the last step rounds as little as there.
    """
    if not isinstance(table, types.StringLiteral):
        return None
    coefficients = TABLES[table.literal_value][x.elem.name]

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(x)
        constants = [_constant(kind, float(coefficient)) for coefficient in coefficients]

        def fused(a, b, c):
            return _intrinsic_call(builder, "fma", x, [a, b, c])

        square = builder.fmul(args[0], args[0])
        parts = [
            fused(args[0], constants[i + 1], constants[i]) if i + 1 < len(constants) else constants[i]
            for i in range(1, len(constants), 2)
        ]
        total = parts[-1]
        for part in parts[-2::-1]:
            total = fused(total, square, part)
        return fused(args[0], total, constants[0])

    return x(x, table), codegen


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


# ------------------------------------------------------------------------------------------- bits of a float


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


# ---------------------------------------------------------------------------------------------------- memory


@intrinsic
def pointer(typingctx, address, kind):
    """The integer `address` as a pointer to `kind`, a Numba number class such as types.float32."""
    result = types.CPointer(kind.instance_type)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(address, kind), codegen


@intrinsic
def pointer_like(typingctx, address, like):
    """The integer `address` as a pointer of the same type as the pointer `like`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(address, like), codegen


@intrinsic
def storage_of(typingctx, ptr):
    """The storage tag that a pointer to float64 or float32 stands for."""
    tag = STORED[ptr.dtype].tag
    return types.intp(ptr), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), tag)


@intrinsic(prefer_literal=True)
def stack(typingctx, count, like):
    """Room on the function's stack for `count` (a literal) scalars of the type of `like`, 64-byte aligned."""
    if not isinstance(count, types.IntegerLiteral):
        return None
    size, dtype = count.literal_value, types.unliteral(like)
    ptr = types.CPointer(dtype)

    def codegen(context, builder, signature, args):
        room = cgutils.alloca_once(builder, ir.ArrayType(context.get_data_type(dtype), size))
        room.align = 64
        return builder.bitcast(room, context.get_value_type(ptr))

    return ptr(count, like), codegen


@intrinsic
def rounded(typingctx, x, like):
    """The float64 `x` rounded to the type of the scalar `like`, as float64."""

    def codegen(context, builder, signature, args):
        return context.cast(builder, context.cast(builder, args[0], x, like), like, x)

    return x(x, like), codegen


def has_half_conversion():
    """True where the target being compiled for converts float16 in hardware (F16C, or aarch64).

    `fpext half` without it calls a compiler-rt function that the JIT does not link: a crash, not a slow path.
    """
    from llvmlite import binding
    from numba.core import config

    if binding.get_default_triple().startswith("aarch64"):
        return True
    if config.CPU_FEATURES is not None:
        return "+f16c" in config.CPU_FEATURES
    if config.CPU_NAME is not None:
        return config.CPU_NAME in ("x86-64-v3", "x86-64-v4")
    return bool(binding.get_host_cpu_features().get("f16c"))


def _half_to_float(builder, words, count):
    """float16 bits (as <count x i16>) to <count x float>, exact for all 65,536 patterns (a NaN stays a NaN)."""
    floats = ir.VectorType(ir.FloatType(), count)
    if has_half_conversion():
        return builder.fpext(builder.bitcast(words, ir.VectorType(ir.HalfType(), count)), floats)
    ints = ir.VectorType(_I32, count)
    wide = builder.zext(words, ints)
    sign = builder.shl(builder.and_(wide, _constant(ints, 0x8000)), _constant(ints, 16))
    magnitude = builder.shl(builder.and_(wide, _constant(ints, 0x7FFF)), _constant(ints, 13))
    # rebias the exponent by 112; inf and NaN by 112 more; subnormals by an exact float subtraction
    normal = builder.add(magnitude, _constant(ints, 112 << 23))
    special = builder.add(magnitude, _constant(ints, 224 << 23))
    raised = builder.bitcast(builder.add(magnitude, _constant(ints, 113 << 23)), floats)
    tiny = builder.bitcast(builder.fsub(raised, _constant(floats, 2.0**-14)), ints)
    is_special = builder.icmp_unsigned(">=", magnitude, _constant(ints, 0x7C00 << 13))
    is_tiny = builder.icmp_unsigned("<", magnitude, _constant(ints, 0x0400 << 13))
    chosen = builder.select(is_tiny, tiny, builder.select(is_special, special, normal))
    return builder.bitcast(builder.or_(chosen, sign), floats)


def _byte_to_float(builder, raw, count, kind):
    """Bytes of a float of no more exponent and mantissa bits than float16 has as <count x float>, exact for all 256.

    By way of float16, of which the byte is a part: its sign and, moved up, its other bits. Instructions beat a table of
    256 floats here: 8 of them a register of 16, against 16 loads.
    """
    words, floats = ir.VectorType(ir.IntType(16), count), ir.VectorType(ir.FloatType(), count)
    mask = 0x8000 | 0x7FFF >> (5 - kind.exponent)
    moved = builder.shl(builder.sext(raw, words), _constant(words, 10 - kind.mantissa))
    halves = builder.and_(moved, _constant(words, mask))
    values = builder.fmul(_half_to_float(builder, halves, count), _constant(floats, 2.0 ** (15 - kind.bias)))
    if kind.infinities:
        return values
    ones = _constant(raw.type, 0x7F)
    is_nan = builder.icmp_unsigned("==", builder.and_(raw, ones), ones)
    return builder.select(is_nan, _constant(floats, float("nan")), values)


# the storage type of a pointer to words
STORED = {getattr(types, kind.words): kind for kind in FLOATS}


def decode_words(builder, raw, words):
    """Registers of the words of one storage type as float32 or float64 registers."""
    kind, count = STORED[words], raw.type.count
    if kind.bytes >= 4:
        return raw
    if kind.exponent == 8:  # the upper part of a float32
        wide = builder.zext(raw, ir.VectorType(_I32, count))
        wide = builder.shl(wide, _constant(wide.type, 32 - 8 * kind.bytes))
        return builder.bitcast(wide, ir.VectorType(ir.FloatType(), count))
    return _half_to_float(builder, raw, count) if kind.bytes == 2 else _byte_to_float(builder, raw, count, kind)


@intrinsic
def load(typingctx, ptr, index, like):
    """Lanes like the scalar `like`, from `ptr[index:]`, decoded in registers. No alignment beyond the element's."""
    lanes, storage = _LANES[like], ptr.dtype

    def codegen(context, builder, signature, args):
        element = context.get_value_type(storage)
        place = builder.gep(args[0], [args[1]], inbounds=True)
        place = builder.bitcast(place, ir.VectorType(element, lanes.count).as_pointer())
        raw = builder.load(place, align=storage.bitwidth // 8)
        values = decode_words(builder, raw, storage)
        if lanes == F64 and storage != types.float64:
            values = builder.fpext(values, context.get_value_type(lanes))
        return values

    return lanes(ptr, index, like), codegen


@intrinsic
def decoded(typingctx, ptr):
    """The value of the one element at `ptr`, exactly, as float64."""

    def codegen(context, builder, signature, args):
        one = ir.VectorType(context.get_value_type(ptr.dtype), 1)
        raw = builder.load(builder.bitcast(args[0], one.as_pointer()), align=ptr.dtype.bitwidth // 8)
        value = builder.extract_element(decode_words(builder, raw, ptr.dtype), ir.Constant(_I32, 0))
        return value if ptr.dtype == types.float64 else builder.fpext(value, ir.DoubleType())

    return types.float64(ptr), codegen


# Elements asked for ahead of use: past the reach of the hardware's own prefetching, which stops at each page, and still
# in the second-level cache when their turn comes. 29 -> 39 GB/s on one Zen 5 core; 2048 to 32768 do the same.
AHEAD = 4096
# The same of elements to be written, which are read first: 60 -> 42 µs for a row of 131,072 float32; 256 to 2048 do.
AHEAD_OF_WRITING = 1024


@intrinsic
def prefetch(typingctx, ptr, index):
    """Ask for the cache line of `ptr[index]`, which may lie outside what is ours: nothing is read, nothing faults."""

    def codegen(context, builder, signature, args):
        size = ir.Constant(args[1].type, ptr.dtype.bitwidth // 8)
        place = builder.add(builder.ptrtoint(args[0], args[1].type), builder.mul(args[1], size))
        place = builder.inttoptr(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [place, *(ir.Constant(_I32, value) for value in (0, 3, 1))])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(ptr, index), codegen


@inlined
def stream(ptr, index, like):
    """`load` in a loop that goes through memory once."""
    prefetch(ptr, index + AHEAD)
    return load(ptr, index, like)


@intrinsic
def load_codes(typingctx, ptr, index, like):
    """The whole numbers `ptr[index:]` (uint16) as float32 lanes; `like` is a float32."""
    lanes = _LANES[like]
    if ptr.dtype != types.uint16 or lanes != F32:
        return None

    def codegen(context, builder, signature, args):
        place = builder.gep(args[0], [args[1]], inbounds=True)
        place = builder.bitcast(place, ir.VectorType(ir.IntType(16), lanes.count).as_pointer())
        wide = builder.zext(builder.load(place, align=2), ir.VectorType(_I32, lanes.count))
        return builder.sitofp(wide, context.get_value_type(lanes))

    return lanes(ptr, index, like), codegen


@intrinsic
def store(typingctx, ptr, index, x):
    """Write the lanes to `ptr[index:]`; the pointer's type is the lanes' own."""
    if ptr.dtype != x.elem:
        return None

    def codegen(context, builder, signature, args):
        place = builder.gep(args[0], [args[1]], inbounds=True)
        place = builder.bitcast(place, args[2].type.as_pointer())
        builder.store(args[2], place, align=x.elem.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(ptr, index, x), codegen
