"""Every divergence of the family against the long double reference: near and far, zeros, dtypes, layouts, names."""

import math
from fractions import Fraction

import numba
import numpy as np
import pytest
import reference
from strategies import stored

from kullback import kl_divergence
from kullback.rows import FAMILY, cressie_read, f_divergence, family, itakura_saito, mixtures, renyi

CASES = [(name, i) for name, member in FAMILY.items() for i in range(len(member.samples))]
OF_LOGS = [name for name, member in FAMILY.items() if "logits" in member.given]
CASES_OF_LOGS = [(name, i) for name, i in CASES if name in OF_LOGS]
GIVEN = [(*case, given) for case in CASES for given in ("logits", "probs") if given in FAMILY[case[0]].given]
LN2 = math.log(2)

NAMED = {
    "kl": lambda p, q, **k: reference.kl_divergence(p, q, **k),
    "reverse_kl": lambda p, q, **k: reference.kl_divergence(q, p, **k),
    "jeffreys": lambda p, q, **k: sum(reference.kl_both_ways(p, q, **k)),
    "js": lambda p, q, **k: reference.jensen_shannon_divergence(p, q, **k),
    "tv": lambda p, q, **k: reference.total_variation(p, q, **k),
    "squared_hellinger": lambda p, q, **k: reference.hellinger_distance(p, q, **k) ** 2,
    "chi2": lambda p, q, **k: reference.chi2_divergence(p, q, **k),
    "neyman_chi2": lambda p, q, **k: reference.chi2_divergence(q, p, **k),
}


def skew(p, q, weight=0.1, **k):
    """KL(p‖w·p + (1-w)·q), term by term: both parts of each term are ≥ 0."""
    lp, lq, d = reference._pair(p, q, k.get("given", "logits"), k.get("temperature", 1.0))
    to_p, _ = reference._mixture_differences(lp, lq, d, weight)
    m = np.exp(reference._log_mixture(lp, lq, weight))
    terms = np.where(lp == -np.inf, m, np.exp(lp) * reference.phi(to_p))
    return terms.sum(-1)


def symmetric(p, q, weight=0.5, **k):
    forward, reverse = reference.kl_both_ways(p, q, **k)
    return weight * forward + (1 - weight) * reverse


def renyi_of(p, q, alpha, **k):
    """The reference, whose power sum cancels for nearly disjoint rows; there the sum itself."""
    close = reference.renyi_divergence(p, q, alpha, **k)
    if alpha in (0, 1, math.inf):
        return close
    lp, _, d = reference._pair(p, q, k.get("given", "logits"), k.get("temperature", 1.0))
    with np.errstate(all="ignore"):
        far = reference._from_the_top(np.where(lp > -np.inf, lp + (1 - np.longdouble(alpha)) * d, -np.inf))
        far = (far[0] + far[2])[..., 0] / (np.longdouble(alpha) - 1)
    return np.where((close > 1) & np.isfinite(far), far, close)


def truth(name, parameters, p, q, **k):
    if name == "f_divergence":
        return NAMED[parameters["generator"]](p, q, **k)
    special = {"renyi_divergence": renyi_of, "skew_kl_divergence": skew, "symmetric_kl_divergence": symmetric}
    if name == "generalized_jsd":
        return reference.generalized_jsd(p, q, parameters.get("beta", 0.5), **k)
    return special.get(name, getattr(reference, name, None))(p, q, **parameters, **k)


def evaluate(name, parameters, p, q, **k):
    return FAMILY[name].function(p, q, **parameters, **({"given": "probs"} | k))


