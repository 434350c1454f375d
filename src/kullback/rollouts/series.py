"""How far rollout and train are apart by step, environment, worker or position: exact, mergeable, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf import kl_estimate
from kullback.rollouts.batches import Float64s, Int64s, RolloutBatch
from kullback.rollouts.points import ENTROPIES, Point, SequenceEstimate, Sums, interval

__all__ = ["NO_LABEL", "Point", "SequenceEstimate", "Series", "Sums", "interval", "position_range", "sums_of"]

NO_LABEL = "(none)"  # what rows are under that have no label, so that labels add up to all
_WAITING = 1 << 16  # sequences whose sums are kept until they are added up: exact addition costs by the call


def position_range(first: int) -> str:
    """The positions of a class by its first: 0, 1-2, 3-6, 7-14, ..."""
    return f"{first}-{2 * first}" if first else "0"


class Series:
    """Points by label: of steps, environments, workers, or positions."""

    def __init__(self) -> None:
        self._points: dict[Any, Point] = {}
        self._waiting: list[tuple[Sequence[Hashable], Sums, Float64s | None, Float64s | None]] = []
        self._count = 0

    def add(
        self, labels: Sequence[Hashable], sums: Sums, lengths: Float64s | None = None, reward: Float64s | None = None
    ) -> None:
        """Sums of sequences, each with its label; None is no label."""
        self._waiting.append((labels, sums, lengths, reward))
        self._count += len(labels)
        if self._count > _WAITING:
            self.settle()

    def settle(self) -> None:
        """Add up what waits."""
        for labels, sums, lengths, reward in _joined(self._waiting):
            groups: dict[Any, list[int]] = {}
            for i, label in enumerate(labels):
                if label is not None:
                    groups.setdefault(label, []).append(i)
            for label, members in groups.items():
                self._points.setdefault(label, Point()).add(np.array(members), sums, lengths, reward)
        self._waiting, self._count = [], 0

    @property
    def points(self) -> dict[Any, Point]:
        """By label, in order: numbers before text."""
        self.settle()
        return dict(sorted(self._points.items(), key=lambda item: (isinstance(item[0], str), item[0])))

    def merge(self, other: Series) -> Series:
        """Both together."""
        both = Series()
        both._points = dict(self.points)
        for label, point in other.points.items():
            both._points[label] = both._points[label].merge(point) if label in both._points else point
        return both

    def __eq__(self, other: object) -> bool:
        return self.points == other.points if isinstance(other, Series) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _joined(waiting: list[Any]) -> list[Any]:
    """What waits as one, where its parts are alike."""
    if len(waiting) < 2:
        return waiting
    labels = [label for some, *_ in waiting for label in some]
    counts = np.concatenate([sums.counts for _, sums, *_ in waiting])
    names = waiting[0][1].sums
    sums = {name: np.concatenate([s.sums[name] for _, s, *_ in waiting]) for name in names}

    def entropy(s: Sums, name: str) -> tuple[Float64s, Int64s]:
        nothing = np.zeros(len(s.counts)), np.zeros(len(s.counts), np.int64)
        return s.entropies.get(name, nothing)

    known = [name for name in ENTROPIES if any(name in s.entropies for _, s, *_ in waiting)]
    entropies = {}
    for name in known:
        pairs = [entropy(s, name) for _, s, *_ in waiting]
        entropies[name] = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])

    def column(place: int) -> Float64s | None:
        if all(part[place] is None for part in waiting):
            return None
        return np.concatenate([np.full(len(p[0]), np.nan) if p[place] is None else p[place] for p in waiting])

    return [(labels, Sums(counts, sums, entropies), column(2), column(3))]


def sums_of(batch: RolloutBatch, sound: NDArray[np.bool_], log_ratio: Float64s, starts: Int64s) -> Sums:
    """Sums over the sound tokens from each start to the next.

    Parameters
    ----------
    sound : ndarray of bool (N,)
    log_ratio : ndarray (number of sound tokens,)
        train - rollout of the sound tokens.
    starts : ndarray of int64
        Places among all tokens, rising, from 0.
    """
    seen = np.concatenate([[0], np.cumsum(sound)])
    ends = seen[np.append(starts, len(sound))]
    with np.errstate(over="ignore"):
        excess = np.expm1(log_ratio)
        squares = excess * (excess + 2.0)  # expm1(2d)
        values = {
            "k1": -log_ratio, "k3": kl_estimate(-log_ratio, "k3"), "weight": excess, "weight2": squares,
            "both": excess + squares,
        }  # fmt: skip
    sums = {name: _between(x, ends) for name, x in values.items()}
    entropies = {}
    for name in ENTROPIES:
        column = getattr(batch, name)
        if column is not None:
            mine = column[sound]
            known = ~np.isnan(mine)
            entropies[name] = (
                _between(np.where(known, mine, 0.0), ends), _between(known.astype(np.float64), ends).astype(np.int64)
            )  # fmt: skip
    return Sums(np.diff(ends), sums, entropies)


def _between(values: Float64s, ends: Int64s) -> Float64s:
    """Sums of values[ends[i]:ends[i + 1]], 0 where there are none."""
    out = np.zeros(len(ends) - 1)
    occupied = np.flatnonzero(np.diff(ends))
    if occupied.size:
        with np.errstate(invalid="ignore", over="ignore"):
            out[occupied] = np.add.reduceat(values, ends[:-1][occupied])
    return out
