"""Storage -> arithmetic: where a row lies, how its elements are stored, and a view of it the kernels can read.

A row is `(address of its first element, bytes between elements, storage)`. Kernels ask for one block of it at a
time; `view` answers with the data itself where it is contiguous and already of the arithmetic type, else with a
decoded copy of that block in the caller's scratch (16 KiB, on the stack, in the first-level cache).
"""

import numpy as np
from numba import types

from .lanes import inlined, kernel, width
from .memory import decoded, pointer, pointer_like, storage_of, store, stream
from .records import Row
from .separate import separate
from .storage import AFFINE16, FLOAT32, FLOAT64, FLOATS, STORAGES  # noqa: F401 (the loops take the tags from here)

# what pads a block of logs: the log of no mass; a block of probabilities is padded with 0
NO_LOG = -np.inf

# elements a block; a block of float32 is 8 KiB and of float64 16 KiB, so that two lie in the first-level cache
BLOCK = 2048


@inlined
def row_of(array, t):
    """Row t of a kullback_array: (address, stride in bytes, storage)."""
    offset = pointer(array.row_offsets, types.int64)[t] if array.row_offsets != 0 else t * array.row_stride
    return Row(array.data + offset, array.stride, array.storage)


# bytes of an element by tag, four bits each; and the tags that gradients are written as, a bit each
_BYTES = sum(kind.bytes << (4 * kind.tag) for kind in STORAGES)
_GRADIENTS = sum(1 << kind.tag for kind in STORAGES if kind.gradients)


@kernel
def is_storage(tag):
    return 0 <= tag < len(STORAGES)


@kernel
def takes_gradients(tag):
    """True for a storage that a gradient can be written as."""
    return is_storage(tag) and (_GRADIENTS >> tag) & 1 != 0


@kernel
def item_bytes(storage):
    return (_BYTES >> (4 * storage)) & 15


def _attempt(kind, run, otherwise, any_stride):
    tag, size, words = kind.tag, kind.bytes, getattr(types, kind.words)

    @inlined
    def attempt(row, start, *rest):
        address, stride, storage = row
        if storage == tag and (any_stride or stride == size):
            return run(pointer(address + start * (stride if any_stride else size), words), *rest)
        return otherwise(row, start, *rest)

    return attempt


def by_words(kinds, run, otherwise, any_stride=False):
    """A function of (row, start, *rest) that calls `run` with a pointer to the words of element `start`, and the rest.

    `run` is compiled for the words of each of `kinds`. Rows of others, and without `any_stride` those whose elements do
    not lie side by side, go to `otherwise(row, start, *rest)`.
    """
    for kind in reversed(kinds):
        otherwise = _attempt(kind, run, otherwise, any_stride)
    return otherwise


def _attempt_pair(kind, run, otherwise):
    tag, size, words = kind.tag, kind.bytes, getattr(types, kind.words)

    @inlined
    def attempt(p, q, start, *rest):
        if p.storage == tag and q.storage == tag and p.stride == size and q.stride == size:
            return run(pointer(p.address + size * start, words), pointer(q.address + size * start, words), *rest)
        return otherwise(p, q, start, *rest)

    return attempt


def pair_by_words(kinds, run, otherwise):
    """`by_words` of two rows that are stored alike."""
    for kind in reversed(kinds):
        otherwise = _attempt_pair(kind, run, otherwise)
    return otherwise


@kernel
def _code_value(row, v):
    """float32(scale·code) + min in float32, of the row's own scale and min."""
    address, stride, _ = row
    scale = pointer(address - 8, types.float32)[0]
    least = pointer(address - 4, types.float32)[0]
    code = pointer(address + v * stride, types.uint16)[0]
    return np.float64(np.float32(np.float32(scale * np.float32(code)) + least))


_element = by_words(FLOATS, decoded, _code_value, any_stride=True)


@kernel
def element(row, v):
    """Element v of a row, as float64: exact but for AFFINE16, whose value is float32(scale·code) + min in float32."""
    return _element(row, v)


@inlined
def _decode(words, n, scratch):
    for i in range(0, n, width(scratch[0])):
        store(scratch, i, stream(words, i, scratch[0]))
    return n


@inlined
def _none(row, start, n, scratch):
    return 0


_decode_row = by_words([kind for kind in FLOATS if kind.bytes < 8], _decode, _none)


@separate(lambda row, start, n, scratch, pad: scratch)
@kernel
def view(row, start, n, scratch, pad):
    """A pointer to elements start ... start + n, in scratch's type, padded with `pad` to whole registers.

    The data itself where nothing needs decoding or padding, else `scratch`, filled.
    """
    address, stride, storage = row
    lanes = width(scratch[0])
    if storage == storage_of(scratch) and stride == item_bytes(storage) and n % lanes == 0:
        return pointer_like(address + start * stride, scratch)
    whole = _decode_row(row, start, n - n % lanes, scratch)
    for i in range(whole, n):
        scratch[i] = element(row, start + i)
    for i in range(n, n + (-n) % lanes):
        scratch[i] = pad
    return scratch
