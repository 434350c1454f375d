"""The recipes of docs/streams.md, with a program that writes as llama-perplexity does in its place."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from streaming import run

from kullback.evaluation.job import compare_files
from kullback.evaluation.sources.convert import convert

PAGE = (Path(__file__).parent.parent / "docs" / "streams.md").read_text(encoding="utf-8")
N_CTX, CHUNKS, VOCAB = 32, 5, 300

# tools/perplexity/perplexity.cpp: what it writes where and when, and how much of it waits in the buffer of an ofstream.
# Its model is a file of logits, its text one of tokens.
LLAMA_PERPLEXITY = f"""#!{sys.executable}
import sys
import numpy as np
from kullback.evaluation.sources.convert import encode

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
n_ctx = {N_CTX}
assert given["-c"] == "512"
out = open(given["--kl-divergence-base"], "wb", buffering=8191)
print("perplexity: saving all logits to", given["--kl-divergence-base"], file=sys.stderr, flush=True)
out.write(b"_logits_" + np.int32(n_ctx).tobytes())
tokens = np.load(given["-f"]).reshape(-1)
if len(tokens) < 2 * n_ctx:
    print("perplexity: you need at least", 2 * n_ctx, "tokens", file=sys.stderr)
    out.close()
    sys.exit(0)
logits = np.load(given["-m"])
chunks = len(tokens) // n_ctx
out.write(np.array([logits.shape[1], chunks], np.int32).tobytes())
out.write(tokens[: chunks * n_ctx].astype(np.int32).tobytes())
rows = n_ctx - 1 - n_ctx // 2
for i in range(chunks):
    if given.get("--fail") == str(i):
        print("perplexity : failed to decode", file=sys.stderr)
        break
    out.write(encode(logits[i * rows : (i + 1) * rows]).tobytes())
    print(f"[{{i + 1}}]{{5.4321:.4f}},", end="", flush=True)
print(flush=True)
out.close()
"""


def recipes():
    """The blocks of commands on the page that call the tool."""
    blocks = re.findall(r"(?:^    .+\n)+", PAGE, re.MULTILINE)
    return [block for block in blocks if "llama-perplexity -m" in block]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, VOCAB, (CHUNKS, N_CTX))
    p = rng.normal(0, 3, (CHUNKS * (N_CTX - 1 - N_CTX // 2), VOCAB)).astype(np.float32)
    models = {"f16": p, "q4": (p + rng.normal(0, 0.3, p.shape)).astype(np.float32)}
    for name, x in models.items():
        np.save(tmp_path / "x.npy", x)
        convert(tmp_path / "x.npy", tmp_path / f"{name}.kld", chunk_tokens=tokens)
        os.rename(tmp_path / "x.npy", tmp_path / f"{name}.gguf")
    os.link(tmp_path / "f16.kld", tmp_path / "base.kld")
    np.save(tmp_path / "x.npy", tokens)
    os.rename(tmp_path / "x.npy", tmp_path / "text.txt")
    (tmp_path / "llama-perplexity").write_text(LLAMA_PERPLEXITY)
    (tmp_path / "llama-perplexity").chmod(0o755)
    return tmp_path


def test_the_recipes_of_the_page(folder):
    assert len(recipes()) == 4
    for recipe in recipes():
        done = run(recipe, folder)
        assert done.returncode == 0, done.stderr
    expected = compare_files(folder / "base.kld", folder / "q4.kld").to_dict()
    for name in ("q4.json", "both.json"):
        found = json.loads((folder / name).read_text())
        assert [found[key] == expected[key] for key in ("tokens", "kl", "perplexity_q")] == [True] * 3
    low, high = json.loads((folder / "later.json").read_text())["kl"]["bounds"]
    assert low <= expected["kl"]["mean"] <= high
    assert (folder / "q4.txt").read_text().startswith("[1]5.4321,[2]")
    convert(folder / "f16.kld", folder / "expected.npy", dtype="float16")
    assert (folder / "base.npy").read_bytes() == (folder / "expected.npy").read_bytes()


def test_its_progress_among_the_rows(folder):
    """`/dev/stdout` is what the page warns of."""
    line = "llama-perplexity -m q4.gguf -f text.txt -c 512 --kl-divergence-base /dev/stdout"
    done = run(f"{line} | kullback compare base.kld - --quiet", folder)
    assert done.returncode == 2
    assert re.search(r"goes on after the \d+ bytes that its header makes|the file is damaged", done.stderr)


def test_a_text_that_is_too_short_and_a_failed_decode(folder):
    pipe = "-c 512 --kl-divergence-base /dev/fd/3 3>&1 >/dev/null 2>/dev/null | kullback compare base.kld - --quiet"
    done = run(f"llama-perplexity -m q4.gguf -f text.txt --fail 3 {pipe}", folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "the stream ended after 45 of 75 rows" in done.stderr
    np.save(folder / "short.npy", np.zeros(2 * N_CTX - 1, int))
    done = run(f"llama-perplexity -m q4.gguf -f short.npy {pipe}", folder)
    assert (done.returncode, done.stdout) == (3, "")
    assert "the stream ended within its header, 12 bytes" in done.stderr
