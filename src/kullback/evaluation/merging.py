"""The parts of a job that was split over processes or machines, brought together from their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import flag, several
from kullback.comparison import CandidateComparison
from kullback.evaluation.candidates import Summing, names_of
from kullback.evaluation.checkpoint import Candidates, difference, read_job, read_log
from kullback.evaluation.columns import Plan
from kullback.evaluation.outputs import named_paths
from kullback.evaluation.parts import CONTEXT, position_width
from kullback.evaluation.plan import note_facts, note_labels

__all__ = ["merge_logs", "read_files"]


def read_files(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that the jobs of these checkpoints read; relative names lead there from the folder of the job."""
    found = []
    for path in paths:
        job = read_job(path)
        folder = job.get("folder")
        for name in named_paths(job):
            found.append(name if "://" in name or not isinstance(folder, str) else os.path.join(folder, name))
    return found


def merge_logs(paths: Sequence[str | os.PathLike[str]], *, partial: bool = False) -> CandidateComparison:
    """The summaries of the candidates, and their differences, of all rows in the checkpoints of one job's parts.

    Parameters
    ----------
    paths : sequence of path-like
        Checkpoints of `compare_files` calls that differ in `rows` only. Rows that several of them have count once.
    partial : bool
        Merge what there is although rows of the files are in none of the checkpoints: parts that were not done, not
        finished or not named. `facts["missing_rows"]` lists them.

    Returns
    -------
    CandidateComparison
        A summary a candidate, by the name that the job gave it or else that of its file, and their differences, with
        the bits of the job done in one piece; `facts["rows"]` says which rows there are.

    Raises
    ------
    ValueError
        If they are of different jobs, or rows are missing and `partial` does not allow it.
    """
    flag(partial, "partial")
    paths = several(paths, "paths", "a sequence of paths")
    try:
        return _merged(paths, partial)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        # records are whole and of their rows; what a job's writer would never put there is found where it is used
        listed = ", ".join(os.fspath(path) for path in paths)
        raise ValueError(f"{listed}: holds columns or settings of no job ({error!r})") from None


def _merged(paths: Sequence[str | os.PathLike[str]], partial: bool) -> CandidateComparison:
    identity: dict[str, Any] = {}
    records: list[tuple[int, int, Candidates]] = []
    origin = ""
    for path in paths:
        job, some = read_log(path)
        job.pop("rows")
        if not identity:
            identity, origin = job, os.fspath(path)
        differing = difference(_kept(job), _kept(identity), f"in {origin}")
        if differing:
            raise ValueError(f"{os.fspath(path)}: of another job than {origin} ({differing})")
        records += some
    records.sort(key=lambda record: record[:2])
    if not records:
        raise ValueError(f"{origin}: no rows in these checkpoints")
    targets = _targets(records)
    plan = Plan(**(identity["plan"] | {"top_k": tuple(identity["plan"]["top_k"])}))
    names = _names(identity)
    labelled = identity.get("by", {})
    labels = {one["name"]: tuple(one["labels"]) for one in labelled.get("sets", [])}
    summing = Summing(names, position_width(identity["longest_group"]), targets, labels)
    done, missing = 0, []
    for start, stop, candidates in [*records, (plan.rows, plan.rows, [])]:
        if start > done:
            missing.append([done, start])
            done = start
        if stop <= done:
            continue
        summing.add([{name: x[done - start :] for name, x in columns.items()} for columns in candidates])
        done = stop
    if missing and not partial:
        listed = ", ".join(f"{a} to {b}" for a, b in missing[:4]) + (", ..." if len(missing) > 4 else "")
        raise ValueError(
            f"incomplete: rows {listed} of {plan.rows} are in none of the checkpoints; finish or name the missing "
            "parts, or merge what there is with --partial (partial=True)"
        )
    rows = min(record[0] for record in records), max(record[1] for record in records)
    found = summing.finish()
    for q, summary in zip(identity["q"], found.values(), strict=True):
        note_facts(summary, identity["p"], q, plan, rows)
        note_labels(summary, labelled)
        if missing:
            summary.facts["missing_rows"] = missing
    return found


def _names(identity: Mapping[str, Any]) -> list[str]:
    """Of the candidates, as the job was given them, or by their files."""
    found = identity.get("names", names_of([q["path"] for q in identity["q"]]))
    if not all(isinstance(name, str) for name in found) or not len(set(found)) == len(found) == len(identity["q"]):
        raise TypeError(f"names {found!r}")
    return list(found)


def _targets(records: Sequence[tuple[int, int, Candidates]]) -> NDArray[np.int64] | None:
    """The tokens of all rows up to the last one; -1 where there are none."""
    if "token" not in records[0][2][0]:
        return None
    # pages before the first row are never touched: a part far down in its job costs no more than another
    targets = np.empty(max(stop for _, stop, _ in records), np.int64)
    targets[max(0, records[0][0] - CONTEXT) :] = -1
    for start, stop, candidates in records:
        targets[start:stop] = candidates[0]["token"]
    return targets


def _kept(value: Any) -> Any:
    """Without what depends on how far a file was read or when it was copied."""
    if isinstance(value, dict):
        return {
            name: _kept(x) for name, x in value.items()
            if name not in ("rows_read", "clipped_targets", "window", "stamp", "path", "folder")
        }  # fmt: skip
    return [_kept(x) for x in value] if isinstance(value, list) else value
