"""Differences between candidates by label: against brute force over the rows, merges, what is not known, cost."""

import io
import itertools
import json
import math

import numpy as np
import pytest

import kullback as kb
from kullback.comparison.exact import ExactSum
from kullback.comparison.labels import LabelSet
from kullback.comparison.paired import holm
from kullback.comparison.pairs import Pairs
from kullback.comparison.short_sums import GroupSums, exact_sums
from kullback.evaluation.checkpoint import Checkpoint
from kullback.evaluation.differences import print_differences_by_label
from kullback.evaluation.layout import Output
from kullback.evaluation.merging import merge_logs
from kullback.evaluation.outputs import is_ours

T, V, DOCUMENTS = 300, 20, 20
RNG = np.random.default_rng(61)
GROUPS = np.sort(RNG.integers(0, DOCUMENTS, T))
BASE = RNG.normal(0, 2, (T, V)).astype(np.float32)
BASE[7] = np.nan
DOMAINS = np.array(["code", "math", "prose"])[np.arange(DOCUMENTS) % 3][GROUPS]
ROLES = RNG.choice(["user", "tool", ""], T)
BY = {"domain": DOMAINS, "role": ROLES}
TURNED = np.where(DOMAINS == "math", 0.1, 1.0)[:, None]  # q4 is the better one there
QS = {
    "q8": (BASE + 0.1 * RNG.normal(size=BASE.shape)).astype(np.float32),
    "q4": (BASE + 0.3 * TURNED * RNG.normal(size=BASE.shape)).astype(np.float32),
    "q2": (BASE + 0.6 * RNG.normal(size=BASE.shape)).astype(np.float32),
}
TOKENS = RNG.integers(0, V, T)
TOKENS[::13] = -100
QUANTITIES = ("kl", "reverse_kl", "log_prob", "delta_prob", "same_top1", "acceptance")


@pytest.fixture(scope="module")
def found():
    return kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=GROUPS, by=BY)


@pytest.mark.parametrize("name", list(BY))
def test_a_label_has_the_differences_of_its_rows(found, name):
    alone = kb.compare_candidates(BASE, QS, tokens=TOKENS, by=BY)
    for label, one in found.by[name].items():
        rows = BY[name] == label.replace("(none)", "")
        kept = rows & (TOKENS >= 0) & (np.arange(T) != 7)
        some = kb.compare_candidates(
            BASE[rows], {q: x[rows] for q, x in QS.items()}, tokens=TOKENS[rows], groups=GROUPS[rows]
        )
        for a, b in itertools.permutations(QS, 2):
            mine, theirs = one.difference(a, b), some.difference(a, b)
            assert (mine.rows, mine.left_out) == (kept.sum(), 0)
            for quantity in QUANTITIES:
                assert mine.of(quantity).to_dict() == theirs.of(quantity).to_dict()
            assert mine.kl_quantile(0.9).mean == theirs.kl_quantile(0.9).mean
            assert math.isnan(mine.kl_quantile(0.9).p_value)
        x, y = (kb.compare(BASE, QS[q]).kl[kept] for q in ("q4", "q8"))
        d = one.difference("q4", "q8").kl
        assert d.mean == pytest.approx((x - y).mean(), rel=1e-12)
        sums, counts = np.bincount(GROUPS[kept], x - y), np.bincount(GROUPS[kept])
        sums, counts = sums[counts > 0], counts[counts > 0]
        out = (sums.sum() - sums) / (kept.sum() - counts)
        g = counts.size
        assert d.standard_error == pytest.approx(math.sqrt((g - 1) / g * ((out - d.mean) ** 2).sum()), rel=1e-9)
        free = alone.by[name][label].difference("q4", "q8").kl
        assert free.standard_error == pytest.approx((x - y).std(ddof=1) / math.sqrt(x.size), rel=1e-9)
        assert (free.above, free.below) == ((x > y).sum(), (x < y).sum())


def test_labels_without_a_name_and_none_at_all(found):
    one = kb.compare_candidates(BASE, QS, groups=GROUPS, by=DOMAINS)
    assert list(one.by) == ["code", "math", "prose"] and one.by["code"].ranking() == ["q8", "q4", "q2"]
    assert {test.label for test in one.differences(by="")} == set(one.by)
    assert kb.compare_candidates(BASE, QS).by == {} and found.by["domain"]["code"].by == {}
    with pytest.raises(ValueError, match=r"`by` is 'domain', expected a set of labels; there are ''"):
        one.differences(by="domain")
    with pytest.raises(ValueError, match=r"`level` is 0\.9: errors of quantiles are of KL over all rows alone"):
        one.differences(level=0.9, by="")


