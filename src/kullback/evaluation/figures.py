"""Figures in few characters, the same on the terminal and on pages."""

from __future__ import annotations

import math

from kullback.comparison import ComparisonSummary
from kullback.evaluation.text import short

__all__ = ["percent", "ratio_text"]


def percent(x: float, error: float | None = None) -> str:
    """A number of another kind than a share, in per cent."""
    text = f"{short(100 * x)} %" if not math.isnan(x) else "-"
    return text if error is None or math.isnan(error) else f"{text} ± {short(100 * error, 2)}"


def ratio_text(s: ComparisonSummary) -> str:
    """The ratio of perplexities: 5 decimals, and more where its error is smaller than these."""
    ratio, error = s.perplexity_ratio, s.perplexity_ratio * s.log_ratio.error[0]
    if not 0.1 <= ratio < 1e5:
        return short(ratio, 6)
    return f"{ratio:.{min(12, max(5, 1 - math.floor(math.log10(error)))) if 0 < error < 1 else 5}f}"
