"""KL(p‖q) of the further families, and the pairs of theirs whose KL is infinite."""

from __future__ import annotations

from typing import Any

import numpy as np

from kullback._engine import FloatArray
from kullback.parametric import cross_family as cross
from kullback.parametric.families import (
    Beta,
    Cauchy,
    DiagonalNormal,
    Exponential,
    Gamma,
    Gumbel,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    Uniform,
    Weibull,
)
from kullback.parametric.more_families import (
    ContinuousBernoulli,
    HalfNormal,
    Independent,
    InverseGamma,
    LowRankNormal,
    Transformed,
)
from kullback.parametric.registry import closed_form_kl, register_kl
from kullback.rows import log_ratio, phi

# ---- half-normal ---------------------------------------------------------------------------------


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> FloatArray:
    return np.asarray(0.5 * phi(2 * log_ratio(q.scale, p.scale, p.scale - q.scale)))


@register_kl(HalfNormal, Normal)
def _half_normal_to_normal(p: HalfNormal, q: Normal) -> FloatArray:
    # p is Normal(0, s) with its density doubled: ln 2, KL of the two normals, and a mean that is not 0
    mean = p.scale * np.sqrt(2 / np.pi)
    fit = phi(2 * log_ratio(q.scale, p.scale)) + (q.loc / q.scale - 2 * mean / q.scale) * (q.loc / q.scale)
    return np.asarray(np.log(2) + 0.5 * fit)


@register_kl(Beta, HalfNormal)
@register_kl(Exponential, HalfNormal)
@register_kl(Gamma, HalfNormal)
@register_kl(LogNormal, HalfNormal)
@register_kl(Pareto, HalfNormal)
@register_kl(Uniform, HalfNormal)
@register_kl(Weibull, HalfNormal)
def _to_half_normal(p: Any, q: HalfNormal) -> FloatArray:
    value = closed_form_kl(p, Normal(0.0, q.scale)) - np.log(2)
    return np.where(p.low >= 0, value, np.inf) if isinstance(p, Uniform) else np.asarray(value)


# ---- inverse gamma -------------------------------------------------------------------------------


@register_kl(InverseGamma, InverseGamma)
def _inverse_gamma(p: InverseGamma, q: InverseGamma) -> Any:
    return closed_form_kl(Gamma(p.shape, p.scale), Gamma(q.shape, q.scale))  # of 1/x


# ---- continuous Bernoulli: exponential of rate -η on [0, 1], η = logit(prob) --------------------------

# Gauss-Legendre nodes: exp(80·x) on [0, 1] is integrated to rounding.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_QUADRATURE_TO, _LARGE_FROM = 80.0, 40.0


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> FloatArray:
    a, b = np.broadcast_arrays(p.prob, q.prob)
    step = log_ratio(a, b, b - a) - log_ratio(1 - a, 1 - b, a - b)
    return _exponential_on_unit(np.log(a) - np.log1p(-a), np.log(b) - np.log1p(-b), step)


def _exponential_on_unit(x: FloatArray, y: FloatArray, step: FloatArray) -> FloatArray:
    """The Bregman divergence of A(η) = ln((e^η - 1)/η) between y and x, step = y - x.

    Both within ±80: log1p(E_x φ(step·(u - E_x u))) over the nodes. Both beyond 40 on one side: exponentials whose ends
    at 1 weigh e^-40. Else they are far apart and the terms are subtracted.
    """
    out = np.empty(x.shape)
    near = np.maximum(np.abs(x), np.abs(y)) <= _QUADRATURE_TO
    large = ~near & (np.minimum(np.abs(x), np.abs(y)) >= _LARGE_FROM) & (np.sign(x) == np.sign(y))
    far = ~near & ~large
    out[large] = phi(log_ratio(np.abs(x[large]), np.abs(y[large]), np.sign(x[large]) * step[large]))
    out[far] = _log_partition(y[far]) - _log_partition(x[far]) - _mean(x[far]) * step[far]
    if near.any():
        tilt = x[near][:, None] * _NODES
        mass = _WEIGHTS * np.exp(tilt - np.maximum(x[near], 0.0)[:, None])
        mass /= mass.sum(1, keepdims=True)
        apart = step[near][:, None] * (_NODES - (mass @ _NODES)[:, None])
        out[near] = np.log1p((mass * phi(apart)).sum(1))
    return out


