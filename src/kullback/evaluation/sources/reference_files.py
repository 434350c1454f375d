"""Compact references: of each row the likeliest outcomes and what the rest of it comes to, in a folder of parts.

    NAME/reference.json          what the reference is; "complete" once it was closed
    NAME/buckets.safetensors     which of some buckets each outcome is in, where the rest is divided
    NAME/part-000000.safetensors ...   some rows each, one after the other

Every part tells its own place and the CRC-32 of every tensor in its header's metadata, and takes its name when it is on
disk: what was killed has lost the rows of the part it was at. docs/references.md describes the columns.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.safetensors import Tensor, parse_whole_header, table

FORMAT = "kullback reference"
VERSION = 1
MANIFEST = "reference.json"
BUCKETS = "buckets.safetensors"
MOST_BUCKETS = 256
LARGEST_VOCABULARY = 1 << 24
NO_LABEL = "(none)"
NARROW = 1 << 16  # ids below it are of 16 bits
_LONGEST_MANIFEST = 1 << 20


def label_column(place: int) -> str:
    """The tensor that has the labels of the set at this place."""
    return f"label_{place}"


def part_name(number: int) -> str:
    """The file of a part."""
    return f"part-{number:06d}.safetensors"


@dataclass(frozen=True)
class Layout:
    """What every row of a reference has."""

    top_k: int
    vocab_size: int
    buckets: int  # that the rest is divided into; 1: it is not

    @cached_property
    def record(self) -> np.dtype[Any]:
        """A row in memory."""
        return np.dtype([
            ("ids", "<u4", (self.top_k,)),  # by falling probability, ties by the lowest id
            ("log_probs", "<f4", (self.top_k,)),
            ("log_rest", "<f8"),  # ln of the mass of all the others
            ("rest_sum", "<f8"),  # Σ p·ln p over these
            ("entropy", "<f8"),
            ("log_sum_exp", "<f8"),
            ("log_prob", "<f8"),  # of the row's token
            ("log_buckets", "<f4", (self.buckets,)),  # ln of the mass of the others of each bucket
        ])  # fmt: skip

    @property
    def tensors(self) -> dict[str, str]:
        """The tensors of a part that are always there, and what they hold."""
        found = {"ids_low": "U16", "ids_high": "U8", "log_probs": "F32", "log_buckets": "F32"}
        found |= dict.fromkeys(("log_rest", "rest_sum", "entropy", "log_sum_exp"), "F64")
        if self.vocab_size <= NARROW:
            del found["ids_high"]
        if self.buckets == 1:
            del found["log_buckets"]
        return found

    @property
    def row_bytes(self) -> int:
        """Of a row on disk, its token and group among them."""
        ids = 2 if self.vocab_size <= NARROW else 3
        return self.top_k * (ids + 4) + (4 * self.buckets if self.buckets > 1 else 0) + 48


class Cells(NamedTuple):
    """How outcomes lie one bucket after the other."""

    order: NDArray[np.int64]  # outcome of each place
    place: NDArray[np.int64]  # of each outcome
    starts: NDArray[np.int64]  # first place of each bucket
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, bucket: NDArray[Any]) -> Cells:
        """From the bucket of each outcome; every bucket has one at least."""
        order = np.argsort(bucket, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        sizes = np.bincount(bucket)
        return cls(order, place, np.cumsum(sizes) - sizes, sizes)


class PartFile(NamedTuple):
    """A file of some rows."""

    file: LocalFile
    first: int
    rows: int
    tensors: dict[str, Tensor]
    crc32: dict[str, int]
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of each set its name, and what its numbers mean

    @property
    def sets(self) -> tuple[str, ...]:
        """What the sets of labels are called."""
        return tuple(name for name, _ in self.labels)

    def column(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor, checked against its sum; ValueError where it is missing or not what was written."""
        what = f"{self.file.path}: tensor {name!r}"
        if name not in self.tensors:
            raise ValueError(f"{what} is missing")
        tensor = self.tensors[name]
        if tensor.dtype not in dtype.split("|") or tensor.shape != shape:
            raise ValueError(f"{what} is {tensor.dtype} of shape {tensor.shape}, expected {dtype} of {shape}")
        found = table(self.file, tensor, what)
        if zlib.crc32(found.data) != self.crc32.get(name):
            raise ValueError(f"{what} is damaged: its bytes do not have the sum that was written with them")
        return found


