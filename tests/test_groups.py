"""Errors of means whose independent draws are documents: the promises, and the formulas by brute force."""

import io
import json
import math

import interval_coverage
import numpy as np
import pytest
from scipy import stats

import kullback as kb
from kullback.comparison import Clusters, Spread
from kullback.comparison.clusters import FEWEST
from kullback.comparison.student import student_quantile
from kullback.evaluation.report import render_report
from kullback.evaluation.terminal import print_summaries

LENGTHS = [4, 9, 30, 2, 17, 11, 60]


def spread_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(lengths)), lengths)
    values = rng.normal(size=len(lengths))[groups] + rng.normal(size=groups.size)
    return Spread.of(values, groups), values, groups


@pytest.mark.parametrize("degrees", [1.0, 1.4, 2.0, 5.7, 30.0, 400.0, 999.0, 1001.0, 1e6])
def test_quantiles_of_student(degrees):
    for level in (0.5, 0.6, 0.9, 0.975, 0.995, 0.9999):
        assert student_quantile(level, degrees) == pytest.approx(stats.t.ppf(level, degrees), rel=1e-7)
    assert student_quantile(1.0, degrees) == math.inf


def test_the_error_is_that_of_leaving_groups_out():
    spread, values, groups = spread_of(LENGTHS)
    moves = [values[groups != g].mean() - values.mean() for g in range(len(LENGTHS))]
    g = len(LENGTHS)
    assert spread.group_standard_error == pytest.approx(math.sqrt((g - 1) / g * np.square(moves).sum()), rel=1e-12)


def test_degrees_of_freedom_by_the_matrices():
    """tr(B)²/tr(B²) of the definition; g - 1 where all lengths are the same."""
    spread, values, groups = spread_of(LENGTHS, 3)
    n, total, g = np.array(LENGTHS, float), values.size, len(LENGTHS)
    means = np.array([values[groups == i].mean() for i in range(g)])
    within = np.sum((values - means[groups]) ** 2) / (total - g)
    between = np.sum(n * (means - values.mean()) ** 2)
    effect = max(0.0, (between - (g - 1) * within) / (total - np.sum(n**2) / total))
    assert effect > 0
    h, w = n / total, within * n + effect * n**2
    a = np.diag(1 / (1 - h)) @ (np.eye(g) - np.outer(h, np.ones(g)))
    b = a @ np.diag(w) @ a.T
    assert spread.group_degrees_of_freedom == pytest.approx(np.trace(b) ** 2 / np.trace(b @ b), rel=1e-9)
    assert spread.group_degrees_of_freedom < g - 2
    assert spread_of([7] * 12)[0].group_degrees_of_freedom == pytest.approx(11, rel=1e-9)


def test_intervals_are_as_wide_as_student_and_reach_further_where_values_are_skewed():
    spread, *_ = spread_of(LENGTHS, 1)
    t = stats.t.ppf(0.95, spread.group_degrees_of_freedom) * spread.group_standard_error
    low, high = spread.group_interval(0.9)
    assert low <= spread.mean - t * (1 - 1e-9) and high >= spread.mean + t * (1 - 1e-9)
    groups = np.arange(200) // 10
    skewed = np.random.default_rng(4).lognormal(0, 1.5, 20)[groups]
    low, high = Spread.of(skewed, groups).group_interval()
    assert high - skewed.mean() > 1.5 * (skewed.mean() - low)
    assert 0.0 < Spread.of(skewed, groups).group_interval(0.999)[0] < low  # a mean of what is never negative
    assert Spread.of(skewed - 1, groups).group_interval(0.999)[0] < -1
    assert Spread.of(skewed, groups).group_interval(1.0) == (0.0, math.inf)
    assert Spread.of(skewed, groups).group_interval(0.0) == (Spread.of(skewed).mean,) * 2


def test_the_unit_of_values_does_not_matter():
    """Nor one that overflows in squares."""
    spread, values, groups = spread_of(LENGTHS)
    for scale in (2.0**-600, 2.0**600):
        scaled = Spread.of(values * scale, groups)
        assert scaled.group_standard_error == pytest.approx(spread.group_standard_error * scale, rel=1e-12)
        assert np.isfinite(scaled.group_interval()).all()


def test_equal_documents_have_no_error():
    groups = np.arange(60) // 10
    same = Spread.of(np.full(60, 0.1), groups)
    assert (same.group_standard_error, same.group_interval()) == (0.0, (same.mean, same.mean))


def test_merged_parts_give_the_same_interval():
    spread, values, groups = spread_of(LENGTHS)
    order = np.random.default_rng(2).permutation(values.size)
    parts = [Spread.of(values[order[i::4]], groups[order[i::4]]) for i in range(4)]
    merged = parts[2].merge(parts[0]).merge(parts[3].merge(parts[1]))
    assert merged == spread
    assert merged.group_interval() == spread.group_interval()
    assert merged.group_degrees_of_freedom == spread.group_degrees_of_freedom
    assert math.isnan(merged.merge(Spread.of(values)).group_standard_error)
    assert merged.merge(Spread.of(values)).group_note == "some tokens are in no group"


