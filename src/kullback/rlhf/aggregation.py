"""Sums over sequences and the ways RLHF libraries turn a batch of per-token values into one number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import NanPolicy, keywords
from kullback.tokens import sequence_sums

__all__ = [
    "AGGREGATION_MODES",
    "aggregate",
    "aggregation_parts",
]


@dataclass(frozen=True)
class _Mode:
    """What is summed over sequences, and what it is divided by."""

    term: Literal["sum", "mean"]
    count: Literal["tokens", "sequences", "nonempty", "none"]
    scaled: bool = False


_TOKEN_MEAN = _Mode("sum", "tokens")

AggregationMode = Literal[
    "token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm", "token-sum-norm",
    "bnpo", "dapo", "cispo", "vespo", "grpo", "sapo", "luspo", "dr_grpo", "sequence-mean-token-mean",
    "sequence-mean-token-scale", "sequence-mean-token-sum-norm",
]  # fmt: skip

#: Every name `aggregate` knows.
AGGREGATION_MODES: MappingProxyType[str, _Mode] = MappingProxyType(
    {
        # verl
        "token-mean": _TOKEN_MEAN,
        "token-sum": _Mode("sum", "none"),
        "seq-mean-token-mean": _Mode("mean", "nonempty"),
        "seq-mean-token-sum": _Mode("sum", "nonempty"),
        "seq-mean-token-sum-norm": _Mode("sum", "nonempty", scaled=True),
        # verl's seq-mean-token-sum-norm until early 2026
        "token-sum-norm": _Mode("sum", "none", scaled=True),
        # TRL's loss types
        "bnpo": _TOKEN_MEAN,
        "dapo": _TOKEN_MEAN,
        "cispo": _TOKEN_MEAN,
        "vespo": _TOKEN_MEAN,
        "grpo": _Mode("mean", "sequences"),
        "sapo": _Mode("mean", "sequences"),
        "luspo": _Mode("sum", "sequences"),
        "dr_grpo": _Mode("sum", "sequences", scaled=True),
        # tunix
        "sequence-mean-token-mean": _Mode("mean", "nonempty"),
        "sequence-mean-token-scale": _Mode("sum", "nonempty", scaled=True),
        "sequence-mean-token-sum-norm": _Mode("sum", "none", scaled=True),
    }
)


@overload
def aggregate(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    denominator: float | None = None,
    nan_policy: Literal["propagate"] = "propagate",
) -> float: ...


@overload
def aggregate(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    denominator: float | None = None,
    nan_policy: Literal["omit"],
) -> tuple[float, int]: ...


def aggregate(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    denominator: float | None = None,
    nan_policy: NanPolicy = "propagate",
) -> float | tuple[float, int]:
    """One number for a batch of per-token values, under the names of verl, TRL and tunix.

    ============================  ==================================  =========================================
    mode                          sum over                            divided by
    ============================  ==================================  =========================================
    token-mean                    all tokens                          tokens
    token-sum                     all tokens                          1
    token-sum-norm                all tokens                          scale
    seq-mean-token-mean           the mean of each sequence           sequences with a token
    seq-mean-token-sum            all tokens                          sequences with a token
    seq-mean-token-sum-norm       all tokens                          sequences with a token × scale
    bnpo, dapo, cispo, vespo      all tokens                          tokens (dapo, cispo, vespo: give the
                                                                      global number as `denominator`)
    grpo, sapo                    the mean of each sequence           B, empty sequences included
    luspo                         all tokens                          B, empty sequences included
    dr_grpo                       all tokens                          B × scale (max_completion_length)
    sequence-mean-token-mean      the mean of each sequence           sequences with a token
    sequence-mean-token-scale     all tokens                          sequences with a token × scale
    sequence-mean-token-sum-norm  all tokens                          scale
    ============================  ==================================  =========================================

    The first six are verl's (token-sum-norm is its seq-mean-token-sum-norm of early 2026, which did not
    divide by the number of sequences); the next four rows are TRL's loss types; the last three tunix's.
    OpenRLHF's token_level_loss=True and False are token-mean and seq-mean-token-mean.

    Parameters
    ----------
    values, mask, offsets
        As in `sequence_sums`.
    mode : str
        A name from the table.
    scale : float, optional
        The constant of the modes that have one. Padded batches default to T, the padded length. Packed
        batches have none, nor does sequence-mean-token-sum-norm, whose default tunix changed: give it there.
    denominator : float, optional
        Number of tokens or sequences to divide by instead of this batch's, when the batch is one worker's
        share of a larger one; the sum of the results over workers is then the aggregate of the whole. (A
        framework that averages gradients over workers wants it multiplied by their number.)
    nan_policy : {"propagate", "omit"}
        What an unmasked NaN does: by default the aggregate is NaN. "omit" leaves such tokens out of sums and counts
        and says how many they were: the result is then a pair.

    Returns
    -------
    value : float
        The aggregate; 0 when no token is unmasked, NaN when "omit" left out every token there was.
    omitted : int
        With ``nan_policy="omit"``: unmasked tokens left out because they are NaN.

    Raises
    ------
    ValueError
        An unknown mode, a missing `scale`, a `denominator` for a mode without one; as in `sequence_sums`.

    Examples
    --------
    >>> loss, mask = [[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]], [[1, 1, 1], [1, 0, 0]]
    >>> aggregate(loss, mask, mode="token-mean"), aggregate(loss, mask, mode="seq-mean-token-mean")
    (2.75, 3.5)
    >>> loss = [[1.0, float("nan"), 3.0], [5.0, 0.0, 0.0]]
    >>> aggregate(loss, mask), aggregate(loss, mask, nan_policy="omit")
    (nan, (3.0, 1))
    """
    total, count, omitted, tokens = _parts(values, mask, offsets, mode, scale, nan_policy)
    if _named(mode).count == "none":
        if denominator is not None:
            raise ValueError(
                f"`denominator` is {keywords.shown(denominator)}, expected None: mode {mode!r} counts nothing"
            )
        value = total
    elif denominator is not None:
        divisor = keywords.real(denominator, "denominator")
        if not divisor > 0:
            raise ValueError(f"`denominator` is {divisor}, expected a positive number")
        value = total / divisor
    else:
        value = total / count if count else 0.0
    if omitted and not tokens:
        value = math.nan  # nothing is known: 0 would be taken for the aggregate of healthy tokens
    return (value, omitted) if nan_policy == "omit" else value


@overload
def aggregation_parts(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    nan_policy: Literal["propagate"] = "propagate",
) -> tuple[float, int]: ...


@overload
def aggregation_parts(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    nan_policy: Literal["omit"],
) -> tuple[float, int, int]: ...


def aggregation_parts(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: AggregationMode = "token-mean",
    *,
    scale: float | None = None,
    nan_policy: NanPolicy = "propagate",
) -> tuple[float, int] | tuple[float, int, int]:
    """The numerator and the count behind `aggregate`, for workers that combine their shares.

    Add up the totals and the counts of all workers, then divide; the modes that count nothing (token-sum,
    token-sum-norm, sequence-mean-token-sum-norm) are not divided.

    Parameters
    ----------
    values, mask, offsets, mode, scale, nan_policy
        As in `aggregate`.

    Returns
    -------
    total : float
        Sum of the terms, `scale` already divided out: the correctly rounded sum of the float64 sums of the
        sequences, whatever their order.
    count : int
        Tokens or sequences, as the table of `aggregate` says; tokens for the modes that count nothing.
    omitted : int
        With ``nan_policy="omit"``: unmasked tokens left out because they are NaN.

    Examples
    --------
    >>> aggregation_parts([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]], [[1, 1, 1], [1, 0, 0]])
    (11.0, 4)
    """
    total, count, omitted, _ = _parts(values, mask, offsets, mode, scale, nan_policy)
    return (total, count, omitted) if nan_policy == "omit" else (total, count)


def _parts(
    values: ArrayLike,
    mask: ArrayLike | None,
    offsets: ArrayLike | None,
    mode: str,
    scale: float | None,
    nan_policy: NanPolicy,
) -> tuple[float, int, int, int]:
    """(numerator, count, NaN tokens left out, tokens in the sums)."""
    how = _named(mode)
    sums, counts, *rest = sequence_sums(values, mask, offsets, nan_policy=nan_policy, return_counts=True)
    omitted = int(rest[0].sum()) if rest else 0
    terms = sums / np.maximum(counts, 1) if how.term == "mean" else sums
    total = _fsum(terms)
    if how.scaled:
        total /= _scale(scale, mode, np.shape(values)[-1], offsets is not None)
    elif scale is not None:
        raise ValueError(f"`scale` is {keywords.shown(scale)}, expected None: mode {mode!r} has no such constant")
    tokens = int(counts.sum())
    if how.count == "nonempty":
        return total, int(np.count_nonzero(counts)), omitted, tokens
    return total, sums.size if how.count == "sequences" else tokens, omitted, tokens


def _named(mode: str) -> _Mode:
    keywords.choice(mode, "mode", AGGREGATION_MODES)
    return AGGREGATION_MODES[mode]


def _scale(scale: float | None, mode: str, width: int, packed: bool) -> float:
    """The divisor `scale`, or the padded length."""
    if scale is None:
        if packed or mode == "sequence-mean-token-sum-norm":
            what = "packed tokens" if packed else "its libraries"
            raise ValueError(f"`scale` is None, expected a number: {what} in mode {mode!r} have no default")
        scale = width
    divisor = keywords.real(scale, "scale")
    if not divisor > 0:
        raise ValueError(f"`scale` is {divisor}, expected a positive number")
    return divisor


def _fsum(terms: NDArray[np.float64]) -> float:
    """Correctly rounded sum, so that the order of the sequences does not matter; inf and NaN as in IEEE."""
    if np.isfinite(terms).all():
        return math.fsum(terms.ravel().tolist())
    with np.errstate(invalid="ignore"):
        return float(terms.sum())
