"""The C entry points, in the order of kullback.h, and nothing else: loops over rows start <= t < stop.

Threads are the caller's: rows are independent, so any split of [0, T) gives the same bits. An entry allocates nothing,
raises nothing, and answers with a status. Structures arrive as pointers to their 64-bit words, in the header's order.
Arguments have been checked (checks.py) before an entry is reached; what it does to one row stands in the row's room.
"""

import numpy as np
from numba import types

from .clipped import compare_clipped_row, write_clipped_acceptance, write_clipped_token, write_jensen_shannon
from .compare import compare_row, write_acceptance, write_statistics, write_token
from .decode import row_of
from .describe import describe_row, write_description, write_log_probs, write_log_softmax
from .divergences import write_divergence, write_gradient
from .estimates import write_phi
from .gradients import softmax_gradient_row, write_at_ids
from .lanes import kernel
from .memory import pointer
from .records import (
    STATE_BYTES,
    Divergence,
    Facts,
    Pair,
    PairState,
    PairStatistics,
    RowStatistics,
    Scales,
    Softmax,
    Target,
    record,
    record_at,
)
from .segments import write_segment
from .sparse import rest_mass
from .status import LOGS, OK, TOKEN, report
from .tokens import Cap, describe_tokens_row, kept_of, order_of


@kernel
def kullback_compare(p, q, tokens, vocab, space, inverse_temperature, out, start, stop, bad_row):
    result = record(PairStatistics)
    scales = record(Scales)
    facts = Facts(result, record(PairState), scales)
    full = out.entropy_p != 0 or out.entropy_q != 0 or tokens != 0
    for t in range(start, stop):
        pair = Pair(row_of(p, t), row_of(q, t), vocab, space, inverse_temperature)
        status, path = compare_row(pair, full, result, scales)
        if status != OK:
            return report(bad_row, t, status)
        write_statistics(result, out, t)
        if tokens != 0:
            v = pointer(tokens, types.int64)[t]
            if v >= vocab:
                return report(bad_row, t, TOKEN)
            write_token(pair, v, result, scales, out, t)
        if out.acceptance != 0:
            write_acceptance(pair, path, facts, out.acceptance, t)
    return OK


@kernel
def kullback_describe(
    x, tokens, tokens_per_row, vocab, space, inverse_temperature, out, log_probs, start, stop, bad_row
):
    result = record(RowStatistics)
    for t in range(start, stop):
        row = row_of(x, t)
        if out.entropy != 0:
            status = describe_row(row, vocab, space, inverse_temperature, True, result)
        else:
            status = describe_row(row, vocab, space, inverse_temperature, None, result)
        if status == OK:
            write_description(result, out, t)
            if tokens != 0:
                first = 8 * t * tokens_per_row
                status = write_log_probs(
                    row, tokens + first, tokens_per_row, vocab, space, inverse_temperature, result, log_probs + first
                )
        if status != OK:
            return report(bad_row, t, status)
    return OK


@kernel
def kullback_describe_tokens(
    x, tokens, tokens_per_row, kept_offsets, kept_ids, top_k, vocab, slope, limit, out, start, stop, bad_row
):
    result = record(RowStatistics)
    for t in range(start, stop):
        order, kept = order_of(tokens, tokens_per_row, top_k, out, t), kept_of(kept_offsets, kept_ids, t)
        status = describe_tokens_row(row_of(x, t), vocab, Cap(slope, limit), order, kept, out, result, t)
        if status != OK:
            return report(bad_row, t, status)
    return OK


@kernel
def kullback_log_softmax(x, vocab, inverse_temperature, out, wide, start, stop, bad_row):
    result = record(RowStatistics)
    for t in range(start, stop):
        row = row_of(x, t)
        describe_row(row, vocab, LOGS, inverse_temperature, None, result)
        if wide != 0:
            write_log_softmax(row, vocab, inverse_temperature, result, 0.0, out, t)
        else:
            write_log_softmax(row, vocab, inverse_temperature, result, np.float32(0.0), out, t)
    return OK


@kernel
def kullback_sum_segments(x, mask, lengths, length, sums, kept, unmasked, start, stop, bad_row):
    for t in range(start, stop):
        n = pointer(lengths, types.int64)[t] if lengths != 0 else length
        bytes_of_row = row_of(mask, t).address if mask.data != 0 else 0
        write_segment(row_of(x, t), n, bytes_of_row, sums, kept, unmasked, t)
    return OK


