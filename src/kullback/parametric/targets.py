"""Targets of fits as points with masses: distributions, densities of one's own, samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import FloatArray, interval, reals
from kullback.parametric.families import Normal
from kullback.parametric.mixtures import Mixture

LogDensity = Callable[[FloatArray], ArrayLike]
# Quadrature of a callable target: 16 Gauss-Legendre nodes in each of this many panels of equal width.
_PANELS = 256


class PointTarget(NamedTuple):
    """The target as points whose masses sum to 1; log densities and cell widths if it has a density."""

    x: FloatArray
    mass: FloatArray
    log_density: FloatArray | None
    log_width: FloatArray | None


def as_target(target: Any, bounds: tuple[float, float] | None) -> PointTarget:
    """Turn any kind of target into weighted points."""
    if isinstance(target, Mixture):
        if not isinstance(target.components, Normal):
            raise ValueError("`target` is a mixture over vectors, expected Normal components")
        loc, scale = np.broadcast_arrays(target.components.loc, target.components.scale)
        if bounds is None:
            reach = 12 * max(scale.max(), np.ptp(loc))
            bounds = float(loc.min() - reach), float(loc.max() + reach)
        near = (loc[:, None] + scale[:, None] * np.arange(-12.0, 13.0)).ravel()
        return _from_callable(target.log_density, bounds, near)
    if callable(target):
        if bounds is None:
            raise ValueError("`bounds` is None, expected the interval that holds the mass of a callable `target`")
        return _from_callable(target, bounds, np.empty(0))
    if bounds is not None:
        raise ValueError(f"`bounds` is {bounds!r}, expected None: samples and a grid have points of their own")
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ValueError(f"`target` is a tuple of {len(target)}, expected two: a grid and the density on it")
        x, density = (reals(part, "target") for part in target)
        if x.ndim != 1 or x.shape != density.shape or x.size < 3 or not (np.diff(x) > 0).all():
            raise ValueError(f"`target` has grid shapes {x.shape} and {density.shape}, expected one increasing grid")
        if not (density >= 0).all() or not np.isfinite(density).all() or not density.any():
            raise ValueError("`target` density must be finite, non-negative and not all zero")
        with np.errstate(divide="ignore"):
            return _weighted(x, np.gradient(x), np.log(density))
    x = reals(target, "target")
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all():
        raise ValueError(f"`target` has shape {x.shape}, expected two or more finite samples on the line")
    return PointTarget(x, np.full(x.size, 1 / x.size), None, None)


def _from_callable(log_density: LogDensity, bounds: tuple[float, float], cuts: FloatArray) -> PointTarget:
    """Composite Gauss-Legendre nodes on the interval, with further cuts where a caller knows detail."""
    low, high = interval(bounds, "bounds")
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"`bounds` is {(low, high)}, expected two finite numbers in order")
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = np.union1d(np.linspace(low, high, _PANELS + 1), cuts[(cuts > low) & (cuts < high)])
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + nodes)).ravel()
    values = reals(log_density(x), "target")
    if values.shape != x.shape or np.isnan(values).any() or (values == np.inf).any():
        raise ValueError("`target` must return one log density < inf for every point it is given")
    if not (values > -np.inf).any():
        raise ValueError(f"`target` has no mass inside `bounds` {bounds}")
    return _weighted(x, (half * weights).ravel(), values)


def _weighted(x: FloatArray, width: FloatArray, log_density: FloatArray) -> PointTarget:
    """Normalise the density over the nodes."""
    log_mass = log_density + np.log(width)
    total = np.logaddexp.reduce(log_mass)
    return PointTarget(x, np.exp(log_mass - total), log_density - total, np.log(width))
