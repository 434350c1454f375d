"""Fit on a reference, count batches, report: the streaming state of a drift monitor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, whole
from kullback.drift.cells import Bins, Cells, categorical_cells, numeric_cells
from kullback.drift.counting import Counts, check_same_cells, in_parallel
from kullback.drift.report import DriftReport, make_report
from kullback.drift.tables import CATEGORICAL, Table, as_table, category_counts, kind_of, names_of, numbers
from kullback.samples import Smoothing

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
    num_threads: int | None = None,
) -> DriftState:
    """Choose the cells of every column from a reference table, and count the reference in them.

    Parameters
    ----------
    reference : pandas, Polars or Arrow table, ndarray (rows, columns), or dict of 1-D arrays
        Read in place. Numbers are counted in cells, strings, booleans and categories by value; NaN and null
        are missing. The columns of an ndarray are called "0", "1", ...
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
    num_threads : int, optional
        Default: KULLBACK_NUM_THREADS, or the cores available. The result does not depend on it.

    Returns
    -------
    DriftState

    Raises
    ------
    TypeError
        A column that is neither numbers nor categories (dates: convert first).
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
    for option, number in (("resolution", resolution), ("max_categories", max_categories)):
        whole(number, option, 1)
    table = as_table("reference", reference)
    if table.rows == 0:
        raise ValueError("`reference` has no rows, expected at least one")
    by_value = set(names_of("categorical", categorical))
    wanted = table.names if columns is None else names_of("columns", columns)
    for name in [*wanted, *by_value, *(bins if isinstance(bins, Mapping) else ())]:
        if name not in table.columns:
            raise ValueError(f"`reference` has no column {name!r}, expected one of {', '.join(table.names)}")

    def choose(group: list[str]) -> dict[str, Cells]:
        if kind_of(group[0], table.columns[group[0]]) == CATEGORICAL or group[0] in by_value:
            counts, _ = category_counts(table.columns[group[0]])
            return {group[0]: categorical_cells(counts, max_categories)}
        return {
            name: numeric_cells(name, finite, bins, spacing, resolution, outside)
            for name, finite in _finite_columns(table, group)
        }

    chosen: dict[str, Cells] = {}
    for part in in_parallel(choose, _column_groups(table, wanted, by_value), num_threads):
        chosen |= part
    cells = {name: chosen[name] for name in wanted}
    state = DriftState(Counts(cells), Counts(cells), num_threads)
    state.reference.add(table, num_threads)
    return state


def _column_groups(table: Table, wanted: list[str], by_value: set[str]) -> list[list[str]]:
    """Neighbouring columns of a two-dimensional array together, any other column alone."""
    if table.array is None or wanted != table.names or by_value:
        return [[name] for name in wanted]
    return [wanted[j : j + _COLUMNS_AT_ONCE] for j in range(0, len(wanted), _COLUMNS_AT_ONCE)]


def _finite_columns(table: Table, group: list[str]) -> Iterable[tuple[str, NDArray[np.float64]]]:
    """Copies of the finite values of each column, float64."""
    if table.array is not None and len(group) > 1:
        first = table.names.index(group[0])
        block = table.array[:, first : first + len(group)].T.astype(np.float64, order="C")
        for name, row in zip(group, block, strict=True):
            yield name, row[np.isfinite(row)]
    else:
        for name in group:
            values = numbers(name, table.columns[name]).astype(np.float64)
            yield name, values[np.isfinite(values)]


@dataclass
class DriftState:
    """The counts of a reference and of what came after it; made by `fit`.

    Everything kept is integer counts, and least and greatest values: states of any split of the data, merged
    in any order, with any number of threads, are equal bit for bit. A state can be pickled and sent.

    Attributes
    ----------
    reference, current : Counts
        What was counted, by column.
    num_threads : int or None
        Threads of `update`.
    """

    reference: Counts
    current: Counts
    num_threads: int | None = None

    def update(self, batch: Any) -> None:
        """Count a batch of current data, any kind of table; columns that the reference lacks are not looked
        at.

        Raises ValueError for a missing column and TypeError for one of another kind; the state is then
        unchanged.
        """
        self.current.add(as_table("batch", batch), self.num_threads)

    def extend_reference(self, batch: Any) -> None:
        """Count more reference data in the cells that `fit` chose."""
        self.reference.add(as_table("batch", batch), self.num_threads)

    def merge(self, other: DriftState) -> None:
        """Add the current counts of a state that was given the same reference.

        Raises ValueError where cells or reference counts differ; distributed reference counts are merged by
        `state.reference.merge(other.reference)`.
        """
        if not isinstance(other, DriftState):
            raise TypeError(f"`other` is {type(other).__name__}, expected a DriftState")
        check_same_cells(self.reference.cells, other.reference.cells)
        for name, counts in self.reference.by_column.items():
            if not np.array_equal(counts, other.reference.by_column[name]):
                raise ValueError(f"`other` has other reference counts in column {name!r}, expected the same")
        self.current.merge(other.current)

    def window(self) -> DriftState:
        """A new state with this reference and nothing counted yet, for the next chunk of time."""
        return DriftState(self.reference, Counts(self.reference.cells), self.num_threads)

    def report(
        self,
        *,
        smoothing: Smoothing = None,
        missing: str = "drop",
        bands: tuple[float, float] = (0.1, 0.25),
        band_metric: str = "psi",
    ) -> DriftReport:
        """Compare the current counts with the reference; see `DriftReport` for what it holds.

        Parameters
        ----------
        smoothing : str, tuple or None
            A rule of `kullback.samples.smooth`, applied to the bins of both sides. None changes nothing: KL
            and PSI are inf where one side has an empty bin.
        missing : {"drop", "bin"}
            Leave missing values out of the shares, or make them a bin.
        bands : (float, float)
            Values of `band_metric` from which a column is to "watch", and to "act" on.
        band_metric : str
            The metric of the report that decides.
        """
        return make_report(self.reference, self.current, smoothing, missing, bands, band_metric)
