"""The benchmark of compact references, on a small one: it writes, compares and puts its table into the page."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed

from benchmarks import references


def test_all_of_it(tmp_path):
    assert np.array_equal(*(references.Stream(9, 0.3, 500).rows(3, 9) for _ in range(2)))
    found = references.run(str(tmp_path), 300, vocab=500)
    assert found["bounds"][0] <= found["kl"] <= found["bounds"][1] and found["size"] > 300 * 1000
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- million -->\nold\n<!-- /million -->\nafter\n", encoding="utf-8")
    references.into_page(found, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "300 tokens" in text
