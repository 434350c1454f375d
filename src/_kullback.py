"""The command `kullback` before its imports: an interrupt meanwhile ends it with 130 and a line, as later ones do.

Outside the package, since importing any module of it first imports the package, and NumPy with it. Nothing is imported
here but what the interpreter has loaded already: what comes before `main` is beyond its reach.
"""

import os

__all__ = ["main"]


def main() -> int:
    """Run the command line; returns its exit code."""
    try:
        import signal

        # not under nohup, nor in the background of a shell
        heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
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
    except KeyboardInterrupt:  # or another one, while the first is reported
        _leave()
    return 130


def _leave(*_: object) -> None:
    """Nothing was begun that would need an end."""
    try:
        os.write(2, b"kullback: interrupted\n")
    finally:
        os._exit(130)
