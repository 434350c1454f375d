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


def dumps(data=EXAMPLES):
    """The rows of the base and of the quant, and how many of the first are to learn from."""
    p, q = (open_logits(data / name) for name in ("f16.kld", "q4_k_m.kld"))
    return *(x.rows(0, x.shape[0]) for x in (p, q)), min(64, p.shape[0] // 2)


def model(vocab=32_000, scale=20.0):
    """The same of a small random transformers model, as peaked as a language model, and its weights in 8 bits."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **sizes)).eval()
    ids = torch.randint(0, vocab, (4, 64))
    matrices = [x for x in base.parameters() if x.dim() > 1]
    with torch.inference_mode():
        for x in matrices:
            x.mul_(4)
        base.lm_head.weight.mul_(scale / 4)
        p = base(ids).logits.reshape(-1, vocab).numpy()
        for x in matrices:
            step = x.abs().amax(1, keepdim=True) / 127
            x.copy_((x / step).round() * step)
        q = base(ids).logits.reshape(-1, vocab).numpy()
    return p, q, 64


def table(lists=LISTS, buckets=BUCKETS, rows=None):
    """The table: by the length of the list, and at 256 by the number of buckets."""
    rows = dumps() if rows is None else rows
    p, q, learnt = rows
    whole = kb.compare(p[learnt:], q[learnt:])
    truth = whole.kl.mean(), whole.acceptance.mean()
    vocab = len(p["code"][0]) if p.dtype.names else p.shape[1]
    lines = [
        f"{len(whole.kl)} tokens, V = {vocab:,}. Whole rows: KL {truth[0]:.4g}, acceptance {truth[1]:.4f}.",
        "",
        HEAD,
    ]
    lines.append("|" + "---:|" * (HEAD.count("|") - 1))
    with tempfile.TemporaryDirectory() as folder:
        lines += [line(folder, k, 64, rows, truth) for k in lists if k < vocab]
        lines += [line(folder, 256, b, rows, truth) for b in buckets if b != 64]
    return "\n".join(lines)


def into_page(name, lines):
    text = PAGE.read_text(encoding="utf-8")
    before, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->\n")
    assert start and end
    PAGE.write_text(f"{before}{start}{lines}\n{end}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="print that of another f16.kld and q4_k_m.kld, and write nothing")
    parser.add_argument("--model", action="store_true", help="write the table of a transformers model too")
    options = parser.parse_args()
    if options.data:
        print(table(rows=dumps(options.data)))
        return
    into_page("table", table())
    if options.model:
        into_page("model", table((64, 256, 1024, 4096, 16384), (), model()))


if __name__ == "__main__":
    main()
