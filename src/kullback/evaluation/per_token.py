"""One row a token and candidate, in a Parquet or CSV file that appears when it is complete."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import numpy as np

from kullback._engine import library
from kullback.evaluation.checkpoint import Candidates
from kullback.evaluation.label_files import column_name
from kullback.evaluation.outputs import GENERATOR, atomic_file
from kullback.evaluation.text import visible

__all__ = ["PerToken"]

_GROUP_ROWS = 1 << 16
_FIRST = ("row", "group", "position", "token")


class PerToken:
    """Columns of chunks -> a file; use it as a context manager, which gives the file its name at the end.

    A name in `.csv` makes it CSV; `.parquet`, `.pq` or no suffix Parquet; any other suffix is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        candidates: Sequence[str],
        labels: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._labels = labels or {}
        suffix = os.path.splitext(self._path)[1].lower()
        if suffix not in ("", ".csv", ".parquet", ".pq"):
            raise ValueError(f"{self._path}: tokens are written as .parquet or .csv, not as {suffix}")
        self._csv = suffix == ".csv"
        self._names = [visible(name) for name in candidates]
        self._arrow: Any = library("pyarrow", f"{self._path}: the table of tokens")
        self._library: Any = library("pyarrow.csv" if self._csv else "pyarrow.parquet", self._path)
        self._stack = ExitStack()
        self._writer: Any = None
        self._waiting: list[Any] = []

    def add(self, candidates: Candidates) -> None:
        """Append the rows of a chunk, candidate after candidate."""
        arrow = self._arrow
        for name, columns in zip(self._names, candidates, strict=True):
            order = [c for c in _FIRST if c in columns] + [c for c in columns if c not in _FIRST]
            kept = {c: np.asarray(columns[c]) for c in order if c != "null_kl"}
            for i, (name_of_set, names) in enumerate(self._labels.items()):
                texts = arrow.array([visible(name) for name in names], "string")
                kept[f"label.{visible(name_of_set)}".rstrip(".")] = texts.take(kept.pop(column_name(i)))
            label = arrow.DictionaryArray.from_arrays(np.zeros(len(columns["kl"]), np.int32), [name])
            self._waiting.append(arrow.table({"candidate": label.cast("string") if self._csv else label} | kept))
        if sum(table.num_rows for table in self._waiting) >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        table = self._arrow.concat_tables(self._waiting).unify_dictionaries()
        table = table.replace_schema_metadata({GENERATOR: version("kullback")})
        self._waiting = []
        if self._writer is None:
            writer = self._library.CSVWriter if self._csv else self._library.ParquetWriter
            self._writer = self._stack.enter_context(writer(self._file, table.schema))
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(atomic_file(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:  # which is left, and the file removed, where the last rows find no room
            self._write()
