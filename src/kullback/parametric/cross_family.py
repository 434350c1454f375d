"""KL(p‖q) across families, and the pairs whose KL is infinite because the supports differ.

A cross entropy needs few facts about p: its entropy and the means of what stands in ln q. Normal, Gamma and
Gumbel as q are therefore one rule each over a table of such facts, again as sums of non-negative terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kullback._engine import FloatArray
from kullback.parametric.families import (
    Bernoulli,
    Beta,
    Binomial,
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
    Weibull,
)
from kullback.parametric.registry import closed_form_kl, register_kl
from kullback.parametric.same_family import gumbel_terms
from kullback.parametric.special import (
    EULER_GAMMA,
    lgamma_bregman,
    log_minus_digamma,
    scipy_special,
    stirling_bregman,
    stirling_remainder,
)
from kullback.rows import log_product, log_ratio, phi, relative_entropy_term


class _Moments(NamedTuple):
    """Mean, variance, and the entropy a Normal of that variance has in excess of p's."""

    mean: FloatArray
    variance: FloatArray
    negentropy: FloatArray | float


class _LogMoments(NamedTuple):
    """Mean, the Jensen gap ln E[x] - E[ln x] >= 0, and the entropy of ln x: that of x less E[ln x]."""

    mean: FloatArray
    gap: FloatArray
    log_entropy: FloatArray


_HALF_LOG_2PIE = 0.5 * np.log(2 * np.pi * math.e)


# ---- p → Normal ----------------------------------------------------------------------------------


def _beta_moments(p: Beta) -> _Moments:
    # ln Γ and ψ by their Stirling remainders R and T = -R': the logarithms cancel, O(1/α) terms are left.
    a, b = np.broadcast_arrays(p.alpha, p.beta)
    s = a + b
    remainders = stirling_remainder(a) + stirling_remainder(b) - stirling_remainder(s)
    means = (a - 1) * log_minus_digamma(a) + (b - 1) * log_minus_digamma(b) - (s - 2) * log_minus_digamma(s)
    negentropy = 0.5 / a + 0.5 / b - 1 / s - 0.5 * np.log1p(1 / s) - remainders - means
    return _Moments(a / s, a / s * (b / s) / (s + 1), negentropy)


def _gamma_moments(p: Gamma) -> _Moments:
    a = p.shape
    negentropy = 0.5 / a - stirling_remainder(a) - (a - 1) * log_minus_digamma(a)
    return _Moments(a / p.rate, a / p.rate**2, negentropy)


def _exponential_moments(p: Exponential) -> _Moments:
    return _Moments(1 / p.rate, 1 / p.rate**2, _HALF_LOG_2PIE - 1)


def _gumbel_moments(p: Gumbel) -> _Moments:
    negentropy = _HALF_LOG_2PIE + 0.5 * np.log(np.pi**2 / 6) - EULER_GAMMA - 1
    return _Moments(p.loc + EULER_GAMMA * p.scale, (np.pi * p.scale) ** 2 / 6, negentropy)


def _laplace_moments(p: Laplace) -> _Moments:
    return _Moments(p.loc, 2 * p.scale**2, _HALF_LOG_2PIE + 0.5 * np.log(2) - 1 - np.log(2))


def _log_normal_moments(p: LogNormal) -> _Moments:
    s = p.scale**2
    mean = np.exp(p.loc + s / 2)
    return _Moments(mean, mean**2 * np.expm1(s), 0.5 * np.log1p(phi(s) / s) + s / 2)


def _pareto_moments(p: Pareto) -> _Moments:
    x, a = np.broadcast_arrays(p.scale, p.shape)
    mean = np.where(a > 1, x * a / (a - 1), np.inf)
    relative_variance = a / ((a - 1) ** 2 * (a - 2))
    variance = np.where(a > 2, x**2 * relative_variance, np.inf)
    return _Moments(mean, variance, _HALF_LOG_2PIE + 0.5 * np.log(relative_variance) + np.log(a) - 1 - 1 / a)


def _uniform_moments(p: Uniform) -> _Moments:
    width = p.high - p.low
    return _Moments(p.low + width / 2, width**2 / 12, _HALF_LOG_2PIE - 0.5 * np.log(12))


def _weibull_moments(p: Weibull) -> _Moments:
    r = 1 / p.shape
    mean = p.scale * np.exp(_log_gamma_1p(r))
    relative_variance = np.expm1(lgamma_bregman(1.0, 1 + 2 * r, 2 * r) - 2 * lgamma_bregman(1.0, 1 + r, r))
    entropy = EULER_GAMMA * (1 - r) + np.log(r) + 1 - _log_gamma_1p(r)
    return _Moments(mean, mean**2 * relative_variance, _HALF_LOG_2PIE + 0.5 * np.log(relative_variance) - entropy)


