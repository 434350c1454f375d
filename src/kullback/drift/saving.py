"""States as JSON: nothing in them is run when they are read."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Hashable
from typing import Any

import numpy as np

from kullback._engine import shown
from kullback.drift.cells import CategoricalCells, Cells, NumericCells
from kullback.drift.counting import Counts

FORMAT, VERSION = "kullback drift state", 1
_NAMED = {"date": datetime.date, "datetime": datetime.datetime}


def written(reference: Counts, current: Counts, chunks: list[Counts]) -> str:
    """The text of a state."""
    cells = [_of_cells(name, of) for name, of in reference.cells.items()]
    parts = {"reference": _of_counts(reference), "current": _of_counts(current)}
    content = {"format": FORMAT, "version": VERSION, "cells": cells, **parts, "chunks": [_of_counts(c) for c in chunks]}
    return json.dumps(content, allow_nan=False)


def read(text: bytes) -> tuple[Counts, Counts, list[Counts]]:
    """Reference, current counts and chunks of the text of a state, or a ValueError that says what is wrong."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"format {shown(content['format'])}, version {shown(content['version'])}")
        cells = dict(_to_cells(entry) for entry in content["cells"])
        chunks = [_to_counts(cells, part) for part in content["chunks"]]
        return _to_counts(cells, content["reference"]), _to_counts(cells, content["current"]), chunks
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"`path` holds no drift state of version {VERSION}: {shown(error)}") from None


def _number(value: float) -> Any:
    return value if np.isfinite(value) else repr(value)


def _of_cells(name: str, cells: Cells) -> dict[str, Any]:
    if isinstance(cells, CategoricalCells):
        values = [_of_value(name, value) for value in cells.categories]
        return {"name": name, "categories": values, "identifier": cells.identifier}
    return {
        "name": name,
        "edges": cells.edges.tolist(),
        "bins": cells.bins.tolist(),
        **{key: _number(getattr(cells, key)) for key in ("step_inverse", "unit", "scale")},
        "temporal": cells.temporal,
        "identifier": cells.identifier,
    }


def _to_cells(entry: dict[str, Any]) -> tuple[str, Cells]:
    name, identifier = str(entry["name"]), bool(entry["identifier"])
    if "categories" in entry:
        return name, CategoricalCells(tuple(_to_value(value) for value in entry["categories"]), identifier)
    edges, bins = np.array(entry["edges"], dtype=np.float64), np.array(entry["bins"], dtype=np.int64)
    rising = edges.ndim == 1 and np.all(np.isfinite(edges)) and np.all(np.diff(edges) > 0)
    if not rising or bins.shape != (edges.size + 1,) or bins.min() < 0 or np.any(np.diff(bins) < 0):
        raise ValueError(f"edges of column {name!r}")
    if bins.max() > edges.size + 1:
        raise ValueError(f"bins of column {name!r}")
    step, unit, scale = (float(entry[key]) for key in ("step_inverse", "unit", "scale"))
    return name, NumericCells(edges, bins, step, unit, scale, bool(entry["temporal"]), identifier)


def _of_counts(counts: Counts) -> dict[str, Any]:
    return {
        "rows": counts.rows,
        "by_column": {name: row.tolist() for name, row in counts.by_column.items()},
        "extremes": {name: [_number(float(x)) for x in pair] for name, pair in counts.extremes.items()},
        "excess": {name: words.tolist() for name, words in counts.excess.items()},
        "others": {
            name: None if others is None else [[_of_value(name, value), count] for value, count in others.items()]
            for name, others in counts.others.items()
        },
    }


def _to_counts(cells: dict[str, Cells], part: dict[str, Any]) -> Counts:
    counts = Counts(cells, int(part["rows"]))
    for name in cells:
        groups = ["by_column", "excess"] if name in counts.extremes else ["by_column"]
        for group in groups:
            mine = getattr(counts, group)[name]
            given = np.array(part[group][name])
            if given.dtype != np.int64 or given.shape != mine.shape or np.any(given < 0):
                raise ValueError(f"counts of column {name!r}")
            mine[...] = given
        if name in counts.extremes:
            counts.extremes[name][:] = [float(x) for x in part["extremes"][name]]
        else:
            given = part["others"][name]
            counts.others[name] = None if given is None else {_to_value(v): int(count) for v, count in given}
    return counts


def _of_value(name: str, value: Hashable) -> Any:
    """A category: text, numbers and truth values as they are, others with their type."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    for kind, of in reversed(_NAMED.items()):
        if isinstance(value, of):
            return {kind: value.isoformat()}
    raise TypeError(f"column {name!r} has the category {shown(value)}, expected text, numbers, truth values or dates")


def _to_value(stored: Any) -> Hashable:
    if isinstance(stored, str | bool | int):
        return stored
    ((kind, text),) = stored.items()
    if kind == "float":
        return float.fromhex(text)
    if kind == "bytes":
        return bytes.fromhex(text)
    return decimal.Decimal(text) if kind == "decimal" else _NAMED[kind].fromisoformat(text)
