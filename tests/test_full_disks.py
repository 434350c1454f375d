"""Disks that fill up and files that change: one line of error, nothing half-written, nothing of the user's lost."""

import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest

ROWS = np.random.default_rng(0).normal(0, 3, (4000, 40)).astype(np.float32)
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is always full")


@pytest.fixture
def pair(tmp_path):
    np.save(tmp_path / "p.npy", ROWS)
    np.save(tmp_path / "q.npy", ROWS + 0.1 * ROWS[::-1])
    return tmp_path


def kullback(folder, *arguments, most_bytes=None, memory=None, stdout=subprocess.PIPE):
    """The command in that folder, where no file may grow beyond `most_bytes`: it fails as on a full disk."""

    def limit():
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return subprocess.run(
        [sys.executable, "-m", "kullback.cli", *arguments],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "p.npy", "q.npy", "--json", "out"),
        ("compare", "p.npy", "q.npy", "--html", "out"),
        ("compare", "p.npy", "q.npy", "--per-token", "out"),
        ("convert", "p.npy", "out.safetensors"),
        ("convert", "p.npy", "out.npy"),
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_a_full_disk_is_one_line_and_leaves_nothing(pair, arguments):
    done = kullback(pair, *arguments, "--quiet", most_bytes=1000)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("kullback: ")
    assert "out" in done.stderr.split(": ")[1]  # which file it was
    assert "too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(pair)) == ["p.npy", "q.npy"]


@pytest.mark.parametrize("rows", ["0:20", "0:1000", "0:70000"])
@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_tokens_on_a_full_disk_are_one_line(tmp_path, rows, name):
    """Whether the footer finds no room, the rows that are written last, or earlier ones and then the footer too."""
    np.save(tmp_path / "p.npy", np.zeros((70_000, 2), np.float32))
    np.save(tmp_path / "q.npy", np.full((70_000, 2), [3, 5], np.float32))
    arguments = ("compare", "p.npy", "q.npy", "--per-token", name, "--rows", rows, "--quiet")
    done = kullback(tmp_path, *arguments, most_bytes=1000)
    assert (done.returncode, done.stderr) == (3, f"kullback: {tmp_path / name}: File too large\n")
    assert sorted(os.listdir(tmp_path)) == ["p.npy", "q.npy"]


def test_what_stood_there_is_kept(pair):
    (pair / "out.npy").write_text("mine")
    assert kullback(pair, "convert", "p.npy", "out.npy", "--quiet", "--force", most_bytes=1000).returncode == 3
    assert (pair / "out.npy").read_text() == "mine"


def test_a_checkpoint_on_a_full_disk_can_be_resumed(pair):
    """The log stops where the disk ended; with room again the job goes on to the same result."""
    log = ("--checkpoint", "log", "--resume", "--chunk-mib", "1", "--quiet", "--json", "-")
    done = kullback(pair, "compare", "p.npy", "q.npy", *log, most_bytes=60_000)
    assert done.returncode == 3, done.stderr
    assert done.stderr == "kullback: log: File too large\n"
    assert 0 < (pair / "log").stat().st_size <= 60_000
    resumed = kullback(pair, "compare", "p.npy", "q.npy", *log)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == kullback(pair, "compare", "p.npy", "q.npy", "--json", "-", "--quiet").stdout


@FULL
@pytest.mark.parametrize("arguments", [("info", "p.npy"), ("compare", "p.npy", "q.npy", "--json", "-", "--quiet")])
def test_full_standard_output(pair, arguments):
    with open("/dev/full", "w") as full:
        done = kullback(pair, *arguments, stdout=full)
    assert done.returncode == 3
    assert done.stderr == "kullback: standard output: No space left on device\n"


@FULL
def test_devices_are_written_not_replaced(pair):
    """--json /dev/null must not put a file in the place of the device, which root could."""
    done = kullback(pair, "compare", "p.npy", "q.npy", "--json", "/dev/full", "--quiet")
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert kullback(pair, "compare", "p.npy", "q.npy", "--json", "/dev/null", "--quiet").returncode == 0
    out = kullback(pair, "compare", "p.npy", "q.npy", "--json", "/dev/stdout", "--quiet")
    assert out.stdout.startswith("{")
    for name in ("/dev/full", "/dev/null"):
        assert stat.S_ISCHR(os.stat(name).st_mode)


def test_a_symbolic_link_is_followed(pair):
    (pair / "elsewhere").mkdir()
    (pair / "out.npy").symlink_to("elsewhere/real.npy")
    assert kullback(pair, "convert", "p.npy", "out.npy", "--quiet").returncode == 0
    assert (pair / "out.npy").is_symlink()
    np.testing.assert_array_equal(np.load(pair / "elsewhere" / "real.npy"), ROWS)


def test_too_little_memory_is_one_line(pair):
    """Chunks larger than the address space allows: a clean error, not a kill."""
    with open(pair / "big.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (4096, 1 << 20)})
        file.truncate(file.tell() + (4096 << 22))
    command = ("compare", "big.npy", "big.npy", "--quiet", "--threads", "1", "--chunk-mib", "8192")
    done = kullback(pair, *command, memory=3 << 30)
    assert done.returncode == 3, done.stderr
    suspicious, error = done.stderr.splitlines()
    assert "the same numbers" in suspicious
    assert error.startswith("kullback: not enough memory")
