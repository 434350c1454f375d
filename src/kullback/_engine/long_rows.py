"""Statistics of rows of any length: rows longer than `LONGEST` are described part by part.

A part is a row to the kernels, so one row of ten million outcomes keeps all threads busy; where a row is cut depends
on its length alone, so results do not depend on the threads. Parts are put together by the chain rule: with P and Q
the masses of the parts,

    KL(p‖q) = KL(P‖Q) + Σ P·KL(part of p‖part of q)        H(p) = H(P) + Σ P·H(part of p)

in which no term is negative, so nothing cancels. P and Q are rows of logs (the parts' normalisers) to the same kernels.
Rows so close that the rounding of these would be seen in the result stay whole.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import calls
from kullback._engine.arrays import Batch, batch
from kullback._engine.keywords import LOGS
from kullback._engine.views import AFFINE16, FLOAT64

LONGEST = 1 << 18  # every vocabulary in use is shorter: its rows stay whole
PART = 1 << 16

_Found = dict[str, NDArray[Any]]
_SIDES = (("kl", "lse_p"), ("reverse_kl", "lse_q"), ("entropy_p", "lse_p"), ("entropy_q", "lse_q"))


def compare(
    pair: Batch,
    space: int,
    inverse_temperature: float,
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
) -> _Found:
    """`calls.compare` for rows of any length."""
    if not _cut(pair):
        return calls.compare(pair, space, inverse_temperature, wanted, num_threads, tokens)
    if "acceptance" in wanted:  # what parts have in common does not add up to what the row has
        shared = calls.compare(pair, space, inverse_temperature, ("acceptance",), num_threads)
        rest = tuple(field for field in wanted if field != "acceptance")
        return compare(pair, space, inverse_temperature, rest, num_threads, tokens) | shared
    fields = tuple(dict.fromkeys((*wanted, "kl", "reverse_kl", "lse_p", "lse_q", "top1_p", "top1_q")))
    tokens = None if tokens is None else tokens.reshape(-1)
    held = None if tokens is None else _by_part(tokens, pair.vocab)

    def of_part(part: Batch, columns: slice) -> _Found:
        ids = None if held is None else np.ascontiguousarray(held[:, columns].ravel())
        return calls.compare(part, space, inverse_temperature, fields, num_threads, ids)

    within = _over_parts(pair, of_part)
    lone = np.isnan(within["lse_p"]) | np.isnan(within["lse_q"])
    if lone.any():  # beside a part without mass the kernel leaves the other undefined too
        for index, side in enumerate("pq"):
            alone = _over_parts(
                pair.side(index), lambda part, columns: _described(part, space, inverse_temperature, num_threads)
            )
            for field in ("lse", "entropy", "top1"):
                if f"{field}_{side}" in within:
                    within[f"{field}_{side}"] = alone[field]
    masses = batch(("p", within["lse_p"]), ("q", within["lse_q"]))
    place = None if tokens is None else np.where(tokens < 0, -1, tokens // PART)
    found = calls.compare(masses, LOGS, 1.0, fields, 1, place)
    if any(_rounded(found[f"lse_{side}"], within[f"lse_{side}"], within[f"top1_{side}"]) for side in "pq"):
        return calls.compare(pair, space, inverse_temperature, wanted, num_threads, tokens)
    for field, lse in _SIDES:
        if field in fields:
            found[field] += _mean(within[field], within[lse])
    for index, field in enumerate(("top1_p", "top1_q")):
        if field in wanted:
            found[field] = _top1(pair.side(index), within[field], found[field], num_threads)
    for field in ("log_prob_p", "log_prob_q", "log_ratio"):
        if field in wanted and place is not None:
            found[field] += np.take_along_axis(within[field], place[:, None], axis=1)[:, 0]
    kept = {field: found[field] for field in wanted}
    close = np.flatnonzero(_blurred(found, within, FLOAT64 in (view.storage for view in pair.views)))
    if close.size:
        ids = None if tokens is None else tokens[close]
        whole = calls.compare(selected(pair, close), space, inverse_temperature, wanted, num_threads, ids)
        for field in wanted:
            kept[field][close] = whole[field]
    return kept


def describe(
    single: Batch,
    space: int,
    inverse_temperature: float,
    wanted: tuple[str, ...],
    num_threads: int | None,
    tokens: NDArray[np.int64] | None = None,
) -> _Found:
    """`calls.describe` for rows of any length."""
    if not _cut(single):
        return calls.describe(single, space, inverse_temperature, wanted, num_threads, tokens)
    held = None if tokens is None else _by_part(tokens, single.vocab)

    def of_part(part: Batch, columns: slice) -> _Found:
        ids = None if held is None else np.ascontiguousarray(held[:, columns].reshape(-1, held.shape[-1]))
        return calls.describe(part, space, inverse_temperature, ("lse", "entropy", "top1"), num_threads, ids)

    within = _over_parts(single, of_part)
    place = None if tokens is None else np.where(tokens < 0, -1, tokens // PART)
    masses = batch(("x", within["lse"]))
    found = calls.describe(masses, LOGS, 1.0, ("lse", "entropy", "top1"), 1, place)
    if _rounded(found["lse"], within["lse"], within["top1"]):
        return calls.describe(single, space, inverse_temperature, wanted, num_threads, tokens)
    found["entropy"] += _mean(within["entropy"], within["lse"])
    found["top1"] = _top1(single, within["top1"], found["top1"], num_threads)
    kept = {field: found[field] for field in wanted}
    if place is not None:
        own = np.take_along_axis(within["log_probs"], np.maximum(place, 0)[:, None], axis=1)[:, 0]
        of_part_alone = found["log_probs"]  # -inf: a part without mass, in which nothing is defined
        kept["log_probs"] = np.where(of_part_alone == -np.inf, -np.inf, of_part_alone + own)
    return kept


def selected(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    """Those rows of a batch (flat numbers, rising), in place; errors about them name them by their own numbers."""
    if len(rows) == batch.rows:
        return batch
    offsets = [_places(place, batch.rows)[rows] for place in batch.places]
    return _moved(batch, offsets, batch.vocab)._replace(chosen=rows)


def grouped(batch: Batch, groups: list[NDArray[np.int64]]) -> Iterator[Batch]:
    """`selected` for each of many groups of rows: where rows lie is found once."""
    offsets = [_places(place, batch.rows) for place in batch.places]
    for rows in groups:
        yield _moved(batch, [place[rows] for place in offsets], batch.vocab)._replace(chosen=rows)


def _cut(batch: Batch) -> bool:
    """Whether rows are cut. Rows of codes keep their scale before their first one, and converted ones lie nowhere."""
    if batch.vocab <= LONGEST or batch.converted:
        return False
    return all(view.storage != AFFINE16 for view in batch.views)


def _described(part: Batch, space: int, inverse_temperature: float, num_threads: int | None) -> _Found:
    return calls.describe(part, space, inverse_temperature, ("lse", "entropy", "top1"), num_threads)


def _over_parts(batch: Batch, of_part: Any) -> _Found:
    """What `of_part` finds for every part, (T, parts): all whole ones at once, then the rest of each row.

    Ids of outcomes are counted from the start of the row.
    """
    whole, rest = divmod(batch.vocab, PART)
    pieces = []
    for first, count, vocab in ((0, whole, PART), (whole, min(rest, 1), rest)):
        if count:
            starts = np.arange(first, first + count, dtype=np.int64) * PART
            found = of_part(_part(batch, starts, vocab), slice(first, first + count))
            pieces.append(
                {field: values.reshape(batch.rows, count, *values.shape[1:]) for field, values in found.items()}
            )
            for field in pieces[-1]:
                if field.startswith("top1"):
                    pieces[-1][field] = np.where(pieces[-1][field] < 0, -1, pieces[-1][field] + starts)
    return {field: np.concatenate([piece[field] for piece in pieces], axis=1) for field in pieces[0]}


def _places(place: tuple[NDArray[np.int64] | None, int], rows: int) -> NDArray[np.int64]:
    """Bytes from the first element of an array to that of each row, (T,)."""
    offsets, row_stride = place
    return np.arange(rows, dtype=np.int64) * row_stride if offsets is None else offsets


def _moved(batch: Batch, offsets: list[NDArray[np.int64]], vocab: int) -> Batch:
    """The same memory with other rows: as many as there are offsets (in bytes), `vocab` elements each."""
    row_bytes = max(1, batch.row_bytes * vocab // batch.vocab)
    places = tuple((rows, 0) for rows in offsets)
    return batch._replace(places=places, rows=len(offsets[0]), vocab=vocab, row_bytes=row_bytes)


def _part(batch: Batch, starts: NDArray[np.int64], vocab: int) -> Batch:
    """The parts of every row that begin at those elements, as rows of their own, row by row."""
    offsets = [
        (_places(place, batch.rows)[:, None] + starts * view.stride).ravel()
        for place, view in zip(batch.places, batch.views, strict=True)
    ]
    return _moved(batch, offsets, vocab)._replace(parts=batch.parts * len(starts))


def _values(single: Batch, ids: NDArray[np.int64], num_threads: int | None) -> NDArray[np.float64]:
    """The elements at those ids, (T, K) of each row: rows of one outcome, whose log mass is the element itself."""
    offsets = (_places(single.places[0], single.rows)[:, None] + np.maximum(ids, 0) * single.views[0].stride).ravel()
    values = calls.describe(_moved(single, [offsets], 1), LOGS, 1.0, ("lse",), num_threads)["lse"]
    return np.where(ids < 0, np.nan, values.reshape(ids.shape))


def _top1(
    single: Batch, ids: NDArray[np.int64], heaviest: NDArray[np.int64], num_threads: int | None
) -> NDArray[np.int64]:
    """The id of the greatest of the parts' greatest, the first of equals; -1 where the row has none."""
    values = _values(single, ids, num_threads)
    best = np.argmax(np.where(np.isnan(values), -np.inf, values), axis=1)
    chosen = np.take_along_axis(ids, best[:, None], axis=1)[:, 0]
    return np.where(heaviest < 0, -1, chosen)


