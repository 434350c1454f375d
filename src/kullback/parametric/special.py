"""The non-negative terms that closed forms are sums of, each accurate when its arguments nearly agree."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import FloatArray, library
from kullback.rows import log_ratio, phi, relative_entropy_term

EULER_GAMMA = 0.5772156649015329


# ln Γ(x) = (x - 1/2) ln x - x + ln(2π)/2 + Σ c_m / x^m, c_m = B_{2k} / (2k (2k-1)), m = 2k - 1 (DLMF 5.11.1).
# With eight terms at x >= 10 the first one left out is 5e-17 of the second derivative.
STIRLING = {
    1: 1 / 12,
    3: -1 / 360,
    5: 1 / 1260,
    7: -1 / 1680,
    9: 1 / 1188,
    11: -691 / 360360,
    13: 1 / 156,
    15: -3617 / 122400,
}
STIRLING_FROM = 10


def _bessel_ratio_coefficients(terms: int) -> list[float]:
    """a_n of I1(x)/I0(x) ~ Σ a_n / x^n, from the Riccati equation A' = 1 - A/x - A²."""
    a = [Fraction(1)]
    for n in range(1, terms):
        a.append(((n - 2) * a[n - 1] - sum(a[i] * a[n - i] for i in range(1, n))) / 2)
    return [float(c) for c in a]


# ln I0(x) = x - ln(2πx)/2 + Σ c_m / x^m with c_m = -a_{m+1} / m; at x >= 40 sixteen terms leave 2e-16.
_BESSEL = {m: -a / m for m, a in enumerate(_bessel_ratio_coefficients(18)[2:], start=1)}
_BESSEL_FROM = 40.0
# Trapezoid rule on the circle, 96 points folded to 49: its error e^(-96²/2κ) is 1e-25 at κ = 80.
_TRAPEZOID_TO = 80.0
_VERSINE = 2 * np.sin(np.linspace(0, np.pi / 2, 49)) ** 2
_TRAPEZOID = np.concatenate([[0.5], np.ones(47), [0.5]])


def power_bregman(m: int, x: FloatArray, y: FloatArray, t: FloatArray) -> FloatArray:
    """Bregman divergence of x^-m between y and x, with t = ln(y/x): x^-m (φ(-mt) + m φ(t))."""
    with np.errstate(all="ignore"):
        far = y**-m - x**-m + m * x**-m * ((y - x) / x)
        return np.where(np.abs(t) <= 1, x**-m * (phi(-m * t) + m * phi(t)), far)


def stirling_bregman(a: ArrayLike, b: ArrayLike, difference: ArrayLike | None = None) -> FloatArray:
    """G(b) - G(a) - G'(a)(b - a) >= 0 for the convex G(x) = ln Γ(x) - x ln x + x and a, b > 0.

    From the recurrence ln Γ(x) = ln Γ(x+1) - ln x until both arguments pass 10, then from Stirling's series:
    each piece is itself a Bregman divergence in closed form, so nothing cancels near a = b.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d = b - a if difference is None else np.asarray(difference, np.float64)
    small = np.minimum(a, b) < STIRLING_FROM
    shift = np.where(small, float(STIRLING_FROM), 0.0)
    x, y = a + shift, b + shift
    t = log_ratio(x, y, d)
    total = 0.5 * phi(t)
    for m, coefficient in STIRLING.items():
        total = total + coefficient * power_bregman(m, x, y, t)
    if small.any():
        steps = relative_entropy_term(y, x, -d) - relative_entropy_term(b, a, -d)
        for k in range(STIRLING_FROM):
            steps = steps + phi(log_ratio(a + k, b + k, d))
        total = np.where(small, total + steps, total)
    return total


def lgamma_bregman(a: ArrayLike, b: ArrayLike, difference: ArrayLike | None = None) -> FloatArray:
    """ln Γ(b) - ln Γ(a) - ψ(a)(b - a) >= 0 for a, b > 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d = b - a if difference is None else np.asarray(difference, np.float64)
    return stirling_bregman(a, b, d) + relative_entropy_term(b, a, -d)


def stirling_remainder(x: FloatArray) -> FloatArray:
    """R(x) = ln Γ(x) - (x - 1/2) ln x + x - ln(2π)/2."""
    with np.errstate(all="ignore"):
        direct = scipy_special().gammaln(x) - (x - 0.5) * np.log(x) + x - 0.5 * np.log(2 * np.pi)
        series = sum((c * x**-m for m, c in STIRLING.items()), start=np.zeros_like(x))
    return np.where(x < STIRLING_FROM, direct, series)


def log_minus_digamma(x: FloatArray) -> FloatArray:
    """ln x - ψ(x) - 1/(2x), the derivative of -R(x)."""
    with np.errstate(all="ignore"):
        direct = np.log(x) - scipy_special().psi(x) - 0.5 / x
        series = sum((m * c * x ** (-m - 1) for m, c in STIRLING.items()), start=np.zeros_like(x))
    return np.where(x < STIRLING_FROM, direct, series)


def log_bessel_bregman(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """ln I0(b) - ln I0(a) - (I1/I0)(a)·(b - a) >= 0 for a, b >= 0.

    Both up to 80: ln E_a[exp(y)] with y = (b - a)(cos θ - E_a cos θ), that is log1p(E_a φ(y)), by the
    trapezoid rule, exact to rounding for periodic functions. Both from 40: the asymptotic series. Else they
    are far apart and the terms are subtracted, 1 - I1/I0 taken from the series where it is small.
    """
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    low, high = np.minimum(a, b), np.maximum(a, b)
    out = np.empty(a.shape)
    near = high <= _TRAPEZOID_TO
    large = ~near & (low >= _BESSEL_FROM)
    mixed = ~near & ~large
    if near.any():
        out[near] = _bessel_trapezoid(a[near], b[near])
    if large.any():
        x, y = a[large], b[large]
        t = log_ratio(x, y)
        out[large] = 0.5 * phi(t) + sum(c * power_bregman(m, x, y, t) for m, c in _BESSEL.items())
    if mixed.any():
        x, y = a[mixed], b[mixed]
        out[mixed] = _log_i0e(y) - _log_i0e(x) + (y - x) * _one_minus_bessel_ratio(x)
    return out


def _bessel_trapezoid(a: FloatArray, b: FloatArray) -> FloatArray:
    """The Bregman divergence of ln I0 as log1p(E φ(y)) over 49 nodes; (N,) -> (N,)."""
    weights = _TRAPEZOID * np.exp(-a[:, None] * _VERSINE)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = weights @ _VERSINE
    return np.asarray(np.log1p((weights * phi((a - b)[:, None] * (_VERSINE - mean[:, None]))).sum(axis=1)))


def _log_i0e(x: FloatArray) -> FloatArray:
    """ln(I0(x)·e^-x)."""
    return np.asarray(np.log(scipy_special().i0e(x)), np.float64)


def _one_minus_bessel_ratio(x: FloatArray) -> FloatArray:
    """1 - I1(x)/I0(x), which is about 1/(2x) for large x."""
    special = scipy_special()
    far = np.maximum(x, _BESSEL_FROM)
    series = 0.5 / far + sum(m * c * far ** (-m - 1) for m, c in _BESSEL.items())
    return np.where(x < _BESSEL_FROM, 1 - special.i1e(x) / special.i0e(x), series)


def scipy_special() -> Any:
    """scipy.special, or a clear message about the extra that brings it."""
    return library("scipy.special", "this closed form")
