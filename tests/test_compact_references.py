"""Compact references: what is in them, how they are written, gone on with and damaged, and what compares with them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compact_rows import check

import kullback as kb
from kullback.evaluation.reference import parts
from kullback.evaluation.sources import open_logits
from kullback.evaluation.sources.reference_files import BUCKETS, MANIFEST, part_name
from kullback.evaluation.sources.safetensors import header_of

EXAMPLES = Path(__file__).parent.parent / "examples"
V, T, K = 300, 150, 20


@pytest.fixture
def base():
    return np.random.default_rng(0).normal(0, 3, (T, V)).astype(np.float32)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 32 rows."""
    monkeypatch.setattr(parts, "_PART_ROWS", 32)


def log_softmax(x):
    x = x.astype(np.longdouble)
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def same_files(a, b):
    names = sorted(os.listdir(a))
    return names == sorted(os.listdir(b)) and all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


# ------------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("vocab", [V, 70_000])
def test_it_holds_what_it_says(tmp_path, vocab):
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (9, vocab)).astype(np.float32)
    x[2] = np.round(x[2])  # ties
    tokens = rng.integers(0, vocab, 9)
    kb.write_reference(tmp_path / "r", x, tokens, top_k=K)
    r = open_logits(tmp_path / "r")
    records, logs = r.records(0, 9), log_softmax(x)
    p = np.exp(logs)
    order = np.argsort(-x, axis=1, kind="stable")
    assert np.array_equal(records["ids"], order[:, :K])
    listed, rest = np.take_along_axis(logs, order[:, :K], 1), order[:, K:]
    np.testing.assert_array_equal(records["log_probs"], listed.astype(np.float32))  # rounded to nearest
    p_rest, log_rest = np.take_along_axis(p, rest, 1), np.take_along_axis(logs, rest, 1)
    np.testing.assert_allclose(records["log_rest"], np.log(p_rest.sum(1)).astype(float), rtol=1e-12)
    np.testing.assert_allclose(records["rest_sum"], (p_rest * log_rest).sum(1).astype(float), rtol=1e-12)
    np.testing.assert_allclose(records["entropy"], -(p * logs).sum(1).astype(float), rtol=1e-12)
    lse = np.log(np.exp(x.astype(np.longdouble)).sum(1))
    np.testing.assert_allclose(records["log_sum_exp"], lse.astype(float), rtol=1e-13)
    np.testing.assert_allclose(records["log_prob"], logs[np.arange(9), tokens].astype(float), rtol=1e-12)
    bucket = np.repeat(np.arange(64), r.cells.sizes)[r.cells.place]
    for b in (0, 40):
        mass = (np.where(bucket[rest] == b, p_rest, 0)).sum(1)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(records["log_buckets"][:, b], np.log(mass).astype(float), rtol=1e-6)
    assert np.array_equal(r.tokens, tokens)


def test_the_rest_keeps_its_digits(tmp_path):
    """1 - Σ over the list would be 0, and the log of it -inf."""
    x = np.full((1, 1000), -60.0)
    x[0, 7] = 0.0
    kb.write_reference(tmp_path / "r", x, top_k=1)
    assert open_logits(tmp_path / "r").records(0, 1)["log_rest"][0] == pytest.approx(-60 + np.log(999), rel=1e-14)


def test_a_token_has_at_most_2100_bytes(tmp_path):
    x = np.random.default_rng(0).normal(size=(3000, 1000)).astype(np.float32)
    kb.write_reference(tmp_path / "r", x, np.zeros(3000, int), groups=np.arange(3000) // 100)
    layout = open_logits(tmp_path / "r").layout
    assert layout.row_bytes == 256 * 6 + 64 * 4 + 48
    on_disk = (tmp_path / "r" / part_name(0)).stat().st_size
    assert on_disk / 3000 == pytest.approx(layout.row_bytes, abs=1.0)
    assert type(layout)(256, 200_000, 64).row_bytes <= 2100


def test_undefined_rows_and_one_hot_rows(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 40))
    x[0], x[1], x[2, 3] = np.nan, -np.inf, np.inf
    x[3] = -np.inf
    x[3, 5] = 0.0  # one-hot
    x[4, 10:] = -np.inf
    kb.write_reference(tmp_path / "r", x, top_k=12)
    s = kb.compare_files(tmp_path / "r", _saved(tmp_path / "q.npy", x))
    assert s.undefined == 3 and s.kl.count == 3 and s.kl.max < 1e-9
    assert open_logits(tmp_path / "r").records(3, 5)["log_rest"].tolist() == [-np.inf, -np.inf]
    assert s.parts["bounds"].kl[1] < 1e-6 + s.kl.mean or s.parts["bounds"].kl[1] < 10


