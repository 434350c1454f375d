"""Estimates from samples against definitions written out, published tables, simulation and SciPy."""

import itertools

import interval_coverage
import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon
from scipy.special import digamma

import kullback as kb
from kullback import samples
from kullback.samples.shares import DIVERGENCES

RNG = np.random.default_rng
KL_OF_SHIFT_2 = 2.0  # KL(N(0,1)‖N(2,1))


# --------------------------------------------------------------------------------------------------- terms


@pytest.mark.parametrize("name", ["kl", "js", "psi"])
def test_terms_keep_their_digits_near_equality_and_far_from_it(name):
    """Worst relative error against 50 digits; the textbook terms lose everything at 1e-12."""
    rng = RNG(0)
    formulas = {
        "kl": lambda p, q: p * mpmath.log(p / q) - p + q,
        "js": lambda p, q: (p * mpmath.log(2 * p / (p + q)) + q * mpmath.log(2 * q / (p + q))) / 2,
        "psi": lambda p, q: (p - q) * mpmath.log(p / q),
    }
    with mpmath.workdps(50):
        for distance in (1e-14, 1e-8, 1e-3, 0.3, 0.49, 0.51, 0.9, 0.999999, 1 - 1e-12):
            for _ in range(30):
                p = rng.random()
                q = p * (1 - distance)
                for a, b in ((p, q), (q, p)):
                    truth = formulas[name](mpmath.mpf(a), mpmath.mpf(b))
                    ours = float(DIVERGENCES[name].terms(np.float64(a), np.float64(b)))
                    assert abs(ours - truth) <= 1e-14 * truth


