"""Storage -> arithmetic: where a row lies, how its elements are stored, and a view of it the kernels can read.

A row is `(address of its first element, bytes between elements, storage)`. Kernels ask for one block of it at a
time; `view` answers with the data itself where it is contiguous and already of the arithmetic type, else with a
decoded copy of that block in the caller's scratch (16 KiB, on the stack, in the first-level cache).
"""

import numpy as np
from numba import types

from .lanes import bits_to_float, inlined, kernel, pointer, pointer_like, storage_of, store, stream, width

# storage tags, as in kullback.h
FLOAT64, FLOAT32, FLOAT16, BFLOAT16, AFFINE16 = 0, 1, 2, 3, 4

# words of a kullback_array, as in kullback.h
DATA, ROW_OFFSETS, ROW_STRIDE, STRIDE, STORAGE = 0, 1, 2, 3, 4

# what pads a block of logs: the log of no mass; a block of probabilities is padded with 0
NO_LOG = -np.inf

# elements a block; a block of float32 is 8 KiB and of float64 16 KiB, so that two lie in the first-level cache
BLOCK = 2048


@inlined
def row_of(array, t):
    """Row t of a kullback_array: (address, stride in bytes, storage)."""
    offset = pointer(array[ROW_OFFSETS], types.int64)[t] if array[ROW_OFFSETS] != 0 else t * array[ROW_STRIDE]
    return array[DATA] + offset, array[STRIDE], array[STORAGE]


@kernel
def half_to_float(word):
    """The value of the 16 bits of a float16, exactly."""
    sign = np.uint32(word & np.uint32(0x8000)) << np.uint32(16)
    magnitude = np.uint32(word & np.uint32(0x7FFF)) << np.uint32(13)
    if magnitude >= np.uint32(0x7C00 << 13):
        return bits_to_float(np.uint32(sign | np.uint32(magnitude + np.uint32(224 << 23))))
    if magnitude >= np.uint32(0x0400 << 13):
        return bits_to_float(np.uint32(sign | np.uint32(magnitude + np.uint32(112 << 23))))
    tiny = np.float32(magnitude >> np.uint32(13)) * np.float32(2.0**-24)
    return -tiny if sign else tiny


@kernel
def element(row, v):
    """Element v of a row, as float64: exact but for AFFINE16, whose value is float32(scale·code) + min in float32."""
    address, stride, storage = row
    place = address + v * stride
    if storage == FLOAT32:
        return np.float64(pointer(place, types.float32)[0])
    if storage == FLOAT64:
        return pointer(place, types.float64)[0]
    word = np.uint32(pointer(place, types.uint16)[0])
    if storage == BFLOAT16:
        return np.float64(bits_to_float(np.uint32(word << np.uint32(16))))
    if storage == FLOAT16:
        return np.float64(half_to_float(word))
    scale = pointer(address - 8, types.float32)[0]
    least = pointer(address - 4, types.float32)[0]
    return np.float64(np.float32(np.float32(scale * np.float32(word)) + least))


@inlined
def _decode(words, n, scratch):
    for i in range(0, n, width(scratch[0])):
        store(scratch, i, stream(words, i, scratch[0]))


@kernel
def view(row, start, n, scratch, pad):
    """A pointer to elements start ... start + n, in scratch's type, padded with `pad` to whole registers.

    The data itself where nothing needs decoding or padding, else `scratch`, filled.
    """
    address, stride, storage = row
    lanes = width(scratch[0])
    first = address + start * stride
    if storage == storage_of(scratch) and stride == (8 if storage == FLOAT64 else 4) and n % lanes == 0:
        return pointer_like(first, scratch)
    whole = n - n % lanes
    if storage == BFLOAT16 and stride == 2:
        _decode(pointer(first, types.uint16), whole, scratch)
    elif storage == FLOAT16 and stride == 2:
        _decode(pointer(first, types.int16), whole, scratch)
    elif storage == FLOAT32 and stride == 4:
        _decode(pointer(first, types.float32), whole, scratch)
    else:
        whole = 0
    for i in range(whole, n):
        scratch[i] = element(row, start + i)
    for i in range(n, n + (-n) % lanes):
        scratch[i] = pad
    return scratch
