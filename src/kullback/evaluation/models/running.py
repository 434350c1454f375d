"""Models that run over the windows of a text, their base among them or known from before, and what is known of both."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords
from kullback.comparison import CandidateComparison, LabelSet, encoded as encoded_labels
from kullback.evaluation.columns import Plan
from kullback.evaluation.label_files import JobLabels
from kullback.evaluation.live import LiveComparison
from kullback.evaluation.models.loading import Model, check_folder, check_same, encoded, is_model, load_tokenizer
from kullback.evaluation.models.windows import Window, Windows, first_row, padded, read_documents, windows_of
from kullback.evaluation.plan import note_facts, note_labels, stamp_of
from kullback.evaluation.sources import Source, open_logits

__all__ = ["Reading", "Running"]


@dataclass(frozen=True)
class Reading:
    """How a text is read: in which documents and windows."""

    text: str
    context: int
    stride: int
    windows: Windows
    field: str
    split: bool
    by: tuple[str, ...] = ()  # fields of lines of JSON that are labels

    @classmethod
    def of(
        cls,
        text: str | os.PathLike[str],
        field: str,
        split: bool,
        context: int,
        stride: int | None,
        windows: Windows,
        by: Sequence[str] = (),
    ) -> Reading:
        context = keywords.whole(context, "context", 2)
        stride = max(context // 2, 1) if stride is None else keywords.whole(stride, "stride", 1)
        if stride > context:
            raise ValueError(f"`stride` is {stride}, expected at most {context}, the context: tokens would be left out")
        keywords.choice(windows, "windows", ("overlapping", "llama.cpp"))
        fields = tuple(dict.fromkeys(keywords.several(by, "by_fields", "names of fields")))
        if fields and windows == "llama.cpp":
            raise ValueError(
                "`by_fields` (--by-field) label documents, which the windows of llama.cpp do not tell apart"
            )
        return cls(os.fspath(text), context, stride, windows, field, keywords.flag(split, "split"), fields)

    def facts(self) -> dict[str, Any]:
        return {"text": self.text, "context": self.context, "stride": self.stride, "windows": self.windows}


@dataclass
class Running:
    """Candidates, a base that is a model or rows of one (a reference), and the windows that they read."""

    base: str
    folders: Mapping[str, str]
    reading: Reading
    settings: Mapping[str, Any]  # dtype, device, batch
    reference: Source | None = None
    windows: list[Window] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    vocab: int = 0
    models: list[Model] = field(default_factory=list)
    labels: JobLabels | None = None

    def open(self, stack: ExitStack) -> None:
        """Read the text, check whatever can be checked, then load the models."""
        if not is_model(self.base) and os.path.exists(self.base):
            self.reference = stack.enter_context(open_logits(self.base))
        folders = [*self.folders.values()] if self.reference is not None else [self.base, *self.folders.values()]
        for folder in folders:
            check_folder(folder)
        self._read(folders)
        if self.reference is not None:
            self._check_reference(self.reference)
        self.models = [Model(folder, self.settings["dtype"], self.settings["device"]) for folder in folders]

    def _read(self, folders: Sequence[str]) -> None:
        """The windows of the text, by the base's tokenizer, which must be that of all.

        Where the base is a reference, whose tokens are compared with those of the windows, by the first that is found.
        """
        reading = self.reading
        documents, by = read_documents(reading.text, reading.field, reading.split, reading.by)
        found = {folder: tokenizer for folder in folders if (tokenizer := load_tokenizer(folder)) is not None}
        if not found or (self.reference is None and self.base not in found):
            raise ValueError(f"{folders[0]}: has no tokenizer, and those of other folders may not be its own")
        (first, tokenizer), *others = found.items()
        ids = encoded(tokenizer, documents)
        for folder, other in others:
            check_same((first, folder), (tokenizer, other), documents, ids)
        begin = tokenizer.bos_token_id
        begin = begin if begin is not None and any(len(some) and some[0] == begin for some in ids) else None
        self.windows = windows_of(ids, reading.context, reading.stride, reading.windows, begin)
        self.documents, self.rows = len(documents), sum(window.rows for window in self.windows)
        if not self.rows:
            count = sum(map(len, ids))
            raise ValueError(
                f"{reading.text}: its {count} tokens fill no window of {reading.context} with a token to be asked for"
            )

        if by:
            self.labels = self._labelled(by)

    def _labelled(self, by: Mapping[str, list[Any]]) -> JobLabels:
        """The labels of the documents, a code a row."""
        of_rows = [window.group if self.documents > 1 else 0 for window in self.windows for _ in range(window.rows)]
        path = self.reading.text
        sets = {name: encoded_labels(labels, f"{path}: {name!r}") for name, labels in by.items()}
        found = {name: LabelSet(labels.names, labels.codes[of_rows]) for name, labels in sets.items()}
        return JobLabels(found, dict.fromkeys(found, "group"), (path,))

    def _check_reference(self, reference: Source) -> None:
        """Its rows must be those of these windows."""
        asked = np.concatenate([window.ids[window.first :] for window in self.windows])
        how = "the text, --split, --context, --stride and --windows must be those that it was written with"
        if reference.shape[0] != self.rows:
            raise ValueError(f"{reference.path} has {reference.shape[0]} rows, the text makes {self.rows}: {how}")
        if reference.tokens is not None and not np.array_equal(reference.tokens, asked):
            row = int(np.flatnonzero(reference.tokens != asked)[0])
            raise ValueError(
                f"{reference.path} has the token {reference.tokens[row]} at row {row}, the text {asked[row]}: {how}"
            )

    def common(self, vocab_size: int | None) -> int:
        """The vocabulary that is compared."""
        sizes = {} if self.reference is None else {self.reference.path: self.reference.shape[1]}
        sizes |= {model.path: model.vocab for model in self.models}
        least = min(sizes.values())
        if vocab_size is None and len(set(sizes.values())) > 1:
            listed = ", ".join(f"{path} has {size}" for path, size in sizes.items())
            raise ValueError(
                f"vocabularies differ: {listed}; if the further entries are padding, compare the first {least}: "
                f"vocab_size={least} (--vocab-size {least})"
            )
        self.vocab = least if vocab_size is None else keywords.whole(vocab_size, "vocab_size", 1)
        if self.vocab > least:
            raise ValueError(f"`vocab_size` is {self.vocab}, expected from 1 to {least}, the least vocabulary")
        return self.vocab

    def read(self, some: Sequence[Window]) -> tuple[list[Any], dict[str, NDArray[Any]]]:
        """The logits that all models have for some windows, and which of them are asked for what."""
        ids, there = padded(some)
        first = first_row(some)
        places = np.arange(first + 1, ids.shape[1])
        asked = there[:, first + 1 :] & (places >= np.array([window.first for window in some])[:, None])
        groups = np.array([window.group for window in some])
        logits = [model.logits(some)[:, :-1] for model in self.models]
        return logits, {"tokens": ids[:, first + 1 :], "groups": groups, "mask": asked}

    def compare(self, live: LiveComparison, some: Sequence[Window]) -> None:
        """Let all models read some windows; the rows that predict what is asked for are compared."""
        logits, rows = self.read(some)
        if self.reference is None:
            live.update_both(logits[0], dict(zip(self.folders, logits[1:], strict=True)), **rows)
        else:
            live.update(dict(zip(self.folders, logits, strict=True)), **rows)

    def facts(self) -> list[dict[str, Any]]:
        """What is known of the base and of each candidate."""
        groups = len({window.group for window in self.windows})
        found = [
            {"path": model.path, "format": "transformers", "shape": [self.rows, model.vocab], "dtype": model.dtype,
             "tokens": True, "groups": groups}
            for model in self.models
        ]  # fmt: skip
        if self.reference is not None:
            found.insert(0, self.reference.facts())
        found[0] |= self.reading.facts() | {"documents": self.documents}
        return found

    def identity(self, plan: Plan) -> dict[str, Any]:
        """What the result depends on, for checkpoints."""
        counts = np.bincount([window.group for window in self.windows], [window.rows for window in self.windows])
        base, *others = self.facts()
        stamps = [_stamp(model.path) for model in self.models]
        return {
            "p": base,
            "q": others,
            "files": stamps if self.reference is None else [stamp_of(self.reference), *stamps],
            "plan": asdict(plan),
            "rows": [0, self.rows],
            "tokens": {
                "path": self.reading.text,
                "crc32": zlib.crc32(b"".join(window.ids.tobytes() for window in self.windows)),
            },
            "longest_group": int(counts.max()),
            "running": dict(self.settings),
            "folder": os.getcwd(),
        } | ({} if self.labels is None else {"by": self.labels.identity})

    def noted(self, found: CandidateComparison, plan: Plan) -> CandidateComparison:
        """With the facts about the models and how they read the text."""
        base, *others = self.facts()
        for q, summary in zip(others, found.summaries, strict=True):
            warnings = summary.facts.get("warnings")
            note_facts(summary, base, q, plan, (0, self.rows))
            note_labels(summary, {} if self.labels is None else self.labels.identity)
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
