"""`kullback.rollouts`: every format gives the same report; what is broken is counted and named; parts merge exactly."""

import gzip
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import kullback.rollouts as rollouts
from kullback.rlhf import audit
from kullback.rollouts import audit_files, merge_parts, read_rollouts, save_part
from kullback.rollouts.logs import find_logs


def run(seed=0, count=60):
    """Rows of a log: log-probs of both sides, ids, a mask with a prompt, step, env, worker, reward, entropy."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        n = int(rng.integers(5, 60))
        rollout = -rng.exponential(0.5, n)
        train = np.minimum(rollout + rng.normal(0, 0.02, n), -1e-9)
        rows.append({
            "rollout": rollout.tolist(), "train": train.tolist(), "mask": [0, 0] + [1] * (n - 2),
            "tokens": rng.integers(0, 50, n).tolist(), "rollout_entropy": rng.exponential(0.5, n).tolist(),
            "step": i // 20, "env": ("math", "code")[i % 2], "worker": i % 3, "reward": float(rng.random() < 0.5),
        })  # fmt: skip
    return rows


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(folder, rows, kind):
    """The rows in a file of that kind."""
    path = folder / f"log.{kind}"
    if kind == "jsonl":
        path.write_bytes(lines(rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines(rows)))
    elif kind == "npz":
        edges = np.concatenate([[0], np.cumsum([len(row["rollout"]) for row in rows])])
        lists = ("rollout", "train", "mask", "tokens", "rollout_entropy")
        packed = {name: np.concatenate([row[name] for row in rows]) for name in lists}
        scalars = {name: np.array([row[name] for row in rows]) for name in ("step", "env", "worker", "reward")}
        np.savez(path, cu_seqlens=edges, **packed, **scalars)
    else:
        write_table(path, rows, kind)
    return path


def write_table(path, rows, kind):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    if kind == "jsonl.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines(rows))
        return
    table = pa.Table.from_pylist(rows)
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=25)
    else:
        new = ipc.new_file if kind == "arrow" else ipc.new_stream
        with new(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=25)


def same(a, b):
    """Two reports of the same rows in different files."""
    return (
        a.audit == b.audit
        and a.by == b.by
        and a.by_position == b.by_position
        and a.total == b.total
        and a.contexts == b.contexts
        and a.what_if == b.what_if
        and a.skipped == b.skipped
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return audit_files(written(tmp_path_factory.mktemp("plain"), run(), "jsonl"))


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "parquet", "arrow", "arrows", "npz"])
def test_every_format_gives_the_same_report(tmp_path, plain, kind):
    assert same(audit_files(written(tmp_path, run(), kind)), plain)


def test_the_figures_are_those_of_the_arrays(plain):
    rows = run()
    kept = [slice(2, None)] * len(rows)
    d = np.concatenate([np.array(r["train"])[k] - np.array(r["rollout"])[k] for r, k in zip(rows, kept, strict=True)])
    w = np.exp(d)
    total = plain.total
    assert total.tokens == d.size and total.sequences == len(rows)
    assert total.kl_k1.mean == pytest.approx(-d.mean(), rel=1e-12)
    assert total.kl_k3.mean == pytest.approx((np.expm1(d) - d).mean(), rel=1e-9)
    assert total.ess.mean == pytest.approx(w.sum() ** 2 / (d.size * (w**2).sum()), rel=1e-12)
    assert total.kept_mass.mean == pytest.approx(w.mean(), rel=1e-12)
    assert total.kl_k3 == pytest.approx(plain.audit.mismatch.kl_k3, rel=1e-9)
    assert total.means["reward"].mean == pytest.approx(np.mean([r["reward"] for r in rows]))
    assert total.means["length"].mean == pytest.approx(np.mean([sum(r["mask"]) for r in rows]))
    entropy = np.concatenate([np.array(r["rollout_entropy"])[2:] for r in rows])
    assert total.means["rollout_entropy"].mean == pytest.approx(entropy.mean(), rel=1e-12)
    env = plain.by["env"].points["code"]
    mine = np.concatenate([np.array(r["train"])[2:] - np.array(r["rollout"])[2:] for r in rows if r["env"] == "code"])
    assert (env.tokens, env.kl_k1.mean) == (mine.size, pytest.approx(-mine.mean(), rel=1e-12))
    assert list(plain.by) == ["step", "env", "worker"] and list(plain.by["step"].points) == [0, 1, 2]
    assert sum(p.tokens for p in plain.by_position.points.values()) == d.size
    assert plain.by_position.points[0].tokens == len(rows)


def test_the_error_of_the_effective_sample_size_is_that_of_resampling(plain):
    """The delta method against a bootstrap over sequences."""
    parts = [np.array(r["train"])[2:] - np.array(r["rollout"])[2:] for r in run()]
    w = np.array([np.exp(p).sum() for p in parts])
    w2 = np.array([np.exp(2 * p).sum() for p in parts])
    n = np.array([p.size for p in parts])
    draws = np.random.default_rng(0).integers(0, len(parts), (4000, len(parts)))
    ess = w[draws].sum(1) ** 2 / (n[draws].sum(1) * w2[draws].sum(1))
    assert plain.total.ess.standard_error == pytest.approx(ess.std(), rel=0.1)


def test_findings_are_those_of_audit_and_say_the_row(tmp_path):
    rows = run()
    rows[17]["train"] = [0.0] * len(rows[17]["train"])
    path = written(tmp_path, rows, "jsonl")
    report = audit_files(path)
    offsets = np.concatenate([[0], np.cumsum([len(r["rollout"]) for r in rows])])
    arrays = {name: np.concatenate([r[name] for r in rows]) for name in ("rollout", "train", "mask", "tokens")}
    expected = audit(
        arrays["rollout"], arrays["train"], arrays["mask"] != 0, offsets=offsets, tokens=arrays["tokens"],
        sources={name: [r[name] for r in rows] for name in ("worker", "env")}, rewards=[r["reward"] for r in rows],
        rollout_entropy=np.concatenate([r["rollout_entropy"] for r in rows]),
    )  # fmt: skip
    assert report.audit == expected
    zero = next(f for f in report.audit.findings if f.check == "zero_filled")
    assert report.where(zero.where[0][0]) == "log.jsonl:18"
    assert "log.jsonl:18" in str(report)


def test_sides_of_two_lengths_are_cut_and_told(tmp_path):
    rows = run(count=40)
    for row in rows[:10]:
        row["train"] = row["train"][:-1]
        row["mask"] = row["mask"][:-1]
    (batch,) = read_rollouts(written(tmp_path, rows, "jsonl"))
    assert batch.length_differences.tolist() == [-1] * 10 + [0] * 30
    assert np.diff(batch.offsets).tolist() == [len(row["train"]) for row in rows]
    assert not batch.skipped.reasons


def test_a_row_without_ids_among_others(tmp_path):
    rows = run(count=3)
    del rows[1]["tokens"], rows[1]["rollout_entropy"]
    (batch,) = read_rollouts(written(tmp_path, rows, "jsonl"))
    own = slice(batch.offsets[1], batch.offsets[2])
    assert (batch.tokens[own] == -1).all() and np.isnan(batch.rollout_entropy[own]).all()
    assert batch.tokens[: batch.offsets[1]].tolist() == rows[0]["tokens"]


def test_files_without_log_probs_among_others_are_named(tmp_path):
    written(tmp_path, run(), "jsonl")
    (tmp_path / "val.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "empty.jsonl").write_text("")
    report = audit_files(tmp_path)
    assert len(report.facts["left_out_files"]) == 2
    assert "empty.jsonl: an empty file" in str(report) and "its rows have text" in str(report)


def test_a_folder_is_read_in_the_order_of_the_numbers_in_its_names(tmp_path):
    for step in (2, 10, 1):
        (tmp_path / f"step_{step}.jsonl").write_bytes(
            lines([{k: x for k, x in r.items() if k != "step"} for r in run()])
        )
    report = audit_files(tmp_path, by=["step"])
    assert [log["path"].rpartition("/")[2] for log in report.facts["files"]] == [f"step_{s}.jsonl" for s in (1, 2, 10)]
    assert list(report.by["step"].points) == [1, 2, 10]


def test_rows_without_a_label_are_shown_too(tmp_path):
    """So that labels add up to all; a label that is not a number is none."""
    rows = run()
    rows[0]["env"], rows[1]["env"] = None, float("nan")
    del rows[2]["env"]
    report = audit_files(written(tmp_path, rows, "jsonl"))
    points = report.by["env"].points
    assert list(points) == ["(none)", "code", "math"] and points["(none)"].sequences == 3
    assert sum(point.tokens for point in points.values()) == report.total.tokens
    assert "(none)" in str(report)


def test_any_field_may_break_results_down(tmp_path):
    rows = [row | {"level": f"l{i % 4}"} for i, row in enumerate(run())]
    report = audit_files(written(tmp_path, rows, "jsonl"), by=["level", "env"])
    assert list(report.by) == ["level", "env"] and list(report.by["level"].points) == ["l0", "l1", "l2", "l3"]
    with pytest.raises(ValueError, match=r"`by` has 'lvl', which no row has; rows have rollout, .*, level$"):
        audit_files(tmp_path / "log.jsonl", by=["lvl"])


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("kullback.rollouts.logs.PIECE", 3000)
    monkeypatch.setattr("kullback.rollouts.jsonl.BLOCK", 1000)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_parts_merge_to_the_same_bits(tmp_path, plain, kind, small_pieces):
    path = written(tmp_path, run(), kind)
    whole = audit_files(path)
    assert same(whole, plain) and whole.facts["pieces"] > 2
    names = []
    for i in range(1, 4):
        part = audit_files(path, part=(i, 3))
        assert part.missing and "INCOMPLETE" in str(part)
        names.append(tmp_path / f"part{i}")
        save_part(part, names[-1])
    merged = merge_parts(names[::-1])
    assert merged == whole and merged.to_dict() == whole.to_dict() and str(merged) == str(whole)
    with pytest.raises(ValueError, match=r"incomplete: .* pieces of the files are in none of the parts"):
        merge_parts(names[:2])
    assert merge_parts(names[:2], partial=True).missing
    with pytest.raises(ValueError, match="is in two parts"):
        merge_parts([*names, names[0]])


def test_pieces_begin_and_end_where_lines_do(tmp_path, small_pieces):
    """Wherever bytes are cut, every line belongs to one piece, with its number."""
    rows = run(count=12)
    path = tmp_path / "log.jsonl"
    path.write_bytes(lines(rows[:5]) + b"broken\n\n" + lines(rows[5:])[:-1])
    logs = find_logs(path)
    pieces = logs.pieces()
    rows_before = logs.rows_before(pieces, range(len(pieces)))
    assert len(pieces) > 2 and list(logs.spans(pieces, range(len(pieces)))) == [0]
    found = [
        (b.rows.tolist(), b.skipped.reasons)
        for number, piece in enumerate(pieces)
        for b, _ in logs.batches(piece, rows_before.get(number, 0))
    ]
    assert [row for numbers, _ in found for row in numbers] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13]
    assert [reasons for _, reasons in found if reasons] == [{"not a line of JSON": (1, 0, 5)}]


def test_processes_give_the_same_bits(tmp_path, plain, small_pieces):
    path = written(tmp_path, run(), "jsonl")
    seen = []
    report = audit_files(path, processes=2, progress=lambda done, total: seen.append((done, total)))
    assert same(report, plain)
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


def test_processes_that_are_killed_or_interrupted(tmp_path, small_pieces, monkeypatch):
    """An error that says what to do; no process outlives the call."""
    path = written(tmp_path, run(), "jsonl")

    def killed(pool, call, *arguments):
        return submit(pool, os._exit, 9)

    submit = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", killed)
    with pytest.raises(OSError, match=r"was killed, perhaps for its memory: read in fewer `processes`"):
        audit_files(path, processes=2)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit_files(path, processes=2, progress=interrupt)
    assert not multiprocessing.active_children()


@pytest.mark.integration
def test_a_cluster_gives_the_same_bits(tmp_path, plain, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("kullback.rollouts.logs.PIECE", 3000)
    monkeypatch.setattr("kullback.rollouts.cluster._TASK_BYTES", 9000)
    path = written(tmp_path, run(), "jsonl")
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        assert same(rollouts.audit_on_cluster(path, scheduler=client), plain)


@pytest.mark.parametrize(
    "damage", [b'{"kullback_rollouts_part": 3}', b'{"kullback_rollouts_part": {"of": "os"', b"{}", b'{"kullback_roll']
)
def test_files_that_are_no_part(tmp_path, plain, damage):
    save_part(plain, tmp_path / "good")
    (tmp_path / "bad").write_bytes(damage)
    with pytest.raises(ValueError, match=r"bad: (a damaged part|no part)"):
        merge_parts([tmp_path / "good", tmp_path / "bad"])


def test_worst_tokens_have_their_context(tmp_path):
    rows = run()
    rows[30]["train"][4] = rows[30]["rollout"][4] - 3.0
    report = audit_files(written(tmp_path, rows, "jsonl"))
    worst = report.worst_tokens(1)[0]
    assert (worst["position"], worst["where"]) == (4, "log.jsonl:31")
    assert worst["context"] == rows[30]["tokens"][:5]
    report.show_tokens(lambda ids: "".join(chr(97 + i % 26) for i in ids))
    text = report.worst_tokens(1)[0]["text"]
    assert text["token"] == chr(97 + rows[30]["tokens"][4] % 26) and len(text["before"]) == 4


def test_fields_that_only_later_rows_have(tmp_path):
    rows = run(count=6)
    del rows[0]["reward"], rows[0]["env"]
    report = audit_files(written(tmp_path, rows, "jsonl"))
    assert list(report.by["env"].points) == ["(none)", "code", "math"] and report.total.means["reward"].count == 5


@pytest.mark.integration
def test_data_frames(plain):
    frame = plain.to_pandas("step")
    assert frame["step"].tolist() == [0, 1, 2] and frame["sequences"].tolist() == [20, 20, 20]
    point = plain.by["step"].points[1]
    assert frame["kl_k3"][1] == point.kl_k3.mean and frame["ess_standard_error"][1] == point.ess.standard_error
    assert len(plain.to_pandas("position")) == len(plain.by_position.points)
    with pytest.raises(ValueError, match="expected one of step, env, worker, position"):
        plain.to_pandas("stage")


def test_a_library_of_no_extra_is_named(plain, monkeypatch):
    """It was a KeyError."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        plain.to_pandas("step")


def test_memory_does_not_grow_with_the_file(tmp_path, small_pieces):
    """Rows are read some at a time: the largest batch of a file of 600 rows is that of one of 60."""
    sizes = []
    for count in (60, 600):
        path = written(tmp_path, run(count=count), "jsonl")
        sizes.append(max(batch.rollout.size for batch in read_rollouts(path)))
    assert sizes[1] <= 2 * sizes[0]
