"""Spreads, sketches, breakdowns and the other mergeable parts, against NumPy on the whole data."""

import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

import kullback as kb
from kullback.comparison import Mean, Spread, share_text
from kullback.comparison.shares import wilson_interval
from kullback.evaluation import statistics
from kullback.evaluation.parts import WORST, Breakdown, WorstTokens, position_width
from kullback.evaluation.statistics import Summarizer, summary_of

RNG = np.random.default_rng(5)


def columns(rows, start=0):
    p = RNG.normal(0, 2, (rows, 30))
    q = p + RNG.normal(0, 0.5, p.shape)
    token = RNG.integers(0, 30, rows)
    c = kb.compare(p, q, token)
    names = ("kl", "reverse_kl", "entropy_p", "entropy_q", "top1_p", "top1_q", "log_prob_p", "log_prob_q", "log_ratio")
    row = np.arange(start, start + rows)
    return {name: getattr(c, name) for name in names} | {
        "top_prob_p": np.exp(kb.log_softmax(p)).max(1),
        "null_kl": np.where(row % 5 == 0, 1e-9, np.nan),
        "row": row,
        "position": row % 17,
        "group": row // 17,
        "token": token,
    }


def cut(data, pieces):
    edges = [0, *sorted(RNG.integers(0, len(data["kl"]), pieces - 1)), len(data["kl"])]
    return [{name: x[a:b] for name, x in data.items()} for a, b in pairwise(edges)]


@pytest.mark.parametrize("pieces", [1, 2, 9])
def test_any_pieces_in_any_order(pieces):
    data = columns(400)
    whole = summary_of(data, 1)
    parts = [summary_of(piece, 1) for piece in cut(data, pieces)]
    RNG.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged == whole
    assert json.dumps(merged.to_dict()) == json.dumps(whole.to_dict())
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_summarizer_takes_any_pieces(monkeypatch):
    monkeypatch.setattr(statistics, "SEGMENT", 64)
    monkeypatch.setattr(statistics, "EXACT_TOKENS", 100)
    data = columns(500)
    found = []
    for pieces in (1, 3, 40):
        summarizer = Summarizer(1)
        for piece in cut(data, pieces):
            summarizer.add(piece)
        found.append(summarizer.finish())
    assert found[0] == found[1] == found[2]
    assert found[0].kl.sketched
    assert found[0].kl.mean == summary_of(data, 1).kl.mean


def test_breakdowns_against_numpy():
    data = columns(300)
    for name in ("kl", "log_prob_p", "log_prob_q"):
        data[name][7] = np.nan
    by_position = summary_of(data, 4).parts["by_position"]
    delta = np.exp(data["log_prob_q"]) - np.exp(data["log_prob_p"])
    for key, means in by_position.bins.items():
        inside = data["position"] // 4 == key
        values = data["kl"][inside]
        assert means["kl"].mean == pytest.approx(np.nanmean(values), rel=1e-14)
        n = np.isfinite(values).sum()
        assert means["kl"].count == n
        assert means["kl"].standard_error == pytest.approx(np.nanstd(values, ddof=1) / math.sqrt(n), rel=1e-9)
        assert means["delta_prob"].mean == pytest.approx(np.nanmean(delta[inside]), rel=1e-13)
    assert [entry["bin"] for entry in by_position.to_dict()] == ["0-3", "4-7", "8-11", "12-15", "16-19"]


def test_positions_of_two_widths_merge():
    data = columns(300)
    fine, coarse = (summary_of(data, width).parts["by_position"] for width in (1, 8))
    nothing = Breakdown({}, (), 8)
    assert fine.merge(nothing).bins.keys() == coarse.bins.keys()
    assert fine.merge(nothing) == nothing.merge(fine) == coarse
    with pytest.raises(ValueError, match="other bins"):
        coarse.merge(Breakdown({}, ("a",)))


@pytest.mark.parametrize(
    ("longest", "width"), [(1, 1), (64, 1), (65, 2), (255, 4), (256, 4), (257, 8), (100_000, 2048)]
)
def test_position_width(longest, width):
    assert position_width(longest) == width


def test_confidence_bins_include_certainty():
    data = columns(4)
    data["top_prob_p"] = np.array([1.0, 0.99, 0.25, np.nan])
    bins = summary_of(data, 1).parts["by_confidence"]
    assert [bins.label(key) for key in sorted(bins.bins)] == ["0.25-0.5", "0.99-1"]
    assert bins.bins[6]["kl"].count == 2


