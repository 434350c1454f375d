"""What comes of gates: of each condition and what it is about a Verdict, with the sentence that says why.

A figure that is not known (NaN, rows without a distribution, an interval that cannot be had, a label without rows)
never passes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from kullback.comparison import CandidateComparison, ComparisonSummary, PairDifference, Spread
from kullback.evaluation.gates import RATIOS, Condition, Subject, chosen_labels, listed_labels, quantile_level
from kullback.evaluation.label_tables import sets_of

__all__ = ["Verdict", "github_lines", "junit", "verdicts"]

LEVEL = 0.95  # of `upper` and `lower`, each one-sided
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_WORDS = {">": "above", ">=": "at or above", "<": "below", "<=": "at or below"}


class Verdict(NamedTuple):
    """What came of a condition for a `subject`; `passed` only if the figure is known and the condition not met."""

    condition: Condition
    subject: str
    found: float
    passed: bool
    message: str


def verdicts(conditions: Sequence[Condition], candidates: Mapping[str, ComparisonSummary]) -> list[Verdict]:
    """One for each condition and each candidate, or difference, and label that it is about."""
    return [verdict for condition in conditions for verdict in _of_condition(condition, candidates)]


def _of_condition(condition: Condition, candidates: Mapping[str, ComparisonSummary]) -> Iterator[Verdict]:
    first, second, bracket = Subject.of(condition, list(candidates))
    names = [first] if first else list(candidates)
    sets = {name: list(by) for name, by in sets_of(next(iter(candidates.values()))).items()}
    labels = [None] if bracket is None else chosen_labels(bracket, sets) or []
    for name in names:
        who = f"{name} - {second}" if second else name
        if not labels:
            why = f"no row has the label {bracket!r}; {listed_labels(sets)}"
            yield _judged(condition, f"{who} [{bracket}]", math.nan, why, True)
        for label in labels:
            if second:
                what: Any = candidates
                found, why = _of_pair(
                    condition, (what if label is None else what.sets[label[0]][label[1]]), name, second
                )
            else:
                one = candidates[name] if label is None else sets_of(candidates[name])[label[0]][label[1]]
                found, why = _of_one(condition, one)
            shown = "" if label is None else f" [{'='.join(filter(None, label))}]"
            several = bool(label or second or len(candidates) > 1)
            yield _judged(condition, who + shown, found, why, several)


def _judged(condition: Condition, subject: str, found: float, why: str, several: bool) -> Verdict:
    """`why` the figure is not known, or ""."""
    unknown = bool(why) or math.isnan(found)
    passed = not (unknown or _COMPARISONS[condition.sign](found, condition.limit))
    limit = f"{_WORDS[condition.sign]} {condition.limit:g}"
    message = f"{subject}: " if several else ""
    if unknown:
        message += f"{condition.figure_name} is not known, so it may be {limit}: {why or 'NaN'}"
    else:
        message += f"{condition.figure_name} is {found:.6g}, {'not ' if passed else ''}{limit}"
    return Verdict(condition, subject, found, passed, message)


def _of_one(condition: Condition, summary: ComparisonSummary) -> tuple[float, str]:
    """The figure of a candidate, and why it is not known or ""."""
    spread = None if condition.name in RATIOS else _spread(summary, condition.name)
    found = _figure(condition, summary, spread)
    if summary.undefined:
        return found, f"{summary.undefined} of {summary.tokens} rows have no distribution"
    return found, _why_unknown(condition, summary, spread) if math.isnan(found) else ""


def _spread(summary: ComparisonSummary, name: str) -> Spread | None:
    found: Any = summary.parts.get(name) if name in summary.parts else getattr(summary, name, None)
    return found if isinstance(found, Spread) else None


def _figure(condition: Condition, summary: ComparisonSummary, spread: Spread | None) -> float:
    if condition.name in RATIOS:
        return float(getattr(summary, condition.name))
    if spread is None or not spread.count:
        return math.nan
    level = quantile_level(condition.figure)
    if not condition.end:
        return spread.quantile(level) if level is not None else float(getattr(spread, condition.figure))
    if level is None:
        return _end(condition, spread.interval(2 * LEVEL - 1))
    found = _end(condition, spread.quantile_interval(level, 2 * LEVEL - 1))
    # of too few values there is none beyond the quantile: an end that is not known, unless values are infinite
    return math.nan if math.isinf(found) and math.isfinite(spread.quantile(level)) and not spread.infinite else found


def _end(condition: Condition, interval: tuple[float, float]) -> float:
    return interval[condition.end == "upper"]


def _why_unknown(condition: Condition, summary: ComparisonSummary, spread: Spread | None) -> str:
    if not summary.tokens:
        return "there are no rows"
    if condition.end and spread is not None and spread.count:
        if spread.group_note:
            return spread.group_note
        if quantile_level(condition.figure) is not None:
            return "too few rows for an end, or too many labels for intervals of their quantiles"
    if condition.name == "jensen_shannon" and spread is None:
        return "it was not computed; see --js"
    if condition.name in (*RATIOS, "log_ratio", "delta_prob") and not summary.log_ratio.count:
        return "no tokens were given"
    return "NaN"


def _of_pair(condition: Condition, candidates: CandidateComparison, a: str, b: str) -> tuple[float, str]:
    """The figure of a difference, and why it is not known or ""."""
    pair = candidates.difference(a, b)
    undefined = max(candidates[name].undefined for name in (a, b))
    if undefined or pair.left_out:
        return math.nan, f"{max(undefined, pair.left_out)} rows have no distribution in some candidate"
    if not pair.rows:
        return math.nan, "there are no rows"
    if condition.name not in pair.quantities:
        return math.nan, "no tokens were given"
    found = _of_difference(condition, pair)
    if not math.isnan(found):
        return found, ""
    if condition.end and quantile_level(condition.figure) is not None and not pair.kl.group_note:
        return found, "errors of quantiles are known over all rows alone, and of five batches of rows at least"
    return found, pair.of(condition.name).group_note or "NaN"


def _of_difference(condition: Condition, pair: PairDifference) -> float:
    level = quantile_level(condition.figure)
    found = pair.of(condition.name) if level is None else pair.kl_quantile(level)
    if condition.end:
        return _end(condition, found.interval(2 * LEVEL - 1))
    return float(found.mean if level is not None else getattr(found, condition.figure))


def junit(found: Sequence[Verdict], suite: str) -> bytes:
    """The verdicts as a JUnit file: a test case each, for the pages of pipelines."""
    failures = str(sum(not verdict.passed for verdict in found))
    root = ElementTree.Element("testsuites", name="kullback", tests=str(len(found)), failures=failures)
    own = ElementTree.SubElement(root, "testsuite", name=suite, tests=str(len(found)), failures=failures)
    for verdict in found:
        case = ElementTree.SubElement(own, "testcase", classname=verdict.subject, name=verdict.condition.text)
        if verdict.passed:
            ElementTree.SubElement(case, "system-out").text = verdict.message
        else:
            ElementTree.SubElement(case, "failure", message=verdict.message)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True)) + b"\n"


def github_lines(found: Sequence[Verdict]) -> Iterator[str]:
    """The verdicts that failed as commands of GitHub Actions, which shows them beside the change."""
    for verdict in found:
        if not verdict.passed:
            message = verdict.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
            yield f"::error title=kullback::{message}"
