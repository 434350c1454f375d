"""The entry points: serial loops over rows [start, stop), one C function each, declared in kullback.h.

Threads are the caller's: rows are independent, so any split of [0, T) gives the same bits. An entry allocates nothing,
raises nothing, and answers with a status. Structures arrive as pointers to their 64-bit words, in the header's order.
"""

import math

import numpy as np
from numba import types

from .clipped import hidden_value, jensen_shannon_of_kept, write_kept, write_known
from .cumulants import in_reach
from .decode import AFFINE16, FLOAT32, FLOAT64, NO_LOG, element, is_storage, row_of, view
from .direct import direct_row, normalised_row
from .divergences import kullback_divergence, phi  # noqa: F401 (an entry point too)
from .estimates import kullback_phi  # noqa: F401 (an entry point too)
from .far import ARGMAX, BESIDE, ENTROPY, GREATEST, LSE, apart, below, far_row
from .gradients import kullback_divergence_gradient, kullback_softmax_gradient  # noqa: F401 (entry points too)
from .lanes import fma, kernel, load, pointer, splat, stack, store, width
from .masses import NEGATIVE, mass_alone, mass_log_prob
from .probabilities import mass_difference, mass_pair
from .rows import (
    ARGMAX_P,
    ARGMAX_Q,
    BESIDE_GAP,
    BESIDE_P,
    BESIDE_Q,
    DONE,
    ENTROPY_P,
    ENTROPY_Q,
    KL,
    LSE_GAP,
    LSE_P,
    LSE_Q,
    REVERSE_KL,
    TOO_CLOSE,
    cumulant_row,
)
from .segments import kullback_sum_segments  # noqa: F401 (an entry point too)
from .single import log_row
from .sparse import kullback_rest_mass  # noqa: F401 (an entry point too)
from .tokens import kullback_describe_tokens  # noqa: F401 (an entry point too)

OK, NEGATIVE_P, NEGATIVE_Q, TOKEN, ARGUMENT = 0, 1, 2, 3, 4
LOGS, MASSES = 0, 1

# words of a kullback_comparison: KL ... LSE_Q as in rows.py, then
TOP1_P, TOP1_Q, LOG_PROB_P, LOG_PROB_Q, LOG_RATIO = 6, 7, 8, 9, 10


@kernel
def valid_array(array, vocab, space):
    return (
        array[0] != 0
        and vocab >= 1
        and is_storage(array[4])
        and LOGS <= space <= MASSES
        and not (array[4] == AFFINE16 and space == MASSES)
    )


@kernel
def report(bad_row, t, status):
    if bad_row != 0:
        pointer(bad_row, types.int64)[0] = t
    return status


@kernel
def greatest(row, top1):
    """The element `top1` of a row; NaN for none."""
    return element(row, np.int64(top1)) if top1 >= 0.0 else np.nan


@kernel
def log_prob(row, v, space, k, beside, top):
    """The log-probability of outcome v of a row; NaN for a negative (ignored) id.

    It is found from the greatest element, NaN where the row is undefined, and the log of the mass relative to that.
    """
    if v < 0 or top != top:
        return np.nan
    x = element(row, v)
    return below(x, top, k) - beside if space == LOGS else mass_log_prob(row, v, top, beside)


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
def kullback_compare(p, q, tokens, vocab, space, inverse_temperature, out, start, stop, bad_row):
    if not (valid_array(p, vocab, space) and valid_array(q, vocab, space)):
        return report(bad_row, start, ARGUMENT)
    result = stack(12, 0.0)
    scales = stack(8, 0.0)
    full = out[ENTROPY_P] != 0 or out[ENTROPY_Q] != 0 or tokens != 0
    for t in range(start, stop):
        row_p = row_of(p, t)
        row_q = row_of(q, t)
        status = compare_row(row_p, row_q, vocab, space, inverse_temperature, full, result, scales)
        if status != OK:
            return report(bad_row, t, status)
        write_statistics(result, out, t)
        if tokens != 0:
            v = pointer(tokens, types.int64)[t]
            if v >= vocab:
                return report(bad_row, t, TOKEN)
            write_token(row_p, row_q, v, space, inverse_temperature, result, scales, out, t)
    return OK


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


