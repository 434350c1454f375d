"""Small files that ask for much, pipes, devices: work and memory bounded by the file's size, errors as documented."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr

from kullback.cli import main
from kullback.evaluation.sources import open_logits, open_sparse
from kullback.evaluation.tokens import decoder, load_tokens

DISTILLKIT = Path(__file__).parent / "data" / "distillkit"


@contextlib.contextmanager
def memory(limit=16 << 20):
    """What Python and NumPy allocate meanwhile stays below the limit."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


class TestTokenFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.json", b"[" * 100_000),
            ("t.json", b"[1, 2"),
            ("t.json", b"[1, 99999999999999999999999]"),
            ("t.json", b"[1, [2, 3]]"),
            ("t.json", b'["a"]'),
            ("t.json", b"[1.5]"),
            ("t.json", b"[true]"),
            ("t.json", b'{"a": 1}'),
            ("t.json", b"\xff\xfe"),
            ("t.txt", b"1 2 99999999999999999999999"),
            ("t.txt", b"1 2 x"),
            ("t.txt", b"\xff\xfe"),
            ("t.npy", b""),
            ("t.npy", b"\x93NUMPY"),
            ("t.npy", b"PK\x03\x04" + bytes(30)),
        ],
    )
    def test_one_kind_of_error(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        if content:
            with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
                load_tokens(tmp_path / name)
        else:
            assert load_tokens(tmp_path / name).size == 0

    def test_arrays_that_are_not_there(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (10**10,)})
        (tmp_path / "t.npy").write_bytes(header.getvalue())
        with memory(), pytest.raises(ValueError, match="not a file of token ids"):
            load_tokens(tmp_path / "t.npy")
        np.save(tmp_path / "t.npy", np.array([{}], object), allow_pickle=True)
        with pytest.raises(ValueError, match="not a file of token ids"):
            load_tokens(tmp_path / "t.npy")
        np.savez(tmp_path / "t.npz", np.arange(3))
        os.rename(tmp_path / "t.npz", tmp_path / "t.npy")
        with pytest.raises(ValueError, match="not a file of token ids"):
            load_tokens(tmp_path / "t.npy")

    def test_ids_beyond_a_signed_integer(self, tmp_path):
        """2^64 - 100 is not -100, the token that is left out."""
        np.save(tmp_path / "t.npy", np.array([1, 2**64 - 100], np.uint64))
        with pytest.raises(ValueError, match="has 18446744073709551516, expected integers of 64 bits with a sign"):
            load_tokens(tmp_path / "t.npy")
        np.savez(tmp_path / "a.npz", logits=np.eye(2), tokens=np.array([1, 2**64 - 100], np.uint64))
        with pytest.raises(ValueError, match="has 18446744073709551516"):
            open_logits(tmp_path / "a.npz")

    def test_every_form(self, tmp_path):
        for name, content in [("a.json", "[3, -100, 5]"), ("b.txt", "3, -100\n5"), ("c", " 3\t-100 5 ")]:
            (tmp_path / name).write_text(content)
            np.testing.assert_array_equal(load_tokens(tmp_path / name), [3, -100, 5])
        for dtype in ("<i8", ">i4", "<u2"):
            np.save(tmp_path / "d.npy", np.array([[3, 100, 5]], dtype))
            np.testing.assert_array_equal(load_tokens(tmp_path / "d.npy"), [3, 100, 5])

    def test_far_too_long_for_the_rows(self, tmp_path):
        np.save(tmp_path / "p.npy", np.eye(3))
        with open(tmp_path / "t.json", "wb") as file:
            file.truncate(10 << 30)  # would be read whole
        with memory(), pytest.raises(ValueError, match="has 10737418240 bytes, more than 3 token ids take"):
            load_tokens(tmp_path / "t.json", 3)
        assert main(["compare", *[str(tmp_path / "p.npy")] * 2, "--tokens", str(tmp_path / "t.json"), "--quiet"]) == 2