def _log_gamma_1p(r: FloatArray) -> FloatArray:
    """ln Γ(1 + r), accurate for small r."""
    return np.asarray(lgamma_bregman(1.0, 1 + r, r) - EULER_GAMMA * r)


_MOMENTS: dict[type, Callable[[Any], _Moments]] = {
    Beta: _beta_moments,
    Exponential: _exponential_moments,
    Gamma: _gamma_moments,
    Gumbel: _gumbel_moments,
    Laplace: _laplace_moments,
    LogNormal: _log_normal_moments,
    Pareto: _pareto_moments,
    Uniform: _uniform_moments,
    Weibull: _weibull_moments,
}


def _to_normal(p: Any, q: Normal) -> FloatArray:
    # ½ [φ(ln(v/σ²)) + ((m - μ)/σ)²] + negentropy: KL to q of the Normal with p's moments, and p's KL to it
    m = _MOMENTS[type(p)](p)
    fit = 0.5 * (phi(log_ratio(q.scale**2, m.variance)) + ((m.mean - q.loc) / q.scale) ** 2)
    return np.where(np.isfinite(m.variance), fit + m.negentropy, np.inf)


for _family in _MOMENTS:
    register_kl(_family, Normal)(_to_normal)


# ---- p → Gamma, Exponential ----------------------------------------------------------------------


def _beta_log_moments(p: Beta) -> _LogMoments:
    a, b = np.broadcast_arrays(p.alpha, p.beta)
    s = a + b
    gap = 0.5 / a + log_minus_digamma(a) - 0.5 / s - log_minus_digamma(s)
    moments = _beta_moments(p)
    entropy = _HALF_LOG_2PIE + 0.5 * np.log(moments.variance) - moments.negentropy
    return _LogMoments(moments.mean, gap, entropy - np.log(moments.mean) + gap)


def _log_normal_log_moments(p: LogNormal) -> _LogMoments:
    gap = p.scale**2 / 2
    return _LogMoments(np.exp(p.loc + gap), gap, _HALF_LOG_2PIE + np.log(p.scale))


def _pareto_log_moments(p: Pareto) -> _LogMoments:
    a = np.maximum(p.shape, 1)
    with np.errstate(divide="ignore"):
        gap = phi(np.log1p(-1 / a))
    return _LogMoments(_pareto_moments(p).mean, gap, 1 - np.log(p.shape))


def _uniform_log_moments(p: Uniform) -> _LogMoments:
    # With x = m(1 + ξ), ξ uniform on ±ρ: -E ln(1 + ξ) = Σ ρ^2k / (2k(2k + 1)); summed while ρ is small.
    special = scipy_special()
    mean = p.low + (p.high - p.low) / 2
    rho = (p.high - p.low) / 2 / mean
    series = sum((rho ** (2 * k) / (2 * k * (2 * k + 1)) for k in range(1, 16)), start=np.zeros_like(rho))
    closed = 1 - (special.xlog1py(1 + rho, rho) - special.xlog1py(1 - rho, -rho)) / (2 * rho)
    gap = np.where(rho < 0.3, series, closed)
    return _LogMoments(mean, gap, np.log(2 * rho) + gap)


def _weibull_log_moments(p: Weibull) -> _LogMoments:
    r = 1 / p.shape
    return _LogMoments(p.scale * np.exp(_log_gamma_1p(r)), lgamma_bregman(1.0, 1 + r, r), 1 + EULER_GAMMA + np.log(r))


_LOG_MOMENTS: dict[type, Callable[[Any], _LogMoments]] = {
    Beta: _beta_log_moments,
    LogNormal: _log_normal_log_moments,
    Pareto: _pareto_log_moments,
    Uniform: _uniform_log_moments,
    Weibull: _weibull_log_moments,
}


def _to_gamma(p: Any, q: Gamma) -> FloatArray:
    # With S(a) = ln Γ(a) - a ln a + a: KL = S(a) + a [φ(ln(b·mean/a)) + gap] - entropy of ln x
    m = _LOG_MOMENTS[type(p)](p)
    s = 0.5 * np.log(2 * np.pi / q.shape) + stirling_remainder(q.shape)
    value = s + q.shape * (phi(log_ratio(q.shape / q.rate, m.mean)) + m.gap) - m.log_entropy
    return np.where(np.isfinite(m.mean), value, np.inf)


def _uniform_to_gamma(p: Uniform, q: Gamma) -> FloatArray:
    inside = p.low >= 0
    above = Uniform(np.where(inside, p.low, 1.0), np.where(inside, p.high, 2.0))
    return np.where(inside, _to_gamma(above, q), np.inf)


