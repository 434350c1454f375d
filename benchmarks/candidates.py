"""`python -m benchmarks.candidates`: many candidates of one base, in one command against one command each.

The base and the candidates are float16 files of the same size, written to a folder and removed afterwards. One
`kullback compare P Q1 ... Qn` reads the base once; n of them read it n times. Both are run on files out of the page
cache, and on files in it where they fit, and must find the same. `--docs` writes the table into docs/evaluation.md.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from . import machine, report
from .job import COMMAND, GIB, MIB, VOCAB, Process, drop, seconds_of, write_pair

PAGE = Path(__file__).parent.parent / "docs" / "evaluation.md"
FITS = 0.6  # of the memory: files that are said to be in the page cache


def write_candidates(folder, size, count, vocab):
    """The base, `count` candidates, and the tokens; a candidate differs from the next in one row of 64."""
    base, first, tokens = write_pair(folder, 2 * size, vocab)
    candidates = [first]
    for i in range(1, count):
        path = Path(folder) / f"q{i}.npy"
        shutil.copyfile(first, path)
        np.load(path, mmap_mode="r+")[i % 64 :: 64] += np.float16(0.25)
        candidates.append(path)
    return base, candidates, tokens


def compare(base, candidates, tokens, json_path):
    """The process, done, and what it found of each candidate."""
    files = map(str, (base, *candidates))
    process = Process([*COMMAND, *files, "--tokens", str(tokens), "--quiet", "--json", str(json_path)])
    process.finish()
    tree = json.loads(json_path.read_text(encoding="utf-8"))
    return process, [one["kl"]["mean"] for one in tree.get("candidates", [tree])]


def measure(base, candidates, tokens, cold):
    out = Path(base).parent / "out.json"
    files = (base, *candidates)

    def forget():
        if cold:
            drop(files)

    forget()
    together, found = compare(base, candidates, tokens, out)
    apart, own, each = 0.0, 0, []
    for candidate in candidates:
        forget()
        process, mean = compare(base, [candidate], tokens, out)
        apart, own, each = apart + process.seconds, max(own, process.own), each + mean
    assert found == each, "the same candidates have other figures in one command"
    return {
        "files": "out of the page cache" if cold else "in the page cache", "together_s": together.seconds,
        "apart_s": apart, "together_mib": together.own / MIB, "apart_mib": own / MIB,
    }  # fmt: skip


def run(folder, size, count, vocab):
    results = {"machine": machine.facts(), "candidates": count, "rows": []}
    with tempfile.TemporaryDirectory(prefix="kullback-candidates-", dir=folder) as inside:
        base, candidates, tokens = write_candidates(inside, size, count, vocab)
        results["bytes"] = base.stat().st_size
        results["rows"].append(measure(base, candidates, tokens, cold=True))
        memory = int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1]) << 10
        if (count + 1) * results["bytes"] < FITS * memory:
            seconds_of(lambda: compare(base, candidates, tokens, Path(inside) / "out.json"))  # now they are in it
            results["rows"].append(measure(base, candidates, tokens, cold=False))
    results["machine"]["load_after"] = machine.load()
    return results


def table_of(results):
    n = results["candidates"]
    heads = ["files", f"one command for {n}", f"{n} commands", "times as fast", "memory of its own", "of one alone"]
    rows = [
        [
            row["files"], f"{row['together_s']:.1f} s", f"{row['apart_s']:.1f} s",
            f"{row['apart_s'] / row['together_s']:.2f}", f"{row['together_mib']:.0f} MiB",
            f"{row['apart_mib']:.0f} MiB",
        ]
        for row in results["rows"]
    ]  # fmt: skip
    return heads, rows


def head(results):
    facts = results["machine"]
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['date'][:10]}, load average "
        f"{facts['load_before']} before; {results['candidates']} candidates of a base of "
        f"{results['bytes'] / 1e9:.2f} GB, float16"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.candidates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gib", type=float, default=0.125, help="size of each file (0.125)")
    parser.add_argument("--candidates", type=int, default=4, help="how many (4)")
    parser.add_argument("--vocab", type=int, default=VOCAB, help=f"outcomes ({VOCAB})")
    parser.add_argument("--folder", help="where the files are written (the system's folder for temporary files)")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/evaluation.md")
    options = parser.parse_args(arguments)
    results = run(options.folder, int(options.gib * GIB), options.candidates, options.vocab)
    print(head(results), "", report.plain_table(*table_of(results)), sep="\n")
    if options.docs:
        report.into_block(PAGE, "candidates", f"{head(results)}.\n\n{report.markdown_table(*table_of(results))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
