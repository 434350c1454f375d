"""Choosing the cells of a reference table, and counting it in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, whole
from kullback.drift.cells import Bins, Cells, categorical_cells, is_identifier, numeric_cells
from kullback.drift.counting import Counts, in_parallel
from kullback.drift.state import DriftState
from kullback.drift.tables import CATEGORICAL, TEMPORAL, Table, as_table, category_counts, kind_of, names_of, numbers

_COLUMNS_AT_ONCE = 8  # of a row-major array: the float64 values of one cache line


def fit(
    reference: Any,
    *,
    bins: Bins = 10,
    spacing: Literal["quantile", "width"] = "quantile",
    outside: Literal["fold", "separate"] = "fold",
    resolution: int = 128,
    categorical: Iterable[str] = (),
    max_categories: int = 1000,
    columns: Iterable[str] | None = None,
    identifiers: Iterable[str] | None = None,
    chunks: int = 1,
    num_threads: int | None = None,
) -> DriftState:
    """Choose the cells of every column from a reference table, and count the reference in them.

    Parameters
    ----------
    reference : pandas, Polars or Arrow table, ndarray (rows, columns), or dict of 1-D arrays
        Read in place. Numbers are counted in cells, dates and durations too, as seconds (since 1970, UTC);
        strings, booleans and categories by value; NaN and null are missing. The columns of an ndarray are called
        "0", "1", ...
    bins : int, str, array_like or dict
        Bins of a numeric column: a number, the edges (B+1,), a rule of `numpy.histogram_bin_edges` such as
        "doane", or a dict of these by column name (others get 10). Bins are closed on the left, the last on
        both sides. Edges that coincide (many equal values) are merged.
    spacing : {"quantile", "width"}
        Edges at equal shares of the reference, or at equal distances.
    outside : {"fold", "separate"}
        Where values beyond the outermost edges count: in the outermost bins, or in two bins of their own
        (where the reference has no mass: expect inf without smoothing). A column with a single bin always
        keeps them apart. They are counted in `below` and `above` of the report either way.
    resolution : int
        Cells to divide the bins into, about; they bound the error of the Wasserstein distance.
    categorical : iterable of str
        Numeric columns to count by value.
    max_categories : int
        The most frequent categories kept; all others, and any a batch brings, count as other values.
    columns : iterable of str, optional
        Use these columns only. By default all.
    identifiers : iterable of str, optional
        Columns whose values differ between batches without drift; only their missing values are watched. By
        default those that independent draws cannot be, of twenty values or more: whole numbers that rise from
        row to row, or all differ though as many draws from their range would have met ten times; dates that
        never fall; categories where most values occur once.
    chunks : int
        Blocks of rows to count the reference in, for `bands="reference"` of the report.
    num_threads : int, optional
        Default: KULLBACK_NUM_THREADS, or the cores available. The result does not depend on it.

    Returns
    -------
    DriftState

    Raises
    ------
    TypeError
        A column that is neither numbers nor dates nor categories.
    ValueError
        An unknown column, edges that do not rise, an unknown option, a reference without rows.

    Notes
    -----
    Choosing edges takes a sorted float64 copy of eight columns a thread at most. For a reference larger than
    memory, fit on a part of it and add the rest with `DriftState.extend_reference`. Integers beyond 2⁵³ are
    compared as float64.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> state = fit(rng.normal(size=(5000, 2)))
    >>> state.update(np.column_stack([rng.normal(size=5000), rng.normal(1.0, size=5000)]))
    >>> report = state.report()
    >>> report.band.tolist()
    ['stable', 'act']
    """
    for option, value, allowed in (
        ("spacing", spacing, ("quantile", "width")),
        ("outside", outside, ("fold", "separate")),
    ):
        choice(value, option, allowed)
    for option, number in (("resolution", resolution), ("max_categories", max_categories), ("chunks", chunks)):
        whole(number, option, 1)
    table = as_table("reference", reference)
    if table.rows == 0:
        raise ValueError("`reference` has no rows, expected at least one")
    by_value = set(names_of("categorical", categorical))
    wanted = table.names if columns is None else names_of("columns", columns)
    forced = None if identifiers is None else set(names_of("identifiers", identifiers))
    for name in [*wanted, *by_value, *(forced or ()), *(bins if isinstance(bins, Mapping) else ())]:
        if name not in table.columns:
            raise ValueError(f"`reference` has no column {name!r}, expected one of {', '.join(table.names)}")

    def choose(group: list[str]) -> dict[str, Cells]:
        kind = kind_of(group[0], table.columns[group[0]])
        if kind == CATEGORICAL or group[0] in by_value:
            counts, _ = category_counts(table.columns[group[0]])
            return {group[0]: categorical_cells(counts, max_categories, forced is None)}
        found: dict[str, Cells] = {}
        for name, finite in _finite_columns(table, group, kind):
            identifier = is_identifier(finite, kind == TEMPORAL) if forced is None else False
            cells = numeric_cells(name, finite, bins, spacing, resolution, outside)
            found[name] = replace(cells, temporal=kind == TEMPORAL, identifier=identifier)
        return found

    chosen: dict[str, Cells] = {}
    for part in in_parallel(choose, _column_groups(table, wanted, by_value), num_threads):
        chosen |= part
    cells = {
        name: replace(chosen[name], identifier=True) if name in (forced or ()) else chosen[name] for name in wanted
    }
    state = DriftState(Counts(cells), Counts(cells), num_threads)
    borders = np.linspace(0, table.rows, chunks + 1).round().astype(int).tolist() if chunks > 1 else []
    for start, stop in itertools.pairwise(borders):
        state.extend_reference(table.rows_at(slice(start, stop)), chunk=True)
    if not borders:
        state.reference.add(table, num_threads)
    return state


def _column_groups(table: Table, wanted: list[str], by_value: set[str]) -> list[list[str]]:
    """Neighbouring columns of a two-dimensional array together, any other column alone."""
    if table.array is None or wanted != table.names or by_value:
        return [[name] for name in wanted]
    return [wanted[j : j + _COLUMNS_AT_ONCE] for j in range(0, len(wanted), _COLUMNS_AT_ONCE)]


def _finite_columns(table: Table, group: list[str], kind: str) -> Iterable[tuple[str, NDArray[np.float64]]]:
    """Copies of the finite values of each column, float64."""
    if table.array is not None and len(group) > 1:
        first = table.names.index(group[0])
        block = table.array[:, first : first + len(group)].T.astype(np.float64, order="C")
        for name, row in zip(group, block, strict=True):
            yield name, row[np.isfinite(row)]
    else:
        for name in group:
            values = numbers(name, table.columns[name], kind).astype(np.float64)
            yield name, values[np.isfinite(values)]
