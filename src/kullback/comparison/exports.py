"""A summary for other programs: Markdown, a data frame of pandas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kullback._engine import library
from kullback.comparison.shares import share_text
from kullback.comparison.spread import Spread

_ROWS = {
    "kl": "KL(p‖q)", "reverse_kl": "KL(q‖p)", "entropy_p": "entropy p", "entropy_q": "entropy q",
    "log_ratio": "log-ratio",
}  # fmt: skip
_LEVELS = {"99 %": 0.99, "99.9 %": 0.999}


def markdown(summary: Any, spreads: Mapping[str, Spread]) -> str:
    """The figures of a ComparisonSummary as a table of GitHub's Markdown, and a line for what is no distribution."""
    grouped = summary.kl.enough_groups
    headings = ["", "mean", "± s.e.", *(["± group"] if grouped else []), "median", *_LEVELS, "max"]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    for name, label in _ROWS.items():
        spread = spreads[name]
        if not spread.count:
            continue
        errors = [spread.standard_error, *([spread.group_standard_error] if grouped else [])]
        quantiles = [_number(spread.quantile(level), spread.quantile_digits) for level in (0.5, *_LEVELS.values())]
        cells = [label, _number(spread.mean), *(_number(error, 2) for error in errors), *quantiles, _number(spread.max)]
        lines.append(f"| {' | '.join(cells)} |")
    inside = f" in {summary.kl.groups} groups" if summary.kl.groups else ""
    lines += ["", f"- {summary.tokens} tokens{inside}, in {summary.unit}"]
    lines.append(f"- same top token: {summary.same_top1.share_text()}")
    if summary.acceptance.count:
        lines.append(f"- acceptance: {share_text(summary.acceptance.mean)}")
    if summary.log_ratio.count:
        ratio = summary.perplexity_ratio
        error, label = summary.log_ratio.error
        lines.append(
            f"- perplexity: p {summary.perplexity_p:.6g}, q {summary.perplexity_q:.6g}, ratio {ratio:.6g} {label} "
            f"{_number(ratio * error, 2)}"
        )
    if summary.kl.group_note:
        lines.append(f"- {summary.kl.group_note}; ± s.e. takes tokens as independent: too small where they are not")
    if summary.undefined:
        lines.append(f"- {summary.undefined} rows have no distribution: all figures are without them")
    if summary.ignored:
        lines.append(f"- {summary.ignored} further rows are ignored: all figures are without them")
    infinite = summary.kl.infinite
    if infinite:
        lines.append(
            f"- KL is infinite in {infinite} rows; the mean of the others is {_number(summary.kl.finite.mean)}"
        )
    return "\n".join([*lines, ""])


def frame(spreads: Mapping[str, Spread]) -> Any:
    """A data frame of pandas: a row a quantity, its figures in columns, NaN where not known."""
    pandas = library("pandas", "to_pandas")
    rows = {
        name: {
            "count": spread.count, "mean": spread.mean, "standard_error": spread.standard_error,
            "group_standard_error": spread.group_standard_error, "min": spread.min, "median": spread.median,
            "p99": spread.quantile(0.99), "p99.9": spread.quantile(0.999), "max": spread.max,
            "infinite": spread.infinite, "undefined": spread.undefined,
        }
        for name, spread in spreads.items()
    }  # fmt: skip
    return pandas.DataFrame(list(rows.values()), index=pandas.Index(rows, name="quantity"))


def _number(x: float, digits: int = 4) -> str:
    return "-" if math.isnan(x) else f"{x:.{digits}g}"
