"""Settings to try: a weight or a rejection mask by name, with its level and bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kullback._engine import keywords
from kullback.rlhf.ratios import RATIO_LEVELS
from kullback.rlhf.rejection_kinds import REJECTION_KINDS, bounds_of
from kullback.rlhf.weights import WEIGHT_KINDS, settled

# what libraries have as defaults, and thresholds on both sides of them
DEFAULT_SETTINGS: tuple[tuple[Any, ...], ...] = (
    *(("none", level) for level in ("token", "sequence", "geometric")),
    *(("tis", bound) for bound in (1.5, 2.0, 3.0, 5.0)),
    *(("icepop", bounds) for bounds in ((0.8, 1.25), (0.5, 2.0), (0.5, 5.0))),
    *(("tis", "sequence", bound) for bound in (2.0, 3.0, 5.0)),
    *(("mask", "sequence", bound) for bound in (2.0, 3.0, 5.0)),
    *(("token_k1", bound) for bound in (1.25, 2.0)),
    *(("seq_mean_k1", bound) for bound in (1.001, 1.01)),
    *(("seq_mean_k3", bound) for bound in (0.001, 0.01, 0.1)),
    *(("seq_max_k3", bound) for bound in (0.1, 1.0)),
    *(("dppo_tv", bound) for bound in (0.1, 0.2)),
    *(("dppo_kl", bound) for bound in (0.05, 0.1)),
)


@dataclass(frozen=True)
class Setting:
    """One row of a table: a kind with everything it takes; `level` of a rejection is that of its statistic."""

    kind: str
    level: str
    low: float
    high: float

    @property
    def weighs(self) -> bool:
        """Whether it is a weight, not a mask."""
        return self.kind in WEIGHT_KINDS

    def __str__(self) -> str:
        words = [self.kind, self.level] if self.weighs else [self.kind]
        if self.kind == "none":
            return " ".join(words)
        one = self.low == 0.0 or (not self.weighs and self.low in (self.high, 1.0 / self.high))
        return " ".join([*words, f"{self.high:g}" if one else f"{self.low:g}..{self.high:g}"])


def setting_of(given: Any) -> Setting:
    """A setting from (kind, bounds), (kind, level, bounds) or (kind, threshold)."""
    if isinstance(given, Setting):
        return given
    parts = (given,) if isinstance(given, str) else keywords.several(given, "settings", "settings like ('tis', 2.0)")
    kind = keywords.choice(parts[0] if parts else None, "kind", (*WEIGHT_KINDS, *REJECTION_KINDS))
    rest = list(parts[1:])
    if kind in REJECTION_KINDS:
        if len(rest) != 1:
            raise ValueError(f"`settings` has {keywords.shown(given)}, expected ({kind!r}, threshold)")
        level = "sequence" if REJECTION_KINDS[kind].per_sequence else "token"
        return Setting(kind, level, *bounds_of(kind, rest[0]))
    level = RATIO_LEVELS[rest.pop(0)] if rest and isinstance(rest[0], str) and rest[0] in RATIO_LEVELS else "token"
    if len(rest) > 1:
        raise ValueError(f"`settings` has {keywords.shown(given)}, expected ({kind!r}, level, bounds)")
    _, low, high = settled(kind, rest[0] if rest else None)
    return Setting(kind, level, low, math.inf if kind == "none" else high)