def _weibull_to_gamma(p: Weibull, q: Gamma) -> FloatArray:
    # Both are Exponential at shape 1. Near it, with ε = 1/k - 1 and α = a - 1, the general rule without its φ
    # term is φ(ln(1 + ε)) + αε + D_S(1, a) + a·D_Γ(2, 2 + ε) with the Bregman divergences of S and ln Γ.
    e, alpha = (1 - p.shape) / p.shape, q.shape - 1
    gap = lgamma_bregman(2.0, 1 + 1 / p.shape, e)
    t = log_product(p.scale, q.rate) + (1 - EULER_GAMMA) * e + gap - np.log1p(alpha)
    shapes = phi(np.log1p(e)) + alpha * e + stirling_bregman(1.0, q.shape, alpha) + q.shape * gap
    close = (np.abs(e) <= 0.5) & (np.abs(alpha) <= 0.5)
    return np.where(close, shapes + q.shape * phi(t), _to_gamma(p, q))


_TO_GAMMA = dict.fromkeys(_LOG_MOMENTS, _to_gamma) | {Uniform: _uniform_to_gamma, Weibull: _weibull_to_gamma}
for _family, _rule in _TO_GAMMA.items():
    register_kl(_family, Gamma)(_rule)


def _as_gamma(d: Exponential) -> Gamma:
    """An Exponential is a Gamma of shape 1."""
    return Gamma(1.0, d.rate)


@register_kl(Beta, Exponential)
@register_kl(Gamma, Exponential)
@register_kl(LogNormal, Exponential)
@register_kl(Pareto, Exponential)
@register_kl(Uniform, Exponential)
@register_kl(Weibull, Exponential)
def _to_exponential(p: Any, q: Exponential) -> Any:
    return closed_form_kl(p, _as_gamma(q))


@register_kl(Exponential, Gamma)
def _exponential_to_gamma(p: Exponential, q: Gamma) -> Any:
    return closed_form_kl(_as_gamma(p), q)


@register_kl(Exponential, Weibull)
def _exponential_to_weibull(p: Exponential, q: Weibull) -> FloatArray:
    return gumbel_terms(q.shape, q.shape - 1, -q.shape * log_product(p.rate, q.scale))


# ---- p → Gumbel ----------------------------------------------------------------------------------


def _to_gumbel(q: Gumbel, mean: FloatArray, entropy: FloatArray, cumulant: FloatArray) -> FloatArray:
    """ln β - entropy + 1 + g + φ(g - z), z = (mean - μ)/β and g = ln E exp(-(x - mean)/β), the `cumulant`."""
    value = np.log(q.scale) - entropy + 1 + cumulant + phi(cumulant - (mean - q.loc) / q.scale)
    return np.where(np.isfinite(cumulant), value, np.inf)


@register_kl(Normal, Gumbel)
def _normal_to_gumbel(p: Normal, q: Gumbel) -> FloatArray:
    return _to_gumbel(q, p.loc, _HALF_LOG_2PIE + np.log(p.scale), 0.5 * (p.scale / q.scale) ** 2)


@register_kl(Laplace, Gumbel)
def _laplace_to_gumbel(p: Laplace, q: Gumbel) -> FloatArray:
    r = p.scale / q.scale
    return _to_gumbel(q, p.loc, 1 + np.log(2 * p.scale), np.where(r < 1, -np.log1p(-(np.minimum(r, 1) ** 2)), np.inf))


@register_kl(Gamma, Gumbel)
def _gamma_to_gumbel(p: Gamma, q: Gumbel) -> FloatArray:
    m = _gamma_moments(p)
    entropy = _HALF_LOG_2PIE + 0.5 * np.log(m.variance) - m.negentropy
    return _to_gumbel(q, m.mean, entropy, p.shape * phi(np.log1p(1 / (p.rate * q.scale))))


@register_kl(Exponential, Gumbel)
def _exponential_to_gumbel(p: Exponential, q: Gumbel) -> FloatArray:
    return _gamma_to_gumbel(_as_gamma(p), q)


@register_kl(Uniform, Gumbel)
def _uniform_to_gumbel(p: Uniform, q: Gumbel) -> FloatArray:
    width = p.high - p.low
    u = width / q.scale
    return _to_gumbel(q, p.low + width / 2, np.log(width), u / 2 + np.log(-np.expm1(-u) / u))


# ---- single pairs --------------------------------------------------------------------------------


