"""How far a job is, on standard error: a bar, or a line a minute. Progress that cannot be shown stops no job."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kullback.evaluation.text import visible

__all__ = ["Lines", "progress", "say"]


def say(message: object) -> None:
    """A line on standard error, if there is somebody to read it."""
    with suppress(OSError, ValueError):  # closed, or a full disk
        print(f"kullback: {visible(' '.join(str(message).split()))}", file=sys.stderr, flush=True)


@contextmanager
def progress(quiet: bool, begun: str = "", unit: str = "rows") -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error, or a line a minute where that is no terminal or rich is missing.

    `begun`: the checkpoint of a job that may go on; the first report says where it does. `unit`: what is counted.
    """
    if quiet:
        yield None
        return
    bars = None
    with suppress(ImportError):
        if sys.stderr is not None and sys.stderr.isatty():
            bars = importlib.import_module("rich.progress")
    if bars is None:
        yield _Begun(begun, Lines(unit=unit))
        return
    with _bar(bars, unit) as report:
        yield _Begun(begun, report)


@contextmanager
def _bar(bars: Any, unit: str) -> Iterator[Callable[[int, int], None]]:
    console = importlib.import_module("rich.console").Console(stderr=True)
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
            rate = f"{(done - first[0][1]) / seconds:,.0f} {unit}/s" if seconds > 0.2 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield report


class _Begun:
    """Says at the first report where a resumed job goes on."""

    def __init__(self, log: str, report: Callable[[int, int], None]) -> None:
        self._log, self._report = log, report

    def __call__(self, done: int, total: int) -> None:
        if self._log:
            at = f"goes on after {done} of {total} rows" if done else "holds no rows yet: the job begins"
            say(f"{self._log} {at}")
            self._log = ""
        self._report(done, total)


class Lines:
    """Progress in a log: at most a line a minute."""

    def __init__(self, seconds: float = 60.0, unit: str = "rows") -> None:
        self._every, self._unit = seconds, unit
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
        say(f"{done} of {total} {self._unit}, {rate:,.0f} {self._unit}/s{left}")
