"""Functions of logs over the whole range of each type and of temperatures: finite in, right out."""

import exact_logs as exact
import numpy as np
import pytest
from exact_logs import relative_error

import kullback as kb
from kullback.distillation import (
    DISTILLATION_LOSSES,
    cross_entropy_loss,
    distillation_loss,
    entropy_gradient,
    token_log_prob_gradient,
    topk_divergence,
)

F32, F64 = np.finfo(np.float32), np.finfo(np.float64)
BOUND = {"float32": 1e-6, "float64": 1e-11}

# name: (p, q, temperature, dtypes)
ROWS = {
    "near greedy": ([20.0, 19.0, 1.0], [20.0, 18.5, 3.0], 1e-5, ("float32", "float64")),
    "greedy ties": ([20.0, 20.0, 1.0], [20.0, 20.0, 3.0], 1e-7, ("float32", "float64")),
    "coldest": ([20.0, 20.0, 1.0], [20.0, 20.0, 3.0], 5.6e-309, ("float32", "float64")),
    "beyond whole shifts": ([3e6, 3e6 - 2, 3e6 - 5], [3e6 - 1, 3e6, 3e6 - 7], 1.0, ("float32", "float64")),
    "1e30": ([1e30, 0.0, -1e30], [0.0, 1e30, -1e30], 1.0, ("float32", "float64")),
    "1e30, hot": ([1e30, 0.5e30, -1e30], [0.0, 1e30, -1e30], 1e30, ("float32", "float64")),
    "ends of float32": ([F32.max, F32.min, 0.0], [F32.max, 1.0, F32.min], 1.0, ("float32", "float64")),
    "ends of float32, hot": ([F32.max, F32.min, 0.0], [F32.max, 1.0, F32.min], 1e38, ("float32", "float64")),
    "ends of float64": ([F64.max, F64.min, 0.0], [F64.max, 1.0, F64.min], 1.0, ("float64",)),
    "ends of float64, hot": ([F64.max, F64.min, 0.0], [F64.max, 1.0, F64.min], 1.7e308, ("float64",)),
    "least of float64 masks p": ([0.0, F64.min, 1.0], [0.0, 2.0, 1.0], 1.0, ("float64",)),
    "least of float64 masks q": ([0.0, 2.0, 1.0], [0.0, F64.min, 1.0], 1.0, ("float64",)),
    "least of float64 masks both": ([0.0, F64.min, 1.0, 3.0], [0.0, F64.min, 1.5, 2.0], 1e-4, ("float64",)),
    "least of float32 masks p": ([0.0, F32.min, 1.0], [0.0, 2.0, 1.0], 1.0, ("float32", "float64")),
    "least of float32 masks both": ([0.0, F32.min, 1.0], [0.1, F32.min, 1.0], 1e-3, ("float32", "float64")),
    "a thousand millions": ([0.0, -1e9, 1.0], [1e-4, -1e8, 1.0], 1.0, ("float32", "float64")),
    "subnormal": ([F64.tiny / 8, 0.0], [0.0, F64.tiny / 16], 1e-308, ("float64",)),
    "subnormal in float32": ([F32.tiny / 8, 0.0], [0.0, F32.tiny / 16], 1e-38, ("float32",)),
    "what the weights of float32 cannot hold": ([0.0, -95.0], [0.0, -94.0], 1.0, ("float32", "float64")),
    "what the weights of float64 cannot hold": ([0.0, -690.0, -3.0], [0.0, -689.0, -3.0], 1.0, ("float64",)),
    "peaked": ([700.0, 0.0, 3.0], [690.0, 1.0, 3.0], 1.0, ("float32", "float64")),
    "close but for what has no weight": ([0.0, 1.0, -1e9], [0.0, 1.0 + 2e-15, -1e8], 1.0, ("float64",)),
    "a constant apart": ([0.1, 0.7, 0.3], [5e15 + 1, 5e15 + 3, 5e15], 1.0, ("float64",)),
    "one outcome": ([-3.0], [F32.max], 1e-30, ("float32", "float64")),
}
CASES = [pytest.param(*case[:3], dtype, id=f"{name}, {dtype}") for name, case in ROWS.items() for dtype in case[3]]
rows_of_any_size = pytest.mark.parametrize(("p", "q", "temperature", "dtype"), CASES)


