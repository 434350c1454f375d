"""Counts of a table's columns in their cells: many threads, any order of merging, always the same bits."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kullback._engine import numba_kernel, over_rows, thread_count
from kullback.drift.cells import CategoricalCells, Cells, NumericCells, category_row, padded
from kullback.drift.tables import NUMERIC, TEMPORAL, Table, category_counts, numbers

_TASK_BYTES = 1 << 30  # what a task counts as: each is worth a thread of its own
_BLOCK = 1 << 16  # rows a thread converts to float64 at a time, for the dtypes the kernel does not read
_MOST_OTHERS = 100_000  # values beyond the categories that are counted each; of more, only how many there were
_Result = TypeVar("_Result")


def in_parallel(work: Callable[[Any], _Result], tasks: Iterable[Any], num_threads: int | None) -> list[_Result]:
    """The results of `work`, in the order of `tasks`; where several fail, the error of the first."""
    tasks = list(tasks)
    found: list[Any] = [None] * len(tasks)
    errors: dict[int, Exception] = {}

    def some(start: int, stop: int) -> None:
        for i in range(start, stop):
            try:
                found[i] = work(tasks[i])
            except Exception as error:
                errors[i] = error
                raise

    try:
        over_rows(some, len(tasks), _TASK_BYTES, thread_count(num_threads))
    except Exception:
        if not errors:
            raise
        raise errors.pop(min(errors)) from None  # every task before it was begun, and is done
    return found


@dataclass
class Counts:
    """How many values of each column fell in each cell.

    Parameters
    ----------
    cells : dict of NumericCells or CategoricalCells
        By column name.

    Attributes
    ----------
    rows : int
        Rows counted.
    by_column : dict of int64 arrays
        Numeric, (n + 2,): below, n - 1 cells, above, missing. Categorical, (K + 2,): K categories, other
        values, missing.
    extremes : dict of float64 arrays (2,)
        Least and greatest value of each numeric column; (inf, -inf) before the first.
    excess : dict of int64 arrays (2, 2)
        Summed distances below the first edge and above the last, in units of the column's cells: the low 31
        bits of each, and the rest.
    others : dict of dict or None
        How often each value occurred that is none of the categories; None for identifiers and beyond 100,000
        different ones.
    """

    cells: dict[str, Cells]
    rows: int = 0
    by_column: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    extremes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    excess: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    others: dict[str, dict[Hashable, int] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start from nothing, unless counts were given."""
        for name, cells in self.cells.items():
            if isinstance(cells, NumericCells):
                self.by_column.setdefault(name, np.zeros(cells.edges.size + 2, np.int64))
                self.extremes.setdefault(name, np.array([np.inf, -np.inf]))
                self.excess.setdefault(name, np.zeros((2, 2), np.int64))
            else:
                self.by_column.setdefault(name, np.zeros(len(cells.categories) + 2, np.int64))
                self.others.setdefault(name, None if cells.identifier else {})

    def add(self, table: Table, num_threads: int | None = None) -> None:
        """Count the rows of a table; nothing changes if a column is missing or of the wrong type."""
        absent = [name for name in self.cells if name not in table.columns]
        if absent:
            raise ValueError(f"the batch has no column {absent[0]!r}, expected {', '.join(self.cells)}")
        tasks = _tasks(self.cells, table, thread_count(num_threads))
        for part in in_parallel(lambda task: task(), tasks, num_threads):
            for name, (counts, reach, others) in part.items():
                self.by_column[name] += counts
                if reach is None:
                    self._join(name, others)
                else:
                    self._widen(name, *reach)
        self.rows += table.rows

    def merge(self, other: Counts) -> None:
        """Add the counts of `other`, made with the same cells."""
        check_same_cells(self.cells, other.cells)
        for name, counts in other.by_column.items():
            self.by_column[name] += counts
        for name, extremes in other.extremes.items():
            self._widen(name, extremes, other.excess[name])
        for name, others in other.others.items():
            self._join(name, others)
        self.rows += other.rows

    def _widen(self, name: str, extremes: NDArray[np.float64], excess: NDArray[np.int64]) -> None:
        mine = self.extremes[name]
        mine[0], mine[1] = min(mine[0], extremes[0]), max(mine[1], extremes[1])
        self.excess[name] += excess

    def _join(self, name: str, others: dict[Hashable, int] | None) -> None:
        """Add counts by value; once there are too many values, in whichever part, there are in the whole."""
        mine = self.others[name]
        if mine is None or others is None:
            self.others[name] = None
            return
        for value, count in others.items():
            mine[value] = mine.get(value, 0) + count
        if len(mine) > _MOST_OTHERS:
            self.others[name] = None


