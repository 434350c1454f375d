"""Candidates in the order of a statistic, the frontier of size, and which of them cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from kullback._engine import keywords
from kullback.comparison import holm
from kullback.evaluation.table.figures import Figures
from kullback.evaluation.table.sizes import ModelSize, by_candidate

__all__ = ["STATISTICS", "CandidateRow", "RankedCandidates", "frontier"]

STATISTICS = ("kl.mean", "kl.median", "kl.p90", "kl.p95", "kl.p99", "kl.p99.9", "kl.max")
LEVEL = 0.05  # at which candidates are told apart, all pairs together
_MOST_LETTERS = 26
_MOST_PAIRS = 1000  # beyond which nobody reads letters


@dataclass(frozen=True)
class CandidateRow:
    """One candidate of a table.

    Attributes
    ----------
    figures : Figures
    size : ModelSize or None
    value : float
        Of the statistic that ranks.
    frontier : bool
        Whether no other candidate is at most as large and at most as far, and better in one of both.
    alike : str
        Letters: two candidates that share one are not told apart. Empty where nothing is known of all pairs.
    """

    figures: Figures
    size: ModelSize | None
    value: float
    frontier: bool = False
    alike: str = ""

    @property
    def name(self) -> str:
        return self.figures.name


class RankedCandidates:
    """Candidates in the order of `statistic`, the least first and what is not known last.

    Attributes
    ----------
    rows : list of CandidateRow
    statistic : str
        One of `STATISTICS`; `figure` is it without `kl.`.
    groups : str
        What the letters rest on, or why there are none.
    warnings : list of str
    not_worse : tuple of float and list of str, or None
        A margin, and the candidates that are shown not to be worse than the best by so much in mean KL.
    """

    def __init__(
        self,
        candidates: Sequence[Figures],
        *,
        statistic: str = "kl.mean",
        sizes: Mapping[str, ModelSize] | None = None,
        differences: Sequence[Mapping[str, Any]] = (),
        warnings: Sequence[str] = (),
        not_worse: tuple[float, list[str]] | None = None,
    ) -> None:
        keywords.choice(statistic, "statistic", STATISTICS)
        self.statistic = statistic
        self.figure = statistic.removeprefix("kl.")
        sizes = by_candidate(sizes or {}, [one.name for one in candidates])
        rows = [CandidateRow(one, sizes.get(one.name), one.kl.get(self.figure, math.nan)) for one in candidates]
        rows.sort(key=lambda row: (math.isnan(row.value), row.value))
        best = frontier([None if row.size is None else (row.size.bytes, row.value) for row in rows])
        letters, self.groups = _letters(rows, self.figure, differences)
        self.rows = [
            CandidateRow(row.figures, row.size, row.value, i in best, letters.get(row.name, ""))
            for i, row in enumerate(rows)
        ]
        self.warnings = list(warnings)
        self.not_worse = not_worse


def frontier(points: Sequence[tuple[float, float] | None]) -> set[int]:
    """Places of points (size, KL) that no other beats: sorted by size, each must be nearer than all before."""
    known = [(*point, i) for i, point in enumerate(points) if point is not None and point[1] < math.inf]
    found: set[int] = set()
    least, at = math.inf, (-1.0, math.nan)
    for size, value, i in sorted(known):
        if value < least or (size, value) == at:  # of the same size and distance both
            found.add(i)
            least, at = value, (size, value)
    return found


def _letters(
    rows: Sequence[CandidateRow], figure: str, differences: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, str], str]:
    """A letter to each largest set of candidates none of which is told apart from another; and what they rest on.

    Nothing unless all pairs are known. H.-P. Piepho, "An algorithm for a letter-based representation of all-pairwise
    comparisons", 2004: one set of all is split at each pair that differs, and sets within others are dropped.
    """
    names = [row.name for row in rows]
    p_values = {}
    for one in differences:
        pair = frozenset((one.get("a"), one.get("b")))
        p = _p_value(one, figure)
        if p is not None:
            p_values[pair] = p
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    if not pairs or len(set(names)) < len(names) or len(pairs) > _MOST_PAIRS or any(p not in p_values for p in pairs):
        return {}, "partly" if p_values else "unpaired"
    if all(math.isnan(p_values[pair]) for pair in pairs):
        return {}, f"unknown: {_why_unknown(differences)}"
    adjusted = holm([p_values[pair] for pair in pairs])
    sets = [frozenset(names)]
    for pair, p in zip(pairs, adjusted, strict=True):
        if p < LEVEL:  # NaN is not told apart
            split = [part for whole in sets for part in ((whole - {x} for x in pair) if pair <= whole else [whole])]
            sets = [one for one in dict.fromkeys(split) if not any(one < other for other in split)]
            if len(sets) > 20 * _MOST_LETTERS:
                break
    if len(sets) > _MOST_LETTERS:
        return {}, "tangled"
    sets.sort(key=lambda one: sorted(names.index(name) for name in one))
    letters = {name: "".join(chr(97 + i) for i, one in enumerate(sets) if name in one) for name in names}
    return letters, "paired, some unknown" if any(map(math.isnan, adjusted)) else "paired"


def _why_unknown(differences: Sequence[Mapping[str, Any]]) -> str:
    found = (one.get("group_note") for one in differences)
    return next((note for note in found if isinstance(note, str) and note), "the result has no p-values")


def _p_value(difference: Mapping[str, Any], figure: str) -> float | None:
    """Of equal figures, as the result gives it; NaN where it says that it is not known, None where it says nothing."""
    level = {"p99": "0.99", "p99.9": "0.999"}.get(figure)
    found: Any = difference.get("kl") if figure == "mean" else difference.get("kl_quantiles")
    if level is not None and isinstance(found, dict):
        found = found.get(level)
    elif figure != "mean":
        return None
    if not isinstance(found, dict) or "p_value" not in found:
        return None
    p = found["p_value"]
    return float(p) if isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 else math.nan