@rows_of_any_size
def test_pairs_of_rows(p, q, temperature, dtype):
    p, q = np.array(p, dtype), np.array(q, dtype)
    keywords = {"given": "logits", "temperature": temperature}
    for a, b in ((p, q), (q, p)):
        kl = exact.kl_divergence(a, b, temperature)
        found = {
            kb.kl_divergence: kl,
            kb.cross_entropy: kl + exact.entropy(a, temperature),
            kb.jensen_shannon_divergence: exact.jensen_shannon_divergence(a, b, temperature),
        }
        for function, truth in found.items():
            got = function(a, b, **keywords)
            assert got >= 0.0, function
            # a mixture's divergence is known to the square of what rounds the normalisers
            assert relative_error(got, truth) < 2 * BOUND[dtype] or abs(got - truth) < 1e-31, function
        variation = kb.total_variation(a, b, **keywords)
        assert abs(variation - exact.total_variation(a, b, temperature)) < BOUND[dtype] * variation + 1e-15
        for alpha in (0.5, 0.8):
            truth = exact.renyi_divergence(a, b, alpha, temperature)
            got = kb.renyi_divergence(a, b, alpha, **keywords)
            assert relative_error(got, truth) < 10 * BOUND[dtype] or abs(got - truth) < 1e-30, alpha


@rows_of_any_size
def test_single_rows_and_tokens(p, q, temperature, dtype):
    p, q = np.array(p, dtype), np.array(q, dtype)
    ids, bound = np.arange(p.size), BOUND[dtype]
    log_p, mass = exact.log_probs(p, temperature)
    log_q, _ = exact.log_probs(q, temperature)
    found = kb.logsumexp(p, temperature=temperature)
    assert relative_error(found, mass) < bound or abs(found - mass) < bound
    assert relative_error(kb.entropy(p, given="logits", temperature=temperature), exact.entropy(p, temperature)) < bound
    told = kb.token_statistics(p[None], ids[None], temperature=temperature)
    assert relative_error(told.entropy[0], exact.entropy(p, temperature)) < bound
    kept = kb.token_statistics(p[None], ids[None], temperature=temperature, kept=([0, p.size], ids))
    compared = kb.compare(
        np.tile(p, (p.size, 1)), np.tile(q, (p.size, 1)), tokens=ids, given="logits", temperature=temperature
    )
    assert relative_error(compared.entropy_p[0], exact.entropy(p, temperature)) < bound
    assert relative_error(compared.entropy_q[0], exact.entropy(q, temperature)) < bound
    listed = kb.token_log_probs(p[None], ids[None], temperature=temperature)[0]
    with np.errstate(over="ignore"):
        softmax = kb.log_softmax(p, temperature=temperature).astype(np.float64)
    for v in ids:
        for found in (listed[v], told.log_probs[0, v], kept.log_probs[0, v], compared.log_prob_p[v]):
            assert relative_error(found, log_p[v]) < bound
        assert relative_error(compared.log_prob_q[v], log_q[v]) < bound
        difference = log_p[v] - log_q[v]
        assert relative_error(compared.log_ratio[v], difference) < bound or abs(
            compared.log_ratio[v] - float(difference)
        ) < bound * float(min(abs(log_p[v]), abs(log_q[v])) + 1)
        if dtype == "float64" or abs(log_p[v]) < F32.max:
            assert relative_error(softmax[v], log_p[v]) < 10 * bound or abs(log_p[v]) < F32.tiny


# what 1/temperature multiplies is known to 1e-16; of 1e308 that is more than float32 holds
GRADIENTS = [case for case in CASES if case.values[2] > 1e-30 or case.values[3] == "float64"]


