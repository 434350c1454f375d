"""LiveComparison: the bits of compare_files over the same rows, in whatever pieces; an error changes nothing."""

import os
import threading
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import kullback as kb
from kullback.evaluation import LiveComparison
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.live import next_tokens

DUMP = Path(__file__).parent.parent / "examples" / "f16.kld"
LIVE = Path(__file__).parent / "data" / "llama_cpp" / "q4_k_m_logits.npy"
T, V = 60, 301
RNG = np.random.default_rng(4)
P = RNG.normal(0, 3, (T, V)).astype(np.float32)
Q = (P + RNG.normal(0, 0.2, (T, V))).astype(np.float32)
TOKENS = RNG.integers(0, V, T)
TOKENS[[7, 33]] = -100
GROUPS = np.repeat(np.arange(4), [20, 1, 30, 9])
CUTS = {"whole": [], "rows": range(1, T), "uneven": [1, 3, 20, 25, 47, 59]}


def pieces(cuts):
    ends = [0, *cuts, T]
    return [slice(a, b) for a, b in pairwise(ends)]


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "p.npz"
    np.savez(path, logits=P, tokens=TOKENS, groups=GROUPS)
    return path


@pytest.fixture
def q_file(tmp_path):
    np.save(tmp_path / "q.npy", Q)
    return tmp_path / "q.npy"


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_the_bits_of_the_files(reference, q_file, cuts):
    expected = compare_files(reference, q_file, jensen_shannon=True, top_k=[5])
    with LiveComparison(reference, jensen_shannon=True, top_k=[5]) as live:
        for part in pieces(cuts):
            live.update(Q[part])
            live.summary()  # any time, and changes nothing
            assert live.rows + live.remaining == T
    assert live.summary() == expected == live.summary()
    a, b = live.summary().to_dict(), expected.to_dict()
    for tree in (a, b):
        del tree["q"]
    assert a == b


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_tokens_and_groups_of_the_updates(tmp_path, q_file, cuts):
    """A reference that knows neither; in memory, or given by a function."""
    expected = compare_candidates(P, {"q": q_file}, tokens=TOKENS, groups=GROUPS)["q"]
    for base in (P, lambda start, stop: P[start:stop]):
        live = LiveComparison(base, rows=T)
        for part in pieces(cuts):
            live.update(Q[part], TOKENS[part], GROUPS[part])
        assert live.summary() == expected


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_two_live_models(cuts):
    expected = compare_candidates(P, {"q": Q}, tokens=TOKENS)["q"]
    live = LiveComparison(rows=T)
    for part in pieces(cuts):
        live.update_both(P[part], Q[part], TOKENS[part])
    assert live.summary() == expected
    assert live.remaining == 0
    unknown = LiveComparison()
    unknown.update_both(P, Q, TOKENS)
    assert unknown.remaining is None
    found = unknown.summary()
    assert found.kl == expected.kl
    assert found.parts["null_control"].count == 1  # of rows 0, 256, 512, ... where nobody knows how many there will be


@pytest.mark.parametrize("by", [["a", "b", None, "a"], {"x": np.arange(T) % 3, "y": np.arange(4) > 1}])
def test_labels(reference, q_file, by):
    """Of the rows, or of the documents that the reference knows."""
    expected = compare_files(reference, q_file, by=by)
    live = LiveComparison(reference, by=by)
    for part in pieces(CUTS["uneven"]):
        live.update(Q[part])
    found = live.summary()
    assert found == expected
    assert found.by.keys() == expected.by.keys()
    assert found.facts["labels"] == expected.facts["labels"]
    with pytest.raises(ValueError, match="`by` needs to know how many rows"):
        LiveComparison(by=by)


def test_a_part_of_the_reference(reference, q_file):
    expected = compare_files(reference, q_file, rows=(0, 30))
    live = LiveComparison(str(reference))
    live.update(Q[:30])
    assert live.summary() == expected
    assert live.summary().facts["rows"] == [0, 30]


