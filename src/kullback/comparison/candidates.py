"""CandidateComparison: what several candidates of one base are, and how any two of them differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any, NamedTuple

from kullback._engine import keywords, library
from kullback.comparison.candidates_text import SHOWN, text_of
from kullback.comparison.exact import json_number
from kullback.comparison.paired import Difference, Pairs, QuantileDifference, holm
from kullback.comparison.summary import ComparisonSummary

QUANTILES = (0.99, 0.999)  # of KL, whose differences stand in tables
MOST_PAIRS = 190  # that tables list: all pairs of 20 candidates; of more, neighbours in the ranking


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

    def __init__(self, a: str, b: str, numbers: tuple[int, int], parts: tuple[Pairs, CandidateComparison]) -> None:
        self.a, self.b = a, b
        self._numbers = numbers
        self._pairs, self._comparison = parts
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
        """The difference of a quantile of KL, with an error by batches of documents."""
        level = keywords.number(level, "level", 0.0, 1.0)
        found = self._pairs.quantile_difference(*self._numbers, level)
        a, b = (self._comparison[name].kl for name in (self.a, self.b))
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
        tree["kl_quantiles"] = {f"{level:g}": self.kl_quantile(level).to_dict() for level in QUANTILES}
        return tree

    def __repr__(self) -> str:
        return f"PairDifference({self.a!r} minus {self.b!r}, kl={self.kl.mean:.6g})"


class PairTest(NamedTuple):
    """Whether two candidates differ in a quantity, among all pairs that were asked about.

    Attributes
    ----------
    a, b : str
    difference : Difference
    p_value : float
        Of this pair alone.
    adjusted : float
        For the number of pairs.
    """

    a: str
    b: str
    difference: Difference
    p_value: float
    adjusted: float


class CandidateComparison(Mapping[str, ComparisonSummary]):
    """Several candidates of one base: `r["name"]` the summary of each, `r.difference("a", "b")` how two of them differ.

    `r.merge(other)` is that of both parts' rows, in any order to the same bits.
    """

    def __init__(self, summaries: Mapping[str, ComparisonSummary], pairs: Pairs) -> None:
        self._summaries = dict(summaries)
        self._pairs = pairs

    def __getitem__(self, name: str) -> ComparisonSummary:
        try:
            return self._summaries[name]
        except (KeyError, TypeError):
            raise KeyError(f"{keywords.shown(name)}; the candidates are {', '.join(self._summaries)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._summaries)

    def __len__(self) -> int:
        return len(self._summaries)

    @property
    def summaries(self) -> list[ComparisonSummary]:
        """Of the candidates, in the order they were given."""
        return list(self.values())

    def difference(self, a: str, b: str) -> PairDifference:
        """Candidate `a` minus candidate `b`."""
        names = list(self._summaries)
        for name, argument in ((a, "a"), (b, "b")):
            if name not in self._summaries:
                raise ValueError(f"`{argument}` is {keywords.shown(name)}, expected one of {', '.join(names)}")
        return PairDifference(a, b, (names.index(a), names.index(b)), (self._pairs, self))

    def differences(
        self, quantity: str = "kl", *, against: str | None = None, correction: str | None = "holm"
    ) -> list[PairTest]:
        """Every pair, or every candidate against one, with p-values for so many questions.

        Parameters
        ----------
        quantity : str
            "kl", "reverse_kl", "log_prob", "delta_prob", "same_top1" or "acceptance".
        against : str, optional
            The candidate that all others are compared with; by default all pairs.
        correction : {"holm", None}
            Holm's: the chance that any of the claims is false stays at the level that `adjusted` is held against.

        Returns
        -------
        list of PairTest
            By `p_value`.
        """
        keywords.choice(correction, "correction", ("holm", None))
        names = list(self._summaries)
        pairs = [(name, against) for name in names if name != against] if against else list(combinations(names, 2))
        found = [self.difference(a, b).of(quantity) for a, b in pairs]
        p_values = [d.p_value for d in found]
        adjusted = holm(p_values) if correction else p_values
        verdicts = [PairTest(*pair, d, p, q) for pair, d, p, q in zip(pairs, found, p_values, adjusted, strict=True)]
        return sorted(verdicts, key=lambda v: (math.isnan(v.p_value), v.p_value))

    def ranking(self) -> list[str]:
        """The candidates by mean KL, the least first; NaN last."""
        return sorted(self._summaries, key=lambda name: (math.isnan(x := self._summaries[name].kl.mean), x))

    def merge(self, other: CandidateComparison) -> CandidateComparison:
        """That of both parts' rows."""
        if not isinstance(other, CandidateComparison):
            raise TypeError(f"`other` is {type(other).__name__}, expected a CandidateComparison")
        if list(self) != list(other):
            raise ValueError(f"`other` has the candidates {', '.join(other)}, expected {', '.join(self)}")
        merged = {name: summary.merge(other[name]) for name, summary in self.items()}
        return CandidateComparison(merged, self._pairs.merge(other._pairs))

    def compact(self, most: int) -> None:
        """`compact` of each summary."""
        for summary in self.values():
            summary.compact(most)

    def listed_pairs(self) -> list[tuple[str, str]]:
        """The pairs that tables list, in the order of the ranking: all, or of many candidates each with the next."""
        names = self.ranking()
        if len(names) * (len(names) - 1) // 2 <= MOST_PAIRS:
            return list(combinations(names, 2))
        return self.neighbours()

    def neighbours(self) -> list[tuple[str, str]]:
        """Each candidate and the next in the ranking."""
        return list(pairwise(self.ranking()))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: of a single candidate what its summary has."""
        trees = [summary.to_dict() | {"name": name} for name, summary in self.items()]
        if len(trees) == 1:
            return next(iter(self.values())).to_dict()
        differences = [self.difference(a, b) for a, b in self.listed_pairs()]
        adjusted = holm([d.kl.p_value for d in differences])
        found = [
            d.to_dict() | {"kl_adjusted_p_value": json_number(p)} for d, p in zip(differences, adjusted, strict=True)
        ]
        return {"p": trees[0].get("p"), "candidates": trees, "differences": found}

    def to_pandas(self) -> Any:
        """A data frame of pandas, a row a candidate: tokens, KL and its errors, same top token, perplexity ratio."""
        pandas = library("pandas", "to_pandas")
        return pandas.DataFrame(
            [_row(summary) for summary in self.values()], index=pandas.Index(self, name="candidate")
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CandidateComparison):
            return NotImplemented
        return list(self) == list(other) and self._summaries == other._summaries and self._pairs == other._pairs

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        ranked = {name: self[name] for name in self.ranking()}
        pairs = self.listed_pairs()
        found = [self.difference(b, a) for a, b in (pairs if len(pairs) <= SHOWN else self.neighbours())]
        differences = {(d.a, d.b): d.kl for d in found if "kl" in d.quantities}
        return text_of(ranked, differences, self._pairs.left_out)

    def __repr__(self) -> str:
        return f"CandidateComparison({', '.join(f'{name}: {s.kl.mean:.4g}' for name, s in self.items())})"


def _row(summary: ComparisonSummary) -> dict[str, Any]:
    kl = summary.kl
    return {
        "tokens": summary.tokens, "kl": kl.mean, "kl_standard_error": kl.standard_error,
        "kl_group_standard_error": kl.group_standard_error, "kl_median": kl.median, "kl_p99": kl.quantile(0.99),
        "kl_p99.9": kl.quantile(0.999), "kl_max": kl.max, "reverse_kl": summary.reverse_kl.mean,
        "same_top1": summary.same_top1.mean, "perplexity_ratio": summary.perplexity_ratio,
    }  # fmt: skip