@register_kl(Normal, Laplace)
def _normal_to_laplace(p: Normal, q: Laplace) -> FloatArray:
    # ln(2b) + E|x - μ|/b - ln(σ √(2πe)); the mean of the folded normal, Leone, Nelson & Nottingham 1961
    d = np.abs(p.loc - q.loc)
    folded = p.scale * np.sqrt(2 / np.pi) * np.exp(-0.5 * (d / p.scale) ** 2)
    folded = folded + d * scipy_special().erf(d / p.scale / np.sqrt(2))
    return np.asarray(np.log(2 * q.scale / p.scale) + folded / q.scale - _HALF_LOG_2PIE)


@register_kl(Bernoulli, Poisson)
def _bernoulli_to_poisson(p: Bernoulli, q: Poisson) -> FloatArray:
    # π ln(π/λ) - π + λ, and (1 - π) ln(1 - π) + π
    return relative_entropy_term(p.prob, q.rate) + relative_entropy_term(1 - p.prob, 1.0, p.prob)


@register_kl(Bernoulli, Binomial)
def _bernoulli_to_binomial(p: Bernoulli, q: Binomial) -> Any:
    return closed_form_kl(Binomial(1, p.prob), q)


@register_kl(Binomial, Bernoulli)
def _binomial_to_bernoulli(p: Binomial, q: Bernoulli) -> Any:
    return closed_form_kl(p, Binomial(1, q.prob))


@register_kl(Beta, Uniform)
def _beta_to_uniform(p: Beta, q: Uniform) -> FloatArray:
    inside = (q.low <= 0) & (q.high >= 1)
    wider = np.log1p(np.where(inside, (q.high - 1) - q.low, 0.0))
    return np.where(inside, closed_form_kl(p, Beta(1.0, 1.0)) + wider, np.inf)


@register_kl(Uniform, Beta)
def _uniform_to_beta(p: Uniform, q: Beta) -> FloatArray:
    # KL(Uniform(0, 1)‖q) - ln w - (α-1)(E ln x + 1) - (β-1)(E ln(1-x) + 1), w = high - low
    special = scipy_special()
    inside = (p.low >= 0) & (p.high <= 1)
    low, high = np.where(inside, p.low, 0.0), np.where(inside, p.high, 1.0)
    rest = low + (1 - high)

    def log_mean_plus_1(a: FloatArray, b: FloatArray) -> FloatArray:
        """E ln x + 1 = ln b + a ln(b/a)/(b - a) on [a, b]."""
        return np.asarray(np.log(b) + np.where(a > 0, a * log_ratio(a, b), 0.0) / (b - a))

    shift = (q.alpha - 1) * log_mean_plus_1(low, high) + (q.beta - 1) * log_mean_plus_1(1 - high, 1 - low)
    value = closed_form_kl(Beta(1.0, 1.0), q) - special.log1p(-rest) - shift
    return np.where(inside, value, np.inf)


@register_kl(Uniform, Pareto)
def _uniform_to_pareto(p: Uniform, q: Pareto) -> FloatArray:
    inside = p.low >= q.scale
    above = Uniform(np.where(inside, p.low, 1.0), np.where(inside, p.high, 2.0))
    m = _uniform_log_moments(above)
    excess = log_ratio(q.scale, m.mean) - m.gap
    return np.where(inside, q.shape * excess - np.log(q.shape) - m.log_entropy, np.inf)


# ---- supports that differ, means that diverge ----------------------------------------------------

_REAL_LINE: tuple[type, ...] = (Normal, Laplace, Gumbel, Cauchy)
_HALF_LINE: tuple[type, ...] = (Exponential, Gamma, LogNormal, Weibull)


def _infinite(p: Any, q: Any) -> FloatArray:
    return np.full(np.broadcast_shapes(p.batch_shape, q.batch_shape), np.inf)


for _sources, _targets in (
    (_REAL_LINE, (*_HALF_LINE, Pareto, Beta, Uniform)),
    (_HALF_LINE, (Pareto, Beta, Uniform)),
    ((Pareto,), (Beta, Uniform)),
    ((Beta,), (Pareto,)),
    ((Cauchy,), (Normal, Laplace, Gumbel)),  # E|x| diverges
):
    for _p in _sources:
        for _q in _targets:
            register_kl(_p, _q)(_infinite)


@register_kl(Poisson, Bernoulli)
@register_kl(Poisson, Binomial)
@register_kl(Geometric, Bernoulli)
@register_kl(Geometric, Binomial)
def _counts_to_finite(p: Any, q: Any) -> FloatArray:
    # Only a p that is always 0 fits: -n ln(1 - π)
    always_zero = p.rate == 0 if isinstance(p, Poisson) else p.prob == 1
    trials = q.count if isinstance(q, Binomial) else 1.0
    return np.where(always_zero, -scipy_special().xlog1py(trials, -q.prob), np.inf)
