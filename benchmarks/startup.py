"""What a fresh process pays: the import, and the first result of each engine."""

import os
import statistics
import subprocess
import sys

IMPORT = """
import time, numpy
start = time.perf_counter()
import kullback
print(time.perf_counter() - start)
"""
FIRST_RESULT = """
import time
start = time.perf_counter()
import numpy, kullback
rows = numpy.linspace(0, 1, 2048, dtype=numpy.float32).reshape(2, 1024)
kullback.compare(rows, rows[::-1])
print(time.perf_counter() - start)
"""
NUMPY = """
import time
start = time.perf_counter()
import numpy
print(time.perf_counter() - start)
"""


def fresh(program, samples, **environment):
    """Median and least of the seconds that `program` prints, each in a process of its own."""
    found = [
        float(
            subprocess.run(
                [sys.executable, "-c", program],
                env=os.environ | environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for _ in range(samples)
    ]
    return {"median": statistics.median(found), "least": min(found), "samples": samples}


def measure(cache, samples=7):
    """Seconds by what is started; `cache`: an empty directory for what the jit engine keeps."""
    found = {
        "import numpy": fresh(NUMPY, samples),
        "import kullback, after numpy": fresh(IMPORT, samples),
    }
    import kullback

    if kullback.get_engine() == "compiled":
        found["first result, compiled engine"] = fresh(FIRST_RESULT, samples, KULLBACK_ENGINE="compiled")
    jit = {"KULLBACK_ENGINE": "jit", "NUMBA_CACHE_DIR": cache}
    found["first result, jit engine, nothing cached"] = fresh(FIRST_RESULT, 1, **jit)
    found["first result, jit engine, cached"] = fresh(FIRST_RESULT, samples, **jit)
    return found
