"""The reference against 50-digit arithmetic: the formulas as textbooks print them, with digits to burn."""

import ml_dtypes
import mpmath
import numpy as np
import pytest
import reference
from mpmath import mpf

mpmath.mp.dps = 50
# what a long double leaves after the sums below; a platform whose long double is a double gets its share
TIGHT = 5e-14 if np.finfo(np.longdouble).eps < 1e-18 else 2e-9
INF = float("inf")


def exact(x):
    """A double or long double as the very number it is: high part plus remainder."""
    x = np.longdouble(x)
    if not np.isfinite(x):
        return mpf(str(x))
    high = float(x)
    return mpf(high) + mpf(float(x - np.longdouble(high)))


def measure(row, given, temperature=1):
    """Normalised probabilities of one row, in mpf."""
    row = [exact(x) for x in row]
    if given != "probs":
        row = [mpmath.exp(x / mpf(temperature)) if x != -mpmath.inf else mpf(0) for x in row]
    total = mpmath.fsum(row)
    return [x / total for x in row]


def kl(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def cross_entropy(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return -mpmath.fsum(a * mpmath.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def jensen_shannon(p, q, weight=0.5):
    w = mpf(weight)
    m = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
    return w * kl(p, m) + (1 - w) * kl(q, m)


def renyi(p, q, alpha):
    a = mpf(alpha)
    if alpha > 1 and any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mpmath.inf
    total = mpmath.fsum(x**a * y ** (1 - a) for x, y in zip(p, q, strict=True) if x > 0 and y > 0)
    return mpmath.log(total) / (a - 1) if total else mpmath.inf


def total_variation(p, q):
    return mpmath.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def acceptance(p, q):
    return mpmath.fsum(min(a, b) for a, b in zip(p, q, strict=True))


def hellinger(p, q):
    squares = ((mpmath.sqrt(a) - mpmath.sqrt(b)) ** 2 for a, b in zip(p, q, strict=True))
    return mpmath.sqrt(mpmath.fsum(squares) / 2)


def chi2(p, q):
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return mpmath.fsum((a - b) ** 2 / b for a, b in zip(p, q, strict=True) if b > 0)


PAIRS = {
    "kl": (reference.kl_divergence, kl),
    "reverse_kl": (reference.reverse_kl, lambda p, q: kl(q, p)),
    "kl_both_ways": (lambda p, q, **k: reference.kl_both_ways(p, q, **k)[1], lambda p, q: kl(q, p)),
    "cross_entropy": (reference.cross_entropy, cross_entropy),
    "jensen_shannon": (reference.jensen_shannon_divergence, jensen_shannon),
    "jensen_shannon_distance": (
        reference.jensen_shannon_distance,
        lambda p, q: mpmath.sqrt(jensen_shannon(p, q)),
    ),
    "jensen_shannon_0.1": (
        lambda p, q, **k: reference.jensen_shannon_divergence(p, q, 0.1, **k),
        lambda p, q: jensen_shannon(p, q, 0.1),
    ),
    "total_variation": (reference.total_variation, total_variation),
    "acceptance": (reference.acceptance, acceptance),
    "hellinger": (reference.hellinger_distance, hellinger),
    "chi2": (reference.chi2_divergence, chi2),
} | {
    f"renyi_{alpha}": (
        lambda p, q, alpha=alpha, **k: reference.renyi_divergence(p, q, alpha, **k),
        lambda p, q, alpha=alpha: renyi(p, q, alpha),
    )
    for alpha in (0.1, 0.5, 0.999, 1.001, 2, 7.5)
}


def logit_rows(noise, vocab=97, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    a = 3 * rng.standard_normal(vocab)
    return a, a + shift + noise * rng.standard_normal(vocab)


def check(got, truth, tolerance=TIGHT):
    got = exact(got)
    if mpmath.isinf(truth):
        assert got == truth
    elif abs(truth) < 1e-40:  # zero to 50 digits
        assert got == 0
    else:
        assert abs(got / truth - 1) < tolerance, (mpmath.nstr(got, 20), mpmath.nstr(truth, 20))


# ---- rows ----


@pytest.mark.parametrize("y", [0.0, 1e-300, -1e-12, 1e-6, -3e-3, 0.499, -0.499, 0.5, -0.7, 3.0, -40.0])
def test_phi(y):
    check(reference.phi(y), mpmath.expm1(mpf(y)) - mpf(y), 5e-16 if TIGHT > 1e-12 else 5e-19)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-3, 1.0, 8.0])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_two_rows_of_logits(name, noise, shift):
    ours, textbook = PAIRS[name]
    p, q = logit_rows(noise, shift=shift)
    # total variation alone feels the rounding of the normalisers to first order
    limit = max(TIGHT, float(np.finfo(np.longdouble).eps) / noise) if name == "total_variation" else TIGHT
    check(ours(p, q), textbook(measure(p, "logits"), measure(q, "logits")), limit)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_temperature(name, temperature):
    ours, textbook = PAIRS[name]
    p, q = logit_rows(0.1)
    truth = textbook(measure(p, "logits", temperature), measure(q, "logits", temperature))
    check(ours(p, q, temperature=temperature), truth)


@pytest.mark.parametrize("name", PAIRS)
def test_probabilities_and_counts(name):
    ours, textbook = PAIRS[name]
    p, q = np.array([9.0, 12, 4]), np.array([1.0, 1, 1])
    check(ours(p, q, given="probs"), textbook(measure(p, "probs"), measure(q, "probs")))
    check(
        ours(np.log(p), np.log(q), given="log_probs"),
        textbook(measure(p, "probs"), measure(q, "probs")),
        1e-12,
    )


ZEROS = {
    "p_zero": ([0.0, 0.25, 0.75], [0.5, 0.25, 0.25]),
    "q_zero": ([0.5, 0.25, 0.25], [0.0, 0.25, 0.75]),
    "both_zero": ([0.0, 0.25, 0.75], [0.0, 0.75, 0.25]),
    "one_hot_p": ([0.0, 1.0, 0.0], [0.2, 0.3, 0.5]),
    "one_hot_q": ([0.2, 0.3, 0.5], [0.0, 1.0, 0.0]),
    "disjoint": ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]),
    "overlap": ([0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.25, 0.25]),
    "equal": ([0.125, 0.5, 0.375], [0.125, 0.5, 0.375]),
    "one_outcome": ([1.0], [1.0]),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("case", ZEROS)
@pytest.mark.parametrize("given", ["probs", "log_probs"])
def test_zeros(name, case, given):
    ours, textbook = PAIRS[name]
    p, q = (np.array(row) for row in ZEROS[case])
    truth = textbook(measure(p, "probs"), measure(q, "probs"))
    if given == "log_probs":
        with np.errstate(divide="ignore"):
            p, q = np.log(p.astype(np.longdouble)), np.log(q.astype(np.longdouble))
    check(ours(p, q, given=given), truth)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["p", "q"])
