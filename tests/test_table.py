"""`kullback table`: what it reads, ranks and writes; what it refuses."""

import csv
import io
import json
import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation.layout import columns_of
from kullback.evaluation.outputs import is_ours
from kullback.evaluation.table import STATISTICS, CandidateTable, read_table, table_of
from kullback.evaluation.table.figures import Base, Figures
from kullback.evaluation.table.sizes import ModelSize
from kullback.evaluation.table_arguments import STATISTICS as ARGUMENTS

RESULTS = Path(__file__).parent.parent / "examples" / "results"
LOGS = [str(RESULTS / name) for name in ("q4_k_m.txt", "f16.txt", "q8_0.txt")]
BASE = Base(1000, 50, 0, 0, "nats", "kullback", 3.0, 2.0, "base.npy")


def made(name, kl, **more):
    return Figures(name, "r.json", BASE, {"mean": kl, "median": kl / 2, "max": 9 * kl, "p99.9": 5 * kl}, **more)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """p.npz with ten documents, three candidates, r.json with all of them and one.json with a single one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    base = rng.normal(0, 2, (300, 40)).astype(np.float32)
    noise = rng.normal(size=base.shape).astype(np.float32)
    np.savez("p.npz", logits=base, tokens=rng.integers(0, 40, 300), groups=np.arange(300) // 30)
    for name, share in (("q8", 0.02), ("q4", 0.2), ("q4b", -0.2)):
        np.save(f"{name}.npy", base + np.float32(share) * noise)
    assert main(["compare", "p.npz", "q4.npy", "q8.npy", "q4b.npy", "--quiet", "--json", "r.json"]) == 0
    assert main(["compare", "p.npz", "q8.npy", "--quiet", "--json", "one.json"]) == 0
    return rng


def changed(path, target, change):
    """A copy of a result, changed."""
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
    change(tree)
    Path(target).write_text(json.dumps(tree), encoding="utf-8")


def test_the_command_ranks_what_the_engine_found(files, capsys):
    capsys.readouterr()
    assert main(["table", "r.json", "--json", "-"]) == 0
    tree = json.loads(capsys.readouterr().out)
    order = {name: kb.compare_files("p.npz", f"{name}.npy") for name in ("q8", "q4", "q4b")}
    rows = {row["candidate"]: row for row in tree["rows"]}
    assert [row["kl_mean"] for row in tree["rows"]] == sorted(s.kl.mean for s in order.values())
    assert tree["rows"][0]["candidate"] == "q8.npy" and tree["statistic"] == "kl.mean"
    for name, s in order.items():
        row = rows[f"{name}.npy"]
        assert row["kl_p99.9"] == s.kl.quantile(0.999) and row["kl_error"] == s.kl.group_standard_error
        assert row["same_top1"] == s.same_top1.mean and row["perplexity_ratio"] == s.perplexity_ratio
        assert row["acceptance"] == s.acceptance.mean
        assert row["perplexity_ratio_error"] == pytest.approx(s.perplexity_ratio * s.log_ratio.group_standard_error)
        assert [row["kl_low"], row["kl_high"]] == list(s.kl.group_interval())
        assert row["bytes"] is None and row["frontier"] is None and row["kl_error_between"] == "documents"


def test_letters_are_those_of_the_paired_differences(files):
    found = kb.compare_candidates("p.npz", [f"{name}.npy" for name in ("q8", "q4", "q4b")])
    for table in (read_table(["r.json"]), table_of(found)):
        letters = {row.name: set(row.alike) for row in table.rows}
        tests = {frozenset((t.a, t.b)): t.adjusted for t in found.differences("kl")}
        assert len(tests) == 3 and min(tests.values()) < 0.05
        for a, b in combinations(letters, 2):
            assert bool(letters[a] & letters[b]) == (not tests[frozenset((a, b))] < 0.05)
        assert any("Holm" in note for note in table.notes)


@pytest.mark.parametrize("seed", range(6))
def test_letters_say_of_every_pair_whether_it_is_told_apart(seed):
    rng = np.random.default_rng(seed)
    names = [f"q{i}" for i in range(8)]
    apart = {pair: rng.random() < 0.5 for pair in combinations(names, 2)}
    differences = [{"a": a, "b": b, "kl": {"p_value": 1e-6 if apart[a, b] else 0.7}} for a, b in apart]
    table = CandidateTable([made(name, 0.1 * i + 0.1) for i, name in enumerate(names)], differences=differences)
    letters = {row.name: set(row.alike) for row in table.rows}
    assert all(letters.values())
    assert {pair: not letters[pair[0]] & letters[pair[1]] for pair in apart} == apart


def test_no_groups_are_claimed_without_all_pairs(files):
    candidates = [made(name, kl) for name, kl in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    one = {"a": "a", "b": "b", "kl": {"p_value": 1e-9}, "group_note": "too few"}
    unknown = {"kl": {"p_value": None}, "group_note": "2 groups: few"}
    for differences, words in (
        ([], "unpaired"),
        ([one], "not of all pairs"),
        ([{"a": x, "b": y} | unknown for x, y in ("ab", "ac", "bc")], "2 groups: few"),
    ):
        table = CandidateTable(candidates, differences=differences)
        assert not any(row.alike for row in table.rows)
        assert words in " ".join(table.notes)
    # the pairs' p-values are of the mean: they say nothing of a maximum; nor do those of one result about another's
    assert not any(row.alike for row in read_table(["r.json"], statistic="kl.max").rows)
    assert not any(row.alike for row in read_table(["r.json", "one.json"]).rows)
    assert any(row.alike for row in read_table(["r.json"], statistic="kl.p99").rows)


def test_the_frontier_is_what_nothing_beats():
    rng = np.random.default_rng(1)
    kl, size = rng.integers(1, 12, 40) / 100, rng.integers(1, 12, 40)
    names = [f"q{i}" for i in range(40)]
    table = CandidateTable(
        [made(*pair) for pair in zip(names, kl, strict=True)],
        sizes={name: ModelSize(int(n)) for name, n in zip(names, size, strict=True)},
    )
    for row in table.rows:
        beaten = any(
            other.size.bytes <= row.size.bytes
            and other.value <= row.value
            and (other.size.bytes, other.value) != (row.size.bytes, row.value)
            for other in table.rows
        )
        assert row.frontier == (not beaten), row


@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_statistic_ranks(statistic, files):
    table = read_table(["r.json"], statistic=statistic)
    values = [row.value for row in table.rows]
    assert values == sorted(values) and not any(map(math.isnan, values))
    assert ARGUMENTS == STATISTICS


def test_logs_have_the_figures_that_were_printed():
    table = read_table(LOGS)
    q8 = next(row for row in table.rows if row.name == "q8_0.txt").figures
    assert [row.name for row in table.rows] == ["f16.txt", "q8_0.txt", "q4_k_m.txt"]
    assert (q8.base.tokens, q8.base.perplexity) == (126, 72.234622)
    assert (q8.kl["mean"], q8.error, q8.kl["p99.9"], q8.kl["p1"], q8.kl["max"]) == (
        6.7e-05, 1.3e-05, 0.00141, -4e-06, 0.001576,
    )  # fmt: skip
    assert q8.same_top1 == pytest.approx(0.99206) and (q8.perplexity_ratio, q8.perplexity_ratio_error) == (
        1.010476, 0.009329,
    )  # fmt: skip


@pytest.mark.parametrize("coding", ["utf-8", "utf-16", "cp1252"])
def test_logs_in_other_codings(tmp_path, coding):
    """PowerShell's > writes UTF-16, and others leave no ± that is one in UTF-8; colours stand in some."""
    text = Path(LOGS[0]).read_text(encoding="utf-8").replace("Δ", "d").replace("Mean    KLD", "\x1b[32mMean    KLD")
    (tmp_path / "log.txt").write_bytes(text.encode(coding))
    (row,) = read_table([tmp_path / "log.txt"]).rows
    assert (row.value, row.figures.error, row.figures.same_top1) == (0.000797, 0.000137, pytest.approx(0.98413))


