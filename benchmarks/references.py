"""`python -m benchmarks.references`: a compact reference of many tokens, written and compared: time, memory, size.

The rows of both models come from a generator, as from models that run: no dense file is there. They are stretches of
one long row (N(0, 3²), V = 32,000), begun at random places, those of q 0.3 away. `--docs` writes the table into
docs/references.md.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import kullback as kb
from kullback.evaluation.sources.base import Source

from . import machine

PAGE = Path(__file__).parent.parent / "docs" / "references.md"
VOCAB = 32_000
POOL = 1 << 21
DOCUMENT = 512  # tokens
SEED = 17


class Stream(Source):
    """Rows that nobody has stored."""

    def __init__(self, rows, distance, vocab=VOCAB):
        rng = np.random.default_rng(SEED)
        self._pool = rng.normal(0, 3, POOL + vocab).astype(np.float32)
        self._starts = rng.integers(0, POOL, rows)
        tokens = rng.integers(0, vocab, rows)
        if distance:
            self._pool += rng.normal(0, distance, self._pool.size).astype(np.float32)
        super().__init__(
            f"stream {distance:g} away",
            "stream",
            (rows, vocab),
            np.dtype(np.float32),
            tokens,
            np.arange(rows) // DOCUMENT,
        )

    def _read(self, start, stop, out):
        for row, first in zip(out, self._starts[start:stop].tolist(), strict=True):
            row[:] = self._pool[first : first + row.size]


def measured(work):
    """(seconds, seconds of all cores, what `work` gives)."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def run(folder, rows, vocab=VOCAB, quiet=True):
    """What writing and comparing took, and what came of it."""
    path = os.path.join(folder, "base.kbref")
    p, q = Stream(rows, 0.0, vocab), Stream(rows, 0.3, vocab)
    report = None if quiet else lambda done, total: print(f"\r{done} of {total}", end="", file=sys.stderr)
    writing = measured(lambda: kb.write_reference(path, p, progress=report))
    comparing = measured(lambda: kb.compare_files(path, q, progress=report))
    few = min(rows, 2000)
    dense = measured(lambda: kb.compare_files(Stream(few, 0.0, vocab), Stream(few, 0.3, vocab)))
    size = sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path))
    summary = comparing[2]
    return {
        "rows": rows, "vocab": vocab, "size": size, "dense_size": 4 * rows * vocab, "writing": writing[:2],
        "comparing": comparing[:2], "dense": tuple(x / few * rows for x in dense[:2]), "memory": _peak(),
        "kl": summary.kl.mean, "bounds": summary.parts["bounds"].kl,
    }  # fmt: skip


def _peak():
    sys.path.insert(0, str(PAGE.parent.parent / "tests"))
    try:
        from peak import peak
    finally:
        sys.path.pop(0)
    return peak()


def table(r):
    """The results in Markdown."""
    per = 1e6 / r["rows"]
    lines = [f"| {r['rows']:,} tokens, V = {r['vocab']:,} | |", "|---|---:|"]
    lines.append(f"| size | {r['size'] / 1e9:.2f} GB, {r['size'] / r['rows']:.0f} bytes a token |")
    lines.append(f"| of a dense float32 file | {r['dense_size'] / 1e9:.0f} GB |")
    for name, label in (("writing", "written"), ("comparing", "compared"), ("dense", "dense rows compared")):
        wall, cpu = r[name]
        lines.append(f"| {label} | {wall:,.0f} s; {cpu * per:.0f} µs of a core a token |")
    pool = 8 * (POOL + r["vocab"])
    lines.append(f"| memory, {pool / 1e6:.0f} MB of it the generator's | {r['memory'] / 1e6:.0f} MB |")
    low, high = r["bounds"]
    lines.append(f"| mean KL | {r['kl']:.5f}, bounds {low:.5f} to {high:.4f} |")
    return "\n".join(lines)


def into_page(r, page=PAGE):
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition("<!-- million -->\n")
    _, end, after = rest.partition("<!-- /million -->\n")
    assert start and end, f"{page} has no place for it"
    known = machine.facts()
    body = f"{table(r)}\n\n{known['processor']}, {known['cores']} cores.\n"
    page.write_text(f"{before}{start}{body}{end}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/references.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(folder, options.rows, quiet=False)
    print(table(found))
    if options.docs:
        into_page(found)


if __name__ == "__main__":
    main()
