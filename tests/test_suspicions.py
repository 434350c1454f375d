"""What looks wrong is told before the work, with evidence; right files and unrelated numbers are left in peace."""

import io
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kullback.cli import main
from kullback.evaluation.job import compare_files
from kullback.evaluation.report import render_report
from kullback.evaluation.sources import open_logits
from kullback.evaluation.terminal import print_summaries

ROOT = Path(__file__).parent.parent
F16, Q4 = ROOT / "examples" / "f16.kld", ROOT / "examples" / "q4_k_m.kld"
LIVE = Path(__file__).parent / "data" / "llama_cpp" / "q4_k_m_logits.npy"


@pytest.fixture(scope="module")
def real():
    """Log-probabilities of a real model, of the same model quantised, and the tokens that followed."""
    with open_logits(F16) as p, open_logits(Q4) as q:
        return p.rows(0, p.shape[0]), q.rows(0, q.shape[0]), p.tokens


@pytest.fixture
def told(tmp_path):
    """Lines told of two arrays as files."""

    def tell(p, q, **options):
        for name, x in (("p", p), ("q", q)):
            if x.dtype == ml_dtypes.bfloat16:
                safetensors.numpy.save_file({"logits": x}, tmp_path / f"{name}.safetensors")
            else:
                np.save(tmp_path / f"{name}.npy", np.ascontiguousarray(x))
        paths = [next(iter(sorted(tmp_path.glob(f"{name}.*")))) for name in "pq"]
        lines = []
        try:
            found = compare_files(*paths, warn=lines.append, **options)
            assert found.facts.get("warnings", []) == lines
        except ValueError as error:  # of the kernels, later
            assert "holds a negative value" in str(error)
        for path in paths:
            path.unlink()
        return [line.replace(f"{tmp_path}/", "") for line in lines]

    return tell


