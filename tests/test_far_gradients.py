"""Losses and gradients where 1/temperature, log-ratios or normalisers are great and what is wanted is their rest."""

import warnings

import exact_logs as exact
import numpy as np
import pytest
import reference

import kullback as kb
from kullback.distillation import (
    cross_entropy_loss,
    distillation_loss,
    entropy_gradient,
    token_log_prob_gradient,
    topk_divergence,
    topk_kl_interval,
)

MP = exact.MP


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def exact_entropy_gradient(x, temperature):
    logs, _ = exact.log_probs(x, temperature)
    entropy = exact.entropy(x, temperature)
    return [-MP.exp(lp) * (lp + entropy) / MP.mpf(temperature) for lp in logs]


@pytest.mark.parametrize("temperature", [1.0, 2.4e-21, 1e-38, 6.6e-116, 1e-300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vocab", [1, 3, 40])
def test_a_uniform_row_has_no_entropy_gradient(temperature, dtype, vocab):
    x = np.full((1, vocab), -3.2e-44, dtype)
    for upstream in (None, [-1.45]):
        assert not entropy_gradient(x, upstream, temperature=temperature).any()


@pytest.mark.parametrize("temperature", [1e-18, 1e-21, 1e-102, 4.5e-290])
def test_entropy_gradients_of_the_coldest_rows(temperature):
    x = np.array([[0.0, 0.3, -0.2, 0.1, 0.30001]]) * temperature
    truth = exact_entropy_gradient(x[0], temperature)
    greatest = max(abs(g) for g in truth)
    got = entropy_gradient(x, temperature=temperature)[0]
    assert max(abs(MP.mpf(float(g)) - t) for g, t in zip(got, truth, strict=True)) < 1e-10 * greatest
    narrow = entropy_gradient(x, temperature=temperature, out=np.empty(x.shape, np.float32))[0]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(narrow, got.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_gradients_of_rows_far_from_0(dtype):
    """Beside the greatest outcome lie 7e-9, less than the rounding of a normaliser of 563 could tell."""
    x = np.array([[280.6473133845559, 271.242443038723]], dtype)
    truth = exact_entropy_gradient(x[0], 0.4980167923196083)
    got = entropy_gradient(x, temperature=0.4980167923196083)[0]
    for g, t in zip(got, truth, strict=True):
        assert abs(MP.mpf(float(g)) - t) < (1e-10 if dtype is np.float64 else 1e-7) * abs(t)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gap", [5.0, 18.5, 33.0])
def test_entropy_gradients_of_confident_rows(gap, dtype):
    """The greatest outcome has ln P + H of about H, which may be less than the rounding of a normaliser of 50."""
    x = np.array([[50.28, 50.28 - gap, 49.0 - gap]], dtype)
    truth = exact_entropy_gradient(x[0], 1.0)
    greatest = max(abs(g) for g in truth)
    for g, t in zip(entropy_gradient(x)[0], truth, strict=True):
        assert abs(MP.mpf(float(g)) - t) < (1e-10 if dtype is np.float64 else 2e-6) * greatest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [-100.0, 100.0, 900.0, 2000.0])
def test_gradients_of_logits_beside_an_offset(offset, dtype):
    x = np.round(np.random.default_rng(4).normal(0.0, 3.0, (3, 2050)) * 1024) / 1024  # the sums are exact
    bound = 1e-10 if dtype is np.float64 else 2e-6
    here, there = x.astype(dtype), (x + offset).astype(dtype)
    for gradient in (entropy_gradient, lambda rows: cross_entropy_loss(rows, [0, 1, 2], gradient=True).gradient):
        near = gradient(here)
        np.testing.assert_allclose(gradient(there), near, rtol=0.0, atol=bound * np.abs(near).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_several_tokens_beyond_the_type_have_their_sign(dtype):
    x = np.zeros((1, 6), dtype)
    temperature = 1e-207 if dtype is np.float32 else 1e-307
    tokens, upstream = [[4, 1, 4]], [[100.0, -300.0, 50.0]]  # at 4: 150 + 150/6
    got = token_log_prob_gradient(x, tokens, upstream, temperature=temperature)
    expected = np.sign([[1, -1, 1, 1, 1, 1]]) * np.inf
    expected[0, [0, 2, 3, 5]] = 25.0 / temperature if dtype is np.float64 else np.inf
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_gradients_of_a_token_given_twice_are_those_of_the_token():
    x = np.array([[40.0, 0.0, 1.0]])
    twice = token_log_prob_gradient(x, [[0, 0]], [[0.25, 0.5]])
    np.testing.assert_allclose(twice, token_log_prob_gradient(x, [0], [0.75]), rtol=1e-15)


def test_z_loss_beyond_float64():
    x = np.array([[-3.9e305, -4e305]])
    loss = cross_entropy_loss(x, [0], z_loss=6e-4, gradient=True)
    assert loss.loss == np.inf
    assert cross_entropy_loss(x / 1e146, [0], z_loss=1e-300).loss == pytest.approx(1e-300 * 3.9e159 * 3.9e159)


def test_ignored_rows_may_be_empty():
    x = np.array([[-np.inf, -np.inf], [0.0, 0.0]])
    loss = cross_entropy_loss(x, [-100, 0], z_loss=0.1, gradient=True)
    assert loss.loss == pytest.approx(np.log(2) + 0.1 * np.log(2) ** 2)
    assert not loss.gradient[0].any()


def test_an_infinite_loss_of_weight_0_counts_nothing():
    x, y = np.array([[0.0, -np.inf], [0.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    loss = cross_entropy_loss(x, [1, 1], weights=[0, 1], reduction="sum", gradient=True)
    assert loss.loss == pytest.approx(np.log1p(np.exp(-2.0)))
    assert not loss.gradient[0].any()
    assert distillation_loss(y, x, "reverse_kl", weights=[0, 1], reduction="sum").loss == pytest.approx(
        kb.kl_divergence(y[1], x[1], given="logits")
    )


def test_a_weighted_loss_beyond_float64_is_infinite():
    low = -1.7976931348623157e308
    teacher, student = np.array([[low, -16.0]]), np.array([[-7.0, low]])
    assert distillation_loss(student, teacher, "forward_kl", weights=[2.7]).loss == np.inf


# ---- soft cross-entropy along the teacher ----


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_soft_cross_entropy_of_a_uniform_student_has_no_slope(dtype):
    teacher = np.array([[3.0, 0.5, -40.0, 1.0]], dtype)
    for low in (0.0, float(np.finfo(dtype).min)):
        teacher[0, 2] = low
        result = distillation_loss(np.full_like(teacher, 0.3), teacher, "soft_cross_entropy", gradient="teacher")
        assert not result.teacher_gradient.any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("noise", [1e-3, 1.0])
def test_soft_cross_entropy_along_the_teacher_is_rounded_once(dtype, noise):
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((3, 2050)).astype(dtype)
    student = (teacher + noise * rng.standard_normal(teacher.shape)).astype(dtype)
    result = distillation_loss(student, teacher, "soft_cross_entropy", gradient="teacher", reduction="none")
    log_p, log_q = reference.log_softmax(teacher), reference.log_softmax(student)
    p = np.exp(log_p)
    truth = -p * (log_q - (p * log_q).sum(-1, keepdims=True))
    allowed = np.abs(truth) * float(np.finfo(dtype).eps) + float(np.finfo(dtype).smallest_subnormal)
    bound = 1e-10 if dtype is np.float64 else 2e-6
    assert (np.abs(result.teacher_gradient - truth) <= bound * np.abs(truth).max(-1, keepdims=True) + allowed).all()


@pytest.mark.parametrize(
    ("teacher", "student", "weight"),
    [
        ([0.0, -20.0, -80.0], [-1.5, 2.0, 3.0], 1.0),  # one outcome has next to all
        ([0.0, 1.0, -95.0], [0.0, 0.0, -1e36], 1.0),  # all of the loss is where P is below the least weight of float32
        ([0.0, 1.0, -30.0], [0.0, 0.5, -3e38], 1e-20),  # log-ratios beyond float32
        ([0.0, 1.0, -np.inf], [0.0, 0.5, -np.inf], 1e30),
        ([3e5, 3e5 + 1.0, 3e5], [0.0, 0.5, 1.0], 1.0),
    ],
)
def test_soft_cross_entropy_along_a_teacher_at_the_ends_of_float32(teacher, student, weight):
    teacher, student = np.array([teacher], np.float32), np.array([student], np.float32)
    options = {"gradient": "teacher", "weights": [weight]}
    got = distillation_loss(student, teacher, "soft_cross_entropy", **options).teacher_gradient
    log_p, _ = exact.log_probs(teacher[0])
    p = [exact._probability(lp) for lp in log_p]
    g = [-MP.mpf(float(y)) if a else MP.mpf(0) for y, a in zip(student[0], p, strict=True)]
    mean = MP.fsum(a * b for a, b in zip(p, g, strict=True))
    truth = [MP.mpf(weight) * a * (b - mean) for a, b in zip(p, g, strict=True)]
    greatest = max(abs(t) for t in truth)
    for value, t in zip(got[0], truth, strict=True):
        assert abs(MP.mpf(float(value)) - t) <= MP.mpf("2e-6") * greatest


def test_soft_cross_entropy_of_an_impossible_token_has_no_gradient():
    teacher, student = np.zeros((2, 3)), np.zeros((2, 3))
    student[0, 1] = -np.inf
    result = distillation_loss(student, teacher, "soft_cross_entropy", gradient="teacher", reduction="none")
    assert result.loss[0] == np.inf
    assert np.isnan(result.teacher_gradient[0]).all()
    assert not result.teacher_gradient[1].any()


# ---- reverse KL: Q·(d - Σ Q·d) where Q is one outcome and d is anything ----

FAR = {
    "log-ratios of 1e20": ([3.8e20, -4.0e20], [-4.3e18, -4.1e18], 1.0),
    "1/temperature beyond float32": ([7.6e-27, -8.2e-27], [0.0, 0.0], 3.8e-144),
    "both": ([-1e30, 0.0], [0.0, -1e30], 4.4e-129),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FAR)
def test_reverse_kl_of_a_student_of_one_outcome(name, dtype):
    student, teacher, temperature = FAR[name]
    student, teacher = np.array([student], dtype), np.array([teacher], dtype)
    swapped = {"forward_kl": "teacher", "reverse_kl": "student"}
    for loss, side in swapped.items():
        pair = (student, teacher) if side == "student" else (teacher, student)
        result = distillation_loss(*pair, loss, gradient=side, temperature=temperature)
        got = getattr(result, f"{side}_gradient")[0]
        logs, _ = exact.log_probs(student[0], temperature)
        others, _ = exact.log_probs(teacher[0], temperature)
        q = [exact._probability(lp) for lp in logs]
        d = [a - b for a, b in zip(logs, others, strict=True)]
        mean = MP.fsum(a * b for a, b in zip(q, d, strict=True))
        for g, a, b in zip(got, q, d, strict=True):
            truth = a * (b - mean) / MP.mpf(temperature)
            assert abs(MP.mpf(float(g)) - truth) <= 1e-10 * abs(truth) + MP.mpf(1e-300), (loss, float(truth))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_remains_of_a_symmetric_kl_is_the_forward_one(dtype):
    teacher, student = np.array([[3.8e20, -4.0e20]], dtype), np.array([[-4.3e18, -4.1e18]], dtype)
    result = distillation_loss(student, teacher, "symmetric_kl", gradient="both")
    np.testing.assert_array_equal(result.student_gradient, [[-0.5, 0.5]])
    np.testing.assert_array_equal(result.teacher_gradient, [[0.5, -0.5]])


@pytest.mark.parametrize("weight", [2.2, 1.0, 1e-300])
def test_weighted_gradients_of_losses_about_the_end_of_float64(weight):
    """The mean log-ratio is 8.8e307, and twice that is not to be had; of one outcome against it 1e307 is left."""
    student = np.array([[-6.621386294145024, -6.649143869946363]])
    teacher = np.array([[-6.411364439268693, -1.7976931348623157e308]])
    got = distillation_loss(student, teacher, "reverse_kl", gradient="student", weights=[weight]).student_gradient[0]
    with MP.workdps(400):
        q = [MP.exp(lp) for lp in exact.log_probs(student[0], 1.0)[0]]
        p = exact.log_probs(teacher[0], 1.0)[0]
        ratios = [MP.log(a) - b for a, b in zip(q, p, strict=True)]
        mean = MP.fsum(a * b for a, b in zip(q, ratios, strict=True))
        truth = [MP.mpf(weight) * a * (b - mean) for a, b in zip(q, ratios, strict=True)]
        for g, t in zip(got, truth, strict=True):
            assert abs(MP.mpf(float(g)) - t) <= MP.mpf("1e-10") * abs(t)


# ---- total variation: Q·(½ sign(Q - P) - Σ ½ Q·sign(Q - P)) where Q is nearly one outcome ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0087, 0.0, -3.3, 57.1])
@pytest.mark.parametrize("rest", [3.0, 8.0, 11.0])
def test_total_variation_of_confident_rows(rest, offset, dtype):
    teacher = np.array([[0.0, rest, -1.0]], dtype)
    student = (np.array([[1.2, rest, -0.7]]) + offset).astype(dtype)
    result = distillation_loss(student, teacher, "tv", gradient="both", reduction="none")
    p, q = ([MP.exp(lp) for lp in exact.log_probs(row[0])[0]] for row in (teacher, student))
    bound = 2e-6 if dtype is np.float32 else 1e-10
    loss = MP.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    assert abs(MP.mpf(float(result.loss[0])) - loss) <= bound / 2 * loss
    for own, other, got in ((p, q, result.teacher_gradient), (q, p, result.student_gradient)):
        signs = [MP.sign(a - b) / 2 for a, b in zip(own, other, strict=True)]
        mean = MP.fsum(a * s for a, s in zip(own, signs, strict=True))
        truth = [a * (s - mean) for a, s in zip(own, signs, strict=True)]
        greatest = max(abs(t) for t in truth)
        assert max(abs(MP.mpf(float(g)) - t) for g, t in zip(got[0], truth, strict=True)) <= bound * greatest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_total_variation_of_equal_rows_has_no_slope(dtype):
    rows = np.random.default_rng(6).normal(0.0, 3.0, (3, 2050)).astype(dtype)
    result = distillation_loss(rows, rows.copy(), "tv", gradient="both")
    assert result.loss == 0.0
    assert not result.student_gradient.any()
    assert not result.teacher_gradient.any()


# ---- Rényi: k·c·(t - Q) with t ~ P^α·Q^(1-α), which may lie where P and Q have next to nothing ----

RENYI = {  # teacher, student, α, temperature
    "opposite single outcomes": ([208.6, 31061.6], [31061.6, 125.0], 0.3, 44.65),
    "the other one": ([31061.6, 125.0], [208.6, 31061.6], 0.7, 44.65),
    "halves of what both lack": ([0.375, 0.3125], [1.5, 1.375], 2.0, 2.2802797945713946e-05),
    "all of what both lack": ([448.0, 0.0], [448.0, -448.0], 5.0, 1.0),
    "within the reach of the sums": ([0.0, -500.0], [0.0, -640.0], 5.0, 1.0),
    "on neither's greatest outcome": ([0.0, -30.0, -800.0], [-790.0, -31.0, 0.0], 0.5, 1.0),
    "a mask on one side": ([0.0, 1.0, -np.inf, -700.0], [0.5, 0.0, 1.0, -800.0], 0.9, 1.0),
    "greater orders": ([0.0, -40.0], [0.0, -41.0], 100.0, 1.0),
}


def exact_renyi_gradients(teacher, student, alpha, temperature):
    """(along the teacher, along the student)."""
    (log_p, _), (log_q, _) = exact.log_probs(teacher, temperature), exact.log_probs(student, temperature)
    a, p, q = MP.mpf(alpha), [MP.exp(x) for x in log_p], [MP.exp(x) for x in log_q]
    both = [x != exact.NOTHING and y != exact.NOTHING for x, y in zip(log_p, log_q, strict=True)]
    t = [MP.exp(a * x + (1 - a) * y) if of else MP.mpf(0) for x, y, of in zip(log_p, log_q, both, strict=True)]
    total, k = MP.fsum(t), MP.mpf(1.0 / temperature)
    t = [x / total for x in t]
    return (
        [k * a / (a - 1) * (x - y) for x, y in zip(t, p, strict=True)],
        [k * (y - x) for x, y in zip(t, q, strict=True)],
    )


def agrees_with_exact_renyi(teacher, student, alpha, temperature, bound):
    result = distillation_loss(student, teacher, "renyi", alpha=alpha, gradient="both", temperature=temperature)
    truths = exact_renyi_gradients(teacher[0], student[0], alpha, temperature)
    least = float(np.finfo(student.dtype).smallest_subnormal)
    for side, truth in zip(("teacher", "student"), truths, strict=True):
        greatest = max(abs(g) for g in truth)
        for g, expected in zip(getattr(result, f"{side}_gradient")[0], truth, strict=True):
            miss = abs(MP.mpf(float(g)) - expected)
            assert miss <= bound * greatest + least, (side, float(g), float(expected))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", RENYI)
def test_renyi_gradients_of_what_both_rows_hardly_have(name, dtype):
    teacher, student, alpha, temperature = RENYI[name]
    teacher, student = np.array([teacher], dtype), np.array([student], dtype)
    bound = 1e-10 if dtype is np.float64 else 2e-6
    agrees_with_exact_renyi(teacher, student, alpha, temperature, bound)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.999, 1.001, 2.0, 5.0])
@pytest.mark.parametrize("apart", [1e-1, 1e-4, 1e-7])
def test_renyi_gradients_of_close_rows_far_from_0(apart, alpha):
    """In the path of rows of any size, and near equality as good as in the others."""
    teacher = np.array([[30000.5, 30001.25, 29999.75, 30000.0, -np.inf]])
    student = teacher + apart * np.array([[1.0, -0.5, 0.25, 2.0, 0.0]])
    agrees_with_exact_renyi(teacher, student, alpha, 1.0, 1e-10)


# ---- next to one outcome: what the others have is less than float32 rounds the offset between the rows to ----

OFFSET = [("forward_kl", {}), ("reverse_kl", {}), ("symmetric_kl", {"weight": 0.5}), ("jsd", {"beta": 0.5})]
OFFSET += [("skew_kl", {"weight": 0.1}), *(("renyi", {"alpha": alpha}) for alpha in (0.3, 0.5, 1.3))]


@pytest.mark.parametrize(("loss", "coefficient"), OFFSET)
@pytest.mark.parametrize("temperature", [0.01617723347196788, 1.0])
@pytest.mark.parametrize("depth", [9.3, 12.0])
def test_gradients_of_next_to_one_outcome_beside_an_offset(loss, coefficient, temperature, depth):
    rest = np.array([-depth, -depth - 0.4, -depth - 1.5])
    teacher = np.concatenate([[-5.0], rest - 5.0]) * temperature
    student = teacher + temperature * np.array([1.4e-4, -3.3e-3, 1e-3, 2e-3])
    teacher, student = (np.array([x], np.float32) for x in (teacher, student))
    keywords = {"gradient": "both", "temperature": temperature, **coefficient}
    found = distillation_loss(student, teacher, loss, **keywords)
    expected = distillation_loss(student.astype(float), teacher.astype(float), loss, **keywords)
    for side in ("student_gradient", "teacher_gradient"):
        wide = getattr(expected, side)
        np.testing.assert_allclose(getattr(found, side), wide, rtol=0.0, atol=2e-6 * np.abs(wide).max())


# ---- tokens and short lists ----


def test_log_ratios_of_one_outcome_are_nothing_whatever_its_mass():
    p, q = np.array([[3.689115527738491e-35]]), np.array([[1.1067346583215473e-34]])
    assert abs(kb.token_log_ratios(p, q, [0], given="probs")[0]) < 5e-16
    far = kb.token_log_ratios([[5e-324, 1e-300]], [[1e300, 1e-300]], [0], given="probs")
    assert far[0] == pytest.approx(np.log(5e-324) - np.log(1e-300), rel=1e-12)


def test_sums_that_cancel_are_the_same_in_every_unit():
    rng = np.random.default_rng(1)
    p = rng.standard_normal((50, 2, 9))
    q = p + 1e-7 * rng.standard_normal(p.shape)
    tokens = rng.integers(0, 9, (50, 2))
    nats, bits = (kb.sequence_log_ratios(p, q, tokens, base=base) for base in (None, 2))
    np.testing.assert_array_equal(bits, nats / np.log(2))
    with_counts = kb.sequence_log_ratios(p, q, tokens, base=2, nan_policy="omit")
    np.testing.assert_array_equal(with_counts[0], bits)
    assert not with_counts[1].any()


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_topk_of_students_close_to_their_teacher(divergence, tail):
    """Float32 sums would know these log-probabilities to 5e-8, the divergences to 1e-4."""
    rng = np.random.default_rng(2)
    teacher = rng.standard_normal((2, 5, 300)).astype(np.float32)
    student = teacher + np.float32(1e-3) * rng.standard_normal(teacher.shape, dtype=np.float32)
    log_p = np.asarray(reference.log_softmax(teacher), float)
    ids = np.argsort(-log_p, -1)[..., :7]
    listed = ids, np.take_along_axis(log_p, ids, -1)
    got = topk_divergence(student, listed, divergence, tail).values
    expected = topk_divergence(student.astype(np.float64), listed, divergence, tail).values
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    one = topk_divergence(student[0, 0], (ids[0, 0], listed[1][0, 0]), divergence, tail).values
    assert one == pytest.approx(got[0, 0], rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1500.0, 3e4])
def test_topk_of_close_students_beside_an_offset(offset):
    """What lies on the list and beside it has the same normaliser, however far from 0 and of whatever lanes."""
    rng = np.random.default_rng(5)
    teacher = np.round(rng.standard_normal((4, 3000)) * 128).astype(np.float32) / 128
    student = teacher + rng.integers(-1, 2, teacher.shape).astype(np.float32) / 128
    log_p = np.asarray(reference.log_softmax(teacher), float)
    ids = np.argsort(-log_p, -1)[..., :7]
    listed = ids, np.take_along_axis(log_p, ids, -1)
    got = topk_divergence(student + np.float32(offset), listed).values
    np.testing.assert_allclose(got, topk_divergence(student.astype(np.float64), listed).values, rtol=1e-6)


def test_topk_of_students_in_codes():
    rng = np.random.default_rng(3)
    codes = np.zeros(2, [("scale", "f4"), ("min", "f4"), ("code", "u2", (30,))])
    codes["scale"], codes["min"], codes["code"] = 1e-4, -6.5, rng.integers(0, 60_000, (2, 30))
    student = codes["scale"][:, None] * codes["code"].astype(np.float32) + codes["min"][:, None]
    log_p = np.asarray(reference.log_softmax(student), float)
    ids = np.argsort(-log_p, -1)[:, :4]
    listed = ids, np.take_along_axis(log_p, ids, -1) - [0.0, 1e-3, 0.0, 0.0]
    expected = topk_divergence(student.astype(np.float64), listed).values
    np.testing.assert_allclose(topk_divergence(codes, listed).values, expected, rtol=1e-9)


def test_topk_weights_are_of_the_gradient():
    teacher = [[0, 1]], np.log([[0.6, 0.3]])
    with pytest.raises(ValueError, match="`weights` are factors of the gradient"):
        topk_divergence(np.zeros((1, 4)), teacher, weights=[2.0])


def test_topk_intervals_of_the_greatest_logits():
    low = np.full((1, 9), -1.7976931348623157e308)
    ids, log_probs = np.arange(4)[None], np.full((1, 4), -np.log(9))
    lower, upper = topk_kl_interval(low, (ids, log_probs), temperature=8.3e-147)
    assert 0.0 <= lower[0] <= 1e-11
    assert 0.0 <= upper[0] < 1e-9
    lower, upper = topk_kl_interval([[4e301, 2.6e307]], ([[0]], [[0.0]]), temperature=0.01)
    assert lower[0] == upper[0] == np.inf


def test_a_topk_interval_is_not_made_of_the_rounding_of_its_list():
    """Beside a list of all that is possible 1 - Σ p is 1e-16, which the student holds to be impossible."""
    student = np.array([[0.1, 23.9, -0.02, -0.06, 0.12, 0.18, 0.11, -0.09, -0.03, -np.inf]])
    log_p = np.asarray(reference.log_softmax(student), float)[:, :9]
    for step in range(4):
        lower, upper = topk_kl_interval(student, (np.arange(9)[None], log_p - step * 1e-16))
        assert 0.0 <= lower[0] < 1e-11
        assert upper[0] >= lower[0]
