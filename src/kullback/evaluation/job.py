"""compare_files: two (or more) files of logits -> a summary, in memory bounded by the chunk, resumable.

sources -> reading.chunks (a thread a file reads ahead) -> columns.compare_rows (kernels, all threads)
        -> checkpoint log and per-token file -> statistics.Summarizer -> ComparisonSummary
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import Given, keywords
from kullback.comparison import CandidateComparison, ComparisonSummary
from kullback.evaluation.candidates import named, opened
from kullback.evaluation.checkpoint import Candidates, Checkpoint
from kullback.evaluation.columns import IGNORE_INDEX
from kullback.evaluation.outputs import check_outputs
from kullback.evaluation.own_options import heads
from kullback.evaluation.per_token import PerToken
from kullback.evaluation.plan import Job, Path
from kullback.evaluation.reading import CHUNK_BYTES, chunks, row_type
from kullback.evaluation.sources import Source
from kullback.evaluation.sources.base import JobOptions
from kullback.evaluation.sources.streams import refuse_streams

__all__ = ["Job", "compare_candidates", "compare_files"]


def compare_candidates(
    p: Path | Source | ArrayLike,
    candidates: Mapping[str, Path | Source | ArrayLike] | Sequence[Path | Source],
    *,
    given: Given = "logits",
    tokens: NDArray[Any] | Path | None = None,
    groups: ArrayLike | None = None,
    vocab_size: int | None = None,
    rows: tuple[int, int] | None = None,
    jensen_shannon: bool = False,
    top_k: Sequence[int] = (),
    convention: Literal["llama.cpp"] | None = None,
    ignore_index: int = IGNORE_INDEX,
    chunk_bytes: int = CHUNK_BYTES,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    per_token: Path | None = None,
    by: Any = None,
    **options: Unpack[JobOptions],
) -> CandidateComparison:
    """Compare several candidates with one base, which is read once, and with each other by the same tokens.

    Parameters
    ----------
    p : path-like, Source or array_like (T, V)
        The base.
    candidates : mapping of str to path-like, Source or array_like; or a sequence of path-like
        The candidates by name; those of a sequence are called by their file names, with as many of their folders as
        tell them apart.
    groups : array_like of int (T,), optional
        The document of each row, where p is an array; files say it themselves.
    given, tokens, vocab_size, rows, jensen_shannon, top_k, convention, ignore_index, chunk_bytes, num_threads
        As in `compare_files`.
    progress, warn, checkpoint, resume, per_token, by, **options
        As in `compare_files`.

    Returns
    -------
    CandidateComparison
        `r["name"]` the summary of each candidate, `r.difference("a", "b").kl` how two of them differ: mean (a minus b),
        standard_error (paired, between documents where they are known), interval, p_value, equivalent; merges to the
        bits of the whole.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        As `compare_files`; if there is no candidate, or two have one name.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> base = rng.normal(0, 2, (400, 50))
    >>> q8, q4 = (base + noise * rng.normal(size=base.shape) for noise in (0.02, 0.2))
    >>> r = compare_candidates(base, {"q8": q8, "q4": q4}, groups=np.arange(400) // 20)
    >>> d = r.difference("q4", "q8").kl
    >>> print(f"{r['q4'].kl.mean:.4f} - {r['q8'].kl.mean:.4f} = {d.mean:.4f} ± {d.standard_error:.4f}")
    0.0164 - 0.0002 = 0.0162 ± 0.0004
    """
    sources = named(candidates)
    if keywords.flag(resume, "resume") and checkpoint is None:
        raise ValueError("`resume` needs a `checkpoint`")
    chunk_bytes = keywords.whole(chunk_bytes, "chunk_bytes", 1)
    keywords.callback(progress, "progress")
    keywords.callback(warn, "warn")
    read = (p, *sources.values(), tokens, *heads(options), *(by.values() if isinstance(by, Mapping) else [by]))
    if checkpoint is not None:
        refuse_streams((p, *sources.values()), "`checkpoint` (--checkpoint) needs files that can be read again")
    inputs = [os.fspath(x) for x in read if isinstance(x, (str, os.PathLike))]
    inputs += [source.path for source in read if isinstance(source, Source)]
    check_outputs({"`per_token`": per_token}, inputs, force=True, log=checkpoint)
    with ExitStack() as stack:
        base, *qs = opened(stack, p, sources, groups, **options)
        job = Job.of(
            base, qs, given=given, tokens=tokens, vocab_size=vocab_size, rows=rows, jensen_shannon=jensen_shannon,
            top_k=top_k, convention=convention, ignore_index=ignore_index, by=by,
        )  # fmt: skip
        job = job.looked_at(warn, chunk_bytes)
        summing = job.summing(list(sources))
        output = None
        if per_token is not None:
            output = stack.enter_context(PerToken(per_token, [q.path for q in qs], job.label_names))

        def take(columns: Candidates) -> None:
            summing.add(columns)
            if output is not None:
                output.add(columns)

        log, done = None, job.start
        if checkpoint is not None:
            # names that were given go with the job; those of a sequence follow from the paths, which may move
            given_names = {"names": list(sources)} if isinstance(candidates, Mapping) else {}
            log = stack.enter_context(Checkpoint(checkpoint, job.identity | given_names, resume, job.start))
            for columns in log.replay():
                take(columns)
            done = log.done
        if progress is not None:
            progress(done - job.start, job.stop - job.start)
        if done == job.stop == job.start:
            take(_no_rows(job))
        # closed here: the collector, which would do it too, prints what is raised meanwhile instead of raising it
        blocks = stack.enter_context(closing(chunks((base, *qs), done, job.stop, chunk_bytes)))
        for start, stop, (block, *others) in blocks:
            columns = [job.columns(start, block, other, i, num_threads) for i, other in enumerate(others)]
            take(columns)
            if log is not None:
                log.append(start, stop, columns)
            if progress is not None:
                progress(stop - job.start, job.stop - job.start)
        return job.finish(summing)


def _no_rows(job: Job) -> Candidates:
    """The columns of a job over no rows at all."""
    found = []
    for i, q in enumerate(job.qs):
        blocks = [np.empty((0, *shape), dtype) for dtype, shape in (row_type(job.p), row_type(q))]
        found.append(job.columns(job.start, blocks[0], blocks[1], i, 1))
    return found


def compare_files(
    p_path: Path | Source,
    q_path: Path | Source,
    *,
    given: Given = "logits",
    tokens: NDArray[Any] | Path | None = None,
    vocab_size: int | None = None,
    rows: tuple[int, int] | None = None,
    jensen_shannon: bool = False,
    top_k: Sequence[int] = (),
    convention: Literal["llama.cpp"] | None = None,
    ignore_index: int = IGNORE_INDEX,
    chunk_bytes: int = CHUNK_BYTES,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    per_token: Path | None = None,
    by: Any = None,
    **options: Unpack[JobOptions],
) -> ComparisonSummary:
    """Compare the rows of two files of logits, KL(p‖q) and all that `compare` gives, in bounded memory.

    Parameters
    ----------
    p_path, q_path : path-like or Source
        Files of (T, V) logits in any format of `open_logits`, p the reference. Formats and dtypes may differ. Either or
        both may be streams (`-`, a FIFO, `/dev/fd/N`: .npy, safetensors, a llama.cpp dump) that are being written.
    given : {"logits", "log_probs", "probs"}
        What the files hold; llama.cpp dumps hold log-probabilities whatever it says.
    tokens : array_like of int (T,), or path-like, optional
        The token that each row should predict, where neither file says; `.npy`, `.json` or text. Where both (or a
        file and this) say, they must agree.
    vocab_size : int, optional
        Compare the first columns only: needed where one file pads its vocabulary further than the other.
    rows : (start, stop), optional
        A part of the rows, for jobs split over machines.
    jensen_shannon : bool
        Give the Jensen-Shannon divergence too (a second pass over each chunk in memory).
    top_k : sequence of int
        For each k, how far the k likeliest tokens of p and q agree.
    convention : "llama.cpp", optional
        Give what `llama-perplexity --kl-divergence` prints too, as `parts["llama_cpp"]`; p must be its dump.
    ignore_index : int
        Rows with this token are not compared; `ignored` counts them.
    chunk_bytes : int
        Bytes of all files read at a time; four chunks are in memory.
    num_threads : int, optional
    progress : callable, optional
        Called with the rows done and the rows in all.
    warn : callable, optional
        Called before the work with a line for each thing that looks wrong in some rows of the files (shifted, permuted,
        probabilities taken for logits, ...). The lines are in `facts["warnings"]` of the summary too.
    checkpoint : path-like, optional
        Log what was computed there after each chunk. With `resume` a log that is there is continued (or, if there is
        none, begun): the result has the same bits as that of an uninterrupted run.
    resume : bool
    per_token : path-like, optional
        Write a file with one row a token and candidate, CSV if its name ends in `.csv`, else Parquet; it appears when
        it is complete.
    by : path-like, array_like, or mapping of str to either, optional
        Labels of the rows, or of the groups (chunks, documents) where there are as many; `facts["labels"]` says which
        were taken. A file (Parquet, CSV with a header, JSON, JSON lines, `.npy`) has a set of labels in each column, in
        a mapping the one of that name. `by["domain"]["code"]` of the result is the summary of the rows of a label, and
        `by["code"]` where the set has no name. 500 labels at most; rows without one (null, "") are "(none)".
    **options
        Of `open_logits`, for both files. `read={"p": {"tensor": "x"}, "q": {"lm_head": "model", "norm": "model"}}` has
        those of one file, which go before: "p", "q" (all candidates), or a candidate's name.

    Returns
    -------
    ComparisonSummary
        With `parts`: "by_confidence" (bins of p's greatest probability), "by_position" (within its group),
        "worst_tokens", "null_control" (the KL that rounding to the stored dtypes would give by itself), and, where they
        apply, "clipping", "jensen_shannon", "top_k_agreement", "llama_cpp"; and `facts` about the files. Where a
        file knows chunks or documents, standard errors that respect them are given beside the naive ones.

    Raises
    ------
    ValueError
        If the files do not fit together (rows, vocabulary, tokens), are damaged, or an argument is wrong.
    OSError
        If a file cannot be read, was changed meanwhile, or the output cannot be written.
    ImportError
        If a format or an output needs a library that is not installed.

    Notes
    -----
    All figures are of the same rows: those that are not ignored and have a distribution in both files. Rows without
    one (NaN, +inf, all -inf) are counted in `undefined`, ignored ones in `ignored`. Infinite values make means
    infinite; `finite` is without them. Results do not depend on `chunk_bytes` or `num_threads`, to the bit.

    Above 2²¹ tokens quantiles come from values cut to 15 significant bits (fewer where they fill more than 32 octaves,
    8 if they fill all of float64): `quantile_error` says how far off they may be, as a share of the value.

    On llama.cpp dumps, code 0 says only that a log-probability lies 16 nats under the maximum or lower. KL is then
    the sum over the other entries of p·ln(p/q) - p + q, whose terms are not negative and which the rounding of the
    codes moves in second order only; renormalising instead would add 4e-4 nats (see `evaluation.clipped`).

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     p, q = os.path.join(folder, "p.npy"), os.path.join(folder, "q.npy")
    ...     np.save(p, np.log([[0.5, 0.5], [0.9, 0.1]]))
    ...     np.save(q, np.log(np.float32([[0.9, 0.1], [0.9, 0.1]])))
    ...     summary = compare_files(p, q, tokens=np.array([0, 1]))
    >>> print(summary.tokens, round(summary.kl.max, 4), summary.same_top1.mean)
    2 0.5108 1.0
    """
    (summary,) = compare_candidates(
        p_path, [q_path], given=given, tokens=tokens, vocab_size=vocab_size, rows=rows,
        jensen_shannon=jensen_shannon, top_k=top_k, convention=convention, ignore_index=ignore_index,
        chunk_bytes=chunk_bytes, num_threads=num_threads, progress=progress, warn=warn,
        checkpoint=checkpoint, resume=resume, per_token=per_token, by=by, **options,
    ).values()  # fmt: skip
    return summary
