"""The processor's floating-point mode: entry points run in the default one, whatever another library has set.

A program may have told the processor to flush subnormal numbers to zero, to round otherwise, or to trap. Then a
probability of 1e-40 would count as impossible. So the mode is saved, set, and given back.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import contract

_DEFAULT = 0x1F80  # of the register MXCSR: round to nearest, keep subnormal numbers, no traps


def _on_x86(builder):
    return str(builder.module.triple).startswith("x86_64")


def _call(builder, name, place):
    address = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [address]), name)
    builder.call(function, [builder.bitcast(place, address)])


@intrinsic
def set_default_mode(typingctx):
    """Set the default floating-point mode; the one there was."""

    def codegen(context, builder, signature, args):
        word = ir.IntType(32)
        if not _on_x86(builder):
            return ir.Constant(word, 0)
        place = cgutils.alloca_once(builder, word)
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        saved = builder.load(place)
        builder.store(ir.Constant(word, _DEFAULT), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return saved

    return types.uint32(), codegen


@intrinsic
def set_mode(typingctx, saved):
    """Give back the mode that `set_default_mode` found."""

    def codegen(context, builder, signature, args):
        if _on_x86(builder):
            place = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(args[0], place)
            _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(saved), codegen


def in_default_mode(name, entry):
    """The Python function of the entry point `name`, with the mode set before it and given back after it."""
    arguments = ", ".join(f"a{i}" for i in range(len(contract.functions()[name])))
    source = (
        f"def {name}({arguments}):\n"
        f"    saved = set_default_mode()\n"
        f"    status = entry({arguments})\n"
        f"    set_mode(saved)\n"
        f"    return status\n"
    )
    names = {"__name__": __name__, "set_default_mode": set_default_mode, "set_mode": set_mode, "entry": entry}
    exec(source, names)  # Numba wants as many parameters as the C function has
    return names[name]
