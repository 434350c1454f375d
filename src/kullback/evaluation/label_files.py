"""Labels of a job: read from files, a label a row of the logits or one a group (chunk, document)."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, library
from kullback.comparison import LabelSet, coded, encoded, label_sets
from kullback.evaluation.sources import npy
from kullback.evaluation.sources.files import LocalFile

__all__ = ["JobLabels", "column_name", "load_labels"]

_FORMATS = ".parquet, .csv, .json, .jsonl or .npy"


def column_name(place: int) -> str:
    """The column of a chunk that has the labels of the set at this place."""
    return f"label_{place}"


@dataclass(frozen=True, eq=False)
class JobLabels:
    """The labels of the rows of a job, by set."""

    sets: dict[str, LabelSet]  # one code a row of the files
    of: dict[str, str]  # "row" or "group": what the labels were given for
    paths: tuple[str, ...] = ()

    @classmethod
    def of_job(cls, by: Any, rows: int, groups: NDArray[np.int64] | None) -> JobLabels:
        """`by` as `compare_files` takes it; every set must fit the rows, or the groups in the order they come in."""
        found, paths = _read(by)
        runs = None
        if groups is not None and rows:
            _, first, members = np.unique(groups, return_index=True, return_inverse=True)
            runs = np.argsort(np.argsort(first))[members.reshape(-1)]  # of each row its group's place in the file
        count = 0 if runs is None else int(runs.max()) + 1
        sets, of = {}, {}
        for name, labels in found.items():
            if labels.codes.size == rows:
                sets[name], of[name] = labels, "row"
            elif runs is not None and labels.codes.size == count:
                sets[name], of[name] = LabelSet(labels.names, labels.codes[runs]), "group"
            else:
                inside = f", or {count}, one a group" if count else "; the files name no groups"
                what = f"{paths[0] if paths else '`by`'}{f': {name!r}' if name else ''}"
                raise ValueError(f"{what} has {labels.codes.size} labels, expected {rows}, one a row{inside}")
        return cls(sets, of, paths)

    @property
    def identity(self) -> dict[str, Any]:
        """What tells these labels from others, for checkpoints, and what their numbers mean."""
        sets = [
            {"name": name, "labels": list(x.names), "of": self.of[name], "crc32": zlib.crc32(x.codes.tobytes())}
            for name, x in self.sets.items()
        ]
        return {"files": [{"path": path} for path in self.paths], "sets": sets}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The labels of each set, in the order of their numbers."""
        return {name: labels.names for name, labels in self.sets.items()}

    def cut(self, rows: slice) -> dict[str, LabelSet]:
        """The sets of some rows."""
        return {name: LabelSet(labels.names, labels.codes[rows]) for name, labels in self.sets.items()}

    def columns(self, rows: slice) -> dict[str, NDArray[Any]]:
        """Of a chunk."""
        return {column_name(i): labels.codes[rows] for i, labels in enumerate(self.sets.values())}


def _read(by: Any) -> tuple[dict[str, LabelSet], tuple[str, ...]]:
    """The sets, one code an entry, and the files that they came from."""
    if isinstance(by, (str, os.PathLike)):
        return load_labels(by), (os.fspath(by),)
    if not isinstance(by, Mapping):
        return label_sets(by), ()
    files: dict[str, dict[str, LabelSet]] = {}
    found: dict[str, LabelSet] = {}
    for name, values in by.items():
        if not isinstance(values, (str, os.PathLike)):
            found |= label_sets({name: values})
            continue
        path = os.fspath(values)
        there = files[path] if path in files else files.setdefault(path, load_labels(path, list(by)))
        if name not in there and there.keys() != {""}:
            raise ValueError(f"{path}: has the columns {', '.join(there)}, expected one called {keywords.shown(name)}")
        found[name] = there[name] if name in there else there[""]
    return (found or label_sets(by)), tuple(files)