def probs(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_nothing_is_told_of_real_files():
    lines = []
    compare_files(F16, Q4, warn=lines.append)
    assert lines == []


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_nothing_is_told_of_real_rows_in_any_type(real, told, dtype):
    p, q, tokens = real
    assert told(p.astype(dtype), q.astype(dtype), tokens=tokens) == []
    logs = np.log(probs(q.astype(np.float64)))
    assert told(logs.astype(dtype), q, tokens=tokens) == []  # log-probabilities are logits
    if dtype != np.float16:  # in which the least of them are 0
        assert told(probs(p).astype(dtype), probs(q), given="probs", tokens=tokens) == []
    assert told(logs.astype(dtype), np.log(probs(p)), given="log_probs") == []


@pytest.mark.parametrize("vocab", [1, 2, 16, 50, 1000])
@pytest.mark.parametrize("rows", [1, 5, 200])
@pytest.mark.parametrize(
    "kind", ["independent", "near", "masses", "sparse", "constant", "masked", "nan", "spikes", "huge"]
)
def test_nothing_is_told_of_unrelated_numbers(told, vocab, rows, kind):
    rng = np.random.default_rng(rows * 1000 + vocab)
    p, q = rng.normal(0, 3, (2, rows, vocab)).astype(np.float16)
    options = {"tokens": rng.integers(0, vocab, rows)}
    if kind == "near":
        q = (p + rng.normal(0, 0.1, p.shape)).astype(np.float32)
    if kind == "masses":
        p, q = rng.gamma(0.3, 9, (2, rows, vocab))
        options["given"] = "probs"
    if kind == "sparse":
        p, q = np.where(rng.random((2, rows, vocab)) < 0.1, rng.normal(size=(2, rows, vocab)), 0)
        q += 0.01
    if kind == "constant":
        p = np.broadcast_to(p[:1], p.shape).copy()
        q = (p.astype(np.float32) + rng.normal(0, 1e-3, p.shape)).astype(np.float32)
    if kind == "masked":
        p[:, vocab // 2 + 1 :] = -np.inf
    if kind == "nan":
        p[::2], q[::3] = np.nan, np.inf
    if kind == "spikes":
        p[np.arange(rows), rng.integers(0, vocab, rows)] = 60000
    if kind == "huge":
        p, q = p.astype(np.float64) * 1e306, q.astype(np.float32) * np.float32(1e37)
        q[:, 1 + vocab // 3 :] = np.finfo(np.float32).min
    assert told(p, q, **options) == []


def test_shifted_rows(real, told):
    p, q, _ = real
    (line,) = told(p[1:], q[:-1])
    assert line.startswith("q.npy looks shifted by a row: its top tokens are those of p.npy in ")
    (line,) = told(p[:-1], q[1:])
    assert line.startswith("p.npy looks shifted by a row: its top tokens are those of q.npy in ")


@pytest.mark.parametrize("shift", [1, -1])
def test_shifted_tokens(told, shift):
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (200, 1000)).astype(np.float32)
    q = p + rng.normal(0, 0.1, p.shape).astype(np.float32)
    tokens = np.argmax(p + rng.gumbel(size=p.shape), axis=1)
    assert told(p, q, tokens=tokens) == []
    tokens = np.roll(tokens, shift)
    for given, x, y in (("logits", p, q), ("probs", probs(p), probs(q))):
        (line,) = told(x, y, tokens=tokens, given=given)
        assert line.startswith("the tokens look shifted by one: in 94 rows looked at")
        assert f"the token of the {'next' if shift == 1 else 'previous'} row likelier" in line


def test_shifted_tokens_of_a_real_text(real, told):
    p, q, tokens = real
    (line,) = told(p, q, tokens=np.roll(tokens, 1))
    assert "the token of the next row likelier than the row's own" in line


@pytest.mark.parametrize("given", ["logits", "log_probs"])
def test_probabilities_for_logits(real, told, given):
    p, q, _ = real
    lines = told(probs(p), probs(q).astype(np.float16), given=given)
    assert [line.split(",")[0] for line in lines] == [f"{x}.npy looks like probabilities" for x in "pq"]
    assert "rows looked at are ≥ 0 and sum to 1" in lines[0]


def test_logits_for_probabilities(real, told):
    p, q, _ = real
    lines = told(p - p.max(axis=1, keepdims=True), q, given="probs")
    assert [line.split(":")[0] for line in lines] == [
        f"{name}.npy does not look like probabilities" for name in "pq"
    ]  # fmt: skip
    lines = told(p + 5, np.log(probs(q)), given="log_probs")
    assert [line.split(":")[0] for line in lines] == ["p.npy does not look like log-probabilities"]
    assert "are these logits?" in lines[0]


def test_permuted_vocabularies(real, told):
    p, q, _ = real
    order = np.random.default_rng(0).permutation(p.shape[1])
    (line,) = told(p, q[:, order])
    assert line.startswith("the vocabularies look permuted: ")
    token, other = (int(word) for word in line.split("(token ")[1].split(":")[0].split(" with "))
    assert order[other] == token
    (line,) = told(p, np.roll(q, 1, axis=1))  # one token more at the front
    assert line.startswith("the vocabularies look permuted: ")


def test_the_same_numbers(real, told):
    p, _, _ = real
    assert told(p, p) == ["p.npy and q.npy hold the same numbers, in all 36 rows looked at"]
    other = p.copy()
    other[0, 0] += 1
    assert told(p, other) == []


def test_bfloat16_read_as_float16(told):
    p = np.load(LIVE)  # logits of both signs
    assert told(p.astype(np.float16), p) == []
    (line,) = told(p, p.astype(ml_dtypes.bfloat16).view(np.float16))
    assert line.startswith("q.npy looks like bfloat16 read as float16: ")


def test_transposed_files(told, tmp_path):
    x = np.random.default_rng(0).normal(size=(32000, 40)).astype(np.float16)
    lines = told(x, x + np.float16(0.1))
    expected = "has 32000 rows, the size of a vocabulary, of 40 columns: is it transposed?"
    assert lines == [f"{name}.npy {expected}" for name in "pq"]
    np.save(tmp_path / "a.npy", x[:50])
    np.save(tmp_path / "b.npy", x[:50].T.copy())
    with pytest.raises(ValueError, match="its shape is that of the other transposed"):
        compare_files(tmp_path / "a.npy", tmp_path / "b.npy")
    with pytest.raises(ValueError, match=r"has 40 token ids, expected 50, .*: is it transposed"):
        compare_files(tmp_path / "a.npy", tmp_path / "a.npy", tokens=np.zeros(40, int))


def test_every_output_tells_it(tmp_path, capsys):
    assert main(["compare", str(F16), str(F16), "--html", f"{tmp_path}/o.html"]) == 0
    out, error = capsys.readouterr()
    words = "hold the same numbers, in all 36 rows looked at"
    assert error.startswith("kullback: suspicious: ") and words in error
    assert words in out
    assert words in (tmp_path / "o.html").read_text()


def test_other_candidates_are_not_blamed():
    from kullback.evaluation.job import compare_candidates

    lines = []
    first, second = compare_candidates(F16, [Q4, F16], warn=lines.append).values()
    assert len(lines) == 1
    assert "warnings" not in first.facts
    assert second.facts["warnings"] == lines
    out = io.StringIO()
    print_summaries([first, second], out)
    assert out.getvalue().count("suspicious") == 1
    assert "suspicious" in render_report([first, second])


def test_rows_to_be_ignored_may_hold_anything(real, told):
    p, q, tokens = (x.copy() for x in real)
    tokens[10:20] = -100
    p, q = probs(p.astype(np.float64)), probs(q.astype(np.float64))
    p[10:20], q[10:20] = -7.0, 3.0
    assert told(p, q, given="probs", tokens=tokens) == []
    same = told(p, np.where(tokens[:, None] < 0, 1.0, p), given="probs", tokens=tokens)
    assert len(same) == 1
    assert "hold the same numbers" in same[0]
