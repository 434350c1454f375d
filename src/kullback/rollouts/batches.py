"""ParsedRows of a log as packed sequences: what is whole goes on, what is not is counted with its reason."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.rollouts.fields import LISTS, plain_label
from kullback.rollouts.skipped import Skipped

__all__ = ["Lists", "ParsedRows", "Ragged", "RolloutBatch", "packed"]

ABSENT, UNREADABLE = -1, -2  # lengths of lists that are not there, or not of numbers
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


class Ragged(NamedTuple):
    """Lists of numbers of several rows, one after the other; a length below 0 says why there is no list."""

    values: NDArray[Any]
    lengths: Int64s

    def of_rows(self, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """The values of these rows."""
        if kept.all():
            return self.values
        return self.values[np.repeat(kept, np.maximum(self.lengths, 0))]

    def cut(self, lengths: Int64s, end: bool = False) -> Ragged:
        """The first values of each list that has more than these, or the last ones: an answer's after a prompt's."""
        mine = np.maximum(self.lengths, 0)
        longer = (mine > lengths) & (lengths >= 0)
        if not longer.any():
            return self
        keep = np.where(longer, lengths, mine)
        place = np.arange(mine.sum()) - np.repeat(np.cumsum(mine) - mine, mine)
        kept = place >= np.repeat(mine - keep, mine) if end else place < np.repeat(keep, mine)
        return Ragged(self.values[kept], np.where(longer, lengths, self.lengths))


class ParsedRows(NamedTuple):
    """What a reader gives: rows that could be parsed, their numbers in the file, and their fields by role."""

    numbers: Int64s
    lists: dict[str, Ragged]
    scalars: dict[str, list[Any]]


@dataclass
class RolloutBatch:
    """Sequences of one file, packed.

    Attributes
    ----------
    rollout, train : ndarray (N,)
        Log-probs of the sampled tokens; NaN where the log has null.
    offsets : ndarray of int64 (B + 1,)
        Where sequences begin and end.
    mask : ndarray of bool (N,), optional
    tokens : ndarray of int64 (N,), optional
        -1 throughout a sequence whose ids are not known.
    rollout_entropy, train_entropy : ndarray (N,), optional
        NaN where not known.
    labels : dict of str to list
        One value a sequence: step, env, worker, and what else results are wished by; None where a row has none.
    reward : ndarray (B,), optional
        NaN where not known.
    length_differences : ndarray of int64 (B,), optional
        How many log-probs train had more than rollout, before both were cut to the shorter; None: the same in all.
    file : int
        Number of the file.
    rows : ndarray of int64 (B,)
        Number of each sequence's row in the file, from 0.
    skipped : Skipped
        What was left out between these rows.
    """

    rollout: Float64s
    train: Float64s
    offsets: Int64s
    mask: NDArray[np.bool_] | None = None
    tokens: Int64s | None = None
    rollout_entropy: Float64s | None = None
    train_entropy: Float64s | None = None
    labels: dict[str, list[str | int | float | None]] = field(default_factory=dict)
    reward: Float64s | None = None
    length_differences: Int64s | None = None
    file: int = 0
    rows: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    skipped: Skipped = field(default_factory=Skipped)

    @property
    def sequences(self) -> int:
        return len(self.offsets) - 1


class Lists:
    """A `Ragged` that grows by a list of Python numbers a row.

    Parameters
    ----------
    kind : str
        "d" floats (null is NaN), "q" integers, "?" truth (null is false).
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._parts: list[Any] = []
        self._lengths: list[int] = []

    def add(self, values: Any) -> None:
        """Anything that JSON may hold: None where the row has no list."""
        while type(values) is list and len(values) == 1 and type(values[0]) is list:
            values = values[0]  # a batch of one
        part = _numbers(values, self._kind) if type(values) is list else self._buffer(values)
        if part is None:
            self._lengths.append(ABSENT if values is None else UNREADABLE)
            return
        self._parts.append(part)
        self._lengths.append(len(part))

    def _buffer(self, values: Any) -> Any:
        """The same of an array."""
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            return None
        flat = values.reshape(-1)
        if self._kind == "?":
            return (flat != 0).astype(np.uint8)
        if self._kind == "q" and flat.dtype.kind == "f":
            return _numbers(flat.tolist(), "q")
        return flat.astype(np.float64 if self._kind == "d" else np.int64)

    def ragged(self) -> Ragged:
        joined = np.frombuffer(b"".join(self._parts), {"d": np.float64, "q": np.int64, "?": np.uint8}[self._kind])
        return Ragged(joined != 0 if self._kind == "?" else joined, np.array(self._lengths, np.int64))


