"""Preference scores against f' written out in 60 digits, finite differences and plain loops."""

import mpmath
import numpy as np
import pytest

from kullback.rlhf import preference_score_gradient, preference_scores, tail_weights
from kullback.tokens import sequence_sums

DIVERGENCES = [
    ("reverse_kl", 0.5),
    ("forward_kl", 0.5),
    ("js_divergence", 0.5),
    ("alpha_divergence", 0.5),
    ("alpha_divergence", 1.7),
    ("alpha_divergence", 0.0),
    ("alpha_divergence", 1.0),
    ("alpha_divergence", 1.0 + 1e-9),
]
X = np.array([-300.0, -30.0, -2.0, -1e-3, -1e-10, 0.0, 1e-10, 1e-3, 0.7, 5.0, 40.0, 300.0])


def derivative_of_f(divergence, alpha, x):
    """f'(u) at u = e^x, as the papers write it, normalised to 0 at u = 1."""
    with mpmath.workdps(300):
        u, a = mpmath.exp(mpmath.mpf(x)), mpmath.mpf(alpha)
        if divergence == "alpha_divergence" and alpha != 1.0:
            return (u ** (a - 1) - 1) / (a - 1)
        return {
            "reverse_kl": mpmath.log(u),
            "forward_kl": 1 - 1 / u,
            "js_divergence": mpmath.log(2 * u / (1 + u)),
            "alpha_divergence": mpmath.log(u),
        }[divergence]


@pytest.mark.parametrize(("divergence", "alpha"), DIVERGENCES)
def test_scores_match_the_derivative_of_f(divergence, alpha):
    got = preference_scores(X, divergence, alpha=alpha)
    for score, x in zip(got, X, strict=True):
        want = derivative_of_f(divergence, alpha, x)
        assert abs(mpmath.mpf(float(score)) - want) <= 1e-13 * abs(want)


@pytest.mark.parametrize(("divergence", "alpha"), DIVERGENCES)
def test_gradients_match_finite_differences(divergence, alpha):
    x, h, lengths = np.linspace(-4, 4, 17), 1e-6, np.arange(17)
    arguments = {"alpha": alpha, "lengths": lengths}
    up, down = (preference_scores(x + step, divergence, **arguments) for step in (h, -h))
    got = preference_score_gradient(x, divergence, **arguments)
    assert np.allclose(got, (up - down) / (2 * h), rtol=1e-7, atol=1e-9)


def test_alpha_divergence_meets_the_two_kls():
    x = np.linspace(-3, 3, 7)
    assert np.array_equal(preference_scores(x, "alpha_divergence", alpha=1.0), x)
    assert np.allclose(preference_scores(x, "alpha_divergence", alpha=0.0), preference_scores(x, "forward_kl"))


def test_exponent_clamp():
    got = preference_scores([-200.0, 1.0], "alpha_divergence", exponent_clamp=80.0)
    assert np.allclose(got, [-2 * np.expm1(80.0), -2 * np.expm1(-0.5)], rtol=1e-14)
    slopes = preference_score_gradient([-200.0, 1.0], "alpha_divergence", exponent_clamp=80.0)
    assert np.allclose(slopes, [0.0, np.exp(-0.5)])


def test_infinite_log_ratios():
    ends = [-np.inf, np.inf]
    assert preference_scores(ends, "reverse_kl").tolist() == ends
    assert preference_scores(ends, "forward_kl").tolist() == [-np.inf, 1.0]
    assert preference_scores(ends, "js_divergence").tolist() == [-np.inf, np.log(2.0)]
    assert preference_scores(ends, "alpha_divergence").tolist() == [-np.inf, 2.0]
    assert preference_score_gradient(ends, "js_divergence").tolist() == [1.0, 0.0]
    for divergence, _ in DIVERGENCES:
        assert np.isnan(preference_scores(np.nan, divergence))
        assert np.isnan(preference_score_gradient(np.nan, divergence))


def test_lengths_divide_the_score():
    got = preference_scores([6.0, 6.0, 6.0], lengths=[3, 1, 0])
    assert got.tolist() == [2.0, 6.0, 6.0]
    assert preference_scores([6.0, 3.0], lengths=3).tolist() == [2.0, 1.0]


@pytest.mark.parametrize("packed", [False, True])
def test_length_desensitised_sums_match_a_loop(packed):
    rng = np.random.default_rng(1)
    values, mask = rng.normal(size=(6, 9)), rng.random((6, 9)) < 0.7
    prefixes = np.array([0, 1, 2, 3, 4, 20])
    expected = []
    for b in range(6):
        kept = values[b][mask[b]]
        expected.append(kept[: prefixes[b]].sum() + 0.3 * kept[prefixes[b] :].sum())
    offsets = None
    if packed:
        values, mask, offsets = values.reshape(-1), mask.reshape(-1), np.arange(7) * 9
    weights = tail_weights(prefixes, 0.3, mask, offsets)
    assert np.allclose(sequence_sums(values * weights, mask, offsets), expected, rtol=1e-13)
    assert np.array_equal(weights == 0.0, ~mask)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_nan_stays_nan(divergence, alpha):
    assert np.isnan(preference_scores([np.nan], divergence, alpha=alpha)).all()
    assert np.isnan(preference_score_gradient([np.nan], divergence, alpha=alpha)).all()


def test_prefixes_are_whole_numbers_and_masks_plain():
    with pytest.raises(TypeError, match="`prefix_lengths` has dtype float64, expected integers"):
        tail_weights([np.nan], 0.5, np.ones((1, 3)))
    with pytest.raises(TypeError, match="`mask` is a masked array"):
        tail_weights([1], 0.5, np.ma.ones((1, 3)))
    with pytest.raises(TypeError, match="`log_ratios` is a masked array"):
        preference_scores(np.ma.ones(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preference_scores(X, "kl"), "`divergence` is 'kl', expected one of reverse_kl"),
        (lambda: preference_scores(X, exponent_clamp=80.0), "`exponent_clamp` is 80.0, expected None"),
        (lambda: preference_scores(X, lengths=[1, 2]), r"`lengths` has shape \(2,\), expected \(12,\)"),
        (
            lambda: tail_weights([1], 0.5, np.ones((2, 3))),
            r"`prefix_lengths` has shape \(1,\), expected \(2,\)",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
