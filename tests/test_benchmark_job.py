"""The benchmark of large files, on small ones: it measures, kills, resumes, and tells a result that differs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is not installed

from benchmarks import job, report

VOCAB = 4096
SMALL = ("--chunk-mib", "1")


@pytest.fixture
def pair(tmp_path):
    return job.write_pair(tmp_path, 4 << 20, VOCAB)


def test_files_are_the_same_each_time(pair, tmp_path):
    before = [path.read_bytes() for path in pair]
    p, q, tokens = map(np.load, pair)
    assert p.shape == q.shape == (256, VOCAB) and p.dtype == q.dtype == np.float16 and tokens.shape == (256,)
    assert 2.9 < p.astype(np.float32).std() < 3.1
    assert 0.25 < (q.astype(np.float32) - p).std() < 0.35
    assert [path.read_bytes() for path in job.write_pair(tmp_path, 4 << 20, VOCAB)] == before


@pytest.mark.slow
def test_all_of_it(tmp_path, monkeypatch):
    results = job.run(tmp_path, (4 << 20, 2 << 20), kills=1, rounds=1, vocab=VOCAB, options=SMALL)
    assert list(tmp_path.iterdir()) == []  # nothing is left
    assert results["kills"]["same"] == results["kills"]["jobs"] == 1
    rate = results["rate"]
    assert rate["gb_per_s"].keys() == rate["seconds"].keys() and min(rate["gb_per_s"].values()) > 0
    assert 5 < rate["own_memory_mib"] < 400
    assert 5 < results["mapped"]["own_memory_mib"] < 300
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert json.loads(job.save(results).read_text()) == json.loads(json.dumps(results))
    assert "1 of 1" in job.text(results)


def test_another_result_after_a_kill_is_seen(pair, monkeypatch):
    run, place = job.job, pair[2]

    def other_tokens(paths, out, *options):
        if "--resume" in options:
            np.save(place, np.zeros(256, np.int64))
            options = [x for x in options if x != "--checkpoint" and not x.endswith(".log") and x != "--resume"]
        return run(paths, out, *options)

    monkeypatch.setattr(job, "job", other_tokens)
    monkeypatch.setattr(job.random.Random, "randint", lambda *_: 0)
    assert job.measure_kills(pair, 1, options=SMALL)["same"] == 0


def test_memory_of_a_process_is_its_own():
    code = "import time; x = bytearray(40 << 20); time.sleep(0.1)"
    process = job.Process([sys.executable, "-c", code])
    process.finish()
    assert 40 < process.own / job.MIB < 80


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 2: kullback: .*no\.npy"):
        job.job([tmp_path / "no.npy"] * 3, tmp_path / "out.json").finish()
