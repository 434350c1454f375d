"""ComparisonSummary: what a comparison says about all its tokens, mergeable in any order to the same bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

from kullback.comparison.binned import MOST
from kullback.comparison.exact import json_number
from kullback.comparison.exports import SummaryExports
from kullback.comparison.log_probs import LogProbs
from kullback.comparison.spread import Spread
from kullback.comparison.table import table

SPREADS = (
    "kl",
    "reverse_kl",
    "cross_entropy",
    "entropy_p",
    "entropy_q",
    "log_ratio",
    "delta_prob",
    "acceptance",
    "same_top1",
)


class Part(Protocol):
    """A statistic that a summary carries besides its own: mergeable, and ready for JSON."""

    def merge(self, other: Self) -> Self: ...

    def to_dict(self) -> Any: ...


@runtime_checkable
class Compacting(Protocol):
    """A part that keeps values, of which it can keep less."""

    def compact(self, most: int, bins: int) -> None: ...


class ComparisonSummary(SummaryExports):
    """A comparison summed up over tokens; `a.merge(b)` is the summary of both, whatever the order.

    Attributes
    ----------
    tokens : int
        Rows compared, ignored ones not among them.
    undefined : int
        Of these, rows that have no distribution in p or q (NaN, +inf, no mass). They are left out of every statistic.
    ignored : int
        Rows left out because their token is `ignore_index`.
    impossible : int
        Tokens of probability 0 in p or q: they make perplexities infinite.
    kl, reverse_kl, cross_entropy, entropy_p, entropy_q, log_ratio : Spread
        mean, standard_error, median, max, min, quantile(level), undefined.
    same_top1 : Spread
        Its mean is the share of rows whose top token agrees.
    delta_prob : Spread
        q's probability of the token minus p's: mean, rms.
    acceptance : Spread
        Σ min(p, q): its mean is the share of tokens drawn from q that speculative decoding keeps for p.
    perplexity_p, perplexity_q, perplexity_ratio : float
        exp of the mean negative log-probability of the tokens, and q's over p's, all over the same rows. NaN without
        tokens.
    log_prob_correlation : float
        Pearson's, of the tokens' log-probabilities under p and under q. NaN without tokens, and where one is infinite.
    finite : ComparisonSummary
        The same without infinite values: of each quantity, of the rows where it is finite; perplexities of the rows
        where both log-probabilities are.
    unit : str
        "nats" or "bits", or of another base how many nats.
    parts : dict
        Further statistics of a job by name (breakdowns, worst tokens, ...), which merge with the rest.
    facts : dict
        "p" and "q": facts about the files compared.
    """

    def __init__(
        self,
        tokens: int,
        spreads: Mapping[str, Spread],
        log_probs: tuple[LogProbs, LogProbs],
        unit: float = 1.0,
        parts: Mapping[str, Part] | None = None,
        undefined: int = 0,
        ignored: int = 0,
    ) -> None:
        self.tokens = tokens
        self.undefined = undefined
        self.ignored = ignored
        self._spreads = dict(spreads)
        self._log_probs, self._finite_log_probs = log_probs
        self._unit = unit
        self.parts: dict[str, Part] = dict(parts or {})
        self.facts: dict[str, Any] = {}  # "p" and "q": facts about the files compared

    @property
    def kl(self) -> Spread:
        return self._spreads["kl"]

    @property
    def reverse_kl(self) -> Spread:
        return self._spreads["reverse_kl"]

    @property
    def cross_entropy(self) -> Spread:
        return self._spreads["cross_entropy"]

    @property
    def entropy_p(self) -> Spread:
        return self._spreads["entropy_p"]

    @property
    def entropy_q(self) -> Spread:
        return self._spreads["entropy_q"]

    @property
    def log_ratio(self) -> Spread:
        return self._spreads["log_ratio"]

    @property
    def delta_prob(self) -> Spread:
        return self._spreads["delta_prob"]

    @property
    def acceptance(self) -> Spread:
        return self._spreads["acceptance"]

    @property
    def same_top1(self) -> Spread:
        return self._spreads["same_top1"]

    @property
    def perplexity_p(self) -> float:
        return _exp(-self._log_probs.mean("p"))

    @property
    def perplexity_q(self) -> float:
        return _exp(-self._log_probs.mean("q"))

    @property
    def perplexity_ratio(self) -> float:
        """perplexity_q / perplexity_p."""
        if self.log_ratio.count != self._log_probs.count:
            return math.nan  # a token that neither p nor q can give: inf/inf
        return _exp(self.log_ratio.mean * self._unit)

    @property
    def log_prob_correlation(self) -> float:
        return self._log_probs.correlation()

    @property
    def unit(self) -> str:
        """Of everything that is measured in one: "nats", "bits", or how many nats."""
        return {1.0: "nats", math.log(2.0): "bits"}.get(self._unit, f"{self._unit!r} nats")

    @property
    def by(self) -> dict[str, Any]:
        """The summary of the rows of each label, where labels were given, else empty.

        `by["code"]` where the labels were one array without a name, `by["domain"]["code"]` where they were named. Rows
        without a label are "(none)".
        """
        part: Any = self.parts.get("by")
        return {} if part is None else dict(part.view)

    @property
    def impossible(self) -> int:
        return self._log_probs.count - self._finite_log_probs.count

    @property
    def finite(self) -> ComparisonSummary:
        spreads = {name: spread.finite for name, spread in self._spreads.items()}
        both = self._finite_log_probs
        new = ComparisonSummary(
            self.tokens, spreads, (both, both), self._unit, self.parts, self.undefined, self.ignored
        )
        new.facts = self.facts
        return new

    def merge(self, other: ComparisonSummary) -> ComparisonSummary:
        """The summary of both comparisons together."""
        if not isinstance(other, ComparisonSummary):
            raise TypeError(f"`other` is {type(other).__name__}, expected a ComparisonSummary")
        if other._unit != self._unit:
            raise ValueError(f"`other` is in units of {other._unit} nats, expected {self._unit}")
        spreads = {name: spread.merge(other._spreads[name]) for name, spread in self._spreads.items()}
        log_probs = (
            self._log_probs.merge(other._log_probs),
            self._finite_log_probs.merge(other._finite_log_probs),
        )
        parts = {name: part.merge(other.parts[name]) for name, part in self.parts.items() if name in other.parts}
        if len(parts) < max(len(self.parts), len(other.parts)):
            missing = ", ".join(sorted(set(self.parts) ^ set(other.parts)))
            raise ValueError(f"`other` has other statistics ({missing} on one side only), expected the same")
        undefined, ignored = self.undefined + other.undefined, self.ignored + other.ignored
        new = ComparisonSummary(self.tokens + other.tokens, spreads, log_probs, self._unit, parts, undefined, ignored)
        new.facts = _common_facts(self.facts, other.facts)
        return new

    def compact(self, most: int, bins: int = MOST) -> None:
        """Beyond `most` tokens, keep their values cut to some significant bits; see spread.py."""
        for spread in self._spreads.values():
            spread.compact(most, bins)
        for part in self.parts.values():
            if isinstance(part, Compacting):
                part.compact(most, bins)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        tree: dict[str, Any] = {
            "tokens": self.tokens, "undefined_rows": self.undefined, "ignored_tokens": self.ignored,
        }  # fmt: skip
        for name, spread in self._spreads.items():
            if name != "same_top1":
                tree[name] = spread.to_dict()
        for name in ("kl", "reverse_kl"):
            spread = self._spreads[name]
            tree[name]["p99_over_mean"] = json_number(spread.over_mean(0.99))
            tree[name]["worst_percent_share"] = json_number(spread.worst_share(0.01))
        share = self.same_top1
        tree["same_top1"] = {"mean": json_number(share.mean), "standard_error": json_number(share.standard_error)}
        tree["same_top1"]["interval"] = [json_number(end) for end in share.share_interval()]
        tree["same_top1"] |= share.group_figures()
        tree["delta_prob"]["rms"] = json_number(self.delta_prob.rms)
        for name in ("perplexity_p", "perplexity_q", "perplexity_ratio", "log_prob_correlation"):
            tree[name] = json_number(getattr(self, name))
        if self.impossible or any(spread.infinite for spread in self._spreads.values()):
            tree["without_infinite"] = self._without_infinite()
        tree["unit"] = self.unit
        tree |= {name: part.to_dict() for name, part in self.parts.items()}
        for name, ends in getattr(self.parts.get("bounds"), "ends", {}).items():  # of a compact reference
            tree[name]["bounds"] = [json_number(end) for end in ends]
        return tree | self.facts

    def _without_infinite(self) -> dict[str, Any]:
        """Of each quantity with infinite values, the figures of the others."""
        tree: dict[str, Any] = {}
        for name, spread in self._spreads.items():
            if spread.infinite:
                finite = spread.finite
                tree[name] = {"count": finite.count} | {
                    figure: json_number(getattr(finite, figure))
                    for figure in ("mean", "standard_error", "median", "max", "min")
                }
                tree[name] |= finite.group_figures()
        if self.impossible:
            finite_one = self.finite
            tree["tokens"] = self._finite_log_probs.count
            for name in ("perplexity_p", "perplexity_q", "perplexity_ratio"):
                tree[name] = json_number(getattr(finite_one, name))
        return tree

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ComparisonSummary):
            return NotImplemented
        return (
            (self.tokens, self.undefined, self.ignored) == (other.tokens, other.undefined, other.ignored)
            and self._unit == other._unit
            and self._spreads == other._spreads
            and (self._log_probs, self._finite_log_probs) == (other._log_probs, other._finite_log_probs)
            and self.parts == other.parts
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ComparisonSummary(tokens={self.tokens}, kl.mean={self.kl.mean:.6g})"

    def __str__(self) -> str:
        return table(self, self._spreads)


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
