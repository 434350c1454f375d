"""What is written: never onto an input, never onto somebody else's file, whole or not at all."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from kullback.cli import main
from kullback.evaluation import outputs
from kullback.evaluation.job import compare_files
from kullback.evaluation.outputs import atomic_file, check_outputs
from kullback.evaluation.report import write_report
from kullback.evaluation.sources.convert import convert

ROWS = np.random.default_rng(0).normal(0, 3, (30, 20)).astype(np.float32)
EXAMPLES = Path(__file__).parent.parent / "examples"
OUTPUTS = ("--json", "--html", "--per-token")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    np.save(tmp_path / "p.npy", ROWS)
    np.save(tmp_path / "q.npy", ROWS + 0.1 * ROWS[::-1])
    np.save(tmp_path / "tokens.npy", np.arange(30) % 20)
    (tmp_path / "shards").mkdir()
    for i in range(2):
        np.save(tmp_path / "shards" / f"row_{i}.npy", ROWS[15 * i : 15 * i + 15])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", OUTPUTS)
@pytest.mark.parametrize("target", ["p.npy", "./q.npy", "tokens.npy", "link.npy", "hard.npy", "shards/row_1.npy"])
def test_an_output_never_replaces_an_input(folder, capsys, option, target):
    os.symlink("q.npy", "link.npy")
    os.link("p.npy", "hard.npy")
    before = contents(folder)
    files = ["shards" if "shards" in target else "p.npy", "q.npy", "--tokens", "tokens.npy"]
    assert main(["compare", *files, option, target, "--force", "--quiet"]) == 2
    assert "an output never replaces one" in capsys.readouterr().err
    assert contents(folder) == before


def test_nor_does_it_join_the_shards_of_an_input(folder, capsys):
    assert main(["compare", "shards", "q.npy", "--per-token", "shards/t.parquet", "--quiet"]) == 2
    assert "a part of the input shards" in capsys.readouterr().err
    assert main(["compare", "shards", "q.npy", "--json", "shards/result.json", "--quiet"]) == 0
    assert main(["compare", "shards", "q.npy", "--json", "shards/result.json", "--quiet"]) == 0
    shutil.move("shards", "elsewhere")
    os.mkdir("shards")
    for name in ("row_0.npy", "row_1.npy"):
        os.symlink(f"../elsewhere/{name}", f"shards/{name}")
    assert main(["compare", "shards", "q.npy", "--json", "elsewhere/row_0.npy", "--force", "--quiet"]) == 2


def test_a_checkpoint_is_neither_output_nor_input(folder, capsys):
    before = contents(folder)
    assert main(["compare", "p.npy", "q.npy", "--checkpoint", "log", "--json", "log", "--quiet"]) == 2
    assert "are one file" in capsys.readouterr().err
    assert main(["compare", "p.npy", "q.npy", "--checkpoint", "p.npy", "--resume", "--quiet"]) == 2
    assert contents(folder) == before
    assert main(["compare", "p.npy", "q.npy", "--checkpoint", "log", "--quiet"]) == 0
    before = contents(folder)
    for option in ("--json", "--html"):
        assert main(["merge", "log", option, "log", "--force"]) == 2
        assert main(["compare", "p.npy", "q.npy", option, "log", "--quiet"]) == 2  # no result: a log
    assert contents(folder) == before


def test_the_functions_spare_inputs_too(folder):
    before = contents(folder)
    for options in ({}, {"tokens": "tokens.npy"}):
        with pytest.raises(ValueError, match="an output never replaces one"):
            compare_files("p.npy", "q.npy", per_token=options.get("tokens", "q.npy"), **options)
    with pytest.raises(ValueError, match="an output never replaces one"):
        write_report([compare_files("p.npy", "q.npy")], "q.npy")
    assert contents(folder) == before


@pytest.mark.parametrize("option", OUTPUTS)
@pytest.mark.parametrize("content", [b"mine", b'{"mine": 1}', b"[" * 100_000, b"PAR1 not really", b"<!doctype html>"])
def test_other_files_are_replaced_by_force_only(folder, capsys, option, content):
    (folder / "out").write_bytes(content)
    assert main(["compare", "p.npy", "q.npy", option, "out", "--quiet"]) == 2
    assert "--force" in capsys.readouterr().err
    assert (folder / "out").read_bytes() == content
    assert main(["compare", "p.npy", "q.npy", option, "out", "--force", "--quiet"]) == 0
    assert (folder / "out").read_bytes() != content


@pytest.mark.parametrize("candidates", [["q.npy"], ["q.npy", "p.npy"]])
def test_outputs_of_ours_are_replaced(folder, candidates):
    names = ["--json", "o.json", "--html", "o.html", "--per-token", "o.parquet"]
    for arguments in (names, names, ["--per-token", "o.csv"], ["--per-token", "o.csv"], ["--json", "o.html"]):
        assert main(["compare", "p.npy", *candidates, *arguments, "--quiet"]) == 0
    assert json.loads((folder / "o.html").read_text())["p"]["path"] == "p.npy"


def test_a_converted_file_is_replaced_by_force_only(folder, capsys):
    assert main(["convert", "p.npy", "q.npy", "--quiet"]) == 2
    assert main(["convert", "p.npy", "p.npy", "--quiet", "--force"]) == 2
    assert main(["convert", "p.npy", "q.npy", "--quiet", "--force"]) == 0
    np.testing.assert_array_equal(np.load("q.npy"), np.load("p.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "o", "--html", "./o"], "are one file"),
        (["--json", "shards/../o", "--per-token", "o"], "are one file"),
        (["--json", "shards"], "shards, a folder"),
        (["--html", "none/o.html"], "there is no folder none"),
        (["--json", "/sys/o.json"], "cannot be written to"),
        (["--per-token", "o.xlsx"], "not as .xlsx"),
        (["--json", "p.npy/o"], "there is no folder"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("kullback.evaluation.job.chunks", lambda *_: pytest.fail("rows were read"))
    before = contents(folder)
    assert main(["compare", "p.npy", "q.npy", "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert contents(folder) == before


def test_what_killed_processes_left_is_in_nobodys_way(folder):
    """Nor is it removed: it may be somebody's."""
    (folder / f"o.json.{os.getpid()}.part").write_text("theirs")
    assert main(["compare", "p.npy", "q.npy", "--json", "o.json", "--quiet"]) == 0
    assert (folder / f"o.json.{os.getpid()}.part").read_text() == "theirs"
    assert sorted(path.name for path in folder.glob("*.part")) == [f"o.json.{os.getpid()}.part"]