def _saved(path, x):
    np.save(path, x)
    return path


@pytest.mark.parametrize(("vocab", "top_k"), [(1, 1), (1, 256), (5, 256), (5, 1)])
def test_small_vocabularies(tmp_path, vocab, top_k):
    x = np.random.default_rng(0).normal(size=(7, vocab))
    y = x + np.random.default_rng(1).normal(size=x.shape)
    kb.write_reference(tmp_path / "r", x, top_k=top_k)
    s = kb.compare_files(tmp_path / "r", _saved(tmp_path / "q.npy", y))
    low, high = s.parts["bounds"].kl
    truth = kb.kl_divergence(x, y, given="logits").mean()
    assert low <= truth <= high
    if top_k >= vocab:
        assert high - low < 1e-5 and s.kl.mean == pytest.approx(truth, rel=1e-6, abs=1e-12)


def test_no_rows(tmp_path):
    kb.write_reference(tmp_path / "r", np.empty((0, 30), np.float32))
    s = kb.compare_files(tmp_path / "r", _saved(tmp_path / "q.npy", np.empty((0, 30))))
    assert s.tokens == 0 and open_logits(tmp_path / "r").shape == (0, 30)


# --------------------------------------------------------------------------------------------------------- bounds


def test_bounds_hold_the_truth():
    """2,000 rows of every shape; `make nightly` has 100,000."""
    assert check(2000, 0) < 5


def test_a_dump_and_its_own_reference(tmp_path):
    path = tmp_path / "r"
    kb.write_reference(path, EXAMPLES / "f16.kld")
    same = kb.compare_files(path, EXAMPLES / "f16.kld")
    assert 0 <= same.kl.max < 1e-9 and same.reverse_kl.max < 1e-9
    assert same.parts["bounds"].kl[0] == 0.0 and same.same_top1.mean == 1.0
    assert same.perplexity_p == pytest.approx(same.perplexity_q, rel=1e-12)
    q4 = kb.compare_files(path, EXAMPLES / "q4_k_m.kld")
    p, q = (open_logits(EXAMPLES / name) for name in ("f16.kld", "q4_k_m.kld"))
    whole = kb.compare(p.rows(0, p.shape[0]), q.rows(0, p.shape[0]), p.tokens)
    low, high = q4.parts["bounds"].kl
    assert 0.8 * whole.kl.mean() < low <= q4.kl.mean <= whole.kl.mean() <= high
    low, high = q4.to_dict()["acceptance"]["bounds"]
    assert low <= whole.acceptance.mean() <= high
    assert q4.same_top1.mean == whole.same_top1.mean()
    assert q4.entropy_q.mean == pytest.approx(whole.entropy_q.mean(), rel=1e-6)
    assert q4.perplexity_q == pytest.approx(np.exp(-whole.log_prob_q.mean()), rel=1e-6)
    assert q4.to_dict()["kl"]["bounds"] == list(q4.parts["bounds"].kl)


def test_rows_against_themselves_bracket_nothing(tmp_path, base):
    for dtype in (np.float16, np.float32, np.float64):
        x = base.astype(dtype)
        path = tmp_path / np.dtype(dtype).name
        kb.write_reference(path, x, top_k=K)
        s = kb.compare_files(path, _saved(tmp_path / "q.npy", x))
        assert s.kl.max < 1e-9 and s.parts["bounds"].kl[0] == 0.0 <= s.parts["bounds"].kl[1]


def test_buckets_tighten_the_bounds(tmp_path):
    """Ids that are likely everywhere: what the buckets are for."""
    rng = np.random.default_rng(0)
    x = (-1.5 * np.log(np.arange(1, 2001)) + rng.normal(size=(200, 2000))).astype(np.float32)
    y = _saved(tmp_path / "y.npy", x + 0.1 * rng.normal(size=x.shape).astype(np.float32))
    bounds = []
    for buckets in (1, 64):
        kb.write_reference(tmp_path / f"{buckets}", x, top_k=32, buckets=buckets)
        bounds.append(kb.compare_files(tmp_path / f"{buckets}", y).parts["bounds"].kl)
    assert bounds[1][0] > bounds[0][0] and bounds[1][1] < 0.5 * bounds[0][1]