def test_pipes_devices_and_folders(tmp_path, capsys):
    """Refused before they are opened: /dev/zero has no end, and what is no logits is no stream (test_streams.py)."""
    np.save(tmp_path / "p.npy", np.eye(3))
    (tmp_path / "shards").mkdir()
    shutil.copy(tmp_path / "p.npy", tmp_path / "shards" / "0.npy")
    os.mkfifo(tmp_path / "shards" / "1.npy")
    os.mkfifo(tmp_path / "pipe")
    message = "is a pipe or device, expected a regular file"
    for read in (open_sparse, load_tokens, decoder):
        for path in (tmp_path / "pipe", "/dev/zero", "/dev/full"):
            with pytest.raises(ValueError, match=message):
                read(path)
    for path in (tmp_path / "shards", "/dev/zero", "/dev/full"):
        with pytest.raises(ValueError, match=message):
            open_logits(path)
    for option in ("--tokens", "--lm-head", "--tokenizer"):
        assert main(["compare", *[str(tmp_path / "p.npy")] * 2, option, "/dev/zero", "--quiet"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="is a folder, expected a regular file"):
        load_tokens(tmp_path)


def test_a_pipe_in_the_place_of_the_file(tmp_path):
    np.save(tmp_path / "p.npy", np.eye(3))
    with open_logits(tmp_path / "p.npy") as source:
        os.remove(tmp_path / "p.npy")
        os.mkfifo(tmp_path / "p.npy")
        with pytest.raises(OSError, match="replaced or modified"):
            source.rows(0, 3)


def test_folders_that_hold_themselves(tmp_path):
    """Two links to the folder itself, each named as a shard: 2^40 ways down."""
    for name in ("0.npy", "1.npy"):
        (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(ValueError, match="is a folder, expected a regular file"):
        open_logits(tmp_path)


class TestJson:
    def test_bytes_of_a_token(self, tmp_path):
        item = {"token": "a", "logprob": -0.1, "bytes": 6_000_000_000}
        for entry in (item, {"token": "a", "logprob": -0.1, "top_logprobs": [item]}):
            path = tmp_path / "a.json"
            path.write_text(json.dumps({"choices": [{"logprobs": {"content": [entry]}}]}))
            with (
                memory(),
                pytest.raises(ValueError, match=r"bytes of the token 'a' are 6000000000, expected a list"),
            ):
                open_sparse(path)

    @pytest.mark.parametrize("length", [ord("["), ord("{"), ord("[") + 256 * 3, ord("{") + 256 * 7])
    def test_safetensors_whose_length_looks_like_json(self, tmp_path, length, capsys):
        """The header's length is the first byte of the file."""
        rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        header = json.dumps({"logits": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + rows.tobytes())
        assert path.read_bytes()[:1] in b"[{"
        np.testing.assert_array_equal(safetensors.numpy.load_file(path)["logits"], rows)  # it is a sound file
        assert main(["info", str(path)]) == 0
        assert "safetensors" in capsys.readouterr().out
        np.testing.assert_array_equal(open_logits(path.rename(tmp_path / "b")).rows(0, 2), rows)

    def test_json_with_a_brace_in_the_ninth_place(self, tmp_path, capsys):
        path = tmp_path / "a"
        path.write_text('[      \n{"prompt_logprobs": [null, {"5": {"logprob": -0.5, "rank": 1}}]}]'.replace("\n", " "))
        assert path.read_bytes()[8:9] == b"{"
        assert main(["info", str(path)]) == 0
        assert "vllm" in capsys.readouterr().out
        with pytest.raises(ValueError, match="JSON, which holds top-k log-probabilities; `open_sparse` reads those"):
            open_logits(path)


def test_sequences_of_distillkit_that_claim_much(tmp_path):
    """Five million tokens in some kilobytes of runs: refused before they become Python's numbers."""
    shutil.copytree(DISTILLKIT / "plain", tmp_path / "d")
    shard = tmp_path / "d" / "data_0.parquet"
    packed = pa.array([[[0]]], pa.list_(pa.list_(pa.uint8())))
    tokens = pa.ListArray.from_arrays(pa.array([0, 5_000_000], pa.int32()), pa.array(np.zeros(5_000_000, np.int64)))
    columns = {"input_ids": tokens, "compressed_logprobs": packed, "bytepacked_indices": packed}
    pq.write_table(pa.table(columns), shard)
    assert shard.stat().st_size < 1 << 16
    with memory(), pytest.raises(ValueError, match=r"5000002 values in \d+ bytes"):
        open_sparse(tmp_path / "d")


@pytest.mark.parametrize(
    "change",
    [("k: ", "k: .inf #"), ("k: ", "k: .nan #"), ("exact_k: ", "exact_k: " + "[" * 1500), ("d: ", "d: 2001-99-99 #")],
)
def test_configurations_of_distillkit(tmp_path, change):
    shutil.copytree(DISTILLKIT / "plain", tmp_path / "d")
    config = tmp_path / "d" / "compression_config.yaml"
    text = config.read_text()
    assert change[0] in text
    config.write_text(text.replace(*change, 1))
    with pytest.raises(ValueError, match="not a compression configuration"):
        open_sparse(tmp_path / "d")
    assert main(["info", str(tmp_path / "d")]) != 1


MANY = 200_000_000


def npz_of_many_rows(path):
    """2e8 rows of zeros: 2.6 MB after deflating."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, descr, shape, size in [("logits", "<f2", (MANY, 1), 2), ("tokens", "|u1", (MANY,), 1)]:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(size * MANY // 10_000_000):
                    member.write(bytes(10_000_000))


def parquet_of_many_rows(path):
    """2e7 rows of one value: runs of a dictionary, some kilobytes in all."""
    row = pa.table({"logits": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(1 << 20, np.float32)), 1)})
    with pq.ParquetWriter(path, row.schema) as writer:
        for _ in range(20):
            writer.write_table(row, row_group_size=1 << 20)


def parquet_of_a_wide_row(path):
    values = pa.array(np.zeros(20_000_000, np.float32))
    pq.write_table(pa.table({"logits": pa.FixedSizeListArray.from_arrays(values, 20_000_000)}), path)


def arrow_of_a_wide_row(path):
    values = pa.array(np.zeros(20_000_000, np.float32))
    table = pa.table({"logits": pa.FixedSizeListArray.from_arrays(values, 20_000_000)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


def hdf5_of_many_rows(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("logits", shape=(MANY, 1), dtype="f4", chunks=(1000, 1), compression="gzip")[:5] = 1


def hdf5_of_a_wide_chunk(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("logits", shape=(1, 10**9), dtype="f4", chunks=(1, 10**9), compression="gzip")


def zarr_of_many_chunks(path):
    """Some hundred bytes of metadata."""
    zarr.create_array(path, shape=(10**12, 1), dtype="f4", chunks=(1, 1))


def zarr_of_many_narrow_chunks(path):
    zarr.create_array(path, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(1, 1))


@pytest.mark.parametrize(
    "write",
    [
        npz_of_many_rows, parquet_of_many_rows, parquet_of_a_wide_row, arrow_of_a_wide_row,
        hdf5_of_many_rows, hdf5_of_a_wide_chunk, zarr_of_many_chunks, zarr_of_many_narrow_chunks,
    ],
)  # fmt: skip
def test_small_files_that_claim_much(tmp_path, write):
    """Refused before anything of that size is allocated or decoded, in a process with little memory and time."""
    path = tmp_path / "a"
    write(path)
    stored = sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
    assert stored < 3 << 20
    code = f"""if True:
        import signal, sys
        from peak import peak
        import h5py, pyarrow.parquet, zarr
        from kullback.evaluation.sources import open_logits
        before = peak()
        signal.alarm(20)
        for salvage in (False, True):
            try:
                open_logits({str(path)!r}, salvage=salvage)
            except ValueError as error:
                print(error)
        grown = peak() - before
        sys.exit(f"{{grown >> 20}} MiB" if grown > 64 << 20 else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"claims \d+ rows of|has \d+ chunks in a folder|never written", done.stdout)) == 2, (
        done.stdout
    )


def test_rows_that_compress_well_are_read(tmp_path):
    """What masks leave of a large vocabulary, and a test's constant rows: small files, ordinary claims."""
    rows = np.full((300, 50_000), -np.inf, np.float32)
    rows[:, 7] = 0
    np.savez_compressed(tmp_path / "a.npz", logits=rows)
    pq.write_table(
        pa.table({"logits": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 50_000)}), tmp_path / "b"
    )
    with h5py.File(tmp_path / "c", "w") as file:
        file.create_dataset("logits", data=rows, chunks=(300, 50_000), compression="gzip")
    zarr.create_array(tmp_path / "d", data=rows, chunks=(300, 50_000))
    for name in ("a.npz", "b", "c", "d"):
        with open_logits(tmp_path / name) as source:
            np.testing.assert_array_equal(source.rows(290, 300), rows[290:])
