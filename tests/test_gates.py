"""--fail-if: what a condition may say, what it finds, and that what is not known never passes."""

import json
import math
import os
from xml.etree import ElementTree

import numpy as np
import pytest

import kullback as kb
from kullback.cli import main
from kullback.evaluation import gate_verdicts, gates

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
    return gate_verdicts.verdicts([gates.parse(f"{name} > 1e9")], {"q": summary})[0].found


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
        ("kl.max.upper > 1", "expected .upper or .lower of a mean or a quantile"),
        ("q4: kl.p_value > 1", "kl has no 'p_value'"),
        ("log_prob > 1", "no statistic is called 'log_prob'"),
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
    assert (
        "no candidate is called 'q5', nor are two joined by ' - '; there are q4.npy, q8.npy" in capsys.readouterr().err
    )


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


# ------------------------------------------------------------------- labels, differences, ends of quantiles


@pytest.fixture
def labelled(files):
    """A label a document, in by.json: domain and the names of what is hard to read."""
    domains = ["code", "a=b: [c] - d"] * 5
    with open("by.json", "w", encoding="utf-8") as file:
        json.dump({"domain": domains, "part": [1, 2, 3, 3, 3] * 2}, file)
    return ["compare", "p.npz", "q4.npy", "q8.npy", "--quiet", "--by", "by.json"]


def results(domains=None, qs=("q4.npy", "q8.npy")):
    return kb.compare_candidates("p.npz", list(qs), by="by.json" if domains is None else domains)


def judged(text, comparison):
    return gate_verdicts.verdicts([gates.parse(text)], comparison)


def test_a_condition_may_be_about_a_label(labelled):
    r = results()
    for label in ("code", "a=b: [c] - d"):
        truth = r["q4.npy"].by["domain"][label]
        (found,) = judged(f"q4.npy [domain={label}]: kl.upper > 9", r)
        assert found.found == truth.kl.interval(0.9)[1] and found.passed
        assert found.subject == f"q4.npy [domain={label}]"
    both = judged("[domain=code]: kl > 0", r)
    assert [v.subject for v in both] == ["q4.npy [domain=code]", "q8.npy [domain=code]"]
    each = judged("q8.npy[part=*]: perplexity_ratio > 0", r)
    assert [v.found for v in each] == [r["q8.npy"].by["part"][x].perplexity_ratio for x in "123"]
    plain = results(["code", "prose"] * 5)
    assert judged("[code]: kl > 0", plain)[0].found == plain["q4.npy"].by["code"].kl.mean
    assert len(judged("[*]: kl > 0", plain)) == 4
    alone = {"q": plain["q4.npy"]}  # of one candidate the label is named all the same
    assert judged("[code]: kl > 9", alone)[0].message.startswith("q [code]: kl.mean is 0.0")


def test_what_is_not_known_of_a_label_fails(labelled):
    r = results()
    (few,) = judged("q4.npy [part=1]: kl.upper > 9", r)
    assert not few.passed and "2 groups: too few" in few.message
    (none,) = judged("q4.npy [domain=prose]: kl > 9", r)
    assert not none.passed and "no row has the label 'domain=prose'; there are domain=a=b: [c] - d, domain=code" in (
        none.message
    )
    assert "there are no labels, see --by" in judged("[code]: kl > 9", kb.compare_candidates("p.npz", ["q4.npy"]))[0][4]


def test_a_condition_may_be_about_a_difference(labelled):
    r = results()
    d = r.difference("q4.npy", "q8.npy")
    one = "q4.npy - q8.npy: "
    for text, truth in (
        ("kl", d.kl.mean),
        ("kl.mean.upper", d.kl.interval(0.9)[1]),
        ("kl.lower", d.kl.interval(0.9)[0]),
        ("kl.p_value", d.kl.p_value),
        ("log_prob.standard_error", d.log_prob.standard_error),
        ("acceptance", d.acceptance.mean),
        ("kl.p90", d.kl_quantile(0.9).mean),
        ("kl.p90.upper", d.kl_quantile(0.9).interval(0.9)[1]),
        ("kl.median", d.kl_quantile(0.5).mean),
    ):
        (found,) = judged(f"{one}{text} > 9", r)
        assert found.found == truth and found.passed and found.subject == "q4.npy - q8.npy"
    (found,) = judged("q8.npy - q4.npy [domain=code]: kl.upper > 9", r)
    assert found.found == r.by["domain"]["code"].difference("q8.npy", "q4.npy").kl.interval(0.9)[1]
    assert found.subject == "q8.npy - q4.npy [domain=code]"
    (found,) = judged(f"{one}kl > 0.001", r)
    assert not found.passed and found.message == f"q4.npy - q8.npy: kl.mean is {d.kl.mean:.6g}, above 0.001"


