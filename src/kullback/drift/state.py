"""The streaming state of a drift monitor: count batches, merge, split by time, report, save."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kullback._engine import flag, shown, thread_count, whole
from kullback.drift.counting import Counts, check_same_cells
from kullback.drift.report import USUAL, Bands, make_report, settings
from kullback.drift.results import DriftReport
from kullback.drift.saving import read, written
from kullback.drift.tables import TEMPORAL, as_table, kind_of, numbers
from kullback.samples import Smoothing

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MONDAY = 4 * 86_400  # 1970 began on a Thursday; weeks begin here


@dataclass
class DriftState:
    """The counts of a reference and of what came after it; made by `fit`.

    Everything kept is integer counts, and least and greatest values: states of any split of the data, merged
    in any order, with any number of threads, are equal bit for bit. `save` writes it as JSON, which `load` reads.

    Attributes
    ----------
    reference, current : Counts
        What was counted, by column.
    num_threads : int or None
        Threads of `update`.
    chunks : list of Counts
        The blocks of the reference, where `fit` was asked for some.
    """

    reference: Counts
    current: Counts
    num_threads: int | None = None
    chunks: list[Counts] = field(default_factory=list)

    def update(self, batch: Any) -> None:
        """Count a batch of current data, any kind of table; columns that the reference lacks are not looked
        at.

        Raises ValueError for a missing column and TypeError for one of another kind; the state is then
        unchanged.
        """
        self.current.add(as_table("batch", batch), self.num_threads)

    def extend_reference(self, batch: Any, *, chunk: bool = False) -> None:
        """Count more reference data in the cells that `fit` chose; as a chunk of its own if `chunk` is true or
        there are chunks already."""
        part = Counts(self.reference.cells)
        part.add(as_table("batch", batch), self.num_threads)
        self.reference.merge(part)
        if flag(chunk, "chunk") or self.chunks:
            self.chunks.append(part)

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
        for name, others in self.reference.others.items():
            if others != other.reference.others[name]:
                raise ValueError(f"`other` has other reference counts in column {name!r}, expected the same")
        self.current.merge(other.current)

    def window(self) -> DriftState:
        """A new state with this reference and nothing counted yet, for the next chunk of time."""
        return DriftState(self.reference, Counts(self.reference.cells), self.num_threads, self.chunks)

    def by_time(self, batch: Any, time: str, every: str) -> dict[np.datetime64[Any], DriftState]:
        """A window for each stretch of time in a batch, by its beginning, in order.

        Parameters
        ----------
        batch : table
            With the columns of the reference and one of dates.
        time : str
            The column of dates.
        every : str
            A whole number and "s", "min", "h", "d" or "w", as in "6h"; stretches begin at multiples of it since
            1970, weeks on Mondays, in UTC.

        Returns
        -------
        dict of datetime64[s] to DriftState
            Windows can be merged: days make weeks.

        Raises
        ------
        ValueError
            No such column, a date that is missing, an `every` that cannot be read.
        TypeError
            A column that holds no dates.
        """
        table = as_table("batch", batch)
        step = _stretch(every)
        if not isinstance(time, str) or time not in table.columns:
            raise ValueError(f"the batch has no column {shown(time)}, expected one of {', '.join(table.columns)}")
        column = table.columns[time]
        if kind_of(time, column) != TEMPORAL:
            raise TypeError(f"column {time!r} has type {column.dtype}, expected dates")
        seconds = numbers(time, column, TEMPORAL)
        if np.isnan(seconds).any():
            raise ValueError(f"column {time!r} has {np.isnan(seconds).sum()} missing dates, expected none")
        begin = _MONDAY if step % _SECONDS["w"] == 0 else 0
        starts, which = np.unique(np.floor((seconds - begin) / step).astype(np.int64), return_inverse=True)
        order = np.argsort(which, kind="stable")
        windows: dict[np.datetime64[Any], DriftState] = {}
        for start, rows in zip(starts, np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True):
            window = self.window()
            window.update(table.rows_at(rows))
            windows[np.datetime64(int(start) * step + begin, "s")] = window
        return windows

    def report(
        self,
        *,
        smoothing: Smoothing = "auto",
        missing: str = "drop",
        bands: Bands = USUAL,
        band_metric: str = "psi",
        alpha: float = 0.01,
        seed: int = 0,
    ) -> DriftReport:
        """Compare the current counts with the reference; see `DriftReport` for what it holds.

        Parameters
        ----------
        smoothing : "auto", or str, tuple or None
            "auto": half a count in every bin of a column where one is empty on one side, and rare categories
            (fewer than five values on both sides together) in one bin, so that every value is finite; other
            columns as they are. Else a rule of `kullback.samples.smooth`, applied to the bins of both sides; None
            changes nothing: KL and PSI are inf where one side has an empty bin.
        missing : {"drop", "bin"}
            Leave missing values out of the shares, or make them a bin. Their share is tested either way.
        bands : (float, float) or "reference"
            Excesses of `band_metric` from which a column that drifts is to "watch", and to "act" on, not just
            "shifted"; PSI, KL and JS are taken less what they are on average without drift. "reference": mean + 3
            standard deviations of what the chunks of the reference (see `fit`) have against the rest of it, and 2.5
            times that.
        band_metric : str
            The metric of the report that decides. For a distance in the column's unit or "ks", missing values go
            by PSI.
        alpha : float
            The share of columns without drift that may be among those beyond "stable", on average; with no drift
            anywhere, the probability of any. 1 leaves the bands alone to decide.
        seed : int
            Of the draws behind p-values; the same counts and seed give the same report.
        """
        asked = settings(smoothing, missing, bands, band_metric, alpha, whole(seed, "seed", 0))
        return make_report(self.reference, self.current, self.chunks, asked)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as JSON; categories must be text, numbers, truth values, bytes or dates."""
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"`path` is {shown(path)}, expected the name of a file")
        target = Path(path)
        text = written(self.reference, self.current, self.chunks)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], *, num_threads: int | None = None) -> DriftState:
    """Read a state that `DriftState.save` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    num_threads : int, optional
        Of the state.

    Returns
    -------
    DriftState

    Raises
    ------
    ValueError
        A file that holds something else. Reading runs nothing that is in it.
    TypeError
        A `path` that is no name of a file, a number of threads that is no number.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from kullback import drift
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     drift.fit(np.arange(100.0) ** 0.5).save(f"{folder}/state.json")
    ...     load(f"{folder}/state.json").reference.rows
    100
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` is {shown(path)}, expected the name of a file")
    thread_count(num_threads)  # to refuse it here
    reference, current, chunks = read(Path(path).read_bytes())
    return DriftState(reference, current, num_threads, chunks)


def _stretch(every: str) -> int:
    """Seconds of a stretch of time."""
    read_as = re.fullmatch(r"([1-9]\d{0,8})(s|min|h|d|w)", every) if isinstance(every, str) else None
    if read_as is None:
        raise ValueError(f"`every` is {shown(every)}, expected a whole number and s, min, h, d or w, as in '6h'")
    return int(read_as[1]) * _SECONDS[read_as[2]]
