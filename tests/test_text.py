"""Text from files is shown, not obeyed; tables never cut a number."""

import base64
import hashlib
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.layout import PrintedTable, columns_of
from kullback.evaluation.report import render_report
from kullback.evaluation.terminal import print_comparison, print_facts, print_summaries
from kullback.evaluation.text import json_text, labels, short, visible

EXAMPLES = Path(__file__).parent.parent / "examples"
# an escape sequence, C1 controls, bidi, separators, invisible letters, a byte that is no UTF-8, markup
NASTY = "a\x1b[31mb\x9b2Jc\u202ed\u2066e\u2028f\u200bg\u00adh\x7f\r\udcffi[/INST][b]:smile:<b>&\\"
TOKENS = ["[/INST]", "[b]", "[red]", "[link=https://x]", "\x1b]0;title\x07", "\u202etxt", ":smile:", "<script>", "\r\n"]


def unprintable(text):
    return sorted({c for c in text if not c.isprintable() and c != "\n"})


def test_visible():
    assert visible("q8/logits.npy ‖ Δp 漢字") == "q8/logits.npy ‖ Δp 漢字"
    assert visible("\x1b[0m\u0080\u202e\udcff\ud800\U000e0001\n") == r"\x1b[0m\u0080\u202e\xff\ud800\U000e0001\n"
    assert visible("a\nb\tc", "\n\t") == "a\nb\tc"
    assert unprintable(visible(NASTY)) == []


def test_json_of_anything_prints_and_comes_back():
    text = json_text(json.dumps({"path": NASTY + "\U000e0001漢"}, ensure_ascii=False, indent=2))
    assert unprintable(text) == []
    assert json.loads(text.encode()) == {"path": NASTY + "\U000e0001漢"}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["f16/logits.npy", "q8/logits.npy", "q4/logits.npy"], ["f16/logits.npy", "q8/logits.npy", "q4/logits.npy"]),
        (["/a/f16.npy", "/b/q8.npy", "/b/q4.npy/"], ["f16.npy", "q8.npy", "q4.npy"]),
        (["/m/q8/x/l.npy", "/m/q4/x/l.npy", "r.npy"], ["q8/x/l.npy", "q4/x/l.npy", "r.npy"]),
        (["l.npy", "q8/l.npy", "/l.npy"], ["l.npy", "q8/l.npy", "/l.npy"]),
        (["a.npy", "a.npy"], ["a.npy", "a.npy"]),
        (["/", "x\x1b"], ["/", r"x\x1b"]),
    ],
)
def test_labels_tell_files_apart(paths, expected):
    assert labels(paths) == expected


def test_candidates_of_one_name(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (30, 20))
    names = [tmp_path / f"q{bits}" / "logits.npy" for bits in (8, 4)]
    for name in names:
        name.parent.mkdir()
        np.save(name, p + rng.normal(0, 0.1, p.shape))
    np.save(tmp_path / "logits.npy", p)
    found = compare_candidates(tmp_path / "logits.npy", names)
    out = io.StringIO()
    print_comparison(found, out)
    page = render_report(found.summaries)
    for label in ("q8/logits.npy", "q4/logits.npy"):
        assert re.search(rf"^{label} +0\.0", out.getvalue(), re.M)
        assert f"{label}</th>" in page


def summary_of_nasty(tmp_path):
    path = tmp_path / NASTY.replace("/", "|")
    shutil.copy(EXAMPLES / "q4_k_m.kld", path)
    found = compare_files(EXAMPLES / "f16.kld", path)
    worst = found.parts["worst_tokens"]
    worst.add_text(lambda ids: "".join(TOKENS[i % len(TOKENS)] for i in ids))
    return found


def test_names_and_tokens_in_the_tables(tmp_path):
    found = summary_of_nasty(tmp_path)
    out = io.StringIO()
    print_summaries([found, found], out)
    print_facts(found.facts["q"], out)
    assert unprintable(out.getvalue()) == []
    for token in {TOKENS[entry["token"] % len(TOKENS)] for entry in found.parts["worst_tokens"].tokens[:5]}:
        assert visible(token)[:11] in out.getvalue()
    assert "[/INST]" in out.getvalue()  # in the file's name


def test_names_and_tokens_in_the_page(tmp_path):
    page = render_report([summary_of_nasty(tmp_path)])
    page.encode()
    assert unprintable(page) == []
    assert page.count("<script") == 1  # the page's own
    assert "&lt;script&gt;" in page


