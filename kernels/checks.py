"""What an entry point asks of its arguments before it reads a row or writes a result: one function for each of them.

Each takes all arguments of its entry and answers (status, row). What C cannot tell is not asked: how long arrays are.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .decode import takes_gradients
from .kinds.registry import has_gradient, is_valid
from .lanes import kernel
from .memory import pointer
from .segments import summable
from .status import ARGUMENT, LOGS, OK, TOKEN, readable


@intrinsic
def given(typingctx, structure):
    """True where a pointer to a structure is not null."""

    def codegen(context, builder, signature, args):
        return builder.icmp_unsigned("!=", builder.ptrtoint(args[0], ir.IntType(64)), ir.Constant(ir.IntType(64), 0))

    return types.boolean(structure), codegen


@kernel
def answer(good, start):
    return (OK if good else ARGUMENT), start


@kernel
def rows_of_logs(x, vocab, inverse_temperature, start, stop):
    """True for rows that can be read, at a temperature there is, and a range of them."""
    return given(x) and readable(x, vocab, LOGS) and 0.0 < inverse_temperature < np.inf and valid_range(start, stop)


@kernel
def valid_range(start, stop):
    return start >= 0 or start >= stop


@kernel
def misplaced_top(lse, top1, vocab, start, stop):
    """The first row whose greatest element lies outside it, else `stop`; of a row without a mass it is not read."""
    for t in range(start, stop):
        defined = abs(pointer(lse, types.float64)[t]) < np.inf
        if defined and not 0 <= pointer(top1, types.int64)[t] < vocab:
            return t
    return stop


@kernel
def check_compare(p, q, tokens, vocab, space, inverse_temperature, out, start, stop, bad_row):
    if not (given(p) and given(q) and given(out)):
        return ARGUMENT, start
    good = readable(p, vocab, space) and readable(q, vocab, space) and 0.0 < inverse_temperature < np.inf
    wanted = out.log_prob_p != 0 or out.log_prob_q != 0 or out.log_ratio != 0
    return answer(good and valid_range(start, stop) and (tokens != 0 or not wanted), start)


@kernel
def check_compare_clipped(
    p, q, tokens, vocab, window_p, window_q, room, out, jensen_shannon, start, stop, bad_row
):  # fmt: skip
    if not (given(p) and given(q) and given(out)):
        return ARGUMENT, start
    good = readable(p, vocab, LOGS) and readable(q, vocab, LOGS) and room != 0
    wanted = out.log_prob_p != 0 or out.log_prob_q != 0 or out.log_ratio != 0
    good = good and window_p >= 0.0 and window_q >= 0.0
    return answer(good and valid_range(start, stop) and (tokens != 0 or not wanted), start)


@kernel
def check_describe(
    x, tokens, tokens_per_row, vocab, space, inverse_temperature, out, log_probs, start, stop, bad_row
):  # fmt: skip
    if not (given(x) and given(out)):
        return ARGUMENT, start
    good = readable(x, vocab, space) and 0.0 < inverse_temperature < np.inf and valid_range(start, stop)
    both = (tokens != 0 and log_probs != 0) or tokens_per_row == 0
    return answer(good and tokens_per_row >= 0 and both, start)


@kernel
def check_describe_tokens(
    x, tokens, tokens_per_row, kept_offsets, kept_ids, top_k, vocab, slope, limit, out, start, stop, bad_row
):
    if not given(out):
        return ARGUMENT, start
    good = rows_of_logs(x, vocab, slope, start, stop) and 0.0 <= limit < np.inf
    good = good and (tokens_per_row == 0 or (tokens_per_row > 0 and tokens != 0))
    good = good and (kept_offsets == 0 or kept_ids != 0)
    return answer(good and (top_k == 0 or (top_k > 0 and out.top_ids != 0 and out.top_log_probs != 0)), start)


@kernel
def check_log_softmax(x, vocab, inverse_temperature, out, wide, start, stop, bad_row):
    return answer(rows_of_logs(x, vocab, inverse_temperature, start, stop) and out != 0, start)


@kernel
def check_sum_segments(x, mask, lengths, length, sums, kept, unmasked, start, stop, bad_row):
    if not (given(x) and given(mask)):
        return ARGUMENT, start
    good = summable(x) and x.data != 0 and valid_range(start, stop)
    if not (good and sums != 0 and kept != 0 and unmasked != 0 and (lengths != 0 or length >= 0)):
        return ARGUMENT, start
    if lengths != 0:
        for t in range(start, stop):
            if pointer(lengths, types.int64)[t] < 0:
                return ARGUMENT, t
    return OK, start


@kernel
def check_divergence(
    p, q, mask, vocab, space, inverse_temperature, kind, weight, first, second, out, state, start, stop, bad_row
):
    if not (given(p) and given(q)):
        return ARGUMENT, start
    good = readable(p, vocab, space) and readable(q, vocab, space) and 0.0 < inverse_temperature < np.inf
    return answer(
        good and is_valid(kind, space, weight, first, second) and out != 0 and valid_range(start, stop), start
    )


@kernel
def check_divergence_gradient(
    p, q, weights, vocab, inverse_temperature, kind, weight, first, second, side, known, values, state, gradient,
    row_stride, storage, start, stop, bad_row,
):  # fmt: skip
    good = rows_of_logs(p, vocab, inverse_temperature, start, stop)
    good = good and rows_of_logs(q, vocab, inverse_temperature, start, stop)
    good = good and weights != 0 and values != 0 and state != 0 and gradient != 0
    good = good and has_gradient(kind, side, known, weight, first, second)
    good = good and 0 <= side <= 1 and takes_gradients(storage)
    return answer(good, start)


@kernel
def check_softmax_gradient(
    x, lse, entropy, top1, mass_weights, entropy_weights, offsets, ids, id_values, assign, add, vocab,
    inverse_temperature, gradient, row_stride, storage, start, stop, bad_row,
):  # fmt: skip
    good = rows_of_logs(x, vocab, inverse_temperature, start, stop) and takes_gradients(storage)
    good = good and lse != 0 and top1 != 0 and mass_weights != 0 and gradient != 0
    good = good and (entropy_weights == 0 or entropy != 0) and (offsets == 0 or (ids != 0 and id_values != 0))
    if not good:
        return ARGUMENT, start
    t = misplaced_top(lse, top1, vocab, start, stop)
    return answer(t >= stop, t if t < stop else start)


@kernel
def check_rest_mass(x, lse, top1, offsets, ids, vocab, inverse_temperature, out, start, stop, bad_row):
    good = rows_of_logs(x, vocab, inverse_temperature, start, stop)
    if not (good and lse != 0 and top1 != 0 and offsets != 0 and ids != 0 and out != 0):
        return ARGUMENT, start
    t = misplaced_top(lse, top1, vocab, start, stop)
    if t < stop:
        return ARGUMENT, t
    for t in range(start, stop):
        before = -1
        first, last = pointer(offsets, types.int64)[t], pointer(offsets, types.int64)[t + 1]
        if first > last:
            return TOKEN, t
        for i in range(first, last):
            if not before < pointer(ids, types.int64)[i] < vocab:
                return TOKEN, t
            before = pointer(ids, types.int64)[i]
    return OK, start


@kernel
def check_phi(x, out, start, stop, bad_row):
    return answer(x != 0 and out != 0 and valid_range(start, stop), start)
