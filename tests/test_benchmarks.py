"""The benchmark harness: it refuses wrong results, takes turns, tells slower from noise, and writes its page."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is not installed

from benchmarks import cases, harness, inputs, operations, paired, report, worker  # noqa: E402
from benchmarks.worker import Worker  # noqa: E402

TINY = harness.Case("kl_divergence", "near", rows=3, vocab=257, peers=("NumPy",))


def test_a_result_that_is_right_is_timed():
    row = harness.measure(TINY, seconds=0.001)
    assert row["error"] < 1e-6
    assert 0 < row["seconds"]["least"] <= row["seconds"]["median"]
    assert row["peers"]["NumPy"]["error"] > row["error"]
    json.dumps(row)


@pytest.mark.parametrize(
    "damage", [lambda kl: kl * (1 + 1e-5), lambda kl: kl * np.nan, lambda kl: kl[:2]], ids=["off", "nan", "short"]
)
def test_a_wrong_result_is_refused(monkeypatch, damage):
    right = operations.OPERATIONS["kl_divergence"]
    wrong = operations.Operation("kl_divergence", lambda x, n: damage(right.ours(x, n)), right.truth)
    monkeypatch.setitem(operations.OPERATIONS, "kl_divergence", wrong)
    with pytest.raises(harness.WrongResultError, match="not timed"):
        harness.measure(TINY.alone(), seconds=0.001)


def test_errors_are_relative_and_rows_repeat_those_of_the_truth():
    truth = np.array([1.0, 1e-9, np.inf, np.nan], np.longdouble)
    found = np.tile(truth.astype(np.float64), 2)
    assert harness.relative_error(found, truth) < 1e-15
    found[5] *= 1.001
    assert harness.relative_error(found, truth) == pytest.approx(1e-3, rel=1e-6)
    found[6] = 0.0
    assert harness.relative_error(found, truth) == np.inf
    assert harness.relative_error(np.array([1, 2]), np.array([1, 3])) == np.inf


def test_contestants_take_turns_and_slow_ones_are_asked_less():
    seen = []
    first = {"ours": 0.0, "slow": 2 * harness.PATIENCE}
    found = harness.in_turns(
        {name: lambda name=name: seen.append(name) for name in first}, 0.01, first | {"ours": 1.0}, most_rounds=5
    )
    assert found["slow"].samples == 2  # the first call, and one more
    assert seen.count("slow") == 1
    assert found["ours"].samples >= 3


@pytest.mark.parametrize("kind", ["near", "masked", "probs", "ragged"])
def test_inputs_repeat_few_rows(kind):
    made = inputs.make(kind, "float32", 10, 50)
    if kind == "ragged":
        assert made.tokens[-1] == len(made.p)
        return
    assert made.p.shape == made.q.shape == (10, 50)
    np.testing.assert_array_equal(made.p[: made.distinct], made.p[made.distinct : 2 * made.distinct])
    assert np.all(made.tokens < 50)
    assert np.all(np.isfinite(made.p[np.arange(10), made.tokens]))


def test_slower_is_told_from_noise():
    noise = np.random.default_rng(0).normal(0, 0.05, 42)
    low, high = paired.interval(1 + noise)
    assert low < 1 < high
    low, high = paired.interval(1.1 + noise)
    assert low > 1 + paired.MARGIN
    assert paired.interval([1.0, 2.0, 3.0]) == (1.0, 3.0)


def test_two_versions_are_compared_by_two_processes():
    with Worker() as before, Worker() as now:
        verdict, ratio, (low, high) = paired.compare_case(before, now, TINY.alone(), pairs=5)
    assert low <= ratio <= high
    assert verdict in ("same", "SLOWER", "faster")


def test_what_one_version_does_not_take_is_passed_over(monkeypatch):
    """A storage type that is new: it stopped the comparison with all that came after it."""

    def refusing():
        raise TypeError("`p` has dtype float8_e5m2, expected float64")

    monkeypatch.setattr(harness, "prepare", lambda case: (None, refusing, None))
    assert list(worker.answers([{"load": asdict(TINY.alone())}])) == [{"absent": True}]


def test_every_public_divergence_is_measured():
    """Adding one to the family means adding it to the registry."""
    from kullback.rows import FAMILY

    other_names = {"jensen_shannon_distance", "generalized_jsd", "skew_kl_divergence", "symmetric_kl_divergence"}
    assert set(FAMILY) - other_names - {"f_divergence"} <= set(operations.OPERATIONS)
    assert {case.operation for case in cases.full()} == set(operations.OPERATIONS)


def test_the_page_is_that_of_the_newest_results():
    assert report.PAGE.read_text(encoding="utf-8") == report.page(report.newest())


def test_the_smoke_run_covers_every_operation():
    command = [sys.executable, "-m", "benchmarks", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in operations.OPERATIONS:
        assert name in done.stdout
