"""The likelihood of counts in parts: what the data say, and what a distribution makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import same_axis, unit as nats_in
from kullback.samples.counts import divergence_from_counts
from kullback.samples.smoothing import as_counts, smooth

Float64s = NDArray[np.float64]


@dataclass(frozen=True)
class LikelihoodParts:
    """The average negative log-likelihood of data under a model, split; see `likelihood_parts`."""

    cross_entropy: Any
    entropy: Any
    kl_divergence: Any
    log_likelihood: Any


def likelihood_parts(counts: ArrayLike, q: ArrayLike, *, base: float | None = None) -> LikelihoodParts:
    """Split how badly a model fits counted data: -log-likelihood/N = H(p̂) + KL(p̂‖q), with p̂ = counts/N.

    H(p̂) is the data's own and no model changes it, so maximising the likelihood over q is minimising
    KL(p̂‖q): the identity behind training with cross-entropy.

    Parameters
    ----------
    counts : array_like, (..., K)
        How often each category was seen.
    q : array_like, (..., K)
        Probabilities of the model, normalised here. Leading axes broadcast.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    LikelihoodParts
        cross_entropy = entropy + kl_divergence = -log_likelihood/N, each (...,); inf where a category was
        seen that q holds impossible. NaN without counts.

    Raises
    ------
    ValueError
        Shapes that do not match, negative or infinite values.

    Examples
    --------
    >>> parts = likelihood_parts([3, 1], [0.5, 0.5], base=2)
    >>> round(float(parts.cross_entropy), 6), round(float(parts.entropy + parts.kl_divergence), 6)
    (1.0, 1.0)
    >>> float(parts.log_likelihood)
    -4.0
    """
    same_axis(-1, ("counts", counts), ("q", q))
    seen = as_counts("counts", counts)
    entropy = divergence_from_counts(seen, divergence="entropy", base=base).value
    kl = divergence_from_counts(seen, q, q_known=True, base=base).value
    model = smooth(q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(seen > 0, seen * np.log(model), 0.0)
        log_likelihood = (terms.sum(axis=-1) / nats_in(base))[()]
        total = seen.sum(axis=-1)
        return LikelihoodParts((-log_likelihood / total)[()], entropy, kl, log_likelihood)