def test_a_log_of_standard_output_alone(tmp_path):
    """Without the line about chunks the number of tokens is not known; the base's perplexity still is compared."""
    text = Path(LOGS[0]).read_text(encoding="utf-8").partition("====== Perplexity")[2]
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text(text.replace("72.234622", "72.234699"), encoding="utf-8")
    assert read_table([tmp_path / "a.txt", LOGS[1]]).rows[1].figures.base.tokens is None
    with pytest.raises(ValueError, match=r"b.txt has a base of perplexity 72.234699, .*f16.txt one of 72.234622"):
        read_table([LOGS[1], tmp_path / "b.txt"])
    (tmp_path / "c.txt").write_text(text.replace("0.000797 ±   0.000137", "nan ± -nan(ind)"), encoding="utf-8")
    (row,) = read_table([tmp_path / "c.txt"]).rows
    assert math.isnan(row.value) and math.isnan(row.figures.error)
    (tmp_path / "d.txt").write_text(text + text, encoding="utf-8")
    with pytest.raises(ValueError, match="logs of several runs"):
        read_table([tmp_path / "d.txt"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(tokens=299), "is of 299 tokens, r.json .* of 300"),
        (lambda t: t.update(vocab_size=41), "is of 41 tokens of vocabulary, r.json .* of 40"),
        (lambda t: t.update(unit="bits"), "is of bits, r.json .* of nats"),
        (lambda t: t.update(ignored_tokens=3), "is of 3 ignored tokens"),
        (lambda t: t["entropy_p"].update(mean=t["entropy_p"]["mean"] * 1.0001), "has a base whose entropy is"),
        (lambda t: t.update(perplexity_p=t["perplexity_p"] + 1e-3), "has a base of perplexity"),
        (lambda t: (t.update(undefined_rows=2), t["p"].update(path="other.npy")), "has the base other.npy"),
    ],
)
def test_results_of_other_bases_are_refused(files, change, words, capsys):
    changed("one.json", "other.json", change)
    with pytest.raises(ValueError, match=f"other.json .* {words}.*--force"):
        read_table(["r.json", "other.json"])
    assert main(["table", "r.json", "other.json"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    table = read_table(["r.json", "other.json"], force=True)
    assert len(table.rows) == 4 and table.notes[0].startswith("FORCED: other.json")


def test_logs_and_results_are_of_two_conventions(files):
    with pytest.raises(ValueError, match="those of kullback, which leave out other terms"):
        read_table(["one.json", LOGS[0]])


def test_what_is_no_result_is_refused(files, tmp_path):
    rollouts = {"rollouts": 3, "missing_pieces": [], "audit": {}, "total": {}}
    for content, words in (
        (b"", "neither a result"),
        (b"\x00\xff" * 50, "neither a result"),
        (b"Mean PPL: 3", "neither a result"),
        (b'{"kl": ', "begins as JSON and is none"),
        (b"[" * 100_000, "begins as JSON and is none"),
        (b"[1, 2]", "holds list"),
        (b'{"candidates": []}', "no candidates in it"),
        (b'{"candidates": [3]}', "expected a result"),
        (b'{"kl": {}}', "without the number of tokens"),
        (b'{"kl": {"mean": "much"}, "tokens": 3}', "kl.mean is 'much', expected a number"),
        (b'{"kl": {"mean": 1' + b"0" * 400 + b'}, "tokens": 3}', "kl.mean is .* expected a number"),
        (b'{"kl": {"mean": true}, "tokens": 3}', "kl.mean is True, expected a number"),
        (b'{"kl": {"mean": 1}, "tokens": -3}', "tokens is -3, expected a whole number"),
        (json.dumps(rollouts).encode(), "a result of `kullback rollouts`"),
        (json.dumps(read_table(["r.json"]).to_dict()).encode(), "a table, expected the results"),
    ):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_table(["x"])
        assert main(["table", "x"]) == 2
    for paths, words in (([], "empty"), (["r.json", "./r.json"], "given twice, once as r.json"), (["."], "a folder")):
        with pytest.raises(ValueError, match=words):
            read_table(paths)
    with pytest.raises(TypeError, match="one path"):
        read_table("r.json")
    with pytest.raises(ValueError, match="`statistic` is 'mean'"):
        read_table(["r.json"], statistic="mean")
    assert main(["table", "nothing.json"]) == 2


def test_nan_and_infinite_figures_rank_last_and_are_said(files):
    changed("one.json", "nan.json", lambda t: t["kl"].update(mean=None, standard_error=None, group_standard_error=None))
    changed("one.json", "inf.json", lambda t: t["kl"].update(mean="inf", infinite=7))
    Path("raw.json").write_text(Path("nan.json").read_text(encoding="utf-8").replace("null", "NaN"), encoding="utf-8")
    table = read_table(["nan.json", "r.json", "inf.json", "raw.json"])
    assert [row.figures.result for row in table.rows][-3:] == ["inf.json", "nan.json", "raw.json"]
    assert any("KL is infinite in 7 rows" in note for note in table.notes)
    text = table.to_text()
    assert " inf " in text and "nan" not in text.replace("nan.json", "")
    tree = table.to_dict()
    assert [row["kl_mean"] for row in tree["rows"]][-3:] == ["inf", None, None]
    json.dumps(tree, allow_nan=False)


def test_one_name_in_several_results(files):
    table = read_table(["one.json", "r.json"])
    assert sorted(row.name for row in table.rows) == ["one.json: q8.npy", "q4.npy", "q4b.npy", "r.json: q8.npy"]


def test_text_from_files_acts_nowhere(files):
    name = "a|b`c`\x1b[31m\u202e<script>@x\n=1"
    changed("one.json", "named.json", lambda t: t.update(name=name, warnings=["<b>|\x07"]))
    table = read_table(["named.json"])
    for text in (table.to_text(), table.to_markdown(), table.to_csv(), json.dumps(table.to_dict())):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    lines = table.to_markdown().splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", lines[1])) for line in lines[1:4])
    assert "``" in lines[3] and "\\<b\\>\\|" in table.to_markdown()
    assert len(list(csv.reader(io.StringIO(table.to_csv())))) == 2


def test_it_fits_80_columns_and_hundreds_of_rows():
    table = CandidateTable(
        [made(f"model-{i:03}-Q{i % 8}_K_M.gguf", 1 / (i + 1), error=0.1, acceptance=0.9) for i in range(400)],
        sizes={f"model-{i:03}-Q{i % 8}_K_M.gguf": ModelSize(10**9 + i, 10**9) for i in range(400)},
    )
    lines = table.to_text().splitlines()
    assert max(map(columns_of, lines[:-30])) <= 80
    assert len(table.to_csv().splitlines()) == 401 and len(table.to_dict()["rows"]) == 400
    assert "8.00" in table.to_text() and "1.00 GB" in table.to_text()


def test_outputs_are_known_as_ours_and_nothing_else_is(files, capsys):
    names = [word for kind in ("markdown", "csv", "json") for word in (f"--{kind}", f"o.{kind}")]
    for _ in range(2):  # the second time it replaces its own
        assert main(["table", "r.json", *names]) == 0
    Path("o.markdown").write_text(Path("o.markdown").read_text(encoding="utf-8") + "mine\n", encoding="utf-8")
    Path("o.csv").write_text("mine\n", encoding="utf-8")
    for kind in ("markdown", "csv"):
        assert not is_ours(f"o.{kind}")
        assert main(["table", "r.json", f"--{kind}", f"o.{kind}"]) == 2
    assert main(["table", "r.json", "--json", "r.json"]) == 2
    assert main(["table", "r.json", "--size", "q8=q8.npy", "--csv", "q8.npy", "--force"]) == 2
    assert "never replaces" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2])
