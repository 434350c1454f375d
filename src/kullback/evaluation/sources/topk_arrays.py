"""Top-k groups: an array of ids and one of their log-probabilities or logits, (T, K) or (B, T, K), by their names.

Such are the caches of mlx-kld (`top_k_indices`, `top_k_log_softmax`), the targets of NeMo-Aligner
(`target_topk_token_ids`, `target_topk_logits`, `target_log_sum_exp_logits`) and of mlx-lm's DWQ (`indices`, `logits`),
and what anybody writes under `ids` and `log_probs`, in safetensors, .npz, .pt, HDF5 or zarr.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources import hdf5, npz, safetensors, torch_rows, zarr
from kullback.evaluation.sources.base import integer_column
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.places import file_at
from kullback.evaluation.sources.sparse import Pick, SparseRows, TopK, joined, of_arrays, topk_of
from kullback.evaluation.sources.torch_file import holds_torch

__all__ = ["holds_arrays", "read_topk_file", "read_topk_shards", "read_topk_zarr"]

SUFFIXES = (".safetensors", ".npz", ".pt", ".h5", ".hdf5")
_MANIFEST = "manifest.json"  # of a cache of mlx-kld
_LONGEST_MANIFEST = 1 << 20
_COLUMNS = ("tokens", "token_ids", "groups", "attention_mask")

Arrays = Mapping[str, NDArray[Any]]
Load = Callable[[Pick], Arrays]


class Options(NamedTuple):
    """What a caller says of the rows."""

    vocab_size: int | None
    over_listed: bool


def read_topk_file(file: ByteReader, options: Options) -> SparseRows:
    """The rows of one file."""
    load = _reader(file)
    if load is None:
        raise ValueError(f"{file.path}: no arrays by name; expected safetensors, .npz, .pt or HDF5")
    return _rows(file.path, load, options)


def read_topk_zarr(path: str, options: Options) -> SparseRows:
    """The rows of a zarr group."""
    return _rows(path, lambda pick: zarr.load_arrays(path, pick), options)


def read_topk_shards(path: str, names: Sequence[str], inside: Sequence[str], options: Options) -> SparseRows:
    """The rows of files in a folder, one after the other; each has groups of its own."""
    notes = {}
    if _MANIFEST in inside:
        notes = _manifest(file_at(f"{path}/{_MANIFEST}"))
        if options.vocab_size is None:
            options = options._replace(vocab_size=notes.get("vocab_size"))
        expected = notes.get("num_batches")
        if expected is not None and expected != len(names):
            raise ValueError(f"{path}: {len(names)} shards, expected {expected} as {_MANIFEST} says")
    return joined(path, [read_topk_file(file_at(f"{path}/{name}"), options) for name in names], options.vocab_size)


def holds_arrays(file: ByteReader) -> bool:
    """Whether a file is of a format that has arrays by name."""
    return _reader(file) is not None


def _reader(file: ByteReader) -> Load | None:
    head = file.read(16)
    if head.startswith(npz.MAGIC):
        of_archive = torch_rows.load_arrays if holds_torch(file) else npz.load_arrays
        return lambda pick: of_archive(file, pick)
    if head.startswith(hdf5.MAGIC):
        return lambda pick: hdf5.load_arrays(file, pick)
    if safetensors.recognised(file):
        return lambda pick: safetensors.load_arrays(file, pick)
    return None


def _rows(path: str, load: Load, options: Options) -> SparseRows:
    found: TopK | None = None

    def pick(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        nonlocal found
        found = topk_of(shapes)
        if found is None:
            raise ValueError(f"{path}: no ids and log-probabilities of one shape (T, K); it holds {', '.join(shapes)}")
        return [name for name in dict.fromkeys((*found, *_COLUMNS)) if name is not None and name in shapes]

    arrays = load(pick)
    assert found is not None
    ids, values = arrays[found.ids], arrays[found.values].astype(np.float64)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{path}: {found.ids} is {ids.dtype}, expected integers")
    batches, rows = ids.shape[0], math.prod(ids.shape[:-1])
    groups = np.repeat(np.arange(batches), rows // max(batches, 1)) if ids.ndim == 3 else np.zeros(rows, np.int64)
    values = values.reshape(rows, ids.shape[-1])
    ids = ids.reshape(values.shape).astype(np.int64)
    notes: dict[str, Any] = {"stored": arrays[found.values].dtype.name, "normalised_over": "the vocabulary"}
    if found.normaliser is not None:
        normaliser = arrays[found.normaliser].astype(np.float64)
        if normaliser.size != rows:
            raise ValueError(f"{path}: {found.normaliser} has {normaliser.size} values, expected {rows}, one a row")
        values -= normaliser.reshape(rows, 1)
    elif found.logits:
        if not options.over_listed:
            raise ValueError(
                f"{path}: {found.values} are logits of the ids listed, without what normalises them over the "
                "vocabulary; over_listed=True reads them as log-probabilities among those listed, as mlx-lm's loss does"
            )
        values = _log_softmax(values)
        notes["normalised_over"] = "the ids listed"
    if "groups" in arrays:
        groups = integer_column(arrays["groups"], rows, f"{path}: groups")
    tokens = _targets(path, arrays, found, rows, groups)
    if "attention_mask" in arrays:
        keep = arrays["attention_mask"].reshape(-1) != 0
        ids, values, tokens, groups = ids[keep], values[keep], tokens[keep], groups[keep]
    return of_arrays(path, "top-k arrays", ids, values, tokens, groups, options.vocab_size, notes)


def _targets(path: str, arrays: Arrays, found: TopK, rows: int, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The target of each row, -1 where unknown: `tokens`, or the next of `token_ids` in its group."""
    mask = np.ravel(arrays.get("attention_mask", np.ones(rows, np.bool_))) != 0
    if mask.size != rows:
        raise ValueError(f"{path}: attention_mask has {mask.size} values, expected {rows}")
    if "tokens" in arrays:
        return integer_column(arrays["tokens"], rows, f"{path}: tokens")
    if "token_ids" not in arrays or found.ids == "token_ids":
        return np.full(rows, -1)
    read = integer_column(arrays["token_ids"], rows, f"{path}: token_ids")
    following = np.append(read[1:], -1)
    following[:-1][groups[1:] != groups[:-1]] = -1
    following[:-1][~mask[1:]] = -1
    return following


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    most = values.max(axis=1, keepdims=True)
    shifted: NDArray[np.float64] = values - most
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _manifest(file: ByteReader) -> dict[str, Any]:
    """The numbers of an mlx-kld cache."""
    try:
        if file.size > _LONGEST_MANIFEST:
            raise ValueError(f"{file.size} bytes")
        found = json.loads(file.read(file.size))
        known = {name: found[name] for name in ("vocab_size", "num_batches", "top_k") if found.get(name) is not None}
        if not all(type(x) is int and x > 0 for x in known.values()):
            raise ValueError("its numbers are none")
        return known
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file.path}: not a manifest of shards ({str(error)[:80]})") from None