def test_terms_at_the_edges():
    zero_or_one = np.array([0.0, 0.0, 1.0, 1e-320, 1.0])
    other = np.array([0.0, 1.0, 0.0, 1.0, 1e-320])
    log_ratio = float(-mpmath.log(1e-320))
    expected = {
        "kl": [0, 1, np.inf, 1, log_ratio - 1],
        "reverse_kl": [0, np.inf, 1, log_ratio - 1, 1],
        "js": [0, np.log(2) / 2, np.log(2) / 2, np.log(2) / 2, np.log(2) / 2],
        "psi": [0, np.inf, np.inf, log_ratio, log_ratio],
        "hellinger": [0, 0.5, 0.5, 0.5, 0.5],
        "tv": [0, 0.5, 0.5, 0.5, 0.5],
        "chi2": [0, 1, np.inf, 1, np.inf],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(DIVERGENCES[name].terms(zero_or_one, other), values, rtol=1e-14, err_msg=name)


# ----------------------------------------------------------------------------------------------- smoothing


def test_additive_rules_as_defined():
    counts = np.array([[7, 0, 2, 0], [0, 0, 0, 5]])
    n = counts.sum(1, keepdims=True)
    for rule, alpha in (
        ("laplace", 1.0),
        ("jeffreys", 0.5),
        ("perks", 0.25),
        ("minimax", np.sqrt(n) / 4),
        (("additive", 0.3), 0.3),
    ):
        np.testing.assert_allclose(samples.smooth(counts, rule), (counts + alpha) / (n + 4 * alpha), rtol=1e-15)


def test_floor_and_jelinek_as_defined():
    shares = np.array([0.7, 0.0, 0.3, 0.0])
    raised = np.array([0.7, 0.01, 0.3, 0.01])
    np.testing.assert_allclose(samples.smooth([7, 0, 3, 0], ("floor", 0.01)), raised / raised.sum(), rtol=1e-15)
    np.testing.assert_allclose(samples.smooth([7, 0, 3, 0], ("jelinek", 0.2)), 0.8 * shares + 0.05, rtol=1e-15)
    background = np.array([1, 2, 3, 4])
    mixed = samples.smooth([7, 0, 3, 0], ("jelinek", 0.2, background))
    np.testing.assert_allclose(mixed, 0.8 * shares + 0.02 * background, rtol=1e-15)


def test_james_stein_shrinks_as_published():
    """Hausser & Strimmer (2009), equations 4 and 5, written out for one row."""
    counts = [4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]  # the example of the R package `entropy`
    n, k = sum(counts), len(counts)
    shares = [c / n for c in counts]
    weight = (1 - sum(s * s for s in shares)) / ((n - 1) * sum((1 / k - s) ** 2 for s in shares))
    weight = min(1.0, max(0.0, weight))
    expected = [weight / k + (1 - weight) * s for s in shares]
    np.testing.assert_allclose(samples.smooth(counts, "james-stein"), expected, rtol=1e-14)
    np.testing.assert_allclose(samples.smooth([3, 3, 3], "james-stein"), 1 / 3)
    np.testing.assert_allclose(samples.smooth([1, 0, 0, 0], "james-stein"), 0.25)


PROSODY = """1 120 2 40 3 24 4 13 5 15 6 5 7 11 8 2 9 2 10 1 12 3 14 2 15 1 16 1 17 3 19 1 20 3 21 2 23 3 24 3 25 3
26 2 27 2 28 1 31 2 32 2 33 1 34 2 36 2 41 3 43 1 45 3 46 1 47 1 50 1 71 1 84 1 101 1 105 1 121 1 124 1 146 1 162 1
193 1 199 1 224 1 226 1 254 1 257 1 339 1 421 1 456 1 481 1 483 1 1140 1 1256 1 1322 1 1530 1 2131 1 2395 1 6925 1
7846 1"""


def test_good_turing_on_the_published_example():
    """Gale & Sampson (1995), the prosody data: P0 = 0.003883, r* = 0.7628 for r = 1, share 2.468e-5."""
    numbers = [int(word) for word in PROSODY.split()]
    counts = np.repeat(numbers[::2], numbers[1::2])
    assert counts.sum() == 30902
    shares = samples.smooth(np.append(counts, [0, 0, 0]), "good-turing")
    assert shares.sum() == pytest.approx(1.0, rel=1e-14)
    assert shares[-3:].sum() == pytest.approx(0.003883, abs=5e-7)
    assert shares[0] == pytest.approx(2.468e-5, abs=5e-9)
    np.testing.assert_array_equal(shares[-3:], shares[-1])
    without_empty = samples.smooth(counts, "good-turing")
    assert without_empty.sum() == pytest.approx(1.0, rel=1e-14)


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(lambda c: max(c) > 1),
    st.sampled_from([None, "laplace", "jeffreys", "perks", "minimax", "james-stein", "good-turing", ("floor", 0.01)]),
)
def test_shares_always_sum_to_one_and_keep_the_order(counts, rule):
    shares = samples.smooth(counts, rule)
    assert shares.sum() == pytest.approx(1.0, rel=1e-13)
    if rule != "good-turing":  # which may rank neighbouring counts otherwise
        order = np.argsort(counts, kind="stable")
        assert (np.diff(shares[order]) >= -1e-15).all()


