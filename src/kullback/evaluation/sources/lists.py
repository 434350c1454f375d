"""Top-k files as sources: of each row the outcomes that a server or a teacher listed, for jobs on files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.distillkit import CONFIG_NAME
from kullback.evaluation.sources.places import names_in
from kullback.evaluation.sources.sparse import SparseRows
from kullback.evaluation.sources.sparse_files import holds_answers, open_sparse
from kullback.evaluation.sources.streams import is_stream

__all__ = ["ListedRows", "open_lists"]


class ListedRows(Source):
    """Rows of which some outcomes are known; they can be compared with other such rows and nothing else."""

    def __init__(self, rows: SparseRows, vocab: int, most: int, targets: bool) -> None:
        count = len(rows.tokens)
        shape, tokens = (count, vocab), rows.tokens if targets else None
        super().__init__(rows.path, rows.format, shape, np.dtype(np.float64), tokens, rows.groups)
        self.record = np.dtype([
            ("listed", "<i8", (most,)),  # ids, then -1
            ("log_probs", "<f8", (most,)),
            ("log_cap", "<f8"),  # no outcome that is not listed is likelier, if these are the likeliest
            ("log_prob", "<f8"),  # of the row's token
        ])  # fmt: skip
        self._facts = rows.facts()
        self._records = np.empty(count, self.record)
        self._records["log_prob"] = rows.target_log_probs
        filled = np.arange(most) < np.diff(rows.indptr)[:, None]
        ids, logs = np.full(filled.shape, -1), np.full(filled.shape, -np.inf)
        ids[filled], logs[filled] = rows.ids, rows.log_probs
        self._records["listed"], self._records["log_probs"] = ids, logs
        # a server lists the row's token too, however unlikely it is: what is beside it is the list
        others = np.where(filled & (ids != rows.tokens[:, None]), logs, np.inf).min(1, initial=np.inf)
        self._records["log_cap"] = np.where(others < np.inf, np.minimum(others, 0.0), 0.0)

    def records(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows `start` to `stop`, (stop - start,) of `record`."""
        self._range(start, stop)
        if out is None:
            return self._records[start:stop]
        out[...] = self._records[start:stop]
        return out

    def facts(self) -> dict[str, Any]:
        return super().facts() | {name: x for name, x in self._facts.items() if name not in ("rows", "groups")}

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        raise ValueError(f"{self.path}: lists of the likeliest outcomes, not all logits of a row")


def open_lists(paths: Sequence[Any]) -> list[Source] | None:
    """All files as lists, of one vocabulary; None where none of them is one.

    Raises
    ------
    ValueError
        If some are and some are not.
    """
    lists = [path for path in paths if _is_list(path)]
    if not lists:
        return None
    for path in paths:
        if not _is_list(path):
            name = path.path if isinstance(path, Source) else path
            raise ValueError(
                f"{lists[0]} has lists of some outcomes and {name} has not: two such files can be compared, or logits "
                "with a compact reference of logits (`kullback reference`)"
            )
    if all(isinstance(path, ListedRows) for path in paths):
        return list(paths)
    vocabulary: dict[bytes, int] = {}  # ids of tokens that are named by text, the same in all files
    found = [open_sparse(path, vocabulary=vocabulary) for path in paths]
    known = {rows.vocab_size for rows in found if rows.vocab_size is not None}
    if len(known) > 1:
        raise ValueError(f"{', '.join(rows.path for rows in found)} have vocabularies of {sorted(known)}")
    vocab = known.pop() if known else max(int(rows.ids.max(initial=0)) + 1 for rows in found)
    most = max(int(np.diff(rows.indptr).max(initial=1)) for rows in found)
    # a row is compared whether or not its token is known; perplexities need that of every row, of all files
    targets = all((rows.tokens >= 0).all() and np.isfinite(rows.target_log_probs).all() for rows in found)
    return [ListedRows(rows, vocab, most, targets) for rows in found]


def _is_list(path: Any) -> bool:
    if isinstance(path, Source):
        return isinstance(path, ListedRows)
    if not isinstance(path, (str, os.PathLike)):
        return False
    name = os.fspath(path)
    if is_stream(name):
        return False
    inside = names_in(name)
    if inside is not None:
        return CONFIG_NAME in inside
    beside = os.path.join(os.path.dirname(name), CONFIG_NAME)
    return (name.endswith(".parquet") and os.path.exists(beside)) or holds_answers(name)
