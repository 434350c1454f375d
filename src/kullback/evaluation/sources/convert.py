"""Writing logits: .npy, safetensors and llama.cpp dumps, block by block, named only when whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import ArrayLike, NDArray

from kullback._engine import keywords
from kullback.evaluation.outputs import atomic_file, check_outputs, named_paths
from kullback.evaluation.sources import open_logits
from kullback.evaluation.sources.base import UNNAMED, Source, float_dtype
from kullback.evaluation.sources.llama_cpp import MAGIC, Dump, code_dtype
from kullback.evaluation.sources.safetensors import DTYPES, header_of

__all__ = ["convert", "encode"]

# bytes of decoded rows held at a time
BLOCK_BYTES = 1 << 24
# codes reach this many nats under the row's maximum, as llama.cpp's own
WINDOW = np.float32(16)


class OtherOptions(TypedDict, total=False):
    """The keywords of `open_logits` but `dtype`, which is that of what is written."""

    tensor: str | None
    salvage: bool
    lm_head: str | os.PathLike[str] | Source | None
    norm: str | None
    layer: int | None


def convert(
    source: str | os.PathLike[str] | Source,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    chunk_tokens: ArrayLike | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[OtherOptions],
) -> None:
    """Write logits in another format.

    Parameters
    ----------
    source : path-like or Source
        What to read; a path is opened with `open_logits` and `options`.
    path : path-like
        What to write: `.npy`, `.safetensors`, or `.kld` for a llama.cpp `_logits_` dump. It appears, or is
        replaced, when the whole file is written; what a failure leaves is removed.
    dtype : str, optional
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn" or "float8_e5m2" for `.npy` and safetensors; by
        default that of the source. NumPy cannot name the last three, so `.npy` refuses them. Values are rounded to
        nearest; those beyond the range become infinite, and in float8_e4m3fn, which has no infinities, NaN, as does
        -inf: what is above 464 in size or masked does not go into it.
    chunk_tokens : array of integers (C, n_ctx), optional
        For a dump from anything but a dump: the text as the model saw it, C chunks with the scored tokens at
        the end of each. The source must have C * (n_ctx - 1 - n_ctx//2) rows.
    progress : callable, optional
        Called with the number of rows written and of all rows.
    **options
        Of `open_logits`.

    Raises
    ------
    ValueError
        If the suffix is none of these, `path` is the source or a part of it, or tokens are missing or do not fit.
    OSError
        If reading or writing fails.

    Notes
    -----
    A dump made from a dump keeps its codes bit for bit. Otherwise rows are taken as logits and normalised;
    every step is that of llama.cpp in float32 (see `encode`). Token ids and groups go into safetensors as
    `tokens` and `groups`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from kullback.evaluation.sources import open_logits
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     name = os.path.join(folder, "logits")
    ...     np.save(name + ".npy", np.eye(3, dtype=np.float32))
    ...     convert(name + ".npy", name + ".safetensors", dtype="float16")
    ...     open_logits(name + ".safetensors").rows(0, 1)
    array([[1., 0., 0.]], dtype=float16)
    """
    keywords.callback(progress, "progress")
    if not (dtype is None or isinstance(dtype, str)):
        raise TypeError(f"`dtype` is {keywords.shown(dtype)}, expected text or None")
    if isinstance(source, Source):
        _convert(source, os.fspath(path), dtype, chunk_tokens, progress)
        return
    with open_logits(source, **options) as opened:
        _convert(opened, os.fspath(path), dtype, chunk_tokens, progress)


def _convert(
    source: Source,
    path: str,
    dtype: str | None,
    chunk_tokens: ArrayLike | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    if path.endswith(".kld"):
        if dtype is not None:
            raise ValueError(f"`dtype` is {dtype!r}; a llama.cpp dump has 16-bit codes of its own")
        header, blocks = _dump(source, chunk_tokens)
    elif path.endswith((".npy", ".safetensors")):
        kind = source.dtype if dtype is None else float_dtype(dtype, path)
        header = _npy_header(source, kind) if path.endswith(".npy") else _safetensors_header(source, kind)
        blocks = _values(source, kind)
    else:
        raise ValueError(f"{path}: its suffix says no format that is written; expected .npy, .safetensors or .kld")
    check_outputs({"`path`": path}, named_paths(source.facts()), force=True)
    for stream in source.streams():
        stream.forward()
    with atomic_file(path) as file:
        file.write(header)
        for stop, block in blocks:
            file.write(block.reshape(-1).view(np.uint8).data)
            if progress is not None:
                progress(stop, source.shape[0])


def _ranges(source: Source) -> Iterator[tuple[int, int]]:
    rows, vocab_size = source.shape
    step = max(1, BLOCK_BYTES // (vocab_size * max(4, source.dtype.itemsize)))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _values(source: Source, kind: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    for start, stop in _ranges(source):
        with np.errstate(over="ignore"):
            yield stop, source.rows(start, stop).astype(kind, copy=False)


def _npy_header(source: Source, kind: np.dtype[Any]) -> bytes:
    if kind.name in UNNAMED:
        raise ValueError(f"`dtype` is {kind.name}, which .npy cannot name; write safetensors, or float32")

    stream = io.BytesIO()
    header = {"descr": npy_format.dtype_to_descr(kind), "fortran_order": False, "shape": source.shape}
    npy_format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def _safetensors_header(source: Source, kind: np.dtype[Any]) -> bytes:
    """The header, and the integer columns, which come before the logits so that these end the file."""
    names = {name: code for code, name in DTYPES.items()}
    columns = {
        name: np.asarray(column, "<i8")
        for name, column in (("tokens", source.tokens), ("groups", source.groups))
        if column is not None
    }
    tensors: dict[str, tuple[str, Sequence[int], int]] = {
        name: ("I64", column.shape, column.nbytes) for name, column in columns.items()
    }
    size = source.shape[0] * source.shape[1] * kind.itemsize
    tensors["logits"] = (names[kind.name], source.shape, size)
    return header_of(tensors, {"source": source.format}) + b"".join(column.tobytes() for column in columns.values())


def _dump(source: Source, chunk_tokens: ArrayLike | None) -> tuple[bytes, Iterator[tuple[int, NDArray[Any]]]]:
    if isinstance(source, Dump):
        if chunk_tokens is not None:
            raise ValueError("`chunk_tokens` is given, but the source is a dump that has its own")
        table = source.chunk_tokens
        blocks = ((stop, source.codes(start, stop)) for start, stop in _ranges(source))
        return _dump_header(table, source.shape[1]), blocks
    if chunk_tokens is None:
        raise ValueError(
            "`chunk_tokens` (--chunk-tokens) is missing: a llama.cpp dump holds the text as chunks of token ids"
        )
    table = np.asarray(chunk_tokens)
    if table.ndim != 2 or table.dtype.kind not in "iu" or table.shape[1] < 4:
        raise ValueError(f"`chunk_tokens` is {table.dtype} of shape {table.shape}, expected integers (C, n_ctx >= 4)")
    first = table.shape[1] // 2
    scored = table[:, first + 1 :].reshape(-1)
    rows = source.shape[0]
    if scored.size != rows:
        raise ValueError(f"`chunk_tokens` of shape {table.shape} scores {scored.size} tokens, expected {rows}")
    if table.min() < 0 or table.max() >= source.shape[1]:
        raise ValueError(
            f"`chunk_tokens` has ids from {table.min()} to {table.max()}, expected 0 to {source.shape[1] - 1}"
        )
    if source.tokens is not None and not np.array_equal(source.tokens, scored):
        raise ValueError("`chunk_tokens` has other scored tokens than the source")
    blocks = ((stop, encode(source.rows(start, stop))) for start, stop in _ranges(source))
    return _dump_header(table, source.shape[1]), blocks


def _dump_header(table: NDArray[Any], vocab_size: int) -> bytes:
    chunks, n_ctx = table.shape
    return MAGIC + np.array([n_ctx, vocab_size, chunks], "<i4").tobytes() + table.astype("<i4").tobytes()


def encode(logits: NDArray[Any]) -> NDArray[np.void]:
    """Encode rows of logits as llama.cpp does.

    Parameters
    ----------
    logits : ndarray (n, V)
        Logits, or log-probabilities, which are normalised all the same. -inf is stored as 16 nats under the
        maximum.

    Returns
    -------
    structured ndarray (n,)
        Fields `scale`, `min` and `code`, as `LlamaCppLogits.codes` gives them. A row with NaN or +inf has NaN
        scale and minimum, so that it decodes to NaN.

    Notes
    -----
    With m the maximum, l = max(min x, m - 16) and Z = sum exp(x - m): scale = (m - l)/65535, min = l - m -
    log Z, code = round-half-even((x - l)/scale), all in float32 but the sum Z and its logarithm.

    Examples
    --------
    >>> import numpy as np
    >>> encode(np.array([[0.0, -1.0, -40.0]], np.float32))["code"]
    array([[65535, 61439,     0,     0]], dtype=uint16)
    """
    x = logits.astype(np.float32, copy=False)
    codes = np.zeros(len(x), code_dtype(x.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        top = x.max(axis=1, keepdims=True)
        low = np.maximum(x.min(axis=1, keepdims=True), top - WINDOW)
        mass = np.exp(x - top, dtype=np.float64).astype(np.float32).sum(axis=1, keepdims=True, dtype=np.float64)
        scale = (top - low) / np.float32(65535)
        inverse = np.where(scale != 0, np.float32(1) / scale, np.float32(0))
        steps = np.rint(inverse * (x - low))
        valid = np.isfinite(top)
        codes["code"][:, : x.shape[1]] = np.where((x > low) & valid, steps, 0)
        codes["scale"] = np.where(valid, scale, np.nan)[:, 0]
        codes["min"] = np.where(valid, (low - top) - np.log(mass).astype(np.float32), np.nan)[:, 0]
    return codes
