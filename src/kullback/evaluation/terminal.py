"""Summaries as tables of plain text, on a terminal or piped: 80 columns are enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import IO, Any

from kullback.comparison import CandidateComparison, ComparisonSummary, Mean, share_text
from kullback.evaluation.bounds import bounds_lines, bounds_remarks
from kullback.evaluation.differences import print_differences, print_differences_by_label
from kullback.evaluation.figures import percent, ratio_text
from kullback.evaluation.label_tables import print_labels
from kullback.evaluation.layout import Output, Paragraph, PrintedTable
from kullback.evaluation.parts import Agreement, Breakdown, Clipping, Convention
from kullback.evaluation.ranking import rank
from kullback.evaluation.table.sizes import ModelSize, size_text
from kullback.evaluation.text import labels, short, visible
from kullback.evaluation.verdict import verdict_of_many

__all__ = ["print_comparison", "print_facts", "print_summaries", "remarks", "side_labels"]

_ROWS = (
    ("kl", "KL(p‖q)"),
    ("reverse_kl", "KL(q‖p)"),
    ("jensen_shannon", "JS(p, q)"),
    ("entropy_p", "entropy p"),
    ("entropy_q", "entropy q"),
    ("log_ratio", "log-ratio"),
)


def print_comparison(
    comparison: CandidateComparison,
    file: IO[str] | None = None,
    sizes: Mapping[str, ModelSize] | None = None,
    margin: float | None = None,
) -> None:
    """Several candidates side by side, how they differ and what to ship, if so with a `margin`; then each one."""
    bytes_of = {name: size.bytes for name, size in (sizes or {}).items()}
    out = Output(file)
    if len(comparison) > 1:
        _print_candidates(out, comparison, bytes_of)
        print_differences(out, comparison)
        print_differences_by_label(out, comparison)
        out.print()
        for line in verdict_of_many(comparison, rank(comparison, margin), bytes_of):
            out.print(Paragraph(line))
    print_summaries(comparison.summaries, file)


def print_summaries(summaries: Sequence[ComparisonSummary], file: IO[str] | None = None) -> None:
    """The tables of each comparison."""
    out = Output(file)
    for summary in summaries:
        out.print()
        _print_summary(out, summary)


def remarks(s: ComparisonSummary) -> list[str]:
    """What a reader must know before the figures: rows that are missing, inputs that look wrong."""
    missing = s.facts.get("missing_rows", [])
    listed = ", ".join(f"{first} to {stop}" for first, stop in missing[:8]) + (", ..." if len(missing) > 8 else "")
    found = [f"INCOMPLETE: rows {listed} are missing"] if missing else []
    found += [f"suspicious: {line}" for line in s.facts.get("warnings", [])]
    if s.undefined:
        found.append(
            f"rows without a distribution in p or q: {s.undefined} (NaN, +inf or no mass) of {s.tokens}; "
            "all figures are without these rows"
        )
    return found + bounds_remarks(s) + _without_infinite(s)


def _without_infinite(s: ComparisonSummary) -> list[str]:
    """Where values are infinite, so are means: how many, and the figures without them."""
    lines = []
    for name, label in _ROWS[:2]:
        spread = getattr(s, name)
        if not spread.infinite:
            continue
        why = "q is 0 where p is not" if name == "kl" else "p is 0 where q is not"
        line = f"{label} is infinite in {spread.infinite} rows: {why}"
        known = spread.finite
        if known.count:
            error, label = known.error
            line += f"; without these rows: {short(known.mean)} {label} {short(error, 2)}, "
            line += f"99 % {short(known.quantile(0.99), min(3, known.quantile_digits))}, max {short(known.max, 3)}"
        lines.append(line)
    if s.impossible:
        line, rest = f"{s.impossible} of {s.kl.count} tokens have probability 0 in p or q", s.finite
        if rest.log_ratio.count:
            line += f"; without these rows: perplexity p {rest.perplexity_p:.6g}, q {rest.perplexity_q:.6g}, "
            line += f"ratio {_ratio(rest)}"
        lines.append(line)
    return lines


def side_labels(summaries: Sequence[ComparisonSummary]) -> tuple[str, list[str]]:
    """Short names of the base and the candidates that tell them apart."""
    paths = [str(s.facts.get("q", {}).get("path", f"candidate {i + 1}")) for i, s in enumerate(summaries)]
    base, *candidates = labels([str(summaries[0].facts.get("p", {}).get("path", "p")), *paths])
    return base, candidates


def _print_candidates(out: Output, comparison: CandidateComparison, sizes: Mapping[str, int]) -> None:
    label = next(iter(comparison.values())).kl.error[1]  # the groups are p's
    sized = ["size"] if sizes else []
    table = PrintedTable("candidate", *sized, "KL(p‖q)", label, "99 %", "same top", f"perplexity q/p {label}")
    for name in comparison.ranking():
        s = comparison[name]
        table.add_row(
            visible(name), *([size_text(sizes[name]) if name in sizes else "-"] if sizes else []),
            short(s.kl.mean), short(s.kl.error[0], 2),
            short(s.kl.quantile(0.99), s.kl.quantile_digits), share_text(s.same_top1.mean), _ratio(s, ""),
        )  # fmt: skip
    out.print(table)


def _ratio(s: ComparisonSummary, label: str | None = None) -> str:
    """With its error, named unless the heading does (an empty `label`)."""
    if not s.log_ratio.count:
        return "-"
    error, found = s.log_ratio.error
    return f"{ratio_text(s)} {(found if label is None else label) or '±'} {short(s.perplexity_ratio * error, 2)}"


def _print_summary(out: Output, s: ComparisonSummary) -> None:
    facts = s.facts
    for side in "pq":
        if side in facts:
            f = facts[side]
            kind = "llama.cpp dump, 16-bit codes" if f["format"] == "llama.cpp" else f"{f['format']}, {f['dtype']}"
            out.print(visible(f"{side}  {f['path']}  ({kind})"))
    groups = s.kl.groups
    inside = f" in {groups} chunks or documents" if groups else ""
    vocab = f", vocabulary {facts['vocab_size']}" if "vocab_size" in facts else ""
    for line in remarks(s):
        out.print(line, bold=True)
    out.print(f"{s.tokens} tokens{inside}{vocab}; in {s.unit}")
    if s.kl.group_note:
        out.print(s.kl.group_note, bold=True)
        out.print("± s.e. takes tokens as independent: too small where they are not")
    out.print()
    _print_spreads(out, s)
    _print_lines(out, s)
    for name, title, header in (
        ("by_confidence", "By p's greatest probability", "probability"),
        ("by_position", "By position in the chunk or document", "position"),
    ):
        part = s.parts.get(name)
        if isinstance(part, Breakdown) and len(part.bins) > 1:
            _print_breakdown(out, part, title, header)
    print_labels(out, s)
    _print_worst(out, s)
    convention = s.parts.get("llama_cpp")
    if isinstance(convention, Convention):
        out.print("\nAs llama-perplexity prints it\n", bold=True)
        out.print(str(convention.statistics))
        if convention.note:
            out.print(f"\n{convention.note}")


def _print_spreads(out: Output, s: ComparisonSummary) -> None:
    grouped = s.kl.enough_groups
    columns = ("", "mean", "± s.e.", *(["± group"] if grouped else []), "median", "99 %", "99.9 %", "max")
    table = PrintedTable(*columns)
    for name, label in _ROWS:
        spread: Any = s.parts.get(name) if name in s.parts else getattr(s, name, None)
        if spread is None or not spread.count:
            continue
        errors = [short(spread.standard_error, 2)]
        if grouped:
            errors.append(short(spread.group_standard_error, 2))
        digits = min(3, spread.quantile_digits)
        quantiles = [short(spread.quantile(level), digits) for level in (0.5, 0.99, 0.999)]
        table.add_row(label, short(spread.mean), *errors, *quantiles, short(spread.max, 3))
    out.print(table)
    out.print()


def _print_lines(out: Output, s: ComparisonSummary) -> None:
    """One line a quantity that is no distribution, and one a warning."""
    table = PrintedTable("", "", text=True)
    table.add_row("same top token", s.same_top1.share_text())
    kept = s.acceptance
    if kept.count:
        table.add_row("acceptance", f"{kept.share_text()}; 1 % of tokens below {share_text(kept.quantile(0.01))}")
    agreement = s.parts.get("top_k_agreement")
    if isinstance(agreement, Agreement):
        for k, mean in agreement.overlap.items():
            same = share_text(agreement.ordered[k].mean)
            shared = share_text(mean.mean, mean.standard_error, mean.count)
            table.add_row(f"top {k} shared", f"{shared}; in the same order {same}")
            held = agreement.holds[k]
            table.add_row(f"p's top in q's {k}", share_text(held.mean, held.standard_error, held.count))
    if s.kl.enough_groups:
        text = f"{short(s.kl.document_mean)} ± group {short(s.kl.document_standard_error, 2)}"
        table.add_row("KL by document", f"{text}: the mean over documents of their means")
    worst = s.kl.worst_share(0.01)
    if not math.isnan(worst):
        ratio = short(s.kl.over_mean(0.99), 3)
        table.add_row(
            "tail of KL", f"the worst 1 % of tokens bring {share_text(worst)} of the mean; 99 % is {ratio} of it"
        )
    for name, text in bounds_lines(s):
        table.add_row(name, text)
    clipping = s.parts.get("clipping")
    if s.log_ratio.count:
        table.add_row("perplexity", f"p {s.perplexity_p:.6g}, q {s.perplexity_q:.6g}, ratio {_ratio(s)}")
        d = s.delta_prob
        table.add_row(
            "Δp of the token",
            f"mean {percent(d.mean, d.error[0]).replace('±', d.error[1])}, rms {percent(d.rms)}",
        )
        if not math.isnan(s.log_prob_correlation):
            table.add_row("correlation", f"{s.log_prob_correlation:.6f} of the tokens' log-probs")
    null = s.parts.get("null_control")
    if isinstance(null, Mean) and null.count:
        table.add_row("null control", f"KL {short(null.mean, 2)} from the rounding of the stored numbers alone")
    if isinstance(clipping, Clipping):
        table.add_row("clipped mass", f"p {short(clipping.mass_p.mean, 3)}, q {short(clipping.mass_q.mean, 3)} a row")
        if clipping.targets_p or clipping.targets_q:
            table.add_row(
                "clipped targets",
                f"p {clipping.targets_p}, q {clipping.targets_q} of {clipping.rows}: perplexities are lower bounds",
            )
    if s.ignored:
        table.add_row("ignored rows", f"{s.ignored}, whose token says so: all figures are without these rows")
    if s.kl.sketched:
        table.add_row("quantiles", f"right to {short(100 * s.kl.quantile_error, 2)} % of their value")
    out.print(table)


def _print_breakdown(out: Output, part: Breakdown, title: str, header: str) -> None:
    table = PrintedTable(header, "tokens", "KL(p‖q)", "± s.e.", "same top", title=title)
    entries = sorted(part.bins)
    merged = [(part.label(key), part.bins[key]) for key in entries]
    if len(merged) > 8 and part.width:
        coarse = Breakdown(part.bins, part.labels, part.width)
        while len(coarse.bins) > 8:
            coarse = coarse.merge(Breakdown({}, part.labels, coarse.width * 2))
        merged = [(coarse.label(key), coarse.bins[key]) for key in sorted(coarse.bins)]
    for label, means in merged:
        kl = means["kl"]
        table.add_row(
            label, str(kl.count), short(kl.mean), short(kl.standard_error, 2), share_text(means["same_top1"].mean)
        )
    out.print()
    out.print(table)


def _print_worst(out: Output, s: ComparisonSummary, count: int = 5) -> None:
    part = s.parts.get("worst_tokens")
    worst = [] if part is None else part.to_dict()
    if not worst:
        return
    table = PrintedTable("row", "KL(p‖q)", "token", "ln p", "ln q", "p's top", "q's top", title="The worst tokens")
    for entry in worst[:count]:
        table.add_row(
            str(entry["row"]), short(float(entry["kl"])),
            _word(entry, "token"), _number(entry.get("log_prob_p")), _number(entry.get("log_prob_q")),
            _word(entry, "top1_p"), _word(entry, "top1_q"),
        )  # fmt: skip
    out.print()
    out.print(table)


def _word(entry: dict[str, Any], name: str) -> str:
    """A token as text where a tokenizer was given (its beginning, if it is long), else its id."""
    text = entry.get("text", {}).get(name)
    if text is None:
        return str(entry.get(name, "-"))
    return visible(text) if len(text) <= 12 else visible(text[:11]) + "…"


def _number(x: Any) -> str:
    return "-" if x is None else short(float(x))


def print_facts(facts: dict[str, Any], file: IO[str] | None = None) -> None:
    """Facts about one file, a line each."""
    out = Output(file)
    table = PrintedTable("", "", text=True)
    for name, value in facts.items():
        text = " x ".join(str(n) for n in value) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), {"True": "yes", "False": "no", "None": "unknown"}.get(text, text))
    out.print(table)
