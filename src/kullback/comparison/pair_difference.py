"""PairDifference: two candidates of one base, quantity by quantity; PairTest: one of the tests of many pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from kullback._engine import keywords
from kullback.comparison.paired import Difference, QuantileDifference
from kullback.comparison.pairs import Pairs
from kullback.comparison.summary import ComparisonSummary

QUANTILES = (0.99, 0.999)  # of KL, whose differences stand in tables


class PairDifference:
    """Candidate a minus candidate b, of each quantity; see `Difference` for what each of them has.

    Attributes
    ----------
    a, b : str
    kl, reverse_kl, same_top1, acceptance : Difference
    log_prob, delta_prob : Difference
        Of the tokens: log-probability by the candidate, and its probability minus p's; only where tokens are known.
    rows, left_out : int
        Rows that count: those with a distribution in the base and in every candidate; rows that some candidate has one
        in, but not all.
    """

    def __init__(
        self, a: str, b: str, numbers: tuple[int, int], parts: tuple[Pairs, Mapping[str, ComparisonSummary]]
    ) -> None:
        self.a, self.b = a, b
        self._numbers = numbers
        self._pairs, self._summaries = parts
        self._found: dict[str, Difference] = {}

    @property
    def rows(self) -> int:
        return self._pairs.rows

    @property
    def left_out(self) -> int:
        return self._pairs.left_out

    @property
    def quantities(self) -> tuple[str, ...]:
        """Those that are known."""
        return self._pairs.quantities

    def of(self, quantity: str) -> Difference:
        """One quantity by name."""
        if quantity not in self.quantities:
            raise ValueError(
                f"`quantity` is {keywords.shown(quantity)}, expected one of {', '.join(self.quantities)}, which are "
                "known"
            )
        if quantity not in self._found:
            self._found[quantity] = self._pairs.difference(quantity, *self._numbers)
        return self._found[quantity]

    @property
    def kl(self) -> Difference:
        return self.of("kl")

    @property
    def reverse_kl(self) -> Difference:
        return self.of("reverse_kl")

    @property
    def log_prob(self) -> Difference:
        return self.of("log_prob")

    @property
    def delta_prob(self) -> Difference:
        return self.of("delta_prob")

    @property
    def same_top1(self) -> Difference:
        return self.of("same_top1")

    @property
    def acceptance(self) -> Difference:
        return self.of("acceptance")

    def kl_quantile(self, level: float) -> QuantileDifference:
        """The difference of a quantile of KL, with an error by batches of documents; by label without an error."""
        level = keywords.number(level, "level", 0.0, 1.0)
        found = self._pairs.quantile_difference(*self._numbers, level)
        a, b = (self._summaries[name].kl for name in (self.a, self.b))
        if not self.left_out:
            exact = a.quantile(level) - b.quantile(level) if math.isfinite(b.quantile(level)) else found.mean
            found = found._replace(mean=exact)
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tree: dict[str, Any] = {"a": self.a, "b": self.b, "rows": self.rows, "left_out": self.left_out}
        kl = self.kl
        if kl.groups:
            tree["groups"] = kl.groups
        if kl.group_note:
            tree["group_note"] = kl.group_note
        tree |= {name: self.of(name).to_dict() for name in self.quantities}
        if self._pairs.has_quantiles:  # of the rows of a label none are kept
            tree["kl_quantiles"] = {f"{level:g}": self.kl_quantile(level).to_dict() for level in QUANTILES}
        return tree

    def __repr__(self) -> str:
        return f"PairDifference({self.a!r} minus {self.b!r}, kl={self.kl.mean:.6g})"


class PairTest(NamedTuple):
    """Whether two candidates differ in a quantity, among all pairs (and labels) that were asked about.

    Attributes
    ----------
    a, b : str
    difference : Difference or QuantileDifference
    p_value : float
        Of this pair alone.
    adjusted : float
        For the number of pairs, times labels.
    label : str
        Of the rows, where differences are by label.
    """

    a: str
    b: str
    difference: Difference | QuantileDifference
    p_value: float
    adjusted: float
    label: str = ""
