"""The table of `what_if`: sums over sequences that merge, and the figures that are read from them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import NanPolicy, keywords
from kullback.comparison import Estimate, Mean, json_number, share_text
from kullback.rlhf.settings import Setting

__all__ = ["WhatIf", "WhatIfRow"]

Float64s = NDArray[np.float64]


class WhatIfRow(NamedTuple):
    """What one setting does.

    Attributes
    ----------
    setting, kind, level : str
        The setting in words; its kind and level.
    lower, upper : float
        Its bounds or thresholds.
    kept_tokens, kept_sequences : float
        Share of tokens, and of sequences with at least one, whose coefficient is not set to 0.
    cut_tokens : float
        Share of tokens whose coefficient is another than their ratio.
    ess : float
        (Σc)²/(n·Σc²) over the n unmasked tokens.
    mean_weight : Estimate
        Mean of the coefficients; without truncation its expectation is 1, or the mass of the sampler's support.
    value : Estimate
        Mean of coefficient times value.
    bias : Estimate
        Mean of (coefficient - untruncated ratio) times value.
    least, greatest : float
        The extremes before truncation: of the ratios, or of the statistic of a mask.
    """

    setting: str
    kind: str
    level: str
    lower: float
    upper: float
    kept_tokens: float
    kept_sequences: float
    cut_tokens: float
    ess: float
    mean_weight: Estimate
    value: Estimate
    bias: Estimate
    least: float
    greatest: float


_FIGURES = ("weight", "square", "value", "bias")


class _Sums:
    """What a row is read from."""

    def __init__(self) -> None:
        self.pending: dict[str, list[Float64s]] = {name: [] for name in _FIGURES}  # sums of sequences, not yet added
        self.kept_tokens = self.kept_sequences = self.cut_tokens = 0
        self.weight, self.square, self.value, self.bias = Mean(), Mean(), Mean(), Mean()
        self.least, self.greatest = math.inf, -math.inf

    def merged(self, other: _Sums) -> _Sums:
        both = _Sums()
        for name in ("kept_tokens", "kept_sequences", "cut_tokens"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        for name in _FIGURES:
            setattr(both, name, getattr(self, name).merge(getattr(other, name)))
        both.least, both.greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        return both

    def state(self) -> tuple[Any, ...]:
        means = (self.weight, self.square, self.value, self.bias)
        exact = [(m.count, m.clusters, m.squared_counts, m.total, m.squares, m.times) for m in means]
        return self.kept_tokens, self.kept_sequences, self.cut_tokens, self.least, self.greatest, exact


class WhatIf:
    """A row for each setting; made by `what_if`, combined by `merge`.

    Attributes
    ----------
    tokens, sequences, unscored : int
        Tokens with a ratio; sequences with one; unmasked tokens without, because a log-prob was NaN or both -inf.
    nan_policy : str
        With "propagate" every figure of the rows is NaN as soon as `unscored` is not 0.
    rows : list of WhatIfRow
        In the order of the settings.

    Notes
    -----
    Standard errors take sequences as the independent draws. Merging is exact, in any order to the same bits.
    """

    def __init__(self, settings: tuple[Setting, ...], nan_policy: NanPolicy = "propagate") -> None:
        keywords.choice(nan_policy, "nan_policy", ("propagate", "omit"))
        self.settings, self.nan_policy = settings, nan_policy
        self.tokens = self.sequences = self.unscored = 0
        self._sums = [_Sums() for _ in settings]
        self._lengths: list[NDArray[np.int64]] = []  # of the sequences that are pending

    def merge(self, other: WhatIf) -> WhatIf:
        """The table of both inputs together; neither is changed.

        Raises
        ------
        ValueError
            The two tables have different settings or another `nan_policy`.
        """
        if not isinstance(other, WhatIf):
            raise TypeError(f"`other` is {type(other).__name__}, expected a WhatIf")
        for name in ("settings", "nan_policy"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"`other` has other {name}, expected those of this table")
        both = WhatIf(self.settings, self.nan_policy)
        for name in ("tokens", "sequences", "unscored"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        both._sums = [mine.merged(its) for mine, its in zip(self._sums, other._sums, strict=True)]
        return both

    def _add(
        self,
        place: int,
        lengths: NDArray[np.int64],
        ratios: Float64s,
        coefficients: Float64s,
        values: Float64s | None,
        extremes: Float64s,
    ) -> None:
        """Tokens of whole sequences, none of them empty, to the row of that place, until `_settle`."""
        sums = self._sums[place]
        starts = np.cumsum(lengths) - lengths
        with np.errstate(invalid="ignore", over="ignore"):
            cut = ~((coefficients == ratios) | (np.isnan(coefficients) & np.isnan(ratios)))
            kept = ~(cut & (coefficients == 0.0))
            taken = coefficients - ratios
            taken[~cut] = 0.0
            figures = {
                "weight": coefficients,
                "square": coefficients * coefficients,
                "value": coefficients if values is None else coefficients * values,
                "bias": taken if values is None else taken * values,
            }
            for name, figure in figures.items():
                sums.pending[name].append(np.add.reduceat(figure, starts))
        sums.kept_tokens += int(kept.sum())
        sums.cut_tokens += int(cut.sum())
        sums.kept_sequences += int(np.logical_or.reduceat(kept, starts).sum())
        sums.least = min(sums.least, float(np.fmin.reduce(extremes)))
        sums.greatest = max(sums.greatest, float(np.fmax.reduce(extremes)))

    def _settle(self) -> None:
        """Add the sequences that are pending: exact sums cost as much for few numbers as for many."""
        if not self._lengths:
            return
        lengths = np.concatenate(self._lengths)
        for sums in self._sums:
            for name, parts in sums.pending.items():
                getattr(sums, name).add(np.concatenate(parts), lengths)
                parts.clear()
        self._lengths.clear()

    @property
    def rows(self) -> list[WhatIfRow]:
        known = self.tokens and not (self.nan_policy == "propagate" and self.unscored)
        return [
            self._row(setting, sums if known else None) for setting, sums in zip(self.settings, self._sums, strict=True)
        ]

    def _row(self, setting: Setting, sums: _Sums | None) -> WhatIfRow:
        what = (str(setting), setting.kind, setting.level, setting.low, setting.high)
        if sums is None:
            none = Estimate(math.nan, math.nan)
            return WhatIfRow(*what, math.nan, math.nan, math.nan, math.nan, none, none, none, math.nan, math.nan)
        weight, square = sums.weight.mean, sums.square.mean
        return WhatIfRow(
            *what,
            sums.kept_tokens / self.tokens,
            sums.kept_sequences / self.sequences,
            sums.cut_tokens / self.tokens,
            weight * weight / square if 0.0 < square < math.inf else math.nan,
            sums.weight.estimate,
            sums.value.estimate,
            sums.bias.estimate,
            sums.least,
            sums.greatest,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WhatIf):
            return NotImplemented
        return self._state() == other._state()

    __hash__ = None  # type: ignore[assignment]  # it grows

    def _state(self) -> tuple[Any, ...]:
        counts = (self.settings, self.nan_policy, self.tokens, self.sequences, self.unscored)
        return *counts, [sums.state() for sums in self._sums]

    def to_dict(self) -> dict[str, Any]:
        """Counts and rows, ready for JSON: estimates as {"mean", "standard_error"}, NaN as None, inf as "inf"."""
        rows = [{name: _plain(x) for name, x in row._asdict().items()} for row in self.rows]
        counts = {"tokens": self.tokens, "sequences": self.sequences, "unscored": self.unscored}
        return counts | {"nan_policy": self.nan_policy, "settings": rows}

    def columns(self) -> dict[str, NDArray[Any]]:
        """One array a column, one element a setting: `pandas.DataFrame(table.columns())` takes them."""
        found: dict[str, list[Any]] = {}
        for row in self.rows:
            for name, x in row._asdict().items():
                if isinstance(x, Estimate):
                    found.setdefault(f"{name}_standard_error", []).append(x.standard_error)
                    x = x.mean
                found.setdefault(name, []).append(x)
        return {name: np.array(column) for name, column in found.items()}

    def __str__(self) -> str:
        lines = [
            f"{'setting':<24}{'kept':>10}{'sequences':>12}{'ess':>9}{'mean weight':>13}{'bias':>22}{'least':>12}"
            f"{'greatest':>12}"
        ]
        for row in self.rows:
            bias = f"{row.bias.mean:.3g} ± {row.bias.standard_error:.2g}"
            lines.append(
                f"{row.setting:<24}{share_text(row.kept_tokens):>10}{share_text(row.kept_sequences):>12}{row.ess:>9.3g}"
                f"{row.mean_weight.mean:>13.4g}{bias:>22}{row.least:>12.3g}{row.greatest:>12.3g}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<WhatIf of {len(self.settings)} settings on {self.tokens} tokens, {self.sequences} sequences>"


def _plain(x: Any) -> Any:
    if isinstance(x, Estimate):
        return {name: _plain(figure) for name, figure in x._asdict().items()}
    return json_number(x) if isinstance(x, float) else x
