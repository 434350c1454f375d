"""Numba without the machine code that nobody runs: kernels are there to be linked into entry points.

Left to itself Numba makes machine code of every function that it compiles, of which an entry point calls some 200: a
third of the time of the whole. What is used of Numba here is private; where it is no longer, compiling takes longer.
"""

import contextlib

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target


class _Linked(JITCodeLibrary):
    """Code that others link into theirs."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@contextlib.contextmanager
def only_linked(root):
    """While it lasts, functions are compiled to be linked, all but the one of the name `root`."""
    context = cpu_target.target_context
    codegen = context.codegen()

    def executable(library, fndesc, env):
        """What Python would call: nothing, as where Numba was told to make no wrapper for it."""
        return _dynfunc.make_function(fndesc.lookup_module(), fndesc.qualname, "", 0, env, (library,))

    def library(codegen, name):
        return (JITCodeLibrary if name == root else _Linked)(codegen, name)

    library._unserialize = JITCodeLibrary._unserialize  # of the root, from a cache
    with global_compiler_lock:
        codegen._library_class, context.get_executable = library, executable
        try:
            yield
        finally:
            del codegen._library_class, context.get_executable
