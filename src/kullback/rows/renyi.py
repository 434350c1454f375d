"""Rényi's divergences, their relatives Hellinger and χ², and total variation.

They take the arrays and keywords of `kl_divergence` (p and q are measures that get normalised). No result is negative,
none has an epsilon in it, and all keep their relative accuracy however close the rows are: 2e-6 for 32- and 16-bit
input, 1e-10 for float64. Masses and their totals may lie anywhere in the range of their type.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, number, outputs
from kullback.rows.rowwise import Out, Rowwise

__all__ = ["chi2_divergence", "hellinger_distance", "renyi_divergence", "total_variation"]


def renyi_divergence(
    p: Any,
    q: Any,
    alpha: float,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """ln(Σ p^α·q^(1-α))/(α-1) of each pair of rows: Rényi's divergence of order α.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        As in `kl_divergence`, whose keywords apply too.
    alpha : float
        The order, however near to 0 or 1 or far out. 1 is KL(p‖q); 0 and inf are the limits -ln q(p > 0) and
        ln max p/q. Negative orders are α/(1-α)·D_(1-α)(q‖p), which is the same sum; -inf is ln min p/q over q > 0.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        Rising with α: ≥ 0 for α ≥ 0, inf for disjoint rows, and for α ≥ 1 where q = 0 < p; ≤ 0 for α < 0, and -inf
        where p = 0 < q.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    Summed as p·(φ(d) - φ((1-α)·d)/(1-α)) ≥ 0 with d = ln q - ln p and φ(y) = exp(y) - 1 - y; orders below 1/2
    by D_α(p‖q) = α/(1-α)·D_(1-α)(q‖p). van Erven and Harremoës, "Rényi divergence and Kullback-Leibler divergence",
    IEEE Trans. Inf. Theory 60 (2014).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.renyi_divergence([0.5, 0.5], [0.9, 0.1], 0.5):.4f}")
    0.2231
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    alpha = number(alpha, "alpha", -math.inf, math.inf)
    if alpha < 0.0:
        return _negative(rows, p, q, alpha, out, base)
    if alpha == 1.0:
        return rows.evaluate(("p", p), ("q", q), "linear", (0.5, 1.0, 0.0), out, base=base)
    return rows.evaluate(("p", p), ("q", q), "renyi", (alpha, 0.0, 0.0), out, base=base)


def _negative(rows: Rowwise, p: Any, q: Any, alpha: float, out: Out, base: float | None) -> FloatArray:
    """α/(1-α)·D_(1-α)(q‖p). Near 0 the order 1 - α is 1 to the last digit; D_1 is KL, which takes the factor itself."""
    factor, order = (1.0, math.inf) if alpha == -math.inf else (alpha / (alpha - 1.0), 1.0 - alpha)
    sides = ("q", q), ("p", p)

    def negative(value: FloatArray) -> FloatArray:
        return -factor * value + 0.0

    if order == 1.0:
        return rows.evaluate(*sides, "linear", (0.5, factor, 0.0), out, lambda value: 0.0 - value, base)
    found = rows.evaluate(*sides, "renyi", (order, 0.0, 0.0), out, negative, base)
    beyond = np.isneginf(found)
    if factor < 1.0 and rows.given != "probs" and beyond.any() and float(rows.temperature) / factor < math.inf:
        # D alone may be beyond the range; there it is a difference of logs, which the temperature divides
        hot = replace(rows, temperature=float(rows.temperature) / factor)
        again = hot.evaluate(*sides, "renyi", (order, 0.0, 0.0), None, lambda value: 0.0 - value, base)
        found = outputs.finish(np.where(beyond, again, found), np.shape(found), out)
    return found


def hellinger_distance(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """sqrt(½ Σ(√p - √q)²) of each pair of rows, a metric.

    Parameters, edge cases and errors are those of `kl_divergence`; there is no `base`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        From 0 to 1.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.hellinger_distance([0.5, 0.5], [0.9, 0.1]):.4f}")
    0.3249
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    return rows.evaluate(("p", p), ("q", q), "renyi", (0.5, 0.0, 0.0), out, _hellinger)


def _hellinger(renyi: NDArray[np.float64]) -> FloatArray:
    """The distance from D_½: Σ√(p·q) = exp(-D_½/2)."""
    return np.sqrt(-np.expm1(-0.5 * renyi))


def chi2_divergence(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """Σ(p - q)²/q of each pair of rows, Pearson's χ².

    Parameters, edge cases and errors are those of `kl_divergence`; there is no `base`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        ≥ 0; inf where q = 0 < p, and where it exceeds the float64 range.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.chi2_divergence([0.5, 0.5], [0.9, 0.1]):.4f}")
    1.7778
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    return rows.evaluate(("p", p), ("q", q), "renyi", (2.0, 0.0, 0.0), out, np.expm1)


def total_variation(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """½ Σ|p - q| of each pair of rows: the greatest difference of the probabilities of any event.

    Parameters, edge cases and errors are those of `kl_divergence`; there is no `base`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        From 0 to 1.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.total_variation([0.5, 0.5], [0.9, 0.1]):.3f}")
    0.400
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    # normalisers round: 1 is passed by less than the bound allows, and a probability is no more than 1
    return rows.evaluate(("p", p), ("q", q), "variation", (0.0, 0.0, 0.0), out, lambda value: np.minimum(value, 1.0))
