"""The command `kullback` before its imports: an interrupt meanwhile ends it with 130 and a line, as later ones do.

Outside the package, since importing any module of it first imports the package, and NumPy with it.
"""

import os
import signal
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns its exit code."""
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # under nohup and in background it is not
    try:
        if heeded:
            # an exception would not do: libraries in C turn it into an ImportError of their own, which is an exit of 1
            signal.signal(signal.SIGINT, _leave)
        from kullback.cli import main as run

        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
        if heeded:
            signal.signal(signal.SIGINT, _leave)  # while the interpreter ends
        return code
    except KeyboardInterrupt:  # another one, while the first is reported
        _leave()


def _leave(*_: object) -> NoReturn:
    """Nothing was begun that would need an end."""
    with suppress(OSError):
        os.write(2, b"kullback: interrupted\n")
    os._exit(128 + signal.SIGINT)
