"""Scores of preference optimisation (DPO and its f-divergence relatives) from sequence log-ratios."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import TokenBatch, as_floats, keywords, labelling, views

__all__ = ["preference_score_gradient", "preference_scores", "tail_weights"]

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
_DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


def preference_scores(
    log_ratios: ArrayLike,
    divergence: Divergence = "reverse_kl",
    *,
    alpha: float = 0.5,
    lengths: ArrayLike | None = None,
    exponent_clamp: float | None = None,
) -> NDArray[np.float64]:
    """f'(policy/ref) of whole sequences: the score that DPO compares between chosen and rejected answers.

    With x = log policy(answer) - log ref(answer), summed over the answer's tokens, and u = exp(x):

    ================  ==========================  =================================  ==================
    divergence        f'(u)                       in x                               derivative in x
    ================  ==========================  =================================  ==================
    reverse_kl        log u                       x (DPO)                            1
    forward_kl        1 - 1/u                     -expm1(-x)                         exp(-x)
    js_divergence     log(2u/(1 + u))             log 2 - log(1 + exp(-x))           1/(1 + exp(x))
    alpha_divergence  (u^(α-1) - 1)/(α-1)         expm1((α-1)·x)/(α-1)               exp((α-1)·x)
    ================  ==========================  =================================  ==================

    The names are TRL's; "reverse" is KL(policy‖ref). Every score is 0 where policy and ref agree; older TRL
    leaves out the constants (1, log 2, 1/(α-1)), which cancel in the difference chosen - rejected unless the
    two are divided by different lengths. A pair's DPO loss is
    ``-log sigmoid(beta * (scores_chosen - scores_rejected))``.

    Parameters
    ----------
    log_ratios : array_like
        x, any shape, nats: ``sequence_sums(policy_log_probs - ref_log_probs, mask)``.
    divergence : str
        A row of the table.
    alpha : float
        α of alpha_divergence; 1 is reverse_kl, 0 is forward_kl.
    lengths : array_like, optional
        Answer lengths in tokens, shape of `log_ratios`; scores are divided by them (IPO and
        length-normalised DPO), lengths below 1 counting as 1.
    exponent_clamp : float, optional
        Largest exponent of alpha_divergence, off by default; TRL uses 80 in float32 and 11 in float16.

    Returns
    -------
    ndarray
        float64, shape of `log_ratios`. ±inf where x is infinite and f' unbounded there; NaN where x is.

    Raises
    ------
    ValueError
        An unknown divergence, a shape that does not fit, an `exponent_clamp` for another divergence.

    References
    ----------
    R. Rafailov et al., "Direct preference optimization", 2023, https://arxiv.org/abs/2305.18290;
    C. Wang et al., "Beyond reverse KL", 2023, https://arxiv.org/abs/2309.16240, table 1;
    M. G. Azar et al. (IPO), 2023, https://arxiv.org/abs/2310.12036.

    Examples
    --------
    >>> preference_scores([0.0, 1.0, -1.0], "forward_kl").round(4)
    array([ 0.    ,  0.6321, -1.7183])
    """
    labelling.same_labels(("log_ratios", log_ratios), ("lengths", lengths))
    x, alpha = _checked(log_ratios, divergence, exponent_clamp), keywords.finite(alpha, "alpha")
    with np.errstate(over="ignore"):
        if divergence == "reverse_kl" or (divergence == "alpha_divergence" and alpha == 1.0):
            scores = x
        elif divergence == "forward_kl":
            scores = -np.expm1(-x)
        elif divergence == "js_divergence":
            # log(2u/(1+u)) = -log1p(expm1(-x)/2): no cancellation near x = 0; x + log 2 where u vanishes
            scores = np.where(x < -40.0, x + np.log(2.0), -np.log1p(np.expm1(-x) / 2.0))
        else:
            scores = np.expm1(_exponent(x, alpha, exponent_clamp)) / (alpha - 1.0)
    return _per_token(scores, lengths)


def preference_score_gradient(
    log_ratios: ArrayLike,
    divergence: Divergence = "reverse_kl",
    *,
    alpha: float = 0.5,
    lengths: ArrayLike | None = None,
    exponent_clamp: float | None = None,
) -> NDArray[np.float64]:
    """Derivative of `preference_scores` with respect to the log-ratio of each sequence.

    The log-ratio being a sum over tokens, this is also the derivative with respect to each token's log-prob.

    Parameters
    ----------
    log_ratios, divergence, alpha, lengths, exponent_clamp
        As in `preference_scores`.

    Returns
    -------
    ndarray
        float64, shape of `log_ratios`; 0 beyond the clamp.

    Examples
    --------
    >>> preference_score_gradient([0.0, 1.0], "js_divergence").round(4)
    array([0.5   , 0.2689])
    """
    labelling.same_labels(("log_ratios", log_ratios), ("lengths", lengths))
    x, alpha = _checked(log_ratios, divergence, exponent_clamp), keywords.finite(alpha, "alpha")
    with np.errstate(over="ignore"):
        if divergence == "reverse_kl":
            slopes = np.where(np.isnan(x), x, 1.0)
        elif divergence == "forward_kl":
            slopes = np.exp(-x)
        elif divergence == "js_divergence":
            slopes = 1.0 / (1.0 + np.exp(x))
        else:
            exponent = _exponent(x, alpha, None)
            slopes = np.exp(exponent)
            if exponent_clamp is not None:
                slopes[exponent > exponent_clamp] = 0.0
    return _per_token(slopes, lengths)


def tail_weights(
    prefix_lengths: ArrayLike,
    tail_weight: float,
    mask: ArrayLike,
    offsets: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Token weights of length-desensitised DPO: 1 in the first tokens of an answer, `tail_weight` after.

    With the shorter length of a pair as prefix, the longer answer is not preferred for its length:
    ``sequence_sums(log_ratios * tail_weights(shared, 0.3, mask), mask)``.

    Parameters
    ----------
    prefix_lengths : array_like of int
        (B,), unmasked tokens of full weight.
    tail_weight : float
        Weight of the rest (TRL's ld_alpha): 1 is plain DPO, 0 cuts answers off.
    mask, offsets : array_like
        As in `sequence_sums`.

    Returns
    -------
    ndarray
        float64, shape of `mask`, 0 at masked tokens.

    References
    ----------
    W. Liu et al., "Length desensitization in direct preference optimization", 2024,
    https://arxiv.org/abs/2409.06411.

    Examples
    --------
    >>> tail_weights([2, 2], 0.3, [[1, 1, 1, 0], [0, 1, 1, 0]])
    array([[1. , 1. , 0.3, 0. ],
           [0. , 1. , 1. , 0. ]])
    """
    weight = keywords.finite(tail_weight, "tail_weight")
    if offsets is None:
        labelling.same_axis(0, ("prefix_lengths", prefix_lengths), ("mask", mask))
    kept = views.plain(mask, "mask")
    batch = TokenBatch.of(kept, kept, offsets, "mask")
    assert batch.mask is not None  # it was given
    prefixes = views.plain(prefix_lengths, "prefix_lengths")
    if prefixes.shape != batch.leading:
        raise ValueError(f"`prefix_lengths` has shape {prefixes.shape}, expected {batch.leading}, one a sequence")
    if prefixes.dtype.kind not in "iu" and prefixes.size:
        raise TypeError(f"`prefix_lengths` has dtype {prefixes.dtype}, expected integers")
    seen = np.cumsum(batch.mask, axis=-1, dtype=np.int64)
    if batch.offsets is not None:
        seen = seen - batch.expand(np.concatenate([[0], seen])[batch.offsets[:-1]])
    return np.where(batch.mask, np.where(seen <= batch.expand(prefixes), 1.0, weight), 0.0)