def test_bad_rows_are_nan_and_good_rows_stay(name, value, side):
    ours, _ = PAIRS[name]
    p, q = (np.stack([row, row]) for row in logit_rows(0.3, vocab=5))
    good = ours(p[1], q[1])
    (p if side == "p" else q)[0, 2] = value
    got = ours(p, q)
    assert np.isnan(got[0])
    assert got[1] == good


@pytest.mark.parametrize("name", PAIRS)
def test_rows_without_mass_are_nan(name):
    ours, _ = PAIRS[name]
    row, nothing = np.array([0.1, 0.2, 0.3]), np.full(3, -np.inf)
    assert np.isnan(ours(row, nothing))
    assert np.isnan(ours(nothing, row))
    assert np.isnan(ours(nothing, nothing))
    assert np.isnan(ours(row, np.zeros(3), given="probs"))


def test_a_vanishing_p_still_meets_a_zero_q():
    """exp(-20000) underflows even here; KL is infinite all the same."""
    assert reference.kl_divergence([0.0, -20000.0], [0.0, -np.inf]) == np.inf
    assert reference.cross_entropy([0.0, -20000.0], [0.0, -np.inf]) == np.inf


def test_logits_far_from_the_origin():
    """3e38 + ln 2 is 3e38 in any float, and yet two outcomes of that logit have probability 1/2 each."""
    p, q = np.array([3e38, 3e38, 0.0]), np.array([0.0, 0.0, -40.0])
    check(reference.entropy(p), mpmath.log(mpf(2)), 1e-18 if TIGHT < 1e-12 else 1e-15)
    check(reference.kl_divergence(p, q), mpmath.log(1 + mpmath.exp(mpf(-40)) / 2), TIGHT)


def test_one_row():
    p, _ = logit_rows(1.0)
    probs = measure(p, "logits")
    check(reference.entropy(p), cross_entropy(probs, probs), 1e-17 if TIGHT < 1e-12 else TIGHT)
    check(reference.logsumexp(p), mpmath.log(mpmath.fsum(mpmath.exp(exact(x)) for x in p)), 1e-15)
    check(
        reference.logsumexp(p, 2.5),
        mpmath.log(mpmath.fsum(mpmath.exp(exact(x) / mpf(2.5)) for x in p)),
        1e-15,
    )
    for got, prob in zip(reference.log_softmax(p), probs, strict=True):
        check(got, mpmath.log(prob), 1e-15)
    assert reference.entropy(np.array([0.0, 1.0, 0.0]), given="probs") == 0


