"""Readers of .npz, HDF5, zarr, Arrow, folders, hidden states and URLs, against files the libraries wrote."""

import os
import re
import sys
import zipfile

import fsspec
import h5py
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr
from test_sources import check_rows

from kullback.evaluation.sources import open_logits

FLOATS = [np.float64, np.float32, np.float16]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (12, 7)).astype(np.float32)


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    return {"tokens": np.arange(12, dtype=np.int32) % 7, "groups": np.arange(12) // 5}


def check_columns(source, columns) -> None:
    np.testing.assert_array_equal(source.tokens, columns["tokens"])
    np.testing.assert_array_equal(source.groups, columns["groups"])
    assert source.tokens.dtype == source.groups.dtype == np.int64


class TestNpz:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_rows(self, tmp_path, logits, columns, save, dtype):
        save(tmp_path / "a.npz", logits=logits.astype(dtype), other=np.zeros(3), **columns)
        with open_logits(tmp_path / "a.npz") as source:
            check_rows(source, logits.astype(dtype))
            check_columns(source, columns)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_choice_and_layouts(self, tmp_path, logits, save):
        save(tmp_path / "a.npz", x=logits.reshape(4, 3, 7).astype(">f4"))
        with open_logits(tmp_path / "a.npz") as source:
            check_rows(source, logits)
        save(tmp_path / "a.npz", x=logits, y=logits.astype(ml_dtypes.bfloat16))
        with open_logits(tmp_path / "a.npz", tensor="y", dtype="bfloat16") as source:
            check_rows(source, logits.astype(ml_dtypes.bfloat16))
        with pytest.raises(ValueError, match="no array 'logits'; it holds x, y"):
            open_logits(tmp_path / "a.npz")

    def test_damaged(self, tmp_path):
        path = tmp_path / "a.npz"
        big = np.random.default_rng(0).normal(size=(2000, 50)).astype(np.float32)
        np.savez_compressed(path, logits=big)
        data = path.read_bytes()
        path.write_bytes(data[:-100])
        with pytest.raises(ValueError, match=r"not a readable \.npz archive"):
            open_logits(path)
        path.write_bytes(data[:200_000] + bytes(1000) + data[201_000:])
        with open_logits(path) as source, pytest.raises(OSError, match="cannot be decompressed"):
            source.rows(0, 2000)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"")
        with pytest.raises(ValueError, match=r"not a readable file of torch.save"):
            open_logits(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("logits.npy", b"\x93NUMPY\x01\x00nonsense")
        with pytest.raises(ValueError, match=r"not a readable \.npy header"):
            open_logits(path)

    def test_shape_must_fit_the_member(self, tmp_path, logits):
        path = tmp_path / "a.npz"
        np.save(tmp_path / "a.npy", logits)
        data = (tmp_path / "a.npy").read_bytes().replace(b"(12, 7)", b"(99, 7)")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("logits.npy", data)
        with pytest.raises(ValueError, match=r"do not fit its shape \(99, 7\)"):
            open_logits(path)
        np.savez(path, logits=logits, tokens=np.arange(13))
        with pytest.raises(ValueError, match=r"member 'tokens' is int64 .* expected 12 integers"):
            open_logits(path)
        np.savez(path, logits=np.asfortranarray(logits))
        with pytest.raises(ValueError, match="Fortran order"):
            open_logits(path)


class TestHdf5:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("options", [{}, {"chunks": (1, 3, 7), "compression": "gzip"}])
    def test_rows(self, tmp_path, logits, columns, dtype, options):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("logits", data=logits.astype(dtype).reshape(3, 4, 7), **options)
            file["other"] = np.zeros((2, 2))
            for name, values in columns.items():
                file[name] = values
        with open_logits(tmp_path / "a.h5") as source:
            check_rows(source, logits.astype(dtype))
            check_columns(source, columns)

    def test_choice_and_bfloat16(self, tmp_path, logits):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["run/x"] = logits.astype(">f4")
            file["run/y"] = logits.astype(ml_dtypes.bfloat16).view(np.uint16)
            for name in ("float8_e4m3fn", "float8_e5m2"):
                file["run/" + name] = logits.astype(getattr(ml_dtypes, name)).view(np.uint8)
        with open_logits(tmp_path / "a.h5") as source:
            check_rows(source, logits)
        for name in ("float8_e4m3fn", "float8_e5m2"):
            with open_logits(tmp_path / "a.h5", tensor="/run/" + name, dtype=name) as source:
                check_rows(source, logits.astype(getattr(ml_dtypes, name)))
        with open_logits(tmp_path / "a.h5", tensor="/run/y", dtype="bfloat16") as source:
            check_rows(source, logits.astype(ml_dtypes.bfloat16))

    def test_damaged(self, tmp_path, logits):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["a"], file["b"] = logits, logits
        with pytest.raises(ValueError, match="no array 'logits'; it holds a, b"):
            open_logits(path)
        with h5py.File(path, "w") as file:
            file["logits"], file["tokens"] = logits, np.arange(11)
        with pytest.raises(ValueError, match="tokens has 11 values, expected 12"):
            open_logits(path)
        os.truncate(path, 1000)
        with pytest.raises(ValueError, match="not a readable HDF5 file"):
            open_logits(path)

    def test_replaced_while_open(self, tmp_path, logits):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["logits"] = logits
        with open_logits(tmp_path / "a.h5") as source:
            (tmp_path / "b").write_bytes((tmp_path / "a.h5").read_bytes())
            os.replace(tmp_path / "b", tmp_path / "a.h5")
            with pytest.raises(OSError, match="replaced or modified"):
                source.rows(0, 1)


class TestZarr:
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_rows(self, tmp_path, logits, columns, dtype, zarr_format):
        group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
        for name, values in {"logits": logits.astype(dtype).reshape(3, 4, 7), **columns}.items():
            group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(2, 3, 7)[: values.ndim])[:] = (
                values
            )
        source = open_logits(tmp_path / "a.zarr")
        check_rows(source, logits.astype(dtype))
        check_columns(source, columns)

    def test_array_alone_and_bfloat16(self, tmp_path, logits):
        words = logits.astype(ml_dtypes.bfloat16).view(np.uint16)
        zarr.create_array(tmp_path / "a", data=words, chunks=(5, 4))
        check_rows(open_logits(tmp_path / "a", dtype="bfloat16"), logits.astype(ml_dtypes.bfloat16))

    def test_missing_chunks_are_not_zeros(self, tmp_path, logits):
        zarr.create_array(tmp_path / "a", data=logits, chunks=(5, 7))
        (tmp_path / "a" / "c" / "1" / "0").unlink()
        with pytest.raises(ValueError, match=r"5 of its 12 rows were never written \(rows 5 to 10\); salvage=True"):
            open_logits(tmp_path / "a")
        source = open_logits(tmp_path / "a", salvage=True)
        np.testing.assert_array_equal(source.rows(0, 5), logits[:5])
        assert np.isnan(source.rows(5, 10)).all()
        assert source.facts()["unwritten_rows"] == [[5, 10]]

    def test_damaged(self, tmp_path, logits):
        zarr.create_array(tmp_path / "a", data=logits, chunks=(5, 7))
        source = open_logits(tmp_path / "a")
        os.truncate(tmp_path / "a" / "c" / "1" / "0", 9)
        with pytest.raises(OSError, match="rows 6 to 7 cannot be read"):
            source.rows(6, 7)
        (tmp_path / "a" / "zarr.json").write_text("{")
        with pytest.raises(ValueError, match="not a readable zarr array or group"):
            open_logits(tmp_path / "a")


