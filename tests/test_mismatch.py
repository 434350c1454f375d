"""The mismatch report against formulas written out with NumPy, enumeration and resampling."""

import functools
import itertools
import json
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from kullback.rlhf import MismatchReport, mismatch_report


def batch(rng, sequences=12, width=30, noise=0.3):
    """Padded log-probs with garbage behind the mask."""
    train = -rng.exponential(size=(sequences, width))
    rollout = train + noise * rng.normal(size=train.shape)
    mask = np.arange(width) < rng.integers(1, width + 1, (sequences, 1))
    train[~mask], rollout[~mask] = np.nan, np.inf
    return train, rollout, mask


def test_every_figure_against_its_formula():
    train, rollout, mask = batch(np.random.default_rng(1))
    report = mismatch_report(rollout, train, mask, ratio_bounds=(0.8, 1.3))
    x, y = train[mask], rollout[mask]
    d, w = x - y, np.exp(x - y)
    by_sequence = [train[b, mask[b]] - rollout[b, mask[b]] for b in range(12)]
    totals = np.array([s.sum() for s in by_sequence])
    ppl = [np.mean([np.exp(-lp[b, mask[b]].mean()) for b in range(12)]) for lp in (train, rollout)]
    expected = {
        "tokens": mask.sum(),
        "sequences": 12,
        "unscored": 0,
        "kl_k1": np.mean(y - x),
        "kl_k3": np.mean(w - 1 - d),
        "reverse_kl_k1": np.mean(w * d),
        "reverse_kl_k3": np.mean(w * d - w + 1),
        "log_prob_difference": np.mean(d),
        "absolute_difference": np.mean(np.abs(d)),
        "max_difference": np.abs(d).max(),
        "probability_difference": np.mean(np.abs(np.exp(x) - np.exp(y))),
        "perplexity_train": np.exp(-x.mean()),
        "perplexity_rollout": np.exp(-y.mean()),
        "perplexity_ratio": np.exp(-x.mean()) / np.exp(-y.mean()),
        "sequence_perplexity_train": ppl[0],
        "sequence_perplexity_rollout": ppl[1],
        "sequence_perplexity_ratio": np.mean([np.exp(-s.mean()) for s in by_sequence]),
        "chi2": np.mean(w**2) - 1,
        "sequence_chi2": np.mean(np.exp(2 * totals)) - 1,
        "ess": w.sum() ** 2 / (w.size * (w**2).sum()),
        "sequence_ess": np.exp(totals).sum() ** 2 / (12 * np.exp(2 * totals).sum()),
        "kept_mass": w.mean(),
        "share_above": np.mean(w > 1.3),
        "share_below": np.mean(w < 0.8),
    }
    got = report.to_dict()
    assert set(got) == {*expected, "ratio_bounds"}
    for name, value in expected.items():
        figure = got[name]["mean"] if isinstance(got[name], dict) else got[name]
        assert figure == pytest.approx(value, rel=1e-12), name


def test_standard_errors_match_the_spread_over_redrawn_sequences():
    rng = np.random.default_rng(2)
    reports = []
    for _ in range(400):
        train, rollout, mask = batch(rng, sequences=40, width=8, noise=0.2)
        shift = 0.3 * rng.normal(size=(40, 1))  # tokens of a sequence are correlated
        reports.append(mismatch_report(rollout, train + np.where(mask, shift, 0.0), mask))
    for name in ("kl_k1", "kl_k3", "reverse_kl_k3", "kept_mass", "chi2", "perplexity_ratio", "share_above"):
        spread = np.std([getattr(r, name).mean for r in reports])
        typical = np.sqrt(np.mean([getattr(r, name).standard_error ** 2 for r in reports]))
        assert typical == pytest.approx(spread, rel=0.12), name


def test_standard_error_of_a_flat_array_is_that_of_a_mean():
    x = np.random.default_rng(3).normal(size=500)
    report = mismatch_report(np.zeros(500), x)
    assert report.kl_k1.standard_error == pytest.approx(x.std(ddof=1) / np.sqrt(500), rel=1e-12)
    assert report.sequences == 0
    assert math.isnan(report.sequence_chi2)