def test_several_candidates():
    q4 = Q + RNG.normal(0, 0.3, Q.shape).astype(np.float32)
    expected = compare_candidates(P, {"q8": Q, "q4": q4}, tokens=TOKENS, groups=GROUPS)
    live = LiveComparison(P)
    for part in pieces(CUTS["uneven"]):
        live.update({"q8": Q[part], "q4": q4[part]}, TOKENS[part], GROUPS[part])
    found = live.comparison()
    assert list(found) == ["q8", "q4"]
    assert found["q4"] == expected["q4"]
    assert found.difference("q4", "q8").kl.to_dict() == expected.difference("q4", "q8").kl.to_dict()
    with pytest.raises(ValueError, match=r"several candidates, q8, q4: comparison\(\)"):
        live.summary()
    with pytest.raises(ValueError, match="candidates are q8, expected q8, q4"):
        live.update({"q8": Q})


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.dtype(">f4")])
def test_dtypes(tmp_path, dtype):
    q = Q.astype(dtype)
    live = LiveComparison(P)
    live.update(q)
    stored = q.astype(np.float64) if dtype in (np.int32, np.dtype(">f4")) else q
    assert live.summary() == compare_candidates(P, {"q": stored})["q"]


def test_a_dump_as_the_reference(tmp_path):
    q = np.tile(np.load(LIVE), (10, 1))[:38]
    np.save(tmp_path / "q.npy", q)
    expected = compare_files(DUMP, tmp_path / "q.npy")
    live = LiveComparison(DUMP)
    for start in range(0, 38, 7):
        live.update(q[start : start + 7])
    assert live.summary() == expected
    with pytest.raises(ValueError, match="holds log-probabilities"):
        LiveComparison(DUMP, given="probs")


def test_a_stream_as_the_reference(tmp_path, q_file):
    """While it is written; a wrong update reads nothing of it."""
    np.save(tmp_path / "p.npy", P)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes((tmp_path / "p.npy").read_bytes()))
    writer.start()
    with LiveComparison(path) as live:
        for start in range(0, T, 13):
            for wrong in (Q[start : start + 2, 1:], np.zeros((T + 1, V))):
                with pytest.raises(ValueError, match=r"vocabulary|too many"):
                    live.update(wrong, tokens=np.zeros(len(wrong), int))
            with pytest.raises(ValueError, match="holds the id 999 at"):
                live.update(Q[start : start + 2], tokens=[0, 999])
            live.update(Q[start : start + 13], tokens=np.arange(T)[start : start + 13])
    writer.join()
    assert live.summary() == compare_files(tmp_path / "p.npy", q_file, tokens=np.arange(T))


def padded(lengths, left):
    """(B, T, V) of P and Q with NaN where a batch is padded, and the mask."""
    longest = max(lengths)
    mask = np.zeros((len(lengths), longest), bool)
    for row, n in zip(mask, lengths, strict=True):
        row[longest - n :] |= left
        row[:n] |= not left
    both = []
    for x in (P, Q):
        block = np.full((*mask.shape, V), np.nan, np.float32)
        block[mask] = x[: sum(lengths)]
        both.append(block)
    tokens = np.full(mask.shape, 10**6)
    tokens[mask] = TOKENS[: sum(lengths)]
    return *both, tokens, mask


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("lengths", [[20, 1, 30, 9], [2, 1, 3, 1, 2, 2, 1]])
def test_padding_is_never_read(left, lengths):
    p, q, tokens, mask = padded(lengths, left)
    count = sum(lengths)
    groups = np.repeat(np.arange(len(lengths)), lengths)
    expected = compare_candidates(P[:count], {"q": Q[:count]}, tokens=TOKENS[:count], groups=groups)["q"]
    alone = LiveComparison(P[:count])
    alone.update(q, tokens, mask=mask)
    assert alone.summary() == expected
    assert alone.summary().undefined == 0
    both = LiveComparison(rows=count)
    for b in range(0, len(lengths), 2):
        both.update_both(p[b : b + 2], q[b : b + 2], tokens[b : b + 2], mask=mask[b : b + 2].astype(int))
    assert both.summary() == expected
    named = LiveComparison(P[:count])
    named.update(q, tokens, groups=np.arange(len(lengths)), mask=mask)
    assert named.summary() == expected


