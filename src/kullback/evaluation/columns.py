"""One chunk of a pair of files -> columns of one value a row: everything a job knows about its tokens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, arrays, calls, engine, keywords, long_rows as parts, views
from kullback.evaluation.clipped import compare_clipped
from kullback.evaluation.llama_cpp import LlamaCppTokens, concatenate, token_values
from kullback.evaluation.reference.comparison import compare_records
from kullback.evaluation.reference.lists import compare_lists
from kullback.evaluation.reference.rest import shortened
from kullback.evaluation.sources.llama_cpp import decode
from kullback.evaluation.sources.reference_files import Cells
from kullback.rows import jensen_shannon_divergence

__all__ = ["IGNORE_INDEX", "LLAMA_CPP_PREFIX", "Plan", "compare_rows"]

IGNORE_INDEX = -100
LLAMA_CPP_PREFIX = "llama_cpp_"
# rows on which the rounding of the storage is measured
_NULL_ROWS = 32
# mantissa bits, and the step of the subnormals
_STORAGE = {kind.name: (kind.mantissa, kind.least) for kind in views.FLOATS}

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """What is computed for each row of a pair; the same for all chunks of a job."""

    given: Given
    vocab: int
    rows: int  # of the files
    jensen_shannon: bool = False
    top_k: tuple[int, ...] = ()
    llama_cpp: bool = False
    ignore_index: int = IGNORE_INDEX


def compare_rows(
    plan: Plan,
    p: NDArray[Any],
    q: NDArray[Any],
    windows: tuple[float, float],
    start: int,
    tokens: NDArray[np.int64] | None,
    num_threads: int | None,
    cells: Cells | None = None,
) -> Columns:
    """The columns of rows start, start + 1, ... of a pair of files, `p` and `q` being these rows.

    `cells`: how the records that `p` then holds divide the vocabulary. `windows`: nats under a row's maximum that the
    codes of dumps reach. Rows whose token is ignored are not read: NaN,
    -1 or False in every column but "ignored".
    """
    threads = engine.thread_count(num_threads)
    numbers = np.arange(start, start + len(p))
    if tokens is None:
        return _all_columns(plan, p, q, windows, numbers, None, None, threads, cells)
    ids = arrays.token_ids(tokens, "tokens", (len(p),), plan.vocab, plan.ignore_index)
    ignored = ids < 0
    if not ignored.any():
        return _all_columns(plan, p, q, windows, numbers, tokens, ids, threads, cells) | {"ignored": ignored}
    rows = np.flatnonzero(~ignored)
    # one run of rows is seen where it lies, others are copied: a chunk is small, and what is ignored is not read
    kept = slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows
    found = _all_columns(plan, p[kept], q[kept], windows, numbers[kept], tokens[kept], ids[kept], threads, cells)
    return {name: _spaced(rows, values, len(p)) for name, values in found.items()} | {"ignored": ignored}


def _spaced(rows: NDArray[np.int64], values: NDArray[Any], count: int) -> NDArray[Any]:
    """A column of some rows -> one of all: NaN, -1 or False for the others."""
    nothing: Any = {"f": np.nan, "i": -1, "b": False}[values.dtype.kind]
    spaced = np.full(count, nothing, values.dtype)
    spaced[rows] = values
    return spaced


def _all_columns(
    plan: Plan,
    p: NDArray[Any],
    q: NDArray[Any],
    windows: tuple[float, float],
    numbers: NDArray[np.int64],
    tokens: NDArray[np.int64] | None,
    ids: NDArray[np.int64] | None,
    threads: int,
    cells: Cells | None,
) -> Columns:
    """The columns of rows that are all compared; `numbers` are those of the rows in the file."""
    if p.dtype.names is not None and "listed" in p.dtype.names:
        return compare_lists(p, q, plan.vocab, ids) | {"null_kl": np.full(len(p), np.nan)}
    if cells is not None:
        columns = compare_records(p, cells, q, given=plan.given, tokens=ids, num_threads=threads)
        columns["null_kl"] = _null_control(plan, (q,), numbers)
        columns["half_width"] = _half_as_long(plan, p, cells, q, numbers, threads)
        return columns | _top_k_agreement(plan, p, q, threads) if plan.top_k else columns
    coded = p.dtype.names is not None or q.dtype.names is not None
    if coded:
        columns = compare_clipped(p, q, ids, plan.vocab, windows, threads, plan.jensen_shannon)
    else:
        columns = _compare(plan, p, q, ids, threads)
    columns["null_kl"] = _null_control(plan, (p, q), numbers)
    if plan.top_k:
        columns |= _top_k_agreement(plan, p, q, threads)
    if plan.llama_cpp:
        assert tokens is not None
        columns |= _llama_cpp(plan, p, q, tokens, threads)
    return columns


def _compare(plan: Plan, p: NDArray[Any], q: NDArray[Any], ids: NDArray[np.int64] | None, threads: int) -> Columns:
    wanted: tuple[str, ...] = ("kl", "reverse_kl", "entropy_p", "entropy_q", "lse_p", "top1_p", "top1_q", "acceptance")
    if ids is not None:
        wanted += ("log_prob_p", "log_prob_q", "log_ratio")
    pair = calls.batch(("p", p), ("q", q), vocab_size=plan.vocab)
    columns = parts.compare(pair, keywords.space(plan.given), 1.0, wanted, threads, ids)
    top = p[np.arange(len(p)), columns["top1_p"]].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lse = columns.pop("lse_p")
        columns["top_prob_p"] = top / np.exp(lse) if plan.given == "probs" else np.exp(top - lse)
    columns["top_prob_p"][columns["top1_p"] < 0] = np.nan
    if plan.jensen_shannon:
        values = jensen_shannon_divergence(p, q, given=plan.given, vocab_size=plan.vocab, num_threads=threads)
        columns["jensen_shannon"] = np.asarray(values)
    return columns


# ------------------------------------------------------------------------------------------------- null control


def _null_control(plan: Plan, blocks: tuple[NDArray[Any], ...], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """The KL that rounding alone gives, on some rows; NaN elsewhere.

    Independent errors of variance s_v² in the log-probabilities of p give, to second order, an expected KL of
    ½·Σ p_v·(1 - p_v)·s_v²; rounding to a grid of step h has s² = h²/12. Where both files are rounded their variances
    add.
    """
    found = np.full(len(blocks[0]), np.nan)
    for i in _some(plan, numbers).tolist():
        found[i] = 0.0
        with np.errstate(all="ignore"):
            for block in blocks:
                found[i] += _rounding(plan, block[i : i + 1])
    return found


def _some(plan: Plan, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of some rows, the same whatever pieces a job comes in."""
    return np.flatnonzero(numbers % max(1, -(-plan.rows // _NULL_ROWS)) == 0)


def _half_as_long(
    plan: Plan, p: NDArray[Any], cells: Cells, q: NDArray[Any], numbers: NDArray[np.int64], threads: int
) -> NDArray[np.float64]:
    """How far the bounds of some rows would be apart if the reference listed half as many outcomes; NaN elsewhere."""
    found = np.full(len(p), np.nan)
    rows = _some(plan, numbers)
    if rows.size and p.dtype["ids"].shape[0] > 1:
        records = shortened(p[rows], cells, p.dtype["ids"].shape[0] // 2)
        half = compare_records(records, cells, q[rows], given=plan.given, num_threads=threads)
        with np.errstate(invalid="ignore"):
            found[rows] = half["kl_upper"] - half["kl_lower"]
    return found


def _rounding(plan: Plan, row: NDArray[Any]) -> float:
    logs = plan.given != "probs" or row.dtype.names is not None
    x = _values(row, plan.vocab)[0]
    if row.dtype.names is not None:
        step = row["scale"][0]
    elif row.dtype == np.float64:
        step = np.spacing(np.abs(x))
    else:  # the power of two below |x| times the storage's relative step
        bits, least = _STORAGE[row.dtype.name]
        x = x.astype(np.float32)
        power = (x.view(np.int32) & 0x7F800000).view(np.float32)
        step = np.maximum(power * np.float32(2.0**-bits), np.float32(least))
    if logs:
        weights = np.exp(x - x.max())
    else:
        weights, step = x, np.where(x > 0, step / x, 0)
    weights = weights / weights.sum()
    variance = np.where(weights > 0, np.square(step), 0) / 12
    return float(0.5 * np.dot(weights * (1 - weights), variance))


# ---------------------------------------------------------------------------------------- statistics on request


def _values(block: NDArray[Any], vocab: int) -> NDArray[Any]:
    """Rows as the kernels and NumPy take them; codes decoded."""
    if block.dtype.names is None:
        return block[:, :vocab]
    out = np.empty((len(block), vocab), np.float32)
    decode(block, out)
    return out


def _leaders_of(block: NDArray[Any], vocab: int, k: int) -> NDArray[Any] | None:
    """`_leaders` of a block of one row, of a reference those it lists; None where it has no distribution."""
    if block.dtype.names is not None and "ids" in block.dtype.names:
        return None if np.isnan(block["log_sum_exp"][0]) else block["ids"][0, :k].astype(np.int64)
    row = _values(block, vocab)[0].astype(np.float32, copy=False)
    return _leaders(row, k) if np.isfinite(row.max()) else None


def _leaders(row: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k greatest elements, greatest first, ties by place.

    The k-th greatest of the maxima of short stretches bounds the k-th greatest element from below, so that only
    few elements need sorting: 10 times as fast as argpartition at V = 131,072.
    """
    width = 256
    whole = row.size - row.size % width
    stretches = row[:whole].reshape(-1, width).max(axis=1)
    if stretches.size > k:
        bound = np.partition(stretches, stretches.size - k)[stretches.size - k]
        places = np.flatnonzero(row >= bound)
    else:
        places = np.arange(row.size)
    order = np.lexsort((places, -row[places]))[:k]
    return np.asarray(places[order], np.int64)


def _top_k_agreement(plan: Plan, p: NDArray[Any], q: NDArray[Any], threads: int) -> Columns:
    """For each k, the share of p's k likeliest tokens among q's, whether they come in the same order, and whether p's
    likeliest is among them."""
    found: Columns = {}
    most = min(max(plan.top_k), plan.vocab)
    for k in plan.top_k:
        found |= {f"top{k}_{what}": np.full(len(p), np.nan) for what in ("overlap", "ordered", "holds")}

    def work(start: int, stop: int) -> None:
        for i in range(start, stop):
            a, b = (_leaders_of(block[i : i + 1], plan.vocab, most) for block in (p, q))
            if a is None or b is None:
                continue
            for k in plan.top_k:
                n = min(k, plan.vocab)
                found[f"top{k}_overlap"][i] = np.intersect1d(a[:n], b[:n], assume_unique=True).size / n
                found[f"top{k}_ordered"][i] = np.array_equal(a[:n], b[:n])
                found[f"top{k}_holds"][i] = a[0] in b[:n]

    engine.over_rows(work, len(p), 16 * plan.vocab, threads)
    return found


def _llama_cpp(plan: Plan, p: NDArray[Any], q: NDArray[Any], tokens: NDArray[np.int64], threads: int) -> Columns:
    given = plan.given if q.dtype.names is None else "log_probs"

    def work(start: int, stop: int) -> list[tuple[int, LlamaCppTokens]]:
        part = slice(start, stop)
        return [(start, token_values(p[part], _values(q[part], plan.vocab), tokens[part], given=given))]

    # 64: it takes some 15 ns an element, as many as the plain kernel takes for 60 bytes
    found = engine.over_rows(work, len(p), 64 * plan.vocab, threads)
    parts = sorted((part for some in found for part in some), key=lambda part: part[0])
    values = concatenate([tokens for _, tokens in parts])
    return {LLAMA_CPP_PREFIX + f.name: getattr(values, f.name) for f in fields(LlamaCppTokens)}
