"""Compact references as P of a comparison: records of rows, from the files that reference_files.py describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.reference_files import (
    FORMAT,
    NO_LABEL,
    label_column,
    read_cells,
    read_manifest,
    read_parts,
)


class Reference(Source):
    """A compact reference: no logits, so that it can be P of a comparison and nothing else.

    Attributes
    ----------
    layout : Layout
        top_k, vocab_size and buckets.
    cells : Cells
        The buckets that the rest is divided into.
    """

    def __init__(self, path: str, salvage: bool = False) -> None:
        self.layout, said = read_manifest(path)
        self.parts = read_parts(path, self.layout)
        done = self.parts[-1].first + self.parts[-1].rows if self.parts else 0
        if not salvage and not (said.get("complete") is True and said.get("rows") == done):
            told = f"{said.get('rows')} were written" if said.get("complete") is True else "it was not closed"
            raise ValueError(
                f"{path}: a reference with {done} rows, but {told}; go on writing it with resume=True (--resume), or "
                "take what is there with salvage=True (--salvage)"
            )
        self.said: Mapping[str, Any] = said
        self.cells = read_cells(path, self.layout, said.get("bucket_crc32"))
        tokens, groups = (self._whole(name) for name in ("tokens", "groups"))
        super().__init__(path, FORMAT, (done, self.layout.vocab_size), np.dtype(np.float32), tokens, groups)
        self.record = self.layout.record
        self._held: tuple[int, NDArray[Any]] = (-1, np.empty(0, self.layout.record))

    def _whole(self, name: str) -> NDArray[np.int64] | None:
        if not self.parts or all(name not in part.tensors for part in self.parts):
            return None
        return np.concatenate([part.column(name, "I32|I64", (part.rows,)) for part in self.parts]).astype(np.int64)

    def labels(self) -> Any:
        """The labels of the rows as `by` takes them; None where there are none."""
        sets = self.parts[0].sets if self.parts else ()
        found: dict[str, NDArray[Any]] = {}
        for i, name in enumerate(sets):
            texts = []
            for part in self.parts:
                names = dict(part.labels).get(name)
                codes = part.column(label_column(i), "I32", (part.rows,))
                if names is None or codes.min() < 0 or codes.max() >= len(names):
                    raise ValueError(f"{part.file.path}: lacks labels of {name!r}")
                texts.append(np.array([None if text == NO_LABEL else text for text in names], object)[codes])
            found[name] = np.concatenate(texts)
        return found[""] if set(found) == {""} else found or None

    def records(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` as they are stored, (stop - start,) of `layout.record`."""
        if out is None:
            out = np.empty(self._range(start, stop), self.layout.record)
        for number, part in enumerate(self.parts):
            first, last = max(start, part.first), min(stop, part.first + part.rows)
            if first < last:
                out[first - start : last - start] = self._part(number)[first - part.first : last - part.first]
        return out

    def _part(self, number: int) -> NDArray[Any]:
        if self._held[0] != number:
            part, layout = self.parts[number], self.layout
            rows = np.empty(part.rows, layout.record)
            columns = {
                name: part.column(name, dtype, self._shape(name, part.rows)) for name, dtype in layout.tensors.items()
            }
            rows["ids"] = columns.pop("ids_low")
            if "ids_high" in columns:
                rows["ids"] |= columns.pop("ids_high").astype(np.uint32) << 16
            if layout.buckets == 1:
                rows["log_buckets"][:, 0] = columns["log_rest"]
            for name, column in columns.items():
                rows[name] = column
            rows["log_prob"] = np.nan
            if self.tokens is not None:
                rows["log_prob"] = part.column("log_prob", "F64", (part.rows,))
            _check_ids(rows["ids"], layout.vocab_size, part.file.path)
            self._held = number, rows
        return self._held[1]

    def _shape(self, name: str, rows: int) -> tuple[int, ...]:
        if name == "log_buckets":
            return (rows, self.layout.buckets)
        return (rows, self.layout.top_k) if name in ("ids_low", "ids_high", "log_probs") else (rows,)

    def facts(self) -> dict[str, Any]:
        """Facts about the reference, ready for JSON."""
        size = sum(part.file.size for part in self.parts)
        return super().facts() | {
            "top_k": self.layout.top_k,
            "buckets": self.layout.buckets,
            "bytes_a_row": round(size / self.shape[0], 1) if self.shape[0] else None,
            "made_of": self.said.get("source"),
        }

    def stamp(self) -> list[Any]:
        return [part.file.stamp() for part in self.parts]

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        raise ValueError(
            f"{self.path}: a compact reference, which has no logits: it can only be P, the base of a comparison"
        )


def _check_ids(ids: NDArray[Any], vocab_size: int, path: str) -> None:
    if ids.size and ids.max() >= vocab_size:
        raise ValueError(f"{path}: lists the id {ids.max()}, expected less than {vocab_size}")
