"""Random rows of every kind against long double: `python tests/random_rows.py --rows 1000000` is `make nightly`.

Each batch depends on its number alone, so a run can be split, stopped and gone on with (--first), and a bad batch can
be looked at alone (--first N --rows 250).
"""

import argparse
import multiprocessing
import os
import sys
import time

import numpy as np
import reference
from strategies import stored

import kullback as kb

STORAGES = ("float64", "float32", "float16", "bfloat16")
BATCH = 250  # rows of one vocabulary and of the same kinds
# below this the truth's own rounding shows, and that of weights, which stop at 2^-125 of the greatest
KNOWN = 1e-30
# Totals that differ are known to 2e-15, which is 1e-9 of rows that differ by a millionth, more of one-hot rows.
# A mixture of rows of which one outcome takes nearly all is as exact as the difference of two normalisers; where one
# outcome makes up nearly all of a divergence, its float32 terms are subtracted from five times as much.
FLOAT64_BOUNDS = {"kl": 1e-11, "js": 1e-9, "entropy": 1e-11, "masses": 1e-7}
FLOAT32_BOUNDS = {"kl": 1e-6, "js": 2e-6, "entropy": 1e-6, "masses": 2e-6}


def random_pair(rng, rows):
    """(a, b, kinds): logits of one batch; spread, noise, offset, heavy outcomes and banned tokens all drawn anew."""
    wide = rng.random() < 0.02
    vocab = int(2 ** (rng.uniform(11, 15) if wide else rng.uniform(0, 11)))
    kinds = ["V < 16" if vocab < 16 else "V < 2048" if vocab < 2048 else "V up to 32767"]
    spread, noise = rng.uniform(0.1, 12), 10 ** rng.uniform(-6, 1, (rows, 1))
    a = spread * rng.standard_normal((rows, vocab))
    b = a + noise * rng.standard_normal((rows, vocab))
    before = len(kinds)
    if rng.random() < 0.3:
        kinds.append("offset")
        b += rng.uniform(-30, 30, (rows, 1))
    if rng.random() < 0.3:
        kinds.append("confident")
        a[np.arange(rows), rng.integers(0, vocab, rows)] += rng.uniform(0, 30, rows)
    if rng.random() < 0.3:
        kinds.append("one astray")
        b[np.arange(rows), rng.integers(0, vocab, rows)] += rng.uniform(-30, 30, rows)
    if rng.random() < 0.2:
        kinds.append("banned")
        banned = rng.random((rows, vocab)) < rng.uniform(0, 0.9)
        banned[:, 0] = False
        a[banned] = b[banned] = -np.inf
    if len(kinds) == before:
        kinds.append("plain")
    return a, b, kinds


def greatest(miss, rows):
    """(the greatest error, its row)."""
    worst = int(np.argmax(miss))
    return float(miss[worst]), int(rows[worst])


def divergence_error(got, truth):
    """Worst relative error and its row; rows whose truth is as good as zero must be that."""
    known = truth > KNOWN
    if not ((got >= 0).all() and (got[~known] < 2 * KNOWN).all()):
        return float("inf"), int(np.flatnonzero(~(got >= 0) | (~known & ~(got < 2 * KNOWN)))[0])
    miss = np.abs(np.where(known, got / np.where(known, truth, 1) - 1, 0))
    return greatest(np.where(np.isfinite(miss), miss, np.inf), np.arange(len(got)))


def entropy_error(got, truth):
    """Worst error relative to 1 nat or more, and its row."""
    miss = np.abs(got - truth) / np.maximum(np.abs(truth), 1)
    return greatest(np.where(np.isfinite(miss), miss, np.inf), np.arange(len(got)))


def masses_error(a, b, total, storage):
    """Worst error of KL and JS of the rows as masses, those of q `total` times as heavy."""
    p = stored(np.exp(a - a.max(-1, keepdims=True)), storage)
    q = stored(total * np.exp(b - b.max(-1, keepdims=True)), storage)
    worst = (0.0, 0)
    for ours, truth in (
        (kb.kl_divergence(p, q, num_threads=1), reference.kl_divergence(p, q, given="probs")),
        (kb.jensen_shannon_divergence(p, q, num_threads=1), reference.jensen_shannon_divergence(p, q, given="probs")),
    ):
        alike = ours == truth  # infinities, where one side has rounded to 0
        with np.errstate(invalid="ignore"):  # two normalisers differ by 2e-15 at best, which is 1e-30 of divergence
            ours = ours - np.clip(ours - truth, -KNOWN, KNOWN)
        worst = max(worst, divergence_error(np.where(alike, 1.0, ours), np.where(alike, 1.0, truth)))
    return worst


