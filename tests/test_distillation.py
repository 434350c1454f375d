"""Losses as users call them: names, reductions, masks, temperature, soft-cap, outputs; and fused linear layers."""

import numpy as np
import pytest
import reference
from strategies import stored

from kullback.distillation import DISTILLATION_LOSSES, distillation_loss, linear_distillation_loss

RNG = np.random.default_rng(0)
S, T = RNG.standard_normal((2, 2, 6, 41))
MASK = RNG.random((2, 6)) < 0.6
WEIGHTS = RNG.random((2, 6)) + 0.5


def plain(name, s, t, parameter=None):
    """Each loss as its formula, in float64 from probabilities."""
    ls, lt = (np.asarray(reference.log_softmax(x), float) for x in (s, t))
    ps, pt = np.exp(ls), np.exp(lt)

    def kl(p, q):
        return (p * np.log(p / q)).sum(-1)

    b = DISTILLATION_LOSSES[name].default if parameter is None else parameter
    m = b * pt + (1 - b) * ps
    return {
        "forward_kl": lambda: kl(pt, ps),
        "reverse_kl": lambda: kl(ps, pt),
        "jsd": lambda: b * kl(pt, m) + (1 - b) * kl(ps, m),
        "symmetric_kl": lambda: b * kl(pt, ps) + (1 - b) * kl(ps, pt),
        "skew_kl": lambda: kl(pt, m),
        "skew_reverse_kl": lambda: kl(ps, b * ps + (1 - b) * pt),
        "tv": lambda: np.abs(ps - pt).sum(-1) / 2,
        "renyi": lambda: np.log((pt**b * ps ** (1 - b)).sum(-1)) / (b - 1),
        "cressie_read": lambda: 2 / (b * (b + 1)) * ((pt * (pt / ps) ** b).sum(-1) - 1),
        "soft_cross_entropy": lambda: -(pt * ls).sum(-1),
    }[name]()


def differences(loss, x, every=7):
    """Central differences of a function of the array x, at some of its places."""
    flat = x.reshape(-1)
    for i in range(0, flat.size, every):
        kept = flat[i]
        flat[i] = kept + 1e-5
        up = loss()
        flat[i] = kept - 1e-5
        down = loss()
        flat[i] = kept
        yield i, (up - down) / 2e-5


@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_every_loss_is_its_formula(name):
    result = distillation_loss(S, T, name, reduction="none")
    np.testing.assert_allclose(result.loss, plain(name, S, T), rtol=1e-11)
    np.testing.assert_array_equal(result.loss, result.per_token)


@pytest.mark.parametrize("options", [
    {"temperature": 2.0, "temperature_squared": True, "mask": MASK, "weights": WEIGHTS},
    {"softcap": 1.5, "temperature": 0.7, "mask": MASK, "reduction": "batchmean"},
])  # fmt: skip
@pytest.mark.parametrize("name", DISTILLATION_LOSSES)
def test_gradients_of_the_reduced_loss(name, options):
    s, t = S.copy(), T.copy()
    result = distillation_loss(s, t, name, gradient="both", **options)
    for x, got in ((s, result.student_gradient), (t, result.teacher_gradient)):
        for i, slope in differences(lambda: distillation_loss(s, t, name, **options).loss, x, 29):
            assert got.reshape(-1)[i] == pytest.approx(slope, rel=1e-5, abs=1e-10)
        assert not got[~MASK].any()


def test_temperature_and_softcap_are_applied_in_the_documented_order():
    cap = 2.0
    expected = plain("jsd", cap * np.tanh(S / cap) / 0.7, cap * np.tanh(T / cap) / 0.7) * 0.49
    got = distillation_loss(S, T, "jsd", temperature=0.7, softcap=cap, temperature_squared=True, reduction="none")
    np.testing.assert_allclose(got.loss, expected, rtol=1e-11)


def test_reductions_mean_what_the_field_means():
    per_token = plain("reverse_kl", S, T)
    kept = MASK.sum()

    def loss(reduction, **options):
        return distillation_loss(S, T, "reverse_kl", mask=MASK, reduction=reduction, **options).loss

    total = (per_token * MASK).sum()
    assert loss("token-mean") == pytest.approx(total / kept)
    assert loss("batchmean") == pytest.approx(total / 2)
    assert loss("mean") == pytest.approx(total / (kept * 41))
    assert loss("sum") == pytest.approx(total)
    assert loss("sum", divisor=5) == pytest.approx(total / 5)
    np.testing.assert_allclose(loss("none"), per_token * MASK)
    weighted = distillation_loss(S, T, "reverse_kl", mask=MASK, weights=WEIGHTS)
    assert weighted.loss == pytest.approx((per_token * MASK * WEIGHTS).sum() / kept)
    assert (weighted.tokens, weighted.divisor) == (kept, kept)


