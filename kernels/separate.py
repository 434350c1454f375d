"""Kernels that Numba compiles each for itself, when they are first called: what no call asks for is never compiled.

An entry point reads every storage in every space by every tier, and a first call needs one way through it. So a
`separate` kernel is left out of the machine code of those that call it: what stands there finds the address of its own
machine code in a slot, and where the slot is still empty asks `kernels.jit` for it, which compiles it for the types of
that call. Bits do not depend on it: no operation here is contracted or reordered across a call.

The ahead-of-time build says `whole()` before it imports a kernel: there a separate kernel is as any other.
"""

import pickle

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

UNSUPPORTED = 5  # as in kullback.h: what an entry point answers where a kernel could not be compiled
UNITS = {}  # {name: (Python function, result type)} of the separate kernels
_RESOLVER = f"{__package__}.jit"
_WHOLE = False


def whole():
    """From now on no kernel is separate."""
    global _WHOLE
    _WHOLE = True


def separate(result, name=None):
    """A decorator of kernels: one is compiled when first called. `result` is the type that it returns, or a function
    of the types of its arguments that tells.

    `name` tells those from one another that are made by one function.
    """

    def decorate(function):
        if _WHOLE:
            return function
        own = f"{function.py_func.__module__.removeprefix(__package__)[1:]}.{name or function.py_func.__name__}"
        if own in UNITS:
            raise ImportError(f"two separate kernels are called {own}")
        UNITS[own] = function.py_func, result

        class Call(AbstractTemplate):
            def generic(self, arguments, keywords):
                return signature(returned(result, arguments), *arguments)

        return _callable(own, Call, _calling(own))

    return decorate


def returned(result, arguments):
    """The type that is returned for arguments of these types."""
    return result if isinstance(result, types.Type) else result(*arguments)


def _callable(name, template, codegen):
    """What kernels can call by that name, and nobody else."""

    def call(*arguments):
        raise TypeError(f"{name} is called by kernels alone")

    infer_global(call, typing_key=name)(template)
    lower_builtin(name, types.VarArg(types.Any))(codegen)
    return call


def _calling(name):
    """How a call of the separate kernel of that name is written."""

    def codegen(context, builder, sig, arguments):
        kind = context.call_conv.get_function_type(sig.return_type, sig.args)
        key = pickle.dumps((name, sig.args))
        slot = _slot(builder.module, f"kullback.{name}.{context.mangler('', sig.args)}")
        known = builder.load_atomic(slot, "acquire", 8)
        with cgutils.if_unlikely(builder, cgutils.is_null(builder, known)):
            found = _ask(context, builder, key)
            with cgutils.if_unlikely(builder, cgutils.is_null(builder, found)):
                context.call_conv.return_exc(builder)
            builder.store_atomic(found, slot, "release", 8)
        callee = builder.bitcast(builder.load_atomic(slot, "acquire", 8), kind.as_pointer())
        status, value = context.call_conv.call_function(builder, callee, sig.return_type, sig.args, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return value

    return codegen


def _slot(module, name):
    """A place of the module for an address, empty at first."""
    if name in module.globals:
        return module.globals[name]
    kind = ir.IntType(8).as_pointer()
    slot = cgutils.add_global_variable(module, kind, name)
    slot.linkage, slot.initializer = "internal", ir.Constant(kind, None)
    return slot


def _ask(context, builder, key):
    """The address that `jit.resolve` knows for a key; null if there is none."""
    python = context.get_python_api(builder)
    place = cgutils.alloca_once_value(builder, ir.Constant(python.voidptr, None))
    gil = python.gil_ensure()
    module = python.import_module(context.insert_const_string(builder.module, _RESOLVER))
    with cgutils.if_likely(builder, cgutils.is_not_null(builder, module)):
        resolve = python.object_getattr_string(module, "resolve")
        data, size = context.insert_const_bytes(builder.module, key), context.get_constant(types.intp, len(key))
        given = python.bytes_from_string_and_size(data, size)
        answer = python.call_function_objargs(resolve, (given,))
        with cgutils.if_likely(builder, cgutils.is_not_null(builder, answer)):
            builder.store(python.long_as_voidptr(answer), place)
            python.decref(answer)
        python.decref(given)
        python.decref(resolve)
        python.decref(module)
    with cgutils.if_unlikely(builder, cgutils.is_null(builder, builder.load(place))):
        python.err_clear()  # of a Ctrl-C outside of what `resolve` tries
    python.gil_release(gil)
    return builder.load(place)


def guarded(entry):
    """A function for kernels that calls `entry`, or answers UNSUPPORTED where a kernel could not be compiled."""
    if _WHOLE:
        return entry

    class Call(AbstractTemplate):
        def generic(self, arguments, keywords):
            sig = self.context.resolve_function_type(types.Dispatcher(entry), arguments, keywords)
            return sig.replace(return_type=types.int64)  # which may be that of one status

    def codegen(context, builder, sig, arguments):
        compiled = entry.overloads[tuple(sig.args)]
        context.add_linking_libs([compiled.library])
        status, value = context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, arguments)
        return builder.select(status.is_ok, value, ir.Constant(value.type, UNSUPPORTED))

    return _callable(f"guarded {entry.__name__}", Call, codegen)
