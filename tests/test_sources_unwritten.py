"""What HDF5 and zarr read as zeros: chunks nobody wrote, files elsewhere, chunks that disappear meanwhile."""

import json
import os

import h5py
import numpy as np
import pytest
import zarr
from test_sources import check_rows

from kullback.cli import main
from kullback.evaluation.job import compare_files
from kullback.evaluation.sources import open_logits, unwritten

T, V, DONE = 40, 6, 17  # a job that was killed after 17 of 40 rows


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 3, (T, V)).astype(np.float32)


def hdf5(path, logits, rows, **options):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("logits", shape=logits.shape, dtype=logits.dtype, **options)
        dataset[rows] = logits[rows]


def zarr_array(path, logits, rows, **options):
    zarr.create_array(path, shape=logits.shape, dtype=logits.dtype, **options)[rows] = logits[rows]


KINDS = [
    pytest.param(hdf5, {"chunks": (1, V)}, (DONE, T), id="hdf5"),
    pytest.param(hdf5, {"chunks": (5, 4), "compression": "gzip"}, (20, T), id="hdf5, columns"),
    pytest.param(zarr_array, {"chunks": (1, V)}, (DONE, T), id="zarr"),
    pytest.param(zarr_array, {"chunks": (5, 4)}, (20, T), id="zarr, columns"),
    pytest.param(zarr_array, {"chunks": (1, V), "zarr_format": 2}, (DONE, T), id="zarr 2"),
    pytest.param(zarr_array, {"chunks": (1, 3), "shards": (8, 6)}, (DONE, T), id="zarr, shards"),
    pytest.param(
        zarr_array,
        {"chunks": (2, 6), "shards": {"shape": (8, 6), "index_location": "start"}},
        (18, T),
        id="zarr, index first",
    ),
]


@pytest.mark.parametrize(("write", "options", "missing"), KINDS)
def test_a_job_that_was_killed(tmp_path, logits, write, options, missing, capsys):
    """Not zeros: an error that names the rows, or NaN where they are asked for, counted as undefined."""
    write(tmp_path / "p", logits, slice(0, DONE), **options)
    np.save(tmp_path / "q.npy", logits)
    found = f"{missing[1] - missing[0]} of its 40 rows were never written \\(rows {missing[0]} to {missing[1]}\\)"
    with pytest.raises(ValueError, match=found):
        open_logits(tmp_path / "p")
    assert main(["compare", str(tmp_path / "p"), str(tmp_path / "q.npy"), "--quiet"]) == 2
    assert "never written" in " ".join(capsys.readouterr().err.split())
    with open_logits(tmp_path / "p", salvage=True) as source:
        assert source.facts()["unwritten_rows"] == [list(missing)]
        rows = source.rows(0, T)
        np.testing.assert_array_equal(rows[:DONE], logits[:DONE])
        assert np.isnan(rows[missing[0] :]).all()
        assert np.isnan(source.rows(missing[0], missing[0] + 1)).all()
        json.dumps(source.facts())
    summary = compare_files(tmp_path / "p", tmp_path / "q.npy", salvage=True)
    assert summary.kl.undefined == T - missing[0]
    write(tmp_path / "whole", logits, slice(0, T), **options)
    with open_logits(tmp_path / "whole") as source:
        check_rows(source, logits)
        assert "unwritten_rows" not in source.facts()


def test_the_middle_of_batches(tmp_path, logits):
    """(B, T, V): rows count through the batches; what lies between two that were written is told."""
    cube = logits.reshape(5, 8, V)
    for write, name in ((hdf5, "h"), (zarr_array, "z")):
        write(tmp_path / name, cube, np.s_[[0, 2, 4]], chunks=(1, 4, V))
        with pytest.raises(ValueError, match=r"16 of its 40 rows were never written \(rows 8 to 16, 24 to 32\)"):
            open_logits(tmp_path / name)
        rows = open_logits(tmp_path / name, salvage=True).rows(4, 36)
        absent = np.r_[4:12, 20:28]
        assert np.isnan(rows[absent]).all()
        np.testing.assert_array_equal(np.delete(rows, absent, 0), np.delete(logits[4:36], absent, 0))


def test_a_dataset_that_nobody_wrote(tmp_path, logits):
    hdf5(tmp_path / "a", logits, slice(0, 0))  # not chunked: its space is taken with the first row
    with pytest.raises(ValueError, match=r"40 of its 40 rows were never written"):
        open_logits(tmp_path / "a")


