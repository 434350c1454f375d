"""The command `kullback`: compare, merge, info, convert, bench."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_EXIT_CODES = """\
exit codes:
  0    done
  1    done, and KL(p‖q) is above --fail-above
  2    wrong arguments or unusable input; running it again will not help
  3    reading or writing failed
  130  interrupted (143: terminated); with --checkpoint, run it again with --resume to go on
"""
DONE, ABOVE, UNUSABLE, FAILED = 0, 1, 2, 3


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ‖ or Δ is no reason to fail
    options = _parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():  # only it may set this
        signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit):  # `kullback compare ... | head`; rich makes a SystemExit of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error, UNUSABLE)
    except FileNotFoundError as error:
        return _fail(error, UNUSABLE)
    except OSError as error:
        return _fail(error, FAILED)
    except MemoryError as error:
        return _fail(f"not enough memory; see --chunk-mib and --threads ({error})", FAILED)
    except _Terminated:
        return _fail("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


def _fail(error: object, code: int) -> int:
    if isinstance(error, OSError) and error.strerror:
        error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"kullback: {' '.join(str(error).split())}", file=sys.stderr)
    return code


# ------------------------------------------------------------------------------------------------------ arguments


def _parser() -> argparse.ArgumentParser:
    from kullback.evaluation.arguments import build_parser

    return build_parser(
        {"compare": _compare, "merge": _merge, "info": _info, "convert": _convert, "bench": _bench}, _EXIT_CODES
    )


def _reader_options(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("tensor", "dtype", "salvage", "lm_head")}


# ------------------------------------------------------------------------------------------------------- commands


def _compare(options: argparse.Namespace) -> int:
    from kullback.evaluation.job import compare_candidates

    _check_outputs(options)
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
    } | _reader_options(options)
    if options.dask is not None:
        from kullback.evaluation.distributed import compare_on_cluster

        if options.checkpoint or options.per_token:
            raise ValueError("--dask keeps its own progress: it goes without --checkpoint and --per-token")
        summaries = compare_on_cluster(options.p, options.q, scheduler=options.dask, **common)
    else:
        with _progress(options.quiet) as progress:
            summaries = compare_candidates(
                options.p, options.q, progress=progress, checkpoint=options.checkpoint, resume=options.resume,
                per_token=options.per_token, **common,
            )  # fmt: skip
    return _deliver(summaries, options)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse before hours of work what would fail after them."""
    from kullback.evaluation.tokens import decoder

    decoder(options.tokenizer)
    if options.html:
        from kullback.evaluation.report import check_library

        check_library()
    for path in (options.json, options.html, getattr(options, "per_token", None)):
        folder = os.path.dirname(path or "") or "."
        if path and path != "-" and not os.path.isdir(folder):
            raise ValueError(f"{path}: there is no folder {folder}")


def _deliver(summaries: list[Any], options: argparse.Namespace) -> int:
    """Print and write the results."""
    from kullback.evaluation.sources.convert import atomic_file
    from kullback.evaluation.statistics import WorstTokens
    from kullback.evaluation.terminal import print_summaries
    from kullback.evaluation.tokens import decoder

    decode = decoder(options.tokenizer)
    for summary in summaries:
        worst_tokens = summary.parts.get("worst_tokens")
        if decode is not None and isinstance(worst_tokens, WorstTokens):
            worst_tokens.add_text(decode)
    trees = [summary.to_dict() for summary in summaries]
    tree = trees[0] if len(trees) == 1 else {"p": trees[0].get("p"), "candidates": trees}
    text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if options.json and options.json != "-":
        with atomic_file(options.json) as file:
            file.write(text.encode())
    if options.html:
        from kullback.evaluation.report import write_report

        write_report(summaries, options.html)
    if options.json == "-":
        sys.stdout.write(text)
    else:
        print_summaries(summaries)
    worst = max(summary.kl.mean for summary in summaries)
    if options.fail_above is not None and not worst <= options.fail_above:
        print(f"kullback: KL(p‖q) is {worst:.6g}, above {options.fail_above:g}", file=sys.stderr)
        return ABOVE
    return DONE


def _merge(options: argparse.Namespace) -> int:
    from kullback.evaluation.merging import merge_logs

    _check_outputs(options)
    return _deliver(merge_logs(options.parts), options)


def _info(options: argparse.Namespace) -> int:
    from kullback.evaluation.sources import LlamaCppLogits, open_logits, open_sparse
    from kullback.evaluation.terminal import print_facts

    if _is_json(options.file):
        facts = open_sparse(options.file).facts()
    else:
        with open_logits(options.file, **_reader_options(options)) as source:
            facts = source.check() if isinstance(source, LlamaCppLogits) else source.facts()
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_facts(facts)
    return DONE


def _is_json(path: str) -> bool:
    if os.path.isdir(path) or "://" in path:
        return False
    with open(path, "rb") as file:
        return file.read(64).lstrip()[:1] in (b"{", b"[")


def _convert(options: argparse.Namespace) -> int:
    from kullback.evaluation.sources import open_logits
    from kullback.evaluation.sources.convert import convert

    with (
        open_logits(options.source, **_reader_options(options)) as source,
        _progress(options.quiet) as progress,
    ):
        convert(source, options.target, dtype=options.to_dtype, progress=progress)
    return DONE


def _bench(options: argparse.Namespace) -> int:
    from kullback.evaluation.bench import quick_bench

    quick_bench(options.rows, options.vocab_size, options.threads)
    return DONE


# ------------------------------------------------------------------------------------------------------- progress


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, or a line a minute where that is no terminal."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from kullback.evaluation.sources.base import library

        console: Any = library("rich.console", "the progress bar").Console(stderr=True)
        bars: Any = library("rich.progress", "the progress bar")
        columns = (
            bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[rate]}"),
            bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(elapsed_when_finished=True),
        )  # fmt: skip
        with bars.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None, rate="")
            first: list[tuple[float, int]] = []

            def report(done: int, total: int) -> None:
                first.append((time.monotonic(), done)) if not first else None
                seconds = time.monotonic() - first[0][0]
                rate = f"{(done - first[0][1]) / seconds:,.0f} rows/s" if seconds > 0.2 else ""
                bar.update(task, completed=done, total=total, rate=rate)

            yield report


class _Lines:
    """Progress in a log: at most a line a minute."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._every = seconds
        self._begun: tuple[float, int] | None = None
        self._next = time.monotonic() + seconds

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
        if now < self._next:
            return
        self._next = now + self._every
        rate = (done - self._begun[1]) / max(now - self._begun[0], 1e-9)
        left = f", {(total - done) / rate / 60:.0f} min left" if rate > 0 else ""
        print(f"kullback: {done} of {total} rows, {rate:,.0f} rows/s{left}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
