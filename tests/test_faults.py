"""Trust under fire: interrupts, exhausted memory and disks, read-only homes, other libraries' floating-point modes."""

import io
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation.sources import open_logits


def run(script, timeout=300, **environment):
    """Run a script in a fresh Python process; its standard output, after it has succeeded."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_answered_promptly_and_breaks_nothing(threads):
    """Ctrl-C half a second into a long call: KeyboardInterrupt within a second, and the next call is right."""
    out = run(f"""
        import os, signal, threading, time
        import numpy as np, kullback as kb
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        p = np.random.default_rng(0).standard_normal((1, 200_000)).astype(np.float32)
        q = p + np.float32(0.01)
        expected = kb.kl_divergence(p, q[:, ::-1], given="logits")
        many = np.broadcast_to(p, (400_000, 200_000))
        threading.Timer(0.5, lambda: (times.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))).start()
        times = []
        try:
            kb.kl_divergence(many, q, given="logits", num_threads={threads})
        except KeyboardInterrupt:
            times.append(time.monotonic())
        assert len(times) == 2, times
        assert times[1] - times[0] < 1.0, times
        assert kb.kl_divergence(p, q[:, ::-1], given="logits") == expected
        assert (kb.kl_divergence(many[:64], q[:, ::-1], given="logits", num_threads={threads}) == expected).all()
        print("right")
    """)
    assert out == "right\n"


def test_more_than_two_to_the_32_elements():
    """T·V = 2^32 + 2^20: every row is served, none twice."""
    row = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float16)
    many = np.broadcast_to(row, ((1 << 12) + 1, 1 << 20))
    np.testing.assert_array_equal(kb.logsumexp(many), np.full((1 << 12) + 1, kb.logsumexp(row)))


@pytest.mark.slow
def test_a_vocabulary_beyond_two_to_the_32():
    """One row of V = 2^32 + 5: every element counts and ids are 64-bit. Pages never written cost no memory."""
    vocab = (1 << 32) + 5
    row = np.zeros(vocab, np.float16)
    row[-3] = 20
    expected = np.logaddexp(np.log(vocab - 1.0), 20.0)
    assert abs(kb.logsumexp(row) / expected - 1) < 1e-6
    assert abs(kb.token_log_probs(row[None], [vocab - 3])[0] - (20 - expected)) < 1e-5
    assert kb.token_log_probs(row[None], [vocab - 4])[0] < -22
    with pytest.raises(ValueError, match="tokens"):
        kb.token_log_probs(row[None], [vocab])


@pytest.mark.slow
def test_winners_beyond_two_to_the_31():
    """The likeliest token is the last but one of 2^31 + 5."""
    vocab = (1 << 31) + 5
    p, q = np.zeros((2, 1, vocab), np.float16)
    p[0, -2], q[0, -3] = 9, 9
    c = kb.compare(p, q, [vocab - 2])
    assert (c.top1_p[0], c.top1_q[0]) == (vocab - 2, vocab - 3)
    assert abs(c.log_ratio[0] - 9) < 1e-5


def test_offsets_beyond_two_to_the_32_bytes(tmp_path):
    """The last row of a sparse file of 6 GiB is read where it lies."""
    path = tmp_path / "sparse.bin"
    vocab, rows = 1 << 15, 1 << 16  # 128 KiB a row of float32: row 65,535 begins at 2^33 - 2^17
    with open(path, "wb") as file:
        file.truncate(rows * vocab * 4)
        last = np.random.default_rng(1).standard_normal(vocab).astype(np.float32)
        file.seek((rows - 1) * vocab * 4)
        file.write(last.tobytes())
    mapped = np.memmap(path, np.float32, "r", shape=(rows, vocab))
    got = kb.entropy(mapped[[0, rows - 1]], given="logits")
    ours = kb.entropy(mapped[:: rows - 1], given="logits")
    np.testing.assert_array_equal(ours, got)
    assert ours[1] == kb.entropy(last, given="logits")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, vocab)})
    with open(path, "r+b") as file:
        file.write(header.getvalue())
        file.truncate(len(header.getvalue()) + rows * vocab * 4)
        file.seek(-vocab * 4, os.SEEK_END)
        file.write(last.tobytes())
    np.testing.assert_array_equal(open_logits(path).rows(rows - 1, rows)[0], last)


def test_a_read_only_home_and_no_cache_directory(tmp_path):
    """Neither engine needs a place to write to."""
    out = run(
        """
        import numpy as np, kullback as kb
        print(kb.kl_divergence([0.5, 0.5], [0.9, 0.1]) > 0)
        """,
        HOME="/proc/nowhere",
        XDG_CACHE_HOME="/proc/nowhere",
        NUMBA_CACHE_DIR="/proc/nowhere",
    )
    assert out == "True\n"


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_cache(tmp_path):
    """Eight JIT processes fill an empty cache together; all are right, and what they leave serves a ninth."""
    script = """
        import kullback as kb
        print(*kb.sequence_sums([1.0, 2.0, 4.0], offsets=[0, 1, 3]))
    """
    environment = {**os.environ, "KULLBACK_ENGINE": "jit", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    for count in (8, 1):
        running = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        assert {process.communicate(timeout=300) for process in running} == {("1.0 6.0\n", "")}
        assert any(tmp_path.rglob("*.code"))


def test_a_first_call_opens_no_file_for_writing():
    """A read-only install: the compiled engine neither writes nor makes, removes or renames anything."""
    out = run(
        """
        import os, sys
        WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        def watch(event, arguments):
            if event == "open" and arguments[2] & WRITES:
                raise SystemExit(f"opened {arguments}")
            if event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate", "os.utime"):
                raise SystemExit(f"{event} {arguments}")
        sys.addaudithook(watch)
        import numpy as np, kullback as kb
        p = np.ones((8, 3000))
        kb.compare(p, p), kb.kl_divergence(p, p, num_threads=2), kb.token_log_probs(p, [0] * 8)
        print("nothing")
        """,
        KULLBACK_ENGINE="compiled",
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert out == "nothing\n"


FLUSH = """
    import ctypes, mmap, numpy as np
    def flush_subnormals():
        # stmxcsr [rdi]; or dword [rdi], 0x8040; ldmxcsr [rdi]; ret: what -ffast-math libraries do when loaded
        code = bytes([0x0F, 0xAE, 0x1F, 0x81, 0x0F, 0x40, 0x80, 0, 0, 0x0F, 0xAE, 0x17, 0xC3])
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))(
            ctypes.addressof(ctypes.c_uint32())
        )
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets a register of x86-64")
def test_subnormals_flushed_by_another_library():
    """With flush-to-zero and denormals-are-zero set, ordinary rows give the same bits: no step relies on subnormals."""
    out = run(
        FLUSH
        + """
    import kullback as kb
    rng = np.random.default_rng(0)
    pairs = [(3 * rng.standard_normal((4, 3001)), noise) for noise in (1e-5, 1e-2, 1.0, 9.0)]
    def all_of_it():
        got = []
        for p, noise in pairs:
            q = p + noise * np.linspace(-1, 1, 3001)
            for dtype in (np.float64, np.float32, np.float16):
                c = kb.compare(p.astype(dtype), q.astype(dtype), num_threads=1)
                got += [c.kl, c.reverse_kl, c.entropy_p, c.entropy_q, c.top1_q]
                masses = [np.exp(x - x.max(-1, keepdims=True)).astype(dtype) for x in (p, q)]
                got.append(kb.compare(*masses, given="probs", num_threads=1).kl)
                x, y = p.astype(dtype), q.astype(dtype)
                got += [kb.jensen_shannon_divergence(x, y, given="logits"), kb.total_variation(x, y, given="logits")]
                got += [kb.renyi_divergence(x, y, 0.5, given="logits"), kb.log_softmax(x), kb.logsumexp(x)]
                got.append(kb.token_log_probs(x, [0, 1, 2, 3000]))
        return got
    before = all_of_it()
    flush_subnormals()
    assert np.float64(5e-324) * 1.0 == 0.0
    after = all_of_it()
    for x, y in zip(before, after):
        np.testing.assert_array_equal(x, y)
    print("same bits")
    """
    )
    assert out == "same bits\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="sets a register of x86-64")
