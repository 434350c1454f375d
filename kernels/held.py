"""What is held of the sums of a pair of log rows: what a block adds, and what is made of all of them (see rows.py)."""

import math

import numpy as np

from .cumulants import LOG2E, beside_heaviest, least_argument, least_rest, settled, weight
from .decode import BLOCK, NO_LOG, element, view
from .elementary import log1p_minus
from .lanes import kernel, width
from .records import clear_record
from .scans import LN2, binades_above


@kernel
def clear_held(held):
    """Nothing so far."""
    clear_record(held)
    held.top_p, held.top_q, held.block_p, held.block_q = -np.inf, -np.inf, -1.0, -1.0


@kernel
def shrink_held(held, fall, shrink):
    """Go over to another shift and another top_log_p, which is lower by -`fall`."""
    held.b *= shrink
    held.a *= shrink
    held.g *= shrink
    held.u_rest += fall * held.s_rest
    held.u_top += fall * held.s_top
    held.s_rest *= shrink
    held.u_rest *= shrink
    held.z_rest *= shrink
    held.w_rest *= shrink
    held.size_rest *= shrink
    held.s_top *= shrink
    held.u_top *= shrink
    held.z_top *= shrink
    held.w_top *= shrink
    held.size_top *= shrink


@kernel
def hold(held, sums, start):
    """Add the sums of a block that starts at `start`."""
    held.b += sums.b
    held.a += sums.a
    held.g += sums.g
    held.far = max(held.far, sums.far)
    z, size = sums.s + sums.a + sums.b, sums.s + sums.a + abs(sums.b)
    if sums.top_p > held.top_p:
        held.s_rest += held.s_top
        held.u_rest += held.u_top
        held.s_top, held.u_top, held.top_p, held.block_p = sums.s, sums.u, sums.top_p, start
    else:
        held.s_rest += sums.s
        held.u_rest += sums.u
    if sums.top_q > held.top_q:
        held.z_rest += held.z_top
        held.w_rest += held.w_top
        held.size_rest += held.size_top
        held.z_top, held.w_top, held.size_top, held.top_q, held.block_q = z, sums.q, size, sums.top_q, start
    else:
        held.z_rest += z
        held.w_rest += sums.q
        held.size_rest += size


@kernel
def forward_of(held):
    """(S, E, A/S, KL(p‖q)); numbers only where S > 0 and E > -1."""
    s = held.s_rest + held.s_top
    e, spread = (held.a + held.b) / s, held.a / s
    return s, e, spread, spread + log1p_minus(e) if e < 0.5 else math.log1p(e) - held.b / s


@kernel
def beside_p(row, vocab, frame, held, rooms, result):
    """beside_p and entropy_p from the sums of a pair; False if the lanes cannot tell them."""
    k, top, like = frame.k, held.top_p, rooms.like
    heaviest = weight(top, k, frame.shift, like)
    depth = binades_above(top, k, frame.log_p, like)
    s = held.s_rest + held.s_top
    if s >= 4.0 * heaviest:
        result.beside_p = math.log(s / heaviest)
        result.entropy_p = result.beside_p + LN2 * (depth - (held.u_rest + held.u_top) / s)
        return True
    # the sums have rounded what shares a lane with the heaviest
    block = np.int64(held.block_p)
    n = min(BLOCK, vocab - block)
    x = view(row, block, n, rooms.p, NO_LOG)
    mass, moment, equals = beside_heaviest(x, n, like, k, frame.shift, top)
    rest = held.s_rest + (mass + (equals - 1.0) * heaviest)
    fall = (held.u_rest - depth * held.s_rest) + moment
    factor = settled(rest, fall, k, like)
    result.beside_p = math.log1p(factor * rest / heaviest)
    result.entropy_p = result.beside_p - LN2 * factor * fall / (heaviest + rest)
    return rest == 0.0 or rest > least_rest(like) * heaviest


@kernel
def beside_q(p, q, vocab, frame, held, rooms, result):
    """beside_q and entropy_q from the sums of a pair; False if the lanes cannot tell them."""
    k, top, like = frame.k, held.top_q, rooms.like
    depth = binades_above(top, k, frame.log_q, like)
    z = held.z_rest + held.z_top
    beside = result.beside_p + result.beside_gap
    if beside > 1.4:
        result.beside_q = beside
        result.entropy_q = beside + LN2 * (depth - (held.w_rest + held.w_top) / z)
        return True
    # of the block with the heaviest its own weights; of the others those that p's and y make, in units of the heaviest
    own_shift = np.rint(k * LOG2E * top)
    own = weight(top, k, own_shift, like)
    block = np.int64(held.block_q)
    n = min(BLOCK, vocab - block)
    x = view(q, block, n, rooms.q, NO_LOG)
    mass, moment, equals = beside_heaviest(x, n, like, k, own_shift, top)
    x_p = max(element(p, np.int64(result.argmax_q)), least_argument(k, frame.shift, like))
    heaviest = weight(x_p, k, frame.shift, like) * math.exp(k * (top - x_p) - frame.centre)
    others = held.z_rest / heaviest
    rest = others + (mass / own + (equals - 1.0))
    fall = (held.w_rest / heaviest - depth * others) + moment / own
    factor = settled(rest, fall, k, like)
    result.beside_q = math.log1p(factor * rest)
    result.entropy_q = result.beside_q - LN2 * factor * fall / (1.0 + rest)
    if width(like) == 16 and held.z_rest < 0.05 * held.size_rest:
        return False  # exp(y) = 1 + y + φ(y) has cancelled
    return rest == 0.0 or rest > least_rest(like) * math.exp(held.far)