def test_worst_tokens():
    data = columns(200)
    data["kl"][[3, 50]] = [np.nan, np.inf]
    data["kl"][[60, 61]] = 1e6  # ties go to the earlier row
    targets = np.arange(200) + 1000
    worst = WorstTokens.of(data, targets)
    assert [entry["row"] for entry in worst.tokens[:3]] == [50, 60, 61]
    assert len(worst.tokens) == WORST
    assert worst.tokens[0]["context"] == list(range(1038, 1050))
    assert worst.to_dict()[0]["kl"] == "inf"
    first = next(
        entry for entry in WorstTokens.of({k: x[:20] for k, x in data.items()}, targets).tokens if entry["row"] == 18
    )
    assert first["context"] == [1017]  # the text before it begins at its group's first token
    worst.add_text(lambda ids: "-".join(map(str, ids)))
    assert worst.tokens[1]["text"]["context"].endswith("-1058-1059")


def test_mean_against_numpy():
    values = np.r_[RNG.normal(size=50), np.nan]
    mean = Mean(values)
    assert mean.mean == pytest.approx(np.nanmean(values), rel=1e-14)
    assert mean.standard_error == pytest.approx(np.nanstd(values, ddof=1) / math.sqrt(50), rel=1e-12)
    assert Mean(values[:9]).merge(Mean(values[9:])) == mean
    assert math.isnan(Mean().mean)
    assert math.isnan(Mean(values[:1]).standard_error)


# ---- spreads ----


def test_sketched_quantiles_are_close_and_the_rest_is_exact():
    values = RNG.lognormal(size=200_000)
    values[:3] = [np.nan, np.inf, 0.0]
    exact, sketched = Spread.of(values), Spread()
    for part in np.split(values, 40):
        sketched = sketched.merge(Spread.of(part))
        sketched.compact(1000)
    assert sketched.sketched
    assert not exact.sketched
    for name in ("count", "undefined", "infinite", "mean", "min", "max"):
        assert getattr(sketched, name) == getattr(exact, name), name
    for level in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        assert sketched.quantile(level) == pytest.approx(exact.quantile(level), rel=2.0**-14)
    edges = np.r_[-np.inf, np.geomspace(1e-2, 1e2, 20), np.inf]
    np.testing.assert_allclose(sketched.histogram(edges), exact.histogram(edges), atol=2e-3)
    assert exact.histogram(edges).sum() == pytest.approx(1 - 1 / exact.count)
    assert sketched.quantile(1.0) == np.inf
    assert pickle.loads(pickle.dumps(sketched)) == sketched
    assert sketched.to_dict()["quantile_error"] == 2.0**-14
    assert exact.to_dict()["quantile_error"] == 0.0


def test_only_known_digits_of_quantiles_are_printed():
    rng = np.random.default_rng(4)
    p = rng.normal(size=(50, 9))
    s = kb.compare(p, p + rng.normal(size=p.shape) * 10.0 ** rng.uniform(-300, 1, (50, 1))).summary()
    exact = str(s)
    assert s.kl.quantile_digits == 4
    s.compact(10)
    assert s.kl.quantile_digits == 4
    assert str(s).splitlines()[0] == exact.splitlines()[0]
    s.kl._binned = s.kl._binned.coarser(8)
    assert s.kl.quantile_digits == 2
    assert f"{s.kl.median:>12.2g}" in str(s)


def test_few_values_are_never_sketched():
    spread = Spread.of(np.arange(10.0))
    spread.compact(10)
    assert not spread.sketched
    spread.compact(9)
    assert spread.sketched
    assert spread.quantile(0.5) == 4.5  # few bits: not cut


def test_quantiles_beside_infinities():
    spread = Spread.of(np.array([-np.inf, 1.0, np.inf]))
    assert [spread.quantile(level) for level in (0.0, 0.2, 0.5, 0.7, 1.0)] == [-np.inf, -np.inf, 1.0, np.inf, np.inf]
    assert np.isnan(Spread.of(np.array([-np.inf, np.inf])).median)


def test_finite_values_alone():
    rng = np.random.default_rng(1)
    values, groups = rng.lognormal(size=500), rng.integers(0, 7, 500)
    holed = values.copy()
    holed[[3, 90, 200]], holed[5] = np.inf, -np.inf
    groups[holed == -np.inf] = 99  # a group of nothing else
    kept = np.isfinite(holed)
    expected = Spread.of(values[kept], groups[kept])
    found = Spread.of(holed, groups)
    assert (found.infinite, found.finite) == (4, expected)
    assert found.finite.group_standard_error == expected.group_standard_error
    assert found.finite.standard_error == expected.standard_error
    halves = [Spread.of(holed[part], groups[part]) for part in (slice(0, 100), slice(100, None))]
    for half in halves:
        half.compact(50)
    merged = halves[1].merge(halves[0]).finite
    assert (merged.mean, merged.rms, merged.count) == (expected.mean, expected.rms, expected.count)
    assert merged.max == pytest.approx(expected.max, rel=2.0**-14)
    assert math.isnan(found.mean)
    assert found.rms == np.inf


# ---- shares ----


