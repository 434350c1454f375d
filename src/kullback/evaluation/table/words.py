"""A table of candidates as text: for a terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import math
import re
from typing import Any

from kullback.comparison import json_number, share_text
from kullback.evaluation.layout import Output, PrintedTable
from kullback.evaluation.marks import TABLE_COLUMNS, TABLE_KEY, marked
from kullback.evaluation.table.rows import CandidateRow, RankedCandidates
from kullback.evaluation.table.sizes import size_text
from kullback.evaluation.text import labels, short, visible

__all__ = ["comma_separated", "markdown", "markdown_row", "notes", "printed", "statistic_text", "tree"]

_MOST_REMARKS = 12


def statistic_text(figure: str) -> str:
    """A figure of KL in words: "mean KL", "99.9 % quantile of KL"."""
    if figure in ("mean", "median"):
        return f"{figure} KL"
    return "greatest KL" if figure == "max" else f"{figure[1:]} % quantile of KL"


def _columns(table: RankedCandidates) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without columns that nobody has."""
    rows = table.rows
    grouped = all(row.figures.grouped for row in rows)
    label = "± group" if grouped else "±" if any(row.figures.grouped for row in rows) else "± s.e."
    figures = ["p99", "p99.9"]
    if table.figure not in ("mean", *figures):
        figures.insert(0, table.figure)
    columns: list[tuple[str, list[str]]] = [
        ("candidate", [visible(row.name) for row in rows]),
        ("alike", [row.alike for row in rows]),
        ("size", [size_text(row.size.bytes) + "*" * row.frontier if row.size else "" for row in rows]),
        ("b/w", [_known(row.size.bits_per_weight, 3) if row.size else "" for row in rows]),
        ("KL(p‖q)", [short(row.figures.kl["mean"]) for row in rows]),
        (label, [_known(row.figures.error, 2) for row in rows]),
    ]
    columns += [
        (_heading(figure), [_known(row.figures.kl.get(figure, math.nan), 4) for row in rows]) for figure in figures
    ]
    columns += [
        ("same top", [_share(row.figures.same_top1) for row in rows]),
        (f"perplexity q/p {label}", [_ratio(row) for row in rows]),
        ("acceptance", [_share(row.figures.acceptance) for row in rows]),
    ]
    kept = [columns[0], *((name, cells) for name, cells in columns[1:] if any(cells))]
    names = [name for name, _ in kept]
    return names, [[cell or "-" for cell in cells] for cells in zip(*(cells for _, cells in kept), strict=True)]


def _heading(figure: str) -> str:
    return f"{figure[1:]} %" if figure.startswith("p") else figure


def _known(x: float, digits: int) -> str:
    return "" if math.isnan(x) else short(x, digits)


def _share(x: float) -> str:
    return "" if math.isnan(x) else share_text(x)


def _ratio(row: CandidateRow) -> str:
    ratio, error = row.figures.perplexity_ratio, row.figures.perplexity_ratio_error
    if math.isnan(ratio):
        return ""
    places = 5 if not 0 < error < 1 else min(12, max(5, 1 - math.floor(math.log10(error))))
    text = f"{ratio:.{places}f}" if 0.1 <= ratio < 1e5 else short(ratio, 6)
    return text if math.isnan(error) else f"{text} ± {short(error, 2)}"


def notes(table: RankedCandidates) -> list[str]:
    """What the figures mean, and what to beware of."""
    rows = table.rows
    found = [*table.warnings]
    remarks = [f"{row.name}: {line}" for row in rows for line in row.figures.remarks]
    found += remarks[:_MOST_REMARKS]
    if len(remarks) > _MOST_REMARKS:
        found.append(f"and {len(remarks) - _MOST_REMARKS} more such lines; the results have them")
    found.append(_order(table))
    if len(rows) > 1:
        found.append(_about_groups(table))
    if table.not_worse is not None:
        found.append(_within_margin(table))
    if any(not math.isnan(row.figures.error) for row in rows):
        kinds = {row.figures.grouped for row in rows if not math.isnan(row.figures.error)}
        found.append(
            "± is between documents"
            if kinds == {True}
            else "± takes tokens as independent: too small where they are not"
            if kinds == {False}
            else "± is between documents where a result knows them, and else takes tokens as independent"
        )
    sized = [row for row in rows if row.size is not None]
    if sized:
        best = [row.name for row in sized if row.frontier]
        found.append(
            f"* on the frontier of size and {statistic_text(table.figure)}: nothing given is at most as large and at "
            f"most as far ({', '.join(sorted(best, key=lambda name: _bytes(table, name)))})"
            if best
            else "no frontier: no candidate has both a size and a figure"
        )
        if len(sized) < len(rows):
            found.append(f"{len(rows) - len(sized)} of {len(rows)} candidates are without a size")
    return found


def _within_margin(table: RankedCandidates) -> str:
    assert table.not_worse is not None
    margin, names = table.not_worse
    by = (
        f"shown not to be worse than the best by {margin:g} {table.rows[0].figures.base.unit} or more in mean KL (95 %)"
    )
    inside = [row for row in table.rows if row.name in names]
    sized = [row for row in inside if row.size is not None]
    smallest = ""
    if inside and len(sized) == len(inside):
        smallest = f"; the smallest is {min(sized, key=lambda row: _bytes(table, row.name)).name}"
    return f"{by}: {', '.join(row.name for row in inside) or 'none'}{smallest}"


