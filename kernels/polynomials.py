"""Polynomials of lanes: with the coefficients of a table, and with those of a power series that lie in memory."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .coefficients import TABLES
from .lanes import _constant, _intrinsic_call


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


def _count(elem):
    """Coefficients of a series in d: (0.9/π)^15 = 7e-9, (0.9/π)^28 = 6e-16."""
    return 15 if elem == types.float32 else 28


@intrinsic
def coefficient_count(typingctx, like):
    """Coefficients that `series` reads for lanes like `like`."""
    count = _count(like)
    return types.intp(like), lambda context, builder, signature, args: ir.Constant(ir.IntType(64), count)


@intrinsic
def series(typingctx, x, coefficients):
    """The polynomial with the coefficients in memory, lowest first, at the lanes x."""
    if coefficients.dtype != x.elem:
        return None

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(x)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), x.count), [0] * x.count)

        def coefficient(i):
            value = builder.load(builder.gep(args[1], [ir.Constant(ir.IntType(64), i)], inbounds=True))
            first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(first, first, everywhere)

        def fused(a, b, c):
            return _intrinsic_call(builder, "fma", x, [a, b, c])

        # as in `horner`: c0 + x·(pairs c1 + c2·x, joined in x²)
        count = _count(x.elem)
        square = builder.fmul(args[0], args[0])
        parts = [
            fused(args[0], coefficient(i + 1), coefficient(i)) if i + 1 < count else coefficient(i)
            for i in range(1, count, 2)
        ]
        total = parts[-1]
        for part in parts[-2::-1]:
            total = fused(total, square, part)
        return fused(args[0], total, coefficient(0))

    return x(x, coefficients), codegen
