"""Texts as documents and windows: every token is asked for once, or as llama-perplexity does it."""

import json

import numpy as np
import pytest

from kullback.evaluation.models.windows import batches, read_documents, windows_of


def asked(windows):
    return [(w.group, w.ids[w.first :].tolist(), w.first) for w in windows]


def test_overlapping_windows_ask_for_each_token_once():
    ids = np.arange(11)
    found = windows_of([ids], 4, 2, "overlapping", None)
    assert asked(found) == [
        (0, [1, 2, 3], 1), (1, [4, 5], 2), (2, [6, 7], 2), (3, [8, 9], 2), (4, [10], 2),
    ]  # fmt: skip
    assert found[4].ids.tolist() == [8, 9, 10]
    for context in range(2, 13):
        for stride in range(1, context):
            again = windows_of([ids], context, stride, "overlapping", None)
            assert [t for w in again for t in w.ids[w.first :]] == list(range(1, 11))
            assert all(w.first >= context - stride for w in again[1:])
    # side by side: the first token of a window has nothing before it
    assert asked(windows_of([ids], 4, 4, "overlapping", None)) == [
        (0, [1, 2, 3], 1),
        (1, [5, 6, 7], 1),
        (2, [9, 10], 1),
    ]


def test_documents_are_groups():
    found = windows_of([np.arange(5), np.arange(1), np.arange(3)], 4, 2, "overlapping", None)
    assert asked(found) == [(0, [1, 2, 3], 1), (0, [4], 2), (2, [1, 2], 1)]


def test_the_windows_of_llama_perplexity():
    """As its perplexity.cpp: logits from n_ctx / 2 on, n_ctx - 1 - n_ctx / 2 of them, BOS at the beginning."""
    found = windows_of([np.arange(10, 21)], 5, 2, "llama.cpp", 1)
    assert [w.ids.tolist() for w in found] == [[1, 11, 12, 13, 14], [1, 16, 17, 18, 19]]
    assert asked(found) == [(0, [13, 14], 3), (1, [18, 19], 3)]
    assert [w.ids[0] for w in windows_of([np.arange(10, 21)], 5, 2, "llama.cpp", None)] == [10, 15]


def test_batches():
    windows = windows_of([np.arange(11)], 4, 2, "overlapping", None)
    assert [(a, b, len(some)) for a, b, some in batches(windows, 2)] == [(0, 5, 2), (5, 9, 2), (9, 10, 1)]


def test_documents(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffone\ntwo\n\n \t\nthrée\r\n\r\nfour\n\n".encode())
    assert read_documents(path, "text", True)[0] == ["one\ntwo", "thrée\r", "four"]
    assert read_documents(path, "text", False)[0] == ["one\ntwo\n\n \t\nthrée\r\n\r\nfour\n\n"]
    lines = tmp_path / "t.jsonl"
    lines.write_text("\n".join([json.dumps({"a": "one\u2028\n\ntwo"}), "", json.dumps({"a": "three"}), ""]))
    assert read_documents(lines, "a", False) == (["one\u2028\n\ntwo", "three"], {})
    lines.write_text('{"text": " ", "d": 1}\n{"text": "x", "d": "b", "e": null}\n{"text": "y"}')
    assert read_documents(lines, "text", False, ["d", "e"]) == (["x", "y"], {"d": ["b", None], "e": [None, None]})


WRONG = {
    "t.txt": (b" \n", {}, "is empty, expected text"),
    "u.txt": (b"a\xff", {}, "not UTF-8 text .*at byte 1"),
    "t.jsonl": (b'{"a": "b"}\n{"text": 1}', {"field": "a"}, "t.jsonl:2: has no text called 'a'; see --field"),
    "u.jsonl": (b"{", {}, "u.jsonl:1: not a line of JSON"),
    "v.txt": (b"a", {"by": ["d"]}, "are of JSON lines .* plain text"),
    "w.jsonl": (b'{"text": "b"}', {"by": ["d"]}, "none of its lines has the field 'd'"),
    "v.jsonl": (b'{"text": "b"}', {"split": True}, "each of its lines is a document"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_texts(tmp_path, name):
    data, options, message = WRONG[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / name, **{"field": "text", "split": False, **options})