def load_labels(path: str | os.PathLike[str], columns: list[str] | None = None) -> dict[str, LabelSet]:
    """The labels in a file, by column; one without a name is "".

    Parameters
    ----------
    path : path-like
        Parquet or CSV with a header; JSON or JSON lines of labels, of objects, or one object of lists; `.npy` of one
        axis. Columns become sets of labels; what is missing is no label.
    columns : list of str, optional
        Leave others out.

    Raises
    ------
    ValueError
        If it is damaged, empty, or holds something else.
    OSError
        If it cannot be read.
    ImportError
        If it is Parquet and pyarrow is missing.
    """
    file = LocalFile(path)
    suffix = os.path.splitext(file.path)[1].lower()
    if suffix not in _READERS:
        raise ValueError(f"{file.path}: labels are read from {_FORMATS}, not from {suffix or 'a name without suffix'}")
    data = file.read(file.size)
    if not data:
        raise ValueError(f"{file.path}: is empty, expected labels")
    try:
        found = _READERS[suffix](data, file.path)
    except (ValueError, OverflowError, RecursionError, EOFError, OSError, csv.Error) as error:  # it was read before
        if str(error).startswith(file.path):
            raise
        raise ValueError(f"{file.path}: not a file of labels ({str(error)[:120]})") from None
    wanted = {name: x for name, x in found.items() if columns is None or name in columns or not name}
    if not found:
        raise ValueError(f"{file.path}: has no columns, expected labels")
    if not wanted:
        raise ValueError(f"{file.path}: has the columns {', '.join(found)}, expected {', '.join(columns or ())}")
    sets = {name: _set(values, f"{file.path}: {name!r}" if name else file.path) for name, values in wanted.items()}
    if not any(labels.codes.size for labels in sets.values()):
        raise ValueError(f"{file.path}: is empty, expected labels")
    return sets


def _set(values: Any, what: str) -> LabelSet:
    try:
        if isinstance(values, tuple):  # different values, and of each entry its place among them
            different, places = values
            return coded(different, places, what)
        return encoded(values, what)
    except TypeError as error:  # of what a file holds
        raise ValueError(str(error)) from None


def _parquet(data: bytes, path: str) -> dict[str, Any]:
    parquet, arrow = library("pyarrow.parquet", path), library("pyarrow", path)
    table = parquet.read_table(io.BytesIO(data))
    _all_different(table.column_names)
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if arrow.types.is_nested(column.type):
            raise ValueError(f"column {name!r} is {column.type}, expected one label a row")
        if arrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        whole = column.combine_chunks().dictionary_encode()
        pieces = whole.chunks if isinstance(whole, arrow.ChunkedArray) else [whole]
        if len(pieces) != 1:
            found[name] = column.to_pylist()
            continue
        places = pieces[0].indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        found[name] = (pieces[0].dictionary.to_pylist(), places)
    return found


def _csv(data: bytes, path: str) -> dict[str, Any]:
    header, *rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    _all_different(header)
    if len(header) == 1:  # its empty lines are missing labels, which the reader gives as no fields at all
        rows = [row or [""] for row in rows]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} fields, the header {len(header)}")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _json(data: bytes, path: str) -> dict[str, Any]:
    tree = json.loads(data, object_pairs_hook=_object)
    if isinstance(tree, dict):
        wrong = next((name for name, x in tree.items() if not isinstance(x, list)), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is {keywords.shown(tree[wrong])}, expected a list of labels")
        return tree
    if not isinstance(tree, list):
        raise ValueError(f"holds {keywords.shown(tree)}, expected a list of labels, or of objects")
    return _entries(tree)


def _json_lines(data: bytes, path: str) -> dict[str, Any]:
    lines = data.decode("utf-8-sig").split("\n")
    return _entries([json.loads(line, object_pairs_hook=_object) for line in lines if line.strip()])


def _entries(entries: list[Any]) -> dict[str, Any]:
    """Labels, or objects of labels by set; what an object does not have is missing."""
    if not any(isinstance(entry, dict) for entry in entries):
        return {"": entries}
    names: dict[str, None] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"entry {number} is {keywords.shown(entry)}, others are objects")
        names |= dict.fromkeys(entry)
    return {name: [entry.get(name) for entry in entries] for name in names}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _all_different([name for name, _ in pairs])
    return dict(pairs)


def _npy(data: bytes, path: str) -> dict[str, Any]:
    shape, _, dtype, offset = npy.parse_header(data[: npy.LONGEST_HEADER], path)
    if len(shape) != 1 or dtype.hasobject or dtype.names is not None:
        raise ValueError(f"{dtype} of shape {shape}, expected labels along one axis")
    if len(data) - offset != shape[0] * dtype.itemsize:
        raise ValueError(f"shape {shape}, but {len(data) - offset} bytes of {dtype}")
    return {"": np.frombuffer(data, dtype, shape[0], offset) if dtype.itemsize else np.empty(shape, dtype)}


def _all_different(names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two columns are called {twice!r}")
    if "" in names:
        raise ValueError("a column has no name")


_READERS = {
    ".parquet": _parquet, ".pq": _parquet, ".csv": _csv, ".json": _json, ".jsonl": _json_lines, ".ndjson": _json_lines,
    ".npy": _npy,
}  # fmt: skip
