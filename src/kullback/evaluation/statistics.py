"""From columns of one value a row to a mergeable summary: breakdowns, clipping, agreement, the worst tokens.

Every class here is a part of `ComparisonSummary.parts`: `merge` gives the statistic of both sides' rows, in any order
to the same bits, and `to_dict` what goes into JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import (
    ComparisonSummary,
    Labels,
    LabelSet,
    Mean,
    Part,
    Spread,
    allowance,
    compared_rows,
    completed,
    summarize,
)
from kullback.evaluation.bounds import Bounds
from kullback.evaluation.columns import LLAMA_CPP_PREFIX
from kullback.evaluation.label_files import column_name
from kullback.evaluation.parts import (
    CONFIDENCE_EDGES,
    Agreement,
    Breakdown,
    Clipping,
    Columns,
    Convention,
    WorstTokens,
    confidence_labels,
)

__all__ = ["Summarizer", "summary_of"]

EXACT_TOKENS = 1 << 21  # above it quantiles are of cut values: 8 bytes a token for each of a dozen quantities
MOST_BATCHED = 32  # labels whose quantiles have intervals between documents: 5 MB each
ALL_BATCHED = 320  # of all candidates together
SEGMENT = 1 << 16  # tokens summed up at a time


def summary_of(
    columns: Columns,
    width: int,
    targets: NDArray[np.int64] | None = None,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    candidates: int = 1,
) -> ComparisonSummary:
    """The summary of some rows of a job, with all parts that their columns allow; positions in bins of `width`."""
    columns = completed(columns)
    kept = compared_rows(columns)  # every part is of the same rows as the summary
    known = {name: x[kept] for name, x in columns.items()}
    top = known["top_prob_p"]
    confidence = np.clip(np.searchsorted(CONFIDENCE_EDGES, top, side="right") - 1, 0, len(CONFIDENCE_EDGES) - 2)
    parts: dict[str, Part] = {
        "by_confidence": Breakdown.of(np.where(np.isnan(top), -1, confidence), known, confidence_labels()),
        "by_position": Breakdown.of(known["position"] // width, known, width=width),
        "null_control": Mean(known["null_kl"]),
        "worst_tokens": WorstTokens.of(known, targets),
    }
    if "clipped_mass_p" in columns:
        parts["clipping"] = Clipping.of(known)
    if "kl_upper" in columns:
        parts["bounds"] = Bounds.of(known)
    if "jensen_shannon" in columns:
        parts["jensen_shannon"] = Spread.of(known["jensen_shannon"], known.get("group"))
    if any(name.endswith("_overlap") for name in columns):
        parts["top_k_agreement"] = Agreement.of(known)
    if f"{LLAMA_CPP_PREFIX}kld" in columns:
        there = ~columns.get(
            "ignored", np.zeros(len(kept), np.bool_)
        )  # its conventions are its own, for rows without a distribution too
        parts["llama_cpp"] = Convention.of({name: x[there] for name, x in columns.items()})
    if labels:
        most = min(MOST_BATCHED, ALL_BATCHED // candidates)
        parts["by"] = Labels.of(columns, kept, sets_in(columns, labels), columns.get("group"), most_batched=most)
    return summarize(columns, kept, columns.get("group"), parts)


@dataclass
class Summarizer:
    """Takes columns in the order of the rows; sums up SEGMENT rows at a time, whatever pieces they come in."""

    width: int
    targets: NDArray[np.int64] | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    candidates: int = 1  # of the job: of more than four, each keeps its share of what four may
    _waiting: list[Columns] = field(default_factory=list)
    _summary: ComparisonSummary | None = None

    def add(self, columns: Columns) -> None:
        self._waiting.append(columns)
        if sum(len(c["kl"]) for c in self._waiting) >= SEGMENT:
            rows = joined(self._waiting)
            whole = len(rows["kl"]) // SEGMENT * SEGMENT
            for start in range(0, whole, SEGMENT):
                self._fold({name: x[start : start + SEGMENT] for name, x in rows.items()})
            self._waiting = [{name: x[whole:].copy() for name, x in rows.items()}]

    def copy(self) -> Summarizer:
        """One that can be finished while this one goes on: summaries are merged into new ones."""
        return replace(self, _waiting=list(self._waiting))

    def _fold(self, columns: Columns) -> None:
        part = summary_of(columns, self.width, self.targets, self.labels, self.candidates)
        self._summary = part if self._summary is None else self._summary.merge(part)
        self._summary.compact(*allowance(EXACT_TOKENS, self.candidates))

    def finish(self) -> ComparisonSummary:
        """The summary of everything added."""
        rows = joined(self._waiting)
        if len(rows["kl"]) or self._summary is None:
            self._fold(rows)
        self._waiting = []
        assert self._summary is not None
        return self._summary


def sets_in(columns: Columns, labels: Mapping[str, tuple[str, ...]]) -> dict[str, LabelSet]:
    """The labels of these rows, by set."""
    return {name: LabelSet(names, columns[column_name(i)]) for i, (name, names) in enumerate(labels.items())}


def joined(parts: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """Columns of neighbouring rows, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
