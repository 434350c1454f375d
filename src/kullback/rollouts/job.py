"""Files to a report: batches are audited one after the other, or in several processes, and merged to the same bits."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords
from kullback.rlhf import AuditReport, WhatIf, audit, what_if
from kullback.rollouts.batches import RolloutBatch
from kullback.rollouts.logs import Logs, Path, Piece, find_logs
from kullback.rollouts.report import RolloutReport, merged, sequence_id
from kullback.rollouts.series import Series, sums_of

__all__ = ["audit_files", "audit_pieces", "begin", "read_rollouts", "share_of"]

CONTEXT = 12  # ids before a worst token that are kept
_TASKS = 4  # a process gets so many in turn, so that all end at about the same time
_WAITING = 8  # audits of batches that are merged at once


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
    for piece in logs.pieces():
        for batch, _ in logs.batches(piece):
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
        JSON lines (also .gz or .zst), Parquet, Arrow IPC, .npz, or what `torch.save` wrote; folders of them.
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
        ParsedRows that are cut, broken or without the fields raise nothing: they are counted in `skipped`.
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

    if processes == 1 or len(mine) < 2:
        return audit_pieces(logs, pieces, mine, advanced)
    tasks = [mine[i :: processes * _TASKS] for i in range(min(len(mine), processes * _TASKS))]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(tasks)), context) as pool:
        futures = {pool.submit(audit_pieces, logs, pieces, task): task for task in tasks}
        reports = []
        try:
            for future in as_completed(futures):
                reports.append(future.result())
                advanced(sum(pieces[i].size for i in futures[future]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return merged(reports)


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


def audit_pieces(
    logs: Logs, pieces: Sequence[Piece], numbers: Sequence[int], advanced: Callable[[int], None] | None = None
) -> RolloutReport:
    """The report of some pieces of the files."""
    report = begin(logs, pieces)
    audits: list[AuditReport] = [report.audit]
    for number in numbers:
        for batch, size in logs.batches(pieces[number]):
            report.skipped.merge(batch.skipped)
            if batch.sequences:
                audits.append(add_batch(report, batch))
                if len(audits) > _WAITING:
                    audits = [audits[0].merge(*audits[1:])]
            if advanced is not None:
                advanced(size)
        report.pieces.append(number)
    report.audit = audits[0].merge(*audits[1:])
    report.settle()
    return report


def add_batch(report: RolloutReport, batch: RolloutBatch) -> AuditReport:
    """The audit of a batch; its other figures are added to the report."""
    ids = sequence_id(batch.file, batch.rows)
    found = audit(
        batch.rollout, batch.train, batch.mask, offsets=batch.offsets, tokens=batch.tokens,
        sources=batch.labels.get("worker") or batch.labels.get("env"), rollout_entropy=batch.rollout_entropy,
        train_entropy=batch.train_entropy, rewards=batch.reward, sequence_ids=ids,
        length_differences=batch.length_differences,
    )  # fmt: skip
    sound = found.sound
    assert sound is not None
    log_ratio = batch.train[sound] - batch.rollout[sound]
    starts = batch.offsets[:-1]
    counted = np.ones(batch.rollout.size, bool) if batch.mask is None else batch.mask
    lengths = np.add.reduceat(counted, starts, dtype=np.int64).astype(np.float64)
    report.add(batch.labels, sums_of(batch, sound, log_ratio, starts), lengths, batch.reward)
    begins, classes = _positions(batch, counted)
    report.by_position.add(classes, sums_of(batch, sound, log_ratio, begins))
    report.what_if = _tried(batch, sound, report.what_if)
    if batch.tokens is not None:
        _keep_contexts(batch, ids, found, report)
    return found


def _positions(batch: RolloutBatch, counted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[int | None]]:
    """Where classes of position begin, and what each begins with: 0, 1, 3, 7, ... counted tokens into the answer.

    Classes double: a class of a sequence is one draw of what there is at such places.
    """
    starts = batch.offsets[:-1]
    before: NDArray[np.int64] = np.cumsum(counted) - counted
    places: NDArray[np.int64] = before - np.repeat(before[starts], np.diff(batch.offsets))
    kind = np.frexp(places + 1.0)[1] - 1
    new = np.diff(kind, prepend=-1) != 0
    new[starts] = True
    begins = np.flatnonzero(new)
    some = np.add.reduceat(counted, begins, dtype=np.int64) > 0
    return begins, [
        (1 << k) - 1 if any_ else None for k, any_ in zip(kind[begins].tolist(), some.tolist(), strict=True)
    ]


# what a report tries, of all that `what_if` does by default: each costs time in proportion to the tokens
_SETTINGS = (
    ("none",), ("tis", 2.0), ("icepop", (0.5, 2.0)), ("tis", "sequence", 2.0), ("seq_mean_k1", 1.001),
    ("seq_max_k3", 0.1), ("dppo_tv", 0.2),
)  # fmt: skip


def _tried(batch: RolloutBatch, sound: NDArray[np.bool_], before: WhatIf | None) -> WhatIf:
    """What weights and masks would do, with that of the batches before."""
    table = what_if(batch.rollout, batch.train, sound, batch.offsets, settings=_SETTINGS, nan_policy="omit")
    return table if before is None else before.merge(table)


def _keep_contexts(batch: RolloutBatch, ids: NDArray[np.int64], found: AuditReport, report: RolloutReport) -> None:
    """The ids up to each of the worst tokens."""
    worst = found.worst_tokens
    assert batch.tokens is not None
    for sequence, position in zip(worst["sequence"].tolist(), worst["position"].tolist(), strict=True):
        row = int(np.searchsorted(ids, sequence))  # rows of a file rise
        begin, end = int(batch.offsets[row]), int(batch.offsets[row]) + position + 1
        report.contexts[sequence, position] = batch.tokens[max(begin, end - CONTEXT) : end].tolist()
