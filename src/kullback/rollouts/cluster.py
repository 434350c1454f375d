"""The same audit on a Dask cluster: pieces of files to workers, their reports merged in a tree, to the same bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from kullback.evaluation.distributed import client_of, merged_on, wait_for_worker
from kullback.rollouts.job import audit_pieces, share_of, tasks_of
from kullback.rollouts.logs import Path, find_logs
from kullback.rollouts.report import RolloutReport, merged

__all__ = ["audit_on_cluster"]

_TASK_BYTES = 256 << 20  # some seconds of work: little is lost with a worker, and the scheduler is idle


def audit_on_cluster(
    paths: Path | Sequence[Path],
    *,
    scheduler: Any = None,
    preset: str | None = None,
    fields: Mapping[str, str] | Iterable[str] | None = None,
    by: Sequence[str] | None = None,
    part: tuple[int, int] | None = None,
) -> RolloutReport:
    """`audit_files` on the workers of a Dask cluster.

    Parameters
    ----------
    paths : path-like or sequence of path-like
        Workers open them under these names.
    scheduler : str or distributed.Client, optional
        Address of the scheduler (`tcp://host:8786`), or a client; by default the client of this process.
    preset, fields, by, part
        As in `audit_files`.

    Returns
    -------
    RolloutReport
        With the bits that `audit_files` gives.

    Raises
    ------
    ValueError, OSError
        As `audit_files`; TimeoutError if the cluster has no worker for a minute.
    ImportError
        If dask or distributed is missing.
    """
    with ExitStack() as stack:
        client = client_of(stack, scheduler)
        logs = find_logs(paths, preset, fields, by)
        pieces = logs.pieces()
        mine = share_of(len(pieces), part)
        tasks = tasks_of(mine, max(1, sum(pieces[i].size for i in mine) // _TASK_BYTES)) or [[]]
        rows = logs.rows_before(pieces, [task[0] for task in tasks if task])
        wait_for_worker(client)
        futures = [client.submit(audit_pieces, logs, pieces, task, rows, pure=False, retries=5) for task in tasks]
        found: RolloutReport = merged_on(client, futures, merged)
        return found
