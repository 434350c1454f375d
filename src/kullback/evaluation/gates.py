"""Gates: conditions under which a comparison fails, `kullback compare --fail-if 'kl.mean.upper > 0.01'`.

A condition -> of each candidate the figure that it names -> a Verdict each, with the sentence that says why. A figure
that is not known (NaN, rows without a distribution, an interval that cannot be had) never passes.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

from kullback.comparison import SPREADS, ComparisonSummary, Spread

__all__ = ["Condition", "Verdict", "check_names", "github_lines", "junit", "parse", "verdicts"]

LEVEL = 0.95  # of `upper` and `lower`, each one-sided
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_WORDS = {">": "above", ">=": "at or above", "<": "below", "<=": "at or below"}
_SPREADS = (*SPREADS, "jensen_shannon")
_RATIOS = ("perplexity_p", "perplexity_q", "perplexity_ratio")
_FIGURES = ("mean", "median", "max", "min", "rms", "standard_error", "group_standard_error", "upper", "lower")
_ENDS = ("upper", "lower")
_FORM = re.compile(
    r"(?:(?P<candidate>.*\S)\s*:\s)?\s*(?P<name>[a-z_0-9]+)(?:\.(?P<figure>[a-z_]+|p[0-9]+(?:\.[0-9]+)?))?"
    r"(?:\.(?P<end>[a-z]+))?\s*(?P<sign>[<>]=?)\s*(?P<limit>\S+)"
)


class Condition(NamedTuple):
    """Under which a candidate fails.

    Attributes
    ----------
    text : str
        As it was given.
    candidate : str
        The name of the only one that it is about; empty for all.
    name, figure, end : str
        What is compared: `kl`, `mean`, and `upper` or `lower` for an end of its interval.
    sign : str
        One of > >= < <=.
    limit : float
    """

    text: str
    candidate: str
    name: str
    figure: str
    end: str
    sign: str
    limit: float

    @property
    def figure_name(self) -> str:
        return ".".join(part for part in (self.name, self.figure, self.end) if part)


class Verdict(NamedTuple):
    """What came of a condition for a candidate; `passed` only if the figure is known and the condition not met."""

    condition: Condition
    candidate: str
    found: float
    passed: bool
    message: str


def parse(text: str) -> Condition:
    """A condition: `[CANDIDATE: ]STATISTIC[.FIGURE][.upper|.lower] SIGN NUMBER`.

    Raises
    ------
    ValueError
        That says what of it is not understood, and what there is.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text[:80]!r}, expected a condition like 'kl.mean > 0.01' or 'q4.gguf: same_top1.mean < 0.97'"
        )
    parts = {name: part or "" for name, part in found.groupdict().items()}
    name, figure, end = parts["name"], parts["figure"], parts["end"]
    if name in _RATIOS:
        if figure:
            raise ValueError(f"{text[:80]!r}: {name} is one number, expected no `.{figure}`")
    elif name not in _SPREADS:
        raise ValueError(f"{text[:80]!r}: no statistic is called {name!r}; there are {', '.join(_SPREADS + _RATIOS)}")
    elif not figure:
        figure = "mean"
    elif figure in _ENDS:
        if end:
            raise ValueError(f"{text[:80]!r}: expected one of .upper and .lower, the last")
        figure, end = "mean", figure
    elif figure not in _FIGURES and _level(figure) is None:
        raise ValueError(
            f"{text[:80]!r}: {name} has no {figure!r}; there are {', '.join(_FIGURES)}, and quantiles as p99 or p99.9"
        )
    if end and (end not in _ENDS or figure != "mean"):
        raise ValueError(f"{text[:80]!r}: expected .upper or .lower of a mean, not {'.'.join((figure, end))!r}")
    try:
        limit = float(parts["limit"])
    except ValueError:
        limit = math.nan
    if math.isnan(limit):
        raise ValueError(f"{text[:80]!r}: {parts['limit']!r} is no number")
    return Condition(text.strip(), parts["candidate"], name, figure, end, parts["sign"], limit)