def errors(batch):
    """[(storage, result, kind, error, row), ...] of one batch; the storages take turns."""
    rng = np.random.default_rng([2026, batch])
    storage = STORAGES[batch % len(STORAGES)]
    a, b, kinds = random_pair(rng, BATCH)
    p, q = stored(a, storage), stored(b, storage)
    c = kb.compare(p, q, num_threads=1)
    forward, reverse = reference.kl_both_ways(p, q)
    found = {
        "kl": max(divergence_error(c.kl, forward), divergence_error(c.reverse_kl, reverse)),
        "entropy": max(
            entropy_error(c.entropy_p, reference.entropy(p)), entropy_error(c.entropy_q, reference.entropy(q))
        ),
    }
    if batch // len(STORAGES) % 4 == 0:  # it costs the reference as much as all the rest
        js = kb.jensen_shannon_divergence(p, q, given="logits", num_threads=1)
        found["js"] = divergence_error(js, reference.jensen_shannon_divergence(p, q))
    if storage in ("float64", "float32"):
        found["masses"] = masses_error(a, b, 10 ** rng.uniform(-6, 6), storage)
    return [(storage, result, kind, *miss) for result, miss in found.items() for kind in kinds]


def limit(storage, result):
    """The greatest error a result may have: what its docstring says."""
    return (FLOAT64_BOUNDS if storage == "float64" else FLOAT32_BOUNDS)[result]


class Worst:
    """The greatest errors by storage, result and kind, with where they were met."""

    def __init__(self):
        self.found = {}
        self.beyond = {}

    def add(self, batch, rows_of_it):
        for storage, result, kind, miss, row in rows_of_it:
            key = storage, result, kind
            self.found[key] = max(self.found.get(key, (0.0, 0, 0)), (miss, batch, row))
            if miss > limit(storage, result):
                self.beyond[batch, result] = (storage, miss, row)

    def table(self):
        """One line for each kind, one column for each storage and result."""
        columns = [(s, r) for s in STORAGES for r in ("kl", "js", "entropy", "masses")]
        kinds = sorted({kind for _, _, kind in self.found})
        lines = [f"{'':14}" + "".join(f"{s + ' ' + r:>17}" for s, r in columns)]
        for kind in kinds:
            values = [self.found.get((s, r, kind), (np.nan,))[0] for s, r in columns]
            lines.append(f"{kind:14}" + "".join(f"{value:17.1e}" for value in values))
        values = [max((v[0] for (s, r, _), v in self.found.items() if (s, r) == c), default=np.nan) for c in columns]
        lines.append(f"{'worst':14}" + "".join(f"{value:17.2e}" for value in values))
        return "\n".join(lines)


def measure(rows, first=0, processes=1, every=60.0):
    """The worst errors of at least that many rows, from batch `first` on; a word on standard error now and then."""
    numbers = range(first, first + -(-rows // BATCH))
    worst, began, told = Worst(), time.monotonic(), time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else _Serial() as pool:
        for batch, found in zip(numbers, pool.imap(errors, numbers), strict=True):
            worst.add(batch, found)
            if time.monotonic() - told > every:
                told = time.monotonic()
                top = {s: max((v[0] for (t, *_), v in worst.found.items() if t == s), default=0) for s in STORAGES}
                print(f"{told - began:6.0f} s, to batch {batch}: worst {top}", file=sys.stderr, flush=True)
    return worst


class _Serial:
    imap = staticmethod(map)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, metavar="BATCH", help="go on from this batch")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    worst = measure(options.rows, options.first, options.processes)
    last = options.first + -(-options.rows // BATCH) - 1
    print(f"worst relative errors against long double, {kb.get_engine()} engine, batches {options.first} to {last}")
    print(worst.table())
    for (batch, result), (storage, miss, row) in sorted(worst.beyond.items(), key=lambda item: -item[1][1])[:20]:
        print(f"beyond {limit(storage, result):.0e}: {storage} {result} {miss:.3e}, batch {batch}, row {row}")
    print(f"{len(worst.beyond)} results beyond their bound")
    return int(bool(worst.beyond))


if __name__ == "__main__":
    sys.exit(main())
