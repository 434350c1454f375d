"""KL of Gaussian mixtures: quadrature against closed forms and SciPy, Monte Carlo against both."""

import numpy as np
import pytest
from scipy import integrate, stats

from kullback.closed_form import (
    DiagonalNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    closed_form_kl,
    gaussian_kl,
    mixture_kl,
)

BIMODAL = Mixture([0.5, 0.5], Normal([-4.0, 4.0], 1.0))
SKEWED = Mixture([1.0, 3.0], Normal([-1.0, 1.0], [0.3, 1.5]))


def density(mixture):
    weights = mixture.weights / mixture.weights.sum()
    loc, scale = np.broadcast_arrays(mixture.components.loc, mixture.components.scale)
    parts = [(w, stats.norm(m, s)) for w, m, s in zip(weights, loc, scale, strict=True)]
    return lambda x: sum(w * part.pdf(x) for w, part in parts)


def test_density_is_the_weighted_sum():
    x = np.linspace(-6, 6, 50).reshape(5, 10)
    np.testing.assert_allclose(np.exp(SKEWED.log_density(x)), density(SKEWED)(x), rtol=1e-13)
    full = Mixture([1, 1], MultivariateNormal([[0.0, 0.0], [1.0, 2.0]], [[2.0, 0.5], [0.5, 1.0]]))
    point = np.array([[0.3, 0.4], [1.0, -1.0]])
    cov = [[2.0, 0.5], [0.5, 1.0]]
    want = 0.5 * stats.multivariate_normal([0, 0], cov).pdf(point)
    want += 0.5 * stats.multivariate_normal([1, 2], cov).pdf(point)
    np.testing.assert_allclose(np.exp(full.log_density(point)), want, rtol=1e-13)


def test_quadrature_of_single_gaussians_is_the_closed_form():
    for other in (
        Normal(1.0, 2.0),
        Normal(-3.0, 0.2),
        Normal(0.0, 1 + 1e-6),
        Normal(1e-7, 1.0),
        Normal(5, 100),
    ):
        value, error = mixture_kl(Normal(0.0, 1.0), other)
        want = float(closed_form_kl(Normal(0.0, 1.0), other))
        assert value == pytest.approx(want, rel=1e-12)
        assert error <= 1e-10 * want
    assert mixture_kl(BIMODAL, BIMODAL).value == 0


@pytest.mark.parametrize(("p", "q"), [(BIMODAL, SKEWED), (SKEWED, BIMODAL), (Normal(0, 2), SKEWED)])
def test_quadrature_against_scipy(p, q):
    source = density(p) if isinstance(p, Mixture) else stats.norm(0, 2).pdf
    target = density(q)
    want, _ = integrate.quad(
        lambda x: source(x) * np.log(source(x) / target(x)), -25, 25, points=[-4, -1, 0, 1, 4], limit=500
    )
    assert mixture_kl(p, q).value == pytest.approx(want, rel=1e-8)


def test_two_modes_against_one_gaussian():
    forward = mixture_kl(BIMODAL, Normal(0.0, np.sqrt(17)))
    assert forward.value == pytest.approx(0.7235530265, abs=1e-10)
    reverse = mixture_kl(Normal(3.99960174, 1.00079627), BIMODAL)
    assert reverse.value == pytest.approx(0.6930529417, abs=1e-10)
    assert mixture_kl(BIMODAL, SKEWED, base=2).value == pytest.approx(mixture_kl(BIMODAL, SKEWED).value / np.log(2))


@pytest.mark.parametrize(
    ("p", "q", "want"),
    [
        (Normal(0.0, 1.0), Normal(1.0, 2.0), float(gaussian_kl(0, 1, 1, 2))),
        (Normal(0.0, 1.0), Normal(0.01, 1.0), 5e-5),
        (SKEWED, BIMODAL, mixture_kl(SKEWED, BIMODAL).value),
        (DiagonalNormal([0.0, 1.0], [1.0, 2.0]), DiagonalNormal([0.5, 1.0], [1.0, 1.5]), None),
        (MultivariateNormal([0.0, 1.0], np.eye(2)), MultivariateNormal([0.0, 0.0], [[2, 1], [1, 2]]), None),
    ],
)
def test_monte_carlo_within_its_standard_error(p, q, want):
    want = float(closed_form_kl(p, q)) if want is None else want
    scores = []
    for seed in range(20):
        value, error = mixture_kl(p, q, method="monte_carlo", samples=4000, seed=seed)
        scores.append((value - want) / error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(20)
    assert 0.4 < np.std(scores) < 1.8


def test_noise_shrinks_with_the_divergence():
    # The plain mean of ln(p/q) has a standard error of 0.01 / sqrt(n).
    value, error = mixture_kl(Normal(0.0, 1.0), Normal(0.01, 1.0), method="monte_carlo", samples=10_000)
    assert error < 0.01 * 0.01 / np.sqrt(10_000)
    assert value == pytest.approx(5e-5, abs=5 * error)


def test_monte_carlo_when_one_density_vanishes_next_to_the_other():
    value, error = mixture_kl(Normal(0.0, 1.0), Normal(1e4, 1.0), method="monte_carlo", samples=1000)
    assert value == pytest.approx(5e7, rel=1e-3) and error < 1e-3 * value
    assert mixture_kl(BIMODAL, BIMODAL, method="monte_carlo") == (0, 0)


def test_samples_follow_the_mixture():
    draws = SKEWED.sample(20_000, np.random.default_rng(0))
    assert draws.mean() == pytest.approx(0.5, abs=0.05)
    assert (
        stats.kstest(draws, lambda x: 0.25 * stats.norm(-1, 0.3).cdf(x) + 0.75 * stats.norm(1, 1.5).cdf(x)).pvalue
        > 1e-3
    )
    full = Mixture([0.0, 1.0], MultivariateNormal([[9.0, 9.0], [1.0, 2.0]], scale_tril=[[1.0, 0.0], [2.0, 0.5]]))
    draws = full.sample(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(draws.T), [[1.0, 2.0], [2.0, 4.25]], rtol=0.05)


def test_bad_mixtures_are_named():
    with pytest.raises(ValueError, match=r"`Mixture.components` has batch shape \(3,\), expected \(2,\)"):
        Mixture([1, 1], Normal(np.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r"`Mixture.weights` is -1.0 at index \(1,\)"):
        Mixture([1, -1], Normal(np.zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"`Mixture.weights` has shape \(2,\), expected \(K,\) with some mass"):
        Mixture([0, 0], Normal(np.zeros(2), 1.0))
    with pytest.raises(TypeError, match=r"`Mixture.components` is float"):
        Mixture([1.0], 3.0)
    with pytest.raises(TypeError, match=r"`q` is 3, expected a Mixture or one Gaussian"):
        mixture_kl(BIMODAL, 3)
    with pytest.raises(ValueError, match="`method`"):
        mixture_kl(BIMODAL, SKEWED, method="guess")
    with pytest.raises(ValueError, match=r"`samples` is 10,"):
        mixture_kl(BIMODAL, SKEWED, method="monte_carlo", samples=10)
    plane = DiagonalNormal([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="quadrature needs"):
        mixture_kl(plane, plane)
    with pytest.raises(ValueError, match="`q` has 2 dimensions, expected 1 to match `p`"):
        mixture_kl(BIMODAL, plane, method="monte_carlo")