def _by_part(tokens: NDArray[np.int64], vocab: int) -> NDArray[np.int64]:
    """Ids (T, ...) as ids within each part, (T, parts, ...); -1 in the parts that do not hold them."""
    parts = np.arange(-(-vocab // PART)).reshape(-1, *(1,) * (tokens.ndim - 1))
    return np.where(tokens[:, None] // PART == parts, tokens[:, None] % PART, -1)


def _rounded(lse: NDArray[np.float64], within: NDArray[np.float64], top1: NDArray[np.int64]) -> bool:
    """Whether normalisers are so large that their rounding is worth something of a part's share: rows stay whole.

    So they do where those of the parts, `within`, have left the range of float64; without mass one may be -inf.
    """
    beyond = (np.isinf(within) | np.isnan(within)) & (top1 >= 0)
    return bool((np.abs(lse) > 1e5).any() or beyond.any())


def _blurred(found: _Found, within: _Found, exact: bool) -> NDArray[np.bool_]:
    """Rows that differ by so little that the rounding of the parts' normalisers is seen in it, (T,): those stay whole.

    A divergence D goes by the square of what the normalisers differ by. `exact`: of float64.
    """
    sizes = np.maximum(np.abs(within["lse_p"]), np.abs(within["lse_q"]))
    rounding = 2.0**-53 * np.where(np.isfinite(sizes), sizes, 0.0).max(axis=1)
    least = rounding / (1e-12 if exact else 1e-8)
    divergence = np.minimum(found["kl"], found["reverse_kl"])
    blurred = divergence < least * least
    if "log_ratio" in found:
        blurred |= np.abs(found["log_ratio"]) < least
    return np.asarray(blurred & (divergence > 0.0))


def _mean(values: NDArray[np.float64], lse: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the parts' values, weighted by their masses; parts without mass have no say.

    Nor has a part whose value is undefined: there one side has no mass, which makes the masses' own KL infinite.
    """
    with np.errstate(invalid="ignore"):
        weights = np.exp(lse - np.max(lse, axis=1, keepdims=True))
        terms = np.where((weights > 0.0) & ~np.isnan(values), weights * values, 0.0)
        mean: NDArray[np.float64] = terms.sum(axis=1) / weights.sum(axis=1)
        return mean
