"""What is known of a mean from its groups: the error between them, and intervals that respect it."""

from __future__ import annotations

import math
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import generator, keywords
from kullback.comparison.clusters import FEWEST, Clusters
from kullback.comparison.exact import Group, Mean, deviation, json_number
from kullback.comparison.shares import share_text, wilson_interval
from kullback.comparison.student import student_quantile


class Grouped:
    """Values by group: a document, a chunk, a sequence. `Spread` adds the values themselves."""

    _mean: Mean  # of the values that are not NaN
    _groups: dict[int, Group]
    _intervals: dict[tuple[float, int, int], tuple[float, float]]  # drawn already

    @property
    def min(self) -> float:
        """The least value."""
        raise NotImplementedError

    @property
    def max(self) -> float:
        """The greatest value."""
        raise NotImplementedError

    @property
    def is_share(self) -> bool:
        """Whether the values are zeros and ones, with a one among them: x² = x for all of them."""
        return self.min >= 0.0 and self.max == 1.0 and self._mean.squares == self._mean.total

    @property
    def groups(self) -> int:
        return len(self._groups)

    @property
    def enough_groups(self) -> bool:
        """Whether there are five groups at least: with fewer there is no error between them, and no interval."""
        return len(self._groups) >= FEWEST

    @cached_property
    def _clusters(self) -> Clusters | None:
        """The groups, if there are enough to say how far they differ and all tokens are in one."""
        names = sorted(self._groups)
        groups = [self._groups[name] for name in names]
        inside = sum(group.size for group in groups)
        if not self.enough_groups or not self._mean.total.finite or inside != self._mean.count:
            return None
        moved = [deviation(group.total, group.size, self._mean.total, self._mean.count) for group in groups]
        counts = np.array([group.size for group in groups], np.float64)
        squares = self._mean.standard_deviation**2 * (self._mean.count - 1)
        sign = 1 if self.min >= 0 else -1 if self.max <= 0 else 0
        return Clusters(self._mean.mean, counts, np.array(moved), squares, sign)

    @property
    def group_standard_error(self) -> float:
        """Of the mean, with groups as the independent draws (clusters.py); NaN with fewer than five."""
        return math.nan if self._clusters is None else self._clusters.standard_error()

    @property
    def group_degrees_of_freedom(self) -> float:
        """To which `group_standard_error` is known; NaN where it is."""
        return math.nan if self._clusters is None else self._clusters.degrees_of_freedom()

    @property
    def group_note(self) -> str:
        """Why there are groups but no error between them; empty where there is one, or no groups."""
        if not self._groups or self._clusters is not None:
            return ""
        if not self.enough_groups:
            one = "group" if self.groups == 1 else "groups"
            return f"{self.groups} {one}: too few for an error between them, {FEWEST} at least"
        return "the mean is infinite" if not self._mean.total.finite else "some tokens are in no group"

    def group_means(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(group, values in it, their mean), by group."""
        names = sorted(self._groups)
        counts = np.array([self._groups[name].size for name in names], np.int64)
        totals = np.array([float(self._groups[name].total) for name in names])
        return np.array(names, np.int64), counts, totals / np.maximum(counts, 1)

    def group_interval(self, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """An interval of the mean with groups as the independent draws; (NaN, NaN) with fewer than five.

        Student's t with Satterthwaite's degrees of freedom about the jackknife's error, and on either side at least
        as wide as a studentised bootstrap of whole groups (up to 500 of them); of values that are never negative,
        further up and less far down, as far as lognormal groups would be skewed; see clusters.py. The draws are the
        same at every call. Of values that are never negative it does not reach below 0; of zeros and ones it is
        `share_interval`, without draws.
        """
        level, draws = keywords.number(level, "level", 0.0, 1.0), keywords.whole(draws, "draws", 1)
        if type(seed) is not int:
            return self._group_interval(level, draws, seed)
        wish = level, draws, seed
        if wish not in self._intervals:  # JSON, table and page of a job ask for the same
            self._intervals[wish] = self._group_interval(level, draws, seed)
        return self._intervals[wish]

    def _group_interval(self, level: float, draws: int, seed: Any) -> tuple[float, float]:
        rng = generator(seed, "seed")
        if self._clusters is None:
            return math.nan, math.nan
        if self.is_share:
            return self.share_interval(level)
        low, high = self._clusters.interval(level, draws, rng)
        return (max(low, 0.0) if self.min >= 0 else low), high

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the mean: `group_interval` where groups are known, (NaN, NaN) where these are too few; else as if values
        were independent, of a share Wilson's. Of values that are never negative it does not reach below 0."""
        if self._groups:
            return self.group_interval(level)
        level = keywords.number(level, "level", 0.0, 1.0)
        if self.is_share:
            return self.share_interval(level)
        mean = self._mean.mean
        reach = NormalDist().inv_cdf((1 + level) / 2) * self._mean.standard_error if level < 1 else math.inf
        low = mean - reach
        return (max(low, 0.0) if self.min >= 0 else low), mean + reach

    def share_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of a mean of zeros and ones; (NaN, NaN) where groups are too few.

        Where groups make the error larger than that of independent tokens, for as many independent draws as would have
        it, fewer by (z/t)² of its degrees of freedom (E. L. Korn & B. I. Graubard, "Confidence intervals for
        proportions with small expected number of positive counts estimated from survey data", 1998).
        """
        if not self._groups:
            return wilson_interval(self._mean.mean, self._mean.count, level)
        if self._clusters is None:
            return math.nan, math.nan
        return wilson_interval(self._mean.mean, self._independent(level), level)

    @property
    def error(self) -> tuple[float, str]:
        """The error that is printed beside a mean, and its label: between groups where there are enough of them."""
        if self.enough_groups:
            return self.group_standard_error, "± group"
        return self._mean.standard_error, "± s.e."

    def share_text(self) -> str:
        """A share with its error; with an interval where that would be 0, unless groups are too few for one."""
        error, label = self.error
        if not error > 0:
            error, label = self._mean.standard_error, "± s.e."
        if self.group_note and not 0 < self._mean.mean < 1:
            return f"{share_text(self._mean.mean)} (no interval: {self.groups} groups)"
        return share_text(self._mean.mean, error, self._mean.count, label)

    def _independent(self, level: float) -> float:
        """As many independent draws would know the share as well as the groups do."""
        share, error, count = self._mean.mean, self.group_standard_error, float(self._mean.count)
        if error > 0 and 0 < level < 1:
            t = student_quantile((1 + level) / 2, self.group_degrees_of_freedom)
            z = NormalDist().inv_cdf((1 + level) / 2)
            count = min(count, share * (1 - share) / error**2 * (z / t) ** 2)
        return count

    @cached_property
    def _documents(self) -> Clusters | None:
        """The groups' own means, each as one value."""
        if not self._groups:
            return None
        means = self.group_means()[2]
        g = means.size
        mean = math.fsum(means) / g if np.isfinite(means).all() else float(means.sum() / g)
        sign = 1 if self.min >= 0 else -1 if self.max <= 0 else 0
        with np.errstate(all="ignore"):
            moved = means - mean
            return Clusters(mean, np.ones(g), moved / g, float(np.sum(moved**2)), sign)

    @property
    def document_mean(self) -> float:
        """The mean over groups of each one's own mean: a short document counts as much as a long one. NaN without."""
        return math.nan if self._documents is None else self._documents.mean

    @property
    def document_standard_error(self) -> float:
        """Of `document_mean`, with groups as the independent draws; NaN with fewer than five."""
        found = self._documents
        if found is None or not self.enough_groups or not math.isfinite(found.mean):
            return math.nan
        return found.standard_error()

    def document_interval(self, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Of `document_mean`, as `group_interval` is of the mean; (NaN, NaN) with fewer than five groups."""
        level, draws = keywords.number(level, "level", 0.0, 1.0), keywords.whole(draws, "draws", 1)
        rng = generator(seed, "seed")
        if self._documents is None or math.isnan(self.document_standard_error):
            return math.nan, math.nan
        low, high = self._documents.interval(level, draws, rng)
        return max(low, 0.0) if self.min >= 0 else low, min(high, 1.0) if self.is_share else high

    def group_figures(self) -> dict[str, Any]:
        """For JSON: how many groups, the error between them and its degrees of freedom, and why it is null."""
        figures: dict[str, Any] = {"groups": self.groups} if self._groups else {}
        names = "group_standard_error", "group_degrees_of_freedom", "document_mean", "document_standard_error"
        for name in names if self._groups else ():
            figures[name] = json_number(getattr(self, name))
        return figures | ({"group_note": self.group_note} if self.group_note else {})
