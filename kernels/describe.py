"""The statistics of one row, its normaliser, entropy and log-probabilities, written where they are wanted."""

import numpy as np
from numba import types

from .cumulants import in_reach
from .decode import BLOCK, NO_LOG, element, item_bytes, view
from .far import below
from .ladder import serve_mass_row, serve_row
from .lanes import fma, kernel, splat, width
from .masses import mass_log_prob
from .memory import AHEAD_OF_WRITING, load, pointer, pointer_like, prefetch, stack, storage_of, store
from .separate import separate
from .status import LOGS, MASSES, NEGATIVE_P, OK, TOKEN, write_number


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
def describe_row(row, vocab, space, k, entropy, result):
    """The statistics of one row (of logs entropy may be NaN where `entropy` is None; of masses all but greatest); OK or
    NEGATIVE_P."""
    if space == MASSES:
        return OK if serve_mass_row(row, vocab, result) else NEGATIVE_P
    serve_row(row, vocab, k, entropy, None, result)
    return OK


@kernel
def write_description(result, out, t):
    """What is wanted of the statistics of row t, each to its own array."""
    write_number(out.lse, t, result.lse)
    write_number(out.entropy, t, result.entropy)
    if out.top1 != 0:
        pointer(out.top1, types.int64)[t] = np.int64(result.argmax)


@separate(types.int64)
@kernel
def write_log_probs(row, tokens, count, vocab, space, k, result, log_probs):
    """The log-probabilities of `count` tokens of a row whose statistics are known; OK or TOKEN."""
    top = greatest(row, result.argmax)
    for i in range(count):
        v = pointer(tokens, types.int64)[i]
        if v >= vocab:
            return TOKEN
        pointer(log_probs, types.float64)[i] = log_prob(row, v, space, k, result.beside, top)
    return OK


@kernel
def write_registers(a, n, like, k, beside, top, target, start):
    """`write_log_softmax` of a block in whole registers. In one function with its other loop, long and rare, this one
    would not be unrolled."""
    tops, times, minus = splat(top, like), splat(k, like), splat(-beside, like)
    for i in range(0, n, width(like)):
        prefetch(target, start + i + AHEAD_OF_WRITING)
        store(target, start + i, fma(load(a, i, like) - tops, times, minus))


@separate(types.none)
@kernel
def write_log_softmax(row, vocab, k, result, like, out, t):
    """k·(a - top) - beside for row t of logs, whose statistics are known, into `out`, in lanes like `like`."""
    scratch = stack(2048, like)
    target = pointer_like(out + item_bytes(storage_of(scratch)) * t * vocab, scratch)
    beside, top = result.beside, result.greatest  # NaN where the row is undefined
    ordinary = in_reach(k, like) and abs(top) < 1e30
    for start in range(0, vocab, BLOCK):
        n = min(BLOCK, vocab - start)
        a = view(row, start, n, scratch, NO_LOG)
        whole = n - n % width(like) if ordinary else 0
        write_registers(a, whole, like, k, beside, top, target, start)
        for i in range(whole, n):
            target[start + i] = below(np.float64(a[i]), top, k) - beside
