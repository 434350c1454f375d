"""Comparing llama.cpp dumps, whose codes end 16 (or 24) nats under a row's maximum.

Code 0 of such a row says only that log p is at most the row's `min`. Since the probabilities of a row sum to 1,

    KL(p ‖ q) = Σ p·ln(p/q) - p + q

in which no term is negative. Each clipped entry counts here with the least that the files allow: where q may equal p,
its term is 0 and the entry is left out, else the bound itself stands in for the value. The result is a lower
bound, up to the rounding of the codes, which the terms -p + q cancel to first order.

With P and Q the masses of the entries kept, and K their KL after normalisation, the sum is P·K + P·φ(ln(Q/P)),
φ(y) = exp(y) - 1 - y ≥ 0: so the row kernels do the work, on rows in which the entries left out are -inf.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback import arrays, calls, engine
from kullback.evaluation.sources.llama_cpp import decode

__all__ = ["compare_clipped"]

# elements decoded at a time by a thread: three float32 arrays of this many stay in the second-level cache
_BLOCK = 1 << 17


class _Side(NamedTuple):
    """A block of rows as log-probabilities, and what is known of each row."""

    log_probs: NDArray[np.float32]  # (n, V)
    clipped: NDArray[np.bool_] | None  # (n, V); None: no entry is
    entropy: NDArray[np.float64]
    top1: NDArray[np.int64]
    mass: NDArray[np.float64]  # of the entries that are not clipped
    log_prob: NDArray[np.float64] | None


def _phi(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(y) - 1 - y; by its series where the difference would cancel."""
    series = y * y * (0.5 + y * (1 / 6 + y * (1 / 24 + y / 120)))
    return np.asarray(np.where(np.abs(y) < 1e-3, series, np.expm1(y) - y))


def _bound(out: NDArray[np.bool_], room: _Room) -> NDArray[np.float32]:
    """-inf where `out`, else +inf; the minimum with it is 5 times as fast as an assignment under a mask."""
    bound = room.bound[: len(out)]
    np.subtract(np.float32(0.5), out.view(np.uint8), out=bound, dtype=np.float32)
    bound *= np.float32(np.inf)
    return bound


