"""Comparing llama.cpp dumps, whose codes end 16 (or 24) nats under a row's maximum.

Code 0 of such a row says only that log p is at most the row's `min`. Since the probabilities of a row sum to 1,

    KL(p ‖ q) = Σ p·ln(p/q) - p + q

in which no term is negative. Each clipped entry counts here with the least that the files allow: where q may equal p,
its term is 0 and the entry is left out, else the bound itself stands in for the value. The result is a lower
bound, up to the rounding of the codes, which the terms -p + q cancel to first order. The sums are those of
kernels/clipped.py; here the columns of a job are made of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import calls

__all__ = ["compare_clipped"]


def _spans(block: NDArray[Any], window: float) -> NDArray[np.bool_]:
    """Which rows of codes reach down to the window's end, so that their code 0 hides what lies lower."""
    # a row whose codes do not span the window was stored down to its least element
    return np.asarray(block["scale"] * np.float32(65535) > window - 1e-3)


def _top_log_prob(block: NDArray[Any], top1: NDArray[np.int64], lse: NDArray[np.float64]) -> NDArray[np.float64]:
    """The greatest log-probability of each row."""
    at = np.arange(len(block))
    if block.dtype.names is None:
        return np.asarray(block[at, top1].astype(np.float64) - lse)
    return np.asarray(block["scale"] * block["code"][at, top1].astype(np.float32) + block["min"], np.float64)


def compare_clipped(
    p: NDArray[Any],
    q: NDArray[Any],
    ids: NDArray[np.int64] | None,
    vocab: int,
    windows: tuple[float, float],
    num_threads: int,
    jensen_shannon: bool = False,
) -> dict[str, NDArray[Any]]:
    """Columns of one value a row for blocks of which at least one holds 16-bit codes.

    `windows`: how many nats under a row's maximum the codes of p and q reach. Beside what `columns.compare_rows` gives
    there are `clipped_mass_*` (1 less the mass that is not clipped; the rounding of the codes is in it) and
    `clipped_target_*`.
    """
    pair = calls.batch(("p", p), ("q", q), vocab_size=vocab)
    columns = calls.compare_clipped(pair, windows, num_threads, ids, jensen_shannon)
    lse = {"p": columns.pop("lse_p"), "q": columns.pop("lse_q")}
    at = np.arange(len(p))
    with np.errstate(invalid="ignore", over="ignore"):
        for name, block, window in (("p", p, windows[0]), ("q", q, windows[1])):
            mass, hit = np.where(np.isnan(lse[name]), np.nan, 0.0), np.zeros(len(p), np.bool_)
            if block.dtype.names is not None:
                mass = 1.0 - np.exp(lse[name])
                if ids is not None:
                    hit = _spans(block, window) & (block["code"][at, ids] == 0) & (ids >= 0)
            columns[f"clipped_mass_{name}"], columns[f"clipped_target_{name}"] = mass, hit
        columns["top_prob_p"] = np.exp(_top_log_prob(p, columns["top1_p"], lse["p"]))
    columns["top_prob_p"][(columns["top1_p"] < 0) | (columns["top1_q"] < 0)] = np.nan
    return columns
