"""float8 rows: what every function says of them is what it says of their values, as of float16."""

import ml_dtypes
import numpy as np
import pytest
import reference
from space import FUNCTIONS, Case, check
from space_inputs import FLOAT8, draw, pick
from strategies import error, logit_rows, stored

import kullback as kb


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(name):
    """Against long double, within the bound of float16: rows of any structure, layout and company."""
    function = FUNCTIONS[name]
    for number in range(6):
        rng = np.random.default_rng([5, number])
        inputs = draw(rng, pick(rng, function.given), function.count, 600, 0, 1.0)
        assert any(x.dtype.name in FLOAT8 for x in inputs.plain)
        found = check(Case(5, name, number), function, inputs, function.options(rng, inputs))
        assert not [words for *_, words in found if words], (number, inputs.words)


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("given", ["logits", "log_probs", "probs"])
def test_same_bits_as_the_values_in_float32(dtype, given):
    for vocab in (1, 2, 15, 16, 17, 2047, 2048, 2049, 5003):
        a, b = logit_rows(3, vocab)
        if given == "probs":
            a, b = np.exp(a), np.exp(b)
        p, q = stored(a, dtype), stored(b, dtype)
        plain = [x.astype(np.float32) for x in (p, q)]
        tokens = np.arange(3) % vocab
        ours, theirs = kb.compare(p, q, tokens, given=given), kb.compare(*plain, tokens, given=given)
        for field in ("kl", "reverse_kl", "entropy_p", "entropy_q", "top1_p", "top1_q", "log_prob_p", "log_ratio"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=field)
        for function in (kb.kl_divergence, kb.jensen_shannon_divergence, kb.total_variation):
            np.testing.assert_array_equal(function(p, q, given=given), function(*plain, given=given))
            np.testing.assert_array_equal(function(p, plain[1], given=given), function(*plain, given=given))
        np.testing.assert_array_equal(kb.entropy(p, given=given), kb.entropy(plain[0], given=given))


@pytest.mark.parametrize("dtype", FLOAT8)
def test_wherever_the_bytes_lie(dtype):
    a, b = (stored(x, dtype) for x in logit_rows(4, 301))
    raw = np.zeros(2 * a.size + 3, np.uint8)
    odd = raw[3 : a.size + 3].view(a.dtype).reshape(a.shape)
    odd[...] = a
    apart = raw[3:].view(a.dtype)[: 2 * a.size : 2].reshape(a.shape)
    expected = kb.kl_divergence(a, b, given="logits")
    np.testing.assert_array_equal(kb.kl_divergence(odd, b, given="logits"), expected)
    apart[...] = a
    b.flags.writeable = False
    np.testing.assert_array_equal(kb.kl_divergence(apart, b, given="logits"), expected)
    backwards = kb.kl_divergence(a[:, ::-1], b[:, ::-1], given="logits")
    np.testing.assert_array_equal(backwards, kb.kl_divergence(a[:, ::-1].copy(), b[:, ::-1].copy(), given="logits"))
    words = a.view(np.uint8)
    assert not np.array_equal(
        kb.kl_divergence(words, b.view(np.uint8), given="logits"), expected
    )  # integers are counts


def test_infinities_and_nan():
    """0x7f and 0xff of e4m3fn are NaN and nothing is infinite; e5m2 has both, as IEEE 754."""
    e4 = np.array([0x7F, 0xFF, 0x7E, 0xFE], np.uint8).view(ml_dtypes.float8_e4m3fn)
    found = kb.logsumexp(e4[:, None])
    np.testing.assert_array_equal(found, [np.nan, np.nan, 448.0, -448.0])
    e5 = np.array([[0x7C, 0], [0xFC, 0], [0x7D, 0], [0xFF, 0]], np.uint8).view(ml_dtypes.float8_e5m2)
    np.testing.assert_array_equal(kb.logsumexp(e5), [np.nan, 0.0, np.nan, np.nan])
    impossible = np.array([0x00, 0xFC], np.uint8).view(ml_dtypes.float8_e5m2)
    assert kb.kl_divergence(np.zeros(2, ml_dtypes.float8_e4m3fn), impossible, given="logits") == np.inf
    assert kb.kl_divergence(impossible, np.zeros(2, np.float64), given="logits") == pytest.approx(np.log(2), rel=1e-15)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_beside_float64_all_is_float64(dtype):
    a, b = logit_rows(3, 997)
    p = stored(a, dtype)
    assert error("kl_divergence", kb.kl_divergence(p, b, given="logits"), reference.kl_divergence(p, b)) < 1e-12
    assert error("kl_divergence", kb.kl_divergence(b, p, given="logits"), reference.kl_divergence(b, p)) < 1e-12


@pytest.mark.parametrize("dtype", FLOAT8)
def test_sums_means_and_soft_caps(dtype):
    x = stored(logit_rows(3, 40)[0], dtype)
    plain = x.astype(np.float64)
    np.testing.assert_array_equal(kb.sequence_sums(x), kb.sequence_sums(plain))
    np.testing.assert_array_equal(kb.sequence_sums(x[:, ::2]), kb.sequence_sums(plain[:, ::2].copy()))
    np.testing.assert_array_equal(kb.aggregate(x, mode="token-mean"), kb.aggregate(plain, mode="token-mean"))
    capped = kb.distillation_loss(x, x[::-1], softcap=30.0, gradient="student")
    other = kb.distillation_loss(*(y.astype(np.float32) for y in (x, x[::-1])), softcap=30.0, gradient="student")
    np.testing.assert_array_equal(capped.student_gradient, other.student_gradient)


@pytest.mark.integration
@pytest.mark.parametrize("dtype", FLOAT8)
def test_a_teacher_of_float8_has_a_student_with_gradients(dtype):
    torch = pytest.importorskip("torch")
    from kullback.integrations import torch as kt

    student = torch.randn(3, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    teacher = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype))
    (found,) = torch.autograd.grad(kt.distillation_loss(student, teacher), student)
    (truth,) = torch.autograd.grad(kt.distillation_loss(student, teacher.float()), student)
    torch.testing.assert_close(found, truth)
    for name, pair in (("student", (teacher, student)), ("teacher", (student, teacher.clone().requires_grad_()))):
        with pytest.raises(TypeError, match=f"`{name}` has dtype torch.{dtype}, expected float64, float32, float16 or"):
            kt.distillation_loss(*pair)
    with pytest.raises(TypeError, match=f"`teacher` has dtype torch.{dtype}"):
        kt.kl_div(student, teacher, "sum")
