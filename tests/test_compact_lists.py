"""Two top-k files in a job: bounds from both tails, against whole rows; answers of servers and DistillKit's shards."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation.sources.lists import open_lists

DISTILLKIT = Path(__file__).parent / "data" / "distillkit"
V, T, K = 40, 60, 6


def answers(path, logs, tokens, top_k=K):
    """vLLM's prompt_logprobs: the likeliest of each row, and the row's token wherever it stands."""
    positions = [None]
    for row, token in zip(logs, tokens, strict=True):
        ids = {*np.argsort(-row, kind="stable")[:top_k].tolist(), int(token)}
        first = [int(token), *sorted(ids - {int(token)})]
        positions.append({str(i): {"logprob": float(row[i])} for i in first})
    path.write_text(json.dumps({"prompt_logprobs": positions}))
    return path


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, (T, V))
    x[0] = 0.0  # the likeliest are many
    y = x + rng.normal(0, 0.5, x.shape)
    y[1] = rng.normal(0, 3, V)  # lists that share little
    y[2] = x[2]
    return *(kb.log_softmax(z) for z in (x, y)), rng.integers(0, V, T)


def test_bounds_hold_what_whole_rows_say(tmp_path, rows):
    p, q, tokens = rows
    table = tmp_path / "t.csv"
    a, b = answers(tmp_path / "a.json", p, tokens), answers(tmp_path / "b.json", q, tokens)
    s = kb.compare_files(a, b, per_token=table)
    whole = kb.compare(p, q, tokens)
    with table.open(newline="") as file:
        found = list(csv.DictReader(file))
    names = ("kl", "kl_lower", "reverse_kl", "acceptance", "acceptance_lower")
    column = {name: np.array([float(row[name]) for row in found]) for name in names}
    assert (column["kl_lower"] <= whole.kl).all() and (column["kl"] <= whole.kl + 1e-9).all()
    assert (column["reverse_kl"] <= whole.reverse_kl + 1e-9).all()
    assert (column["acceptance_lower"] <= whole.acceptance).all()
    assert (whole.acceptance <= column["acceptance"] + 1e-9).all()
    assert column["kl"][1] > 0.4 and column["kl"][2] == pytest.approx(0, abs=1e-9)
    assert s.to_dict()["kl"]["bounds"] == [s.parts["bounds"].kl[0], "inf"]
    assert s.perplexity_p == pytest.approx(np.exp(-whole.log_prob_p.mean()))
    assert s.same_top1.mean == whole.same_top1.mean()


def test_lists_that_share_little_are_known_to_be_far_apart(tmp_path):
    """What q does not list it holds to be no likelier than its least: more than one bucket for the rest tells."""
    p, q = np.log(np.full((2, 1, 20), 0.4 / 18))
    p[0, :2], q[0, 2:4] = np.log(0.3), np.log(0.3)
    a, b = answers(tmp_path / "a.json", p, [0], 2), answers(tmp_path / "b.json", q, [0], 3)
    assert 0.5 < kb.compare_files(a, b).kl.mean <= kb.kl_divergence(p, q, given="logits")[0]


def test_whole_lists_have_both_bounds(tmp_path, rows):
    p, q, tokens = rows
    s = kb.compare_files(answers(tmp_path / "a.json", p, tokens, V), answers(tmp_path / "b.json", q, tokens, V))
    low, high = s.parts["bounds"].kl
    assert low <= kb.kl_divergence(p, q, given="logits").mean() + 1e-12 and high - low < 1e-9


def test_shards_of_distillkit(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("yaml")
    same = kb.compare_files(DISTILLKIT / "plain", DISTILLKIT / "plain")
    assert same.kl.count > 0 and same.kl.max == 0.0 and same.acceptance.min > 0.99
    assert same.facts["p"]["vocab_size"] == same.facts["vocab_size"]


def test_what_lists_do_not_tell(tmp_path, rows):
    p, q, tokens = rows
    a, b = answers(tmp_path / "a.json", p, tokens), answers(tmp_path / "b.json", q, tokens)
    np.save(tmp_path / "q.npy", q)
    for arguments, message in (
        ((a, tmp_path / "q.npy", {}), "two such files can be compared"),
        ((a, b, {"jensen_shannon": True}), "needs logits"),
        ((a, b, {"top_k": [3]}), "needs logits"),
        ((a, b, {"tensor": "x"}), "no option of reading"),
        ((a, answers(tmp_path / "c.json", q[:-1], tokens[:-1]), {}), "rows, expected"),
    ):
        with pytest.raises(ValueError, match=message):
            kb.compare_files(arguments[0], arguments[1], **arguments[2])
    assert open_lists([tmp_path / "q.npy"]) is None


def test_the_command(tmp_path, rows, capsys):
    p, q, tokens = rows
    a, b = answers(tmp_path / "a.json", p, tokens), answers(tmp_path / "b.json", q, tokens)
    assert main(["compare", str(a), str(b), "--quiet"]) == 0
    assert "no upper bound" in " ".join(capsys.readouterr().out.split())