def test_a_failure_leaves_what_stood_there(folder):
    (folder / "o").write_text("before")
    names = set(os.listdir(folder))
    with pytest.raises(KeyboardInterrupt), atomic_file("o") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert set(os.listdir(folder)) == names
    assert (folder / "o").read_text() == "before"


def test_permissions_stay(folder):
    mask = os.umask(0o027)
    try:
        for path in ("new", "old"):
            if path == "old":
                (folder / path).write_text("")
                os.chmod(path, 0o604)
            with atomic_file(path) as file:
                file.write(b"x")
    finally:
        os.umask(mask)
    assert os.stat("new").st_mode & 0o777 == 0o640
    assert os.stat("old").st_mode & 0o777 == 0o604


def test_urls_and_streams_are_not_looked_at(folder):
    check_outputs({"--json": "-", "--html": "/dev/null"}, ["https://host/p.npy", "p.npy"])
    assert outputs.is_stream("/dev/stdout")


def test_csv(folder):
    assert main(["compare", "p.npy", "q.npy", "p.npy", "--per-token", "o.csv", "--quiet"]) == 0
    header, first, *rest = (folder / "o.csv").read_text().splitlines()
    assert header.startswith('"candidate","row","position"')
    assert first.startswith('"q.npy",0,0,')
    assert len(rest) == 59


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("target", ["q.npy", "hard.npy", "shards/row_0.npy"])
def test_merge_spares_the_files_that_were_compared(folder, capsys, option, target):
    os.link("p.npy", "hard.npy")
    base = "shards" if "shards" in target else "p.npy"
    for part, rows in (("a.log", "0:10"), ("b.log", "10:30")):
        assert main(["compare", base, "q.npy", "--rows", rows, "--checkpoint", part, "--quiet"]) == 0
    before = contents(folder)
    for force in ([], ["--force"]):
        assert main(["merge", "a.log", "b.log", option, target, *force]) == 2
        assert "an output never replaces one" in capsys.readouterr().err
    assert contents(folder) == before
    assert main(["merge", "a.log", "b.log", option, "new"]) == 0


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_merge_spares_tokens_and_weights(folder, capsys, option):
    """What decided the numbers is an input as the logits are."""
    np.save("weights.npy", np.random.default_rng(0).normal(0, 1, (50, ROWS.shape[1])).astype(np.float32))
    more = ["--tokens", "tokens.npy", "--lm-head", "weights.npy", "--norm", "applied"]
    assert main(["compare", "p.npy", "q.npy", "--checkpoint", "log", *more, "--quiet"]) == 0
    before = contents(folder)
    for target in ("tokens.npy", "weights.npy"):
        assert main(["merge", "log", option, target, "--force"]) == 2
        assert "an output never replaces one" in capsys.readouterr().err
    assert contents(folder) == before


