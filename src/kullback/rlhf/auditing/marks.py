"""Broken tokens: which check they belong to. Every token has at most one, every sequence at most one of its own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.auditing.catalogue import NAMES

__all__ = ["LAGS", "Block", "Marked", "mark"]

Float64s = NDArray[np.float64]
CODES = {name: number for number, name in enumerate(NAMES)}
SOUND = -1

# what codebases write where they have no log-prob; none of them can be the log-prob of a sampled token
SENTINELS = (-9999.0, -1e4, -99999.0, -1e5, -1e6, -1e8, -1e9, -1e10, -1e30, -999.0, -1000.0, -100.0, 1.0, 100.0, 9999.0)
LAST_SAMPLED = -60.0  # a probability of 1e-26: nobody samples it
HIGHEST = 1e-3  # of a log-prob, for the rounding of float32 log-softmax
DEEP = -0.75  # log-probs beside an exact 0: below, the 0 is none (float32 and bfloat16 both agree; top-p above 0.47)
SHALLOW = -0.02
FILLED = 4  # tokens of a fill at an end that make it the end's
LAGS = (-2, -1, 1, 2)
APART = 0.02  # nats: pairs nearer than this say nothing of a lag
FEW = 8  # pairs that say something
SIDES = ("rollout", "train")


class Block(NamedTuple):
    """Whole sequences end to end, unmasked tokens alone."""

    rollout: Float64s
    train: Float64s
    positions: NDArray[np.int64]  # within the caller's rows
    starts: NDArray[np.int64]  # of the sequences that have tokens
    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]  # which of the call's sequences these are

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Over each sequence."""
        return np.add.reduceat(values, self.starts, dtype=np.int64 if values.dtype == np.bool_ else None)

    def spread(self, per_sequence: NDArray[Any]) -> NDArray[Any]:
        """One value a sequence, to each of its tokens."""
        return np.repeat(per_sequence, self.lengths)


class Marked(NamedTuple):
    """The check of each token (SOUND: none), and of each sequence with a whole-sequence mark its detail."""

    codes: NDArray[np.int8]
    sides: NDArray[np.int8]  # 0 rollout, 1 train, -1 both or none, of each token
    lags: NDArray[np.int8]  # of each sequence: how much later train's log-probs are


def mark(block: Block, differences: NDArray[np.int64] | None) -> Marked:
    """Look at the sequences of a block; `differences` are train's lengths minus rollout's, before the cut."""
    n = block.rollout.size
    codes, sides = np.full(n, SOUND, np.int8), np.full(n, -1, np.int8)
    values = (block.rollout, block.train)
    for side, (own, other) in enumerate((values, values[::-1])):
        if own.size and (not np.isfinite(own).all() or own.max() > HIGHEST or own.min() < LAST_SAMPLED):
            _impossible(block, own, other, side, codes, sides)
    for side, (own, other) in enumerate((values, values[::-1])):
        _constant(block, own, other, side, codes, sides)
    lags = _shifted(block, codes, sides, differences)
    # last, since sides that are not of the same tokens have zeros beside other numbers
    for side, (own, other) in enumerate((values, values[::-1])):
        _filled_with_zeros(block, own, other, side, codes, sides)
    return Marked(codes, sides, lags)


def _set(codes: NDArray[np.int8], sides: NDArray[np.int8], where: NDArray[np.bool_], check: str, side: int) -> None:
    where = where & (codes == SOUND)
    codes[where] = CODES[check]
    sides[where] = side


