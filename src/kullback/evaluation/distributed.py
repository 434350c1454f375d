"""The same comparison on a Dask cluster: ranges of rows to workers, their summaries merged in a tree.

A task opens the files itself (every worker must see them under the same path or URL), compares its rows and returns a
summary, about 100 bytes a token. Summaries merge to the same bits in any order, and a task that is lost with its
worker is done again elsewhere: the result does not depend on the cluster.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from kullback._engine import library
from kullback.comparison import CandidateComparison, ComparisonSummary, compare
from kullback.evaluation.arguments import READER_OPTIONS
from kullback.evaluation.candidates import named
from kullback.evaluation.job import Job, compare_candidates
from kullback.evaluation.own_options import resolved
from kullback.evaluation.reading import CHUNK_BYTES
from kullback.evaluation.sources import Source, open_each
from kullback.evaluation.sources.streams import refuse_streams
from kullback.evaluation.statistics import EXACT_TOKENS

__all__ = ["client_of", "compare_arrays", "compare_on_cluster", "merged_on", "wait_for_worker"]

# of all files together: some seconds of work, so that little is lost with a worker and the scheduler is idle
_TASK_BYTES = 2 << 30
_MERGED_AT_ONCE = 8
# how long a job waits for the first worker of a cluster, which would otherwise be for ever
WORKER_SECONDS = 60

Path = str | os.PathLike[str]


def compare_on_cluster(
    p_path: Path,
    q_paths: Mapping[str, Path] | Sequence[Path],
    *,
    scheduler: Any = None,
    rows_per_task: int | None = None,
    rows: tuple[int, int] | None = None,
    num_threads: int | None = None,
    warn: Callable[[str], None] | None = None,
    **options: Any,
) -> CandidateComparison:
    """`compare_candidates` on the workers of a Dask cluster.

    Parameters
    ----------
    p_path : path-like
        The base; workers open it under this name.
    q_paths : mapping of str to path-like, or sequence of path-like
        The candidates, as in `compare_candidates`.
    scheduler : str or distributed.Client, optional
        Address of the scheduler (`tcp://host:8786`), or a client; by default the client of this process.
    rows_per_task : int, optional
        By default as many as make 2 GiB of all files.
    rows : (start, stop), optional
    num_threads : int, optional
        Of a task; by default 1, as a worker runs as many tasks as it has threads.
    warn : callable, optional
        As in `compare_files`.
    **options
        Of `compare_candidates`, without `checkpoint`, `resume`, `per_token` and `progress`.

    Returns
    -------
    CandidateComparison
        With the bits that `compare_candidates` gives.

    Raises
    ------
    ValueError, OSError
        As `compare_candidates`; TimeoutError if the cluster has no worker for a minute.
    ImportError
        If dask or distributed is missing.
    """
    names = named(q_paths)
    paths = [os.fspath(path) for path in (p_path, *names.values())]
    refuse_streams(paths, "the tasks of a cluster open files")
    with ExitStack() as stack:
        client = client_of(stack, scheduler)
        readers = {name: options[name] for name in READER_OPTIONS if name in options}
        sources = open_each(stack, paths, resolved(options.get("read"), list(names)), **readers)
        checked = {name: x for name, x in options.items() if name not in (*readers, "read", "chunk_bytes")}
        job = Job.of(sources[0], sources[1:], rows=rows, **checked)  # errors appear here, not on a worker
        job = job.looked_at(warn, options.get("chunk_bytes", CHUNK_BYTES))
        wait_for_worker(client)
        step = rows_per_task or _rows_per_task(sources)
        ranges = [(start, min(start + step, job.stop)) for start in range(job.start, job.stop, step)]
        futures = [
            client.submit(_compare_range, paths, list(names), r, num_threads, options, pure=False, retries=5)
            for r in ranges or [(job.start, job.stop)]
        ]
        found: CandidateComparison = merged_on(client, futures, _merge)
        job.note(found.summaries)
        return found


def client_of(stack: ExitStack, scheduler: Any) -> Any:
    """A client of the cluster: the one given, that of this process, or one of an address, which `stack` closes."""
    distributed = library("distributed", "a cluster")
    if scheduler is None:
        return distributed.get_client()
    if not isinstance(scheduler, str):
        return scheduler
    if not re.search(r":\d+/?$", scheduler) and not scheduler.startswith("inproc://"):
        # the library says so too, but its threads then keep the process from ending
        raise ValueError(f"`scheduler` is {scheduler!r}, expected an address with a port (tcp://host:8786)")
    return stack.enter_context(distributed.Client(scheduler, set_as_default=False, timeout=30))


def merged_on(client: Any, futures: list[Any], merge: Callable[[Sequence[Any]], Any]) -> Any:
    """The results of all tasks, merged on the workers in a tree."""
    while len(futures) > 1:
        futures = [
            client.submit(merge, futures[i : i + _MERGED_AT_ONCE], pure=False, retries=5)
            for i in range(0, len(futures), _MERGED_AT_ONCE)
        ]
    return futures[0].result()


def wait_for_worker(client: Any) -> None:
    """TimeoutError if the cluster has no worker for a minute."""
    try:
        client.wait_for_workers(1, timeout=WORKER_SECONDS)
    except TimeoutError:
        address = client.scheduler.address if client.scheduler else "the scheduler"
        raise TimeoutError(f"{address} has no worker, and none came in {WORKER_SECONDS} s; start one") from None


def _rows_per_task(sources: Sequence[Source]) -> int:
    return max(1, _TASK_BYTES // sum(source.shape[1] * source.dtype.itemsize for source in sources))


def _compare_range(
    paths: Sequence[str], names: Sequence[str], rows: tuple[int, int], num_threads: int | None, options: dict[str, Any]
) -> CandidateComparison:
    """A task: the comparison of some rows."""
    if num_threads is None:
        num_threads = 1  # a worker with n threads runs n tasks side by side
    return compare_candidates(
        paths[0], dict(zip(names, paths[1:], strict=True)), rows=rows, num_threads=num_threads, **options
    )


def _merge(parts: Sequence[Any]) -> Any:
    """A task: neighbours together."""
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    merged.compact(EXACT_TOKENS)
    return merged


def compare_arrays(p: Any, q: Any, tokens: Any = None, *, groups: Any = None, **options: Any) -> ComparisonSummary:
    """The summary of `compare` of two Dask arrays, computed where their blocks are.

    Parameters
    ----------
    p, q : dask.array.Array, shape (T, V)
        p the reference. q is brought to the blocks of p's rows; the vocabulary becomes one block, as a row must be in
        one place.
    tokens, groups : array_like of int (T,), optional
        As in `compare` and `TokenComparison.summary`.
    **options
        Of `compare`: given, base, temperature, vocab_size, num_threads (by default 1, as blocks run side by side).

    Returns
    -------
    ComparisonSummary
        With the bits of `compare(p, q, tokens).summary(groups)` on the whole arrays.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, and as `compare`.
    ImportError
        If dask is missing.

    Examples
    --------
    >>> import dask.array as da, numpy as np, kullback as kb
    >>> p = np.arange(24.0).reshape(6, 4) % 5
    >>> s = compare_arrays(da.from_array(p, chunks=(2, 4)), da.from_array(p[::-1], chunks=(3, 2)))
    >>> s == kb.compare(p, p[::-1].copy()).summary()
    True
    """
    dask, array = library("dask", "a cluster"), library("dask.array", "a cluster")
    p, q = array.asarray(p), array.asarray(q)
    if p.ndim != 2 or q.ndim != 2 or p.shape[0] != q.shape[0]:
        raise ValueError(f"`q` has shape {q.shape}, expected (T, V) with as many rows as `p`, {p.shape}")
    p = p.rechunk({1: -1})
    q = q.rechunk((p.chunks[0], -1))
    columns = {"tokens": tokens, "groups": groups}
    for name, column in columns.items():
        if column is not None and np.shape(column) != (p.shape[0],):
            raise ValueError(f"`{name}` has shape {np.shape(column)}, expected ({p.shape[0]},)")
    options = {"num_threads": 1} | options
    edges = np.concatenate([[0], np.cumsum(p.chunks[0])]).tolist()
    blocks = zip(p.to_delayed().ravel(), q.to_delayed().ravel(), edges, edges[1:], strict=False)
    parts = [
        dask.delayed(_compare_blocks)(
            a, b, *(None if c is None else np.asarray(c)[i:j] for c in columns.values()), options
        )
        for a, b, i, j in blocks
    ]
    while len(parts) > 1:
        parts = [dask.delayed(_merge)(parts[i : i + _MERGED_AT_ONCE]) for i in range(0, len(parts), _MERGED_AT_ONCE)]
    summary: ComparisonSummary = dask.compute(parts[0])[0]
    return summary


def _compare_blocks(p: Any, q: Any, tokens: Any, groups: Any, options: dict[str, Any]) -> ComparisonSummary:
    """A task: the summary of one block of rows."""
    return compare(np.ascontiguousarray(p), np.ascontiguousarray(q), tokens, **options).summary(groups)
