"""Rows of logits divided into the outcomes that a reference lists and the others, bucket by bucket.

Everything here is float64: what float32 lanes lose of a normaliser is more than the divergence of close rows. A row is
worked on at a time, in memory that stays in cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, calls, keywords
from kullback.evaluation.sources.llama_cpp import decode
from kullback.evaluation.sources.reference_files import Cells, Layout

Floats = NDArray[np.float64]

POWERS = (0.5, 1.0, 2.0, 4.0)  # each twice the one before: one exponential, squared
BLOCK_BYTES = 1 << 22  # of rows in float64 that are handed to a thread at a time
_TINY = 1e-290  # below it a sum may have lost digits: it is found again from its own greatest element
_LEAST = float(np.finfo(np.float32).min)
_NOTHING = -1e9  # a log whose weight is 0, and which times 0 is 0


class Rest(NamedTuple):
    """Rows by listed outcomes and buckets of the others; logs are relative to the row's normaliser."""

    log_listed: Floats  # (n, K)
    log_buckets: Floats  # (n, B)
    log_rest: Floats  # (n,)
    log_sum_exp: Floats  # (n,); NaN where the row has no distribution
    rest_sum: Floats  # (n,): Σ p·ln p over the others
    least: Floats  # (n, B): the least log of the others; -inf where there is none
    log_powers: Floats  # (n, POWERS, B): ln Σ (p/least)^-s over them


def logs_of(block: NDArray[Any], vocab: int, given: Given) -> NDArray[Any]:
    """Rows as logits of a type that NumPy computes with, perhaps the block itself."""
    if block.dtype.names is not None:
        out = np.empty((len(block), vocab), np.float32)
        decode(block, out)
        return out
    values = block[:, :vocab]
    if given != "probs":
        return values
    values = values.astype(np.float64)
    if (values < 0).any():
        raise ValueError(f"`given` is 'probs', but there is the probability {values.min():.6g}")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def divided(x: NDArray[Any], ids: NDArray[np.int64], cells: Cells, powers: bool) -> Rest:
    """Divide rows of logits (n, V); where one has no distribution all is NaN. With `powers` the last two fields too."""
    n, buckets = len(x), len(cells.starts)
    room = np.empty((2, x.shape[1]))
    found = Rest(
        np.empty(ids.shape),
        np.empty((n, buckets)),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty((n, buckets)),
        np.empty((n, len(POWERS), buckets)),
    )
    with np.errstate(all="ignore"):
        for t in range(n):
            _divide(found, t, x[t], ids[t], cells, room, powers)
    return found


def _divide(
    found: Rest, t: int, row: NDArray[Any], ids: NDArray[np.int64], cells: Cells, room: Floats, powers: bool
) -> None:
    a, w = room
    places = cells.place[ids]
    a[:] = row.take(cells.order, mode="clip")
    listed = a[places]
    top = a.max()  # NaN where there is one
    top = top if np.isfinite(top) else np.nan
    a -= top
    a[places] = -np.inf
    np.exp(a, out=w)
    sums = np.add.reduceat(w, cells.starts)
    logs = np.log(sums)
    for b in np.flatnonzero(sums < _TINY):
        part = a[cells.starts[b] : cells.starts[b] + cells.sizes[b]]
        greatest = part.max()
        if np.isfinite(greatest):
            logs[b] = greatest + np.log(np.exp(part - greatest).sum())
    rest = sums.sum()
    beside = np.log(np.exp(listed - top).sum() + rest)
    found.log_sum_exp[t] = top + beside
    found.log_listed[t] = (listed - top) - beside
    found.log_buckets[t] = logs - beside
    found.log_rest[t] = (np.log(rest) if rest >= _TINY else np.logaddexp.reduce(logs)) - beside
    if powers:
        _powers(found, t, a, w, ids, cells, beside)
        return
    np.maximum(a, _NOTHING, out=a)
    # Σ w·(a - beside), whose terms have one sign
    np.multiply(w, a, out=a)  # no dot: BLAS has threads of its own
    found.rest_sum[t] = (a.sum() - beside * rest) / np.exp(beside)


