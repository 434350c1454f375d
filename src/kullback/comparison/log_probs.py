"""Log-probabilities of the tokens, summed up exactly: what perplexities are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.exact import ExactSum

_ROUNDING = 2.0**-50  # of the squares, which are rounded one by one: a variance below it is none


@dataclass(frozen=True)
class LogProbs:
    """Exact sums of the tokens' log-probabilities under p and q, of the same rows; nats."""

    count: int
    p: ExactSum
    q: ExactSum
    squares_p: ExactSum
    squares_q: ExactSum
    products: ExactSum

    @classmethod
    def of(cls, p: NDArray[np.float64], q: NDArray[np.float64]) -> LogProbs:
        with np.errstate(over="ignore"):
            return cls(p.size, *(ExactSum(x) for x in (p, q, p * p, q * q, p * q)))

    def merge(self, other: LogProbs) -> LogProbs:
        return LogProbs(
            self.count + other.count,
            *(_sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)[1:]),
        )

    def correlation(self) -> float:
        """Pearson's, of the two log-probabilities of a token; NaN where one of them is the same for all or infinite."""
        sums = [getattr(self, f.name) for f in fields(self)[1:]]
        if not self.count or not all(total.finite for total in sums):
            return math.nan
        p, q, squares_p, squares_q, products = (total.exact() / self.count for total in sums)
        spreads = float(squares_p - p * p), float(squares_q - q * q)
        if spreads[0] <= _ROUNDING * squares_p or spreads[1] <= _ROUNDING * squares_q:
            return math.nan
        found = float(products - p * q) / (math.sqrt(spreads[0]) * math.sqrt(spreads[1]))
        return min(max(found, -1.0), 1.0)

    def mean(self, side: Literal["p", "q"]) -> float:
        return float(getattr(self, side)) / self.count if self.count else math.nan


def _sum(a: ExactSum, b: ExactSum) -> ExactSum:
    both = a.copy()
    both.merge(b)
    return both
