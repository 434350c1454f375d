"""The benchmark of logs, on a small one: it writes, measures and puts its table into the page."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed

from benchmarks import rollouts
from kullback.rollouts import audit_files


def test_logs_are_the_same_each_time(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        rollouts.write_log(tmp_path / name, 200_000)
    a, b = ((tmp_path / name).read_bytes() for name in ("a.jsonl", "b.jsonl"))
    assert a == b and 200_000 <= len(a) < 800_000
    report = audit_files(tmp_path / "a.jsonl")
    assert not report.skipped.reasons and report.facts["files"][0]["preset"] == "nemo_rl"


@pytest.mark.slow
def test_all_of_it(tmp_path):
    pytest.importorskip("pyarrow")
    results = rollouts.run(tmp_path, 300_000, rounds=1)
    assert list(tmp_path.iterdir()) == []  # nothing is left
    assert len({row["tokens"] for row in results["rows"]}) == 1
    assert all(row["tokens_per_s"] > 0 and row["own_memory_mib"] > 5 for row in results["rows"])
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- rates -->\nold\n<!-- /rates -->\nafter\n", encoding="utf-8")
    rollouts.into_page(results, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("| JSON lines") == 4 and "| Parquet |" in text
