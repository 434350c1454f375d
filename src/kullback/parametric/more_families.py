"""Further families: of the half-line and the unit interval, low-rank normals, products and images of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kullback._engine import POSITIVE, PROBABILITY, REAL, shown, whole
from kullback.parametric.families import Distribution, MultivariateNormal, Parameter


@dataclass(frozen=True, eq=False)
class HalfNormal(Distribution):
    """abs(x) of a Normal(0, scale)."""

    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class InverseGamma(Distribution):
    """1/y of a Gamma(shape, rate=scale): density proportional to x^(-shape-1)·exp(-scale/x)."""

    shape: Parameter = Parameter(POSITIVE)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class ContinuousBernoulli(Distribution):
    """Density proportional to prob^x·(1-prob)^(1-x) on [0, 1], 0 < prob < 1; 1/2 is uniform."""

    prob: Parameter = Parameter(PROBABILITY)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not ((self.prob > 0) & (self.prob < 1)).all():
            raise ValueError("`ContinuousBernoulli.prob` is 0 or 1 somewhere, expected 0 < prob < 1")


@dataclass(frozen=True, eq=False)
class LowRankNormal(Distribution):
    """Normal over the last axis with covariance factor·factorᵀ + diag(diagonal).

    `mean` and `diagonal` > 0 (..., D), `factor` (..., D, R). KL forms the D × D matrix and takes O(D³), as of any
    `MultivariateNormal`, for the digits of close pairs; the factor saves memory here, not time.
    """

    mean: Parameter = Parameter(REAL, event_ndim=1)
    factor: Parameter = Parameter(REAL, event_ndim=2)
    diagonal: Parameter = Parameter(POSITIVE, event_ndim=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        d = self.mean.shape[-1]
        if self.factor.shape[-2] != d or self.diagonal.shape[-1] != d:
            raise ValueError(
                f"`LowRankNormal` has `factor` {self.factor.shape} and `diagonal` {self.diagonal.shape}, "
                f"expected (..., {d}, R) and (..., {d}) to match `mean`"
            )

    @property
    def full(self) -> MultivariateNormal:
        """The same distribution with its covariance matrix."""
        factor, diagonal = np.asarray(self.factor), np.asarray(self.diagonal)
        cov = factor @ np.swapaxes(factor, -1, -2) + diagonal[..., None] * np.eye(diagonal.shape[-1])
        return MultivariateNormal(self.mean, cov=cov)


@dataclass(frozen=True, eq=False)
class Independent(Distribution):
    """Independent components: the last `axes` batch axes of `base` as one event, whose KL adds up."""

    base: Any
    axes: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.base, Distribution):
            raise TypeError(f"`Independent.base` is {shown(self.base)}, expected a distribution of this module")
        if not whole(self.axes, "Independent.axes", 0) <= len(self.base.batch_shape):
            raise ValueError(f"`Independent.axes` is {self.axes}, expected at most {len(self.base.batch_shape)}")

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch that is left."""
        shape = self.base.batch_shape
        return tuple(shape[: len(shape) - self.axes])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one outcome."""
        shape = self.base.batch_shape
        return (*shape[len(shape) - self.axes :], *self.base.event_shape)


@dataclass(frozen=True, eq=False)
class Transformed(Distribution):
    """What a one-to-one `transform` makes of draws of `base`: KL between two with one transform is that of the bases.

    `transform` may be anything that == compares; it is never called.
    """

    base: Any
    transform: Any

    def __post_init__(self) -> None:
        if not isinstance(self.base, Distribution):
            raise TypeError(f"`Transformed.base` is {shown(self.base)}, expected a distribution of this module")

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of the base."""
        return tuple(self.base.batch_shape)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one outcome of the base."""
        return tuple(self.base.event_shape)