@kernel
def describe_row(row, vocab, space, k, entropy, result):
    """The statistics of one row (of logs ENTROPY may be NaN where `entropy` is None; of masses all but GREATEST); OK or
    NEGATIVE_P."""
    if space == MASSES:
        return NEGATIVE_P if mass_alone(row, vocab, result) == NEGATIVE else OK
    if row[2] == FLOAT64:
        served = log_row(row, vocab, k, 0.0, entropy, result)
    else:
        served = log_row(row, vocab, k, np.float32(0.0), entropy, result)
    if not served:
        far_row(row, vocab, k, None, result)
    return OK


@kernel
def kullback_describe(
    x, tokens, tokens_per_row, vocab, space, inverse_temperature, out, log_probs, start, stop, bad_row
):
    if not valid_array(x, vocab, space) or (tokens != 0 and log_probs == 0):
        return report(bad_row, start, ARGUMENT)
    result = stack(5, 0.0)
    for t in range(start, stop):
        row = row_of(x, t)
        if out[ENTROPY] != 0:
            status = describe_row(row, vocab, space, inverse_temperature, True, result)
        else:
            status = describe_row(row, vocab, space, inverse_temperature, None, result)
        if status != OK:
            return report(bad_row, t, status)
        if out[LSE] != 0:
            pointer(out[LSE], types.float64)[t] = result[LSE]
        if out[ENTROPY] != 0:
            pointer(out[ENTROPY], types.float64)[t] = result[ENTROPY]
        if out[ARGMAX] != 0:
            pointer(out[ARGMAX], types.int64)[t] = np.int64(result[ARGMAX])
        if tokens != 0:
            for i in range(t * tokens_per_row, (t + 1) * tokens_per_row):
                v = pointer(tokens, types.int64)[i]
                if v >= vocab:
                    return report(bad_row, t, TOKEN)
                value = log_prob(row, v, space, inverse_temperature, result[BESIDE], greatest(row, result[ARGMAX]))
                pointer(log_probs, types.float64)[i] = value
    return OK


@kernel
def describe_known(row, vocab, hidden, room, result):
    """LSE, ENTROPY (-Σ p·ln p) and ARGMAX of what a row tells; what must be subtracted to normalise it."""
    if row[2] != AFFINE16:
        describe_row(row, vocab, LOGS, 1.0, True, result)
        return result[LSE]
    write_known(row, vocab, hidden, room)
    describe_row((room, 4, FLOAT32), vocab, LOGS, 1.0, True, result)
    result[ENTROPY] = math.exp(result[LSE]) * (result[ENTROPY] - result[LSE])
    return 0.0


@kernel
def compare_clipped_row(p, q, vocab, window_p, window_q, room, one, result):
    """The statistics of a pair of rows of which one holds codes at least; what normalises them is the answer."""
    hidden_p, hidden_q = hidden_value(p, window_p), hidden_value(q, window_q)
    lse_p = describe_known(p, vocab, hidden_p, room, one)
    known_p, entropy_p, top_p = one[LSE], one[ENTROPY], one[ARGMAX]
    lse_q = describe_known(q, vocab, hidden_q, room, one)
    known_q, entropy_q, top_q = one[LSE], one[ENTROPY], one[ARGMAX]
    other = room + 4 * vocab
    write_kept(p, q, vocab, lse_p, lse_q, hidden_p, hidden_q, room, other)
    scales = stack(8, 0.0)  # of masses, which these are not
    compare_row((room, 4, FLOAT32), (other, 4, FLOAT32), vocab, LOGS, 1.0, True, result, scales)
    gap = result[LSE_Q] - result[LSE_P]
    if top_p >= 0.0 and top_q >= 0.0:
        result[KL] = math.exp(result[LSE_P]) * (result[KL] + phi(gap))
        result[REVERSE_KL] = math.exp(result[LSE_Q]) * (result[REVERSE_KL] + phi(-gap))
    else:
        result[KL], result[REVERSE_KL] = np.nan, np.nan
    result[LSE_P], result[ENTROPY_P], result[ARGMAX_P] = known_p, entropy_p, top_p
    result[LSE_Q], result[ENTROPY_Q], result[ARGMAX_Q] = known_q, entropy_q, top_q
    return lse_p, lse_q