def test_wilson_intervals():
    low, high = wilson_interval(1.0, 100)
    z2 = 1.959963984540054**2
    assert (low, high) == (pytest.approx(100 / (100 + z2), rel=1e-12), 1.0)
    assert wilson_interval(0.0, 100) == (0.0, pytest.approx(z2 / (100 + z2), rel=1e-12))
    for share, count in ((0.3, 50), (0.99, 1000), (0.5, 1)):
        for end in wilson_interval(share, count):  # where (share - end)² = z²·end·(1 - end)/n
            assert (share - end) ** 2 == pytest.approx(z2 * end * (1 - end) / count, rel=1e-9)
    assert np.isnan(wilson_interval(math.nan, 0)).all()


def test_a_share_of_all_is_not_certain():
    assert share_text(1.0, 0.0, 100) == "100.000 % (95 % interval 96.301 to 100.000)"
    assert share_text(0.0, 0.0, 100) == "0.000 % (95 % interval 0.000 to 3.699)"
    assert share_text(0.9999995, 1e-7, 10) == "99.999950 % ± s.e. 0.000010"  # neither 100 % nor ± 0.000
    assert share_text(0.9999995) == "99.999950 %"
    assert share_text(1.0, math.nan, 1) == "100.000 % (95 % interval 20.655 to 100.000)"
    assert share_text(0.5, 0.01, 2500) == "50.000 % ± s.e. 1.000"
    assert share_text(0.5, 0.01, 2500, "± group") == "50.000 % ± group 1.000"
    assert share_text(math.nan) == "-"


def test_intervals_of_shares_widen_with_groups():
    groups = np.repeat(np.arange(40), 50)
    same = Spread.of((groups % 4 > 0).astype(float), groups)  # a document agrees everywhere or nowhere
    low, high = same.share_interval()
    assert same.group_degrees_of_freedom == pytest.approx(39)
    fewer = (1.959963984540054 / stats.t.ppf(0.975, 39)) ** 2
    assert (low, high) == pytest.approx(wilson_interval(0.75, fewer * 0.75 * 0.25 / same.group_standard_error**2))
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 40), rel=0.1)
    alone = Spread.of((groups % 4 > 0).astype(float))
    assert alone.share_interval() == wilson_interval(0.75, 2000)


def test_histogram_against_numpy():
    values = RNG.normal(size=1000)
    edges = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(Spread.of(values).histogram(edges), np.histogram(values, edges)[0] / 1000, atol=1e-15)


def test_group_interval_covers_the_mean_of_correlated_tokens():
    covered = naive = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), rng.integers(5, 30, 60))
        values = rng.normal(size=60)[groups] + 0.3 * rng.normal(size=groups.size)  # their true mean is 0
        spread = Spread.of(values, groups)
        low, high = spread.group_interval(draws=400)
        covered += low <= 0 <= high
        naive += abs(spread.mean) <= 1.96 * spread.standard_error
        half = (high - low) / 2
        assert half == pytest.approx(1.96 * spread.group_standard_error, rel=0.35)
    assert 186 <= covered <= 197
    assert naive < 120


def test_group_interval_weighs_groups_by_their_tokens():
    groups = np.repeat(np.arange(40), [50, 2] * 20)
    spread = Spread.of((groups % 2 == 0).astype(float), groups)  # long documents 1, short ones 0
    low, high = spread.group_interval()
    assert low < spread.mean < high
    assert low > 0.9


def test_group_interval_needs_groups():
    assert np.isnan(Spread.of(np.arange(5.0)).group_interval()).all()
    assert np.isnan(Spread.of(np.arange(5.0), np.zeros(5, int)).group_interval()).all()
    names, counts, means = Spread.of(np.arange(6.0), np.array([2, 2, 7, 7, 7, 2])).group_means()
    assert (names.tolist(), counts.tolist()) == ([2, 7], [3, 3])
    np.testing.assert_allclose(means, [2.0, 3.0])


def test_summaries_with_other_parts_do_not_merge():
    data = columns(20)
    with pytest.raises(ValueError, match="by_confidence"):
        summary_of(data, 1).merge(kb.compare([[0.0, 1.0]], [[0.0, 1.0]]).summary())


def test_many_groups_have_the_normal_interval():
    rng = np.random.default_rng(0)
    groups = np.arange(30_003) // 3
    values = rng.normal(size=10_001)[groups] + rng.normal(size=groups.size)
    many, fewer = Spread.of(values, groups), Spread.of(values[:29_999], groups[:29_999])
    np.testing.assert_allclose(many.group_interval(), fewer.group_interval(), atol=1e-3)
    t = stats.t.ppf(0.975, many.group_degrees_of_freedom)
    assert many.group_interval()[0] == pytest.approx(many.mean - t * many.group_standard_error, rel=1e-6)
    assert many.group_degrees_of_freedom == pytest.approx(10_000, rel=1e-3)
