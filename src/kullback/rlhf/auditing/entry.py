"""Arrays or packed sequences in, block by block into what adds up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import TokenBatch, as_floats, labelling, reals, views
from kullback.comparison import counted
from kullback.rlhf.auditing.marks import SIDES, SOUND, Block, mark
from kullback.rlhf.auditing.report import AuditReport
from kullback.rlhf.auditing.sequences import sequence_columns
from kullback.rlhf.auditing.sources import packed
from kullback.rlhf.auditing.state import (
    State,
    concatenated,
    cut_worst,
    histogram,
    look_at_storage,
    marks_of,
    worst_of,
)
from kullback.rlhf.mismatch import MismatchReport
from kullback.rlhf.mismatch_blocks import add_block

__all__ = ["audit"]


def audit(
    rollout: ArrayLike | Sequence[ArrayLike],
    train: ArrayLike | Sequence[ArrayLike],
    mask: ArrayLike | None = None,
    *,
    offsets: ArrayLike | None = None,
    tokens: ArrayLike | None = None,
    sources: Sequence[Any] | Mapping[str, Sequence[Any]] | None = None,
    rollout_entropy: ArrayLike | None = None,
    train_entropy: ArrayLike | None = None,
    rewards: ArrayLike | None = None,
    sequence_ids: ArrayLike | None = None,
    length_differences: ArrayLike | None = None,
    ratio_bounds: tuple[float, float] = (0.5, 2.0),
) -> AuditReport:
    """Look for what is wrong with the log-probs that generation and training gave to the same sampled tokens.

    Most of what looks like divergence of the two policies in RL runs is a fault of the log: one side shifted by a
    token, zeros or placeholders where a log-prob is missing, another temperature. The audit looks for the faults of
    `AUDIT_CHECKS`, says where they are and what they do to the KL, and reports the mismatch of what is sound.

    Parameters
    ----------
    rollout, train : array_like
        log π(token) of the policy that drew the tokens and of the one that is trained: (B, T), or (N,) with
        `offsets`, or a list of one array a sequence, in which lengths may differ: both sides are then cut to the
        shorter one. What is one value a token may be such a list too, each array of the length of either side.
    mask : array_like or list of array_like, optional
        True where a token was sampled, same shape. What it hides is not read.
    offsets : array_like, optional
        (B + 1,), as in `sequence_sums`.
    tokens : array_like or list of array_like, optional
        Ids of the tokens, same shape: duplicates are told by them, and worst tokens have them.
    sources : sequence or dict of sequences, optional
        One label a sequence: the worker, the environment or the step it comes from; or several by what they tell,
        {"worker": [...], "env": [...]}, None where a sequence has none.
    rollout_entropy, train_entropy : array_like or list of array_like, optional
        Entropy of each position, same shape, nats; NaN where not known.
    rewards : array_like, optional
        One a sequence, for the table of sequences.
    sequence_ids : array_like, optional
        One whole number a sequence, by which findings name it; 0, 1, ... by default. Parts that are to be merged need
        different ones.
    length_differences : array_like, optional
        How many log-probs train had more than rollout, of each sequence, before both were cut to the shorter.
    ratio_bounds : tuple of float
        As in `mismatch_report`.

    Returns
    -------
    AuditReport

    Raises
    ------
    ValueError
        Shapes that do not match, ids that occur twice.

    Notes
    -----
    Each check has a stated rate of false alarms a clean run, `AUDIT_CHECKS[name].false_alarm_rate`: 1e-6 for what no
    sampled log-prob can be, 1e-3 at most for tests of many tokens, whatever the number of sequences. The table of
    detection rates on the page "Audits" is of simulated runs.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rollout = -rng.exponential(0.5, (40, 60))
    >>> train = np.minimum(rollout + rng.normal(0, 0.01, rollout.shape), 0)
    >>> train[7] = np.roll(train[7], 1)  # an extra log-prob in front
    >>> report = audit(rollout, train)
    >>> [(f.check, f.sequences, f.where[0][0]) for f in report.findings]
    [('shift', 1, 7)]
    >>> round(report.kl, 4), round(report.mismatch.kl_k3.mean, 6)
    (0.003, 4.9e-05)
    """
    lengths = None if offsets is not None else _ragged_lengths(rollout, train, mask)
    if lengths is not None:
        rollout, train = _joined("rollout", rollout, lengths), _joined("train", train, lengths)
        mask, tokens = _joined("mask", mask, lengths), _joined("tokens", tokens, lengths)
        rollout_entropy = _joined("rollout_entropy", rollout_entropy, lengths)
        train_entropy = _joined("train_entropy", train_entropy, lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths.min(axis=0))])
        length_differences = lengths[1] - lengths[0]
    labelling.same_labels(("train", train), ("rollout", rollout), ("mask", mask))
    sides = as_floats("rollout", rollout), as_floats("train", train)
    if sides[0].shape != sides[1].shape:
        raise ValueError(f"`rollout` has shape {sides[0].shape}, expected {sides[1].shape} to match `train`")
    batch = TokenBatch.of(sides[1], mask, offsets, "train")
    count = int(np.prod(batch.leading))
    extras = {
        "tokens": None if tokens is None else _like(views.whole_numbers(tokens, "tokens"), "tokens", batch),
        "rollout_entropy": None if rollout_entropy is None else _entropies(rollout_entropy, "rollout_entropy", batch),
        "train_entropy": None if train_entropy is None else _entropies(train_entropy, "train_entropy", batch),
    }
    labels = {
        "sequence": _ids(sequence_ids, count),
        "source": packed(sources, count),
        "reward": np.full(count, np.nan) if rewards is None else _each(reals(rewards, "rewards"), "rewards", count),
    }
    differences = None
    if length_differences is not None:
        whole = views.whole_numbers(length_differences, "length_differences")
        differences = _each(whole, "length_differences", count)
    given = {name: values for name, values in extras.items() if values is not None}
    with np.errstate(over="ignore", invalid="ignore"):  # entropies may be anything
        return _audited(sides, batch, given, labels, differences, MismatchReport(ratio_bounds, "omit"))


def _audited(
    sides: tuple[NDArray[Any], NDArray[Any]],
    batch: TokenBatch,
    given: dict[str, NDArray[Any]],
    labels: dict[str, NDArray[Any]],
    differences: NDArray[np.int64] | None,
    mismatch: MismatchReport,
) -> AuditReport:
    state = State.empty()
    count = labels["sequence"].size
    state.table = labels | {name: np.zeros(count, values.dtype) for name, values in state.table.items()}
    marks, worst = [state.marks], [state.worst]
    arrays = [*sides, *given.values()] if batch.mask is None else [*sides, *given.values(), batch.mask]
    told: list[NDArray[np.bool_]] = []
    for which, parts, ends in batch.blocks(*arrays):
        told.append(np.zeros(parts[0].size, np.bool_))
        block, kept = _block(parts[0], parts[1], None if batch.mask is None else parts[-1], ends)
        if not block.rows.size:
            continue
        own = {name: part if kept is None else part[kept] for name, part in zip(given, parts[2:], strict=False)}
        numbers = block.rows + which.start
        marked = mark(block, None if differences is None else differences[numbers])
        entropies = own.get("rollout_entropy"), own.get("train_entropy")
        for name, values in sequence_columns(block, marked, own.get("tokens"), entropies).items():
            state.table[name][numbers] = values
        ids = labels["sequence"][numbers]
        marks.append(marks_of(block, marked, ids))
        worst.append(worst_of(block, marked, ids, own.get("tokens")))
        sound = marked.codes == SOUND
        told[-1][... if kept is None else kept] = sound
        state.cells += histogram((block.train - block.rollout)[sound])
        for side, values in zip(SIDES, block[:2], strict=True):
            look_at_storage(state, side, values[sound])
        add_block(mismatch, block.train, block.rollout, sound, np.append(block.starts, block.rollout.size))
    state.marks, state.worst = concatenated(marks), cut_worst(concatenated(worst))
    state.table = concatenated([state.table])
    return AuditReport(state, mismatch, np.concatenate([np.zeros(0, np.bool_), *told]).reshape(sides[0].shape))


def _block(
    rollout: NDArray[Any], train: NDArray[Any], mask: NDArray[np.bool_] | None, ends: NDArray[np.int64]
) -> tuple[Block, NDArray[np.bool_] | None]:
    """The unmasked tokens of a block, and which these are; None: all."""
    lengths = np.diff(ends)
    positions = np.arange(rollout.size) - np.repeat(ends[:-1], lengths)
    if mask is not None:
        lengths = np.diff(np.concatenate([[0], np.cumsum(mask)])[ends])
        rollout, train, positions = rollout[mask], train[mask], positions[mask]
    rows = np.flatnonzero(lengths)
    starts = (np.cumsum(lengths) - lengths)[rows]
    sides = rollout.astype(np.float64), train.astype(np.float64)
    return Block(*sides, positions, starts, lengths[rows], rows), mask


def _ragged_lengths(rollout: Any, train: Any, mask: Any) -> NDArray[np.int64] | None:
    """Of lists of arrays, one a sequence, the lengths of both sides; None of anything else.

    With a mask, lists of one length are a matrix.
    """
    lists = isinstance(rollout, (list, tuple)) and isinstance(train, (list, tuple))
    if not (lists and len(rollout) == len(train) > 0 and all(np.ndim(x) == 1 for x in (*rollout, *train))):
        return None
    lengths = np.array([[len(x) for x in side] for side in (rollout, train)])
    return lengths if mask is None or np.ptp(lengths) else None


# what looks at the arrays of a list, where these are no log-probs or entropies
_READERS: dict[str, Callable[[Any, str], NDArray[Any]]] = {"mask": views.plain, "tokens": views.whole_numbers}


def _floats(x: Any, name: str) -> NDArray[Any]:
    return as_floats(name, x)


def _joined(name: str, x: Any, lengths: NDArray[np.int64]) -> Any:
    """Arrays of sequences end to end, each cut to the shorter side; what is no list of them as it is."""
    if not (isinstance(x, (list, tuple)) or np.ndim(x) == 2):
        return x
    count = lengths.shape[1]
    if len(x) != count:
        raise ValueError(f"`{name}` has {counted(len(x), 'array')}, expected {count}: one a sequence")
    parts = [_READERS.get(name, _floats)(part, name) for part in x]
    for number, (part, both) in enumerate(zip(parts, lengths.T, strict=True)):
        if part.ndim != 1 or part.size not in both:
            expected = " or ".join(f"({n},)" for n in dict.fromkeys(both.tolist()))
            raise ValueError(f"`{name}` has an array of shape {part.shape} at {number}, expected {expected}")
    kept = [part[:n] for part, n in zip(parts, lengths.min(axis=0), strict=True)]
    return np.concatenate(kept)


def _like(array: NDArray[Any], name: str, batch: TokenBatch) -> NDArray[Any]:
    if array.shape != batch.shape:
        raise ValueError(f"`{name}` has shape {array.shape}, expected {batch.shape} to match `train`")
    return array


def _entropies(x: ArrayLike, name: str, batch: TokenBatch) -> NDArray[Any]:
    return _like(as_floats(name, x), name, batch)


def _each(array: NDArray[Any], name: str, count: int) -> NDArray[Any]:
    if array.shape != (count,):
        raise ValueError(f"`{name}` has shape {array.shape}, expected ({count},): one a sequence")
    return array


def _ids(x: ArrayLike | None, count: int) -> NDArray[np.int64]:
    if x is None:
        return np.arange(count)
    ids = _each(views.whole_numbers(x, "sequence_ids"), "sequence_ids", count)
    if np.unique(ids).size != count:
        raise ValueError("`sequence_ids` has an id twice, expected a different one for each sequence")
    return ids