def test_what_is_not_known_of_a_difference_fails(labelled):
    (found,) = judged("q4.npy - q8.npy [part=1]: kl.upper > 9", results())
    assert not found.passed and "2 groups: too few" in found.message
    (found,) = judged("q4.npy - q8.npy [domain=code]: kl.p90.upper > 9", results())
    assert not found.passed and "errors of quantiles are known over all rows alone" in found.message
    x = np.load("q8.npy")
    x[7] = np.nan
    np.save("q8.npy", x)
    np.save("q2.npy", np.load("q4.npy"))
    r = results(qs=("q4.npy", "q8.npy", "q2.npy"))
    (found,) = judged("q4.npy - q2.npy: kl > 9", r)  # of fewer rows than they have
    assert not found.passed and "1 rows have no distribution in some candidate" in found.message
    assert judged("q4.npy: kl > 9", r)[0].passed
    np.savez("p.npz", logits=np.load("p.npz")["logits"])
    (found,) = judged("q4.npy - q2.npy: log_prob > 9", kb.compare_candidates("p.npz", ["q4.npy", "q2.npy"]))
    assert not found.passed and "no tokens were given" in found.message


def test_ends_of_intervals_of_quantiles(files):
    s = kb.compare_files("p.npz", "q4.npy")
    for name, level in (("p90", 0.9), ("p50", 0.5), ("median", 0.5)):
        low, high = s.kl.quantile_interval(level, 0.9)
        assert (figure(s, f"kl.{name}.lower"), figure(s, f"kl.{name}.upper")) == (low, high)
    # of 200 rows none is beyond the 99.9 % quantile for sure
    assert s.kl.quantile_interval(0.999, 0.9)[1] == math.inf
    for sign in "<>":
        (found,) = judged(f"kl.p99.9.upper {sign} 1e9", {"q": s})
        assert not found.passed and "too few rows for an end" in found.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q4 - q8.npy: kl > 1", "no candidate is called 'q4 - q8.npy', nor are two joined by ' - '"),
        ("q4.npy - q4.npy: kl > 1", "nor are two joined"),
        ("q5 [domain=code]: kl > 1", "no candidate is called 'q5'"),
        ("q4.npy [domain=cod]: kl > 1", "no label is called 'domain=cod'; there are domain=a=b: [c] - d, domain=code"),
        ("[code]: kl > 1", "no label is called 'code'"),
        ("[genre=*]: kl > 1", "no label is called 'genre=*'"),
        ("q4.npy - q8.npy: perplexity_ratio > 1", "no statistic of a difference is called 'perplexity_ratio'"),
        ("q4.npy - q8.npy: kl.max > 1", "kl has no 'max'; there are mean, standard_error, p_value"),
        ("q4.npy - q8.npy: same_top1.p99 > 1", "same_top1 has no 'p99'"),
        ("q4.npy - q8.npy: kl.p_value.upper > 1", "expected .upper or .lower of a mean or a quantile"),
        ("q4.npy - q8.npy: kl.upper.lower > 1", "one of .upper and .lower"),
    ],
)
def test_what_is_not_there_is_an_error_before_the_work(labelled, capsys, monkeypatch, text, words):
    monkeypatch.setattr("kullback.evaluation.job.chunks", None)
    try:
        code = main([*labelled, "--fail-if", text])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and words in capsys.readouterr().err


def test_a_label_needs_labels_and_the_command_takes_them(labelled, capsys):
    assert main([*labelled[:-2], "--fail-if", "[code]: kl > 1"]) == 2
    assert "no label is called 'code'; there are no labels, see --by" in capsys.readouterr().err
    conditions = ["--fail-if", "q4.npy - q8.npy: kl.upper > 0.001", "--fail-if", "[domain=*]: kl.p50.upper > 9"]
    assert main([*labelled, *conditions, "--junit", "gate.xml", "--annotate", "github"]) == 1
    error = capsys.readouterr().err
    assert "::error title=kullback::q4.npy - q8.npy: kl.mean.upper is 0.0" in error
    cases = [
        (case.get("classname"), case.find("failure") is not None)
        for case in ElementTree.parse("gate.xml").getroot().iter("testcase")
    ]
    assert cases == [
        ("q4.npy - q8.npy", True),
        *((f"{q} [domain={d}]", False) for q in ("q4.npy", "q8.npy") for d in ("a=b: [c] - d", "code")),
    ]


def test_names_that_look_like_more_are_names(files):
    base = np.load("p.npz")["logits"]
    r = kb.compare_candidates(base, {"a - b": base, "a": base + 1, "b [x=y]": base, "b": base}, by=["u", "v"] * 100)
    assert judged("a - b: kl > 9", r)[0].subject == "a - b" and len(judged("a - b: kl.max > 9", r)) == 1
    assert judged("b [x=y]: kl.max > 9", r)[0].subject == "b [x=y]"
    assert judged("a - b - b: kl > 9", r)[0].subject == "a - b - b"
    assert judged("b [x=y] [u]: kl > 9", r)[0].found == r["b [x=y]"].by["u"].kl.mean
