"""--fail-if: what a condition may say, what it finds, and that what is not known never passes."""

import json
import math
import os
from xml.etree import ElementTree

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation import gates

RNG = np.random.default_rng(3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """p.npz with tokens and ten documents, q4.npy and q8.npy."""
    monkeypatch.chdir(tmp_path)
    base = RNG.normal(0, 2, (200, 50)).astype(np.float32)
    tokens = RNG.integers(0, 50, 200)
    np.savez("p.npz", logits=base, tokens=tokens, groups=np.arange(200) // 20)
    np.save("q4.npy", base + RNG.normal(0, 0.2, base.shape).astype(np.float32))
    np.save("q8.npy", base + RNG.normal(0, 0.02, base.shape).astype(np.float32))


def figure(summary, name):
    return gates.verdicts([gates.parse(f"{name} > 1e9")], {"q": summary})[0].found


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("kl", lambda s: s.kl.mean),
        ("kl.mean", lambda s: s.kl.mean),
        ("kl.p99", lambda s: s.kl.quantile(0.99)),
        ("kl.p99.9", lambda s: s.kl.quantile(0.999)),
        ("reverse_kl.max", lambda s: s.reverse_kl.max),
        ("delta_prob.rms", lambda s: s.delta_prob.rms),
        ("same_top1", lambda s: s.same_top1.mean),
        ("same_top1.lower", lambda s: s.same_top1.share_interval(0.9)[0]),
        ("kl.mean.upper", lambda s: s.kl.group_interval(0.9)[1]),
        ("kl.lower", lambda s: s.kl.group_interval(0.9)[0]),
        ("kl.group_standard_error", lambda s: s.kl.group_standard_error),
        ("perplexity_ratio", lambda s: s.perplexity_ratio),
    ],
)
def test_a_figure_is_that_of_the_summary(files, name, truth):
    summary = kb.compare_files("p.npz", "q4.npy")
    assert figure(summary, name) == pytest.approx(truth(summary), rel=1e-12)


def test_an_interval_without_groups_takes_tokens_as_independent(files):
    np.savez("p.npz", logits=np.load("p.npz")["logits"])
    summary = kb.compare_files("p.npz", "q4.npy")
    assert figure(summary, "kl.upper") == pytest.approx(summary.kl.mean + 1.6448536 * summary.kl.standard_error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kl", "expected a condition like"),
        ("kl.mean = 3", "expected a condition like"),
        ("kl.mean > many", "'many' is no number"),
        ("kl.mean > nan", "is no number"),
        ("loss.mean > 1", "no statistic is called 'loss'; there are kl,"),
        ("kl.avg > 1", "kl has no 'avg'; there are mean,"),
        ("kl.p101 > 1", "kl has no 'p101'"),
        ("kl.p99.upper > 1", "expected .upper or .lower of a mean"),
        ("kl.upper.lower > 1", "one of .upper and .lower"),
        ("kl.mean.top > 1", "expected .upper or .lower"),
        ("perplexity_q.mean > 1", "is one number"),
    ],
)
def test_what_is_no_condition_is_refused(files, capsys, text, words):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "p.npz", "q4.npy", "--fail-if", text])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("kl.mean > 1", 0),
        ("kl.mean > 1e-9", 1),
        ("kl.mean >= 0", 1),
        ("same_top1.mean < 0.01", 0),
        ("same_top1.mean < 1.1", 1),
        ("same_top1.mean <= 0.01", 0),
        ("perplexity_ratio > 2", 0),
        ("jensen_shannon.mean > 5", 1),  # not computed, so not known
    ],
)
def test_the_exit_code_follows(files, text, code):
    assert main(["compare", "p.npz", "q4.npy", "--quiet", "--fail-if", "kl.max > 1e9", "--fail-if", text]) == code


def test_a_condition_may_be_about_one_candidate(files, capsys):
    command = ["compare", "p.npz", "q4.npy", "q8.npy", "--quiet"]
    assert main([*command, "--fail-if", "q8.npy: kl.mean > 0.01"]) == 0
    assert main([*command, "--fail-if", "q4.npy: kl.mean > 0.01"]) == 1
    assert "q4.npy: kl.mean is 0.0" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, "--fail-if", "kl.mean > 0.01"]) == 1


def test_a_candidate_that_there_is_not_is_an_error_before_the_work(files, capsys, monkeypatch):
    monkeypatch.setattr("kullback.evaluation.job.chunks", None)
    assert main(["compare", "p.npz", "q4.npy", "q8.npy", "--fail-if", "q5: kl.mean > 0.01"]) == 2
    assert "no candidate is called 'q5'; there are q4.npy, q8.npy" in capsys.readouterr().err


def test_what_is_not_known_fails(files, capsys):
    x = np.load("q4.npy")
    x[7] = np.nan
    np.save("q4.npy", x)
    command = ["compare", "p.npz", "q4.npy", "--quiet", "--fail-if"]
    assert main([*command, "kl.mean > 100"]) == 1
    assert "1 of 200 rows have no distribution" in capsys.readouterr().err
    np.savez("p.npz", logits=np.load("p.npz")["logits"], groups=np.arange(200) // 100)
    command[2] = "q8.npy"
    assert main([*command, "kl.mean.upper > 100"]) == 1
    assert "2 groups: too few" in capsys.readouterr().err
    assert main([*command, "perplexity_ratio > 100"]) == 1
    assert "no tokens were given" in capsys.readouterr().err
    assert main([*command, "kl.mean > 100"]) == 0


def test_junit_and_annotations(files, capsys):
    conditions = ["--fail-if", "kl.mean > 0.01", "--fail-if", "same_top1 < 0.5", "--fail-above", "3"]
    command = ["compare", "p.npz", "q4.npy", "q8.npy", "--quiet", *conditions, "--junit", "gate.xml"]
    assert main([*command, "--annotate", "github"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("::error")]
    assert len(errors) == 1
    assert errors[0].startswith("::error title=kullback::q4.npy: kl.mean is 0.0")
    root = ElementTree.parse("gate.xml").getroot()
    assert root.attrib == {"name": "kullback", "tests": "6", "failures": "1"}
    cases = [
        (case.get("classname"), case.get("name"), case.find("failure") is not None) for case in root.iter("testcase")
    ]
    assert cases == [
        ("q4.npy", "kl.mean > 3", False),
        ("q8.npy", "kl.mean > 3", False),
        ("q4.npy", "kl.mean > 0.01", True),
        ("q8.npy", "kl.mean > 0.01", False),
        ("q4.npy", "same_top1 < 0.5", False),
        ("q8.npy", "same_top1 < 0.5", False),
    ]
    assert main(command) == 1  # our own file is replaced


def test_junit_without_a_condition_is_an_error(files, capsys):
    assert main(["compare", "p.npz", "q4.npy", "--junit", "gate.xml"]) == 2
    assert "--junit needs --fail-above or --fail-if" in capsys.readouterr().err
    assert not os.path.exists("gate.xml")


def test_an_interval_of_one_token_is_not_known():
    summary = kb.compare([[0.0, 1.0]], [[0.0, 1.1]]).summary()
    assert math.isnan(figure(summary, "kl.upper"))
    json.dumps(summary.to_dict())