def _checked(log_ratios: ArrayLike, divergence: str, exponent_clamp: float | None) -> NDArray[np.float64]:
    keywords.choice(divergence, "divergence", _DIVERGENCES)
    if exponent_clamp is not None and divergence != "alpha_divergence":
        given = keywords.shown(exponent_clamp)
        raise ValueError(f"`exponent_clamp` is {given}, expected None: {divergence} has no such exponent")
    if exponent_clamp is not None and np.isnan(keywords.real(exponent_clamp, "exponent_clamp")):
        raise ValueError("`exponent_clamp` is nan, expected a number or None")
    return as_floats("log_ratios", log_ratios).astype(np.float64)


def _exponent(x: NDArray[np.float64], alpha: float, exponent_clamp: float | None) -> NDArray[np.float64]:
    """(α-1)·x, 0·inf = 0, bounded above on request."""
    exponent = np.where(np.isnan(x), x, 0.0) if alpha == 1.0 else (alpha - 1.0) * x
    return exponent if exponent_clamp is None else np.minimum(exponent, exponent_clamp)


def _per_token(scores: NDArray[np.float64], lengths: ArrayLike | None) -> NDArray[np.float64]:
    if lengths is None:
        return scores
    tokens = as_floats("lengths", lengths)
    if tokens.shape not in ((), scores.shape):
        raise ValueError(f"`lengths` has shape {tokens.shape}, expected {scores.shape} to match `log_ratios`")
    if not ((tokens >= 0) & np.isfinite(tokens)).all():
        raise ValueError("`lengths` holds a negative number, an infinity or NaN, expected numbers of tokens")
    normalised: NDArray[np.float64] = scores / np.maximum(tokens, 1)
    return normalised