def _log_partition(eta: FloatArray) -> FloatArray:
    """A(η) of an η that is not small: max(η, 0) - ln|η| + ln(1 - e^-|η|)."""
    size = np.maximum(np.abs(eta), 1e-300)
    large = np.maximum(eta, 0.0) - np.log(size) + np.log1p(-np.exp(-size))
    return np.where(np.abs(eta) < 1e-3, eta / 2 + eta * eta / 24, large)


def _mean(eta: FloatArray) -> FloatArray:
    """A'(η) = 1/(1 - e^-η) - 1/η."""
    safe = np.where(eta == 0, 1.0, eta)
    return np.where(np.abs(eta) < 1e-3, 0.5 + eta / 12, -1 / np.expm1(-safe) - 1 / safe)


@register_kl(ContinuousBernoulli, Uniform)
def _continuous_bernoulli_to_uniform(p: ContinuousBernoulli, q: Uniform) -> FloatArray:
    inside = (q.low <= 0) & (q.high >= 1)
    wider = np.log1p(np.where(inside, (q.high - 1) - q.low, 0.0))
    return np.where(inside, closed_form_kl(p, ContinuousBernoulli(0.5)) + wider, np.inf)


@register_kl(Uniform, ContinuousBernoulli)
def _uniform_to_continuous_bernoulli(p: Uniform, q: ContinuousBernoulli) -> FloatArray:
    # as from all of [0, 1], and what a narrower one with another mean adds
    inside = (p.low >= 0) & (p.high <= 1)
    width = np.where(inside, p.high - p.low, 1.0)
    eta = np.log(q.prob) - np.log1p(-q.prob)
    value = closed_form_kl(ContinuousBernoulli(0.5), q) - np.log(width) + eta * (0.5 - (p.low + p.high) / 2)
    return np.where(inside, value, np.inf)


# ---- vectors, products, images -------------------------------------------------------------------


@register_kl(LowRankNormal, LowRankNormal)
@register_kl(LowRankNormal, MultivariateNormal)
@register_kl(LowRankNormal, DiagonalNormal)
@register_kl(MultivariateNormal, LowRankNormal)
@register_kl(DiagonalNormal, LowRankNormal)
def _low_rank(p: Any, q: Any) -> Any:
    full = (x.full if isinstance(x, LowRankNormal) else x for x in (p, q))
    return closed_form_kl(*full)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> FloatArray:
    if p.axes != q.axes:
        raise ValueError(f"`q` has {q.axes} independent axes, expected {p.axes} to match `p`")
    if p.event_shape != q.event_shape:
        raise ValueError(f"`q` has event shape {q.event_shape}, expected {p.event_shape} to match `p`")
    value = closed_form_kl(p.base, q.base)
    return np.asarray(np.sum(value, axis=tuple(range(-p.axes, 0)))) if p.axes else np.asarray(value)


@register_kl(Transformed, Transformed)
def _transformed(p: Transformed, q: Transformed) -> Any:
    if not bool(p.transform == q.transform):
        raise ValueError("`q` has another transform than `p`, expected equal ones: no closed form is known for two")
    return closed_form_kl(p.base, q.base)


_INFINITE: tuple[tuple[tuple[type, ...], tuple[type, ...]], ...] = (
    ((Normal, Laplace, Gumbel, Cauchy), (HalfNormal, InverseGamma, ContinuousBernoulli)),
    ((HalfNormal, InverseGamma), (Pareto, Beta, Uniform, ContinuousBernoulli)),
    ((Exponential, Gamma, LogNormal, Weibull, Pareto), (ContinuousBernoulli,)),
    ((ContinuousBernoulli,), (Pareto,)),
)
for _sources, _targets in _INFINITE:  # supports that differ
    for _p in _sources:
        for _q in _targets:
            register_kl(_p, _q)(cross._infinite)
