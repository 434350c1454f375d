"""Logs that are cut, broken or full of other things: counted and named, or refused by name; never followed blindly."""

import gzip
import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_rollouts import lines, run, written

from kullback.cli import main
from kullback.rollouts import audit_files

PT = Path(__file__).parent / "data" / "torch" / "slime.pt"


def test_broken_rows_are_counted_and_named(tmp_path):
    rows = run(count=8)
    del rows[1]["train"]
    rows[2]["rollout"][1] = "x"
    rows[3]["mask"] = [1]
    rows[4]["tokens"] = [1, 2]
    rows[5]["rollout"], rows[5]["train"] = [], []
    rows[6]["mask"] = None
    text = lines(rows).split(b"\n")
    text[4:4] = [b"not json", b"[1, 2]", b"", b"   "]
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(text) + lines(rows[:1])[:-40])
    report = audit_files(path)
    assert report.skipped.reasons == {
        "no train log-probs": (1, 0, 1),
        "rollout log-probs are no list of numbers": (1, 0, 2),
        "mask: of another length than the log-probs": (1, 0, 3),
        "not a line of JSON": (1, 0, 4),
        "JSON, but no object": (1, 0, 5),
        "tokens: of another length than the log-probs": (1, 0, 8),
        "empty sequence": (1, 0, 9),
        "no mask, so that all tokens count": (1, 0, 10),
        "truncated last line": (1, 0, 12),
    }
    assert report.total.sequences == 4
    text = str(report)
    assert "left out: truncated last line: 1 row, first log.jsonl:13" in text
    assert all(reason in text for reason in report.skipped.reasons)


def test_numbers_that_are_not_finite(tmp_path):
    """NaN and Infinity, which Python writes, and null."""
    rows = run(count=4)
    rows[0]["train"][3], rows[1]["train"][4], rows[2]["rollout"][5] = float("nan"), float("-inf"), None
    report = audit_files(written(tmp_path, rows, "jsonl"))
    assert {"missing", "infinite"} <= {f.check for f in report.audit.findings}
    assert not report.skipped.reasons and np.isfinite(report.total.kl_k3.mean)


def test_gzip_that_was_cut(tmp_path):
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(lines(run()))[:-2000])
    report = audit_files(path)
    read = report.total.sequences
    assert 0 < read < 60
    assert report.skipped.reasons == {"compressed data that end too early or are damaged": (1, 0, read)}
    words = f"left out: log.jsonl.gz:{read + 1} and all after it: compressed data that end too early"
    assert words in str(report)


def test_compressed_files_that_are_cut_where_a_line_ends(tmp_path, capsys):
    """Nothing was said of what came after; it is no line that is truncated, and no gate passes without a word."""
    packer = zlib.compressobj(wbits=31)
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(packer.compress(lines(run()[:40])) + packer.flush(zlib.Z_SYNC_FLUSH))
    (tmp_path / "more.jsonl.gz").write_bytes(path.read_bytes())
    report = audit_files(tmp_path)
    assert report.total.sequences == 80 and list(report.skipped.reasons.values()) == [(2, 0, 40)]
    assert "left out: log.jsonl.gz:41 and all after it: " in str(report) and "and so in 1 other file" in str(report)
    assert main(["rollouts", str(tmp_path), "--fail-above", "9", "--quiet"]) == 0
    assert capsys.readouterr().err == "kullback: passes; its figures are without the end of 2 damaged files\n"


KINDS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "arrow", "arrows", "npz", "pt", "pkl")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_as_far_as_they_go_or_refused_by_name(tmp_path, kind):
    """Cut, changed and shortened at random: a report, or a ValueError that begins with the file's name.

    Offsets of a damaged Arrow file led the library to a segmentation fault.
    """
    if kind in ("jsonl.zst", "parquet", "arrow", "arrows"):
        pytest.importorskip("pyarrow")
    kept = {"pt": PT, "pkl": PT.parent / "verl.pkl"}.get(kind)
    good = (kept or written(tmp_path, run(count=12), kind)).read_bytes()
    path = tmp_path / f"damaged.{kind}"
    rng = np.random.default_rng(1)
    for number in range(40):
        data = bytearray(good)
        at = int(rng.integers(len(data)))
        if number % 3 == 0:
            data = data[:at]
        elif number % 3 == 1:
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
        else:
            data[at : at + int(rng.integers(1, 40))] = b""
        path.write_bytes(data)
        try:
            report = audit_files(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
        else:
            assert json.dumps(report.to_dict(), allow_nan=False) and str(report)


ODD = (
    None, True, 0, -1, 3.5, 1e308, 10**30, "abc", "", [], [[]], [[1, 2]], {}, {"name": "x"}, {"name": ["x"]}, [None],
    ["a"], [-1.0] * 3, [[-1.0] * 3], [[[-1.0]]], float("nan"), float("-inf"), [float("-inf")] * 7, "\ud800", "\u202e",
    [True, False], [10**30],
)  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_values_of_any_kind_in_any_field(tmp_path, seed):
    """Every row is either in the figures or counted with a reason, and every output is made."""
    chosen = random.Random(seed)
    rows = run(count=8)
    for _ in range(8):
        row = chosen.choice(rows)
        name = chosen.choice(list(row))
        if isinstance(row[name], list) and row[name] and chosen.random() < 0.3:
            row[name][chosen.randrange(len(row[name]))] = chosen.choice(ODD)
        else:
            row[name] = chosen.choice(ODD)
    report = audit_files(written(tmp_path, rows, "jsonl"))
    assert str(report) and json.dumps(report.to_dict(), allow_nan=False)
    parts_of_rows = ("tokens", "rollout entropy", "no mask")
    left_out = sum(n for reason, (n, *_) in report.skipped.reasons.items() if not reason.startswith(parts_of_rows))
    assert report.total.sequences + left_out == 8


def test_offsets_that_lead_out_of_an_arrow_file(tmp_path):
    """They were followed, to a segmentation fault of the process."""
    pytest.importorskip("pyarrow")
    rows = run(count=5)
    path = written(tmp_path, rows, "arrow")
    offsets = np.concatenate([[0], np.cumsum([len(row["rollout"]) for row in rows])]).astype(np.int32)
    data, right = path.read_bytes(), offsets.tobytes()
    assert data.count(right) >= 2
    offsets[2:] += 1 << 30
    path.write_bytes(data.replace(right, offsets.tobytes()))
    with pytest.raises(ValueError, match=r"log\.arrow: damaged"):
        audit_files(path)


def test_entropies_may_be_anything(tmp_path):
    rows = run(count=40)
    rows[3]["rollout_entropy"] = [1e200] * len(rows[3]["rollout"])
    assert audit_files(written(tmp_path, rows, "jsonl")).audit.findings is not None
