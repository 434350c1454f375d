"""Damaged files: an error or a readable source, never a crash, a hang or memory beyond the file's size."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import fuzzing
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, strategies as st

from kullback.evaluation.sources import open_logits

ROWS = np.linspace(-9, 0, 60, dtype=np.float32).reshape(12, 5)
INT32 = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31 - 1, -(2**31), 2**16, 10**6]),
    st.integers(-(2**31), 2**31 - 1),
)
# what an untrusted file of a few hundred bytes may cost, headers and Python's own objects included
MEMORY = 4 << 20


def npy_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, ROWS)
    return stream.getvalue()


def dump_bytes(n_ctx=10, vocab_size=5, chunks=3) -> bytes:
    tokens = np.arange(30, dtype="<i4") % 5
    rows = bytes(12 * (8 + 12))
    return b"_logits_" + struct.pack("<3i", n_ctx, vocab_size, chunks) + tokens.tobytes() + rows


FILES = {"npy": npy_bytes(), "safetensors": safetensors.numpy.save({"logits": ROWS}), "dump": dump_bytes()}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def open_and_read(path, data: bytes) -> None:
    """Open and read all; only the two kinds of error that the documentation names may come out."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError, OSError):
            source = open_logits(path, salvage=True)
            rows, vocab_size = source.shape
            assert rows * vocab_size <= max(len(data), 1)
            assert source.rows(0, rows).shape == source.shape
            json.dumps(source.facts())
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def test_the_files_are_sound(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
        assert open_logits(tmp_path / name).shape == (12, 5)


@given(
    name=st.sampled_from(sorted(FILES)),
    edits=st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=9)), max_size=4),
    cut=st.integers(0, 400),
)
def test_bytes_changed_anywhere(tmp_path_factory, name, edits, cut):
    data = bytearray(FILES[name])
    for at, new in edits:
        data[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "edited"
    open_and_read(path, bytes(data[: len(data) - cut // 2 if cut > 200 else len(data)]))


@given(header=st.tuples(INT32, INT32, INT32), body=st.binary(max_size=600))
def test_dump_headers(tmp_path_factory, header, body):
    open_and_read(tmp_path_factory.getbasetemp() / "dump", b"_logits_" + struct.pack("<3i", *header) + body)


@given(
    shape=st.lists(st.integers(-2, 2**70) | st.integers(0, 6), max_size=4),
    descr=st.sampled_from(["<f4", ">f2", "<f8", "|V2", "|O", "<M8", "|S9999999999", "x", "<f4,<f4"])
    | st.text(max_size=6),
    order=st.sampled_from([True, False, None, 3]),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]),
    body=st.binary(max_size=300),
)
def test_npy_headers(tmp_path_factory, shape, descr, order, version, body):
    text = repr({"descr": descr, "fortran_order": order, "shape": tuple(shape)}).encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    data = b"\x93NUMPY" + bytes(version) + length + text + body
    open_and_read(tmp_path_factory.getbasetemp() / "npy", data)


@given(
    header=JSON
    | st.fixed_dictionaries(
        {
            "logits": st.fixed_dictionaries(
                {
                    "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F8_E4M3"]) | JSON,
                    "shape": st.lists(st.integers(0, 2**66) | st.integers(0, 8), max_size=4) | JSON,
                    "data_offsets": st.lists(st.integers(0, 2**66) | st.integers(0, 300), max_size=3) | JSON,
                }
            )
        },
        optional={"tokens": JSON, "__metadata__": JSON},
    ),
    length=st.none() | st.integers(0, 2**64 - 1),
    body=st.binary(max_size=300),
)
def test_safetensors_headers(tmp_path_factory, header, length, body):
    text = json.dumps(header).encode()
    prefix = (len(text) if length is None else length).to_bytes(8, "little")
    open_and_read(tmp_path_factory.getbasetemp() / "x.safetensors", prefix + text + body)


@pytest.mark.parametrize("name", fuzzing.FORMATS)
def test_files_of_every_format(name):
    """Some of the damaged files of `make fuzz`, in a process of its own: a library in C may end it."""
    command = [sys.executable, Path(fuzzing.__file__), name, "--examples", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name}: 60 damaged files, 0 failures\n"


class TestFilesThatChangeAfterOpening:
    """Cut or overwritten between opening and reading: an error or what was there, never a crash (SIGBUS)."""

    @pytest.mark.parametrize(
        "name", [n for n in fuzzing.FORMATS if n not in (*fuzzing.SPARSE, *fuzzing.BESIDE, *fuzzing.PIPED, "pickled")]
    )
    @pytest.mark.parametrize("change", ["cut", "zeros", "other time"])
    def test_it(self, tmp_path, name, change):
        path = tmp_path / "a"
        fuzzing.FORMATS[name](path)
        with open_logits(path) as source:
            for part in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]:
                data = part.read_bytes()
                part.write_bytes({"cut": data[:10], "zeros": bytes(len(data)), "other time": data}[change])
                if change == "other time":
                    os.utime(part, (1, 1))
            with pytest.raises(OSError):
                source.rows(0, 12)
