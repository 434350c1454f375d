"""`kullback info P Q`: whether files can be compared, as the comparison itself would say, and with what."""

import json
import os
import shlex

import numpy as np
import pytest

from kullback.cli import main
from kullback.evaluation.fitting import fit
from kullback.evaluation.reference.making import write_reference
from kullback.evaluation.sources.convert import convert

ROWS, VOCAB = 42, 33
CHUNKS = np.random.default_rng(0).integers(0, VOCAB, (6, 16))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    p = rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)
    q = p + rng.normal(0, 0.5, p.shape).astype(np.float32)
    np.save("p.npy", p)
    np.save("q.npy", q)
    np.save("padded.npy", np.c_[q, np.zeros((ROWS, 3), np.float32)])
    np.save("short.npy", q[:-2])
    np.save("words.npy", q.astype(np.float16).view(np.uint16))
    np.savez("two.npz", a=q, b=p)
    np.save("probs.npy", np.exp(q) / np.exp(q).sum(axis=1, keepdims=True))
    np.save("tokens.npy", CHUNKS[:, 9:].reshape(-1))
    convert("p.npy", "p.kld", chunk_tokens=CHUNKS)
    convert("q.npy", "q.kld", chunk_tokens=CHUNKS)
    convert("q.npy", "other.kld", chunk_tokens=(CHUNKS + 1) % VOCAB)
    write_reference("p.kbref", "p.npy", top_k=5)
    np.save("three.npy", np.zeros((ROWS, 2, VOCAB), np.float32))
    return tmp_path


def found(capsys, line):
    code = main(["info", *shlex.split(line), "--json"])
    out, error = capsys.readouterr()
    assert error == ""
    return code, json.loads(out)


FITTING = {
    "p.kld q.npy": [
        "target tokens: of p.kld",
        "documents: 6, of p.kld",
        "16-bit codes",
        "--convention llama.cpp gives",
    ],
    "p.kld q.kld": ["target tokens: of p.kld, q.kld", "KL is a lower bound"],
    "p.npy q.npy": ["no file has target tokens: without --tokens", "no file knows documents"],
    "p.npy q.npy --tokens tokens.npy": ["target tokens: of tokens.npy"],
    "p.npy padded.npy q.npy --vocab-size 33": [],
    "p.npy two.npz --tensor a": [],
    "p.npy two.npz words.npy --read two.npz:tensor=a --read words.npy:dtype=bfloat16": [],
    "p.kbref q.npy": ["p.kbref keeps the likeliest 5 of a row: KL comes with bounds"],
    "p.npy probs.npy": ["suspicious: probs.npy looks like probabilities"],
    "p.npy p.npy": ["suspicious: p.npy and p.npy hold the same numbers"],
}


@pytest.mark.parametrize("line", FITTING)
def test_files_that_fit(folder, capsys, line):
    code, answer = found(capsys, line)
    assert (code, answer["comparable"], answer["problems"]) == (0, True, [])
    for words in FITTING[line]:
        assert any(words in remark for remark in answer["remarks"])
    assert ("suspicious" in str(answer["remarks"])) == ("suspicious" in str(FITTING[line]))
    assert shlex.split(answer["command"]) == ["kullback", "compare", *shlex.split(line)]
    assert main([*shlex.split(answer["command"])[1:], "--quiet"]) == 0


MISFITS = {
    "p.npy short.npy": ["short.npy has 40 rows, expected 42 as in p.npy"],
    "p.kld other.kld": ["other.kld and p.kld have different tokens from row 0 on"],
    "p.npy words.npy two.npz": ['words.npy: holds 2-byte words .* say dtype="bfloat16"', "two.npz: no array 'logits'"],
    "p.npy q.npy --tensor x": ["is one array without a name"],
    "p.npy two.npz words.npy --tensor a": ['words.npy: holds 2-byte words .* say dtype="bfloat16"'],
    "p.npy three.npy": ["three.npy has 84 rows"],
    "p.npy q.npy --vocab-size 34": ["`vocab_size` is 34, expected from 1 to 33"],
    "p.npy padded.npy short.npy": ["short.npy has 40 rows", r"--vocab-size 33\)"],
    "p.kld q.npy --given probs": ["`given` is 'probs', but p.kld holds log-probabilities"],
}


@pytest.mark.parametrize("line", MISFITS)
def test_files_that_do_not_fit(folder, capsys, line):
    """All that is in the way, not the first of it; the comparison refuses them too."""
    code, answer = found(capsys, line)
    assert (code, answer["comparable"], answer["command"]) == (2, False, None)
    assert len(answer["problems"]) == len(MISFITS[line])
    for problem, words in zip(answer["problems"], MISFITS[line], strict=True):
        with pytest.raises(ValueError, match=words):
            raise ValueError(problem)
    assert main(["compare", *shlex.split(line), "--quiet"]) == 2
    assert capsys.readouterr().err.removeprefix("kullback: ").strip() in answer["problems"]


def test_padding_is_a_choice(folder, capsys):
    """Nobody but the user knows that columns are padding: the command is there, the answer is no."""
    code, answer = found(capsys, "p.npy padded.npy")
    assert (code, answer["comparable"], len(answer["problems"])) == (2, False, 1)
    assert answer["command"] == "kullback compare p.npy padded.npy --vocab-size 33"
    assert main([*shlex.split(answer["command"])[1:], "--quiet"]) == 0
    capsys.readouterr()
    assert main(["info", "p.npy", "padded.npy"]) == 2
    assert "They cannot be compared, but parts of them can:" in capsys.readouterr().out
    assert main(["info", "p.npy", "q.npy"]) == 0
    out = capsys.readouterr().out
    assert "They can be compared:\n- no file has target tokens" in out
    assert out.endswith("\n    kullback compare p.npy q.npy\n")
    assert main(["info", "p.npy", "short.npy"]) == 2
    assert "They cannot be compared:\n- short.npy" in capsys.readouterr().out


def test_what_is_no_question_of_a_fit(folder, capsys):
    os.mkfifo("pipe")
    lines = {
        "p.npy pipe": "is a stream, which is read once and in order: its first rows would be gone",
        "p.npy nothing.npy": "nothing.npy: No such file",
        "p.npy --vocab-size 3": "--vocab-size is for two files or more",
        "p.npy --read p:tensor=a": "--read is for two files or more",
        "p.npy q.npy --read x:tensor=a": "names 'x', expected one of p, q, q.npy",
    }
    for line, message in lines.items():
        assert main(["info", *line.split()]) == 2
        out, error = capsys.readouterr()
        assert (out, message in error) == ("", True), line


def test_names_are_quoted(folder):
    os.rename("q.npy", "q 1.npy")
    assert fit(["p.npy", "q 1.npy"])["command"] == "kullback compare p.npy 'q 1.npy'"
