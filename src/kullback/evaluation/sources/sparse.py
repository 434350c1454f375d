"""The form that sampled and top-k dumps are read into: a few known log-probabilities a row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# servers write -9999 (OpenAI), -99999 (tinker), null or -inf for "too unlikely to say": none of these is a
# log-probability
SENTINEL = -9999.0
# above 0 by more than the rounding of a printed number, a value is a logit
LARGEST_LOG_PROB = 1e-3


@dataclass(frozen=True)
class SparseRows:
    """Rows of which only some entries are known, as in CSR matrices.

    Attributes
    ----------
    path, format : str
        Where the rows come from.
    indptr : ndarray of int64 (T + 1,)
        Row t has the entries indptr[t] to indptr[t + 1].
    ids : ndarray of int64 (N,)
        Token ids, in the file's order within a row, none twice.
    log_probs : ndarray of float64 (N,)
        Their log-probabilities under the full vocabulary, in nats.
    tokens : ndarray of int64 (T,)
        Target token of each row, -1 where the file does not say.
    target_log_probs : ndarray of float64 (T,)
        Its log-probability, NaN where the file does not say.
    groups : ndarray of int64 (T,)
        Response or sequence that each row comes from.
    vocab_size : int or None
        Size of the vocabulary, where the file says.
    notes : dict
        What was left out, counted, and how the file was understood; part of `facts`.
    """

    path: str
    format: str
    indptr: NDArray[np.int64]
    ids: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    tokens: NDArray[np.int64]
    target_log_probs: NDArray[np.float64]
    groups: NDArray[np.int64]
    vocab_size: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def mass(self) -> NDArray[np.float64]:
        """Probability that the known entries of each row cover, (T,)."""
        rows = np.repeat(np.arange(len(self.tokens)), np.diff(self.indptr))
        return np.bincount(rows, np.exp(self.log_probs), len(self.tokens)).astype(np.float64)

    def facts(self) -> dict[str, Any]:
        """Facts about the file and what it covers, ready for JSON."""
        known, mass = np.diff(self.indptr), self.mass
        return {
            "path": self.path,
            "format": self.format,
            "rows": len(self.tokens),
            "groups": int(np.unique(self.groups).size),
            "vocab_size": self.vocab_size,
            "entries": {"min": int(known.min()), "max": int(known.max()), "mean": float(known.mean())},
            "mass": {"min": float(mass.min()), "max": float(mass.max()), "mean": float(mass.mean())},
            "targets_known": int(np.isfinite(self.target_log_probs).sum()),
        } | self.notes


class SparseBuilder:
    """Collects rows one by one; counts what is no log-probability instead of keeping it."""

    def __init__(self) -> None:
        self._indptr, self._ids, self._log_probs = array("q", [0]), array("q"), array("d")
        self._tokens, self._targets, self._groups = array("q"), array("d"), array("q")
        self.sentinels = 0
        self.repeated = 0
        self.without_log_probs = 0

    def add(
        self,
        group: int,
        token: int | None,
        target: float | None,
        entries: Iterable[tuple[int, float | None]],
    ) -> None:
        """One row: its target, its log-probability, and the listed entries (it may be one of them)."""
        known: dict[int, float] = {}
        for entry, value in entries:
            if self._valid(value):
                self.repeated += entry in known
                known.setdefault(entry, float(value))  # type: ignore[arg-type]
            else:
                self.sentinels += 1
        if token is not None and token not in known and target is not None and self._valid(target):
            known[token] = float(target)
        self._ids.extend(known)
        self._log_probs.extend(known.values())
        self._indptr.append(len(self._ids))
        self._tokens.append(-1 if token is None else token)
        self._targets.append(known.get(token, np.nan) if token is not None else np.nan)
        self._groups.append(group)

    def _valid(self, value: float | None) -> bool:
        if value is not None and value > LARGEST_LOG_PROB:
            raise ValueError(f"{value} is no log-probability; was the server asked for logits?")
        return value is not None and value > SENTINEL

    def build(self, path: str, format: str, vocab_size: int | None, **notes: Any) -> SparseRows:
        """The rows collected; ValueError if there are none."""
        if not self._tokens:
            raise ValueError(f"{path}: no position with log-probabilities")
        ids = np.array(self._ids, np.int64)
        if vocab_size is not None and ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"{path}: token ids from {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}")
        counts = {
            "sentinels": self.sentinels,
            "repeated": self.repeated,
            "positions_without_log_probs": self.without_log_probs,
        }
        return SparseRows(
            path,
            format,
            np.array(self._indptr, np.int64),
            ids,
            np.array(self._log_probs, np.float64),
            np.array(self._tokens, np.int64),
            np.array(self._targets, np.float64),
            np.array(self._groups, np.int64),
            vocab_size,
            counts | notes,
        )


IDS = ("ids", "indices", "top_k_ids", "top_k_indices", "topk_ids", "topk_indices", "target_topk_token_ids", "token_ids")
LOG_PROBS = ("log_probs", "logprobs", "top_k_log_probs", "topk_log_probs", "topk_logprobs", "top_k_log_softmax")
LOGITS = ("logits", "top_k_logits", "topk_logits", "target_topk_logits")
NORMALISERS = ("log_sum_exp", "logsumexp", "target_log_sum_exp_logits")
_ENTRIES = 1 << 22  # looked at together


# of the shapes of all arrays of a file, those that are to be loaded
Pick = Callable[[Mapping[str, tuple[int, ...]]], list[str]]


class TopK(NamedTuple):
    """The arrays of a top-k group by name; of logits what normalises them, if it is there."""

    ids: str
    values: str
    normaliser: str | None

    @property
    def logits(self) -> bool:
        return self.values in LOGITS


def topk_of(shapes: Mapping[str, tuple[int, ...]]) -> TopK | None:
    """The ids and values of one shape among arrays; log-probabilities before logits."""
    for values in (*LOG_PROBS, *LOGITS):
        if values in shapes and len(shapes[values]) in (2, 3):
            for ids in IDS:
                if shapes.get(ids) == shapes[values]:
                    normaliser = next((name for name in NORMALISERS if name in shapes), None)
                    return TopK(ids, values, normaliser if values in LOGITS else None)
    return None


def refuse_topk(shapes: Mapping[str, tuple[int, ...]], chosen: str, path: str) -> None:
    """ValueError if the array that is to be read as rows of a vocabulary has the values of some ids only."""
    found = topk_of(shapes)
    if found is not None and found.values == chosen:
        raise TopKError(
            f"{path}: {found.values!r} has the values of the ids in {found.ids!r}, not of a vocabulary; `open_sparse` "
            "reads those"
        )


class TopKError(ValueError):
    """What is to be read as rows of a vocabulary are some entries of each."""


def of_arrays(
    path: str,
    format: str,
    ids: NDArray[np.int64],
    log_probs: NDArray[np.float64],
    tokens: NDArray[np.int64],
    groups: NDArray[np.int64],
    vocab_size: int | None,
    notes: dict[str, Any],
) -> SparseRows:
    """Rows of ids and log-probabilities (T, K); what is no log-probability, or repeated, is left out and counted."""
    if not ids.size:
        raise ValueError(f"{path}: no position with log-probabilities")
    too_large = log_probs > LARGEST_LOG_PROB
    if too_large.any():
        raise ValueError(f"{path}: {log_probs[too_large][0]} is no log-probability; are they logits?")
    with np.errstate(invalid="ignore"):
        known = (log_probs > SENTINEL) & (ids >= 0)
    repeated = 0
    step = max(1, _ENTRIES // ids.shape[1])
    for first in range(0, len(ids), step):
        part = slice(first, first + step)
        order = np.argsort(ids[part], axis=1, kind="stable")
        again = np.take_along_axis(ids[part], order, 1)
        same = (again[:, 1:] == again[:, :-1]) & (again[:, 1:] >= 0)
        if same.any():
            row, place = np.nonzero(same)
            known[first + row, order[row, place + 1]] = False
            repeated += len(row)
    listed = ids[known]
    if vocab_size is not None and listed.size and listed.max() >= vocab_size:
        raise ValueError(f"{path}: token ids up to {listed.max()}, expected 0 to {vocab_size - 1}")
    hit = known & (ids == tokens[:, None])
    target = np.where(hit.any(axis=1), np.where(hit, log_probs, 0.0).sum(axis=1), np.nan)
    counts = {"sentinels": int(known.size - known.sum()) - repeated, "repeated": repeated}
    indptr = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
    return SparseRows(
        path, format, indptr, listed, log_probs[known], tokens, target, groups, vocab_size, counts | notes
    )


def joined(path: str, parts: Sequence[SparseRows], vocab_size: int | None) -> SparseRows:
    """The rows of several files one after the other; the groups of each are made distinct, counts added up."""
    indptr, groups, entries, next_group = [np.zeros(1, np.int64)], [], 0, 0
    for part in parts:
        indptr.append(part.indptr[1:] + entries)
        entries += int(part.indptr[-1])
        groups.append(part.groups - part.groups.min() + next_group)
        next_group = int(groups[-1].max()) + 1
    notes: dict[str, Any] = {}
    for part in parts:
        for name, value in part.notes.items():
            if isinstance(value, int):
                notes[name] = notes.get(name, 0) + value
            elif notes.setdefault(name, value) != value:
                raise ValueError(f"{part.path}: its {name} is {value}, expected {notes[name]} as in the others")

    def column(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    return SparseRows(
        path, parts[0].format, np.concatenate(indptr), column("ids"), column("log_probs"), column("tokens"),
        column("target_log_probs"), np.concatenate(groups), vocab_size, notes | {"parts": len(parts)},
    )  # fmt: skip