@pytest.mark.parametrize(("p", "q", "temperature", "dtype"), GRADIENTS)
def test_gradients(p, q, temperature, dtype):
    """Against the definitions, from log-probabilities known to 400 digits; float32 has the rounding of its storage."""
    p, q = np.array(p, dtype), np.array(q, dtype)
    k, mp = exact.MP.mpf(1.0 / temperature), exact.MP
    s = [exact._probability(value) for value in exact.log_probs(p, temperature)[0]]
    log_s = exact.log_probs(p, temperature)[0]
    entropy = exact.entropy(p, temperature)
    bound = 1e-6 if dtype == "float32" else 1e-11
    size = float(min(k, F32.max if dtype == "float32" else F64.max))

    def close(found, truth):
        truth = np.array([float(value) for value in truth])
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(found, truth.astype(dtype), rtol=bound, atol=bound * size)

    of_entropy = [-k * share * (log + entropy) if share else mp.mpf(0) for share, log in zip(s, log_s, strict=True)]
    close(entropy_gradient(p, temperature=temperature), of_entropy)
    of_token = [k * ((v == 0) - share) for v, share in enumerate(s)]
    close(token_log_prob_gradient(p[None], [0], [1.0], temperature=temperature)[0], of_token)
    result = cross_entropy_loss(p[None], [0], gradient=True, temperature=temperature)
    close(result.gradient[0], [-value for value in of_token])
    assert relative_error(result.loss, -log_s[0]) < bound
    t = [exact._probability(value) for value in exact.log_probs(q, temperature)[0]]
    result = distillation_loss(p[None], q[None], gradient="student", temperature=temperature)
    assert relative_error(result.loss, exact.kl_divergence(q, p, temperature)) < bound
    if np.isfinite(result.loss):
        close(result.student_gradient[0], [k * (a - b) for a, b in zip(s, t, strict=True)])


@rows_of_any_size
@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_gradients_of_every_loss_are_numbers(p, q, temperature, dtype, loss):
    p, q = np.array([p], dtype), np.array([q], dtype)
    result = distillation_loss(p, q, loss, gradient="both", temperature=temperature, reduction="none")
    assert result.loss[0] >= 0.0
    if np.isfinite(result.loss[0]) and result.loss[0] * (1.0 / temperature) < 1e30:
        assert np.isfinite(result.student_gradient).all()
        assert np.isfinite(result.teacher_gradient).all()