def _numbers(values: list[Any], kind: str) -> Any:
    """A buffer of them, or None if one is no number."""
    try:
        if kind != "?":
            return array(kind, values)
        try:
            return bytes(values)  # zeros and ones, or false and true
        except (TypeError, ValueError):
            return (np.array(array("d", [0.0 if x is None else x for x in values])) != 0).astype(np.uint8).tobytes()
    except OverflowError:
        return None
    except TypeError:
        if kind == "d" and None in values:
            with_nan = [float("nan") if x is None else x for x in values]
            return _numbers(with_nan, kind)
        if kind == "q":  # ids that went through floats
            try:
                floats = np.array(array("d", values))
            except (TypeError, OverflowError):
                return None
            whole = np.abs(floats) < 2**53
            whole &= floats == np.floor(floats)
            return array(kind, floats.astype(np.int64).tobytes()) if whole.all() else None
        return None


def packed(rows: ParsedRows, file: int, labels: Iterable[str], skipped: Skipped) -> RolloutBatch:
    """The sequences that have log-probs of both sides; all others are counted in `skipped`.

    Of two sides of different lengths the shorter counts, and the audit is told. Another list of another length is
    left out, and counted: a mask makes its row unusable, as nobody can tell which tokens it means.
    """
    lists, whole, differences = _checked(rows, file, skipped)
    if not whole.any():
        return RolloutBatch(np.empty(0), np.empty(0), np.zeros(1, np.int64), file=file)
    lengths = lists["rollout"].lengths
    batch = RolloutBatch(
        rollout=lists["rollout"].of_rows(whole),
        train=lists["train"].of_rows(whole),
        offsets=np.concatenate([[0], np.cumsum(lengths[whole])]),
        file=file,
        rows=rows.numbers[whole],
        length_differences=differences[whole] if differences[whole].any() else None,
    )
    kept = np.flatnonzero(whole).tolist()
    for role, missing in (("mask", True), ("tokens", -1), ("rollout_entropy", np.nan), ("train_entropy", np.nan)):
        if role in lists:
            setattr(batch, role, _filled(lists[role], lengths, whole, missing))
    for label in labels:
        values = rows.scalars.get(label)
        batch.labels[label] = [None] * len(kept) if values is None else [plain_label(values[i]) for i in kept]
    if "reward" in rows.scalars:
        batch.reward = np.array([_total(rows.scalars["reward"][i]) for i in kept], np.float64)
    return batch


def _checked(rows: ParsedRows, file: int, skipped: Skipped) -> tuple[dict[str, Ragged], NDArray[np.bool_], Int64s]:
    """The lists to use, which rows are whole, and how much longer train is than rollout."""
    count = len(rows.numbers)
    whole = np.ones(count, bool)

    def leave_out(which: NDArray[np.bool_], reason: str, row: bool = True) -> None:
        nonlocal whole
        which = which & whole
        if which.any():
            skipped.add(reason, file, int(rows.numbers[np.argmax(which)]), int(which.sum()))
        if row:
            whole = whole & ~which

    nothing = np.full(count, ABSENT)
    for side in ("rollout", "train"):
        lengths = rows.lists[side].lengths if side in rows.lists else nothing
        leave_out(lengths == ABSENT, f"no {side} log-probs")
        leave_out(lengths == UNREADABLE, f"{side} log-probs are no list of numbers")
    lists = dict(rows.lists)
    sides = [lists[side].lengths if side in lists else nothing for side in ("rollout", "train")]
    length = np.minimum(*sides)
    leave_out(length == 0, "empty sequence")
    for role in LISTS[2:]:
        if role not in lists:
            continue
        what = role.replace("_", " ")
        if role == "tokens":
            lists[role] = lists[role].cut(np.maximum(*sides), end=True)
        found = lists[role].lengths
        leave_out(found == UNREADABLE, f"{what}: no list of numbers", role == "mask")
        other = (found >= 0) & (found != sides[0]) & (found != sides[1])
        leave_out(other, f"{what}: of another length than the log-probs", role == "mask")
        lists[role] = lists[role].cut(np.where(other, UNREADABLE, length))
    for side in ("rollout", "train"):
        if side in lists:
            lists[side] = lists[side].cut(np.where(whole, length, UNREADABLE))
    if "mask" in lists:
        leave_out(lists["mask"].lengths == ABSENT, "no mask, so that all tokens count", row=False)
    if "keep" in rows.scalars:
        dropped = np.array([not _total(value) for value in rows.scalars["keep"]], bool)
        leave_out(dropped, "left out of the loss by the trainer")
    return lists, whole, sides[1] - sides[0]


def _filled(found: Ragged, lengths: Int64s, whole: NDArray[np.bool_], missing: Any) -> NDArray[Any]:
    """The values of whole rows, `missing` in those whose list is not there or does not fit."""
    fits = whole & (found.lengths == lengths)
    if fits.sum() == whole.sum():
        return found.of_rows(whole)
    out = np.full(int(lengths[whole].sum()), missing, found.values.dtype)
    out[np.repeat(fits[whole], lengths[whole])] = found.of_rows(fits)
    return out


def _total(value: Any) -> float:
    """A number, or the sum of a list of them (scores a token); NaN if it is neither."""
    try:
        return float(np.sum(np.asarray(value, np.float64)))
    except (TypeError, ValueError, OverflowError):
        return float("nan")
