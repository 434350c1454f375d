"""Figures by label: against brute force over the tokens, merges to the bit, files of labels and what is wrong there."""

import csv
import itertools
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import kullback as kb
from kullback.comparison.binned import MOST, allowance
from kullback.comparison.labels import MOST_LABELS, encoded
from kullback.evaluation.label_files import load_labels
from kullback.evaluation.merging import merge_logs
from kullback.evaluation.report import render_report
from kullback.evaluation.statistics import Summarizer, summary_of
from kullback.evaluation.terminal import print_summaries

T, V, DOCUMENTS = 360, 30, 24
RNG = np.random.default_rng(16)
GROUPS = np.sort(RNG.integers(0, DOCUMENTS, T))
P = RNG.normal(0, 2, (T, V)).astype(np.float32)
Q = (P + 0.2 * np.exp(RNG.normal(0, 0.5, DOCUMENTS))[GROUPS][:, None] * RNG.normal(size=P.shape)).astype(np.float32)
TOKENS = RNG.integers(0, V, T)
TOKENS[::11] = -100
P[5] = np.nan
DOMAINS = RNG.choice(["code", "math", "prosa"], DOCUMENTS)
ROLES = RNG.choice(["user", "tool", ""], T)
BY = {"domain": DOMAINS[GROUPS], "role": ROLES}


