"""The command: output, files, exit codes, one line for each error."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kullback.cli import main
from kullback.evaluation.job import compare_files

EXAMPLES = Path(__file__).parent.parent / "examples"
F16, Q4 = str(EXAMPLES / "f16.kld"), str(EXAMPLES / "q4_k_m.kld")


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (40, 50)).astype(np.float32)
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "q.npy", p + np.float32(0.1) * rng.standard_normal(p.shape, np.float32))
    np.save(tmp_path / "tokens.npy", rng.integers(0, 50, 40))
    return str(tmp_path / "p.npy"), str(tmp_path / "q.npy"), str(tmp_path / "tokens.npy")


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "kullback.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_compare_the_examples(capsys):
    assert main(["compare", F16, Q4]) == 0
    out, error = capsys.readouterr()
    summary = compare_files(F16, Q4)
    assert f"{summary.kl.mean:.4g}"[:6] in out
    assert "clipped targets" in out
    assert error == ""


def test_every_output(pair, tmp_path, capsys):
    p, q, tokens = pair
    arguments = ["compare", p, q, "--tokens", tokens, "--js", "--top-k", "1,3", "--rows", "2:39", "--threads", "1"]
    files = ["--json", f"{tmp_path}/o.json", "--html", f"{tmp_path}/o.html", "--per-token", f"{tmp_path}/o.parquet"]
    assert main([*arguments, *files, "--checkpoint", f"{tmp_path}/log", "--chunk-mib", "1"]) == 0
    written = json.loads((tmp_path / "o.json").read_text())
    expected = compare_files(p, q, tokens=tokens, jensen_shannon=True, top_k=[1, 3], rows=(2, 39)).to_dict()
    assert written == json.loads(json.dumps(expected))
    assert (tmp_path / "o.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "o.parquet").stat().st_size > 1000
    capsys.readouterr()
    assert main(["merge", f"{tmp_path}/log", "--partial", "--json", "-"]) == 0
    merged = json.loads(capsys.readouterr().out)
    assert merged["kl"] == written["kl"]


def test_several_candidates(pair, capsys):
    p, q, _ = pair
    assert main(["compare", p, q, p, "--json", "-"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [c["q"]["path"] for c in tree["candidates"]] == [q, p]
    assert tree["candidates"][1]["kl"]["max"] == 0
    assert main(["compare", p, q, p]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["candidate", "KL(p‖q)"]


@pytest.mark.parametrize(("most", "code"), [("1", 0), ("1e-9", 1)])
def test_a_gate(pair, capsys, most, code):
    assert main(["compare", pair[0], pair[1], "--fail-above", most]) == code
    assert ("above 1e-09" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["compare", "{p}", "nothing.npy"], 2, "nothing.npy: No such file or directory"),
        (["compare", "{p}", __file__], 2, "which no reader knows"),
        (["compare", "{p}", F16], 2, "rows, expected 40"),
        (["compare", "{p}", "{q}", "--vocab-size", "51"], 2, "`vocab_size` is 51, expected from 1 to 50"),
        (["compare", "{p}", "{q}", "--resume"], 2, "`resume` needs a `checkpoint`"),
        (["compare", "{p}", "{q}", "--convention", "llama.cpp"], 2, "needs a llama.cpp dump"),
        (["compare", "{p}", "{q}", "--json", "nowhere/x.json"], 2, "there is no folder nowhere"),
        (["compare", "{p}", "{q}", "--tokenizer", "{tokens}"], 2, "not a readable tokenizer file"),
        (["compare", "{p}", "{q}", "--json", "/dev/full/x"], 2, "there is no folder"),
        (["info", "{tokens}"], 2, "expected float"),
        (["convert", "{p}", "x.txt", "--quiet"], 2, "its suffix says no format that is written"),
        (["merge", "{p}"], 2, "not a checkpoint"),
    ],
)
def test_one_line_for_each_error(pair, capsys, arguments, code, message):
    p, q, tokens = pair
    found = main([a.format(p=p, q=q, tokens=tokens) for a in arguments])
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("kullback: ")
    if message == "expected float":
        assert "tokens.npy" in error
    else:
        assert message in error
    assert error.count("\n") == 1
    assert found == code


@pytest.mark.parametrize("arguments", [[], ["compare"], ["compare", "a", "b", "--rows", "5:2"], ["nonsense"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_help_tells_the_exit_codes(capsys):
    for arguments in (["--help"], ["compare", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert "143: terminated" in capsys.readouterr().out


def test_info_and_convert(pair, tmp_path, capsys):
    assert main(["info", F16]) == 0
    out = capsys.readouterr().out
    assert "38 x 50257" in out
    assert "clipped targets" in out
    assert main(["info", F16, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clipped_targets"] == 1
    assert main(["convert", pair[0], f"{tmp_path}/x.safetensors", "--to-dtype", "float16", "--quiet"]) == 0
    assert main(["info", f"{tmp_path}/x.safetensors"]) == 0
    assert "float16" in capsys.readouterr().out


def test_bench(capsys, monkeypatch):
    monkeypatch.setattr("kullback.evaluation.bench._SECONDS", 0.01)
    assert main(["bench", "--rows", "4", "--vocab-size", "1000"]) == 0
    assert "GB/s" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error(pair):
    command = f"{sys.executable} -m kullback.cli compare {F16} {Q4} --quiet | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_terminal_that_knows_ascii_only(pair):
    done = run("compare", F16, Q4, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert "KL(p?q)" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_then_resumed(tmp_path, number):
    rng = np.random.default_rng(0)
    p = rng.standard_normal((8_000, 1000), dtype=np.float32)
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "q.npy", p + rng.standard_normal(p.shape, dtype=np.float32))
    log = tmp_path / "log"
    command = ["compare", f"{tmp_path}/p.npy", f"{tmp_path}/q.npy", "--top-k", "3"]
    options = ["--checkpoint", str(log), "--resume", "--chunk-mib", "1", "--json", f"{tmp_path}/o.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kullback.cli", *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell ignores Ctrl-C for what it runs in the background, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (log.exists() and log.stat().st_size > 10_000):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert re.fullmatch(r"kullback: .*log (holds no rows yet.*|goes on after .*)", error.splitlines()[0])
    way_on = f"; the same command goes on from {log}"
    assert error.splitlines()[1:] == [f"kullback: {'interrupted' if number == signal.SIGINT else 'terminated'}{way_on}"]
    assert not (tmp_path / "o.json").exists()


def test_progress_lines_where_there_is_no_terminal(pair, capsys, monkeypatch):
    from kullback.evaluation.progress import Lines

    lines = Lines(seconds=0.0)
    lines(0, 100)
    time.sleep(0.01)
    lines(50, 100)
    error = capsys.readouterr().err
    assert "50 of 100 rows" in error
    assert "min left" in error


def test_nothing_heavy_before_it_is_needed():
    heavy = ("rich", "safetensors", "numba", "jinja2", "pyarrow", "dask")
    code = f"import sys, kullback.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("option", [["--tensor", "logits"], ["--salvage"], ["--layer", "0"]])
def test_options_that_mean_nothing_for_answers_are_refused(tmp_path, capsys, option):
    (tmp_path / "answer.json").write_text('{"prompt_logprobs": [null, {"5": {"logprob": -0.5, "rank": 1}}]}')
    assert main(["info", str(tmp_path / "answer.json")]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "answer.json"), *option]) == 2
    assert f"answer.json: top-k answers in JSON, for which {option[0]} means nothing" in capsys.readouterr().err
