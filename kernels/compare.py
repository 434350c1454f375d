"""The statistics of one pair of rows, by the kernel that serves it, and those of one outcome of it."""

import numpy as np
from numba import types

from .decode import FLOAT64, element
from .describe import greatest, log_prob
from .direct import direct_row, normalised_row
from .far import apart
from .lanes import kernel, pointer
from .masses import NEGATIVE, mass_alone
from .probabilities import mass_difference, mass_pair
from .rows import (
    ARGMAX_P,
    ARGMAX_Q,
    BESIDE_GAP,
    BESIDE_P,
    BESIDE_Q,
    DONE,
    LSE_GAP,
    TOO_CLOSE,
    cumulant_row,
)
from .status import LOGS, NEGATIVE_P, NEGATIVE_Q, OK

# words of a kullback_comparison: KL ... LSE_Q as in rows.py, then
TOP1_P, TOP1_Q, LOG_PROB_P, LOG_PROB_Q, LOG_RATIO = 6, 7, 8, 9, 10


@kernel
def log_ratio(p, q, v, space, k, gap, top_p, top_q, scales):
    """log p(v) - log q(v), where `gap` is lse_q - lse_p, or of logs that of what lies beside the greatest elements; NaN
    for a negative id and where both are impossible. `scales` are those of a pair of rows of masses."""
    if v < 0:
        return np.nan
    x, y = element(p, v), element(q, v)
    if space == LOGS:
        return gap - apart(x, y, top_p, top_q, k)
    if x > 0.0 and y > 0.0:
        return -mass_difference(x, y, gap, scales)
    return gap + (np.log(x) - np.log(y))


@kernel
def compare_row(p, q, vocab, space, k, full, result, scales):
    """The statistics of one pair of rows, by the kernel that serves it; OK, NEGATIVE_P or NEGATIVE_Q.

    Of masses also their `scales`; entropies and what token log-probabilities need only if `full`.
    """
    double = p[2] == FLOAT64 or q[2] == FLOAT64
    if space == LOGS:
        outcome = TOO_CLOSE
        if not double:
            outcome = cumulant_row(p, q, vocab, k, np.float32(0.0), result)
        if outcome == TOO_CLOSE:
            outcome = cumulant_row(p, q, vocab, k, 0.0, result)
        if outcome != DONE:
            served = not double and normalised_row(p, q, vocab, k, np.float32(0.0), result)
            if not served and not normalised_row(p, q, vocab, k, 0.0, result):
                direct_row(p, q, vocab, k, result)
        return OK
    if mass_pair(p, q, vocab, True, full, result, scales) != NEGATIVE:
        return OK
    return NEGATIVE_P if mass_alone(p, vocab, result) == NEGATIVE else NEGATIVE_Q


@kernel
def write_statistics(result, out, t):
    """What is wanted of the statistics of pair t, each to its own array."""
    for i in range(6):
        if out[i] != 0:
            pointer(out[i], types.float64)[t] = result[i]
    if out[TOP1_P] != 0:
        pointer(out[TOP1_P], types.int64)[t] = np.int64(result[ARGMAX_P])
    if out[TOP1_Q] != 0:
        pointer(out[TOP1_Q], types.int64)[t] = np.int64(result[ARGMAX_Q])


@kernel
def write_token(p, q, v, space, k, result, scales, out, t):
    """Log-probabilities and log-ratio of the outcome v of a pair of rows whose statistics are known."""
    top_p, top_q = greatest(p, result[ARGMAX_P]), greatest(q, result[ARGMAX_Q])
    gap = result[BESIDE_GAP] if space == LOGS else result[LSE_GAP]
    if out[LOG_PROB_P] != 0:
        pointer(out[LOG_PROB_P], types.float64)[t] = log_prob(p, v, space, k, result[BESIDE_P], top_p)
    if out[LOG_PROB_Q] != 0:
        pointer(out[LOG_PROB_Q], types.float64)[t] = log_prob(q, v, space, k, result[BESIDE_Q], top_q)
    if out[LOG_RATIO] != 0:
        pointer(out[LOG_RATIO], types.float64)[t] = log_ratio(p, q, v, space, k, gap, top_p, top_q, scales)
