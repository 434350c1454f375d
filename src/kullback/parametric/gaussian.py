"""Gaussians: element by element, the VAE term with its gradient, and full covariance matrices."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kullback._engine import FloatArray, as_floats, in_base, renamed, same_labels
from kullback.parametric.families import DiagonalNormal, MultivariateNormal, Normal
from kullback.parametric.registry import closed_form_kl, register_kl
from kullback.rows import log_ratio, phi, two_product

# Rows are taken in blocks of about this many elements: the temporaries of φ then stay in the L2 cache.
_BLOCK = 32768


def gaussian_kl(
    mean_p: ArrayLike, std_p: ArrayLike, mean_q: ArrayLike, std_q: ArrayLike, *, base: float | None = None
) -> FloatArray:
    """KL(p‖q) between one-dimensional Gaussians, element by element.

    Parameters
    ----------
    mean_p, std_p : array_like
        Means and standard deviations of p, the reference.
    mean_q, std_q : array_like
        Those of q. All four broadcast.
    base : float, optional
        Unit of the result: nats if not given, 2 for bits.

    Returns
    -------
    float64 array of the broadcast shape, or a NumPy scalar. Never negative, 0 for equal Gaussians.

    Raises
    ------
    ValueError
        If a mean is not finite, a standard deviation is not finite and positive, or shapes do not broadcast.

    Notes
    -----
    ½[((μ_p - μ_q)/σ_q)² + φ(2 ln(σ_p/σ_q))] with φ(t) = exp(t) - 1 - t.

    Examples
    --------
    >>> round(float(gaussian_kl(0.0, 1.0, 1.0, 2.0)), 6)
    0.443147
    >>> gaussian_kl(0.0, 1.0, [0.0, 2.0**-30], 1.0)
    array([0.00000000e+00, 4.33680869e-19])
    """
    named = ("mean_p", mean_p), ("std_p", std_p), ("mean_q", mean_q), ("std_q", std_q)
    same_labels(*named)
    with renamed({"Normal.loc": "mean_p", "Normal.scale": "std_p"}):
        p = Normal(mean_p, std_p)
    with renamed({"Normal.loc": "mean_q", "Normal.scale": "std_q"}):
        q = Normal(mean_q, std_q)
    return closed_form_kl(p, q, base=base)


def vae_kl(mean: ArrayLike, log_variance: ArrayLike, *, base: float | None = None) -> FloatArray:
    """KL from a diagonal Gaussian posterior to the prior N(0, I), summed over the last axis.

    Parameters
    ----------
    mean, log_variance : array_like, shape (..., D)
        Means and log variances of the posterior p, in any real dtype; they broadcast. The sum is in float64.
    base : float, optional
        Unit of the result: nats if not given, 2 for bits.

    Returns
    -------
    float64 array of shape (...), a NumPy scalar for one row.
        inf for a log variance of ±inf, NaN for a row with a NaN.

    Raises
    ------
    ValueError
        If the inputs have no axis or do not broadcast.

    Notes
    -----
    ½ Σ [μ² + φ(log σ²)] with φ(t) = exp(t) - 1 - t; the usual -½ Σ (1 + log σ² - μ² - σ²) cancels near the
    prior (Kingma & Welling 2014, arXiv 1312.6114, appendix B).

    Examples
    --------
    >>> round(float(vae_kl([0.5], [-1.0])), 6)
    0.30894
    >>> vae_kl([[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]])
    array([0. , 2.5])
    """
    mean, log_variance = _same_shape(mean, log_variance)
    if mean.ndim == 1:
        return in_base(_vae_block(mean, log_variance), base)
    out = np.empty(mean.shape[:-1])
    rows = max(1, _BLOCK * mean.shape[0] // max(mean.size, 1))
    for start in range(0, mean.shape[0], rows):
        block = slice(start, start + rows)
        out[block] = _vae_block(mean[block], log_variance[block])
    return in_base(out, base)


def vae_kl_gradient(mean: ArrayLike, log_variance: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Gradient of `vae_kl` in nats with respect to its two arguments.

    Parameters
    ----------
    mean, log_variance : array_like, shape (..., D)
        As for `vae_kl`.

    Returns
    -------
    (float64 array, float64 array), each of the broadcast shape (..., D)
        dKL/dmean = mean, and dKL/dlog_variance = (exp(log_variance) - 1)/2.

    Examples
    --------
    >>> by_mean, by_log_variance = vae_kl_gradient([0.5], [0.0])
    >>> by_mean, by_log_variance
    (array([0.5]), array([0.]))
    """
    mean, log_variance = _same_shape(mean, log_variance)
    with np.errstate(over="ignore"):
        return mean.astype(np.float64), 0.5 * np.expm1(log_variance, dtype=np.float64)


