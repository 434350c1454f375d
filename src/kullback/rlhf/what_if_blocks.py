"""What other weights, masks and thresholds would have done to the same tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import NanPolicy, TokenBatch, as_floats, keywords, labelling
from kullback.rlhf.ratios import Scored, ratios_of, scored
from kullback.rlhf.rejection import per_token
from kullback.rlhf.rejection_kinds import keeps, statistics_of
from kullback.rlhf.settings import DEFAULT_SETTINGS, Setting, setting_of
from kullback.rlhf.weights import WEIGHT_KINDS
from kullback.rlhf.what_if_table import WhatIf

__all__ = ["what_if"]

Float64s = NDArray[np.float64]


def what_if(
    rollout: ArrayLike,
    train: ArrayLike,
    mask: ArrayLike | None = None,
    offsets: ArrayLike | None = None,
    *,
    settings: Iterable[Any] | None = None,
    values: ArrayLike | None = None,
    nan_policy: NanPolicy = "propagate",
) -> WhatIf:
    """Compare importance weights and rejection masks on the same tokens: what each keeps, gains and distorts.

    Parameters
    ----------
    rollout, train, mask, offsets
        As in `importance_weights`, in sequences: (B, T), or (N,) with `offsets`.
    settings : iterable, optional
        What to try: ``(kind, bounds)`` or ``(kind, level, bounds)`` with a kind, level and bounds of
        `importance_weights`, or ``(kind, threshold)`` of `rejection_mask`. Without, the thresholds that the libraries
        have as defaults and some on both sides of them.
    values : array_like, optional
        What is averaged, one a token or one a sequence, such as advantages or rewards; 1 without.
    nan_policy : {"propagate", "omit"}
        As in `mismatch_report`, for tokens without a ratio.

    Returns
    -------
    WhatIf
        A row a setting. Tables of chunks or workers combine with `merge`.

    Raises
    ------
    ValueError
        Shapes that do not match, a setting that is none.

    Notes
    -----
    The coefficient c of a token is its weight, or its ratio where a mask keeps it and 0 where not; w is the ratio
    itself, untruncated, of the level of the setting (of tokens for masks). The bias of a setting is the mean of
    (c - w)·value over unmasked tokens: what truncation or rejection takes from the importance-weighted mean. It is
    what is paid for the larger effective sample size.

    Examples
    --------
    >>> rollout, train = [[-1.0, -2.0], [-0.5, -3.0]], [[-0.9, -2.3], [-0.5, -1.0]]
    >>> table = what_if(rollout, train, settings=[("none", "token"), ("tis", 2.0), ("seq_mean_k3", 0.1)])
    >>> print(table)
    setting                       kept   sequences      ess  mean weight                  bias       least    greatest
    none token               100.000 %   100.000 %    0.457        2.559                 0 ± 0       0.741        7.39
    tis token 2              100.000 %   100.000 %    0.867        1.211           -1.35 ± 1.3       0.741        7.39
    seq_mean_k3 0.1           50.000 %    50.000 %    0.481       0.4615            -2.1 ± 2.1       0.023        2.19
    """
    tried = DEFAULT_SETTINGS if settings is None else settings
    table = WhatIf(tuple(map(setting_of, keywords.several(tried, "settings", "a list of settings"))), nan_policy)
    labelling.same_labels(("rollout", rollout), ("train", train), ("mask", mask), ("values", values))
    behind, ahead = as_floats("rollout", rollout), as_floats("train", train)
    if behind.shape != ahead.shape:
        raise ValueError(f"`train` has shape {ahead.shape}, expected {behind.shape} to match `rollout`")
    batch = TokenBatch.of(behind, mask, offsets, "rollout")
    arrays = [behind, ahead]
    if batch.mask is not None:
        arrays.append(batch.mask)
    if values is not None:
        arrays.append(per_token("values", values, batch))
    for _, tokens, ends in batch.blocks(*arrays):
        kept = tokens[2] if batch.mask is not None else None
        _add(table, tokens[0], tokens[1], kept, tokens[-1] if values is not None else None, ends)
        if len(table._lengths) == 64:
            table._settle()
    table._settle()
    return table


def _add(
    table: WhatIf,
    rollout: NDArray[Any],
    train: NDArray[Any],
    kept: NDArray[np.bool_] | None,
    values: NDArray[Any] | None,
    ends: NDArray[np.int64],
) -> None:
    """Add whole sequences, which lie end to end between `ends`."""
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(train.astype(np.float64) - rollout.astype(np.float64))
    unmasked = known.size
    if kept is not None:
        known &= kept
        unmasked = int(np.count_nonzero(kept))
    # only scored tokens go on, so that sums depend on them and not on the padding between them
    seen = np.concatenate([[0], np.cumsum(known)])[ends]
    lengths = np.diff(seen)
    lengths = lengths[lengths > 0]
    count = int(lengths.sum())
    table.tokens += count
    table.sequences += lengths.size
    table.unscored += unmasked - count
    if not count:
        return
    tokens = scored(rollout[known], train[known], None, np.concatenate([[0], np.cumsum(lengths)]))
    numbers = None if values is None else values[known].astype(np.float64)
    found: dict[str, Float64s] = {}
    table._lengths.append(lengths)
    for place, setting in enumerate(table.settings):
        ratios, coefficients, extremes = _coefficients(tokens, setting, found)
        table._add(place, lengths, ratios, coefficients, numbers, extremes)


def _coefficients(tokens: Scored, setting: Setting, found: dict[str, Float64s]) -> tuple[Float64s, Float64s, Float64s]:
    """Untruncated ratios and coefficients of all tokens, and what the setting looks at, which `found` keeps."""
    level = setting.level if setting.weighs else "token"
    if level not in found:
        found[level] = ratios_of(tokens, level)[0]
    ratios = found[level]
    if setting.weighs:
        weights = WEIGHT_KINDS[setting.kind].apply(ratios, setting.low, setting.high, tokens.convention)
        if level == "token":
            return ratios, weights, ratios
        return tokens.expand(ratios), tokens.expand(weights), ratios
    if setting.kind not in found:
        found[setting.kind] = statistics_of(tokens, setting.kind)
    values = found[setting.kind]
    keep = keeps(tokens, setting.kind, values, (setting.low, setting.high), None)
    return ratios, np.where(keep, ratios, 0.0), values
