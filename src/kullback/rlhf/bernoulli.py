"""Divergences of two policies that are known at one token only: of the token drawn, against all others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.estimators import kl_estimate

Float64s = NDArray[np.float64]


def bernoulli_tv(log_p: Float64s, log_q: Float64s) -> Float64s:
    """q - p of log-probs, without cancellation where they are close."""
    d = log_q - log_p
    return np.asarray(np.copysign(np.exp(np.maximum(log_p, log_q)) * -np.expm1(-np.abs(d)), d))


def log1mexp(x: Float64s) -> Float64s:
    """log(1 - exp(x)) for x <= 0: by expm1 near 0, by log1p far from it (M. Mächler, 2012)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > -np.log(2.0), np.log(-np.expm1(x)), np.log1p(-np.exp(x)))


def bernoulli_kl(log_p: Float64s, log_q: Float64s) -> Float64s:
    """KL(Bernoulli(p)‖Bernoulli(q)) = p·φ(d) + (1 - p)·φ(e), d = log q/p, e = log (1 - q)/(1 - p), φ that of k3.

    For p·exp(d) + (1 - p)·exp(e) = 1. inf where q rules out what p does not, NaN where a log-prob is above 0 or both
    are -inf. Negative where q < p.
    """
    with np.errstate(all="ignore"):
        p, q, others = np.exp(log_p), np.exp(log_q), -np.expm1(log_p)
        d = log_q - log_p
        change = bernoulli_tv(log_p, log_q) / others  # 1 - exp(e)
        e = np.where(np.abs(change) < 0.5, np.log1p(-change), log1mexp(log_q) - log1mexp(log_p))
        # far up by p·exp(d) = q and (1 - p)·exp(e) = 1 - q, which no exponential can overflow
        own = np.where(d > 1.0, q - p * (1.0 + d), p * kl_estimate(-d, "k3"))
        rest = np.where(e > 1.0, -np.expm1(log_q) - others * (1.0 + e), others * kl_estimate(-e, "k3"))
        own = np.where(log_p == -np.inf, q, own)  # the limits where one factor is 0, the other inf
        rest = np.where(log_p == 0.0, -np.expm1(log_q), rest)
        value = np.where(log_p == log_q, 0.0, own + rest)
    value[np.isnan(d) | (log_p > 0.0) | (log_q > 0.0)] = np.nan
    return np.copysign(value, d)


def verl_bernoulli_kl(log_p: Float64s, log_q: Float64s) -> Float64s:
    """The same as verl computes it, with 1e-8 on both sides of the ratio of what is left."""
    p, q = np.exp(log_p), np.exp(log_q)
    with np.errstate(all="ignore"):
        value = p * (log_p - log_q) + (1.0 - p) * np.log((1.0 - p + 1e-8) / (1.0 - q + 1e-8))
    value[np.isnan(value) & ~np.isnan(q - p)] = np.inf  # of no number verl keeps what is on the right side
    return np.where(p == q, 0.0, np.copysign(value, q - p))
