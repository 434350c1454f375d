"""A batch of sequences into a report: the audit, the sums behind every figure, what weights and masks would do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf import AuditReport, WhatIf, audit, what_if
from kullback.rollouts.batches import RolloutBatch
from kullback.rollouts.fields import SOURCES
from kullback.rollouts.report import RolloutReport, sequence_id
from kullback.rollouts.series import sums_of

__all__ = ["add_batch"]

CONTEXT = 12  # ids before a worst token that are kept


def add_batch(report: RolloutReport, batch: RolloutBatch) -> AuditReport:
    """The audit of a batch; its other figures are added to the report."""
    ids = sequence_id(batch.file, batch.rows)
    sources = {name: batch.labels[name] for name in SOURCES if name in batch.labels}
    found = audit(
        batch.rollout, batch.train, batch.mask, offsets=batch.offsets, tokens=batch.tokens,
        sources=sources, rollout_entropy=batch.rollout_entropy,
        train_entropy=batch.train_entropy, rewards=batch.reward, sequence_ids=ids,
        length_differences=batch.length_differences,
    )  # fmt: skip
    sound = found.sound
    assert sound is not None
    found.sound = None  # which would be kept until the audit is merged
    log_ratio = batch.train[sound] - batch.rollout[sound]
    starts = batch.offsets[:-1]
    counted = np.ones(batch.rollout.size, bool) if batch.mask is None else batch.mask
    lengths = np.add.reduceat(counted, starts, dtype=np.int64).astype(np.float64)
    report.add(batch.labels, sums_of(batch, sound, log_ratio, starts), lengths, batch.reward)
    begins, classes = _positions(batch, counted)
    report.by_position.add(classes, sums_of(batch, sound, log_ratio, begins))
    report.what_if = _tried(batch, sound, report.what_if)
    if batch.tokens is not None:
        _keep_contexts(batch, ids, found, report)
    return found


def _positions(batch: RolloutBatch, counted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[int | None]]:
    """Where classes of position begin, and what each begins with: 0, 1, 3, 7, ... counted tokens into the answer.

    Classes double: a class of a sequence is one draw of what there is at such places.
    """
    starts = batch.offsets[:-1]
    before: NDArray[np.int64] = np.cumsum(counted) - counted
    places: NDArray[np.int64] = before - np.repeat(before[starts], np.diff(batch.offsets))
    kind = np.frexp(places + 1.0)[1] - 1
    new = np.diff(kind, prepend=-1) != 0
    new[starts] = True
    begins = np.flatnonzero(new)
    some = np.add.reduceat(counted, begins, dtype=np.int64) > 0
    return begins, [
        (1 << k) - 1 if any_ else None for k, any_ in zip(kind[begins].tolist(), some.tolist(), strict=True)
    ]


# what a report tries, of all that `what_if` does by default: each costs time in proportion to the tokens
_SETTINGS = (
    ("none",), ("tis", 2.0), ("icepop", (0.5, 2.0)), ("tis", "sequence", 2.0), ("seq_mean_k1", 1.001),
    ("seq_max_k3", 0.1), ("dppo_tv", 0.2),
)  # fmt: skip


def _tried(batch: RolloutBatch, sound: NDArray[np.bool_], before: WhatIf | None) -> WhatIf:
    """What weights and masks would do, with that of the batches before."""
    table = what_if(batch.rollout, batch.train, sound, batch.offsets, settings=_SETTINGS, nan_policy="omit")
    return table if before is None else before.merge(table)


def _keep_contexts(batch: RolloutBatch, ids: NDArray[np.int64], found: AuditReport, report: RolloutReport) -> None:
    """The ids up to each of the worst tokens."""
    worst = found.worst_tokens
    assert batch.tokens is not None
    for sequence, position in zip(worst["sequence"].tolist(), worst["position"].tolist(), strict=True):
        row = int(np.searchsorted(ids, sequence))  # rows of a file rise
        begin, end = int(batch.offsets[row]), int(batch.offsets[row]) + position + 1
        report.contexts[sequence, position] = batch.tokens[max(begin, end - CONTEXT) : end].tolist()
