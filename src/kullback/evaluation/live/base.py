"""What candidates are compared with, where it is no model that runs beside them: a file, an array, or a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.candidates import ArraySource
from kullback.evaluation.live.batch import kernels, viewed
from kullback.evaluation.reading import CHUNK_BYTES, read_rows, row_type, rows_per_chunk
from kullback.evaluation.sources import Dump, Source, open_each
from kullback.evaluation.sources.base import ReaderOptions
from kullback.evaluation.sources.reference import Reference
from kullback.evaluation.sources.reference_files import Cells

__all__ = ["Called", "Known", "base_of"]


class Known:
    """Rows of a source, which says how many there are, and perhaps of which tokens and documents."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.vocab = source.path, source.shape[1]
        self.total: int | None = source.shape[0]
        self.window = source.window if isinstance(source, Dump) else 0.0
        self.cells = source.cells if isinstance(source, Reference) else None
        self.asked = self.cells is None or source.tokens is not None
        self.most = rows_per_chunk([source], CHUNK_BYTES)
        self._streams = source.streams()
        dtype, shape = row_type(source)
        self._room = np.empty((0, *shape), dtype)

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        """Valid until the next call."""
        if self._streams:  # from here on read in order
            for stream in self._streams:
                stream.forward()
            self._streams = []
        if len(self._room) < stop - start:
            self._room = np.empty((stop - start, *self._room.shape[1:]), self._room.dtype)
        return read_rows(self.source, start, stop, self._room[: stop - start])

    def facts(self) -> dict[str, Any]:
        return self.source.facts()


class Called:
    """Rows that a function gives, asked for one after the other."""

    total: int | None = None
    window = 0.0
    cells: Cells | None = None
    asked = True  # whether tokens have log-probabilities
    source: Source | None = None

    def __init__(self, function: Callable[[int, int], Any]) -> None:
        self.name = str(getattr(function, "__name__", "reference"))
        self._function = function
        self._facts: dict[str, Any] = {}

    def rows(self, start: int, stop: int) -> NDArray[Any]:
        found = kernels(viewed(self._function(start, stop), "reference"), "reference")
        if found.ndim != 2 or len(found) != stop - start:
            raise ValueError(f"`reference` gave {found.shape} for rows {start} to {stop}, expected ({stop - start}, V)")
        self._facts = live_facts(self.name, "function", stop, found)
        return found

    def facts(self) -> dict[str, Any]:
        return self._facts


def live_facts(name: str, kind: str, rows: int, some: NDArray[Any]) -> dict[str, Any]:
    """What `Source.facts` says of a file, of rows that are in none."""
    return {"path": name, "format": kind, "shape": [rows, some.shape[1]], "dtype": some.dtype.name}


def base_of(stack: ExitStack, reference: Any, **options: Unpack[ReaderOptions]) -> Known | Called | None:
    """`reference` as LiveComparison takes it; files are closed by `stack`."""
    if callable(reference) and not isinstance(reference, Source) and not hasattr(reference, "shape"):
        if any(options.values()):
            raise ValueError(f"`{next(iter(options))}` says how a file is read; `reference` is a function")
        return Called(reference)
    if reference is None:
        return None
    if not isinstance(reference, (str, os.PathLike, Source)):
        reference = ArraySource("reference", viewed(reference, "reference"))
    return Known(open_each(stack, [reference], **options)[0])
