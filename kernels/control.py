"""What runs around an entry point: the check of its arguments, and the processor's default floating-point mode.

A program may have told the processor to flush subnormal numbers to zero, to round otherwise, or to trap. Then a
probability of 1e-40 would count as impossible. So the mode is saved, set, and given back.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import checks, contract
from .separate import guarded
from .status import report

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


def whole_entry(name, entry):
    """The Python function of the entry point `name`: arguments checked, the mode set before it and given back after."""
    arguments = [f"a{i}" for i in range(len(contract.functions()[name]))]
    listed = ", ".join(arguments)
    whole = f"whole_{name}"
    source = (
        f"def {whole}({listed}):\n"
        f"    saved = set_default_mode()\n"
        f"    status, row = check({listed})\n"
        f"    if status == 0:\n"
        f"        status = entry({listed})\n"
        f"    else:\n"
        f"        report({arguments[-1]}, row, status)\n"
        f"    set_mode(saved)\n"
        f"    return status\n"
    )
    check = getattr(checks, name.replace("kullback_", "check_"))
    names = {"__name__": __name__, "set_default_mode": set_default_mode, "set_mode": set_mode, "entry": guarded(entry)}
    names |= {"check": check, "report": report}
    exec(source, names)  # Numba wants as many parameters as the C function has
    return names[whole]
