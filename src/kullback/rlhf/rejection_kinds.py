"""Statistics of tokens and sequences, and the rules that keep or reject them: the table behind `rejection_mask`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords
from kullback.rlhf.bernoulli import bernoulli_kl, bernoulli_tv, verl_bernoulli_kl
from kullback.rlhf.estimators import kl_estimate
from kullback.rlhf.ratios import Scored

__all__ = ["REJECTION_KINDS"]

Float64s = NDArray[np.float64]


# ------------------------------------------------------------------------------------- statistics of a token


def _k1(tokens: Scored) -> Float64s:
    return -tokens.clamped("token")


def _k2(tokens: Scored) -> Float64s:
    with np.errstate(over="ignore"):
        return kl_estimate(-tokens.clamped("token"), "k2")


def _k3(tokens: Scored) -> Float64s:
    return kl_estimate(-tokens.clamped("token"), "k3")


def _tv(tokens: Scored) -> Float64s:
    return bernoulli_tv(tokens.rollout, tokens.train)


def _kl(tokens: Scored) -> Float64s:
    divergence = verl_bernoulli_kl if tokens.convention.slack else bernoulli_kl
    return divergence(tokens.rollout, tokens.train)


# --------------------------------------------------------------------------------------- from tokens to sequences


def _of_tokens(tokens: Scored, values: Float64s) -> Float64s:
    return tokens.blank(values)


def _sum(tokens: Scored, values: Float64s) -> Float64s:
    return tokens.sums(values)[0]


def _mean(tokens: Scored, values: Float64s) -> Float64s:
    sums, counts = tokens.sums(values)
    slack = tokens.convention.slack
    return np.asarray(sums / (counts + slack if slack else np.maximum(counts, 1)))


def _max(tokens: Scored, values: Float64s) -> Float64s:
    values = tokens.blank(values)  # none is below 0
    assert tokens.batch is not None
    if tokens.batch.offsets is None:
        return np.asarray(np.max(values, axis=-1, initial=0.0))
    found = np.zeros(tokens.batch.leading)
    starts, ends = tokens.batch.offsets[:-1], tokens.batch.offsets[1:]
    occupied = ends > starts
    if occupied.any():
        found[occupied] = np.maximum.reduceat(values, starts[occupied])
    return found


# ----------------------------------------------------------------------------------------------- what is kept


def _within_ratios(values: Float64s, low: float, high: float, advantages: Float64s | None) -> NDArray[np.bool_]:
    return (values >= math.log(low)) & (values <= math.log(high))


def _below(values: Float64s, low: float, high: float, advantages: Float64s | None) -> NDArray[np.bool_]:
    return values <= high


def _towards(values: Float64s, low: float, high: float, advantages: Float64s | None) -> NDArray[np.bool_]:
    """Of signed divergences: those that a step along the advantage would not raise further."""
    if advantages is None:
        return (values >= -low) & (values <= high)
    return np.where(advantages > 0.0, values <= high, values >= -low)


def _below_or_good(values: Float64s, low: float, high: float, advantages: Float64s | None) -> NDArray[np.bool_]:
    below = values <= high
    return below if advantages is None else below | (advantages >= 0.0)


def _ratio_pair(one: float) -> tuple[float, float]:
    return 1.0 / one, one


def _twice(one: float) -> tuple[float, float]:
    return one, one


_Statistic = Callable[[Scored], Float64s]
_Reduction = Callable[[Scored, Float64s], Float64s]
_Rule = Callable[[Float64s, float, float, Float64s | None], NDArray[np.bool_]]


@dataclass(frozen=True)
class _Kind:
    """A statistic of each token, how those of a sequence become one, and the rule that keeps or rejects it."""

    statistic: _Statistic
    reduction: _Reduction
    rule: _Rule
    pair: Callable[[float], tuple[float, float]] | None = None  # of one threshold, where two may be given
    advantages: bool = False

    @property
    def per_sequence(self) -> bool:
        return self.reduction is not _of_tokens


_GEOMETRIC = _Kind(_k1, _mean, _within_ratios, _ratio_pair)

#: Every name `rejection_mask` knows.
REJECTION_KINDS: MappingProxyType[str, _Kind] = MappingProxyType(
    {
        # verl's
        "token_k1": _Kind(_k1, _of_tokens, _within_ratios, _ratio_pair),
        "token_k2": _Kind(_k2, _of_tokens, _below),
        "token_k3": _Kind(_k3, _of_tokens, _below),
        "seq_sum_k1": _Kind(_k1, _sum, _within_ratios, _ratio_pair),
        "seq_sum_k2": _Kind(_k2, _sum, _below),
        "seq_sum_k3": _Kind(_k3, _sum, _below),
        "seq_mean_k1": _GEOMETRIC,
        "seq_mean_k2": _Kind(_k2, _mean, _below),
        "seq_mean_k3": _Kind(_k3, _mean, _below),
        "seq_max_k2": _Kind(_k2, _max, _below),
        "seq_max_k3": _Kind(_k3, _max, _below),
        "geo_rs": _GEOMETRIC,
        # DPPO's
        "dppo_tv": _Kind(_tv, _of_tokens, _towards, _twice, advantages=True),
        "dppo_kl": _Kind(_kl, _of_tokens, _towards, _twice, advantages=True),
        # DeepSeek-V3.2's and TRL's
        "opsm": _Kind(_k1, _mean, _below_or_good, advantages=True),
    }
)


def statistics_of(tokens: Scored, kind: str) -> Float64s:
    """One a token or one a sequence."""
    how = REJECTION_KINDS[kind]
    with np.errstate(invalid="ignore", over="ignore"):
        return how.reduction(tokens, how.statistic(tokens))


def keeps(
    tokens: Scored, kind: str, values: Float64s, bounds: tuple[float, float], advantages: Float64s | None
) -> NDArray[np.bool_]:
    """Which tokens stay; NaN is above every threshold."""
    how = REJECTION_KINDS[kind]
    keep = how.rule(values, *bounds, advantages)
    if how.per_sequence:
        keep = tokens.expand(keep)
    return keep & tokens.mask if tokens.mask is not None else np.array(keep)


def bounds_of(kind: str, threshold: Any) -> tuple[float, float]:
    """The lower and the upper threshold of a kind, checked."""
    pair = REJECTION_KINDS[kind].pair
    if isinstance(threshold, (tuple, list)):
        if pair is None or len(threshold) != 2:
            expected = "a number" if pair is None else "a number or two"
            raise ValueError(f"`threshold` is {keywords.shown(threshold)}, expected {expected} with kind {kind!r}")
        low, high = (keywords.real(x, "threshold") for x in threshold)
    else:
        high = keywords.real(threshold, "threshold")
        if not high > 0.0:
            raise ValueError(f"`threshold` is {keywords.shown(threshold)}, expected a number above 0")
        low, high = (0.0, high) if pair is None else pair(high)
    ordered = pair is not _ratio_pair or 0.0 < low <= high
    if not (low >= 0.0 and high > 0.0 and ordered):
        expected = "positive numbers, the lower one first" if pair is _ratio_pair else "numbers above 0"
        raise ValueError(f"`threshold` is {keywords.shown(threshold)}, expected {expected} with kind {kind!r}")
    return low, high
