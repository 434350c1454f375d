"""Which machine code runs, on how many threads, over which rows. The only module that calls kernels.

Both engines are the same C functions (kernels/kullback.h): built ahead of time into an extension module, or compiled
by Numba on first use. Rows are independent, so they are handed out in chunks to the calling thread and to helper
threads; a chunk is some milliseconds of work, so that Ctrl-C is answered promptly. No result depends on the split.
"""

import _thread
import concurrent.futures.thread  # noqa: F401 (it and logging hook into forks: not while a fork waits, see below)
import contextlib
import ctypes
import itertools
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

_CHUNK_BYTES = 16 << 20  # about 1 ms of one core
_LEAST_CHUNK_BYTES = 256 << 10  # about 20 µs: some times what it costs to take a chunk
_SHARED_BYTES = 2 << 20  # handing work to another thread costs some 50 µs: less work than this stays on one

_lock = threading.RLock()  # of what is made at a first call; a fork waits for it
_engine: "_Engine | None" = None


class _Engine:
    """The functions of kullback.h by name, with the cffi instance that makes their arguments."""

    def __init__(self, name: str, ffi: Any, load: Callable[[str], Any], why: str = "") -> None:
        self.name, self.ffi, self._load = name, ffi, load
        self.why = why  # this one runs and not the compiled one
        self._functions: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        if name not in self._functions:
            with _lock:
                if name not in self._functions:
                    self._functions[name] = self._load(name)
        return self._functions[name]


def _compiled() -> _Engine:
    extension = import_module("kullback._compiled")

    if not extension.lib.kullback_supported():
        raise ImportError("the compiled kernels need a processor with AVX2, FMA and F16C")
    return _Engine("compiled", extension.ffi, lambda name: getattr(extension.lib, name))


def _jit(why: str) -> _Engine:
    import cffi

    from kullback.kernels import contract

    ffi = cffi.FFI()
    ffi.cdef(contract.declarations())
    for kind in {kind for parameters in contract.functions().values() for kind in (*parameters, "intptr_t")}:
        for c_type in (kind, kind.removeprefix("const ")):
            ffi.typeof(c_type)  # parsed here, under our lock: cffi's own is not remade in a forked child

    def load(name: str) -> Any:
        from kullback.kernels import jit

        parameters = ", ".join(contract.functions()[name])
        return ffi.cast(f"int64_t (*)({parameters})", jit.compile_function(name))

    return _Engine("jit", ffi, load, why)


def _choose() -> _Engine:
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


def current() -> _Engine:
    """The engine of this process, chosen at the first call."""
    global _engine
    if _engine is None:
        with _lock:
            if _engine is None:
                _engine = _choose()
    return _engine


def get_engine() -> str:
    """Name of the engine that runs the kernels: "compiled" (ahead of time) or "jit" (Numba).

    The environment variable KULLBACK_ENGINE forces one of them; it is read at the first call.

    Examples
    --------
    >>> import kullback as kb
    >>> kb.get_engine() in ("compiled", "jit")
    True
    """
    return current().name


# ------------------------------------------------------------------------------------------------------- threads


def _cgroup_cores() -> float:
    """The CPU quota of this process's cgroup, in cores; inf where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return float("inf") if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        return quota_us / int((base / "cpu.cfs_period_us").read_text()) if quota_us > 0 else float("inf")
    return float("inf")


def _number_of_threads(text: str) -> int | None:
    """What a thread variable says; None where it is not a whole number from 1."""
    text = text.split(",")[0].strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) >= 1 else None


_default_threads: tuple[int, str] | None = None


def _choose_threads() -> tuple[int, str]:
    """(number of threads, what of the environment was ignored)."""
    if wish := os.environ.get("KULLBACK_NUM_THREADS", "").strip():
        number = _number_of_threads(wish)
        if number is None:
            raise ValueError(f"KULLBACK_NUM_THREADS is {wish!r}, expected a whole number from 1")
        return number, ""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(affinity, max(1, round(min(_cgroup_cores(), 1e6))))
    other = os.environ.get("OMP_NUM_THREADS", "").strip()
    limit = _number_of_threads(other)
    if other and limit is None:  # "auto" and 0 mean something to other programs: no reason to stop
        return number, f" (OMP_NUM_THREADS is {other!r}, no whole number from 1: ignored)"
    return min(number, limit or number), ""


def default_threads() -> int:
    """KULLBACK_NUM_THREADS, else the least of OMP_NUM_THREADS, the CPU affinity and the cgroup's quota."""
    global _default_threads
    if _default_threads is None:
        _default_threads = _choose_threads()
    return _default_threads[0]


