"""Rows of which some hold 16-bit codes that end some nats under their greatest element: what code 0 hides.

Code 0 of a clipped row says only that log p is at most the row's `min`. Of a pair of rows, an entry is left out
(-inf on both sides) where the codes allow its term of Σ p·ln(p/q) - p + q to be 0: where p is clipped and q ≤ min of p,
or the other way round. Elsewhere the bound stands in for the value. With P and Q the masses of what is kept, and K the
KL of it after normalisation, the sum is P·K + P·φ(ln(Q/P)): the row kernels do the work, on rows written here.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from .compare import compare_row
from .decode import AFFINE16, BLOCK, FLOAT32, FLOAT64, NO_LOG, element, view
from .describe import describe_row, log_prob
from .elementary import phi
from .kinds import KINDS
from .kinds.mixture import summed
from .kinds.variation import variation_sums
from .ladder import SINGLE
from .lanes import both, either, equal, kernel, number, select, smaller, splat
from .memory import load, load_codes, pointer, stack, store, stream
from .pair_loops import expm1_series, value_loops
from .pairs import NEAR
from .records import Divergence, Facts, Pair, PairState, PairStatistics, Row, Scales, record
from .status import LOGS

MIXTURE, VARIATION = KINDS["mixture"], KINDS["variation"]

# stands in for the log of a probability of 0 opposite a positive one: finite, and its exponential is 0
IMPOSSIBLE = -30000.0


class Told(NamedTuple):
    """A row that may hold codes."""

    row: Row
    lse: float  # what is to be subtracted to normalise it
    hidden: float  # what stands in it for all that is clipped; NaN for nothing


@kernel
def hidden_value(row, window):
    """The `min` of a row of codes that reach to `window` nats under its greatest element, else NaN.

    A row whose codes do not span the window was stored down to its least element: nothing is clipped.
    """
    if row.storage != AFFINE16:
        return np.float32(np.nan)
    scale = pointer(row.address - 8, types.float32)[0]
    reaches = np.float32(scale * np.float32(65535.0)) > np.float32(window - 1e-3)
    return pointer(row.address - 4, types.float32)[0] if reaches else np.float32(np.nan)


@kernel
def write_logs(row, start, n, lse, hidden, out):
    """x - lse of elements start ... start + n of a row into out[0 ... n], float32; -inf where x is `hidden`.

    Codes hold log-probabilities: they are taken as they are, whatever lse says.
    """
    address, stride, storage = row
    like = np.float32(0.0)
    whole = 0
    if storage == AFFINE16:
        if stride == 2:
            whole = n - n % 16
            codes = pointer(address + 2 * start, types.uint16)
            scale = splat(pointer(address - 8, types.float32)[0], like)
            least = splat(pointer(address - 4, types.float32)[0], like)
            gone = splat(hidden, like)
            for i in range(0, whole, 16):
                x = load_codes(codes, i, like) * scale + least
                store(out, i, select(equal(x, gone), number(x, "-infinity"), x))
        for i in range(whole, n):
            x = np.float32(element(row, start + i))
            out[i] = np.float32(-np.inf) if x == hidden else x
    elif storage == FLOAT64:
        for i in range(n):
            out[i] = np.float32(element(row, start + i) - np.float64(np.float32(lse)))
    else:
        room = stack(2048, np.float32(0.0))
        whole = n - n % 16
        x = view(row, start, n, room, NO_LOG)
        for i in range(0, whole, 16):
            store(out, i, load(x, i, like) - splat(lse, like))
        for i in range(whole, n):
            out[i] = np.float32(x[i] - np.float32(lse))


@kernel
def leave_out(a, b, n, hidden_p, hidden_q):
    """-inf on both sides of a block of log p and log q, in place, where the term of the pair may be 0."""
    like = np.float32(0.0)
    least_p, least_q = splat(hidden_p, like), splat(hidden_q, like)
    whole = n - n % 16
    for i in range(0, whole, 16):
        x = load(a, i, like)
        z = load(b, i, like)
        same = equal(x, z)
        out = either(
            both(equal(x, least_p), either(smaller(z, x), same)), both(equal(z, least_q), either(smaller(x, z), same))
        )
        store(a, i, select(out, number(x, "-infinity"), x))
        store(b, i, select(out, number(x, "-infinity"), z))
    for i in range(whole, n):
        if (a[i] == hidden_p and b[i] <= a[i]) or (b[i] == hidden_q and a[i] <= b[i]):
            a[i] = np.float32(-np.inf)
            b[i] = np.float32(-np.inf)


@kernel
def write_known(row, vocab, hidden, out):
    """What a row of codes tells, into `out`: log p, -inf where it is clipped."""
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        write_logs(row, start, n, 0.0, hidden, pointer(out + 4 * start, types.float32))


@kernel
def write_kept(p, q, vocab, out_p, out_q):
    """log p and log q of a pair of rows, -inf on both sides where an entry is left out."""
    nothing = np.float32(np.nan)
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        a = pointer(out_p + 4 * start, types.float32)
        b = pointer(out_q + 4 * start, types.float32)
        write_logs(p.row, start, n, p.lse, nothing, a)
        write_logs(q.row, start, n, q.lse, nothing, b)
        leave_out(a, b, n, p.hidden, q.hidden)


@kernel
def kept_variation_block(near, outcomes, limit, terms, with_moment, part):
    variation_sums(outcomes, terms, part)


# ½ Σ |p - q|, where Σ p and Σ q are what they are: nothing is to be balanced
_, kept_variation = value_loops(kept_variation_block, expm1_series)


@kernel
def kept_pair(p, q, vocab, facts):
    """The pair of rows left by `write_kept`, which this makes finite on both sides (twice is as good as once), and what
    is known of it."""
    like = np.float32(0.0)
    a, b = pointer(p, types.float32), pointer(q, types.float32)
    whole = vocab - vocab % 16
    for i in range(0, whole, 16):
        x = stream(a, i, like)
        z = stream(b, i, like)
        no_p, no_q = equal(x, number(x, "-infinity")), equal(z, number(x, "-infinity"))
        store(a, i, select(no_p, select(no_q, x, splat(IMPOSSIBLE, like)), x))
        store(b, i, select(no_q, select(no_p, z, splat(IMPOSSIBLE, like)), z))
    for i in range(whole, vocab):
        no_p, no_q = a[i] == -np.inf, b[i] == -np.inf
        if no_p and not no_q:
            a[i] = np.float32(IMPOSSIBLE)
        elif no_q and not no_p:
            b[i] = np.float32(IMPOSSIBLE)
    _, state, scales = facts
    state.path = SINGLE  # what is kept is not normalised
    scales.shift, scales.factor, scales.shift_q, scales.factor_q, scales.minus_gap = 0.0, 1.0, 0.0, 1.0, 0.0
    return Pair(Row(p, 4, FLOAT32), Row(q, 4, FLOAT32), vocab, LOGS, 1.0)


@kernel
def jensen_shannon_of_kept(p, q, vocab):
    """½ Σ p·ln(p/m) + q·ln(q/m), m = (p + q)/2, of rows left by `write_kept`. No term is negative."""
    facts = Facts(record(PairStatistics), record(PairState), record(Scales))
    pair = kept_pair(p, q, vocab, facts)
    return summed(pair, np.float32(0.0), NEAR, Divergence(MIXTURE, 0.5, 0.5, 0.5), facts, False)


@kernel
def acceptance_of_kept(p, q, vocab):
    """1 - ½ Σ |p - q| of rows left by `write_kept`."""
    facts = Facts(record(PairStatistics), record(PairState), record(Scales))
    pair = kept_pair(p, q, vocab, facts)
    nothing = Divergence(VARIATION, 0.0, 0.0, 0.0)
    return max(1.0 - kept_variation(pair, np.float32(0.0), -1.0, nothing, facts, False), 0.0)


@kernel
def describe_known(row, vocab, hidden, room, result):
    """lse, entropy (-Σ p·ln p) and argmax of what a row tells; what must be subtracted to normalise it."""
    if row.storage != AFFINE16:
        describe_row(row, vocab, LOGS, 1.0, True, result)
        return result.lse
    write_known(row, vocab, hidden, room)
    describe_row(Row(room, 4, FLOAT32), vocab, LOGS, 1.0, True, result)
    result.entropy = math.exp(result.lse) * (result.entropy - result.lse)
    return 0.0


@kernel
def compare_clipped_row(p, q, vocab, window_p, window_q, room, one, result):
    """The statistics of a pair of rows of which one holds codes at least; what normalises them is the answer."""
    hidden_p, hidden_q = hidden_value(p, window_p), hidden_value(q, window_q)
    lse_p = describe_known(p, vocab, hidden_p, room, one)
    known_p, entropy_p, top_p = one.lse, one.entropy, one.argmax
    lse_q = describe_known(q, vocab, hidden_q, room, one)
    known_q, entropy_q, top_q = one.lse, one.entropy, one.argmax
    other = room + 4 * vocab
    write_kept(Told(p, lse_p, hidden_p), Told(q, lse_q, hidden_q), vocab, room, other)
    scales = record(Scales)  # of masses, which these are not
    compare_row(Pair(Row(room, 4, FLOAT32), Row(other, 4, FLOAT32), vocab, LOGS, 1.0), True, result, scales)
    gap = result.lse_q - result.lse_p
    if top_p >= 0.0 and top_q >= 0.0:
        result.kl = math.exp(result.lse_p) * (result.kl + phi(gap))
        result.reverse_kl = math.exp(result.lse_q) * (result.reverse_kl + phi(-gap))
    else:
        result.kl, result.reverse_kl = np.nan, np.nan
    result.lse_p, result.entropy_p, result.argmax_p = known_p, entropy_p, top_p
    result.lse_q, result.entropy_q, result.argmax_q = known_q, entropy_q, top_q
    return lse_p, lse_q


@kernel
def write_jensen_shannon(vocab, room, result, out, t):
    """The Jensen-Shannon divergence of the pair t that has just been compared."""
    defined = result.kl == result.kl
    value = jensen_shannon_of_kept(room, room + 4 * vocab, vocab) if defined else np.nan
    pointer(out, types.float64)[t] = value


@kernel
def write_clipped_acceptance(vocab, room, result, out, t):
    """The acceptance of the pair t that has just been compared."""
    defined = result.kl == result.kl
    value = acceptance_of_kept(room, room + 4 * vocab, vocab) if defined else np.nan
    pointer(out, types.float64)[t] = value


@kernel
def write_clipped_token(p, q, v, lse_p, lse_q, out, t):
    """Log-probabilities and log-ratio of the outcome v of a pair of rows; what normalises them is known."""
    x, y = log_prob(p, v, LOGS, 1.0, lse_p, 0.0), log_prob(q, v, LOGS, 1.0, lse_q, 0.0)
    if out.log_prob_p != 0:
        pointer(out.log_prob_p, types.float64)[t] = x
    if out.log_prob_q != 0:
        pointer(out.log_prob_q, types.float64)[t] = y
    if out.log_ratio != 0:
        pointer(out.log_ratio, types.float64)[t] = x - y
