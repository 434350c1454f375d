"""The kernels compiled when first asked for, by Numba, as C functions with the signatures of kullback.h.

Of an entry point only what every call needs is compiled with it; kernels that are `separate` follow when one is called.

Machine code is kept in a cache directory of our own, named by a digest of all kernel sources: Numba's own cache looks
at the file of the entry point alone, and would go on serving old code after an edit of a file it calls. A file that is
not what was written (cut off, empty, damaged) counts as none. Folders and files are for their owner alone; who shares a
cache by NUMBA_CACHE_DIR trusts all who may write there: what they put there runs here.
"""

import contextlib
import hashlib
import os
import pickle
import tempfile
import threading
from pathlib import Path

import numba
from numba.core import compiler, config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature
from numba.core.typing.templates import signature

from . import contract, entries
from .control import whole_entry
from .linked import only_linked
from .separate import UNITS, returned


def cache_directory():
    """$NUMBA_CACHE_DIR or the user's cache directory, then kullback/<digest of the kernels>."""
    base = config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "kullback" / f"jit-{contract.source_digest()}"


class _Files:
    """Machine code by key, a file each: the digest of what follows, then that."""

    def __init__(self, folder, name):
        self.folder, self.name = Path(folder), name

    def path(self, key):
        digest = hashlib.sha256(repr((numba.__version__, key)).encode()).hexdigest()[:20]
        return self.folder / f"{self.name}.{digest}.code"

    def load(self, key):
        try:
            found = self.path(key).read_bytes()
        except OSError:
            return None
        digest, data = found[:32], found[32:]
        return pickle.loads(data) if hashlib.sha256(data).digest() == digest else None

    def save(self, key, data):
        data = dumps(data)
        descriptor, unfinished = tempfile.mkstemp(dir=self.folder, prefix=self.name)  # 0600
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(unfinished, self.path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise


class _Locator(_CacheLocator):
    def get_cache_path(self):
        return str(cache_directory())

    def ensure_cache_path(self):
        folder = cache_directory()
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # an OSError where nothing can be written

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

    def __init__(self, py_func, name):
        super().__init__(py_func)
        self._kernel = name
        self._cache_file = _Files(self._cache_path, self._impl.filename_base)

    def _index_key(self, sig, codegen):
        # not what a function closes over, as Numba has it: of kernels it is written otherwise in every process
        return self._kernel, sig, codegen.magic_tuple()

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever reading it comes to (another library's version, say): compile
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def compile_function(name):
    """The address of the C function `name` of kullback.h."""
    entry = getattr(entries, name)
    whole = whole_entry(name, entry)
    function = CFunc(
        whole,
        normalize_signature(contract.numba_signature(name)),
        locals={},
        options={"nopython": True},
    )
    with contextlib.suppress(RuntimeError):  # no place to keep it
        function._cache = _Cache(entry.py_func, name)
    with only_linked(whole.__qualname__):
        function.compile()
    _kept_alive.append(function)
    return function.address


def _compile_separate(name, arguments):
    """The address of the machine code of a separate kernel for arguments of these types."""
    function, result = UNITS[name]
    result = returned(result, arguments)
    wanted, cache = signature(result, *arguments), NullCache()
    with contextlib.suppress(RuntimeError):
        cache = _Cache(function, name)
    typing, target, flags = cpu_target.typing_context, cpu_target.target_context, compiler.Flags()
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.error_model = "numpy"
    with only_linked(function.__qualname__):
        compiled = cache.load_overload(wanted, target)
        if compiled is None:
            compiled = compiler.compile_extra(typing, target, function, arguments, result, flags, {})
            cache.save_overload(wanted, compiled)
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    _kept_alive.append(compiled)
    return address


def resolve(key):
    """The address of a separate kernel, which is compiled where that has not happened yet: machine code asks for it.

    0 where it cannot be compiled, or where Ctrl-C came; `failure` has the reason.
    """
    try:
        wanted = pickle.loads(key)
        with alone():
            if wanted not in _addresses:
                _addresses[wanted] = _compile_separate(*wanted)
            return _addresses[wanted]
    except BaseException as error:
        _failures.append(error)
        return 0


def failure():
    """Why an entry point has answered UNSUPPORTED."""
    return _failures.pop() if _failures else KeyboardInterrupt()


def alone():
    """The lock under which kernels are compiled; whoever has one that a fork waits for puts that in its place."""
    return _lock


_lock = threading.RLock()
_addresses: dict[tuple, int] = {}
_failures: list[BaseException] = []
_kept_alive: list = []