def _bytes(table: RankedCandidates, name: str) -> int:
    return next(row.size.bytes for row in table.rows if row.name == name and row.size is not None)


def _order(table: RankedCandidates) -> str:
    base = table.rows[0].figures.base
    tokens = {row.figures.base.tokens for row in table.rows}
    of = f", of {base.tokens} tokens" if len(tokens) == 1 and base.tokens is not None else ""
    vocabulary = f", vocabulary {base.vocab_size}" if base.vocab_size is not None and of else ""
    path = f" (p is {labels([base.path])[0]})" if base.path else ""
    by = "as llama-perplexity prints it, to six decimals" if base.convention == "llama.cpp" else f"in {base.unit}"
    return f"by {statistic_text(table.figure)}(p‖q), {by}, the least first{path}{of}{vocabulary}"


def _about_groups(table: RankedCandidates) -> str:
    groups = table.groups
    if groups.startswith("paired"):
        rest = "; pairs without a p-value count as such" if "unknown" in groups else ""
        return (
            "candidates that share a letter are not told apart at 5 % (paired differences, Holm over all pairs); that "
            f"is no proof that they are equal{rest}"
        )
    if groups.startswith("unknown"):
        return f"whether they differ is not known ({groups.partition(': ')[2]}): no groups"
    if groups == "tangled":
        return "which candidates are told apart takes more letters than there are; the result lists the differences"
    if groups == "partly":
        return f"not of all pairs is known whether they differ in {statistic_text(table.figure)}: no groups"
    return (
        "errors are of each candidate alone (unpaired): that they overlap does not make two alike; one run of kullback "
        "compare with all of them gives paired differences, and with them groups"
    )


def printed(table: RankedCandidates) -> str:
    """For a terminal: 80 columns where it says nothing else."""
    file = io.StringIO()
    out = Output(file)
    names, rows = _columns(table)
    shown = PrintedTable(*names)
    for cells in rows:
        shown.add_row(*cells)
    out.print(shown)
    out.print()
    below = PrintedTable("", "", text=True)
    for line in notes_of(table):
        below.add_row("-", line)
    out.print(below)
    return file.getvalue()


def notes_of(table: RankedCandidates) -> list[str]:
    return [visible(line) for line in notes(table)]


def markdown(table: RankedCandidates) -> str:
    """GitHub's Markdown."""
    names, rows = _columns(table)
    lines = [
        markdown_row(map(_plain, names)), "|---|" + "---:|" * (len(names) - 1),
        *(markdown_row([_code(name), *map(_plain, cells)]) for name, *cells in rows),
    ]  # fmt: skip
    lines += ["", *(f"- {_plain(line)}" for line in notes_of(table))]
    return marked("\n".join([*lines, ""]))


def markdown_row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """Text as code: nothing in it is a link, a mention or emphasis."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}".replace("|", "\\|")


def _plain(text: str) -> str:
    r"""Text in which nothing is markup: what Markdown and HTML read gets a \ before it, and @ mentions nobody."""
    return re.sub(r"([\\`*_{}\[\]<>|~#!&])", r"\\\1", text).replace("@", "&#64;")


def comma_separated(table: RankedCandidates) -> str:
    """With a heading; not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(TABLE_COLUMNS)
    for rank, row in enumerate(table.rows, 1):
        flat = _flat(row)
        values = [rank, *(flat[name] for name in TABLE_COLUMNS[1:])]
        writer.writerow(["" if value is None else value for value in values])
    return file.getvalue()


def _flat(row: CandidateRow) -> dict[str, Any]:
    """By the columns of the CSV file."""
    figures, size = row.figures, row.size
    low, high = figures.intervals.get("mean", (math.nan, math.nan))
    found: dict[str, Any] = {
        "candidate": visible(row.name), "result": visible(figures.result), "tokens": figures.base.tokens,
        "bytes": size and size.bytes, "parameters": size and size.parameters,
        "bits_per_weight": size and json_number(size.bits_per_weight), "frontier": row.frontier if size else None,
        "alike": row.alike or None, "kl_mean": json_number(figures.kl["mean"]),
        "kl_error": json_number(figures.error), "kl_error_between": "documents" if figures.grouped else "tokens",
        "kl_low": json_number(low), "kl_high": json_number(high),
    }  # fmt: skip
    for figure in ("median", "p90", "p95", "p99", "p99.9", "max"):
        found[f"kl_{figure}"] = json_number(figures.kl.get(figure, math.nan))
    for name in ("same_top1", "perplexity_ratio", "perplexity_ratio_error", "acceptance"):
        found[name] = json_number(getattr(figures, name))
    if math.isnan(figures.error):
        found["kl_error_between"] = None
    return found


def tree(table: RankedCandidates) -> dict[str, Any]:
    """For JSON: null where not known."""
    rows = [{"rank": rank} | _flat(row) for rank, row in enumerate(table.rows, 1)]
    return {TABLE_KEY: 1, "statistic": table.statistic, "notes": notes_of(table), "rows": rows}
