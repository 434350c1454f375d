"""Between memory and registers: pointers, room on the stack, words of every storage type decoded as they are loaded."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import _LANES, F32, F64, _constant, inlined
from .storage import FLOATS

_I32 = ir.IntType(32)


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
