"""What is known of the sequences of one label: exact and mergeable means, with intervals that hold with few of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import FEWEST, Clusters, Estimate, Mean, summed_interval
from kullback.rollouts.batches import Float64s, Int64s

__all__ = ["ENTROPIES", "Point", "SequenceEstimate", "Sums", "interval"]

# means over tokens; "both" is weight + weight², from which their covariance comes
_OF_TOKENS = ("k1", "k3", "weight", "weight2", "both")
ENTROPIES = ("rollout_entropy", "train_entropy")
# of which a sum for each sequence is kept, and what they are means over
_KEPT = {
    "k1": "tokens", "k3": "tokens", "weight": "tokens", "weight2": "tokens", "rollout_entropy": "rollout_entropies",
    "train_entropy": "train_entropies", "length": "", "reward": "",
}  # fmt: skip
_COLUMNS = (*_KEPT, "tokens", "rollout_entropies", "train_entropies")
_MOST_KEPT = 256  # sequences of a label up to which these are kept
_SIGNS = {"kl_k3": 1, "kept_mass": 1, "rollout_entropy": 1, "train_entropy": 1, "length": 1}  # what is never negative
_DRAWS = 1000  # of the bootstrap


class Sums(NamedTuple):
    """Sums over the sound tokens of each sequence (or of each part of one), and how many these are."""

    counts: Int64s
    sums: dict[str, Float64s]
    entropies: dict[str, tuple[Float64s, Int64s]]


class SequenceEstimate(Estimate):
    """A mean over sequences as the independent draws, and its standard error.

    Attributes
    ----------
    sequences : int
        How many went in; with fewer than five there is no interval.
    """

    sequences: int
    _share: float
    _clusters: Clusters | None
    _sign: int

    def __new__(
        cls, mean: float, standard_error: float, of: Mean | None = None, clusters: Clusters | None = None, sign: int = 0
    ) -> SequenceEstimate:
        made = super().__new__(cls, mean, standard_error)
        made.sequences = of.clusters if of is not None else 0
        made._share = of.squared_counts / of.count**2 if of is not None and of.count else math.nan
        made._clusters, made._sign = clusters, sign
        return made

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """That of the mean over groups of tokens (`group_interval` of a summary), with sequences as the groups; (NaN,
        NaN) with fewer than five. Of more than 256, whose single figures are not kept, Student's t."""
        if self.sequences < FEWEST or not math.isfinite(self.mean) or math.isnan(self.standard_error):
            return math.nan, math.nan
        if self._clusters is not None:
            low, high = self._clusters.interval(level, _DRAWS, 0)
        else:
            low, high = summed_interval(*self, self.sequences, self._share, self._sign, level)
        return (max(low, 0.0) if self._sign else low), high


def interval(estimate: Estimate, level: float = 0.95) -> tuple[float, float]:
    """The interval of a mean over sequences; (NaN, NaN) where it is not known."""
    return estimate.interval(level) if isinstance(estimate, SequenceEstimate) else (math.nan, math.nan)