def check(name, parameters, p, q, limit, **k):
    with np.errstate(over="ignore"):  # of what is beyond float64: inf
        expected = np.asarray(truth(name, parameters, p, q, **k), float)
    got = evaluate(name, parameters, p, q, **k)
    assert np.all((got >= 0) | np.isnan(got))
    same = np.isnan(expected) | np.isinf(expected)
    np.testing.assert_array_equal(np.asarray(got)[same], expected[same])
    # 1e-18: what is left of sums of 1 in the reference
    miss = np.abs(np.asarray(got)[~same] - expected[~same]) / (expected[~same] + 1e-18 / limit)
    assert miss.size == 0 or miss.max() <= limit, f"relative error {miss.max():.1e}"


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize("noise", [1e-5, 1e-2, 0.3, 3.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "sample", "given"), GIVEN)
def test_accuracy_near_and_far(name, sample, given, dtype, noise):
    rng = np.random.default_rng(1)
    a = (3 * rng.standard_normal((3, 3001))).astype(dtype)
    b = (a + noise * rng.standard_normal(a.shape)).astype(dtype)
    if given == "probs":
        a, b = softmax(a), softmax(b)
    check(name, FAMILY[name].samples[sample], a, b, 1e-6 if dtype is np.float32 else 1e-11, given=given)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "affine"])
@pytest.mark.parametrize("name", OF_LOGS)
def test_16_bit_logits_against_each_other(name, storage):
    rng = np.random.default_rng(2)
    a = (3 * rng.standard_normal((2, 515))).astype(np.float32)
    a, b = stored(a, storage), stored(a + rng.standard_normal(a.shape).astype(np.float32) / 3, storage)
    check(name, FAMILY[name].samples[0], a, b, 1e-6, given="logits")


HARD = np.array([
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]],  # disjoint
    [[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.5, 0.0]],  # q wider
    [[0.25, 0.25, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]],  # p wider
    [[0.5, 0.5, 0.0, 0.0], [0.5, 0.25, 0.0, 0.25]],
    [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]],
    [[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]],  # no mass
    [[0.5, 0.5, np.nan, 0.0], [1.0, 0.0, 0.0, 0.0]],
])  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "sample"), CASES)
def test_zeros_and_undefined_rows(name, sample, dtype):
    p, q = HARD[:, 0].astype(dtype), HARD[:, 1].astype(dtype)
    parameters = FAMILY[name].samples[sample]
    check(name, parameters, p, q, 1e-6 if dtype is np.float32 else 1e-12, given="probs")
    if name in OF_LOGS:
        with np.errstate(divide="ignore"):
            p, q = np.log(p), np.log(q)
        check(name, parameters, p, q, 1e-6 if dtype is np.float32 else 1e-12, given="logits")


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_identical_rows_are_at_distance_zero(name, sample):
    x = np.random.default_rng(3).standard_normal((2, 100)).astype(np.float32)
    if name in OF_LOGS:
        assert not np.any(evaluate(name, FAMILY[name].samples[sample], x, x, given="logits"))
    assert not np.any(evaluate(name, FAMILY[name].samples[sample], np.exp(x), np.exp(x)))


@pytest.mark.parametrize(("name", "sample"), CASES_OF_LOGS)
def test_logits_hundreds_of_nats_apart(name, sample):
    rng = np.random.default_rng(4)
    a, b = 150 * rng.standard_normal((2, 3, 40))
    check(name, FAMILY[name].samples[sample], a, b, 1e-10, given="logits")


def test_nearly_disjoint_rows_keep_their_renyi_divergence():
    a = np.array([0.0, -40.0, -41.0, -60.0])
    for alpha in (0.3, 0.5, 0.9, 1.1, 3.0, 30.0):
        check("renyi_divergence", {"alpha": alpha}, a, a[::-1].copy(), 1e-12, given="logits")


@pytest.mark.parametrize("name", [name for name, member in FAMILY.items() if member.symmetric])
def test_symmetric_members_do_not_mind_the_order(name):
    p, q = softmax(np.random.default_rng(5).standard_normal((2, 7, 50)))
    np.testing.assert_allclose(evaluate(name, {}, p, q), evaluate(name, {}, q, p), rtol=1e-13)


