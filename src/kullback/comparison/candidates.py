"""CandidateComparison: what several candidates of one base are, and how any two of them differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from kullback._engine import keywords, library
from kullback.comparison.binned import allowance
from kullback.comparison.candidates_text import SHOWN, text_of
from kullback.comparison.exact import json_number
from kullback.comparison.exports import CandidateExports
from kullback.comparison.labels import Labels
from kullback.comparison.pair_difference import PairDifference, PairTest
from kullback.comparison.paired import holm
from kullback.comparison.pairs import Pairs
from kullback.comparison.summary import ComparisonSummary

MOST_PAIRS = 190  # that tables list: all pairs of 20 candidates; of more, neighbours in the ranking
_MOST_LISTED = 2000  # pairs times labels that JSON lists; of more, neighbours of each label


class CandidateComparison(CandidateExports, Mapping[str, ComparisonSummary]):
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

    @property
    def by(self) -> dict[str, Any]:
        """Of the rows of each label what this is of all rows, where labels were given, else empty.

        `r.by["code"].difference("a", "b")`, or `r.by["domain"]["code"]` where sets of labels have names; as `by` of a
        summary. Quantiles of differences have no errors by label.
        """
        sets = self.sets
        return dict(sets[""]) if sets.keys() == {""} else dict(sets)

    @property
    def sets(self) -> dict[str, dict[str, CandidateComparison]]:
        """As `by`, always by set of labels; one without a name is ""."""
        parts = {name: summary.parts.get("by") for name, summary in self.items()}
        sets = {name: part.sets for name, part in parts.items() if isinstance(part, Labels)}
        first = next(iter(sets.values()), {})
        return {
            called: {
                label: CandidateComparison(
                    {name: some[called][label] for name, some in sets.items()},
                    self._pairs.by.get(called, {}).get(label) or Pairs(len(self)),
                )
                for label in sorted(first[called])
            }
            for called in first
        }

    def differences(
        self,
        quantity: str = "kl",
        *,
        against: str | None = None,
        correction: str | None = "holm",
        level: float | None = None,
        by: str | None = None,
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
        level : float, optional
            Compare this quantile of KL instead of the mean.
        by : str, optional
            Of the rows of each label of this set ("" where it has no name): the questions are pairs times labels.

        Returns
        -------
        list of PairTest
            By `p_value`.
        """
        keywords.choice(correction, "correction", ("holm", None))
        names = list(self._summaries)
        pairs = [(name, against) for name in names if name != against] if against else list(combinations(names, 2))
        tests = self.tests(pairs, quantity, level, by)
        if correction is None:
            tests = [test._replace(adjusted=test.p_value) for test in tests]
        return sorted(tests, key=lambda test: (math.isnan(test.p_value), test.p_value))

    def tests(
        self, pairs: Sequence[tuple[str, str]], quantity: str = "kl", level: float | None = None, by: str | None = None
    ) -> list[PairTest]:
        """As `differences`, of these pairs in their order."""
        if level is not None and (quantity != "kl" or by is not None):
            raise ValueError(f"`level` is {keywords.shown(level)}: errors of quantiles are of KL over all rows alone")
        sets = {} if by is None else self.sets
        if by is not None and by not in sets:
            known = ", ".join(map(keywords.shown, sets)) or "none"
            raise ValueError(f"`by` is {keywords.shown(by)}, expected a set of labels; there are {known}")
        of = {"": self} if by is None else sets[by]
        asked = [(label, one.difference(a, b)) for label, one in of.items() for a, b in pairs]
        found = [d.of(quantity) if level is None else d.kl_quantile(level) for _, d in asked]
        p_values = [d.p_value for d in found]
        adjusted = holm(p_values)
        return [
            PairTest(pair.a, pair.b, d, p, q, label)
            for (label, pair), d, p, q in zip(asked, found, p_values, adjusted, strict=True)
        ]

    def not_worse(self, margin: float) -> dict[str, float]:
        """Of each candidate the p-value of the claim that its mean KL is above that of the best by less than `margin`.

        The best is not known: the claim must hold against every other candidate, each by a one-sided test, and its
        p-value is the greatest of theirs (R. L. Berger, "Multiparameter hypothesis testing and acceptance sampling",
        1982). Adjusted for the number of candidates by Holm's method; NaN where it is not known.
        """
        margin = keywords.number(margin, "margin", 0.0, math.inf)
        worst = dict.fromkeys(self, 0.0)
        for a, b in combinations(self, 2):
            for one, other in ((a, b), (b, a)):
                p = self.difference(one, other).kl.p_below(margin)
                worst[one] = math.nan if math.isnan(p + worst[one]) else max(worst[one], p)
        return dict(zip(worst, holm(list(worst.values())), strict=True))

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
        """`compact` of each summary; of more than four, to its share of what four may keep."""
        for summary in self.values():
            summary.compact(*allowance(most, len(self)))

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
        pairs = self.listed_pairs()
        found = [
            self.difference(a, b).to_dict() | {"kl_adjusted_p_value": json_number(test.adjusted)}
            for (a, b), test in zip(pairs, self.tests(pairs), strict=True)
        ]
        tree = {"p": trees[0].get("p"), "candidates": trees, "differences": found}
        by = self._differences_by(pairs)
        return tree | ({"differences_by": by} if by else {})

    def _differences_by(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """For JSON, of each label the differences, nested as `by` is."""
        sets = self.sets
        trees: dict[str, Any] = {}
        for name, of in sets.items():
            some = pairs if len(pairs) * len(of) <= _MOST_LISTED else self.neighbours()
            trees[name] = {label: [] for label in of}
            for test in self.tests(some, by=name):
                tree = of[test.label].difference(test.a, test.b).to_dict()
                trees[name][test.label].append(tree | {"kl_adjusted_p_value": json_number(test.adjusted)})
        return dict(trees[""]) if trees.keys() == {""} else trees

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
