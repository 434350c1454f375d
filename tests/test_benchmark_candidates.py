"""The benchmark of many candidates, on small files: it measures both ways, and leaves nothing."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed

from benchmarks import candidates


@pytest.mark.slow
def test_all_of_it(tmp_path):
    results = candidates.run(tmp_path, 1 << 20, 3, 4096)
    assert list(tmp_path.iterdir()) == []
    assert [row["files"] for row in results["rows"]] == ["out of the page cache", "in the page cache"]
    assert all(row["together_s"] > 0 and row["apart_s"] > 0 for row in results["rows"])
    _, rows = candidates.table_of(results)
    assert "3 candidates of a base of 0.00 GB" in candidates.head(results) and len(rows) == 2