def test_compare_writes_markdown(files, count):
    names = ["q8.npy", "q4.npy"][:count]
    for _ in range(2):
        assert main(["compare", "p.npz", *names, "--quiet", "--markdown", "o.md"]) == 0
    text = Path("o.md").read_text(encoding="utf-8")
    if count == 1:
        assert kb.compare_files("p.npz", "q8.npy").to_markdown() in text
    else:
        found = kb.compare_candidates("p.npz", names)
        assert text == table_of(found).to_markdown() and "`q4.npy`" in text


def test_a_summary_in_markdown_says_what_it_is_without():
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, 60, 9))
    p[3] = np.nan
    q[5, 2] = -np.inf
    tokens = rng.integers(0, 9, 60)
    tokens[7] = -100
    s = kb.compare(p, q, tokens).summary(groups=np.arange(60) // 10)
    text = s.to_markdown()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1 and "± group" in rows[0]
    assert "| KL(p‖q) | inf |" in text
    assert "KL is infinite in 1 rows" in text and "1 rows have no distribution" in text and "1 further rows" in text


@pytest.mark.integration
def test_a_summary_as_a_data_frame():
    p, q = np.random.default_rng(0).normal(size=(2, 30, 9))
    s = kb.compare(p, q).summary()
    frame = s.to_pandas()
    assert frame.loc["kl", "mean"] == s.kl.mean and frame.loc["kl", "p99.9"] == s.kl.quantile(0.999)
    assert frame.loc["same_top1", "mean"] == s.same_top1.mean and math.isnan(frame.loc["log_ratio", "mean"])
