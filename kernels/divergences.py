"""One pair of rows -> its divergence of any kind, and that one's gradient, written where they are wanted."""

import numpy as np
from numba import types

from .encode import fill
from .kinds.registry import divergence_row, exchanged, gradient_row
from .ladder import NEGATIVE_MASS, negative_side
from .lanes import kernel
from .memory import pointer
from .pairs import turned
from .records import STATE_BYTES, PairState, copy_record, record_at
from .status import OK


@kernel
def write_divergence(pair, divergence, facts, out, state, t):
    """The divergence of pair t into `out`, and its state into `state` unless that is null; OK, NEGATIVE_P or _Q."""
    value = divergence_row(pair, divergence, state != 0, facts)
    if facts.state.path == NEGATIVE_MASS:
        return negative_side(pair)
    pointer(out, types.float64)[t] = value
    if state != 0:
        copy_record(record_at(state + STATE_BYTES * t, PairState), facts.state)
    return OK


@kernel
def write_gradient(pair, divergence, own_weight, side, known, value, facts, target):
    """own_weight·dD/dlogits of one pair, of q's logits (side 1) or of p's (side 0). A row of weight 0 is not read."""
    if own_weight == 0.0:
        if known == 0:
            value[0] = 0.0
        fill(0.0, pair.vocab, target.address, target.storage)
        return
    step, moment = divergence, np.nan
    for turn in range(2):
        if turn == 1:
            moment = facts.state.moment
            if side == 1:
                break
            # along p: the same with the rows exchanged
            pair = turned(pair)
            step = exchanged(divergence.kind, divergence.weight, divergence.first, divergence.second)
        elif known != 0:
            continue
        found = divergence_row(pair, step, True, facts)
        if turn == 0:
            value[0] = found
    gradient_row(pair, divergence, own_weight, side, value[0], moment, facts, target)
