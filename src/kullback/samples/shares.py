"""Divergences of small tables of shares, as sums over cells of terms that cannot cancel.

The row kernels serve vocabularies; these serve histograms and contingency tables: a few cells each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.rows import relative_entropy_term

Float64s = NDArray[np.float64]


def js_terms(p: Float64s, q: Float64s) -> Float64s:
    """(p·ln(p/m) + q·ln(q/m))/2 with m = (p+q)/2; with r = (p-q)/(p+q) the bracket over m is

    2r·atanh(r) + ln(1-r²)  =  (1+r)·ln(1+r) + (1-r)·ln(1-r),  the first accurate near 0, the second near ±1.
    """
    total = p + q
    with np.errstate(all="ignore"):
        r = np.where(total > 0, (p - q) / total, 0.0)
        near = 2.0 * r * np.arctanh(r) + np.log1p(-r * r)
        far = (1 + r) * np.log1p(r) + (1 - r) * np.log1p(-r)
    bracket = np.where(np.abs(r) < 0.5, near, np.where(np.abs(r) == 1.0, 2.0 * np.log(2.0), far))
    return np.asarray(0.25 * total * bracket)


def psi_terms(p: Float64s, q: Float64s) -> Float64s:
    """(p-q)·ln(p/q) ≥ 0: 0 where both are 0, inf where one is."""
    p, q = np.broadcast_arrays(p, q)
    with np.errstate(all="ignore"):
        far = np.log(p) - np.log(q)
        ratio = np.where(np.abs(p - q) < 0.5 * q, np.log1p((p - q) / q), far)
        return np.where(p == q, 0.0, (p - q) * ratio)


def hellinger_terms(p: Float64s, q: Float64s) -> Float64s:
    """(√p - √q)²/2, which sums to the squared Hellinger distance."""
    return np.asarray(0.5 * (np.sqrt(p) - np.sqrt(q)) ** 2)


def variation_terms(p: Float64s, q: Float64s) -> Float64s:
    """|p - q|/2."""
    return np.asarray(0.5 * np.abs(p - q))


def chi2_terms(p: Float64s, q: Float64s) -> Float64s:
    """(p - q)²/q: 0 where both are 0, inf where only q is."""
    with np.errstate(all="ignore"):
        return np.where(p == q, 0.0, (p - q) ** 2 / q)


def entropy_terms(p: Float64s, q: Float64s | None = None) -> Float64s:
    """-p·ln(p), 0 at 0; q is not looked at."""
    with np.errstate(all="ignore"):
        return np.where(p == 0, 0.0, -p * np.log(p))  # NaN stays NaN


Curvature = Callable[[Float64s, Float64s], Any]


@dataclass(frozen=True)
class Divergence:
    """A sum over cells of terms(p, q); `root` when the number users want is its square root.

    curvature_p and curvature_q are the second derivatives of a term: half of Σ curvature_p·p(1-p)/N and its
    twin for q is the leading bias of the plug-in estimate. None where that does not hold. `in_nats`: scales
    with the base.
    """

    terms: Callable[..., Float64s]
    curvature_p: Curvature | None = None
    curvature_q: Curvature | None = None
    root: bool = False
    in_nats: bool = False
    pairs: bool = True


DIVERGENCES = {
    "kl": Divergence(relative_entropy_term, lambda p, q: 1 / p, lambda p, q: p / q**2, in_nats=True),
    "reverse_kl": Divergence(
        lambda p, q: relative_entropy_term(q, p), lambda p, q: q / p**2, lambda p, q: 1 / q, in_nats=True
    ),
    "js": Divergence(js_terms, lambda p, q: q / (2 * p * (p + q)), lambda p, q: p / (2 * q * (p + q)), in_nats=True),
    "js_distance": Divergence(js_terms, root=True, in_nats=True),
    "psi": Divergence(psi_terms, lambda p, q: 1 / p + q / p**2, lambda p, q: 1 / q + p / q**2, in_nats=True),
    "hellinger": Divergence(hellinger_terms, root=True),
    "tv": Divergence(variation_terms),
    "chi2": Divergence(chi2_terms, lambda p, q: 2 / q, lambda p, q: 2 * p**2 / q**3),
    "entropy": Divergence(entropy_terms, lambda p, q: -1 / p, lambda p, q: 0 * q, in_nats=True, pairs=False),
}


def evaluate(name: str, p: Float64s, q: Float64s) -> Float64s:
    """The named divergence of shares on the last axis, in nats where it has a unit."""
    divergence = DIVERGENCES[name]
    total = np.asarray(divergence.terms(p, q).sum(axis=-1))
    return np.asarray(np.sqrt(total)) if divergence.root else total
