"""Terms of entropies and divergences, one number or one pair of numbers at a time, in float64.

Close numbers take no logarithm: with s = (x-y)/(x+y), ln(x/y) = 2 atanh(s) = 2s·(1 + s²/3 + s⁴/5 + ...), of which 18
terms reach the last bit for x/y in [1/2, 2], where |s| <= 1/3. Elsewhere ln(x/y) is far from 0 and loses nothing.
"""

import math

import numpy as np
from numba import njit

_TINY = np.finfo(np.float64).tiny
_HUGE = 2.0**1020  # sums of greater numbers may overflow
_FEW = 8  # terms that do for |s| <= 1/16
_MANY = 18
_ODD_FEW, _EVEN_FEW, _ODD_MANY, _EVEN_MANY = (
    tuple(1.0 / (2 * k + 1) for k in range(count - odd, 0, -2)) for count in (_FEW, _MANY) for odd in (1, 0)
)


@njit(error_model="numpy", fastmath={"contract"})
def _close_ratio(x, y):
    """(s, s²/3 + s⁴/5 + ...)."""
    scale = 0.5 if max(x, y) > _HUGE else 1.0
    s = (scale * x - scale * y) / (scale * x + scale * y)
    square = s * s
    fourth = square * square
    odd = even = 0.0  # two chains of half the latency
    if square <= 1.0 / 256.0:
        for i in range(_FEW // 2):
            odd = odd * fourth + _ODD_FEW[i]
            even = even * fourth + _EVEN_FEW[i]
    else:
        for i in range(_MANY // 2):
            odd = odd * fourth + _ODD_MANY[i]
            even = even * fourth + _EVEN_MANY[i]
    return s, square * (odd + even * square)


@njit(error_model="numpy", fastmath={"contract"})
def _log_ratio(x, y):
    """ln(x/y), where x/y may leave the range of float64."""
    ratio = x / y
    return math.log(ratio) if _TINY <= ratio < np.inf else math.log(x) - math.log(y)


@njit(error_model="numpy", fastmath={"contract"})
def _is_close(x, y):
    return x <= 2.0 * y and y <= 2.0 * x and x < np.inf and y < np.inf


@njit(error_model="numpy", fastmath={"contract"}, nogil=True)
def entr(x, out):
    """-x ln x; 0 at 0 and -inf below it."""
    for i in range(x.shape[0]):
        if x[i] > 0.0:
            out[i] = -x[i] * math.log(x[i])
        else:
            out[i] = 0.0 if x[i] == 0.0 else -np.inf if x[i] < 0.0 else np.nan


@njit(error_model="numpy", fastmath={"contract"})
def _outside(x, y, without_x):
    """The term where not both are positive."""
    if math.isnan(x) or math.isnan(y):
        return np.nan
    return without_x if x == 0.0 and y >= 0.0 else np.inf


@njit(error_model="numpy", fastmath={"contract"}, nogil=True)
def rel_entr(x, y, out):
    """x ln(x/y)."""
    for i in range(x.shape[0]):
        a, b = x[i], y[i]
        if not (a > 0.0 and b > 0.0):
            out[i] = _outside(a, b, 0.0)
        elif _is_close(a, b):
            s, series = _close_ratio(a, b)
            out[i] = a * (2.0 * (s + s * series))
        else:
            out[i] = a * _log_ratio(a, b)


@njit(error_model="numpy", fastmath={"contract"}, nogil=True)
def kl_div(x, y, out):
    """x ln(x/y) - x + y; close numbers: x - y = s·(x + y), so (y - x)·(-s) + 2x·s·series."""
    for i in range(x.shape[0]):
        a, b = x[i], y[i]
        if not (a > 0.0 and b > 0.0):
            out[i] = _outside(a, b, b)
        elif _is_close(a, b):
            s, series = _close_ratio(a, b)
            out[i] = (a - b) * s + a * (2.0 * (s * series))
        elif math.isinf(a) != math.isinf(b):
            out[i] = np.inf
        else:
            out[i] = (b - a) + a * _log_ratio(a, b)
