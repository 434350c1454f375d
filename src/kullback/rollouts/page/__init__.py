"""One page that shows the audit of a run: findings, drawings, tables, in one HTML file without anything from elsewhere.

The page of a comparison lends its style sheet and its frame for drawings; it may run no script and load nothing.
"""

from __future__ import annotations

import os
from typing import Any

from kullback.evaluation.outputs import atomic_file, check_outputs
from kullback.evaluation.report import fill_page
from kullback.evaluation.text import labels
from kullback.rollouts.page import drawings
from kullback.rollouts.series import Point, Series
from kullback.rollouts.terminal import COLUMNS, POSITIONS, WHAT_IF, fields, figure, remarks, thinned, told

__all__ = ["render", "write"]


def write(report: Any, path: str | os.PathLike[str], title: str | None = None) -> None:
    """Write the page; ValueError if the path is one of the logs."""
    check_outputs({"`path`": path}, [log["path"] for log in report.facts["files"]], force=True)
    with atomic_file(os.fspath(path)) as file:
        file.write(render(report, title).encode())


def render(report: Any, title: str | None = None) -> str:
    """The page as a string."""
    files = [log["path"] for log in report.facts["files"]]
    head, *more = remarks(report)
    return fill_page(
        __name__,
        title=title or f"Rollouts: {labels(files[:1])[0] if len(files) == 1 else f'{len(files)} files'}",
        head=head,
        remarks=more[1:],
        count=more[0],
        findings=[(finding, told(report, finding)) for finding in report.audit.findings],
        severities=[
            (name, sum(f.severity == name for f in report.audit.findings)) for name in ("error", "warning", "note")
        ],
        total=[(heading, figure(value)) for _, heading, value in _known(report.total)],
        cards=[(heading, figure(value)) for name, heading, value in _known(report.total) if name in _CARDS],
        drawings=[
            *(d for name, series in report.by.items() for d in drawings.of_series(series, name)),
            *drawings.of_positions(report.by_position),
            *drawings.of_ratios(report.audit),
        ],
        tables=[
            (name, len(series.points), _table(series)) for name, series in report.by.items() if len(series.points) > 1
        ],
        anything=report.audit.tokens > 0,
        sound=report.audit.sound_in_words,
        what_if_title=WHAT_IF,
        what_if=[] if report.what_if is None or not report.what_if.tokens else report.what_if.rows,
        worst=report.worst_sequences(20),
        tokens=report.worst_tokens(20),
        positions=POSITIONS,
        files=[(log, fields(report.facts, log)) for log in report.facts["files"]],
    )


_MOST_ROWS = 1000  # of a table: JSON has all
_CARDS = ("kl_k3", "ess", "kept_mass", "reward", "length")


def _known(point: Point) -> list[tuple[str, str, Any]]:
    estimates = point.estimates()
    return [(name, heading, estimates[name]) for name, heading in COLUMNS if name in estimates]


def _table(series: Series) -> tuple[list[str], list[tuple[Any, Point, list[Any]]]]:
    """Headings, and a row a label: its figures, or None where there is none."""
    points = series.points
    names = [(name, heading) for name, heading in COLUMNS if any(name in p.estimates() for p in points.values())]
    rows = [
        (label, point, [figure(known[name]) if name in known else None for name, _ in names])
        for label, point in thinned(list(points.items()), _MOST_ROWS)
        for known in (point.estimates(),)
    ]
    return [heading for _, heading in names], rows