def test_smoothing_errors():
    for rule, message in [
        ("lidstone", "`smoothing` is 'lidstone', expected one of laplace"),
        (("floor", 0.6), r"`smoothing` is \('floor', 0.6\), expected a number from 0 to 0.5"),
        (("additive", -1), "expected a number from 0 to inf"),
        (("laplace", 1), r"expected 0 number\(s\) after 'laplace'"),
        ("jelinek", r"expected 1 number\(s\) after 'jelinek'"),
        (("jelinek", 0.1, [1, 2, 3]), r"background of `smoothing` has shape \(3,\), expected \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            samples.smooth([1, 2], rule)
    with pytest.raises(ValueError, match=r"`counts` holds -1\.0, expected counts"):
        samples.smooth([1, -1])
    with pytest.raises(TypeError, match="`smoothing` is 3, expected a name"):
        samples.smooth([1, 2], 3)
    with pytest.raises(ValueError, match="every count is 1"):
        samples.smooth([1, 1, 0], "good-turing")
    with pytest.raises(ValueError, match="`counts` holds fractions"):
        samples.smooth([1.5, 1, 0], "good-turing")
    assert np.isnan(samples.smooth([[0, 0], [1, 1]])[0]).all()


# -------------------------------------------------------------------------------------------- from counts


def test_plug_in_against_scipy():
    p, q = RNG(1).integers(1, 50, (2, 3, 8))
    estimate = samples.divergence_from_counts
    np.testing.assert_allclose(estimate(p, q).value, stats.entropy(p, q, axis=1), rtol=1e-13)
    np.testing.assert_allclose(estimate(p, q, "reverse_kl", base=2).value, stats.entropy(q, p, base=2, axis=1))
    np.testing.assert_allclose(estimate(p, q, "js_distance").value, jensenshannon(p, q, axis=1), rtol=1e-13)
    np.testing.assert_allclose(estimate(p, q, "js_distance", base=2).value, jensenshannon(p, q, 2, axis=1), rtol=1e-13)
    np.testing.assert_allclose(estimate(p, divergence="entropy").value, stats.entropy(p, axis=1), rtol=1e-14)
    smoothed = estimate(p[0], q[0], smoothing="laplace")
    assert smoothed.value == pytest.approx(stats.entropy(p[0] + 1, q[0] + 1), rel=1e-13)
    assert estimate([5, 5], [1, 0]).value == np.inf and estimate([5, 5, 0], [1, 0, 0]).empty_q == 2
    assert np.isnan(estimate([0, 0], [1, 1]).value)


@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "js", "psi", "chi2", "entropy"])
@pytest.mark.parametrize("correction", ["miller-madow", "jackknife"])
def test_corrections_remove_the_bias(divergence, correction):
    """Mean of 4000 estimates: at least four fifths of the plug-in's bias is gone, beyond the noise of the mean."""
    p, q = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.25, 0.25, 0.2, 0.3])
    rng = RNG(2)
    p_counts, q_counts = rng.multinomial(200, p, 4000), rng.multinomial(300, q, 4000)
    args = (p_counts,) if divergence == "entropy" else (p_counts, q_counts)
    truth = samples.divergence_from_counts(p, None if divergence == "entropy" else q, divergence).value
    estimate = samples.divergence_from_counts(*args, divergence=divergence, bias_correction=correction)
    noise = estimate.value.std() / np.sqrt(4000)
    assert abs(estimate.value.mean() - truth) < 0.2 * abs(estimate.plug_in.mean() - truth) + 4 * noise
    assert abs(estimate.plug_in.mean() - truth) > 4 * noise  # there was a bias to remove
    np.testing.assert_allclose(estimate.value, estimate.plug_in - estimate.bias)


def test_miller_madow_formulas():
    p, q = np.array([6, 3, 1, 0]), np.array([4, 4, 3, 1])
    entropy = samples.divergence_from_counts(p, divergence="entropy", bias_correction="miller-madow")
    assert entropy.bias == pytest.approx(-(3 - 1) / 20)
    kl = samples.divergence_from_counts(p, q, bias_correction="miller-madow")
    ratio = sum((a / 10) / (b / 12) for a, b in zip(p, q, strict=True))
    assert kl.bias == pytest.approx((3 - 1) / 20 + (ratio - 1) / 24)
    known = samples.divergence_from_counts(p, q, bias_correction="miller-madow", q_known=True)
    assert known.bias == pytest.approx((3 - 1) / 20)


@pytest.mark.parametrize("divergence", ["kl", "js", "psi", "entropy"])
def test_jackknife_by_leaving_each_count_out(divergence):
    p, q = np.array([6, 3, 2, 2]), np.array([4, 5, 3, 2])

    def value(a, b):
        args = (a,) if divergence == "entropy" else (a, b)
        return samples.divergence_from_counts(*args, divergence=divergence).value

    bias = 0.0
    for side, counts in enumerate((p, q)[: 1 if divergence == "entropy" else 2]):
        left_out = []
        for i, count in enumerate(counts):
            reduced = [p.copy(), q.copy()]
            reduced[side][i] -= 1
            left_out += [value(*reduced)] * count if count else []
        bias += (counts.sum() - 1) * (np.mean(left_out) - value(p, q))
    args = (p,) if divergence == "entropy" else (p, q)
    ours = samples.divergence_from_counts(*args, divergence=divergence, bias_correction="jackknife")
    assert ours.bias == pytest.approx(bias, rel=1e-10)
    if divergence == "kl":
        assert np.isnan(samples.divergence_from_counts([3, 3], [5, 1], bias_correction="jackknife").value)


