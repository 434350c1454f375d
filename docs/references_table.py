"""Rewrites the table of docs/references.md from the dumps in examples/: `make references-table`, a minute."""

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

import kullback as kb
from kullback.evaluation.reference import writer
from kullback.evaluation.sources import open_logits

PAGE = Path(__file__).parent / "references.md"
EXAMPLES = Path(__file__).parent.parent / "examples"
LISTS = (64, 128, 256, 512, 1024, 4096, 16384, 32768)
BUCKETS = (1, 16, 64, 256)
HEAD = "| K | buckets | bytes a token | not listed | itself | KL | error | lower bound | upper bound | acceptance |"


def line(folder, top_k, buckets, rows, truth):
    """One reference: its bytes, the base against itself, and the quant."""
    p, q, learnt = rows
    path = Path(folder) / f"{top_k}-{buckets}"
    none = np.zeros(len(p), np.int64)
    with mock.patch.object(writer, "LEARNT", learnt):  # what the buckets are learnt from is not measured
        kb.write_reference(path, p, none, top_k, none, buckets=buckets)
    found = kb.compare_candidates(path, {"itself": p, "quant": q}, rows=(learnt, len(p)))
    same, s = found["itself"], found["quant"]
    low, high = s.parts["bounds"].kl
    assert low <= truth[0] <= high and s.kl.mean <= truth[0] and same.kl.max < 1e-9, (top_k, buckets)
    kept = s.parts["bounds"].ends["acceptance"]
    assert kept[0] <= truth[1] <= kept[1]
    cells = [
        f"{top_k:,}", f"{buckets}", f"{open_logits(path).layout.row_bytes:,}", f"{s.parts['bounds'].rest.mean:.2g}",
        "< 1e-9", f"{s.kl.mean:.3g}", f"{100 * (s.kl.mean / truth[0] - 1):.0f} %", f"{low:.3g}", f"{high:.2g}",
        f"{kept[0]:.3f} to {kept[1]:.4f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def table(lists=LISTS, buckets=BUCKETS, data=EXAMPLES):
    """The table: by the length of the list, and at 256 by the number of buckets."""
    p, q = (open_logits(data / name) for name in ("f16.kld", "q4_k_m.kld"))
    rows = *(x.rows(0, x.shape[0]) for x in (p, q)), min(64, p.shape[0] // 2)
    whole = kb.compare(rows[0][rows[2] :], rows[1][rows[2] :])
    truth = whole.kl.mean(), whole.acceptance.mean()
    count = len(whole.kl)
    lines = [f"{count} tokens, V = {p.shape[1]:,}. Whole rows: KL {truth[0]:.4g}, acceptance {truth[1]:.4f}.", "", HEAD]
    lines.append("|" + "---:|" * (HEAD.count("|") - 1))
    with tempfile.TemporaryDirectory() as folder:
        lines += [line(folder, k, 64, rows, truth) for k in lists]
        lines += [line(folder, 256, b, rows, truth) for b in buckets if b != 64]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="print that of another f16.kld and q4_k_m.kld, and write nothing")
    options = parser.parse_args()
    if options.data:
        print(table(data=options.data))
        return
    text = PAGE.read_text(encoding="utf-8")
    before, start, rest = text.partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- /table -->\n")
    assert start and end
    PAGE.write_text(f"{before}{start}{table()}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
