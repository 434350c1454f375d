"""Where candidates differ, by label: a table of labels and candidates for each set of labels, and a drawing of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kullback.comparison import CandidateComparison, ComparisonSummary
from kullback.evaluation.differences import interval_text, label_differences, p_text
from kullback.evaluation.label_tables import sets_of
from kullback.evaluation.report.frame import Frame, log_ticks, number
from kullback.evaluation.text import short, visible

__all__ = ["LabelSection", "label_sections"]

_LABELS = 100  # of a set, in the table
_DRAWN = 15  # of a set, in the drawing
_DIFFERENCES = 20  # between candidates, that are real
_LONGEST = 16  # characters of a label there
_LEFT = 185  # of the plot area: room for so many
_ROW = 26  # between two labels of one candidate


class LabelCell(NamedTuple):
    """Of a candidate in the rows of a label; `interval` of the mean KL, None where it is not known."""

    summary: ComparisonSummary
    interval: tuple[float, float] | None


class LabelRow(NamedTuple):
    """A label, its rows and documents, and a cell a candidate (None: none of its rows have it)."""

    label: str
    tokens: int
    documents: int
    cells: list[LabelCell | None]


class LabelSection(NamedTuple):
    """A set of labels: the labels of greatest KL first, how many more there are, how many of them are drawn; how
    candidates differ there, (label, higher, lower, by how much, interval, p), and what these are."""

    title: str
    heading: str
    rows: list[LabelRow]
    left_out: int
    drawing: str
    drawn: int
    differences: list[tuple[str, str, str, float, str, str]]
    remarks: list[str]


def label_sections(found: Mapping[str, ComparisonSummary], names: Sequence[str], most: int) -> list[LabelSection]:
    """A section for each set of labels of candidates of one base; the first `most` of these names are drawn."""
    summaries = [found[name] for name in names]
    sets = [sets_of(s) for s in summaries]
    grouped = summaries[0].facts.get("labels", {}).get("of", {})
    sections = []
    for name in sets[0]:
        rows = _rows([some.get(name, {}) for some in sets])
        drawing, drawn = _drawing(rows[:_DRAWN], names[:most], visible(name) or "label")
        title = f"By {visible(name) or 'label'}" + (
            ", a label a chunk or document" if grouped.get(name) == "group" else ""
        )
        left_out = max(0, len(rows) - _LABELS)
        sections.append(
            LabelSection(
                title, visible(name) or "label", rows[:_LABELS], left_out, drawing, drawn, *_differences(found, name)
            )
        )
    return sections


def _differences(
    found: Mapping[str, ComparisonSummary], name: str
) -> tuple[list[tuple[str, str, str, float, str, str]], list[str]]:
    if not isinstance(found, CandidateComparison) or len(found) < 2:
        return [], []
    chosen, remarks = label_differences(found, name, _DIFFERENCES)
    rows = []
    for test in chosen:
        interval = interval_text(test.difference.interval())
        rows.append((visible(test.label), test.a, test.b, test.difference.mean, interval, p_text(test.adjusted)))
    return rows, remarks


def _rows(by: Sequence[Mapping[str, ComparisonSummary]]) -> list[LabelRow]:
    def far(label: str) -> float:
        means = [some[label].kl.mean for some in by if label in some]
        return max((mean for mean in means if not math.isnan(mean)), default=-math.inf)

    order = sorted({label for some in by for label in some}, key=lambda label: (-far(label), label))
    rows = []
    for place, label in enumerate(order):
        there = [some.get(label) for some in by]
        known = [s for s in there if s is not None]
        cells = [None if s is None else LabelCell(s, _interval(s) if place < _LABELS else None) for s in there]
        rows.append(LabelRow(visible(label), max(s.tokens for s in known), max(s.kl.groups for s in known), cells))
    return rows


def _interval(s: ComparisonSummary) -> tuple[float, float] | None:
    low, high = s.kl.interval()
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _drawing(rows: Sequence[LabelRow], names: Sequence[str], heading: str) -> tuple[str, int]:
    """A line a label, a point a candidate with its interval; how many labels are on it. Nothing of one label alone."""
    points = []
    for place, row in enumerate(rows):
        for i, cell in enumerate(row.cells[: len(names)]):
            if cell is not None and 0 < cell.summary.kl.mean < math.inf:
                points.append((place, i, cell.summary.kl.mean, cell.interval or (math.nan, math.nan)))
    if len({place for place, *_ in points}) < 2:
        return "", 0
    means = [mean for _, _, mean, _ in points]
    # an interval may reach to 0, where a logarithmic scale has no end: it goes to the edge
    lows = [low for *_, (low, _) in points if low > min(means) / 30]
    ticks = log_ticks(min(means + lows), max(means + [high for *_, (_, high) in points if not math.isnan(high)]))
    first, last = math.log10(ticks[0][0]), math.log10(ticks[-1][0])
    count, many = len(rows), len(names)
    frame = Frame((first, last), (count + 0.5, 0.5), height=90 + count * max(_ROW, 11 * many + 6), left=_LEFT)
    frame.axes(
        "mean KL(p‖q), nats (logarithmic)", "", [(math.log10(value), text) for value, text in ticks],
        [(i + 1.0, _cut(row.label)) for i, row in enumerate(rows)],
    )  # fmt: skip
    for place, i, mean, ends in points:
        y = place + 1 + 0.7 * (i - (many - 1) / 2) / many
        line = tuple(min(max(math.log10(end), first), last) if end > 0 else first for end in ends)
        at = math.log10(mean)
        title = f"{rows[place].label}, {names[i]}: {number(mean)}"
        if math.isnan(ends[0]):
            line = (at, at)
        else:
            title += f" ({short(ends[0], 3)} to {short(ends[1], 3)})"
        frame.span((line[0], line[1]), at, y, i, title)
    return frame.svg(f"Mean KL by {heading}"), count


def _cut(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
