"""Rows of two top-k files: what both lists tell of the divergences, and between what they lie.

Let C be the outcomes that both list, A those that p alone lists, and M all others. Below: with C outcome by outcome, A
and M as one outcome each, the KL is at most that of all outcomes. How q divides its mass beside C between A and M is
not known; the least KL over all it may be is taken, where A gets |A| times q's least listed probability at most. Above:
q may give nothing to what it does not list, so that the KL has a bound only where both list all that p may give.

min(p, q) is known over C, at most p's probability and q's least listed one over A, and the other way round. All of it
is of the numbers as the files have them, taken for the likeliest of each row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.rows import bregman_terms

__all__ = ["compare_lists"]

_SLACK = 1e-12
_TINY = 1e-9  # a rest that may be the rounding of a list that is whole
_NAMES = ("kl", "reverse_kl", "acceptance", "kl_lower", "kl_upper", "acceptance_lower", "entropy_p", "entropy_q")

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


def compare_lists(p: NDArray[Any], q: NDArray[Any], vocab: int, tokens: NDArray[np.int64] | None) -> Columns:
    """The columns of a comparison of records of two `ListedRows`."""
    found: Columns = {name: np.full(len(p), np.nan) for name in (*_NAMES, "rest_p", "half_width", "top_prob_p")}
    for side, rows in (("p", p), ("q", q)):
        found[f"top1_{side}"] = np.full(len(p), -1)
        if tokens is not None:
            found[f"log_prob_{side}"] = np.array(rows["log_prob"])
    with np.errstate(all="ignore"):
        for t in range(len(p)):
            if p["listed"][t, 0] >= 0 and q["listed"][t, 0] >= 0:
                for name, value in _row(p[t], q[t], vocab).items():
                    found[name][t] = value
    if tokens is not None:
        found["log_ratio"] = found["log_prob_p"] - found["log_prob_q"]
    return found


def _terms(p: Any, q: Any) -> Floats:
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    terms = bregman_terms(p, q, np.log(q) - np.log(p))
    return np.asarray(np.where((p > 0) & (q == 0), np.inf, terms))


def _row(p: Any, q: Any, vocab: int) -> dict[str, float]:
    sides = []
    for row in (p, q):
        known = row["listed"] >= 0
        ids, logs = row["listed"][known], row["log_probs"][known]
        rest = max(1.0 - float(np.exp(logs).sum()), 0.0)
        whole = len(ids) >= vocab or rest < _TINY
        sides.append((ids, np.exp(logs), 0.0 if whole else rest, float(np.exp(row["log_cap"])), logs))
    (ids_p, mass_p, rest_p, cap_p, _), (ids_q, mass_q, rest_q, cap_q, _) = sides
    _, i, j = np.intersect1d(ids_p, ids_q, assume_unique=True, return_indices=True)
    alone_p, alone_q = np.delete(mass_p, i), np.delete(mass_q, j)
    beside_p, beside_q = float(alone_p.sum()) + rest_p, float(alone_q.sum()) + rest_q
    forward, reverse = float(_terms(mass_p[i], mass_q[j]).sum()), float(_terms(mass_q[j], mass_p[i]).sum())
    kl = forward + _beside(alone_p, rest_p, beside_q, cap_q)
    back = reverse + _beside(alone_q, rest_q, beside_p, cap_p)
    kept = float(np.minimum(mass_p[i], mass_q[j]).sum())
    more = np.minimum(alone_p, cap_q).sum() + np.minimum(alone_q, cap_p).sum() + min(rest_p, rest_q)
    slack = _SLACK * (1.0 + abs(kl)) if np.isfinite(kl) else 0.0
    found = {
        "kl": kl,
        "reverse_kl": back,
        "kl_lower": max(kl - slack, 0.0),
        "kl_upper": kl + slack if beside_p == 0 else np.inf,
        "acceptance": min(kept + min(float(more), beside_p, beside_q), 1.0),
        "acceptance_lower": max(kept - _SLACK, 0.0),
        "rest_p": rest_p,
        "top_prob_p": float(mass_p.max()),
    }
    for side, (ids, mass, rest, _, logs) in zip("pq", sides, strict=True):
        found[f"top1_{side}"] = int(ids[mass == mass.max()].min())
        tail = rest * np.log(rest) if rest > 0 else 0.0
        found[f"entropy_{side}"] = -float(np.where(mass > 0, mass * logs, 0.0).sum()) - tail
    return found


def _beside(alone: Floats, rest: float, other: float, cap: float) -> float:
    """The least Σ p·ln(p/q) - p + q beside what both list: `alone` is listed by p only, `other` is q's mass there."""
    listed = float(alone.sum())
    both = listed + rest
    share = other * listed / both if both > 0 else 0.0
    most = len(alone) * cap
    if share <= most:
        return float(_terms(both, other))
    return float(_terms([listed, rest], [most, other - most]).sum())
