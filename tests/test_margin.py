"""The rule with a margin: ship the smallest candidate that is shown not to be worse than the best by so much."""

import json
import math

import numpy as np
import pytest
from scipy import stats

import kullback as kb
from kullback.cli import main
from kullback.comparison import CandidateComparison, Pairs, holm, summarize
from kullback.comparison.columns import compared_rows, completed
from kullback.evaluation.outputs import is_ours
from kullback.evaluation.ranking import rank
from kullback.evaluation.report import render_report
from kullback.evaluation.table import read_table, table_of
from kullback.evaluation.verdict import RULE, verdict_of_many, verdict_tree

T, V = 600, 30
RNG = np.random.default_rng(31)
GROUPS = np.arange(T) // 20
BASE = RNG.normal(0, 2, (T, V)).astype(np.float32)
NOISES = {"q8": 0.05, "q6": 0.052, "q5": 0.07, "q2": 0.4}
QS = {name: (BASE + noise * RNG.normal(size=BASE.shape)).astype(np.float32) for name, noise in NOISES.items()}
SIZES = {"q8": 8.0, "q6": 6.0, "q5": 5.0, "q2": 2.0}


@pytest.fixture(scope="module")
def found():
    return kb.compare_candidates(BASE, QS, groups=GROUPS)


def test_a_one_sided_test_is_that_of_scipy():
    r = kb.compare_candidates(BASE, QS)
    d = r.difference("q5", "q8").kl
    x, y = (kb.compare(BASE, QS[name]).kl for name in ("q5", "q8"))
    for limit in (-0.001, 0.0, d.mean, 0.0015, 1.0):
        truth = stats.ttest_1samp(x - y, limit, alternative="less").pvalue
        assert d.p_below(limit) == pytest.approx(truth, rel=1e-7, abs=1e-290)
    low, high = d.interval(0.9)  # an end of it is where a one-sided test is at 5 %
    assert d.p_below(high) == pytest.approx(0.05) and d.p_below(low) == pytest.approx(0.95)
    same = kb.compare_candidates(BASE, {"a": QS["q8"], "b": QS["q8"]}).difference("a", "b").kl
    assert same.p_below(1e-9) == 0.0 and same.p_below(0.0) == 1.0


def test_the_claim_must_hold_against_every_other_candidate(found):
    for margin in (0.0005, 0.002, 0.01):
        worst = [max(found.difference(a, b).kl.p_below(margin) for b in QS if b != a) for a in QS]
        assert found.not_worse(margin) == dict(zip(QS, holm(worst), strict=True))
    assert {name for name, p in found.not_worse(0.002).items() if p < 0.05} == {"q8", "q6", "q5"}
    assert {name for name, p in found.not_worse(0.0).items() if p < 0.05} == {"q8"}  # is the best, that is
    assert list(kb.compare_candidates(BASE, {"q8": QS["q8"]}).not_worse(0.1).values()) == [0.0]