def _impossible(
    block: Block, own: Float64s, other: Float64s, side: int, codes: NDArray[np.int8], sides: NDArray[np.int8]
) -> None:
    """Values that no sampled token has."""
    with np.errstate(invalid="ignore"):
        above = own > HIGHEST
        inside = above & (own <= 1.0)
    if above.any():
        # of sequences of probabilities nothing is below 0 and hardly anything above 1
        likely = (block.sums(own >= 0.0) == block.lengths) & (block.sums(inside) >= 0.8 * block.sums(above))
        likely &= (block.sums(inside) >= np.minimum(4, block.lengths)) & _agree(block, own, other)
        _set(codes, sides, block.spread(likely), "probabilities", side)
        turned = (block.sums(own >= 0.0) == block.lengths) & (block.sums(above) >= np.minimum(4, block.lengths))
        turned &= block.sums(np.abs(own + other) < 0.25) >= 0.6 * block.lengths
        _set(codes, sides, block.spread(turned), "positive", side)
    for check, where in (
        ("missing", np.isnan(own)),
        ("infinite", np.isinf(own)),
        ("sentinel", np.isin(own, SENTINELS) | (own < LAST_SAMPLED)),
    ):
        if where.any():
            where = where & (codes == SOUND)
            at_start, at_end = _ends(block, where)
            if check != "infinite":  # an engine that bans tokens bans them wherever they come
                _set(codes, sides, where & block.spread(at_start), "masked_prompt", side)
                _set(codes, sides, where & block.spread(at_end), "length", side)
            _set(codes, sides, where, check, side)
    _set(codes, sides, above, "positive", side)


def _agree(block: Block, own: Float64s, other: Float64s) -> NDArray[np.bool_]:
    """Sequences in which own values are nearer to exp(other) than own logs are to anything: probabilities."""
    with np.errstate(all="ignore"):
        near = np.abs(own - np.exp(np.minimum(other, 0.0))) < 0.25
        near |= ~(other <= HIGHEST)  # the other side is no log-prob either
    return block.sums(near) >= 0.6 * block.lengths