@pytest.fixture(scope="module")
def tokens():
    return kb.compare(P, Q, TOKENS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    np.savez(folder / "p.npz", logits=P, tokens=TOKENS, groups=GROUPS)
    np.save(folder / "q.npy", Q)
    (folder / "domains.json").write_text(json.dumps({"domain": DOMAINS.tolist()}))
    lines = [
        json.dumps({"domain": str(DOMAINS[g]), "role": str(r) or None}) for g, r in zip(GROUPS, ROLES, strict=True)
    ]
    (folder / "by.jsonl").write_text("\n".join(lines))
    return folder


def test_a_label_has_the_summary_of_its_rows(tokens):
    by = tokens.summary(GROUPS, by=BY).by
    assert set(by) == {"domain", "role"}
    assert set(by["role"]) == {"user", "tool", "(none)"}
    for name, column in BY.items():
        for label, found in by[name].items():
            rows = column == label.replace("(none)", "")
            assert found == kb.compare(P[rows], Q[rows], TOKENS[rows]).summary(GROUPS[rows])
            kept = rows & (TOKENS >= 0) & (np.arange(T) != 5)
            assert found.kl.mean == pytest.approx(tokens.kl[kept].mean(), rel=1e-12)
            assert (found.tokens, found.ignored) == ((rows & (TOKENS >= 0)).sum(), (rows & (TOKENS < 0)).sum())


def test_one_set_without_a_name_is_by_label(tokens):
    s = tokens.summary(by=BY["domain"])
    assert set(s.by) == {"code", "math", "prosa"}
    assert s.by["code"].kl.mean == tokens.summary(by=BY).by["domain"]["code"].kl.mean
    assert s.to_dict()["by"]["code"]["kl"]["mean"] == s.by["code"].kl.mean
    assert tokens.summary().by == {}


def test_the_document_mean_is_the_mean_of_the_documents_means(tokens):
    kl = tokens.summary(GROUPS).kl
    means = np.array([np.nanmean(tokens.kl[(g == GROUPS) & (TOKENS >= 0)]) for g in np.unique(GROUPS)])
    assert kl.document_mean == pytest.approx(means.mean(), rel=1e-12)
    assert kl.document_standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(means.size), rel=1e-9)
    low, high = kl.document_interval()
    assert low < kl.document_mean < high
    assert kl.to_dict()["document_mean"] == kl.document_mean
    few = tokens.summary(GROUPS // 6).kl
    assert few.groups == 4
    assert few.document_mean > 0 and math.isnan(few.document_standard_error)
    assert all(map(math.isnan, few.document_interval()))
    assert math.isnan(tokens.summary().kl.document_mean)


def test_an_infinite_document_makes_the_document_mean_infinite():
    q = np.where(np.arange(2) == 1, -np.inf, np.zeros((12, 2)))
    q[2:] = 0.0
    kl = kb.compare(np.zeros((12, 2)), q).summary(np.arange(12) // 2).kl
    assert kl.document_mean == math.inf and math.isnan(kl.document_standard_error)
    assert kl.finite.document_mean == 0.0


@settings(deadline=None, max_examples=5)
@given(
    codes=st.lists(st.sampled_from(["a", "b", None]), min_size=90, max_size=90),
    cuts=st.lists(st.integers(1, 89), max_size=2, unique=True),
    turn=st.randoms(use_true_random=False),
)
def test_parts_merge_to_the_whole_in_any_order(codes, cuts, turn):
    whole = kb.compare(P[:90], Q[:90], TOKENS[:90]).summary(GROUPS[:90], by=codes)
    edges = [0, *sorted(cuts), 90]
    parts = [
        kb.compare(P[i:j], Q[i:j], TOKENS[i:j]).summary(GROUPS[i:j], by=codes[i:j])
        for i, j in itertools.pairwise(edges)
    ]
    turn.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged == whole
    assert merged.to_dict() == whole.to_dict()


def test_only_the_same_sets_merge(tokens):
    a, b = tokens.summary(by=BY), tokens.summary(by={"domain": BY["domain"]})
    with pytest.raises(ValueError, match=r"`other` has labels 'domain', expected 'domain', 'role'"):
        a.merge(b)
    with pytest.raises(ValueError, match="by on one side only"):
        a.merge(tokens.summary())


@pytest.mark.parametrize(
    ("by", "error", "text"),
    [
        (["a", 1] * (T // 2), TypeError, r"mixes text \('a'\) and whole numbers \(1\)"),
        ([True, 1] * (T // 2), TypeError, "mixes true or false"),
        ([["a"]] * T, TypeError, r"`by` holds \['a'\] in row 0, expected one label a row"),
        ("code", TypeError, "`by` is 'code', expected a label a row"),
        ([0.5] * T, TypeError, "label 0.5, expected text"),
        ([math.inf] * T, TypeError, "label inf, expected text"),
        ([b"a"] * T, TypeError, "label b'a', expected text"),
        (np.arange(T) % 7 + 0.25, TypeError, "expected text"),
        (np.ma.array(["a"] * T), TypeError, "masked"),
        (["a"] * 7, ValueError, "`by` has 7 labels, expected 360, one a row"),
        ({"domain": ["a"] * 7}, ValueError, r"`by\['domain'\]` has 7 labels"),
        ({}, ValueError, "`by` is empty"),
        ({3: ["a"] * T}, TypeError, "a set called 3"),
        (["x" * 300] * T, ValueError, "a label of 300 characters, expected 200"),
        (7, TypeError, "`by` is 7"),
    ],
)
def test_what_is_no_label_is_refused(tokens, by, error, text):
    with pytest.raises(error, match=text):
        tokens.summary(by=by)


def test_ids_are_too_many_labels():
    for ids in (np.arange(MOST_LABELS + 1), [f"id{i}" for i in range(3 * MOST_LABELS)]):
        with pytest.raises(ValueError, match="more than 500 different labels: are they ids, or texts"):
            encoded(ids, "`by`")
    assert len(encoded(np.arange(MOST_LABELS), "`by`").names) == MOST_LABELS


def test_missing_labels_are_one_label():
    found = encoded([None, "", math.nan, np.nan, "x"], "`by`")
    assert found.names == ("(none)", "x")
    assert found.codes.tolist() == [0, 0, 0, 0, 1]
    assert encoded([1.0, math.nan, 2], "`by`").names == ("(none)", "1", "2")  # as data frames have whole numbers
    assert encoded([True, False, None], "`by`").names == ("(none)", "false", "true")
    assert encoded(np.array([np.nan, 3.0]), "`by`").names == ("(none)", "3")


def test_files_by_row_and_by_document(files, tokens):
    expected = tokens.summary(GROUPS, by=BY).by
    by_document = kb.compare_files(files / "p.npz", files / "q.npy", by=files / "domains.json")
    assert by_document.by == {"domain": expected["domain"]}
    assert by_document.facts["labels"]["of"] == {"domain": "group"}
    by_row = kb.compare_files(files / "p.npz", files / "q.npy", by=files / "by.jsonl", chunk_bytes=5000)
    assert by_row.by == expected
    assert by_row.facts["labels"] == {"files": [str(files / "by.jsonl")], "of": {"domain": "row", "role": "row"}}
    one = kb.compare_files(files / "p.npz", files / "q.npy", by={"role": files / "by.jsonl", "domain": DOMAINS})
    assert one.by == expected
    assert kb.compare_files(files / "p.npz", files / "q.npy", by=DOMAINS).by == expected["domain"]


def test_documents_count_in_the_order_they_come_in(tmp_path):
    np.savez(tmp_path / "p.npz", logits=P, groups=100 - GROUPS)
    np.save(tmp_path / "q.npy", Q)
    s = kb.compare_files(tmp_path / "p.npz", tmp_path / "q.npy", by=DOMAINS)
    for label, found in s.by.items():
        assert found.tokens == (BY["domain"] == label).sum()


def test_wrong_numbers_of_labels_say_both_that_would_do(files):
    with pytest.raises(ValueError, match="`by` has 3 labels, expected 360, one a row, or 24, one a group"):
        kb.compare_files(files / "p.npz", files / "q.npy", by=["a", "b", "c"])
    with pytest.raises(ValueError, match="has the columns domain, expected"):
        kb.compare_files(files / "p.npz", files / "q.npy", by={"role": files / "domains.json"})


def test_candidates_have_labels_each(files):
    r = kb.compare_candidates(P, {"q": Q, "p": P}, tokens=TOKENS, groups=GROUPS, by=BY)
    assert r["q"].by["domain"]["code"].kl.mean > r["p"].by["domain"]["code"].kl.mean == 0.0
    assert r.to_dict()["candidates"][0]["by"]["domain"].keys() == {"code", "math", "prosa"}


def test_jobs_in_parts_have_the_bits_of_the_whole(files, tmp_path):
    p, q, by = files / "p.npz", files / "q.npy", files / "by.jsonl"
    whole = kb.compare_files(p, q, by=by)
    for i, rows in enumerate([(200, 360), (0, 200)]):
        kb.compare_files(p, q, by=by, rows=rows, checkpoint=tmp_path / f"{i}", chunk_bytes=9000)
    (merged,) = merge_logs([tmp_path / "0", tmp_path / "1"]).summaries
    assert merged == whole
    assert merged.facts["labels"] == whole.facts["labels"]
    again = kb.compare_files(p, q, by=by, rows=(0, 200), checkpoint=tmp_path / "1", resume=True)
    assert again == kb.compare_files(p, q, by=by, rows=(0, 200))
    other = [*ROLES[:-1], "user" if ROLES[-1] != "user" else "tool"]
    for labels in ({"role": other}, {"role": ROLES, "domain": BY["domain"]}, None):
        with pytest.raises(ValueError, match=r"of another job .*by"):
            kb.compare_files(p, q, by=labels, rows=(0, 200), checkpoint=tmp_path / "1", resume=True)


def columns(rows, seed=0):
    rng = np.random.default_rng(seed)
    kl = rng.lognormal(-4, 2, rows)
    whole = {name: kl * (1 + i) for i, name in enumerate(("kl", "reverse_kl", "entropy_p", "entropy_q", "null_kl"))}
    whole |= {name: np.zeros(rows, np.int64) for name in ("top1_p", "top1_q")}
    whole |= {"acceptance": np.full(rows, 0.5), "top_prob_p": np.full(rows, 0.5), "position": np.zeros(rows, np.int64)}
    return whole | {"row": np.arange(rows), "label_0": rng.integers(0, 3, rows), "label_1": rng.integers(0, 40, rows)}


def test_many_tokens_keep_bins_by_label_to_the_same_bits(monkeypatch):
    monkeypatch.setattr("kullback.evaluation.statistics.EXACT_TOKENS", 2000)
    monkeypatch.setattr("kullback.evaluation.statistics.SEGMENT", 1000)
    monkeypatch.setattr("kullback.comparison.labels._FEWEST_BINS", 64)
    data, names = columns(12_000), {"a": ("x", "y", "z"), "b": tuple(f"{i:02}" for i in range(40))}
    monkeypatch.setattr("kullback.evaluation.statistics.allowance", lambda most, candidates: (most, 64))
    found = []
    for order in (slice(None), slice(None, None, -1)):
        pieces = [{name: x[i : i + 1500] for name, x in data.items()} for i in range(0, 12_000, 1500)][order]
        summarizer = Summarizer(1, labels=names)
        for piece in pieces:
            summarizer.add(piece)
        found.append(summarizer.finish())
    assert found[0] == found[1]
    exact = summary_of(data, 1, labels=names)
    for name, place in (("a", 0), ("b", 1)):
        for code, label in enumerate(names[name]):
            kl, whole = found[0].by[name][label].kl, exact.by[name][label].kl
            values = data["kl"][data[f"label_{place}"] == code]
            assert kl.sketched and not whole.sketched
            assert kl._settled()._binned.values.size <= 64
            assert kl.mean == whole.mean == pytest.approx(values.mean(), rel=1e-12)
            assert kl.max == values.max()
            error = kl.quantile_error
            assert 0 < error <= 1 and kl.quantile(0.5) == pytest.approx(np.quantile(values, 0.5), rel=1.1 * error)


def test_many_candidates_keep_what_four_may(monkeypatch):
    monkeypatch.setattr("kullback.evaluation.statistics.EXACT_TOKENS", 2000)
    monkeypatch.setattr("kullback.evaluation.statistics.SEGMENT", 1000)
    data = columns(1500)
    kept = {}
    for candidates in (4, 5):
        summarizer = Summarizer(1, candidates=candidates)
        summarizer.add(data)
        kept[candidates] = summarizer.finish()
    assert not kept[4].kl.sketched and kept[5].kl.sketched
    assert kept[4].kl.mean == kept[5].kl.mean
    assert [allowance(2000, n) for n in (1, 4, 5, 50)] == [
        (2000, MOST),
        (2000, MOST),
        (1000, MOST // 2),
        (153, MOST // 13),
    ]
    assert allowance(2000, 500) == (16, 1 << 14)


def test_codes_that_are_of_no_label_are_noticed():
    with pytest.raises(IndexError, match="label 0 or 39 of 3"):
        summary_of(columns(2000), 1, labels={"a": ("x", "y", "z"), "b": ("x", "y", "z")})


# ------------------------------------------------------------------------------------------------------- files


def written(path, name, text):
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return path / name


def table(sets):
    return {name: [x.names[code] for code in x.codes] for name, x in sets.items()}


def test_every_format_reads_alike(tmp_path):
    expected = {"domain": ["code", "(none)", "math"], "turn": ["1", "2", "2"]}
    objects = [{"domain": "code", "turn": 1}, {"domain": None, "turn": 2}, {"domain": "math", "turn": 2}]
    assert table(load_labels(written(tmp_path, "a.json", json.dumps(objects)))) == expected
    lists = {name: [x[name] for x in objects] for name in expected}
    assert table(load_labels(written(tmp_path, "b.json", json.dumps(lists)))) == expected
    lines = "\n".join(json.dumps(x) for x in objects) + "\n"
    assert table(load_labels(written(tmp_path, "c.jsonl", lines))) == expected
    missing = lines.replace('"domain": null, ', "")
    assert table(load_labels(written(tmp_path, "d.ndjson", missing))) == expected
    text = "\ufeffdomain,turn\r\ncode,1\r\n,2\r\nmath,2\r\n"
    assert table(load_labels(written(tmp_path, "e.csv", text))) == expected
    assert table(load_labels(written(tmp_path, "f.csv", "domain\ncode\n\nmath\n"))) == {"domain": expected["domain"]}
    np.save(tmp_path / "g.npy", ["code", "", "math"])
    assert table(load_labels(tmp_path / "g.npy")) == {"": expected["domain"]}
    np.save(tmp_path / "h.npy", np.array([1, 2, 2], np.int8))
    assert table(load_labels(tmp_path / "h.npy")) == {"": expected["turn"]}
    assert table(load_labels(written(tmp_path, "i.json", '["code", null, "math"]'))) == {"": expected["domain"]}
    assert table(load_labels(tmp_path / "a.json", ["turn"])) == {"turn": expected["turn"]}


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.json", "", "is empty, expected labels"),
        ("a.json", "[]", "is empty, expected labels"),
        ("a.json", "{}", "has no columns"),
        ("a.json", "[1, 2", "not a file of labels"),
        ("a.json", "[" * 100_000, "not a file of labels"),
        ("a.json", "7", "expected a list of labels"),
        ("a.json", '{"domain": "code"}', "'domain' is 'code', expected a list of labels"),
        ("a.json", '{"d": ["a"], "d": ["b"]}', "two columns are called 'd'"),
        ("a.json", '[{"d": 1, "d": 2}]', "two columns are called 'd'"),
        ("a.json", '{"": ["a"]}', "a column has no name"),
        ("a.json", '[["a"]]', r"holds \['a'\] in row 0, expected one label a row"),
        ("a.json", '["a", 1]', "mixes text"),
        ("a.json", '[{"d": "a"}, "b"]', "entry 1 is 'b', others are objects"),
        ("a.jsonl", '{"d": 1}\n{"d"', "not a file of labels"),
        ("a.csv", "d,e\na\n", "row 0 has 1 fields, the header 2"),
        ("a.csv", "d,d\na,b\n", "two columns are called 'd'"),
        ("a.csv", "d,e\n", "is empty, expected labels"),
        ("a.csv", 'd\n"a', "not a file of labels"),
        ("a.csv", b"d\n\xff\n", "not a file of labels"),
        ("a.npy", b"\x93NUMPY", "not a readable .npy header"),
        ("a.txt", "a\nb\n", "labels are read from .parquet, .csv"),
        ("labels", "a\nb\n", "not from a name without suffix"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, error):
    with pytest.raises(ValueError, match=error) as found:
        load_labels(written(tmp_path, name, text))
    assert name in str(found.value)


def test_npy_files_that_are_no_labels(tmp_path):
    for array in (np.zeros((3, 2)), np.array(7), np.zeros(3, [("a", "f4")])):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match="expected labels along one axis"):
            load_labels(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.arange(1000))
    data = (tmp_path / "b.npy").read_bytes()
    with pytest.raises(ValueError, match=r"shape \(1000,\), but 7992 bytes"):
        load_labels(written(tmp_path, "b.npy", data[:-8]))
    with pytest.raises(ValueError, match="bytes of"):
        load_labels(written(tmp_path, "b.npy", data.replace(b"(1000,)", b"(9**9,)").replace(b"9**9", b"9999")))


# ------------------------------------------------------------------------------------------------- what is shown


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kullback", *map(str, arguments)])
    try:
        return kb_main()
    except SystemExit as stop:
        return stop.code


def kb_main():
    from kullback.cli import main

    return main()


def test_the_command_shows_tables_by_label(files, tmp_path, monkeypatch, capsys):
    p, q, out = files / "p.npz", files / "q.npy", tmp_path / "r.json"
    page, rows = tmp_path / "r.html", tmp_path / "t.csv"
    more = ["--by", files / "by.jsonl", "--quiet", "--json", out, "--html", page, "--per-token", rows]
    assert command(monkeypatch, "compare", p, q, *more) == 0
    lines = capsys.readouterr().out.splitlines()
    first = lines.index("By domain")
    assert max(map(len, lines[first : lines.index("The worst tokens")])) <= 80
    assert " ".join(lines[first + 1].split()) == "domain tokens docs KL(p‖q) ± group doc. mean same top"
    tree = json.loads(out.read_text())["by"]["domain"]
    assert [line.split()[0] for line in lines[first + 2 : first + 5]] == sorted(
        tree, key=lambda label: -tree[label]["kl"]["mean"]
    )
    assert {"document_mean", "document_standard_error", "group_standard_error"} <= tree["code"]["kl"].keys()
    assert "<h3>By role</h3>" in page.read_text()
    with open(rows, newline="") as file:
        labels = [(row["label.domain"], row["label.role"]) for row in csv.DictReader(file)]
    assert labels == [(d, r or "(none)") for d, r in zip(*BY.values(), strict=True)]
    assert command(monkeypatch, "compare", p, q, *more[:2], "--by-column", "role", "--quiet", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["by"].keys() == {"role"}
    assert command(monkeypatch, "compare", p, q, "--by-column", "role") == 2
    assert "--by-column needs --by" in capsys.readouterr().err
    assert command(monkeypatch, "compare", p, q, *more[:2], "--json", files / "by.jsonl", "--force") == 2


def test_many_and_long_labels_are_cut_and_counted(tokens, capsys):
    labels = [f"{'long' * 12} {i % 30:02}" for i in range(T)]
    s = tokens.summary(GROUPS, by={"topic": labels})
    print_summaries([s])
    text = capsys.readouterr().out
    assert "and 18 labels with less KL" in text
    assert "longlonglonglonglon…" in text
    assert max(map(len, text[text.index("By topic") : text.index("and 18")].splitlines())) <= 80
    assert "by topic, the worst first:" in str(s) and "and 22 more" in str(s)
    assert labels[29] in render_report([s])


def test_labels_cannot_act_on_terminals(tokens, capsys):
    s = tokens.summary(by=["\x1b[31mred\u202e"] * T)
    print_summaries([s])
    assert "\x1b" not in capsys.readouterr().out + str(s)
    assert "\u202e" not in render_report([s])


def test_few_documents_give_no_error(tokens, capsys):
    s = tokens.summary(GROUPS, by=np.where(GROUPS < 2, "few", "many"))
    print_summaries([s])
    text = capsys.readouterr().out
    assert "no error where a label has fewer than five documents" in text
    assert next(line for line in text.splitlines() if line.startswith("few")).split()[4] == "-"


def test_of_many_labels_quantiles_have_no_intervals():
    data = columns(3000) | {"group": np.arange(3000) // 100}
    names = {"a": ("x", "y", "z"), "b": tuple(f"{i:02}" for i in range(40))}
    few = summary_of(data, 1, labels={"a": names["a"]}).by["a"]["x"].kl
    many = summary_of(data, 1, labels=names).by["a"]["x"].kl
    assert few.quantile_interval(0.5)[0] < many.quantile(0.5) == few.quantile(0.5)
    assert all(map(math.isnan, many.quantile_interval(0.5)))
    assert many.group_standard_error == few.group_standard_error
