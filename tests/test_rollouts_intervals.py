"""Intervals of rollouts, whose independent draws are sequences: with few of them, with many, and of merged parts."""

import json
import math

import interval_coverage
import numpy as np
import pytest
from test_rollouts import run, written

from kullback.comparison import Spread
from kullback.rollouts import audit_files
from kullback.rollouts.series import Point, Series, Sums, interval


def point_of(counts, sums, reward=None):
    """A label's sequences, all whose figures are the same."""
    series = Series()
    series.add(
        ["a"] * len(counts),
        Sums(counts, dict.fromkeys(("k1", "k3", "weight", "weight2", "both"), sums), {}),
        None,
        reward,
    )
    return series.points["a"]


def test_with_fewer_than_five_sequences_there_is_none_and_every_output_says_so(tmp_path):
    report = audit_files(written(tmp_path, run()[:4], "jsonl"))
    assert report.total.sequences == 4
    assert all(np.isnan(interval(x)).all() for x in report.total.estimates().values())
    assert math.isnan(report.kl_upper())
    tree = report.to_dict()["total"]
    assert tree["kl_k3"]["interval"] == [None, None]
    assert tree["interval_note"] == "4 sequences: too few for intervals, 5 at least"
    assert tree["interval_note"] in str(report)
    assert "interval_note" not in audit_files(written(tmp_path, run()[:5], "jsonl")).to_dict()["total"]
    json.dumps(tree, allow_nan=False)


def test_of_a_reward_it_is_that_of_a_mean_over_groups_of_one():
    rng = np.random.default_rng(0)
    reward = rng.lognormal(0, 1, 12)
    found = point_of(np.full(12, 3), np.ones(12), reward - 1.5).estimates()["reward"]
    low, high = Spread.of(reward - 1.5, np.arange(12)).group_interval()
    assert interval(found) == pytest.approx((low, high), abs=0.1 * (high - low))  # other draws of the bootstrap
    assert interval(found)[0] == pytest.approx(low, rel=1e-12)  # which is Student's
    assert found.interval(0.0) == (found.mean, found.mean) and found.interval(1.0) == (-math.inf, math.inf)


@pytest.mark.parametrize("groups", [6, 20])
def test_intervals_hold_the_mean_where_longer_sequences_are_worse(groups):
    """By the normal quantile 0.75 and 0.86 of them did."""
    row, held, old = "longer documents are worse", 0, 0
    for seed in range(300):
        counts, sums, _ = interval_coverage.documents(row, groups, np.random.default_rng([3, seed]))
        found = point_of(counts, sums).kl_k3
        low, high = found.interval()
        held += low <= interval_coverage.truth(row) <= high
        old += abs(found.mean - interval_coverage.truth(row)) <= 1.96 * found.standard_error
    assert old / 300 < 0.89
    assert 0.92 <= held / 300 <= 0.99


def test_parts_in_any_order_have_the_same_bits():
    rng = np.random.default_rng(1)
    counts, sums = rng.integers(1, 50, 40), rng.gamma(1.0, size=40)
    whole, parts = point_of(counts, sums), [point_of(counts[i::3], sums[i::3]) for i in (2, 0, 1)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged == whole
    assert merged.estimates() == whole.estimates()
    assert [interval(x) for x in merged.estimates().values()] == [interval(x) for x in whole.estimates().values()]
    assert interval(whole.kl_k3) == interval(Point().merge(whole).kl_k3)


def test_of_many_sequences_sums_are_enough():
    """Figures of single ones are not kept; t, the longest ones' weight and the skewness remain."""
    rng = np.random.default_rng(2)
    counts = np.exp(rng.normal(4, 0.5, 400)).astype(np.int64)
    sums = rng.gamma(0.5, size=400) * counts
    whole = point_of(counts, sums)
    assert whole.kept is None and point_of(counts[:256], sums[:256]).kept is not None
    low, high = whole.kl_k3.interval()
    error = 1.96 * whole.kl_k3.standard_error
    assert 1.0 < (whole.kl_k3.mean - low) / error < 1.05 < (high - whole.kl_k3.mean) / error < 1.3
    assert whole.kl_k1.interval()[1] < high  # which may be negative: no skewness is known of it
    both = point_of(counts[:200], sums[:200]).merge(point_of(counts[200:], sums[200:]))
    assert both.kept is None and both.kl_k3.interval() == (low, high)
