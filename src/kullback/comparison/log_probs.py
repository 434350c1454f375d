"""Log-probabilities of the tokens, summed up exactly: what perplexities are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kullback.comparison.exact import ExactSum


@dataclass(frozen=True)
class LogProbs:
    """Exact sums of the tokens' log-probabilities under p and q, of the same rows; nats."""

    count: int
    p: ExactSum
    q: ExactSum

    @classmethod
    def of(cls, p: NDArray[np.float64], q: NDArray[np.float64]) -> LogProbs:
        return cls(p.size, ExactSum(p), ExactSum(q))

    def merge(self, other: LogProbs) -> LogProbs:
        p, q = self.p.copy(), self.q.copy()
        p.merge(other.p)
        q.merge(other.q)
        return LogProbs(self.count + other.count, p, q)

    def mean(self, side: Literal["p", "q"]) -> float:
        return float(getattr(self, side)) / self.count if self.count else math.nan
