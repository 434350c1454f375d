"""The files of a compact reference as they are written; evaluation/sources/reference.py reads them."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import LabelSet
from kullback.evaluation.checkpoint import locked
from kullback.evaluation.outputs import atomic_file
from kullback.evaluation.sources.reference_files import (
    BUCKETS,
    FORMAT,
    MANIFEST,
    VERSION,
    Layout,
    label_column,
    part_name,
)
from kullback.evaluation.sources.safetensors import TABLE_DTYPES, header_of

_PART_BYTES = 16 << 20
_PART_ROWS = 4096
_LOCK = ".writing"


class RowBlock(NamedTuple):
    """Rows as they came (of a llama.cpp dump they are codes), or the records of them, and what belongs to them."""

    rows: NDArray[Any]
    tokens: NDArray[np.int64] | None
    groups: NDArray[np.int64] | None
    labels: NDArray[Any] | None  # text (n, sets)

    def cut(self, part: slice) -> RowBlock:
        return RowBlock(*(None if x is None else x[part] for x in self))  # type: ignore[arg-type]


def joined(blocks: Sequence[RowBlock]) -> RowBlock:
    """Blocks with the same columns, one after the other."""
    columns = zip(*blocks, strict=True)
    return RowBlock(*(None if column[0] is None else np.concatenate(column) for column in columns))  # type: ignore[arg-type]


def label_texts(sets: Mapping[str, LabelSet], rows: int) -> NDArray[Any]:
    """The label of each row in each set, as text (n, sets)."""
    for name, labels in sets.items():
        if labels.codes.size != rows:
            what = f"`by[{name!r}]`" if name else "`by`"
            raise ValueError(f"{what} has {labels.codes.size} labels, expected {rows}, one a row")
    return np.stack([np.array(x.names, object)[x.codes] for x in sets.values()], axis=1)


def part_rows(layout: Layout) -> int:
    """Rows of a part but the last."""
    return max(1, min(_PART_ROWS, _PART_BYTES // layout.row_bytes))


def write_part(folder: str, number: int, first: int, rows: RowBlock, layout: Layout, sets: Sequence[str]) -> None:
    """Rows `first` and those that follow; `sets`: what the sets of labels are called."""
    records = rows.rows
    tensors: dict[str, tuple[str, NDArray[Any]]] = {}
    for name, dtype in layout.tensors.items():
        if name.startswith("ids"):
            tensors[name] = (dtype, records["ids"] >> 16 if name == "ids_high" else records["ids"] & 0xFFFF)
        else:
            tensors[name] = (dtype, records[name])
    for name, column in (("tokens", rows.tokens), ("groups", rows.groups)):
        if column is not None:
            narrow = column.min() >= -(2**31) and column.max() < 2**31
            tensors[name] = ("I32" if narrow else "I64", column)
    if rows.tokens is not None:
        tensors["log_prob"] = ("F64", records["log_prob"])
    known = []
    for i, name in enumerate(sets if rows.labels is not None else ()):
        names, codes = np.unique(rows.labels[:, i].astype(np.str_), return_inverse=True)  # type: ignore[index]
        tensors[label_column(i)] = ("I32", codes.reshape(-1))
        known.append({"name": name, "labels": names.tolist()})
    said = {
        "format": FORMAT, "version": VERSION, "first": first, "rows": len(records), "top_k": layout.top_k,
        "vocab_size": layout.vocab_size, "buckets": layout.buckets,
    }  # fmt: skip
    texts = {name: str(x) for name, x in said.items()} | ({"labels": json.dumps(known)} if known else {})
    _write(os.path.join(folder, part_name(number)), tensors, texts)


def write_buckets(folder: str, bucket: NDArray[np.uint8]) -> int:
    """The bucket of each outcome; the CRC-32 of them."""
    return _write(os.path.join(folder, BUCKETS), {"bucket": ("U8", bucket)}, {"format": FORMAT})["bucket"]


def write_manifest(folder: str, layout: Layout, said: Mapping[str, Any]) -> None:
    """What the folder is."""
    known = {
        "format": FORMAT, "version": VERSION, "top_k": layout.top_k, "vocab_size": layout.vocab_size,
        "buckets": layout.buckets,
    }  # fmt: skip
    with atomic_file(os.path.join(folder, MANIFEST)) as file:
        file.write(json.dumps(known | dict(said), indent=1).encode() + b"\n")


def open_folder(path: str, resume: bool, overwrite: bool) -> BinaryIO:
    """Make the folder, or see that what is there may be gone on with or replaced; the lock that keeps others out."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise ValueError(f"{path}: is a file, expected the name of a folder")
    there = os.path.isdir(path) and [name for name in os.listdir(path) if name != _LOCK and not _left(name)]
    if there and MANIFEST not in there:
        raise ValueError(f"{path}: is there and no compact reference; give another name")
    if there and not (resume or overwrite):
        raise ValueError(
            f"{path}: is there; go on with it by resume=True (--resume), or replace it by overwrite=True (--overwrite)"
        )
    os.makedirs(path, exist_ok=True)
    lock = locked(os.path.join(path, _LOCK))
    for name in filter(_left, os.listdir(path)):
        os.remove(os.path.join(path, name))
    return lock


def _left(name: str) -> bool:
    """Whether it is what a killed writer has left of a file (see `atomic_file`)."""
    return name.startswith(".kullback-") and name.endswith(".part")


def close_folder(path: str, lock: BinaryIO) -> None:
    """Let others write."""
    with suppress(OSError):
        os.remove(os.path.join(path, _LOCK))
    lock.close()


def clear(folder: str) -> None:
    """Remove the reference that is there; the manifest first, so that what an interrupt leaves is none."""
    parts = sorted(name for name in os.listdir(folder) if name.startswith("part-") and name.endswith(".safetensors"))
    for name in (MANIFEST, BUCKETS, *parts):
        with suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def _write(path: str, tensors: Mapping[str, tuple[str, NDArray[Any]]], said: Mapping[str, str]) -> dict[str, int]:
    data = {name: np.ascontiguousarray(x, TABLE_DTYPES[dtype]) for name, (dtype, x) in tensors.items()}
    sums = {name: zlib.crc32(x.data) for name, x in data.items()}
    # the widest first: every tensor then begins where its numbers may
    order = sorted(data, key=lambda name: -data[name].itemsize)
    entries = {name: (tensors[name][0], data[name].shape, data[name].nbytes) for name in order}
    with atomic_file(path) as file:
        file.write(header_of(entries, {**said, "crc32": json.dumps(sums)}))
        for name in order:
            file.write(data[name].reshape(-1).view(np.uint8).data)
    return sums
