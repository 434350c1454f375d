"""Gates: conditions under which a comparison fails, `kullback compare --fail-if 'kl.mean.upper > 0.01'`.

A condition is about every candidate, one, or the difference of two (`q4 - q5: kl > 0.001`), over all rows or those of a
label (`q4 [domain=code]: kl > 0.02`, `[domain=*]` for each). What comes of it: gate_verdicts.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kullback.comparison import SPREADS

__all__ = [
    "RATIOS", "Condition", "Subject", "check_labels", "check_names", "chosen_labels", "listed_labels", "parse",
    "quantile_level",
]  # fmt: skip

RATIOS = ("perplexity_p", "perplexity_q", "perplexity_ratio")
_DIFFERENCES = ("kl", "reverse_kl", "log_prob", "delta_prob", "same_top1", "acceptance")  # of two candidates
EVERY = "*"  # label
_SPREADS = (*SPREADS, "jensen_shannon")
_FIGURES = ("mean", "median", "max", "min", "rms", "standard_error", "group_standard_error", "upper", "lower")
_OF_DIFFERENCES = ("mean", "standard_error", "p_value", "upper", "lower")
_ENDS = ("upper", "lower")
_MOST_NAMED = 20
_FORM = re.compile(
    r"(?:(?P<target>.*\S)\s*:\s)?\s*(?P<name>[a-z_0-9]+)(?:\.(?P<figure>[a-z_]+|p[0-9]+(?:\.[0-9]+)?))?"
    r"(?:\.(?P<end>[a-z]+))?\s*(?P<sign>[<>]=?)\s*(?P<limit>\S+)"
)


class Condition(NamedTuple):
    """Under which candidates fail.

    Attributes
    ----------
    text : str
        As it was given.
    target : str
        What it is about: "", "q4", "q4 - q5", with a label "[code]" or "[domain=code]" behind it; see `Subject`.
    name, figure, end : str
        What is compared: `kl`, `mean`, and `upper` or `lower` for an end of its interval.
    sign : str
        One of > >= < <=.
    limit : float
    """

    text: str
    target: str
    name: str
    figure: str
    end: str
    sign: str
    limit: float

    @property
    def figure_name(self) -> str:
        return ".".join(part for part in (self.name, self.figure, self.end) if part)

    @property
    def labelled(self) -> bool:
        """Whether it can only be about a label: that of a candidate's name would be another matter."""
        return self.target.endswith("]")


class Subject(NamedTuple):
    """What a condition is about: a candidate ("" for each) or two, and what stands in the brackets of a label."""

    first: str
    second: str
    label: str | None

    @classmethod
    def of(cls, condition: Condition, candidates: Sequence[str]) -> Subject:
        """ValueError where there is no such candidate."""
        target = condition.target
        found = _of_candidates(target, candidates)
        if found is not None:
            return cls(*found, None)
        prefix = target
        for at in range(len(target) - 1, -1, -1):  # names may have brackets, and labels too
            if target[at] == "[" and condition.labelled:
                prefix = target[:at].strip()
                found = _of_candidates(prefix, candidates)
                if found is not None:
                    return cls(*found, target[at + 1 : -1])
        named = target[: target.index("[")].strip() if condition.labelled and "[" in target else prefix
        raise ValueError(
            f"--fail-if {condition.text!r}: no candidate is called {named!r}, nor are two joined by ' - '; "
            f"there are {', '.join(candidates)}"
        )


def _of_candidates(text: str, candidates: Sequence[str]) -> tuple[str, str] | None:
    if not text or text in candidates:
        return text, ""
    for dash in re.finditer(" - ", text):
        pair = text[: dash.start()].strip(), text[dash.end() :].strip()
        if pair[0] in candidates and pair[1] in candidates and pair[0] != pair[1]:
            return pair
    return None


