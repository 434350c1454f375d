"""Summaries for other programs: Markdown, a page of HTML, a data frame of pandas, the prompt of a notebook."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kullback._engine import library, made_upstairs
from kullback.comparison.shares import share_text
from kullback.comparison.spread import Spread

_ROWS = {
    "kl": "KL(p‖q)", "reverse_kl": "KL(q‖p)", "entropy_p": "entropy p", "entropy_q": "entropy q",
    "log_ratio": "log-ratio",
}  # fmt: skip
_LEVELS = {"99 %": 0.99, "99.9 %": 0.999}


class SummaryExports:
    """What a ComparisonSummary is written as."""

    _spreads: dict[str, Spread]

    def to_markdown(self) -> str:
        """The figures as a table of GitHub's Markdown."""
        return markdown(self, self._spreads)

    def to_pandas(self) -> Any:
        """A data frame of pandas: a row a quantity, its mean, errors, quantiles and extremes in columns."""
        return frame(self._spreads)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> str | None:
        """The report, one page that needs nothing else: written to `path`, or returned where there is none.

        It needs the extra `report` (jinja2).
        """
        return _page([self], path, title=title)

    def _repr_html_(self) -> str:
        """For notebooks: the table of `to_markdown`, and below it its lines."""
        headings, rows = _table(self, self._spreads)
        return f"{_html_table(headings, rows)}<p>{'<br>'.join(map(escape, _lines(self)))}</p>"


class CandidateExports:
    """What a CandidateComparison is written as."""

    def to_markdown(self, *, sizes: Mapping[str, Any] | None = None, margin: float | None = None) -> str:
        """The candidates, ranked, as a table of Markdown; `sizes` and `margin` as in `to_html`."""
        return str(made_upstairs("table_of")(self, sizes=sizes, margin=margin).to_markdown())

    def to_html(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        title: str | None = None,
        sizes: Mapping[str, Any] | None = None,
        frontier: str = "kl.mean",
        margin: float | None = None,
    ) -> str | None:
        """The report, one page that needs nothing else: written to `path`, or returned where there is none.

        It needs the extra `report` (jinja2).

        Parameters
        ----------
        path : path-like, optional
        title : str, optional
        sizes : mapping of str to path or number, optional
            By candidate, its model (a GGUF or safetensors file or folder) or its bytes.
        frontier : str
            What is drawn against size: "kl.mean", "kl.median", "kl.p90", "kl.p95", "kl.p99", "kl.p99.9" or "kl.max".
        margin : float, optional
            Ship the smallest candidate that is shown not to be worse than the best by so much in mean KL.
        """
        return _page(self, path, title=title, sizes=sizes, frontier=frontier, margin=margin)

    def _repr_html_(self) -> str:
        """For notebooks: a row a candidate, the nearest to the base first."""
        found: Any = self
        unit = next(iter(found.values())).unit
        headings = ["", f"KL(p‖q), {unit}", "95 %", "99 % quantile", "same top token", "perplexity q/p"]
        rows = []
        for name in found.ranking():
            s = found[name]
            low, high = s.kl.interval()
            rows.append([
                name, _number(s.kl.mean), "-" if math.isnan(low) else f"{_number(low, 3)} to {_number(high, 3)}",
                _number(s.kl.quantile(0.99), s.kl.quantile_digits), share_text(s.same_top1.mean),
                _number(s.perplexity_ratio, 6),
            ])  # fmt: skip
        return _html_table(headings, rows)


def _page(summaries: Any, path: str | os.PathLike[str] | None, **options: Any) -> str | None:
    if path is None:
        return str(made_upstairs("render_report")(summaries, **options))
    made_upstairs("write_report")(summaries, path, **options)
    return None


def _html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headings)
    body = "".join(
        f"<tr><th>{escape(name if name.isprintable() else ascii(name)[1:-1])}</th>"
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, *cells in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def markdown(summary: Any, spreads: Mapping[str, Spread]) -> str:
    """The figures of a ComparisonSummary as a table of GitHub's Markdown, and a line for what is no distribution."""
    headings, rows = _table(summary, spreads)
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in _lines(summary)), ""])


def _table(summary: Any, spreads: Mapping[str, Spread]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of cells: the distributions that are known."""
    grouped = summary.kl.enough_groups
    headings = ["", "mean", "± s.e.", *(["± group"] if grouped else []), "median", *_LEVELS, "max"]
    rows = []
    for name, label in _ROWS.items():
        spread = spreads[name]
        if not spread.count:
            continue
        errors = [spread.standard_error, *([spread.group_standard_error] if grouped else [])]
        quantiles = [_number(spread.quantile(level), spread.quantile_digits) for level in (0.5, *_LEVELS.values())]
        rows.append([label, _number(spread.mean), *(_number(x, 2) for x in errors), *quantiles, _number(spread.max)])
    return headings, rows


def _lines(summary: Any) -> list[str]:
    """What is no distribution, a line each."""
    inside = f" in {summary.kl.groups} groups" if summary.kl.groups else ""
    lines = [f"{summary.tokens} tokens{inside}, in {summary.unit}"]
    lines.append(f"same top token: {summary.same_top1.share_text()}")
    if summary.acceptance.count:
        lines.append(f"acceptance: {share_text(summary.acceptance.mean)}")
    if summary.log_ratio.count:
        ratio = summary.perplexity_ratio
        error, label = summary.log_ratio.error
        lines.append(
            f"perplexity: p {summary.perplexity_p:.6g}, q {summary.perplexity_q:.6g}, ratio {ratio:.6g} {label} "
            f"{_number(ratio * error, 2)}"
        )
    if summary.kl.group_note:
        lines.append(f"{summary.kl.group_note}; ± s.e. takes tokens as independent: too small where they are not")
    if summary.undefined:
        lines.append(f"{summary.undefined} rows have no distribution: all figures are without them")
    if summary.ignored:
        lines.append(f"{summary.ignored} further rows are ignored: all figures are without them")
    infinite = summary.kl.infinite
    if infinite:
        lines.append(f"KL is infinite in {infinite} rows; the mean of the others is {_number(summary.kl.finite.mean)}")
    return lines


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
