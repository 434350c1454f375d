"""Looks at some rows before the work: what files are easily mistaken for, told with the evidence.

Nothing is refused or corrected here. Each test asks for evidence that rows of unrelated numbers do not give by chance,
so that silence means little, but a line means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given
from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.llama_cpp import Dump

__all__ = ["suspicions"]

WINDOW = 4  # rows that follow each other, for what is shifted
WINDOWS = 24
SAMPLE_BYTES = 64 << 20  # of two files at most, in float32
FEW = 12  # fewer rows or pairs prove nothing
# formats in which some rows can be read without the rows before them
_DIRECT = ("npy", "safetensors", "llama.cpp")
# rows that look like a vocabulary: the padded and unpadded sizes that language models have
_VOCABULARIES = frozenset(
    (32000, 32064, 49152, 50257, 50304, 51200, 64000, 65024, 65536, 92544, 100277, 100352, 102400, 128000, 128256,
     129280, 131072, 151552, 151643, 151936, 152064, 163840, 199998, 200019, 200064, 201088, 202048, 248320, 255000,
     256000, 256128, 257152, 262144, 262145, 262208)
)  # fmt: skip

Values = NDArray[Any]


def suspicions(
    p: Source,
    qs: Sequence[Source],
    given: Given,
    tokens: NDArray[np.int64] | None,
    rows: tuple[int, int],
    most_bytes: int,
) -> list[list[str]]:
    """For each candidate, what looks wrong with it and the base, a line each; two files' rows fit into `most_bytes`."""
    with np.errstate(all="ignore"):  # what overflows here becomes NaN, which is no evidence
        return _suspicions(p, qs, given, tokens, rows, most_bytes)


def _suspicions(
    p: Source,
    qs: Sequence[Source],
    given: Given,
    tokens: NDArray[np.int64] | None,
    rows: tuple[int, int],
    most_bytes: int,
) -> list[list[str]]:
    starts = _starts((p, *qs), *rows, most_bytes)
    places = (starts[:, None] + np.arange(WINDOW)).ravel()
    base = _sample(p, starts)
    # rows to be ignored may hold anything
    kept = np.ones(len(places), np.bool_) if tokens is None else tokens[places] >= 0
    common = _of_one(p, base[kept], given)
    if tokens is not None and base.size:
        common += _shifted_targets(p, _logs(base, p, given), tokens, places)
    found = []
    for q in qs:
        other = _sample(q, starts)
        lines = common + _of_one(q, other[kept], given)
        vocab = min(p.shape[1], q.shape[1])
        x, y = base[:, :vocab], other[:, :vocab]
        if kept.any() and np.array_equal(x[kept], y[kept]):
            lines.append(f"{p.path} and {q.path} hold the same numbers, in all {kept.sum()} rows looked at")
        else:
            lines += _shifted_rows(p, q, x, y) or _permuted(p, q, x, y)
        found.append(lines)
    return found


