"""A killed job goes on where it stopped, to the same bits; damaged and foreign logs are told apart."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from kullback.evaluation.checkpoint import Checkpoint, difference, read_log
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.merging import merge_logs

T, V = 47, 90
JOB = {"rows": [0, 9], "plan": {"rows": 9}, "longest_group": 9, "q": [{}]}
CHUNK = 4 * 2 * V * 5  # five rows of two float32 files


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (T, V)).astype(np.float32)
    np.savez(tmp_path / "p.npz", logits=p, tokens=rng.integers(0, V, T), groups=np.arange(T) // 10)
    np.save(tmp_path / "q.npy", p + rng.normal(0, 0.3, p.shape).astype(np.float32))
    return tmp_path / "p.npz", tmp_path / "q.npy"


class Stop(Exception):
    pass


def stop_at(rows):
    def progress(done, total):
        if done >= rows:
            raise Stop

    return progress


@pytest.mark.parametrize("rows", [5, 20, 45])
def test_resumed_is_uninterrupted(pair, tmp_path, rows):
    whole = compare_files(*pair, top_k=[3], convention=None, chunk_bytes=CHUNK)
    log = tmp_path / "log"
    with pytest.raises(Stop):
        compare_files(*pair, top_k=[3], chunk_bytes=CHUNK, checkpoint=log, progress=stop_at(rows))
    seen = []
    resumed = compare_files(
        *pair, top_k=[3], chunk_bytes=CHUNK - 1000, checkpoint=log, resume=True, progress=lambda *s: seen.append(s)
    )
    assert seen[0] == (rows, T)
    assert resumed == whole
    assert resumed.to_dict() == whole.to_dict()
    assert compare_files(*pair, top_k=[3], checkpoint=log, resume=True) == whole  # all rows from the log


def test_every_cut_of_the_log(pair, tmp_path):
    whole = compare_files(*pair, chunk_bytes=CHUNK * 3)
    log = tmp_path / "log"
    compare_files(*pair, chunk_bytes=CHUNK * 3, checkpoint=log)
    data = log.read_bytes()
    first = data.index(b"\n") + 1
    for cut in np.random.default_rng(1).integers(first, len(data), 12):
        log.write_bytes(data[:cut])
        assert compare_files(*pair, chunk_bytes=CHUNK * 2, checkpoint=log, resume=True) == whole
        assert read_log(log)[1][-1][1] == T


def test_a_flipped_bit_is_recomputed(pair, tmp_path):
    whole = compare_files(*pair)
    log = tmp_path / "log"
    compare_files(*pair, chunk_bytes=CHUNK, checkpoint=log)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 4
    log.write_bytes(data)
    assert compare_files(*pair, checkpoint=log, resume=True) == whole


def test_what_a_kill_left_behind_is_cut_off(pair, tmp_path):
    log = tmp_path / "log"
    compare_files(*pair, chunk_bytes=CHUNK, checkpoint=log)
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 3] + bytes(1 << 20))
    compare_files(*pair, chunk_bytes=CHUNK, checkpoint=log, resume=True)
    assert log.read_bytes() == data


def test_resume_may_begin(pair, tmp_path):
    assert compare_files(*pair, checkpoint=tmp_path / "log", resume=True) == compare_files(*pair)


def test_a_log_that_is_there_is_not_overwritten(pair, tmp_path):
    (tmp_path / "log").write_text("precious")
    with pytest.raises(ValueError, match="log exists; resume it"):
        compare_files(*pair, checkpoint=tmp_path / "log")
    with pytest.raises(ValueError, match="not a checkpoint"):
        compare_files(*pair, checkpoint=tmp_path / "log", resume=True)
    assert (tmp_path / "log").read_text() == "precious"


def test_the_log_of_another_job(pair, tmp_path):
    log = tmp_path / "log"
    compare_files(*pair, checkpoint=log)
    for options, words in (
        ({"given": "log_probs"}, "`plan.given` is 'logits' there, 'log_probs' here"),
        ({"rows": (0, 46)}, "`rows[1]` is 47 there, 46 here"),
        ({"top_k": [2]}, "`plan.top_k` is [] there, [2] here"),
        ({"ignore_index": -1}, "`plan.ignore_index` is -100 there, -1 here"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"log: is of another job ({words})")):
            compare_files(*pair, checkpoint=log, resume=True, **options)
    np.save(pair[1], np.load(pair[1]) * 2)
    with pytest.raises(ValueError, match=r"of another job \(`files\[1\]\.stamp` is '\w{32}' there, '\w{32}' here\)"):
        compare_files(*pair, checkpoint=log, resume=True)


def test_a_difference_far_down_is_shown_short():
    folder = "/a/long/way/down" * 20
    there, here = ({"p": {"path": f"{folder}/{name}.npy", "shape": [4, 5]}} for name in ("base", "other"))
    found = difference(there, here)
    assert re.fullmatch(r"`p\.path` is ….*/base\.npy' there, ….*/other\.npy' here", found)
    assert len(found) < 180
    assert difference({"p": {"shape": [4, 5]}}, {"p": {"shape": [4, 6]}}, "in a.log") == (
        "`p.shape[1]` is 5 there, 6 in a.log"
    )
    assert difference({"p": {}, "q": [1]}, {"p": {"layer": None}, "q": [1, 2]}) == (
        "`p.layer` is missing there, None here"
    )
    assert difference(here, here) == ""


def test_a_folder_may_move_as_a_whole(tmp_path):
    with Checkpoint(tmp_path / "log", JOB | {"folder": "/here"}, False, 0) as log:
        list(log.replay())
        log.append(0, 2, [{"kl": np.zeros(2), "row": np.arange(2), "position": np.arange(2)}])
    with Checkpoint(tmp_path / "log", JOB | {"folder": "/elsewhere"}, True, 0) as log:
        assert len(list(log.replay())) == 1
        assert log.done == 2
    with Checkpoint(tmp_path / "log", JOB | {"folder": "/here"}, True, 0) as log:
        assert len(list(log.replay())) == 1


def test_one_writer_at_a_time(tmp_path):
    with Checkpoint(tmp_path / "log", JOB, False, 0) as log:
        list(log.replay())
        with pytest.raises(OSError, match="another process is writing"):
            Checkpoint(tmp_path / "log", JOB, True, 0)


def test_parts_of_a_split_job_merge(pair, tmp_path):
    qs = [pair[1], pair[0]]
    whole = compare_candidates(pair[0], qs)
    ranges = [(30, 47), (0, 12), (12, 30)]
    logs = [tmp_path / f"part{i}" for i in range(3)]
    for log, rows in zip(logs, ranges, strict=True):
        compare_candidates(pair[0], qs, rows=rows, checkpoint=log, chunk_bytes=CHUNK)
    merged = merge_logs(logs)
    assert merged == whole
    for s in whole.values():
        s.facts.pop("warnings", None)  # of the same numbers on both sides, which each part has said of itself
    assert merged.to_dict() == whole.to_dict()
    compare_candidates(pair[0], qs, rows=(10, 33), checkpoint=tmp_path / "again")
    assert merge_logs([tmp_path / "again", *logs]) == whole  # rows of several parts count once
    with pytest.raises(ValueError, match="rows 12 to 30 of 47 are in none of the checkpoints"):
        merge_logs(logs[:2])
    with pytest.raises(ValueError, match="rows 30 to 47 of 47 are in none of the checkpoints"):
        merge_logs(logs[1:])  # the tail alone
    part = merge_logs(logs[:2], partial=True).summaries[0]
    assert part.tokens == 29
    assert part.facts["missing_rows"] == [[12, 30]]
    compare_candidates(pair[0], qs, rows=(12, 30), top_k=[4], checkpoint=tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"other: of another job .*part0 \(`plan\.top_k` is \[4\] there, \[\] in .*part0\)"
    ):
        merge_logs([*logs, tmp_path / "other"])


def test_killed_in_mid_job(pair, tmp_path):
    """SIGKILL leaves a log that goes on to the same bits."""
    code = textwrap.dedent(f"""
        import os, signal, time
        from kullback.evaluation.job import compare_files
        def progress(done, total):
            if done >= 20:
                os.kill(os.getpid(), signal.SIGKILL)
        compare_files({str(pair[0])!r}, {str(pair[1])!r}, chunk_bytes={CHUNK}, checkpoint={str(tmp_path / "log")!r},
                      per_token={str(tmp_path / "t.parquet")!r}, progress=progress)
    """)
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "t.parquet").exists()
    seen = []
    found = compare_files(
        *pair, checkpoint=tmp_path / "log", resume=True, progress=lambda *s: seen.append(s),
        per_token=tmp_path / "t.parquet",
    )  # fmt: skip
    assert seen[0] == (20, T)
    assert found == compare_files(*pair)
    assert (tmp_path / "t.parquet").exists()
