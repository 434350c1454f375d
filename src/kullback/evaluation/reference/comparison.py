"""Rows of a candidate against records of a reference: the divergences as far as they are known, and between what.

Let R be the outcomes that a row does not list, in buckets b of mass r_b under p and s_b under q, and h = Σ_R p·ln p.

Below: by the log-sum inequality the KL of the listed outcomes and of the buckets, one outcome each, is at most that of
all outcomes. It is what is called the KL here.

Above: Σ_R p·ln(p/q) = h - Σ_R p·ln q. For any s > 0, Gibbs' inequality in each bucket, against weights q^-s, says
Σ_b p·(-ln p - s·ln q) ≤ r_b·(ln Z_b - ln r_b) with Z_b = Σ_b q^-s; summed over the buckets,

    -Σ_R p·ln q ≤ (h + Σ_b r_b·(ln Z_b - ln r_b))/s,

and for s → ∞ -Σ r_b·ln(the least q of b). Any s serves: the least of those tried is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, calls, engine, keywords
from kullback.evaluation.reference.rest import BLOCK_BYTES, POWERS, Floats, Rest, divided, logs_of
from kullback.evaluation.sources.reference_files import Cells
from kullback.rows import bregman_terms

__all__ = ["compare_records"]

_ROUNDING = 2.0**-24  # of the float32 that logs are stored in, relative
_DIGITS = 2.0**-50  # some roundings of float64, relative
_SLACK = 1e-12  # of sums of V terms

Columns = dict[str, NDArray[Any]]


def compare_records(
    records: NDArray[Any],
    cells: Cells,
    q: NDArray[Any],
    *,
    given: Given = "logits",
    tokens: NDArray[np.int64] | None = None,
    num_threads: int | None = None,
) -> Columns:
    """The columns of a comparison of rows of `q` (n, V) with as many records of a reference.

    Parameters
    ----------
    records : structured array (n,)
        `reference.records(start, stop)`.
    cells : Cells
        `reference.cells`.
    q : ndarray (n, V) or codes of a llama.cpp dump (n,)
    given : {"logits", "log_probs", "probs"}
        What `q` holds.
    tokens : ndarray of int64 (n,), optional
        Below 0: none. The reference knows the log-probabilities of the tokens it was written with.
    num_threads : int, optional

    Returns
    -------
    dict of str to ndarray (n,)
        What `compare` gives, and "kl_lower", "kl_upper", "acceptance_lower" and "rest_p", the mass beside the list.
        "kl", "reverse_kl" and "acceptance" are of listed outcomes and buckets, at most the KLs and at least the
        acceptance of all.
    """
    vocab = len(cells.order)
    rows = max(1, BLOCK_BYTES // (8 * vocab))
    found: Columns = {}

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, rows):
            part = slice(first, min(first + rows, stop))
            ids = None if tokens is None else tokens[part]
            for name, column in _columns(records[part], cells, q[part], given, ids).items():
                found[name][part] = column

    for name, column in _columns(records[:0], cells, q[:0], given, None if tokens is None else tokens[:0]).items():
        found[name] = np.empty(len(records), column.dtype)
    # some ten passes over a row in float64
    engine.over_rows(work, len(records), 64 * vocab, engine.thread_count(num_threads))
    return found


def _columns(
    records: NDArray[Any], cells: Cells, q: NDArray[Any], given: Given, tokens: NDArray[np.int64] | None
) -> Columns:
    x = logs_of(q, len(cells.order), given)
    described = calls.describe(calls.batch(("q", x)), keywords.LOGS, 1.0, ("entropy", "top1"), 1)
    ids = records["ids"].astype(np.int64)
    parts = divided(x, ids, cells, powers=True)
    with np.errstate(all="ignore"):
        log_p = np.concatenate([records["log_probs"], records["log_buckets"]], 1, dtype=np.float64)
        log_q = np.concatenate([parts.log_listed, parts.log_buckets], 1)
        columns = _divergences(log_p, log_q, _roundings(records, parts))
        columns |= _upper(records, parts, columns)
        distance = np.minimum(np.sqrt(columns["kl_upper"] / 2), np.sqrt(-np.expm1(-columns["kl_upper"])))
        listed = np.minimum(np.exp(log_p), np.exp(log_q))[:, : ids.shape[1]].sum(1)
        lower = np.maximum(1.0 - distance, listed - columns.pop("rounding")) - _SLACK
        columns["acceptance_lower"] = np.clip(lower, 0.0, 1.0)
        columns["entropy_p"] = np.array(records["entropy"])
        columns["entropy_q"] = described["entropy"]
        columns["rest_p"] = np.exp(records["log_rest"])
        columns["top_prob_p"] = np.exp(log_p[:, 0])
        if tokens is not None:
            columns["log_prob_p"] = np.array(records["log_prob"])
            columns["log_prob_q"] = x[np.arange(len(x)), np.maximum(tokens, 0)].astype(np.float64) - parts.log_sum_exp
            columns["log_prob_q"][tokens < 0] = np.nan
            columns["log_ratio"] = columns["log_prob_p"] - columns["log_prob_q"]
    columns["top1_p"] = np.where(np.isnan(records["log_sum_exp"]), -1, ids[:, 0])
    columns["top1_q"] = described["top1"]
    undefined = np.isnan(records["log_sum_exp"]) | np.isnan(parts.log_sum_exp)
    for name in ("kl", "reverse_kl", "acceptance", "kl_lower", "kl_upper", "acceptance_lower"):
        columns[name][undefined] = np.nan
    return columns


def _roundings(records: NDArray[Any], parts: Rest) -> Floats:
    """How far a log of p or q may be off by the rounding of the normalisers, (n, 1)."""
    size = np.abs(records["log_sum_exp"]) + np.abs(parts.log_sum_exp)
    return np.asarray(_DIGITS * np.where(np.isfinite(size), 1.0 + size, 0.0))[:, None]


def _divergences(log_p: Floats, log_q: Floats, beside: Floats) -> Columns:
    """Of the listed outcomes and the buckets, with the rounding that the stored logs may bring.

    The terms q - p - p·ln(q/p) are those of distributions, whose sums are 1; a step δ of ln p moves one by p·ln(p/q)·δ,
    so that rows against themselves have next to nothing of it.
    """
    p, q = np.exp(log_p), np.exp(log_q)
    forward, reverse = bregman_terms(p, q, log_q - log_p), bregman_terms(q, p, log_p - log_q)
    # a probability that float64 cannot tell from 0 is none all the same
    forward[(log_p > -np.inf) & (log_q == -np.inf)] = np.inf
    reverse[(log_q > -np.inf) & (log_p == -np.inf)] = np.inf
    step = _ROUNDING * np.abs(log_p) + beside
    apart = np.abs(log_p - log_q)
    moved = np.where(p > 0, p * step * (apart + step) + np.abs(p - q) * beside, 0.0)
    finite = np.where(np.isfinite(moved), moved, 0.0).sum(1)
    size = np.where(np.isfinite(apart), p * apart, 0.0).sum(1)
    kl = forward.sum(1)
    slack = finite + _SLACK * (1.0 + size)
    return {
        "kl": kl,
        "reverse_kl": reverse.sum(1),
        "acceptance": np.minimum(np.minimum(p, q).sum(1), 1.0),
        "kl_lower": np.maximum(kl - slack, 0.0),
        "rounding": np.where(p > 0, p * step, 0.0).sum(1),
        "slack": slack,
    }


def _upper(records: NDArray[Any], parts: Rest, columns: Columns) -> Columns:
    slack = columns.pop("slack")
    log_r = np.asarray(records["log_buckets"], np.float64)
    r = np.exp(log_r)
    there = r > 0
    impossible = ((log_r > -np.inf) & (parts.least == -np.inf)).any(1)
    log_rest_p, log_rest_q = records["log_rest"], parts.log_rest
    # the listed outcomes: Σ p·ln(p/q) = Σ (q - p - p·ln(q/p)) + Σ p - Σ q, of which the sums are 1 less the rests
    log_p, log_q = np.asarray(records["log_probs"], np.float64), parts.log_listed
    p, q = np.exp(log_p), np.exp(log_q)
    listed = bregman_terms(p, q, log_q - log_p).sum(1) + np.exp(log_rest_q) - np.exp(log_rest_p)
    h = np.asarray(records["rest_sum"])
    error = _ROUNDING * np.abs(log_r)
    best = np.full(len(h), np.inf)
    least = parts.least
    for i in range(len(POWERS) + 1):
        if i < len(POWERS):
            s = POWERS[i]
            terms = (parts.log_powers[:, i] - log_r) / s - least  # ≥ the mean of -ln q within a bucket, but for h
            value = h / s + np.where(there, r * terms, 0.0).sum(1)
            off = np.where(there, r * error * (np.abs(terms) + (1.0 + error) / s), 0.0).sum(1)
        else:
            value = np.where(there, r * -least, 0.0).sum(1)
            off = np.where(there, r * error * np.abs(least), 0.0).sum(1)
        size = np.where(there, r * np.abs(least), 0.0).sum(1) + np.abs(h)
        value = value + off + _SLACK * (1.0 + size)
        best = np.fmin(best, value)
    upper = listed + h + best + 2 * np.exp(log_rest_p) * _roundings(records, parts)[:, 0]
    upper = np.where(there.any(1), upper, columns["kl"]) + slack
    upper[impossible] = np.inf
    return {"kl_upper": np.maximum(upper, columns["kl"] + slack)}
