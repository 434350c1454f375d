"""The non-negative terms that divergences in float64 are sums of, each accurate when its arguments nearly agree."""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import FloatArray

# φ(t) = t²·Σ t^k/(k+2)!, k = 0 … 16, for |t| <= 1: the first term left out is 2/19! = 1.6e-17 of the sum.
# Beyond 1 the subtraction in expm1(t) - t costs under one rounding of the result, at 0.5 nearly two.
_PHI_COEFFICIENTS = [1.0 / factorial(k + 2) for k in range(17)]


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
        return np.where(x > 0, np.where(np.abs(t) <= 1, x * phi(t), d - x * t), np.where(x == 0, y, np.nan))


def measure_kl(x: FloatArray, y: FloatArray, difference: FloatArray) -> FloatArray:
    """KL between the normalised measures x and y of the last axis; `difference` is y - x."""
    share_x, share_y, t = normalised_log_ratio(x, y, difference)
    impossible = ((x > 0) & (y == 0)).any(-1)  # however small the share is, which may underflow
    return np.where(impossible, np.inf, bregman_terms(share_x, share_y, t).sum(-1))


def _shares(x: FloatArray, exponent: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
    """x/Σx over the last axis and Σx/2^exponent, that of the greatest element: no other scale loses the least."""
    own = np.ldexp(x, -exponent)
    total = _total(own)
    return own / total, total


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
    own = np.frexp(np.stack([x.max(-1, keepdims=True), y.max(-1, keepdims=True)]))[1]
    (p, total_x), (q, total_y) = _shares(x, own[0]), _shares(y, own[1])
    size = np.where(abs(own[0] - own[1]) < 64, own.max(0), own)  # then the difference is scaled with them
    with np.errstate(over="ignore"):  # of a difference that is not used then
        x, y, difference = np.ldexp(x, -size[0]), np.ldexp(y, -size[1]), np.ldexp(difference, -size[0])
    both = (p > 0) & (q > 0)
    at = np.where(both, np.minimum(p, q), -1.0).argmax(-1)[..., None]  # a log-ratio of r that is large would be rounded
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
            totals = np.log(total_y) - np.log(total_x) + np.log(2.0) * (own[1] - own[0])
            t = np.where(gone, np.log(stored_y) - np.log(stored_x) - totals, t)
        return p, q, t


def bregman_terms(x: FloatArray, y: FloatArray, t: FloatArray) -> FloatArray:
    """x φ(t) = y - x - x t with t = ln(y/x) known better than x and y; y where x = 0."""
    with np.errstate(all="ignore"):
        return np.where(x > 0, np.where(np.abs(t) <= 1, x * phi(t), y - x - x * t), y)
