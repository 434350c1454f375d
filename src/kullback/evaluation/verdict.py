"""What figures come to, in words that terminal and page share. No verdict where the documents cannot bear one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kullback.comparison import ComparisonSummary, Mean, json_number, share_text
from kullback.evaluation.figures import ratio_text
from kullback.evaluation.parts import Clipping
from kullback.evaluation.ranking import LEVEL, Margin, Ranking
from kullback.evaluation.table.sizes import size_text
from kullback.evaluation.text import short

__all__ = ["RULE", "left_out", "rule_of", "verdict_of_many", "verdict_of_one", "verdict_tree"]

RULE = "the smallest of the candidates whose mean KL cannot be told from the lowest"


def rule_of(ranking: Ranking, unit: str) -> str:
    """By which rule it is said what to ship: RULE, or that with a margin."""
    if ranking.margin is None:
        return RULE
    return (
        "the smallest of the candidates whose mean KL is shown not to be above that of the best by "
        f"{ranking.margin.margin:g} {unit} or more"
    )


def verdict_tree(
    candidates: Mapping[str, ComparisonSummary], ranking: Ranking, sizes: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """For JSON, by the rule with a margin: the p-values, who passes, what to ship (null where that is not known)."""
    margin = ranking.margin
    assert margin is not None
    return {
        "rule": rule_of(ranking, candidates[ranking.order[0]].unit), "margin": margin.margin, "level": 1 - LEVEL,
        "lowest": ranking.order[0], "not_worse": margin.not_worse,
        "adjusted_p_values": {name: json_number(p) for name, p in margin.p_values.items()},
        "ship": _smallest(margin.not_worse, sizes or {}),
    }  # fmt: skip


def verdict_of_many(
    candidates: Mapping[str, ComparisonSummary], ranking: Ranking, sizes: Mapping[str, float] | None = None
) -> list[str]:
    """Sentences: which candidate is nearest, which cannot be told from it, which to ship by the rule."""
    name = ranking.order[0]
    best = candidates[name]
    lowest = f"{name} has the lowest mean KL, {short(best.kl.mean)} {best.unit}"
    if not best.kl.count:
        return ["No verdict: there is no row that could be compared."]
    rounding = _against_rounding(best)
    if ranking.why_not:
        return [f"{lowest}.", f"There is no verdict on whether that is more than chance: {ranking.why_not}.", *rounding]
    alike, first = ranking.alike, next(iter(ranking.to_best.values())).difference
    over = f"95 %, paired by {first.groups} documents or chunks" if first.groups else "95 %, paired by token"
    others = [test for name, test in ranking.to_best.items() if name not in alike]
    lines = []
    if len(alike) == 1:
        ends = [low for test in others if not math.isnan(low := test.difference.interval()[0])]
        least = f", by {short(min(ends), 3)} or more" if ends else ""
        lines.append(
            f"{name} is nearest to the base: its mean KL of {short(best.kl.mean)} {best.unit} is lower than that of "
            f"every other candidate{least} ({over})."
        )
    else:
        lines.append(f"{lowest}; {_listed(alike[1:])} cannot be told from it ({over}).")
        worse = {other: ranking.to_best[other].difference.interval()[1] for other in alike[1:]}
        worst = max(worse, key=lambda other: (math.isfinite(worse[other]), worse[other]))
        if math.isfinite(worse[worst]) and worse[worst] > 0:
            lines.append(f"That is not to say equal: {worst} may be up to {short(worse[worst], 3)} {best.unit} worse.")
        if others:
            lines.append(f"Shown to be higher: {_listed([test.high for test in others])}.")
    if not first.groups:
        lines.append(
            "This takes tokens as independent, which those of one text are not, and the files do not say which are of "
            "one: it is less sure than 95 %."
        )
    rule, among = rule_of(ranking, best.unit), alike
    if ranking.margin is not None:
        among = ranking.margin.not_worse
        lines.append(_within(ranking.margin, best.unit))
    return [*lines, _shipped(rule, among, sizes or {}), *rounding]


def _within(margin: Margin, unit: str) -> str:
    by = f"the best by {margin.margin:g} {unit} or more"
    how = "95 %, one-sided against every other candidate, Holm over candidates"
    if margin.not_worse:
        return f"Shown not to be worse than {by}: {_listed(margin.not_worse)} ({how})."
    return f"No candidate is shown not to be worse than {by} ({how}): that takes more rows, or a wider margin."


def _shipped(rule: str, among: Sequence[str], sizes: Mapping[str, float]) -> str:
    if not among:
        return f"To ship, by the rule “{rule}”: none."
    if len(among) == 1:
        return f"To ship, by the rule “{rule}”: {among[0]}, which is the only one."
    pick = _smallest(among, sizes)
    if pick is None:
        return f"To ship, by the rule “{rule}”: one of {_listed(among)}; not all their sizes are known here."
    return f"To ship, by the rule “{rule}”: {pick}, of {size_text(sizes[pick])}."


def _smallest(among: Sequence[str], sizes: Mapping[str, float]) -> str | None:
    if len(among) == 1:
        return among[0]
    known = bool(among) and all(name in sizes for name in among)
    return min(among, key=lambda name: sizes[name]) if known else None


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = list(names[:most]) if len(names) > most + 1 else list(names)
    left = len(names) - len(shown)
    if left:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def verdict_of_one(s: ComparisonSummary) -> list[tuple[str, str]]:
    """Of one candidate: how far it is, how sure that is, whether rounding explains it, and what was left out."""
    found = [("How far", _how_far(s)), ("How sure", _how_sure(s))] if s.kl.count else [("How far", "Not known.")]
    found += [("Beside rounding", line) for line in _against_rounding(s, always=True)]
    return [*found, ("Left out", " ".join(left_out(s)) or "Nothing: every row is in every figure.")]


def _how_far(s: ComparisonSummary) -> str:
    kl, digits = s.kl, min(3, s.kl.quantile_digits)
    text = (
        f"{short(kl.mean)} {s.unit} a token on average (KL(p‖q)). Half of the tokens are at "
        f"{short(kl.median, digits)} or less, 1 in 100 above {short(kl.quantile(0.99), digits)}. "
        f"Both have the same top token in {share_text(s.same_top1.mean)} of the rows."
    )
    if not math.isnan(brought := kl.worst_share(0.01)):
        text += f" The worst 1 % of the tokens bring {share_text(brought)} of the mean."
    if s.log_ratio.count and math.isfinite(s.perplexity_ratio):
        text += f" On the text itself the candidate's perplexity is {ratio_text(s)} times the base's."
    return text


def _how_sure(s: ComparisonSummary) -> str:
    kl = s.kl
    if kl.groups and not kl.enough_groups:
        return f"There is no interval: {kl.group_note} (documents or chunks)."
    low, high = kl.interval()
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"There is no interval: {kl.group_note or 'the mean is infinite or of one row alone'}."
    if kl.groups:
        return (
            f"The mean is between {short(low, 3)} and {short(high, 3)} (95 %), with {kl.groups} documents or chunks as "
            "the independent draws."
        )
    return (
        f"Were tokens independent, the mean would be between {short(low, 3)} and {short(high, 3)} (95 %). They are not "
        "within a text, and the files do not say which tokens are of one: the truth is less sure than that."
    )


def _against_rounding(s: ComparisonSummary, always: bool = False) -> list[str]:
    """Whether the KL is more than what rounding to the stored numbers gives; of several only where it is not."""
    null = s.parts.get("null_control")
    if not isinstance(null, Mean) or not null.count or not null.mean > 0 or not s.kl.count:
        return []
    times = s.kl.mean / null.mean
    alone = f"Rounding to the stored numbers alone gives a KL of about {short(null.mean, 2)}"
    if times < 3:
        return [f"{alone}: what was found is no more than that says by itself."]
    often = f"{short(times, 2)} times" if times < 1000 else "more than 1000 times"
    return [f"{alone}; what was found is {often} that."] if always else []


def left_out(s: ComparisonSummary) -> list[str]:
    """Rows that are in no figure, or in some only, and what that does to the others."""
    lines = []
    if s.facts.get("missing_rows"):
        lines.append("The job is incomplete: rows are missing, see above.")
    if s.undefined:
        lines.append(
            f"{_rows(s.undefined)} of {s.tokens} without a distribution in p or q (NaN, +inf or no mass): in no figure."
        )
    if s.ignored:
        lines.append(f"{_rows(s.ignored)} more whose token says that they are to be ignored: in no figure.")
    if s.kl.infinite:
        lines.append(f"{_rows(s.kl.infinite)} where q is 0 and p is not have an infinite KL, and so has the mean.")
    clipping = s.parts.get("clipping")
    if isinstance(clipping, Clipping) and (clipping.targets_p or clipping.targets_q):
        lines.append(
            f"True tokens beyond the window of the 16-bit codes: {clipping.targets_p} in p, {clipping.targets_q} in q "
            f"of {clipping.rows}. Perplexities are lower bounds."
        )
    return lines


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