def thread_count(num_threads: Any) -> int:
    """The checked number of threads of a call."""
    if num_threads is None:
        return default_threads()
    try:
        if isinstance(num_threads, bool):
            raise TypeError
        number = operator.index(num_threads)
    except TypeError:
        raise TypeError(f"`num_threads` is a {type(num_threads).__name__}, expected a whole number or None") from None
    if number < 1:
        raise ValueError(f"`num_threads` is {number}, expected at least 1")
    return number


# ------------------------------------------------------------------------------------------------ sharing out rows
#
# A call has ended when it returns, however it returns: no helper touches the caller's arrays any more. Python raises
# KeyboardInterrupt, and what else a signal handler raises, in the main thread between any two bytecodes, those of a
# `finally` too; whoever waits in Python can be thrown out of the waiting (and locks written in Python, those of
# concurrent.futures among them, break). So a helper holds a lock shared while it works, and the caller takes it
# exclusively by one function of C that no signal interrupts, called first thing in a `finally`: on the way there is
# no bytecode at which CPython looks for signals, which it does where functions begin, after calls and in jumps
# backwards. The lock is kept for ever: a helper that comes later is refused.

_libc: Any = ctypes.CDLL(None)
_hold, _leave, _close = _libc.pthread_rwlock_tryrdlock, _libc.pthread_rwlock_unlock, _libc.pthread_rwlock_wrlock
for _function in (_hold, _leave, _close):
    _function.argtypes, _function.restype = [ctypes.c_void_p], ctypes.c_int
_Room = ctypes.c_uint64 * 32  # more than a pthread_rwlock_t anywhere


class _Shared:
    """The rows of one call, and all that its helpers need: `work` owns the arrays."""

    __slots__ = ("chunk", "errors", "findings", "lock", "rows", "starts", "stopped", "work")

    def __init__(self, work: Callable[[int, int], Any], rows: int, chunk: int) -> None:
        self.work, self.rows, self.chunk = work, rows, chunk
        self.starts: Iterator[int] = itertools.count(0, chunk)
        self.findings: list[Any] = []
        self.errors: list[BaseException] = []
        self.stopped = False
        self.lock = _Room()
        _libc.pthread_rwlock_init(self.lock, None)

    def take(self) -> None:
        """Work on chunks until there are none; a chunk that was taken is done, so `stopped` is asked before."""
        while not self.stopped:
            start = next(self.starts)
            if start >= self.rows:
                return
            found = self.work(start, min(start + self.chunk, self.rows))
            if found:
                self.findings.append(found)

    def help(self) -> None:
        """What a helper does, which never sees a signal."""
        if _hold(self.lock) != 0:
            return
        try:
            self.take()
        except BaseException as error:
            self.errors.append(error)
            self.stopped = True
        finally:
            _leave(self.lock)


_waiting: "SimpleQueue[_Shared]" = SimpleQueue()  # in C: an interrupted put has put, or has not
_hired = 0


def _serve(waiting: "SimpleQueue[_Shared]") -> None:
    """A helper thread; daemons all: a process that ends does not wait for the idle."""
    while True:
        waiting.get().help()


def _hire(count: int) -> int:
    """See to it that there are `count` helpers; how many of them there are.

    Without a lock: two calls at once, or an interrupt, may hire one too many, who waits like the others.
    """
    global _hired
    while _hired < count:
        try:
            _thread.start_new_thread(_serve, (_waiting,))
        except RuntimeError:  # the system has no more threads, or the interpreter is shutting down
            return _hired
        _hired += 1
    return count


