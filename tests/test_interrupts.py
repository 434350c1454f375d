"""An interrupted call has ended when it returns: nothing is written afterwards, and the next call works."""

import os
import subprocess
import sys
import time

import pytest

from kullback.drift.counting import in_parallel

TIMEOUT = 120  # seconds: a hang is a failure


def run(script, **environment):
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# interrupts by a timer whose handler raises KeyboardInterrupt, as that of Ctrl-C does; some come twice
INTERRUPTED = """
import random, signal, time
import numpy as np
import kullback as kb

chance = random.Random(1)
x = np.random.default_rng(0).normal(0, 3, (160, 32_768)).astype(np.float32)
out, expected = np.empty_like(x), kb.log_softmax(x)
again, armed, hits, late = 0.0, False, 0, 0

def interrupt(*_):
    global again
    if armed:
        after, again = again, 0.0
        if after:
            signal.setitimer(signal.ITIMER_REAL, after)
        raise KeyboardInterrupt

def attempt(call, seconds):
    global armed
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        armed = False

signal.signal(signal.SIGALRM, interrupt)
started = time.perf_counter()
kb.log_softmax(x, out=out, num_threads=2)
usual = time.perf_counter() - started
while hits < 60:
    out.fill(7.0)
    again = chance.choice([0.0, 1e-5, 1e-4, 5e-4])
    seconds = max(chance.uniform(0, 1.2 * usual), 1e-6)
    try:
        hit = attempt(lambda: kb.log_softmax(x, out=out, num_threads=THREADS), seconds)
    except KeyboardInterrupt:  # the second one, on the way out
        armed, hit = False, True
    seen = out.copy()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if hit:
        hits += 1
        time.sleep(0.02)
        late += not np.array_equal(out, seen)
    else:
        assert np.array_equal(out, expected)
assert np.array_equal(kb.log_softmax(x, num_threads=THREADS), expected)
print(hits, late)
"""


@pytest.mark.parametrize("threads", [2, 4])
def test_nothing_is_written_after_an_interrupted_call(threads):
    assert run(INTERRUPTED.replace("THREADS", str(threads))) == "60 0\n"


# the first call of another thread is in the middle of importing `module` when the main thread forks
FORKED = """
import faulthandler, os, sys, threading, time, warnings
import numpy as np
import kullback as kb
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork in a process with threads
x = np.random.default_rng(0).normal(0, 3, (64, 20_000))
importing = threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            importing.set()
            time.sleep(0.3)

def first_call():
    CALL

sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=first_call)
thread.start()
assert importing.wait(60)
pid = os.fork()
if pid == 0:
    faulthandler.dump_traceback_later(60, exit=True)
    first_call()
    os._exit(7)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("kullback._compiled", "kb.log_softmax(x, num_threads=2)"),
        ("numba", "kb.log_softmax(x, num_threads=2)"),
        ("kullback.distillation.topk.divergence", "kb.topk_divergence"),
        ("kullback.kernels.elementwise", "kb.entr(x, num_threads=2)"),
    ],
)
def test_a_child_forked_during_another_thread_s_first_call(module, call):
    script = FORKED.replace("MODULE", repr(module)).replace("CALL", call)
    assert run(script, KULLBACK_ENGINE="jit" if module == "numba" else "") == "7\n"


# the reads take longer than the timer waits: the first interrupt meets the job, the others the wait for the readers
READING = """
import signal, threading, time
import numpy as np
from kullback.evaluation.job import compare_files
from kullback.evaluation.sources import Source

class Slow(Source):
    busy = begun = 0

    def __init__(self):
        super().__init__("slow", "npy", (400, 50), np.dtype(np.float32))

    def _read(self, start, stop, out):
        if threading.current_thread() is threading.main_thread():
            out[...] = np.arange(50)  # the job's look at some rows, before its readers begin
            return
        Slow.begun += 1
        Slow.busy += 1
        time.sleep(0.5)
        out[...] = np.arange(50)
        Slow.busy -= 1

left = INTERRUPTS

def interrupt(*_):
    global left
    left -= 1
    signal.setitimer(signal.ITIMER_REAL, 0.05 if left else 0)
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
p = Slow()
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    compare_files(p, p, chunk_bytes=4000)
except KeyboardInterrupt as error:  # which holds the frames of the call
    busy, begun = Slow.busy, Slow.begun
    time.sleep(0.7)
    print(left, busy, begun == Slow.begun)
"""


@pytest.mark.parametrize("interrupts", [1, 2, 4])
def test_no_reader_goes_on_after_an_interrupted_job(interrupts):
    assert run(READING.replace("INTERRUPTS", str(interrupts))) == "0 0 True\n"


# columns that take longer to count than the timer waits
COUNTING = """
import signal, threading, time
from kullback.drift.counting import in_parallel

busy = begun = 0

def work(task):
    global busy, begun
    if threading.current_thread() is not threading.main_thread():
        begun, busy = begun + 1, busy + 1
    time.sleep(0.4)
    if threading.current_thread() is not threading.main_thread():
        busy -= 1

left = INTERRUPTS

def interrupt(*_):
    global left
    left -= 1
    signal.setitimer(signal.ITIMER_REAL, 0.05 if left else 0)
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    in_parallel(work, range(20), 3)
except KeyboardInterrupt:
    seen = busy, begun
time.sleep(0.6)
print(left, seen[0], seen[1] == begun)
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_no_column_is_counted_after_an_interrupted_call(interrupts):
    assert run(COUNTING.replace("INTERRUPTS", str(interrupts))) == "0 0 True\n"


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_of_several_errors_is_raised(threads):
    def work(task):
        time.sleep(0.05 if task == 2 else 0)
        if task in (2, 3):
            raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 2"):
        in_parallel(work, range(9), threads)