@pytest.mark.parametrize("name", [name for name, member in FAMILY.items() if member.greatest < math.inf])
def test_the_greatest_value_is_that_of_disjoint_rows(name):
    assert evaluate(name, {}, [1.0, 0.0], [0.0, 1.0]) == pytest.approx(FAMILY[name].greatest, rel=1e-15)


@pytest.mark.parametrize("name", [name for name, member in FAMILY.items() if member.has_base])
def test_base_divides_by_its_logarithm(name):
    p, q = softmax(np.random.default_rng(6).standard_normal((2, 7, 50)))
    member = FAMILY[name]
    parameters = member.samples[-1] if name == "generalized_jsd" else member.samples[1 % len(member.samples)]
    ratio = evaluate(name, parameters, p, q, base=2) / evaluate(name, parameters, p, q)
    np.testing.assert_allclose(ratio, LN2 ** (-0.5 if name == "jensen_shannon_distance" else -1), rtol=1e-14)


@pytest.mark.parametrize("name", FAMILY)
def test_shared_keywords(name):
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 3, 40, 5)).astype(np.float32)
    parameters = FAMILY[name].samples[0]
    given = {"given": "logits", "temperature": 0.7} if name in OF_LOGS else {"given": "probs"}
    x, y = (a, b) if name in OF_LOGS else (np.exp(a), np.exp(b))
    out = np.empty((3, 5))
    got = evaluate(name, parameters, x, y, axis=1, vocab_size=33, out=out, num_threads=2, **given)
    assert got is out
    expected = truth(name, parameters, np.moveaxis(x, 1, -1)[..., :33], np.moveaxis(y, 1, -1)[..., :33], **given)
    np.testing.assert_allclose(out, expected.astype(float), rtol=1e-6, atol=1e-18)
    with pytest.raises(ValueError, match="expected from 1 to 40"):
        evaluate(name, parameters, a, b, axis=1, vocab_size=41)
    with pytest.raises(ValueError, match="negative"):
        evaluate(name, parameters, a, b)


@pytest.mark.parametrize("name", FAMILY)
def test_broadcasting_and_scalars(name):
    p, q = softmax(np.random.default_rng(8).standard_normal((2, 4, 9)))
    parameters = FAMILY[name].samples[0]
    every = evaluate(name, parameters, p[:, None], q[None])
    assert every.shape == (4, 4)
    one = evaluate(name, parameters, p[1], q[2])
    assert np.ndim(one) == 0 and one == every[1, 2]


def test_negative_probabilities_are_blamed_on_the_right_argument():
    with pytest.raises(ValueError, match="`q` holds a negative"):
        renyi.renyi_divergence([0.5, 0.5], [1.5, -0.5], 0.25)
    with pytest.raises(ValueError, match="`p` holds a negative"):
        mixtures.jensen_shannon_divergence([[1.5, -0.5]], [[0.5, 0.5]])


def test_parameters_are_checked():
    p = [0.5, 0.5]
    with pytest.raises(ValueError, match=r"`weight` is 1\.5, expected from 0 to 1"):
        mixtures.jensen_shannon_divergence(p, p, 1.5)
    with pytest.raises(ValueError, match=r"`alpha` is nan, expected from -inf to inf"):
        renyi.renyi_divergence(p, p, math.nan)
    with pytest.raises(TypeError, match="`alpha` is 'x', expected a number"):
        renyi.renyi_divergence(p, p, "x")
    with pytest.raises(ValueError, match="`endpoint` is 'no'"):
        mixtures.generalized_jsd(p, p, endpoint="no")


