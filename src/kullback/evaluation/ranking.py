"""Which candidate is nearest to the base, and which of the differences between them are more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kullback.comparison import CandidateComparison, ComparisonSummary, Difference, holm

__all__ = ["LEVEL", "Margin", "Ranking", "Test", "rank"]

LEVEL = 0.05
_SHOWN = 20  # pairs; of more, each candidate and the next in the ranking


class Test(NamedTuple):
    """The mean KL of candidate `high` minus that of `low`; `adjusted` is its p-value among those taken with it."""

    high: str
    low: str
    difference: Difference
    adjusted: float

    @property
    def shown(self) -> bool:
        """Whether the two are told apart; an infinite mean is, from one that is not."""
        return self.adjusted < LEVEL or self.difference.mean == math.inf


@dataclass
class Margin:
    """Which candidates are shown not to be worse than the best by `margin` or more.

    Attributes
    ----------
    margin : float
    p_values : dict of str to float
        Of each candidate, adjusted for their number.
    not_worse : list of str
        Those of which it is shown at 95 %, in the order of the ranking.
    """

    margin: float
    p_values: dict[str, float]
    not_worse: list[str]


@dataclass
class Ranking:
    """Candidates in the order of their mean KL.

    Attributes
    ----------
    order : list of str
        Their names, the nearest to the base first.
    pairs : list of Test
        All of few candidates, of many those of neighbours.
    to_best : dict of str to Test
        Of each candidate but the first.
    why_not : str
        Why nothing is said of differences; empty where something is.
    margin : Margin, optional
        Where the rule of what to ship has one.
    """

    order: list[str]
    pairs: list[Test]
    to_best: dict[str, Test]
    why_not: str
    margin: Margin | None = None

    @property
    def alike(self) -> list[str]:
        """Those that cannot be told from the first, which is among them, in their order."""
        return [name for name in self.order if name == self.order[0] or not self.to_best[name].shown]


def rank(candidates: Mapping[str, ComparisonSummary], margin: float | None = None) -> Ranking:
    """Order candidates of one base by their mean KL; with the differences that a CandidateComparison knows, and with a
    `margin` those that are not worse than the best by so much."""
    if not isinstance(candidates, CandidateComparison):
        means = {name: s.kl.mean for name, s in candidates.items()}
        order = sorted(means, key=lambda name: (math.isnan(means[name]), means[name]))
        return Ranking(order, [], {}, "summaries alone do not tell how candidates differ; compare_candidates does")
    order = candidates.ranking()
    best, *others = order
    listed = candidates.listed_pairs()
    few = len(listed) <= _SHOWN
    if not few:
        listed = [(a, b) for a, b in listed if order.index(b) == order.index(a) + 1]
    pairs = _tests(candidates, listed)
    to_best = pairs if few else _tests(candidates, [(best, other) for other in others])
    found = {test.high: test for test in to_best if test.low == best}
    within = None
    if margin is not None:
        p_values = candidates.not_worse(margin)
        within = Margin(margin, p_values, [name for name in order if p_values[name] < LEVEL])
    return Ranking(order, pairs, found, _why_not(found), within)


def _tests(candidates: CandidateComparison, pairs: Sequence[tuple[str, str]]) -> list[Test]:
    differences = [candidates.difference(high, low).kl for low, high in pairs]
    adjusted = holm([d.p_value for d in differences])
    return [Test(high, low, d, p) for (low, high), d, p in zip(pairs, differences, adjusted, strict=True)]


def _why_not(to_best: Mapping[str, Test]) -> str:
    tests = list(to_best.values())
    if not tests or any(test.shown or not math.isnan(test.adjusted) for test in tests):
        return ""
    first = tests[0].difference
    if first.group_note:
        return f"{first.group_note} (documents or chunks)"
    return "their means are infinite or unknown" if not math.isfinite(first.mean) else "too few rows"
