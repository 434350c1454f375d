"""Labels of rows: read once into whole numbers, and the summary of the rows of each label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords
from kullback.comparison.binned import MOST
from kullback.comparison.columns import Columns, summarize
from kullback.comparison.summary import ComparisonSummary

NONE = "(none)"  # the label of rows without one
MOST_LABELS = 500  # of a set; ids and texts, which are no labels, have more
LONGEST_LABEL = 200  # characters
_FEWEST_BINS = (
    1 << 10
)  # of a label whose quantiles are of cut values: 4 bits after the leading one in 32 octaves, of both signs
_MISSING = ("NAType", "NaTType")  # of pandas, which need not be there


@dataclass(frozen=True, eq=False)
class LabelSet:
    """The labels of rows: of each row its place in `names`, which are in rising order."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def label_sets(by: Any) -> dict[str, LabelSet]:
    """The sets of labels in `by`, each by its name; one without a name is called ""."""
    if isinstance(by, Mapping):
        sets = list(by.items())
    elif hasattr(by, "columns") and not isinstance(by, np.ndarray):  # a data frame
        names = list(by.columns)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"`by` has two columns {keywords.shown(twice)}, expected names that differ")
        sets = [(name, by[name]) for name in names]
    else:
        return {"": encoded(by, "`by`")}
    if not sets:
        raise ValueError("`by` is empty, expected labels")
    for name, _ in sets:
        if not isinstance(name, str) or not name:
            raise TypeError(f"`by` has a set called {keywords.shown(name)}, expected text")
    return {name: encoded(values, f"`by[{name!r}]`") for name, values in sets}


def encoded(values: Any, what: str) -> LabelSet:
    """Labels of one value a row: text, whole numbers, or true and false; None, NaN and "" are no label."""
    if isinstance(values, (str, bytes)) or not (hasattr(values, "__array__") or isinstance(values, Iterable)):
        raise TypeError(f"{what} is {keywords.shown(values)}, expected a label a row")
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, expected None where there is no label")
    array = np.asarray(values) if hasattr(values, "__array__") else np.empty(0, object)
    if array.dtype.kind in "biuU" and array.size:
        found, inverse = np.unique(array.reshape(-1), return_inverse=True)
        return coded(found.tolist(), np.asarray(inverse, np.int64).reshape(-1), what)
    places: dict[tuple[type, Any], int] = {}
    flat = array.reshape(-1).tolist() if hasattr(values, "__array__") else values
    codes: list[int] = []
    for row, value in enumerate(flat):
        if isinstance(value, float) and math.isnan(value):
            value = None  # NaN is no key: it differs from itself
        try:
            codes.append(places.setdefault((type(value), value), len(places)))
        except TypeError:
            raise TypeError(f"{what} holds {keywords.shown(value)} in row {row}, expected one label a row") from None
        if len(places) > 2 * MOST_LABELS:  # one label may come as several types
            raise _too_many(what)
    return coded([value for _, value in places], np.array(codes, np.int64), what)


def coded(values: Iterable[Any], codes: NDArray[np.int64], what: str) -> LabelSet:
    """Labels of rows that are places in `values`, which may be any that `encoded` takes; -1 for none."""
    kinds: dict[str, Any] = {}
    texts = []
    for value in values:
        kind, text = _text(value, what)
        kinds.setdefault(kind, value)
        texts.append(text)
    kinds.pop("none", None)
    if len(kinds) > 1:
        shown = " and ".join(f"{kind} ({keywords.shown(value)})" for kind, value in kinds.items())
        raise TypeError(f"{what} mixes {shown}, expected labels of one kind")
    there = np.bincount(codes + 1, minlength=len(texts) + 1) > 0
    used = {text for text, some in zip([NONE, *texts], there.tolist(), strict=True) if some}
    if len(used) > MOST_LABELS:
        raise _too_many(what)
    names = sorted(used)
    place = {name: i for i, name in enumerate(names)}
    moved = np.array([place.get(text, 0) for text in [NONE, *texts]], np.int64)
    return LabelSet(tuple(names), moved[codes + 1])


