"""Checkpoints with any bit flipped, with records nobody wrote, and with two processes at one log."""

import io
import os
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from kullback.evaluation import checkpoint
from kullback.evaluation.checkpoint import Checkpoint, read_log
from kullback.evaluation.job import compare_files
from kullback.evaluation.merging import merge_logs

ROWS, STEP, V = 30, 6, 17
COLUMNS = {"kl": np.linspace(0, 1, 5), "row": np.arange(5), "position": np.arange(5)}


@pytest.fixture
def job(tmp_path):
    """(log of five records, the two files)."""
    p = np.random.default_rng(0).normal(0, 3, (ROWS, V)).astype(np.float32)
    pair = tmp_path / "p.npy", tmp_path / "q.npy"
    np.save(pair[0], p)
    np.save(pair[1], p + np.float32(0.1) * p[::-1])
    compare_files(*pair, chunk_bytes=2 * 4 * V * STEP, checkpoint=tmp_path / "log")
    return tmp_path / "log", pair


def heads(data):
    """Where each record begins, and its length."""
    at = data.index(b"\n") + 1
    while at < len(data):
        length = int.from_bytes(data[at + 20 : at + 28], "little")
        yield at
        at += 32 + length


def written(path, records, **changes):
    """A log as its writer would sign it, of records (first row, end, archive) that no job computed."""
    identity = {"rows": [0, 9], "plan": {"rows": 9}, "longest_group": 9, "q": [{}]} | changes
    line = checkpoint._line(identity)
    data = line
    for first, stop, archive in records:
        head = checkpoint._HEAD.pack(b"rows", first, stop, len(archive))
        data += head + zlib.crc32(archive, zlib.crc32(head, zlib.crc32(line))).to_bytes(4, "little") + archive
    path.write_bytes(data)
    return path


def archive(save=np.savez, **columns):
    stream = io.BytesIO()
    save(stream, **{f"0/{name}": x for name, x in (COLUMNS | columns).items() if x is not None})
    return stream.getvalue()


def test_no_flipped_bit_of_a_head_changes_a_result(job):
    """Each bit of a record's head, in one of the records: the rows before it. Each byte of the first line: an error."""
    log, _ = job
    data = log.read_bytes()
    _, sound = read_log(log)
    assert [record[:2] for record in sound] == [(i, i + STEP) for i in range(0, ROWS, STEP)]
    for number, at in enumerate(heads(data)):
        for bit in range(number, 8 * 32, len(sound)):  # each of them once
            flipped = bytearray(data)
            flipped[at + bit // 8] ^= 1 << bit % 8
            log.write_bytes(flipped)
            assert [record[:2] for record in read_log(log)[1]] == [record[:2] for record in sound[:number]]
    for at in range(data.index(b"\n") + 1):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 7
        log.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"log: (not a checkpoint|its first line|'.*', expected)"):
            read_log(log)


def test_a_flipped_head_is_computed_again(job):
    log, pair = job
    whole = compare_files(*pair)
    data = log.read_bytes()
    for number, at in enumerate(heads(data)):
        flipped = bytearray(data)
        flipped[at + 12] ^= 2  # the end of its rows
        log.write_bytes(flipped)
        seen = []
        report = lambda done, total, seen=seen: seen.append(done)  # noqa: E731
        found = compare_files(*pair, checkpoint=log, resume=True, progress=report)
        assert seen[0] == STEP * number
        assert found == whole


def test_records_of_another_job_are_not_taken(job, tmp_path):
    """The same columns after another first line: nothing there is of this job."""
    log, pair = job
    data = log.read_bytes()
    compare_files(*pair, given="log_probs", checkpoint=tmp_path / "other")
    line = (tmp_path / "other").read_bytes().partition(b"\n")[0] + b"\n"
    log.write_bytes(line + data.partition(b"\n")[2])
    assert read_log(log)[1] == []


