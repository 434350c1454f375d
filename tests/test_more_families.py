"""The further families against 60 digits and identities; distributions of SciPy and torch as arguments."""

import itertools

import mpmath
import numpy as np
import pytest
from scipy import stats

from kullback.closed_form import (
    ContinuousBernoulli,
    DiagonalNormal,
    Exponential,
    Gamma,
    Geometric,
    HalfNormal,
    Independent,
    InverseGamma,
    LogNormal,
    LowRankNormal,
    MultivariateNormal,
    Normal,
    Transformed,
    Uniform,
    closed_form_kl,
)

PROBS = (0.5, 0.3, 0.3 + 1e-8, 0.5 + 1e-7, 0.9, 0.999, 1 - 1e-12, 1e-10, 1e-20, 1.0000001e-20, 1e-35, 1e-300, 1e-299)


def exact_continuous_bernoulli(p, q):
    with mpmath.workdps(60):
        x, y = (mpmath.log(mpmath.mpf(v) / (1 - mpmath.mpf(v))) for v in (p, q))
        mean = mpmath.mpf(1) / 2 if x == 0 else 1 / (1 - mpmath.exp(-x)) - 1 / x
        log_z = [mpmath.log((mpmath.exp(t) - 1) / t) if t else mpmath.mpf(0) for t in (x, y)]
        return float(log_z[1] - log_z[0] - mean * (y - x))


def test_continuous_bernoulli_to_its_last_digits():
    for p, q in itertools.product(PROBS, PROBS):
        got = float(closed_form_kl(ContinuousBernoulli(p), ContinuousBernoulli(q)))
        assert got == pytest.approx(exact_continuous_bernoulli(p, q), rel=1e-12, abs=0), (p, q)


def test_continuous_bernoulli_turned_round_and_uniform():
    for p, q in itertools.product((0.1, 0.4, 0.7), (0.25, 0.5, 0.875)):
        one = closed_form_kl(ContinuousBernoulli(p), ContinuousBernoulli(q))
        other = closed_form_kl(ContinuousBernoulli(1 - p), ContinuousBernoulli(1 - q))
        np.testing.assert_allclose(one, other, rtol=1e-12)
    half = ContinuousBernoulli(0.5)
    assert closed_form_kl(Uniform(0.0, 1.0), half) == 0 and closed_form_kl(half, Uniform(0.0, 1.0)) == 0
    np.testing.assert_allclose(closed_form_kl(half, Uniform(-1.0, 3.0)), np.log(4), rtol=1e-14)


def test_half_normal_and_inverse_gamma_close_up():
    """HalfNormal pairs are those of Normal about 0, inverse gammas those of gammas, digit by digit."""
    scale = np.array([1.0, 1 + 1e-8, 3.0])
    np.testing.assert_array_equal(
        closed_form_kl(HalfNormal(1.0), HalfNormal(scale)), closed_form_kl(Normal(0.0, 1.0), Normal(0.0, scale))
    )
    np.testing.assert_array_equal(
        closed_form_kl(InverseGamma(2.0, 1.0), InverseGamma(2.5, scale)),
        closed_form_kl(Gamma(2.0, 1.0), Gamma(2.5, scale)),
    )


def test_low_rank_normals_are_normals():
    rng = np.random.default_rng(0)
    a, b = (LowRankNormal(rng.normal(size=(2, 4)), rng.normal(size=(2, 4, 2)), rng.uniform(1, 2, 4)) for _ in range(2))
    full = [
        MultivariateNormal(x.mean, cov=x.factor @ x.factor.swapaxes(-1, -2) + x.diagonal * np.eye(4)) for x in (a, b)
    ]
    expected = closed_form_kl(*full)
    for pair in ((a, b), (full[0], b), (a, full[1])):
        np.testing.assert_allclose(closed_form_kl(*pair), expected, rtol=1e-12)
    plain = DiagonalNormal(np.zeros(4), np.ones(4))
    np.testing.assert_allclose(closed_form_kl(plain, a), closed_form_kl(plain, full[0]), rtol=1e-12)
    np.testing.assert_allclose(closed_form_kl(a, plain), closed_form_kl(full[0], plain), rtol=1e-12)
    assert (closed_form_kl(a, a) == 0).all()