def _same_shape(mean: ArrayLike, log_variance: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Views of both inputs in their common shape, with at least one axis."""
    same_labels(("mean", mean), ("log_variance", log_variance))
    mean, log_variance = as_floats("mean", mean), as_floats("log_variance", log_variance)
    try:
        mean, log_variance = np.broadcast_arrays(mean, log_variance)
    except (ValueError, RuntimeError) as error:  # the latter above 32 axes
        raise ValueError(
            f"`log_variance` has shape {log_variance.shape}, expected one that fits {mean.shape} of `mean`"
        ) from error
    if mean.ndim == 0:
        raise ValueError("`mean` and `log_variance` have no axis, expected shape (..., D)")
    return mean, log_variance


def _vae_block(mean: FloatArray, log_variance: FloatArray) -> FloatArray:
    """½ Σ [μ² + φ(log σ²)] over the last axis."""
    with np.errstate(over="ignore", invalid="ignore"):
        terms = phi(log_variance)
        terms += np.square(mean, dtype=np.float64)
        return np.asarray(0.5 * terms.sum(axis=-1))


@register_kl(DiagonalNormal, DiagonalNormal)
def _diagonal(p: DiagonalNormal, q: DiagonalNormal) -> FloatArray:
    terms = ((p.mean - q.mean) / q.scale) ** 2 + phi(2 * log_ratio(q.scale, p.scale, p.scale - q.scale))
    return np.asarray(0.5 * terms.sum(axis=-1))


@register_kl(DiagonalNormal, MultivariateNormal)
def _diagonal_full(p: DiagonalNormal, q: MultivariateNormal) -> FloatArray:
    return _full(_as_full(p), q)


@register_kl(MultivariateNormal, DiagonalNormal)
def _full_diagonal(p: MultivariateNormal, q: DiagonalNormal) -> FloatArray:
    return _full(p, _as_full(q))


def _as_full(d: DiagonalNormal) -> MultivariateNormal:
    """The same distribution with a diagonal Cholesky factor."""
    return MultivariateNormal(d.mean, scale_tril=d.scale[..., :, None] * np.eye(d.scale.shape[-1]))


@register_kl(MultivariateNormal, MultivariateNormal)
def _full(p: MultivariateNormal, q: MultivariateNormal) -> FloatArray:
    # ½ [|L_q⁻¹ Δμ|² + Σ φ(ln λ)], λ the eigenvalues of Σ_q⁻¹ Σ_p. Near equality λ - 1 must be known well:
    # it is an eigenvalue of L_q⁻¹ (Σ_p - Σ_q) L_q⁻ᵀ, formed from the difference of what the caller gave.
    shift = np.linalg.solve(q.cholesky, (p.mean - q.mean)[..., None])[..., 0]
    excess = np.linalg.eigvalsh(_relative_excess(p, q))
    near = phi(np.log1p(np.maximum(excess, -0.5))).sum(-1)
    # Far from equality: trace - d - ln det, free of the rounding of eigenvalues next to -1.
    root = np.linalg.solve(q.cholesky, p.cholesky)
    log_det = 2 * log_ratio(_diagonal_of(q.cholesky), _diagonal_of(p.cholesky)).sum(-1)
    far = (root**2).sum((-1, -2)) - p.mean.shape[-1] - log_det
    return np.asarray(0.5 * ((shift**2).sum(-1) + np.where(np.abs(excess).max(-1) <= 0.5, near, far)))


def _relative_excess(p: MultivariateNormal, q: MultivariateNormal) -> FloatArray:
    """L_q⁻¹ (Σ_p - Σ_q) L_q⁻ᵀ."""
    if p.scale_tril is not None and q.scale_tril is not None:
        m = np.linalg.solve(q.cholesky, p.cholesky - q.cholesky)
        return np.asarray(m + np.swapaxes(m, -1, -2) + m @ np.swapaxes(m, -1, -2))
    if p.cov is not None and q.cov is not None:
        difference = np.asarray(p.cov) - np.asarray(q.cov)
    elif p.cov is not None:
        difference = -_gram_minus(q.cholesky, np.asarray(p.cov))
    else:
        difference = _gram_minus(p.cholesky, np.asarray(q.cov))
    half = np.linalg.solve(q.cholesky, difference)
    return np.asarray(np.linalg.solve(q.cholesky, np.swapaxes(half, -1, -2)), np.float64)


def _gram_minus(factor: FloatArray, cov: FloatArray) -> FloatArray:
    """L Lᵀ - Σ as if in twice the working precision (Ogita, Rump & Oishi 2005, algorithm Dot2)."""
    high = -np.broadcast_to(cov, np.broadcast_shapes(factor.shape, cov.shape))
    low = np.zeros_like(high)
    for k in range(factor.shape[-1]):
        product, error = two_product(factor[..., :, None, k], factor[..., None, :, k])
        total = high + product
        rest = total - high
        low += error + ((high - (total - rest)) + (product - rest))
        high = total
    return np.asarray(high + low)


def _diagonal_of(matrix: FloatArray) -> FloatArray:
    """The diagonals of a stack of matrices."""
    return np.asarray(np.einsum("...ii->...i", matrix))