def test_merge_in_another_folder_spares_them_too(folder, capsys, monkeypatch):
    """Names in a checkpoint are of the folder in which its job ran."""
    (folder / "there").mkdir()
    assert main(["compare", "p.npy", "q.npy", "--checkpoint", "log", "--tokens", "tokens.npy", "--quiet"]) == 0
    before = contents(folder)
    monkeypatch.chdir(folder / "there")
    for target in ("q.npy", "tokens.npy"):
        assert main(["merge", "../log", "--json", f"../{target}", "--force"]) == 2
        assert "an output never replaces one" in capsys.readouterr().err
    assert contents(folder) == before
    assert main(["merge", "../log", "--json", "new"]) == 0


def test_no_output_of_python_replaces_weights(folder):
    np.save("weights.npy", np.ones((50, ROWS.shape[1]), np.float32))
    before = contents(folder)
    hidden = {"lm_head": "weights.npy", "norm": "applied"}
    with pytest.raises(ValueError, match="an output never replaces one"):
        convert("p.npy", "weights.npy", **hidden)
    with pytest.raises(ValueError, match="an output never replaces one"):
        write_report([compare_files("p.npy", "q.npy", **hidden)], "weights.npy")
    assert contents(folder) == before


@pytest.mark.parametrize("option", ["--html", "--per-token", "--checkpoint"])
def test_only_json_goes_to_standard_output(folder, capsys, option):
    assert main(["compare", "p.npy", "q.npy", option, "-", "--quiet"]) == 2
    assert f"{option.replace('--check', 'the check')} is -" in capsys.readouterr().err
    assert not (folder / "-").exists()


EVERYTHING = ["--js", "--top-k", "1,5", "--tokens", "tokens.npy", "--quiet"]


@pytest.mark.parametrize("candidates", [["q.npy"], ["q.npy", "p.npy"]])
def test_results_that_somebody_worked_on_are_not_ours(folder, capsys, candidates):
    from pyarrow import parquet

    written = ["--json", "o.json", "--per-token", "o.parquet"], ["--per-token", "o.csv"]
    for arguments in (*written, *written):
        assert main(["compare", "p.npy", *candidates, *EVERYTHING, *arguments]) == 0
    header, *rows = (folder / "o.csv").read_text().splitlines()
    (folder / "o.csv").write_text("\n".join([header + ',"note"', *(row + ",mine" for row in rows)]))
    tree = json.loads((folder / "o.json").read_text())
    tree.get("candidates", [tree])[0]["note"] = "mine"
    (folder / "o.json").write_text(json.dumps(tree))
    table = parquet.read_table("o.parquet")
    parquet.write_table(table.append_column("note", table["kl"]), "o.parquet")
    before = contents(folder)
    for option, name in (("--json", "o.json"), ("--per-token", "o.parquet"), ("--per-token", "o.csv")):
        assert main(["compare", "p.npy", *candidates, option, name, "--quiet"]) == 2
        assert "is no output of kullback" in capsys.readouterr().err
    assert contents(folder) == before


def test_results_of_dumps_are_ours(folder):
    dumps = [str(EXAMPLES / name) for name in ("f16.kld", "q4_k_m.kld")]
    written = ["--json", "o.json", "--js", "--top-k", "2", "--convention", "llama.cpp"]
    for arguments in (written, written, ["--per-token", "o.csv"], ["--per-token", "o.csv"]):
        assert main(["compare", *dumps, *arguments, "--rows", "0:38", "--quiet"]) == 0