def test_expectations_under_the_rollout_by_enumeration():
    """Every token as often as the rollout draws it: both KLs, χ² and the kept mass come out exactly."""
    counts = np.array([5, 3, 4, 1, 7])
    rollout = counts / counts.sum()
    train = np.array([0.3, 0.1, 0.2, 0.05, 0.35])
    tokens = np.repeat(np.arange(5), counts)
    report = mismatch_report(np.log(rollout)[tokens], np.log(train)[tokens])
    forward, reverse = rollout @ np.log(rollout / train), train @ np.log(train / rollout)
    assert report.kl_k1.mean == pytest.approx(forward, rel=1e-13)
    assert report.kl_k3.mean == pytest.approx(forward, rel=1e-13)
    assert report.reverse_kl_k1.mean == pytest.approx(reverse, rel=1e-13)
    assert report.reverse_kl_k3.mean == pytest.approx(reverse, rel=1e-13)
    assert report.chi2.mean == pytest.approx(train**2 @ (1 / rollout) - 1, rel=1e-13)
    assert report.kept_mass.mean == pytest.approx(1.0, rel=1e-14)


def test_kept_mass_reveals_a_truncated_support():
    train = np.array([0.4, 0.3, 0.196, 0.104])
    kept = train[:3] / train[:3].sum()  # top-p sampling kept 0.896 of the mass and renormalised
    tokens = np.repeat(np.arange(3), np.round(kept * 896).astype(int))
    report = mismatch_report(np.log(kept)[tokens], np.log(train)[tokens])
    assert report.kept_mass.mean == pytest.approx(0.896, rel=1e-14)
    assert report.ess == pytest.approx(1.0, rel=1e-14)


def test_identical_policies():
    x = -np.random.default_rng(4).exponential(size=(5, 6)).astype(ml_dtypes.bfloat16)
    report = mismatch_report(x, x)
    for name in (
        "kl_k1",
        "kl_k3",
        "reverse_kl_k1",
        "reverse_kl_k3",
        "absolute_difference",
        "chi2",
        "share_above",
    ):
        assert getattr(report, name) == (0.0, 0.0)
    assert report.kept_mass.mean == report.perplexity_ratio.mean == 1.0
    assert report.ess == report.sequence_ess == 1.0


def test_small_differences_keep_their_digits():
    rng = np.random.default_rng(5)
    rollout = -rng.exponential(size=(50, 20))
    d = 1e-9 * rng.normal(size=rollout.shape)
    report = mismatch_report(rollout, rollout + d)
    exact = (rollout + d) - rollout
    assert report.kl_k3.mean == pytest.approx(np.mean(exact**2) / 2, rel=1e-7)
    assert report.reverse_kl_k3.mean == pytest.approx(np.mean(exact**2) / 2, rel=1e-7)
    assert report.chi2.mean == pytest.approx(2 * np.mean(exact), rel=1e-6)


# ---------------------------------------------------------------------------------------------------- merging


def test_merging_gives_the_same_bits_in_any_order_and_split():
    train, rollout, mask = batch(np.random.default_rng(6), sequences=9, width=200)
    whole = mismatch_report(rollout, train, mask).to_dict()
    for edges in ([0, 9], [0, 1, 9], [0, 2, 5, 9], list(range(10))):
        parts = [mismatch_report(rollout[i:j], train[i:j], mask[i:j]) for i, j in itertools.pairwise(edges)]
        for order in (parts, parts[::-1]):
            assert functools.reduce(MismatchReport.merge, order).to_dict() == whole
    packed = mismatch_report(rollout[mask], train[mask], offsets=np.concatenate([[0], np.cumsum(mask.sum(1))]))
    assert packed.to_dict() == whole


def test_flat_arrays_merge_to_the_bit_wherever_they_are_cut():
    rng = np.random.default_rng(7)
    x, y = -rng.exponential(size=(2, 70_000))
    whole = mismatch_report(y, x)
    cut = mismatch_report(y[:123], x[:123]).merge(mismatch_report(y[123:], x[123:]))
    assert str(cut) == str(whole)
    assert cut.kl_k3 == whole.kl_k3


def test_merge_leaves_its_inputs_alone_and_needs_equal_bounds():
    one, other = mismatch_report([[-2.0]], [[-1.0]]), mismatch_report([[-1.0]], [[-3.0]])
    before = one.to_dict()["kl_k1"], other.to_dict()["kl_k1"]
    assert one.merge(other).tokens == 2
    assert str(before) == str((one.to_dict()["kl_k1"], other.to_dict()["kl_k1"]))
    with pytest.raises(ValueError, match=r"`other` has ratio_bounds \(0.1, 9.0\), expected \(0.5, 2.0\)"):
        one.merge(mismatch_report([[0.0]], [[0.0]], ratio_bounds=(0.1, 9.0)))


