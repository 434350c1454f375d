"""What a full run measures, in an order that lets neighbours share their inputs."""

from dataclasses import replace
from functools import cache

import numpy as np

import kullback as kb

from .harness import Case
from .inputs import number_type
from .operations import OPERATIONS

VOCAB = 131072
KINDS = ("near", "ordinary", "distant", "far", "masked")
ALL = None  # every peer of the operation


def case(operation, kind, dtype="float32", rows=256, threads=1, peers=(), vocab=VOCAB):
    """A case if this version has the operation, in a list; ALL peers, or those named."""
    if operation not in OPERATIONS:
        return []
    known = OPERATIONS[operation].peers
    return [Case(operation, kind, dtype, rows, vocab, threads, tuple(known if peers is ALL else peers))]


@cache
def read(dtype):
    """Whether this version reads that dtype."""
    try:
        kb.logsumexp(np.zeros((1, 1), number_type(dtype)))
    except TypeError:
        return False
    return True


def float8_cases():
    """The fused pass and one function of each sort over rows of a byte an outcome."""
    found = []
    for dtype in filter(read, ("float8_e4m3fn", "float8_e5m2")):
        for threads in (1, 2):
            found += case("compare", "ordinary", dtype, threads=threads)
            for name in ("kl_divergence", "token_log_probs"):
                found += case(name, "ordinary", dtype, threads=threads)
    return found


def compare_cases():
    """The fused pass: every dtype, rows near and far, one and two threads."""
    found = case("compare", "near", rows=1024, peers=("torch.compile",))
    found += case("compare", "near", rows=1024, threads=2, peers=("NumPy", "torch eager", "torch.compile"))
    found += case("compare", "near", threads=2, peers=ALL)
    for dtype in ("bfloat16", "float16"):
        found += case("compare", "near", dtype, 1024) + case("compare", "near", dtype, 1024, 2, ("torch.compile",))
    for kind in KINDS:
        for dtype in ("float32", "bfloat16", "float16", "float64"):
            if (dtype == "float64" or kind != "near") and (dtype == "float32" or kind in ("near", "ordinary")):
                for threads in (1, 2):
                    compiler = ("torch.compile",) if threads == 2 and kind == "near" else ()
                    found += case("compare", kind, dtype, threads=threads, peers=compiler)
    return found


def logit_cases():
    """Everything else on logits; the single-threaded peers beside one thread, the others beside two."""
    single = ("NumPy", "NumPy, 8 rows at a time", "SciPy")
    found = []
    for name, operation in OPERATIONS.items():
        if name in ("compare", "sequence_sums") or name.endswith("of probs") or operation.masses:
            continue
        if name.endswith("loss + gradient"):
            for dtype in ("float32", "bfloat16"):
                found += case(name, "near", dtype, rows=1024, threads=2, peers=ALL)
            continue
        found += case(name, "near", threads=1, peers=tuple(p for p in operation.peers if p in single))
        found += case(name, "near", threads=2, peers=tuple(p for p in operation.peers if p not in single))
    for dtype in ("bfloat16", "float16"):
        for name in ("kl_divergence", "token_log_probs", "jensen_shannon_divergence"):
            found += case(name, "near", dtype, threads=1) + case(name, "near", dtype, threads=2)
    for name in ("kl_divergence", "jensen_shannon_divergence"):
        found += case(name, "ordinary") + case(name, "ordinary", threads=2)
    return found


def probability_cases():
    """Rows of probabilities; SimSIMD and NumKong want them normalised, so they are."""
    found = []
    for name in ("kl_divergence of probs", "jensen_shannon_divergence of probs"):
        found += case(name, "probs", threads=1, peers=("NumPy", "SciPy", "SimSIMD", "NumKong")) if "kl" in name else []
        found += case(name, "probs", threads=1, peers=("SciPy", "SimSIMD", "NumKong")) if "jensen" in name else []
        found += case(name, "probs", threads=2, peers=("torch eager", "torch.compile"))
        found += case(name, "near probs", threads=1, peers=("SimSIMD", "NumKong"))
        found += case(name, "probs", "float64", threads=1, peers=("SimSIMD", "NumKong"))
    for name in (name for name, operation in OPERATIONS.items() if operation.masses):
        found += case(name, "near probs") + case(name, "near probs", threads=2, peers=ALL)
    found += case("entropy of probs", "probs", threads=1, peers=("SciPy",))
    found += case("entropy of probs", "probs", threads=2, peers=("torch eager", "torch.compile"))
    return found


def other_cases():
    """Ten million log-ratios in ragged sequences; single small calls, where overhead is everything."""
    found = []
    for threads, peers in ((1, ("NumPy",)), (2, ("torch eager",))):
        found += case("sequence_sums", "ragged", "float64", 10_000, threads, peers, vocab=1000)
    found += case("compare", "ordinary", rows=1, vocab=512, peers=("NumPy", "torch eager"))
    found += case("kl_divergence", "ordinary", rows=1, vocab=512, peers=("NumPy", "SciPy", "torch eager"))
    found += case("kl_divergence of probs", "probs", rows=1, vocab=512, peers=ALL)
    found += case("jensen_shannon_divergence of probs", "probs", rows=1, vocab=512, peers=("SciPy", "NumKong"))
    found += case("token_log_probs", "ordinary", rows=1, vocab=512, peers=("NumPy", "torch eager"))
    found += case("logsumexp", "ordinary", rows=1, vocab=512, peers=("SciPy", "torch eager"))
    return found


def full():
    found = compare_cases() + logit_cases() + float8_cases() + probability_cases() + other_cases()
    return sorted(dict.fromkeys(found), key=lambda c: (c.rows * c.vocab < 1 << 20, c.rows != 1024, c.kind, c.dtype))


def second_engine():
    """What is measured once more under the other engine."""
    return [c for kind in ("near", "ordinary") for threads in (1, 2) for c in case("compare", kind, threads=threads)]


def representative():
    """A few cases that between them use every kernel: for a check against another commit."""
    found = [c.alone() for c in full() if c.threads == 1 and c.kind not in ("distant", "masked")]
    return [replace(c, rows=64) if c.rows >= 64 and c.kind != "ragged" else c for c in found]


def small(cases, rows=4, vocab=1031):
    """The same cases at a size that takes no time, one of each operation and dtype, with quick peers only."""
    chosen = {(c.operation, c.dtype): c for c in reversed(cases)}
    return [
        replace(c, rows=min(rows, c.rows), vocab=vocab, peers=tuple(p for p in c.peers if p in ("NumPy", "SciPy")))
        for c in chosen.values()
    ]
