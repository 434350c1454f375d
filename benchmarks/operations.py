"""The registry: each operation with our call, the truth, its peers. The harness, pytest-benchmark and the docs read it.

An operation that this version of the package does not have is left out.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kullback as kb

from . import peers
from .peers import TOP_K

LOGITS = {"given": "logits"}


@dataclass(frozen=True)
class Operation:
    """One thing to compute from `Inputs`."""

    name: str
    ours: Callable[..., Any]  # (inputs, num_threads) -> array or tuple of arrays of T rows
    truth: Callable[..., Any]  # (reference, one of each row) -> the same in long double
    peers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    arrays: int = 2  # arrays of rows that are read
    written: bool = False  # an array of the size of p is written
    masses: bool = False  # of rows of probabilities alone
    tolerance: dict[str, float] = field(default_factory=dict)  # relative error by dtype; else TOLERANCE


TOLERANCE = {"float64": 1e-11} | dict.fromkeys(("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"), 1e-6)


def compare(inputs, threads, given="logits"):
    found = kb.compare(inputs.p, inputs.q, given=given, acceptance=False, num_threads=threads)
    return found.kl, found.reverse_kl, found.entropy_p, found.entropy_q, found.top1_p, found.top1_q


def compare_truth(reference, x, given="logits"):
    kl, reverse_kl = reference.kl_both_ways(x.p, x.q, given)
    p, q = reference.decode(x.p), reference.decode(x.q)
    return (
        kl, reverse_kl, reference.entropy(x.p, given), reference.entropy(x.q, given), p.argmax(-1), q.argmax(-1),
    )  # fmt: skip


def family(name, torch_function, **parameters):
    """A divergence of two arrays of logits, where this version has it."""
    function = getattr(kb, name, None)
    if function is None:
        return []

    def from_reference(reference, x):
        return getattr(reference, name)(x.p, x.q, *parameters.values())

    return [
        Operation(
            name,
            lambda x, threads: function(x.p, x.q, **parameters, **LOGITS, num_threads=threads),
            from_reference,
            peers.in_torch(torch_function),
        )
    ]


def of_masses(name, torch_function):
    """A divergence of two arrays of probabilities alone, where this version has it."""
    function = getattr(kb, name, None)
    if function is None:
        return []
    return [
        Operation(
            name,
            lambda x, threads: function(x.p, x.q, num_threads=threads),
            lambda reference, x: getattr(reference, name)(x.p, x.q, given="probs"),
            peers.in_torch(torch_function),
            masses=True,
        )
    ]


def loss_and_gradient(name, torch_function, truth_name, parameter=None):
    """A distillation loss of every row with its gradient for the student; p is the teacher, q the student."""
    if importlib.util.find_spec("kullback.distillation") is None:
        return []
    from kullback.distillation import distillation_loss

    def ours(x, threads):
        found = distillation_loss(x.q, x.p, name, gradient="student", reduction="none", num_threads=threads)
        return found.per_token, found.student_gradient

    def truth(reference, x):
        value = {"kl": "kl_divergence", "reverse_kl": "reverse_kl"}.get(truth_name, f"{truth_name}_divergence")
        gradient = reference.gradients(truth_name, x.p, x.q, parameter)[1]
        return getattr(reference, value)(x.p, x.q), gradient

    known = {
        "torch eager": peers.eager_gradient(torch_function),
        "torch.compile": peers.compiled_gradient(torch_function),
    }
    # a gradient has the storage of the logits: bfloat16 keeps 8 bits of it
    return [Operation(f"{name} loss + gradient", ours, truth, known, written=True, tolerance={"bfloat16": 2.0**-8})]


def token_statistics(x, threads):
    """A server's answer for each position: the token's log-prob and rank, the entropy, the top 20."""
    found = kb.token_statistics(x.p, x.tokens, top_k=TOP_K, num_threads=threads)
    return found.log_probs, found.rank, found.entropy, found.top_log_probs


def token_statistics_truth(reference, x):
    log_probs, entropy, _, ranks, _, top = reference.token_statistics(x.p, x.tokens[:, None], TOP_K)
    return log_probs[:, 0], ranks[:, 0], entropy, top


def sequence_sums_numpy(values, offsets):
    return np.add.reduceat(values, offsets[:-1])


def sequence_sums_torch(inputs, threads):
    import torch

    torch.set_num_threads(threads)
    values, offsets = torch.from_numpy(inputs.p), torch.from_numpy(inputs.tokens)
    return lambda: torch.segment_reduce(values, "sum", offsets=offsets, axis=0)


OPERATIONS = {
    operation.name: operation
    for operation in [
        Operation(
            "compare",
            compare,
            compare_truth,
            {
                **peers.in_numpy(peers.numpy_compare),
                **peers.in_torch(peers.torch_compare),
                "torch eager, 8 rows at a time": peers.eager_blockwise(peers.torch_compare),
                "jax.jit": peers.jitted(peers.jax_compare),
            },
        ),
        Operation(
            "kl_divergence",
            lambda x, threads: kb.kl_divergence(x.p, x.q, **LOGITS, num_threads=threads),
            lambda reference, x: reference.kl_divergence(x.p, x.q),
            {
                "NumPy": peers.plain(peers.numpy_kl),
                "SciPy": peers.plain(peers.scipy_kl),
                **peers.in_torch(peers.torch_kl),
            },
        ),
        Operation(
            "kl_divergence of probs",
            lambda x, threads: kb.kl_divergence(x.p, x.q, num_threads=threads),
            lambda reference, x: reference.kl_divergence(x.p, x.q, "probs"),
            {
                "NumPy": peers.plain(peers.numpy_kl_of_probs),
                "SciPy": peers.plain(peers.scipy_kl_of_probs),
                **peers.in_torch(peers.torch_kl_of_probs),
                "SimSIMD": peers.simsimd("kullbackleibler"),
                "NumKong": peers.numkong("kullbackleibler"),
            },
        ),
        Operation(
            "entropy",
            lambda x, threads: kb.entropy(x.p, **LOGITS, num_threads=threads),
            lambda reference, x: reference.entropy(x.p),
            {"NumPy": peers.plain(peers.numpy_entropy), **peers.in_torch(peers.torch_entropy)},
            arrays=1,
        ),
        Operation(
            "entropy of probs",
            lambda x, threads: kb.entropy(x.p, num_threads=threads),
            lambda reference, x: reference.entropy(x.p, "probs"),
            {"SciPy": peers.plain(peers.scipy_entropy_of_probs), **peers.in_torch(peers.torch_entropy_of_probs)},
            arrays=1,
        ),
        Operation(
            "logsumexp",
            lambda x, threads: kb.logsumexp(x.p, num_threads=threads),
            lambda reference, x: reference.logsumexp(x.p),
            {
                "NumPy": peers.plain(peers.numpy_logsumexp),
                "SciPy": peers.plain(peers.scipy_logsumexp),
                **peers.in_torch(peers.torch_logsumexp),
            },
            arrays=1,
        ),
        Operation(
            "log_softmax",
            lambda x, threads: kb.log_softmax(x.p, num_threads=threads),
            lambda reference, x: reference.log_softmax(x.p),
            {"SciPy": peers.plain(peers.scipy_log_softmax), **peers.in_torch(peers.torch_log_softmax)},
            arrays=1,
            written=True,
        ),
        Operation(
            "token_log_probs",
            lambda x, threads: kb.token_log_probs(x.p, x.tokens, num_threads=threads),
            lambda reference, x: reference.token_log_probs(x.p, x.tokens),
            {
                "NumPy": peers.plain(peers.numpy_token_log_probs),
                **peers.in_torch(peers.torch_token_log_probs),
            },
            arrays=1,
        ),
        Operation(
            "token_log_ratios",
            lambda x, threads: kb.token_log_ratios(x.p, x.q, x.tokens, num_threads=threads),
            lambda reference, x: reference.token_log_ratios(x.p, x.q, x.tokens),
            {
                "NumPy": peers.plain(peers.numpy_token_log_ratios),
                **peers.in_torch(peers.torch_token_log_ratios),
            },
        ),
        Operation(
            "token_statistics",
            token_statistics,
            token_statistics_truth,
            {
                "NumPy": peers.plain(peers.numpy_token_statistics),
                **peers.in_torch(peers.torch_token_statistics),
            },
            arrays=1,
        ),
        Operation(
            "sequence_sums",
            lambda x, threads: kb.sequence_sums(x.p, offsets=x.tokens, num_threads=threads),
            lambda reference, x: np.add.reduceat(x.p.astype(np.longdouble), x.tokens[:-1]),
            {"NumPy": peers.plain(sequence_sums_numpy), "torch eager": sequence_sums_torch},
            arrays=1,
        ),
        *family("jensen_shannon_divergence", peers.torch_jensen_shannon),
        Operation(
            "jensen_shannon_divergence of probs",
            lambda x, threads: kb.jensen_shannon_divergence(x.p, x.q, num_threads=threads),
            lambda reference, x: reference.jensen_shannon_divergence(x.p, x.q, given="probs"),
            {
                "SciPy": peers.plain(peers.scipy_jensen_shannon_of_probs),
                **peers.in_torch(peers.torch_jensen_shannon_of_probs),
                "SimSIMD": peers.simsimd("jensenshannon"),
                "NumKong": peers.numkong("jensenshannon"),
            },
        ),
        *family("cressie_read_divergence", peers.torch_cressie_read, lambda_=2 / 3),
        *of_masses("itakura_saito_divergence", peers.torch_itakura_saito),
        *family("renyi_divergence", peers.torch_renyi, alpha=2.0),
        *family("total_variation", peers.torch_total_variation),
        *family("hellinger_distance", peers.torch_hellinger),
        *family("chi2_divergence", peers.torch_chi2),
        *loss_and_gradient("forward_kl", peers.torch_kl, "kl"),
        *loss_and_gradient("reverse_kl", peers.torch_reverse_kl, "reverse_kl"),
        *loss_and_gradient("jsd", peers.torch_jensen_shannon, "jensen_shannon", 0.5),
    ]
}
