"""The families of distributions: frozen, checked parameters that broadcast. Formulas live with the pairs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import (
    COUNT,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_PROBABILITY,
    PROBABILITY,
    REAL,
    Domain,
    FloatArray,
    checked,
    labelling,
)


class Parameter:
    """A field that checks what it is given and keeps it as a read-only float64 array."""

    def __init__(self, domain: Domain, event_ndim: int = 0) -> None:
        self.domain = domain
        self.event_ndim = event_ndim

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> FloatArray:
        if instance is None:
            raise AttributeError(self.name)  # so that dataclass sees a field without a default
        value: FloatArray = instance.__dict__[self.name]
        return value

    def __set__(self, instance: object, value: ArrayLike) -> None:
        where = f"{type(instance).__name__}.{self.name}"
        if labelling.has_labels(value):
            named = (f"{type(instance).__name__}.{self.name}", value)
            instance.__dict__["labelled"] = (*instance.__dict__.get("labelled", ()), named)
        instance.__dict__[self.name] = checked(where, value, self.domain, self.event_ndim)


class Distribution:
    """A batch of distributions; the parameters broadcast against each other."""

    labelled: ClassVar[tuple[tuple[str, Any], ...]] = ()  # of an instance: parameters as given, where those have labels

    def __post_init__(self) -> None:
        labelling.same_labels(*self.labelled)
        try:
            _ = self.batch_shape
        except ValueError as error:
            shapes = [f"`{type(self).__name__}.{x.name}` {np.shape(getattr(self, x.name))}" for x in fields(self)]  # type: ignore[arg-type]
            raise ValueError(f"the parameters do not broadcast: {', '.join(shapes)}") from error

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: the broadcast shape of the parameters without their event axes."""
        shapes = []
        for one in fields(self):  # type: ignore[arg-type]
            shape = getattr(self, one.name).shape
            parameter = inspect.getattr_static(type(self), one.name)
            shapes.append(shape[: len(shape) - parameter.event_ndim])
        return np.broadcast_shapes(*shapes)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one outcome's parameters: (D,) for vectors and categories, () for numbers."""
        first = fields(self)[0].name  # type: ignore[arg-type]
        value, event_ndim = getattr(self, first), inspect.getattr_static(type(self), first).event_ndim
        return tuple(value.shape[value.ndim - event_ndim :])


