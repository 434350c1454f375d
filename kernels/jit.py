"""The kernels compiled when first asked for, by Numba, as C functions with the signatures of kullback.h.

Machine code is kept in a cache directory of our own, named by a digest of all kernel sources: Numba's own cache looks
at the file of the entry point alone, and would go on serving old code after an edit of a file it calls.
"""

import contextlib
import os
from pathlib import Path

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from . import contract, drivers
from .control import in_default_mode


def cache_directory():
    """$NUMBA_CACHE_DIR or the user's cache directory, then kullback/<digest of the kernels>."""
    base = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "kullback" / f"jit-{contract.source_digest()}"


class _Locator(_CacheLocator):
    def get_cache_path(self):
        return str(cache_directory())

    def get_source_stamp(self):
        return contract.source_digest()

    def get_disambiguator(self):
        return ""

    @classmethod
    def from_function(cls, py_func, py_file):
        self = cls()
        try:
            self.ensure_cache_path()
        except OSError:  # read-only homes and full disks: compile, keep nothing
            return None
        return self


class _Implementation(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (Numba's own protocol)


class _Cache(FunctionCache):
    _impl_class = _Implementation

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def compile_function(name):
    """The address of the C function `name` of kullback.h."""
    entry = getattr(drivers, name)
    function = CFunc(
        in_default_mode(name, entry),
        normalize_signature(contract.numba_signature(name)),
        locals={},
        options={"nopython": True},
    )
    with contextlib.suppress(RuntimeError):  # no place to keep it
        function._cache = _Cache(entry.py_func)
    function.compile()
    _kept_alive.append(function)
    return function.address


_kept_alive: list[CFunc] = []