def over_rows(work: Callable[[int, int], Any], rows: int, row_bytes: int, num_threads: int) -> list[Any]:
    """Call `work(start, stop)` over chunks of [0, rows) on up to `num_threads` threads; the results that are true.

    `work` must release the GIL to gain anything, and own what it touches. The calling thread takes part, so calls may
    nest and may come from many threads at once. An exception, KeyboardInterrupt too, stops the handing out of chunks
    and is raised when the chunks under way are done.
    """
    total = rows * row_bytes
    least, most = (max(1, size // max(row_bytes, 1)) for size in (_LEAST_CHUNK_BYTES, _CHUNK_BYTES))
    chunk = min(max(rows // (4 * num_threads), least), most)  # four a thread: the last to finish is not far behind
    helpers = min(num_threads, -(-rows // chunk)) - 1 if total > _SHARED_BYTES else 0
    if helpers == 0 and rows <= chunk:
        found = work(0, rows)
        return [found] if found else []
    shared = _Shared(work, rows, chunk)
    try:
        for _ in range(_hire(helpers)):
            _waiting.put(shared)
        shared.take()
    finally:
        shared.stopped = True
        _close(shared.lock)
        del shared.work  # where every helper is busy with other calls, `shared` is in the queue still
    if shared.errors:
        raise shared.errors.pop(0)  # popped, so that it and this frame do not keep each other alive
    return shared.findings


# --------------------------------------------------------------------------------------------------------- forks
#
# A child has the thread that forked and no other. What another thread held then is held for ever: our lock, the lock
# of a module that it was importing, Numba's while it compiled. So a fork waits until the first calls of other threads
# have what they need; the helpers are hired anew. (Hooks of a fork that a thread registers meanwhile would run half:
# Numba's import brings logging's and those of concurrent.futures, which are therefore imported with this module.)


def _compiler_lock() -> Any:
    loaded = sys.modules.get("numba.core.compiler_lock")
    return getattr(loaded, "global_compiler_lock", None) or contextlib.nullcontext()


def _before_fork() -> None:
    global _held
    _lock.acquire()
    _held = _compiler_lock()
    _held.__enter__()


def _after_fork() -> None:
    _held.__exit__(None, None, None)
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock, _waiting, _hired
    _held.__exit__(None, None, None)
    _lock, _waiting, _hired = threading.RLock(), SimpleQueue(), 0


_held: Any = None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def call(name: str, rows: int, row_bytes: int, num_threads: int | None, *arguments: Any) -> tuple[int, int] | None:
    """Run the C function `name` over all rows; (row, status) of the first row it refused, else None."""
    engine = current()
    function, new = engine.function(name), engine.ffi.new

    def work(start: int, stop: int) -> tuple[int, int] | None:
        bad_row = new("int64_t *", start)
        status = function(*arguments, start, stop, bad_row)
        return (bad_row[0], status) if status else None

    findings = over_rows(work, rows, row_bytes, thread_count(num_threads))
    return min(findings) if findings else None


def numba_kernel(module: str, name: str) -> Any:
    """A kernel that only Numba compiles, imported at its first use: not every kernel is in kullback.h."""
    return compiled_whole(getattr(import_whole(f"kullback.kernels.{module}"), name))


def compiled_whole(kernel: Any) -> Any:
    """`kernel`; where Numba compiles it at its first call, and imports what that needs, a fork waits for that call."""

    def call(*arguments: Any) -> Any:
        if kernel.signatures:
            return kernel(*arguments)
        with _lock:
            return kernel(*arguments)

    return call if hasattr(kernel, "signatures") else kernel


def import_whole(module: str) -> Any:
    """Import a module that is loaded when first used, so that no forked child finds half of it."""
    with _lock:
        return import_module(module)


def show_config() -> None:
    """Print the engine, the number of threads and the versions that results and speed depend on.

    The number of threads is KULLBACK_NUM_THREADS, else the least of OMP_NUM_THREADS, the processors that this process
    may run on and the quota of its control group. An OMP_NUM_THREADS that is no number ("auto") is ignored, and
    printed here.

    Examples
    --------
    >>> import kullback as kb
    >>> kb.show_config()  # doctest: +ELLIPSIS
    kullback ...
    """
    import platform
    from importlib.metadata import version

    why = f" ({current().why})" if current().why else ""
    print(
        f"kullback {version('kullback')}, engine {get_engine()}{why}, {default_threads()} threads{_choose_threads()[1]}"
    )
    print(f"numpy {version('numpy')}, numba {version('numba')}, cffi {version('cffi')}")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
