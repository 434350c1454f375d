"""The program: what was asked for is parsed, run, and its errors told in one line with an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress

from kullback.cli.bench import bench
from kullback.cli.compare import compare
from kullback.cli.convert import convert
from kullback.cli.delivery import ABOVE, FAILED, UNUSABLE
from kullback.cli.evaluate import evaluate
from kullback.cli.info import info
from kullback.cli.merge import merge
from kullback.cli.reference import reference
from kullback.cli.rollouts import rollouts
from kullback.cli.table import table

# what `kullback COMMAND --help` shows; docs/commands.md too
EXAMPLES = {
    "": "compare base.kld q4.kld",
    "compare": "compare base.kld q8.kld q4.kld --html report.html --json results.json",
    "eval": "eval models/base models/int8 --text wiki.txt --html report.html",
    "reference": "reference base.kld base.kbref --top-k 256",
    "table": "table results.json --size q4=models/q4.gguf --markdown table.md",
    "rollouts": "rollouts logs/*.jsonl --by step --html audit.html",
    "merge": "merge part-1.log part-2.log --json results.json",
    "info": "info base.kld",
    "convert": "convert base.safetensors base.npy --to-dtype float16",
    "bench": "bench",
}
_EXIT_CODES = """\
example:
  kullback {example}

exit codes:
  0    done
  1    {gates}
  2    wrong arguments, unusable input, or a fault of this program; running it again will not help
  3    reading or writing failed, or memory or threads ran out
  130  interrupted (143: terminated){resume}
"""
_FAILS = "done, and --fail-above or --fail-if holds, or is not known (NaN)"
_GATES = {
    "": "done, and a gate is shut: --fail-above, --fail-if, --fail-on",
    "compare": _FAILS,
    "eval": _FAILS,
    "merge": _FAILS,
    "rollouts": "done, and there is what --fail-on names, or the KL is not shown to be at most --fail-above",
}
_RESUME = dict.fromkeys(("compare", "eval"), "; with --checkpoint, run it again with --resume to go on")
_RESUME["reference"] = "; run it again with --resume to go on"
# names that are no use: to run it again will not help
_NO_FILE = FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError
_NO_NAME = errno.ELOOP, errno.ENAMETOOLONG


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    options = argparse.Namespace()
    try:
        _prepare_streams()
        parser().parse_args(arguments, options)
        if threading.current_thread() is threading.main_thread():  # only it may set this
            signal.signal(signal.SIGTERM, _terminate)
        code: int = options.run(options)
        return code
    except SystemExit as stop:  # of argparse; 1 is that of libraries that met a closed pipe
        if stop.code == ABOVE:
            return FAILED
        raise
    except BrokenPipeError:
        return _fail("a reader of the output has gone", FAILED)
    except (ValueError, TypeError, ImportError, *_NO_FILE) as error:
        return _fail(error, UNUSABLE)
    except OSError as error:
        return _fail(error, UNUSABLE if error.errno in _NO_NAME else FAILED)
    except MemoryError as error:
        return _fail(f"not enough memory; see {_fewer(options)} ({error})", FAILED)
    except RecursionError:
        return _fail("an input is nested too deeply", UNUSABLE)
    except _Terminated:
        return _fail(f"terminated{_way_on(options)}", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail(f"interrupted{_way_on(options)}", 128 + signal.SIGINT)
    except Exception as error:  # an exit code of 1, which Python would make of it, means something else here
        if isinstance(error, RuntimeError) and "thread" in str(error):
            return _fail(f"{error}; see --threads", FAILED)
        _show_traceback(error)
        return _fail(f"{type(error).__name__}: {error} (a fault of this program or of a library)", UNUSABLE)


def _prepare_streams() -> None:
    """Standard streams that take any text, and are there: a file opened later must not get their numbers."""
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ‖ or Δ is no reason to fail


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _fewer(options: argparse.Namespace) -> str:
    """What makes a command take less of the machine."""
    return "--processes" if getattr(options, "run", None) is rollouts else "--chunk-mib and --threads"


def _way_on(options: argparse.Namespace) -> str:
    """What is to be done after an interrupt."""
    if getattr(options, "run", None) is reference:
        return f"; the same command {'' if options.resume else 'with --resume '}goes on from {options.target}"
    log = getattr(options, "checkpoint", None)
    if log:
        return f"; the same command {'' if options.resume else 'with --resume '}goes on from {log}"
    return "; without --checkpoint nothing was kept" if getattr(options, "run", None) in (compare, evaluate) else ""


def _fail(error: object, code: int) -> int:
    from kullback.evaluation.progress import say

    if isinstance(error, OSError) and error.strerror:
        error = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    say(error)
    return code


def _show_traceback(error: Exception) -> None:
    from kullback.evaluation.text import visible

    with suppress(OSError, ValueError):
        print(visible("".join(traceback.format_exception(error)), "\n"), end="", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    from kullback.evaluation.arguments import build_parser

    return build_parser(
        {
            "compare": compare,
            "eval": evaluate,
            "reference": reference,
            "table": table,
            "rollouts": rollouts,
            "merge": merge,
            "info": info,
            "convert": convert,
            "bench": bench,
        },
        _epilog,
    )


def _epilog(command: str) -> str:
    """An example of a command and what its exit codes mean, or those of all for ""."""
    text = _EXIT_CODES.format(example=EXAMPLES[command], gates=_GATES.get(command, ""), resume=_RESUME.get(command, ""))
    return "".join(line for line in text.splitlines(keepends=True) if line.split() != ["1"])
