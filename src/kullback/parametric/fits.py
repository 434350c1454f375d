"""Gaussians and mixtures of them fitted to a target on the line, by forward or by reverse KL."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import FloatArray, choice, generator, library, whole
from kullback.parametric.families import Normal
from kullback.parametric.mixtures import Mixture
from kullback.parametric.targets import LogDensity, PointTarget, as_target
from kullback.rows import bregman_terms

# A mixture can raise its likelihood without bound by collapsing onto a point; scales stop at this share of
# the target's own standard deviation.
_SMALLEST_SCALE = 1e-3


class Fit(NamedTuple):
    """A fitted Normal or Mixture.

    Attributes
    ----------
    distribution : Normal or Mixture
        The best fit found.
    divergence : float
        KL in nats in the direction of the fit; NaN for samples, which have no density.
    cross_entropy : float
        Mean of -ln(fit) under the target in nats (samples: mean negative log-likelihood); NaN if reverse.
    optima : tuple of (float, Normal or Mixture)
        All distinct local optima of the search, best first, with their objective: KL, or the cross-entropy
        for samples. Forward fits of one Normal have one.
    """

    distribution: Normal | Mixture
    divergence: float
    cross_entropy: float
    optima: tuple[tuple[float, Normal | Mixture], ...]


def fit_normal(
    target: LogDensity | Mixture | tuple[ArrayLike, ArrayLike] | ArrayLike,
    direction: Literal["forward", "reverse"] = "forward",
    *,
    bounds: tuple[float, float] | None = None,
    starts: int = 8,
) -> Fit:
    """Fit one Gaussian to a target on the line by forward or by reverse KL.

    Parameters
    ----------
    target : callable, Mixture, (x, density) or samples
        p. A callable maps points to log densities, up to a constant, and needs `bounds`. A pair of arrays is
        a density, up to a factor, on an increasing grid. One array is samples of p.
    direction : {"forward", "reverse"}
        "forward" minimises KL(p‖fit): mean and variance are matched, so the fit covers all of p. "reverse"
        minimises KL(fit‖p): the fit avoids where p is small, so it takes one mode once modes are well apart.
    bounds : (float, float), optional
        Interval that holds the mass of a callable p or a Mixture; for no other. A reverse fit lives inside it only.
    starts : int
        Number of starting points of the reverse search: the mean of p, its highest peaks, then draws from p.

    Returns
    -------
    Fit

    Raises
    ------
    ValueError
        For a callable without `bounds`, `bounds` of samples or a grid, a reverse fit to samples (they have no density
        to compare with) or to a density with zeros (every Gaussian is infinitely far from it), a grid that does
        not increase, a density that is negative or has no mass, or another `direction`.

    Notes
    -----
    Reverse KL is minimised over mean and log scale by BFGS with exact gradients (scipy.optimize), on the
    quadrature nodes of p. The search is local: `optima` lists what the starts found. Bishop, Pattern
    Recognition and Machine Learning (2006), section 10.1.2, shows both directions.

    Examples
    --------
    Two far modes: forward covers both, reverse takes one and pays ln 2.

    >>> bimodal = Mixture([0.5, 0.5], Normal([-4.0, 4.0], 1.0))
    >>> forward, reverse = fit_normal(bimodal), fit_normal(bimodal, "reverse")
    >>> round(float(forward.distribution.scale) ** 2, 6), round(forward.divergence, 6)
    (17.0, 0.723553)
    >>> round(abs(float(reverse.distribution.loc)), 5), round(reverse.divergence, 6)
    (3.9996, 0.693053)
    """
    starts = whole(starts, "starts", 1)
    points = as_target(target, bounds)
    if _checked_direction(direction, points) == "reverse":
        return _search(points, 1, direction, starts, seed=0)
    mean = float(points.mass @ points.x)
    scale = float(np.sqrt(points.mass @ (points.x - mean) ** 2))
    if scale == 0:
        raise ValueError("`target` has all its mass at one point, expected some spread")
    return _result(points, direction, [(np.array([0.0]), np.array([mean]), np.array([scale]))])


def fit_mixture(
    target: LogDensity | Mixture | tuple[ArrayLike, ArrayLike] | ArrayLike,
    components: int = 2,
    direction: Literal["forward", "reverse"] = "forward",
    *,
    bounds: tuple[float, float] | None = None,
    starts: int = 8,
    seed: int = 0,
) -> Fit:
    """Fit a mixture of Gaussians to a target on the line by forward or by reverse KL.

    Parameters
    ----------
    target, direction, bounds
        As for `fit_normal`.
    components : int
        Number of Gaussians in the mixture, 1 or more.
    starts : int
        Number of starting points: quantiles of p, its peaks, then random draws from p.
    seed : int
        Seed of those draws.

    Returns
    -------
    Fit
        `distribution` is a Mixture. For samples, forward KL is maximum likelihood.

    Raises
    ------
    ValueError
        As for `fit_normal`, and for fewer than one component.

    Notes
    -----
    All weights, means and scales move together under BFGS with exact gradients; scales stay above 1e-3 of the
    target's standard deviation, because the likelihood of samples has no maximum without such a floor.

    Examples
    --------
    >>> truth = Mixture([0.3, 0.7], Normal([-2.0, 1.0], [0.5, 1.0]))
    >>> fit = fit_mixture(truth, 2)
    >>> fit.distribution.weights.round(4), fit.distribution.components.loc.round(4)
    (array([0.3, 0.7]), array([-2.,  1.]))
    """
    components, starts = whole(components, "components", 1), whole(starts, "starts", 1)
    points = as_target(target, bounds)
    return _search(points, components, _checked_direction(direction, points), starts, seed)


def _checked_direction(direction: str, points: PointTarget) -> str:
    """The direction, when it is one and the target has what it needs."""
    choice(direction, "direction", ("forward", "reverse"))
    if direction == "reverse" and points.log_density is None:
        raise ValueError("`target` is samples, expected a log density or a grid: reverse KL needs a density")
    if direction == "reverse" and np.isneginf(np.asarray(points.log_density)).any():
        raise ValueError("`target` is zero in places, expected a positive density: reverse KL is infinite")
    return direction


def _search(points: PointTarget, k: int, direction: str, starts: int, seed: int) -> Fit:
    """Local searches from several starts, in units of the target's mean and standard deviation."""
    minimize = library("scipy.optimize", "this fit").minimize
    mean = float(points.mass @ points.x)
    scale = float(np.sqrt(points.mass @ (points.x - mean) ** 2))
    if scale == 0:
        raise ValueError("`target` has all its mass at one point, expected some spread")
    z = (points.x - mean) / scale
    floor = _SMALLEST_SCALE
    if points.log_width is not None:
        floor = max(floor, float(np.diff(z).max()))
    points_z = points._replace(x=z)

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        logits, loc, log_excess = theta.reshape(3, k)
        log_scale = np.logaddexp(np.log(floor), log_excess)
        value, gradient = _objective(np.concatenate([logits, loc, log_scale]), points_z, direction)
        gradient[2 * k :] *= np.exp(log_excess - log_scale)
        return value, gradient

    found = []
    for start in _starts(points_z, k, starts, generator(seed, "seed")):
        theta = np.concatenate([np.zeros(k), start, np.full(k, np.log(0.5 / k))])
        best = minimize(objective, theta, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 500})
        logits, loc, log_excess = best.x.reshape(3, k)
        found.append((logits, mean + scale * loc, scale * (floor + np.exp(log_excess))))
    return _result(points, direction, found)


