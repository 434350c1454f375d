"""What the machine is and how fast it reads memory."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "torch", "jax", "simsimd", "numkong")


def processor():
    """The model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name


def vectors():
    """The widest vector instructions the processor reports."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    return next((name for name in ("avx512f", "avx2", "asimd") if f" {name} " in text), platform.machine())


def installed(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts():
    """What every result stands beside."""
    import kullback

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "vectors": vectors(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kullback": installed("kullback"),
        "engine": kullback.get_engine(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "load_before": load(),
    }


def load():
    """Load average of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------ read bandwidth


@cache
def _dot():
    import numba

    @numba.njit(nogil=True, fastmath=True)
    def dot(a, b):
        total = 0
        for i in range(a.shape[0]):
            total += a[i] & b[i]
        return total

    return dot


_pool = ThreadPoolExecutor(max(2, os.cpu_count() or 1))


def read(arrays, threads):
    """Read each array once, in order, with nothing to compute but one `and` and one `add` a word.

    Two streams a thread, like the kernels that read two arrays; this is the roof that no kernel can go through.
    """
    words = [x.reshape(-1).view(np.int64) for x in arrays]
    first, second = words if len(words) == 2 else np.split(words[0][: words[0].size // 2 * 2], 2)
    step = -(-first.size // threads)
    parts = [(first[i : i + step], second[i : i + step]) for i in range(0, first.size, step)]
    helpers = [_pool.submit(_dot(), *part) for part in parts[1:]]
    return sum([_dot()(*parts[0]), *(helper.result() for helper in helpers)])
