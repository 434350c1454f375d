"""Lists of known tokens, a row each: read, checked, put in order, and set against a student."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import calls, keywords, ragged, views
from kullback.distillation.softcap import decoded

Floats = NDArray[np.float64]


class Listed(NamedTuple):
    """Known tokens of T rows, padded: ids rise, padding has id -1 and log-probability -inf and comes last."""

    ids: NDArray[np.int64]  # (T, K)
    log_probs: Floats  # (T, K)
    lead: tuple[int, ...]

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.asarray((self.ids >= 0).sum(-1), np.int64)


def listed(rows: Any, name: str, vocab: int | None = None) -> Listed:
    """Sparse rows in either form: (ids, log_probs) of shape (..., K), or an object with indptr, ids and log_probs."""
    if hasattr(rows, "indptr"):
        flat, given = views.whole_numbers(rows.ids, f"{name}.ids"), _real_numbers(rows.log_probs, f"{name}.log_probs")
        if flat.ndim != 1 or given.shape != flat.shape:
            raise ValueError(f"`{name}` has ids of shape {flat.shape}, log_probs of {given.shape}, expected one axis")
        counts = np.diff(ragged.offsets_within(rows.indptr, f"{name}.indptr", flat.size, f"{name}.ids"))
        lead: tuple[int, ...] = (counts.size,)
        ids = np.full((counts.size, max(int(counts.max(initial=0)), 1)), -1, np.int64)
        logs = np.full(ids.shape, -np.inf)
        filled = np.arange(ids.shape[1]) < counts[:, None]
        ids[filled], logs[filled] = flat, given
    else:
        if not isinstance(rows, (tuple, list)) or len(rows) != 2:
            raise TypeError(f"`{name}` is {type(rows).__name__}, expected (ids, log_probs) or sparse rows")
        ids, logs = views.whole_numbers(rows[0], f"{name}[0]"), _real_numbers(rows[1], f"{name}[1]")
        if ids.shape != logs.shape or ids.ndim == 0:
            raise ValueError(f"`{name}` has ids of shape {ids.shape} and log_probs of {logs.shape}, expected (..., K)")
        lead = ids.shape[:-1]
        width = ids.shape[-1]
        ids, logs = ids.reshape(math.prod(lead), width), logs.reshape(math.prod(lead), width)
        logs = np.where(ids < 0, -np.inf, logs)
        ids = np.where(ids < 0, -1, ids)
    if vocab is not None and ids.size and ids.max() >= vocab:
        raise ValueError(f"`{name}` holds the id {ids.max()}, expected from 0 to {vocab - 1}")
    if (logs > 1e-3).any():
        raise ValueError(f"`{name}` holds the log-probability {logs.max()}, expected at most 0")
    order = np.argsort(np.where(ids < 0, np.iinfo(np.int64).max, ids), -1, kind="stable")
    ids, logs = np.take_along_axis(ids, order, -1), np.take_along_axis(logs, order, -1)
    if (ids[:, 1:] == ids[:, :-1])[ids[:, 1:] >= 0].any():
        raise ValueError(f"`{name}` lists an id twice in one row")
    return Listed(ids, logs, lead)


def _real_numbers(x: Any, name: str) -> Floats:
    array = views.plain(x, name)
    if not views.is_real(array.dtype) and array.size:
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected real numbers")
    return array.astype(np.float64)


class Common(NamedTuple):
    """Both sides over the compared tokens, (T, K), and what either has beside them, (T,)."""

    p: Floats
    log_p: Floats
    q: Floats
    log_q: Floats
    rest_p: Floats
    rest_q: Floats
    log_rest_q: Floats


def teacher_rest(known: Listed, vocab: int | None) -> tuple[Floats, Floats]:
    """(log-probabilities, mass beside them): nothing is left beside a list of the whole vocabulary."""
    logs = known.log_probs
    total = np.logaddexp.reduce(logs, -1)
    rest = -np.expm1(np.minimum(total, 0.0))
    if vocab is not None:
        whole = known.counts == vocab
        logs = logs - np.where(whole, total, 0.0)[:, None]
        rest = np.where(whole, 0.0, rest)
    return logs, rest


def against_dense(
    known: Listed, single: calls.Batch, k: float, num_threads: int | None
) -> tuple[Common, dict[str, NDArray[Any]]]:
    """Both sides over the teacher's list."""
    described = calls.describe(
        single, keywords.LOGS, k, ("lse", "entropy", "top1"), num_threads, np.ascontiguousarray(known.ids)
    )
    padding = known.ids < 0
    log_q = np.where(padding, -np.inf, described["log_probs"])
    offsets = np.concatenate([[0], np.cumsum(known.counts)])
    rest_q = calls.rest_mass(single, k, described, offsets, known.ids[~padding], num_threads)
    # the normaliser may be of float32 lanes; both sums here are float64, and make 1 together
    total = np.exp(log_q).sum(-1) + rest_q
    total = np.where(total > 0.0, total, 1.0)
    log_q -= np.log(total)[:, None]
    rest_q /= total
    log_p, rest_p = teacher_rest(known, single.vocab)
    with np.errstate(divide="ignore"):
        log_rest_q = np.log(rest_q)
    for t in np.flatnonzero((rest_q < _TINY) & (known.counts < single.vocab)):
        log_rest_q[t] = _log_rest(single, k, known.ids[t], int(t))
    return Common(np.exp(log_p), log_p, np.exp(log_q), log_q, rest_p, rest_q, log_rest_q), described


