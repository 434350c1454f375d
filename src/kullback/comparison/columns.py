"""Columns of one value a row, each made once, and their summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.log_probs import LogProbs
from kullback.comparison.spread import Spread
from kullback.comparison.summary import SPREADS, ComparisonSummary, Part

Columns = Mapping[str, NDArray[Any]]
_DEFINED = ("kl", "reverse_kl", "entropy_p", "entropy_q", "log_prob_p", "log_prob_q")  # NaN in no row that is compared


def agreement(top1_p: NDArray[np.int64], top1_q: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the likeliest outcome is the same; not where there is none."""
    return np.asarray((top1_p == top1_q) & (top1_p >= 0))


def probability_change(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """q's probability minus p's, of log-probabilities in nats."""
    return np.asarray(np.exp(log_q) - np.exp(log_p))


def completed(columns: Columns, unit: float = 1.0) -> dict[str, NDArray[Any]]:
    """The columns and those that follow from them; they are in units of so many nats."""
    whole = dict(columns)
    whole["cross_entropy"] = whole["entropy_p"] + whole["kl"]
    whole["same_top1"] = agreement(whole["top1_p"], whole["top1_q"])
    if "log_prob_p" in whole:
        whole["delta_prob"] = probability_change(whole["log_prob_p"] * unit, whole["log_prob_q"] * unit)
    return whole


def compared_rows(columns: Columns) -> NDArray[np.bool_]:
    """The rows that all statistics are of: not ignored, and with a distribution on both sides."""
    kept = (columns["top1_p"] >= 0) & (columns["top1_q"] >= 0)
    if "ignored" in columns:
        kept &= ~columns["ignored"]
    for name in _DEFINED:
        if name in columns:
            kept &= ~np.isnan(columns[name])
    return np.asarray(kept)


def summarize(
    whole: Columns,
    kept: NDArray[np.bool_],
    groups: NDArray[Any] | None = None,
    parts: Mapping[str, Part] | None = None,
    unit: float = 1.0,
    batched: bool = True,
) -> ComparisonSummary:
    """The summary of `completed` columns over their `compared_rows`; `groups` has one whole number a row, `batched`
    is as in `Spread.of`."""
    rows = kept.size
    there = ~whole["ignored"] if "ignored" in whole else np.ones(rows, np.bool_)
    inside = None if groups is None else groups[there]
    spreads = {}
    for name in SPREADS:
        known = np.where(kept, whole[name], np.nan)[there] if name in whole else None
        spreads[name] = Spread() if known is None else Spread.of(known, inside, batched)
    log_p = log_q = np.empty(0)
    if "log_prob_p" in whole:
        log_p, log_q = whole["log_prob_p"][kept] * unit, whole["log_prob_q"][kept] * unit
    possible = np.isfinite(log_p) & np.isfinite(log_q)
    log_probs = LogProbs.of(log_p, log_q), LogProbs.of(log_p[possible], log_q[possible])
    count = int(np.count_nonzero(there))
    undefined = count - int(np.count_nonzero(kept))
    return ComparisonSummary(count, spreads, log_probs, unit, parts, undefined, rows - count)
