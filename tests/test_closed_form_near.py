"""Near equality: every closed form, and what it is built from, against 60-digit textbook formulas."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest

from kullback.closed_form import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    DiagonalNormal,
    Dirichlet,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    Poisson,
    Uniform,
    VonMises,
    Weibull,
    closed_form_kl,
    gaussian_kl,
    vae_kl,
)
from kullback.parametric.special import (
    lgamma_bregman,
    log_bessel_bregman,
    log_minus_digamma,
    stirling_bregman,
    stirling_remainder,
)
from kullback.rows import phi

EPS = 2.0**-52
NEAR = 1e-12


@pytest.fixture(autouse=True)
def _sixty_digits():
    with mp.workdps(60):
        yield


def relative_error(got, want):
    return float(abs(mp.mpf(float(got)) - want) / want)


def mp_normal(m, s, n, t):
    return mp.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - mp.mpf(1) / 2


def mp_bernoulli(p, q):
    return sum(x * mp.log(x / y) for x, y in ((p, q), (1 - p, 1 - q)) if x > 0)


def mp_gamma(a, b, c, d):
    return (a - c) * mp.digamma(a) - mp.loggamma(a) + mp.loggamma(c) + c * mp.log(b / d) + a * (d - b) / b


def mp_dirichlet(a, b):
    value = mp.loggamma(sum(a)) - mp.loggamma(sum(b))
    for x, y in zip(a, b, strict=True):
        value += mp.loggamma(y) - mp.loggamma(x) + (x - y) * (mp.digamma(x) - mp.digamma(sum(a)))
    return value


def mp_categorical(a, b):
    return sum(x / sum(a) * mp.log(x / sum(a) / (y / sum(b))) for x, y in zip(a, b, strict=True))


def mp_laplace(m, b, n, c):
    return mp.log(c / b) + abs(m - n) / c + b / c * mp.exp(-abs(m - n) / b) - 1


def mp_gumbel(m, b, n, c):
    r = b / c
    return mp.log(c / b) + mp.euler * (r - 1) + mp.exp((n - m) / c) * mp.gamma(r + 1) - 1 + (m - n) / c


def mp_weibull(k, s, j, t):
    value = mp.log(k / s**k) - mp.log(j / t**j) + (k - j) * (mp.log(s) - mp.euler / k)
    return value + (s / t) ** j * mp.gamma(j / k + 1) - 1


def mp_von_mises(m, k, n, j):
    ratio = mp.besseli(1, k) / mp.besseli(0, k)
    return mp.log(mp.besseli(0, j) / mp.besseli(0, k)) + ratio * (k - j * mp.cos(m - n))


def mp_uniform(a, b, c, d):
    return mp.log((d - c) / (b - a)) if c <= a and b <= d else mp.inf


def mp_pareto(x, a, y, b):
    return mp.log(a / b) + b * mp.log(x / y) + b / a - 1 if x >= y else mp.inf


def mp_cauchy(x, g, y, h):
    return mp.log(((g + h) ** 2 + (x - y) ** 2) / (4 * g * h))


def mp_exponential(a, b):
    return mp.log(a / b) + b / a - 1


def mp_poisson(a, b):
    return a * mp.log(a / b) - a + b


# family: (formula of p's then q's parameters, points to perturb)
NEAR_CASES = {
    Normal: (mp_normal, [(0.3, 1.0), (-2.0, 0.01), (1e3, 5.0)]),
    LogNormal: (mp_normal, [(0.3, 1.0)]),
    Bernoulli: (mp_bernoulli, [(0.3,), (0.5,), (0.999,), (1e-6,)]),
    Geometric: (lambda p, q: mp_bernoulli(p, q) / p, [(0.3,), (0.9,), (1e-4,)]),
    Poisson: (mp_poisson, [(0.1,), (3.0,), (1e5,)]),
    Exponential: (mp_exponential, [(0.1,), (1e5,)]),
    Gamma: (mp_gamma, [(0.01, 2.0), (1.0, 1.0), (9.8, 4.0), (60.0, 7.0), (1e6, 1e3)]),
    Beta: (
        lambda a, b, c, d: mp_dirichlet((a, b), (c, d)),
        [(0.5, 0.5), (1.0, 1.0), (2.0, 7.0), (0.001, 5.0), (100.0, 300.0), (1e4, 2e4), (300.0, 1e-4)],
    ),
    Laplace: (mp_laplace, [(0.3, 1.0), (-2.0, 0.01)]),
    Uniform: (mp_uniform, [(0.25, 1.0), (-2.0, 5.0)]),
    Pareto: (mp_pareto, [(0.5, 1.0), (2.0, 7.0)]),
    Weibull: (mp_weibull, [(0.5, 1.0), (2.0, 7.0), (10.0, 0.3)]),
    Gumbel: (mp_gumbel, [(0.3, 1.0), (-2.0, 0.01)]),
    Cauchy: (mp_cauchy, [(0.3, 1.0), (-2.0, 0.01)]),
    VonMises: (mp_von_mises, [(0.3, 0.01), (-3.0, 20.0), (0.5, 79.9), (1.0, 200.0), (1.0, 5e3)]),
}


@pytest.mark.parametrize("family", NEAR_CASES, ids=lambda f: f.__name__)
def test_near_equality_against_sixty_digits(family):
    formula, points = NEAR_CASES[family]
    for point in points:
        for exponent in (1, 3, 5, 8):
            for signs in itertools.product((-1, 0, 0.3), repeat=len(point)):
                other = tuple(x * (1 + s * 10.0**-exponent) for x, s in zip(point, signs, strict=True))
                if family in (Bernoulli, Geometric) and other[0] > 1:
                    continue
                got = float(closed_form_kl(family(*point), family(*other)))
                want = formula(*map(mp.mpf, point), *map(mp.mpf, other))
                if want in (0, mp.inf):
                    assert got == float(want)
                else:
                    assert relative_error(got, want) <= NEAR, (point, other)


def test_near_equality_of_binomials():
    for prob, change in itertools.product((0.3, 1e-6), (1e-1, 1e-4, 1e-8)):
        want = 12 * mp_bernoulli(mp.mpf(prob), mp.mpf(prob * (1 + change)))
        got = closed_form_kl(Binomial(12, prob), Binomial(12, prob * (1 + change)))
        assert relative_error(got, want) <= NEAR


@pytest.mark.parametrize(
    ("family", "formula"),
    [(Categorical, mp_categorical), (Dirichlet, mp_dirichlet)],
    ids=["Categorical", "Dirichlet"],
)
@pytest.mark.parametrize("point", [[0.1, 0.1, 0.1, 0.1], [1.0, 2.0, 3.0], [1e3, 2e3, 1.0, 0.5], [1e-3, 4.0, 0.2]])
def test_near_equality_of_vectors(family, formula, point):
    generator = np.random.default_rng(3)
    p = np.array(point)
    for exponent in range(1, 9):
        q = p * (1 + 10.0**-exponent * generator.uniform(-1, 1, p.size))
        want = formula([mp.mpf(x) for x in p.tolist()], [mp.mpf(x) for x in q.tolist()])
        assert relative_error(closed_form_kl(family(p), family(q)), want) <= NEAR


def mp_full_normal(m, cov_p, n, cov_q):
    d = len(m)
    inverse = cov_q**-1
    shift = mp.matrix([a - b for a, b in zip(m, n, strict=True)])
    product = inverse * cov_p
    trace = sum(product[i, i] for i in range(d))
    return (trace - d - mp.log(mp.det(product)) + (shift.T * inverse * shift)[0]) / 2


@pytest.mark.parametrize("given", ["cov", "scale_tril", "mixed", "mixed the other way"])
def test_near_equality_of_full_covariances(given):
    generator = np.random.default_rng(5)
    d = 4
    for exponent in range(1, 9):
        lower = np.tril(generator.normal(size=(d, d))) + 3 * np.eye(d)
        change = 10.0**-exponent * np.tril(generator.uniform(-1, 1, (d, d)))
        mean = generator.normal(size=d)
        other = mean + 10.0**-exponent * generator.normal(size=d)
        factors = [mp.matrix(m.tolist()) for m in (lower, lower + change)]
        exact = [f * f.T for f in factors]
        rounded = [np.array(e.tolist(), float).reshape(d, d) for e in exact]
        rounded = [np.tril(r) + np.tril(r, -1).T for r in rounded]
        p = MultivariateNormal(mean, scale_tril=lower)
        q = MultivariateNormal(other, scale_tril=lower + change)
        if given in ("cov", "mixed the other way"):
            p, exact[0] = MultivariateNormal(mean, rounded[0]), mp.matrix(rounded[0].tolist())
        if given in ("cov", "mixed"):
            q, exact[1] = MultivariateNormal(other, rounded[1]), mp.matrix(rounded[1].tolist())
        want = mp_full_normal(mean.tolist(), exact[0], other.tolist(), exact[1])
        assert relative_error(closed_form_kl(p, q), want) <= NEAR


def test_full_covariances_far_from_equality():
    generator = np.random.default_rng(6)
    for scale in (1e-6, 0.3, 1.0, 40.0):
        a, b = generator.normal(size=(2, 5, 5))
        cov_p, cov_q = a @ a.T + np.eye(5), scale * (b @ b.T + np.eye(5))
        m, n = generator.normal(size=(2, 5))
        want = mp_full_normal(m.tolist(), mp.matrix(cov_p.tolist()), n.tolist(), mp.matrix(cov_q.tolist()))
        got = closed_form_kl(MultivariateNormal(m, cov_p), MultivariateNormal(n, cov_q))
        assert relative_error(got, want) <= NEAR


def test_covariances_are_batched_and_diagonal_ones_agree():
    generator = np.random.default_rng(7)
    mean, scale = generator.normal(size=(3, 4)), generator.uniform(0.5, 2, (3, 4))
    p, q = DiagonalNormal(mean, scale), DiagonalNormal(mean[0] + 0.1, scale[0])
    full_p = MultivariateNormal(mean, scale[..., None] ** 2 * np.eye(4))
    full_q = MultivariateNormal(q.mean, scale_tril=np.diag(scale[0]))
    want = gaussian_kl(mean, scale, mean[0] + 0.1, scale[0]).sum(-1)
    for got in (
        closed_form_kl(p, q),
        closed_form_kl(full_p, full_q),
        closed_form_kl(p, full_q),
        closed_form_kl(full_p, q),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_near_equality_across_families():
    for e in (1e-1, 1e-3, 1e-5, 1e-8):
        for s, t in ((1, 1), (-1, 0.3), (0, 1), (1, 0), (0.6, -1)):
            rate, shape, scale = 3.0, 1 + s * e, (1 + t * e) / 3.0
            exact = mp.mpf(rate), mp.mpf(shape), mp.mpf(scale)
            pairs = [
                (Exponential(rate), Weibull(shape, scale), mp_weibull(1, 1 / exact[0], exact[1], exact[2])),
                (
                    Exponential(rate),
                    Gamma(shape, 3.0 + t * e),
                    mp_gamma(1, exact[0], exact[1], mp.mpf(3.0 + t * e)),
                ),
                (
                    Gamma(shape, 3.0 + t * e),
                    Exponential(rate),
                    mp_gamma(exact[1], mp.mpf(3.0 + t * e), 1, exact[0]),
                ),
                (Beta(shape, 1 + t * e), Uniform(0, 1), mp_dirichlet((exact[1], mp.mpf(1 + t * e)), (1, 1))),
                (Uniform(0, 1), Beta(shape, 1 + t * e), mp_dirichlet((1, 1), (exact[1], mp.mpf(1 + t * e)))),
                (Weibull(shape, scale), Exponential(rate), mp_weibull_gamma(exact[1], exact[2], 1, exact[0])),
                (
                    Weibull(shape, scale),
                    Gamma(1 - 0.4 * s * e, rate),
                    mp_weibull_gamma(exact[1], exact[2], mp.mpf(1 - 0.4 * s * e), exact[0]),
                ),
            ]
            for p, q, want in pairs:
                assert relative_error(closed_form_kl(p, q), want) <= NEAR, (p, q)
        p = mp.mpf(e)
        want = p * mp.log(p / (p * 2)) - p + 2 * p + (1 - p) * mp.log(1 - p) + p
        assert relative_error(closed_form_kl(Bernoulli(e), Poisson(2 * e)), want) <= NEAR


def mp_weibull_gamma(k, s, a, b):
    entropy = mp.euler * (1 - 1 / k) + mp.log(s / k) + 1
    mean, mean_log = s * mp.gamma(1 + 1 / k), mp.log(s) - mp.euler / k
    return -entropy + mp.loggamma(a) - a * mp.log(b) - (a - 1) * mean_log + b * mean


def test_phi_to_two_units_in_the_last_place():
    generator = np.random.default_rng(0)
    size = 10 ** generator.uniform(-20, np.log10(700), 2000)
    t = np.concatenate([size, -size, generator.uniform(-3, 3, 4000)])
    with mp.workdps(70):
        worst = max(relative_error(v, mp.expm1(x) - x) for x, v in zip(t.tolist(), phi(t).tolist(), strict=True))
    assert worst <= 2 * EPS
    tiny = np.array([1e-100, -1e-150])
    np.testing.assert_allclose(phi(tiny), tiny**2 / 2, rtol=2 * EPS)
    assert phi([0.0, np.inf, -np.inf]).tolist() == [0, np.inf, np.inf]
    assert np.isnan(phi(np.nan))


RATIOS = [1e-8, -1e-8, 1e-5, -1e-3, 0.1, -0.1, 0.5, -0.6, 1.0, 3.0, -0.9, 30.0, -0.999, 1e4]


@pytest.mark.parametrize("a", [1e-3, 0.1, 1.0, 5.0, 9.9, 10.0, 30.0, 1e3, 1e6])
def test_bregman_divergences_of_log_gamma(a):
    for b in (a * (1 + r) for r in RATIOS):
        x, y = mp.mpf(a), mp.mpf(b)
        whole = mp.loggamma(y) - mp.loggamma(x) - mp.digamma(x) * (y - x)
        assert relative_error(lgamma_bregman(a, b), whole) <= 3e-15
        rest = whole - (y * mp.log(y / x) - y + x)
        assert relative_error(stirling_bregman(a, b), rest) <= 1e-13


@pytest.mark.parametrize("a", [1e-6, 0.01, 1.0, 20.0, 39.0, 41.0, 79.0, 81.0, 1e3, 1e6])
def test_bregman_divergence_of_log_bessel(a):
    for b in (a * (1 + r) for r in RATIOS if a * (1 + r) < 1e7):
        x, y = mp.mpf(a), mp.mpf(b)
        want = mp.log(mp.besseli(0, y) / mp.besseli(0, x)) - mp.besseli(1, x) / mp.besseli(0, x) * (y - x)
        assert relative_error(log_bessel_bregman(a, b), want) <= 1e-13


def test_stirling_remainders():
    for x in (0.01, 0.7, 3.0, 9.9, 10.0, 50.0, 1e5):
        want = mp.loggamma(x) - (mp.mpf(x) - 0.5) * mp.log(x) + x - mp.log(2 * mp.pi) / 2
        assert relative_error(stirling_remainder(np.array(x)), want) <= 1e-12
        slope = mp.log(x) - mp.digamma(x) - 1 / (2 * mp.mpf(x))
        assert relative_error(log_minus_digamma(np.array(x)), slope) <= 1e-12


def test_gamma_tends_to_normal_without_losing_digits():
    for shape in (20.0, 1e3, 1e6):
        a = mp.mpf(shape)
        entropy = a + mp.loggamma(a) + (1 - a) * mp.digamma(a)
        want = mp.log(2 * mp.pi * mp.e * a) / 2 - entropy
        got = closed_form_kl(Gamma(shape, 1.0), Normal(shape, math.sqrt(shape)))
        drift = mp_normal(0, mp.sqrt(a), 0, mp.mpf(math.sqrt(shape)))
        assert relative_error(got, want + drift) <= NEAR


def test_vae_term_near_the_prior_and_away_from_it():
    generator = np.random.default_rng(2)
    for scale in (1e-8, 1e-4, 1.0, 5.0):
        mean, log_variance = scale * generator.normal(size=(2, 50))
        want = sum(
            (mp.mpf(m) ** 2 + mp.exp(v) - 1 - mp.mpf(v)) / 2
            for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True)
        )
        assert relative_error(vae_kl(mean, log_variance), want) <= 1e-14
    assert float(vae_kl([0.5], [-1.0])) == pytest.approx(0.30893972058572116, rel=1e-15)
    assert vae_kl([0.0, 0.0], 0.0) == 0
