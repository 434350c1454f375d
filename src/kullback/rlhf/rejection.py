"""Which tokens and sequences lie too far from the policy that drew them, by the names of the field."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import TokenBatch, as_floats, keywords, labelling
from kullback.rlhf.ratios import RatioPreset, Scored, scored
from kullback.rlhf.rejection_kinds import REJECTION_KINDS, bounds_of, keeps, statistics_of

__all__ = ["rejection_mask", "rejection_statistic"]

Float64s = NDArray[np.float64]
RejectionKind = Literal[
    "token_k1", "token_k2", "token_k3", "seq_sum_k1", "seq_sum_k2", "seq_sum_k3", "seq_mean_k1", "seq_mean_k2",
    "seq_mean_k3", "seq_max_k2", "seq_max_k3", "geo_rs", "dppo_tv", "dppo_kl", "opsm",
]  # fmt: skip
Threshold = float | tuple[float, float]


def rejection_statistic(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    kind: RejectionKind = "seq_mean_k3",
    preset: RatioPreset | None = None,
) -> Float64s:
    """What `rejection_mask` compares with its threshold.

    Parameters
    ----------
    rollout, train, mask, offsets, kind, preset
        As in `rejection_mask`.

    Returns
    -------
    ndarray
        float64: the shape of `rollout` for kinds of tokens, 0 at masked ones; else one a sequence, 0 for a sequence
        without tokens. Nats, but for "dppo_tv", which is a difference of probabilities. The signs of "dppo_tv" and
        "dppo_kl" are those of train - rollout.

    Raises
    ------
    ValueError
        As in `rejection_mask`.

    Examples
    --------
    >>> rollout, train = [[-1.0, -2.0], [-0.5, -3.0]], [[-0.9, -2.3], [-0.5, -1.0]]
    >>> rejection_statistic(rollout, train, kind="seq_mean_k3").round(4)
    array([0.023 , 2.1945])
    >>> rejection_statistic(rollout, train, kind="dppo_tv").round(4)
    array([[ 0.0387, -0.0351],
           [ 0.    ,  0.3181]])
    """
    keywords.choice(kind, "kind", REJECTION_KINDS)
    sequences = REJECTION_KINDS[kind].per_sequence
    return statistics_of(scored(rollout, train, mask, offsets, preset=preset, sequences=sequences), kind)


@keywords.refusing(
    bounds="those are of `importance_weights`, on the ratio train/rollout; a mask takes `threshold`, on the statistic "
    "of its kind (of a k1 kind rollout/train)"
)
def rejection_mask(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    kind: RejectionKind = "seq_mean_k3",
    threshold: Threshold,
    advantages: ArrayLike | None = None,
    preset: RatioPreset | None = None,
) -> NDArray[np.bool_]:
    """Which tokens to train on: those whose divergence from the policy that drew them is below a threshold.

    With d = train - rollout, per token k1 = -d, k2 = d²/2, k3 = exp(d) - 1 - d (estimates of KL(rollout‖train)),
    and p = exp(rollout), q = exp(train):

    ===========================  ==============================================  ==============================
    kind (other names)           kept                                            threshold
    ===========================  ==============================================  ==============================
    token_k1                     tokens with log(lower) <= k1 <= log(upper)      bounds of rollout/train, or one
                                                                                 number u for (1/u, u)
    token_k2, token_k3           tokens with k2 or k3 below it                   nats
    seq_sum_k1                   sequences, by Σ k1                              as token_k1
    seq_sum_k2, seq_sum_k3       sequences, by the sum                           nats
    seq_mean_k1 (geo_rs)         sequences, by the mean of k1: the ratio is the  as token_k1
                                 geometric mean of those of the tokens
    seq_mean_k2, seq_mean_k3     sequences, by the mean                          nats
    seq_max_k2, seq_max_k3       sequences, by the worst token                   nats
    dppo_tv                      tokens with -low <= q - p <= high               probability, or (low, high)
    dppo_kl                      the same of KL(Bernoulli(p)‖Bernoulli(q)) with  nats, or (low, high)
                                 the sign of q - p
    opsm                         sequences whose mean k1 is below it, and those  nats
                                 of advantage >= 0 (DeepSeek-V3.2, TRL)
    ===========================  ==============================================  ==============================

    The first eleven are verl's rollout_rs. Note the direction of their ratio: rollout/train, the inverse of a weight's.

    Parameters
    ----------
    rollout, train, mask, offsets
        As in `importance_ratios`; a flat array without `offsets` for kinds of tokens only.
    kind : str
        A row of the table.
    threshold : float or pair
        See the table: it is of the statistic that the kind names, which is why it is not called `bounds` as that of
        `importance_weights` on the ratio train/rollout. verl's "0.5_2.0" is (0.5, 2.0).
    advantages : array_like, optional
        For "dppo_tv", "dppo_kl" and "opsm", one a token or one a sequence: (B, T), (B,) or (B, 1). DPPO rejects a
        token of advantage > 0 only where train is above rollout, and one of the others only where it is below;
        without advantages both.
    preset : {"verl", "trl"}, optional
        Clamps and missing ratios as in `importance_ratios`. verl also adds 1e-8 to the counts of means and
        to both sides of the ratio (1 - p)/(1 - q) of dppo_kl.

    Returns
    -------
    ndarray of bool
        Shape of `rollout`: True for a token to keep, False for one that is rejected or was masked before. Combine
        several kinds with ``&``.

    Raises
    ------
    ValueError
        As in `importance_ratios`; a threshold that is not positive or a pair where the kind takes one number;
        `advantages` for another kind, or of a shape that does not fit.
    TypeError
        `bounds`, which are of `importance_weights`.

    Notes
    -----
    A statistic that is NaN, because a log-prob is NaN or both are -inf, is not below any threshold: the token is
    rejected, and with it its sequence where the kind is one of sequences.

    dppo_kl is p·φ(d) + (1 - p)·φ(e) with e = log((1 - q)/(1 - p)) and φ(x) = exp(x) - 1 - x, whose terms are never
    negative: nothing cancels for policies that are close or tokens that are nearly sure.

    P. Qi et al., "Rethinking the trust region in LLM reinforcement learning" (DPPO), 2026,
    https://arxiv.org/abs/2602.04879; DeepSeek-V3.2, 2025, https://arxiv.org/abs/2512.02556 (opsm).

    Examples
    --------
    >>> rollout, train = [[-1.0, -2.0], [-0.5, -3.0]], [[-0.9, -2.3], [-0.5, -1.0]]
    >>> rejection_mask(rollout, train, kind="seq_mean_k3", threshold=0.1)
    array([[ True,  True],
           [False, False]])
    >>> rejection_mask(rollout, train, kind="token_k1", threshold=2.0)
    array([[ True,  True],
           [ True, False]])
    >>> rejection_mask(rollout, train, kind="dppo_tv", threshold=0.2, advantages=[1.0, -1.0])
    array([[ True,  True],
           [ True,  True]])
    """
    keywords.choice(kind, "kind", REJECTION_KINDS)
    how, bounds = REJECTION_KINDS[kind], bounds_of(kind, threshold)
    if advantages is not None and not how.advantages:
        raise ValueError(f"`advantages` were given, expected None with kind {kind!r}")
    tokens = scored(rollout, train, mask, offsets, preset=preset, sequences=how.per_sequence)
    gains = None if advantages is None else _advantages(advantages, tokens, how.per_sequence)
    return keeps(tokens, kind, statistics_of(tokens, kind), bounds, gains)


def _advantages(advantages: ArrayLike, tokens: Scored, per_sequence: bool) -> Float64s:
    """One a token for kinds of tokens, one a sequence for the others."""
    labelling.same_labels(("advantages", advantages))
    if not per_sequence and tokens.batch is not None:
        return per_token("advantages", advantages, tokens.batch).astype(np.float64)
    found = as_floats("advantages", advantages)
    shape = tokens.log_ratio.shape if tokens.batch is None else tokens.batch.leading
    if found.shape == (*shape, 1) and per_sequence:
        found = found[..., 0]
    if found.shape != shape:
        raise ValueError(f"`advantages` has shape {found.shape}, expected {shape}")
    return found.astype(np.float64)


def per_token(name: str, x: ArrayLike, batch: TokenBatch) -> NDArray[Any]:
    """Values one a token or one a sequence, as one a token."""
    array = as_floats(name, x)
    if array.shape == batch.shape:
        return array
    if array.shape == (*batch.leading, 1):
        array = array[..., 0]
    if array.shape != batch.leading:
        raise ValueError(f"`{name}` has shape {array.shape}, expected {batch.shape} or {batch.leading}")
    return batch.expand(array)