def check_names(conditions: Sequence[Condition], candidates: Sequence[str]) -> None:
    """ValueError where a condition is about a candidate that there is not."""
    for condition in conditions:
        if condition.candidate and condition.candidate not in candidates:
            raise ValueError(
                f"--fail-if {condition.text!r}: no candidate is called {condition.candidate!r}; "
                f"there are {', '.join(candidates)}"
            )


def verdicts(conditions: Sequence[Condition], candidates: Mapping[str, ComparisonSummary]) -> list[Verdict]:
    """One for each condition and each candidate that it is about."""
    return [
        _verdict(condition, summary, name, len(candidates) > 1)
        for condition in conditions
        for name, summary in candidates.items()
        if condition.candidate in ("", name)
    ]


def _verdict(condition: Condition, summary: ComparisonSummary, candidate: str, several: bool) -> Verdict:
    spread = None if condition.name in _RATIOS else _spread(summary, condition.name)
    found = _figure(condition, summary, spread)
    missing = summary.undefined
    passed = not (missing or math.isnan(found) or _COMPARISONS[condition.sign](found, condition.limit))
    whose = f"{candidate}: " if several else ""
    what, limit = condition.figure_name, f"{_WORDS[condition.sign]} {condition.limit:g}"
    if passed:
        message = f"{whose}{what} is {found:.6g}, not {limit}"
    elif not missing and not math.isnan(found):
        message = f"{whose}{what} is {found:.6g}, {limit}"
    else:
        message = f"{whose}{what} is not known, so it may be {limit}: {_why_unknown(condition, summary, spread)}"
    return Verdict(condition, candidate, found, passed, message)


def _spread(summary: ComparisonSummary, name: str) -> Spread | None:
    found: Any = summary.parts.get(name) if name in summary.parts else getattr(summary, name, None)
    return found if isinstance(found, Spread) else None


def _figure(condition: Condition, summary: ComparisonSummary, spread: Spread | None) -> float:
    if condition.name in _RATIOS:
        return float(getattr(summary, condition.name))
    if spread is None or not spread.count:
        return math.nan
    if condition.end:
        low, high = spread.interval(2 * LEVEL - 1)
        return high if condition.end == "upper" else low
    level = _level(condition.figure)
    return spread.quantile(level) if level is not None else float(getattr(spread, condition.figure))


def _level(figure: str) -> float | None:
    """0.99 of "p99"; None where it names no quantile."""
    if not re.fullmatch(r"p[0-9]+(\.[0-9]+)?", figure):
        return None
    level = float(figure[1:]) / 100
    return level if level <= 1 else None


def _why_unknown(condition: Condition, summary: ComparisonSummary, spread: Spread | None) -> str:
    if summary.undefined:
        return f"{summary.undefined} of {summary.tokens} rows have no distribution"
    if not summary.tokens:
        return "there are no rows"
    if spread is not None and spread.count and condition.end and spread.group_note:
        return spread.group_note
    if condition.name == "jensen_shannon" and spread is None:
        return "it was not computed; see --js"
    if condition.name in (*_RATIOS, "log_ratio", "delta_prob") and not summary.log_ratio.count:
        return "no tokens were given"
    return "NaN"


def junit(found: Sequence[Verdict], suite: str) -> bytes:
    """The verdicts as a JUnit file: a test case each, for the pages of pipelines."""
    failures = str(sum(not verdict.passed for verdict in found))
    root = ElementTree.Element("testsuites", name="kullback", tests=str(len(found)), failures=failures)
    own = ElementTree.SubElement(root, "testsuite", name=suite, tests=str(len(found)), failures=failures)
    for verdict in found:
        case = ElementTree.SubElement(own, "testcase", classname=verdict.candidate, name=verdict.condition.text)
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
