"""Options of one file of a job: dense logits against hidden states, arrays of other names, words that are bfloat16."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import kullback as kb
from kullback.cli import main

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(40, 30)).astype(np.float32)
STATES = RNG.normal(size=(40, 3, 8)).astype(np.float32)
WEIGHTS = RNG.normal(size=(30, 8)).astype(np.float32)
HIDDEN = {"lm_head": "w.npy", "norm": "applied"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("base.npz", a=LOGITS, b=LOGITS + 1000)
    np.save("half.npy", LOGITS.astype(ml_dtypes.bfloat16).view(np.uint16))
    safetensors.numpy.save_file({"hidden_states": STATES}, "states.safetensors")
    np.save("w.npy", WEIGHTS)
    np.save("plain.npy", STATES[:, 1] @ WEIGHTS.T)
    return tmp_path


EACH = {
    "p": {"tensor": "a"},
    "half.npy": {"dtype": "bfloat16"},
    "states.safetensors": HIDDEN | {"layer": 1},
}
WORDS = [
    "--read=p:tensor=a", "--read=half.npy:dtype=bfloat16", "--read=states.safetensors:lm-head=w.npy",
    "--read=states.safetensors:norm=applied", "--read=states.safetensors:layer=1",
]  # fmt: skip


def test_each_file_its_own():
    """A .npz, words that are bfloat16 and hidden states in one job, in Python, as a command and without options."""
    r = kb.compare_candidates("base.npz", ["half.npy", "states.safetensors"], read=EACH)
    direct = kb.compare(LOGITS, STATES[:, 1] @ WEIGHTS.T, given="logits").summary()
    assert r["states.safetensors"].kl.mean == pytest.approx(direct.kl.mean, rel=1e-6)
    half = kb.compare(LOGITS, LOGITS.astype(ml_dtypes.bfloat16), given="logits").summary()
    assert r["half.npy"].kl.mean == pytest.approx(half.kl.mean, rel=1e-9)
    assert main(["compare", "base.npz", "half.npy", "states.safetensors", *WORDS, "--quiet", "--json", "x.json"]) == 0
    with open("x.json") as file:
        found = json.load(file)["candidates"]
    assert [c["kl"]["mean"] for c in found] == [s.kl.mean for s in r.values()]


def test_files_that_are_open_and_two_files():
    read = {"p": {"tensor": "b"}, "q": HIDDEN | {"layer": -1}}
    s = kb.compare_files("base.npz", "states.safetensors", read=read)
    with kb.open_logits("states.safetensors", **HIDDEN, layer=-1) as q:
        assert kb.compare_files("base.npz", q, tensor="b").kl.mean == s.kl.mean
        with pytest.raises(ValueError, match=r"options for states.safetensors, which is open"):
            kb.compare_files("base.npz", q, read=read)


def test_what_is_said_of_one_goes_first():
    """Of a candidate before all candidates, of those before all files; a tensor of one file must be there."""
    np.savez("other.npz", a=LOGITS + 1, b=2 * LOGITS, c=3 * LOGITS)
    np.savez("third.npz", a=LOGITS + 1, b=2 * LOGITS, c=3 * LOGITS)
    read = {"q": {"tensor": "b"}, "third.npz": {"tensor": "c"}}
    r = kb.compare_candidates("base.npz", ["other.npz", "third.npz"], tensor="a", read=read)
    for name, scale in (("other.npz", 2), ("third.npz", 3)):
        direct = kb.compare(LOGITS, scale * LOGITS, given="logits").summary()
        assert r[name].kl.mean == pytest.approx(direct.kl.mean, rel=1e-9)
    with pytest.raises(ValueError, match=r"`tensor` \(--tensor\) is 'a', but plain.npy"):
        kb.compare_files("base.npz", "plain.npy", tensor="a", read={"q": {"tensor": "a"}})
    assert kb.compare_files("base.npz", "plain.npy", tensor="a").tokens == 40


def test_resumed_only_with_the_same_options():
    read = {"p": {"tensor": "a"}}
    kb.compare_files("base.npz", "plain.npy", checkpoint="log", read=read)
    kb.compare_files("base.npz", "plain.npy", checkpoint="log", resume=True, tensor="a")
    with pytest.raises(ValueError, match="is of another job"):  # another array of the same file
        kb.compare_files("base.npz", "plain.npy", checkpoint="log", resume=True, read={"p": {"tensor": "b"}})


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        ({"x": {}}, ValueError, r"names 'x', expected one of p, q, plain.npy"),
        ({"p": {"tenor": "a"}}, TypeError, r"has the option 'tenor' for 'p', expected of tensor, dtype"),
        ({"p": "a"}, TypeError, "expected options of open_logits in a mapping, by file"),
        ("p", TypeError, "expected options of open_logits in a mapping, by file"),
        ({"p": {"layer": 1}}, ValueError, "they go with `lm_head`"),
        ({"p": {"tensor": 3}}, TypeError, "`tensor` is 3, expected text"),
    ],
)
def test_wrong_options(read, error, message):
    with pytest.raises(error, match=message):
        kb.compare_files("base.npz", "plain.npy", read=read)


def test_a_candidate_called_q():
    with pytest.raises(ValueError, match="which a candidate is called too"):
        kb.compare_candidates("base.npz", {"q": "plain.npy"}, read={"q": {"tensor": "a"}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tensor=a"], "expected FILE:OPTION=VALUE"),
        (["p:tenor=a"], "options are tensor, dtype, salvage, lm-head, norm, layer"),
        (["p:tensor="], "expected FILE:OPTION=VALUE"),
        (["p:layer=one"], "layer takes a whole number"),
        (["p:salvage=yes"], "salvage takes no value"),
        (["p:tensor=a", "p:tensor=b"], "p:tensor is given twice"),
        (["nobody:tensor=a"], "names 'nobody', expected one of p, q, plain.npy"),
    ],
)
def test_wrong_words(words, message, capsys):
    try:
        code = main(["compare", "base.npz", "plain.npy", "--quiet", *(f"--read={word}" for word in words)])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_weights_of_one_file_are_inputs(capsys):
    words = [w for w in WORDS if "half" not in w]
    command = ["compare", "base.npz", "states.safetensors", *words, "--json", "w.npy", "--force", "--quiet"]
    assert main(command) == 2
    assert "an output never replaces one" in capsys.readouterr().err


@pytest.mark.integration
def test_on_a_cluster():
    """The workers open each file as it is said, too."""
    import distributed

    from kullback.evaluation.distributed import compare_on_cluster

    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        there = compare_on_cluster("base.npz", ["half.npy", "states.safetensors"], scheduler=client, read=EACH)
    here = kb.compare_candidates("base.npz", ["half.npy", "states.safetensors"], read=EACH)
    assert [s.kl.mean for s in there.values()] == [s.kl.mean for s in here.values()]
