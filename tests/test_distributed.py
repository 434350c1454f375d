"""Comparisons on a real Dask cluster of several processes: the bits of one process, also when a worker is killed."""

import os
import signal
import time

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation.job import compare_candidates

pytestmark = pytest.mark.integration

T, V = 400, 3000


@pytest.fixture(scope="module")
def cluster():
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    p = rng.normal(0, 3, (T, V)).astype(np.float16)
    np.savez(folder / "p.npz", logits=p, tokens=rng.integers(0, V, T), groups=np.arange(T) // 70)
    for name in ("q", "r"):
        np.save(folder / f"{name}.npy", (p + rng.normal(0, 0.1, p.shape)).astype(np.float32))
    return folder / "p.npz", [folder / "q.npy", folder / "r.npy"]


def same(found, expected):
    assert found == expected
    assert found.to_dict() == expected.to_dict()


def test_same_bits_as_one_process(cluster, files):
    from kullback.evaluation.distributed import compare_on_cluster

    p, qs = files
    for rows_per_task in (7, 150, None):
        found = compare_on_cluster(p, qs, scheduler=cluster, rows_per_task=rows_per_task, top_k=[4])
        same(found, compare_candidates(p, qs, top_k=[4]))


def test_the_command_line(cluster, files, tmp_path, capsys):
    import json

    from kullback.cli import main

    p, qs = files
    address = cluster.scheduler.address
    assert main(["compare", str(p), str(qs[0]), "--dask", address, "--json", "-", "--rows", "3:300"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["kl"] == json.loads(json.dumps(compare_candidates(p, qs[:1], rows=(3, 300)).summaries[0].to_dict()))["kl"]
    )
    assert main(["compare", str(p), str(qs[0]), "--dask", address, "--checkpoint", str(tmp_path / "c")]) == 2


def test_errors_come_from_here(cluster, files):
    from kullback.evaluation.distributed import compare_on_cluster

    with pytest.raises(ValueError, match="`vocab_size` is 9999"):
        compare_on_cluster(files[0], files[1], scheduler=cluster, vocab_size=9999)


def test_a_worker_killed_in_mid_job(files, tmp_path):
    import threading

    import distributed

    from kullback.evaluation.distributed import compare_on_cluster

    p, qs = files
    expected = compare_candidates(p, qs, top_k=[50])
    with (
        distributed.LocalCluster(
            n_workers=3, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0
        ) as own,
        distributed.Client(own) as client,
    ):
        pids = list(client.run(os.getpid).values())
        done = []

        def kill():
            while not done:
                if sum(len(v) for v in client.has_what().values()) > 5:  # some tasks are finished, many are not
                    os.kill(pids[0], signal.SIGKILL)
                    done.append(time.monotonic())
                    return
                time.sleep(0.005)

        killer = threading.Thread(target=kill)
        killer.start()
        found = compare_on_cluster(p, qs, scheduler=client, rows_per_task=3, top_k=[50])
        finished = time.monotonic()
        killed = list(done)
        done.append(0)
        killer.join()
        assert killed, "the job was over before a worker could be killed"
        assert killed[0] < finished
        same(found, expected)
        assert pids[0] not in client.run(os.getpid).values()


def test_dask_arrays(cluster):
    import dask.array as array

    from kullback.evaluation.distributed import compare_arrays

    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 3, (2, 90, 500)).astype(np.float32)
    tokens, groups = rng.integers(0, 500, 90), np.arange(90) // 8
    found = compare_arrays(
        array.from_array(p, chunks=(7, 100)), array.from_array(q, chunks=(20, 500)), tokens, groups=groups
    )
    assert found == kb.compare(p, q, tokens).summary(groups)
    with pytest.raises(ValueError, match=r"`tokens` has shape \(3,\), expected \(90,\)"):
        compare_arrays(p, q, [1, 2, 3])
    with pytest.raises(ValueError, match=r"`q` has shape \(80, 500\)"):
        compare_arrays(p, q[:80])


def test_a_cluster_without_workers_is_an_error(files, monkeypatch):
    import distributed

    from kullback.evaluation import distributed as ours

    monkeypatch.setattr(ours, "WORKER_SECONDS", 1)
    with (
        distributed.LocalCluster(n_workers=0, processes=True, dashboard_address=":0") as empty,
        pytest.raises(TimeoutError, match="has no worker, and none came in 1 s"),
    ):
        ours.compare_on_cluster(files[0], files[1], scheduler=empty.scheduler_address)
