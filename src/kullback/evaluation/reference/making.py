"""write_reference: a file or an array of logits -> a compact reference, in memory bounded by the chunk, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import Given, keywords
from kullback.evaluation.candidates import opened
from kullback.evaluation.label_files import JobLabels
from kullback.evaluation.outputs import named_paths
from kullback.evaluation.reading import CHUNK_BYTES, chunks
from kullback.evaluation.reference.writer import IGNORE_INDEX, ReferenceWriter
from kullback.evaluation.sources import Source
from kullback.evaluation.sources.base import ReaderOptions
from kullback.evaluation.sources.reference import Reference
from kullback.evaluation.tokens import target_tokens

__all__ = ["write_reference"]

Path = str | os.PathLike[str]


def write_reference(
    path: Path,
    rows: Path | Source | ArrayLike,
    tokens: NDArray[Any] | Path | None = None,
    top_k: int = 256,
    groups: ArrayLike | None = None,
    *,
    buckets: int = 64,
    vocab_size: int | None = None,
    given: Given = "logits",
    ignore_index: int = IGNORE_INDEX,
    resume: bool = False,
    overwrite: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    by: Any = None,
    **options: Unpack[ReaderOptions],
) -> None:
    """Write a compact reference: of each row the likeliest outcomes and what the others come to.

    Parameters
    ----------
    path : path-like
        The folder to make, by custom NAME.kbref.
    rows : path-like, Source or array_like (T, V)
        The logits; a path is opened with `open_logits` and `options`.
    tokens : array_like of int (T,), or path-like, optional
        The token that each row should predict, where `rows` does not say. Without tokens no perplexity is known later.
    top_k, buckets, vocab_size, given, ignore_index, resume, overwrite, num_threads
        As in `ReferenceWriter`. Resuming skips the rows that are there.
    groups : array_like of int (T,), optional
        The document of each row, where `rows` does not say.
    chunk_bytes : int
        Bytes read at a time; four chunks are in memory.
    progress : callable, optional
        Called with the rows done and the rows in all.
    by : path-like, array_like, or mapping of str to either, optional
        Labels of the rows or groups, as `compare_files` takes them. Comparisons with the reference then have figures by
        label, unless they are given others.
    **options
        Of `open_logits`.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        As `open_logits` and `ReferenceWriter`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np, kullback as kb
    >>> rng = np.random.default_rng(0)
    >>> base = rng.normal(0, 3, (200, 1000))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "base.kbref")
    ...     kb.write_reference(path, base, top_k=64)
    ...     r = kb.compare_candidates(path, {"same": base, "other": base + 0.1 * rng.normal(size=base.shape)})
    >>> low, high = r["other"].to_dict()["kl"]["bounds"]
    >>> print(f"{r['same'].kl.mean < 1e-9}; {r['other'].kl.mean:.4f} is at least {low:.4f}, at most {high:.4f}")
    True; 0.0041 is at least 0.0041, at most 0.7105
    """
    keywords.callback(progress, "progress")
    chunk_bytes = keywords.whole(chunk_bytes, "chunk_bytes", 1)
    with ExitStack() as stack:
        (source,) = opened(stack, rows, {}, groups, **options)
        if isinstance(source, Reference):
            raise ValueError(f"{source.path}: is a compact reference already")
        _refuse_itself(os.fspath(path), named_paths(source.facts()))
        ids = target_tokens(source, (), tokens, keywords.integer(ignore_index, "ignore_index"))
        writer = stack.enter_context(
            ReferenceWriter(
                path, top_k=top_k, buckets=buckets,
                vocab_size=vocab_size, given=given, ignore_index=ignore_index, resume=resume,
                overwrite=overwrite, num_threads=num_threads, source=source.facts(),
            )
        )  # fmt: skip
        total, vocab = source.shape
        labels = None if by is None else JobLabels.of_job(by, total, source.groups)
        if writer.rows > total:
            raise ValueError(f"{writer.path}: has {writer.rows} rows, more than the {total} of {source.path}")
        if progress is not None:
            progress(writer.rows, total)
        if not total:
            writer.add(np.empty((0, vocab), source.dtype), vocab, None, None)
        done = writer.rows
        begin = 0 if source.streams() else done  # what a stream sends again is passed over
        blocks = stack.enter_context(closing(chunks((source,), begin, total, chunk_bytes)))
        for start, stop, (block,) in blocks:
            if stop > done:
                first = max(start, done)
                of = None if source.groups is None else source.groups[first:stop]
                sets = None if labels is None else labels.cut(slice(first, stop))
                writer.add(block[first - start :], vocab, None if ids is None else ids[first:stop], of, sets)
            if progress is not None:
                progress(stop, total)


def _refuse_itself(path: str, inputs: list[str]) -> None:
    """ValueError where the reference would be written into what it is made of."""
    real = os.path.realpath(path)
    for name in inputs:
        if "://" not in name and os.path.realpath(name) == real:
            raise ValueError(f"`path` is {path}, which is read as an input; an output never replaces one")
