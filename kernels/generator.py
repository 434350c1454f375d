"""Σ q·f(p/q) for a user's own f: a scalar loop that Numba compiles around it, the one kernel that is never built ahead.

Normalisers come from `kullback_divergence`, so this file needs nothing of the vector kernels and compiles in a second.
"""

import functools
import math

import numpy as np
from numba import njit, types

from .contract import structure
from .decode import element, row_of
from .far import apart, below
from .ladder import DISTANT, UNDEFINED
from .memory import pointer
from .records import STATE_BYTES, PairState, record_at
from .status import LOGS

ARRAY = structure("kullback_array")


@functools.lru_cache(maxsize=32)
def driver(generator):
    """The loop over rows for one compiled `generator`: rows(p, q, state, vocab, space, k, slope, out, start, stop).

    It answers 0, or t + 1 for the first row t in which q = 0 < p met a slope of NaN.
    """

    @njit(nogil=True, error_model="numpy")
    def rows(p, q, state, vocab, space, k, slope, out, start, stop):
        for t in range(start, stop):
            row_p = row_of(record_at(p, ARRAY), t)
            row_q = row_of(record_at(q, ARRAY), t)
            of_row = record_at(state + STATE_BYTES * t, PairState)
            total = 0.0
            for v in range(vocab):
                x, y = element(row_p, v), element(row_q, v)
                if space == LOGS:
                    no_p, no_q = x == -np.inf, y == -np.inf
                    log_p = below(x, of_row.greatest_p, k) - of_row.log_mass_p
                    log_q = below(y, of_row.greatest_q, k) - of_row.log_mass_q
                    d = apart(x, y, of_row.greatest_p, of_row.greatest_q, k)
                    d -= of_row.gap if of_row.path == DISTANT else of_row.log_mass_q - of_row.log_mass_p
                else:
                    no_p, no_q = x == 0.0, y == 0.0
                    log_p = math.log(x) - of_row.log_mass_p
                    near = not no_p and 0.5 * x < y < 2.0 * x
                    d = (math.log1p((y - x) / x) if near else math.log(y) - math.log(x)) - of_row.gap
                    log_q = math.log(y) - of_row.gap - of_row.log_mass_p if no_p else log_p + d
                if no_p and no_q:
                    continue
                if no_q:
                    if slope != slope:
                        return t + 1
                    total += math.exp(log_p) * slope
                elif no_p:
                    total += math.exp(log_q) * generator(0.0)
                else:
                    total += math.exp(log_q) * generator(math.exp(-d))
            pointer(out, types.float64)[t] = np.nan if of_row.path >= UNDEFINED else total
        return 0

    return rows