def test_labels_leave_ignored_rows_out_unread():
    labels = np.where(MASK, 3, -100)
    s = S.copy()
    s[~MASK] = np.nan
    result = distillation_loss(s, T, "jsd", labels=labels, gradient="student")
    clean = distillation_loss(S, T, "jsd", mask=MASK, gradient="student")
    assert result.loss == clean.loss
    np.testing.assert_array_equal(result.student_gradient, clean.student_gradient)


def test_no_counted_row_gives_zero():
    for options in ({}, {"softcap": 5.0}):
        result = distillation_loss(S, T, mask=np.zeros((2, 6), bool), gradient="both", **options)
        assert result.loss == 0 and result.tokens == 0
        assert not result.student_gradient.any() and not result.teacher_gradient.any()


def test_jsd_endpoints_are_the_two_kls():
    for beta, name in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        end = distillation_loss(S, T, "jsd", beta, gradient="student")
        kl = distillation_loss(S, T, name, gradient="student")
        assert end.loss == kl.loss
        np.testing.assert_array_equal(end.student_gradient, kl.student_gradient)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_storage_in_storage_out(storage, softcap):
    s, t = stored(S, storage), stored(T, storage)
    result = distillation_loss(s, t, "jsd", gradient="both", softcap=softcap)
    exact = distillation_loss(s.astype(float), t.astype(float), "jsd", gradient="both", softcap=softcap)
    assert result.student_gradient.dtype == s.dtype
    assert result.loss == pytest.approx(exact.loss, rel=1e-6)
    bits = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 1e-6}[storage]
    for got, truth in (
        (result.student_gradient, exact.student_gradient),
        (result.teacher_gradient, exact.teacher_gradient),
    ):
        assert np.abs(got.astype(float) - truth).max() <= bits * np.abs(truth).max()


def test_padded_vocabularies():
    result = distillation_loss(S, T, "jsd", gradient="both", vocab_size=30)
    cut = distillation_loss(S[..., :30], T[..., :30], "jsd", gradient="both")
    assert result.loss == cut.loss
    np.testing.assert_array_equal(result.student_gradient[..., :30], cut.student_gradient)
    assert not result.student_gradient[..., 30:].any()
    wide = distillation_loss(S, T[..., :30], "jsd", gradient="both", vocab_size=30, softcap=4.0)
    assert wide.student_gradient.shape == S.shape and not wide.student_gradient[..., 30:].any()


def test_gradients_go_where_they_are_wanted():
    out = np.full(S.shape, 9.0)
    result = distillation_loss(S, T, gradient="student", student_out=out)
    assert result.student_gradient is out and result.teacher_gradient is None
    assert np.abs(out).max() < 1


def test_errors():
    with pytest.raises(ValueError, match="`loss` is 'kl', expected one of forward_kl"):
        distillation_loss(S, T, "kl")
    with pytest.raises(ValueError, match="'forward_kl' has none"):
        distillation_loss(S, T, "forward_kl", 0.5)
    with pytest.raises(ValueError, match=r"`beta` is 0\.3, but 'renyi' has `alpha`"):
        distillation_loss(S, T, "renyi", 0.3)
    with pytest.raises(ValueError, match=r"`beta` of `jsd` is 2\.0, expected from 0 to 1"):
        distillation_loss(S, T, "jsd", 2)
    with pytest.raises(ValueError, match=r"`mask` has shape \(6,\), expected \(2, 6\)"):
        distillation_loss(S, T, mask=np.ones(6))
    with pytest.raises(ValueError, match="gradients do not broadcast"):
        distillation_loss(S[:1], T, gradient="student")
    with pytest.raises(ValueError, match="`reduction` is 'avg'"):
        distillation_loss(S, T, reduction="avg")
    with pytest.raises(ValueError, match="`gradient` is 'yes'"):
        distillation_loss(S, T, gradient="yes")
    with pytest.raises(ValueError, match="`divisor` is 0"):
        distillation_loss(S, T, divisor=0)


# ---- fused linear ----

HIDDEN_S, HIDDEN_T = RNG.standard_normal((9, 5)), RNG.standard_normal((9, 7))
HEAD_S, HEAD_T = RNG.standard_normal((31, 5)), RNG.standard_normal((31, 7))
BIAS = RNG.standard_normal(31)
ROWS = np.array([1, 0, 1, 1, 1, 0, 1, 1, 1], bool)


