"""Log-probs of training and of generation, block by block into a report of their mismatch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import BLOCK, NanPolicy, TokenBatch, as_floats, as_mask, labelling
from kullback.rlhf.estimators import kl_estimate
from kullback.rlhf.mismatch import Float64s, MismatchReport


def mismatch_report(
    rollout_log_probs: ArrayLike,
    train_log_probs: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    ratio_bounds: tuple[float, float] = (0.5, 2.0),
    nan_policy: NanPolicy = "propagate",
) -> MismatchReport:
    """Compare the log-probs that training and generation gave to the same sampled tokens.

    Inference engines and trainers disagree (precision, kernels, stale weights, sampling settings), so tokens
    come from another policy than the one being trained. The report says how far apart the two are.

    Parameters
    ----------
    rollout_log_probs : array_like
        log π_rollout(token) of the policy that drew the tokens: (B, T), or (N,) with `offsets`, or any flat (N,).
    train_log_probs : array_like
        log π_train(token), same shape.
    mask, offsets : array_like, optional
        As in `sequence_sums`. Masked tokens may hold anything.
    ratio_bounds : tuple of float
        Count tokens whose weight train/rollout is below the first or above the second.
    nan_policy : {"propagate", "omit"}
        What unmasked tokens without a log-ratio do (NaN: the engine did not score them, or one of the two is
        broken): by default every statistic is NaN, with "omit" they are left out. `unscored` counts them.

    Returns
    -------
    MismatchReport
        Combine reports of chunks or workers with `merge`.

    Raises
    ------
    ValueError
        Shapes that do not match, bounds that are not 0 < low < high.

    Notes
    -----
    A train log-prob of -inf makes kl_k1 and kl_k3 infinite, as they are.

    verl's kl, k3_kl, training_ppl, rollout_ppl, ppl_ratio, chi2_token and chi2_seq are kl_k1, kl_k3,
    sequence_perplexity_train, sequence_perplexity_rollout, sequence_perplexity_ratio, chi2 and sequence_chi2;
    verl clamps log-ratios to ±20 in the last two.

    Examples
    --------
    >>> train = [[-1.0, -2.0, -0.5], [-0.25, -1.0, 0.0]]
    >>> rollout = [[-1.1, -1.8, -0.5], [-0.25, -1.2, 0.0]]
    >>> report = mismatch_report(rollout, train, mask=[[1, 1, 1], [1, 1, 0]])
    >>> report.tokens, round(report.kl_k3.mean, 6), round(report.ess, 4)
    (5, 0.009061, 0.9835)
    """
    report = MismatchReport(ratio_bounds, nan_policy)
    labelling.same_labels(
        ("train_log_probs", train_log_probs), ("rollout_log_probs", rollout_log_probs), ("mask", mask)
    )
    train = as_floats("train_log_probs", train_log_probs)
    rollout = as_floats("rollout_log_probs", rollout_log_probs)
    if rollout.shape != train.shape:
        raise ValueError(
            f"`rollout_log_probs` has shape {rollout.shape}, expected {train.shape} to match `train_log_probs`"
        )
    flat = train.ndim == 1 and offsets is None
    if flat:
        blocks = _flat_blocks(train, rollout, None if mask is None else as_mask(mask, train.shape, "train_log_probs"))
    else:
        batch = TokenBatch.of(train, mask, offsets, "train_log_probs")
        blocks = _sequence_blocks(train, rollout, batch)
    for x, y, keep, ends in blocks:
        add_block(report, x.astype(np.float64), y.astype(np.float64), keep, ends)
    return report


_Block = tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_] | None, NDArray[np.int64] | None]


def _flat_blocks(train: NDArray[Any], rollout: NDArray[Any], mask: NDArray[np.bool_] | None) -> Iterator[_Block]:
    for start in range(0, train.size, BLOCK):
        own = slice(start, start + BLOCK)
        yield train[own], rollout[own], None if mask is None else mask[own], None


def _sequence_blocks(train: NDArray[Any], rollout: NDArray[Any], batch: TokenBatch) -> Iterator[_Block]:
    arrays = [train, rollout] if batch.mask is None else [train, rollout, batch.mask]
    for _, tokens, ends in batch.blocks(*arrays):
        yield tokens[0], tokens[1], None if batch.mask is None else tokens[2], ends


def add_block(
    report: MismatchReport,
    train: Float64s,
    rollout: Float64s,
    kept: NDArray[np.bool_] | None,
    ends: NDArray[np.int64] | None,
) -> None:
    """Add tokens to `report`; `ends` bounds the sequences in them, None makes every token its own cluster."""
    with np.errstate(invalid="ignore"):
        d = train - rollout
    scored = ~np.isnan(d)
    unmasked = d.size if kept is None else int(np.count_nonzero(kept))
    if kept is not None:
        scored &= kept
    # only scored tokens go on, so that sums depend on them and not on the padding between them
    train, rollout, d = train[scored], rollout[scored], d[scored]
    report.unscored += unmasked - d.size
    if not d.size:
        return
    report._max_difference = max(report._max_difference, float(np.abs(d).max()))
    quantities = _quantities(train, rollout, d, *report.ratio_bounds)
    if ends is None:
        report._add(np.ones(d.size, np.int64), quantities, sequenced=False)
        return
    seen = np.concatenate([[0], np.cumsum(scored)])[ends]
    tokens = np.diff(seen)
    occupied = np.flatnonzero(tokens)  # reduceat has no empty segments
    starts = seen[occupied]
    with np.errstate(invalid="ignore", over="ignore"):
        sums = {name: np.add.reduceat(values, starts) for name, values in quantities.items()}
    report._add(tokens[occupied], sums, sequenced=True)


def _quantities(train: Float64s, rollout: Float64s, d: Float64s, low: float, high: float) -> dict[str, Float64s]:
    """Per token, everything the report averages; w = exp(d)."""
    reverse_k3 = kl_estimate(d, "k3", importance_log_ratio=d)
    reverse_k3[d == -np.inf] = 1.0  # w·log w - w + 1 at w = 0
    with np.errstate(over="ignore"):
        return {
            "train": train,
            "rollout": rollout,
            "difference": d,
            "absolute": np.abs(d),
            "k1": -d,
            "k3": kl_estimate(-d, "k3"),
            "reverse_k1": kl_estimate(d, "k1", importance_log_ratio=d),
            "reverse_k3": reverse_k3,
            "weight": np.expm1(d),
            "weight2": np.expm1(2.0 * d),
            "probability": np.abs(np.exp(train) - np.exp(rollout)),
            "above": (d > math.log(high)).astype(np.float64),
            "below": (d < math.log(low)).astype(np.float64),
        }
