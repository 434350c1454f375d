"""Folders of models and a text -> a comparison, or a reference of one; a batch of logits at a time, resumable."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from kullback._engine import keywords
from kullback.comparison import CandidateComparison
from kullback.evaluation.candidates import named
from kullback.evaluation.checkpoint import Candidates, Checkpoint
from kullback.evaluation.columns import IGNORE_INDEX, Plan
from kullback.evaluation.live import LiveComparison
from kullback.evaluation.live.batch import Incoming, viewed
from kullback.evaluation.models.loading import DTYPES, check_folder
from kullback.evaluation.models.running import Reading, Running
from kullback.evaluation.models.windows import Windows, batches
from kullback.evaluation.outputs import check_outputs
from kullback.evaluation.per_token import PerToken
from kullback.evaluation.plan import Path
from kullback.evaluation.reference.writer import ReferenceWriter

__all__ = ["compare_models", "reference_of_model"]


def compare_models(
    base: Path,
    candidates: Mapping[str, Path] | Sequence[Path],
    text: Path,
    *,
    field: str = "text",
    split: bool = False,
    context: int = 512,
    stride: int | None = None,
    windows: Windows = "overlapping",
    dtype: str = "auto",
    device: str = "cpu",
    batch: int = 1,
    vocab_size: int | None = None,
    jensen_shannon: bool = False,
    top_k: Sequence[int] = (),
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    per_token: Path | None = None,
    by_fields: Sequence[str] = (),
) -> CandidateComparison:
    """Run a base model and its candidates on a text and compare what they predict; no logits are written.

    Parameters
    ----------
    base : path-like
        The folder of a transformers model (`save_pretrained`), with its tokenizer. Nothing is downloaded, and no code
        that a folder brings is run. Or its rows for this text, by `reference_of_model`, so that it need not run again.
    candidates : mapping of str to path-like, or sequence of path-like
        Folders of the candidates. Their tokenizers, where they have any, must be the base's.
    text : path-like
        UTF-8 text, or JSON lines (`.jsonl`) with a document in each.
    field : str
        Of lines of JSON, the one that has the text.
    split : bool
        Plain text is several documents, with blank lines between.
    context : int
        Tokens that a model reads at a time.
    stride : int, optional
        Tokens from one window to the next, half the context by default: each token but a document's first is asked for
        once, with `context - stride` tokens before it at least, where the document has so many.
    windows : {"overlapping", "llama.cpp"}
        "llama.cpp" takes the windows of llama-perplexity: side by side, of each the second half asked for.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        What the models compute in; "auto" is what each is stored in.
    device : str
        Where they run; the comparison is on the CPU.
    batch : int
        Windows that a model reads at a time.
    vocab_size, jensen_shannon, top_k, num_threads, progress, warn, checkpoint, resume, per_token
        As in `compare_files`.
    by_fields : sequence of str
        Fields of the JSON lines that are labels of the documents: `summary.by["domain"]["code"]`.

    Returns
    -------
    CandidateComparison
        As of `compare_candidates`. The groups are the documents, of a single one its windows.

    Raises
    ------
    ValueError, OSError, ImportError
        If a folder has no model that transformers loads, tokenizers or vocabularies differ, or the text is too short.
    """
    folders = {name: os.fspath(path) for name, path in named(candidates).items()}
    reading = Reading.of(text, field, split, context, stride, windows, by_fields)
    keywords.choice(dtype, "dtype", DTYPES)
    batch = keywords.whole(batch, "batch", 1)
    if keywords.flag(resume, "resume") and checkpoint is None:
        raise ValueError("`resume` needs a `checkpoint`")
    check_outputs({"`per_token`": per_token}, [base, text, *folders.values()], force=True, log=checkpoint)
    running = Running(os.fspath(base), folders, reading, {"dtype": dtype, "device": device, "batch": batch})
    with ExitStack() as stack:
        running.open(stack)
        vocab = running.common(vocab_size)
        plan = Plan("logits", vocab, running.rows, jensen_shannon, tuple(sorted(set(top_k))), False, IGNORE_INDEX)
        label_names = {} if running.labels is None else running.labels.names
        sinks: list[Callable[[int, int, Candidates], None]] = []
        if per_token is not None:
            output = stack.enter_context(PerToken(per_token, list(folders.values()), label_names))
            sinks.append(lambda start, stop, columns: output.add(columns))
        if progress is not None:
            sinks.append(lambda start, stop, columns: progress(stop, running.rows))

        def take(start: int, stop: int, columns: Candidates) -> None:
            for sink in sinks:
                sink(start, stop, columns)

        live = LiveComparison(
            running.reference, candidates=list(folders), rows=running.rows, vocab_size=vocab,
            jensen_shannon=jensen_shannon, top_k=top_k, num_threads=num_threads, by=running.labels, warn=warn,
            taking=take,
        )  # fmt: skip
        if checkpoint is not None:
            given_names = {"names": list(folders)} if isinstance(candidates, Mapping) else {}
            log = stack.enter_context(Checkpoint(checkpoint, running.identity(plan) | given_names, resume, 0))
            for columns in log.replay():
                live.restore(live.rows, log.done, columns)
                if per_token is not None:
                    output.add(columns)
            sinks.append(log.append)
        if progress is not None:
            progress(live.rows, running.rows)
        for start, _, some in batches(running.windows, batch):
            if start >= live.rows:
                running.compare(live, some)
        return running.noted(live.comparison(), plan)


def reference_of_model(
    base: Path,
    text: Path,
    path: Path,
    *,
    top_k: int = 256,
    field: str = "text",
    split: bool = False,
    context: int = 512,
    stride: int | None = None,
    windows: Windows = "overlapping",
    dtype: str = "auto",
    device: str = "cpu",
    batch: int = 1,
    vocab_size: int | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """Run a model on a text and keep what it predicts as a compact reference, to compare candidates with elsewhere.

    Parameters
    ----------
    base, text, field, split, context, stride, windows, dtype, device, batch, num_threads, progress
        As in `compare_models`.
    path : path-like
        The folder to make, by custom NAME.kbref: `base` of `compare_models`.
    top_k, vocab_size, resume, overwrite
        As in `ReferenceWriter`.

    Returns
    -------
    int
        How many rows it has.
    """
    reading = Reading.of(text, field, split, context, stride, windows)
    keywords.choice(dtype, "dtype", DTYPES)
    batch = keywords.whole(batch, "batch", 1)
    running = Running(os.fspath(base), {}, reading, {"dtype": dtype, "device": device, "batch": batch})
    check_folder(running.base)
    with ExitStack() as stack:
        running.open(stack)
        vocab = running.common(vocab_size)
        (source,) = running.facts()
        writer = stack.enter_context(
            ReferenceWriter(
                path, top_k=top_k, vocab_size=vocab, resume=resume, overwrite=overwrite, num_threads=num_threads,
                source=source | dict(running.settings),
            )
        )  # fmt: skip
        for start, stop, some in batches(running.windows, batch):
            if stop <= writer.rows:
                continue
            (logits,), rows = running.read(some)
            x = viewed(logits, "logits")
            found = Incoming(x.shape[:-1], rows["mask"], rows["tokens"], rows["groups"])
            assert found.tokens is not None and found.groups is not None
            for first, end in found.spans([x], len(found.places)):
                first = max(first, writer.rows - start)  # a part that was kept may end within a batch
                if first < end:
                    writer.write(found.rows(x, "logits", first, end), found.tokens[first:end], found.groups[first:end])
            if progress is not None:
                progress(stop, running.rows)
        return running.rows
