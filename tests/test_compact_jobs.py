"""Jobs with a compact reference as P: candidates, labels, checkpoints, tables of tokens, the command."""

import contextlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation.sources import open_logits

EXAMPLES = Path(__file__).parent.parent / "examples"
V, T, K = 300, 150, 20


@pytest.fixture
def base():
    return np.random.default_rng(0).normal(0, 3, (T, V)).astype(np.float32)


def _saved(path, x):
    np.save(path, x)
    return path


@pytest.fixture
def written(tmp_path, base):
    kb.write_reference(tmp_path / "r", base, np.zeros(T, int), top_k=K)
    _saved(tmp_path / "q.npy", base)
    return tmp_path / "r"


def test_candidates_labels_checkpoints_and_tables_of_tokens(tmp_path, base):
    """A reference is P of whatever a job can do, and its pieces make the whole to the bit."""
    rng = np.random.default_rng(3)
    kb.write_reference(tmp_path / "r", base, rng.integers(0, V, T), top_k=K, groups=np.arange(T) // 10)
    near, far = base + 0.1 * rng.normal(size=base.shape), base + rng.normal(size=base.shape)
    by = np.repeat(["a", "b", "c"], T // 3)
    whole = kb.compare_candidates(tmp_path / "r", {"near": near, "far": far}, by=by, top_k=[1, 5])
    assert whole.difference("far", "near").kl.mean > 0.1 and set(whole["far"].by) == {"a", "b", "c"}
    logs = []
    for i, rows in enumerate(((0, 70), (70, T))):
        logs.append(tmp_path / f"{i}.log")
        kb.compare_candidates(
            tmp_path / "r", {"near": near, "far": far}, by=by, top_k=[1, 5], rows=rows, checkpoint=logs[-1],
            chunk_bytes=9 * 8 * V, num_threads=2,
        )  # fmt: skip
    merged = kb.merge_logs(logs)
    for a, b in zip(whole.summaries, merged.summaries, strict=True):
        assert a == b
    with pytest.raises(ValueError, match="lists 20 of each row"):
        kb.compare_candidates(tmp_path / "r", {"near": near}, top_k=[K + 1])
    table = tmp_path / "tokens.csv"
    kb.compare_candidates(tmp_path / "r", {"near": near}, per_token=table)
    header = table.read_text().partition("\n")[0]
    assert '"kl_lower"' in header and '"kl_upper"' in header
    kb.compare_candidates(tmp_path / "r", {"near": near}, per_token=table)  # ours may be replaced


def test_ignored_rows(tmp_path, base):
    tokens = np.zeros(T, int)
    tokens[::3] = -100
    kb.write_reference(tmp_path / "r", base, tokens, top_k=K)
    y = base + np.float32(0.5)
    y[::3] = np.nan
    s = kb.compare_files(tmp_path / "r", _saved(tmp_path / "q.npy", y))
    assert (s.ignored, s.undefined, s.tokens) == (50, 0, 100) and s.kl.max < 1e-9


def test_given_probabilities(tmp_path, base):
    p = np.exp(base - base.max(1, keepdims=True))
    kb.write_reference(tmp_path / "r", p, given="probs", top_k=K)
    s = kb.compare_files(tmp_path / "r", _saved(tmp_path / "q.npy", p), given="probs")
    assert s.kl.max < 1e-9
    with pytest.raises(ValueError, match="'probs', but there is the probability -"):
        kb.write_reference(tmp_path / "s", base, given="probs")


def test_padded_vocabularies(tmp_path, base):
    padded = np.concatenate([base, np.zeros((T, 20), np.float32)], 1)
    kb.write_reference(tmp_path / "r", padded, vocab_size=V, top_k=K)
    q = _saved(tmp_path / "q.npy", padded)
    assert kb.compare_files(tmp_path / "r", q, vocab_size=V).kl.max < 1e-9
    with pytest.raises(ValueError, match="vocab_size=300"):
        kb.compare_files(tmp_path / "r", q)
    with pytest.raises(ValueError, match="write it with vocab_size"):
        kb.compare_files(tmp_path / "r", q, vocab_size=100)


def test_what_a_reference_does_not_tell(written):
    q = written.parent / "q.npy"
    for arguments, message in (
        (((q, written), {}), "can only be P"),
        (((written, q), {"jensen_shannon": True}), "needs logits"),
        (((written, q), {"convention": "llama.cpp"}), "llama.cpp"),
    ):
        with pytest.raises(ValueError, match=message):
            kb.compare_files(*arguments[0], **arguments[1])
    with pytest.raises(ValueError, match="no logits"):
        kb.convert(written, written.parent / "x.npy")
    kb.write_reference(written.parent / "s", q, top_k=K)
    with pytest.raises(ValueError, match="was written without"):
        kb.compare_files(written.parent / "s", q, tokens=np.zeros(T, int))
    with pytest.raises(ValueError, match="compact reference already"):
        kb.write_reference(written.parent / "t", written)


def test_the_command(tmp_path, capsys):
    path, out = str(tmp_path / "f16.kbref"), tmp_path / "out.json"
    assert main(["reference", str(EXAMPLES / "f16.kld"), path, "--top-k", "64", "--quiet"]) == 0
    assert main(["compare", path, str(EXAMPLES / "q4_k_m.kld"), "--json", str(out), "--quiet"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "bounds of KL(p‖q)" in shown and "list too short" in shown
    low, high = json.loads(out.read_text())["kl"]["bounds"]
    assert 0 < low < high
    assert main(["compare", path, str(EXAMPLES / "q4_k_m.kld"), "--json", str(out), "--quiet"]) == 0  # ours: replaced
    page = tmp_path / "page.html"
    assert main(["compare", path, str(EXAMPLES / "q4_k_m.kld"), "--html", str(page), "--quiet"]) == 0
    assert "every KL is at least the figure shown" in " ".join(page.read_text(encoding="utf-8").split())
    capsys.readouterr()
    assert main(["info", path]) == 0 and "top k" in capsys.readouterr().out
    again = ["reference", str(EXAMPLES / "f16.kld"), path, "--top-k", "64", "--quiet"]
    assert main(again) == 2 and "--resume" in capsys.readouterr().err
    assert main([*again, "--resume"]) == 0 and main([*again, "--overwrite"]) == 0


def test_models_that_run(tmp_path, base):
    """LiveComparison takes a reference as compare_files does, to the same bits."""
    from kullback.evaluation import LiveComparison

    tokens = np.random.default_rng(0).integers(0, V, T)
    kb.write_reference(tmp_path / "r", base, tokens, top_k=K)
    kb.write_reference(tmp_path / "s", base, top_k=K)
    other = base + np.random.default_rng(1).normal(0, 0.1, base.shape)
    for name in "rs":
        with LiveComparison(tmp_path / name) as live:
            for start in range(0, T, 40):
                live.update(other[start : start + 40], tokens[start : start + 40])
            found = live.summary()
        whole = kb.compare_files(tmp_path / name, _saved(tmp_path / "q.npy", other))
        assert found.kl == whole.kl and found.parts["bounds"].kl == whole.parts["bounds"].kl
        assert (found.log_ratio.count, whole.log_ratio.count) == ((T, T) if name == "r" else (0, 0))
    with pytest.raises(ValueError, match="needs logits"):
        LiveComparison(tmp_path / "r", jensen_shannon=True)
    with pytest.raises(ValueError, match="write it with vocab_size"):
        LiveComparison(tmp_path / "r", vocab_size=V - 1)


def sent(path, data):
    """A thread that writes `data` into a FIFO."""

    def write():
        with open(path, "wb") as file, contextlib.suppress(BrokenPipeError):
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_stream_becomes_a_reference_and_the_dense_dump_never_exists(tmp_path):
    data = (EXAMPLES / "f16.kld").read_bytes()
    kb.write_reference(tmp_path / "a", EXAMPLES / "f16.kld", top_k=K)
    os.mkfifo(tmp_path / "P")
    thread = sent(tmp_path / "P", data)
    kb.write_reference(tmp_path / "b", tmp_path / "P", top_k=K)
    thread.join()
    rows = open_logits(tmp_path / "a").shape[0]
    a, b = (open_logits(tmp_path / name) for name in "ab")
    assert a.records(0, rows).tobytes() == b.records(0, rows).tobytes() and np.array_equal(a.tokens, b.tokens)
    # a writer that died is gone on with when all is sent again
    thread = sent(tmp_path / "P", data[: len(data) * 2 // 3])
    with pytest.raises((OSError, ValueError)):
        kb.write_reference(tmp_path / "c", tmp_path / "P", top_k=K, chunk_bytes=1 << 20)
    thread.join()
    thread = sent(tmp_path / "P", data)
    kb.write_reference(tmp_path / "c", tmp_path / "P", top_k=K, resume=True)
    thread.join()
    assert open_logits(tmp_path / "c").records(0, rows).tobytes() == a.records(0, rows).tobytes()
