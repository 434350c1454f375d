"""ComparisonSummary: what a comparison says about all its tokens, mergeable in any order to the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kullback.spread import Spread, json_number

if TYPE_CHECKING:
    from kullback.comparison import TokenComparison

_SPREADS = (
    "kl",
    "reverse_kl",
    "cross_entropy",
    "entropy_p",
    "entropy_q",
    "log_ratio",
    "delta_prob",
    "same_top1",
)
_GROUPED = ("kl", "reverse_kl", "log_ratio", "delta_prob", "same_top1")  # compared between documents


class Part(Protocol):
    """A statistic that a summary carries besides its own: mergeable, and ready for JSON."""

    def merge(self, other: Self) -> Self: ...

    def to_dict(self) -> Any: ...


class ComparisonSummary:
    """A comparison summed up over tokens; `a.merge(b)` is the summary of both, whatever the order.

    Attributes
    ----------
    tokens : int
        Rows compared.
    kl, reverse_kl, cross_entropy, entropy_p, entropy_q, log_ratio : Spread
        mean, standard_error, median, max, min, quantile(level), undefined.
    same_top1 : Spread
        Its mean is the share of rows whose top token agrees.
    delta_prob : Spread
        q's probability of the token minus p's: mean, rms.
    perplexity_p, perplexity_q, perplexity_ratio : float
        exp of the mean negative log-probability of the tokens, and q's over p's. NaN without tokens.
    parts : dict
        Further statistics of a job by name (breakdowns, worst tokens, ...), which merge with the rest.
    facts : dict
        "p" and "q": facts about the files compared.
    """

    def __init__(
        self,
        tokens: int,
        spreads: Mapping[str, Spread],
        log_probs: tuple[Spread, Spread],
        unit: float = 1.0,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        self.tokens = tokens
        self._spreads = dict(spreads)
        self._log_probs = log_probs  # in nats
        self._unit = unit
        self.parts: dict[str, Part] = dict(parts or {})
        self.facts: dict[str, Any] = {}  # "p" and "q": facts about the files compared

    kl = property(lambda self: self._spreads["kl"])
    reverse_kl = property(lambda self: self._spreads["reverse_kl"])
    cross_entropy = property(lambda self: self._spreads["cross_entropy"])
    entropy_p = property(lambda self: self._spreads["entropy_p"])
    entropy_q = property(lambda self: self._spreads["entropy_q"])
    log_ratio = property(lambda self: self._spreads["log_ratio"])
    delta_prob = property(lambda self: self._spreads["delta_prob"])
    same_top1 = property(lambda self: self._spreads["same_top1"])

    @property
    def perplexity_p(self) -> float:
        return _exp(-self._log_probs[0].mean)

    @property
    def perplexity_q(self) -> float:
        return _exp(-self._log_probs[1].mean)

    @property
    def perplexity_ratio(self) -> float:
        """perplexity_q / perplexity_p."""
        return _exp(self.log_ratio.mean * self._unit)

    def merge(self, other: ComparisonSummary) -> ComparisonSummary:
        """The summary of both comparisons together."""
        if not isinstance(other, ComparisonSummary):
            raise TypeError(f"`other` is {type(other).__name__}, expected a ComparisonSummary")
        if other._unit != self._unit:
            raise ValueError(f"`other` is in units of {other._unit} nats, expected {self._unit}")
        spreads = {name: spread.merge(other._spreads[name]) for name, spread in self._spreads.items()}
        log_probs = (
            self._log_probs[0].merge(other._log_probs[0]),
            self._log_probs[1].merge(other._log_probs[1]),
        )
        parts = {name: part.merge(other.parts[name]) for name, part in self.parts.items() if name in other.parts}
        if len(parts) < max(len(self.parts), len(other.parts)):
            missing = ", ".join(sorted(set(self.parts) ^ set(other.parts)))
            raise ValueError(f"`other` has other statistics ({missing} on one side only), expected the same")
        new = ComparisonSummary(self.tokens + other.tokens, spreads, log_probs, self._unit, parts)
        new.facts = _common_facts(self.facts, other.facts)
        return new

    def compact(self, most: int) -> None:
        """Beyond `most` tokens, keep t-digests instead of the values; see the module's first lines."""
        for spread in (*self._spreads.values(), *self._log_probs):
            spread.compact(most)
        for part in self.parts.values():
            if isinstance(part, Spread):
                part.compact(most)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        tree: dict[str, Any] = {"tokens": self.tokens}
        for name, spread in self._spreads.items():
            tree[name] = spread.to_dict()
        share = self.same_top1
        tree["same_top1"] = {"mean": json_number(share.mean), "standard_error": json_number(share.standard_error)}
        if share.groups:
            tree["same_top1"]["group_standard_error"] = json_number(share.group_standard_error)
        tree["delta_prob"]["rms"] = json_number(self.delta_prob.rms)
        for name in ("perplexity_p", "perplexity_q", "perplexity_ratio"):
            tree[name] = json_number(getattr(self, name))
        tree["unit"] = {1.0: "nats", math.log(2.0): "bits"}.get(self._unit, f"{self._unit!r} nats")
        tree |= {name: part.to_dict() for name, part in self.parts.items()}
        return tree | self.facts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ComparisonSummary):
            return NotImplemented
        return (
            (self.tokens, self._unit) == (other.tokens, other._unit)
            and self._spreads == other._spreads
            and self._log_probs == other._log_probs
            and self.parts == other.parts
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ComparisonSummary(tokens={self.tokens}, kl.mean={self.kl.mean:.6g})"

    def __str__(self) -> str:
        lines = [f"{self.tokens} tokens, {self.to_dict()['unit']}"]
        lines.append(f"{'':14}{'mean':>12}{'± s.e.':>11}{'median':>12}{'90 %':>11}{'99 %':>11}{'max':>11}")
        for name in ("kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q", "log_ratio"):
            s = self._spreads[name]
            if s.count:
                numbers = (s.mean, s.standard_error, s.median, s.quantile(0.9), s.quantile(0.99), s.max)
                widths = (12, 11, 12, 11, 11, 11)
                cells = [f"{x:>{w}.4g}" for x, w in zip(numbers, widths, strict=True)]
                lines.append(f"{name:14}" + "".join(cells))
        share = self.same_top1
        lines.append(f"same top 1    {100 * share.mean:11.3f} % ± {100 * share.standard_error:.3f} %")
        if self.log_ratio.count:
            lines.append(f"perplexity    p {self.perplexity_p:.6g}, q {self.perplexity_q:.6g}")
            lines.append(
                f"delta prob    mean {100 * self.delta_prob.mean:.4f} %, rms {100 * self.delta_prob.rms:.4f} %"
            )
        if self.kl.undefined:
            lines.append(f"{self.kl.undefined} rows have no distribution and are left out of the means")
        return "\n".join(lines)


def _common_facts(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What holds for both; of two parts of one job, the rows of both."""
    if not (a and b):
        return a or b
    facts = {name: value for name, value in a.items() if b.get(name) == value}
    if {"p", "q"} <= facts.keys() and "rows" in a and "rows" in b:
        facts["rows"] = [min(a["rows"][0], b["rows"][0]), max(a["rows"][1], b["rows"][1])]
        facts["ignored_tokens"] = a["ignored_tokens"] + b["ignored_tokens"]
    return facts


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def summarize(c: TokenComparison, groups: Any = None, parts: Mapping[str, Part] | None = None) -> ComparisonSummary:
    """The summary of a TokenComparison; `groups` has one whole number a row."""
    rows = int(np.size(c.kl))
    names = None
    if groups is not None:
        names = np.asarray(groups).ravel()
        if names.size != rows:
            raise ValueError(f"`groups` has {names.size} values, expected {rows}, one a row")
        if names.dtype.kind not in "iub":
            raise TypeError(f"`groups` has dtype {names.dtype}, expected integers")
    empty = np.empty(0)
    defined = np.asarray(c.top1_p).ravel() >= 0
    agreement = np.where(defined, np.ravel(c.same_top1), np.nan)
    values: dict[str, NDArray[Any]] = {name: getattr(c, name) for name in _SPREADS[:5]} | {"same_top1": agreement}
    log_p, log_q = empty, empty
    if c.log_prob_p is not None and c.log_prob_q is not None:
        log_p, log_q = np.ravel(c.log_prob_p) * c.unit, np.ravel(c.log_prob_q) * c.unit
        values["log_ratio"] = np.asarray(c.log_ratio)
        values["delta_prob"] = np.exp(log_q) - np.exp(log_p)
    spreads = {
        name: Spread.of(values[name], names if name in _GROUPED else None) if name in values else Spread()
        for name in _SPREADS
    }
    return ComparisonSummary(rows, spreads, (Spread.of(log_p), Spread.of(log_q)), c.unit, parts)