def _starts(points: PointTarget, k: int, count: int, generator: np.random.Generator) -> list[FloatArray]:
    """Means to start from: spread over the quantiles, the highest peaks, then draws from the target."""
    order = np.argsort(points.x)
    x, mass = points.x[order], points.mass[order]
    spread = np.interp((np.arange(k) + 0.5) / k, np.cumsum(mass), x)
    means = [spread]
    if points.log_density is not None:
        inner = points.log_density[1:-1]
        peak = np.flatnonzero((inner > points.log_density[:-2]) & (inner >= points.log_density[2:])) + 1
        peak = peak[np.argsort(-points.log_density[peak], kind="stable")]
        if k == 1:
            means += [points.x[[i]] for i in peak]
        elif peak.size >= k:
            means.append(np.sort(points.x[peak[:k]]))
    while len(means) < count:
        means.append(np.sort(generator.choice(points.x, k, p=points.mass)))
    return means[:count]


def _objective(theta: FloatArray, points: PointTarget, direction: str) -> tuple[float, FloatArray]:
    """Cross-entropy of the fit under the target, or KL(fit‖target) on the nodes, with its gradient."""
    logits, loc, log_scale = theta.reshape(3, -1)
    log_q, shares, z = _log_mixture(points.x, logits, loc, log_scale)
    weights = np.exp(logits - np.logaddexp.reduce(logits))
    if direction == "forward":
        value, pull = -float(points.mass @ log_q), -points.mass
    else:
        assert points.log_density is not None and points.log_width is not None
        log_mass = log_q + points.log_width
        log_mass -= np.logaddexp.reduce(log_mass)
        mass, t = np.exp(log_mass), log_mass - points.log_density - points.log_width
        value = float(mass @ t)
        pull = mass * (t - value)
    pulled = pull[:, None] * shares
    by_loc = (pulled * z).sum(0) / np.exp(log_scale)
    by_scale = (pulled * (z**2 - 1)).sum(0)
    return value, np.concatenate([pulled.sum(0) - weights * pull.sum(), by_loc, by_scale])