def test_plain_sums():
    """normalize=False sums the measures as given and may be negative."""
    p, q = np.array([0.5, 0.25]), np.array([1.0, 2.0])
    check(
        reference.kl_divergence(p, q, "probs", normalize=False),
        mpf(0.5) * mpmath.log(mpf(0.5)) + mpf(0.25) * mpmath.log(mpf(0.125)),
    )
    check(reference.cross_entropy(p, q, "probs", normalize=False), -mpf(0.25) * mpmath.log(mpf(2)))
    check(
        reference.entropy(p, "probs", normalize=False),
        mpf(0.5) * mpmath.log(mpf(2)) + mpf(0.25) * mpmath.log(mpf(4)),
    )


def test_renyi_limits():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.125, 0.625])
    check(reference.renyi_divergence(p, q, 0, given="probs"), mpmath.log(1 / mpf(0.375)))
    check(reference.renyi_divergence(p, q, np.inf, given="probs"), mpmath.log(mpf(4)))
    assert reference.renyi_divergence(p, q, 1, given="probs") == reference.kl_divergence(p, q, given="probs")


def test_published_values():
    """Cover & Thomas, example 2.3.1, in bits; Wikipedia's worked example of the divergence in nats."""
    bits = np.log(np.longdouble(2))
    p, q = [0.5, 0.5], [0.75, 0.25]
    wikipedia = [9 / 25, 12 / 25, 4 / 25], [1 / 3] * 3
    for got, printed in [
        (reference.kl_divergence(p, q, "probs") / bits, 0.20751874963942191),
        (reference.reverse_kl(p, q, "probs") / bits, 0.18872187554086714),
        (reference.kl_divergence(*wikipedia, "probs"), 0.085299601318370568),
        (reference.reverse_kl(*wikipedia, "probs"), 0.097455006785387621),
        (reference.jensen_shannon_divergence(*wikipedia, given="probs"), 0.022459860429714589),
    ]:
        assert float(got) == pytest.approx(printed, rel=1e-15)


def test_generators():
    """Each named generator gives the divergence it is named after."""
    for p, q in [logit_rows(1.0), (np.array([0.0, -np.inf, 1.0]), np.array([0.3, 0.1, -np.inf]))]:
        expected = {
            "kl": reference.kl_divergence(p, q),
            "reverse_kl": reference.reverse_kl(p, q),
            "chi2": reference.chi2_divergence(p, q),
            "total_variation": reference.total_variation(p, q),
            "squared_hellinger": reference.hellinger_distance(p, q) ** 2,
            "jensen_shannon": reference.jensen_shannon_divergence(p, q),
        }
        for name, (f, at_zero, slope) in reference.GENERATORS.items():
            got = reference.f_divergence(p, q, f, at_zero, slope)
            assert float(got) == pytest.approx(float(expected[name]), rel=1e-13), name


def test_generalized_jsd_endpoints_and_mixture():
    student, teacher = logit_rows(1.0)
    assert reference.generalized_jsd(student, teacher, 0) == reference.kl_divergence(teacher, student)
    assert reference.generalized_jsd(student, teacher, 1) == reference.kl_divergence(student, teacher)
    s, t = measure(student, "logits"), measure(teacher, "logits")
    b = mpf(0.3)
    m = [b * x + (1 - b) * y for x, y in zip(t, s, strict=True)]
    check(reference.generalized_jsd(student, teacher, 0.3), b * kl(t, m) + (1 - b) * kl(s, m))


# ---- tokens, sequences, storage ----


def test_tokens_and_sequences():
    p = np.log(np.array([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]))
    q = np.log(np.array([[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]]))
    tokens = np.array([[0, -100]])
    assert reference.token_log_probs(p, tokens)[0, 0] == pytest.approx(np.log(0.5))
    assert np.isnan(reference.token_log_probs(p, tokens)[0, 1])
    assert reference.token_log_ratios(p, q, tokens)[0, 0] == pytest.approx(np.log(2.0))
    several = reference.token_log_probs(p, np.array([[[0, 2], [1, -100]]]))
    assert several.shape == (1, 2, 2)
    assert several[0, 1, 0] == pytest.approx(np.log(0.125))
    assert np.isnan(several[0, 1, 1])
    values = np.array([[1.0, 2.0, np.nan], [4.0, np.nan, 16.0]])
    np.testing.assert_array_equal(reference.sequence_sums(values), [3, 20])
    np.testing.assert_array_equal(reference.sequence_sums(values, mask=[[1, 0, 1], [0, 1, 1]]), [1, 16])
    np.testing.assert_array_equal(reference.sequence_sums(values.ravel(), offsets=[0, 1, 1, 6]), [1, 0, 22])


