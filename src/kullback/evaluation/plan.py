"""A job: sources checked against each other, and everything that decides what is computed."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import Given, keywords
from kullback.comparison import CandidateComparison, ComparisonSummary
from kullback.evaluation.candidates import ArraySource, Summing
from kullback.evaluation.columns import IGNORE_INDEX, Plan, compare_rows
from kullback.evaluation.label_files import JobLabels
from kullback.evaluation.parts import Convention, position_width
from kullback.evaluation.sources import Dump, Source
from kullback.evaluation.sources.lists import ListedRows
from kullback.evaluation.sources.reference import Reference
from kullback.evaluation.sources.reference_files import FORMAT
from kullback.evaluation.sources.streams import refuse_streams
from kullback.evaluation.suspicions import suspicions
from kullback.evaluation.tokens import common_rows, common_vocabulary, target_groups, target_tokens

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Job:
    """Sources checked against each other, and everything that decides what is computed."""

    p: Source
    qs: tuple[Source, ...]
    plan: Plan
    start: int
    stop: int
    tokens: NDArray[np.int64] | None
    groups: NDArray[np.int64] | None
    positions: NDArray[np.int64]
    remarks: tuple[tuple[str, ...], ...]  # what looks wrong, of each candidate
    windows: tuple[float, ...]  # of p and the candidates, as known before reading: what is met later changes nothing
    tokens_path: str | None = None  # of the file of tokens, where one was named
    labels: JobLabels | None = None

    @classmethod
    def of(
        cls,
        p: Source,
        qs: Sequence[Source],
        *,
        given: Given = "logits",
        vocab_size: int | None = None,
        tokens: NDArray[Any] | Path | None = None,
        rows: tuple[int, int] | None = None,
        jensen_shannon: bool = False,
        top_k: Sequence[int] = (),
        convention: Literal["llama.cpp"] | None = None,
        ignore_index: int = IGNORE_INDEX,
        by: Any = None,
    ) -> Job:
        """Check everything that can be checked before the first row is read."""
        keywords.space(given)
        ignore_index = keywords.integer(ignore_index, "ignore_index")
        total = common_rows(p, qs)
        vocab = common_vocabulary(p, qs, vocab_size)
        ids = target_tokens(p, qs, tokens, ignore_index)
        if isinstance(p, Reference) and p.tokens is None:
            ids = None
        if ids is not None:
            outside = (ids >= vocab) & (ids != ignore_index)
            if outside.any():
                row = int(np.flatnonzero(outside)[0])
                raise ValueError(f"the token of row {row} is {ids[row]}, outside the vocabulary of {vocab} compared")
        dumps = [source for source in (p, *qs) if isinstance(source, Dump)]
        if dumps and given == "probs":
            raise ValueError(f"`given` is 'probs', but {dumps[0].path} holds log-probabilities")
        jensen_shannon = keywords.flag(jensen_shannon, "jensen_shannon")
        keywords.choice(convention, "convention", ("llama.cpp", None))
        if convention and not (isinstance(p, Dump) and vocab == p.shape[1]):
            raise ValueError(
                f"`convention` is 'llama.cpp', which needs a llama.cpp dump with its whole vocabulary as P; "
                f"{p.path} is {p.format}, {vocab} of its {p.shape[1]} columns are compared"
            )
        top_k = tuple(keywords.whole(k, "top_k", 1) for k in keywords.several(top_k, "top_k", "whole numbers from 1"))
        check_references(p, qs, vocab, tokens, top_k, jensen_shannon)
        start, stop = (0, total) if rows is None else keywords.several(rows, "rows", "two row numbers")
        if not 0 <= start <= stop <= total:
            raise ValueError(f"`rows` is {(start, stop)}, expected a range within 0 to {total}, the rows of {p.path}")
        if start:
            refuse_streams((p, *qs), f"`rows` begins at {start} (--rows), expected 0, or files")
        if convention and start == stop:
            raise ValueError(f"`rows` is {(start, stop)}: no rows for the statistics of llama.cpp")
        plan = Plan(
            given, vocab, total, jensen_shannon, tuple(sorted(set(top_k))), convention is not None, ignore_index
        )
        windows = tuple(source.window if isinstance(source, Dump) else 0.0 for source in (p, *qs))
        groups, positions, remarks = target_groups(p, qs)
        path = os.fspath(tokens) if isinstance(tokens, (str, os.PathLike)) else None
        if by is None and isinstance(p, Reference):
            by = p.labels()
        labels = None if by is None else JobLabels.of_job(by, total, groups)
        remarked = (remarks,) * len(qs)
        return cls(p, tuple(qs), plan, start, stop, ids, groups, positions, remarked, windows, path, labels)

    def looked_at(self, warn: Callable[[str], None] | None, most_bytes: int) -> Job:
        """The job with what looks wrong in some rows of its files; `warn` is told each of these remarks once."""
        if self.p.record is not None:  # of which no row can be looked at
            return self
        found = suspicions(self.p, self.qs, self.plan.given, self.tokens, (self.start, self.stop), most_bytes)
        remarks = tuple((*old, *new) for old, new in zip(self.remarks, found, strict=True))
        for line in dict.fromkeys(line for lines in remarks for line in lines):
            if warn is not None:
                warn(line)
        return replace(self, remarks=remarks)

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on, for checkpoints."""
        return {
            "p": self.p.facts(),
            "q": [q.facts() for q in self.qs],
            "files": [stamp_of(source) for source in (self.p, *self.qs)],
            "plan": asdict(self.plan),
            "rows": [self.start, self.stop],
            "tokens": None
            if self.tokens is None
            else {"path": self.tokens_path, "crc32": zlib.crc32(self.tokens.tobytes())},
            "longest_group": self.longest_group,
            "folder": os.getcwd(),  # from which relative names lead to files
        } | ({} if self.labels is None else {"by": self.labels.identity})

    @property
    def longest_group(self) -> int:
        return int(self.positions.max(initial=0)) + 1

    def columns(
        self, start: int, p: NDArray[Any], q: NDArray[Any], candidate: int, num_threads: int | None
    ) -> dict[str, NDArray[Any]]:
        """The columns of a chunk of one candidate, with what the rows are."""
        part = slice(start, start + len(p))
        tokens = None if self.tokens is None else self.tokens[part]
        windows = self.windows[0], self.windows[1 + candidate]
        cells = self.p.cells if isinstance(self.p, Reference) else None
        columns = compare_rows(self.plan, p, q, windows, start, tokens, num_threads, cells)
        columns["row"] = np.arange(part.start, part.stop)
        columns["position"] = self.positions[part]
        if tokens is not None:
            columns["token"] = tokens
        if self.groups is not None:
            columns["group"] = self.groups[part]
        return columns if self.labels is None else columns | self.labels.columns(part)

    def summing(self, names: Sequence[str]) -> Summing:
        """What the columns of all candidates are added to."""
        return Summing(names, position_width(self.longest_group), self.tokens, self.label_names)

    @property
    def label_names(self) -> dict[str, tuple[str, ...]]:
        """The labels of each set, in the order of their numbers."""
        return {} if self.labels is None else self.labels.names

    def finish(self, summing: Summing) -> CandidateComparison:
        """The comparison, with the facts about the files as known after reading them."""
        found = summing.finish()
        self.note(found.summaries)
        return found

    def note(self, summaries: Sequence[ComparisonSummary]) -> None:
        """Put the facts about the files, as known after reading them, into the summaries."""
        for q, summary, remarks in zip(self.qs, summaries, self.remarks, strict=True):
            note_facts(summary, self.p.facts(), q.facts(), self.plan, (self.start, self.stop))
            note_labels(summary, {} if self.labels is None else self.labels.identity)
            if remarks:
                summary.facts["warnings"] = list(remarks)