@pytest.mark.parametrize("groups", [1, 2, FEWEST - 1, FEWEST])
def test_few_groups_have_no_error_and_say_so(groups):
    """Of two alike `± 0.000` was printed."""
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (60, 20))
    s = kb.compare(p, p + 0.3 * rng.normal(size=p.shape), rng.integers(0, 20, 60)).summary(np.arange(60) % groups)
    out = io.StringIO()
    print_summaries([s], out)
    page, tree = render_report([s]), s.to_dict()
    json.dumps(tree, allow_nan=False)
    for spread in (s.kl, s.entropy_p, s.log_ratio, s.same_top1):
        assert math.isnan(spread.group_standard_error) == (groups < FEWEST)
        assert math.isnan(spread.group_degrees_of_freedom) == (groups < FEWEST)
        assert np.isnan(spread.group_interval()).all() == (groups < FEWEST)
    assert np.isnan(s.same_top1.share_interval()).all() == (groups < FEWEST)
    assert (tree["kl"]["groups"], tree["same_top1"]["groups"]) == (groups, groups)
    assert (tree["kl"]["group_standard_error"] is None) == (groups < FEWEST)
    for text in (out.getvalue(), str(s), page):
        assert ("± group" in text.partition("How it was computed")[0]) == (groups >= FEWEST)
        assert ("too few for an error between them, 5 at least" in text) == (groups < FEWEST)
        assert f"in {groups} " in text
    assert ("group_note" in tree["kl"]) == (groups < FEWEST)


def test_a_share_of_all_tokens_in_few_documents_has_no_interval():
    groups = np.arange(40) % 2
    assert Spread.of(np.ones(40), groups).share_text() == "100.000 % (no interval: 2 groups)"
    assert Spread.of(np.ones(40)).share_text() == "100.000 % (95 % interval 91.238 to 100.000)"
    assert Spread.of((np.arange(40) % 4 > 0) * 1.0, groups).share_text().startswith("75.000 % ± s.e. ")
    assert "± group" in Spread.of((np.arange(40) % 3 > 0) * 1.0, np.arange(40) // 5).share_text()


def test_values_of_one_sign_are_skewed_away_from_0():
    """By the formula for lognormal groups, the same for either sign; not at all far from 0, nor for values of both."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), 20)
    values = rng.lognormal(0, 0.6, 12)[groups] * rng.gamma(2.0, size=240)
    spread = Spread.of(values, groups)
    low, high = spread.group_interval()
    assert Spread.of(-values, groups).group_interval() == pytest.approx((-high, -low), rel=0.03)  # other draws
    t = stats.t.ppf(0.975, 11)
    v = spread.group_standard_error / spread.mean * math.sqrt(12)
    longer = 1 + (3 * v + v**3) / math.sqrt(12) / 6 * (2 * t**2 + 1) / t
    reach = t * spread.group_standard_error
    assert longer > 1.3
    assert high >= spread.mean + longer * reach * (1 - 1e-9)
    assert spread.mean - reach < low <= spread.mean - reach / longer * (1 - 1e-9)
    far = np.array(Spread.of(values + 1000.0, groups).group_interval()) - 1000.0
    both = np.array(Spread.of(values - 2.0, groups).group_interval()) + 2.0
    assert far == pytest.approx(both, rel=0.01)
    assert both[0] < low and both[1] < high


# the goal is 0.93 to 0.97 from ten documents on and at least 0.93 below; 150 draws of it are within 0.045
@pytest.mark.parametrize("row", ["iid", "mild", "strong", "longer documents are worse"])
@pytest.mark.parametrize("groups", [5, 12, 40])
def test_intervals_hold_the_mean(row, groups):
    share = interval_coverage.coverage(row, groups, 150, seed=7, draws=300)[0]
    assert share >= 0.905
    assert share <= 0.99 or groups < 10


def test_five_documents_hold_the_mean_where_longer_ones_are_worse():
    """0.928 by t and the studentised bootstrap alone."""
    assert interval_coverage.coverage("longer documents are worse", 5, 600, seed=7, draws=300)[0] >= 0.945


def test_the_old_intervals_did_not():
    """So that the table's rows are ones that tell."""
    normal, percentile = interval_coverage.coverage("longer documents are worse", 10, 150, seed=7, old=True)
    assert normal < 0.85 and percentile < 0.85


def test_groups_most_of_which_are_alike():
    """Draws of those alone had an error of 1e-17, and by it a lower end of 0; a share went above 1."""
    ones = np.array([7, 8, *[7] * 8, 5, 7])
    values = (np.arange(8) < ones[:, None]).astype(float).ravel()
    groups = np.repeat(np.arange(12), 8)
    share = Spread.of(values, groups)
    assert share.is_share
    assert share.group_interval() == share.share_interval()
    assert 0.7 < share.group_interval()[0] < share.group_interval()[1] < 1
    spread = Spread.of(values / 2, groups)
    assert not spread.is_share
    low, high = spread.group_interval()
    assert low == pytest.approx(spread.mean - 2.3 * spread.group_standard_error, abs=0.02)
    assert low < spread.mean < high < 0.55


def test_draws_by_a_seed_are_those_of_its_generator():
    rng = np.random.default_rng(2)
    for g, draws in ((12, 500), (300, 5000)):  # at once, and in several pieces
        sums = rng.exponential(size=g)
        clusters = Clusters(float(sums.mean()), np.ones(g), (sums - sums.mean()) / g, float(sums.var() * g), 1)
        assert clusters.interval(0.9, draws, 3) == clusters.interval(0.9, draws, np.random.default_rng(3))
