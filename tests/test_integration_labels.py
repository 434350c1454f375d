"""Labels from data frames and Parquet, and of jobs on a cluster, are those of lists on one machine."""

import json

import numpy as np
import pytest

import kullback as kb
from kullback.evaluation.label_files import load_labels

T = 360
RNG = np.random.default_rng(16)
GROUPS = np.arange(T) // 15
P = RNG.normal(0, 2, (T, 30)).astype(np.float32)
Q = (P + 0.2 * RNG.normal(size=P.shape)).astype(np.float32)
DOMAINS = RNG.choice(["code", "math"], T)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    np.savez(folder / "p.npz", logits=P, groups=GROUPS)
    np.save(folder / "q.npy", Q)
    (folder / "by.jsonl").write_text("\n".join(json.dumps({"domain": domain}) for domain in DOMAINS.tolist()))
    return folder


@pytest.mark.integration
def test_data_frames_and_parquet_have_the_labels_of_lists(files, tmp_path):
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    tokens = kb.compare(P, Q)
    domain, turn = [None if i % 7 == 0 else d for i, d in enumerate(DOMAINS.tolist())], [i % 3 for i in range(T)]
    expected = tokens.summary(GROUPS, by={"domain": domain, "turn": turn})
    frame = pd.DataFrame({"domain": domain, "turn": turn})
    kinds = frame.astype({"domain": "category", "turn": "Int64"})
    for by in (frame, kinds, {name: kinds[name] for name in kinds}):
        assert tokens.summary(GROUPS, by=by) == expected
    path = tmp_path / "by.parquet"
    for column in (pa.array(domain), pa.array(domain).dictionary_encode()):
        pq.write_table(pa.table({"domain": column, "turn": pa.array(turn)}), path, row_group_size=77)
        assert kb.compare_files(files / "p.npz", files / "q.npy", by=path).by == expected.by
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"by\.parquet: not a file of labels"):
        load_labels(path)
    a = pa.array(["a"] * T)
    for table, error in (
        (pa.table({"d": [["a"]] * T}), "expected one label a row"),
        (pa.table([a, a], names=["d", "d"]), "not a file of labels"),
        (pa.table({"d": [1.5] * T}), "'d' has the label 1.5"),
        (pa.table({"d": pa.array([], "string")}), "is empty"),
    ):
        pq.write_table(table, path)
        with pytest.raises(ValueError, match=error):
            load_labels(path)


@pytest.mark.integration
def test_a_cluster_gives_the_labels_of_one_machine(files):
    from distributed import Client

    from kullback.evaluation.distributed import compare_on_cluster

    p, q, by = (str(files / name) for name in ("p.npz", "q.npy", "by.jsonl"))
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        found = compare_on_cluster(p, [q, p], scheduler=client, rows_per_task=111, by=by)
    assert found == kb.compare_candidates(p, [q, p], by=by)
    assert found.by["domain"]["code"].difference("q.npy", "p.npz").kl.mean > 0