def test_reports_travel_between_processes():
    train, rollout, mask = batch(np.random.default_rng(8))
    report = mismatch_report(rollout, train, mask)
    assert pickle.loads(pickle.dumps(report)).merge(report).kl_k3.mean == report.kl_k3.mean
    assert json.loads(json.dumps(report.to_dict()))["kl_k3"]["mean"] == report.kl_k3.mean
    assert "kl_k3" in str(report)
    assert repr(report) == f"<MismatchReport of {mask.sum()} tokens, 12 sequences>"


# ------------------------------------------------------------------------------------------------- edge cases


def test_unscored_tokens_are_left_out_and_counted():
    train = np.array([[-1.0, np.nan, -1.0, -np.inf], [np.nan, -1.0, -1.0, -1.0]])
    rollout = np.array([[-1.5, -1.0, np.nan, -np.inf], [-1.0, -1.0, -1.0, -1.0]])
    report = mismatch_report(rollout, train, [[1, 1, 1, 1], [1, 0, 0, 0]], nan_policy="omit")
    assert (report.tokens, report.sequences, report.unscored) == (1, 1, 4)
    assert report.kl_k1.mean == -0.5
    assert math.isnan(report.kl_k1.standard_error)


def test_unscored_tokens_make_everything_nan_unless_they_are_to_be_left_out():
    train, rollout = np.array([[-1.0, np.nan], [-2.0, -1.0]]), np.full((2, 2), -1.5)
    report = mismatch_report(rollout, train)
    assert (report.tokens, report.sequences, report.unscored) == (3, 2, 1)
    counts = {"tokens", "sequences", "unscored", "ratio_bounds"}
    for name, value in report.to_dict().items():
        if name not in counts:
            assert math.isnan(value["mean"] if isinstance(value, dict) else value), name
    healthy = mismatch_report([[-1.5]], [[-1.0]])
    assert math.isnan(healthy.merge(report).kl_k1.mean)
    assert math.isnan(mismatch_report(rollout[0], train[0]).kl_k3.mean)
    assert not math.isnan(mismatch_report(rollout, train, [[1, 0], [1, 1]]).kl_k1.mean)  # masked NaN is not read
    with pytest.raises(ValueError, match="`other` has nan_policy omit, expected propagate"):
        report.merge(mismatch_report(rollout, train, nan_policy="omit"))
    with pytest.raises(ValueError, match="`nan_policy` is 'raise', expected one of propagate, omit"):
        mismatch_report(rollout, train, nan_policy="raise")


def test_a_token_impossible_under_train():
    report = mismatch_report([[-1.0, -1.0], [-1.0, -1.0]], [[-np.inf, -1.0], [-1.0, -1.0]])
    assert report.kl_k1.mean == report.kl_k3.mean == np.inf
    assert report.reverse_kl_k1.mean == 0.0
    assert report.reverse_kl_k3.mean == 0.25  # w·log w - w + 1 = 1 at w = 0
    assert report.kept_mass.mean == 0.75
    assert report.max_difference == report.perplexity_train.mean == np.inf


def test_nothing_to_report():
    report = mismatch_report(np.empty((0, 3)), np.empty((0, 3)))
    assert report.tokens == 0
    for name in ("max_difference", "ess", "sequence_ess", "sequence_chi2"):
        assert math.isnan(getattr(report, name))
    assert math.isnan(report.kl_k3.mean)
    full = mismatch_report([[-1.5]], [[-1.0]])
    assert full.merge(report).kl_k1.mean == full.kl_k1.mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2)), np.zeros((2, 3))), r"`rollout_log_probs` has shape \(2, 2\), expected \(2, 3\)"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.ones(3)), r"`mask` has shape \(3,\), expected \(2, 3\)"),
        ((np.zeros(3), np.zeros(3), None, [0, 2]), "`offsets` runs from 0 to 2, expected 0 to 3"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        mismatch_report(*arguments)


def test_bounds_are_checked():
    with pytest.raises(ValueError, match=r"`ratio_bounds` is .*, expected 0 < low < high"):
        mismatch_report([[0.0]], [[0.0]], ratio_bounds=(2.0, 0.5))


def test_reports_are_made_of_what_they_need():
    for bounds in ((2.0, 0.5), (0.5, "2"), (np.nan, 1.0)):
        with pytest.raises((TypeError, ValueError), match="`ratio_bounds` is"):
            MismatchReport(bounds)
    with pytest.raises(ValueError, match="`nan_policy` is 'none'"):
        MismatchReport((0.5, 2.0), "none")
    with pytest.raises(TypeError, match="`other` is str, expected a MismatchReport"):
        MismatchReport((0.5, 2.0)).merge("report")
