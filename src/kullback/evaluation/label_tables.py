"""Figures by label, as rows of text for the terminal: the worst labels first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from kullback.comparison import ComparisonSummary, share_text
from kullback.evaluation.layout import Output, PrintedTable
from kullback.evaluation.text import short, visible

__all__ = ["LabelTable", "cut", "label_tables", "print_labels", "sets_of"]

_SHOWN = 12  # labels of a set on a terminal
_WIDEST = 20  # characters of a label there


class LabelTable(NamedTuple):
    """One set of labels: a title, headings, a row of texts a label, how many labels were left out, a remark or ""."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    left_out: int
    remark: str


def sets_of(s: ComparisonSummary) -> Mapping[str, Mapping[str, ComparisonSummary]]:
    """The summaries by set of labels and label; a set without a name is called ""."""
    sets = s.by
    return {"": sets} if sets and not isinstance(next(iter(sets.values())), Mapping) else sets


def label_tables(s: ComparisonSummary, most: int) -> list[LabelTable]:
    """A table for each set of labels of a summary."""
    of = s.facts.get("labels", {}).get("of", {})
    return [_table(s, name, summaries, of.get(name) == "group", most) for name, summaries in sets_of(s).items()]


def _table(
    s: ComparisonSummary, name: str, by: Mapping[str, ComparisonSummary], grouped: bool, most: int
) -> LabelTable:
    title = f"By {visible(name) or 'label'}" + (", a label a chunk or document" if grouped else "")
    documents, between = s.kl.groups > 0, s.kl.enough_groups
    headings = [visible(name) or "label", "tokens", *(["docs"] if documents else []), "KL(p‖q)"]
    headings += ["± group" if between else "± s.e.", *(["doc. mean"] if documents else []), "same top"]
    order = sorted(by, key=lambda label: (-_known(by[label].kl.mean), label))
    rows = []
    for label in order[:most]:
        kl = by[label].kl
        error = kl.group_standard_error if between else kl.standard_error
        row = [visible(label), str(by[label].tokens), *([str(kl.groups)] if documents else []), short(kl.mean)]
        row += [short(error, 2), *([short(kl.document_mean)] if documents else [])]
        rows.append([*row, share_text(by[label].same_top1.mean)])
    few = between and any(not by[label].kl.enough_groups for label in order[:most])
    remark = "no error where a label has fewer than five documents" if few else ""
    return LabelTable(title, headings, rows, max(0, len(order) - most), remark)


def print_labels(out: Output, s: ComparisonSummary) -> None:
    """The tables of all sets of labels."""
    for found in label_tables(s, _SHOWN):
        table = PrintedTable(*(cut(x) if i == 0 else x for i, x in enumerate(found.headings)), title=found.title)
        for label, *cells in found.rows:
            table.add_row(cut(label), *cells)
        out.print()
        out.print(table)
        if found.remark:
            out.print(found.remark)
        if found.left_out:
            out.print(f"and {found.left_out} labels with less KL; --json has them all")


def cut(label: str) -> str:
    return label if len(label) <= _WIDEST else label[: _WIDEST - 1] + "…"


def _known(x: float) -> float:
    return -math.inf if math.isnan(x) else x
