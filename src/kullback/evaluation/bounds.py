"""What a compact reference leaves open of a comparison, and how long a list would leave less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import ComparisonSummary, Mean, json_number
from kullback.evaluation.text import short

Columns = Mapping[str, NDArray[Any]]
SHARE = 0.1  # of the KL: what may be left open


@dataclass(eq=True)
class Bounds:
    """What a compact reference leaves open: between what the mean KL and acceptance lie, and the mass not listed."""

    lower: Mean
    upper: Mean
    acceptance: tuple[Mean, Mean]
    rest: Mean
    widths: tuple[Mean, Mean]  # between the bounds in some rows, and with half as long a list

    @classmethod
    def of(cls, columns: Columns) -> Bounds:
        names = ("kl_lower", "kl_upper", "acceptance_lower", "acceptance", "rest_p")
        half = columns["half_width"]
        some = np.isfinite(half)
        width = columns["kl_upper"][some] - columns["kl_lower"][some]
        lower, upper, *acceptance, rest = (Mean(columns[name]) for name in names)
        return cls(lower, upper, (acceptance[0], acceptance[1]), rest, (Mean(width), Mean(half[some])))

    @property
    def kl(self) -> tuple[float, float]:
        """The mean KL is from the one to the other."""
        return self.lower.mean, self.upper.mean

    @property
    def ends(self) -> dict[str, tuple[float, float]]:
        """Between what the means lie, by quantity."""
        return {"kl": self.kl, "acceptance": (self.acceptance[0].mean, self.acceptance[1].mean)}

    def longer(self) -> float:
        """How many times as long a list would leave so small a share of the KL open; NaN where nothing tells.

        As if what is left open went on falling as it does between half the list and the whole.
        """
        low, high = self.kl
        width, half = (mean.mean for mean in self.widths)
        if not (0 < width < half and 0 < low < high < math.inf):
            return math.nan
        wanted = SHARE * low / (high - low)
        return 2.0 ** (math.log(1 / wanted) / math.log(half / width)) if wanted < 1 else 1.0

    def merge(self, other: Bounds) -> Bounds:
        return Bounds(
            self.lower.merge(other.lower),
            self.upper.merge(other.upper),
            (self.acceptance[0].merge(other.acceptance[0]), self.acceptance[1].merge(other.acceptance[1])),
            self.rest.merge(other.rest),
            (self.widths[0].merge(other.widths[0]), self.widths[1].merge(other.widths[1])),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "kl": [json_number(end) for end in self.kl],
            "acceptance": [json_number(end) for end in self.ends["acceptance"]],
            "rest_mass": json_number(self.rest.mean),
            "list_longer_by": json_number(self.longer()),
        }


def bounds_remarks(s: ComparisonSummary) -> list[str]:
    """What a reader must know of the KL where p is known in part only."""
    bounds = s.parts.get("bounds")
    if not isinstance(bounds, Bounds):
        return []
    low, high = bounds.kl
    most = "has no upper bound" if high == math.inf else f"is at most {short(high)}"
    return [
        "p is known by its likeliest outcomes: every KL is at least the figure shown, every acceptance at most; "
        f"the mean KL(p‖q) is at least {short(low)} and {most}"
    ]


def bounds_lines(s: ComparisonSummary) -> list[tuple[str, str]]:
    """The name and the text of each line that a summary shows of its bounds; none without a compact reference."""
    bounds = s.parts.get("bounds")
    if not isinstance(bounds, Bounds):
        return []
    low, high = bounds.kl
    lines = [
        ("bounds of KL(p‖q)", f"{short(low)} to {short(high)} in the mean"),
        ("mass not listed", f"p {short(bounds.rest.mean, 3)} a row, in buckets"),
    ]
    if high == math.inf:
        lines.append(("no upper bound", "q is 0, or may be, where p may have mass that is not listed"))
    longer, facts = bounds.longer(), s.facts.get("p", {})
    if longer > 1 and "top_k" in facts:
        needed, vocab = longer * facts["top_k"], facts["shape"][1]
        text = f"--top-k {short(needed, 2)}" if needed < vocab else "no list, only the logits themselves,"
        lines.append(("list too short", f"{text} would leave a tenth of the KL open, {facts['top_k']} leave more"))
    return lines