def _log_mixture(
    x: FloatArray, logits: FloatArray, loc: FloatArray, log_scale: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Log density (N,), responsibilities (N, K) and standardised points (N, K)."""
    z = (x[:, None] - loc) / np.exp(log_scale)
    joint = logits - np.logaddexp.reduce(logits) - 0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi)
    log_q = np.logaddexp.reduce(joint, axis=1)
    return log_q, np.exp(joint - log_q[:, None]), z


def _result(points: PointTarget, direction: str, found: list[tuple[FloatArray, FloatArray, FloatArray]]) -> Fit:
    """The best of what the starts found, and all that differ."""
    optima: list[tuple[float, float, FloatArray]] = []
    for logits, loc, scale in found:
        order = np.argsort(loc)
        logits, loc, scale = logits[order], loc[order], scale[order]
        theta = np.concatenate([logits, loc, np.log(scale)])
        cross_entropy = _objective(theta, points, "forward")[0]
        divergence = _divergence(theta, points, direction) if points.log_density is not None else np.nan
        weights = np.exp(logits - np.logaddexp.reduce(logits))
        optima.append((divergence, cross_entropy, np.stack([weights, loc, scale])))
    optima.sort(key=lambda item: item[0] if points.log_density is not None else item[1])
    distinct: list[tuple[float, float, FloatArray]] = []
    spread = np.sqrt(points.mass @ (points.x - points.mass @ points.x) ** 2)
    for item in optima:
        gaps = [np.abs((item[2] - other) / np.array([[1.0], [spread], [spread]])).max() for *_, other in distinct]
        if min(gaps, default=np.inf) > 1e-4:
            distinct.append(item)
    pairs = tuple(
        (d if points.log_density is not None else h, _as_distribution(parameters)) for d, h, parameters in distinct
    )
    divergence, cross_entropy, _ = distinct[0]
    return Fit(pairs[0][1], divergence, cross_entropy if direction == "forward" else np.nan, pairs)


def _as_distribution(parameters: FloatArray) -> Normal | Mixture:
    """One component is a Normal, more are a Mixture."""
    weights, loc, scale = parameters
    return Normal(loc[0], scale[0]) if weights.size == 1 else Mixture(weights, Normal(loc, scale))


def _divergence(theta: FloatArray, points: PointTarget, direction: str) -> float:
    """KL on the nodes by non-negative terms; mass of a forward fit outside of them counts in full."""
    assert points.log_density is not None and points.log_width is not None
    log_q = _log_mixture(points.x, *theta.reshape(3, -1))[0] + points.log_width
    log_p, inside = points.log_density + points.log_width, np.logaddexp.reduce(log_q)
    log_from, log_to = (log_p, log_q) if direction == "forward" else (log_q - inside, log_p)
    outside = max(-float(np.expm1(inside)), 0.0) if direction == "forward" else 0.0
    with np.errstate(invalid="ignore"):
        return float(bregman_terms(np.exp(log_from), np.exp(log_to), log_to - log_from).sum()) + outside
