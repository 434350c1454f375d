"""Files to a report: batches are audited one after the other, or in several processes, and merged to the same bits."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise

import numpy as np

from kullback._engine import keywords
from kullback.rlhf import AuditReport, audit
from kullback.rollouts.adding import add_batch
from kullback.rollouts.batches import RolloutBatch
from kullback.rollouts.logs import Logs, Path, Piece, find_logs
from kullback.rollouts.report import RolloutReport, merged
from kullback.rollouts.series import Series

__all__ = ["audit_files", "audit_pieces", "begin", "read_rollouts", "share_of", "tasks_of"]

_TASKS = 4  # a process gets so many in turn, so that all end at about the same time
_WAITING = 8  # audits of batches that are merged at once
_MOST_CONTEXTS = 1 << 13


def read_rollouts(
    paths: Path | Sequence[Path],
    *,
    preset: str | None = None,
    fields: Mapping[str, str] | Iterable[str] | None = None,
    by: Sequence[str] | None = None,
) -> Iterator[RolloutBatch]:
    """The sequences of a run's logs, packed, some at a time.

    Parameters
    ----------
    paths, preset, fields, by
        As in `audit_files`.

    Yields
    ------
    RolloutBatch
        Log-probs of both sides, offsets, mask, tokens, labels; `skipped` counts what was left out between.

    Raises
    ------
    ValueError, OSError, ImportError
        As `audit_files`.

    Examples
    --------
    >>> import json, os, tempfile
    >>> row = {"rollout": [-0.5, -1.0, -0.25], "train": [-0.5, -1.125, -0.25], "mask": [0, 1, 1], "step": 7}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "log.jsonl")
    ...     with open(path, "w") as file:
    ...         print(json.dumps(row), json.dumps({"step": 8}), sep="\\n", file=file)
    ...     (batch,) = read_rollouts(path)
    >>> batch.train, batch.labels, batch.skipped.reasons
    (array([-0.5  , -1.125, -0.25 ]), {'step': [7]}, {'no rollout log-probs': (1, 0, 1)})
    """
    logs = find_logs(paths, preset, fields, by)
    pieces = logs.pieces()
    for span in logs.spans(pieces, range(len(pieces))).values():
        for batch, _ in logs.batches(span):
            yield batch


def audit_files(
    paths: Path | Sequence[Path],
    *,
    preset: str | None = None,
    fields: Mapping[str, str] | Iterable[str] | None = None,
    by: Sequence[str] | None = None,
    part: tuple[int, int] | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RolloutReport:
    """Audit the log-probs in the logs of an RL run: what is wrong, where, and how far rollout and train are apart.

    Parameters
    ----------
    paths : path-like or sequence of path-like
        JSON lines (also .gz or .zst), Parquet, Arrow IPC, .npz, what `torch.save` or `pickle.dump` wrote; folders of
        them.
    preset : {"nemo_rl", "prime_rl", "verl", "trl", "slime"}, optional
        Whose fields they have; by default the one that fits.
    fields : mapping or iterable of "role=field", optional
        Fields by role: rollout, train, mask, tokens, rollout_entropy, train_entropy, keep, reward, step, env, worker.
        They go before those of the preset.
    by : sequence of str, optional
        Roles or fields to break results down by; by default step, env and worker, as far as there.
    part : (int, int), optional
        The i-th of n parts of the job, from 1: reports of all parts merge to that of the job, to the bit.
    processes : int
        Read and audit in so many. More than one start as `multiprocessing` does with "spawn": a script needs its
        `if __name__ == "__main__":`.
    progress : callable, optional
        Called with (bytes done, bytes of all).

    Returns
    -------
    RolloutReport
        `str` prints it, `to_dict` is for JSON.

    Raises
    ------
    ValueError
        If no file has log-probs of both sides (the message says what there is), or one cannot be read as its kind.
        Rows that are cut, broken or without the fields raise nothing: they are counted in `skipped`.
    OSError
        If a file cannot be read.
    ImportError
        If a format needs a library that is not installed.

    Notes
    -----
    Memory: a few blocks of lines or of a table's rows, and some 400 bytes a sequence; .npz and .pt files are read
    whole, one at a time.

    Examples
    --------
    >>> import json, os, tempfile
    >>> rows = [{"rollout": [-0.5, -1.0], "train": [-0.5, -1.125], "step": step} for step in (1, 1, 2)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "log.jsonl")
    ...     with open(path, "w") as file:
    ...         print(*map(json.dumps, rows), '{"rollout": [-0.5, -', sep="\\n", end="", file=file)
    ...     report = audit_files(path)
    >>> report.total.sequences, report.skipped.reasons, list(report.by["step"].points)
    (3, {'truncated last line': (1, 0, 3)}, [1, 2])
    """
    logs = find_logs(paths, preset, fields, by)
    processes = keywords.whole(processes, "processes", 1)
    pieces = logs.pieces()
    mine = share_of(len(pieces), part)
    total, done = sum(pieces[i].size for i in mine), 0

    def advanced(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    tasks = tasks_of(mine, processes * _TASKS if processes > 1 else 1)
    rows = logs.rows_before(pieces, [task[0] for task in tasks])
    if processes == 1 or len(mine) < 2:
        return audit_pieces(logs, pieces, mine, rows, advanced)
    return _in_processes(min(processes, len(tasks)), logs, pieces, tasks, rows, advanced)


def _in_processes(
    count: int,
    logs: Logs,
    pieces: Sequence[Piece],
    tasks: Sequence[Sequence[int]],
    rows: Mapping[int, int],
    advanced: Callable[[int], None],
) -> RolloutReport:
    """The tasks in so many processes, which end with this call, however it ends.

    An interrupt waits for the tasks that have begun: a process ended amid its answer would be waited for without end.
    """
    context = multiprocessing.get_context("spawn")
    reports = []
    with ProcessPoolExecutor(count, context, initializer=_leave_interrupts) as pool:
        try:
            futures = {pool.submit(audit_pieces, logs, pieces, task, rows): task for task in tasks}
            for future in as_completed(futures):
                reports.append(future.result())
                advanced(sum(pieces[i].size for i in futures[future]))
        except BaseException as error:
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise OSError(
                    "a process that read the logs was killed, perhaps for its memory: read in fewer `processes`"
                ) from None
            raise
    return merged(reports)


def _leave_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal: one of them answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def share_of(count: int, part: tuple[int, int] | None) -> list[int]:
    """The numbers of the pieces that belong to a part."""
    if part is None:
        return list(range(count))
    number, of = (keywords.whole(x, "part", 1) for x in part)
    if number > of:
        raise ValueError(f"`part` is {(number, of)}, expected the i-th of n parts, from 1 to n")
    return list(range(count * (number - 1) // of, count * number // of))


def begin(logs: Logs, pieces: Sequence[Piece]) -> RolloutReport:
    """A report of nothing yet."""
    facts = {
        "files": [
            {"path": log.path, "kind": log.kind, "bytes": log.size, "preset": log.fields.preset or None,
             "fields": dict(log.fields.names)}
            for log in logs.files
        ],
        "by": list(logs.labels),
        "left_out_files": [{"path": path, "reason": reason} for path, reason in logs.left_out],
        "pieces": len(pieces),
    }  # fmt: skip
    report = RolloutReport(audit(np.empty(0), np.empty(0), offsets=[0]), facts)
    report.by = {label: Series() for label in logs.labels}
    return report


def tasks_of(numbers: Sequence[int], count: int) -> list[list[int]]:
    """The numbers in so many runs of neighbours, or fewer: what lies before a run is then counted once."""
    edges = [len(numbers) * i // count for i in range(count + 1)]
    return [list(numbers[i:j]) for i, j in pairwise(edges) if j > i]


class _Audits:
    """Reports of batches, merged eight at a time and these again: the table of sequences is not copied for each."""

    def __init__(self) -> None:
        self._levels: list[list[AuditReport]] = []

    def add(self, report: AuditReport, level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append([])
        here = self._levels[level]
        here.append(report)
        if len(here) == _WAITING:
            self._levels[level] = []
            self.add(here[0].merge(*here[1:]), level + 1)

    def all(self) -> list[AuditReport]:
        return [report for level in self._levels for report in level]


def audit_pieces(
    logs: Logs,
    pieces: Sequence[Piece],
    numbers: Sequence[int],
    rows: Mapping[int, int],
    advanced: Callable[[int], None] | None = None,
) -> RolloutReport:
    """The report of some pieces of the files; `rows`: of `rows_before`, at least for the first of neighbours."""
    report = begin(logs, pieces)
    audits = _Audits()
    for number, span in logs.spans(pieces, numbers).items():
        for batch, size in logs.batches(span, rows.get(number, 0)):
            report.skipped.merge(batch.skipped)
            if batch.sequences:
                audits.add(add_batch(report, batch))
                if len(report.contexts) > _MOST_CONTEXTS:
                    report.keep_contexts(audits.all())
            if advanced is not None:
                advanced(size)
    report.pieces = sorted(numbers)
    report.audit = report.audit.merge(*audits.all())
    report.settle()
    return report