def _starts(sources: Sequence[Source], start: int, stop: int, most_bytes: int) -> NDArray[np.int64]:
    """First rows of the windows that are read: over the whole job, or from its start where that costs less."""
    width = max(source.shape[1] for source in sources)
    count = min(min(most_bytes, SAMPLE_BYTES) // (2 * 4 * width * WINDOW), WINDOWS, (stop - start) // WINDOW)
    direct = all(s.format in _DIRECT and "://" not in s.path and not s.streams() for s in sources)
    last = stop - WINDOW if direct else start + (count - 1) * WINDOW
    return np.unique(np.linspace(start, max(last, start), count).astype(np.int64))


def _sample(source: Source, starts: NDArray[np.int64]) -> Values:
    """The rows of the windows, in float32 as a kernel would see them."""
    if not starts.size:
        return np.empty((0, source.shape[1]), np.float32)
    return np.concatenate([source.rows(s, s + WINDOW).astype(np.float32) for s in starts.tolist()])


def _logs(x: Values, source: Source, given: Given) -> Values:
    """Logarithms of the probabilities, up to a constant a row."""
    if given != "probs" or isinstance(source, Dump):
        return x
    return np.asarray(np.log(x))


def _of_one(source: Source, x: Values, given: Given) -> list[str]:
    found = []
    if source.shape[0] in _VOCABULARIES and source.shape[1] < 16384:
        found.append(
            f"{source.path} has {source.shape[0]} rows, the size of a vocabulary, of {source.shape[1]} columns: "
            "is it transposed?"
        )
    x = x[np.isfinite(x).any(axis=1) & ~np.isnan(x).any(axis=1)]
    if isinstance(source, Dump) or not x.size or x.shape[1] < 2:
        return found
    sums = x.sum(axis=1, dtype=np.float64)
    if given != "probs" and x.min() >= 0 and x.max() <= 1.001 and np.abs(sums - 1).max() < 0.02:
        return [
            *found,
            f"{source.path} looks like probabilities, not {given}: all {len(x)} rows looked at are ≥ 0 and sum to "
            f"{sums.mean():.4g}; say given='probs' (--given probs)",
        ]
    if given == "log_probs":
        mass = np.exp(x.astype(np.float64)).sum(axis=1)
        if x.max() > 1e-3 or np.abs(np.log(mass)).min() > 0.5:
            found.append(
                f"{source.path} does not look like log-probabilities: it reaches {x.max():.4g}, and the "
                f"probabilities of a row sum to {np.median(mass):.4g}; are these logits?"
            )
    if given == "probs" and x.min() < 0:
        found.append(
            f"{source.path} does not look like probabilities: it reaches down to {x.min():.4g}; are these logits or "
            "log-probabilities?"
        )
    return found + _other_bits(source, x)


def _other_bits(source: Source, x: Values) -> list[str]:
    """Bfloat16 read as float16: eight bits of exponent become five, and magnitudes of 2^-15 to 2^9 all [0.5, 4)."""
    if source.dtype != np.float16:
        return []
    values = np.abs(x[np.isfinite(x) & (x != 0)])
    negative = np.mean(x < 0)
    if values.size < 1000 or not 0.01 < negative < 0.99:
        return []
    inside = np.mean((values >= 0.5) & (values < 4))
    if inside < 0.99:
        return []
    return [
        f"{source.path} looks like bfloat16 read as float16: {100 * inside:.4g} % of {values.size} numbers of "
        "both signs have magnitudes from 0.5 to 4, which no logits have and all bfloat16 bits give"
    ]


def _shifted_rows(p: Source, q: Source, x: Values, y: Values) -> list[str]:
    """One file begins a row later: its top tokens are those of the other's next or previous rows."""
    if x.shape[1] < 16 or 3 * len(x) // WINDOW < FEW:
        return []
    a, b = (top.argmax(axis=1).reshape(-1, WINDOW) for top in (x, y))
    same = float(np.mean(a == b))
    for later, earlier, share in ((p, q, np.mean(a[:, :-1] == b[:, 1:])), (q, p, np.mean(a[:, 1:] == b[:, :-1]))):
        if share >= 0.5 and share - same >= 0.3:
            return [
                f"{earlier.path} looks shifted by a row: its top tokens are those of {later.path} in "
                f"{100 * same:.3g} % of the rows looked at, but those of the row before in {100 * float(share):.3g} %"
            ]
    return []


def _shifted_targets(p: Source, logs: Values, tokens: NDArray[np.int64], places: NDArray[np.int64]) -> list[str]:
    """The tokens of the next or previous rows are much likelier than a row's own."""
    inner = (places > 0) & (places < len(tokens) - 1)
    places, logs = places[inner], logs[inner]
    near = np.stack([tokens[places + shift] for shift in (-1, 0, 1)])
    known = ((near >= 0) & (near < logs.shape[1])).all(axis=0)
    if known.sum() < FEW or logs.shape[1] < 16:
        return []
    values = logs[known][np.arange(known.sum()), near[:, known]].astype(np.float64)
    values = values[:, np.isfinite(values).all(axis=0)]
    for other, name in ((values[2:], "next"), (values[:1], "previous")):
        gain = other[0] - values[1]
        if gain.size >= FEW and gain.mean() > max(1.0, 4 * gain.std(ddof=1) / np.sqrt(gain.size)):
            return [
                f"the tokens look shifted by one: in {gain.size} rows looked at {p.path} finds the token of the {name} "
                f"row likelier than the row's own by {gain.mean():.3g} nats in the mean"
            ]
    return []


def _permuted(p: Source, q: Source, x: Values, y: Values) -> list[str]:
    """Columns of p that fit another column of q row by row, and not their own: another order of the vocabulary."""
    if len(x) < 16 or x.shape[1] < 32:
        return []
    ids = np.flatnonzero(np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0))
    if ids.size < 32:
        return []
    if ids.size < x.shape[1]:
        x, y = x[:, ids], y[:, ids]
    x, y = (z - z.mean(axis=1, keepdims=True) for z in (x, y))  # a row's level says nothing
    chosen = np.sort(np.argpartition(x.var(axis=0), -min(64, ids.size))[-64:])
    a = _standardised(x[:, chosen])
    own = (a * _standardised(y[:, chosen])).sum(axis=0)
    if 2 * (own < 0.5).sum() < len(chosen):  # as nearly always: all others need not be looked through
        return []
    fit = a.T @ _standardised(y)
    best = fit.argmax(axis=1)
    other = (fit.max(axis=1) > 0.95) & (own < 0.5)
    if 2 * other.sum() < len(chosen) or np.unique(best[other]).size < 0.9 * other.sum():
        return []
    first = int(np.flatnonzero(other)[0])
    return [
        f"the vocabularies look permuted: {other.sum()} of {len(chosen)} columns looked at of {p.path} go with another "
        f"column of {q.path} (token {ids[chosen[first]]} with {ids[best[first]]}: correlation "
        f"{fit[first].max():.3f}, with its own {own[first]:.3f})"
    ]


def _standardised(x: Values) -> Values:
    """Columns of length 1 about their mean; 0 where they do not vary."""
    x = x - x.mean(axis=0)
    length = np.sqrt(np.square(x).sum(axis=0))
    return np.asarray(np.where(length > 1e-6 * np.abs(x).max(initial=1e-30), x / np.maximum(length, 1e-30), 0))