@pytest.mark.parametrize("divergence", ["kl", "hellinger"])
def test_bootstrap_interval_covers(divergence):
    """90 % intervals of 300 samples: the truth inside between 84 and 96 % of the time."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.3, 0.4])
    truth = samples.divergence_from_counts(p, q, divergence).value
    rng = RNG(3)
    p_counts, q_counts = rng.multinomial(400, p, 300), rng.multinomial(500, q, 300)
    options = {"resamples": 400, "confidence": 0.9}
    estimate = samples.divergence_from_counts(p_counts, q_counts, divergence, rng=4, **options)
    inside = (estimate.low <= truth) & (truth <= estimate.high)
    assert 0.84 < inside.mean() < 0.96
    again = samples.divergence_from_counts(p_counts, q_counts, divergence, rng=4, **options)
    np.testing.assert_array_equal(again.low, estimate.low)
    percentile = samples.divergence_from_counts(p_counts, q_counts, divergence, rng=4, interval="percentile", **options)
    np.testing.assert_allclose(percentile.low, 2 * estimate.plug_in - estimate.high, rtol=1e-12)


def test_bootstrap_counts_infinite_replicates():
    estimate = samples.divergence_from_counts([5, 5], [9, 1], resamples=500, interval="percentile", rng=0)
    assert 100 < estimate.infinite_resamples < 260  # an empty cell: (9/10)^10 = 35 %
    assert estimate.high == np.inf and np.isfinite(estimate.low)


def test_counts_errors():
    estimate = samples.divergence_from_counts
    for args, options, message in [
        (([1, 2], [1, 2, 3]), {}, r"`q_counts` has shape \(3,\), expected \(..., 2\) to match `p_counts`"),
        (([1, 2],), {}, "`q_counts` is None, expected counts for 'kl'"),
        (([1, 2], [1, 2], "entropy"), {}, "expected None for 'entropy'"),
        (([1, 2], [1, 2], "wasserstein"), {}, "`divergence` is 'wasserstein', expected one of kl"),
        (([1, 2], [1, 2]), {"bias_correction": "chao"}, "`bias_correction` is 'chao'"),
        (([1, 2], [1, 2], "hellinger"), {"bias_correction": "jackknife"}, "expected None for 'hellinger'"),
        (([1, 2], [1, 2]), {"bias_correction": "jackknife", "smoothing": "perks"}, "was given with `smoothing`"),
        (([1, 2], [1, 2]), {"base": 1}, "`base` is 1"),
        (([1, 2.5], [1, 2]), {"resamples": 9}, "`p_counts` has fractions"),
        (([1, 2], [1, 2]), {"resamples": 9, "interval": "bca"}, "`interval` is 'bca'"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimate(*args, **options)


def test_likelihood_identity():
    """-log-likelihood/N = H(p̂) + KL(p̂‖q), and the counts themselves maximise the likelihood."""
    counts, q = RNG(5).integers(0, 30, (4, 6)), RNG(6).random((4, 6))
    parts = samples.likelihood_parts(counts, q)
    model = q / q.sum(1, keepdims=True)
    log_likelihood = (counts * np.log(model)).sum(1)
    np.testing.assert_allclose(parts.log_likelihood, log_likelihood, rtol=1e-14)
    np.testing.assert_allclose(parts.cross_entropy, -log_likelihood / counts.sum(1), rtol=1e-14)
    np.testing.assert_allclose(parts.cross_entropy, parts.entropy + parts.kl_divergence, rtol=1e-13)
    best = samples.likelihood_parts(counts, counts)
    assert (best.kl_divergence == 0).all() and (best.log_likelihood > log_likelihood).all()
    assert samples.likelihood_parts([1, 1], [1, 0]).cross_entropy == np.inf


# ---------------------------------------------------------------------------------------- nearest neighbours


def distances(a, b):
    return np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(-1))


def brute_two_sample(x, y, k, method):
    """Wang, Kulkarni & Verdú, equations 5 and 29, from the full matrices of distances."""
    n, d = x.shape
    total = 0.0
    for i in range(n):
        to_x = np.sort(np.delete(distances(x[i : i + 1], x)[0], i))
        to_y = np.sort(distances(x[i : i + 1], y)[0])
        rho, nu = to_x[k - 1], to_y[k - 1]
        if method == "nearest":
            total += d * np.log(nu / rho)
            continue
        radius = max(rho, nu)
        rank_x, rank_y = (to_x <= radius).sum(), (to_y <= radius).sum()
        total += d * np.log(to_y[rank_y - 1] / to_x[rank_x - 1]) + digamma(rank_x) - digamma(rank_y)
    return total / n + np.log(len(y) / (n - 1))


@pytest.mark.parametrize("method", ["nearest", "bias-reduced"])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (1, 4), (3, 2)])
def test_neighbours_by_brute_force(method, d, k):
    x, y = RNG(7).normal(size=(60, d)), RNG(8).normal(0.5, 1.5, size=(80, d))
    ours = samples.knn_kl_divergence(x, y, k, method=method)
    assert ours.value == pytest.approx(brute_two_sample(x, y, k, method), rel=1e-11)
    assert samples.knn_kl_divergence(x, y, k, method=method, num_threads=1) == ours
    in_bits = samples.knn_kl_divergence(x, y, k, method=method, base=2)
    assert in_bits.value == pytest.approx(ours.value / np.log(2))


@pytest.mark.parametrize("method", ["nearest", "bias-reduced"])
def test_neighbours_find_the_truth(method):
    """n = 10,000: within 0.03 in one dimension, 0.1 in two."""
    rng = RNG(9)
    x, y = rng.normal(0, 1, 10_000), rng.normal(1, 2, 10_000)
    truth = np.log(2) + (1 + 1) / 8 - 0.5
    assert samples.knn_kl_divergence(x, y, 5, method=method).value == pytest.approx(truth, abs=0.03)
    covariance = np.array([[1, 0.5], [0.5, 1]])
    x2 = rng.multivariate_normal([1, 0], covariance, 10_000)
    y2 = np.sqrt(2) * rng.normal(size=(10_000, 2))
    truth2 = 0.5 * (np.trace(covariance) / 2 + 1 / 2 - 2 + np.log(4 / 0.75))
    assert samples.knn_kl_divergence(x2, y2, 5, method=method).value == pytest.approx(truth2, abs=0.1)


def test_negative_estimates_are_reported():
    values = []
    for seed in range(20):
        x, y = RNG(seed).normal(size=(2, 200))
        values.append(samples.knn_kl_divergence(x, y, 3).value)
    assert min(values) < 0 < max(values) and abs(np.mean(values)) < 0.05


def test_known_density():
    x = RNG(10).normal(size=(4000, 2))
    log_q = stats.multivariate_normal([2.0, 0.0]).logpdf
    ours = samples.knn_kl_divergence_from_density(x, log_q)
    assert ours.value == pytest.approx(KL_OF_SHIFT_2, abs=0.1)
    assert samples.knn_kl_divergence_from_density(x, log_q(x)).value == ours.value
    few = RNG(11).normal(size=(40, 2))
    rho = np.sort(distances(few, few), axis=1)[:, 3]
    log_p = digamma(3) - np.log(39) - np.log(np.pi) - 2 * np.log(rho)
    brute = np.mean(log_p - log_q(few))
    assert samples.knn_kl_divergence_from_density(few, log_q, 3).value == pytest.approx(brute, rel=1e-12)
    with pytest.raises(ValueError, match=r"`log_q` has shape \(3,\), expected \(40,\)"):
        samples.knn_kl_divergence_from_density(few, np.zeros(3))


def test_repeated_points():
    x, y = np.round(RNG(12).normal(size=(2, 500)), 1)
    with pytest.raises(ValueError, match="points have a k-th neighbour in `x` at distance 0: repeated values"):
        samples.knn_kl_divergence(x, y, 3)
    rng = RNG(12)
    rounded = np.round(rng.normal(size=(2, 3000)), 2)
    x, y = rounded + rng.uniform(-0.005, 0.005, rounded.shape)
    assert samples.knn_kl_divergence(x, y + 2, 3).value == pytest.approx(KL_OF_SHIFT_2, abs=0.2)
    assert np.isfinite(samples.knn_kl_divergence(rounded[0], rounded[1], 100).value)


@pytest.mark.parametrize("case", interval_coverage.NEIGHBOURS[::3])
def test_subsampling_intervals(case):
    """95 % intervals of 20 samples hold the truth at least 17 times (fewer are seen once in 60 by chance)."""
    assert interval_coverage.neighbour_coverage(case, 20, resamples=16) >= 17 / 20


def test_the_bias_is_said():
    """N(0, I) and N(μ, I), KL = 1.25, 500 points: both methods fall short, "bias-reduced" by more in 10 dimensions."""
    found = {}
    for method in ("nearest", "bias-reduced"):
        for d in (2, 10):
            values = []
            for seed in range(5):
                x, y, truth = interval_coverage.samples(("shift", d, method), seed)
                values.append(samples.knn_kl_divergence(x, y, method=method, num_threads=1).value)
            found[method, d] = np.mean(values)
    assert truth == 1.25
    assert found["nearest", 10] == pytest.approx(0.81, abs=0.1)
    assert found["bias-reduced", 10] == pytest.approx(0.69, abs=0.1)
    x, y, _ = interval_coverage.samples(("shift", 2, "nearest"), 0)
    with pytest.warns(UserWarning, match="neighbours are|bias is larger"):
        ours = samples.knn_kl_divergence(x, y, resamples=40, rng=0)
    assert -0.6 < ours.bias < -0.05
    assert ours.low < ours.value < 1.25 < ours.high


def test_far_neighbours_are_warned_of():
    x, y, _ = interval_coverage.samples(("shift", 10, "nearest"), 0)
    with pytest.warns(UserWarning, match=r"with 500 points in `x`, about 8\.\d dimensions locally and k = 5"):
        ours = samples.knn_kl_divergence(x, y, resamples=10, rng=0)
    assert (ours.low, ours.high, ours.bias) == (None, None, None)
    assert ours.caution.endswith("too far for an interval")
    assert 7 < ours.dimension <= 10
    with pytest.warns(UserWarning, match=r"neighbours are 0\.6 of"):
        samples.knn_kl_divergence_from_density(x, np.zeros(500))
    near = samples.knn_kl_divergence(RNG(0).normal(size=4000), RNG(1).normal(size=4000))
    assert (near.caution, near.low) == ("", None)
    assert near.dimension == pytest.approx(1, abs=0.05)
    with pytest.warns(UserWarning, match="bias is larger than the standard error"):
        samples.knn_kl_divergence(RNG(0).normal(size=600), 1.5 + RNG(1).normal(size=600), resamples=30, rng=0)


def test_local_dimension_of_a_surface():
    """A plane rolled up in five coordinates has two dimensions; of whole ones there are as many as coordinates."""
    flat = RNG(0).uniform(size=(3000, 2))
    rolled = np.column_stack([np.cos(3 * flat[:, 0]), np.sin(3 * flat[:, 0]), flat[:, 1], 2 * flat[:, 1], flat[:, 1]])
    assert samples.knn_kl_divergence(rolled, rolled[::-1] + 1e-3).dimension == pytest.approx(2, abs=0.15)


def test_neighbour_errors():
    x, y = RNG(13).normal(size=(2, 20))
    for args, options, message in [
        ((x, y, 20), {}, "`k` is 20 with 20 points in `x`"),
        ((x, y, 0), {}, "`k` is 0"),
        ((x, y[:, None].repeat(2, 1)), {}, "`y` has 2 coordinates, expected 1 to match `x`"),
        ((x, np.full(20, np.nan)), {}, "`y` holds NaN or infinity"),
        ((x, y), {"method": "kde"}, "`method` is 'kde', expected one of nearest, bias-reduced"),
        ((x, np.zeros((2, 2, 2))), {}, r"`y` has shape \(2, 2, 2\), expected \(n, d\) or \(n,\)"),
        ((x, y), {"resamples": 5, "confidence": 1.0}, "`confidence` is 1.0"),
        ((x, y), {"resamples": 1}, "`resamples` is 1 with 20 points in `x`, 20 in `y`, k = 5: expected 0, or 2"),
        ((x, y, 5), {"resamples": 5}, "with 24 points in `x` and 20 in `y`"),
    ]:
        with pytest.raises(ValueError, match=message):
            samples.knn_kl_divergence(*args, **options)


# ---------------------------------------------------------------------------------------- mutual information


def test_mutual_information_of_tables():
    table = RNG(14).integers(0, 40, (5, 4, 6))
    joint = table / table.sum((1, 2), keepdims=True)
    entropies = [stats.entropy(part, axis=1) for part in (joint.sum(2), joint.sum(1), joint.reshape(5, -1))]
    truth = entropies[0] + entropies[1] - entropies[2]
    np.testing.assert_allclose(samples.mutual_information(table), truth, rtol=1e-11)
    np.testing.assert_allclose(samples.mutual_information(table, base=2), truth / np.log(2), rtol=1e-11)
    g = stats.chi2_contingency(table[0], correction=False, lambda_="log-likelihood").statistic
    assert 2 * table[0].sum() * samples.mutual_information(table)[0] == pytest.approx(g, rel=1e-11)
    independent = np.outer([1, 2, 3], [3, 5, 7, 11])
    assert samples.mutual_information(independent) == 0.0
    corrected = samples.mutual_information(independent, bias_correction="miller-madow")
    assert corrected == pytest.approx(-(12 - 3 - 4 + 1) / (2 * 6 * 26))
    assert np.isnan(samples.mutual_information(np.zeros((2, 2))))


@given(st.integers(0, 10**6), st.floats(1e-9, 1e3))
def test_mutual_information_is_never_negative(seed, scale):
    rng = RNG(seed)
    table = np.outer(rng.random(5), rng.random(4)) * scale
    assert 0 <= samples.mutual_information(table) < 1e-29


def brute_ksg(x, y, k, variant):
    """Kraskov, Stögbauer & Grassberger, equations 8 and 9, from the full matrices of distances."""
    n = len(x)
    in_x = np.abs(x[:, None] - x[None]).max(-1)
    in_y = np.abs(y[:, None] - y[None]).max(-1)
    total = 0.0
    for i in range(n):
        joint = np.maximum(in_x[i], in_y[i])
        joint[i] = np.inf
        neighbours = np.argsort(joint)[:k]
        others = np.arange(n) != i
        if variant == 1:
            radius = joint[neighbours[-1]]
            total += sum(digamma((d[i][others] < radius).sum() + 1) for d in (in_x, in_y))
        else:
            total += sum(digamma((d[i][others] <= d[i][neighbours].max()).sum()) for d in (in_x, in_y))
    return digamma(k) + digamma(n) - (1 / k if variant == 2 else 0) - total / n


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("d", [1, 2])
def test_ksg_by_brute_force_and_for_gaussians(variant, d):
    rng = RNG(15)
    x, y = rng.normal(size=(2, 80, d))
    y = y + x
    ours = samples.knn_mutual_information(x, y, 3, variant=variant)
    assert ours == pytest.approx(brute_ksg(x, y, 3, variant), rel=1e-11)
    for correlation in (0.0, 0.6, 0.9):
        a, noise = rng.normal(size=(2, 4000))
        b = correlation * a + np.sqrt(1 - correlation**2) * noise
        truth = -0.5 * np.log1p(-(correlation**2))
        assert samples.knn_mutual_information(a, b, variant=variant) == pytest.approx(truth, abs=0.05)


def test_ksg_errors():
    x, y = RNG(16).normal(size=(2, 30))
    with pytest.raises(ValueError, match="`y` has 29 points, expected 30 to match `x`"):
        samples.knn_mutual_information(x, y[1:])
    with pytest.raises(ValueError, match="pairs have 3 others equal to them: repeated values have no density"):
        samples.knn_mutual_information(np.round(x), np.round(y))
    with pytest.raises(ValueError, match="`variant` is 3, expected 1 or 2"):
        samples.knn_mutual_information(x, y, variant=3)


# ------------------------------------------------------------------------------------------------ transport

few_numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(few_numbers, few_numbers, st.booleans(), st.integers(0, 1000))
def test_wasserstein_against_scipy(x, y, weighted, seed):
    weights = [RNG(seed).random(len(v)) + 0.01 if weighted else None for v in (x, y)]
    ours = samples.wasserstein_distance(x, y, *weights)
    assert ours == pytest.approx(stats.wasserstein_distance(x, y, *weights), rel=1e-9, abs=1e-9)
    assert samples.wasserstein_distance(x, x, weights[0], weights[0]) == 0.0


def test_wasserstein_edges_and_errors():
    distance = samples.wasserstein_distance
    assert np.isnan(distance([1.0, np.nan], [1.0]))
    assert distance([0.0, np.inf], [0.0, 1.0]) == np.inf
    assert distance([0.0, np.inf], [1.0, np.inf]) == 0.5
    assert distance([3, 1], [1, 3], [1, 3], [3, 1]) == 0.0
    with pytest.raises(ValueError, match=r"`x` has shape \(0,\), expected \(n,\) with at least one value"):
        distance([], [1.0])
    with pytest.raises(ValueError, match="`y_weights` are all zero"):
        distance([1.0], [1.0], None, [0.0])
    with pytest.raises(ValueError, match=r"`x_weights` has shape \(2,\), expected \(1,\) to match `x`"):
        distance([1.0], [1.0], [1.0, 1.0])


def test_wasserstein_of_histograms():
    rng = RNG(17)
    p, q = rng.random((2, 3, 5))
    points = np.sort(rng.normal(size=5))
    for row in range(3):
        truth = stats.wasserstein_distance(points, points, p[row], q[row])
        assert samples.wasserstein_distance_histograms(p[row], q[row], points) == pytest.approx(truth, rel=1e-12)
    edges = np.sort(rng.normal(size=6))
    evenly = samples.wasserstein_distance_histograms(p, q, edges, within="even")
    for row, ours in enumerate(evenly):
        cumulated = [np.concatenate([[0], np.cumsum(v[row]) / v[row].sum()]) for v in (p, q)]
        truth = sum(
            integrate.quad(
                lambda t, c=cumulated: abs(np.interp(t, edges, c[0]) - np.interp(t, edges, c[1])), a, b, limit=200
            )[0]
            for a, b in itertools.pairwise(edges)
        )
        assert ours == pytest.approx(truth, rel=1e-7)
    assert np.isnan(samples.wasserstein_distance_histograms([0, 0], [1, 1], [0, 1]))
    with pytest.raises(ValueError, match=r"`positions` has shape \(5,\), expected \(6,\) rising numbers"):
        samples.wasserstein_distance_histograms(p, q, points, within="even")
    with pytest.raises(ValueError, match="`within` is 'linear'"):
        samples.wasserstein_distance_histograms(p, q, points, within="linear")


@pytest.mark.parametrize("base", [1, "2", True, 10**400, -1.0], ids=lambda base: str(base)[:6])
def test_bases_are_checked(base):
    """base=1 divided by zero, "2" was a number."""
    x = np.random.default_rng(0).normal(size=(30, 1))
    for call in (
        lambda: kb.knn_kl_divergence(x, x + 1.5, base=base),
        lambda: kb.knn_kl_divergence_from_density(x, np.zeros(30), base=base),
        lambda: kb.knn_mutual_information(x, x[::-1], base=base),
        lambda: kb.mutual_information([[3, 1], [1, 3]], base=base),
        lambda: kb.likelihood_parts([1, 2], [1, 1], base=base),
    ):
        with pytest.raises((TypeError, ValueError), match="`base` is"):
            call()


def test_masked_samples_and_endless_counts_are_refused():
    masked = np.ma.masked_array(np.arange(9.0), np.arange(9) % 2)
    with pytest.raises(TypeError, match="`x` is a masked array"):
        kb.wasserstein_distance(masked, masked.data)
    with pytest.raises(TypeError, match="`counts` is a masked array"):
        kb.mutual_information(masked.reshape(3, 3))
    with pytest.raises(TypeError, match="`x` is a masked array"):
        kb.knn_mutual_information(masked, masked.data)
    with pytest.raises(ValueError, match=r"`counts` holds 1.7e\+308, expected counts"):
        kb.mutual_information(np.full((2, 2), 1.7e308))


def test_seeds_are_whole_numbers():
    """NumPy's own default_rng takes arrays, and a matrix ends the process."""
    x = np.random.default_rng(0).normal(size=(30, 1))
    for seed in (np.array([[1, 2]]), 0.5, "1", -1):
        with pytest.raises((TypeError, ValueError), match="`rng` is"):
            kb.knn_kl_divergence(x, x + 1.5, resamples=2, rng=seed)
        with pytest.raises((TypeError, ValueError), match="`seed` is"):
            kb.compare(x, x, given="logits").summary(np.arange(30) % 3).kl.group_interval(seed=seed)
