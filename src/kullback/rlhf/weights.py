"""Importance weights by the names of the field: TIS, IcePop, MIS, of tokens or of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import keywords
from kullback.rlhf.ratios import RATIO_LEVELS, RatioConvention, RatioLevel, RatioPreset, Scored, ratios_of, scored

__all__ = ["WEIGHT_KINDS", "importance_weights"]

Float64s = NDArray[np.float64]
WeightKind = Literal["none", "tis", "truncate", "icepop", "mis", "mask"]
Bounds = float | tuple[float | None, float | None]


def _as_it_is(ratios: Float64s, low: float, high: float, convention: RatioConvention) -> Float64s:
    return ratios


def _truncated(ratios: Float64s, low: float, high: float, convention: RatioConvention) -> Float64s:
    return np.clip(ratios, low, high)


def _zeroed(ratios: Float64s, low: float, high: float, convention: RatioConvention) -> Float64s:
    outside = (ratios < low) | (ratios > high)
    if convention.missing_is_outside:
        outside |= np.isnan(ratios)
    return np.where(outside, 0.0, ratios)


@dataclass(frozen=True)
class _Kind:
    """What happens to ratios beyond the bounds, and the bounds of the library that coined the name."""

    apply: Callable[[Float64s, float, float, RatioConvention], Float64s]
    bounds: tuple[float, float]


#: Every name `importance_weights` knows.
WEIGHT_KINDS: MappingProxyType[str, _Kind] = MappingProxyType(
    {
        "none": _Kind(_as_it_is, (0.0, math.inf)),
        "tis": _Kind(_truncated, (0.0, 2.0)),  # verl's rollout_is_threshold
        "truncate": _Kind(_truncated, (0.0, 3.0)),  # TRL's *_truncate
        "icepop": _Kind(_zeroed, (0.5, 5.0)),
        "mis": _Kind(_zeroed, (0.0, 3.0)),
        "mask": _Kind(_zeroed, (0.0, 3.0)),  # TRL's *_mask
    }
)


def limits(bounds: Any, name: str) -> tuple[float, float]:
    """One number is the upper bound; of two either may be None."""
    if isinstance(bounds, (tuple, list)):
        if len(bounds) != 2:
            raise ValueError(f"`{name}` is {keywords.shown(bounds)}, expected one number or two")
        low = 0.0 if bounds[0] is None else keywords.real(bounds[0], name)
        high = math.inf if bounds[1] is None else keywords.real(bounds[1], name)
    else:
        low, high = 0.0, keywords.real(bounds, name)
    if not 0.0 <= low <= high or not high > 0.0:
        raise ValueError(
            f"`{name}` is {keywords.shown(bounds)}, expected an upper bound above 0 and none below a lower"
        )
    return low, high


def settled(kind: str, bounds: Any) -> tuple[_Kind, float, float]:
    """The kind of that name with its bounds or those given."""
    keywords.choice(kind, "kind", WEIGHT_KINDS)
    how = WEIGHT_KINDS[kind]
    if bounds is None:
        return how, *how.bounds
    if kind == "none":
        raise ValueError(f"`bounds` is {keywords.shown(bounds)}, expected None with kind 'none'")
    return how, *limits(bounds, "bounds")


@keywords.refusing(
    threshold="that is of `rejection_mask`, on the statistic of its kind; weights take `bounds`, on train/rollout"
)
def importance_weights(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    kind: WeightKind = "tis",
    level: RatioLevel = "token",
    bounds: Bounds | None = None,
    normalize: bool = False,
    preset: RatioPreset | None = None,
) -> Float64s:
    """Weights of a policy-gradient loss whose tokens another policy drew than the one that is trained.

    With r the ratio train/rollout of `importance_ratios`:

    ====================  =============================  ==============  =======================================
    kind (other names)    weight                         default bounds  known as
    ====================  =============================  ==============  =======================================
    "none"                r                                              untruncated importance sampling
    "tis" (truncate)      r, limited to the bounds       2 (3)           truncated importance sampling; verl with
                                                                         one threshold; TRL's token_truncate and
                                                                         sequence_truncate
    "icepop" (mis, mask)  r within the bounds, else 0    0.5, 5 (3)      IcePop; verl with two thresholds; masked
                                                                         importance sampling; TRL's token_mask and
                                                                         sequence_mask
    ====================  =============================  ==============  =======================================

    Parameters
    ----------
    rollout, train, mask, offsets
        As in `importance_ratios`.
    kind : str
        A row of the table: what becomes of ratios beyond the bounds.
    level : str
        As in `importance_ratios`: every token of a sequence gets the weight of the sequence where r is one.
    bounds : float or pair, optional
        The upper bound of r, or the lower and the upper one, either of which may be None. They are numbers of the
        ratio train/rollout whatever the kind; `rejection_mask` has `threshold` in their place, on its kind's statistic.
    normalize : bool
        Divide by the mean, of unmasked tokens, or of sequences that have tokens where r is one of a sequence
        (verl's rollout_is_batch_normalize). Weights that are all 0 stay 0.
    preset : {"verl", "trl"}, optional
        Clamps and missing ratios as in `importance_ratios`; verl also adds 1e-8 to numbers that it divides by and
        takes NaN as outside two bounds.

    Returns
    -------
    ndarray
        float64, shape of `rollout`; 0 at masked tokens.

    Raises
    ------
    ValueError
        As in `importance_ratios`; bounds that are not 0 <= lower <= upper, or any with kind "none".
    TypeError
        `threshold`, which is of `rejection_mask`.

    Notes
    -----
    A weight is a constant of the loss: verl detaches it and TRL computes it before the loss, so no gradient goes
    through it. `kullback.integrations.torch.importance_weights` does the same for tensors.

    Ratios beyond float64 are inf, hence the upper bound with "tis" and 0 with "icepop"; those that are NaN stay NaN
    without a preset. Padding may hold anything: verl's own token weights are NaN there where log-probs are.

    `what_if` shows what other kinds and bounds would do to the same tokens.

    F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL training", 2025 (TIS);
    the IcePop of Ling Team, "Every step evolves", 2025, https://arxiv.org/abs/2510.18855.

    Examples
    --------
    >>> rollout, train = [[-1.0, -2.0], [-0.5, -3.0]], [[-0.9, -2.3], [-0.5, -1.0]]
    >>> importance_weights(rollout, train).round(4)
    array([[1.1052, 0.7408],
           [1.    , 2.    ]])
    >>> importance_weights(rollout, train, kind="icepop", bounds=(0.8, 5.0)).round(4)
    array([[1.1052, 0.    ],
           [1.    , 0.    ]])
    >>> importance_weights(rollout, train, kind="mask", level="sequence").round(4)
    array([[0.8187, 0.8187],
           [0.    , 0.    ]])
    """
    how, low, high = settled(kind, bounds)
    keywords.choice(level, "level", RATIO_LEVELS)
    normalize = keywords.flag(normalize, "normalize")
    tokens = scored(rollout, train, mask, offsets, preset=preset, sequences=RATIO_LEVELS[level] != "token")
    ratios, counts = ratios_of(tokens, level)
    weights = how.apply(ratios, low, high, tokens.convention)
    if normalize:
        with np.errstate(invalid="ignore", over="ignore"):
            weights = _normalized(tokens, weights, counts)
    return tokens.blank(weights if counts is None else tokens.expand(weights).copy())


def _normalized(tokens: Scored, weights: Float64s, counts: NDArray[np.int64] | None) -> Float64s:
    """The weights by their mean."""
    slack = tokens.convention.slack
    if counts is None:
        kept = weights if tokens.mask is None else weights[tokens.mask]
        mean = kept.sum() / (kept.size + slack) if kept.size else 0.0
    else:
        occupied = counts > 0
        shares = counts[occupied] / (counts[occupied] + slack)
        mean = (weights[occupied] * shares).sum() / max(int(occupied.sum()), 1)
    known = mean > slack or (slack == 0.0 and np.isnan(mean))  # verl leaves weights alone whose mean is NaN
    return weights / mean if known else weights