def check_references(
    p: Source, qs: Sequence[Source], vocab: int, tokens: Any, top_k: Sequence[int], jensen_shannon: bool
) -> None:
    """Refuse what a compact reference does not tell."""
    for q in qs:
        if isinstance(q, Reference):
            raise ValueError(f"{q.path}: a compact reference can only be P, which candidates are compared with")
    if isinstance(p, ListedRows) and (jensen_shannon or top_k):
        asked = "top_k" if top_k else "jensen_shannon"
        raise ValueError(f"`{asked}` needs logits; {p.path} has lists of some outcomes")
    if not isinstance(p, Reference):
        return
    if vocab != p.shape[1]:
        raise ValueError(
            f"{p.path} is a reference of {p.shape[1]} columns, but {vocab} are to be compared: its rows are normalised "
            "over all; write it with vocab_size (--vocab-size)"
        )
    if tokens is not None and p.tokens is None:
        raise ValueError(
            f"`tokens` are given, but {p.path} was written without and does not know their log-probabilities"
        )
    if jensen_shannon:
        raise ValueError(f"`jensen_shannon` needs logits; {p.path} is a compact reference")
    if max(top_k, default=0) > p.layout.top_k:
        raise ValueError(f"`top_k` is {max(top_k)}, but {p.path} lists {p.layout.top_k} of each row")


