"""How candidates differ, as a table of plain text: which of the differences are real."""

from __future__ import annotations

import math

from kullback.comparison import CandidateComparison, PairTest, holm
from kullback.evaluation.label_tables import cut
from kullback.evaluation.layout import Output, Paragraph, PrintedTable
from kullback.evaluation.text import short, visible

LEVEL = 0.05
_SHOWN = 20  # pairs; of more, each candidate and the next in the ranking
_BY_LABEL, _FEWEST = 8, 3  # differences by label: that are real, and that are shown where none is
_ASKED = 200  # pairs times labels


def shown_pairs(comparison: CandidateComparison) -> list[tuple[str, str]]:
    """All pairs of a few candidates, else neighbours in the ranking, the better one first."""
    pairs = comparison.listed_pairs()
    return pairs if len(pairs) <= _SHOWN else comparison.neighbours()


def print_differences(out: Output, comparison: CandidateComparison) -> None:
    """Paired differences of KL, of all pairs of a few candidates or of neighbours in the ranking of many."""
    pairs = shown_pairs(comparison)
    found = [comparison.difference(b, a) for a, b in pairs]
    if not found or "kl" not in found[0].quantities:
        return
    adjusted = holm([d.kl.p_value for d in found])
    table = PrintedTable("worse - better", "KL", "95 %", "p", "99.9 %", "same top", title="How they differ")
    for difference, p in zip(found, adjusted, strict=True):
        tail = difference.kl_quantile(0.999)
        table.add_row(
            visible(f"{difference.a} - {difference.b}"), short(difference.kl.mean, 3),
            interval_text(difference.kl.interval()), p_text(p),
            short(tail.mean, 2), f"{short(100 * difference.same_top1.mean, 2)} %",
        )  # fmt: skip
    out.print()
    out.print(table)
    first = found[0]
    by = f"between {first.kl.groups} documents" if first.kl.enough_groups else "tokens as independent"
    out.print(f"paired, {by}; p for {len(found)} {'pair' if len(found) == 1 else 'pairs'} (Holm)")
    if first.kl.group_note:
        out.print(first.kl.group_note, bold=True)
    alike = [d for d, p in zip(found, adjusted, strict=True) if not p < LEVEL]
    if alike:
        named = ", ".join(visible(f"{d.b} and {d.a}") for d in alike[:5]) + (", ..." if len(alike) > 5 else "")
        out.print(f"not told apart at {LEVEL:.0%}: {named}")
    if first.left_out:
        out.print(f"{first.left_out} rows have a distribution in some candidates only: differences are without them")


def print_differences_by_label(out: Output, comparison: CandidateComparison) -> None:
    """Of each set of labels a few differences in KL."""
    for name in comparison.sets:
        chosen, lines = label_differences(comparison, name, _BY_LABEL)
        if not chosen:
            continue
        title = f"How they differ by {visible(name) or 'label'}"
        table = PrintedTable(visible(name) or "label", "worse - better", "KL", "95 %", "p", title=title)
        for test in chosen:
            pair, ends = visible(f"{test.a} - {test.b}"), interval_text(test.difference.interval())
            table.add_row(cut(visible(test.label)), pair, short(test.difference.mean, 3), ends, p_text(test.adjusted))
        out.print()
        out.print(table)
        for line in lines:
            out.print(Paragraph(line))


def label_differences(comparison: CandidateComparison, name: str, most: int) -> tuple[list[PairTest], list[str]]:
    """Of a set of labels `most` differences in KL, and what they are: of those that are real, if any are, first the
    ones that are the other way round than over all rows, then the largest."""
    pairs = shown_pairs(comparison)
    labels = len(comparison.sets[name])
    if labels * len(pairs) > _ASKED:  # the more questions, the less can be told: of many labels only neighbours
        pairs = comparison.neighbours()
    tests = [t for t in comparison.tests([(b, a) for a, b in pairs], by=name) if not math.isnan(t.difference.mean)]
    real = [t for t in tests if t.adjusted < LEVEL or math.isinf(t.difference.mean)]
    found = sorted(
        real or tests, key=lambda t: (bool(real) and t.difference.mean > 0, -abs(t.difference.mean), t.label)
    )
    chosen = found[: most if real else _FEWEST]
    asked = f"{len(tests)} {'question' if len(tests) == 1 else 'questions'}, pairs times labels"
    if not real:
        unknown = all(math.isnan(t.adjusted) for t in tests)
        why = "no errors are known (fewer than five documents)" if unknown else "none is told from chance at 5 %"
        return chosen, [f"the largest of {asked}: {why} (Holm)"]
    left_out = "; the largest are shown" if len(real) > len(chosen) else ""
    lines = [f"{len(real)} of {asked}, told from chance at 5 % (Holm){left_out}"]
    if turned := sum(t.difference.mean < 0 for t in real):
        lines.append(f"the other way round than over all: {turned}, which come first")
    return chosen, lines


def interval_text(ends: tuple[float, float]) -> str:
    low, high = ends
    return "-" if math.isnan(low) else f"{short(low, 3)} to {short(high, 3)}"


def p_text(p: float) -> str:
    """A p-value: two digits, and no more than is known."""
    return "-" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"
