"""A report of rollouts as plain text: findings first, then figures, then the worst sequences and tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import IO, Any

from kullback.comparison import counted, share_text
from kullback.evaluation.layout import Output, PrintedTable
from kullback.evaluation.text import short, visible
from kullback.rlhf import WhatIf
from kullback.rollouts.fields import ROLES
from kullback.rollouts.series import Point, Series, interval, position_range
from kullback.rollouts.skipped import DAMAGED, in_figures

__all__ = ["COLUMNS", "POSITIONS", "WHAT_IF", "fields", "figure", "print_report", "remarks", "thinned", "told"]

# name, heading, note
COLUMNS = (
    ("kl_k3", "KL (k3)"),
    ("kl_k1", "KL (k1)"),
    ("ess", "ess"),
    ("kept_mass", "kept mass"),
    ("rollout_entropy", "entropy rollout"),
    ("train_entropy", "entropy train"),
    ("length", "length"),
    ("reward", "reward"),
)
_MOST_ROWS = 24  # of a series, in a terminal
POSITIONS = "Positions count from 0, from the first entry of the row, masked ones too."
WHAT_IF = "What weights and masks would do to the sound tokens"
_BEFORE = "tokens before"  # heading of places in the answer, which are no positions in the row


# what is printed is a RolloutReport, whose `str` comes here: it is not imported back
def print_report(report: Any, file: IO[str] | None = None) -> None:
    """All of it; 80 columns are enough."""
    out = Output(file)
    what, size, *more = remarks(report)
    out.print(what)
    out.print(size)
    table = PrintedTable("", "", text=True)
    for name, words in _ways(report.facts):
        table.add_row(name, words)
    out.print(table)
    for line in more:
        out.print(line, bold=line.startswith("INCOMPLETE"))
    findings = report.audit.findings
    out.print()
    if not report.audit.tokens:
        out.print("No tokens: nothing was checked.", bold=True)
    elif not findings:
        out.print("No findings: no check saw anything wrong.", bold=True)
    for finding in findings:
        out.print(f"{finding.severity}: {finding.check}", bold=True)
        table = PrintedTable("", "", text=True)
        for name, text in told(report, finding):
            table.add_row(name, text)
        out.print(table)
        out.print()
    if report.audit.findings or report.audit.unsound:
        table = PrintedTable("", "", text=True)
        table.add_row("sound", report.audit.sound_in_words)
        out.print(table)
    out.print()
    _print_total(out, report.total)
    for name, series in report.by.items():
        _print_series(out, series, f"By {name}", name)
    title = "By position in the answer: counted tokens that come before"
    _print_series(out, report.by_position, title, _BEFORE)
    _print_what_if(out, report.what_if)
    _print_worst(out, report)


def remarks(report: Any) -> list[str]:
    """What a reader must know before the figures: what was read, how much, and what was not."""
    facts = report.facts
    presets = ", ".join(dict.fromkeys(log["preset"] or "no preset" for log in facts["files"]))
    files = facts["files"][0]["path"] if len(facts["files"]) == 1 else f"{len(facts['files'])} files"
    lines = [visible(f"{files} ({presets})")]
    size = f"{counted(report.total.sequences, 'sequence')}, {counted(report.audit.tokens, 'token')}"
    lines.append(f"{size}; in nats; rollout before train")
    if report.missing:
        share = f"{report.missing} of {counted(facts['pieces'], 'piece')}"
        lines.append(f"INCOMPLETE: {share} of the files {'is' if report.missing == 1 else 'are'} not in these parts")
    for reason, (count, number, row) in sorted(report.skipped.reasons.items()):
        if reason == DAMAGED:
            more = f", and so in {counted(count - 1, 'other file')}" if count > 1 else ""
            lines.append(f"left out: {report.where_row(number, row)} and all after it: {reason}{more}")
            continue
        what = "used all the same" if in_figures(reason) else "left out"
        lines.append(f"{what}: {reason}: {counted(count, 'row')}, first {report.where_row(number, row)}")
    for left in facts["left_out_files"]:
        lines.append(f"left out: {visible(left['reason'])}")
    return lines


def fields(facts: Any, log: Any) -> str:
    """Which fields of a file have which roles, of those that are used."""
    used = {role: name for role, name in log["fields"].items() if role != "step" or role in facts["by"]}
    words = [name if role == name else f"{role} = {name}" for role, name in sorted(used.items(), key=_place)]
    return f"{', '.join(words)}{'' if 'mask' in used else '; no mask, so that all tokens count'}"


def _place(item: tuple[str, str]) -> int:
    """Roles in their order, labels after them."""
    return ROLES.index(item[0]) if item[0] in ROLES else len(ROLES)


def _ways(facts: Any) -> list[tuple[str, str]]:
    """The same of all files: a line for each way that they have them."""
    ways = Counter(fields(facts, log) for log in facts["files"])
    if len(ways) == 1:
        return [("fields:", words) for words in ways]
    return [(f"fields of {counted(count, 'file')}:", words) for words, count in ways.items()]


def told(report: Any, finding: Any) -> list[tuple[str, str]]:
    """A finding in words: what was seen, where, what it does to the KL, what to do."""
    rows = [("seen", finding.seen), ("share", finding.share)]
    if finding.where:
        places = [f"{report.where(sequence)} position {position}" for sequence, position in finding.where[:3]]
        rows.append(("where", "; ".join(places) + ("; ..." if finding.sequences > len(places) else "")))
    below = "; the figures below are without" if finding.unsound else ""
    return [*rows, ("effect", f"KL (k3) {finding.effect_in_words}{below}"), ("advice", finding.advice)]


def figure(estimate: Any) -> tuple[str, str, str]:
    """Mean, standard error, interval."""
    low, high = interval(estimate)
    known = not (math.isnan(low) or math.isnan(high))
    return short(estimate.mean), short(estimate.standard_error, 2), f"{short(low)} to {short(high)}" if known else "-"


def _print_total(out: Output, total: Point) -> None:
    table = PrintedTable("", "mean", "± s.e.", "95 %", title="Sound tokens")
    known = total.estimates()
    for name, heading in COLUMNS:
        if name in known:
            table.add_row(heading, *figure(known[name]))
    out.print(table)
    if total.interval_note:
        out.print(total.interval_note)


def _print_series(out: Output, series: Series, title: str, header: str) -> None:
    points = {label: point for label, point in series.points.items() if point.tokens or point.sequences}
    if len(points) < 2:
        return
    known = [(n, h) for n, h in COLUMNS if any(n in p.estimates() for p in points.values())]
    sizes: dict[str, Callable[[Point], int]] = {"sound": lambda point: point.tokens}
    if header != _BEFORE:
        sizes = {"sequences": lambda point: point.sequences, "tokens": lambda point: point.counted, **sizes}
        if all(point.counted == point.tokens for point in points.values()):
            del sizes["sound"]
    headings = [text for _, h in known for text in ((h, "± s.e.") if h == COLUMNS[0][1] else (h,))]
    table = PrintedTable(header, *sizes, *headings, title=title)
    shown = thinned(list(points.items()), _MOST_ROWS)
    for label, point in shown:
        means = point.estimates()
        cells = [short(means[name].mean) if name in means else "-" for name, _ in known]
        cells.insert(1, short(point.kl_k3.standard_error, 2))
        numbers = [str(size(point)) for size in sizes.values()]
        table.add_row(position_range(label) if header == _BEFORE else str(label), *numbers, *cells)
    out.print()
    out.print(table)
    if len(shown) < len(points):
        out.print(f"({len(points)} in all; JSON has every one)")


def _print_what_if(out: Output, table: WhatIf | None) -> None:
    if table is None or not table.tokens:
        return
    shown = PrintedTable("setting", "tokens kept", "sequences kept", "ess", "mean weight", title=WHAT_IF)
    for row in table.rows:
        kept = share_text(row.kept_tokens), share_text(row.kept_sequences)
        shown.add_row(row.setting, *kept, short(row.ess), short(row.mean_weight.mean))
    out.print()
    out.print(shown)


def thinned(points: list[Any], most: int) -> list[Any]:
    """As many as there is room for, the first and the last among them."""
    if len(points) <= most:
        return points
    step = (len(points) - 1) / (most - 1)
    return [points[round(i * step)] for i in range(most)]


def _print_worst(out: Output, report: Any) -> None:
    worst = report.worst_sequences(5)
    if worst:
        table = PrintedTable("sequence", "tokens", "KL (k3)", "KL (k1)", title="The worst sequences")
        for row in worst:
            table.add_row(row["where"], str(row["tokens"]), short(row["kl_k3"]), short(row["kl_k1"]))
        out.print()
        out.print(table)
    tokens = report.worst_tokens(5)
    if tokens:
        table = PrintedTable("sequence", "position", "token", "rollout", "train", title="The worst tokens")
        for row in tokens:
            word = row.get("text", {}).get("token", str(row["token"]) if row["token"] >= 0 else "-")
            word = visible(word if len(word) <= 16 else word[:15] + "…")
            table.add_row(row["where"], str(row["position"]), word, short(row["rollout"]), short(row["train"]))
        out.print()
        out.print(table)
    if tokens or any(finding.where for finding in report.audit.findings):
        out.print()
        out.print(POSITIONS)
