"""What audits of parts add up to: a table of sequences, marks, histograms; merging is exact and knows no order."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.auditing.catalogue import NAMES
from kullback.rlhf.auditing.marks import SIDES, SOUND, Block, Marked, mark
from kullback.rlhf.auditing.sequences import sequence_columns
from kullback.rlhf.auditing.sources import kinds_of

__all__ = ["WORST", "State", "concatenated", "cut_worst", "histogram", "look_at_storage", "marks_of", "worst_of"]

Float64s = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]

WORST = 64  # tokens kept
OCTAVES = (-40, 20)  # of |log-ratio|, all that the histogram tells apart
NARROW = {"bfloat16": (8, -133), "float16": (11, -24)}  # digits, exponent of the least step
STEPS = 32  # a quantile of it is within 1/32 of its value


def concatenated(parts: list[Columns]) -> Columns:
    """The same columns of all parts, in one order whatever that of the parts."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    keys = [joined[name] for name in ("apart", "sequence", "check", "side", "position") if name in joined]
    order = np.lexsort(keys[::-1])
    return {name: values[order] for name, values in joined.items()}


def marks_of(block: Block, marked: Marked, ids: NDArray[np.int64]) -> Columns:
    """One row for each sequence, check and side: its tokens, the first one, and what they add to k1 and k3."""
    places = np.flatnonzero(marked.codes != SOUND)
    sequence = np.repeat(np.arange(block.lengths.size), block.lengths)[places]
    kind = marked.codes[places].astype(np.int64) * 3 + marked.sides[places] + 1
    key, first, inverse = np.unique(sequence * (3 * len(NAMES)) + kind, return_index=True, return_inverse=True)
    r, t = block.rollout[places], block.train[places]
    with np.errstate(invalid="ignore", over="ignore"):
        d = t - r
        known = ~np.isnan(d)
        k1, k3 = np.where(known, -d, 0.0), np.where(known, np.expm1(d) - d, 0.0)
        k3[known & (d == np.inf)] = np.inf  # not NaN
        sums = [np.bincount(inverse, x, key.size) for x in (k1, k3)]
    kind = key % (3 * len(NAMES))
    where = places[first]
    side = kind % 3 - 1
    return {
        "sequence": ids[key // (3 * len(NAMES))],
        "check": kind // 3,
        "side": side,
        "tokens": np.bincount(inverse, minlength=key.size).astype(np.int64),
        "known": np.bincount(inverse, known, key.size).astype(np.int64),
        "position": block.positions[where],
        "value": np.where(side == 1, block.train[where], block.rollout[where]),
        "lag": marked.lags[key // (3 * len(NAMES))].astype(np.int64),
        "k1": sums[0],
        "k3": sums[1],
    }


def histogram(d: Float64s) -> NDArray[np.int64]:
    """How many log-ratios of each size, those below 0 first: what is beyond the ends counts with them."""
    low, high = OCTAVES
    bits = np.ascontiguousarray(np.abs(d)).view(np.int64) >> (52 - 5)
    cell = np.clip(bits - (1023 + low) * STEPS, 0, (high - low) * STEPS - 1)
    cells = (high - low) * STEPS
    return np.bincount(cell + cells * (d >= 0.0), minlength=2 * cells).astype(np.int64)


def histogram_edges() -> Float64s:
    """Lower ends of the cells of one sign."""
    low, high = OCTAVES
    octave, step = np.divmod(np.arange((high - low) * STEPS), STEPS)
    return np.asarray(np.ldexp(1.0 + step / STEPS, octave + low))


def worst_of(block: Block, marked: Marked, ids: NDArray[np.int64], tokens: NDArray[Any] | None) -> Columns:
    """Sound tokens of the greatest |log-ratio|."""
    d = np.where(marked.codes == SOUND, np.abs(block.train - block.rollout), -1.0)
    if d.size > WORST:
        least = np.partition(d, d.size - WORST)[d.size - WORST]
        places = np.flatnonzero(d >= max(least, 0.0))
    else:
        places = np.flatnonzero(d >= 0.0)
    which = np.searchsorted(block.starts, places, side="right") - 1
    return cut_worst({
        "apart": -d[places],
        "sequence": ids[which],
        "position": block.positions[places],
        "token": np.full(places.size, -1) if tokens is None else tokens[places].astype(np.int64),
        "rollout": block.rollout[places],
        "train": block.train[places],
    })  # fmt: skip


def cut_worst(columns: Columns) -> Columns:
    """The WORST first of them."""
    order = np.lexsort(tuple(columns.values())[::-1])[:WORST]
    return {name: values[order] for name, values in columns.items()}


class State:
    """Everything that adds up."""

    def __init__(self) -> None:
        self.table: Columns = {}
        self.marks: Columns = {}
        self.worst: Columns = {}
        self.cells = np.zeros(2 * (OCTAVES[1] - OCTAVES[0]) * STEPS, np.int64)
        self.values = dict.fromkeys(SIDES, 0)
        # of storages that could hold all of them: the KL by rounding, in units of 2⁻⁴⁰ nats, summed
        self.floor = {(side, name): 0 for side in SIDES for name in NARROW}

    @classmethod
    def empty(cls) -> State:
        """No sequence yet, all columns there."""
        one, none = np.full(1, -1.0), np.zeros(1, np.int64)
        block = Block(one, one, none, none, none + 1, none)
        marked = mark(block, None)
        state = cls()
        parts = sequence_columns(block, marked, None, (None, None)), marks_of(block, marked, none)
        state.table, state.marks, state.worst = (
            {name: values[:0] for name, values in part.items()}
            for part in (*parts, worst_of(block, marked, none, None))
        )
        return state

    @cached_property
    def sources(self) -> dict[str, NDArray[np.str_]]:
        """The labels of all sequences by what they tell, when the table is complete."""
        return kinds_of(self.table["source"])

    @staticmethod
    def merged(states: list[State]) -> State:
        """Of all of them; none is changed."""
        whole = State()
        whole.table = concatenated([state.table for state in states])
        again = np.diff(whole.table["sequence"]) == 0
        if again.any():
            twice = whole.table["sequence"][:-1][again][0]
            raise ValueError(f"two parts have a sequence {twice}, expected different `sequence_ids` in each")
        whole.marks = concatenated([state.marks for state in states])
        whole.worst = cut_worst(concatenated([state.worst for state in states]))
        for state in states:
            whole.cells = whole.cells + state.cells
            whole.values = {side: count + state.values[side] for side, count in whole.values.items()}
            whole.floor = {key: sum_ + state.floor[key] for key, sum_ in whole.floor.items() if key in state.floor}
        return whole

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        if (self.values, self.floor) != (other.values, other.floor):
            return False
        mine, theirs = ((s.table, s.marks, s.worst, {"cells": s.cells}) for s in (self, other))
        return all(
            a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
            for a, b in zip(mine, theirs, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def look_at_storage(state: State, side: str, values: Float64s) -> None:
    """Whether bfloat16 or float16 could hold all values, and the KL that rounding to them gives: half its variance."""
    own = values[np.isfinite(values) & (values != 0.0)]
    state.values[side] += own.size
    for name, (digits, least) in NARROW.items():
        if (side, name) not in state.floor or not own.size:
            continue
        for part in (own[:256], own):  # hardly any others are looked at whole
            _, exponent = np.frexp(part)
            step = np.ldexp(1.0, np.maximum(exponent - digits, least))
            if (np.remainder(part, step) != 0.0).any():
                del state.floor[side, name]
                break
        else:
            state.floor[side, name] += int(np.rint(np.ldexp(np.minimum(step, 1.0) ** 2 / 24.0, 40)).sum())
