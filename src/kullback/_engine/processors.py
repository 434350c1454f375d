"""How many threads a call uses where it is not told."""

import contextlib
import os
from pathlib import Path


def _cgroup_cores() -> float:
    """The CPU quota of this process's cgroup, in cores; inf where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return float("inf") if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        base = Path("/sys/fs/cgroup/cpu")
        quota_us = int((base / "cpu.cfs_quota_us").read_text())
        return quota_us / int((base / "cpu.cfs_period_us").read_text()) if quota_us > 0 else float("inf")
    return float("inf")


def _number_of_threads(text: str) -> int | None:
    """What a thread variable says; None where it is not a whole number from 1."""
    text = text.split(",")[0].strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) >= 1 else None


def choose() -> tuple[int, str]:
    """(number of threads, what of the environment was ignored)."""
    if wish := os.environ.get("KULLBACK_NUM_THREADS", "").strip():
        number = _number_of_threads(wish)
        if number is None:
            raise ValueError(f"KULLBACK_NUM_THREADS is {wish!r}, expected a whole number from 1")
        return number, ""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    number = min(affinity, max(1, round(min(_cgroup_cores(), 1e6))))
    other = os.environ.get("OMP_NUM_THREADS", "").strip()
    limit = _number_of_threads(other)
    if other and limit is None:  # "auto" and 0 mean something to other programs: no reason to stop
        return number, f" (OMP_NUM_THREADS is {other!r}, no whole number from 1: ignored)"
    return min(number, limit or number), ""
