"""Sampled KL estimators against mpmath, finite differences and exact enumeration of a small vocabulary."""

import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st

from kullback.rlhf import ESTIMATOR_PRESETS, kl_estimate, kl_estimate_gradient

KINDS = ("k1", "k2", "k3", "abs")
HOSTILE = [0.0, 1e-8, -1e-8, 1e-4, -1e-4, 0.4999, -0.4999, 0.5, -0.5, 3.0, -3.0, 29.9, -30.1, 100.0, -100.0]


def exact(kind, d, log_weight=0.0):
    with mpmath.workdps(60):
        d = mpmath.mpf(float(d))
        value = {"k1": d, "k2": d * d / 2, "k3": mpmath.exp(-d) - 1 + d, "abs": abs(d)}[kind]
        return mpmath.exp(mpmath.mpf(float(log_weight))) * value


def assert_close(actual, expected, rtol):
    """Relative errors taken in the precision of the truth."""
    for got, want in zip(np.ravel(actual), expected, strict=True):
        assert abs(mpmath.mpf(float(got)) - want) <= rtol * abs(want), (got, want)


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_match_mpmath(kind, dtype):
    rng = np.random.default_rng(1)
    spread = rng.normal(size=300) * 10.0 ** rng.uniform(-9, 2, 300)
    d = np.concatenate([spread, HOSTILE]).astype(dtype)
    got = kl_estimate(d, kind)
    assert got.dtype == np.float64
    assert_close(got, [exact(kind, x) for x in d.astype(np.float64)], 1e-15)


def test_k3_written_to_float32_is_never_negative_and_within_a_unit_in_the_last_place():
    rng = np.random.default_rng(2)
    d = (rng.normal(size=20_000) * 10.0 ** rng.uniform(-12, 1.5, 20_000)).astype(np.float32)
    got = kl_estimate(d, "k3", out=np.empty_like(d))
    assert got.dtype == np.float32
    assert np.all(got >= 0.0)
    assert_close(got[::40], [exact("k3", x) for x in d[::40]], 6.1e-8)
    assert np.array_equal(kl_estimate(d, "k3").astype(np.float32), got)


@given(st.floats(width=32, allow_nan=False))
def test_k3_has_no_negative_value_and_no_nan(d):
    value = kl_estimate(np.float32(d), "k3")
    assert value >= 0.0
    assert np.isinf(value) == (np.isinf(d) or d < -709.78)


