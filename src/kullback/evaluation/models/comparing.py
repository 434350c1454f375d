"""compare_models: folders of models and a text -> a comparison, a batch of logits at a time, resumable."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from kullback._engine import keywords
from kullback.comparison import CandidateComparison
from kullback.evaluation.candidates import named
from kullback.evaluation.checkpoint import Candidates, Checkpoint
from kullback.evaluation.columns import IGNORE_INDEX, Plan
from kullback.evaluation.live import LiveComparison
from kullback.evaluation.models.loading import (
    DTYPES,
    Model,
    check_folder,
    check_same,
    encoded,
    first_row,
    load_tokenizer,
    padded,
)  # fmt: skip
from kullback.evaluation.models.windows import Window, Windows, batches, read_documents, windows_of
from kullback.evaluation.outputs import check_outputs
from kullback.evaluation.per_token import PerToken
from kullback.evaluation.plan import Path, note_facts

__all__ = ["compare_models"]


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
) -> CandidateComparison:
    """Run a base model and its candidates on a text and compare what they predict; no logits are written.

    Parameters
    ----------
    base : path-like
        The folder of a transformers model (`save_pretrained`), with its tokenizer. Nothing is downloaded, and no code
        that a folder brings is run.
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
    context = keywords.whole(context, "context", 2)
    stride = max(context // 2, 1) if stride is None else keywords.whole(stride, "stride", 1)
    if stride > context:
        raise ValueError(f"`stride` is {stride}, expected at most {context}, the context: tokens would be left out")
    keywords.choice(windows, "windows", ("overlapping", "llama.cpp"))
    keywords.choice(dtype, "dtype", DTYPES)
    batch = keywords.whole(batch, "batch", 1)
    if keywords.flag(resume, "resume") and checkpoint is None:
        raise ValueError("`resume` needs a `checkpoint`")
    check_outputs({"`per_token`": per_token}, [base, text, *folders.values()], force=True, log=checkpoint)
    plan = Plan("logits", 0, 0, jensen_shannon, tuple(sorted(set(top_k))), False, IGNORE_INDEX)
    reading = {"text": os.fspath(text), "context": context, "stride": stride, "windows": windows}
    job = _Job(os.fspath(base), folders, plan, reading, {"dtype": dtype, "device": device, "batch": batch})
    job.read(field, keywords.flag(split, "split"))
    job.load(vocab_size)
    with ExitStack() as stack:
        sinks: list[Callable[[int, int, Candidates], None]] = []
        if per_token is not None:
            output = stack.enter_context(PerToken(per_token, list(folders.values())))
            sinks.append(lambda start, stop, columns: output.add(columns))
        if progress is not None:
            sinks.append(lambda start, stop, columns: progress(stop, job.rows))

        def take(start: int, stop: int, columns: Candidates) -> None:
            for sink in sinks:
                sink(start, stop, columns)

        live = LiveComparison(
            candidates=list(folders), rows=job.rows, vocab_size=job.plan.vocab, jensen_shannon=jensen_shannon,
            top_k=top_k, num_threads=num_threads, warn=warn,
            taking=take,
        )  # fmt: skip
        if checkpoint is not None:
            given_names = {"names": list(folders)} if isinstance(candidates, Mapping) else {}
            log = stack.enter_context(Checkpoint(checkpoint, job.identity | given_names, resume, 0))
            for columns in log.replay():
                live.restore(live.rows, log.done, columns)
                if per_token is not None:
                    output.add(columns)
            sinks.append(log.append)
        if progress is not None:
            progress(live.rows, job.rows)
        for start, _, some in batches(job.windows, batch):
            if start >= live.rows:
                job.compare(live, some)
        return job.noted(live.comparison())


class _Job:
    """Models, and the windows of a text that they read."""

    def __init__(
        self,
        base: str,
        folders: dict[str, str],
        plan: Plan,
        reading: dict[str, Any],
        running: dict[str, Any],
    ) -> None:
        self.plan = plan
        self._base, self._folders, self._reading, self._running = base, folders, reading, running
        self.windows: list[Window] = []
        self.rows = 0
        self._models: list[Model] = []

    def read(self, field: str, split: bool) -> None:
        """The windows of the text, by the base's tokenizer, which must be that of all."""
        text, context = self._reading["text"], self._reading["context"]
        for folder in (self._base, *self._folders.values()):
            check_folder(folder)
        documents = read_documents(text, field, split)
        tokenizer = load_tokenizer(self._base)
        if tokenizer is None:
            raise ValueError(f"{self._base}: has no tokenizer, and the candidates' may not be its own")
        ids = encoded(tokenizer, documents)
        for folder in self._folders.values():
            other = load_tokenizer(folder)
            if other is not None:
                check_same((self._base, folder), (tokenizer, other), documents, ids)
        begin = tokenizer.bos_token_id
        begin = begin if begin is not None and any(len(some) and some[0] == begin for some in ids) else None
        self.windows = windows_of(ids, context, self._reading["stride"], self._reading["windows"], begin)
        self.rows = sum(window.rows for window in self.windows)
        if not self.rows:
            count = sum(map(len, ids))
            raise ValueError(f"{text}: its {count} tokens fill no window of {context} with a token to be asked for")
        self._reading["documents"] = len(documents)
        self._tokens = zlib.crc32(b"".join(window.ids.tobytes() for window in self.windows))

    def load(self, vocab_size: int | None) -> None:
        """The models, and the vocabulary that is compared."""
        dtype, device = self._running["dtype"], self._running["device"]
        self._models = [Model(folder, dtype, device) for folder in (self._base, *self._folders.values())]
        sizes = {model.path: model.vocab for model in self._models}
        least = min(sizes.values())
        if vocab_size is None and len(set(sizes.values())) > 1:
            listed = ", ".join(f"{path} has {size}" for path, size in sizes.items())
            raise ValueError(
                f"vocabularies differ: {listed}; if the further entries are padding, compare the first {least}: "
                f"vocab_size={least} (--vocab-size {least})"
            )
        vocab = least if vocab_size is None else keywords.whole(vocab_size, "vocab_size", 1)
        if vocab > least:
            raise ValueError(f"`vocab_size` is {vocab}, expected from 1 to {least}, the least vocabulary")
        settings = asdict(self.plan) | {"vocab": vocab, "rows": self.rows}
        self.plan = Plan(**settings)

    def compare(self, live: LiveComparison, some: Sequence[Window]) -> None:
        """Let all models read some windows; the rows that predict what is asked for are compared."""
        ids, there = padded(some)
        first = first_row(some)
        places = np.arange(first + 1, ids.shape[1])
        asked = there[:, first + 1 :] & (places >= np.array([window.first for window in some])[:, None])
        logits = [model.logits(some)[:, :-1] for model in self._models]
        live.update_both(
            logits[0], dict(zip(self._folders, logits[1:], strict=True)), ids[:, first + 1 :],
            np.array([window.group for window in some]), asked,
        )  # fmt: skip

    def _facts(self, model: Model) -> dict[str, Any]:
        shape = [self.rows, model.vocab]
        groups = len({window.group for window in self.windows})
        facts = {"path": model.path, "format": "transformers", "shape": shape, "dtype": model.dtype}
        return facts | {"tokens": True, "groups": groups} | (self._reading if model is self._models[0] else {})

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on, for checkpoints."""
        rows: dict[int, int] = {}
        for window in self.windows:
            rows[window.group] = rows.get(window.group, 0) + window.rows
        return {
            "p": self._facts(self._models[0]),
            "q": [self._facts(model) for model in self._models[1:]],
            "files": [_stamp(model.path) for model in self._models],
            "plan": asdict(self.plan),
            "rows": [0, self.rows],
            "tokens": {"path": self._reading["text"], "crc32": self._tokens},
            "longest_group": max(rows.values()),
            "running": self._running,
            "folder": os.getcwd(),
        }

    def noted(self, found: CandidateComparison) -> CandidateComparison:
        """With the facts about the models and how they read the text."""
        base, *others = [self._facts(model) for model in self._models]
        for q, summary in zip(others, found.summaries, strict=True):
            warnings = summary.facts.get("warnings")
            note_facts(summary, base, q, self.plan, (0, self.rows))
            if warnings:
                summary.facts["warnings"] = warnings
        return found


def _stamp(folder: str) -> dict[str, Any]:
    """What tells the files of a folder from others under their names."""
    with os.scandir(folder) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    found = sorted((name, status.st_size, status.st_mtime_ns) for name, status in files)
    digest = zlib.crc32(repr(found).encode())
    return {"files": len(found), "bytes": sum(size for _, size, _ in found), "stamp": f"{digest:08x}"}