def test_holm_is_over_pairs_and_labels(found):
    tests = found.differences(by="domain")
    assert len(tests) == 9
    assert [t.adjusted for t in tests] == holm([t.p_value for t in tests])
    one = next(t for t in tests if (t.label, t.a, t.b) == ("math", "q8", "q4"))
    assert one.p_value == found.by["domain"]["math"].difference("q8", "q4").kl.p_value
    free = found.differences(by="domain", correction=None, against="q8", quantity="acceptance")
    assert len(free) == 6 and all(t.adjusted == t.p_value for t in free)


def test_differences_of_a_quantile(found):
    tests = found.differences(level=0.9)
    for t in tests:
        assert t.difference == found.difference(t.a, t.b).kl_quantile(0.9)
    assert [t.adjusted for t in tests] == holm([t.p_value for t in tests])


@pytest.mark.parametrize("cuts", [(1,), (100, 200), (7, 8, 299)])
def test_parts_merge_to_the_bits_of_the_whole(found, cuts):
    edges = [0, *cuts, T]
    parts = [
        kb.compare_candidates(
            BASE[i:j], {q: x[i:j] for q, x in QS.items()}, tokens=TOKENS[i:j], groups=GROUPS[i:j],
            by={name: x[i:j] for name, x in BY.items()},
        )
        for i, j in itertools.pairwise(edges)
    ]  # fmt: skip
    merged = parts[-1]
    for part in parts[:-1]:
        merged = merged.merge(part)
    assert merged._pairs == found._pairs
    assert json.dumps(merged.to_dict()["differences_by"]) == json.dumps(found.to_dict()["differences_by"])


def test_jobs_that_go_on_and_jobs_in_parts(found, tmp_path):
    np.savez(tmp_path / "p.npz", logits=BASE, tokens=TOKENS, groups=GROUPS)
    for name, q in QS.items():
        np.save(tmp_path / f"{name}.npy", q)
    p, qs = tmp_path / "p.npz", {name: tmp_path / f"{name}.npy" for name in QS}
    job = {"by": BY, "chunk_bytes": 4 * BASE[:40].nbytes}
    for i, rows in enumerate([(150, T), (0, 150)]):
        kb.compare_candidates(p, qs, rows=rows, checkpoint=tmp_path / f"{i}", **job)
    merged = merge_logs([tmp_path / "0", tmp_path / "1"])
    assert list(merged) == list(QS) and merged._pairs == found._pairs
    assert merged.to_dict()["differences_by"] == found.to_dict()["differences_by"]

    def killed(done, of):
        if done >= 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kb.compare_candidates(p, qs, checkpoint=tmp_path / "log", progress=killed, **job)
    steps = []
    again = kb.compare_candidates(
        p, qs, checkpoint=tmp_path / "log", resume=True, progress=lambda done, of: steps.append(done), **job
    )
    assert 80 <= steps[0] < T and again._pairs == found._pairs
    for key in ("differences", "differences_by"):
        assert json.dumps(again.to_dict()[key]) == json.dumps(found.to_dict()[key])
    renamed = {name.upper(): path for name, path in qs.items()}
    with pytest.raises(ValueError, match=r"of another job \(`names\[0\]` is 'q8' there, 'Q8' here\)"):
        kb.compare_candidates(p, renamed, checkpoint=tmp_path / "log", resume=True, **job)
    kb.compare_candidates(p, renamed, checkpoint=tmp_path / "renamed", rows=(150, T), **job)
    with pytest.raises(ValueError, match=r"of another job than .*names\[0\]"):
        merge_logs([tmp_path / "1", tmp_path / "renamed"])
    kb.compare_candidates(p, list(qs.values()), checkpoint=tmp_path / "files", **job)
    assert list(merge_logs([tmp_path / "files"])) == ["q8.npy", "q4.npy", "q2.npy"]