def test_logs_of_another_version(job):
    log, pair = job
    log.write_bytes(b'{"format": "kullback checkpoint 1", "rows": [0, 30]}\n')
    with pytest.raises(ValueError, match="'kullback checkpoint 1', expected 'kullback checkpoint 3': start again"):
        compare_files(*pair, checkpoint=log, resume=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((0, 5, archive(kl=np.zeros(4))), "'0/kl.npy' is float64 of shape \\(4,\\)"),
        ((0, 5, archive(kl=np.zeros((5, 1)))), "'0/kl.npy' is float64"),
        ((0, 5, archive(kl=np.array(["a"] * 5))), "'0/kl.npy' is <U1"),
        ((0, 5, archive(kl=None)), "columns position, row"),
        ((0, 5, archive(row=np.arange(1, 6))), "'row' has other rows"),
        ((0, 5, archive(np.savez_compressed)), "column '0/kl.npy'"),
        ((0, 5, archive().replace(b"0/kl", b"9/kl")), "column '9/kl.npy'"),
        ((0, 5, b"no archive"), "not a zip file"),
        ((5, 10, archive()), "has rows 5 to 10, expected some of 0 to 9"),
        ((0, -(2**63), archive()), "has rows 0 to -9223372036854775808"),
        ((4, 4, archive()), "has rows 4 to 4"),
    ],
)
def test_records_that_no_job_wrote(tmp_path, record, message):
    log = written(tmp_path / "log", [record])
    with pytest.raises(ValueError, match=f"log: .*{message}"):
        read_log(log)


def test_a_key_without_end(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("9999999999/kl.npy", b"")
    with pytest.raises(ValueError, match=r"column '9999999999/kl\.npy'"):
        read_log(written(tmp_path / "log", [(0, 5, stream.getvalue())]))


@pytest.mark.parametrize(
    "changes",
    [
        {"longest_group": float("inf")}, {"longest_group": 10}, {"longest_group": 0}, {"longest_group": True},
        {"rows": [0, 10]}, {"rows": [5, 4]}, {"rows": [-1, 9]}, {"rows": 3}, {"q": []}, {"q": None}, {"plan": []},
    ],
)  # fmt: skip
def test_jobs_that_nobody_described(tmp_path, changes):
    log = written(tmp_path / "log", [(0, 5, archive())], **changes)
    with pytest.raises(ValueError, match="its first line describes no job"):
        merge_logs([log])


def test_a_plan_that_nobody_made(tmp_path):
    log = written(tmp_path / "log", [(0, 5, archive())], plan={"rows": 9, "top_k": [], "colour": 3})
    with pytest.raises(ValueError, match=r"log: holds columns or settings of no job \(TypeError"):
        merge_logs([log])


def test_a_first_line_cut_short_begins_again(job):
    log, pair = job
    data = log.read_bytes()
    whole = compare_files(*pair)
    for cut in (0, 1, 40, data.index(b"\n")):
        log.write_bytes(data[:cut])
        assert compare_files(*pair, checkpoint=log, resume=True) == whole


def test_two_processes_that_make_one_log(tmp_path):
    """Of several that begin at once, one works; the others say so, and its log is the file of that name."""
    code = textwrap.dedent(f"""
        import sys
        from kullback.evaluation.checkpoint import Checkpoint
        import numpy as np
        job = {{"rows": [0, 9], "plan": {{"rows": 9}}, "longest_group": 9, "q": [{{}}]}}
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            log = Checkpoint({str(tmp_path / "log")!r}, job, False, 0)
        except OSError as error:
            print(error)
        else:
            with log:
                list(log.replay())
                log.append(0, 2, [{{"kl": np.zeros(2), "row": np.arange(2), "position": np.arange(2)}}])
                print("mine", flush=True)
                sys.stdin.readline()
    """)
    pipe = subprocess.PIPE
    running = [subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 3
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in running]
    for process in running:
        process.communicate("done\n")
    assert sorted(line.endswith("another process is writing to it\n") for line in said) == [False, True, True], said
    assert [record[:2] for record in read_log(tmp_path / "log")[1]] == [(0, 2)]


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="is a pipe or device, expected a regular file"):
            read_log(path)
        with pytest.raises(ValueError, match="is a pipe or device, expected a regular file"):
            Checkpoint(path, {}, True, 0)


def test_a_part_far_down_in_its_job(job, tmp_path):
    """Memory for its own rows, not for those before it."""
    log, _ = job
    identity, records = read_log(log)
    far = 10**9
    identity["rows"], identity["plan"]["rows"] = [far, far + 6], far + 6
    columns = dict(records[0].candidates[0])
    columns["row"], columns["position"] = np.arange(far, far + 6), np.arange(6)
    columns["token"] = np.arange(6)
    with Checkpoint(tmp_path / "far", identity, False, far) as new:
        list(new.replay())
        new.append(far, far + 6, [columns])
    code = f"""if True:
        from kullback.evaluation.merging import merge_logs
        from peak import peak
        assert merge_logs([{str(tmp_path / "far")!r}], partial=True).summaries[0].tokens == 6
        print(peak())
    """
    run = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    out = subprocess.run([sys.executable, "-c", code], **run).stdout
    assert int(out) < 1 << 30, f"{int(out) >> 20} MiB"
