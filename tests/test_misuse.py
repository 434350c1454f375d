"""Wrong arguments of every public function: an error that says so or a right answer, each time."""

import functools
import itertools
import os
import warnings

import misuse
import numpy as np
import pytest

import kullback as kb
from kullback import closed_form, drift
from kullback.distillation.topk.divergence import TAILS

# right arguments that no general rule makes
BY_HAND = {
    "merge_logs",
    "open_sparse",
    "MismatchReport.merge",
    "WhatIf.merge",
    "ComparisonSummary.merge",
    "CandidateComparison.difference",
    "CandidateComparison.merge",
    "DriftState.merge",
}


@pytest.mark.parametrize("name", [name for name in misuse.names() if name not in BY_HAND])
def test_right_arguments_are_taken(name, tmp_path, monkeypatch):
    """Else all that is tried of a function would be its first check."""
    monkeypatch.chdir(tmp_path)
    misuse.save_rows()
    call = misuse.Call(0, name, 0, wrong=False)
    call.make(call.arguments)


def test_random_misuse():
    """A few calls of each function here, 10,000 in `make nightly`."""
    found = misuse.run(0, int(os.environ.get("KULLBACK_MISUSE_CALLS", "25")))
    wrong = [f"{what}: {call}" for call, what in misuse.failures(found)]
    assert not wrong, misuse.table(found) + "\n" + "\n".join(wrong[:20])


ROWS = np.random.default_rng(3).uniform(0.1, 1.0, (3, 5))
IDS = np.array([0, 4, 2])
HOLED = np.ma.masked_array(np.arange(3), [0, 1, 0])
LISTS = np.array([[0, 2]] * 3), np.full((3, 2), -1.0)


