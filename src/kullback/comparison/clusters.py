"""The error of a mean whose independent draws are groups of tokens, of which there may be few.

The mean is Σs/Σn over groups of sum s and n tokens. What makes intervals by the normal quantile, or by a percentile
bootstrap, too narrow with some dozens of groups is put right one by one:

* a group that is left out moves the mean by -u/(1 - h), with u = (s - mean·n)/Σn and h its share of the tokens. The
  standard error is the jackknife's, √((g-1)/g·Σ(u/(1-h))²): long groups pull the mean towards themselves.
* its square is known to fewer than g - 1 degrees of freedom where lengths differ: Satterthwaite's, of a variance
  between groups and within them as it is found (R. Bell & D. McCaffrey, 2002; G. Imbens & M. Kolesár, 2016).
* few groups are skewed: the end on either side is the further one of Student's t and of a studentised bootstrap of
  whole groups (P. Hall, 1992) whose quantiles are stretched by t of these degrees over t of g - 1.
* values that are never negative are skewed more than a sample shows that lacks the large ones: groups have at least the
  skewness of a lognormal law of their coefficient of variation, which moves both ends away from 0 (N. Johnson, 1978);
  the bootstrap, which shows too little skewness in some samples and too much in others, counts down to its root.

docs/intervals.md has the coverage, tests/interval_coverage.py measures it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.student import student_quantile

FEWEST = 5  # with less groups there is no error between them
BOOTSTRAPPED = 500  # groups up to which skewness matters
_CELLS = 1 << 20  # of draws·groups at a time

Float64s = NDArray[np.float64]


class Clusters(NamedTuple):
    """A mean and its groups, in the order of their names.

    Attributes
    ----------
    mean : float
    counts, moved : array
        Of each group the tokens, and u, which is rounded once.
    squares : float
        Σ(x - mean)² over all tokens.
    sign : int
        1 where no value is negative, -1 where none is positive, else 0.
    """

    mean: float
    counts: Float64s
    moved: Float64s
    squares: float
    sign: int = 0

    @property
    def shares(self) -> Float64s:
        return np.asarray(self.counts / self.counts.sum())

    def standard_error(self) -> float:
        """The jackknife's."""
        g = self.counts.size
        return math.sqrt((g - 1) / g) * math.hypot(*(self.moved / (1 - self.shares)))

    def degrees_of_freedom(self) -> float:
        """Satterthwaite's, of the square of that error; between 1 and g - 1.

        tr(B)²/tr(B²), B = A·diag(w)·Aᵀ, A = diag(1/(1-h))·(1 - h·1ᵀ) taking the sums' errors to u/(1-h), and w the
        variance of each sum: n tokens' and n² times that between groups (random effects, by analysis of variance).
        """
        h, weights = self.shares, self._variances()
        scale = 1 / (1 - h)
        own, left, right = scale**2 * weights, scale * weights, scale * h
        lr, rr = float(left @ right), float(right @ right)
        trace = own.sum() - 2 * lr + rr
        square = (
            own @ own + 2 * (left @ left) * rr + 2 * lr**2 + rr**2
            - 4 * (own * left) @ right + 2 * own @ right**2 - 4 * lr * rr
        )  # fmt: skip
        return float(min(max(trace**2 / square, 1.0), self.counts.size - 1.0))

    def _variances(self) -> Float64s:
        """Of the groups' sums, as shares of their total."""
        n, total, g = self.counts, self.counts.sum(), self.counts.size
        with np.errstate(over="ignore", invalid="ignore"):
            between = float(np.sum(self.moved**2 / n)) * total**2
            within = max(self.squares - between, 0.0) / (total - g) if total > g else 0.0
            effect = max(between - (g - 1) * within, 0.0) / (total - np.sum(n**2) / total)
            found = within * n + effect * n**2
            found = found / found.sum()
        return np.asarray(found if np.isfinite(found).all() else n / total, np.float64)

    def interval(self, level: float, draws: int, rng: np.random.Generator | int) -> tuple[float, float]:
        """Of the mean. Draws by a seed are made once for so many groups, and have the bits of that seed's generator."""
        error, g = self.standard_error(), self.counts.size
        if not 0 < error < math.inf or not 0 < level < 1:
            reach = 0.0 if error == 0 or level == 0 else math.inf
            return self.mean - reach, self.mean + reach
        reach, usual = (student_quantile((1 + level) / 2, d) for d in (self.degrees_of_freedom(), g - 1.0))
        low = high = 0.0
        if g <= BOOTSTRAPPED and reach > 0:
            found = self._studentised(draws, rng)
            if found.size:
                low, high = (float(x) for x in np.quantile(found, [(1 - level) / 2, (1 + level) / 2]) / usual)
        ends = [high, -low]  # how far below and above the mean, in reaches
        if self.sign and self.mean and reach > 0:
            away, back = (1, 0) if self.sign > 0 else (0, 1)
            longer, power = skewed(error / abs(self.mean), g, usual)
            ends[away] = longer * max(ends[away], 1.0) ** power
            ends[back] = max(ends[back], 1.0 / longer if g <= BOOTSTRAPPED else 1.0)
        else:
            ends = [max(end, 1.0) for end in ends]
        return self.mean - ends[0] * reach * error, self.mean + ends[1] * reach * error

    def _studentised(self, draws: int, rng: np.random.Generator | int) -> Float64s:
        """(mean* - mean)/error* of groups drawn with replacement; without draws of a single group or of groups that are
        alike, which have no error but rounding."""
        g, least = self.counts.size, 1e-6 * self.standard_error()
        parts = []
        step = max(1, _CELLS // g)
        if isinstance(rng, int) and draws > step:
            rng = np.random.default_rng(rng)
        for start in range(0, draws, step):
            times = _seeded_draws(g, draws, rng) if isinstance(rng, int) else _draws(g, min(step, draws - start), rng)
            with np.errstate(all="ignore"):
                share = self.counts / (times @ self.counts)[:, None]
                shift = (times @ self.moved) / (times @ self.shares)
                moved = self.moved / self.shares * share - shift[:, None] * share
                error = np.sqrt((g - 1) / g * np.sum(times * (moved / (1 - share)) ** 2, axis=1))
                found = shift / error
            parts.append(found[np.isfinite(found) & (error > least)])
        return np.concatenate(parts)


def _draws(groups: int, draws: int, rng: np.random.Generator) -> Float64s:
    """How often each group is in each draw of as many."""
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(np.float64)


@lru_cache(maxsize=8)
def _seeded_draws(groups: int, draws: int, seed: int) -> Float64s:
    """At most 8 MiB; a log has the same number of sequences in many of its steps."""
    return _draws(groups, draws, np.random.default_rng(seed))


def skewed(relative: float, groups: int, t: float) -> tuple[float, float]:
    """What the end away from 0 is longer by than t, were groups lognormal: 1 + γ/6·(2t² + 1)/t, where γ of the mean, of
    a `relative` error, is (3v + v³)/√g for groups of a coefficient of variation v, whose cube is taken at 1 at most;
    and the power to which the bootstrap's end is believed: 1 for v = 0, where no more is known, ½ from v = ½ on."""
    v = min(relative * math.sqrt(groups), 1.0)
    return 1.0 + relative * (1.0 + v**2 / 3.0) / 2.0 * (2.0 * t + 1.0 / t), max(1.0 - v, 0.5)


def summed_interval(
    mean: float, error: float, groups: int, share: float, sign: int, level: float
) -> tuple[float, float]:
    """Of a mean over so many groups that only sums are known: `share` is the sum of the squares of their shares.

    The linearised error over 1 - share, as leaving groups of a size out makes it, and 1/share - 1 degrees of freedom.
    """
    error = error / (1.0 - share) if share < 1.0 else math.inf
    if not 0 < error < math.inf or not 0 < level < 1:
        reach = 0.0 if error == 0 or level == 0 else math.inf
        return mean - reach, mean + reach
    reach = student_quantile((1 + level) / 2, min(max(1.0 / share - 1.0, 1.0), groups - 1.0)) * error
    longer = (
        skewed(error / abs(mean), groups, student_quantile((1 + level) / 2, groups - 1.0))[0] if sign and mean else 1.0
    )
    return mean - (longer if sign < 0 else 1.0) * reach, mean + (longer if sign > 0 else 1.0) * reach