def test_a_shifted_view_is_read_where_it_lies(monkeypatch):
    """logits[:, :-1] has gaps between its sequences: each is seen in place."""
    from kullback.evaluation.live import comparison

    x = np.concatenate([P, Q]).reshape(4, 30, V)
    seen = []
    real = comparison.compare_rows
    monkeypatch.setattr(comparison, "compare_rows", lambda *a: seen.append(a[2]) or real(*a))
    live = LiveComparison(x[:, :-1].reshape(-1, V))
    live.update(x[:, :-1])
    assert len(seen) == 4
    assert all(np.shares_memory(rows, x) for rows in seen)
    assert live.summary().kl.max < 1e-12
    seen.clear()
    live = LiveComparison(x.reshape(-1, V))
    live.update(x)
    assert len(seen) == 1


def test_next_tokens():
    ids = np.arange(12).reshape(2, 6)
    labels = ids.copy()
    labels[0, 2] = -100
    mask = np.ones((2, 6), int)
    mask[1, :2] = 0
    found = next_tokens(np.zeros((2, 6, 20)), ids, mask, labels)
    assert found["tokens"].tolist() == [[1, -100, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert found["mask"].tolist() == [[True] * 5, [False, False, True, True, True]]
    with pytest.raises(ValueError, match=r"`labels` has shape \(2, 5\), expected \(2, 6\)"):
        next_tokens(np.zeros((2, 6, 20)), ids, labels=labels[:, 1:])


WRONG = {
    "too many": (lambda: {"logits": Q[:31]}, "rows 30 to 61, but .*p.npz has 60: 1 too many"),
    "vocabulary": (lambda: {"logits": Q[30:40, :-1]}, "vocabulary of 300, .* one of 301; .*vocab_size=300"),
    "tokens": (lambda: {"logits": Q[30:40], "tokens": TOKENS[29:39]}, "different tokens from row 30 on"),
    "shape": (lambda: {"logits": Q[30:40], "tokens": TOKENS[30:39]}, r"`tokens` has shape \(9,\), expected \(10,\)"),
    "axes": (lambda: {"logits": Q[None, None]}, r"shape \(1, 1, 60, 301\), expected \(T, V\)"),
    "groups": (
        lambda: {"logits": Q[30:40], "groups": GROUPS[:3]},
        r"`groups` has shape \(3,\), expected \(10,\) or \(\)",
    ),
    "mask": (lambda: {"logits": Q[30:40], "mask": np.ones(9, bool)}, r"`mask` has shape \(9,\), expected \(10,\)"),
    "text": (lambda: {"logits": "q"}, "`logits`"),
}


@pytest.mark.parametrize("arguments, message", WRONG.values(), ids=WRONG)
def test_an_error_changes_nothing(reference, q_file, arguments, message):
    live = LiveComparison(reference)
    live.update(Q[:30])
    with pytest.raises((ValueError, TypeError), match=message):
        live.update(**arguments())
    assert live.rows == 30
    live.update(Q[30:])
    assert live.summary() == compare_files(reference, q_file)


def test_misuse(reference):
    live = LiveComparison(reference)
    with pytest.raises(ValueError, match="no rows were compared yet"):
        live.summary()
    with pytest.raises(ValueError, match="p's rows come from"):
        live.update_both(P, Q)
    live.close()
    with pytest.raises(ValueError, match="closed"):
        live.update(Q)
    both = LiveComparison()
    with pytest.raises(ValueError, match="there is no reference"):
        both.update(Q)
    with pytest.raises(ValueError, match=r"`q` has shape \(59, 301\), expected \(60, V\)"):
        both.update_both(P, {"q": Q[1:]})
    both.update_both(P, Q, TOKENS)
    with pytest.raises(ValueError, match="`tokens` came with the updates before"):
        both.update_both(P, Q)
    with pytest.raises(ValueError, match="divided by nothing, those of this one by `groups`"):
        both.update_both(P, Q, TOKENS, GROUPS)
    with pytest.raises(ValueError, match="those before had one of 301"):
        both.update_both(P[:, :9], Q[:, :9], TOKENS % 9)
    with pytest.raises(ValueError, match=r"`reference` gave \(60, 301\) for rows 0 to 2"):
        LiveComparison(lambda start, stop: P).update(Q[:2])
    with pytest.raises(ValueError, match="`tensor` says how a file is read"):
        LiveComparison(lambda start, stop: P, tensor="logits")
    with pytest.raises(ValueError, match="expected from 1 to 301"):
        LiveComparison(P, vocab_size=302).update(Q)


def test_vocabularies_padded_differently():
    live = LiveComparison(P, vocab_size=290)
    live.update(Q[:, :295])
    assert live.summary() == compare_candidates(P, {"q": Q}, vocab_size=290)["q"]


def test_what_looks_wrong_is_told():
    """Tokens that are the next row's, in updates too small to say so by themselves; told once."""
    shifted = np.argmax(P + RNG.gumbel(size=P.shape), axis=1)
    told = []
    live = LiveComparison(P, warn=told.append)
    for start in range(0, T, 5):
        live.update(Q[start : start + 5], np.roll(shifted, 1)[start : start + 5])
    first, second = live.summary(), live.summary()
    assert len(told) == 1
    assert "tokens look shifted by one" in told[0]
    assert first.facts["warnings"] == second.facts["warnings"] == told


def test_groups_that_divide_otherwise_are_told_of(reference, q_file):
    live = LiveComparison(reference)
    for part in pieces(CUTS["uneven"]):
        live.update(Q[part], groups=(GROUPS * 7)[part])
    assert "warnings" not in live.summary().facts
    live = LiveComparison(reference)
    live.update(Q[:25], groups=GROUPS[:25])
    live.update(Q[25:], groups=GROUPS[25:] + (np.arange(25, T) > 29))
    (line,) = live.summary().facts["warnings"]
    assert "different chunks or documents, from row 30 on" in line
    assert live.summary() == compare_files(reference, q_file)


def test_rows_taken_and_restored(reference, q_file):
    taken = []
    live = LiveComparison(reference, taking=lambda *rows: taken.append(rows), candidates=["q"])
    for part in pieces(CUTS["uneven"]):
        live.update(Q[part])
    assert [rows[:2] for rows in taken] == [(s.start, s.stop) for s in pieces(CUTS["uneven"])]
    again = LiveComparison(reference, candidates=["q"])
    for rows in taken[:4]:
        again.restore(*rows)
    again.update(Q[again.rows :])
    assert again.summary() == live.summary() == compare_files(reference, q_file)


def test_more_tokens_than_are_summed_up_at_a_time():
    """Segments of 65,536 rows, a summary asked for between them, positions in wider and wider bins."""
    rng = np.random.default_rng(0)
    p = rng.normal(0, 2, (70000, 5)).astype(np.float32)
    q = p + rng.normal(0, 0.1, p.shape).astype(np.float32)
    tokens = rng.integers(0, 5, len(p))
    groups = np.repeat(np.arange(3), [10, 100, len(p) - 110])
    live = LiveComparison(p)
    for start in range(0, len(p), 9973):
        part = slice(start, start + 9973)
        live.update(q[part], tokens[part], groups[part])
        live.summary()
    assert live.summary() == compare_candidates(p, {"q": q}, tokens=tokens, groups=groups)["q"]


def test_the_name_is_where_it_is_documented():
    import kullback.evaluation

    assert kullback.evaluation.LiveComparison is LiveComparison
    with pytest.raises(AttributeError, match="LiveComparisons"):
        kullback.evaluation.LiveComparisons  # noqa: B018
    assert kb.__name__ == "kullback"