def _text(value: Any, what: str) -> tuple[str, str]:
    """The kind of a label, and how it is called."""
    if value is None or type(value).__name__ in _MISSING or (isinstance(value, float) and math.isnan(value)):
        return "none", NONE
    if isinstance(value, (bool, np.bool_)):
        return "true or false", "true" if value else "false"
    if isinstance(value, (int, np.integer)) or (isinstance(value, (float, np.floating)) and value == value // 1):
        return "whole numbers", str(int(value))
    if isinstance(value, str):
        if len(value) > LONGEST_LABEL:
            raise ValueError(f"{what} has a label of {len(value)} characters, expected {LONGEST_LABEL} at most")
        return ("text", value) if value else ("none", NONE)
    raise TypeError(f"{what} has the label {keywords.shown(value)}, expected text, whole numbers, or true and false")


def _too_many(what: str) -> ValueError:
    return ValueError(
        f"{what} has more than {MOST_LABELS} different labels: are they ids, or texts? Name the columns of labels alone"
    )


@dataclass(eq=False)
class Labels:
    """A summary of the rows of each label, by set of labels; a part of `ComparisonSummary.parts`."""

    sets: dict[str, dict[str, ComparisonSummary]]
    expected: int = 0  # labels of all sets in the whole job

    @classmethod
    def of(
        cls,
        whole: Columns,
        kept: NDArray[np.bool_],
        sets: Mapping[str, LabelSet],
        groups: NDArray[Any] | None = None,
        unit: float = 1.0,
        most_batched: float = math.inf,
    ) -> Labels:
        """Of `completed` columns, as `summarize` takes them; `most_batched` labels have intervals of quantiles."""
        expected = sum(len(labels.names) for labels in sets.values())
        found: dict[str, dict[str, ComparisonSummary]] = {}
        for name, labels in sets.items():
            order = np.argsort(labels.codes, kind="stable")
            codes, starts = np.unique(labels.codes[order], return_index=True)
            if codes.size and not 0 <= codes[0] <= codes[-1] < len(labels.names):
                raise IndexError(f"label {codes[0]} or {codes[-1]} of {len(labels.names)}")
            found[name] = {}
            for code, rows in zip(codes.tolist(), np.split(order, starts[1:]), strict=True):
                some = {column: x[rows] for column, x in whole.items()}
                inside = None if groups is None else groups[rows]
                found[name][labels.names[code]] = summarize(
                    some, kept[rows], inside, unit=unit, batched=expected <= most_batched
                )
        return cls(found, expected)

    def merge(self, other: Labels) -> Labels:
        if self.sets.keys() != other.sets.keys():
            raise ValueError(f"`other` has labels {_named(other.sets)}, expected {_named(self.sets)}")
        merged = {}
        for name, mine in self.sets.items():
            theirs = other.sets[name]
            merged[name] = dict(mine)
            for label, summary in theirs.items():
                merged[name][label] = mine[label].merge(summary) if label in mine else summary
        return Labels(merged, max(self.expected, other.expected))

    def compact(self, most: int, bins: int = MOST) -> None:
        """All labels together keep about `most` values of each quantity, and as many `bins` as a summary has."""
        shared = max(1, self.expected)
        for summaries in self.sets.values():
            for summary in summaries.values():
                summary.compact(most // shared, max(bins // shared, _FEWEST_BINS))

    @property
    def view(self) -> dict[str, Any]:
        """The summaries by label where the one set has no name, else by set and label."""
        sets = {name: dict(sorted(summaries.items())) for name, summaries in self.sets.items()}
        return dict(sets[""]) if sets.keys() == {""} else dict(sets)

    def to_dict(self) -> dict[str, Any]:
        return _tree(self.view)

    def __eq__(self, other: object) -> bool:
        return self.sets == other.sets if isinstance(other, Labels) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def _tree(view: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x.to_dict() if isinstance(x, ComparisonSummary) else _tree(x) for name, x in view.items()}


def _named(sets: Iterable[str]) -> str:
    return ", ".join(map(keywords.shown, sets))