def test_the_page_lets_nothing_run_but_its_own_script(tmp_path):
    page = render_report([summary_of_nasty(tmp_path)])
    policy = re.search('<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert page.index("Content-Security-Policy") < page.index("<style>")
    for name in ("style", "script"):
        (own,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
        page = page.replace(own, "")
        assert "[/INST]" not in own  # nothing from the files in it
    assert not re.search(r"<script |\son\w+=|\sstyle=", page)


def test_a_name_that_is_not_utf8(tmp_path, capfd, monkeypatch):
    name = os.fsencode(tmp_path) + b"/q\xff\x1b[31m.kld"
    shutil.copy(EXAMPLES / "q4_k_m.kld", name)
    monkeypatch.chdir(tmp_path)
    files = ["--json", "o.json", "--html", "o.html", "--per-token", "o.parquet", "--checkpoint", "log"]
    assert main(["compare", str(EXAMPLES / "f16.kld"), os.fsdecode(name), *files, "--fail-above", "1"]) == 0
    out, error = capfd.readouterr()
    assert r"q\xff\x1b[31m.kld" in out
    assert unprintable(out + error) == []
    assert os.fsencode(json.loads((tmp_path / "o.json").read_bytes())["q"]["path"]) == name
    assert rb"q\xff\x1b[31m.kld" in (tmp_path / "o.html").read_bytes()
    assert main(["merge", "log", "--json", "-"]) == 0
    assert os.fsencode(json.loads(capfd.readouterr().out)["q"]["path"]) == name
    assert main(["info", os.fsdecode(name), "--json"]) == 0
    assert os.fsencode(json.loads(capfd.readouterr().out)["path"]) == name
    os.remove(name)
    for arguments in (["info", os.fsdecode(name)], ["compare", "a", "b", "\x1b[2J\u202e" + os.fsdecode(name)]):
        assert main(arguments) == 2
        error = capfd.readouterr().err
        assert unprintable(error) == []


def test_wrong_arguments_are_printable(capsys):
    with pytest.raises(SystemExit):
        main(["info", "x", "--\x1b[31m\u202e"])
    error = capsys.readouterr().err
    assert r"\x1b[31m\u202e" in error
    assert unprintable(error) == []


@pytest.mark.parametrize("width", [40, 50, 60, 80, 200])
def test_no_cell_is_ever_cut(width):
    rng = np.random.default_rng(width)
    columns = ["", *(f"column {i}" for i in range(8))]
    table = PrintedTable(*columns, title="A title")
    rows = [[f"label {i}" * (i + 1), *(f"{x:.15g}" for x in rng.lognormal(0, 9, 8))] for i in range(5)]
    rows.append(["漢字" * 3, *["1.5"] * 8])
    for row in rows:
        table.add_row(*row)
    lines = [line for line, _ in table.lines(width)]
    assert max(columns_of(line) for line in lines if not line.startswith("label 4")) <= width
    words = "\n".join(lines)
    for row in rows:
        assert row[0] in words
        for cell in row[1:]:
            assert re.search(rf"(^|\s){re.escape(cell)}($|\s)", words, re.M), cell
    shown = [word for line in lines for word in re.findall(r"(?<=\s)[\d.e+-]+(?=\s|$)", line) if "column" not in line]
    assert set(shown) <= {cell for row in rows for cell in row[1:]} | set("01234")


@pytest.mark.parametrize("width", ["40", "80", "200"])
def test_every_digit_is_printed_in_any_width(tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    found = compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld")
    found.facts["q"]["path"] = "a/rather/long/name/of/a/file/of/logits/" + "q4" * 30 + ".kld"
    out = io.StringIO()
    print_summaries([found, found], out)
    words = out.getvalue().split()
    for spread in (found.kl, found.reverse_kl, found.entropy_p, found.log_ratio):
        numbers = [short(spread.mean), short(spread.standard_error, 2), short(spread.group_standard_error, 2)]
        numbers += [short(spread.quantile(level), 3) for level in (0.5, 0.99, 0.999)] + [short(spread.max, 3)]
        assert set(numbers) <= set(words)
    assert f"{found.perplexity_ratio:.5f}" in words


def test_every_error_says_which_it_is():
    p = np.random.default_rng(0).normal(0, 3, (60, 20))
    tokens, out = np.arange(60) % 20, io.StringIO()
    for groups, label in ((None, "± s.e."), (np.arange(60) // 10, "± group")):
        q = p + 0.5 * p[::-1]
        print_comparison(kb.compare_candidates(p, {"a": q, "b": q}, tokens=tokens, groups=groups), file=out)
        table = out.getvalue().split("tokens", 1)[0]
        assert table.count(label) == 2
        out = io.StringIO()
