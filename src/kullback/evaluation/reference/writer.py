"""Writing compact references: rows as they come, a part at a time, going on where a killed writer stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import Given, arrays, engine, keywords, views
from kullback.comparison import LabelSet, label_sets
from kullback.evaluation.checkpoint import difference
from kullback.evaluation.reference.parts import (
    RowBlock,
    clear,
    close_folder,
    joined,
    label_texts,
    open_folder,
    part_rows,
    write_buckets,
    write_manifest,
    write_part,
)
from kullback.evaluation.reference.rest import BLOCK_BYTES, buckets_of, mean_logs, records_of
from kullback.evaluation.sources.base import integer_column
from kullback.evaluation.sources.reference_files import (
    LARGEST_VOCABULARY,
    MANIFEST,
    MOST_BUCKETS,
    Cells,
    Layout,
    read_cells,
    read_manifest,
    read_parts,
)

__all__ = ["IGNORE_INDEX", "ReferenceWriter"]

LEARNT = 64  # rows whose mean says which outcomes are likely
IGNORE_INDEX = -100

Path = str | os.PathLike[str]


class ReferenceWriter:
    """Writes a compact reference from blocks of rows; a context manager, which closes it.

    Parameters
    ----------
    path : path-like
        The folder to make, by custom NAME.kbref.
    top_k : int
        How many of the likeliest outcomes of each row are listed; all, where there are fewer.
    buckets : int
        How many the others are divided into, by how likely they were in the first 64 rows; at most 256. 1: none.
    vocab_size : int, optional
        Take the first columns only (padded vocabularies); what is compared later must have as many.
    given : {"logits", "log_probs", "probs"}
        What the rows hold.
    ignore_index : int
        Rows with this token have no log-probability of it; comparisons leave them out.
    resume : bool
        Go on with what is there: `rows` says how many rows it has. What is complete can be appended to.
    overwrite : bool
        Replace a reference that is there, and nothing else.
    num_threads : int, optional
    source : dict, optional
        What the rows are of, ready for JSON; resuming with another is refused.

    Attributes
    ----------
    rows : int
        Rows written so far; with `resume`, at first those on disk.

    Raises
    ------
    ValueError
        If the folder is there and neither `resume` nor `overwrite` says what to do, or is of other settings.
    OSError
        If it cannot be written, or another process is writing to it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from kullback.evaluation.sources import open_logits
    >>> logits = np.random.default_rng(0).normal(size=(100, 1000))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "base.kbref")
    ...     with ReferenceWriter(path, top_k=16) as writer:
    ...         for block in np.split(logits, 4):
    ...             writer.write(block)
    ...     open_logits(path).shape
    (100, 1000)
    """

    def __init__(
        self,
        path: Path,
        *,
        top_k: int = 256,
        buckets: int = 64,
        vocab_size: int | None = None,
        given: Given = "logits",
        ignore_index: int = IGNORE_INDEX,
        resume: bool = False,
        overwrite: bool = False,
        num_threads: int | None = None,
        source: Any = None,
    ) -> None:
        self.path = os.fspath(path)
        self._top_k, self._buckets = keywords.whole(top_k, "top_k", 1), keywords.whole(buckets, "buckets", 1)
        if self._buckets > MOST_BUCKETS:
            raise ValueError(f"`buckets` is {buckets}, expected at most {MOST_BUCKETS}")
        self._vocab = None if vocab_size is None else keywords.whole(vocab_size, "vocab_size", 1)
        keywords.space(given)
        self._given: Given = given
        self._ignored = keywords.integer(ignore_index, "ignore_index")
        self._threads = engine.thread_count(num_threads)
        self._source = json.loads(json.dumps(source))
        self._layout: Layout | None = None
        self._cells: Cells | None = None
        self._bucket_crc32: int | None = None
        self._kept: tuple[bool, bool, tuple[str, ...]] | None = None  # whether there are tokens, groups; labels
        self._waiting: list[RowBlock] = []  # rows that come before the buckets are known
        self._made: list[RowBlock] = []
        self._parts = self.rows = self._on_disk = 0
        resume, overwrite = keywords.flag(resume, "resume"), keywords.flag(overwrite, "overwrite")
        self._lock: BinaryIO | None = open_folder(self.path, resume, overwrite)
        try:
            if resume and os.path.exists(os.path.join(self.path, MANIFEST)):
                self._go_on()
            elif overwrite:
                clear(self.path)
        except BaseException:
            self._unlock()
            raise

    def write(
        self, logits: Any, tokens: ArrayLike | None = None, groups: ArrayLike | None = None, by: Any = None
    ) -> None:
        """Add rows.

        Parameters
        ----------
        logits : array_like (..., V)
        tokens, groups : array_like of int (...), optional
            The token that each row should predict, and the document it is of; with every block or with none.
        by : array_like (...), or mapping of str to such, optional
            Labels of the rows, as `compare_files` takes them: a comparison then has its figures by label.
        """
        values = views.plain(logits, "logits")
        if values.ndim < 1 or not 1 <= values.shape[-1] <= LARGEST_VOCABULARY:
            raise ValueError(f"`logits` has shape {values.shape}, expected (..., V) with a vocabulary")
        if values.dtype.names is None and values.dtype.name not in (kind.name for kind in views.FLOATS):
            values = views.reals(values, "logits")
        sets = None if by is None else label_sets(by)
        self.add(values.reshape(-1, values.shape[-1]), values.shape[-1], tokens, groups, sets)

    def add(
        self, rows: NDArray[Any], vocab: int, tokens: Any, groups: Any, sets: Mapping[str, LabelSet] | None = None
    ) -> None:
        """Add rows (n, V), or codes (n,) of a llama.cpp dump."""
        if self._lock is None:
            raise ValueError(f"{self.path}: is closed")
        if self._vocab is not None:
            if vocab < self._vocab:
                raise ValueError(f"`vocab_size` is {self._vocab}, but `logits` has rows of {vocab}")
            vocab = self._vocab
        layout = self._layout or self._begin(vocab)
        if vocab != layout.vocab_size:
            raise ValueError(f"`logits` has rows of {vocab}, expected {layout.vocab_size} as before")
        given = (tokens is not None, groups is not None, tuple(sets or ()))
        if self._kept is None and len(rows):
            self._kept = given
        if len(rows) and given != self._kept:
            raise ValueError("`tokens`, `groups` and labels come with every block of rows or with none")
        ids = None
        if tokens is not None:
            ids = integer_column(views.plain(tokens, "tokens"), len(rows), "`tokens`")
            arrays.token_ids(ids, "tokens", (len(rows),), vocab, self._ignored)
        of = None if groups is None else integer_column(views.plain(groups, "groups"), len(rows), "`groups`")
        block = RowBlock(rows, ids, of, label_texts(sets, len(rows)) if sets else None)
        self.rows += len(rows)
        if self._cells is not None:
            self._take(layout, self._cells, block)
            return
        self._waiting.append(block._replace(rows=np.array(rows)))
        if sum(len(block.rows) for block in self._waiting) >= LEARNT:
            self._learn(layout)

    def close(self) -> None:
        """Write what is left and say that it is complete."""
        if self._lock is None:
            return
        try:
            if self._layout is None:
                raise ValueError(f"{self.path}: no row was written, so that no vocabulary is known")
            if self._cells is None:
                self._learn(self._layout)
            self._flush(self._layout, 1)
            self._say(complete=True)
        finally:
            self._unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._unlock()  # what is on disk can be gone on with

    def _unlock(self) -> None:
        if self._lock is not None:
            close_folder(self.path, self._lock)
            self._lock = None

    def _begin(self, vocab: int) -> Layout:
        self._layout = Layout(min(self._top_k, vocab), vocab, min(self._buckets, vocab))
        self._say(complete=False)
        return self._layout

    def _go_on(self) -> None:
        layout, said = read_manifest(self.path)
        wanted = {
            "top_k": min(self._top_k, layout.vocab_size), "buckets": min(self._buckets, layout.vocab_size),
            "given": self._given, "source": self._source,
        }  # fmt: skip
        differing = difference({name: said.get(name) for name in wanted}, wanted)
        if differing:
            raise ValueError(f"{self.path}: was begun otherwise ({differing})")
        self._layout = layout
        parts = read_parts(self.path, layout)
        self._parts = len(parts)
        if parts:
            self._bucket_crc32 = said.get("bucket_crc32")
            self._cells = read_cells(self.path, layout, self._bucket_crc32)
            self._kept = ("tokens" in parts[0].tensors, "groups" in parts[0].tensors, parts[0].sets)
            self.rows = self._on_disk = parts[-1].first + parts[-1].rows

    def _say(self, complete: bool) -> None:
        assert self._layout is not None
        said = {
            "bucket_crc32": self._bucket_crc32, "given": self._given, "source": self._source, "complete": complete,
            "rows": self._on_disk,
        }  # fmt: skip
        write_manifest(self.path, self._layout, said)

    def _learn(self, layout: Layout) -> None:
        """Find the buckets from the first rows, and take those that waited."""
        left, levels = LEARNT, np.zeros(layout.vocab_size)
        for block in self._waiting:
            if left:
                levels += mean_logs(block.rows[:left], layout.vocab_size, self._given)
                left -= min(left, len(block.rows))
        bucket = buckets_of(levels, layout.buckets)
        if layout.buckets > 1:
            self._bucket_crc32 = write_buckets(self.path, bucket)
        self._cells = Cells.of(bucket)
        self._say(complete=False)
        waiting, self._waiting = self._waiting, []
        for block in waiting:
            self._take(layout, self._cells, block)

    def _take(self, layout: Layout, cells: Cells, block: RowBlock) -> None:
        step, most = max(1, BLOCK_BYTES // (8 * layout.vocab_size)), part_rows(layout)
        for start in range(0, len(block.rows), most):
            some = block.cut(slice(start, start + most))
            rows, tokens = some.rows, some.tokens
            ids = None if tokens is None else np.where(tokens == self._ignored, -1, tokens)
            out = np.empty(len(rows), layout.record)

            def work(first: int, last: int, rows: Any = rows, ids: Any = ids, out: Any = out) -> None:
                for at in range(first, last, step):
                    part = slice(at, min(at + step, last))
                    out[part] = records_of(rows[part], layout, cells, None if ids is None else ids[part], self._given)

            engine.over_rows(work, len(rows), 64 * layout.vocab_size, self._threads)  # eight passes in float64
            self._made.append(RowBlock(out, *(None if x is None else np.array(x) for x in some[1:])))
            self._flush(layout, most)

    def _flush(self, layout: Layout, least: int) -> None:
        """Write parts while there are at least so many rows."""
        most = part_rows(layout)
        while (count := sum(len(made.rows) for made in self._made)) >= least:
            rows, sets = joined(self._made), self._kept[2] if self._kept else ()
            write_part(self.path, self._parts, self._on_disk, rows.cut(slice(most)), layout, sets)
            self._parts += 1
            self._on_disk += min(count, most)
            self._made = [rows.cut(slice(most, None))] if count > most else []