def check_same_cells(ours: dict[str, Cells], theirs: dict[str, Cells]) -> None:
    """Raise ValueError unless both have the same columns with the same cells."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"`other` has columns {', '.join(theirs)}, expected {', '.join(ours)}")
    for name, cells in ours.items():
        if not cells.same_as(theirs[name]):
            raise ValueError(f"`other` has other cells in column {name!r}, expected the same reference")


_Range = tuple[NDArray[np.float64], NDArray[np.int64]]


_Part = dict[str, tuple[NDArray[np.int64], _Range | None, dict[Hashable, int] | None]]


def _tasks(cells: dict[str, Cells], table: Table, workers: int) -> list[Callable[[], _Part]]:
    """Pieces of work with counts of their own: one a column, or blocks of a two-dimensional array."""
    numeric = {name: c for name, c in cells.items() if isinstance(c, NumericCells)}
    tasks = [
        _categorical_task(name, c, table.columns[name]) for name, c in cells.items() if isinstance(c, CategoricalCells)
    ]
    if table.array is None or list(numeric) != table.names:
        return tasks + [_column_task(name, c, table.columns[name]) for name, c in numeric.items()]
    groups = np.array_split(np.arange(len(numeric)), min(workers, len(numeric)))
    pieces = -(-workers // len(groups))
    step = max(-(-table.rows // pieces), 1)
    for group in groups:
        names = [table.names[j] for j in group]
        block = table.array[:, group[0] : group[-1] + 1]
        edges = padded([numeric[name] for name in names])
        for start in range(0, table.rows, step):
            tasks.append(partial(_count_block, block[start : start + step], names, edges))
    return tasks


def _categorical_task(name: str, cells: CategoricalCells, column: Any) -> Callable[[], _Part]:
    def work() -> _Part:
        row, others = category_row(cells, *category_counts(column))
        return {name: (row, None, None if cells.identifier else others)}

    return work


def _column_task(name: str, cells: NumericCells, column: Any) -> Callable[[], _Part]:
    kind = TEMPORAL if cells.temporal else NUMERIC
    return lambda: _count_block(numbers(name, column, kind)[:, None], [name], padded([cells]))


def _count_block(block: NDArray[Any], names: list[str], cells: tuple[NDArray[Any], ...]) -> _Part:
    """Counts, extremes and excess of the columns of a (rows, len(names)) block."""
    count_table = numba_kernel("histogram", "count_table")
    sizes = cells[1]
    counts = np.zeros((len(names), int(sizes.max()) + 2), np.int64)
    extremes = np.tile([np.inf, -np.inf], (len(names), 1))
    excess = np.zeros((len(names), 2, 2), np.int64)
    direct = block.dtype in (np.float64, np.float32) and block.dtype.isnative
    step = max(block.shape[0], 1) if direct else _BLOCK
    for start in range(0, block.shape[0], step):
        values = block[start : start + step]
        values = values if direct else values.astype(np.float64)
        count_table(values, *cells, counts, extremes, excess)
    rows = zip(names, counts, extremes, excess, sizes, strict=True)
    return {name: (row[: n + 2], (bounds, beyond), None) for name, row, bounds, beyond, n in rows}
