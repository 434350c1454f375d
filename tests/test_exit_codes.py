"""1 means above the gate and nothing else; whatever else goes wrong is 2 or 3, with a line that says what."""

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from kullback.cli import main
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.merging import merge_logs

EXAMPLES = Path(__file__).parent.parent / "examples"
F16, Q4 = str(EXAMPLES / "f16.kld"), str(EXAMPLES / "q4_k_m.kld")
COMMAND = [sys.executable, "-m", "kullback.cli"]


@pytest.fixture
def pair(tmp_path, monkeypatch):
    p = np.random.default_rng(0).normal(0, 3, (40, 50)).astype(np.float32)
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "q.npy", p + np.float32(0.1) * p[::-1])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_broken_pipes(*arguments, stdout=True, stderr=True):
    """The command, whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        streams = {"stdout": writing if stdout else subprocess.PIPE, "stderr": writing if stderr else subprocess.PIPE}
        return subprocess.run([*COMMAND, *arguments], timeout=120, **streams)
    finally:
        os.close(writing)


@pytest.mark.parametrize(("most", "code"), [("1", 0), ("1e-9", 1)])
@pytest.mark.parametrize("output", [[], ["--json", "-"]], ids=["table", "json"])
def test_a_closed_pipe_does_not_open_the_gate(most, code, output):
    done = with_broken_pipes("compare", F16, Q4, "--fail-above", most, *output, stderr=False)
    assert done.returncode == code, done.stderr
    assert (b"above 1e-09" in done.stderr) == bool(code)
    assert with_broken_pipes("compare", F16, Q4, "--fail-above", most, *output).returncode == code


def bash(line):
    return subprocess.run(["bash", "-c", line], timeout=120, capture_output=True, text=True)


@pytest.mark.parametrize("closing", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("most", "code"), [("1", 0), ("1e-9", 1)])
def test_closed_streams(pair, closing, most, code):
    """The table that could not be written is an error, as on a full disk, and no gate; files are whole all the same."""
    line = f"{sys.executable} -m kullback.cli compare p.npy q.npy --fail-above {most} {closing}"
    lost = closing != "2>&-"  # this test once asserted that the lost table was a success: it was the fault
    done = bash(f"{line} --json o.json --html o.html --per-token o.csv --checkpoint log --quiet")
    assert done.returncode == (3 if lost else code)
    said = "kullback: standard output is closed: what goes there was not written (> /dev/null if nobody wants it)\n"
    assert done.stderr == (said if closing == ">&-" else "")
    assert (pair / "o.json").read_text().startswith("{")
    assert (pair / "o.json").read_text().endswith("}\n")
    assert (pair / "o.html").read_text().rstrip().endswith("</html>")
    assert len((pair / "o.csv").read_text().splitlines()) == 41
    assert merge_logs(["log"]).summaries[0].tokens == 40


@pytest.mark.parametrize("arguments", ["info p.npy", "info p.npy --json", "--help", "compare --help", "--version"])
def test_nothing_is_said_to_a_closed_or_full_stream(pair, arguments):
    line = f"{sys.executable} -m kullback.cli {arguments}"
    done = bash(f"{line} >&-")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert done.stderr.startswith("kullback: standard output is closed")
    if os.path.exists("/dev/full"):
        done = bash(f"{line} > /dev/full")
        assert (done.returncode, done.stderr) == (3, "kullback: standard output: No space left on device\n")
    assert bash(f"set -o pipefail; {line} | true").returncode == 0
    assert bash(f"{sys.executable} -m kullback.cli convert p.npy o.npy --quiet >&-").returncode == 0


def test_no_file_gets_the_number_of_a_closed_stream(pair):
    """What a library in C writes to its standard error must not go into a checkpoint."""
    (pair / "program.py").write_text(
        "import os\nfrom kullback.cli.program import _prepare_streams\n_prepare_streams()\n"
        "number = os.open('log', os.O_CREAT)\nopen('number', 'w').write(str(number))\n"
    )
    assert bash(f"{sys.executable} program.py <&- >&- 2>&-").returncode == 0
    assert int((pair / "number").read_text()) > 2


# an interrupt when `module` is about to be imported
INTERRUPTED_IMPORT = """
import signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            interrupt(2)

sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.{handler})
interrupt = signal.raise_signal
del sys.modules["signal"]
from _kullback import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module", ["kullback", "numpy", "signal", "numpy.linalg", "kullback.comparison.spread", "kullback.cli"]
)
@pytest.mark.parametrize(("handler", "code"), [("default_int_handler", 130), ("SIG_IGN", 2)])
def test_an_interrupt_of_the_first_imports(module, handler, code):
    program = INTERRUPTED_IMPORT.format(module=module, handler=handler)
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "nothing.npy"],
        capture_output=True, text=True, timeout=120, env=environment,
    )  # fmt: skip
    said = "interrupted" if code == 130 else "nothing.npy: No such file or directory"
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"kullback: {said}\n")


