"""The arrays that are measured, and the truth about them from tests/reference.py.

An array holds DISTINCT different rows, again and again: every row of a result is then checked against long double
at the cost of a few, while memory sees an array of the full size.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

DISTINCT = 4
LOGIT_SPREAD = 3.0  # standard deviation of logits, as in the accuracy tables

# what is added to p's logits to make q's: standard deviation of normal noise
NOISE = {"near": 1e-2, "ordinary": 0.3, "distant": 1.0, "far": 5.0, "masked": 0.3, "probs": 0.3, "near probs": 1e-2}


@dataclass(frozen=True)
class Inputs:
    """Rows p and q (T, V), a token id for each row (T,); for "ragged": p = values (N,), tokens = offsets (B + 1,)."""

    p: np.ndarray
    q: np.ndarray
    tokens: np.ndarray
    distinct: int

    def head(self):
        """One of each of the different rows."""
        n = self.distinct
        return Inputs(self.p[:n], self.q[:n], self.tokens[:n], n)

    def tensors(self):
        """p, q and the tokens as torch tensors over the same memory."""
        import torch

        def tensor(x):
            if hasattr(np, x.dtype.name):
                return torch.from_numpy(x)
            return torch.from_numpy(x.view(f"u{x.itemsize}")).view(getattr(torch, x.dtype.name))

        return tensor(self.p), tensor(self.q), torch.from_numpy(self.tokens)


@cache
def reference():
    """tests/reference.py, the truth the tests use."""
    path = Path(__file__).parents[1] / "tests" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def number_type(name):
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))


def probabilities(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def repeated(rows, count):
    """`count` rows in fresh memory: those given, again and again."""
    out = np.empty((count, *rows.shape[1:]), rows.dtype)
    for start in range(0, count, len(rows)):
        out[start : start + len(rows)] = rows[: count - start]
    return out


@lru_cache(maxsize=1)
def make(kind, dtype, rows, vocab):
    """The inputs of that kind; the last ones are kept, so cases in a row that share them share the memory."""
    random = np.random.default_rng(20)
    if kind == "ragged":
        return ragged(random, rows, vocab)
    distinct = min(rows, DISTINCT)
    p = LOGIT_SPREAD * random.standard_normal((distinct, vocab))
    q = p + NOISE[kind] * random.standard_normal((distinct, vocab))
    if kind == "masked":
        p[:, ::5] = q[:, ::5] = -np.inf
    if kind.endswith("probs"):
        p, q = probabilities(p), probabilities(q)
    tokens = random.integers(0, vocab, distinct) // 5 * 5 + 1
    tokens = np.minimum(tokens, vocab - 1)
    p, q = (repeated(x.astype(number_type(dtype)), rows) for x in (p, q))
    return Inputs(p, q, repeated(tokens, rows), distinct)


def ragged(random, sequences, length):
    """Log-ratios of sequences of 1 to 2·length - 1 tokens."""
    lengths = random.integers(1, 2 * length, sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = 0.1 * random.standard_normal(offsets[-1])
    return Inputs(values, values, offsets, 0)
