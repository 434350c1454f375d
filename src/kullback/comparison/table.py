"""A summary as lines of text, for `print` and the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kullback.comparison.shares import share_text
from kullback.comparison.spread import Spread

_LABELS = 8


def table(summary: Any, spreads: Mapping[str, Spread]) -> str:
    """The lines that `print(summary)` shows, of a ComparisonSummary and its distributions by name."""
    grouped = summary.kl.enough_groups
    inside = f" in {summary.kl.groups} groups" if summary.kl.groups else ""
    lines = [f"{summary.tokens} tokens{inside}, {summary.unit}"]
    column = f"{'± group':>11}" if grouped else ""
    lines.append(f"{'':14}{'mean':>12}{'± s.e.':>11}{column}{'median':>12}{'90 %':>11}{'99 %':>11}{'max':>11}")
    for name in ("kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q", "log_ratio"):
        s = spreads[name]
        if s.count:
            digits = s.quantile_digits
            lines.append(
                f"{name:14}{s.mean:>12.4g}{s.standard_error:>11.4g}"
                + (f"{s.group_standard_error:>11.4g}" if grouped else "")
                + f"{s.median:>12.{digits}g}{s.quantile(0.9):>11.{digits}g}{s.quantile(0.99):>11.{digits}g}"
                f"{s.max:>11.4g}"
            )
        if s.infinite:
            f = s.finite
            error, label = f.error
            lines.append(
                f"{'':14}without the {s.infinite} infinite: {f.mean:.4g} {label} {error:.2g}, 99 % "
                f"{f.quantile(0.99):.{f.quantile_digits}g}, max {f.max:.4g}"
            )
    lines.append(f"same top 1    {summary.same_top1.share_text()}")
    if summary.acceptance.count:
        lines.append(f"acceptance    {summary.acceptance.share_text()}, least {share_text(summary.acceptance.min)}")
    if summary.kl.group_note:
        lines.append(summary.kl.group_note)
    if not math.isnan(summary.perplexity_p):
        lines.append(f"perplexity    p {summary.perplexity_p:.6g}, q {summary.perplexity_q:.6g}")
        if summary.impossible:
            rest = summary.finite
            lines.append(
                f"{'':14}without the {summary.impossible} impossible tokens: "
                f"p {rest.perplexity_p:.6g}, q {rest.perplexity_q:.6g}"
            )
        lines.append(
            f"delta prob    mean {100 * summary.delta_prob.mean:.4f} %, rms {100 * summary.delta_prob.rms:.4f} %"
        )
    sets = summary.by
    if sets and not isinstance(next(iter(sets.values())), Mapping):
        sets = {"": sets}
    for name, by in sets.items():
        worst = sorted(by, key=lambda label: -math.inf if math.isnan(by[label].kl.mean) else by[label].kl.mean)[::-1]
        lines.append(f"by {name or 'label'}, the worst first:")
        lines += [f"{_printable(x):14}{by[x].kl.mean:>12.4g}{by[x].tokens:>11} tokens" for x in worst[:_LABELS]]
        if len(worst) > _LABELS:
            lines.append(f"{'':14}and {len(worst) - _LABELS} more")
    if summary.undefined:
        lines.append(
            f"{summary.undefined} rows have no distribution (NaN, +inf or no mass): all figures are without them"
        )
    if summary.ignored:
        lines.append(f"{summary.ignored} further rows are ignored: all figures are without them")
    return "\n".join(lines)


def _printable(label: str) -> str:
    return label if label.isprintable() else ascii(label)[1:-1]
