"""Importance ratios train/rollout of tokens and of sequences: what weights and rejection masks are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import TokenBatch, as_floats, as_mask, keywords, labelling
from kullback.tokens import sequence_sums

__all__ = ["RATIO_LEVELS", "importance_ratios"]

RatioLevel = Literal["token", "sequence", "geometric", "geo", "gspo"]
RatioPreset = Literal["verl", "trl"]
Float64s = NDArray[np.float64]

#: Every name of a level: of which tokens a ratio is, and whether the log-ratios are summed or averaged over them.
RATIO_LEVELS: MappingProxyType[str, Literal["token", "sequence", "geometric"]] = MappingProxyType(
    {
        "token": "token",
        "sequence": "sequence",
        "geometric": "geometric",
        "geo": "geometric",
        "gspo": "geometric",
    }
)


@dataclass(frozen=True)
class RatioConvention:
    """What a library does to log-ratios and counts that the formulas do not say."""

    clamps: Mapping[str, tuple[float, float]]  # of the log-ratio of a level
    slack: float = 0.0  # is added to a number of tokens that is divided by
    missing_is_equal: bool = False  # a log-ratio that is NaN counts as 0
    missing_is_outside: bool = False  # a weight that is NaN lies outside its two bounds


PRESETS: dict[str | None, RatioConvention] = {
    None: RatioConvention({}),
    "verl": RatioConvention(
        {"token": (-20.0, 20.0), "sequence": (-20.0, 20.0), "geometric": (-math.inf, 10.0)},
        slack=1e-8,
        missing_is_outside=True,
    ),
    "trl": RatioConvention({}, missing_is_equal=True),
}


@dataclass(frozen=True)
class Scored:
    """Log-probs of the same tokens, checked; masked tokens have log-probs and a log-ratio of 0."""

    rollout: Float64s
    train: Float64s
    log_ratio: Float64s
    mask: NDArray[np.bool_] | None
    batch: TokenBatch | None  # None for tokens of no sequence
    convention: RatioConvention

    def expand(self, per_sequence: NDArray[Any]) -> NDArray[Any]:
        """One value a sequence -> the same at each of its tokens."""
        assert self.batch is not None
        return self.batch.expand(per_sequence)

    def sums(self, values: Float64s) -> tuple[Float64s, NDArray[np.int64]]:
        """Sum over each sequence and its number of tokens."""
        offsets = None if self.batch is None else self.batch.offsets
        return sequence_sums(values, self.mask, offsets, return_counts=True)

    def blank(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of tokens, 0 where masked."""
        return values if self.mask is None else np.where(self.mask, values, values.dtype.type(0))

    def clamped(self, level: str) -> Float64s:
        """The log-ratios of tokens within the preset's clamp for that level."""
        return _clamp(self.log_ratio, level, self.convention)


def scored(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None,
    offsets: ArrayLike | None,
    *,
    preset: str | None = None,
    sequences: bool = True,
) -> Scored:
    """Look at the arguments once; a flat array without `offsets` will do where no `sequences` are asked for."""
    convention = PRESETS[keywords.choice(preset, "preset", PRESETS)]
    labelling.same_labels(("rollout", rollout), ("train", train), ("mask", mask))
    behind, ahead = as_floats("rollout", rollout), as_floats("train", train)
    if behind.shape != ahead.shape:
        raise ValueError(f"`train` has shape {ahead.shape}, expected {behind.shape} to match `rollout`")
    if sequences or offsets is not None or behind.ndim > 1:
        batch = TokenBatch.of(behind, mask, offsets, "rollout")
        kept = batch.mask
    else:
        batch, kept = None, None if mask is None else as_mask(mask, behind.shape, "rollout")
    x, y = behind.astype(np.float64), ahead.astype(np.float64)
    if kept is not None:
        for array in (x, y):
            np.copyto(array, 0.0, where=~kept)
    with np.errstate(invalid="ignore"):
        difference = y - x
    if convention.missing_is_equal:
        difference[np.isnan(difference)] = 0.0
    return Scored(x, y, difference, kept, batch, convention)