def note_facts(
    summary: ComparisonSummary, p: dict[str, Any], q: dict[str, Any], plan: Plan, rows: tuple[int, int]
) -> None:
    """Put into `summary.facts` what is known about the files and how they were compared."""
    dumps = "llama.cpp" in (p["format"], q["format"])
    if p["format"] == FORMAT:
        method = REFERENCE_METHOD
    elif "entries" in p:
        method = LISTS_METHOD
    else:
        method = CLIPPED_METHOD if dumps else f"all entries, given as {plan.given}, normalised"
    summary.facts = {
        "p": _lasting(p),
        "q": _lasting(q),
        "vocab_size": plan.vocab,
        "rows": list(rows),
        "given": plan.given,
        "method": method,
        "ignored_tokens": summary.ignored,
    }
    convention = summary.parts.get("llama_cpp")
    if isinstance(convention, Convention) and q["format"] == "llama.cpp":
        convention.note = DUMP_NOTE


def note_labels(summary: ComparisonSummary, labels: dict[str, Any]) -> None:
    """Put into `summary.facts` where the labels of a job came from, and whether they are of rows or of groups."""
    if labels:
        of = {one["name"]: one["of"] for one in labels["sets"]}
        summary.facts["labels"] = {"files": [file["path"] for file in labels["files"]], "of": of}


CLIPPED_METHOD = (
    "Σ p·ln(p/q) - p + q over the entries that the 16-bit codes tell; a clipped entry counts with the least possible"
)
REFERENCE_METHOD = (
    "the outcomes that the reference lists and the others in buckets: KLs are at least so much, acceptance at most"
)
LISTS_METHOD = (
    "outcomes that both lists have and what is beside them: KLs are at least so much, acceptance at most; q may give "
    "nothing to what it does not list"
)
DUMP_NOTE = (
    "The candidate is a 16-bit dump, not live logits as in llama.cpp: each of its log-probabilities is rounded "
    "(by at most 1.2e-4 nats in a window of 16), and those below its window stand at the window's end. KLD then "
    "differs by about 3e-6 in the mean and 5e-4 for a token; PPL(Q) is too low where targets are clipped."
)


def _lasting(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what tells only how far this process has read a file."""
    return {name: x for name, x in facts.items() if name not in ("rows_read", "clipped_targets")}


def stamp_of(source: Source) -> dict[str, Any]:
    """Size of everything that is read, and a digest of what tells its files from others under their names."""
    if isinstance(source, ArraySource):
        return {"crc32": source.crc32()}
    found = source.stamp()
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    return {"files": len(found), "bytes": sum(entry[0] or 0 for entry in found), "stamp": digest[:32]}