@dataclass(frozen=True, eq=False)
class Normal(Distribution):
    """Normal with mean `loc` and standard deviation `scale` > 0; every element is its own distribution."""

    loc: Parameter = Parameter(REAL)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class DiagonalNormal(Distribution):
    """Normal over the last axis with independent components: `mean` and deviations `scale` (..., D)."""

    mean: Parameter = Parameter(REAL, event_ndim=1)
    scale: Parameter = Parameter(POSITIVE, event_ndim=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean.shape[-1] != self.scale.shape[-1]:
            raise ValueError(
                f"`DiagonalNormal.scale` has shape {self.scale.shape}, "
                f"expected a last axis of {self.mean.shape[-1]} to match `mean`"
            )


@dataclass(frozen=True, eq=False)
class MultivariateNormal(Distribution):
    """Normal over the last axis: `mean` (..., D) and `cov` or its Cholesky factor `scale_tril` (..., D, D).

    `cov` must be symmetric and positive definite, `scale_tril` lower triangular with a positive diagonal.
    `cholesky` holds the factor in both cases.
    """

    mean: Parameter = Parameter(REAL, event_ndim=1)
    cov: ArrayLike | None = None
    scale_tril: ArrayLike | None = None
    cholesky: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.cov is None) == (self.scale_tril is None):
            raise ValueError("`MultivariateNormal` needs one of `cov` and `scale_tril`, and not both")
        name, given = ("cov", self.cov) if self.cov is not None else ("scale_tril", self.scale_tril)
        where = f"MultivariateNormal.{name}"
        labelling.same_axis(-1, *self.labelled, (where, given))
        matrix = checked(where, given, REAL, event_ndim=2)
        d = self.mean.shape[-1]
        if matrix.shape[-2:] != (d, d):
            raise ValueError(f"`{where}` has shape {matrix.shape}, expected (..., {d}, {d}) to match `mean`")
        object.__setattr__(self, name, matrix)
        object.__setattr__(self, "cholesky", _factor(where, matrix) if name == "cov" else _lower(where, matrix))
        super().__post_init__()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch: the broadcast shape of the parameters without their event axes."""
        return np.broadcast_shapes(self.mean.shape[:-1], self.cholesky.shape[:-2])


def _factor(where: str, cov: FloatArray) -> FloatArray:
    """Cholesky factor of a covariance, or an error that says what is wrong with it."""
    scale = np.sqrt(np.abs(np.einsum("...ii->...i", cov)))
    asymmetry = np.abs(cov - np.swapaxes(cov, -1, -2))
    if (asymmetry > 1e-8 * scale[..., :, None] * scale[..., None, :]).any():
        raise ValueError(f"`{where}` differs from its transpose by {asymmetry.max():g}, expected a symmetric matrix")
    try:
        return np.asarray(np.linalg.cholesky(cov), np.float64)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"`{where}` has no Cholesky factor, expected a positive definite matrix") from error


def _lower(where: str, factor: FloatArray) -> FloatArray:
    """The factor itself, once it is known to be one."""
    if np.triu(factor, 1).any() or not (np.einsum("...ii->...i", factor) > 0).all():
        raise ValueError(f"`{where}` must be lower triangular with a positive diagonal")
    return factor


@dataclass(frozen=True, eq=False)
class Bernoulli(Distribution):
    """One with probability `prob` in [0, 1], else zero."""

    prob: Parameter = Parameter(PROBABILITY)


@dataclass(frozen=True, eq=False)
class Categorical(Distribution):
    """Outcomes on the last axis with weights `probs` (..., K): a measure, normalised here (counts work)."""

    probs: Parameter = Parameter(NON_NEGATIVE, event_ndim=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.probs > 0).any(axis=-1).all():
            raise ValueError("`Categorical.probs` has a row that sums to 0, expected some mass in every row")


@dataclass(frozen=True, eq=False)
class Binomial(Distribution):
    """Number of successes in `count` trials of probability `prob`."""

    count: Parameter = Parameter(COUNT)
    prob: Parameter = Parameter(PROBABILITY)


@dataclass(frozen=True, eq=False)
class Poisson(Distribution):
    """Poisson with mean `rate` >= 0."""

    rate: Parameter = Parameter(NON_NEGATIVE)


@dataclass(frozen=True, eq=False)
class Geometric(Distribution):
    """Failures before the first success of probability `prob` in (0, 1]: support 0, 1, 2, ..."""

    prob: Parameter = Parameter(POSITIVE_PROBABILITY)


@dataclass(frozen=True, eq=False)
class Exponential(Distribution):
    """Density rate·exp(-rate·x) on x > 0."""

    rate: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Gamma(Distribution):
    """Density proportional to x^(shape-1)·exp(-rate·x) on x > 0."""

    shape: Parameter = Parameter(POSITIVE)
    rate: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Beta(Distribution):
    """Density proportional to x^(alpha-1)·(1-x)^(beta-1) on (0, 1)."""

    alpha: Parameter = Parameter(POSITIVE)
    beta: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Dirichlet(Distribution):
    """Dirichlet over the simplex of the last axis with `concentration` (..., K)."""

    concentration: Parameter = Parameter(POSITIVE, event_ndim=1)


@dataclass(frozen=True, eq=False)
class Laplace(Distribution):
    """Density exp(-|x - loc|/scale) / (2·scale)."""

    loc: Parameter = Parameter(REAL)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class LogNormal(Distribution):
    """The exponential of a Normal(loc, scale)."""

    loc: Parameter = Parameter(REAL)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Uniform(Distribution):
    """Uniform on [low, high]."""

    low: Parameter = Parameter(REAL)
    high: Parameter = Parameter(REAL)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.low < self.high).all():
            raise ValueError("`Uniform.high` is not above `Uniform.low` everywhere, expected low < high")


@dataclass(frozen=True, eq=False)
class Pareto(Distribution):
    """Density shape·scale^shape / x^(shape+1) on x >= scale."""

    scale: Parameter = Parameter(POSITIVE)
    shape: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Weibull(Distribution):
    """Distribution function 1 - exp(-(x/scale)^shape) on x > 0."""

    shape: Parameter = Parameter(POSITIVE)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Gumbel(Distribution):
    """Gumbel of maxima: distribution function exp(-exp(-(x - loc)/scale))."""

    loc: Parameter = Parameter(REAL)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class Cauchy(Distribution):
    """Density scale / (π·(scale² + (x - loc)²))."""

    loc: Parameter = Parameter(REAL)
    scale: Parameter = Parameter(POSITIVE)


@dataclass(frozen=True, eq=False)
class VonMises(Distribution):
    """Density proportional to exp(concentration·cos(x - loc)) on the circle; concentration 0 is uniform."""

    loc: Parameter = Parameter(REAL)
    concentration: Parameter = Parameter(NON_NEGATIVE)
