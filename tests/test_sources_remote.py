"""Files behind web servers that serve, stall, lie and change; what tells a resumed job that a file is another."""

import http.server
import os
import re
import shutil
import threading
import time

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr
from test_sources import check_rows

from kullback.cli import main
from kullback.evaluation.job import compare_files
from kullback.evaluation.sources import http as reader, open_logits

ROWS = np.random.default_rng(0).normal(0, 3, (12, 7)).astype(np.float32)


class Handler(http.server.BaseHTTPRequestHandler):
    """Ranges of the server's `files`, with its `faults`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        fault = server.fault
        data = server.files.get(self.path)
        if data is None or fault == "error":
            self.send_error(404 if data is None else 503)
            return
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        part = data[first : last + 1]
        if not part:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "no ranges":
            part = data
        if fault == "stall" and first:
            server.stalled.wait(20)
        if fault == "other range":
            first += 1
        self.send_response(200 if fault == "no ranges" else 206)
        if fault != "no ranges":
            total = len(data) + 8 if fault == "other size" else len(data)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if fault == "short" and len(part) > 1:
            self.close_connection = True
            part = part[:-1]
        if fault == "drip" and len(part) > 1:
            for i in range(len(part)):
                if server.stalled.wait(0.02):
                    return
                self.wfile.write(part[i : i + 1])
                self.wfile.flush()
            return
        self.wfile.write(part)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.fault, server.etag, server.stalled = {}, "", '"1"', threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stalled.set()
        server.shutdown()
        thread.join()


def test_every_format(server, tmp_path):
    """In ranges, with nothing but the standard library."""
    np.save(tmp_path / "a.npy", ROWS)
    np.savez_compressed(tmp_path / "b.npz", logits=ROWS)
    np.savez(tmp_path / "c.npz", logits=ROWS)
    safetensors.numpy.save_file({"logits": ROWS}, tmp_path / "d.safetensors")
    table = pa.table({"logits": ROWS.tolist()}, pa.schema([("logits", pa.list_(pa.float32()))]))
    pq.write_table(table, tmp_path / "e.parquet")
    with pa.OSFile(str(tmp_path / "f.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["logits"] = ROWS
    for path in tmp_path.iterdir():
        server.files[f"/{path.name}"] = path.read_bytes()
        with open_logits(f"{server.url}/{path.name}") as source:
            check_rows(source, ROWS)


@pytest.fixture
def served(server, tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    server.files["/a.npy"] = (tmp_path / "a.npy").read_bytes()
    return server, f"{server.url}/a.npy"


def test_missing_and_empty(server):
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_logits(f"{server.url}/none.npy")
    server.files["/empty.npy"] = b""
    with pytest.raises(ValueError, match="no reader knows"):
        open_logits(f"{server.url}/empty.npy")
    with pytest.raises(OSError, match="cannot be read"):
        open_logits("http://127.0.0.1:9/a.npy")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error", "the server answers 503"),
        ("no ranges", "knows no ranges; download the file"),
        ("other range", "the server sent 'bytes 129-"),
        ("other size", "replaced or modified since it was opened"),
        ("short", "bytes came back where 336 were asked for|cannot be read"),
    ],
)
def test_answers_that_are_not_the_range(served, fault, message):
    server, url = served
    source = open_logits(url)
    np.testing.assert_array_equal(source.rows(0, 12), ROWS)
    server.fault = fault
    with pytest.raises(OSError, match=message):
        source.rows(0, 12)
    server.fault = ""
    np.testing.assert_array_equal(source.rows(0, 12), ROWS)


@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_a_server_that_stalls(served, fault, monkeypatch):
    """Nothing at all, or a byte now and then: an error after the time limit."""
    server, url = served
    source = open_logits(url)
    server.fault = fault
    monkeypatch.setattr(reader, "TIME_LIMIT", 0.3)
    began = time.monotonic()
    with pytest.raises(OSError, match=r"sent nothing for 0\.3 seconds|bytes after 0\.3 seconds|timed out"):
        source.rows(0, 12)
    assert time.monotonic() - began < 5


def test_content_that_changes(served):
    """Of equal size: the ETag tells; where the server has none, nothing does, and the size still counts."""
    server, url = served
    source = open_logits(url)
    server.etag = '"2"'
    with pytest.raises(OSError, match="replaced or modified since it was opened"):
        source.rows(0, 12)
    server.etag = None
    source = open_logits(url)
    server.files["/a.npy"] += b"x"
    with pytest.raises(OSError, match="replaced or modified since it was opened"):
        source.rows(0, 12)


def test_objects_that_change():
    system = fsspec.filesystem("memory")
    try:
        for data in (ROWS, ROWS + 1):
            with system.open("/x/a.npy", "wb") as file:
                np.save(file, data)
            if data is ROWS:
                source = open_logits("memory://x/a.npy")
                np.testing.assert_array_equal(source.rows(0, 12), ROWS)
        with pytest.raises(OSError, match="replaced or modified since it was opened"):
            source.rows(0, 12)
    finally:
        system.rm("/", recursive=True)


class TestResume:
    """A log goes on only over what it began with: everything that is read, not the name at the top."""

    def refused(self, p, q, log, **options):
        with pytest.raises(ValueError, match=r"of another job \(`files\[\d\]\.\w+` is"):
            compare_files(p, q, checkpoint=log, resume=True, **options)

    def test_same_size_and_time(self, tmp_path):
        p, q, log = (tmp_path / name for name in ("p.npy", "q.npy", "log"))
        np.save(p, ROWS)
        np.save(q, ROWS[::-1])
        compare_files(p, q, checkpoint=log)
        compare_files(p, q, checkpoint=log, resume=True)
        status = os.stat(q)
        np.save(q, ROWS + 1)
        os.utime(q, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert os.stat(q).st_size == status.st_size
        self.refused(p, q, log)

    def test_a_shard_of_a_folder(self, tmp_path):
        (tmp_path / "q").mkdir()
        np.save(tmp_path / "p.npy", ROWS)
        for i in range(3):
            np.save(tmp_path / "q" / f"{i}.npy", ROWS[4 * i : 4 * i + 4])
        compare_files(tmp_path / "p.npy", tmp_path / "q", checkpoint=tmp_path / "log")
        compare_files(tmp_path / "p.npy", tmp_path / "q", checkpoint=tmp_path / "log", resume=True)
        np.save(tmp_path / "q" / "1.npy", ROWS[:4])
        self.refused(tmp_path / "p.npy", tmp_path / "q", tmp_path / "log")

    def test_a_chunk_of_zarr(self, tmp_path):
        np.save(tmp_path / "p.npy", ROWS)
        array = zarr.create_array(tmp_path / "q", data=ROWS, chunks=(4, 7))
        compare_files(tmp_path / "p.npy", tmp_path / "q", checkpoint=tmp_path / "log")
        compare_files(tmp_path / "p.npy", tmp_path / "q", checkpoint=tmp_path / "log", resume=True)
        array[4:8] = ROWS[:4]
        self.refused(tmp_path / "p.npy", tmp_path / "q", tmp_path / "log")

    def test_the_output_layer(self, tmp_path):
        np.save(tmp_path / "p.npy", ROWS)
        np.save(tmp_path / "q.npy", ROWS[::-1])
        np.save(tmp_path / "w.npy", np.eye(7))
        options = {"lm_head": tmp_path / "w.npy", "norm": "applied"}
        compare_files(tmp_path / "p.npy", tmp_path / "q.npy", checkpoint=tmp_path / "log", **options)
        compare_files(tmp_path / "p.npy", tmp_path / "q.npy", checkpoint=tmp_path / "log", resume=True, **options)
        np.save(tmp_path / "w.npy", 2 * np.eye(7))
        self.refused(tmp_path / "p.npy", tmp_path / "q.npy", tmp_path / "log", **options)

    def test_behind_a_url(self, served, tmp_path):
        server, url = served
        np.save(tmp_path / "p.npy", ROWS[::-1])
        compare_files(tmp_path / "p.npy", url, checkpoint=tmp_path / "log")
        compare_files(tmp_path / "p.npy", url, checkpoint=tmp_path / "log", resume=True)
        server.etag = '"2"'
        self.refused(tmp_path / "p.npy", url, tmp_path / "log")

    def test_copies_still_merge(self, tmp_path):
        """Parts may have been computed on copies: of equal size, with times of their own."""
        for machine, rows in (("a", "0:5"), ("b", "5:12")):
            folder = tmp_path / machine
            folder.mkdir()
            np.save(folder / "p.npy", ROWS)
            np.save(folder / "q.npy", ROWS[::-1])
            log = ["--checkpoint", str(tmp_path / f"{machine}.log"), "--rows", rows, "--quiet"]
            assert main(["compare", str(folder / "p.npy"), str(folder / "q.npy"), *log]) == 0
        shutil.rmtree(tmp_path / "a")
        assert main(["merge", str(tmp_path / "a.log"), str(tmp_path / "b.log")]) == 0
