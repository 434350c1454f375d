"""What was found in the logs of a run: findings, how far the two policies are apart and where, what was left out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kullback._engine import keywords, library
from kullback.comparison import Estimate, counted, json_number
from kullback.evaluation.text import labels
from kullback.rlhf import AuditReport, WhatIf
from kullback.rollouts.batches import Float64s
from kullback.rollouts.series import NO_LABEL, Point, Series, Sums, interval
from kullback.rollouts.skipped import Skipped, in_figures

__all__ = ["RolloutReport", "merged", "place_of", "sequence_id"]

_ROWS = 1 << 40  # in a file at most, so that one number names a file's row


def sequence_id(file: Any, row: Any) -> Any:
    """The number of a row of a file among all sequences."""
    return file * _ROWS + row


def place_of(sequence: int) -> tuple[int, int]:
    """The number of the file, and that of the row in it."""
    return divmod(int(sequence), _ROWS)


class RolloutReport:
    """The audit of a run's logs; made by `audit_files`, combined by `merge`.

    Attributes
    ----------
    audit : AuditReport
        The findings, the mismatch of the sound tokens, the worst tokens and a table of the sequences.
    total : Point
        KL (k1, k3), effective sample size, kept mass, entropies, length and reward, with standard errors.
    by : dict of str to Series
        The same by step, env, worker, or what was asked for.
    by_position : Series
        The same by how many counted tokens of the sequence come before, in classes that double: by their first, 0, 1,
        3, 7, ... Positions in findings and of worst tokens are others: they count from the row's first entry.
    what_if : WhatIf, optional
        What importance weights and rejection masks would do to the sound tokens; None where there are none.
    skipped : Skipped
        Rows without what is needed, by reason; none of them is in the figures, but for those that lack an optional
        part (ids, entropies, or the mask, so that all their tokens count).
    facts : dict
        The files, what was read of each, and which pieces of them there are.
    """

    def __init__(self, audit: AuditReport, facts: dict[str, Any]) -> None:
        self.audit = audit
        self.facts = facts
        self.by: dict[str, Series] = {}
        self.by_position = Series()
        self.skipped = Skipped()
        # ids of the tokens before one of the worst, by (sequence, position)
        self.contexts: dict[tuple[int, int], list[int]] = {}
        self.pieces: list[int] = []
        self.what_if: WhatIf | None = None
        self._decode: Callable[[Sequence[int]], str] | None = None
        self._all = Series()
        self._names: list[str] = []  # short ones of the files

    def merge(self, *others: RolloutReport) -> RolloutReport:
        """The report of all parts together, to the same bits in any order; none is changed.

        Raises
        ------
        ValueError
            A part is of other files or settings, or has a piece that another has too.
        """
        parts, done = (self, *others), set[int]()
        for part in parts:
            if part.facts != self.facts:
                raise ValueError("the parts are of different files or settings")
            if done & set(part.pieces):
                raise ValueError(f"piece {min(done & set(part.pieces))} of the files is in two parts; it counts once")
            done |= set(part.pieces)
        both = RolloutReport(self.audit.merge(*(part.audit for part in others)), self.facts)
        both.by = {name: Series() for name in self.by}
        both.pieces = sorted(done)
        for part in parts:
            both._all = both._all.merge(part._all)
            both.by = {name: series.merge(part.by[name]) for name, series in both.by.items()}
            both.by_position = both.by_position.merge(part.by_position)
            both.skipped.merge(part.skipped)
            both.contexts |= part.contexts
            if part.what_if is not None:
                both.what_if = part.what_if if both.what_if is None else both.what_if.merge(part.what_if)
        both.keep_contexts()
        return both

    @property
    def total(self) -> Point:
        return self._all.points.get("", Point())

    def add(self, names: dict[str, list[Any]], sums: Sums, lengths: Float64s, reward: Float64s | None) -> None:
        """Sums of sequences, with the labels of each."""
        self._all.add([""] * len(lengths), sums, lengths, reward)
        for name, series in self.by.items():
            labelled = [NO_LABEL if label is None else label for label in names[name]]
            series.add(labelled, sums, lengths, reward)

    def settle(self) -> None:
        """Add up what waits, and forget what is no longer among the worst."""
        for series in (self._all, *self.by.values(), self.by_position):
            series.settle()
        self.keep_contexts()

    def show_tokens(self, decode: Callable[[Sequence[int]], str] | None) -> None:
        """Give the worst tokens as text, by a function from ids to text."""
        self._decode = decode

    def keep_contexts(self, audits: Sequence[AuditReport] = ()) -> None:
        """Of the tokens that are still among the worst, of this report's audit or of all these."""
        there: set[tuple[int, int]] = set()
        for worst in (audit.worst_tokens for audit in audits or [self.audit]):
            there |= set(zip(worst["sequence"].tolist(), worst["position"].tolist(), strict=True))
        self.contexts = {place: ids for place, ids in sorted(self.contexts.items()) if place in there}

    @property
    def missing(self) -> int:
        """Pieces of the files that are in none of the parts merged so far."""
        return int(self.facts["pieces"]) - len(self.pieces)

    def kl_upper(self, level: float = 0.95) -> float:
        """Upper end of the one-sided interval of the mean k3 of the sound tokens (of those in `audit.unsound` it says
        nothing), sequences being the independent draws; NaN where it is not known: of fewer than five too."""
        level = keywords.number(level, "level", 0.0, 1.0)
        return interval(self.total.kl_k3, abs(2 * level - 1))[1 if level >= 0.5 else 0]

    def where(self, sequence: int) -> str:
        """The file and the row of a sequence, as they are told to people: file.jsonl:LINE, or file.parquet row N."""
        return self.where_row(*place_of(sequence))

    def where_row(self, file: int, row: int) -> str:
        """The same of a row of a file."""
        if not self._names:
            self._names = labels([log["path"] for log in self.facts["files"]])
        name = self._names[file]
        return f"{name}:{row + 1}" if self.facts["files"][file]["kind"] == "lines" else f"{name} row {row}"

    def worst_sequences(self, count: int = 10) -> list[dict[str, Any]]:
        """The sequences of the greatest mean k3 of their sound tokens, with their places."""
        table = self.audit.sequences
        if not table or not len(table["sequence"]):
            return []
        mean = np.where(np.isnan(table["kl_k3"]), -math.inf, table["kl_k3"])
        order = np.lexsort((table["sequence"], -mean))[:count]
        return [
            {
                "sequence": int(table["sequence"][i]), "where": self.where(table["sequence"][i]),
                "tokens": int(table["tokens"][i]), "kl_k3": float(mean[i]), "kl_k1": float(table["kl_k1"][i]),
                "check": str(table["check"][i]),
            }
            for i in order
            if mean[i] > -math.inf
        ]  # fmt: skip

    def worst_tokens(self, count: int = 10) -> list[dict[str, Any]]:
        """The sound tokens of the greatest log-ratio, with their places and the ids before them."""
        worst = self.audit.worst_tokens
        found = []
        for i in range(min(count, len(worst["sequence"]) if worst else 0)):
            row = {name: column[i].item() for name, column in worst.items()}
            place = row["sequence"], row["position"]
            row |= {"where": self.where(row["sequence"]), "context": self.contexts.get(place, [])}
            if self._decode is not None and row["context"]:
                *before, token = row["context"]
                row["text"] = {"before": self._decode(before), "token": self._decode([token])}
            found.append(row)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: null where undefined, "inf" and "-inf" where infinite.

        "tokens" are those that the mask counts, "sound_tokens" those of them that the figures beside them are of.
        "by_position" says how many counted tokens come before, "from" and "to" included; every "position" counts from
        0, from the first entry of the row.
        """
        tree = {
            "rollouts": self.facts,
            "missing_pieces": self.missing,
            "left_out": [
                {"reason": reason, "rows": count, "first": self.where_row(file, row), "in_figures": in_figures(reason)}
                for reason, (count, file, row) in sorted(self.skipped.reasons.items())
            ],
            "audit": self._audit_tree(),
            "total": _point(self.total),
            "by": {
                name: [{"label": label, **_point(point)} for label, point in series.points.items()]
                for name, series in self.by.items()
            },
            "by_position": [
                {"from": label, "to": 2 * label, **_point(point)} for label, point in self.by_position.points.items()
            ],
            "what_if": None if self.what_if is None else self.what_if.to_dict(),
            "worst_sequences": self.worst_sequences(),
            "worst_tokens": self.worst_tokens(),
        }  # fmt: skip
        found: dict[str, Any] = _strict(tree)
        return found

    def to_pandas(self, by: str) -> Any:
        """A data frame with a row for each label of "step", "env", ..., or "position": means and standard errors."""
        series = self.by_position if by == "position" else self.by.get(by)
        if series is None:
            raise ValueError(f"`by` is {by!r}, expected one of {', '.join([*self.by, 'position'])}")
        frame = library("pandas", "to_pandas").DataFrame
        rows = []
        for label, point in series.points.items():
            row = {by: label, **_sizes(point)}
            for name, estimate in point.estimates().items():
                row |= {name: estimate.mean, f"{name}_standard_error": estimate.standard_error}
            rows.append(row)
        return frame(rows)

    def _audit_tree(self) -> dict[str, Any]:
        """That of the audit, with places in files; its worst tokens are told beside it."""
        tree = {name: x for name, x in self.audit.to_dict().items() if name != "worst_tokens"}
        for finding, found in zip(tree["findings"], self.audit.findings, strict=True):
            finding["places"] = [
                {"where": self.where(sequence), "position": position} for sequence, position in found.where
            ]
        return tree

    def to_html(self, path: str | os.PathLike[str], *, title: str | None = None) -> None:
        """Write the report as one page that needs nothing else; needs jinja2.

        Raises
        ------
        ImportError
            If jinja2 is missing.
        ValueError
            If `path` is one of the logs.
        """
        from kullback.rollouts import page

        page.write(self, path, title)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RolloutReport):
            return NotImplemented
        names = ("audit", "_all", "by", "by_position", "skipped", "contexts", "pieces", "facts", "what_if")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        from io import StringIO

        from kullback.rollouts.terminal import print_report

        text = StringIO()
        print_report(self, file=text)
        return text.getvalue().rstrip("\n")

    def __repr__(self) -> str:
        return f"<RolloutReport of {counted(self.audit.tokens, 'token')}, {counted(self.total.sequences, 'sequence')}>"


def _sizes(point: Point) -> dict[str, int]:
    """Sequences, tokens that the mask counts, and the sound ones; of parts of sequences the last alone."""
    whole = {"sequences": point.sequences, "tokens": point.counted} if point.sequences else {}
    return whole | {"sound_tokens": point.tokens}


def _point(point: Point) -> dict[str, Any]:
    tree: dict[str, Any] = _sizes(point)
    for name, estimate in point.estimates().items():
        tree[name] = _estimate(estimate)
    return tree | ({"interval_note": point.interval_note} if point.interval_note else {})


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"mean": estimate.mean, "standard_error": estimate.standard_error, "interval": list(interval(estimate))}


def _strict(tree: Any) -> Any:
    """Without NaN and infinities, which JSON does not have."""
    if isinstance(tree, dict):
        return {str(name): _strict(x) for name, x in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_strict(x) for x in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    return json_number(tree) if isinstance(tree, float) else tree


def merged(reports: Sequence[RolloutReport]) -> RolloutReport:
    """All of them together."""
    return reports[0].merge(*reports[1:])
