"""Sparse teachers: conventions by brute force over the whole vocabulary, gradients by differences, certified bounds."""

import itertools
import types

import numpy as np
import pytest
import reference

from kullback.distillation import topk_divergence, topk_kl_interval
from kullback.distillation.topk.divergence import TAILS

RNG = np.random.default_rng(0)
V, K, ROWS = 23, 6, 4
TEACHER, STUDENT = 2 * RNG.standard_normal((2, ROWS, V))
LOG_P = np.asarray(reference.log_softmax(TEACHER), float)
LOG_Q = np.asarray(reference.log_softmax(STUDENT), float)


def top(log_probs, k):
    """(ids, log_probs) of the k likeliest, in falling order."""
    ids = np.argsort(-log_probs, -1)[..., :k]
    return ids, np.take_along_axis(log_probs, ids, -1)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0).sum(-1)


def jsd(p, q, beta):
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


DIVERGENCES = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "jsd": lambda p, q: jsd(p, q, 0.3),
}


def brute(divergence, tail, ids, log_p, q, floor):
    """The convention written out over the whole vocabulary; q (T, V) are probabilities."""
    known = np.zeros(q.shape, bool)
    np.put_along_axis(known, ids, True, -1)
    p = np.zeros(q.shape)
    np.put_along_axis(p, ids, np.exp(log_p), -1)
    f = DIVERGENCES[divergence]
    if tail == "bucket":
        return f(np.c_[p, 1 - p.sum(-1)], np.c_[np.where(known, q, 0), np.where(known, 0, q).sum(-1)])
    if tail == "renormalize":
        s = np.where(known, q, 0)
        return f(p / p.sum(-1, keepdims=True), s / s.sum(-1, keepdims=True))
    if tail == "floor":
        return f(np.where(known, p, np.exp(floor)), q)
    return f(p, np.where(known, q, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_conventions_against_brute_force(divergence, tail, dtype):
    ids, log_p = top(LOG_P, K)
    student = STUDENT.astype(dtype)
    result = topk_divergence(student, (ids, log_p), divergence, tail, beta=0.3, floor=-50.0)
    q = np.exp(np.asarray(reference.log_softmax(student), float))
    expected = brute(divergence, tail, ids, log_p, q, -50.0)
    np.testing.assert_allclose(result.values, expected, rtol=2e-6 if dtype is np.float32 else 1e-12)
    np.testing.assert_allclose(result.teacher_mass, np.exp(log_p).sum(-1), rtol=1e-14)
    np.testing.assert_allclose(result.student_mass, np.take_along_axis(q, ids, -1).sum(-1), rtol=1e-6)
    np.testing.assert_array_equal(result.tokens, K)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_against_differences(divergence, tail):
    teacher, weights = top(LOG_P, K), np.array([1.0, 0.0, -2.0, 0.5])
    student = STUDENT.copy()
    options = {"beta": 0.3, "floor": -20.0, "temperature": 0.7}

    def total():
        return (topk_divergence(student, teacher, divergence, tail, **options).values * weights).sum()

    got = topk_divergence(student, teacher, divergence, tail, gradient=True, weights=weights, **options).gradient
    for i in np.ndindex(student.shape):
        kept = student[i]
        student[i] = kept + 1e-5
        up = total()
        student[i] = kept - 1e-5
        down = total()
        student[i] = kept
        assert got[i] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)
    assert not got[1].any()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_whole_vocabulary_is_the_divergence_itself(divergence, tail):
    rng = np.random.default_rng(1)
    for noise in (1.0, 1e-5):
        teacher = rng.standard_normal((3, 40))
        student = teacher + noise * rng.standard_normal((3, 40))
        lp = np.asarray(reference.log_softmax(teacher), float)
        result = topk_divergence(student, top(lp, 40), divergence, tail, beta=0.3, gradient=True)
        forward, reverse = reference.kl_both_ways(teacher, student)
        exact = {"forward_kl": forward, "reverse_kl": reverse}.get(
            divergence, reference.generalized_jsd(student, teacher, 0.3)
        )
        slopes = reference.generalized_jsd_gradients(
            student, teacher, {"forward_kl": 0, "reverse_kl": 1, "jsd": 0.3}[divergence]
        )[0]
        plain = tail in ("truncate", "floor")  # signed sums: rounding of log-probs is left in them
        np.testing.assert_allclose(result.values, exact.astype(float), rtol=1e-8, atol=1e-14 if plain else 1e-19)
        np.testing.assert_allclose(result.gradient, slopes.astype(float), rtol=1e-6, atol=1e-12)


def test_a_small_rest_keeps_its_digits():
    """1 - Σ of the listed probabilities would have no digit left."""
    student = np.zeros((1, 1000))
    student[0, :4] = 60.0
    q_rest = 996 * np.exp(-60.0) / 4
    lp = np.log(np.full((1, 4), 0.25 * (1 - 1e-9)))
    result = topk_divergence(student, ([[0, 1, 2, 3]], lp), "forward_kl", "bucket")
    tau = -np.expm1(np.logaddexp.reduce(lp[0]))
    expected = tau * np.log(tau / q_rest) + np.exp(lp).sum() * np.log1p(-tau)
    assert result.values[0] == pytest.approx(expected, rel=1e-7)


def test_forms_of_input_agree():
    ids, lp = top(LOG_P, K)
    counts = np.array([6, 3, 0, 5])
    kept = np.arange(K) < counts[:, None]
    csr = types.SimpleNamespace(indptr=np.concatenate([[0], np.cumsum(counts)]), ids=ids[kept], log_probs=lp[kept])
    padded = np.where(kept, ids, -1), np.where(kept, lp, np.nan)
    for tail in ("bucket", "truncate"):
        a = topk_divergence(STUDENT, csr, "jsd", tail, gradient=True)
        b = topk_divergence(STUDENT, padded, "jsd", tail, gradient=True)
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.gradient, b.gradient)
        np.testing.assert_array_equal(a.tokens, counts)
    assert a.teacher_mass[2] == 0


