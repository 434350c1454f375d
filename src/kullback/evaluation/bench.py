"""A quick look at what this machine does: compare on synthetic logits, against its own reading rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from kullback import compare
from kullback._engine import engine

__all__ = ["quick_bench"]

_SECONDS = 1.0


def quick_bench(rows: int, vocab: int, num_threads: int | None) -> None:
    """Print rows/s and GB/s of `compare` for each storage, and the rate at which these threads read memory."""
    threads = engine.thread_count(num_threads)
    rng = np.random.default_rng(0)
    p = rng.standard_normal((rows, vocab), dtype=np.float32) * 3
    q = p + rng.standard_normal((rows, vocab), dtype=np.float32) * np.float32(0.03)
    np.testing.assert_array_equal(compare(p[:1], p[:1]).kl, 0.0)

    def read(start: int, stop: int) -> None:
        p[start:stop].max()
        q[start:stop].max()

    def read_all() -> list[Any]:
        return engine.over_rows(read, rows, 8 * vocab, threads)

    print(f"{rows} pairs of rows of {vocab}, {threads} threads, engine {engine.get_engine()}")
    print(f"reading memory  {2 * p.nbytes / _best(read_all) / 1e9:7.1f} GB/s")
    for dtype in ("float32", "float16"):
        a, b = p.astype(dtype), q.astype(dtype)
        seconds = _best(lambda a=a, b=b: compare(a, b, acceptance=False, num_threads=threads))  # type: ignore[misc]
        print(f"compare {dtype} {2 * a.nbytes / seconds / 1e9:7.1f} GB/s {rows / seconds:12,.0f} rows/s")


def _best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest call, repeated for a second."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < _SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