def parse(text: str) -> Condition:
    """A condition: `[TARGET: ]STATISTIC[.FIGURE][.upper|.lower] SIGN NUMBER`.

    Raises
    ------
    ValueError
        That says what of it is not understood, and what there is.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text[:80]!r}, expected a condition like 'kl.mean > 0.01', 'q4.gguf: same_top1 < 0.97', "
            "'q4 [domain=code]: kl.p99 > 0.1' or 'q4 - q5: kl.upper > 0.001'"
        )
    parts = {name: part or "" for name, part in found.groupdict().items()}
    name, figure, end = parts["name"], parts["figure"], parts["end"]
    if name not in RATIOS and figure in (*_ENDS, ""):
        if end:
            raise ValueError(f"{text[:80]!r}: expected one of .upper and .lower, the last")
        figure, end = "mean", figure
    try:
        limit = float(parts["limit"])
    except ValueError:
        limit = math.nan
    if math.isnan(limit):
        raise ValueError(f"{text[:80]!r}: {parts['limit']!r} is no number")
    condition = Condition(text.strip(), parts["target"], name, figure, end, parts["sign"], limit)
    if " - " not in condition.target:  # else names tell whether it is about a difference
        _check_figure(condition)
    return condition


def _check_figure(condition: Condition, difference: bool = False) -> None:
    """ValueError where the statistic does not have that figure."""
    text, name, figure, end = condition.text[:80], condition.name, condition.figure, condition.end
    if name in RATIOS and not difference:
        if figure or end:
            raise ValueError(f"{text!r}: {name} is one number, expected no `.{figure or end}`")
        return
    statistics = _DIFFERENCES if difference else _SPREADS
    if name not in statistics:
        kind = "statistic of a difference" if difference else "statistic"
        listed = ", ".join(statistics if difference else _SPREADS + RATIOS)
        raise ValueError(f"{text!r}: no {kind} is called {name!r}; there are {listed}")
    figures, level = (_OF_DIFFERENCES if difference else _FIGURES), quantile_level(figure)
    if (figure not in figures and level is None) or (difference and level is not None and name != "kl"):
        quantiles = "" if difference and name != "kl" else ", and quantiles as p99 or p99.9"
        raise ValueError(f"{text!r}: {name} has no {figure!r}; there are {', '.join(figures)}{quantiles}")
    if end and (end not in _ENDS or (figure not in ("mean", "median") and level is None)):
        raise ValueError(
            f"{text!r}: expected .upper or .lower of a mean or a quantile, not {'.'.join((figure, end))!r}"
        )


def quantile_level(figure: str) -> float | None:
    """0.99 of "p99"; None where it names no quantile."""
    if figure == "median":
        return 0.5
    if not re.fullmatch(r"p[0-9]+(\.[0-9]+)?", figure):
        return None
    level = float(figure[1:]) / 100
    return level if level <= 1 else None


def check_names(conditions: Sequence[Condition], candidates: Sequence[str]) -> None:
    """ValueError where a condition is about a candidate that there is not, or no figure of what it is about."""
    for condition in conditions:
        _check_figure(condition, bool(Subject.of(condition, candidates).second))


def check_labels(conditions: Sequence[Condition], candidates: Sequence[str], sets: Mapping[str, Sequence[str]]) -> None:
    """ValueError where a condition is about a label that there is not."""
    for condition in conditions:
        bracket = Subject.of(condition, candidates).label
        if bracket is not None and chosen_labels(bracket, sets) is None:
            raise ValueError(f"--fail-if {condition.text!r}: no label is called {bracket!r}; {listed_labels(sets)}")


def chosen_labels(bracket: str, sets: Mapping[str, Sequence[str]]) -> list[tuple[str, str]] | None:
    """Set and label that the brackets name, all of the set for *; None where there is no such."""
    choices = [("", bracket)] + [(bracket[: x.start()], bracket[x.end() :]) for x in re.finditer("=", bracket)]
    for name, label in ((name.strip(), label.strip()) for name, label in choices):
        if name in sets and (label in sets[name] or label == EVERY):
            return [(name, label)] if label in sets[name] else [(name, each) for each in sets[name]]
    return None


def listed_labels(sets: Mapping[str, Sequence[str]]) -> str:
    """What could stand in brackets, in words."""
    if not sets:
        return "there are no labels, see --by"
    named = [f"{name}={label}" if name else label for name, labels in sets.items() for label in labels]
    return f"there are {', '.join(named[:_MOST_NAMED])}" + (", ..." if len(named) > _MOST_NAMED else "")
