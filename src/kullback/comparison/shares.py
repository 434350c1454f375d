"""Shares, means of zeros and ones: their interval, and how they are printed."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(share: float, count: float, level: float = 0.95) -> tuple[float, float]:
    """The shares that fit `share` of `count` independent draws; never of no width, at 0 and 1 neither.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if math.isnan(share) or not count > 0:
        return math.nan, math.nan
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = math.sqrt(z2 * share * (1 - share) / count + (z2 / (2 * count)) ** 2) / (1 + z2 / count)
    return (0.0 if share == 0.0 else max(0.0, middle - reach)), (1.0 if share == 1.0 else min(1.0, middle + reach))


def share_text(share: float, error: float | None = None, count: int = 0, label: str = "± s.e.") -> str:
    """A share in per cent, with digits enough not to become 100 % by rounding.

    With its error, named by `label`, or (of `count` tokens) Wilson's interval where an error of 0, or none, would
    mislead.
    """
    if math.isnan(share):
        return "-"
    digits = _decimals(min(share, 1 - share))
    if error is None:
        return f"{100 * share:.{digits}f} %"
    if error > 0 and 0 < share < 1:
        digits = max(digits, _decimals(error))
        return f"{100 * share:.{digits}f} % {label} {100 * error:.{digits}f}"
    low, high = wilson_interval(share, count)
    ends = _decimals(high - low)
    return f"{100 * share:.{digits}f} % (95 % interval {100 * low:.{ends}f} to {100 * high:.{ends}f})"


def counted(count: int, noun: str) -> str:
    """So many of them in words: "1 token", "2 tokens"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _decimals(share: float) -> int:
    """Of a percentage: 3, and more where these would show 0."""
    return 3 if not share > 0 else min(12, max(3, 1 - math.floor(math.log10(100 * share))))