@pytest.mark.parametrize(("kind", "at_inf", "at_minus_inf"), [("k1", 1, -1), ("k2", 1, 1), ("k3", 1, 1), ("abs", 1, 1)])
def test_infinities_and_nan(kind, at_inf, at_minus_inf):
    got = kl_estimate(np.array([np.inf, -np.inf, np.nan], np.float32), kind)
    assert np.array_equal(got, [at_inf * np.inf, at_minus_inf * np.inf, np.nan], equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_importance_weights(kind):
    pairs = list(itertools.product(HOSTILE, [0.0, 0.7, -0.7, -25.0, 5.0]))
    d, lw = np.array(pairs).T
    got = kl_estimate(d, kind, importance_log_ratio=lw)
    assert_close(got, [exact(kind, *pair) for pair in pairs], 4e-15)


def test_weighted_k3_survives_an_overflowing_ratio():
    # policy e^-800, ref e^-1: exp(-d) overflows, but w·exp(-d) = ref/behaviour is finite
    got = kl_estimate(-799.0, "k3", importance_log_ratio=-798.0)
    assert got == pytest.approx(np.e, rel=1e-13)
    slope = kl_estimate_gradient(-799.0, "k3", importance_log_ratio=-798.0, weight_gradient=False)
    assert slope == pytest.approx(-np.e, rel=1e-13)


def test_a_zero_weight_counts_nothing():
    none = -np.inf
    assert kl_estimate(np.inf, "k2", importance_log_ratio=none) == 0.0
    assert kl_estimate(none, "k1", importance_log_ratio=none) == 0.0
    assert np.isnan(kl_estimate(none, "k3", importance_log_ratio=none))
    assert np.isnan(kl_estimate(np.nan, "k1", importance_log_ratio=none))


@pytest.mark.parametrize("kind", [*KINDS, "k3+"])
def test_masked_tokens_give_exact_zeros_whatever_they_hold(kind):
    d = np.array([[1.0, np.nan, -1.0], [np.inf, -np.inf, 2.0]], np.float32)
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    for function in (kl_estimate, kl_estimate_gradient):
        got = function(d, kind, mask=mask)
        assert np.array_equal(got[mask == 0], np.zeros(3))
        assert np.array_equal(got[mask == 1], function(d[mask == 1], kind))


def test_strided_broadcast_and_empty_inputs():
    d = np.arange(24.0).reshape(4, 6)[:, ::2]
    assert np.array_equal(kl_estimate(d, "k2"), d**2 / 2)
    by_sequence = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert np.allclose(kl_estimate(d, "k1", importance_log_ratio=by_sequence), d * np.exp(by_sequence))
    assert kl_estimate(np.empty((0, 3)), "k3").shape == (0, 3)
    assert isinstance(kl_estimate(1.0, "k3"), float)
    long = np.linspace(-2, 2, 100_001)
    assert np.array_equal(kl_estimate(long, "k3")[::7], kl_estimate(long[::7], "k3"))


# ------------------------------------------------------------------------------------------ clamps, presets


def test_clamps_are_off_by_default_and_apply_in_order():
    assert kl_estimate(-50.0, "k3") == pytest.approx(np.exp(50.0))
    assert kl_estimate(-50.0, "k1", log_ratio_clamp=20.0) == -20.0
    assert kl_estimate(-50.0, "k1", log_ratio_clamp=20.0, output_clamp=10.0) == -10.0
    assert kl_estimate(1.0, "k1", importance_log_ratio=3.0, output_clamp=10.0) == 10.0


# From the table of clamps in the docstring of kl_estimate, written out by hand.
@pytest.mark.parametrize(
    ("preset", "kind", "expected"),
    [
        ("trl", "k3", np.exp(30.0) - 31.0),
        ("verl", "k3", 10.0),
        ("verl", "low_var_kl", 10.0),
        ("verl", "kl", -30.0),
        ("verl", "mse", 450.0),
        ("openrlhf", "k1", -10.0),
        ("openrlhf", "k2", 10.0),
        ("openrlhf", "k3", 10.0),
        ("nemo", "k1", -10.0),
        ("nemo", "k3", 10.0),
        ("open-instruct", "k2", 450.0),
        ("slime", "k3", np.exp(30.0) - 31.0),
        ("slime", "low_var_kl", 10.0),
        ("tunix", "low_var_kl", np.exp(30.0) - 31.0),
        ("tunix", "kl", -30.0),
    ],
)
def test_presets(preset, kind, expected):
    assert kl_estimate(-30.0, kind, preset=preset) == pytest.approx(expected, rel=1e-14)


def test_open_instruct_clamps_at_40():
    assert kl_estimate(-50.0, "k1", preset="open-instruct") == -40.0


@pytest.mark.parametrize("alias", [("kl", "k1"), ("mse", "k2"), ("mse_kl", "k2"), ("low_var_kl", "k3"), ("k3+", "k3")])
def test_aliases(alias):
    d = np.array(HOSTILE)
    assert np.array_equal(kl_estimate(d, alias[0]), kl_estimate(d, alias[1]))


# -------------------------------------------------------------------------------------------------- gradients

SETTINGS = [
    {},
    {"log_ratio_clamp": 2.0},
    {"output_clamp": 1.5},
    {"log_ratio_clamp": 3.0, "output_clamp": 2.0},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weights", [None, "fixed", "moving"])
def test_gradients_match_finite_differences(kind, settings, weights):
    d = np.array([-5.2, -2.6, -1.3, -0.3, -1e-2, 1e-2, 0.3, 1.2, 2.4, 5.1])
    lw = np.linspace(-0.5, 0.6, d.size)

    def value(step):
        if weights is None:
            return kl_estimate(d + step, kind, **settings)
        # where the input clamp is active the weight's gradient is switched off too, as in NeMo-RL
        moves = weights == "moving"
        inside = np.abs(d) <= settings.get("log_ratio_clamp", np.inf)
        return kl_estimate(d + step, kind, importance_log_ratio=lw + step * (moves & inside), **settings)

    arguments = {} if weights is None else {"importance_log_ratio": lw, "weight_gradient": weights == "moving"}
    got = kl_estimate_gradient(d, kind, **arguments, **settings)
    h = 1e-5
    assert np.allclose(got, (value(h) - value(-h)) / (2 * h), rtol=1e-8, atol=1e-9)


def test_straight_through_has_the_value_of_the_estimator_and_the_gradient_of_k2():
    d = np.array([-30.0, -1.0, 0.0, 2.0])
    assert np.array_equal(kl_estimate(d, "k3+", preset="verl"), kl_estimate(d, "k3", preset="verl"))
    assert np.array_equal(kl_estimate_gradient(d, "k3+", preset="verl"), d)


def test_a_clamped_gradient_is_zero_also_where_the_estimate_overflows():
    for kind in ("k3", "k2"):
        got = kl_estimate_gradient([-1000.0, -np.inf], kind, output_clamp=10.0)
        assert np.array_equal(got, [0.0, 0.0])
    # e^x - x - 1 = 10 at x = 2.6109: verl's k3 has no gradient from there on
    assert kl_estimate_gradient(-2.6108, "k3", preset="verl") < -12.0
    assert kl_estimate_gradient(-2.6110, "k3", preset="verl") == 0.0


def test_nan_has_a_nan_gradient():
    assert np.isnan(kl_estimate_gradient(np.nan, "k1"))
    assert np.isnan(kl_estimate_gradient(np.nan, "k2", importance_log_ratio=0.0))


def test_expected_gradients_under_the_policy_by_exact_enumeration():
    """What each estimator optimises when it is put into the loss (V = 9, every token enumerated)."""
    rng = np.random.default_rng(3)
    z, z_ref = rng.normal(size=(2, 9))
    s, r = np.exp(z) / np.exp(z).sum(), np.exp(z_ref) / np.exp(z_ref).sum()
    d = np.log(s) - np.log(r)
    reverse = s * (d - s @ d)  # grad_z KL(policy‖ref)
    forward = s - r  # grad_z KL(ref‖policy)

    def expected(kind, **arguments):
        g = s * kl_estimate_gradient(d, kind, **arguments)
        return g - s * g.sum()  # d log s_y / dz = e_y - s

    on_policy = {"importance_log_ratio": 0.0}
    assert np.allclose(expected("k2"), reverse, atol=1e-15)
    assert np.allclose(expected("k1", **on_policy), reverse, atol=1e-15)
    assert np.allclose(expected("k3", **on_policy), reverse, atol=1e-15)
    for kind in KINDS:
        assert np.allclose(expected(kind + "+"), reverse, atol=1e-15)
    assert np.allclose(expected("k1"), 0.0, atol=1e-15)
    assert np.allclose(expected("k3"), forward, atol=1e-15)
    assert np.abs(expected("k2", **on_policy) - reverse).max() > 0.05
    assert np.abs(expected("k2", **on_policy) - forward).max() > 0.05
    assert s @ kl_estimate(d, "k1") == pytest.approx(s @ d)
    assert s @ kl_estimate(d, "k3") == pytest.approx(s @ d)


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "k4"}, "`kind` is 'k4', expected one of k1, kl"),
        ({"preset": "rlx"}, "`preset` is 'rlx', expected one of trl, verl"),
        ({"preset": "tunix", "kind": "k3"}, "`kind` is 'k3', expected one of kl, mse_kl, low_var_kl"),
        ({"preset": "verl", "output_clamp": 1.0}, "preset 'verl' sets the clamps"),
        ({"output_clamp": 0.0}, "`output_clamp` is 0.0, expected a positive number"),
        ({"log_ratio_clamp": float("nan")}, "`log_ratio_clamp` is nan, expected a positive number"),
        ({"kind": "k3+", "importance_log_ratio": 0.0}, "expected no '\\+' with `importance_log_ratio`"),
        ({"importance_log_ratio": np.zeros(3)}, "`importance_log_ratio` has shape \\(3,\\)"),
        ({"mask": np.ones(3)}, "`mask` has shape \\(3,\\), expected \\(2,\\) to match `log_ratio`"),
        ({"mask": np.array([0.5, 1.0])}, "`mask` holds values other than 0 and 1"),
        ({"out": np.empty(3)}, "`out` has shape \\(3,\\), expected \\(2,\\)"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        kl_estimate(np.zeros(2), **arguments)


def test_type_errors():
    with pytest.raises(TypeError, match="`log_ratio` has dtype complex128"):
        kl_estimate(np.zeros(2, complex))
    with pytest.raises(TypeError, match="`out` is int64"):
        kl_estimate(np.zeros(2), out=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`importance_log_ratio` has shape .*give weight_gradient=False"):
        kl_estimate_gradient(np.zeros((2, 3)), importance_log_ratio=np.zeros((2, 1)))


def test_every_preset_kind_runs():
    for preset, kinds in ESTIMATOR_PRESETS.items():
        for kind in kinds:
            assert np.isfinite(kl_estimate(0.5, kind, preset=preset))


@pytest.mark.parametrize("name", ["log_ratio", "mask", "importance_log_ratio"])
def test_masked_arrays_would_lose_their_mask(name):
    arguments = {"log_ratio": np.zeros(3)} | {name: np.ma.zeros(3)}
    for function in (kl_estimate, kl_estimate_gradient):
        with pytest.raises(TypeError, match=f"`{name}` is a masked array, expected a plain one"):
            function(**arguments)
