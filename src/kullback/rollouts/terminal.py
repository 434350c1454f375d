"""A report of rollouts as plain text: findings first, then figures, then the worst sequences and tokens."""

from __future__ import annotations

import math
from typing import IO, Any

from kullback.evaluation.layout import Output, PrintedTable
from kullback.evaluation.terminal import short
from kullback.evaluation.text import visible
from kullback.rollouts.series import Point, Series, interval, position_range

__all__ = ["COLUMNS", "figure", "print_report", "remarks", "shares", "thinned", "told"]

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


# what is printed is a RolloutReport, whose `str` comes here: it is not imported back
def print_report(report: Any, file: IO[str] | None = None) -> None:
    """All of it; 80 columns are enough."""
    out = Output(file)
    for line in remarks(report):
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
    out.print()
    _print_total(out, report.total)
    for name, series in report.by.items():
        _print_series(out, series, f"By {name}", name)
    _print_series(out, report.by_position, "By position in the sequence", "position")
    _print_worst(out, report)


def remarks(report: Any) -> list[str]:
    """What a reader must know before the figures: what was read, and what was not."""
    facts = report.facts
    presets = ", ".join(dict.fromkeys(log["preset"] or "mapped fields" for log in facts["files"]))
    files = facts["files"][0]["path"] if len(facts["files"]) == 1 else f"{len(facts['files'])} files"
    lines = [visible(f"{files} ({presets})")]
    lines.append(f"{report.total.sequences} sequences, {report.audit.tokens} tokens; in nats; rollout before train")
    if report.missing:
        lines.append(f"INCOMPLETE: {report.missing} of {facts['pieces']} pieces of the files are not in these parts")
    for reason, (count, number, row) in sorted(report.skipped.reasons.items()):
        place = report.where_row(number, row)
        lines.append(f"left out: {reason}: {count} {'row' if count == 1 else 'rows'}, first {place}")
    for left in facts["left_out_files"]:
        lines.append(f"left out: {visible(left['reason'])}")
    return lines


def shares(finding: Any) -> str:
    """How much of the run a finding concerns."""
    return (
        f"{finding.tokens} tokens ({short(100 * finding.share_of_tokens, 3)} %) in {finding.sequences} sequences "
        f"({short(100 * finding.share_of_sequences, 3)} %)"
    )


def told(report: Any, finding: Any) -> list[tuple[str, str]]:
    """A finding in words: what was seen, where, what it does to the KL, what to do."""
    rows = [("seen", finding.seen), ("share", shares(finding))]
    if finding.where:
        places = [f"{report.where(sequence)} position {position}" for sequence, position in finding.where[:3]]
        rows.append(("where", "; ".join(places) + ("; ..." if finding.sequences > len(places) else "")))
    with_, without = finding.effect
    if not (math.isnan(with_) and math.isnan(without)):
        rows.append(("effect", f"KL (k3) is {short(with_)} with them and {short(without)} without"))
    return [*rows, ("advice", finding.advice)]


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
    per_sequence = any(point.sequences for point in points.values())
    counts = ("sequences", "tokens") if per_sequence else ("tokens",)
    headings = [text for _, h in known for text in ((h, "± s.e.") if h == COLUMNS[0][1] else (h,))]
    table = PrintedTable(header, *counts, *headings, title=title)
    shown = thinned(list(points.items()), _MOST_ROWS)
    for label, point in shown:
        means = point.estimates()
        cells = [short(means[name].mean) if name in means else "-" for name, _ in known]
        cells.insert(1, short(point.kl_k3.standard_error, 2))
        numbers = [str(getattr(point, count)) for count in counts]
        table.add_row(position_range(label) if header == "position" else str(label), *numbers, *cells)
    out.print()
    out.print(table)
    if len(shown) < len(points):
        out.print(f"({len(points)} in all; --json and --html have every one)")


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