def _clamp(log_ratio: Float64s, level: str, convention: RatioConvention) -> Float64s:
    bounds = convention.clamps.get(level)
    return log_ratio if bounds is None else np.clip(log_ratio, *bounds)


def ratios_of(tokens: Scored, level: str) -> tuple[Float64s, NDArray[np.int64] | None]:
    """exp of the log-ratios of a level, one a token or one a sequence; of the latter also how many tokens each has."""
    name = RATIO_LEVELS[level]
    counts = None
    log_ratio = tokens.log_ratio
    if name != "token":
        log_ratio, counts = tokens.sums(log_ratio)
        if name == "geometric":
            log_ratio = log_ratio / np.maximum(counts, 1)
    with np.errstate(over="ignore"):
        return np.exp(_clamp(log_ratio, name, tokens.convention)), counts


def importance_ratios(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    level: RatioLevel = "token",
    preset: RatioPreset | None = None,
) -> Float64s:
    """The ratios train/rollout of sampled tokens or of whole sequences, before anything is truncated.

    With d = train - rollout (log-probs of the tokens that the rollout drew) and n the tokens of a sequence:

    ====================  ==================  ================================================================
    level (other names)   ratio               what it is for
    ====================  ==================  ================================================================
    "token"               exp(d)              token-level importance sampling: little variance, biased
    "sequence"            exp(Σ d)            the unbiased one; its variance grows with the length
    "geometric" (geo)     exp(Σ d / n)        the geometric mean of the tokens' ratios: GSPO's ratio (gspo),
                                              TRL's importance_sampling_level="sequence", Geo-RS, Geo-Mask
    ====================  ==================  ================================================================

    Parameters
    ----------
    rollout, train : array_like
        Log-probs of the same tokens by the policy that drew them and by the one that is trained: (B, T), or (N,)
        with `offsets`, or for level "token" any flat (N,). For the ratio of PPO and GSPO give the old policy and
        the current one.
    mask, offsets : array_like, optional
        As in `sequence_sums`. Masked tokens may hold anything.
    level : str
        A row of the table; the names are those of `RATIO_LEVELS`.
    preset : {"verl", "trl"}, optional
        Do as that library does. verl limits log-ratios of tokens and of sequences to ±20, and GSPO's to at most
        10. TRL takes a token without a log-ratio (NaN: the server did not score it) as one of ratio 1.

    Returns
    -------
    ndarray
        float64: the shape of `rollout` for level "token", 0 at masked tokens; else one a sequence, 1 for a
        sequence without tokens.

    Raises
    ------
    ValueError
        Shapes that do not match, an unknown level or preset.

    Notes
    -----
    Nothing is clamped without a preset: a ratio beyond float64 is inf, a rollout log-prob of -inf makes it inf, one
    of training 0, and where both are -inf or one is NaN it is NaN, for the whole sequence where it is one of
    a sequence. Sums are exact, then rounded once.

    C. Zheng et al., "Group sequence policy optimization", 2025, https://arxiv.org/abs/2507.18071.

    Examples
    --------
    >>> rollout, train = [[-1.0, -2.0], [-0.5, -3.0]], [[-0.9, -2.3], [-0.5, -1.0]]
    >>> importance_ratios(rollout, train).round(4)
    array([[1.1052, 0.7408],
           [1.    , 7.3891]])
    >>> importance_ratios(rollout, train, level="sequence").round(4)
    array([0.8187, 7.3891])
    >>> importance_ratios(rollout, train, level="gspo").round(4)
    array([0.9048, 2.7183])
    """
    keywords.choice(level, "level", RATIO_LEVELS)
    tokens = scored(rollout, train, mask, offsets, preset=preset, sequences=RATIO_LEVELS[level] != "token")
    ratios, counts = ratios_of(tokens, level)
    if counts is None:
        return tokens.blank(ratios)
    return ratios
