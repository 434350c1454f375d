"""One pair of rows -> its divergence of any kind, and that one's gradient, written where they are wanted."""

import numpy as np
from numba import types

from .encode import fill
from .kinds.registry import divergence_row, exchanged, gradient_row
from .lanes import kernel, pointer
from .masses import NEGATIVE, mass_alone
from .pairs import NEGATIVE_MASS
from .records import STATE_BYTES, PairState, RowStatistics, copy_record, record, record_at
from .status import LOGS, NEGATIVE_P, NEGATIVE_Q, OK


@kernel
def write_divergence(p, q, vocab, space, k, kind, weight, first, second, work, own_state, scales, out, state, t):
    """The divergence of pair t into `out`, and its state into `state` unless that is null; OK, NEGATIVE_P or _Q."""
    value = divergence_row(kind, p, q, vocab, space, k, weight, first, second, state != 0, work, own_state, scales)
    if own_state.path == NEGATIVE_MASS:
        return NEGATIVE_P if mass_alone(p, vocab, record(RowStatistics)) == NEGATIVE else NEGATIVE_Q
    pointer(out, types.float64)[t] = value
    if state != 0:
        copy_record(record_at(state + STATE_BYTES * t, PairState), own_state)
    return OK


@kernel
def write_gradient(
    row_p, row_q, own_weight, vocab, k, kind, weight, first, second, side, known, value, of_row, work, scales,
    address, storage,
):  # fmt: skip
    """own_weight·dD/dlogits of one pair, of q's logits (side 1) or of p's (side 0). A row of weight 0 is not read."""
    if own_weight == 0.0:
        if known == 0:
            value[0] = 0.0
        fill(0.0, vocab, address, storage)
        return
    step, w, c1, c2 = kind, weight, first, second
    moment = np.nan
    for turn in range(2):
        if turn == 1:
            moment = of_row.moment
            if side == 1:
                break
            # along p: the same with the rows exchanged
            row_p, row_q = row_q, row_p
            step, w, c1, c2 = exchanged(kind, weight, first, second)
        elif known != 0:
            continue
        found = divergence_row(step, row_p, row_q, vocab, LOGS, k, w, c1, c2, True, work, of_row, scales)
        if turn == 0:
            value[0] = found
    gradient_row(
        kind, row_p, row_q, vocab, k, own_weight, weight, first, second, side, value[0], moment, of_row, scales,
        address, storage,
    )  # fmt: skip