@kernel
def kullback_compare_clipped(p, q, tokens, vocab, window_p, window_q, room, out, jensen_shannon, start, stop, bad_row):
    if not (valid_array(p, vocab, LOGS) and valid_array(q, vocab, LOGS)) or room == 0:
        return report(bad_row, start, ARGUMENT)
    result = stack(12, 0.0)
    one = stack(5, 0.0)
    for t in range(start, stop):
        row_p, row_q = row_of(p, t), row_of(q, t)
        lse_p, lse_q = compare_clipped_row(row_p, row_q, vocab, window_p, window_q, room, one, result)
        if jensen_shannon != 0:
            defined = result[KL] == result[KL]
            value = jensen_shannon_of_kept(room, room + 4 * vocab, vocab) if defined else np.nan
            pointer(jensen_shannon, types.float64)[t] = value
        write_statistics(result, out, t)
        if tokens != 0:
            v = pointer(tokens, types.int64)[t]
            if v >= vocab:
                return report(bad_row, t, TOKEN)
            x = log_prob(row_p, v, LOGS, 1.0, lse_p, 0.0)
            y = log_prob(row_q, v, LOGS, 1.0, lse_q, 0.0)
            if out[LOG_PROB_P] != 0:
                pointer(out[LOG_PROB_P], types.float64)[t] = x
            if out[LOG_PROB_Q] != 0:
                pointer(out[LOG_PROB_Q], types.float64)[t] = y
            if out[LOG_RATIO] != 0:
                pointer(out[LOG_RATIO], types.float64)[t] = x - y
    return OK


@kernel
def write_log_softmax(row, vocab, k, beside, top, out, scratch):
    """k·(a - top) - beside for one row, into `out`, in lanes of scratch's type."""
    like = scratch[0]
    lanes = width(like)
    ordinary = in_reach(k, like) and abs(top) < 1e30
    for start in range(0, vocab, 2048):
        n = min(2048, vocab - start)
        a = view(row, start, n, scratch, NO_LOG)
        whole = n - n % lanes if ordinary else 0
        for i in range(0, whole, lanes):
            store(out, start + i, fma(load(a, i, like) - splat(top, like), splat(k, like), splat(-beside, like)))
        for i in range(whole, n):
            out[start + i] = below(np.float64(a[i]), top, k) - beside


@kernel
def kullback_log_softmax(x, vocab, inverse_temperature, out, wide, start, stop, bad_row):
    if not valid_array(x, vocab, LOGS) or out == 0:
        return report(bad_row, start, ARGUMENT)
    result = stack(5, 0.0)
    room = stack(2048, np.float32(0.0))
    wide_room = stack(2048, 0.0)
    k = inverse_temperature
    for t in range(start, stop):
        row = row_of(x, t)
        describe_row(row, vocab, LOGS, k, None, result)
        beside, top = result[BESIDE], result[GREATEST]  # NaN where the row is undefined
        if wide != 0:
            write_log_softmax(row, vocab, k, beside, top, pointer(out + 8 * t * vocab, types.float64), wide_room)
        else:
            write_log_softmax(row, vocab, k, beside, top, pointer(out + 4 * t * vocab, types.float32), room)
    return OK
