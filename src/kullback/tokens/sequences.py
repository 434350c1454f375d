"""Sums over the sequences of a batch, padded or packed."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import (
    Given,
    NanPolicy,
    TokenBatch,
    arrays,
    as_floats,
    calls,
    keywords,
    labelling,
    long_rows,
    segments,
    views,
)
from kullback.tokens.log_probs import IGNORE_INDEX

_STORED = tuple(kind.name for kind in views.FLOATS)  # what the kernel reads as it is


Sums = NDArray[np.float64]
Counts = NDArray[np.int64]


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: Literal["propagate"] = "propagate",
    return_counts: Literal[False] = False,
    num_threads: int | None = None,
) -> Sums: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: Literal["propagate"] = "propagate",
    return_counts: Literal[True],
    num_threads: int | None = None,
) -> tuple[Sums, Counts]: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: Literal["omit"],
    return_counts: Literal[False] = False,
    num_threads: int | None = None,
) -> tuple[Sums, Counts]: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: Literal["omit"],
    return_counts: Literal[True],
    num_threads: int | None = None,
) -> tuple[Sums, Counts, Counts]: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: NanPolicy,
    return_counts: Literal[True],
    num_threads: int | None = None,
) -> tuple[Sums, Counts] | tuple[Sums, Counts, Counts]: ...


@overload
def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: NanPolicy,
    return_counts: bool = False,
    num_threads: int | None = None,
) -> Sums | tuple[NDArray[Any], ...]: ...


def sequence_sums(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    nan_policy: NanPolicy = "propagate",
    return_counts: bool = False,
    num_threads: int | None = None,
) -> Sums | tuple[NDArray[Any], ...]:
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
    keywords.choice(nan_policy, "nan_policy", ("propagate", "omit"))
    keywords.flag(return_counts, "return_counts")
    labelling.same_labels(("values", values), ("mask", mask))
    array = as_floats("values", values)
    batch = TokenBatch.of(array, mask, offsets, "values")
    if array.dtype.name not in _STORED or not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(np.float64)
    kept = batch.mask
    if kept is not None and kept.strides[-1] != 1:
        kept = np.ascontiguousarray(kept)
    sums, counts, unmasked = segments.sum_segments(array, kept, batch.offsets, num_threads)
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
def sequence_log_ratios(
    p_logits: Any,
    q_logits: Any,
    tokens: Any,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    nan_policy: Literal["propagate"] = "propagate",
    num_threads: int | None = None,
) -> Sums: ...


@overload
def sequence_log_ratios(
    p_logits: Any,
    q_logits: Any,
    tokens: Any,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    nan_policy: Literal["omit"],
    num_threads: int | None = None,
) -> tuple[Sums, Counts]: ...


def sequence_log_ratios(
    p_logits: Any,
    q_logits: Any,
    tokens: Any,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    nan_policy: NanPolicy = "propagate",
    num_threads: int | None = None,
) -> Sums | tuple[Sums, Counts]:
    """Σ log p(token) - log q(token) over each sequence, straight from logits; no (T, V) temporaries.

    Parameters
    ----------
    p_logits, q_logits : array_like, shape (B, T, V), or (N, V) with `offsets`
    tokens : array_like of int, shape (B, T) or (N,)
    mask : array_like, shape (B, T), optional
        Tokens to count. Masked rows are not read, nor are those of ignored tokens: they may hold anything.
    offsets : array_like of int, shape (B + 1,), optional
        Where packed sequences begin and end (cu_seqlens).
    given, base, temperature, vocab_size, ignore_index, num_threads
        As in `token_log_ratios`.
    nan_policy : {"propagate", "omit"}
        What a NaN log-ratio (a row that has no distribution, a token impossible under both) does: by default the
        sum of its sequence is NaN; "omit" leaves it out and gives one more result, how many were left out.

    Returns
    -------
    sums : float64 array, shape (B,)
        Masked and ignored tokens add nothing. Where log-ratios of both signs are beyond float64 the sum is NaN.
    omitted : int64 array, shape (B,)
        With ``nan_policy="omit"``.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> p, q = np.log([[[0.5, 0.5]] * 2]), np.log([[[0.25, 0.75]] * 2])
    >>> print(kb.sequence_log_ratios(p, q, [[0, 0]], base=2))
    [2.]
    """
    space, k, unit = keywords.space(given), keywords.inverse_temperature(temperature, given), keywords.unit(base)
    pair = calls.batch(("p_logits", p_logits), ("q_logits", q_logits), vocab_size=vocab_size)
    ignore_index = keywords.integer(ignore_index, "ignore_index")
    ids = views.plain(tokens, "tokens")
    if ids.shape != pair.lead:
        raise ValueError(f"`tokens` has shape {ids.shape}, expected {pair.lead}")
    counted = TokenBatch.of(ids, mask, offsets, "tokens").mask
    kept = ids != ignore_index if counted is None else counted & (ids != ignore_index)
    # 0 is an id of every vocabulary: masked positions may hold anything
    ids = arrays.token_ids(np.where(kept, ids, ids.dtype.type(0)), "tokens", pair.lead, pair.vocab, ignore_index)
    rows = np.flatnonzero(kept)
    ratios = np.zeros(pair.lead)
    found = long_rows.compare(long_rows.selected(pair, rows), space, k, ("log_ratio",), num_threads, ids.ravel()[rows])
    ratios[kept] = found["log_ratio"]
    # in nats until here: a sum that cancels is the same in every unit
    if nan_policy == "omit":
        sums, omitted = sequence_sums(ratios, kept, offsets, nan_policy=nan_policy, num_threads=num_threads)
        return sums if base is None else sums / unit, omitted
    sums = sequence_sums(ratios, kept, offsets, nan_policy=nan_policy, num_threads=num_threads)
    return sums if base is None else sums / unit