def test_rows_by_brute_force():
    """`written_rows` and `ranges` against a loop over elements."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        ndim = rng.integers(2, 4)
        shape, chunk = rng.integers(1, 9, ndim), rng.integers(1, 6, ndim)
        grid = [range(0, n, c) for n, c in zip(shape, chunk, strict=True)]
        origins = [at for at in np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, ndim) if rng.random() < 0.8]
        there = np.zeros(shape, bool)
        for at in origins:
            there[tuple(slice(a, a + c) for a, c in zip(at, chunk, strict=True))] = True
        expected = there.all(axis=-1).reshape(-1)
        got = unwritten.written_rows(shape.tolist(), chunk.tolist(), [tuple(at.tolist()) for at in origins])
        np.testing.assert_array_equal(np.ones(len(expected), bool) if got is None else got, expected)
        listed = [i for a, b in unwritten.ranges(expected) for i in range(a, b)]
        assert listed == np.flatnonzero(~expected).tolist()


class TestColumns:
    def test_tokens_that_were_not_written(self, tmp_path, logits):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["logits"] = logits
            file.create_dataset("tokens", shape=(T,), dtype=np.int64, chunks=(8,))[:20] = 3
        with pytest.raises(ValueError, match=r"'tokens': 16 of its 40 rows were never written \(rows 24 to 40\)"):
            open_logits(tmp_path / "a.h5")
        group = zarr.open_group(tmp_path / "a", mode="w")
        group.create_array("logits", shape=logits.shape, dtype="f4", chunks=(8, V))[:] = logits
        group.create_array("tokens", shape=(T,), dtype=np.int64, chunks=(8,))[:20] = 3
        with pytest.raises(ValueError, match=r"tokens': 16 of its 40 rows were never written \(rows 24 to 40\)"):
            open_logits(tmp_path / "a")

    def test_group_zero_may_be_left_out(self, tmp_path, logits):
        """zarr does not store chunks of zeros."""
        group = zarr.open_group(tmp_path / "a", mode="w")
        group.create_array("logits", shape=logits.shape, dtype="f4", chunks=(8, V))[:] = logits
        group.create_array("groups", shape=(T,), dtype=np.int64, chunks=(8,))[:] = np.arange(T) // 20
        np.testing.assert_array_equal(open_logits(tmp_path / "a").groups, np.arange(T) // 20)


class TestFilesElsewhere:
    """A file says that its values lie in another one: whoever made it would choose what is read."""

    def test_external_storage(self, tmp_path):
        (tmp_path / "secret").write_bytes(os.urandom(8 * 4 * V))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("logits", shape=(8, V), dtype="<f4", external=external)
        with pytest.raises(ValueError, match="'/logits' is stored externally: its values lie in other files"):
            open_logits(tmp_path / "a.h5")
        assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "out.npy"), "--quiet"]) == 2
        assert not (tmp_path / "out.npy").exists()

    def test_external_tokens(self, tmp_path, logits):
        (tmp_path / "secret").write_bytes(bytes(8 * T))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["logits"] = logits
            file.create_dataset("tokens", shape=(T,), dtype="<i8", external=[(str(tmp_path / "secret"), 0, 8 * T)])
        with pytest.raises(ValueError, match="'tokens' is stored externally"):
            open_logits(tmp_path / "a.h5")

    @pytest.mark.parametrize("name", ["logits", "tokens", "groups"])
    def test_links(self, tmp_path, logits, name):
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["logits"], file["tokens"], file["groups"] = logits, np.arange(T) % V, np.zeros(T, int)
        for link in (h5py.ExternalLink(str(tmp_path / "other.h5"), f"/{name}"), h5py.SoftLink("/outside/x")):
            with h5py.File(tmp_path / "a.h5", "w") as file:
                if name != "logits":
                    file["logits"] = logits
                file["outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
                file[name] = link
            with pytest.raises(ValueError, match=f"'{name}' is a link, which may lead to other files"):
                open_logits(tmp_path / "a.h5")
            with pytest.raises(ValueError, match=r"is a link|no array 'outside/logits'"):
                open_logits(tmp_path / "a.h5", tensor="outside/logits")

    def test_virtual(self, tmp_path, logits):
        """Sources that are missing would be zeros."""
        layout = h5py.VirtualLayout(shape=logits.shape, dtype="f4")
        layout[:20] = h5py.VirtualSource(str(tmp_path / "missing.h5"), "logits", shape=(20, V))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_virtual_dataset("logits", layout)
        for salvage in (False, True):
            with pytest.raises(ValueError, match="'/logits' is virtual: its values lie in other files"):
                open_logits(tmp_path / "a.h5", salvage=salvage)


@pytest.mark.parametrize("options", [{"chunks": (5, 4)}, {"chunks": (1, 3), "shards": (8, 6)}])
@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_chunks_that_change_while_they_are_read(tmp_path, logits, options, change):
    zarr_array(tmp_path / "a", logits, slice(0, T), **options)
    source = open_logits(tmp_path / "a")
    np.testing.assert_array_equal(source.rows(0, T), logits)
    chunk = tmp_path / "a" / "c" / "1" / "0"
    if change == "gone":
        chunk.unlink()
    else:
        chunk.write_bytes((tmp_path / "a" / "c" / "0" / "0").read_bytes())
    with pytest.raises(OSError, match=r"disappeared since|replaced or modified since"):
        source.rows(0, T)
    np.testing.assert_array_equal(source.rows(0, 5), logits[:5])  # from chunks that are as they were


def test_a_pipe_among_the_chunks(tmp_path, logits):
    zarr_array(tmp_path / "a", logits, slice(0, T), chunks=(5, V))
    for name in ("c/0/0", "zarr.json"):
        (tmp_path / "a" / name).unlink()
        os.mkfifo(tmp_path / "a" / name)
        with pytest.raises(ValueError, match="is a pipe or device, expected a regular file"):
            open_logits(tmp_path / "a")
