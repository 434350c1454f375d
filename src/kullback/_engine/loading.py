"""The functions of kullback.h: compiled ahead of time, or by Numba when first used."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from kullback._engine import first_use


class Engine:
    """The functions of kullback.h by name, with the cffi instance that makes their arguments."""

    def __init__(
        self, name: str, ffi: Any, load: Callable[[str], Any], failure: Callable[[], BaseException], why: str = ""
    ) -> None:
        self.name, self.ffi, self._load = name, ffi, load
        self.failure = failure  # what it is to raise where a function answers KULLBACK_UNSUPPORTED
        self.why = why  # this one runs and not the compiled one
        self.functions: dict[str, Any] = {}  # those loaded

    def function(self, name: str) -> Any:
        """The function of that name, loaded when first asked for."""
        if name not in self.functions:
            with first_use.alone():
                if name not in self.functions:
                    self.functions[name] = self._load(name)
        return self.functions[name]


def _compiled() -> Engine:
    extension = import_module("kullback._compiled")

    lacking = "the compiled kernels need a processor with AVX2, FMA and F16C"
    if not extension.lib.kullback_supported():
        raise ImportError(lacking)
    return Engine("compiled", extension.ffi, lambda name: getattr(extension.lib, name), lambda: RuntimeError(lacking))


def _jit(why: str) -> Engine:
    import cffi

    from kullback.kernels import contract

    ffi = cffi.FFI()
    ffi.cdef(contract.declarations())
    for kind in {kind for parameters in contract.functions().values() for kind in (*parameters, "intptr_t")}:
        for c_type in (kind, kind.removeprefix("const ")):
            ffi.typeof(c_type)  # parsed here, under our lock: cffi's own is not remade in a forked child

    def jit() -> Any:
        module: Any = import_module("kullback.kernels.jit")
        module.alone = first_use.alone
        return module

    def load(name: str) -> Any:
        parameters = ", ".join(contract.functions()[name])
        return ffi.cast(f"int64_t (*)({parameters})", jit().compile_function(name))

    return Engine("jit", ffi, load, lambda: jit().failure(), why)


def choose() -> Engine:
    wish = os.environ.get("KULLBACK_ENGINE", "")
    if wish not in ("", "jit", "compiled"):
        raise ValueError(f"KULLBACK_ENGINE is {wish!r}, expected 'jit' or 'compiled'")
    if wish != "jit":
        try:
            return _compiled()
        except ImportError as error:
            if wish == "compiled":
                raise ImportError(f"KULLBACK_ENGINE=compiled, but: {error}") from error
            return _jit(str(error))
    return _jit("KULLBACK_ENGINE=jit")


def numba_kernel(module: str, name: str) -> Any:
    """A kernel that only Numba compiles, imported at its first use: not every kernel is in kullback.h."""
    return first_use.compiled_whole(getattr(first_use.import_whole(f"kullback.kernels.{module}"), name))