def test_a_longer_list_is_foretold(tmp_path):
    """Twice the list, the width that the reference of half the length has foretold."""
    rng = np.random.default_rng(0)
    x = (-1.5 * np.log(np.arange(1, 2001)) + rng.normal(size=(60, 2000))).astype(np.float32)
    y = _saved(tmp_path / "y.npy", x + 0.3 * rng.normal(size=x.shape).astype(np.float32))
    found = {}
    for k in (32, 64):
        kb.write_reference(tmp_path / f"{k}", x, top_k=k)
        found[k] = kb.compare_files(tmp_path / f"{k}", y).parts["bounds"]
    # the buckets of the short list are of float32, as are the logs that are added to them
    assert found[64].widths[1].mean == pytest.approx(found[32].widths[0].mean, rel=1e-4)
    assert 1 < found[64].longer() < found[32].longer()


# ---------------------------------------------------------------------------------------------- writing, resuming


def test_blocks_of_any_size_make_the_same_files(tmp_path, base, small_parts):
    kb.write_reference(tmp_path / "a", base, top_k=K, groups=np.arange(T) // 10)
    source = json.loads((tmp_path / "a" / MANIFEST).read_text())["source"]
    with kb.ReferenceWriter(tmp_path / "b", top_k=K, source=source) as writer:
        for start in range(0, T, 7):
            writer.write(base[start : start + 7], groups=np.arange(start, min(start + 7, T)) // 10)
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert len(open_logits(tmp_path / "a").parts) == 5


def test_an_interrupted_writer_goes_on_to_the_same_files(tmp_path, base, small_parts):
    kb.write_reference(tmp_path / "a", base, top_k=K)

    def stop(done, total):
        if done >= 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kb.write_reference(tmp_path / "b", base, top_k=K, chunk_bytes=V * 4 * 10, progress=stop)
    with pytest.raises(ValueError, match=r"with 64 rows, but it was not closed; go on .*resume"):
        open_logits(tmp_path / "b")
    assert open_logits(tmp_path / "b", salvage=True).shape == (64, V)
    with pytest.raises(ValueError, match=r"is there; go on with it by resume=True"):
        kb.write_reference(tmp_path / "b", base, top_k=K)
    seen = []
    kb.write_reference(tmp_path / "b", base, top_k=K, resume=True, progress=lambda *n: seen.append(n))
    assert seen[0] == (64, T) and same_files(tmp_path / "a", tmp_path / "b")


KILLED = """
import os, signal, sys
import numpy as np
from kullback.evaluation.reference import parts, writer
import kullback as kb
parts._PART_ROWS = 32
def stop(done, total):
    if done >= 100:
        os.kill(os.getpid(), signal.SIGKILL)
kb.write_reference(sys.argv[1], np.load(sys.argv[2]), top_k=20, chunk_bytes=12000, progress=stop)
"""


def test_kill_9_loses_the_part_it_was_at(tmp_path, base, small_parts):
    saved = _saved(tmp_path / "p.npy", base)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "b", saved], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (tmp_path / "b" / ".kullback-0123.part").write_bytes(b"half a part")  # had it been killed while it wrote
    assert open_logits(tmp_path / "b", salvage=True).shape[0] == 96
    kb.write_reference(tmp_path / "b", base, top_k=K, resume=True)
    kb.write_reference(tmp_path / "a", base, top_k=K)
    assert same_files(tmp_path / "a", tmp_path / "b")


def test_what_is_complete_can_be_appended_to(tmp_path, base):
    for part in (base[:100], base[100:]):
        with kb.ReferenceWriter(tmp_path / "r", top_k=K, resume=True) as writer:
            writer.write(part)
    kb.write_reference(tmp_path / "a", base, top_k=K)
    a, b = (open_logits(tmp_path / name).records(0, T) for name in "ar")
    assert a.tobytes() == b.tobytes()


def test_another_job_does_not_go_on(tmp_path, base):
    kb.write_reference(tmp_path / "r", base, top_k=K)
    for wrong in ({"top_k": K + 1}, {"top_k": K, "buckets": 3}, {"top_k": K, "given": "log_probs"}):
        with pytest.raises(ValueError, match="was begun otherwise"):
            kb.write_reference(tmp_path / "r", base, resume=True, **wrong)
    with pytest.raises(ValueError, match="was begun otherwise"):
        kb.write_reference(tmp_path / "r", base[:50], top_k=K, resume=True)


def test_two_writers(tmp_path, base):
    with kb.ReferenceWriter(tmp_path / "r") as writer:
        writer.write(base)
        with pytest.raises(OSError, match="another process is writing to it"):
            kb.ReferenceWriter(tmp_path / "r", resume=True)
    kb.write_reference(tmp_path / "r", base[:10], top_k=3, overwrite=True)
    assert open_logits(tmp_path / "r").shape == (10, V)


def test_nothing_else_is_overwritten(tmp_path, base):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is there and no compact reference"):
        kb.write_reference(tmp_path / "r", base, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        kb.write_reference(tmp_path / "r" / "thesis.tex", base, overwrite=True)
    assert os.listdir(tmp_path / "r") == ["thesis.tex"]


def test_wrong_blocks(tmp_path, base):
    with kb.ReferenceWriter(tmp_path / "r") as writer:
        writer.write(base, np.zeros(T, int))
        with pytest.raises(ValueError, match="rows of 299, expected 300"):
            writer.write(base[:, 1:], np.zeros(T, int))
        with pytest.raises(ValueError, match="with every block of rows or with none"):
            writer.write(base)
        with pytest.raises(ValueError, match="token"):
            writer.write(base, np.full(T, V))
        assert writer.rows == T
    with pytest.raises(ValueError, match="is closed"):
        writer.write(base)
    with pytest.raises(ValueError, match="`buckets` is 257"):
        kb.ReferenceWriter(tmp_path / "r2", buckets=257)


# --------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def written(tmp_path, base, small_parts):
    kb.write_reference(tmp_path / "r", base, np.zeros(T, int), top_k=K)
    _saved(tmp_path / "q.npy", base)
    return tmp_path / "r"


def refused(path, message):
    with pytest.raises((ValueError, OSError), match=message):
        kb.compare_files(path, path.parent / "q.npy")


def test_a_flipped_byte_anywhere(written):
    rng = np.random.default_rng(0)
    for name in (part_name(2), BUCKETS):
        whole = bytearray((written / name).read_bytes())
        for at in (*rng.integers(0, len(whole), 40), len(whole) - 1):
            damaged = whole.copy()
            damaged[at] ^= 1 << int(rng.integers(8))
            (written / name).write_bytes(damaged)
            try:
                kb.compare_files(written, written.parent / "q.npy")
            except (ValueError, OSError) as error:
                assert name in str(error)
            else:  # what a header says in spaces, or of the format of the buckets, decides nothing
                assert at < 8 + int.from_bytes(whole[:8], "little")
        (written / name).write_bytes(whole)


def test_truncated_missing_and_foreign_parts(written):
    whole = (written / part_name(1)).read_bytes()
    (written / part_name(1)).write_bytes(whole[:-5])
    refused(written, "truncated")
    (written / part_name(1)).unlink()
    refused(written, r"part-000001.safetensors: is missing")
    (written / part_name(1)).write_bytes((written / part_name(2)).read_bytes())
    refused(written, "begins with row 64, expected 32")
    (written / part_name(1)).write_bytes(whole)
    (written / part_name(4)).unlink()
    refused(written, "a reference with 128 rows, but 150 were written")
    (written / BUCKETS).unlink()
    with pytest.raises(OSError):
        open_logits(written, salvage=True)


def test_other_versions_and_manifests(written):
    said = json.loads((written / MANIFEST).read_text())
    for wrong, message in (
        ({"version": 2}, "expected 'kullback reference' 1"),
        ({"format": "other"}, "expected 'kullback reference' 1"),
        ({"top_k": V + 1}, "do not go together"),
        ({"top_k": "20"}, "lacks top_k"),
        ({"top_k": K - 1}, "is of a reference with"),
    ):
        (written / MANIFEST).write_text(json.dumps(said | wrong))
        refused(written, message)
    (written / MANIFEST).write_text("{")
    refused(written, "no manifest")
    (written / MANIFEST).write_text(json.dumps(said))
    (written / part_name(0)).write_bytes(header_of({}, {"format": "kullback reference", "version": "2"}))
    refused(written, "kullback reference 2, expected kullback reference 1")


def assert_fresh(name, made):
    """Lines of a table of the page made anew; numbers may differ by their last digit between processors."""
    page = (EXAMPLES.parent / "docs" / "references.md").read_text(encoding="utf-8")
    page = page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]

    def lines(text):
        return {tuple(line.split("|")[1:3]): line for line in text.splitlines() if "| < 1e-9 |" in line}

    for key, line in lines(made).items():
        numbers = [
            [float(x.replace(",", "")) for x in re.findall(r"-?[\d.,]+(?:e-\d+)?", text)]
            for text in (line, lines(page)[key])
        ]
        np.testing.assert_allclose(*numbers, rtol=0.05)


def test_the_table_of_the_page_is_no_older_than_the_code(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.parent / "docs")
    from references_table import table

    assert_fresh("table", table(lists=(64, 256), buckets=(1,)))


@pytest.mark.integration
def test_the_table_of_a_transformers_model(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.parent / "docs")
    from references_table import model, table

    assert_fresh("model", table((256, 4096), (), model()))