@pytest.mark.parametrize("rows", [1, 4, None])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "soft_cross_entropy"])
def test_fused_linear_is_the_loss_of_the_logits(name, rows):
    result = linear_distillation_loss(
        HIDDEN_S, HEAD_S, HIDDEN_T, HEAD_T, name, gradient=True, mask=ROWS, student_bias=BIAS, rows=rows
    )
    logits = HIDDEN_S @ HEAD_S.T + BIAS, HIDDEN_T @ HEAD_T.T
    whole = distillation_loss(*logits, name, gradient="student", mask=ROWS)
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    g = whole.student_gradient
    np.testing.assert_allclose(result.hidden_gradient, g @ HEAD_S, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(result.weight_gradient, g.T @ HIDDEN_S, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(result.bias_gradient, g.sum(0), rtol=1e-10, atol=1e-14)


def test_fused_linear_with_scale_cap_and_temperature():
    options = {"temperature": 1.7, "softcap": 2.0, "temperature_squared": True, "mask": ROWS}
    hidden, head = HIDDEN_S.copy(), HEAD_S.copy()

    def evaluate(**more):
        return linear_distillation_loss(
            hidden, head, HIDDEN_T, HEAD_T, "reverse_kl", logit_scale=0.5, **options, **more
        )

    result = evaluate(gradient=True)
    whole = distillation_loss(0.5 * hidden @ head.T, 0.5 * HIDDEN_T @ HEAD_T.T, "reverse_kl", **options)
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    for x, got in ((hidden, result.hidden_gradient), (head, result.weight_gradient)):
        for i, slope in differences(lambda: evaluate().loss, x):
            assert got.reshape(-1)[i] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_fused_linear_from_16_bit_weights():
    arrays = [stored(x, "bfloat16") for x in (HIDDEN_S, HEAD_S, HIDDEN_T, HEAD_T)]
    result = linear_distillation_loss(*arrays, "forward_kl", gradient=True)
    wide = [x.astype(float) for x in arrays]
    whole = linear_distillation_loss(*wide, "forward_kl", gradient=True)
    assert result.loss == pytest.approx(whole.loss, rel=1e-5)
    assert result.hidden_gradient.dtype == arrays[0].dtype and result.weight_gradient.dtype == np.float32
    np.testing.assert_allclose(result.weight_gradient, whole.weight_gradient, rtol=1e-4, atol=1e-6)


def test_fused_linear_never_holds_the_logits():
    import tracemalloc

    rows, width, vocab = 2048, 16, 4096
    hidden, head = RNG.standard_normal((rows, width)), RNG.standard_normal((vocab, width))
    hidden, head = hidden.astype(np.float32), head.astype(np.float32)
    linear_distillation_loss(hidden[:2], head, hidden[:2], head, gradient=True)
    tracemalloc.start()
    linear_distillation_loss(hidden, head, hidden, head, gradient=True, rows=128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows * vocab * 4 / 3  # logits of one model are 32 MiB; both with a gradient would be three of these


def test_fused_linear_errors():
    with pytest.raises(ValueError, match=r"`student_weight` has shape \(31, 7\), expected \(V, 5\)"):
        linear_distillation_loss(HIDDEN_S, HEAD_T, HIDDEN_T, HEAD_T)
    with pytest.raises(ValueError, match=r"`teacher_weight` has shape \(30, 7\), expected \(31, 7\)"):
        linear_distillation_loss(HIDDEN_S, HEAD_S, HIDDEN_T, HEAD_T[:30])
    with pytest.raises(ValueError, match=r"`teacher_hidden` has shape \(8, 7\), expected leading axes \(9,\)"):
        linear_distillation_loss(HIDDEN_S, HEAD_S, HIDDEN_T[:8], HEAD_T)


def test_a_skew_too_small_to_be_told_from_none():
    """1 - λ rounds to 1: the limit, no mixture of weight 1."""
    student, teacher = RNG.standard_normal((2, 3, 40))
    for weight in (1e-300, 1e-17):
        skewed = distillation_loss(student, teacher, "skew_reverse_kl", weight=weight, gradient="student")
        plain = distillation_loss(student, teacher, "reverse_kl", gradient="student")
        assert skewed.loss == pytest.approx(plain.loss, rel=1e-14)
        np.testing.assert_allclose(skewed.student_gradient, plain.student_gradient, rtol=1e-12, atol=1e-15)
