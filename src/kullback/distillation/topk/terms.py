"""Divergences over K tokens and what lies beside them, with their slopes along the student's log-probabilities."""

from typing import NamedTuple

import numpy as np

from kullback.distillation.topk.lists import Common, Floats
from kullback.rows import bregman_terms


def kl_terms(p: Floats, log_p: Floats, q: Floats, log_q: Floats) -> Floats:
    """q - p - p·(ln q - ln p) ≥ 0; q where p = 0, inf where ln q = -inf and p > 0."""
    with np.errstate(invalid="ignore"):
        return bregman_terms(p, q, log_q - log_p)


def _log(x: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(x))


def log_ratio(q: Floats, log_q: Floats, log_p: Floats) -> Floats:
    """ln q - ln p where q > 0, else 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(q > 0.0, log_q - log_p, 0.0))


def _mixture(c: Common, beta: float) -> tuple[Floats, Floats]:
    """(m, ln q - ln m) with m = β·p + (1-β)·q."""
    with np.errstate(divide="ignore"):
        log_m = np.logaddexp(np.log(beta) + c.log_p, np.log1p(-beta) + c.log_q)
    near = np.abs(log_ratio(c.q, c.log_q, c.log_p)) < 0.5
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        far = c.log_q - log_m
        close = -np.log1p(beta * np.expm1(np.where(near, c.log_p - c.log_q, 0.0)))
    return np.exp(log_m), np.asarray(np.where(c.q > 0.0, np.where(near, close, far), 0.0))


def with_bucket(c: Common) -> Common:
    """The rest of either side as one more outcome."""
    p, q = np.column_stack([c.p, c.rest_p]), np.column_stack([c.q, c.rest_q])
    none = np.zeros(len(p))
    return Common(
        p, np.column_stack([c.log_p, _log(c.rest_p)]), q, np.column_stack([c.log_q, c.log_rest_q]), none, none, none
    )


def renormalised(c: Common) -> Common:
    """Both sides over the compared tokens alone."""
    with np.errstate(invalid="ignore", divide="ignore"):
        log_p, log_q = (
            logs - np.logaddexp.reduce(np.where(np.isnan(logs), -np.inf, logs), -1, keepdims=True)
            for logs in (c.log_p, c.log_q)
        )
    none = np.zeros(len(c.p))
    return Common(np.exp(log_p), log_p, np.exp(log_q), log_q, none, none, none)


class Slopes(NamedTuple):
    """Values (T,) and ∂value/∂ln q of the compared tokens (T, K) and of the rest (T,), as free variables."""

    values: Floats
    listed: Floats
    rest: Floats


def normalised_slopes(c: Common, divergence: str, beta: float) -> Slopes:
    """Of distributions that are complete: the K + 1 buckets, or the renormalised K."""
    if divergence == "forward_kl" or (divergence == "jsd" and beta == 0.0):
        values = kl_terms(c.p, c.log_p, c.q, c.log_q).sum(-1)
        return Slopes(values, c.q - c.p, c.rest_q)
    if divergence == "reverse_kl" or beta == 1.0:
        values = kl_terms(c.q, c.log_q, c.p, c.log_p).sum(-1)
        ratio = log_ratio(c.q, c.log_q, c.log_p)
    else:
        m, ratio = _mixture(c, beta)
        to_m = kl_terms(c.q, c.log_q, m, _log(m)).sum(-1)
        values = beta * kl_terms(c.p, c.log_p, m, _log(m)).sum(-1) + (1.0 - beta) * to_m
        ratio = (1.0 - beta) * ratio
    with np.errstate(invalid="ignore"):
        mean = (c.q * ratio).sum(-1, keepdims=True)
        return Slopes(values, np.where(c.q > 0.0, c.q * (ratio - mean), 0.0), c.rest_q)


def plain_slopes(c: Common, divergence: str, beta: float, outside: float) -> Slopes:
    """Of sums over the compared tokens as they are; `outside` is what a unit of the student's rest adds."""
    with np.errstate(invalid="ignore"):
        if divergence == "forward_kl" or (divergence == "jsd" and beta == 0.0):
            terms = np.where(c.p > 0.0, c.p * (c.log_p - c.log_q), 0.0)
            slopes = -c.p
        elif divergence == "reverse_kl" or beta == 1.0:
            ratio = log_ratio(c.q, c.log_q, c.log_p)
            terms, slopes = c.q * ratio, c.q * (ratio + 1.0)
        else:
            m, ratio = _mixture(c, beta)
            to_m = np.where(c.p > 0.0, c.log_p - _log(m), 0.0)
            slopes = (1.0 - beta) * c.q * ratio
            terms = beta * c.p * to_m + slopes
    return Slopes(terms.sum(-1) + outside * c.rest_q, slopes, outside * c.rest_q)
