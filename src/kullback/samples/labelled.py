"""Counts that come with labels: Series, value counts of pandas and Polars, Counters; matched by label if asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from kullback._engine import choice, same_axis

Align = Literal["union"] | None
_OF_VALUE_COUNTS = ("count", "counts", "proportion")  # what pandas and Polars call the second column


class _Cells(NamedTuple):
    """One side: its counts, and the label of each where it has them."""

    counts: Any
    labels: list[Any] | None
    by_position: bool  # counts of a Series may meet plain ones by position; those of a Counter have none


def matched(p: Any, q: Any, align: Align) -> tuple[Any, Any, tuple[Any, ...] | None]:
    """Counts of the same cells on both sides, and the labels of those cells where `align` was asked for."""
    choice(align, "align", ("union", None))
    first, second = _cells(p), _cells(q)
    if align is None:
        _same_order(p, first, q, second)
        return first.counts, second.counts, None
    sides = []
    for name, given, side in (("p_counts", p, first), ("q_counts", q, second)):
        if side.labels is None:
            raise TypeError(
                f"`{name}` is {type(given).__name__}, which has no labels to align by: expected a Series, value "
                "counts or a dict of one count a label"
            )
        keyed = dict(zip(map(_key, side.labels), np.asarray(side.counts).tolist(), strict=True))
        if len(keyed) != len(side.labels):
            raise ValueError(f"`{name}` has a label twice, expected one count a label")
        sides.append(keyed)
    shown = {_key(label): label for side in (second, first) for label in side.labels or ()}
    order = [*sides[0], *(key for key in sides[1] if key not in sides[0])]
    p_aligned, q_aligned = (np.array([side.get(key, 0) for key in order]) for side in sides)
    return p_aligned, q_aligned, tuple(shown[key] for key in order)


def _same_order(p: Any, first: _Cells, q: Any, second: _Cells) -> None:
    """Refuse labels that differ, or that only one side has where position says nothing."""
    if first.by_position and second.by_position and (first.labels is None or second.labels is None):
        same_axis(-1, ("p_counts", p), ("q_counts", q))
        return
    if second.counts is None:
        return
    if first.labels is None or second.labels is None:
        raise ValueError(
            "one of `p_counts` and `q_counts` has labels and the other none, expected both: give the counts alone "
            "to go by position"
        )
    if list(map(_key, first.labels)) != list(map(_key, second.labels)):
        raise ValueError(
            "`q_counts` has another index than `p_counts`, expected equal ones: align='union' matches cells by label "
            "(0 where a side lacks one), `.to_numpy()` goes by position"
        )


def _cells(x: Any) -> _Cells:
    if isinstance(x, Mapping):
        return _Cells(np.array(list(x.values())), list(x), False)
    columns = getattr(x, "columns", None)
    if columns is not None and len(columns) == 2 and columns[1] in _OF_VALUE_COUNTS and _of_frames(x):
        return _Cells(x[columns[1]].to_numpy(), list(x[columns[0]].to_list()), False)
    if _of_frames(x) and hasattr(x, "index") and columns is None:  # a Series of pandas
        return _Cells(x, list(x.index.tolist()), True)
    return _Cells(x, None, True)


def _of_frames(x: Any) -> bool:
    return type(x).__module__.partition(".")[0] in ("pandas", "polars")


def _key(label: Any) -> Any:
    """What two labels that mean the same have in common: all NaN are one."""
    missing = isinstance(label, float) and label != label
    return (missing, None if missing else label)