def _ends(block: Block, where: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Sequences whose marked tokens are the first ones, or the last ones, and nothing else."""
    count = block.sums(where)
    place = np.arange(where.size)
    first = np.minimum.reduceat(np.where(where, where.size, place), block.starts) - block.starts
    stop = block.starts + block.lengths
    last = stop - 1 - np.maximum.reduceat(np.where(where, -1, place), block.starts)
    partly = (count >= FILLED) & (count < block.lengths)
    return partly & (first >= count), partly & (last >= count)


def _filled_with_zeros(
    block: Block, own: Float64s, other: Float64s, side: int, codes: NDArray[np.int8], sides: NDArray[np.int8]
) -> None:
    zero = own == 0.0
    if not zero.any():
        return
    with np.errstate(invalid="ignore"):
        deep = zero & (other < DEEP) & (codes == SOUND)
        touched = block.sums(deep) > 0
        if not touched.any():
            return
        shallow = zero & ((other < SHALLOW) | (codes != SOUND)) & block.spread(touched)
    # zeros of peaked tokens inside a fill belong to it, but are as they would be without
    place = np.arange(own.size)
    first = np.minimum.reduceat(np.where(zero, own.size, place), block.starts)
    last = np.maximum.reduceat(np.where(zero, -1, place), block.starts)
    stop = block.starts + block.lengths
    before, after = place < block.spread(first), place > block.spread(last)
    count, partly = block.sums(shallow), first < stop
    at_start = touched & partly & (first - block.starts >= FILLED) & (block.sums(shallow & before) == count)
    at_end = touched & partly & ~at_start & (stop - 1 - last >= FILLED) & (block.sums(shallow & after) == count)
    _set(codes, sides, shallow & block.spread(at_start), "masked_prompt", side)
    _set(codes, sides, shallow & block.spread(at_end), "length", side)
    _set(codes, sides, shallow, "zero_filled", side)


def _constant(
    block: Block, own: Float64s, other: Float64s, side: int, codes: NDArray[np.int8], sides: NDArray[np.int8]
) -> None:
    first = own[block.starts]
    with np.errstate(invalid="ignore"):
        one = (block.sums(own == block.spread(first)) == block.lengths) & (block.lengths >= FEW) & (first != 0.0)
        if not one.any():
            return
        low, high = np.minimum.reduceat(other, block.starts), np.maximum.reduceat(other, block.starts)
        one &= ~(high - low < 0.1)
    _set(codes, sides, block.spread(one), "constant", side)


def _shifted(
    block: Block, codes: NDArray[np.int8], sides: NDArray[np.int8], differences: NDArray[np.int64] | None
) -> NDArray[np.int8]:
    """Marks "shift", "length" and "unrelated"; the lag of each sequence."""
    lags = np.zeros(block.lengths.size, np.int8)
    usable = codes == SOUND
    with np.errstate(invalid="ignore"):
        apart = np.where(usable, np.minimum(np.abs(block.train - block.rollout), 3.0), 0.0)
        size = np.where(usable, np.minimum(np.abs(block.rollout), 3.0), 0.0)
    # only where the sides are about as far apart as strangers is there anything to look for
    suspects = np.flatnonzero((block.sums(apart) > 0.4 * block.sums(size)) & (block.sums(apart > APART) >= FEW // 2))
    if not suspects.size:
        return lags
    tokens = np.concatenate([np.arange(s, s + n) for s, n in zip(*_of(block, suspects), strict=True)])
    lengths = block.lengths[suspects]
    sides_of = [np.where(usable[tokens], side[tokens], np.nan) for side in block[:2]]
    starts = np.cumsum(lengths) - lengths
    own = Block(sides_of[0], sides_of[1], block.positions[tokens], starts, lengths, block.rows[suspects])
    lags[suspects], nowhere = _best_lags(own)
    moved = lags != 0
    if differences is not None:
        _set(codes, sides, block.spread(moved & (differences != 0)), "length", -1)
        moved &= differences == 0
    _set(codes, sides, block.spread(moved), "shift", -1)
    alone = np.zeros(lags.size, np.bool_)
    alone[suspects] = nowhere
    _set(codes, sides, block.spread(alone), "unrelated", -1)
    return lags


def _of(block: Block, which: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    return block.starts[which].tolist(), block.lengths[which].tolist()


def _best_lags(block: Block) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(lag of each sequence, 0 where none is better than the place; whether no lag is any good)."""
    rollout, train = block[:2]
    lags = np.zeros(block.lengths.size, np.int8)
    place = np.arange(rollout.size) - block.spread(block.starts)
    room = block.spread(block.lengths)
    own = np.minimum(np.abs(train - rollout), 3.0)
    best = np.full(block.lengths.size, 0.35)  # what is left of the difference where a lag is believed
    nowhere = _correlation(block, rollout, train) < 0.25
    for lag in LAGS:
        moved = np.full(rollout.size, np.nan)
        if rollout.size > abs(lag):
            moved[max(0, -lag) : rollout.size - max(0, lag)] = train[max(0, lag) : rollout.size + min(0, lag)]
        apart = np.minimum(np.abs(moved - rollout), 3.0)
        counted = (place + lag >= 0) & (place + lag < room) & (np.maximum(own, apart) > APART)
        pairs = block.sums(counted)
        here, there = (block.sums(np.where(counted, x, 0.0)) for x in (own, apart))
        wins = block.sums(counted & (apart < own))
        left = np.divide(there, here, out=np.full(here.size, np.inf), where=here > 0.0)
        better = (pairs >= FEW) & (wins >= 0.8 * pairs) & (left < best)
        better |= (pairs >= FEW // 2) & (wins == pairs) & (left < np.minimum(best, 0.15))  # of short sequences
        lags[better], best = lag, np.where(better, left, best)
        if abs(lag) == 1:
            nowhere &= (pairs >= 2 * FEW) & (left < 1.7)
    return lags, nowhere & (lags == 0)


def _correlation(block: Block, x: Float64s, y: Float64s) -> Float64s:
    """Of the probabilities, in each sequence: those of log-probs hang on single tokens; 1 where nothing varies."""
    known = ~np.isnan(x) & ~np.isnan(y) & (x != 0.0) & (y != 0.0)  # zeros may be fills
    count = np.maximum(block.sums(known), 1)
    x, y = (np.where(known, np.exp(np.minimum(side, 0.0)), 0.0) for side in (x, y))
    mx, my = block.sums(x) / count, block.sums(y) / count
    sx, sy = (block.sums(v * v) / count - m * m for v, m in ((x, mx), (y, my)))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (block.sums(x * y) / count - mx * my) / np.sqrt(sx * sy)
    return np.where((sx > 1e-2) & (sy > 1e-2), r, 1.0)