def test_the_installed_command_is_the_one_that_heeds_interrupts():
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"kullback": "_kullback:main"}
    assert project["tool"]["setuptools"]["py-modules"] == ["_kullback"]


def test_results_for_nobody_are_refused(pair):
    line = f"{sys.executable} -m kullback.cli compare p.npy q.npy --json - >&-"
    done = subprocess.run(["bash", "-c", line], timeout=120, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"standard output, which is closed" in done.stderr


def test_errors_with_nobody_to_tell(pair):
    assert with_broken_pipes("compare", "p.npy", "nothing.npy").returncode == 2
    for closing in ("2>&-", ">&- 2>&-"):
        line = f"{sys.executable} -m kullback.cli info nothing.npy {closing}"
        assert subprocess.run(["bash", "-c", line], timeout=120).returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("can't start new thread"), 3, "can't start new thread"),
        (RecursionError("maximum recursion depth exceeded"), 2, "nested too deeply"),
        (KeyError("x\x1b[2J"), 2, r"KeyError: 'x\x1b[2J' (a fault"),
        (AssertionError(), 2, "AssertionError"),
        (ZeroDivisionError("division by zero"), 2, "division by zero"),
        (SystemExit(1), 3, ""),
        (BrokenPipeError(32, "Broken pipe"), 3, "has gone"),
        (MemoryError("1 GiB"), 3, "not enough memory"),
        (ConnectionResetError(104, "reset"), 3, "reset"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else None,
)
def test_no_exception_is_taken_for_the_gate(pair, capsys, monkeypatch, error, code, words):
    def fail(*_):
        raise error

    monkeypatch.setattr("kullback.evaluation.job.chunks", fail)
    assert main(["compare", "p.npy", "q.npy", "--fail-above", "1"]) == code
    last = capsys.readouterr().err.splitlines()[-1:]
    assert words in "".join(last).replace(repr("\x1b"), "")


def rows_without_distribution(which, rows):
    x = np.load(which)
    x[rows] = np.nan
    np.save(which, x)


@pytest.mark.parametrize("which", ["p.npy", "q.npy"])
@pytest.mark.parametrize("rows", [slice(3, 4), slice(None)], ids=["one", "all"])
def test_nan_never_passes_a_gate(pair, capsys, which, rows):
    rows_without_distribution(which, rows)
    assert main(["compare", "p.npy", "q.npy", "--fail-above", "100", "--quiet"]) == 1
    assert "rows have no distribution" in capsys.readouterr().err
    assert main(["compare", "p.npy", "p.npy", "q.npy", "--fail-above", "100", "--quiet"]) == 1


def test_no_rows_never_pass_a_gate(pair, capsys):
    np.save("tokens.npy", np.full(len(np.load("p.npy")), -100))
    assert main(["compare", "p.npy", "q.npy", "--tokens", "tokens.npy", "--fail-above", "100", "--quiet"]) == 1
    assert "there are no rows" in capsys.readouterr().err


