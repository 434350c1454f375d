"""Sums over sequences and the ways RLHF libraries turn a batch of per-token values into one number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback import arrays, calls
from kullback.layout import Batch, as_floats

__all__ = ["AGGREGATION_MODES", "aggregate", "aggregation_parts", "sequence_sums"]

_STORED = tuple(kind.name for kind in arrays.FLOATS)  # what the kernel reads as it is

NanPolicy = Literal["omit", "propagate"]


@dataclass(frozen=True)
class _Mode:
    """What is summed over sequences, and what it is divided by."""

    term: Literal["sum", "mean"]
    count: Literal["tokens", "sequences", "nonempty", "none"]
    scaled: bool = False


_TOKEN_MEAN = _Mode("sum", "tokens")

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
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: Literal["propagate"] = "propagate",
    return_counts: Literal[False] = False,
    num_threads: int | None = None,
) -> NDArray[np.float64]: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: NanPolicy = "propagate",
    return_counts: bool = False,
    num_threads: int | None = None,
) -> Any: ...


def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: NanPolicy = "propagate",
    return_counts: bool = False,
    num_threads: int | None = None,
) -> Any:
    """Sum per-token values over each sequence of a padded or packed batch.

    Of token log-probs it gives sequence log-probs, of log-ratios the log-ratio of whole sequences.

    Parameters
    ----------
    values : array_like
        Per-token values: (B, T) padded (any leading axes), or (N,) packed end to end when `offsets` is given.
    mask : array_like, optional
        Same shape as `values`, 1 or True for a token that counts. Masked tokens may hold anything.
    offsets : array_like of int, optional
        (B + 1,): sequence b is ``values[offsets[b]:offsets[b + 1]]``, as in cu_seqlens of attention kernels.
    nan_policy : {"propagate", "omit"}
        What an unmasked NaN does: by default the sum of its sequence is NaN. "omit" leaves such tokens out (which is
        how `token_log_probs` marks ignored ones) and says how many they were: one more result, `omitted`.
    return_counts : bool
        Also return how many tokens each sum has.
    num_threads : int, optional
        Threads to use, all by default.

    Returns
    -------
    sums : ndarray
        float64, (B,) or the leading shape of `values`; 0 for a sequence with no tokens.
    counts : ndarray
        int64, same shape, with `return_counts`: tokens in the sum.
    omitted : ndarray
        int64, same shape, with ``nan_policy="omit"``: unmasked tokens left out of the sum because they are NaN.

    Raises
    ------
    ValueError
        Shapes that do not fit, offsets that fall or do not end at N, a mask with other values than 0 and 1.

    Notes
    -----
    A sum is the exact one rounded once, up to 2⁻¹⁰⁰ of the sum of absolute values: padded, packed or split
    into calls, on any number of threads, the same tokens give the same bits but in the rarest ties.

    Examples
    --------
    >>> sequence_sums([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], mask=[[1, 1, 0], [1, 1, 1]])
    array([ 3., 56.])
    >>> sequence_sums([1.0, 2.0, 8.0, 16.0, 32.0], offsets=[0, 2, 2, 5], return_counts=True)
    (array([ 3.,  0., 56.]), array([2, 0, 3]))
    >>> sequence_sums([[1.0, float("nan")]]), sequence_sums([[1.0, float("nan")]], nan_policy="omit")
    (array([nan]), (array([1.]), array([1])))
    """
    arrays.choice(nan_policy, "nan_policy", ("propagate", "omit"))
    arrays.flag(return_counts, "return_counts")
    arrays.same_labels(("values", values), ("mask", mask))
    array = as_floats("values", values)
    batch = Batch.of(array, mask, offsets, "values")
    if array.dtype.name not in _STORED or not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(np.float64)
    kept = batch.mask
    if kept is not None and kept.strides[-1] != 1:
        kept = np.ascontiguousarray(kept)
    sums, counts, unmasked = calls.sum_segments(array, kept, batch.offsets, num_threads)
    omitted = unmasked - counts
    if nan_policy == "propagate":
        sums[omitted > 0] = np.nan
        counts = unmasked
    found: list[NDArray[Any]] = [sums]
    if return_counts:
        found.append(counts)
    if nan_policy == "omit":
        found.append(omitted)
    found = [values.reshape(batch.leading) for values in found]
    return tuple(found) if len(found) > 1 else found[0]


@overload
def aggregate(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: str = "token-mean",
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
    mode: str = "token-mean",
    *,
    scale: float | None = None,
    denominator: float | None = None,
    nan_policy: NanPolicy,
) -> Any: ...


def aggregate(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: str = "token-mean",
    *,
    scale: float | None = None,
    denominator: float | None = None,
    nan_policy: NanPolicy = "propagate",
) -> Any:
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
                f"`denominator` is {arrays.shown(denominator)}, expected None: mode {mode!r} counts nothing"
            )
        value = total
    elif denominator is not None:
        divisor = arrays.real(denominator, "denominator")
        if not divisor > 0:
            raise ValueError(f"`denominator` is {divisor}, expected a positive number")
        value = total / divisor
    else:
        value = total / count if count else 0.0
    if omitted and not tokens:
        value = math.nan  # nothing is known: 0 would be taken for the aggregate of healthy tokens
    return (value, omitted) if nan_policy == "omit" else value


def aggregation_parts(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    mode: str = "token-mean",
    *,
    scale: float | None = None,
    nan_policy: NanPolicy = "propagate",
) -> Any:
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
        raise ValueError(f"`scale` is {arrays.shown(scale)}, expected None: mode {mode!r} has no such constant")
    tokens = int(counts.sum())
    if how.count == "nonempty":
        return total, int(np.count_nonzero(counts)), omitted, tokens
    return total, sums.size if how.count == "sequences" else tokens, omitted, tokens


def _named(mode: str) -> _Mode:
    arrays.choice(mode, "mode", AGGREGATION_MODES)
    return AGGREGATION_MODES[mode]


def _scale(scale: float | None, mode: str, width: int, packed: bool) -> float:
    """The divisor `scale`, or the padded length."""
    if scale is None:
        if packed or mode == "sequence-mean-token-sum-norm":
            what = "packed tokens" if packed else "its libraries"
            raise ValueError(f"`scale` is None, expected a number: {what} in mode {mode!r} have no default")
        scale = width
    divisor = arrays.real(scale, "scale")
    if not divisor > 0:
        raise ValueError(f"`scale` is {divisor}, expected a positive number")
    return divisor


def _fsum(terms: NDArray[np.float64]) -> float:
    """Correctly rounded sum, so that the order of the sequences does not matter; inf and NaN as in IEEE."""
    if np.isfinite(terms).all():
        return math.fsum(terms.ravel().tolist())
    with np.errstate(invalid="ignore"):
        return float(terms.sum())
