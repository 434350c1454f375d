"""The same bits on any number of threads, from any thread, and in children made by fork."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from strategies import STORAGES, logit_rows, stored

import kullback as kb

TIMEOUT = 300  # seconds: a hang is a failure, compiling is not


def everything(p, q, tokens, num_threads):
    """Every per-row result the package has, by name."""
    c = kb.compare(p, q, tokens, num_threads=num_threads)
    names = (
        "kl",
        "reverse_kl",
        "cross_entropy",
        "entropy_p",
        "entropy_q",
        "log_prob_p",
        "log_prob_q",
        "top1_p",
        "acceptance",
    )
    results = {name: getattr(c, name) for name in names}
    results["single kl"] = kb.kl_divergence(p, q, given="logits", num_threads=num_threads)
    results["logsumexp"] = kb.logsumexp(p, num_threads=num_threads)
    results["entropy"] = kb.entropy(q, given="logits", num_threads=num_threads)
    results["token log-probs"] = kb.token_log_probs(p, tokens, num_threads=num_threads)
    results["log_softmax"] = kb.log_softmax(p, num_threads=num_threads)
    return results


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("rows", "vocab"), [(1, 200_003), (3, 60_000), (37, 5003), (2000, 31)])
def test_thread_counts_give_the_same_bits(storage, rows, vocab):
    p, q = (stored(x, storage) for x in logit_rows(rows, vocab))
    tokens = np.arange(rows) % vocab
    expected = everything(p, q, tokens, 1)
    for threads in (2, 3, 4, 64, None):
        for name, got in everything(p, q, tokens, threads).items():
            np.testing.assert_array_equal(got, expected[name], err_msg=f"{name} on {threads} threads")


def test_repeated_calls_give_the_same_bits():
    p, q = logit_rows(64, 20_000)
    first = kb.kl_divergence(p, q, given="logits")
    for _ in range(10):
        np.testing.assert_array_equal(kb.kl_divergence(p, q, given="logits"), first)


def test_calls_from_eight_threads_at_once():
    jobs = [tuple(x.astype(np.float32) for x in logit_rows(16, 20_000, seed=seed)) for seed in range(8)]
    expected = [kb.kl_divergence(p, q, given="logits", num_threads=1) for p, q in jobs]

    def work(index):
        p, q = jobs[index % 8]
        options = {"num_threads": (None, 1, 2, 4)[index % 4]}
        if index % 3:
            return kb.kl_divergence(p, q, given="logits", **options)
        return kb.compare(p, q, **options).kl

    with ThreadPoolExecutor(8) as pool:
        for index, got in enumerate(pool.map(work, range(96))):
            np.testing.assert_allclose(got, expected[index % 8], rtol=1e-12)


def test_errors_in_one_thread_leave_the_others_alone():
    p, q = (np.exp(x) for x in logit_rows(16, 5000))
    broken = q.copy()
    broken[7, 4000] = -1.0
    expected = kb.kl_divergence(p, q)

    def work(index):
        if index % 2:
            with pytest.raises(ValueError, match="`q`"):
                kb.kl_divergence(p, broken)
            return expected
        return kb.kl_divergence(p, q)

    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(work, range(64)):
            np.testing.assert_array_equal(got, expected)


def run(script, **environment):
    """A fresh interpreter's standard output; the engine under test is inherited."""
    environment = os.environ | environment
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORK = """
import os, sys, warnings
import numpy as np
import kullback as kb
# Python 3.12 warns of any fork in a process with threads; the point here is that it works
warnings.simplefilter("ignore", DeprecationWarning)
rng = np.random.default_rng(0)
p = rng.normal(0, 3, (64, 20000)).astype(np.float32)
q = (p + rng.normal(0, 0.1, p.shape)).astype(np.float32)
def right():
    results = [kb.kl_divergence(p, q, given="logits", num_threads=n) for n in (1, 2, 4, None)]
    return all(np.array_equal(result, expected) for result in results)
def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            code = 0 if work() else 1
        except BaseException as error:
            print(error, file=sys.stderr)
            code = 2
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_fork_after_use():
    """A child and a grandchild compute the right thing after the parent used its threads; the parent too."""
    script = (
        FORK
        + """
expected = kb.kl_divergence(p, q, given="logits", num_threads=2)
assert right()
assert child(right), "child"
assert child(lambda: right() and child(right)), "grandchild after use in the child"
assert child(lambda: child(right)), "grandchild of an idle child"
assert right(), "parent"
print("done")
"""
    )
    assert run(script) == "done\n"


def test_fork_while_other_threads_compute():
    """Locks held by a thread that does not survive the fork must not hang the child."""
    script = (
        FORK
        + """
import threading
expected = kb.kl_divergence(p, q, given="logits", num_threads=2)
stop = threading.Event()
def busy():
    while not stop.is_set():
        kb.kl_divergence(p[:16], q[:16], given="logits")
threads = [threading.Thread(target=busy) for _ in range(4)]
for thread in threads: thread.start()
fine = all(child(right) for _ in range(5))
stop.set()
for thread in threads: thread.join()
assert fine and right()
print("done")
"""
    )
    assert run(script) == "done\n"


def test_multiprocessing_by_fork_and_spawn():
    script = """
import multiprocessing, sys, warnings
import numpy as np
import kullback as kb
warnings.simplefilter("ignore", DeprecationWarning)
def work(seed):
    rng = np.random.default_rng(seed)
    return kb.kl_divergence(*rng.normal(size=(2, 32, 4000)), given="logits")
if __name__ == "__main__":
    expected = [work(seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map(work, range(4))
    assert np.array_equal(got, expected)
    print("done")
"""
    assert run(script) == "done\n"


@pytest.mark.parametrize("variable", ["KULLBACK_NUM_THREADS", "OMP_NUM_THREADS"])
def test_thread_variables(variable):
    script = """
import numpy as np, kullback as kb
p, q = np.random.default_rng(0).normal(size=(2, 200, 3000))
print(float(kb.kl_divergence(p, q, given="logits").sum()))
"""
    assert run(script, **{variable: "1"}) == run(script, **{variable: "3"})


def test_a_thread_variable_that_is_no_number():
    script = """
import numpy as np, kullback as kb
try:
    kb.kl_divergence(np.ones((4, 5)), np.ones((4, 5)))
except ValueError as error:
    print(error)
"""
    assert "KULLBACK_NUM_THREADS" in run(script, KULLBACK_NUM_THREADS="many")


@pytest.mark.parametrize("value", ["auto", "0", "-1", "²"])
def test_an_openmp_variable_that_is_no_number_is_ignored_with_the_reason(value):
    """What other programs understand stops nothing here."""
    script = """
import numpy as np, kullback as kb
print(float(kb.kl_divergence(np.ones((4, 5)), np.ones((4, 5))).sum()))
kb.show_config()
"""
    printed = run(script, OMP_NUM_THREADS=value)
    assert printed.startswith("0.0\n")
    assert f"(OMP_NUM_THREADS is {value!r}, no whole number from 1: ignored)" in printed


def test_the_engine_variable():
    assert run("import kullback; print(kullback.get_engine())").strip() in ("compiled", "jit")
    assert run("import kullback; print(kullback.get_engine())", KULLBACK_ENGINE="jit").strip() == "jit"
    script = """
import numpy as np, kullback as kb
try:
    kb.kl_divergence(np.ones((4, 5)), np.ones((4, 5)))
except ValueError as error:
    print(error)
"""
    assert "KULLBACK_ENGINE" in run(script, KULLBACK_ENGINE="steam")
