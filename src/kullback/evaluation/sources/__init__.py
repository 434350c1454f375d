"""Logits and log-probabilities in files: one reader a format, all behind `open_logits`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Unpack, cast

from kullback._engine import keywords
from kullback.evaluation.sources import arrow, hdf5, hfkldr, llama_cpp, npy, npz, parquet_footer, safetensors, zarr
from kullback.evaluation.sources.arrow import Arrow
from kullback.evaluation.sources.base import ReaderOptions, Source
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.hdf5 import Hdf5
from kullback.evaluation.sources.hidden import hidden_states, refuse_hidden
from kullback.evaluation.sources.llama_cpp import Dump, LlamaCppLogits
from kullback.evaluation.sources.model_folder import read_model, refuse_part_of_model
from kullback.evaluation.sources.npy import open_npy
from kullback.evaluation.sources.npz import open_npz
from kullback.evaluation.sources.output_layer import OutputLayer
from kullback.evaluation.sources.places import file_at, names_in
from kullback.evaluation.sources.reference import Reference
from kullback.evaluation.sources.reference_files import MANIFEST
from kullback.evaluation.sources.safetensors import HIDDEN_NAMES, LM_HEAD_NAMES, LOGITS_NAMES, open_safetensors
from kullback.evaluation.sources.shards import concatenated, shard_names
from kullback.evaluation.sources.sparse import SparseRows, TopKError
from kullback.evaluation.sources.sparse_files import holds_answers, open_sparse
from kullback.evaluation.sources.streams import StreamFile, open_stream, open_streams, refuse_streams
from kullback.evaluation.sources.torch_file import holds_torch
from kullback.evaluation.sources.torch_rows import open_torch
from kullback.evaluation.sources.zarr import Zarr

__all__ = [
    "Dump", "LlamaCppLogits", "Source", "SparseRows", "holds_answers", "open_each", "open_logits", "open_sparse",
]  # fmt: skip

SHARD_SUFFIXES = (".safetensors", ".npy", ".npz", ".kld", ".parquet", ".arrow", ".h5", ".hdf5", ".pt")


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
        A file, a folder of shards, a URL (`https://`, or what fsspec knows: `s3://`, ...), or a stream, whose rows come
        once and in order (`-` for standard input, a FIFO, `/dev/fd/N`; .npy, safetensors, dumps):

        - `.npy`, `.npz`, safetensors, `.pt` of tensors (read without torch; no code of it is run), HDF5 or zarr with an
          array (T, V), or (B, T, V) taken as B*T rows;
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
        `path` then holds hidden states (T, H), and the rows are the logits that the end of a model makes of them: a
        folder with config.json and safetensors (last normalisation, output weights, which may be the embeddings, bias,
        scale, soft-cap), or a file of output weights (V, H) alone. `token_ids` beside the states are the tokens read:
        the next one is a row's target.
    norm : {"applied", "model"}, optional
        With `lm_head`, required: whether the hidden states are those after the model's last normalisation, or
        those before it, as vLLM writes them, to which that of the folder is applied.
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
    own: Sequence[ReaderOptions] | None = None,
    **common: Unpack[ReaderOptions],
) -> list[Source]:
    """`open_logits` of several files, which `stack` closes; sources among them are given back as they are.

    The options `own` to each path go before those of all. A `tensor` of all is for those that have names: a .npy may be
    compared with an array of a file that holds several.
    """
    found: list[Source] = []
    unnamed: list[Source] = []
    ends: dict[Any, OutputLayer] = {}  # one of each model, whose weights are in memory once
    streams = open_streams(stack, paths)
    for i, path in enumerate(paths):
        mine = own[i] if own is not None else {}
        options = _checked(common | mine)
        if isinstance(path, Source):
            if mine:
                raise ValueError(f"`read` has options for {path.path}, which is open: give them to open_logits")
            found.append(path)
            continue
        source = _with_options(stack, streams.get(i, os.fspath(path)), options, ends)
        if source.array is None and options["tensor"] is not None:
            unnamed.append(source)
        found.append(source)
        if unnamed and (mine.get("tensor") or len(unnamed) == len(paths)):
            raise ValueError(
                f"`tensor` (--tensor) is {options['tensor']!r}, but {unnamed[-1].path} ({unnamed[-1].format}) is one "
                "array without a name; .npz, safetensors, HDF5, zarr groups, Parquet and Arrow name theirs"
            )
    return found


def _checked(options: ReaderOptions) -> ReaderOptions:
    """All options, of the right types; TypeError or ValueError."""
    values: dict[str, Any] = dict.fromkeys(ReaderOptions.__annotations__) | {"salvage": False} | options
    for word in ("tensor", "dtype", "norm"):
        if not (values[word] is None or isinstance(values[word], str)):
            raise TypeError(f"`{word}` is {keywords.shown(values[word])}, expected text or None")
    values["salvage"] = keywords.flag(values["salvage"], "salvage")
    if values["layer"] is not None:
        values["layer"] = keywords.integer(values["layer"], "layer", "a whole number or None")
    if values["lm_head"] is None and (values["norm"] is not None or values["layer"] is not None):
        raise ValueError("`norm` and `layer` say what hidden states are; they go with `lm_head` (--lm-head)")
    return cast(ReaderOptions, values)


def _with_options(
    stack: ExitStack, path: str | StreamFile, options: ReaderOptions, ends: dict[Any, OutputLayer]
) -> Source:
    """A file as its options say: logits, or what the end of a model makes of hidden states."""
    weights = options["lm_head"]
    if weights is not None:
        refuse_streams([path, weights], "hidden states and lm_head (--lm-head) are read from files")
    names = LOGITS_NAMES if weights is None else HIDDEN_NAMES
    source = stack.enter_context(_open(path, names, options["tensor"], options["dtype"], options["salvage"]))
    if weights is None:
        refuse_hidden(source)
        return source
    key = id(weights) if isinstance(weights, Source) else os.fspath(weights)
    if key not in ends:
        ends[key] = _end(stack, weights)
    logits = hidden_states(source, ends[key], options["norm"], options["layer"])
    logits.array = source.array
    return logits


def _end(stack: ExitStack, weights: str | os.PathLike[str] | Source) -> OutputLayer:
    if isinstance(weights, Source):
        return OutputLayer(weights)
    path = os.fspath(weights)
    model = read_model(path)
    if model is None:
        refuse_part_of_model(path)
        model = OutputLayer(_open(path, LM_HEAD_NAMES, None, None, False))
    stack.callback(model.close)
    return model


def _open(
    path: str | StreamFile, names: tuple[str, ...], tensor: str | None, dtype: str | None, salvage: bool
) -> Source:
    if isinstance(path, StreamFile):
        return open_stream(path, names, tensor, dtype, salvage)
    inside = names_in(path)
    if inside is None:
        return _open_file(file_at(path), names, tensor, dtype, salvage)
    if MANIFEST in inside and "://" not in path:
        return Reference(path, salvage)
    if zarr.MARKERS & set(inside):
        return Zarr(path, tensor, dtype, salvage)
    parts: list[Any] = []
    for name in shard_names(inside, SHARD_SUFFIXES, path, salvage):
        file = file_at(f"{path.rstrip('/')}/{name}")  # a folder among them is none, nor one that holds itself
        parts.append(_open_file(file, names, tensor, dtype, salvage))
    return concatenated(path, parts)


def _open_file(
    file: ByteReader, names: tuple[str, ...], tensor: str | None, dtype: str | None, salvage: bool
) -> Source:
    head = file.read(16)
    if head.startswith(npy.MAGIC):
        return open_npy(file, dtype)
    if head.startswith(npz.MAGIC):
        return open_torch(file, tensor, names) if holds_torch(file) else open_npz(file, tensor, dtype)
    if head.startswith(llama_cpp.MAGIC):
        return LlamaCppLogits(file, salvage)
    if head.startswith(hdf5.MAGIC):
        return Hdf5(file, tensor, dtype, salvage)
    if head.startswith((parquet_footer.MAGIC, arrow.IPC_MAGIC, arrow.STREAM_MAGIC)):
        return Arrow(file, tensor)
    if safetensors.recognised(file) or file.path.endswith(".safetensors"):
        return open_safetensors(file, tensor, names)
    if head.startswith(hfkldr.MAGIC):
        raise TopKError(f"{file.path}: HFKLDR, which holds top-k log-probabilities; `open_sparse` reads those")
    if holds_answers(file):
        raise ValueError(f"{file.path}: JSON, which holds top-k log-probabilities; `open_sparse` reads those")
    raise ValueError(
        f"{file.path}: begins with {head[:8]!r}, which no reader knows; expected NumPy, safetensors, HDF5, "
        "Parquet, Arrow or a llama.cpp dump"
    )
