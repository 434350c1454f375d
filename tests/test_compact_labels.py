"""Labels kept in compact references: comparisons have them without being told again."""

import json

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation import LiveComparison
from kullback.evaluation.sources import open_logits

T, V = 150, 90
RNG = np.random.default_rng(23)
P = RNG.normal(0, 3, (T, V))
Q = P + 0.2 * RNG.normal(size=P.shape)
GROUPS = np.arange(T) // 10
DOMAINS = [("code", "prose", "math")[i % 3] for i in range(15)]
ROLES = np.where(RNG.random(T) < 0.3, None, "tool")


def by_label(found):
    return {name: {label: s.kl.mean for label, s in labels.items()} for name, labels in found.by.items()}


@pytest.fixture
def path(tmp_path):
    kb.write_reference(tmp_path / "a.kbref", P, top_k=20, groups=GROUPS, by={"domain": DOMAINS, "role": ROLES})
    return tmp_path / "a.kbref"


def test_they_are_those_of_by(path, tmp_path):
    kb.write_reference(tmp_path / "bare.kbref", P, top_k=20, groups=GROUPS)
    kept = kb.compare_candidates(path, {"q": Q})["q"]
    given = kb.compare_candidates(tmp_path / "bare.kbref", {"q": Q}, by={"domain": DOMAINS, "role": ROLES})["q"]
    assert by_label(kept) == by_label(given)
    assert set(kept.by["role"]) == {"tool", "(none)"} and set(kept.by["domain"]) == {"code", "prose", "math"}
    other = kb.compare_candidates(path, {"q": Q}, by=ROLES)["q"]  # what is given comes before
    assert set(other.by) == {"tool", "(none)"}
    assert kb.compare_candidates(tmp_path / "bare.kbref", {"q": Q})["q"].by == {}


def test_models_that_run_have_them(path):
    with LiveComparison(path) as live:
        for at in range(0, T, 40):
            live.update(Q[at : at + 40])
        assert by_label(live.summary()) == by_label(kb.compare_candidates(path, {"q": Q})["q"])


def test_a_writer_takes_them_by_the_block(path, tmp_path, monkeypatch):
    monkeypatch.setattr("kullback.evaluation.reference.parts._PART_ROWS", 32)  # other labels in every part
    rows = np.array(DOMAINS, object)[GROUPS]
    for step in (7, 64):
        with kb.ReferenceWriter(tmp_path / f"{step}.kbref", top_k=20) as writer:
            for at in range(0, T, step):
                part = slice(at, at + step)
                writer.write(P[part], groups=GROUPS[part], by={"domain": rows[part], "role": ROLES[part]})
        found = kb.compare_candidates(tmp_path / f"{step}.kbref", {"q": Q})["q"]
        assert by_label(found) == by_label(kb.compare_candidates(path, {"q": Q})["q"])
    with kb.ReferenceWriter(tmp_path / "one.kbref", top_k=20) as writer:
        writer.write(P[:50], by=rows[:50])
        with pytest.raises(ValueError, match="labels come with every block"):
            writer.write(P[50:])
        with pytest.raises(ValueError, match="has 99 labels, expected 100, one a row"):
            writer.write(P[50:], by=rows[51:])
        writer.write(P[50:], by=rows[50:])
    assert set(kb.compare_candidates(tmp_path / "one.kbref", {"q": Q})["q"].by) == set(DOMAINS)
    with kb.ReferenceWriter(tmp_path / "one.kbref", top_k=20, resume=True) as writer:
        with pytest.raises(ValueError, match="labels come with every block"):
            writer.write(P[:3])
        writer.write(P[:3], by=["new"] * 3)
    assert set(open_logits(tmp_path / "one.kbref").labels()) == {*DOMAINS, "new"}


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("p.npz", logits=P, groups=GROUPS)
    np.savez("q.npz", logits=Q)
    (tmp_path / "labels.csv").write_text("domain,part\n" + "".join(f"{name},x\n" for name in DOMAINS))
    assert main(["reference", "p.npz", "p.kbref", "--top-k", "20", "--quiet", "--by-column", "domain"]) == 2
    assert "--by-column needs --by" in capsys.readouterr().err
    labels = ["--by", "labels.csv", "--by-column", "domain"]
    assert main(["reference", "p.npz", "p.kbref", "--top-k", "20", "--quiet", *labels]) == 0
    gate = ["--fail-if", "q.npz [domain=code]: kl > 1e-9"]
    assert main(["compare", "p.kbref", "q.npz", "--quiet", "--json", "r.json", *gate]) == 1
    assert set(json.loads((tmp_path / "r.json").read_text())["by"]["domain"]) == set(DOMAINS)
    assert main(["compare", "p.kbref", "q.npz", "--quiet", "--fail-if", "q.npz [domain=cod]: kl > 1e-9"]) == 2
    assert "domain=code" in capsys.readouterr().err


def test_labels_that_are_damaged(path):
    part = path / "part-000000.safetensors"
    whole = part.read_bytes()
    for old, new in ((b"prose", b"pr\\ue"), (b'\\"domain\\"', b'\\"domaim\\"'), (b"label_0", b"label_7")):
        assert old in whole
        part.write_bytes(whole.replace(old, new))
        try:
            found = set(kb.compare_candidates(path, {"q": Q})["q"].by)
        except ValueError as error:
            assert "part-000000" in str(error)
        else:
            assert found <= {"domain", "domaim", "role"}
