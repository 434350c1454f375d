"""KL where no formula exists: Gaussian mixtures, by quadrature in one dimension or by Monte Carlo."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import NON_NEGATIVE, FloatArray, checked, choice, generator, in_base, same_labels, shown, whole
from kullback.comparison import Estimate
from kullback.parametric.families import DiagonalNormal, Distribution, MultivariateNormal, Normal
from kullback.rows import phi

Component = Normal | DiagonalNormal | MultivariateNormal

# A Normal's density is 0 in float64 beyond 38.6 standard deviations.
_REACH = 39.0
_BREAKS = np.array([-_REACH, -20, -12, -8, -6, -4.5, -3, -2, -1, 0, 1, 2, 3, 4.5, 6, 8, 12, 20, _REACH])


class Mixture:
    """Weighted sum of Gaussians.

    Parameters
    ----------
    weights : array_like, shape (K,)
        Non-negative, normalised here.
    components : Normal (K,), DiagonalNormal or MultivariateNormal of batch shape (K,)
        One batched distribution that holds the K components.

    Examples
    --------
    >>> bimodal = Mixture([0.5, 0.5], Normal([-4.0, 4.0], 1.0))
    >>> round(float(bimodal.log_density(4.0)), 6)
    -1.612086
    """

    def __init__(self, weights: ArrayLike, components: Component) -> None:
        self.weights = checked("Mixture.weights", weights, NON_NEGATIVE, event_ndim=1)
        self.components = components
        if isinstance(components, Distribution):
            same_labels(("Mixture.weights", weights), *components.labelled[:1])
        if self.weights.ndim != 1 or not self.weights.sum() > 0:
            raise ValueError(f"`Mixture.weights` has shape {self.weights.shape}, expected (K,) with some mass")
        if not isinstance(components, Normal | DiagonalNormal | MultivariateNormal):
            raise TypeError(f"`Mixture.components` is {type(components).__name__}, expected Gaussians")
        if self.components.batch_shape != self.weights.shape:
            raise ValueError(
                f"`Mixture.components` has batch shape {self.components.batch_shape}, "
                f"expected {self.weights.shape} to match `weights`"
            )

    @property
    def dimensions(self) -> int:
        """Length of the vectors; 1 for Normal components."""
        return 1 if isinstance(self.components, Normal) else self.components.mean.shape[-1]

    def __repr__(self) -> str:
        return f"Mixture(weights={self.weights!r}, components={self.components!r})"

    def log_density(self, x: ArrayLike) -> FloatArray:
        """Log density at x: (...) for Normal components, (..., D) for vectors."""
        x = np.asarray(x, np.float64)
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights / self.weights.sum())
        event = 0 if isinstance(self.components, Normal) else 1
        at = np.expand_dims(x, x.ndim - event)
        return np.asarray(np.logaddexp.reduce(log_weights + _log_density(self.components, at), axis=-1))

    def sample(self, size: int, generator: np.random.Generator) -> FloatArray:
        """`size` draws: (size,) for Normal components, (size, D) for vectors."""
        which = generator.choice(self.weights.size, size, p=self.weights / self.weights.sum())
        c = self.components
        if isinstance(c, Normal):
            loc, scale = np.broadcast_arrays(c.loc, c.scale)
            return np.asarray(loc[which] + scale[which] * generator.standard_normal(size))
        mean, factor = np.broadcast_to(c.mean, (*self.weights.shape, c.mean.shape[-1])), _factor(c)
        factor = np.broadcast_to(factor, (*self.weights.shape, *factor.shape[-2:]))
        z = generator.standard_normal((size, mean.shape[-1]))
        return np.asarray(mean[which] + np.einsum("nij,nj->ni", factor[which], z))


def mixture_kl(
    p: Mixture | Component,
    q: Mixture | Component,
    *,
    method: Literal["quadrature", "monte_carlo"] = "quadrature",
    samples: int = 100_000,
    seed: int | np.random.Generator = 0,
    base: float | None = None,
) -> Estimate:
    """KL(p‖q) between Gaussians and mixtures of Gaussians, numerically.

    Parameters
    ----------
    p, q : Mixture, or one Normal, DiagonalNormal or MultivariateNormal
        p is the reference. Both on the line, or both over vectors of the same length.
    method : {"quadrature", "monte_carlo"}
        Quadrature needs one dimension and gives about 12 digits. Monte Carlo works in any.
    samples : int
        Number of draws, half from p and half from q.
    seed : int or numpy.random.Generator
        Source of the draws.
    base : float, optional
        Unit of the result: nats if not given, 2 for bits.

    Returns
    -------
    Estimate
        `value` and `standard_error`: that of the mean over the draws, or the last change of the quadrature.

    Raises
    ------
    ValueError
        For quadrature over vectors, vectors of different length, another method, or fewer than 100 samples.

    Notes
    -----
    Quadrature integrates p·φ(ln(q/p)), which is never negative, by Gauss-Legendre panels cut at multiples of
    the deviations. Monte Carlo averages the same term over draws from both, half from each, weighted by
    1/m with m = (p + q)/2. Every weight is at most 2, so the standard error can be trusted, and the noise
    shrinks with KL; the plain mean of ln(p/q) keeps a noise of its square root, and turns negative.

    Examples
    --------
    >>> bimodal = Mixture([0.5, 0.5], Normal([-4.0, 4.0], 1.0))
    >>> round(mixture_kl(bimodal, Normal(0.0, 17**0.5)).value, 10)
    0.7235530265
    """
    p, q = _as_mixture("p", p), _as_mixture("q", q)
    if p.dimensions != q.dimensions:
        raise ValueError(f"`q` has {q.dimensions} dimensions, expected {p.dimensions} to match `p`")
    choice(method, "method", ("quadrature", "monte_carlo"))
    samples = whole(samples, "samples", 100)
    rng = generator(seed, "seed")
    if method == "quadrature":
        value, error = _quadrature(p, q)
    else:
        value, error = _monte_carlo(p, q, samples, rng)
    return Estimate(float(in_base(np.asarray(value), base)), float(in_base(np.asarray(error), base)))


def _as_mixture(name: str, d: Mixture | Component) -> Mixture:
    """A single Gaussian as a mixture of one."""
    if isinstance(d, Mixture):
        return d
    if isinstance(d, Normal | DiagonalNormal | MultivariateNormal) and d.batch_shape == ():
        if isinstance(d, Normal):
            return Mixture([1.0], Normal([d.loc], d.scale))
        if isinstance(d, DiagonalNormal):
            return Mixture([1.0], DiagonalNormal(d.mean[None], d.scale))
        return Mixture([1.0], MultivariateNormal(d.mean[None], scale_tril=d.cholesky))
    raise TypeError(f"`{name}` is {shown(d)}, expected a Mixture or one Gaussian")


def _factor(c: DiagonalNormal | MultivariateNormal) -> FloatArray:
    """Cholesky factors of the components."""
    return c.cholesky if isinstance(c, MultivariateNormal) else c.scale[..., :, None] * np.eye(c.scale.shape[-1])


def _log_density(c: Component, x: FloatArray) -> FloatArray:
    """Log densities of all components at x, with the component axis last."""
    half_log_2pi = 0.5 * np.log(2 * np.pi)
    if isinstance(c, Normal):
        return np.asarray(-0.5 * ((x - c.loc) / c.scale) ** 2 - np.log(c.scale) - half_log_2pi)
    factor = _factor(c)
    z = np.linalg.solve(factor, (x - c.mean)[..., None])[..., 0]
    log_det = np.log(np.einsum("...ii->...i", factor)).sum(-1)
    return np.asarray(-0.5 * (z**2).sum(-1) - log_det - half_log_2pi * c.mean.shape[-1])


def _quadrature(p: Mixture, q: Mixture) -> tuple[float, float]:
    """∫ p φ(ln(q/p)) by panels that are halved until the value settles."""
    edges = []
    for mixture in (p, q):
        if not isinstance(mixture.components, Normal):
            raise ValueError("quadrature needs one dimension, expected Normal components or method='monte_carlo'")
        loc, scale = np.broadcast_arrays(mixture.components.loc, mixture.components.scale)
        edges.append((loc[:, None] + scale[:, None] * _BREAKS).ravel())
    panels = np.unique(np.concatenate(edges))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    previous = np.inf
    for _ in range(6):
        half, middle = np.diff(panels) / 2, (panels[:-1] + panels[1:]) / 2
        x = middle[:, None] + half[:, None] * nodes
        log_p, log_q = p.log_density(x), q.log_density(x)
        t = log_q - log_p
        with np.errstate(over="ignore", invalid="ignore"):
            density = np.exp(log_p)
            terms = np.where(np.abs(t) <= 1, density * phi(t), np.exp(log_q) - density - density * t)
        value = float((half * (terms @ weights)).sum())
        if abs(value - previous) <= 1e-13 * value:
            break
        previous, panels = value, np.sort(np.concatenate([panels, middle]))
    return value, abs(value - previous)


def _monte_carlo(p: Mixture, q: Mixture, samples: int, generator: np.random.Generator) -> tuple[float, float]:
    """Mean and standard error of p φ(ln(q/p)) / m over draws from m = (p + q)/2, half from each."""
    value, variance = 0.0, 0.0
    for source in (p, q):
        x = source.sample(samples // 2, generator)
        t = q.log_density(x) - p.log_density(x)
        with np.errstate(over="ignore", invalid="ignore"):
            far = (1 - (1 + t) * np.exp(-t)) / (1 + np.exp(-t))
            terms = 2 * np.where(t <= 1, phi(t) / (1 + np.exp(t)), far)
        value += float(terms.mean()) / 2
        variance += float(terms.var(ddof=1)) / terms.size / 4
    return value, float(np.sqrt(variance))