def test_subnormal_probabilities_when_another_library_flushes_them():
    """Probabilities too small for normal numbers are not zero, whatever the processor has been told."""
    out = run(
        FLUSH
        + """
    import kullback as kb
    pairs = [(np.array([0.5, 0.5], t), np.array([1, tiny], t)) for t, tiny in (("f4", 1e-40), ("f8", 1e-310))]
    before = [kb.kl_divergence(p, q) for p, q in pairs]
    flush_subnormals()
    assert before == [kb.kl_divergence(p, q) for p, q in pairs]
    assert np.float64(5e-324) * 1.0 == 0.0  # the mode is the other library's again
    """
    )
    assert out == ""


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_storms(value):
    """Rows in which almost everything is NaN or infinite, beside good ones, at every position of a register."""
    rng = np.random.default_rng(0)
    p, q = rng.standard_normal((2, 70, 131)).astype(np.float32)
    good = kb.compare(p, q)
    stormy_p, stormy_q = p.copy(), q.copy()
    for row in range(0, 70, 2):
        stormy_p[row, np.arange(131) != row] = value
        stormy_q[row, np.arange(131) != row] = value
    c = kb.compare(stormy_p, stormy_q)
    np.testing.assert_array_equal(c.kl[1::2], good.kl[1::2])
    expected = 0.0 if value == -np.inf else np.nan
    np.testing.assert_array_equal(c.kl[::2], np.full(35, expected))


def test_a_memory_limit_is_an_error_not_a_crash():
    """The kernels allocate nothing: with the address space exhausted, a call that fits still works."""
    out = run("""
        import resource, numpy as np, kullback as kb
        p = np.random.default_rng(0).standard_normal((64, 50_000)).astype(np.float32)
        expected = kb.compare(p, p[::-1]).kl
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
        assert (kb.compare(p, p[::-1]).kl == expected).all()
        try:
            kb.log_softmax(p)
        except MemoryError:
            print("MemoryError")
    """)
    assert out == "MemoryError\n"


def test_termination_while_computing_leaves_no_process(tmp_path):
    """SIGTERM in the middle of a call on two threads ends the process at once."""
    script = """
        import numpy as np, kullback as kb
        many = np.broadcast_to(np.zeros((1, 200_000), np.float32), (4_000_000, 200_000))
        print("started", flush=True)
        kb.entropy(many, given="logits", num_threads=2)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
    process.stdout.close()