def test_a_checkpoint_of_other_arrays_is_refused(tmp_path):
    log = {"checkpoint": tmp_path / "log", "resume": True, "chunk_bytes": 5000}
    found = kb.compare_candidates(BASE, {"q": QS["q8"]}, groups=GROUPS, rows=(0, 150), **log)
    assert kb.compare_candidates(BASE.copy(), {"q": QS["q8"]}, groups=GROUPS, rows=(0, 150), **log) == found
    for base, q, groups in (
        (BASE, QS["q4"], GROUPS), (BASE + np.float32(1), QS["q8"], GROUPS), (BASE, QS["q8"], GROUPS // 2),
        (BASE, QS["q8"], None),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"of another job .*crc32|longest_group"):
            kb.compare_candidates(base, {"q": q}, groups=groups, rows=(0, 150), **log)
    kb.compare_candidates(BASE, {"q": QS["q4"]}, groups=GROUPS, rows=(150, T), checkpoint=tmp_path / "other")
    with pytest.raises(ValueError, match=r"of another job .*crc32"):
        merge_logs([tmp_path / "log", tmp_path / "other"])


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", 1], 7])
def test_names_that_no_job_would_have(tmp_path, names):
    job = {
        "p": {},
        "q": [{"path": "x"}, {"path": "y"}],
        "plan": {"rows": 1, "top_k": [], "given": "logits", "vocab": 2},
    }
    job |= {"rows": [0, 1], "longest_group": 1, "names": names}
    job["plan"] |= {"jensen_shannon": False, "llama_cpp": False, "ignore_index": -100}
    columns = {"kl": np.zeros(1), "position": np.zeros(1, int), "row": np.zeros(1, int)}
    with Checkpoint(tmp_path / "log", job, False, 0) as log:
        log.append(0, 1, [columns, columns])
    with pytest.raises(ValueError, match=r"settings of no job .*(names|'int')"):
        merge_logs([tmp_path / "log"])


def test_rows_that_some_candidate_has_no_distribution_in(found):
    broken = QS["q2"].copy()
    broken[DOMAINS == "code"] = np.nan
    r = kb.compare_candidates(BASE, QS | {"q2": broken}, groups=GROUPS, by=DOMAINS)
    assert r.by["code"].difference("q4", "q8").left_out == (DOMAINS == "code").sum() - 1  # row 7 has none in the base
    assert math.isnan(r.by["code"].difference("q4", "q8").kl.mean)
    assert r.by["prose"].difference("q4", "q8").left_out == 0
    infinite = QS["q2"].copy()
    infinite[np.flatnonzero(DOMAINS == "code")[0], 3] = -np.inf
    r = kb.compare_candidates(BASE, QS | {"q2": infinite}, groups=GROUPS, by=DOMAINS)
    assert r.by["code"].difference("q2", "q8").kl.mean == math.inf
    assert 0 < r.by["code"].difference("q2", "q8").kl.finite.mean < 1
    assert math.isfinite(r.by["prose"].difference("q2", "q8").kl.mean)


def test_of_many_labels_and_pairs_only_candidates_have_sums(found, monkeypatch):
    monkeypatch.setattr("kullback.comparison.pairs.MOST_PAIRS_BY_LABEL", 3 * 6 - 1)
    many = kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=GROUPS, by=BY)
    halves = [
        kb.compare_candidates(
            BASE[s], {q: x[s] for q, x in QS.items()}, tokens=TOKENS[s], groups=GROUPS[s],
            by={name: x[s] for name, x in BY.items()},
        )
        for s in (slice(0, 3), slice(3, T))  # the first has so few labels that its pairs have sums
    ]  # fmt: skip
    assert halves[0].by["domain"]["code"].difference("q4", "q8").kl.ties is not None
    assert halves[0].merge(halves[1])._pairs == halves[1].merge(halves[0])._pairs == many._pairs
    assert halves[0].by["domain"]["code"].difference("q4", "q8").kl.ties is not None  # merging changes no part
    for label, one in many.by["domain"].items():
        d, full = one.difference("q4", "q8").kl, found.by["domain"][label].difference("q4", "q8").kl
        assert (d.above, d.below, d.ties) == (None, None, None)
        assert (d.mean, d.standard_error) == (full.mean, full.standard_error) and d.p_value < 1
        assert d.to_dict()["above"] is None
    assert many.difference("q4", "q8").kl.ties is not None  # over all rows
    alone = kb.compare_candidates(BASE, QS, tokens=TOKENS, by=BY).by["domain"]["code"].difference("q4", "q8")
    assert math.isnan(alone.kl.standard_error) and math.isnan(alone.same_top1.p_value)
    assert alone.kl.group_note == "no documents are known, and of so many labels no other errors are kept"


def text(comparison):
    file = io.StringIO()
    print_differences_by_label(Output(file), comparison)
    return file.getvalue()