class Point:
    """One label's tokens and sequences.

    Attributes
    ----------
    sequences : int
        Those of this label; 0 in a series of positions, which are parts of sequences.
    counted, tokens : int
        Their tokens that the mask counts; those of them that are sound, of which all figures are.
    """

    def __init__(self) -> None:
        self.means = {name: Mean() for name in (*_OF_TOKENS, *ENTROPIES, "length", "reward")}
        self.kept: Float64s | None = np.empty((0, len(_COLUMNS)))  # a row for each sequence; None: too many of them

    def keep(self, rows: Float64s | None) -> None:
        """Figures of sequences, as long as there are few."""
        few = self.kept is not None and rows is not None and len(self.kept) + len(rows) <= _MOST_KEPT
        self.kept = np.concatenate([self.kept, rows]) if few else None

    def merge(self, other: Point) -> Point:
        """Both together."""
        both = Point()
        both.means = {name: mean.merge(other.means[name]) for name, mean in self.means.items()}
        both.keep(self.kept)
        both.keep(other.kept)
        return both

    def add(self, members: NDArray[np.int64], sums: Sums, lengths: Float64s | None, reward: Float64s | None) -> None:
        """Sequences by their places among all, with their figures."""
        counts = sums.counts[members]
        some = members[counts > 0]
        if self.kept is not None:
            self.keep(_rows(members, sums, lengths, reward) if len(self.kept) + len(members) <= _MOST_KEPT else None)
        for name in _OF_TOKENS:
            self.means[name].add(sums.sums[name][some], sums.counts[some])
        for name, (totals, known) in sums.entropies.items():
            have = members[known[members] > 0]
            self.means[name].add(totals[have], known[have])
        for name, values in (("length", lengths), ("reward", reward)):
            if values is not None:
                mine = values[members]
                self.means[name].add(mine[~np.isnan(mine)])

    def _of(self, name: str, called: str = "", shift: float = 0.0) -> SequenceEstimate:
        """The mean of that name, called so among the estimates, plus a number."""
        mean, sign = self.means[name], _SIGNS.get(called or name, 0)
        value = shift + mean.mean
        found = self._moves(name) if math.isfinite(mean.mean) else None
        clusters = None if found is None else Clusters(value, *found, 0.0, sign)
        return SequenceEstimate(value, mean.standard_error, mean, clusters, sign)

    def _moves(self, name: str) -> tuple[Float64s, Float64s] | None:
        """Of each sequence how much it counts, and by how much it moves the mean; None of more than are kept."""
        if self.kept is None or self.means[name].clusters < FEWEST:
            return None
        rows = self.kept[np.lexsort(self.kept.T)]  # in an order that parts of a job do not decide
        sums = rows[:, _COLUMNS.index(name)]
        counts = rows[:, _COLUMNS.index(_KEPT[name])] if _KEPT[name] else (~np.isnan(sums)).astype(np.float64)
        some = counts > 0
        sums, counts = sums[some], counts[some]
        with np.errstate(over="ignore", invalid="ignore"):
            return counts, (sums - self.means[name].mean * counts) / counts.sum()

    @property
    def tokens(self) -> int:
        """Sound ones."""
        return self.means["k1"].count

    @property
    def counted(self) -> int:
        return int(self.means["length"].total.exact())

    @property
    def sequences(self) -> int:
        return self.means["length"].count

    @property
    def interval_note(self) -> str:
        """Why there are no intervals; empty where there are, or no tokens."""
        count = self.means["k1"].clusters
        if not 0 < count < FEWEST:
            return ""
        return f"{count} {'sequence' if count == 1 else 'sequences'}: too few for intervals, {FEWEST} at least"

    @property
    def kl_k1(self) -> SequenceEstimate:
        return self._of("k1")

    @property
    def kl_k3(self) -> SequenceEstimate:
        return self._of("k3", "kl_k3")

    @property
    def kept_mass(self) -> SequenceEstimate:
        """Mean of w = train/rollout: below 1 where the rollout gave log-probs of a truncated support."""
        return self._of("weight", "kept_mass", 1.0)

    @property
    def ess(self) -> SequenceEstimate:
        """(Σw)²/(n·Σw²), its error by the delta method."""
        w, w2, both = (self.means[name].estimate for name in ("weight", "weight2", "both"))
        a, b = 1.0 + w.mean, 1.0 + w2.mean
        if not (math.isfinite(a) and math.isfinite(b)):
            return SequenceEstimate(math.nan, math.nan)
        var_a, var_b = w.standard_error**2, w2.standard_error**2
        covariance = (both.standard_error**2 - var_a - var_b) / 2
        slope_a, slope_b = 2 * a / b, -((a / b) ** 2)
        variance = slope_a**2 * var_a + slope_b**2 * var_b + 2 * slope_a * slope_b * covariance
        error = math.sqrt(variance) if variance > 0 else (0.0 if variance <= 0 else math.nan)
        moves, squares = self._moves("weight"), self._moves("weight2")
        clusters = None
        if moves is not None and squares is not None:
            clusters = Clusters(a * a / b, moves[0], slope_a * moves[1] + slope_b * squares[1], 0.0)
        return SequenceEstimate(a * a / b, error, self.means["weight"], clusters)

    def estimates(self) -> dict[str, SequenceEstimate]:
        """Everything that is known of it, by name."""
        found = {"kl_k1": self.kl_k1, "kl_k3": self.kl_k3, "ess": self.ess, "kept_mass": self.kept_mass}
        for name in (*ENTROPIES, "length", "reward"):
            if self.means[name].count:
                found[name] = self._of(name)
        return found

    def __eq__(self, other: object) -> bool:
        return self.means == other.means if isinstance(other, Point) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _rows(members: NDArray[np.int64], sums: Sums, lengths: Float64s | None, reward: Float64s | None) -> Float64s:
    """What is kept of each sequence."""
    columns = {name: x[members] for name, x in sums.sums.items() if name in _KEPT} | {"tokens": sums.counts[members]}
    for name, counts in (("rollout_entropy", "rollout_entropies"), ("train_entropy", "train_entropies")):
        if name in sums.entropies:
            columns[name], columns[counts] = (x[members] for x in sums.entropies[name])
    columns |= {name: x[members] for name, x in (("length", lengths), ("reward", reward)) if x is not None}
    nothing = {"rollout_entropies": 0.0, "train_entropies": 0.0}
    return np.stack(
        [columns.get(name, np.full(len(members), nothing.get(name, np.nan))) for name in _COLUMNS], axis=1
    ).astype(np.float64)