@kernel
def kullback_divergence(
    p, q, mask, vocab, space, inverse_temperature, kind, weight, first, second, out, state, start, stop, bad_row
):
    divergence = Divergence(kind, weight, first, second)
    facts = Facts(record(PairStatistics), record(PairState), record(Scales))
    for t in range(start, stop):
        if mask != 0 and pointer(mask, types.uint8)[t] == 0:
            pointer(out, types.float64)[t] = 0.0
            continue
        pair = Pair(row_of(p, t), row_of(q, t), vocab, space, inverse_temperature)
        status = write_divergence(pair, divergence, facts, out, state, t)
        if status != OK:
            return report(bad_row, t, status)
    return OK


@kernel
def kullback_divergence_gradient(
    p, q, weights, vocab, inverse_temperature, kind, weight, first, second, side, known, values, state, gradient,
    row_stride, storage, start, stop, bad_row,
):  # fmt: skip
    divergence = Divergence(kind, weight, first, second)
    work = record(PairStatistics)
    scales = record(Scales)
    for t in range(start, stop):
        pair = Pair(row_of(p, t), row_of(q, t), vocab, LOGS, inverse_temperature)
        facts = Facts(work, record_at(state + STATE_BYTES * t, PairState), scales)
        value = pointer(values + 8 * t, types.float64)
        own_weight = pointer(weights, types.float64)[t]
        target = Target(gradient + t * row_stride, storage, 0)
        write_gradient(pair, divergence, own_weight, side, known, value, facts, target)
    return OK


@kernel
def kullback_softmax_gradient(
    x, lse, entropy, top1, mass_weights, entropy_weights, offsets, ids, id_values, assign, add, vocab,
    inverse_temperature, gradient, row_stride, storage, start, stop, bad_row,
):  # fmt: skip
    for t in range(start, stop):
        address = gradient + t * row_stride
        entropy_weight, own_entropy = 0.0, 0.0
        if entropy_weights != 0:
            entropy_weight = pointer(entropy_weights, types.float64)[t]
            own_entropy = pointer(entropy, types.float64)[t]
        softmax = Softmax(pointer(lse, types.float64)[t], own_entropy, pointer(top1, types.int64)[t])
        mass_weight, target = pointer(mass_weights, types.float64)[t], Target(address, storage, add)
        softmax_gradient_row(row_of(x, t), vocab, inverse_temperature, softmax, mass_weight, entropy_weight, target)
        if offsets != 0:
            first, last = pointer(offsets, types.int64)[t], pointer(offsets, types.int64)[t + 1]
            status = write_at_ids(ids, id_values, first, last, vocab, assign, address, storage)
            if status != OK:
                return report(bad_row, t, status)
    return OK


@kernel
def kullback_rest_mass(x, lse, top1, offsets, ids, vocab, inverse_temperature, out, start, stop, bad_row):
    listed = pointer(ids, types.int64)
    for t in range(start, stop):
        first, last = pointer(offsets, types.int64)[t], pointer(offsets, types.int64)[t + 1]
        log_mass, top = pointer(lse, types.float64)[t], pointer(top1, types.int64)[t]
        rest = rest_mass(row_of(x, t), vocab, inverse_temperature, log_mass, top, listed, first, last)
        pointer(out, types.float64)[t] = rest
    return OK


@kernel
def kullback_phi(x, out, start, stop, bad_row):
    write_phi(x, out, start, stop)
    return OK


@kernel
def kullback_compare_clipped(p, q, tokens, vocab, window_p, window_q, room, out, jensen_shannon, start, stop, bad_row):
    result = record(PairStatistics)
    one = record(RowStatistics)
    for t in range(start, stop):
        row_p, row_q = row_of(p, t), row_of(q, t)
        lse_p, lse_q = compare_clipped_row(row_p, row_q, vocab, window_p, window_q, room, one, result)
        if jensen_shannon != 0:
            write_jensen_shannon(vocab, room, result, jensen_shannon, t)
        if out.acceptance != 0:
            write_clipped_acceptance(vocab, room, result, out.acceptance, t)
        write_statistics(result, out, t)
        if tokens != 0:
            v = pointer(tokens, types.int64)[t]
            if v >= vocab:
                return report(bad_row, t, TOKEN)
            write_clipped_token(row_p, row_q, v, lse_p, lse_q, out, t)
    return OK
