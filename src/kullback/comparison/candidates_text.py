"""Candidates and their differences as plain text of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kullback.comparison.paired import Difference, holm
from kullback.comparison.summary import ComparisonSummary

_NAME, _PAIR = 22, 30  # columns
SHOWN = 15  # pairs; of more, each candidate and the next in the ranking


def text_of(
    ranked: Mapping[str, ComparisonSummary], differences: Mapping[tuple[str, str], Difference], left_out: int
) -> str:
    """One table of the candidates, one of their differences in KL, and what is not known about them.

    `left_out`: rows that are in no difference, for want of a distribution in some candidate.
    """
    first = next(iter(ranked.values()))
    inside = f" in {first.kl.groups} groups" if first.kl.groups else ""
    count = "1 candidate" if len(ranked) == 1 else f"{len(ranked)} candidates"
    lines = [f"{count}, {first.tokens} tokens{inside}, {first.unit}"]
    error = first.kl.error[1]
    lines.append(f"{'':{_NAME}}{'kl':>11}{error:>11}{'99 %':>11}{'same top 1':>12}{'perplexity':>13}")
    for name, s in ranked.items():
        digits = s.kl.quantile_digits
        ratio = f"x {s.perplexity_ratio:.6g}" if s.log_ratio.count else "-"
        lines.append(
            f"{_cut(name, _NAME - 1):{_NAME}}{_number(s.kl.mean, 4):>11}{_number(s.kl.error[0], 2):>11}"
            f"{_number(s.kl.quantile(0.99), digits):>11}{_number(100 * s.same_top1.mean, 5):>10} %{ratio:>13}"
        )
    if differences:
        lines += ["", f"{'differences, paired':{_PAIR}}{'kl':>11}{'95 %':>24}{'p (Holm)':>12}"]
        adjusted = holm([d.p_value for d in differences.values()])
        for (pair, d), p in zip(differences.items(), adjusted, strict=True):
            lines.append(f"{_pair(*pair):{_PAIR}}{_number(d.mean, 3):>11}{_ends(d):>24}{_p(p):>12}")
        lines += _notes(list(differences.values()), left_out)
    return "\n".join(lines)


def _notes(found: Sequence[Difference], left_out: int) -> list[str]:
    """Of what draws the errors are, and what is not known."""
    first = found[0]
    by = f"between {first.groups} groups" if first.enough_groups else "tokens as independent"
    notes = [first.group_note or f"{by}; p for {_pairs(len(found))}"]
    if left_out:
        notes.append(f"rows with a distribution in some candidates only, left out of differences: {left_out}")
    infinite = sum(any(d.infinite) for d in found)
    if infinite:
        notes.append(f"KL is infinite in some rows of {_pairs(infinite)}: see `difference(a, b).kl.finite`")
    return notes


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count} pairs"


def _ends(d: Difference) -> str:
    low, high = d.interval()
    return "-" if math.isnan(low) else f"{low:.3g} to {high:.3g}"


def _number(x: float, digits: int) -> str:
    return "-" if math.isnan(x) else f"{x:.{digits}g}"


def _p(p: float) -> str:
    return "-" if math.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _pair(a: str, b: str) -> str:
    each = (_PAIR - 4) // 2
    return f"{_cut(a, each)} - {_cut(b, each)}"


def _cut(name: str, most: int) -> str:
    """Names differ at their ends as often as at their beginnings: what is left out is in the middle."""
    shown = "".join(c if c.isprintable() else "?" for c in name)
    half = most // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[len(shown) - (most - half - 1) :]}"
