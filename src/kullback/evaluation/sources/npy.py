"""NumPy's `.npy`: a short text header, then the rows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from kullback.evaluation.sources.base import FlatRows, flat_shape, float_dtype, stored_dtype
from kullback.evaluation.sources.files import ByteReader

MAGIC = npy_format.MAGIC_PREFIX
# np.save writes about 128 bytes; NumPy itself refuses to parse more than 10,000
LONGEST_HEADER = 1 << 16
# what np.save writes for float8_e5m2 of ml_dtypes and nothing else, and NumPy does not read; words of the same length
NAME_OF_E5M2, WORDS = b"'descr': '<f1'", b"'descr': '|V1'"


def open_npy(file: ByteReader, dtype: str | None = None) -> FlatRows:
    """Rows of the array in `file`; `dtype` says what words without a float type are."""
    shape, fortran, stored, offset = parse_header(file.read(_header_bytes(file)), file.path)
    if fortran and len(shape) > 1:
        raise ValueError(f"{file.path}: in Fortran order, so that no row is contiguous; save it in C order")
    stored = stored_dtype(stored, dtype, file.path)
    source = FlatRows(file, "npy", flat_shape(shape, file.path), stored, offset)
    source.stored = shape
    return source


def _header_bytes(file: ByteReader) -> int:
    """How many bytes the header says it has: of a stream no more is asked for than was written."""
    head = file.read(12)
    length = head[8:12] if head[6:7] == b"\2" else head[8:10]
    return min(LONGEST_HEADER, 8 + len(length) + int.from_bytes(length, "little"))


def parse_header(head: bytes, path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and offset of the data, from the first bytes of an .npy file."""
    stream = io.BytesIO(head.replace(NAME_OF_E5M2, WORDS, 1))
    try:
        version = npy_format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version}, expected (1, 0) or (2, 0)")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # the tokenizer, the parser of literals and dtype() each have their own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path}: not a readable .npy header ({reason})") from None
    if NAME_OF_E5M2 in head[: stream.tell()]:
        dtype = float_dtype("float8_e5m2", path)
    return shape, fortran, dtype, stream.tell()
