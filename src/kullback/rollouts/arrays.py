"""NumPy's .npz, pickles and what `torch.save` wrote: whole arrays (B, T), packed ones, or a list of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources import torch_file
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.npz import DAMAGED
from kullback.rollouts import pickle_file
from kullback.rollouts.batches import Lists, ParsedRows, Ragged
from kullback.rollouts.fields import LISTS

__all__ = ["ZIP_MAGIC", "array_names", "read_arrays"]

ZIP_MAGIC = b"PK\x03\x04"
TOKENS = 1 << 18  # at a time
_OFFSETS = ("offsets", "cu_seqlens")


def array_names(file: LocalFile) -> list[str]:
    """The fields of its rows."""
    found = _content(file)
    if isinstance(found, list):
        return list(dict.fromkeys(name for row in found[:64] for name in row))
    return [name for name in found if name not in _OFFSETS]


def read_arrays(file: LocalFile, names: dict[str, str]) -> Iterator[tuple[ParsedRows, int]]:
    """ParsedRows, some at a time; the arrays of one file are in memory together."""
    found = _content(file)
    if isinstance(found, list):
        yield _of_samples(found, names), file.size
        return
    wanted = {role: found[name] for role, name in names.items() if name in found}
    first: Any = wanted.get("rollout")
    count = len(first) if np.ndim(first) else 0
    offsets = next((found[name] for name in _OFFSETS if name in found), None)
    if offsets is not None and np.ndim(first) == 1:
        yield _packed(wanted, np.asarray(offsets), file.path), file.size
        return
    step = max(1, TOKENS // max(1, np.size(first) // max(1, count)))
    for start in range(0, count, step):
        stop = min(start + step, count)
        lists = {role: _matrix(x, start, stop, role) for role, x in wanted.items() if role in LISTS}
        scalars = {
            role: list(x[start:stop]) if np.ndim(x) and len(x) == count else [x] * (stop - start)
            for role, x in wanted.items()
            if role not in LISTS
        }
        plain = {role: [v.tolist() if hasattr(v, "tolist") else v for v in values] for role, values in scalars.items()}
        yield ParsedRows(np.arange(start, stop), lists, plain), file.size * stop // count - file.size * start // count


def _content(file: LocalFile) -> dict[str, Any] | list[dict[str, Any]]:
    """Arrays by name, or samples; values beside the samples are those of every one."""
    if pickle_file.holds_pickle(file):
        found = pickle_file.load(file)
    elif torch_file.holds_torch(file):
        found = torch_file.load(file)
    else:
        try:
            with file.open() as stream, np.load(stream, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (*DAMAGED, ValueError) as error:
            raise ValueError(f"{file.path}: not a readable .npz archive ({str(error)[:80]})") from None
    if isinstance(found, dict) and isinstance(found.get("samples"), list):
        common = {name: x for name, x in found.items() if isinstance(name, str) and isinstance(x, (int, float, str))}
        found = [common | row for row in found["samples"] if isinstance(row, dict)]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    if isinstance(found, Mapping):
        return {name: x for name, x in found.items() if isinstance(name, str)}
    raise ValueError(f"{file.path}: holds neither a dict of tensors nor a list of samples; save one of these")


def _matrix(x: Any, start: int, stop: int, role: str) -> Ragged:
    lists = Lists({"mask": "?", "tokens": "q"}.get(role, "d"))
    rows = x[start:stop] if isinstance(x, (list, np.ndarray)) else []
    for row in rows:
        lists.add(row)
    for _ in range(len(rows), stop - start):
        lists.add(None)
    return lists.ragged()


def _of_samples(samples: list[dict[str, Any]], names: dict[str, str]) -> ParsedRows:
    lists = {role: Lists({"mask": "?", "tokens": "q"}.get(role, "d")) for role in names if role in LISTS}
    scalars: dict[str, list[Any]] = {role: [] for role in names if role not in LISTS}
    for row in samples:
        for role, name in names.items():
            value = row.get(name)
            if role in lists:
                lists[role].add(value)
            else:
                scalars[role].append(value.tolist() if isinstance(value, np.ndarray) else value)
    return ParsedRows(np.arange(len(samples)), {role: x.ragged() for role, x in lists.items()}, scalars)


def _packed(wanted: dict[str, Any], offsets: NDArray[Any], path: str) -> ParsedRows:
    edges = offsets.reshape(-1).astype(np.int64)
    size = len(wanted["rollout"])
    if edges.size < 1 or edges[0] != 0 or edges[-1] != size or np.any(np.diff(edges) < 0):
        raise ValueError(f"{path}: offsets must rise from 0 to {size}, the number of rollout log-probs")
    parts = {
        role: [x[a:b] for a, b in pairwise(edges)] if np.ndim(x) and len(x) == size else x for role, x in wanted.items()
    }
    count = len(edges) - 1
    lists = {role: _matrix(x, 0, count, role) for role, x in parts.items() if role in LISTS}
    scalars = {
        role: np.asarray(x).tolist() if np.ndim(x) and len(x) == count else [np.asarray(x).tolist()] * count
        for role, x in wanted.items()
        if role not in LISTS
    }
    return ParsedRows(np.arange(count), lists, scalars)
