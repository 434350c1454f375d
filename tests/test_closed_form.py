"""Closed forms of all pairs against numerical integration, exact sums and Monte Carlo."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

from kullback.closed_form import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    ContinuousBernoulli,
    DiagonalNormal,
    Dirichlet,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    HalfNormal,
    Independent,
    InverseGamma,
    Laplace,
    LogNormal,
    LowRankNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    Poisson,
    Transformed,
    Uniform,
    VonMises,
    Weibull,
    closed_form_kl,
    registered_pairs,
)

SAMPLES = {
    Normal: [Normal(0.3, 1.2), Normal(-1, 0.4)],
    Laplace: [Laplace(0.5, 0.7), Laplace(-0.3, 1.5)],
    Gumbel: [Gumbel(0.2, 1.1), Gumbel(-1.0, 2.5)],
    Cauchy: [Cauchy(0.1, 1.0), Cauchy(1.0, 2.0)],
    Exponential: [Exponential(0.8), Exponential(3.0)],
    Gamma: [Gamma(2.5, 1.3), Gamma(14.0, 5.0), Gamma(0.7, 0.9)],
    LogNormal: [LogNormal(0.1, 0.5), LogNormal(-0.4, 0.9)],
    Weibull: [Weibull(1.7, 1.2), Weibull(0.9, 0.8), Weibull(3.0, 2.0)],
    Pareto: [Pareto(0.3, 3.5), Pareto(0.2, 2.6)],
    Beta: [Beta(2.0, 3.0), Beta(15.0, 12.0), Beta(0.8, 1.5)],
    Uniform: [Uniform(0.35, 0.9), Uniform(0.0, 1.0), Uniform(0.5, 0.8), Uniform(-0.5, 2.0)],
    VonMises: [VonMises(0.3, 2.0), VonMises(-1.0, 0.5)],
    HalfNormal: [HalfNormal(0.8), HalfNormal(2.5)],
    InverseGamma: [InverseGamma(3.0, 2.0), InverseGamma(1.5, 0.4)],
    ContinuousBernoulli: [ContinuousBernoulli(0.2), ContinuousBernoulli(0.45)],  # above 1/2 in test_more_families
}
IN_SCIPY = {
    Normal: lambda d: stats.norm(d.loc, d.scale),
    Laplace: lambda d: stats.laplace(d.loc, d.scale),
    Gumbel: lambda d: stats.gumbel_r(d.loc, d.scale),
    Cauchy: lambda d: stats.cauchy(d.loc, d.scale),
    Exponential: lambda d: stats.expon(scale=1 / d.rate),
    Gamma: lambda d: stats.gamma(d.shape, scale=1 / d.rate),
    LogNormal: lambda d: stats.lognorm(d.scale, scale=np.exp(d.loc)),
    Weibull: lambda d: stats.weibull_min(d.shape, scale=d.scale),
    Pareto: lambda d: stats.pareto(d.shape, scale=d.scale),
    Beta: lambda d: stats.beta(d.alpha, d.beta),
    Uniform: lambda d: stats.uniform(d.low, d.high - d.low),
    VonMises: lambda d: stats.vonmises(d.concentration, d.loc),
    HalfNormal: lambda d: stats.halfnorm(0, d.scale),
    InverseGamma: lambda d: stats.invgamma(d.shape, scale=d.scale),
    ContinuousBernoulli: lambda d: stats.truncexpon(rate := np.log((1 - d.prob) / d.prob), scale=1 / rate),
}


def integrate(f, low, high, cuts):
    """Double exponential quadrature between the cuts: singular ends and long tails do no harm."""
    t = np.arange(-5.2, 5.2, 1 / 64)
    u, du = np.pi / 2 * np.sinh(t), np.pi / 2 * np.cosh(t) / 64
    edges = [low, *sorted(c for c in set(cuts) if low < c < high), high]
    total = 0.0
    for a, b in itertools.pairwise(edges):
        with np.errstate(over="ignore"):
            if np.isfinite(a) and np.isfinite(b):
                share = 1 / (1 + np.exp(-2 * u))
                x, weight = a + (b - a) * share, (b - a) * 2 * share * (1 - share) * du
            else:
                sign, origin = (1, a) if np.isfinite(a) else (-1, b)
                x, weight = origin + sign * np.exp(u), np.exp(u) * du
        inside = (x > a) & (x < b) & (weight > 0) & np.isfinite(weight)
        total += (f(x[inside]) * weight[inside]).sum()
    return total


def numerical_kl(p, q):
    source, target = IN_SCIPY[type(p)](p), IN_SCIPY[type(q)](q)
    low, high = source.support() if type(p) is not VonMises else (float(p.loc) - np.pi, float(p.loc) + np.pi)
    cuts = [float(source.median())] + [float(d.loc) for d in (p, q) if type(d) is Laplace]

    def f(x):
        log_p = source.logpdf(x)
        live = log_p > -200  # beyond it, some of SciPy's log densities are logs of 0
        x, log_p = x[live], log_p[live]
        out = np.zeros(live.shape)
        out[live] = np.exp(log_p) * (log_p - target.logpdf(x))
        return out

    with np.errstate(over="ignore"):  # in SciPy's Gumbel
        return integrate(f, float(low), float(high), cuts)


def is_infinite(p, q):
    if type(p) is VonMises:
        return False
    (a, b), (c, d) = IN_SCIPY[type(p)](p).support(), IN_SCIPY[type(q)](q).support()
    escapes = a < c or b > d
    heavy_tail = type(p) is Cauchy and type(q) is not Cauchy
    return escapes or heavy_tail or (type(p) is Laplace and type(q) is Gumbel and p.scale >= q.scale)


REGISTERED = registered_pairs()
CONTINUOUS = [(a, b) for a, b in REGISTERED if a in SAMPLES and b in SAMPLES]


@pytest.mark.parametrize("pair", CONTINUOUS, ids=lambda pair: "-".join(f.__name__ for f in pair))
def test_against_numerical_integration(pair):
    for p, q in itertools.product(SAMPLES[pair[0]], SAMPLES[pair[1]]):
        got = float(closed_form_kl(p, q))
        if is_infinite(p, q):
            assert got == np.inf
        else:
            assert got == pytest.approx(numerical_kl(p, q), rel=1e-9, abs=1e-13), (p, q)


def test_every_pair_is_checked_somewhere():
    # discrete families: below; vectors: with the near-equality tests
    other = {
        Bernoulli,
        Binomial,
        Categorical,
        Poisson,
        Geometric,
        Dirichlet,
        DiagonalNormal,
        MultivariateNormal,
        LowRankNormal,
        Independent,
        Transformed,
    }
    assert not [pair for pair in REGISTERED if pair not in CONTINUOUS and not set(pair) <= other]
    assert len(CONTINUOUS) >= 80


@pytest.mark.parametrize(
    "q", [Uniform(0.2, 0.9), Gamma(3.0, 2.0), Exponential(2.0), Normal(1.0, 1.0), Gumbel(0.0, 1.0)]
)
def test_narrow_uniform_keeps_its_digits(q):
    # A width of 1e-6: KL ≈ ln(1/w) - ln q(x).
    p = Uniform(0.5, 0.5 + 1e-6)
    width = mp.mpf(0.5 + 1e-6) - mp.mpf(0.5)
    log_q = float(IN_SCIPY[type(q)](q).logpdf(0.5 + 5e-7))
    assert float(closed_form_kl(p, q)) == pytest.approx(float(-mp.log(width)) - log_q, rel=1e-11)


def test_means_that_diverge():
    assert closed_form_kl(Pareto(1.0, [0.5, 1.0, 1.5]), Exponential(1.0)).tolist()[:2] == [np.inf, np.inf]
    assert np.isfinite(closed_form_kl(Pareto(1.0, 1.5), Exponential(1.0)))
    assert closed_form_kl(Pareto(1.0, [1.5, 2.0]), Normal(0.0, 1.0)).tolist() == [np.inf, np.inf]


def summed(log_p, log_q):
    live = log_p > -700
    with np.errstate(divide="ignore"):
        return float((np.exp(log_p[live]) * (log_p[live] - log_q[live])).sum())


@pytest.mark.parametrize(
    ("p", "q", "log_p", "log_q"),
    [
        (Binomial(7, 0.3), Binomial(7, 0.6), stats.binom(7, 0.3), stats.binom(7, 0.6)),
        (Binomial(5, 0.3), Binomial(9, 0.25), stats.binom(5, 0.3), stats.binom(9, 0.25)),
        (Binomial(5, 0.3), Binomial(4, 0.25), stats.binom(5, 0.3), stats.binom(4, 0.25)),
        (Bernoulli(0.3), Binomial(4, 0.25), stats.binom(1, 0.3), stats.binom(4, 0.25)),
        (Binomial(1, 0.3), Bernoulli(0.9), stats.binom(1, 0.3), stats.binom(1, 0.9)),
        (Binomial(2, 0.3), Bernoulli(0.9), stats.binom(2, 0.3), stats.binom(1, 0.9)),
        (Bernoulli(0.3), Poisson(0.4), stats.binom(1, 0.3), stats.poisson(0.4)),
        (Poisson(3.0), Poisson(5.0), stats.poisson(3.0), stats.poisson(5.0)),
        (Geometric(0.3), Geometric(0.1), stats.geom(0.3, loc=-1), stats.geom(0.1, loc=-1)),
        (Poisson(3.0), Bernoulli(0.5), stats.poisson(3.0), stats.binom(1, 0.5)),
        (Poisson(0.0), Binomial(3, 0.2), stats.binom(0, 0.5), stats.binom(3, 0.2)),
        (Geometric(1.0), Bernoulli(0.2), stats.binom(0, 0.5), stats.binom(1, 0.2)),
        (Geometric(0.4), Binomial(3, 0.2), stats.geom(0.4, loc=-1), stats.binom(3, 0.2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_against_exact_sums(p, q, log_p, log_q):
    k = np.arange(400)
    want = summed(log_p.logpmf(k), log_q.logpmf(k))
    assert float(closed_form_kl(p, q)) == pytest.approx(want, rel=1e-11)


def test_dirichlet_against_monte_carlo():
    a, b = np.array([0.8, 2.0, 3.5]), np.array([2.0, 1.0, 4.0])
    p, q = stats.dirichlet(a), stats.dirichlet(b)
    x = p.rvs(100_000, random_state=1)
    terms = p.logpdf(x.T) - q.logpdf(x.T)
    error = terms.std() / math.sqrt(terms.size)
    assert abs(terms.mean() - closed_form_kl(Dirichlet(a), Dirichlet(b))) <= 4 * error
    assert closed_form_kl(Dirichlet([3.0]), Dirichlet([5.0])) == 0


def test_coins_and_weather():
    assert float(closed_form_kl(Bernoulli(0.5), Bernoulli(0.9), base=2)) == pytest.approx(0.73696559416620617)
    assert float(closed_form_kl(Bernoulli(0.9), Bernoulli(0.5), base=2)) == pytest.approx(0.53100440641071878)
    assert float(closed_form_kl(Bernoulli(0.5), Bernoulli(0.25), base=2)) == pytest.approx(0.20751874963942191)
    p, q = Categorical([9, 12, 4]), Categorical([1, 1, 1])
    assert float(closed_form_kl(p, q)) == pytest.approx(0.085299601318370568, rel=1e-14)
    assert float(closed_form_kl(q, p)) == pytest.approx(0.097455006785387621, rel=1e-14)


def test_support_of_discrete_families():
    assert closed_form_kl(Bernoulli([0.0, 0.5, 1.0, 0.0]), Bernoulli([0.0, 0.0, 1.0, 1.0])).tolist() == [
        0,
        np.inf,
        0,
        np.inf,
    ]
    assert closed_form_kl(Categorical([0.5, 0.5, 0.0]), Categorical([1.0, 0.0, 1.0])) == np.inf
    half = closed_form_kl(Categorical([0.5, 0.5, 0.0]), Categorical([0.25, 0.25, 0.5]))
    assert float(half) == pytest.approx(math.log(2), rel=1e-15)
    assert closed_form_kl(Poisson([0.0, 0.0, 1.0]), Poisson([0.0, 2.0, 0.0])).tolist() == [0, 2, np.inf]