@pytest.mark.parametrize("temperature", [1e-5, 1e-9, 1e-300, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_topk_divergence(temperature, dtype):
    student = np.array([[20.0, 19.0, 19.0, 1.0]], dtype)
    with np.errstate(divide="ignore"):
        teacher = np.array([[0, 2]]), np.log([[0.9, 0.1 - 1e-9]])
    log_q = exact.log_probs(student[0], temperature)[0]
    rest = exact.MP.fsum(exact.MP.exp(log_q[v]) for v in (1, 3))
    result = topk_divergence(student, teacher, "reverse_kl", "renormalize", temperature=temperature, gradient=True)
    assert np.isfinite(result.values).all()
    assert relative_error(1.0 - result.student_mass[0], rest) < 1e-6 or rest < 1e-12
    assert not np.isnan(result.gradient).any()


def test_near_greedy_cap():
    """Temperature divides the cap too: what is a thousand units apart under it is not lost in three million."""
    logits = np.array([[24.0, 23.0, 22.999, -5.0]])
    z = exact.MP.mpf(30) * 1
    capped = [z * exact.MP.tanh(exact.MP.mpf(float(x)) / z) for x in logits[0]]
    for temperature in (1.0, 1e-5):
        k = exact.MP.mpf(1.0 / temperature)
        told = kb.token_statistics(logits, [[0, 1, 2, 3]], softcap=30.0, temperature=temperature)
        top = capped[0]
        beside = exact.MP.log1p(exact.MP.fsum(exact.MP.exp(k * (c - top)) for c in capped[1:]))
        for v in range(4):
            assert relative_error(told.log_probs[0, v], k * (capped[v] - top) - beside) < 1e-11 or v == 0
        assert told.entropy[0] >= 0.0


# ---- rows that are peaked, shifted or alike


@pytest.mark.parametrize("vocab", [50, 5000])
@pytest.mark.parametrize("top", [14.0, 20.0, 40.0, 75.0, 120.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_lies_beside_a_peak(vocab, top, dtype):
    """Entropies and log-probabilities near 0 keep their digits, whichever function tells them."""
    rng = np.random.default_rng(3)
    p = rng.standard_normal(vocab).astype(dtype)
    q = (p + 0.1 * rng.standard_normal(vocab)).astype(dtype)
    at = vocab - 7  # of the long row not in the first block
    p[at], q[at] = top, top - 0.25
    compared = kb.compare(p[None], q[None], tokens=[at], given="logits")
    bound = 2e-6 if dtype == "float32" else 1e-11
    for row, found_entropy, found_log_prob in (
        (p, compared.entropy_p, compared.log_prob_p),
        (q, compared.entropy_q, compared.log_prob_q),
    ):
        log_prob, entropy = exact.log_probs(row)[0][at], exact.entropy(row)
        assert relative_error(found_entropy[0], entropy) < bound
        assert relative_error(found_log_prob[0], log_prob) < bound
        assert relative_error(kb.entropy(row, given="logits"), entropy) < bound
        assert relative_error(kb.token_log_probs(row[None], [at])[0], log_prob) < bound
        if dtype == "float64" or abs(log_prob) > F32.tiny:
            assert relative_error(kb.log_softmax(row)[at], log_prob) < bound


@pytest.mark.parametrize("depth", [80.0, 86.0, 90.0, 100.0, 800.0, 1e9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_rows_are_0_apart_whatever_their_depth(depth, dtype):
    row = np.array([0.0, -depth, 1.0, -1.5 * depth], dtype)
    for function in (kb.kl_divergence, kb.jensen_shannon_divergence, kb.total_variation, kb.chi2_divergence):
        assert function(row, row, given="logits") == 0.0


@pytest.mark.parametrize("offset", [0.0, 1000.0, -30000.0])
def test_an_offset_of_all_logits_costs_nothing(offset):
    rng = np.random.default_rng(5)
    base = (rng.integers(-4096, 4096, 300) / 512.0).astype(np.float32)
    base[17] = 20.0
    row = base + np.float32(offset)
    assert (row - np.float32(offset) == base).all()
    truth = np.array([float(value) for value in exact.log_probs(base)[0]])
    np.testing.assert_allclose(kb.log_softmax(row), truth, rtol=3e-7)
    share = np.exp(truth)
    slope = -share * (truth + float(exact.entropy(base)))
    np.testing.assert_allclose(entropy_gradient(row), slope, rtol=2e-6, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_renyi_of_the_least_orders(dtype):
    p, q = np.array([0.0, 1.0, -3.0], dtype), np.array([1.0, -0.5, 0.25], dtype)
    for alpha in (1e-300, 1e-200, 1e-17, 1e-10):
        got = kb.renyi_divergence(p, q, alpha, given="logits")
        assert relative_error(got, exact.renyi_divergence(p, q, alpha)) < 2 * BOUND[dtype], alpha
    p[2] = -np.inf  # then the limit is -ln q(p > 0)
    for alpha in (0.0, 5e-324, 1e-300, 1e-17):
        got = kb.renyi_divergence(p, q, alpha, given="logits")
        assert relative_error(got, exact.renyi_divergence(p, q, alpha)) < 2 * BOUND[dtype], alpha


def test_divergences_beyond_float64_are_infinite():
    p, q = np.array([0.7, 0.6, -0.1]), np.array([0.7, F64.min, 0.0])
    for temperature in (1e-2, 1e-4):  # e^-10 of 1.8e310 is not, nor is e^-1000 of 1.8e312
        truth = exact.kl_divergence(p, q, temperature)
        assert relative_error(kb.kl_divergence(p, q, given="logits", temperature=temperature), truth) < 1e-11
    assert kb.kl_divergence(p, np.roll(q, -1), given="logits", temperature=1e-2) == np.inf
    assert kb.chi2_divergence(p, q, given="logits", temperature=1e-2) == np.inf
    for alpha in (1.5, 2.0, 20.0):
        assert kb.renyi_divergence(p, q, alpha, given="logits", temperature=1e-2) == np.inf
    assert kb.jensen_shannon_divergence(p, q, given="logits", temperature=1e-2) < np.log(2)


@pytest.mark.parametrize("temperature", [5e-324, 5.5e-309])
def test_a_temperature_without_an_inverse_is_refused(temperature):
    calls = (
        lambda: kb.logsumexp([1.0, 2.0], temperature=temperature),
        lambda: kb.kl_divergence([1.0, 2.0], [1.0, 2.0], given="logits", temperature=temperature),
        lambda: kb.token_statistics([[1.0, 2.0]], temperature=temperature),
        lambda: distillation_loss(np.ones((1, 2)), np.ones((1, 2)), temperature=temperature),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"`temperature` is .*, expected at least 5.57e-309"):
            call()


# ---- long rows and all pairs


def test_long_rows_of_any_size():
    rng = np.random.default_rng(1)
    row = rng.standard_normal((1, (1 << 18) + 100))
    other = row + 0.01 * rng.standard_normal(row.shape)
    ids = np.array([[5, 70000, row.shape[1] - 1]])
    plain = kb.token_log_probs(row, ids)
    entropy = kb.entropy(row, given="logits")
    scale = 2.0**40
    np.testing.assert_allclose(kb.token_log_probs(row * scale, ids, temperature=scale), plain, rtol=1e-13)
    shift = 2.0**40  # what it rounds is put into the row before
    shifted = (row + shift) - shift
    plain = kb.token_log_probs(shifted, ids)
    np.testing.assert_allclose(kb.token_log_probs(row + shift, ids), plain, rtol=1e-11)
    np.testing.assert_allclose(kb.entropy(row + shift, given="logits"), kb.entropy(shifted, given="logits"), rtol=1e-11)
    np.testing.assert_allclose(kb.entropy(row * scale, given="logits", temperature=scale), entropy, rtol=1e-11)
    kl = kb.kl_divergence(shifted, other, given="logits")
    np.testing.assert_allclose(kb.kl_divergence(row + shift, other, given="logits"), kl, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [1.0, 8.0, 30.0, 1e8, 1e30])
@pytest.mark.parametrize("metric", ["js", "js_distance", "kl", "tv"])
def test_the_matrix_has_what_the_rows_have(dtype, spread, metric):
    rng = np.random.default_rng(0)
    x = (spread * rng.standard_normal((20, 50))).astype(dtype)
    x[3] = x[2] + np.float32(1e-3) * rng.standard_normal(50).astype(dtype)
    function = {
        "js": kb.jensen_shannon_divergence,
        "js_distance": kb.jensen_shannon_distance,
        "kl": kb.kl_divergence,
        "tv": kb.total_variation,
    }[metric]
    matrix = kb.divergence_matrix(x, metric=metric, given="logits")
    rows = function(x[:, None], x[None], given="logits")
    np.testing.assert_allclose(matrix, rows, rtol=1e-6 if dtype == "float32" else 2e-11, atol=0)
    first = exact.jensen_shannon_divergence(x[0], x[1])
    if metric == "jensen_shannon_divergence":
        assert relative_error(matrix[0, 1], first) < BOUND[dtype]


@pytest.mark.parametrize("value", [-3.0, -1e7, -1.37e16, -3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_first_block_in_which_nothing_is_possible(value, dtype):
    """The first block of a row says nothing about the size of the others where all of it is banned."""
    row = np.full((1, 4097), -np.inf, dtype)
    row[0, 2100:2103] = value
    size = float(row[0, 2100])
    np.testing.assert_allclose(kb.logsumexp(row), size + np.log(3), rtol=1e-7)
    np.testing.assert_allclose(kb.entropy(row, given="logits"), np.log(3), rtol=1e-7)
    np.testing.assert_allclose(kb.token_log_probs(row, [2101]), -np.log(3), rtol=1e-7)
    np.testing.assert_allclose(kb.token_statistics(row, [2101]).entropy, np.log(3), rtol=1e-7)
