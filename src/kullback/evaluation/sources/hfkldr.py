"""HFKLDR, the references of hipfire: 32 bytes of header, the tokens of all chunks, then a block for each scored token.

A block has K ids (uint32), their log-probabilities (float32), the probability of all others (float32) and 4 bytes of
nothing. Scored are the positions of a chunk's second half but the last, as llama-perplexity has them; the target of
position t is token t + 1. https://github.com/Kaden-Schutt/hipfire (plan of issue 113, rev. 3.2, and its readers).
"""

from __future__ import annotations

import struct

import numpy as np

from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.sparse import SparseRows, of_arrays

MAGIC = b"HFKLDR\0\0"
VERSION = 1
_HEADER = struct.Struct("<8sIIIIHHI")


def read_hfkldr(file: ByteReader) -> SparseRows:
    """All rows of the file, a group a chunk."""
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        raise ValueError(f"{file.path}: {len(head)} bytes of a header of {_HEADER.size}")
    _, version, context, vocab, chunks, top_k, _, _ = _HEADER.unpack(head)
    if version != VERSION:
        raise ValueError(f"{file.path}: HFKLDR of version {version}, expected {VERSION}")
    first, scored = context // 2, context - 1 - context // 2
    block = 8 + 8 * top_k
    begin = _HEADER.size + 4 * context * chunks
    needed = begin + max(scored, 0) * chunks * block
    if not (1 <= top_k <= vocab and scored >= 1 and chunks >= 1) or file.size != needed:
        raise ValueError(
            f"{file.path}: {file.size} bytes, but {chunks} chunks of {context} tokens with {top_k} of {vocab} entries "
            f"take {needed}; truncated, or of another layout"
        )
    tokens = np.frombuffer(file.read(4 * context * chunks, _HEADER.size), "<u4").reshape(chunks, context)
    layout = np.dtype([("ids", "<u4", (top_k,)), ("log_probs", "<f4", (top_k,)), ("rest", "<f4"), ("nothing", "<u4")])
    rows = np.frombuffer(file.read(needed - begin, begin), layout)
    log_probs = rows["log_probs"].astype(np.float64)
    gap = np.abs(np.exp(np.minimum(log_probs, 1)).sum(axis=1) + rows["rest"] - 1)
    notes = {"stored": "float32", "largest_gap": float(gap.max()), "normalised_over": "the vocabulary"}
    targets = tokens[:, first + 1 :].astype(np.int64).ravel()
    groups = np.repeat(np.arange(chunks), scored)
    return of_arrays(file.path, "hfkldr", rows["ids"].astype(np.int64), log_probs, targets, groups, vocab, notes)
