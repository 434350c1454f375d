"""Helper threads: chunks of rows of one call worked on by several."""

import _thread
import ctypes
import itertools
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from kullback._engine import first_use

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


def share(work: Callable[[int, int], Any], rows: int, chunk: int, helpers: int) -> list[Any]:
    """Call `work(start, stop)` over chunks of [0, rows), in this thread and up to so many helpers."""
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


def _in_child() -> None:
    """A forked child has none of the helpers."""
    global _waiting, _hired
    _waiting, _hired = SimpleQueue(), 0


first_use.in_child.append(_in_child)
