"""How two candidates of one base differ, by the tokens that both were asked about: in means and quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kullback._engine import keywords
from kullback.comparison.exact import Group, Mean, json_number
from kullback.comparison.grouped import Grouped
from kullback.comparison.student import binomial_below, student_quantile, student_tail


class Difference(Grouped):
    """One quantity of candidate a minus that of b, over the rows of both.

    Attributes
    ----------
    mean : float
        ±inf where one side is infinite somewhere, NaN where both are; `finite` is without these rows.
    standard_error : float
        Of the mean; paired, and between groups where groups are known: the jackknife's, NaN for fewer than five.
    degrees_of_freedom : float
    p_value : float
        Of the same mean, two-sided: Student's t; of zeros and ones without groups McNemar's exact test (mid-p).
    ties, above, below : int or None
        Rows where a and b are equal, a is greater, a is less; None where that was not counted: of too many labels.
    groups : int
    """

    min, max = -math.inf, math.inf  # a difference has any sign

    def __init__(self, mean: Mean, groups: Mapping[int, Group], signs: tuple[int, int] | None, share: bool) -> None:
        self._mean, self._groups, self._intervals = mean, dict(groups), {}
        self._signs = signs
        self._share = share  # of zeros and ones
        self.infinite = (0, 0)  # rows in which a, and b, is infinite

    @property
    def above(self) -> int | None:
        return self._signs and self._signs[0]

    @property
    def below(self) -> int | None:
        return self._signs and self._signs[1]

    @property
    def ties(self) -> int | None:
        return self._signs and self._mean.count - sum(self._signs)

    @property
    def group_note(self) -> str:
        if self._signs is None and not self._groups:
            return "no documents are known, and of so many labels no other errors are kept"
        return super().group_note

    @property
    def count(self) -> int:
        """Rows, those with an infinite value among them."""
        return self._mean.count + sum(self.infinite)

    @property
    def finite(self) -> Difference:
        """Without the rows in which a candidate is infinite."""
        return Difference(self._mean, self._groups, self._signs, self._share)

    @property
    def mean(self) -> float:
        if not any(self.infinite):
            return self._mean.mean
        return math.nan if all(self.infinite) else math.inf if self.infinite[0] else -math.inf

    @property
    def standard_error(self) -> float:
        if any(self.infinite):
            return math.nan
        return self.group_standard_error if self._groups else self._mean.standard_error

    @property
    def degrees_of_freedom(self) -> float:
        return self.group_degrees_of_freedom if self._groups else max(self._mean.count - 1.0, 1.0)

    @property
    def p_value(self) -> float:
        if any(self.infinite):
            return math.nan
        if self._share and not self._groups and self._signs is not None:
            return mcnemar(*self._signs)
        error, mean = self.standard_error, self._mean.mean
        if not error > 0:
            return 1.0 if mean == 0 and error == 0 else math.nan
        return min(1.0, 2 * student_tail(abs(mean) / error, self.degrees_of_freedom))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the mean difference, by Student's t; (NaN, NaN) where the error is not known.

        Of zeros and ones without groups half a row is added to each way of agreeing and differing (A. Agresti &
        Y. Min, 2005), so that it has a width where no row differs.
        """
        level = keywords.number(level, "level", 0.0, 1.0)
        mean, error = self.mean, self.standard_error
        if self._share and not self._groups and self._signs is not None and not any(self.infinite):
            n, (above, below) = self._mean.count + 2, self._signs
            mean = (above - below) / n
            error = math.sqrt(max(above + below + 1 - n * mean * mean, 0.0)) / n
        if math.isnan(error):
            return math.nan, math.nan
        reach = student_quantile((1 + level) / 2, self.degrees_of_freedom) * error if error else 0.0
        return mean - reach, mean + reach

    def equivalent(self, margin: float, level: float = 0.95) -> bool:
        """Whether a and b are shown to differ by less than `margin`: two one-sided tests at 1 - `level`.

        D. J. Schuirmann, 1987. False where they are not, and where nothing is known.
        """
        return _equivalent(self, margin, level)

    def p_below(self, limit: float) -> float:
        """p-value of the claim that the mean difference is below `limit`, one-sided.

        With a margin as the limit: that a is not worse than b by so much (non-inferiority), where less is better.
        """
        limit = keywords.number(limit, "limit", -math.inf, math.inf)
        mean, error = self.mean, self.standard_error
        if math.isinf(mean):
            return float(mean > 0)
        if not error > 0:
            return math.nan if math.isnan(error) else float(not mean < limit)
        tail = student_tail(abs(limit - mean) / error, self.degrees_of_freedom)
        return tail if mean < limit else 1.0 - tail

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tree: dict[str, Any] = {
            "mean": json_number(self.mean), "standard_error": json_number(self.standard_error),
            "interval": [json_number(end) for end in self.interval()], "p_value": json_number(self.p_value),
            "ties": self.ties, "above": self.above, "below": self.below,
        }  # fmt: skip
        if any(self.infinite):
            tree["infinite"] = list(self.infinite)
        return tree

    def __repr__(self) -> str:
        return f"Difference(mean={self.mean:.6g}, standard_error={self.standard_error:.3g}, p_value={self.p_value:.3g})"


