"""How candidates differ, as a table of plain text: which of the differences are real."""

from __future__ import annotations

import math

from kullback.comparison import CandidateComparison, holm
from kullback.evaluation.layout import Output, PrintedTable
from kullback.evaluation.text import short, visible

LEVEL = 0.05
_SHOWN = 20  # pairs; of more, each candidate and the next in the ranking


def print_differences(out: Output, comparison: CandidateComparison) -> None:
    """Paired differences of KL, of all pairs of a few candidates or of neighbours in the ranking of many."""
    names = comparison.ranking()
    pairs = comparison.listed_pairs()
    if len(pairs) > _SHOWN:
        pairs = [pair for pair in pairs if names.index(pair[1]) == names.index(pair[0]) + 1]
    found = [comparison.difference(b, a) for a, b in pairs]
    if not found or "kl" not in found[0].quantities:
        return
    adjusted = holm([d.kl.p_value for d in found])
    table = PrintedTable("worse - better", "KL", "95 %", "p", "99.9 %", "same top", title="How they differ")
    for difference, p in zip(found, adjusted, strict=True):
        low, high = difference.kl.interval()
        tail = difference.kl_quantile(0.999)
        table.add_row(
            visible(f"{difference.a} - {difference.b}"), short(difference.kl.mean, 3),
            "-" if math.isnan(low) else f"{short(low, 3)} to {short(high, 3)}", p_text(p),
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


def p_text(p: float) -> str:
    """A p-value: two digits, and no more than is known."""
    return "-" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"
