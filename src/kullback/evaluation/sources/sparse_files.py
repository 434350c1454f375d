"""Sampled and top-k log-probabilities in files, all behind `open_sparse`."""

from __future__ import annotations

import os

from kullback.evaluation.sources import hfkldr, parquet_footer, safetensors, zarr
from kullback.evaluation.sources.completions import read_completions
from kullback.evaluation.sources.distillkit import CONFIG_NAME, read_distillkit
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.places import file_at, names_in
from kullback.evaluation.sources.shards import shard_names
from kullback.evaluation.sources.sparse import SparseRows
from kullback.evaluation.sources.topk_arrays import (
    SUFFIXES,
    Options,
    holds_arrays,
    read_topk_file,
    read_topk_shards,
    read_topk_zarr,
)

__all__ = ["holds_answers", "open_sparse"]


def open_sparse(
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    vocabulary: dict[bytes, int] | None = None,
    vocab_size: int | None = None,
    over_listed: bool = False,
) -> SparseRows:
    """Read sampled or top-k log-probabilities into memory.

    Parameters
    ----------
    path : path-like
        - JSON or JSON lines with answers of vLLM (`prompt_logprobs`), SGLang (`meta_info`) or OpenAI-style
        servers
          (`logprobs`), bare, in lists, or as a batch's result file;
        - Parquet captured by DistillKit: one shard, or the folder with its `compression_config.yaml`;
        - HFKLDR, the references of hipfire;
        - safetensors, `.npz`, `.pt`, HDF5 or zarr, a file or a folder of them, with ids and log-probabilities (T, K) or
          (B, T, K) under their names (`ids` and `log_probs`; those of mlx-kld's cache, of NeMo-Aligner, ...), or
          logits and `log_sum_exp`; `tokens` beside them are targets, `token_ids` what was read, one step earlier.
    config : path-like, optional
        DistillKit's configuration, if it is not beside the shards.
    vocabulary : dict of bytes to int, optional
        Ids of the tokens that OpenAI-style answers name by text (by their bytes, where given). Tokens that it
        lacks are added with the next free id, one that no other token has: pass the same dict for both files of a
        comparison. Without it such ids mean something within this file only, which `facts` tells as
        "named_by": "text"; a file is refused that names another token by such an id.
    vocab_size : int, optional
        Size of the vocabulary, which JSON answers and most arrays do not tell; ids are checked against it.
    over_listed : bool
        Take logits of the ids listed alone, as mlx-lm writes them for DWQ, for log-probabilities among these: `facts`
        says "normalised_over". They are no log-probabilities over the vocabulary, and are refused without it.

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
    inside, options = names_in(name), Options(vocab_size, over_listed)
    if inside is None:
        file = file_at(name)
        head = file.read(8)
        if head == hfkldr.MAGIC:
            return hfkldr.read_hfkldr(file)
        if holds_arrays(file):
            return read_topk_file(file, options)
        if not head.startswith(parquet_footer.MAGIC):
            return read_completions(file, vocabulary, vocab_size)
        shards, folder = [file], name.rpartition("/")[0] or "."
    elif zarr.MARKERS & set(inside):
        return read_topk_zarr(name, options)
    elif not any(one.endswith(".parquet") for one in inside):
        names = shard_names(inside, SUFFIXES, name, False)
        return read_topk_shards(name.rstrip("/"), names, inside, options)
    else:
        shards = [file_at(f"{name.rstrip('/')}/{s}") for s in shard_names(inside, (".parquet",), name, False)]
        folder = name.rstrip("/")
    return read_distillkit(shards, file_at(config or f"{folder}/{CONFIG_NAME}"), name)


def holds_answers(path: str | os.PathLike[str] | ByteReader) -> bool:
    """Whether a file is JSON, which `open_sparse` reads, by its first bytes."""
    if isinstance(path, (str, os.PathLike)):
        if names_in(os.fspath(path)) is not None:
            return False
        path = file_at(path)
    return path.read(64).lstrip()[:1] in (b"{", b"[") and not safetensors.recognised(path)
