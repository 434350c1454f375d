"""The statistics of one pair of rows and those of one outcome of it, written where they are wanted."""

import numpy as np
from numba import types

from .acceptance import acceptance
from .decode import element
from .describe import greatest, log_prob
from .far import apart
from .ladder import NEGATIVE_MASS, STATISTICS, alone_too, negative_side, serve_pair
from .lanes import kernel
from .memory import pointer
from .probabilities import mass_difference
from .separate import separate
from .status import LOGS, MASSES, OK, write_number


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
    """The statistics of one pair of rows: (OK, NEGATIVE_P or NEGATIVE_Q, how it is read).

    Of masses also their `scales`; their entropies and what token log-probabilities need only if `full`.
    """
    path = serve_pair(pair, STATISTICS, True, result, scales)
    if path == NEGATIVE_MASS:
        return negative_side(pair), path
    if full and pair.space == MASSES:
        alone_too(pair, result)
    return OK, path


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
def write_acceptance(pair, path, facts, out, t):
    """Σ min(p, q) of a pair of rows whose statistics, which may change, were served by `path`."""
    pointer(out, types.float64)[t] = acceptance(pair, path, facts)


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