def test_generalized_jsd_endpoints():
    s, t = np.random.default_rng(9).standard_normal((2, 3, 20))
    jsd = mixtures.generalized_jsd
    np.testing.assert_array_equal(jsd(s, t, 0.0, endpoint="limit"), 0)
    np.testing.assert_array_equal(jsd(s, t, 1.0, endpoint="limit"), 0)
    # rounding of 1e-16 is divided by the weight
    np.testing.assert_allclose(jsd(s, t, 1e-9) / 1e-9, jsd(s, t, 0.0), rtol=1e-6)
    np.testing.assert_allclose(jsd(s, t, 1 - 1e-9) / 1e-9, jsd(s, t, 1.0), rtol=1e-6)


def test_weights_at_the_ends_of_a_mixture():
    p, q = softmax(np.random.default_rng(10).standard_normal((2, 3, 20)))
    assert not mixtures.jensen_shannon_divergence(p, q, 0.0).any()
    assert not mixtures.jensen_shannon_divergence(p, q, 1.0).any()
    assert not mixtures.skew_kl_divergence(p, q, 1.0).any()
    np.testing.assert_allclose(
        mixtures.skew_kl_divergence(p, q, 0.0), reference.kl_divergence(p, q, given="probs").astype(float)
    )


# ---- f-divergences of the user's own ----


@numba.njit
def triangular(u):
    return (u - 1) ** 2 / (u + 1)


@numba.njit
def entropic(u):
    return u * math.log(u) if u > 0 else 0.0


@pytest.mark.parametrize("given", ["probs", "logits"])
def test_a_generator_of_ones_own(given):
    rng = np.random.default_rng(11)
    a, b = rng.standard_normal((2, 5, 60))
    p, q = softmax(a), softmax(b)
    rows = (p, q) if given == "probs" else (a, b)
    np.testing.assert_allclose(
        f_divergence(*rows, triangular, given=given), ((p - q) ** 2 / (p + q)).sum(-1), rtol=1e-12
    )
    np.testing.assert_allclose(f_divergence(*rows, entropic, given=given), (p * np.log(p / q)).sum(-1), rtol=1e-12)


def test_a_generator_meets_zeros():
    p, q = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.5, 0.0, 0.25, 0.25])
    expected = 0.5 * triangular(1.0) + 0.5 * 1.0 + 0.5 * triangular(0.0)
    assert f_divergence(p, q, triangular, slope_at_infinity=1.0) == pytest.approx(expected, rel=1e-15)
    with np.errstate(divide="ignore"):
        logs = np.log(p), np.log(q)
    assert f_divergence(*logs, triangular, slope_at_infinity=1.0, given="logits") == pytest.approx(expected)
    with pytest.raises(ValueError, match="in row 0: give `slope_at_infinity`"):
        f_divergence(p, q, triangular)
    assert np.isnan(f_divergence(0 * p, q, triangular, slope_at_infinity=1.0))


def test_generators_are_checked():
    p = [0.5, 0.5]
    with pytest.raises(ValueError, match="'nope', expected one of kl"):
        f_divergence(p, p, "nope")
    with pytest.raises(TypeError, match=r"compiled with numba\.njit"):
        f_divergence(p, p, lambda u: u)
    with pytest.raises(ValueError, match="generator of your own"):
        f_divergence(p, p, "kl", slope_at_infinity=1.0)


def test_the_registry_is_the_public_family():
    public = {*mixtures.__all__, *renyi.__all__, *family.__all__, *itakura_saito.__all__, *cressie_read.__all__} - {
        "FAMILY",
        "Member",
    }
    assert set(FAMILY) == public


TOTALS = {
    "js": mixtures.jensen_shannon_divergence,
    "tv": renyi.total_variation,
    "squared_hellinger": lambda p, q: renyi.hellinger_distance(p, q) ** 2,
    "chi2": renyi.chi2_divergence,
    "kl": kl_divergence,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TOTALS)
