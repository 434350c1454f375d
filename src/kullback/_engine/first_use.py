"""What is made at a first call, under one lock that a fork waits for.

A child has the thread that forked and no other. What another thread held then is held for ever: our lock, the lock of a
module that it was importing, Numba's while it compiled. So a fork waits until the first calls of other threads have
what they need. (Hooks of a fork that a thread registers meanwhile would run half: Numba's import brings logging's and
those of concurrent.futures, which are therefore imported with this module.)
"""

import concurrent.futures.thread  # noqa: F401 (see above)
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

in_child: list[Callable[[], None]] = []  # what a forked child makes anew
_lock = threading.RLock()


def alone() -> threading.RLock:
    """The lock, for a `with`."""
    return _lock


def import_whole(module: str) -> Any:
    """Import a module that is loaded when first used, so that no forked child finds half of it."""
    with _lock:
        return import_module(module)


def compiled_whole(kernel: Any) -> Any:
    """`kernel`; where Numba compiles it at its first call, and imports what that needs, a fork waits for that call."""

    def call(*arguments: Any) -> Any:
        if kernel.signatures:
            return kernel(*arguments)
        with _lock:
            return kernel(*arguments)

    return call if hasattr(kernel, "signatures") else kernel


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
    global _lock
    _held.__exit__(None, None, None)
    _lock = threading.RLock()
    for renew in in_child:
        renew()


_held: Any = None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
