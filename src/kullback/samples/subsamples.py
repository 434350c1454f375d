"""What fewer points say about the error and the bias of an estimate from nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
_ALLOWED = 1.5  # times the extrapolated bias


class Subsampled(NamedTuple):
    """An interval, the bias and the standard error, in nats."""

    low: float
    high: float
    bias: float
    error: float


def subsampled(
    estimate: Callable[[Float64s, Float64s], float],
    x: Float64s,
    y: Float64s,
    value: float,
    dimension: float,
    resamples: int,
    confidence: float,
    draw: np.random.Generator,
) -> Subsampled:
    """From estimates of quarters of the points.

    Their spread about their own mean gives the error (D. Politis & J. Romano, Ann. Statist. 22, 1994); their mean the
    bias c·n^(-1/(D+1)), of which theirs is 4^(1/(D+1)) times as much. Up to one and a half times the bias is allowed
    for, and the shift of the mean has an error of its own: about half that of the estimate and opposite to it (0.3 to
    0.9 of it, correlation -0.2 to -0.9, measured in 1 to 10 dimensions).
    """
    found = np.empty(resamples)
    for i in range(resamples):
        a, b = (s[draw.choice(len(s), len(s) // 4, replace=False)] for s in (x, y))
        found[i] = estimate(a, b)
    error = float(found.std(ddof=1)) / math.sqrt(3)  # one in four without replacement: variance σ²·(4/n - 1/n)
    growth = 4 ** (1 / (dimension + 1)) - 1
    bias = (float(found.mean()) - value) / growth
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    free, further = value - _ALLOWED * bias, reach * (1 + 0.5 / growth)
    return Subsampled(min(value - reach, free - further), max(value + reach, free + further), bias, error)
