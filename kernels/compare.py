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
from .records import RowStatistics, record
from .rows import DONE, TOO_CLOSE, cumulant_row
from .separate import separate
from .status import LOGS, NEGATIVE_P, NEGATIVE_Q, OK, write_number


@kernel
def log_ratio(pair, v, gap, top_p, top_q, scales):
    """log p(v) - log q(v), where `gap` is lse_q - lse_p, or of logs that of what lies beside the greatest elements; NaN
    for a negative id and where both are impossible. `scales` are those of a pair of rows of masses."""
    if v < 0:
        return np.nan
    x, y = element(pair.p, v), element(pair.q, v)
    if pair.space == LOGS:
        return gap - apart(x, y, top_p, top_q, pair.k)
    if x > 0.0 and y > 0.0:
        return -mass_difference(x, y, gap, scales)
    return gap + (np.log(x) - np.log(y))


@kernel
def compare_row(pair, full, result, scales):
    """The statistics of one pair of rows, by the kernel that serves it; OK, NEGATIVE_P or NEGATIVE_Q.

    Of masses also their `scales`; entropies and what token log-probabilities need only if `full`.
    """
    p, q, vocab, space, k = pair
    double = p.storage == FLOAT64 or q.storage == FLOAT64
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
    if mass_pair(pair, True, full, result, scales) != NEGATIVE:
        return OK
    return NEGATIVE_P if mass_alone(p, vocab, record(RowStatistics)) == NEGATIVE else NEGATIVE_Q


@kernel
def write_statistics(result, out, t):
    """What is wanted of the statistics of pair t, each to its own array."""
    write_number(out.kl, t, result.kl)
    write_number(out.reverse_kl, t, result.reverse_kl)
    write_number(out.entropy_p, t, result.entropy_p)
    write_number(out.entropy_q, t, result.entropy_q)
    write_number(out.lse_p, t, result.lse_p)
    write_number(out.lse_q, t, result.lse_q)
    if out.top1_p != 0:
        pointer(out.top1_p, types.int64)[t] = np.int64(result.argmax_p)
    if out.top1_q != 0:
        pointer(out.top1_q, types.int64)[t] = np.int64(result.argmax_q)


@separate(types.none)
@kernel
def write_token(pair, v, result, scales, out, t):
    """Log-probabilities and log-ratio of the outcome v of a pair of rows whose statistics are known."""
    p, q, _, space, k = pair
    top_p, top_q = greatest(p, result.argmax_p), greatest(q, result.argmax_q)
    gap = result.beside_gap if space == LOGS else result.lse_gap
    if out.log_prob_p != 0:
        pointer(out.log_prob_p, types.float64)[t] = log_prob(p, v, space, k, result.beside_p, top_p)
    if out.log_prob_q != 0:
        pointer(out.log_prob_q, types.float64)[t] = log_prob(q, v, space, k, result.beside_q, top_q)
    if out.log_ratio != 0:
        pointer(out.log_ratio, types.float64)[t] = log_ratio(pair, v, gap, top_p, top_q, scales)