def test_nothing_is_claimed_that_is_not_known():
    few = kb.compare_candidates(BASE, QS, groups=np.arange(T) // 200)
    assert all(map(math.isnan, few.not_worse(10.0).values()))
    assert "There is no verdict" in " ".join(verdict_of_many(few, rank(few, 10.0)))
    infinite = QS["q2"].copy()
    infinite[3, 4] = -np.inf
    p = kb.compare_candidates(BASE, QS | {"q2": infinite}, groups=GROUPS).not_worse(0.002)
    assert p["q2"] == 1.0 and p["q8"] < 0.05


def simulated(rng, means, documents=12, rows=15):
    """Candidates whose mean KL is known: gamma values times what a document does to all, and some to each."""
    shared = rng.lognormal(-0.08, 0.4, documents)
    columns = []
    for mean in means:
        own = shared * rng.lognormal(-0.02, 0.2, documents)
        kl = mean * np.repeat(own, rows) * rng.gamma(4.0, 0.25, documents * rows)
        zeros = np.zeros(kl.size)
        one = {"kl": kl, "group": np.repeat(np.arange(documents), rows), "row": np.arange(kl.size)}
        one |= dict.fromkeys(("reverse_kl", "entropy_p", "entropy_q"), zeros)
        columns.append(one | {name: zeros.astype(int) for name in ("top1_p", "top1_q")})
    pairs = Pairs(len(means))
    pairs.add(columns)
    names = [f"q{i}" for i in range(len(means))]
    whole = [completed(one) for one in columns]
    return CandidateComparison(
        {name: summarize(one, compared_rows(one)) for name, one in zip(names, whole, strict=True)}, pairs
    )


def test_false_claims_are_rare():
    """q1 and q2 are worse than q0 by the margin, which is what must not be claimed of them: 5 % of the runs at most."""
    rng = np.random.default_rng(5)
    runs = 150
    wrong = sum(
        min(simulated(rng, (1.0, 1.2, 1.2)).not_worse(0.2)[q] for q in ("q1", "q2")) < 0.05 for _ in range(runs)
    )
    right = sum(simulated(rng, (1.0, 1.02, 1.02)).not_worse(0.5)["q1"] < 0.05 for _ in range(40))
    assert wrong <= 0.05 * runs + 2 * math.sqrt(0.05 * 0.95 * runs)
    assert right >= 30


def test_what_is_shipped(found):
    ranking = rank(found, 0.002)
    assert sorted(ranking.margin.not_worse) == ["q5", "q6", "q8"]
    text = " ".join(verdict_of_many(found, ranking, SIZES))
    assert "Shown not to be worse than the best by 0.002 nats or more: " in text
    assert "whose mean KL is shown not to be above that of the best by 0.002 nats or more”: q5, of 5 B." in text
    assert RULE not in text
    assert "not all their sizes are known" in " ".join(verdict_of_many(found, ranking))
    other = (BASE + 0.05 * np.random.default_rng(1).normal(size=BASE.shape)).astype(np.float32)
    alike = kb.compare_candidates(BASE, {"q8": QS["q8"], "other": other}, groups=GROUPS)
    none = " ".join(verdict_of_many(alike, rank(alike, 1e-9), SIZES))
    assert "No candidate is shown not to be worse than the best by 1e-09 nats or more" in none and "”: none." in none
    assert RULE in " ".join(verdict_of_many(found, rank(found), SIZES))
    tree = verdict_tree(found, ranking, SIZES)
    assert (tree["ship"], tree["margin"], tree["level"]) == ("q5", 0.002, 0.95)
    assert tree["adjusted_p_values"] == found.not_worse(0.002) and tree["not_worse"] == ranking.margin.not_worse
    assert verdict_tree(found, ranking)["ship"] is None
    rule = "not to be above that of the best by 0.002 nats"
    assert rule in render_report(found, sizes=SIZES, margin=0.002) and rule in found.to_html(margin=0.002)
    assert "best by 0.002 nats or more in mean KL (95 %)" in found.to_markdown(margin=0.002)


def test_the_command(found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("p.npz", logits=BASE, groups=GROUPS)
    for name, q in QS.items():
        np.save(f"{name}.npy", q)
    files = [f"{name}.npy" for name in QS]
    sizes = [x for name in QS for x in ("--size", f"{name}.npy={int(SIZES[name])}")]
    outputs = ["--json", "r.json", "--markdown", "r.md"]
    assert main(["compare", "p.npz", *files, "--quiet", "--margin", "0.002", *sizes, *outputs]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "best by 0.002 nats or more”: q5.npy, of 5 B." in shown
    tree = json.loads((tmp_path / "r.json").read_text())
    assert tree["verdict"]["ship"] == "q5.npy" and is_ours("r.json")
    assert sorted(tree["verdict"]["not_worse"]) == ["q5.npy", "q6.npy", "q8.npy"]
    line = "shown not to be worse than the best by 0.002 nats or more in mean KL (95 %): "
    assert line in (tmp_path / "r.md").read_text().replace("\\", "")
    table = read_table(["r.json"], sizes={name: int(SIZES[name[:2]]) for name in files})
    note = next(note for note in table.notes if note.startswith(line))
    assert note.endswith("; the smallest is q5.npy") and "q2" not in note
    assert line not in " ".join(table_of(found).notes)
    for wrong in (
        {"margin": True, "not_worse": []},
        {"margin": 1, "not_worse": "q"},
        [],
        {"margin": "x", "not_worse": []},
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(tree | {"verdict": wrong}))
        assert line[:10] not in " ".join(read_table(["wrong.json"]).notes)
    assert main(["compare", "p.npz", "q8.npy", "--quiet", "--margin", "0.002", "--json", "one.json"]) == 0
    assert "verdict" not in json.loads((tmp_path / "one.json").read_text())
    with pytest.raises(SystemExit):
        main(["compare", "p.npz", *files, "--margin", "-1"])
