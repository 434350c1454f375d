"""One way to look at a table, whatever library made it: numeric columns as arrays, categories as counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, library, views

NUMERIC, CATEGORICAL, TEMPORAL = "numeric", "categorical", "datetime"


@dataclass(frozen=True)
class Table:
    """A table seen without copying it: `columns` holds 1-D arrays or narwhals series, by name."""

    columns: dict[str, Any]
    rows: int
    array: NDArray[Any] | None = None  # the whole of it, where it is a two-dimensional array

    def rows_at(self, rows: slice | NDArray[np.int64]) -> Table:
        """The table of some of its rows."""
        count = len(range(*rows.indices(self.rows))) if isinstance(rows, slice) else rows.size
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Table(columns, count, None if self.array is None else self.array[rows])

    @property
    def names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.columns)


def as_table(name: str, data: Any) -> Table:
    """`data`, called `name` in messages, as a Table."""
    if isinstance(data, Table):
        return data
    if isinstance(data, np.ndarray):
        return _of_array(name, np.asarray(_unmasked(name, data)))  # a matrix has no columns of one axis
    if isinstance(data, Mapping):
        for key, value in data.items():
            _unmasked(f"{name}[{key!r}]", value)
        _check_names(name, data)
        arrays = {str(key): np.asarray(value) for key, value in data.items()}
        lengths = {array.shape for array in arrays.values()}
        if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
            raise ValueError(f"`{name}` has columns of shapes {sorted(lengths)}, expected one length for all")
        return Table(arrays, next(iter(lengths))[0] if lengths else 0)
    nw = narwhals()
    origin = type(data).__module__.partition(".")[0]
    if origin == "pyarrow" and hasattr(data, "column_names"):
        _check_names(name, data.column_names)
    if origin == "pandas" and hasattr(data, "columns"):
        _check_names(name, data.columns)
        if not all(isinstance(column, str) for column in data.columns):  # numbers would mean rows to narwhals
            data = data.set_axis([str(column) for column in data.columns], axis=1)
    if type(data).__name__ == "RecordBatch" and type(data).__module__.startswith("pyarrow"):
        import pyarrow

        data = pyarrow.Table.from_batches([data])
    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError:
        raise TypeError(
            f"`{name}` is a {type(data).__module__}.{type(data).__name__}, expected a pandas, Polars or "
            "Arrow table, a NumPy array or a dict of arrays (collect a lazy frame, or pass it batch by batch)"
        ) from None
    _check_names(name, frame.columns)
    return Table({str(column): frame[column] for column in frame.columns}, len(frame))


def names_of(option: str, names: Iterable[str]) -> list[str]:
    """The names of columns that an option lists; one string would be those of its letters."""
    if isinstance(names, str):
        raise TypeError(f"`{option}` is {names!r}, expected a list of names: [{names!r}]")
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise TypeError(f"`{option}` is {keywords.shown(names)}, expected a list of names")
    return list(names)


def _check_names(name: str, columns: Iterable[Any]) -> None:
    names = [str(column) for column in columns]
    if len(set(names)) != len(names):
        raise ValueError(f"`{name}` has two columns of the same name, expected different names")


def _unmasked(name: str, column: Any) -> Any:
    if isinstance(column, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array, expected NaN where values are missing: `.filled(np.nan)`")
    return column


def narwhals() -> Any:
    """The narwhals module, which reads every data frame library through one interface."""
    return library("narwhals", "a data frame")


def _of_array(name: str, array: NDArray[Any]) -> Table:
    """(T, D), or (T,) for one column; the columns are called "0", "1", ..."""
    if array.dtype.names:
        for key in array.dtype.names:
            if array[key].ndim != 1:
                raise ValueError(f"`{name}` has shape {array[key].shape} in field {key!r}, expected (rows,)")
        return Table({key: array[key] for key in array.dtype.names}, array.shape[0])
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"`{name}` has shape {array.shape}, expected (rows, columns)")
    columns = {str(j): array[:, j] for j in range(array.shape[1])}
    whole = array if _is_number(array.dtype) else None
    return Table(columns, array.shape[0], whole)


def _is_number(dtype: np.dtype[Any]) -> bool:
    return views.is_real(dtype)


def kind_of(name: str, column: Any) -> str:
    """Numeric, categorical or datetime (a date or a duration too), by the type of the column."""
    if isinstance(column, np.ndarray):
        if _is_number(column.dtype):
            return NUMERIC
        if column.dtype.kind in "mM":
            return TEMPORAL
        if column.dtype.kind in "bOUST":
            return CATEGORICAL
    else:
        nw = narwhals()
        if column.dtype.is_numeric():
            return NUMERIC
        if isinstance(column.dtype, nw.Datetime | nw.Date | nw.Duration):
            return TEMPORAL
        if isinstance(column.dtype, nw.Boolean | nw.String | nw.Categorical | nw.Enum | nw.Object):
            return CATEGORICAL
    raise TypeError(
        f"column {name!r} has type {column.dtype}, expected numbers, strings, booleans, dates or categories"
    )


def numbers(name: str, column: Any, kind: str = NUMERIC) -> NDArray[Any]:
    """A column of numbers or times as a 1-D array, missing values as NaN; a view where the library allows one.

    Times are seconds since 1970 in UTC, durations seconds; what is below a microsecond is cut off, so that every
    library's columns give the same floats.
    """
    found = kind_of(name, column)
    if found != kind:
        expected = "numbers" if kind == NUMERIC else "dates"
        raise TypeError(f"column {name!r} has type {column.dtype}, expected {expected} as in the reference")
    if kind == TEMPORAL:
        return _seconds(column)
    array = column if isinstance(column, np.ndarray) else column.to_numpy()
    if not _is_number(array.dtype):  # decimals, or integers a library keeps as objects beside their nulls
        array = np.array([np.nan if is_missing(value) else value for value in array], dtype=np.float64)
    return np.asarray(array)


def _seconds(column: Any) -> NDArray[np.float64]:
    if not isinstance(column, np.ndarray):
        if getattr(column.dtype, "time_zone", None) is not None:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        array = column.to_numpy()
        if array.dtype.kind not in "mM":  # dates kept as objects
            array = np.array([None if is_missing(value) else value for value in array], dtype="datetime64[us]")
        column = array
    unit = np.datetime_data(column.dtype)[0]
    if unit == "generic":
        return np.full(column.shape, np.nan)  # NaT alone
    fine = column.astype(f"{column.dtype.kind}8[{'ns' if unit in ('ns', 'ps', 'fs', 'as') else 'us'}]")
    whole = fine.view(np.int64)
    micro = whole // 1000 if unit in ("ns", "ps", "fs", "as") else whole
    return np.where(np.isnat(fine), np.nan, micro / 1e6)


def is_missing(value: Any) -> bool:
    """None, NaN, NaT or pandas.NA."""
    if value is None:
        return True
    different = value != value
    return bool(different) if isinstance(different, bool | np.bool_) else True


def category_counts(column: Any) -> tuple[dict[Hashable, int], int]:
    """How often each value occurs, and how many are missing."""
    pairs: Iterable[tuple[Any, int]]
    if not isinstance(column, np.ndarray):
        frame = column.alias("value").value_counts(name="count")
        pairs = zip(frame["value"].to_list(), frame["count"].to_list(), strict=True)
    elif column.dtype.kind in "OTUS":  # a table of hashes is faster than sorting text
        pairs = Counter(column.tolist()).items()
    else:
        values, counts = np.unique(column, return_counts=True)
        pairs = zip(values.tolist(), counts.tolist(), strict=True)
    present: dict[Hashable, int] = {}
    missing = 0
    for value, count in pairs:
        if is_missing(value):
            missing += int(count)
        else:
            present[value] = present.get(value, 0) + int(count)
    return present, missing
