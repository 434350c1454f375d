"""Target tokens of a job: which ids both sides agree on, from where, and how they read as text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library, views
from kullback.evaluation.sources import npy
from kullback.evaluation.sources.base import Source, integer_column
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.llama_cpp import MAGIC, LlamaCppLogits

__all__ = [
    "common_rows", "common_vocabulary", "decoder", "load_chunk_tokens", "load_tokens", "target_groups", "target_tokens",
]  # fmt: skip

# what an id and what stands around it take at most, in JSON with indentation; a file so long is read whatever it holds
_BYTES_A_TOKEN = 64
_FREE_BYTES = 1 << 16


def load_tokens(path: str | os.PathLike[str], rows: int | None = None) -> NDArray[np.int64]:
    """Token ids from `.npy`, `.json` (one list) or text (whole numbers between spaces, commas or line ends).

    Parameters
    ----------
    path : path-like
    rows : int, optional
        How many there should be: a file that is far too long for them is not read.

    Raises
    ------
    ValueError
        If the file does not hold whole numbers.
    OSError
        If it cannot be read.
    """
    file = LocalFile(path)
    if rows is not None and file.size > _FREE_BYTES + _BYTES_A_TOKEN * rows:
        raise ValueError(f"{file.path}: has {file.size} bytes, more than {rows} token ids take, one a row")
    values = _numbers(file, lambda text: np.asarray(_words(text), np.int64))
    return integer_column(values, values.size, f"{file.path}: tokens")


def load_chunk_tokens(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """The text as a model saw it, (C, n_ctx): `.npy`, `.json` (a list a chunk), text (a line a chunk) or a dump.

    Raises
    ------
    ValueError
        If the file does not hold chunks of whole numbers, all of one length.
    OSError
        If it cannot be read.
    """
    file = LocalFile(path)
    if file.read(len(MAGIC)) == MAGIC:
        return LlamaCppLogits(file, salvage=True).chunk_tokens.astype(np.int64)
    values = _numbers(file, lambda text: np.asarray([_words(line) for line in text.splitlines() if line.strip()]))
    if values.ndim != 2:
        raise ValueError(f"{file.path}: chunks of tokens have shape {values.shape}, expected (C, n_ctx)")
    return integer_column(values, values.size, f"{file.path}: chunks of tokens").reshape(values.shape)


def _words(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


def _numbers(file: LocalFile, of_text: Callable[[str], NDArray[Any]]) -> NDArray[Any]:
    """The array in a file: `.npy`, `.json`, or text as `of_text` reads it."""
    data = file.read(file.size)
    try:
        if data.startswith(npy.MAGIC):
            shape, fortran, dtype, offset = npy.parse_header(data[: npy.LONGEST_HEADER], file.path)
            values = np.frombuffer(data, dtype, offset=offset)
            if values.size != math.prod(shape):
                raise ValueError(f"shape {shape}, but {len(data) - offset} bytes of {dtype}")
            return values.reshape(shape, order="F" if fortran else "C")
        return np.asarray(json.loads(data)) if file.path.endswith(".json") else of_text(data.decode())
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file.path}: not a file of token ids ({str(error)[:80]})") from None


def common_rows(p: Source, qs: Sequence[Source]) -> int:
    """The number of rows of all sources; ValueError where they differ."""
    for q in qs:
        if q.shape[0] != p.shape[0]:
            turned = "; its shape is that of the other transposed" if q.shape == p.shape[::-1] else ""
            raise ValueError(
                f"{q.path} has {q.shape[0]} rows, expected {p.shape[0]} as in {p.path}: "
                f"both must hold the same tokens in the same order{turned}"
            )
    return p.shape[0]


def common_vocabulary(p: Source, qs: Sequence[Source], vocab_size: int | None) -> int:
    """The vocabulary compared; ValueError, with the `vocab_size` that would do, where the files differ."""
    sources = (p, *qs)
    least = min(source.shape[1] for source in sources)
    if vocab_size is not None:
        if not 1 <= vocab_size <= least:
            smallest = next(source.path for source in sources if source.shape[1] == least)
            raise ValueError(f"`vocab_size` is {vocab_size}, expected from 1 to {least}, the vocabulary of {smallest}")
        return vocab_size
    for q in qs:
        if q.shape[1] != p.shape[1]:
            raise ValueError(
                f"{q.path} has a vocabulary of {q.shape[1]}, {p.path} one of {p.shape[1]}; if the further "
                f"columns are padding, compare the first {least}: vocab_size={least} (--vocab-size {least})"
            )
    return least


def target_tokens(
    p: Source, qs: Sequence[Source], tokens: NDArray[Any] | str | os.PathLike[str] | None, ignore_index: int
) -> NDArray[np.int64] | None:
    """The token of each row, from `tokens` or the sources, which must agree; None where nobody knows."""
    rows, known, origin = p.shape[0], None, ""
    if tokens is not None:
        origin = os.fspath(tokens) if isinstance(tokens, (str, os.PathLike)) else "`tokens`"
        known = load_tokens(tokens, rows) if isinstance(tokens, (str, os.PathLike)) else views.plain(tokens, "tokens")
        if known.size != rows:
            turned = "; it has as many columns: is it transposed?" if known.size == p.shape[1] else ""
            raise ValueError(f"{origin} has {known.size} token ids, expected {rows}, one a row of {p.path}{turned}")
        known = integer_column(known, rows, origin)
    for source in (p, *qs):
        if source.tokens is None:
            continue
        if known is None:
            known, origin = source.tokens, source.path
        elif not np.array_equal(known, source.tokens):
            row = int(np.flatnonzero(known != source.tokens)[0])
            raise ValueError(
                f"{source.path} and {origin} have different tokens from row {row} on "
                f"({source.tokens[row]} and {known[row]}): they do not score the same text"
            )
    if known is None:
        return None
    vocab = min(source.shape[1] for source in (p, *qs))
    outside = ((known < 0) | (known >= vocab)) & (known != ignore_index)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"{origin} has the token {known[row]} at row {row}, expected from 0 to {vocab - 1}, "
            f"or {ignore_index} for rows to leave out"
        )
    return known


def target_groups(
    p: Source, qs: Sequence[Source]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], tuple[str, ...]]:
    """The document of each row, where a source knows; the row's place within it; and where sources disagree.

    What a file says goes before what is only a division into shards.
    """
    rows = p.shape[0]
    known = [source for source in (p, *qs) if source.groups is not None]
    known.sort(key=lambda source: source.by_shard)
    if not known:
        return None, np.arange(rows), ()
    chosen = known[0]
    assert chosen.groups is not None
    begins = np.r_[True, chosen.groups[1:] != chosen.groups[:-1]][:rows]
    remarks = []
    for other in known[1:]:
        assert other.groups is not None
        differ = np.flatnonzero(begins[1:] != (other.groups[1:] != other.groups[:-1]))
        if differ.size and other.by_shard == chosen.by_shard:
            remarks.append(
                f"{other.path} and {chosen.path} divide the rows into different chunks or documents, from row "
                f"{differ[0] + 1} on; those of the latter are used"
            )
    first = np.flatnonzero(begins)
    return chosen.groups, np.arange(rows) - np.repeat(first, np.diff(np.r_[first, rows])), tuple(remarks)


def decoder(path: str | os.PathLike[str] | None) -> Callable[[Sequence[int]], str] | None:
    """A function from token ids to text, from a `tokenizer.json`; None without one."""
    if path is None:
        return None
    tokenizers = library("tokenizers", os.fspath(path))
    name = LocalFile(path).path
    try:
        tokenizer = tokenizers.Tokenizer.from_file(name)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{name}: not a readable tokenizer file ({str(error)[:80]})") from None
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
