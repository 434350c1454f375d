"""Logits and log-probabilities in files: one reader a format, all behind `open_logits`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from kullback._engine import keywords
from kullback.evaluation.sources import arrow, hdf5, llama_cpp, npy, npz, parquet_footer, safetensors, zarr
from kullback.evaluation.sources.arrow import Arrow
from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.completions import read_completions
from kullback.evaluation.sources.distillkit import CONFIG_NAME, read_distillkit
from kullback.evaluation.sources.files import ByteReader, LocalFile
from kullback.evaluation.sources.hdf5 import Hdf5
from kullback.evaluation.sources.hidden import hidden_states, refuse_hidden
from kullback.evaluation.sources.http import HttpFile
from kullback.evaluation.sources.llama_cpp import Dump, LlamaCppLogits
from kullback.evaluation.sources.npy import open_npy
from kullback.evaluation.sources.npz import open_npz
from kullback.evaluation.sources.remote import RemoteFile, is_web, listing
from kullback.evaluation.sources.safetensors import HIDDEN_NAMES, LM_HEAD_NAMES, LOGITS_NAMES, open_safetensors
from kullback.evaluation.sources.shards import concatenated, shard_names
from kullback.evaluation.sources.sparse import SparseRows
from kullback.evaluation.sources.zarr import Zarr

__all__ = ["Dump", "LlamaCppLogits", "Source", "SparseRows", "open_each", "open_logits", "open_sparse"]

SHARD_SUFFIXES = (".safetensors", ".npy", ".npz", ".kld", ".parquet", ".arrow", ".h5", ".hdf5")


def open_logits(
    path: str | os.PathLike[str],
    *,
    tensor: str | None = None,
    dtype: str | None = None,
    salvage: bool = False,
    lm_head: str | os.PathLike[str] | Source | None = None,
    norm: str | None = None,
    layer: int | None = None,
) -> Source:
    """Open logits, log-probabilities or probabilities in a file or folder for reading row by row.

    Opening reads headers only, and `rows` no more than it is asked for. The format is recognised by the first
    bytes of the file, then by its suffix.

    Parameters
    ----------
    path : path-like
        A file, a folder of shards, or a URL (`https://`, or what fsspec knows: `s3://`, ...):

        - `.npy`, `.npz`, safetensors, HDF5 or zarr with an array (T, V), or (B, T, V) taken as B*T rows;
        - Parquet or Arrow IPC with a column of lists of V floats;
        - a llama.cpp `_logits_` dump (`--kl-divergence-base`);
        - a folder of any one of these, in the order of the numbers in the file names. Where there are files
        named
          `row_N` (exllamav3) or `logits_N` (vLLM) only those count.

        Beside the logits, integer arrays (or columns) named `tokens` and `groups`, one value a row, become
        the source's attributes of these names. In a folder, groups whose ids rise
        through all shards are kept; where they begin again in each, as the chunks of dumps do, they are made
        distinct, and without any each shard is a group.
    tensor : str, optional
        Name of the array or column; an error where the format has none. Without it: `logits`; in safetensors else the
        windows `logits_0`, `logits_1`, ... or `tensor.0`, ...; else the only one that can be meant.
    dtype : str, optional
        "bfloat16", "float8_e4m3fn" or "float8_e5m2" if words of 2 or 1 bytes in NumPy, HDF5 or zarr files are that;
        these formats cannot say so.
    salvage : bool
        Use what is there of a llama.cpp dump without its last chunks or of a folder without some shards,
        instead of refusing it; give rows of HDF5 and zarr arrays that were never written as NaN. `facts` names
        them.
    lm_head : path-like or Source, optional
        Weights (V, H) of the output layer; `path` then holds hidden states (T, H), and the rows are their
        product. Taken from a file of weights: `lm_head.weight`, `output.weight` or the (tied)
        `model.embed_tokens.weight`.
    norm : "applied", optional
        With `lm_head`, required: says that the hidden states are those after the model's last normalisation.
    layer : int, optional
        With `lm_head`, required for states (T, L, H) of several layers, as vLLM writes them: the one to take,
        negative from the last.

    Returns
    -------
    Source
        With `shape` (T, V), `dtype`, `tokens` and `groups` (int64 (T,) or None), `rows(start, stop)` and
        `facts()`.

    Raises
    ------
    ValueError
        If the file is of no known format, damaged, truncated, or its arrays are not as described.
    OSError
        If it cannot be read, or, from `rows`, if it or one of its chunks was truncated, replaced or removed
        after opening (behind a URL: where the server tells by an ETag or a time), or a web server sent nothing
        for 60 seconds.
    ImportError
        If the format needs a library that is not installed; the message names the extra that brings it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "logits.npy")
    ...     np.save(path, np.arange(6, dtype=np.float32).reshape(2, 3))
    ...     with open_logits(path) as source:
    ...         print(source.shape, source.dtype, source.rows(1, 2))
    (2, 3) float32 [[3. 4. 5.]]
    """
    with ExitStack() as stack:
        (source,) = open_each(
            stack, [path], tensor=tensor, dtype=dtype, salvage=salvage, lm_head=lm_head, norm=norm, layer=layer
        )
        stack.pop_all()
        return source


def open_each(
    stack: ExitStack,
    paths: Sequence[str | os.PathLike[str] | Source],
    *,
    tensor: str | None = None,
    dtype: str | None = None,
    salvage: bool = False,
    lm_head: str | os.PathLike[str] | Source | None = None,
    norm: str | None = None,
    layer: int | None = None,
) -> list[Source]:
    """`open_logits` of several files, which `stack` closes; sources among them are given back as they are.

    `tensor` is for those that have names: a .npy may be compared with an array of a file that holds several.
    """
    for word, value in (("tensor", tensor), ("dtype", dtype), ("norm", norm)):
        if not (value is None or isinstance(value, str)):
            raise TypeError(f"`{word}` is {keywords.shown(value)}, expected text or None")
    salvage = keywords.flag(salvage, "salvage")
    layer = None if layer is None else keywords.integer(layer, "layer", "a whole number or None")
    names = LOGITS_NAMES if lm_head is None else HIDDEN_NAMES
    if lm_head is None and (norm is not None or layer is not None):
        raise ValueError("`norm` and `layer` say what hidden states are; they go with `lm_head` (--lm-head)")
    found: list[Source] = []
    unnamed: list[Source] = []
    for path in paths:
        if isinstance(path, Source):
            found.append(path)
            continue
        source = stack.enter_context(_open(os.fspath(path), names, tensor, dtype, salvage))
        if source.array is None:
            unnamed.append(source)
        if lm_head is None:
            refuse_hidden(source)
        else:
            weights = lm_head  # opened for each file: no source serves two threads
            if not isinstance(weights, Source):
                weights = stack.enter_context(_open(os.fspath(weights), LM_HEAD_NAMES, None, None, False))
            source = hidden_states(source, weights, norm, layer)
        found.append(source)
    if tensor is not None and unnamed and len(unnamed) == len(found):
        raise ValueError(
            f"`tensor` (--tensor) is {tensor!r}, but {unnamed[0].path} ({unnamed[0].format}) is one array without a "
            "name; .npz, safetensors, HDF5, zarr groups, Parquet and Arrow name theirs"
        )
    return found


def open_sparse(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    vocabulary: dict[bytes, int] | None = None,
    vocab_size: int | None = None,
) -> SparseRows:
    """Read sampled or top-k log-probabilities into memory.

    Parameters
    ----------
    path : path-like
        - JSON or JSON lines with answers of vLLM (`prompt_logprobs`), SGLang (`meta_info`) or OpenAI-style
        servers
          (`logprobs`), bare, in lists, or as a batch's result file;
        - Parquet captured by DistillKit: one shard, or the folder with its `compression_config.yaml`.
    config : path-like, optional
        DistillKit's configuration, if it is not beside the shards.
    vocabulary : dict of bytes to int, optional
        Ids of the tokens that OpenAI-style answers name by text (by their bytes, where given). Tokens that it
        lacks are added with the next free id, one that no other token has: pass the same dict for both files of a
        comparison. Without it such ids mean something within this file only, which `facts` tells as
        "named_by": "text"; a file is refused that names another token by such an id.
    vocab_size : int, optional
        Size of the vocabulary, which JSON answers do not tell; ids are checked against it.

    Returns
    -------
    SparseRows
        Rows in the order of the file. Values that mean "not known" (null, -inf, -9999 and below) are left out
        and counted, as is an id that a row lists a second time.

    Raises
    ------
    ValueError
        If the file holds no log-probabilities in one of these forms, is damaged, or has positive ones
        (logits).
    ImportError
        If Parquet is asked for and pyarrow or PyYAML is missing.

    Examples
    --------
    >>> import json, os, tempfile
    >>> position = {"5": {"logprob": -0.5, "rank": 1}, "7": {"logprob": -1.5, "rank": 2}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "answer.json")
    ...     with open(path, "w") as file:
    ...         json.dump({"prompt_logprobs": [None, position]}, file)
    ...     rows = open_sparse(path)
    >>> rows.ids, rows.tokens, rows.mass.round(3)
    (array([5, 7]), array([5]), array([0.83]))
    """
    name = os.fspath(path)
    inside = _listing(name)
    if inside is None:
        file = _file(name)
        if not file.read(4).startswith(parquet_footer.MAGIC):
            return read_completions(file, vocabulary, vocab_size)
        shards, folder = [file], name.rpartition("/")[0] or "."
    else:
        shards = [_file(f"{name.rstrip('/')}/{s}") for s in shard_names(inside, (".parquet",), name, False)]
        folder = name.rstrip("/")
    return read_distillkit(shards, _file(config or f"{folder}/{CONFIG_NAME}"), name)


def holds_answers(path: str | os.PathLike[str] | ByteReader) -> bool:
    """Whether a file is JSON, which `open_sparse` reads, by its first bytes."""
    if isinstance(path, (str, os.PathLike)):
        if _listing(os.fspath(path)) is not None:
            return False
        path = _file(path)
    return path.read(64).lstrip()[:1] in (b"{", b"[") and not safetensors.recognised(path)


def _file(path: str | os.PathLike[str]) -> ByteReader:
    name = os.fspath(path)
    if is_web(name):
        return HttpFile(name)
    return RemoteFile(name) if "://" in name else LocalFile(name)


def _listing(path: str) -> list[str] | None:
    if "://" in path:
        return listing(path)
    return os.listdir(path) if os.path.isdir(path) else None


def _open(path: str, names: tuple[str, ...], tensor: str | None, dtype: str | None, salvage: bool) -> Source:
    inside = _listing(path)
    if inside is None:
        return _open_file(_file(path), names, tensor, dtype, salvage)
    if zarr.MARKERS & set(inside):
        return Zarr(path, tensor, dtype, salvage)
    parts: list[Any] = []
    for name in shard_names(inside, SHARD_SUFFIXES, path, salvage):
        file = _file(f"{path.rstrip('/')}/{name}")  # a folder among them is none, nor one that holds itself
        parts.append(_open_file(file, names, tensor, dtype, salvage))
    return concatenated(path, parts)


def _open_file(
    file: ByteReader, names: tuple[str, ...], tensor: str | None, dtype: str | None, salvage: bool
) -> Source:
    head = file.read(16)
    if head.startswith(npy.MAGIC):
        return open_npy(file, dtype)
    if head.startswith(npz.MAGIC):
        return open_npz(file, tensor, dtype)
    if head.startswith(llama_cpp.MAGIC):
        return LlamaCppLogits(file, salvage)
    if head.startswith(hdf5.MAGIC):
        return Hdf5(file, tensor, dtype, salvage)
    if head.startswith((parquet_footer.MAGIC, arrow.IPC_MAGIC, arrow.STREAM_MAGIC)):
        return Arrow(file, tensor)
    if safetensors.recognised(file) or file.path.endswith(".safetensors"):
        return open_safetensors(file, tensor, names)
    if holds_answers(file):
        raise ValueError(f"{file.path}: JSON, which holds top-k log-probabilities; `open_sparse` reads those")
    raise ValueError(
        f"{file.path}: begins with {head[:8]!r}, which no reader knows; expected NumPy, safetensors, HDF5, "
        "Parquet, Arrow or a llama.cpp dump"
    )
