"""Logits rebuilt from hidden states, in the portions in which a job asks for them, against one np.matmul.

python -m benchmarks.hidden [--vocab 32768] [--width 1024] [--rows 2000] [--step 64] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

import kullback as kb

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def measure(vocab: int, width: int, rows: int, step: int, dtype: str) -> dict[str, float]:
    """GFLOP/s of reading all rows `step` at a time, and of np.matmul of everything in float32; the best of three."""
    rng = np.random.default_rng(0)
    states = rng.standard_normal((rows, width), dtype=np.float32)
    weights = rng.standard_normal((vocab, width), dtype=np.float32)
    out = np.empty((rows, vocab), np.float32)
    work = 2e-9 * rows * vocab * width
    with tempfile.TemporaryDirectory() as folder:
        hidden, head = Path(folder, "states.safetensors"), Path(folder, "head.safetensors")
        safetensors.numpy.save_file({"hidden_states": states}, hidden)
        safetensors.numpy.save_file({"lm_head.weight": weights.astype(DTYPES[dtype])}, head)

        def rebuilt() -> None:
            with kb.open_logits(hidden, lm_head=head, norm="applied") as source:
                for first in range(0, rows, step):
                    source.rows(first, min(first + step, rows), out[first : first + step])

        return {
            "rows": work / _best(rebuilt),
            "np.matmul": work / _best(lambda: np.matmul(states, weights.T, out=out)),
        }


def _best(call) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("vocab", 32768), ("width", 1024), ("rows", 2000), ("step", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    found = measure(**vars(options))
    print(f"{options.rows} rows, V = {options.vocab}, H = {options.width}, {options.dtype}, {options.step} at a time")
    for name, rate in found.items():
        print(f"{name:10} {rate:7.1f} GFLOP/s")


if __name__ == "__main__":
    main()