def open_part(path: str, layout: Layout) -> PartFile:
    """A part by its header; ValueError where it is none of this layout."""
    file = LocalFile(path)
    tensors, said = parse_whole_header(file)
    try:
        if said["format"] != FORMAT or said["version"] != str(VERSION):
            raise ValueError(f"{path}: {said['format']} {said['version']}, expected {FORMAT} {VERSION}")
        first, rows = int(said["first"]), int(said["rows"])
        sums = {str(name): int(value) for name, value in json.loads(said["crc32"]).items()}
        found = Layout(int(said["top_k"]), int(said["vocab_size"]), int(said["buckets"]))
        told = json.loads(said.get("labels", "[]"))
        labels = tuple((str(one["name"]), tuple(map(str, one["labels"]))) for one in told)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise ValueError(f"{path}: its header does not say what part of a reference it is") from None
    if found != layout:
        raise ValueError(f"{path}: is of a reference with {asdict(found)}, expected {asdict(layout)}")
    if not (first >= 0 and 0 < rows <= file.size):
        raise ValueError(f"{path}: claims rows {first} to {first + rows}")
    return PartFile(file, first, rows, tensors, sums, labels)


def read_manifest(folder: str) -> tuple[Layout, dict[str, Any]]:
    """What a folder says that it is."""
    path = os.path.join(folder, MANIFEST)
    file = LocalFile(path)
    if file.size > _LONGEST_MANIFEST:
        raise ValueError(f"{path}: has {file.size} bytes, more than any manifest of a reference")
    try:
        said = json.loads(file.read(file.size))
        format, version = said["format"], said["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: no manifest of a compact reference") from None
    if format != FORMAT or version != VERSION:
        raise ValueError(f"{path}: {format!r} {version!r}, expected {FORMAT!r} {VERSION}")
    numbers = [said.get(name) for name in ("top_k", "vocab_size", "buckets")]
    if not all(type(n) is int for n in numbers):
        raise ValueError(f"{path}: lacks top_k, vocab_size or buckets")
    k, vocab, buckets = numbers
    if not (1 <= k <= vocab <= LARGEST_VOCABULARY and 1 <= buckets <= min(vocab, MOST_BUCKETS)):
        raise ValueError(f"{path}: top_k {k}, vocab_size {vocab} and buckets {buckets} do not go together")
    return Layout(k, vocab, buckets), said


def read_parts(folder: str, layout: Layout) -> list[PartFile]:
    """The parts that are there, without a gap."""
    found: list[PartFile] = []
    done = 0
    there = {name for name in os.listdir(folder) if name.startswith("part-") and name.endswith(".safetensors")}
    for number in range(len(there)):
        path = os.path.join(folder, part_name(number))
        if part_name(number) not in there:
            raise ValueError(f"{path}: is missing, of {len(there)} parts and more")
        part = open_part(path, layout)
        if part.first != done:
            raise ValueError(f"{path}: begins with row {part.first}, expected {done}: a part is missing or foreign")
        found.append(part)
        done += part.rows
    return found


def read_cells(folder: str, layout: Layout, crc32: Any) -> Cells:
    """The buckets of a reference."""
    if layout.buckets == 1:
        return Cells.of(np.zeros(layout.vocab_size, np.uint8))
    path = os.path.join(folder, BUCKETS)
    file = LocalFile(path)
    tensors, _ = parse_whole_header(file)
    part = PartFile(file, 0, layout.vocab_size, tensors, {"bucket": crc32})
    bucket = part.column("bucket", "U8", (layout.vocab_size,))
    if len(np.unique(bucket)) != layout.buckets or int(bucket.max()) != layout.buckets - 1:
        raise ValueError(f"{path}: has other buckets than {layout.buckets} from 0 on")
    return Cells.of(bucket)