def test_the_terminal_shows_what_is_other_than_over_all(found):
    shown = text(found)
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown[shown.index("How they differ by domain") :].splitlines()
    assert lines[1].split()[:4] == ["domain", "worse", "-", "better"]
    assert lines[2].split()[:4] == ["math", "q4", "-", "q8"] and lines[2].split()[4].startswith("-")
    assert "9 of 9 questions, pairs times labels, told from chance at 5 % (Holm)" in shown
    assert "the other way round than over all: 1, which come first" in shown
    few = text(kb.compare_candidates(BASE, QS, groups=GROUPS // 5, by=DOMAINS))
    assert "the largest of 9 questions" in few and "fewer than five documents) (Holm)" in " ".join(few.split())
    alike = {"a": QS["q8"], "b": (BASE + 0.1 * np.random.default_rng(1).normal(size=BASE.shape)).astype(np.float32)}
    unlike = text(kb.compare_candidates(BASE, alike, groups=GROUPS, by=DOMAINS))
    assert "none is told from chance at 5 % (Holm)" in " ".join(unlike.split())
    assert text(kb.compare_candidates(BASE, QS)) == ""
    odd = text(kb.compare_candidates(BASE, QS, groups=GROUPS, by=np.char.add("\x1b[31m" + "long " * 20, DOMAINS)))
    assert "\x1b" not in odd and max(map(len, odd.splitlines())) <= 80


def test_json_has_them_and_is_known_as_ours(found, tmp_path):
    tree = found.to_dict()
    assert {name: set(x) for name, x in tree["differences_by"].items()} == {n: set(x) for n, x in found.by.items()}
    one = tree["differences_by"]["domain"]["math"][0]
    assert one["kl"] == found.by["domain"]["math"].difference(one["a"], one["b"]).kl.to_dict()
    assert one["kl_adjusted_p_value"] >= one["kl"]["p_value"]
    for content in (tree, kb.compare_candidates(BASE, {"q": QS["q8"]}, by=DOMAINS).to_dict()):
        (tmp_path / "r.json").write_text(json.dumps(content, allow_nan=False))
        assert is_ours(str(tmp_path / "r.json"))


def test_short_sums_are_exact():
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(7, 500)) * 10.0 ** rng.integers(-300, 300, (7, 500))
    rows[0, :9] = [0.0, -0.0, 5e-324, -5e-324, 1e308, 1e308, -1e308, 2.0**-1022, 1.0]
    keys = rng.integers(0, 11, 500)
    for some in (rows, rows[:, :1], rows[:, :0]):
        sums = exact_sums(some, keys[: some.shape[1]], 11)
        for row, mine in zip(some, sums, strict=True):
            assert mine == [ExactSum(row[keys[: some.shape[1]] == k])._units for k in range(11)]
    a, b = (GroupSums.of(1, [ExactSum(x)._units for x in part]) for part in (rows[:, :3], rows[:, 3:9]))
    both = GroupSums.of(2, [ExactSum(x)._units for x in rows[:, :9]])
    assert a.merge(b) == b.merge(a) == both
    assert both.minus(2, 5) == ExactSum(rows[2, :9])._units - ExactSum(rows[5, :9])._units
    assert GroupSums.of(3, [0, 0]).merge(GroupSums.of(0, [1 << 70, 0])) == (3, 70, (1, 0))


def test_five_hundred_labels_of_fifty_candidates_cost_no_pairs():
    """1,225 pairs and 500 labels would be 612,500 sums of a quantity; kept are 50 a document and label."""
    rng = np.random.default_rng(4)
    rows = 1000
    zeros = np.zeros(rows)
    columns = [
        {"kl": rng.exponential(size=rows), "reverse_kl": zeros, "entropy_p": zeros, "entropy_q": zeros,
         "top1_p": zeros.astype(int), "top1_q": zeros.astype(int), "row": np.arange(rows),
         "group": np.arange(rows) // 2}
        for _ in range(50)
    ]  # fmt: skip
    pairs = Pairs(50)
    pairs.add(columns, {"topic": LabelSet(tuple(f"{i:03}" for i in range(500)), np.arange(rows) // 2)})
    assert all(not one._sums["kl"].squares for one in pairs.by["topic"].values())
    kl = pairs.by["topic"]["004"].difference("kl", 3, 7)
    assert kl.mean == pytest.approx((columns[3]["kl"] - columns[7]["kl"])[8:10].mean(), rel=1e-12)
    kept = [g for one in pairs.by["topic"].values() for g in one._sums["kl"].groups.values()]
    assert len(kept) == 500 and max(u.bit_length() for g in kept for u in g.units) < 120