def test_each_candidate_is_gated(pair, capsys):
    assert main(["compare", "p.npy", "q.npy", "p.npy", "--fail-above", "1e-9", "--quiet"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("kullback: q.npy: kl.mean is ")
    with pytest.raises(SystemExit) as stop:
        main(["compare", "p.npy", "q.npy", "--fail-above", "nan"])
    assert stop.value.code == 2


def test_an_incomplete_merge(pair, capsys):
    for i, rows in enumerate(["0:10", "20:30"]):
        assert main(["compare", "p.npy", "q.npy", "--rows", rows, "--checkpoint", f"log{i}", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["merge", "log0", "log1", "--json", "o.json"]) == 2
    error = capsys.readouterr().err
    assert "incomplete: rows 10 to 20, 30 to 40 of 40 are in none of the checkpoints" in error
    assert not (pair / "o.json").exists()
    assert main(["merge", "log0", "log1", "--partial", "--html", "o.html"]) == 0
    words = "INCOMPLETE: rows 10 to 20, 30 to 40 are missing"
    assert words in capsys.readouterr().out
    assert words in (pair / "o.html").read_text()
    expected = [[10, 20], [30, 40]]
    assert merge_logs([pair / "log1", pair / "log0"], partial=True).summaries[0].facts["missing_rows"] == expected


def test_a_killed_part_is_incomplete(pair):
    with pytest.raises(KeyboardInterrupt):

        def interrupt(done, total):
            if done >= 10:
                raise KeyboardInterrupt

        compare_files("p.npy", "q.npy", checkpoint="log", chunk_bytes=4000, progress=interrupt)
    with pytest.raises(ValueError, match="incomplete: rows 10 to 40"):
        merge_logs(["log"])


def test_where_it_goes_on(pair, capsys):
    arguments = ["compare", "p.npy", "q.npy", "--checkpoint", "log", "--resume"]
    assert main(arguments) == 0
    assert "log holds no rows yet: the job begins" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "log goes on after 40 of 40 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "; without --checkpoint nothing was kept"),
        (["--checkpoint", "log"], "; the same command with --resume goes on from log"),
        (["--checkpoint", "log", "--resume"], "; the same command goes on from log"),
    ],
)
def test_an_interrupt_says_how_to_go_on(pair, capsys, monkeypatch, options, words):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kullback.evaluation.job.chunks", interrupt)
    assert main(["compare", "p.npy", "q.npy", "--quiet", *options]) == 130
    assert capsys.readouterr().err == f"kullback: interrupted{words}\n"


def test_top_k_takes_no_file(pair, capsys):
    for options in (["--top-k", "5", "p.npy", "q.npy"], ["p.npy", "--top-k", "1,5", "q.npy"]):
        assert main(["compare", *options, "--quiet"]) == 0
        assert "top 5 shared" in capsys.readouterr().out
    assert main(["compare", "p.npy", "q.npy", "--top-k", "1", "--top-k", "3,5", "--quiet"]) == 0
    assert [k in capsys.readouterr().out for k in ["top 1 s"]] == [True]


WITHOUT = """
import sys
for name in {names}:
    sys.modules[name] = None
from kullback.cli import main
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize("names", [["rich", "rich.console", "rich.progress"], ["jinja2", "pyarrow"]])
def test_the_table_needs_no_library(pair, names):
    code = WITHOUT.format(names=names, arguments=["compare", "p.npy", "q.npy"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "KL(p‖q)" in done.stdout


def test_one_path_is_no_sequence_of_candidates(pair):
    with pytest.raises(TypeError, match=r"`candidates` is one path, 'q\.npy'"):
        compare_candidates("p.npy", "q.npy")


@pytest.mark.parametrize(("option", "value"), [("--fail-above", "-0.1"), ("--fail-above", "nan"), ("--rows", "5:5")])
def test_arguments_without_sense_are_refused(option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "p.npy", "q.npy", f"{option}={value}"])
    assert stop.value.code == 2
    assert f"'{value}', expected" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG])
def test_names_that_are_no_use_are_2(pair, capsys, monkeypatch, number):
    """As a name that is not there: to run it again will not help."""
    monkeypatch.setattr(
        "kullback.evaluation.candidates.open_each",
        lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number), "p.npy")),
    )
    assert main(["compare", "p.npy", "q.npy"]) == 2
    assert capsys.readouterr().err == f"kullback: p.npy: {os.strerror(number)}\n"


@pytest.mark.parametrize("command", ["info", "convert", "merge", "compare"])
def test_what_is_no_file_is_one_line_and_2(pair, capsys, command):
    """Whatever stands where a file was expected."""
    os.mkdir("folder")
    os.mkfifo("pipe")  # of logits it is a stream, whose writer is waited for
    os.symlink("loop", "loop")
    (pair / "empty").touch()
    (pair / "text.npy").write_text("hello")
    names = ["nothing", "folder", "loop", "empty", "text.npy", "p.npy/x", "x" * 5000, "", "/dev/zero"]
    for name in names + ["pipe"] * (command == "merge"):
        others = {"convert": ["o.npy", "--quiet"], "compare": ["q.npy"]}.get(command, [])
        assert main([command, name, *others]) == 2, name
        assert capsys.readouterr().err.count("\n") == 1
    assert not (pair / "o.npy").exists()


@pytest.mark.parametrize("option", ["--json", "--html", "--per-token", "--checkpoint"])
def test_outputs_without_a_name_are_refused(pair, capsys, option):
    """`--json ""` was once taken for no --json at all; a name that cannot be was found out after the job."""
    os.symlink("loop", "loop")
    for name, words in (("", "is empty, expected the name"), ("x" * 300, "too long"), ("loop", "levels")):
        assert main(["compare", "p.npy", "q.npy", option, name, "--quiet"]) == 2
        assert words in capsys.readouterr().err


def test_numbers_that_are_none(capsys):
    for text in ("²", "9" * 5000, "0", "-1", "1.5"):
        with pytest.raises(SystemExit) as stop:
            main(["bench", f"--rows={text}"])
        assert stop.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "expected a whole number from 1" in last
        assert len(last) < 200


@pytest.mark.integration
def test_a_scheduler_without_a_port_is_refused(pair):
    """The library raised it too, but its threads went on for ever."""
    pytest.importorskip("distributed")
    done = bash(f"{sys.executable} -m kullback.cli compare p.npy q.npy --dask tcp://nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected an address with a port" in done.stderr
