"""The command `kullback`: compare, merge, info, convert, bench."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_EXIT_CODES = """\
exit codes:
  0    done
  1    done, and KL(p‖q) of a candidate is above --fail-above, or unknown (NaN)
  2    wrong arguments, unusable input, or a fault of this program; running it again will not help
  3    reading or writing failed, or memory or threads ran out
  130  interrupted (143: terminated); with --checkpoint, run it again with --resume to go on
"""
DONE, ABOVE, UNUSABLE, FAILED = 0, 1, 2, 3
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
        _parser().parse_args(arguments, options)
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
        return _fail(f"not enough memory; see --chunk-mib and --threads ({error})", FAILED)
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


def _way_on(options: argparse.Namespace) -> str:
    """What is to be done after an interrupt."""
    log = getattr(options, "checkpoint", None)
    if log:
        return f"; the same command {'' if options.resume else 'with --resume '}goes on from {log}"
    return "; without --checkpoint nothing was kept" if getattr(options, "run", None) is _compare else ""


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


# ------------------------------------------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    from kullback.evaluation.arguments import build_parser

    return build_parser(
        {"compare": _compare, "merge": _merge, "info": _info, "convert": _convert, "bench": _bench}, _EXIT_CODES
    )


def _reader_options(options: argparse.Namespace) -> dict[str, Any]:
    from kullback.evaluation.arguments import READER_OPTIONS

    return {name: getattr(options, name) for name in READER_OPTIONS}


# ------------------------------------------------------------------------------------------------------- commands


def _compare(options: argparse.Namespace) -> int:
    from kullback.evaluation.job import compare_candidates
    from kullback.evaluation.progress import progress, say

    _check_outputs(options, [options.p, *options.q, options.tokens, options.lm_head])
    common: dict[str, Any] = {
        "given": options.given,
        "tokens": options.tokens,
        "vocab_size": options.vocab_size,
        "rows": options.rows,
        "jensen_shannon": options.js,
        "top_k": options.top_k,
        "convention": options.convention,
        "ignore_index": options.ignore_index,
        "chunk_bytes": options.chunk_mib << 20,
        "num_threads": options.threads,
        "warn": lambda line: say(f"suspicious: {line}"),
    } | _reader_options(options)
    if options.dask is not None:
        from kullback.evaluation.distributed import compare_on_cluster

        if options.checkpoint or options.per_token:
            raise ValueError("--dask keeps its own progress: it goes without --checkpoint and --per-token")
        summaries = compare_on_cluster(options.p, options.q, scheduler=options.dask, **common)
    else:
        with progress(options.quiet, options.checkpoint if options.resume else "") as report:
            summaries = compare_candidates(
                options.p, options.q, progress=report, checkpoint=options.checkpoint, resume=options.resume,
                per_token=options.per_token, **common,
            )  # fmt: skip
    return _deliver(summaries, options)


def _check_outputs(options: argparse.Namespace, inputs: list[str | None]) -> None:
    """Refuse before hours of work what would fail after them."""
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.tokens import decoder

    names = {f"--{name.replace('_', '-')}": getattr(options, name, None) for name in ("json", "html", "per_token")}
    log = getattr(options, "checkpoint", None)
    check_outputs(names, [path for path in (*inputs, options.tokenizer) if path], options.force, log)
    if options.json == "-" and sys.__stdout__ is None:
        raise ValueError("--json - needs standard output, which is closed")
    decoder(options.tokenizer)
    if options.html:
        from kullback.evaluation.report import check_library

        check_library()


def _deliver(summaries: list[Any], options: argparse.Namespace) -> int:
    """Print and write the results."""
    from kullback.evaluation.outputs import atomic_file, show
    from kullback.evaluation.statistics import WorstTokens
    from kullback.evaluation.terminal import print_summaries
    from kullback.evaluation.text import json_text
    from kullback.evaluation.tokens import decoder

    decode = decoder(options.tokenizer)
    for summary in summaries:
        worst_tokens = summary.parts.get("worst_tokens")
        if decode is not None and isinstance(worst_tokens, WorstTokens):
            worst_tokens.add_text(decode)
    trees = [summary.to_dict() for summary in summaries]
    tree = trees[0] if len(trees) == 1 else {"p": trees[0].get("p"), "candidates": trees}
    text = json_text(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if options.json and options.json != "-":
        with atomic_file(options.json) as file:
            file.write(text.encode())
    if options.html:
        from kullback.evaluation.report import write_report

        write_report(summaries, options.html)
    show(lambda: sys.stdout.write(text) if options.json == "-" else print_summaries(summaries))
    return DONE if options.fail_above is None else _gate(summaries, options.fail_above)


def _gate(summaries: list[Any], most: float) -> int:
    """ABOVE unless KL(p‖q) of every candidate is known for every row and at most `most`."""
    from kullback.evaluation.progress import say
    from kullback.evaluation.terminal import side_labels

    code = DONE
    for summary, name in zip(summaries, side_labels(summaries)[1], strict=True):
        whose = f"{name}: " if len(summaries) > 1 else ""
        mean, undefined = summary.kl.mean, summary.kl.undefined
        if mean > most:
            say(f"{whose}KL(p‖q) is {mean:.6g}, above {most:g}")
        elif undefined or not mean <= most:
            rows = f"{undefined} of {summary.tokens} rows have no distribution" if undefined else "there are no rows"
            say(f"{whose}KL(p‖q) is not known to be at most {most:g}: {rows}")
        else:
            continue
        code = ABOVE
    return code


def _merge(options: argparse.Namespace) -> int:
    from kullback.evaluation.merging import merge_logs, read_files

    _check_outputs(options, [*options.parts, *read_files(options.parts)])
    return _deliver(merge_logs(options.parts, partial=options.partial), options)


def _info(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import show
    from kullback.evaluation.sources import Dump, holds_answers, open_logits, open_sparse
    from kullback.evaluation.terminal import print_facts
    from kullback.evaluation.text import json_text

    if holds_answers(options.file):
        given = [name for name, x in _reader_options(options).items() if x is not None and x is not False]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            raise ValueError(f"{options.file}: top-k answers in JSON, for which {option} means nothing")
        facts = open_sparse(options.file).facts()
    else:
        with open_logits(options.file, **_reader_options(options)) as source:
            facts = source.check() if isinstance(source, Dump) else source.facts()
    text = json_text(json.dumps(facts, indent=2, ensure_ascii=False)) + "\n"
    show(lambda: sys.stdout.write(text) if options.json else print_facts(facts))
    return DONE


def _convert(options: argparse.Namespace) -> int:
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.progress import progress
    from kullback.evaluation.sources import open_logits
    from kullback.evaluation.sources.convert import convert

    check_outputs({"OUT": options.target}, [p for p in (options.source, options.lm_head) if p], options.force)
    with (
        open_logits(options.source, **_reader_options(options)) as source,
        progress(options.quiet) as report,
    ):
        convert(source, options.target, dtype=options.to_dtype, progress=report)
    return DONE


def _bench(options: argparse.Namespace) -> int:
    from kullback.evaluation.bench import quick_bench
    from kullback.evaluation.outputs import show

    show(lambda: quick_bench(options.rows, options.vocab_size, options.threads))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
