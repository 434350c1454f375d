"""The non-negative terms that closed forms are sums of, each accurate when its arguments nearly agree."""

from __future__ import annotations

from fractions import Fraction
from math import factorial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

EULER_GAMMA = 0.5772156649015329

# φ(t) = t²·Σ t^k/(k+2)!, k = 0 … 16, for |t| <= 1: the first term left out is 2/19! = 1.6e-17 of the sum.
# Beyond 1 the subtraction in expm1(t) - t costs under one rounding of the result, at 0.5 nearly two.
_PHI_COEFFICIENTS = [1.0 / factorial(k + 2) for k in range(17)]

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


def phi(t: ArrayLike) -> FloatArray:
    """Return φ(t) = exp(t) - 1 - t, which is never negative, to within 2 units in the last place."""
    t = np.asarray(t, dtype=np.float64)
    series: FloatArray = np.full(t.shape, _PHI_COEFFICIENTS[-1])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for coefficient in reversed(_PHI_COEFFICIENTS[:-1]):
            series *= t
            series += coefficient
        series *= t
        series *= t
        far = ~(np.abs(t) <= 1)
        if far.any():
            beyond = t[far]
            series[far] = np.where(beyond == np.inf, np.inf, np.expm1(beyond) - beyond)
    return np.asarray(series)


def log_ratio(x: ArrayLike, y: ArrayLike, difference: ArrayLike | None = None) -> FloatArray:
    """ln(y/x) for x, y >= 0; `difference` is y - x when the caller knows it better than the subtraction."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    d = y - x if difference is None else np.asarray(difference, np.float64)
    with np.errstate(all="ignore"):
        u, ratio = d / x, y / x
        far = np.where((ratio > 1e-300) & (ratio < 1e300), np.log(ratio), np.log(y) - np.log(x))
        return np.asarray(np.where(np.abs(u) <= 0.5, np.log1p(u), far), np.float64)


def two_product(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """x·y and its rounding error, by Dekker's splitting."""
    x_high = x * 134217729.0 - (x * 134217729.0 - x)
    y_high = y * 134217729.0 - (y * 134217729.0 - y)
    x_low, y_low = x - x_high, y - y_high
    product = x * y
    return product, x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)


def log_product(x: FloatArray, y: FloatArray) -> FloatArray:
    """ln(x·y) for x, y > 0, accurate when the product is close to 1."""
    product, error = two_product(x, y)
    with np.errstate(all="ignore"):
        near = np.log1p((product - 1) + error)
        return np.where(np.abs(product - 1) <= 0.5, near, np.log(x) + np.log(y))


def relative_entropy_term(x: ArrayLike, y: ArrayLike, difference: ArrayLike | None = None) -> FloatArray:
    """x ln(x/y) - x + y = x·φ(ln(y/x)) for x, y >= 0; y where x = 0, inf where only y = 0."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    d = y - x if difference is None else np.asarray(difference, np.float64)
    t = log_ratio(x, y, d)
    with np.errstate(all="ignore"):
        return np.where(x > 0, np.where(np.abs(t) <= 1, x * phi(t), d - x * t), y)


def measure_kl(x: FloatArray, y: FloatArray, difference: FloatArray) -> FloatArray:
    """KL between the normalised measures x and y of the last axis; `difference` is y - x."""
    share_x, share_y, t = normalised_log_ratio(x, y, difference)
    impossible = ((x > 0) & (y == 0)).any(-1)  # however small the share is, which may underflow
    return np.where(impossible, np.inf, bregman_terms(share_x, share_y, t).sum(-1))


def _total(x: FloatArray) -> FloatArray:
    """Σx over the last axis, kept. Its rounding is in every t, and that of NumPy's sum goes by the layout."""
    return np.asarray(np.sum(x, -1, dtype=np.longdouble, keepdims=True), np.float64)


def normalised_log_ratio(
    x: FloatArray, y: FloatArray, difference: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """P, Q and ln(Q/P) for measures on the last axis, of any size; `difference` is y - x.

    ln(Q/P) is taken against that of one outcome r, ln(1 + (y_i·x_r - x_i·y_r)/(x_i·y_r)), whose numerator is exact,
    and r's own is -ln(1 + Σ P (exp(t) - 1)): nothing cancels however close P and Q are and however far the totals.
    """
    x, y, difference = np.broadcast_arrays(x, y, difference)
    stored_x, stored_y = x, y
    size = np.frexp(np.stack([x.max(-1, keepdims=True), y.max(-1, keepdims=True)]))[1]
    size = np.where(abs(size[0] - size[1]) < 64, size.max(0), size)  # then the difference is scaled with them
    with np.errstate(over="ignore"):  # of a difference that is not used then
        x, y, difference = np.ldexp(x, -size[0]), np.ldexp(y, -size[1]), np.ldexp(difference, -size[0])
    total_x, total_y = _total(x), _total(y)
    p, q = x / total_x, y / total_y
    both = (p > 0) & (q > 0)
    at = np.where(both, p, -1.0).argmax(-1)[..., None]
    x_r, y_r, d_r, p_r, q_r = (np.take_along_axis(a, at, -1) for a in (x, y, difference, p, q))
    with np.errstate(all="ignore"):
        close = (size[0] == size[1]) & (np.abs(difference) <= x / 2) & (np.abs(d_r) <= x_r / 2)
        up, up_error = two_product(np.where(close, difference, y), x_r)
        down, down_error = two_product(x, np.where(close, d_r, y_r))
        rise = ((up - down) + (up_error - down_error)) / (x * y_r)
        t = np.where(np.abs(rise) <= 0.5, np.log1p(rise), log_ratio(x, y) - log_ratio(x_r, y_r))
        # far from the outcome r exp(t) has the rounding of a large t, which q itself has not
        far = np.where(both, q * (p_r / q_r) - p, np.where(p > 0, -p, q * (p_r / q_r)))
        terms = np.where(both & (np.abs(rise) <= 0.5), p * np.expm1(t), far)
        excess = _total(terms)
        t_r = np.where(np.abs(excess) <= 0.5, -np.log1p(excess), np.log(q_r) - np.log(p_r))
        t = np.where(both, t + t_r, np.log(q) - np.log(p))
        # a share may be below the normal numbers; its logarithm is not
        gone = (stored_x > 0) & (stored_y > 0) & (np.minimum(x, y) < 1e-300)
        if gone.any():
            totals = np.log(total_y) - np.log(total_x) + np.log(2.0) * (size[1] - size[0])
            t = np.where(gone, np.log(stored_y) - np.log(stored_x) - totals, t)
        return p, q, t


def bregman_terms(x: FloatArray, y: FloatArray, t: FloatArray) -> FloatArray:
    """x φ(t) = y - x - x t with t = ln(y/x) known better than x and y; y where x = 0."""
    with np.errstate(all="ignore"):
        return np.where(x > 0, np.where(np.abs(t) <= 1, x * phi(t), y - x - x * t), y)


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
    try:
        from scipy import special
    except ImportError as error:
        raise ImportError("this closed form needs SciPy: pip install kullback[stats]") from error
    return special
