"""KL(p‖q) within one family. Each rule states the textbook formula as a sum of non-negative terms."""

from __future__ import annotations

import numpy as np

from kullback._engine import FloatArray
from kullback.parametric.families import (
    Bernoulli,
    Binomial,
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    Laplace,
    LogNormal,
    Normal,
    Pareto,
    Poisson,
    Uniform,
    VonMises,
    Weibull,
)
from kullback.parametric.registry import register_kl
from kullback.parametric.special import EULER_GAMMA, lgamma_bregman, log_bessel_bregman, scipy_special, stirling_bregman
from kullback.rows import log_ratio, measure_kl, phi, relative_entropy_term


@register_kl(Normal, Normal)
@register_kl(LogNormal, LogNormal)
def _normal(p: Normal, q: Normal) -> FloatArray:
    # ½ [((μ_p - μ_q)/σ_q)² + φ(2 ln(σ_p/σ_q))]
    return np.asarray(
        0.5 * (((p.loc - q.loc) / q.scale) ** 2 + phi(2 * log_ratio(q.scale, p.scale, p.scale - q.scale)))
    )


def _bernoulli_terms(p: FloatArray, q: FloatArray) -> FloatArray:
    """KL between coins; 1 - p and 1 - q differ by exactly p - q, whatever they are rounded to."""
    return relative_entropy_term(p, q, q - p) + relative_entropy_term(1 - p, 1 - q, p - q)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> FloatArray:
    return _bernoulli_terms(p.prob, q.prob)


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> FloatArray:
    # n·KL(coins) for equal counts. With fewer trials in q the support does not fit, unless p never wins.
    n, m, a, b = np.broadcast_arrays(p.count, q.count, p.prob, q.prob)
    out = np.where(n == 0, 0.0, n * _bernoulli_terms(a, b))
    for index in np.argwhere(n != m):
        i = tuple(index)
        out[i] = _binomial_sum(int(n[i]), int(m[i]), a[i], b[i])
    return out


def _binomial_sum(n: int, m: int, a: float, b: float) -> float:
    """Σ P φ(ln Q - ln P) + Q(k > n) over the n + 1 outcomes of p."""
    special = scipy_special()
    k = np.arange(n + 1.0)

    def log_pmf(count: int, prob: float) -> FloatArray:
        ways = special.gammaln(count + 1) - special.gammaln(k + 1) - special.gammaln(count - k + 1)
        return np.asarray(
            np.where(k <= count, ways + special.xlogy(k, prob) + special.xlog1py(count - k, -prob), -np.inf)
        )

    log_p, log_q = log_pmf(n, a), log_pmf(m, b)
    live = log_p > -np.inf
    terms = np.exp(log_p[live]) * phi(log_q[live] - log_p[live])
    beyond = special.bdtrc(n, m, b) if m > n else 0.0
    return float(terms.sum() + np.exp(log_q[~live]).sum() + beyond)


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> FloatArray:
    return measure_kl(p.probs, q.probs, q.probs - p.probs)


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> FloatArray:
    # λ_p ln(λ_p/λ_q) - λ_p + λ_q
    return relative_entropy_term(p.rate, q.rate)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> FloatArray:
    # One coin a trial, 1/π_p trials on average.
    return np.asarray(_bernoulli_terms(p.prob, q.prob) / p.prob)


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> FloatArray:
    return phi(log_ratio(p.rate, q.rate))


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> FloatArray:
    # Split at the rate that would match the means: a_q φ(ln(b_q/b_p) - ln(a_q/a_p)) is the price of another
    # rate, the Bregman divergence of ln Γ(a) - a ln a + a that of another shape.
    t = log_ratio(p.rate, q.rate) - log_ratio(p.shape, q.shape)
    return np.asarray(q.shape * phi(t) + stirling_bregman(p.shape, q.shape))


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> FloatArray:
    # φ(ln(b_p/b_q)) + (b_p/b_q) φ(-|μ_p - μ_q|/b_p)
    r = p.scale / q.scale
    t = log_ratio(q.scale, p.scale)
    d = np.abs(p.loc - q.loc)
    apart = np.where(d <= p.scale, r * phi(-d / p.scale), r * np.expm1(-d / p.scale) + d / q.scale)
    return np.asarray(phi(t) + apart)


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> FloatArray:
    inside = (q.low <= p.low) & (p.high <= q.high)
    wider = (q.high - p.high) + (p.low - q.low)
    return np.where(inside, log_ratio(p.high - p.low, q.high - q.low, wider), np.inf)


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> FloatArray:
    # φ(ln(α_q/α_p)) + α_q ln(x_p/x_q)
    value = phi(log_ratio(p.shape, q.shape)) + q.shape * log_ratio(q.scale, p.scale)
    return np.where(p.scale >= q.scale, value, np.inf)


def gumbel_terms(r: FloatArray, r_minus_1: FloatArray, s: FloatArray) -> FloatArray:
    """φ(s + ln Γ(1 + r)) + ln Γ(r) + γ (r - 1): Gumbel with r = β_p/β_q and s = (μ_q - μ_p)/β_q.

    ln Γ is expanded at 2 and at 1, so that its zeros keep their relative accuracy.
    """
    log_gamma = (1 - EULER_GAMMA) * r_minus_1 + lgamma_bregman(2.0, 1 + r, r_minus_1)
    return phi(s + log_gamma) + lgamma_bregman(1.0, r, r_minus_1)


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> FloatArray:
    return gumbel_terms(p.scale / q.scale, (p.scale - q.scale) / q.scale, (q.loc - p.loc) / q.scale)


@register_kl(Weibull, Weibull)
def _weibull(p: Weibull, q: Weibull) -> FloatArray:
    # -ln of a Weibull variable is Gumbel(-ln scale, 1/shape).
    s = q.shape * log_ratio(q.scale, p.scale)
    return gumbel_terms(q.shape / p.shape, (q.shape - p.shape) / p.shape, s)


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> FloatArray:
    # ln of ((γ_p + γ_q)² + (x_p - x_q)²) / (4 γ_p γ_q); Chyzak & Nielsen, arXiv 1905.10965
    return np.asarray(
        np.log1p(
            (
                (p.scale - q.scale) / p.scale * ((p.scale - q.scale) / q.scale)
                + (p.loc - q.loc) / p.scale * ((p.loc - q.loc) / q.scale)
            )
            / 4
        )
    )


@register_kl(VonMises, VonMises)
def _von_mises(p: VonMises, q: VonMises) -> FloatArray:
    # Bregman divergence of ln I0 plus κ_q (I1/I0)(κ_p) (1 - cos Δμ)
    special = scipy_special()
    ratio = special.i1e(p.concentration) / special.i0e(p.concentration)
    turned = 2 * q.concentration * ratio * np.sin((p.loc - q.loc) / 2) ** 2
    return np.asarray(log_bessel_bregman(p.concentration, q.concentration) + turned)
