"""The benchmark of hidden states, on small ones: it measures both ways."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed

from benchmarks import hidden


def test_all_of_it():
    found = hidden.measure(vocab=500, width=16, rows=70, step=32, dtype="float16")
    assert found.keys() == {"rows", "np.matmul"} and all(rate > 0 for rate in found.values())
