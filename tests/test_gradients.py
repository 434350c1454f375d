"""Gradients against the long double reference: near and far, both sides, every storage, -inf, strides."""

import kinds
import numpy as np
import pytest
import reference
from strategies import stored

from kullback._engine import calls
from kullback.distillation import cross_entropy_loss, entropy_gradient, token_log_prob_gradient

# name of the reference, kind, parameters, the reference's parameter
KINDS = [
    (setting.reference, name, setting.parameters, setting.parameter)
    for name, kind in kinds.KINDS.items()
    if kind.gradient
    for setting in kind.settings
]


def evaluate(p, q, kind, parameters, side, temperature=1.0, weights=None, out=None, known=None, num_threads=1):
    """(gradient, values, state) along the logits of p (side 0) or q (side 1)."""
    pair = calls.batch(("p", p), ("q", q))
    x = (p, q)[side]
    out = np.empty(x.shape, x.dtype) if out is None else out
    weights = np.ones(pair.rows) if weights is None else weights
    target = calls.Target.of(out, "out", x.shape)
    return out, *calls.divergence_gradient(
        pair, 1 / temperature, kind, parameters, side, weights, target, num_threads, known
    )


def miss(got, truth):
    """Greatest error of a row relative to the row's greatest derivative."""
    truth = truth.astype(float)
    return float(np.max(np.abs(np.asarray(got, float) - truth).max(-1) / np.abs(truth).max(-1)))


