"""The top-k log-probabilities that arcee-ai's DistillKit captures: packed bytes in Parquet, and their key.

Per sequence `input_ids` and, for each position but the last, `bytepacked_indices` (k ids of ceil(log2 d)
bits, most significant bit first) and `compressed_logprobs`: `exact_k` values, the coefficients of a
polynomial for the others, then bins of residuals, each a scale and packed codes; all of it as differences
along the row where `delta_encoding` is set. The layout is in `compression_config.yaml` beside the shards
(distillkit/compression/monotonic_logprobs.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.sources.base import float_dtype
from kullback.evaluation.sources.files import ByteReader, LocalFile
from kullback.evaluation.sources.parquet_footer import column_chunks
from kullback.evaluation.sources.sparse import SparseBuilder, SparseRows

CONFIG_NAME = "compression_config.yaml"
# packed bits hardly compress: a file that claims more values is not decoded
_FREE_VALUES = 1 << 20
_VALUES_A_BYTE = 16


def read_distillkit(files: list[ByteReader], config: ByteReader, path: str) -> SparseRows:
    """All sequences of the shards, in order; see `open_sparse`."""
    keys = _config(config)
    rows = SparseBuilder()
    group = 0
    for file in files:
        for sequence in _sequences(file):
            try:
                _add(rows, group, sequence, keys, f"{file.path}: sequence {group}")
            except (TypeError, OverflowError, AttributeError) as error:  # nulls, numbers of another type
                raise ValueError(f"{file.path}: sequence {group} is damaged ({error})") from None
            group += 1
    return rows.build(path, "distillkit", keys["d"], k=keys["k"])


def _sequences(file: ByteReader) -> Iterator[dict[str, Any]]:
    pa, parquet = library("pyarrow", file.path), library("pyarrow.parquet", file.path)
    columns = ["input_ids", "compressed_logprobs", "bytepacked_indices"]
    try:
        with parquet.ParquetFile(file.path if isinstance(file, LocalFile) else file.open()) as shard:
            missing = set(columns) - set(shard.schema_arrow.names)
            if missing:
                raise OSError(f"no column {', '.join(sorted(missing))}")
            values = sum(chunk.values for chunk in column_chunks(file))
            if values > max(_FREE_VALUES, _VALUES_A_BYTE * file.size):
                raise OSError(f"{values} values in {file.size} bytes")
            for batch in shard.iter_batches(64, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, MemoryError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.path}: not a readable Parquet file ({error})") from None


def _add(rows: SparseBuilder, group: int, sequence: dict[str, Any], keys: dict[str, Any], what: str) -> None:
    tokens = sequence["input_ids"]
    # the ids first: their size bounds k before anything of that size is allocated
    ids = unpack(_matrix(sequence["bytepacked_indices"], what), _bits(keys["d"]), keys["k"])
    values = decode_log_probs(_matrix(sequence["compressed_logprobs"], what), keys)
    if not len(values) == len(ids) == len(tokens) - 1:
        raise ValueError(f"{what} has {len(values)} and {len(ids)} positions for {len(tokens)} tokens")
    for token, row_ids, row_values in zip(tokens[1:], ids.tolist(), values.tolist(), strict=True):
        rows.add(group, token, None, zip(row_ids, row_values, strict=True))


def _matrix(lists: list[list[int]], what: str) -> NDArray[np.uint8]:
    try:
        return np.array(lists, np.uint8).reshape(len(lists), -1)
    except ValueError:
        raise ValueError(f"{what} has positions of unequal length") from None


def _config(file: ByteReader) -> dict[str, Any]:
    yaml = library("yaml", f"{file.path}: DistillKit")
    try:
        # libyaml where there is one: the pure Python parser takes seconds to find out that nesting has no end
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        keys: dict[str, Any] = yaml.load(file.read(1 << 16), Loader=loader)
        keys.update(
            {name: int(keys[name]) for name in ("d", "k", "exact_k")},
            residual_bins=keys.get("residual_bins") or [],
            polynomial_terms=keys.get("polynomial_terms") or [],
        )
        for dtype in (
            keys["exact_dtype"],
            keys["term_dtype"],
            *(b["scale_dtype"] for b in keys["residual_bins"]),
        ):
            float_dtype(dtype, file.path)
        bins = [(int(b["element_bits"]), int(b["num_elements"])) for b in keys["residual_bins"]]
        rest = keys["k"] - keys["exact_k"]
        if keys["d"] < 2 or keys["exact_k"] < 0 or not 0 <= sum(n for _, n in bins) <= rest:
            raise ValueError("the counts d, k, exact_k and num_elements do not fit")
        if not all(term in ("sqrt", "exp") or (type(term) is int and term >= 0) for term in keys["polynomial_terms"]):
            raise ValueError(f"polynomial_terms are {keys['polynomial_terms']}")
        if any(not 1 <= bits <= 32 or n < 1 for bits, n in bins):
            raise ValueError("residuals of 1 to 32 bits are read")
        return keys
    except Exception as error:  # infinite counts, nesting without end, times in months that are none: all kinds
        raise ValueError(f"{file.path}: not a compression configuration ({error!r})") from None


def _bits(count: int) -> int:
    # the library takes log2 in float32
    return math.ceil(float(np.log2(np.float32(count))))


def unpack(data: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """(n, bytes) -> (n, count): integers of `bits` bits, most significant first, padded to whole bytes."""
    if data.shape[1] != -(-bits * count // 8):
        raise ValueError(f"{data.shape[1]} bytes a position, expected {count} numbers of {bits} bits")
    stream = np.unpackbits(data, axis=1)[:, : bits * count].reshape(len(data), count, bits)
    return stream @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def decode_log_probs(data: NDArray[np.uint8], keys: dict[str, Any]) -> NDArray[np.float32]:
    """(n, bytes) -> (n, k) log-probabilities, in float32 (the library rounds them to `exact_dtype`)."""
    k, exact_k, terms = keys["k"], keys["exact_k"], keys["polynomial_terms"]
    expected = exact_k * _size(keys["exact_dtype"]) + len(terms) * _size(keys["term_dtype"])
    for part in keys["residual_bins"]:
        expected += _size(part["scale_dtype"]) + -(-int(part["element_bits"]) * int(part["num_elements"]) // 8)
    if data.shape[1] != expected:
        raise ValueError(f"{data.shape[1]} bytes a position, expected {expected} by {CONFIG_NAME}")
    at = 0

    def take(dtype: str, count: int) -> NDArray[Any]:
        nonlocal at
        kind = float_dtype(dtype, CONFIG_NAME)
        part = np.ascontiguousarray(data[:, at : at + count * kind.itemsize])
        at += count * kind.itemsize
        return part.view(kind)

    exact = take(keys["exact_dtype"], exact_k).astype(np.float32)
    rest = np.zeros((len(data), k - exact_k), np.float32)
    coefficients = take(keys["term_dtype"], len(terms)) if terms else None
    first = 0
    for part in keys["residual_bins"]:
        bits, count = int(part["element_bits"]), int(part["num_elements"])
        scale = take(part["scale_dtype"], 1).astype(np.float32)
        size = -(-bits * count // 8)
        codes = unpack(data[:, at : at + size], bits, count)
        at += size
        centred = 2 * codes - 1 if bits == 1 else codes - (1 << (bits - 1))
        rest[:, first : first + count] = centred * scale
        first += count
    if coefficients is not None:
        rest += _polynomial(coefficients, terms, k - exact_k, bool(keys.get("normalize_t")))
    values = np.concatenate([exact, rest], axis=1)
    return np.cumsum(values, axis=1, dtype=np.float32) if keys.get("delta_encoding", True) else values


def _size(dtype: str) -> int:
    return float_dtype(dtype, CONFIG_NAME).itemsize


def _polynomial(coefficients: NDArray[Any], terms: list[Any], count: int, unit: bool) -> NDArray[np.float32]:
    """Rounded as the encoder (torch) rounds: the residuals correct its values in the coefficients' type."""
    kind = coefficients.dtype
    t = _unit_points(count, kind) if unit else np.arange(count).astype(kind)
    columns = [_term(t, term) for term in terms]
    products = np.stack(columns, axis=-1) * coefficients[:, None, :]
    total: NDArray[np.float32] = products.astype(np.float32).sum(axis=-1)
    return total.astype(kind).astype(np.float32)


def _unit_points(count: int, kind: np.dtype[Any]) -> NDArray[Any]:
    # torch.linspace steps from both ends, rounding each operation in 16-bit types and only the result in
    # others
    work = kind if kind.itemsize == 2 else np.dtype(np.float64)
    i = np.arange(count)
    step = (np.ones(1, kind) / np.full(1, max(count - 1, 1)).astype(kind)).astype(work)
    up, down = i.astype(work) * step, np.ones(1, work) - (count - 1 - i).astype(work) * step
    points: NDArray[Any] = np.where(i < count // 2, up, down).astype(kind)
    return points


def _term(t: NDArray[Any], term: str | int) -> NDArray[Any]:
    values: NDArray[Any]
    if isinstance(term, str):
        values = np.sqrt(t) if term == "sqrt" else np.exp(t)
    elif term > 3:
        values = np.power(t.astype(np.float32), term).astype(t.dtype)
    else:
        # torch multiplies for small powers; for others its last bit may differ
        values = np.ones_like(t)
        for _ in range(term):
            values = values * t
    return values
