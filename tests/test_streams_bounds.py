"""Streams that claim much, writers that are fast or silent: memory and waiting are bounded."""

import array
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from streaming import TIMEOUT, run

from kullback.evaluation.job import compare_files
from kullback.evaluation.sources import llama_cpp, open_logits


@pytest.mark.parametrize("kind", ["npy", "kld", "safetensors"])
def test_headers_that_claim_beyond_reason(tmp_path, kind):
    """Nothing tells the size of a stream: what its header says is bounded, and room made when bytes are there."""
    shape = 1 << 40, 3
    npy = {"descr": "<f4", "fortran_order": False, "shape": shape}
    json_header = json.dumps({"logits": {"dtype": "F32", "shape": shape, "data_offsets": [0, 3 << 42]}}).encode()
    os.mkfifo(tmp_path / "P")
    with open(os.open(tmp_path / "P", os.O_RDWR), "wb", buffering=0) as file:
        if kind == "npy":
            np.lib.format.write_array_header_1_0(file, npy)
        elif kind == "kld":
            file.write(llama_cpp.MAGIC + np.array([1 << 20, 3, 1 << 20], "<i4").tobytes())
        else:
            file.write(len(json_header).to_bytes(8, "little") + json_header)
        with pytest.raises(ValueError, match=r"claims \d+ rows of 12 bytes|expected at most \d+ tokens in all"):
            open_logits(tmp_path / "P")


def test_a_fast_writer_waits_for_us(tmp_path):
    """What is read ahead is bounded: four chunks, and what the pipe holds."""
    data = np.zeros((4000, 1000), np.float32)
    np.save(tmp_path / "q.npy", data)
    os.mkfifo(tmp_path / "P")
    size, written = data.nbytes, [0]

    def write():
        with open(tmp_path / "P", "wb", buffering=0) as file:
            whole = memoryview((tmp_path / "q.npy").read_bytes())
            while whole:
                count = file.write(whole[: 1 << 16])
                whole, written[0] = whole[count:], written[0] + count

    threading.Thread(target=write, daemon=True).start()
    seen = []

    def progress(done, total):
        if done and not seen:
            before = -1
            while written[0] != before:  # until it has come to a stop
                before = written[0]
                time.sleep(0.1)
            seen.append(before)

    compare_files(tmp_path / "P", tmp_path / "q.npy", chunk_bytes=1 << 20, progress=progress)
    assert seen[0] < size / 2
    assert written[0] >= size


# writes what it is told, as rows of one number after the other, so that the pages of a file are in nobody's memory
WRITER = """
import sys
import numpy as np
rows, vocab = map(int, sys.argv[1:])
out = sys.stdout.buffer
np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (rows, vocab)})
block = np.random.default_rng(0).normal(0, 3, (50, vocab)).astype("<f4")
for _ in range(rows // 50):
    out.write(block)
"""
READER = """
import sys
from peak import peak
from kullback.evaluation.job import compare_files
import numpy as np
np.save(sys.argv[1], np.eye(3))
compare_files(sys.argv[1], sys.argv[1])
before = peak()
tokens = compare_files("/dev/fd/3", "/dev/fd/4", chunk_bytes=8 << 20).tokens
print(tokens, peak() - before)
"""


def test_memory(tmp_path):
    """300 MB through two pipes."""
    for name, code in (("writer.py", WRITER), ("reader.py", READER)):
        (tmp_path / name).write_text(code)
    shutil.copy(Path(__file__).parent / "peak.py", tmp_path)
    writer = "<(python writer.py 1500 25000)"
    done = run(f"python reader.py small.npy 3< {writer} 4< {writer}", tmp_path)
    assert done.returncode == 0, done.stderr
    tokens, grown = map(int, done.stdout.split())
    assert tokens == 1500
    assert grown < 100e6


def test_a_writer_that_is_killed(tmp_path):
    """Not one that ends too early of itself: its shell says so too, and the exit code is that of the reader."""
    np.save(tmp_path / "q.npy", np.zeros((50, 300), np.float32))
    (tmp_path / "writer.py").write_text(
        "import os; os.write(1, open('q.npy', 'rb').read()[: 128 + 20 * 1200 + 5]); os.kill(os.getpid(), 9)"
    )
    done = run("python writer.py | kullback compare q.npy - --json out.json --quiet", tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith(
        "kullback: -: the stream ended after 20 of 50 rows, 24133 bytes; its writer stopped too early\n"
    )
    assert not (tmp_path / "out.json").exists()


def test_an_interrupt_while_the_writer_is_silent(tmp_path):
    """No read that waits keeps the program from ending."""
    np.save(tmp_path / "q.npy", np.zeros((1000, 30), np.float32))  # more than are looked at before the work
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "kullback.cli", "compare", "-", str(tmp_path / "q.npy"), "--quiet"]
    attend = {
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    }  # ignored where tests run in the background
    with subprocess.Popen(command, stdin=reading, stderr=subprocess.PIPE, text=True, **attend) as process:
        os.close(reading)
        with open(writing, "wb", buffering=0) as pipe:
            pipe.write((tmp_path / "q.npy").read_bytes()[:-1000])
            left = array.array("i", [1])
            until = time.monotonic() + TIMEOUT
            while left[0] and time.monotonic() < until:
                time.sleep(0.05)
                fcntl.ioctl(pipe, termios.FIONREAD, left)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
            assert "interrupted" in process.stderr.read()
