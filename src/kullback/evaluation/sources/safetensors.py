"""safetensors: 8 bytes of header length, a JSON header, then the tensors' bytes.

The header is parsed here and the rows are read by position: the library maps the file, and a mapped file that
shrinks while it is read ends the process. Format: https://huggingface.co/docs/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import views
from kullback.evaluation.sources.base import FlatRows, Source, chosen, flat_shape, float_dtype, integer_column
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.pipes import StreamFile
from kullback.evaluation.sources.shards import Concatenated
from kullback.evaluation.sources.sparse import Pick, refuse_topk

# the limit of the reference implementation
LONGEST_HEADER = 100_000_000
DTYPES = {kind.safetensors: kind.name for kind in views.FLOATS}
INTEGER_DTYPES = {"I64": "<i8", "I32": "<i4", "U64": "<u8", "U32": "<u4", "I16": "<i2", "U16": "<u2"}
# what tables of other tools and of ours consist of, beside these
TABLE_DTYPES = {**INTEGER_DTYPES, "U8": "u1", "F32": "<f4", "F64": "<f8"}
# tried in this order, before anything else
LOGITS_NAMES = ("logits",)
HIDDEN_NAMES = ("hidden_states",)
# vLLM's name of the tokens that the states belong to, as `tokens` is that of each row's target
TOKEN_IDS, NO_TARGET = "token_ids", -100
LM_HEAD_NAMES = ("lm_head.weight", "output.weight", "model.embed_tokens.weight")
# windows of one run in one file: `logits_0`, ... (vLLM), `tensor.0`, ... (exllamav3)
WINDOW = re.compile(r"(?:logits_|tensor\.)(\d+)")


class Tensor(NamedTuple):
    """Where one tensor lies: its safetensors dtype, its shape and its bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def open_safetensors(file: ByteReader, tensor: str | None = None, usual: tuple[str, ...] = LOGITS_NAMES) -> Source:
    """Rows of `tensor`, else of the first of the `usual` names, of the windows, or of the only matrix."""
    tensors = parse_header(file)
    names = _find(tensors, tensor, usual, file.path)
    if isinstance(file, StreamFile):
        _check_order(tensors, names, file.path)
    sources: list[Source] = [_rows(file, tensors[name], f"{file.path}: tensor {name!r}") for name in names]
    for name, one in zip(names, sources, strict=True):
        one.array = name
    source = sources[0] if len(sources) == 1 else Concatenated(file.path, "safetensors", sources)
    layers = source.stored[1] if usual == HIDDEN_NAMES and source.stored and len(source.stored) == 3 else 1
    for name in ("tokens", "groups"):
        if name in tensors and name not in names:
            column = _integers(file, tensors[name], source.shape[0] // layers, f"{file.path}: tensor {name!r}")
            setattr(source, name, np.repeat(column, layers))
    if usual == HIDDEN_NAMES and TOKEN_IDS in tensors:
        _next_tokens(source, file, tensors[TOKEN_IDS], layers)
    return source


def _next_tokens(source: Source, file: ByteReader, tensor: Tensor, layers: int) -> None:
    """Targets from the tokens that were read (vLLM): the next one of the same document, none for its last row."""
    what = f"{file.path}: tensor {TOKEN_IDS!r}"
    ids = _integers(file, tensor, source.shape[0] // layers, what)
    following = np.append(ids[1:], NO_TARGET)
    groups = None if source.groups is None else source.groups[::layers]
    if groups is not None:
        following[:-1][groups[1:] != groups[:-1]] = NO_TARGET
    if source.tokens is not None and not np.array_equal(source.tokens[::layers], following):
        raise ValueError(
            f"{what} are the tokens that were read, of which the next one is a row's target; but 'tokens', which are "
            "the targets themselves, are others: remove one of them"
        )
    source.tokens = np.repeat(following, layers)


def load_arrays(file: ByteReader, pick: Pick) -> dict[str, NDArray[Any]]:
    """Whole tensors: those that `pick` takes, of the shapes of all."""
    tensors = parse_header(file)
    found = {}
    for name in pick({name: tensor.shape for name, tensor in tensors.items()}):
        tensor, what = tensors[name], f"{file.path}: tensor {name!r}"
        if tensor.dtype in INTEGER_DTYPES or tensor.dtype == "BOOL":
            dtype = np.dtype(INTEGER_DTYPES.get(tensor.dtype, "?"))
        else:
            dtype = float_dtype(DTYPES.get(tensor.dtype, tensor.dtype), what).newbyteorder("<")
        _check_size(tensor, math.prod(tensor.shape) * dtype.itemsize, what)
        data = file.read(tensor.stop - tensor.start, tensor.start)
        found[name] = np.frombuffer(data, dtype).reshape(tensor.shape)
    return found


def recognised(file: ByteReader) -> bool:
    """Whether the file begins as safetensors does: a length that it has, and the brace of an object."""
    head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= min(LONGEST_HEADER, file.size - 8)


def parse_header(file: ByteReader) -> dict[str, Tensor]:
    """Every tensor of the file by name; ValueError for a header that the file cannot hold."""
    return parse_whole_header(file)[0]


def parse_whole_header(file: ByteReader) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`parse_header`, and what the file says of itself as text."""
    path = file.path
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(LONGEST_HEADER, file.size - 8):
        raise ValueError(f"{path}: a safetensors header of {length} bytes in a file of {file.size} bytes")
    try:
        header = json.loads(file.read(length, 8))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the safetensors header is not JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is {type(header).__name__}, expected an object")
    said = header.pop("__metadata__", None)
    metadata = {k: v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}
    tensors = {name: _tensor(x, 8 + length, file.size, f"{path}: tensor {name!r}") for name, x in header.items()}
    return tensors, metadata


def header_of(tensors: Mapping[str, tuple[str, Sequence[int], int]], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with whose tensors follow in this order: dtype, shape and bytes of each by name."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def table(file: ByteReader, tensor: Tensor, what: str) -> NDArray[Any]:
    """A tensor of whole numbers, float32 or float64 in memory; ValueError where its bytes do not fit its shape."""
    if tensor.dtype not in TABLE_DTYPES:
        raise ValueError(f"{what} holds {tensor.dtype}, expected one of {', '.join(TABLE_DTYPES)}")
    dtype = np.dtype(TABLE_DTYPES[tensor.dtype])
    _check_size(tensor, math.prod(tensor.shape) * dtype.itemsize, what)
    return np.frombuffer(file.read(tensor.stop - tensor.start, tensor.start), dtype).reshape(tensor.shape)


def _tensor(entry: Any, data: int, size: int, what: str) -> Tensor:
    try:
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        start, stop = offsets
        if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)) or not isinstance(dtype, str):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{what} has an entry without a valid dtype, shape and data_offsets") from None
    if start > stop or data + stop > size:
        raise ValueError(
            f"{what} lies at bytes {data + start} to {data + stop} of a file of {size} bytes; the file is truncated"
        )
    return Tensor(dtype, tuple(shape), data + start, data + stop)


def _find(tensors: dict[str, Tensor], tensor: str | None, usual: tuple[str, ...], path: str) -> list[str]:
    if tensor is None:
        tensor = next((name for name in usual if name in tensors), None)
    windows = [(int(match[1]), name) for name in tensors if (match := WINDOW.fullmatch(name))]
    if tensor is None and windows:
        return [name for _, name in sorted(windows)]
    matrices = [name for name, t in tensors.items() if t.dtype in DTYPES and len(t.shape) in (2, 3)]
    name = chosen(tensor, list(tensors), matrices, path)
    refuse_topk({name: t.shape for name, t in tensors.items()}, name, path)
    return [name]


def _check_order(tensors: dict[str, Tensor], names: list[str], path: str) -> None:
    """ValueError where a stream would have to be read backwards: columns behind the rows, windows in another order."""
    before = [name for name in ("tokens", "groups") if name in tensors and name not in names]
    wanted = [*sorted(before, key=lambda name: tensors[name].start), *names]
    for one, other in pairwise(wanted):
        if tensors[other].start < tensors[one].stop:
            raise ValueError(
                f"{path}: tensor {one!r} lies behind {other!r}, which a stream gives first; write it before, or read "
                "them from a file"
            )


def _rows(file: ByteReader, tensor: Tensor, what: str) -> FlatRows:
    shape = flat_shape(tensor.shape, what)
    dtype = float_dtype(DTYPES.get(tensor.dtype, tensor.dtype), what)
    _check_size(tensor, shape[0] * shape[1] * dtype.itemsize, what)
    source = FlatRows(file, "safetensors", shape, dtype.newbyteorder("<"), tensor.start)
    source.stored = tensor.shape
    return source


def _integers(file: ByteReader, tensor: Tensor, rows: int, what: str) -> NDArray[np.int64]:
    if tensor.dtype not in INTEGER_DTYPES:
        raise ValueError(f"{what} holds {tensor.dtype}, expected integers")
    dtype = np.dtype(INTEGER_DTYPES[tensor.dtype])
    _check_size(tensor, rows * dtype.itemsize, what)
    return integer_column(np.frombuffer(file.read(tensor.stop - tensor.start, tensor.start), dtype), rows, what)


def _check_size(tensor: Tensor, expected: int, what: str) -> None:
    if tensor.stop - tensor.start != expected:
        raise ValueError(
            f"{what} has {tensor.stop - tensor.start} bytes of data, expected {expected} for shape {tensor.shape}"
        )
