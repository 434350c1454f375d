"""One row a token and candidate, in a Parquet file that appears when it is complete."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np

from kullback.evaluation.checkpoint import Candidates
from kullback.evaluation.sources.base import library
from kullback.evaluation.sources.convert import atomic_file

__all__ = ["PerToken"]

_GROUP_ROWS = 1 << 16
_FIRST = ("row", "group", "position", "token")


class PerToken:
    """Columns of chunks -> a Parquet file; use it as a context manager, which gives the file its name at the end."""

    def __init__(self, path: str | os.PathLike[str], candidates: Sequence[str]) -> None:
        self._path = os.fspath(path)
        self._names = list(candidates)
        self._arrow: Any = library("pyarrow", f"{self._path}: Parquet")
        self._parquet: Any = library("pyarrow.parquet", f"{self._path}: Parquet")
        self._stack = ExitStack()
        self._writer: Any = None
        self._waiting: list[Any] = []

    def add(self, candidates: Candidates) -> None:
        """Append the rows of a chunk, candidate after candidate."""
        arrow = self._arrow
        for name, columns in zip(self._names, candidates, strict=True):
            order = [c for c in _FIRST if c in columns] + [c for c in columns if c not in _FIRST]
            kept = {c: np.asarray(columns[c]) for c in order if c != "null_kl"}
            label = arrow.DictionaryArray.from_arrays(np.zeros(len(columns["kl"]), np.int32), [name])
            self._waiting.append(arrow.table({"candidate": label} | kept))
        if sum(table.num_rows for table in self._waiting) >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        table = self._arrow.concat_tables(self._waiting).unify_dictionaries()
        self._waiting = []
        if self._writer is None:
            self._writer = self._stack.enter_context(self._parquet.ParquetWriter(self._file, table.schema))
        self._writer.write_table(table)

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(atomic_file(self._path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self._stack.__exit__(kind, error, trace)