def arrow_table(logits, columns, kind="list") -> pa.Table:
    flat = pa.array(logits.reshape(-1))
    lists = {
        "list": lambda: pa.ListArray.from_arrays(np.arange(0, logits.size + 1, logits.shape[1], np.int32), flat),
        "large": lambda: pa.LargeListArray.from_arrays(np.arange(0, logits.size + 1, logits.shape[1]), flat),
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(flat, logits.shape[1]),
    }
    return pa.table({"logits": lists[kind](), "note": ["x"] * len(logits), **columns})


def write_ipc(table, path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_stream(table, path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


def write_parquet(table, path) -> None:
    pq.write_table(table, path, row_group_size=5)


class TestArrow:
    @pytest.mark.parametrize("write", [write_parquet, write_ipc, write_stream])
    @pytest.mark.parametrize("kind", ["list", "large", "fixed"])
    @pytest.mark.parametrize("dtype", FLOATS)
    def test_rows(self, tmp_path, logits, columns, write, kind, dtype):
        write(arrow_table(logits.astype(dtype), columns, kind), tmp_path / "a")
        with open_logits(tmp_path / "a") as source:
            check_rows(source, logits.astype(dtype))
            check_columns(source, columns)

    @pytest.mark.parametrize("write", [write_parquet, write_ipc, write_stream])
    def test_long_row_groups_are_read_in_order_and_from_anywhere(self, tmp_path, columns, write):
        logits = np.random.default_rng(5).normal(size=(1000, 3)).astype(np.float32)
        table = arrow_table(logits, {})
        if write is write_parquet:
            pq.write_table(table, tmp_path / "a")
        else:
            write(table, tmp_path / "a")
        with open_logits(tmp_path / "a") as source:
            for start, stop in [(0, 10), (10, 300), (300, 301), (700, 1000), (150, 152)]:
                np.testing.assert_array_equal(source.rows(start, stop), logits[start:stop])

    @pytest.mark.parametrize("write", [write_parquet, write_ipc, write_stream])
    def test_damaged(self, tmp_path, logits, columns, write):
        write(arrow_table(logits, columns), tmp_path / "a")
        data = (tmp_path / "a").read_bytes()
        (tmp_path / "a").write_bytes(data[:400])
        with pytest.raises(ValueError, match="not a readable Arrow or Parquet file"):
            open_logits(tmp_path / "a")

    def test_refused_tables(self, tmp_path):
        for table, message in [
            (pa.table({"logits": [[1.0, 2.0], [3.0]]}), "lists of unequal length in 'logits'"),
            (pa.table({"logits": [[1.0, None], [3.0, 4.0]]}), "nulls or lists of unequal length"),
            (pa.table({"logits": [[1, 2]]}), "holds int64"),
            (pa.table({"a": [[1.0]], "b": [[1.0]]}), "no array 'logits'; it holds a, b"),
            (pa.table({"a": [1.0]}), "it holds none"),
            (pa.table({"logits": [[1.0]], "tokens": [1.5]}), "column 'tokens' is double"),
            (pa.table({"logits": pa.array([], pa.list_(pa.float32()))}), "no rows"),
        ]:
            pq.write_table(table, tmp_path / "a.parquet")
            with pytest.raises(ValueError, match=message):
                open_logits(tmp_path / "a.parquet")

    def test_lists_of_another_length_later(self, tmp_path):
        pq.write_table(pa.table({"logits": [[1.0, 2.0]] * 70 + [[1.0]] * 70}), tmp_path / "a", row_group_size=70)
        with (
            open_logits(tmp_path / "a") as source,
            pytest.raises(ValueError, match=r"unequal length|length 1 and others"),
        ):
            source.rows(0, 140)


class TestFolders:
    def test_rows_of_exllamav3(self, tmp_path, logits):
        halves = logits.astype(np.float16)
        for i in range(3):
            row = {"logits": halves[4 * i : 4 * i + 4][None]}
            safetensors.numpy.save_file(row, tmp_path / f"row_{i:06d}.safetensors")
        safetensors.numpy.save_file({"conf": np.zeros(12, np.float32)}, tmp_path / "conf.safetensors")
        safetensors.numpy.save_file({"kl": np.zeros(12, np.float32)}, tmp_path / "kl_x.safetensors")
        source = open_logits(tmp_path)
        check_rows(source, halves)
        np.testing.assert_array_equal(source.groups, np.repeat([0, 1, 2], 4))
        assert source.facts()["parts"] == 3

    def test_windows_of_vllm(self, tmp_path, logits):
        for i in range(12):  # 10 comes after 9
            safetensors.numpy.save_file({"logits": logits[i : i + 1]}, tmp_path / f"logits_{i}.safetensors")
        check_rows(open_logits(tmp_path), logits)
        (tmp_path / "logits_7.safetensors").unlink()
        with pytest.raises(ValueError, match=r"between logits_6\.safetensors and logits_8\.safetensors are missing"):
            open_logits(tmp_path)
        check_rows(open_logits(tmp_path, salvage=True), logits[np.arange(12) != 7])

    def test_tokens_of_all_shards(self, tmp_path, logits, columns):
        for name, rows in [("train-00000-of-00002", slice(0, 5)), ("train-00001-of-00002", slice(5, 12))]:
            write_parquet(
                arrow_table(logits[rows], {k: v[rows] for k, v in columns.items()}),
                tmp_path / f"{name}.parquet",
            )
        (tmp_path / "README.md").write_text("notes")
        with open_logits(tmp_path) as source:
            check_rows(source, logits)
            np.testing.assert_array_equal(source.tokens, columns["tokens"])

    def test_refused_folders(self, tmp_path, logits):
        with pytest.raises(ValueError, match="no file of a known format"):
            open_logits(tmp_path)
        np.save(tmp_path / "a.npy", logits)
        np.save(tmp_path / "b.npy", logits[:, :6])
        with pytest.raises(ValueError, match=r"b\.npy holds rows of 6 x float32, expected 7 x float32"):
            open_logits(tmp_path)
        np.savez(tmp_path / "c.npz", logits)
        with pytest.raises(ValueError, match=r"files of several formats \(\.npy, \.npz\)"):
            open_logits(tmp_path)


class TestUrls:
    @pytest.fixture
    def memory(self):
        system = fsspec.filesystem("memory")
        yield system
        system.rm("/", recursive=True)

    def copy(self, folder, system) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                system.pipe(f"/data/{path.relative_to(folder)}", path.read_bytes())

    def test_every_format(self, tmp_path, logits, columns, memory):
        np.save(tmp_path / "a.npy", logits)
        np.savez_compressed(tmp_path / "b.npz", logits=logits)
        safetensors.numpy.save_file({"logits": logits}, tmp_path / "c.safetensors")
        write_parquet(arrow_table(logits, columns), tmp_path / "d.parquet")
        write_ipc(arrow_table(logits, columns), tmp_path / "e.arrow")
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["logits"] = logits
        zarr.create_array(tmp_path / "g.zarr", data=logits, chunks=(5, 7))
        for i in range(12):
            (tmp_path / "h").mkdir(exist_ok=True)
            np.save(tmp_path / "h" / f"{i}.npy", logits[i : i + 1])
        self.copy(tmp_path, memory)
        for name in ["a.npy", "b.npz", "c.safetensors", "d.parquet", "e.arrow", "f.h5", "g.zarr", "h"]:
            with open_logits(f"memory://data/{name}") as source:
                check_rows(source, logits)

    def test_shrunk_meanwhile(self, tmp_path, logits, memory):
        np.save(tmp_path / "a.npy", logits)
        self.copy(tmp_path, memory)
        source = open_logits("memory://data/a.npy")
        memory.pipe("/data/a.npy", (tmp_path / "a.npy").read_bytes()[:200])
        with pytest.raises(OSError, match="replaced or modified since it was opened"):
            source.rows(11, 12)

    def test_missing(self, memory):
        with pytest.raises(FileNotFoundError):
            open_logits("memory://data/none.npy")


@pytest.mark.parametrize(
    ("module", "name"),
    [("h5py", "HDF5"), ("zarr", "zarr"), ("pyarrow", "Arrow and Parquet"), ("fsspec", "memory://x")],
)
def test_missing_library_names_the_extra(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    content = {"h5py": b"\x89HDF\r\n\x1a\n", "pyarrow": b"PAR1"}.get(module, b"{}")
    path = "memory://x" if module == "fsspec" else tmp_path / "a"
    if module == "zarr":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "zarr.json").write_bytes(content)
    elif module != "fsspec":
        path.write_bytes(content)
    with pytest.raises(ImportError, match=re.escape(f"needs {module}: pip install kullback[files]")) as error:
        open_logits(path)
    assert name in str(error.value)