def _describe(rows: NDArray[Any], ids: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
    tokens = None if ids is None else ids[:, None]
    return calls.describe(calls.batch(("rows", rows)), arrays.LOGS, 1.0, ("lse", "entropy", "top1"), 1, tokens)


class _Room:
    """Memory of one thread, reused for every block: new arrays of this size cost more than what is done in them."""

    def __init__(self, rows: int, vocab: int) -> None:
        self.log_probs = [np.empty((rows, vocab), np.float32) for _ in range(2)]
        self.clipped = [np.empty((rows, vocab), np.bool_) for _ in range(2)]
        self.known = np.empty((rows, vocab), np.float32)
        self.bound = np.empty((rows, vocab), np.float32)
        self.out, self.below = np.empty((rows, vocab), np.bool_), np.empty((rows, vocab), np.bool_)


def _side(block: NDArray[Any], which: int, window: float, ids: NDArray[np.int64] | None, room: _Room) -> _Side:
    count, vocab = len(block), room.known.shape[1]
    log_probs, clipped, known = room.log_probs[which][:count], room.clipped[which][:count], room.known[:count]
    if block.dtype.names is None:  # live logits
        rows = block[:, :vocab]
        found = _describe(rows, ids)
        np.subtract(rows, found["lse"].astype(np.float32)[:, None], out=log_probs, casting="same_kind")
        log_prob = None if ids is None else found["log_probs"][:, 0]
        defined = np.where(np.isnan(found["lse"]), np.nan, 1.0)
        return _Side(log_probs, None, found["entropy"], found["top1"], defined, log_prob)
    decode(block, log_probs)
    # a row whose codes do not span the window was stored down to its least element
    reaches = block["scale"] * np.float32(65535) > window - 1e-3
    np.equal(block["code"][:, :vocab], 0, out=clipped)
    clipped[~reaches] = False
    np.minimum(log_probs, _bound(clipped, room), out=known)
    found = _describe(known, None)
    mass = np.exp(found["lse"])
    entropy = mass * (found["entropy"] - found["lse"])  # -Σ p·ln p, from that of p/mass
    log_prob = None
    if ids is not None:
        log_prob = log_probs[np.arange(count), ids].astype(np.float64)
        log_prob[ids < 0] = np.nan
    return _Side(log_probs, clipped, entropy, found["top1"], mass, log_prob)


def _pair(p: _Side, q: _Side, ids: NDArray[np.int64] | None, room: _Room) -> dict[str, NDArray[Any]]:
    a, b = p.log_probs, q.log_probs
    out, below = room.out[: len(a)], room.below[: len(a)]
    out[...] = False
    for clipped, low, high in ((p.clipped, b, a), (q.clipped, a, b)):
        if clipped is not None:
            np.less_equal(low, high, out=below)
            below &= clipped
            out |= below
    top_log_p = a[np.arange(len(a)), p.top1].astype(np.float64)
    bound = _bound(out, room)
    np.minimum(a, bound, out=a)
    np.minimum(b, bound, out=b)
    found = calls.compare(calls.batch(("p", a), ("q", b)), arrays.LOGS, 1.0, ("kl", "reverse_kl", "lse_p", "lse_q"), 1)
    gap = found["lse_q"] - found["lse_p"]
    mass_p, mass_q = np.exp(found["lse_p"]), np.exp(found["lse_q"])
    undefined = (p.top1 < 0) | (q.top1 < 0)
    columns: dict[str, NDArray[Any]] = {
        "kl": mass_p * (found["kl"] + _phi(gap)),
        "reverse_kl": mass_q * (found["reverse_kl"] + _phi(-gap)),
        "entropy_p": p.entropy,
        "entropy_q": q.entropy,
        "top1_p": p.top1,
        "top1_q": q.top1,
        "top_prob_p": np.exp(top_log_p),
    }
    for name in ("kl", "reverse_kl", "top_prob_p"):
        columns[name][undefined] = np.nan
    at = np.arange(len(a))
    for name, side in (("p", p), ("q", q)):
        columns[f"clipped_mass_{name}"] = 1.0 - side.mass if side.clipped is not None else 0.0 * side.mass
        hit = np.zeros(len(a), np.bool_)
        if ids is not None and side.clipped is not None:
            hit = side.clipped[at, ids] & (ids >= 0)
        columns[f"clipped_target_{name}"] = hit
    if p.log_prob is not None and q.log_prob is not None:
        columns |= {"log_prob_p": p.log_prob, "log_prob_q": q.log_prob, "log_ratio": p.log_prob - q.log_prob}
    return columns


def compare_clipped(
    p: NDArray[Any],
    q: NDArray[Any],
    ids: NDArray[np.int64] | None,
    vocab: int,
    windows: tuple[float, float],
    num_threads: int,
) -> dict[str, NDArray[Any]]:
    """Columns of one value a row for blocks of which at least one holds 16-bit codes.

    `windows`: how many nats under a row's maximum the codes of p and q reach. Beside what `columns.compare_rows` gives
    there are `clipped_mass_*` (1 less the mass that is not clipped; the rounding of the codes is in it) and
    `clipped_target_*`.
    """
    step = max(1, _BLOCK // vocab)

    def work(start: int, stop: int) -> list[tuple[int, dict[str, NDArray[Any]]]]:
        found = []
        room = _Room(min(step, stop - start), vocab)
        for first in range(start, max(stop, start + 1), step):
            part = slice(first, min(first + step, stop))
            inside = None if ids is None else ids[part]
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                sides = (_side(p[part], 0, windows[0], inside, room), _side(q[part], 1, windows[1], inside, room))
                found.append((first, _pair(*sides, inside, room)))
        return found

    # one row here costs about as much as four of the plain kernel: 16 bytes an element make chunks short enough
    blocks = engine.over_rows(work, len(p), 16 * vocab, num_threads)
    parts = [columns for _, columns in sorted((b for some in blocks for b in some), key=lambda item: item[0])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
