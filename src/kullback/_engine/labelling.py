"""Labels of rows and columns: objects that have them would meet by label elsewhere, here they meet by position."""

from itertools import combinations
from typing import Any

import numpy as np


def same_labels(*named: tuple[str, Any]) -> None:
    """Refuse objects of pandas, Polars and xarray whose labels differ: they meet by position here, there by label."""
    labelled = [(name, x) for name, x in named if has_labels(x)]
    for (first_name, first), (name, x) in combinations(labelled, 2):
        if _library(first) == _library(x) == "xarray":
            _same_dimensions(first_name, first, name, x)
        for axis in ("index", "columns"):
            if type(x) is type(first) and _differ(getattr(first, axis, None), getattr(x, axis, None)):
                raise _other_labels(first_name, name, axis)


def same_axis(axis: int, *named: tuple[str, Any]) -> None:
    """`same_labels` of the first (0) or the last (-1) axis alone, of frames and series alike."""
    labelled = []
    for name, x in named:
        if _library(x) == "xarray" and x.dims:
            labelled.append((name, f"index along {x.dims[axis]!r}", x.indexes.get(x.dims[axis])))
        elif has_labels(x):
            kind = "columns" if axis == -1 and hasattr(x, "columns") else "index"
            labelled.append((name, kind, getattr(x, kind, None)))
    for (first_name, _, first), (name, kind, labels) in combinations(labelled, 2):
        if _differ(first, labels):
            raise _other_labels(first_name, name, kind)


def has_labels(x: Any) -> bool:
    """Whether `x` is of a library whose labels are compared."""
    return _library(x) in ("pandas", "polars") or (_library(x) == "xarray" and hasattr(x, "dims"))


def _same_dimensions(first_name: str, first: Any, name: str, x: Any) -> None:
    """Of two arrays of xarray: dimensions of the same names in another order, or other labels along one of them."""
    if first.dims != x.dims and sorted(map(str, first.dims)) == sorted(map(str, x.dims)):
        raise _other_labels(first_name, name, f"order of dimensions, {x.dims}")
    for dimension in first.indexes.keys() & x.indexes.keys():
        if _differ(first.indexes[dimension], x.indexes[dimension]):
            raise _other_labels(first_name, name, f"index along {dimension!r}")


def _library(x: Any) -> str:
    return "" if type(x) is np.ndarray else type(x).__module__.partition(".")[0]


def _differ(a: Any, b: Any) -> bool:
    """Whether two sets of labels, of which Polars has names of columns alone, are there and different."""
    if a is None or b is None:
        return False
    return list(a) != list(b) if isinstance(a, list) or isinstance(b, list) else not a.equals(b)


def _other_labels(first: str, name: str, axis: str) -> ValueError:
    return ValueError(
        f"`{name}` has another {axis} than `{first}`, expected equal ones: align them (pandas: "
        f"`{name}.reindex_like({first})`), or give `.to_numpy()` to go by position"
    )