def _in_float64(single: calls.Batch, rows: NDArray[np.int64]) -> Floats:
    view = single.views[0]
    block = view.owner[np.unravel_index(rows, single.lead)] if single.lead else view.owner[None]
    if view.storage == views.AFFINE16:
        values = block["scale"][:, None] * block["code"].astype(np.float32) + block["min"][:, None]
        return np.asarray(values[:, : single.vocab], np.float64)
    return decoded(block[:, : single.vocab], view.storage).astype(np.float64)


_TINY = 1e-30  # a mass near the least weight of the kernels' float32 lanes, 2^-125 of the greatest, or below it


def _log_rest(single: calls.Batch, k: float, ids: NDArray[np.int64], t: int) -> float:
    """ln of the mass of row t outside its list, however little: its divergence may be in the thousands."""
    row = _in_float64(single, np.array([t]))[0]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        below = k * (row - row.max())
        outside = np.ones(row.size, np.bool_)
        outside[ids[ids >= 0]] = False
        rest = below[outside]
        top = rest.max(initial=-np.inf)
        if not np.isfinite(top):
            return float(top)
        return float(top + np.log(np.exp(rest - top).sum()) - np.log(np.exp(below).sum()))


def common_lists(teacher: Listed, student: Listed) -> Common:
    """Both sides over the tokens that both list."""
    if teacher.lead != student.lead:
        raise ValueError(f"`student` has rows of shape {student.lead}, expected {teacher.lead} as `teacher`")
    log_p = np.full(teacher.ids.shape, -np.inf)
    log_q = log_p.copy()
    for t in range(len(teacher.ids)):
        _, here, there = np.intersect1d(teacher.ids[t], student.ids[t], assume_unique=False, return_indices=True)
        kept = teacher.ids[t][here] >= 0
        log_p[t, here[kept]] = teacher.log_probs[t, here[kept]]
        log_q[t, here[kept]] = student.log_probs[t, there[kept]]
    rest_p, rest_q = (-np.expm1(np.minimum(np.logaddexp.reduce(logs, -1), 0.0)) for logs in (log_p, log_q))
    with np.errstate(divide="ignore"):
        return Common(np.exp(log_p), log_p, np.exp(log_q), log_q, rest_p, rest_q, np.log(rest_q))