@pytest.mark.parametrize("tail", ["bucket", "renormalize", "truncate"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_two_sparse_sets_are_compared_where_they_meet(divergence, tail):
    teacher, student = top(LOG_P, K), top(LOG_Q, 9)
    result = topk_divergence(student, teacher, divergence, tail, beta=0.3)
    for t in range(ROWS):
        shared = np.intersect1d(teacher[0][t], student[0][t])
        assert result.tokens[t] == shared.size
        q = np.exp(LOG_Q[t : t + 1])
        if shared.size == 0:
            continue
        expected = brute(divergence, tail, shared[None], LOG_P[t : t + 1, shared], q, 0.0)
        assert result.values[t] == pytest.approx(expected[0], rel=1e-10)
        assert result.student_mass[t] == pytest.approx(q[0, shared].sum())


def test_overlap_counts_the_students_own_likeliest():
    ids, lp = top(LOG_P, K)
    counts = np.array([6, 3, 1, 5])
    padded = np.where(np.arange(K) < counts[:, None], ids, -1), lp
    result = topk_divergence(STUDENT, padded, overlap=True)
    for t in range(ROWS):
        assert result.overlap[t] == np.intersect1d(ids[t, : counts[t]], np.argsort(-STUDENT[t])[: counts[t]]).size
    assert topk_divergence(STUDENT, padded).overlap is None


def test_errors():
    teacher = top(LOG_P, K)
    with pytest.raises(ValueError, match="`tail` is 'drop', expected one of bucket"):
        topk_divergence(STUDENT, teacher, tail="drop")
    with pytest.raises(ValueError, match="lists an id twice"):
        topk_divergence(STUDENT, (np.zeros((ROWS, 2), int), np.full((ROWS, 2), -2.0)))
    with pytest.raises(ValueError, match="holds the id 23, expected from 0 to 22"):
        topk_divergence(STUDENT, (np.full((ROWS, 1), 23), np.full((ROWS, 1), -2.0)))
    with pytest.raises(ValueError, match="expected at most 0"):
        topk_divergence(STUDENT, (np.zeros((ROWS, 1), int), np.ones((ROWS, 1))))
    with pytest.raises(ValueError, match=r"rows of shape \(4,\), expected \(2,\)"):
        topk_divergence(STUDENT[:2], teacher)
    with pytest.raises(TypeError, match=r"expected \(ids, log_probs\) or sparse rows"):
        topk_divergence(STUDENT, 3)
    with pytest.raises(ValueError, match="give its logits"):
        topk_divergence(top(LOG_Q, K), teacher, gradient=True)


# ---- the certified interval ----


def adversarial_tails(p, k, q, kind, rng):
    """Teachers with the same k likeliest tokens as p, which falls along the last axis, and a chosen rest."""
    head, tau, cap = p[:, :k], p[:, k:].sum(-1), p[:, k - 1]
    rest = np.zeros((len(p), p.shape[1] - k))
    if kind == "proportional":
        part = q[:, k:] / q[:, k:].sum(-1, keepdims=True) * tau[:, None]
        rest = np.where((part <= cap[:, None]).all(-1, keepdims=True), part, p[:, k:])
    else:
        # as much as allowed on one token after another, in some order of the student's probabilities
        order = np.argsort(q[:, k:], -1)
        if kind == "likeliest first":
            order = order[:, ::-1]
        elif kind == "any order":
            order = rng.permuted(order, axis=-1)
        left = tau.copy()
        for j in range(rest.shape[1]):
            put = np.minimum(left, cap)
            np.put_along_axis(rest, order[:, j : j + 1], put[:, None], -1)
            left = left - put
    return np.concatenate([head, rest], -1)


@pytest.mark.parametrize("kind", ["as drawn", "unlikeliest first", "likeliest first", "any order", "proportional"])
def test_the_interval_holds_the_truth_in_a_hundred_thousand_cases(kind):
    rng = np.random.default_rng(
        ["as drawn", "unlikeliest first", "likeliest first", "any order", "proportional"].index(kind)
    )
    attained = 0
    for case in range(40):
        vocab = int(rng.integers(2, 12))
        k = int(rng.integers(1, vocab + 1))
        spread = 10 ** rng.uniform(-4, 1)
        noise = 10 ** rng.uniform(-6, 1)
        a = np.sort(spread * rng.standard_normal((500, vocab)), -1)[:, ::-1]
        b = a + noise * rng.standard_normal(a.shape)
        p, q = np.exp(a - a.max(-1, keepdims=True)), np.exp(b - b.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        q /= q.sum(-1, keepdims=True)
        if kind != "as drawn":
            p = adversarial_tails(p, k, q, kind, rng)
        p = (p.astype(np.longdouble) / p.astype(np.longdouble).sum(-1, keepdims=True)).astype(float)
        ids = np.broadcast_to(np.arange(k), (500, k))
        with np.errstate(divide="ignore"):
            lower, upper = topk_kl_interval(np.log(q), (ids, np.log(p[:, :k])))
        truth = reference.kl_divergence(p, q, given="probs")
        assert np.all(lower <= truth) and np.all(truth <= upper), (case, vocab, k)
        attained += np.sum(upper - truth < 1e-9)
        if kind == "proportional":
            assert np.all(truth - lower < 1e-9) or k < vocab
    if kind == "unlikeliest first":
        assert attained > 15_000


def test_impossible_tokens():
    """A student that excludes a token the teacher may use: no finite bound; one that excludes a listed token: inf."""
    p = np.array([[0.5, 0.3, 0.2, 0.0]])
    student = np.array([[0.0, 0.0, -np.inf, 0.0]])
    lower, upper = topk_kl_interval(student, ([[0, 1]], np.log(p[:, :2])))
    assert upper[0] == np.inf and np.isfinite(lower[0])
    lower, upper = topk_kl_interval(student, ([[0, 1, 2]], np.log(p[:, :3])))
    assert lower[0] == upper[0] == np.inf


def test_the_width_shrinks_with_k():
    p = np.sort(np.exp(LOG_P), -1)[:, ::-1]
    q = np.exp(LOG_Q)
    widths = []
    for k in (2, 4, 8, 16, V):
        ids = np.broadcast_to(np.arange(k), (ROWS, k))
        lower, upper = topk_kl_interval(np.log(q).astype(np.float32), (ids, np.log(p[:, :k])))
        widths.append((upper - lower).mean())
    assert all(a > b for a, b in itertools.pairwise(widths)) and widths[-1] < 1e-10


@pytest.mark.parametrize("gap", [100.0, 541.0, 905.0, 1e12])
def test_a_student_that_gives_next_to_nothing_outside_the_list(gap):
    """The student's mass beside the list is exp(-gap): its logarithm counts, however far below float64 it is."""
    teacher = np.log([[0.5, 0.3]])
    student = np.array([[gap, gap, 0.0, 0.0]])
    result = topk_divergence(student, ([[0, 1]], teacher), divergence="forward_kl", tail="bucket")
    listed = sum(p * (np.log(p) - np.log(0.5)) for p in (0.5, 0.3))
    truth = listed + 0.2 * (np.log(0.2) + gap)
    np.testing.assert_allclose(result.values, truth, rtol=1e-12)
    lower, upper = topk_kl_interval(student, ([[0, 1]], teacher))
    assert lower[0] <= truth * (1 + 1e-11) and np.isfinite(lower[0]) and upper[0] >= lower[0]
    assert lower[0] > truth * (1 - 1e-11)


def test_intervals_of_lists_that_no_teacher_has():
    """Of ids in rising order of probability, say: a bound would be of a teacher that is not there."""
    with pytest.raises(ValueError, match=r"`teacher` leaves 0\.6 to 2 tokens of at most 0\.1, the least"):
        topk_kl_interval(np.zeros((1, 4)), ([[0, 1]], np.log([[0.3, 0.1]])))
    lower, upper = topk_kl_interval(np.zeros((1, 4)), ([[0, 1, 2]], np.log([[0.5, 0.3, 0.1]])))
    assert lower[0] <= upper[0]