def test_masses_of_different_totals(name, dtype):
    """Counts of samples of different size: totals 10^±6 apart, rows near and far, zeros on either side."""
    rng = np.random.default_rng(12)
    for batch in range(24):
        vocab = int(2 ** rng.uniform(1, 12))
        a = rng.uniform(0.1, 4) * rng.standard_normal((16, vocab))
        b = a + 10 ** rng.uniform(-5, 0.6, (16, 1)) * rng.standard_normal(a.shape)
        if batch % 3 == 0:
            a[np.arange(16), rng.integers(0, vocab, 16)] += rng.uniform(0, 15, 16)
        p, q = np.exp(a).astype(dtype), (np.exp(b) * 10 ** rng.uniform(-6, 6)).astype(dtype)
        if batch % 4 == 0:
            p[:, 0] = 0
        if batch % 5 == 0:
            q[:, vocab // 2] = 0
        got, expected = TOTALS[name](p, q), NAMED[name](p, q, given="probs")
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(got[~finite], expected[~finite].astype(float))
        # a difference of totals is known to 1e-15, which counts where the divergence is of first order in it
        bound = (2e-6 if dtype is np.float32 else 1e-10) * expected + (2e-15 if name == "tv" else 1e-28)
        assert (np.abs(got[finite] - expected[finite]) <= bound[finite]).all(), (batch, vocab)


def test_itakura_and_saito_count_the_least_outcome_like_the_greatest():
    """In float64 at any magnitude: what is nothing to KL, subnormal numbers too; logs are refused."""
    p, q = np.array([1.0, 3e-310, 5e-324]), np.array([1.0, 1e-310, 1e-323])
    expected = sum(x - math.log(x) - 1 for x in (p[1:] / q[1:]))
    assert evaluate("itakura_saito_divergence", {}, p, q) == pytest.approx(expected, rel=1e-12)
    assert evaluate("itakura_saito_divergence", {}, p * 1e300, q) == pytest.approx(expected, rel=1e-12)
    assert evaluate("itakura_saito_divergence", {}, [0.0, 1.0], [0.0, 2.0]) == 0.0
    p = np.array([1e-313, 2e-313, 1e-313])  # of nothing but subnormal numbers, nearly equal
    q = p + np.array([0.0, 5e-324, 0.0])
    total = [sum(map(Fraction, row)) for row in (p, q)]
    gaps = [float(Fraction(x) / total[0] / (Fraction(y) / total[1]) - 1) for x, y in zip(p, q, strict=True)]
    expected = sum(gap**2 / 2 for gap in gaps)
    assert evaluate("itakura_saito_divergence", {}, p, q) == pytest.approx(expected, rel=1e-9)
    for x, y in (([0.5, 0.5], [1.0, 0.0]), ([1.0, 0.0], [0.5, 0.5])):
        assert evaluate("itakura_saito_divergence", {}, x, y) == math.inf
    with pytest.raises(ValueError, match="`given` is 'logits', expected one of probs"):
        evaluate("itakura_saito_divergence", {}, p, q, given="logits")


@pytest.mark.parametrize("given", ["probs", "logits"])
def test_powers_of_cressie_and_read_have_names(given):
    rng = np.random.default_rng(12)
    a, b = rng.standard_normal((2, 3, 40))
    p, q = (a, b) if given == "logits" else (softmax(a), softmax(b))
    for power, expected in (
        (1.0, evaluate("chi2_divergence", {}, p, q, given=given)),
        (-2.0, evaluate("chi2_divergence", {}, q, p, given=given)),
        (-0.5, 8 * (evaluate("hellinger_distance", {}, p, q, given=given)) ** 2),
        (0.0, 2 * reference.kl_divergence(p, q, given=given).astype(float)),
        (-1.0, 2 * reference.kl_divergence(q, p, given=given).astype(float)),
        (1e-12, 2 * reference.kl_divergence(p, q, given=given).astype(float)),
        (-1 - 1e-12, 2 * reference.kl_divergence(q, p, given=given).astype(float)),
    ):
        got = evaluate("cressie_read_divergence", {"lambda_": power}, p, q, given=given)
        np.testing.assert_allclose(got, expected, rtol=1e-10)