def test_codes_are_logits():
    codes = np.zeros(3, [("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (5,))])
    calls = [lambda f=f: f(ROWS, codes, given="probs") for f in PAIRS] + [
        lambda f=f: f(codes, ROWS, given="probs") for f in PAIRS
    ]
    calls += [lambda: kb.entropy(codes), lambda: kb.token_log_probs(codes, IDS, given="probs")]
    calls += [lambda: kb.f_divergence(codes, ROWS, "kl"), lambda: kb.divergence_matrix(codes)]
    calls += [lambda: kb.compare(codes, ROWS, given="probs"), lambda: kb.cross_entropy(ROWS, codes)]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"codes|dtype"):
            call()


PAIRS = [
    kb.kl_divergence,
    kb.symmetric_kl_divergence,
    kb.jensen_shannon_divergence,
    kb.jensen_shannon_distance,
    kb.generalized_jsd,
    kb.skew_kl_divergence,
    kb.total_variation,
    kb.hellinger_distance,
    kb.chi2_divergence,
    functools.partial(kb.renyi_divergence, alpha=0.5),
]


@pytest.mark.parametrize("wrong", [HOLED, np.ma.masked_array(1, True), np.array([1, 2]), np.zeros((1,) * 40), 1.5, "1"])
def test_an_ignore_index_is_a_whole_number(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    misuse.save_rows()
    for call in (
        lambda: kb.token_log_probs(ROWS, IDS, ignore_index=wrong),
        lambda: kb.token_log_ratios(ROWS, ROWS, IDS, ignore_index=wrong),
        lambda: kb.sequence_log_ratios(ROWS[None], ROWS[None], IDS[None], ignore_index=wrong),
        lambda: kb.token_statistics(ROWS, ignore_index=wrong),
        lambda: kb.compare(ROWS, ROWS, ignore_index=wrong),
        lambda: kb.token_log_prob_gradient(ROWS, IDS, np.ones(3), ignore_index=wrong),
        lambda: kb.cross_entropy_loss(ROWS, IDS, ignore_index=wrong),
        lambda: kb.distillation_loss(ROWS, ROWS, ignore_index=wrong),
        lambda: kb.compare_files("rows.npy", "other.npy", ignore_index=wrong),
    ):
        with pytest.raises(TypeError, match=r"`ignore_index` is (.|\n)*, expected a whole number"):
            call()


def test_keywords_that_are_numbers():
    with pytest.raises(ValueError, match="`tail_weight` is beyond the range of float64"):
        kb.tail_weights([1, 2, 3], 10**400, ROWS > 0)
    for wrong in (HOLED, np.ones((1, 1)), "1"):
        with pytest.raises(TypeError, match=r"`z_loss` is (.|\n)*, expected a number"):
            kb.cross_entropy_loss(ROWS, IDS, z_loss=wrong)
    for wrong in (HOLED, np.ma.masked_array(1, True)):
        with pytest.raises(TypeError, match=r"`seed` is (.|\n)*, expected a whole number"):
            kb.mixture_kl(closed_form.Normal(0.0, 1.0), closed_form.Normal(0.0, 1.0), seed=wrong)
    for loss in (
        lambda t: kb.distillation_loss(ROWS, ROWS, temperature=t, temperature_squared=True),
        lambda t: kb.linear_distillation_loss(ROWS, ROWS, ROWS, ROWS, temperature=t, temperature_squared=True),
    ):
        with pytest.raises(ValueError, match=r"`temperature` is 1e.200, whose square is beyond"):
            loss(1e200)


def test_edges_of_a_histogram():
    spread = kb.compare(ROWS, ROWS[::-1]).summary().kl
    for wrong in (HOLED, np.zeros((2, 2)), [], [1.0, 0.0], [0.0, np.nan]):
        with pytest.raises((TypeError, ValueError), match="`edges` is"):
            spread.histogram(wrong)


def test_arguments_of_drift():
    table = {"a": np.arange(50.0)}
    for bins in (np.ones((3, 5), complex), HOLED):
        with pytest.raises(TypeError, match="`bins"):
            drift.fit(table, bins=bins)
    for wrong in ((1000, misuse.LyingArray((3, 5)), 10), (1000, 1000, 0.5), (1000, HOLED, 10), (1000, 1000, 10, IDS)):
        with pytest.raises(TypeError, match=r"is (.|\n)*, expected a"):
            drift.psi_threshold(*wrong)
    state = drift.fit(table)  # nothing to smooth yet
    for wrong in (HOLED, np.zeros(0), misuse.LyingArray((3, 5))):
        with pytest.raises(TypeError, match="`smoothing` is"):
            state.report(smoothing=wrong)
    for wrong in (HOLED, np.zeros(3), misuse.LyingArray((3, 5)), 1, (0.2, 0.1)):
        with pytest.raises((TypeError, ValueError), match="`bands` is"):
            state.report(bands=wrong)


def test_an_out_for_a_gradient_that_nobody_asked_for():
    out = np.empty((3, 5))
    for call in (
        lambda: kb.distillation_loss(ROWS, ROWS, student_out=out),
        lambda: kb.distillation_loss(ROWS, ROWS, gradient="teacher", student_out=out),
        lambda: kb.distillation_loss(ROWS, ROWS, gradient="student", teacher_out=out),
        lambda: kb.cross_entropy_loss(ROWS, IDS, out=out),
        lambda: kb.topk_divergence(ROWS, LISTS, out=out),
        lambda: kb.topk_divergence(LISTS, LISTS, out=out),
    ):
        with pytest.raises(ValueError, match="out` is given, but `gradient` does not ask"):
            call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, 1e308])
def test_sparse_teachers_of_hopeless_rows_warn_of_nothing(value):
    rows = ROWS.copy()
    rows[0], rows[1, 0], rows[2, 3] = value, value, -value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower, upper = kb.topk_kl_interval(rows, LISTS)
        assert not (lower > upper).any()
        for divergence, tail in itertools.product(("forward_kl", "reverse_kl", "jsd"), TAILS):
            for gradient in (False, True):
                kb.topk_divergence(rows, LISTS, divergence, tail, gradient=gradient)
            if tail != "floor":
                kb.topk_divergence((LISTS[0], np.full((3, 2), -abs(value))), LISTS, divergence, tail)
