"""What is kept of each sequence: sums over its sound tokens, from which checks of whole runs are made."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.auditing.marks import SOUND, Block, Marked

__all__ = ["sequence_columns"]

Float64s = NDArray[np.float64]

SURE = -1e-4  # log-probs above it: the rest of the mass is too small for float32 to tell
UNITS = 1 << 20  # of a nat
CLIP = 3.0  # of differences of log-odds, and of log-ratios where these are exponents
DEPTH = 10.0  # nats, and log-odds, beyond which a token weighs no more
LEAST = 1e-3  # difference of log-odds that is told from none
SPIKE = (-1e-6, -0.02)  # log-probs that say "certain" on one side and not on the other
INFORMATIVE = -1e-3  # log-probs below it are equal on two sides by chance alone


def log_odds(x: Float64s) -> Float64s:
    """log p/(1-p) of log p below 0."""
    return np.asarray(x - np.log(-np.expm1(x)))


def sequence_columns(
    block: Block, marked: Marked, tokens: NDArray[Any] | None, entropies: tuple[Float64s | None, Float64s | None]
) -> dict[str, NDArray[Any]]:
    """Columns of one value a sequence of the block."""
    sound = marked.codes == SOUND
    r, t = np.where(sound, block.rollout, -1.0), np.where(sound, block.train, -1.0)
    d = t - r
    count = block.sums(sound)
    columns: dict[str, NDArray[Any]] = {
        "tokens": block.lengths,
        "sound": count,
        "nll_rollout": -block.sums(np.where(sound, r, 0.0)),
        "nll_train": -block.sums(np.where(sound, t, 0.0)),
        "k1": -block.sums(d),
        "k3": block.sums(np.expm1(d) - d),
        "weight": block.sums(np.expm1(d)),
        "max_difference": np.maximum.reduceat(np.abs(d), block.starts),
        "lag": marked.lags,
        "spikes_rollout": block.sums((r >= SPIKE[0]) & (t < SPIKE[1])),
        "spikes_train": block.sums((t >= SPIKE[0]) & (r < SPIKE[1])),
        "informative": block.sums(sound & (np.minimum(r, t) < INFORMATIVE)),
        "equal": block.sums(sound & (r == t) & (r < INFORMATIVE)),
    }
    columns |= _odds(block, r, t, sound)
    columns |= _pulls(block, r, t)
    for side, (own, entropy) in enumerate(zip((r, t), entropies, strict=True)):
        name = ("rollout", "train")[side]
        excess = np.zeros(own.size) if entropy is None else np.where(sound & np.isfinite(entropy), -own - entropy, 0.0)
        columns[f"surprise_{name}"] = block.sums(excess)
        columns[f"scored_{name}"] = block.sums(excess != 0.0)
    columns |= _start(block, r, d, sound, entropies[0])
    columns["digest"] = _digest(block, block.rollout if tokens is None else tokens)
    return columns


def _odds(block: Block, r: Float64s, t: Float64s, sound: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Differences of log-odds, train - rollout, of tokens likelier than not and of the others.

    Noise in logits is noise of the same size in log-odds, however peaked a position is; a temperature scales
    them, a truncated support lifts all of them.
    """
    told = np.flatnonzero(sound & (r < SURE) & (t < SURE))
    odds_r, odds_t = log_odds(r[told]), log_odds(t[told])
    change = np.zeros(r.size)
    change[told] = np.clip(odds_t - odds_r, -CLIP, CLIP)
    size = np.zeros(r.size)
    size[told] = np.log(np.maximum(np.abs(change[told]), LEAST))
    high = np.zeros(r.size, np.bool_)
    high[told] = odds_r + odds_t > 0.0
    low = np.zeros(r.size, np.bool_)
    low[told] = ~high[told]
    level, depth, surprise = np.zeros(r.size), np.zeros(r.size), np.zeros(r.size)
    level[told] = np.abs(odds_r)
    # how unlikely a token is: by both sides alike, so that noise of one does not look like a slope
    depth[told] = np.clip(-(odds_r + odds_t) / 2.0, -DEPTH, DEPTH)
    surprise[told] = np.minimum(-(r[told] + t[told]) / 2.0, DEPTH)
    d = t - r
    return {
        "high": block.sums(high),
        "high_change": block.sums(np.where(high, change, 0.0)),
        "high_level": block.sums(np.where(high, level, 0.0)),
        "low": block.sums(low),
        "low_change": block.sums(np.where(low, change, 0.0)),
        "change2": block.sums(change * change),
        "change_size": block.sums(size),
        "depth": block.sums(depth),
        "depth2": block.sums(depth * depth),
        "depth_change": block.sums(depth * change),
        "told_d": block.sums(np.where(high | low, d, 0.0)),
        "told_nll": block.sums(surprise),
        "told_nll2": block.sums(surprise * surprise),
        "told_nll_d": block.sums(surprise * d),
    }


