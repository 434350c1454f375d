"""Random rows against their compact references: do the bounds hold the truth? `make nightly` asks.

python tests/compact_rows.py --rows 100000 [--seed 0]
"""

import argparse

import numpy as np

from kullback.evaluation.reference.comparison import compare_records
from kullback.evaluation.reference.rest import buckets_of, records_of
from kullback.evaluation.sources.reference_files import Cells, Layout

DTYPES = (np.float64, np.float32, np.float16)
BATCH = 20  # rows that share a vocabulary, a list and buckets


def logits(rng, vocab):
    """One row of some shape."""
    shape = rng.integers(9)
    x = rng.normal(size=vocab) * rng.choice([0.1, 1.0, 3.0, 10.0])
    if shape == 1:
        x = -rng.uniform(0.5, 8.0) * np.log(np.arange(1.0, vocab + 1))[rng.permutation(vocab)]  # Zipf
    elif shape == 2:
        x[rng.random(vocab) < 0.4] = -np.inf
    elif shape == 3:
        x = np.round(x)  # ties
    elif shape == 4:
        x = np.full(vocab, rng.normal())
    elif shape == 5:
        x = np.full(vocab, -rng.choice([50.0, 700.0, 5000.0]))
        x[rng.integers(vocab)] = 0.0
    elif shape == 6:
        x = x * rng.choice([20.0, 100.0])
    elif shape == 7:
        x = np.full(vocab, -np.inf)
        x[rng.integers(vocab)] = rng.normal()
    return x


def candidate(rng, x, top_k):
    """A row to compare with x: another, a near one, x itself, or one that turns the tail of x round."""
    kind = rng.integers(6)
    if kind == 0:
        return logits(rng, x.size)
    if kind == 1:
        return x.copy()
    y = x + rng.choice([1e-3, 0.1, 1.0]) * rng.normal(size=x.size)
    if kind == 2:
        return y
    order = np.argsort(-x, kind="stable")
    tail = order[top_k:]
    y = x.copy()
    if kind == 3:
        y[tail] = x[tail[::-1]]
    elif kind == 4:  # what p has of the tail goes where q has least
        y[tail] -= np.where(np.arange(tail.size) == 0, rng.choice([5.0, 50.0, np.inf]), 0.0)
    else:
        y[rng.random(x.size) < 0.2] = -np.inf
    return y


def truths(x, y):
    """KL both ways and Σ min(p, q) in long double; NaN where a row has no distribution."""
    with np.errstate(all="ignore"):
        logs = []
        for row in (x, y):
            row = row.astype(np.longdouble)
            row = row - row.max()
            logs.append(row - np.log(np.exp(row).sum()))
        (log_p, log_q), (p, q) = logs, map(np.exp, logs)
        forward = np.where(p > 0, p * (log_p - log_q), 0).sum()
        reverse = np.where(q > 0, q * (log_q - log_p), 0).sum()
        # a divergence of next to nothing has only the rounding of its terms left
        return np.maximum(forward, 0), np.maximum(reverse, 0), np.minimum(p, q).sum()


def check(rows, seed):
    """Assert the bounds of so many rows; the mean width of those that are finite."""
    rng = np.random.default_rng(seed)
    widths = []
    for batch in range(-(-rows // BATCH)):
        vocab = int(rng.choice([1, 2, 3, 10, 50, 400]))
        layout = Layout(int(rng.integers(1, vocab + 1)), vocab, int(rng.integers(1, min(vocab, 8) + 1)))
        dtypes = rng.choice(len(DTYPES), 2)
        with np.errstate(over="ignore"):
            x = np.array([logits(rng, vocab) for _ in range(BATCH)]).astype(DTYPES[dtypes[0]])
            q = [candidate(rng, row.astype(float), layout.top_k) for row in x]
            y = np.array(q).astype(DTYPES[dtypes[1]])
        cells = Cells.of(buckets_of(rng.normal(size=vocab), layout.buckets))
        records = records_of(x, layout, cells, None, "logits")
        # what is stored is what is read: the float32 of the logs
        found = compare_records(records, cells, y, num_threads=1)
        for t in range(BATCH):
            forward, reverse, kept = truths(x[t], y[t])
            row = {name: float(column[t]) for name, column in found.items()}
            where = (seed, batch, t, layout, row, forward, reverse, kept)
            if np.isnan(kept):
                assert np.isnan([row["kl"], row["kl_lower"], row["kl_upper"], row["acceptance"]]).all(), where
                continue
            assert row["kl_lower"] <= forward <= row["kl_upper"], where
            assert row["kl"] <= forward * (1 + 1e-6) + 1e-9, where
            assert row["reverse_kl"] <= reverse * (1 + 1e-6) + 1e-9, where
            assert row["acceptance_lower"] <= kept <= row["acceptance"] + 1e-6, where
            if np.isfinite(row["kl_upper"]):
                widths.append(row["kl_upper"] - row["kl_lower"])
    return float(np.mean(widths))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.rows} rows; bounds {check(options.rows, options.seed):.3g} apart in the mean")