@pytest.mark.parametrize("noise", [1e-4, 1e-2, 0.5, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", KINDS)
def test_accuracy_along_both_sides(case, dtype, noise):
    name, kind, parameters, parameter = case
    rng = np.random.default_rng(0)
    a = (3 * rng.standard_normal((3, 2051))).astype(dtype)
    b = (a + noise * rng.standard_normal(a.shape)).astype(dtype)
    truth = reference.gradients(name, a, b, parameter, 0.8)
    for side in (0, 1):
        got, values, _ = evaluate(a, b, kind, parameters, side, 0.8)
        assert miss(got, truth[side]) <= (1e-6 if dtype is np.float32 else 1e-12)
        alone = calls.divergence(calls.batch(("p", a), ("q", b)), 0, 1 / 0.8, kind, parameters, 1)
        np.testing.assert_allclose(values, alone, rtol=1e-6 if dtype is np.float32 else 1e-13)  # other sums, no moment


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", KINDS)
def test_16_bit_gradients_are_rounded_once(case, storage):
    name, kind, parameters, parameter = case
    rng = np.random.default_rng(1)
    a = rng.standard_normal((2, 333))
    a, b = stored(a, storage), stored(a + rng.standard_normal(a.shape), storage)
    truth = reference.gradients(name, a, b, parameter)
    last_bit = 2.0**-11 if storage == "float16" else 2.0**-8
    for side in (0, 1):
        got, _, _ = evaluate(a, b, kind, parameters, side)
        assert got.dtype == a.dtype
        expected = truth[side].astype(float)
        assert np.all(np.abs(got.astype(float) - expected) <= 0.51 * 2 * last_bit * np.abs(expected) + 6e-8)


def test_bfloat16_and_float16_writing_rounds_to_nearest_even():
    """The gradient of a row against itself, scaled: known numbers through the writer."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 4, 517)).astype(np.float32)
    exact, _, _ = evaluate(a, b, *KINDS[0][1:3], 1)
    for storage in ("float16", "bfloat16"):
        out = stored(np.zeros(a.shape), storage)
        evaluate(a, b, *KINDS[0][1:3], 1, out=out)
        np.testing.assert_array_equal(out.astype(np.float32), exact.astype(out.dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", KINDS)
def test_tokens_impossible_under_both_get_zero(case, dtype):
    name, kind, parameters, parameter = case
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 2, 100)).astype(dtype)
    gone = rng.random(100) < 0.3
    truth = reference.gradients(name, a[:, ~gone], b[:, ~gone], parameter)
    a[:, gone] = b[:, gone] = -np.inf
    for side in (0, 1):
        got, _, _ = evaluate(a, b, kind, parameters, side)
        assert not got[:, gone].any()
        assert miss(got[:, ~gone], truth[side]) <= (1e-6 if dtype is np.float32 else 1e-12)


def test_tokens_impossible_for_the_teacher_alone():
    """Finite losses have finite gradients; an infinite one has none, but for forward KL, where it is S - T."""
    rng = np.random.default_rng(4)
    t, s = rng.standard_normal((2, 3, 50))
    full = t.copy()
    t[:, :7] = -np.inf
    p, q = (np.exp(reference.log_softmax(x)).astype(float) for x in (t, s))
    got, _, _ = evaluate(t, s, *KINDS[0][1:3], 1)
    np.testing.assert_allclose(got, q - p, rtol=1e-11, atol=1e-15)
    got, values, _ = evaluate(t, s, *KINDS[1][1:3], 1)
    assert np.all(values == np.inf) and np.isnan(got).all()
    m = (p + q) / 2
    ratio = np.log(q / m)
    got, _, _ = evaluate(t, s, *KINDS[2][1:3], 1)
    np.testing.assert_allclose(got, 0.5 * q * (ratio - (q * ratio).sum(-1, keepdims=True)), rtol=1e-9, atol=1e-16)
    got, _, _ = evaluate(t, s, *KINDS[2][1:3], 0)
    assert not got[:, :7].any() and np.isfinite(got).all()
    got, _, _ = evaluate(t, s, *KINDS[4][1:3], 1)
    sign = np.sign(q - p)
    np.testing.assert_allclose(got, 0.5 * q * (sign - (q * sign).sum(-1, keepdims=True)), rtol=1e-9, atol=1e-16)
    got, _, _ = evaluate(t, s, *KINDS[6][1:3], 1)
    w = np.sqrt(p * q)
    np.testing.assert_allclose(got, q - w / w.sum(-1, keepdims=True), rtol=1e-9, atol=1e-15)
    assert np.isfinite(evaluate(full, s, *KINDS[1][1:3], 1)[0]).all()


def test_undefined_rows_have_nan_and_spoil_no_others():
    a, b = np.random.default_rng(5).standard_normal((2, 3, 20)).astype(np.float32)
    alone = evaluate(a, b, *KINDS[2][1:3], 1)[0]
    a[1, 3] = np.nan
    got = evaluate(a, b, *KINDS[2][1:3], 1)[0]
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[::2], alone[::2])


def test_rows_of_weight_zero_are_not_read():
    a, b = np.random.default_rng(6).standard_normal((2, 3, 40)).astype(np.float32)
    alone = evaluate(a, b, *KINDS[2][1:3], 1)[0]
    a[1] = np.nan
    got, values, _ = evaluate(a, b, *KINDS[2][1:3], 1, weights=np.array([1.0, 0.0, -2.0]))
    assert not got[1].any() and values[1] == 0
    np.testing.assert_array_equal(got[0], alone[0])
    np.testing.assert_allclose(got[2], -2 * alone[2], rtol=1e-6)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("case", KINDS)
def test_a_kept_state_gives_the_same_bits(case, side):
    _, kind, parameters, _ = case
    a, b = np.random.default_rng(7).standard_normal((2, 5, 300)).astype(np.float32)
    fused, values, _ = evaluate(a, b, kind, parameters, side)
    pair = calls.batch(("p", a), ("q", b))
    state = np.zeros((5, calls.STATE))
    known = calls.divergence(pair, 0, 1.0, kind, parameters, 1, state=state), state
    np.testing.assert_array_equal(known[0], values)
    later, _, _ = evaluate(a, b, kind, parameters, side, known=known)
    np.testing.assert_array_equal(later, fused)


def test_strided_and_threaded_outputs():
    a, b = np.random.default_rng(8).standard_normal((2, 64, 9001)).astype(np.float32)
    alone = evaluate(a, b, *KINDS[1][1:3], 1)[0]
    wide = np.full((64, 9003), 7, np.float32)
    evaluate(a, b, *KINDS[1][1:3], 1, out=wide[:, 1:-1], num_threads=4)
    np.testing.assert_array_equal(wide[:, 1:-1], alone)
    assert np.all(wide[:, [0, -1]] == 7)


# ---- one model's logits ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_with_z_loss(dtype):
    rng = np.random.default_rng(9)
    x = (3 * rng.standard_normal((4, 5, 77))).astype(dtype)
    labels = rng.integers(0, 77, (4, 5))
    labels[1, 2] = labels[3, 0] = -100
    result = cross_entropy_loss(x, labels, gradient=True, z_loss=0.01, temperature=0.5)
    lse = reference.logsumexp(x, 0.5)
    picked = reference.token_log_probs(x, labels, temperature=0.5)
    kept = labels >= 0
    per_token = np.where(kept, 0.01 * lse**2 - np.where(kept, picked, 0), 0)
    assert result.tokens == 18
    assert result.loss == pytest.approx(float(per_token.sum() / 18), rel=1e-6 if dtype is np.float32 else 1e-13)
    slope = -reference.token_log_prob_gradient(x, np.maximum(labels, 0), 0.5)
    slope = slope + (0.02 * lse)[..., None] * reference.logsumexp_gradient(x, 0.5)
    slope = np.where(kept[..., None], slope, 0) / 18
    assert not result.gradient[~kept].any()
    assert miss(result.gradient[kept], slope[kept]) <= (1e-6 if dtype is np.float32 else 1e-13)


def test_gradient_of_several_log_probs_a_row_with_repeated_ids():
    rng = np.random.default_rng(10)
    x = rng.standard_normal((3, 50))
    tokens = np.array([[1, 1, 4], [0, -100, 49], [7, 8, 9]])
    upstream = rng.standard_normal((3, 3))
    expected = np.zeros((3, 50))
    for j in range(3):
        kept = tokens[:, j] >= 0
        slope = reference.token_log_prob_gradient(x, np.maximum(tokens[:, j], 0))
        expected += (np.where(kept, upstream[:, j], 0)[:, None] * slope).astype(float)
    np.testing.assert_allclose(token_log_prob_gradient(x, tokens, upstream), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_gradient(dtype):
    x = (2 * np.random.default_rng(11).standard_normal((3, 700))).astype(dtype)
    x[:, 5] = -np.inf
    kept = np.arange(700) != 5
    got = entropy_gradient(x, [1.0, 0.0, -3.0], temperature=2.0)
    truth = np.array([[1.0], [0.0], [-3.0]]) * reference.entropy_gradient(x[:, kept], 2.0)
    assert not got[:, 5].any() and not got[1].any()
    assert miss(got[::2, kept], truth[::2]) <= (1e-6 if dtype is np.float32 else 1e-12)


def test_finite_differences_of_the_values_themselves():
    """Independent of any formula: central differences in float64."""
    rng = np.random.default_rng(12)
    for _, kind, parameters, _ in KINDS:
        a, b = rng.standard_normal((2, 1, 8))
        for side in (0, 1):
            got = evaluate(a, b, kind, parameters, side)[0][0]
            for v in range(8):
                change = []
                for step in (1e-6, -1e-6):
                    rows = [a.copy(), b.copy()]
                    rows[side][0, v] += step
                    pair = calls.batch(("p", rows[0]), ("q", rows[1]))
                    change.append(calls.divergence(pair, 0, 1.0, kind, parameters, 1)[0])
                assert got[v] == pytest.approx((change[0] - change[1]) / 2e-6, rel=1e-6, abs=2e-9)
