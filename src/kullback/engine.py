"""Which machine code runs, on how many threads, over which rows. The only module that calls kernels.

Both engines are the same C functions (kernels/kullback.h): built ahead of time into an extension module, or compiled
by Numba on first use. Rows are independent, so they are handed out in chunks to the calling thread and to threads of
one pool; a chunk is some milliseconds of work, so that Ctrl-C is answered promptly. No result depends on the split.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 16 << 20  # about 1 ms of one core
_LEAST_CHUNK_BYTES = 256 << 10  # about 20 µs: some times what it costs to take a chunk
_SHARED_BYTES = 2 << 20  # handing work to another thread costs some 50 µs: less work than this stays on one

_lock = threading.RLock()
_engine: "_Engine | None" = None
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


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


def _environment_threads(name: str) -> int | None:
    text = os.environ.get(name, "").split(",")[0].strip()
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{name} is {os.environ[name]!r}, expected a whole number from 1")
    return int(text)


_default_threads: int | None = None


def default_threads() -> int:
    """KULLBACK_NUM_THREADS, else the least of OMP_NUM_THREADS, the CPU affinity and the cgroup's quota."""
    global _default_threads
    if _default_threads is None:
        wish = _environment_threads("KULLBACK_NUM_THREADS")
        if wish is None:
            affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            wish = min(affinity, max(1, round(min(_cgroup_cores(), 1e6))))
            wish = min(wish, _environment_threads("OMP_NUM_THREADS") or wish)
        _default_threads = wish
    return _default_threads


def thread_count(num_threads: int | None) -> int:
    """The checked number of threads of a call."""
    if num_threads is None:
        return default_threads()
    if isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"`num_threads` is {num_threads!r}, expected a whole number or None")
    if num_threads < 1:
        raise ValueError(f"`num_threads` is {num_threads}, expected at least 1")
    return int(num_threads)


def _threads(count: int) -> ThreadPoolExecutor:
    """A pool of at least `count` threads. A pool that became too small finishes what it has and goes."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < count:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="kullback"), count
        return _pool


def _forget_threads() -> None:
    """In a forked child: its threads stayed in the parent, and a lock may have been held there."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.RLock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def over_rows(work: Callable[[int, int], Any], rows: int, row_bytes: int, num_threads: int) -> list[Any]:
    """Call `work(start, stop)` over chunks of [0, rows) on up to `num_threads` threads; the results that are true.

    `work` must release the GIL to gain anything. The calling thread takes part, so calls may nest and may come from
    many threads at once. An exception, KeyboardInterrupt too, stops the handing out of chunks and is raised when the
    chunks under way are done.
    """
    total = rows * row_bytes
    least, most = (max(1, size // max(row_bytes, 1)) for size in (_LEAST_CHUNK_BYTES, _CHUNK_BYTES))
    chunk = min(max(rows // (4 * num_threads), least), most)  # four a thread: the last to finish is not far behind
    helpers = min(num_threads, -(-rows // chunk)) - 1 if total > _SHARED_BYTES else 0
    if helpers == 0 and rows <= chunk:
        found = work(0, rows)
        return [found] if found else []
    starts = itertools.count(0, chunk)
    findings: list[Any] = []
    stopped = False

    def take() -> None:
        nonlocal stopped
        try:
            for start in starts:
                if stopped or start >= rows:
                    return
                found = work(start, min(start + chunk, rows))
                if found:
                    findings.append(found)
        except BaseException:
            stopped = True
            raise

    futures: list[Future[None]] = []
    for _ in range(helpers):
        try:
            futures.append(_threads(num_threads).submit(take))
        except RuntimeError:  # another call has just replaced the pool, or the interpreter is shutting down
            break
    try:
        take()
    finally:
        for future in futures:
            future.cancel()
        errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error is not None:
            raise error
    return findings


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
    return getattr(import_module(f"kullback.kernels.{module}"), name)


def show_config() -> None:
    """Print the engine, the number of threads and the versions that results and speed depend on.

    Examples
    --------
    >>> import kullback as kb
    >>> kb.show_config()  # doctest: +ELLIPSIS
    kullback ...
    """
    import platform
    from importlib.metadata import version

    why = f" ({current().why})" if current().why else ""
    print(f"kullback {version('kullback')}, engine {get_engine()}{why}, {default_threads()} threads")
    print(f"numpy {version('numpy')}, numba {version('numba')}, cffi {version('cffi')}")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.machine()}")
