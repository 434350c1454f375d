"""Parts of a job that ran apart: saved, and brought together to the bits of the job in one piece."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache

import numpy as np

from kullback.evaluation.outputs import PART_MARK, atomic_file
from kullback.evaluation.sources.files import LocalFile
from kullback.rollouts.adding import add_batch
from kullback.rollouts.batches import RolloutBatch
from kullback.rollouts.job import begin
from kullback.rollouts.logs import Logs
from kullback.rollouts.report import RolloutReport, merged
from kullback.rollouts.state import classes_in, decoded, encoded

__all__ = ["is_part", "merge_parts", "save_part"]


def save_part(report: RolloutReport, path: str | os.PathLike[str]) -> None:
    """Write what `merge_parts` needs of a report.

    Parameters
    ----------
    report : RolloutReport
        Of `audit_files`, with `part=` as a rule.
    path : path-like
        The file, which appears when it is complete.
    """
    tree = encoded(report, _classes())
    with atomic_file(os.fspath(path)) as file:
        file.write(b"{" + PART_MARK + b": " + json.dumps(tree, allow_nan=False).encode() + b"}\n")


@cache
def _classes() -> frozenset[type]:
    """What reports consist of: the classes in one of a single token."""
    report = begin(Logs((), ("step",)), [])
    batch = RolloutBatch(np.zeros(1), np.zeros(1), np.array([0, 1]), labels={"step": [0]}, rows=np.zeros(1, np.int64))
    report.audit = add_batch(report, batch)
    report.settle()
    return frozenset(classes_in(report))


def is_part(path: str | os.PathLike[str]) -> bool:
    """Whether `save_part` wrote it."""
    return not os.path.isdir(path) and LocalFile(path).read(64).startswith(b"{" + PART_MARK)


def merge_parts(paths: Sequence[str | os.PathLike[str]], *, partial: bool = False) -> RolloutReport:
    """The report of a job whose parts `save_part` wrote.

    Parameters
    ----------
    paths : sequence of path-like
        In any order.
    partial : bool
        Merge what there is although parts are missing; the report says so.

    Returns
    -------
    RolloutReport
        With the bits of the job done in one piece.

    Raises
    ------
    ValueError
        If a file is no part, or the parts are of different jobs, overlap or are not all there.
    """
    reports = []
    for path in paths:
        name = os.fspath(path)
        if not is_part(path):
            raise ValueError(f"{name}: no part that --save wrote; parts and logs cannot be read together")
        try:
            file = LocalFile(path)
            (tree,) = json.loads(file.read(file.size)).values()
            report = decoded(tree, _classes())
            reports.append(report.merge())  # which looks at all there is of it
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(f"{name}: a damaged part of a job ({str(error)[:80]})") from None
    whole = merged(reports)
    if whole.missing and not partial:
        raise ValueError(
            f"incomplete: {whole.missing} of {whole.facts['pieces']} pieces of the files are in none of the parts; "
            "name them all, or merge what there is with `partial=True`"
        )
    return whole