def _powers(
    found: Rest, t: int, a: Floats, w: Floats, ids: NDArray[np.int64], cells: Cells, beside: np.float64
) -> None:
    gone = int(np.count_nonzero(a == -np.inf)) - len(ids)
    places = cells.place[ids]
    impossible = np.zeros(len(cells.starts), np.bool_)
    if gone > 0:  # what q gives nothing is not what is listed
        a[places] = 0.0
        impossible = np.minimum.reduceat(a, cells.starts) == -np.inf
        a[a == -np.inf] = np.inf
    a[places] = np.inf
    least = np.minimum.reduceat(a, cells.starts)
    base = least.min()
    np.subtract(a, base if np.isfinite(base) else 0.0, out=w)
    w *= -POWERS[0]
    np.exp(w, out=w)
    for i, s in enumerate(POWERS):
        if i:
            np.square(w, out=w)
        sums = np.add.reduceat(w, cells.starts)
        found.log_powers[t, i] = np.log(sums) + s * (least - base)
        for b in np.flatnonzero((sums < _TINY) & np.isfinite(least)):
            part = a[cells.starts[b] : cells.starts[b] + cells.sizes[b]]
            found.log_powers[t, i, b] = np.log(np.exp(-s * (part - least[b])).sum())
    # a bucket that is listed whole has no least either; it has no mass
    found.least[t] = np.where(impossible | (least == np.inf), -np.inf, least - beside)


def records_of(
    block: NDArray[Any], layout: Layout, cells: Cells, tokens: NDArray[np.int64] | None, given: Given
) -> NDArray[Any]:
    """The records of some rows; `tokens` below 0 have no log-probability."""
    x = logs_of(block, layout.vocab_size, given)
    out = np.empty(len(x), layout.record)
    single = calls.batch(("rows", x))
    slope_and_limit = keywords.slope_and_limit(1.0, 1.0, None)
    ids = calls.describe_tokens(single, slope_and_limit, ("top_ids", "top_log_probs"), 1, None, layout.top_k)["top_ids"]
    undefined = ids[:, 0] < 0
    ids[undefined] = np.arange(layout.top_k)
    rest = divided(x, ids, cells, powers=False)
    out["ids"] = ids
    with np.errstate(all="ignore"):
        for name, logs in (("log_probs", rest.log_listed), ("log_buckets", rest.log_buckets)):
            out[name] = np.where(logs > -np.inf, np.maximum(logs, _LEAST), logs)  # what is possible stays so
        out["log_rest"], out["rest_sum"], out["log_sum_exp"] = rest.log_rest, rest.rest_sum, rest.log_sum_exp
        p = np.exp(rest.log_listed)
        out["entropy"] = -np.where(p > 0, p * rest.log_listed, 0.0).sum(1) - rest.rest_sum
    out["log_prob"] = np.nan
    if tokens is not None:
        known = np.flatnonzero(tokens >= 0)
        out["log_prob"][known] = x[known, tokens[known]].astype(np.float64) - rest.log_sum_exp[known]
    for name in ("log_probs", "log_buckets", "log_rest", "rest_sum", "entropy", "log_sum_exp", "log_prob"):
        out[name][undefined] = np.nan
    return out


def shortened(records: NDArray[Any], cells: Cells, top_k: int) -> NDArray[Any]:
    """The records of a reference that listed only the `top_k` likeliest."""
    buckets = records.dtype["log_buckets"].shape[0]
    out = np.empty(len(records), Layout(top_k, len(cells.order), buckets).record)
    for name in ("entropy", "log_sum_exp", "log_prob"):
        out[name] = records[name]
    out["ids"], out["log_probs"] = records["ids"][:, :top_k], records["log_probs"][:, :top_k]
    logs = records["log_probs"][:, top_k:].astype(np.float64)
    with np.errstate(all="ignore"):
        p = np.exp(logs)
        mass = np.exp(records["log_buckets"].astype(np.float64))
        bucket_of = np.repeat(np.arange(buckets), cells.sizes)[cells.place[records["ids"][:, top_k:]]]
        np.add.at(mass, (np.arange(len(mass))[:, None], bucket_of), p)
        out["log_buckets"] = np.log(mass)
        out["log_rest"] = np.log(np.exp(records["log_rest"]) + p.sum(1))
        out["rest_sum"] = records["rest_sum"] + np.where(p > 0, p * logs, 0.0).sum(1)
    return out


def mean_logs(block: NDArray[Any], vocab: int, given: Given) -> Floats:
    """The sum of the log-probabilities of each outcome over some rows, as far as it tells which are likelier."""
    levels = np.zeros(vocab)
    with np.errstate(all="ignore"):
        for row in logs_of(block, vocab, given).astype(np.float64):
            top = row.max()
            if np.isfinite(top):
                levels += np.maximum(row - top, -100.0)
    return levels


def buckets_of(levels: Floats, buckets: int) -> NDArray[np.uint8]:
    """Buckets of as many outcomes each, the likeliest in the first."""
    rank = np.empty(len(levels), np.int64)
    rank[np.argsort(-levels, kind="stable")] = np.arange(len(levels))
    return (rank * buckets // len(levels)).astype(np.uint8)
