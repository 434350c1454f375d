"""Divergences of two rows and sums over tokens for code compiled with numba: plain scalar loops in float64.

Each is an `@njit` function, cached on disk, that allocates nothing: call it inside your own, or pass it as `metric=` to
pynndescent. x and y are 1-D arrays of masses (float32, float64), normalised or not. They are not the package's
kernels, which take structures that a numba caller would have to fill for each pair; for whole arrays those are faster.
A metric must not stop a search: what has no divergence (a negative or NaN mass, a row without mass or with an infinite
sum) gives NaN. Only lengths that differ raise ValueError.
"""

import math
from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["hellinger", "jensen_shannon", "kl", "log_ratio_sum", "token_log_prob", "total_variation"]


def _compiled(function: Callable[..., float]) -> Any:
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # nowhere to write a cache: compiled anew in each process
        return njit(nogil=True, error_model="numpy")(function)


@_compiled
def _sum(x: Any) -> float:
    """Sum of masses, NaN where they have no distribution."""
    total = 0.0
    for i in range(x.shape[0]):
        if not x[i] >= 0:
            return math.nan
        total += x[i]
    return total if 0.0 < total < math.inf else math.nan


@_compiled
def _term(p: float, q: float) -> float:
    """p·ln(p/q) - p + q; its sum does not feel, to first order, the rounding of the rows' sums."""
    if p == 0.0:
        return q
    if q == 0.0:
        return math.inf
    s = (p - q) / (p + q)
    if abs(s) > 0.1:
        return p * math.log(p / q) - (p - q)
    # ln(p/q) = 2·atanh(s); the linear part cancels exactly, so that near equality no digits are lost
    t = s * s
    u = t * (1 / 11 + t * (1 / 13 + t * (1 / 15 + t / 17)))
    u = t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + u))))
    return (p + q) * s * (s + (1.0 + s) * u)


@_compiled
def kl(x: Any, y: Any) -> float:
    """KL(x‖y) in nats, each normalised; inf where y = 0 < x.

    Accuracy: 1e-12 relative and 1e-15 times its square root; float32 input is computed in float64.
    """
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y must have the same length")
    a, b, total = _sum(x), _sum(y), 0.0
    for i in range(x.shape[0]):
        total += _term(x[i] / a, y[i] / b)
    return total if a + b > 0 else math.nan


@_compiled
def jensen_shannon(x: Any, y: Any) -> float:
    """Jensen-Shannon divergence in nats (its square root is SciPy's distance), accurate as `kl` is."""
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y must have the same length")
    a, b, total = _sum(x), _sum(y), 0.0
    for i in range(x.shape[0]):
        p, q = x[i] / a, y[i] / b
        if p != q:
            m = 0.5 * (p + q)
            total += _term(p, m) + _term(q, m)
    return 0.5 * total if a + b > 0 else math.nan


@_compiled
def hellinger(x: Any, y: Any) -> float:
    """Hellinger distance, from 0 to 1: to 1e-12 relative and 1e-15 absolute."""
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y must have the same length")
    a, b, total = _sum(x), _sum(y), 0.0
    for i in range(x.shape[0]):
        p, q = x[i] / a, y[i] / b
        if p != q:
            d = (p - q) / (math.sqrt(p) + math.sqrt(q))
            total += d * d
    return math.sqrt(0.5 * total) if a + b > 0 else math.nan


@_compiled
def total_variation(x: Any, y: Any) -> float:
    """Half of Σ|x - y|, each normalised: to 1e-12 relative and 1e-15 absolute."""
    if x.shape[0] != y.shape[0]:
        raise ValueError("x and y must have the same length")
    a, b, total = _sum(x), _sum(y), 0.0
    for i in range(x.shape[0]):
        total += abs(x[i] / a - y[i] / b)
    return 0.5 * total if a + b > 0 else math.nan


@_compiled
def token_log_prob(logits: Any, token: int) -> float:
    """Log-prob of a token in a row of logits, to 1e-12 (relative above 1); NaN for a token outside it."""
    if not 0 <= token < logits.shape[0]:
        return math.nan
    top, total = -math.inf, 0.0
    for i in range(logits.shape[0]):
        top = max(top, float(logits[i]))
    for i in range(logits.shape[0]):
        total += math.exp(logits[i] - top)
    return (logits[token] - top) - math.log(total)


@_compiled
def log_ratio_sum(log_p: Any, log_q: Any, start: int, stop: int) -> float:
    """Sum of log_p - log_q over the tokens of a segment, start to stop - 1; NaN for a segment outside them."""
    if log_p.shape[0] != log_q.shape[0]:
        raise ValueError("log_p and log_q must have the same length")
    if not 0 <= start <= stop <= log_p.shape[0]:
        return math.nan
    total = 0.0
    for i in range(start, stop):
        total += float(log_p[i]) - float(log_q[i])
    return total
