"""Random rows of every kind against long double: some thousands in the suite, a million by `make nightly`."""

import os

import numpy as np
import pytest
import reference
from strategies import stored

import kullback as kb

ROWS = int(os.environ.get("KULLBACK_RANDOM_ROWS", "4000"))
BATCH = 250


def random_pair(rng, rows):
    """Logits of one batch: spread, noise, offset, heavy outcomes and banned tokens all drawn anew."""
    vocab = int(2 ** rng.uniform(1, 11))
    a = rng.uniform(0.1, 12) * rng.standard_normal((rows, vocab))
    b = a + 10 ** rng.uniform(-6, 1, (rows, 1)) * rng.standard_normal((rows, vocab))
    if rng.random() < 0.3:
        b += rng.uniform(-30, 30, (rows, 1))
    if rng.random() < 0.3:
        a[np.arange(rows), rng.integers(0, vocab, rows)] += rng.uniform(0, 30, rows)
    if rng.random() < 0.3:
        b[np.arange(rows), rng.integers(0, vocab, rows)] += rng.uniform(-30, 30, rows)
    if rng.random() < 0.2:
        banned = rng.random((rows, vocab)) < rng.uniform(0, 0.9)
        banned[:, 0] = False
        a[banned] = b[banned] = -np.inf
    return a, b


def worst_errors(storage, rows, seed):
    """Largest relative error of both directions, and of the entropies relative to 1 nat or more, over random rows."""
    rng = np.random.default_rng(seed)
    worst = {"kl": 0.0, "entropy": 0.0}
    for _ in range(-(-rows // BATCH)):
        p, q = (stored(x, storage) for x in random_pair(rng, BATCH))
        c = kb.compare(p, q)
        for got, truth in zip((c.kl, c.reverse_kl), reference.kl_both_ways(p, q), strict=True):
            assert (got >= 0).all()
            # below 1e-30 the truth's own rounding shows, and that of weights, which stop at 2^-125 of the greatest
            known = truth > 1e-30
            assert (got[~known] < 2e-30).all()
            worst["kl"] = max(worst["kl"], float(np.max(np.abs(got[known] / truth[known] - 1), initial=0)))
        for got, x in ((c.entropy_p, p), (c.entropy_q, q)):
            truth = reference.entropy(x)
            worst["entropy"] = max(worst["entropy"], float(np.max(np.abs(got - truth) / np.maximum(truth, 1))))
    return worst


@pytest.mark.parametrize("storage", ["float64", "float32", "float16", "bfloat16"])
def test_random_rows(storage):
    limit = 1e-11 if storage == "float64" else 1e-6
    worst = worst_errors(storage, ROWS // 4, seed=len(storage))
    assert max(worst.values()) < limit, worst