def _pulls(block: Block, r: Float64s, t: Float64s) -> dict[str, NDArray[Any]]:
    """Sums of g = other/own - 1 and its products, of each side: of tokens drawn from own, g has mean 0 everywhere.

    Where own is the other at a temperature T, log other/own is (1 - T)(nll - H) with an H of the position; g has
    nothing to do with H, so that E[g log other/own] = (1 - T) E[g nll] whatever the positions are.
    """
    columns: dict[str, NDArray[Any]] = {}
    for name, own, other in (("rollout", r, t), ("train", t, r)):
        d = other - own
        g = np.expm1(np.clip(d, -CLIP, CLIP))  # a few tokens must not be all there is of a mean
        columns |= {
            f"pull_{name}": block.sums(g),
            f"pull_{name}_d": block.sums(g * d),
            f"pull_{name}_nll": -block.sums(g * own),
        }
    return columns


def _start(
    block: Block, r: Float64s, d: Float64s, sound: NDArray[np.bool_], entropy: Float64s | None
) -> dict[str, NDArray[Any]]:
    """How far the log-probs at the start are from those of drawn tokens, and where that ends.

    Of drawn tokens E[exp(θ·nll)] is exp(θ·H), H being the Rényi entropy of order 1 - θ, so that sums of nll - H over
    the first tokens stay below h but with probability exp(-θh), at any number of tokens (a supermartingale). H is the
    entropy and 0.7 nats more, or where it is not known the mean of the second half, two standard errors
    (of an exponential number) and 1 nat more; θ is ½. Tokens count as the side says that finds them likelier: what
    one side alone is surprised at is no prompt.
    """
    place = np.arange(r.size) - block.spread(block.starts)
    late = sound & (2 * place >= block.spread(block.lengths))
    usual = block.sums(np.where(late, -r, 0.0)) / np.maximum(block.sums(late), 1)
    allowed = block.spread(usual * (1.0 + 2.0 / np.sqrt(np.maximum(block.sums(late), 1))) + 1.0)
    if entropy is not None:
        allowed = np.where(np.isfinite(entropy), entropy + 0.7, allowed)
    # in whole units, so that sums do not depend on what else is in the block
    steps = np.rint(
        np.where(sound, np.clip(-np.maximum(r, r + d), 0.0, 8.0) - np.clip(allowed, 0.0, 64.0), 0.0) * UNITS
    ).astype(np.int64)
    walk = np.cumsum(steps)
    walk -= block.spread(walk[block.starts] - steps[block.starts])
    top = np.maximum.reduceat(walk, block.starts)
    end = np.minimum.reduceat(np.where(walk == block.spread(top), place, r.size), block.starts) + 1
    inside = sound & (place < block.spread(end))
    return {
        "start_walk": top / UNITS,
        "start_end": end,
        "start_nll": -block.sums(np.where(inside, r, 0.0)),
        "start_tokens": block.sums(inside),
        "start_k1": block.sums(np.where(inside, -d, 0.0)),
        "start_k3": block.sums(np.where(inside, np.expm1(d) - d, 0.0)),
    }


def _digest(block: Block, values: NDArray[Any]) -> NDArray[np.uint64]:
    """A number of 64 bits of what a sequence holds, in its order (the finaliser of splitmix64, summed)."""
    words = values.astype(np.float64) if values.dtype.kind == "f" else values.astype(np.int64)
    place = (np.arange(words.size) - block.spread(block.starts)).astype(np.uint64)
    x = np.ascontiguousarray(words).view(np.uint64) + (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return np.add.reduceat(x ^ (x >> np.uint64(31)), block.starts)
