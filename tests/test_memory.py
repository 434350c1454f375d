"""No call makes a full copy of an input or a (T, V) temporary, whatever the layout."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from strategies import BFLOAT16, affine_dtype

import kullback as kb

ROWS, VOCAB = 96, 65_536
ALLOWED = 4 << 20  # bytes of scratch and results; one input in float32 is 24 MiB


def big(dtype="float32"):
    rows = np.random.default_rng(0).standard_normal((ROWS, VOCAB), dtype=np.float32)
    return rows.astype(dtype)


def as_affine():
    rows = np.zeros(ROWS, affine_dtype(VOCAB))
    rows["scale"], rows["min"] = 1e-4, -6.0
    rows["code"] = np.random.default_rng(0).integers(0, 65536, (ROWS, VOCAB))
    return rows


INPUTS = {
    "float64": lambda: big("float64"),
    "float32": big,
    "float16": lambda: big("float16"),
    "bfloat16": lambda: big(BFLOAT16),
    "affine": as_affine,
    "fortran": lambda: np.asfortranarray(big()),
    "reversed": lambda: big()[:, ::-1],
    "shifted": lambda: big()[:-1],
    "one row for all": lambda: np.broadcast_to(big()[:1], (ROWS, VOCAB)),
}

CALLS = {
    "kl_divergence": lambda x: kb.kl_divergence(x, x, given="logits"),
    "cross_entropy": lambda x: kb.cross_entropy(x, x, given="logits"),
    "entropy": lambda x: kb.entropy(x, given="logits"),
    "logsumexp": kb.logsumexp,
    "compare": lambda x: kb.compare(x, x, np.zeros(len(x), int)).summary(),
    "token_log_probs": lambda x: kb.token_log_probs(x, np.zeros(len(x), int)),
    "token_log_ratios": lambda x: kb.token_log_ratios(x, x, np.zeros(len(x), int)),
    "sequence_log_ratios": lambda x: kb.sequence_log_ratios(x, x, np.zeros(len(x), int), offsets=[0, len(x)]),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_nothing_is_copied(kind):
    x = INPUTS[kind]()
    for name, call in CALLS.items():
        call(x[:2])  # what is compiled or cached once is no temporary
        tracemalloc.start()
        try:
            call(x)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < ALLOWED, f"{name} held {peak / 2**20:.1f} MiB"


def test_probabilities_are_not_copied():
    x = np.exp(big())
    kb.kl_divergence(x[:2], x[:2])
    tracemalloc.start()
    try:
        kb.kl_divergence(x, x)
        kb.kl_divergence(x.T, x.T, axis=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < ALLOWED


def test_resident_memory_of_a_large_call():
    """The same seen from outside Python's allocators: the process grows by its results, not by its inputs."""
    script = """
import numpy as np
from peak import peak
import kullback as kb
rng = np.random.default_rng(0)
p = rng.standard_normal((256, 65536), dtype=np.float32)   # 64 MiB
q = p.T.copy().T                                           # the same in Fortran order
tokens = np.zeros(256, int)
def calls(p, q, tokens):
    kb.kl_divergence(p, q, given="logits")
    kb.compare(p, q, tokens).summary()
    kb.token_log_probs(q, tokens)
    kb.entropy(q, given="logits")
calls(p[:4], q[:4], tokens[:4])
before = peak()
calls(p, q, tokens)
print((peak() - before) / 2**20)
"""
    run = {"cwd": Path(__file__).parent, "env": os.environ, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, **run)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 24
