"""`kullback rollouts`: what it prints and writes, its gates, and that nothing of a log is obeyed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_rollouts import lines, run, written

from kullback.cli import main
from kullback.rollouts import audit_files


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(written(tmp_path, run(), "jsonl"))


def test_findings_come_first_then_figures_then_the_worst(log, capsys):
    rows = run()
    rows[17]["train"] = [0.0] * len(rows[17]["train"])
    with open(log, "wb") as file:
        file.write(lines(rows) + b'{"rollout": [-0.1')
    assert main(["rollouts", "log.jsonl", "--quiet"]) == 0
    text = capsys.readouterr().out
    order = ["truncated last line: 1 row, first log.jsonl:61", "error: zero_filled", "log.jsonl:18", "advice",
             "Sound tokens", "KL (k1)", "By step", "By env", "By worker", "By position", "worst sequences",
             "worst tokens"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 80


def test_json_is_strict_and_is_the_report(log, capsys):
    assert main(["rollouts", log, "--json", "out.json", "--by", "env", "--quiet"]) == 0
    with open("out.json") as file:
        tree = json.load(file, parse_constant=lambda word: pytest.fail(word))
    assert tree == json.loads(json.dumps(audit_files(log, by=["env"]).to_dict()))
    assert [entry["label"] for entry in tree["by"]["env"]] == ["code", "math"]
    assert {"mean", "standard_error", "interval"} == tree["total"]["kl_k3"].keys()
    assert "KL (k3)" in capsys.readouterr().out
    assert main(["rollouts", log, "--json", "-", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["kl_k3"] == tree["total"]["kl_k3"]
    assert main(["rollouts", log, "--json", "out.json", "--quiet"]) == 0, "what kullback wrote may be replaced"


def test_an_output_never_replaces_a_log(log, capsys):
    for option in ("--json", "--html", "--save"):
        assert main(["rollouts", log, option, log, "--force"]) == 2
        assert "read as an input" in capsys.readouterr().err


@pytest.mark.parametrize("level", ["error", "warning", "note"])
def test_a_gate_on_findings(log, capsys, level):
    assert main(["rollouts", log, "--fail-on", level, "--quiet"]) == 0, capsys.readouterr().err
    rows = run()
    rows[3]["train"][5] = float("-inf")
    with open(log, "wb") as file:
        file.write(lines(rows))
    assert main(["rollouts", log, "--fail-on", level, "--quiet"]) == 1
    assert "kullback: error: infinite" in capsys.readouterr().err


def test_a_gate_by_the_upper_end_of_the_interval(log, capsys):
    """Between the mean and the end of its interval the gate is shut: it is not shown that the KL is so small."""
    report = audit_files(log)
    mean, upper = report.total.kl_k3.mean, report.kl_upper()
    assert 0.95 < (upper - mean) / (1.6448536 * report.total.kl_k3.standard_error) < 1.2
    assert upper == report.total.kl_k3.interval(0.9)[1]
    for most, code in ((upper * 1.01, 0), ((mean + upper) / 2, 1), (mean / 2, 1)):
        assert main(["rollouts", log, "--fail-above", repr(most), "--quiet"]) == code
    assert "with 95 % confidence: not shown to be at most" in capsys.readouterr().err


def test_an_unknown_kl_never_passes_a_gate(log, capsys):
    rows = [row | {"train": [float("nan")] * len(row["train"])} for row in run()]
    with open(log, "wb") as file:
        file.write(lines(rows))
    assert main(["rollouts", log, "--fail-above", "1000", "--quiet"]) == 1
    assert "is not known to be at most 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["log.jsonl", "--map", "rollout"], "expected ROLE=FIELD"),
        (["log.jsonl", "--map", "rolout=x"], "has the role 'rolout', expected one of rollout, train"),
        (
            ["log.jsonl", "--preset", "nemo_rl"],
            "(nemo_rl has generation_logprobs and prev_logprobs); name the fields: "
            "--map rollout=FIELD train=FIELD mask=FIELD",
        ),
        (
            ["log.jsonl", "--map", "rollout=nosuch"],
            "no row has 'nosuch', which is mapped to rollout; its rows have rollout, ",
        ),
        (
            ["log.jsonl", "--map", "mask=nosuch"],
            "no row has 'nosuch', which is mapped to mask; rows have rollout, train",
        ),
        (["log.jsonl", "--by", "lvl"], "--by has 'lvl', which no row has; rows have rollout, train"),
        (["log.jsonl", "--by", "tokens"], "--by has 'tokens', which is one number a token"),
        (["text.jsonl"], "no line of it is a JSON object"),
        pytest.param(
            ["log.jsonl", "--dask", "nowhere"], "expected an address with a port", marks=pytest.mark.integration
        ),
    ],
)
def test_one_line_for_each_error(log, capsys, arguments, words):
    with open("text.jsonl", "w") as file:
        file.write("step 1: loss 0.3\n")
    assert main(["rollouts", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert "`" not in error and "fields=" not in error, "an option has another name than the argument of a function"


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "²/3"])
def test_parts_that_are_none(log, capsys, part):
    with pytest.raises(SystemExit) as stop:
        main(["rollouts", log, "--part", part])
    assert stop.value.code == 2
    assert "expected I/N" in capsys.readouterr().err


def test_parts_and_their_merge_print_the_same(log, capsys, monkeypatch):
    monkeypatch.setattr("kullback.rollouts.logs.PIECE", 3000)
    assert main(["rollouts", log, "--json", "-", "--quiet"]) == 0
    whole = capsys.readouterr().out
    for i in (1, 2, 3):
        assert main(["rollouts", log, "--part", f"{i}/3", "--save", f"part{i}", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["rollouts", "part3", "part1", "part2", "--json", "-"]) == 0
    assert capsys.readouterr().out == whole
    assert main(["rollouts", "part3", "part1"]) == 2
    assert "merge what there is with --partial\n" in capsys.readouterr().err
    assert main(["rollouts", "part3", "part1", "--partial", "--fail-above", "9"]) == 0
    assert "INCOMPLETE" in capsys.readouterr().out
    assert main(["rollouts", "part1", log]) == 2
    assert "parts and logs cannot be read together" in capsys.readouterr().err


def test_a_closed_pipe_does_not_open_the_gate(log):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kullback.cli", "rollouts", log, "--fail-above"]
    codes = [subprocess.run([*command, most], stdout=writing, timeout=120).returncode for most in ("9", "1e-12")]
    os.close(writing)
    assert codes == [0, 1]


HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e^&\"'"


def hostile_rows():
    return [row | {"env": HOSTILE if i % 2 else "math", "worker": f"w{i % 3}\n"} for i, row in enumerate(run())]


def test_the_page_shows_text_and_obeys_none(log):
    pytest.importorskip("jinja2")
    with open(log, "wb") as file:
        file.write(lines(hostile_rows()))
    assert main(["rollouts", log, "--html", "page.html", "--quiet"]) == 0
    with open("page.html", encoding="utf-8") as file:
        page = file.read()
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;" in page and "\\u202e" in page
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
    assert main(["rollouts", log, "--html", "page.html", "--quiet"]) == 0, "a page of ours may be replaced"
    for words in ("KL(rollout‖train), nats, by step", "by env", "KL, nats, by position", "Log-ratios", "Reward",
                  "What weights and masks would do", "The worst sequences", "The worst tokens"):  # fmt: skip
        assert words in page, words


def test_a_page_of_a_run_without_labels(tmp_path):
    """One sequence, no ids, no step: nothing to draw by, and nothing that fails."""
    pytest.importorskip("jinja2")
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines([{"rollout": [-1.0, -0.5], "train": [-1.0, -0.25]}]))
    report = audit_files(path)
    report.to_html(tmp_path / "page.html")
    assert "KL (k3)" in str(report) and "KL (k3)" in (tmp_path / "page.html").read_text()
    with pytest.raises(ValueError, match="read as an input"):
        report.to_html(path)


def test_terminals_are_not_obeyed_either(log, capsys):
    with open(log, "wb") as file:
        file.write(lines(hostile_rows()))
    assert main(["rollouts", log, "--json", "out.json", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\u202e" not in text
    with open("out.json", encoding="utf-8") as file:
        written_text = file.read()
    assert "\x1b" not in written_text and "\u202e" not in written_text
    assert HOSTILE in [entry["label"] for entry in json.loads(written_text)["by"]["env"]]


def test_worst_tokens_as_text(log, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{i}": i for i in range(50)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0")).save("tokenizer.json")
    assert main(["rollouts", log, "--tokenizer", "tokenizer.json", "--json", "out.json", "--quiet"]) == 0
    with open("out.json", encoding="utf-8") as file:
        worst = json.load(file)["worst_tokens"][0]
    assert worst["text"]["token"] == f"w{worst['token']}"
    assert worst["text"]["token"] in capsys.readouterr().out


def test_progress_is_told_in_mebibytes(log, capsys, monkeypatch):
    monkeypatch.setattr("kullback.evaluation.progress.Lines.__init__", _hasty)
    assert main(["rollouts", log, "--processes", "1"]) == 0
    assert "MiB" in capsys.readouterr().err


def _hasty(self, seconds=60.0, unit="rows"):
    self._every, self._unit, self._begun, self._next = 0.0, unit, None, 0.0


def test_every_kind_of_file_at_once(tmp_path, capsys):
    """Steps in several files of several kinds are one series."""
    rows = run()
    written(tmp_path, rows[:20], "jsonl")
    written(tmp_path, rows[20:40], "npz")
    written(tmp_path, rows[40:], "jsonl.gz")
    report = audit_files(tmp_path)
    assert list(report.by["step"].points) == [0, 1, 2]
    assert report.total.means["k3"] == audit_files(written(tmp_path, rows, "jsonl")).total.means["k3"]
    assert np.isfinite(report.total.kl_k1.mean)


def test_a_log_without_a_counted_token_is_not_called_sound(log, capsys):
    with open(log, "wb") as file:
        file.write(lines([row | {"mask": [0] * len(row["train"])} for row in run()]))
    assert main(["rollouts", log, "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "No tokens: nothing was checked." in text
    assert "No findings" not in text


def test_a_limit_that_is_no_number(log, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["rollouts", log, "--fail-above", "x"])
    assert stop.value.code == 2
    assert "'x', expected a number from 0" in capsys.readouterr().err
