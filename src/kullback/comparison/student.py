"""Student's t for any degrees of freedom, and sums of coin tosses; NumPy and the standard library have neither."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_MANY = 1000.0  # degrees of freedom from which three terms about the normal quantile are right to 1e-7


@lru_cache(maxsize=256)
def student_quantile(level: float, degrees: float) -> float:
    """The value below which a t of so many `degrees` (1 at least) is with probability `level`, 0.5 at least."""
    if level <= 0.5:
        return 0.0
    if level >= 1.0:
        return math.inf
    if degrees > _MANY:
        # E. A. Cornish & R. A. Fisher, 1938; M. Abramowitz & I. Stegun, 26.7.5
        z = NormalDist().inv_cdf(level)
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        return z + first / degrees + second / degrees**2
    low, high = 0.0, 1.0
    while student_tail(high, degrees) > 1 - level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_tail(middle, degrees) > 1 - level else (low, middle)
    return high


def student_tail(t: float, degrees: float) -> float:
    """P(T > t) = ½·I_x(ν/2, ½) with x = ν/(ν + t²)."""
    return _beta(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2


def binomial_below(k: int, n: int, share: float = 0.5) -> float:
    """P(X ≤ k) of the heads X of n coins that show a `share` of heads: I_(1 - share)(n - k, k + 1)."""
    if not 0 <= k < n:
        return float(k >= n)
    return _beta(n - k, k + 1, 1.0 - share)


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b)."""
    if not 0.0 < x < 1.0:
        return float(x >= 1.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method."""
    c, d = 1.0, 1.0 / (1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            found *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return found