def test_products_and_images():
    p, q = Normal([[0.0, 1.0], [2.0, 3.0]], 1.0), Normal([0.0, 0.0], 2.0)
    np.testing.assert_allclose(closed_form_kl(Independent(p), Independent(q)), closed_form_kl(p, q).sum(-1), rtol=1e-15)
    assert Independent(p).batch_shape == (2,) and Independent(p).event_shape == (2,)
    np.testing.assert_array_equal(
        closed_form_kl(Transformed(p, "exp"), Transformed(q, "exp")),
        closed_form_kl(LogNormal(p.loc, p.scale), LogNormal(q.loc, q.scale)),
    )
    with pytest.raises(ValueError, match="`q` has another transform than `p`"):
        closed_form_kl(Transformed(p, "exp"), Transformed(q, "log"))
    with pytest.raises(ValueError, match="`q` has 3 components, expected 2 to match `p`"):
        closed_form_kl(Independent(p), Independent(Normal(np.zeros(3), 1.0)))
    with pytest.raises(ValueError, match=r"`Independent\.axes` is 3, expected at most 2"):
        Independent(p, 3)
    with pytest.raises(TypeError, match=r"`Transformed\.base` is 1\.0"):
        Transformed(1.0, "exp")
    with pytest.raises(ValueError, match="expected 0 < prob < 1"):
        ContinuousBernoulli(1.0)
    with pytest.raises(ValueError, match="`LowRankNormal` has `factor`"):
        LowRankNormal([0.0, 1.0], [[1.0]], [1.0, 1.0])


FROZEN = {
    "norm": (stats.norm(0.3, 1.2), stats.norm(-1, 2)),
    "expon": (stats.expon(scale=2), stats.expon()),
    "gamma": (stats.gamma(2, scale=0.5), stats.gamma(a=3)),
    "beta": (stats.beta(2, 3), stats.beta(1, b=1.5)),
    "lognorm": (stats.lognorm(0.5, scale=2), stats.lognorm(s=0.7)),
    "weibull_min": (stats.weibull_min(1.5, scale=2), stats.weibull_min(2)),
    "pareto": (stats.pareto(3, scale=2), stats.pareto(2)),
    "uniform": (stats.uniform(1, 2), stats.uniform(0.5, 4)),
    "laplace": (stats.laplace(0.5, 2), stats.laplace()),
    "gumbel_r": (stats.gumbel_r(0.5, 2), stats.gumbel_r()),
    "cauchy": (stats.cauchy(0.5, 2), stats.cauchy()),
    "halfnorm": (stats.halfnorm(scale=2), stats.halfnorm()),
    "invgamma": (stats.invgamma(3, scale=2), stats.invgamma(2)),
    "vonmises": (stats.vonmises(2, 0.3), stats.vonmises(1)),
    "binom": (stats.binom(7, 0.3), stats.binom(7, 0.6)),
    "bernoulli": (stats.bernoulli(0.3), stats.bernoulli(0.6)),
    "poisson": (stats.poisson(3), stats.poisson(mu=5)),
    "geom": (stats.geom(0.3, -1), stats.geom(0.1, loc=-1)),
}


@pytest.mark.parametrize("name", FROZEN)
def test_distributions_of_scipy(name):
    """Against SciPy's own densities: parameters are read as SciPy means them."""
    p, q = FROZEN[name]
    if hasattr(p.dist, "logpmf"):
        k = np.arange(-1, 500)
        log_p, log_q = p.logpmf(k), q.logpmf(k)
        live = log_p > -700
        expected = (np.exp(log_p[live]) * (log_p[live] - log_q[live])).sum()
    else:
        x = p.ppf((np.arange(4000) + 0.5) / 4000)
        expected = (p.logpdf(x) - q.logpdf(x)).mean()
    assert float(closed_form_kl(p, q)) == pytest.approx(expected, rel=2e-2 if not hasattr(p.dist, "logpmf") else 1e-9)


def test_scipys_vectors_and_refusals():
    a, b = stats.multivariate_normal([0, 0], [[1, 0.5], [0.5, 2]]), stats.multivariate_normal([1, 0])
    expected = closed_form_kl(MultivariateNormal([0, 0], [[1, 0.5], [0.5, 2]]), MultivariateNormal([1, 0], np.eye(2)))
    np.testing.assert_allclose(closed_form_kl(a, b), expected, rtol=1e-14)
    assert closed_form_kl(stats.dirichlet([1, 2]), stats.dirichlet([2, 2])) > 0
    assert closed_form_kl(stats.expon(), Exponential(2.0)) == closed_form_kl(Exponential(1.0), Exponential(2.0))
    with pytest.raises(ValueError, match="SciPy's expon has `loc` 1, expected 0"):
        closed_form_kl(stats.expon(1), stats.expon(1))
    with pytest.raises(ValueError, match="SciPy's geom has `loc` 0, expected -1"):
        closed_form_kl(stats.geom(0.5), Geometric(0.5))
    with pytest.raises(ValueError, match="SciPy's beta has `scale` 2, expected 1"):
        closed_form_kl(stats.beta(1, 2, scale=2), stats.beta(1, 2))
    with pytest.raises(TypeError, match="SciPy's t has no closed form here"):
        closed_form_kl(stats.t(3), stats.norm())