class QuantileDifference(NamedTuple):
    """A quantile of candidate a minus that of b; see `quantile_pairs`."""

    mean: float
    standard_error: float
    batches: int

    @property
    def p_value(self) -> float:
        """Of equal quantiles, two-sided."""
        if not self.standard_error > 0:
            return 1.0 if self.mean == 0 and self.standard_error == 0 else math.nan
        return min(1.0, 2 * student_tail(abs(self.mean) / self.standard_error, self.batches - 1.0))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """By Student's t; (NaN, NaN) where the error is not known."""
        level = keywords.number(level, "level", 0.0, 1.0)
        if math.isnan(self.standard_error):
            return math.nan, math.nan
        error = self.standard_error
        reach = student_quantile((1 + level) / 2, self.batches - 1.0) * error if error else 0.0
        return self.mean - reach, self.mean + reach

    def equivalent(self, margin: float, level: float = 0.95) -> bool:
        """Whether the quantiles are shown to differ by less than `margin`; as of a `Difference`."""
        return _equivalent(self, margin, level)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": json_number(self.mean), "standard_error": json_number(self.standard_error),
            "interval": [json_number(end) for end in self.interval()], "p_value": json_number(self.p_value),
        }  # fmt: skip


def _equivalent(difference: Difference | QuantileDifference, margin: float, level: float) -> bool:
    margin = keywords.number(margin, "margin", 0.0, math.inf)
    low, high = difference.interval(max(2 * keywords.number(level, "level", 0.5, 1.0) - 1, 0.0))
    return -margin < low and high < margin


def mcnemar(above: int, below: int) -> float:
    """Whether two shares of the same rows are equal: McNemar's exact test, mid-p, of the rows in which they differ.

    M. W. Fagerland, S. Lydersen & P. Laake, "The McNemar test for binary matched-pairs data", 2013.
    """
    n, least = above + below, min(above, below)
    if n == 0:
        return 1.0
    if above == below:
        return 1.0
    here = math.exp(math.lgamma(n + 1) - math.lgamma(least + 1) - math.lgamma(n - least + 1) - n * math.log(2.0))
    return min(1.0, 2 * (binomial_below(least, n) - here / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, so that the chance of any false claim keeps its level (S. Holm, 1979).

    NaN stays NaN, and counts as a test that was made.
    """
    p = np.array(p_values, np.float64)
    order = np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable")
    steps = p[order] * (p.size - np.arange(p.size))
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.where(np.isnan(steps), 0.0, steps)), 1.0)
    return [math.nan if math.isnan(x) else float(y) for x, y in zip(p, adjusted, strict=True)]