def test_decode():
    words = np.arange(65536, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the patterns
        theirs = words.view(ml_dtypes.bfloat16).astype(np.float32).astype(np.longdouble)
        ours = reference.decode(words.view(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(ours, theirs)
    rows = np.zeros(1, dtype=[("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (3,))])
    rows["scale"], rows["min"], rows["code"] = 0.5, -8.25, [0, 1, 65535]
    np.testing.assert_array_equal(reference.decode(rows), [[-8.25, -7.75, 32759.25]])
    halves = np.array([1.5, -np.inf], np.float16)
    np.testing.assert_array_equal(reference.decode(halves), [1.5, -np.inf])


# ---- gradients ----


def slope(function, row, index):
    """d function(row) / d row[index] by a central difference in 50 digits."""
    h = mpf(10) ** -16
    up, down = list(row), list(row)
    up[index], down[index] = row[index] + h, row[index] - h
    return (function(up) - function(down)) / (2 * h)


def softmax(row, temperature=1):
    weights = [mpmath.exp(x / mpf(temperature)) for x in row]
    total = mpmath.fsum(weights)
    return [w / total for w in weights]


GRADIENTS = {
    "kl": (None, kl),
    "reverse_kl": (None, lambda p, q: kl(q, p)),
    "cross_entropy": (None, cross_entropy),
    "jensen_shannon": (0.3, lambda p, q: jensen_shannon(p, q, 0.3)),
    "renyi": (1.5, lambda p, q: renyi(p, q, 1.5)),
    "total_variation": (None, total_variation),
    "hellinger": (None, hellinger),
    "chi2": (None, chi2),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("temperature", [1, 2])
def test_gradients(name, temperature):
    parameter, textbook = GRADIENTS[name]
    p, q = logit_rows(0.5, vocab=6)
    got_p, got_q = reference.gradients(name, p, q, parameter, temperature)
    mp_p, mp_q = [exact(x) for x in p], [exact(x) for x in q]
    fixed_p, fixed_q = softmax(mp_p, temperature), softmax(mp_q, temperature)
    for j in range(6):
        truth = slope(lambda row: textbook(softmax(row, temperature), fixed_q), mp_p, j)
        assert float(got_p[j]) == pytest.approx(float(truth), rel=1e-13, abs=1e-16)
        truth = slope(lambda row: textbook(fixed_p, softmax(row, temperature)), mp_q, j)
        assert float(got_q[j]) == pytest.approx(float(truth), rel=1e-13, abs=1e-16)


@pytest.mark.parametrize("beta", [0, 0.25, 1])
def test_generalized_jsd_gradients(beta):
    student, teacher = logit_rows(0.5, vocab=6)

    def loss(s, t):
        if beta in (0, 1):
            return kl(t, s) if beta == 0 else kl(s, t)
        return jensen_shannon(t, s, beta)

    d_student, d_teacher = reference.generalized_jsd_gradients(student, teacher, beta)
    s, t = [exact(x) for x in student], [exact(x) for x in teacher]
    for j in range(6):
        truth = slope(lambda row: loss(softmax(row), softmax(t)), s, j)
        assert float(d_student[j]) == pytest.approx(float(truth), rel=1e-13, abs=1e-16)
        truth = slope(lambda row: loss(softmax(s), softmax(row)), t, j)
        assert float(d_teacher[j]) == pytest.approx(float(truth), rel=1e-13, abs=1e-16)


def test_one_row_gradients():
    x, _ = logit_rows(1.0, vocab=6)
    row = [exact(v) for v in x]
    entropy = reference.entropy_gradient(x, 2)
    lse = reference.logsumexp_gradient(x, 2)
    token = reference.token_log_prob_gradient(x, 3, 2)
    for j in range(6):
        truth = slope(lambda r: cross_entropy(softmax(r, 2), softmax(r, 2)), row, j)
        assert float(entropy[j]) == pytest.approx(float(truth), rel=1e-13, abs=1e-16)
        truth = slope(lambda r: mpmath.log(mpmath.fsum(mpmath.exp(v / 2) for v in r)), row, j)
        assert float(lse[j]) == pytest.approx(float(truth), rel=1e-13)
        truth = slope(lambda r: mpmath.log(softmax(r, 2)[3]), row, j)
        assert float(token[j]) == pytest.approx(float(truth), rel=1e-13)
