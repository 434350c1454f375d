"""Folders of llama.cpp dumps and other shards: the numbers, codes and groups of the one file they were cut from."""

import io

import numpy as np
import pytest
import safetensors.numpy

from kullback.evaluation.job import compare_files
from kullback.evaluation.merging import merge_logs
from kullback.evaluation.sources import Dump, open_logits
from kullback.evaluation.sources.convert import convert
from kullback.evaluation.terminal import print_summaries

CHUNKS, N_CTX, V = 6, 12, 301
SCORED = N_CTX - 1 - N_CTX // 2
RNG = np.random.default_rng(7)
TABLE = RNG.integers(0, V, (CHUNKS, N_CTX))
P = RNG.normal(0, 6, (CHUNKS * SCORED, V)).astype(np.float32)  # many entries are 16 nats under the maximum
Q = (P + RNG.normal(0, 0.3, P.shape)).astype(np.float32)


def dumps(folder, name, logits, cuts):
    """The whole dump, and a folder of it cut after these chunks."""
    np.save(folder / "x.npy", logits)
    convert(folder / "x.npy", folder / f"{name}.kld", chunk_tokens=TABLE)
    (folder / name).mkdir()
    for i, (first, stop) in enumerate(zip([0, *cuts], [*cuts, CHUNKS], strict=True)):
        np.save(folder / "x.npy", logits[first * SCORED : stop * SCORED])
        convert(folder / "x.npy", folder / name / f"logits_{i}.kld", chunk_tokens=TABLE[first:stop])


@pytest.fixture
def files(tmp_path):
    dumps(tmp_path, "p", P, [1, 4])
    dumps(tmp_path, "q", Q, [2])
    np.save(tmp_path / "live.npy", Q)
    return tmp_path


@pytest.mark.parametrize("q", ["q.kld", "q", "live.npy"])
@pytest.mark.parametrize("convention", [None, "llama.cpp"])
def test_a_folder_of_dumps_is_the_dump(files, q, convention):
    options = {"jensen_shannon": True, "top_k": [3], "convention": convention, "chunk_bytes": 7000}
    expected = compare_files(files / "p.kld", files / q.replace("q", "q.kld", q == "q"), **options)
    found = compare_files(files / "p", files / q, **options)
    assert found == expected  # to the bit: KL from codes, clipping, groups, positions, worst tokens
    assert "clipping" in found.parts
    assert "codes tell" in found.facts["method"]
    assert found.facts["p"]["n_ctx"] == N_CTX
    assert found.facts["p"]["chunks"] == found.facts["p"]["announced_chunks"] == CHUNKS
    assert found.kl.groups == CHUNKS
    assert "warnings" not in found.facts


def test_its_codes_and_facts(files):
    with open_logits(files / "p") as folder, open_logits(files / "p.kld") as whole:
        assert isinstance(folder, Dump)
        np.testing.assert_array_equal(folder.codes(0, len(P)), whole.codes(0, len(P)))
        np.testing.assert_array_equal(folder.codes(3, 17), whole.codes(3, 17))
        np.testing.assert_array_equal(folder.groups, whole.groups)
        np.testing.assert_array_equal(folder.chunk_tokens, TABLE)
        assert folder.window == whole.window
        for name, value in whole.check().items():
            if name != "path":
                assert folder.check()[name] == value
    convert(files / "p", files / "back.kld")
    assert (files / "back.kld").read_bytes() == (files / "p.kld").read_bytes()


def test_its_checkpoints_merge(files):
    for i, rows in enumerate([(0, 11), (11, len(P))]):
        compare_files(files / "p", files / "q", rows=rows, checkpoint=files / f"log{i}")
    (merged,) = merge_logs([files / "log0", files / "log1"]).summaries
    assert merged == compare_files(files / "p.kld", files / "q.kld")


def test_dumps_of_two_windows_are_refused(files):
    path = files / "p" / "logits_1.kld"
    raw = bytearray(path.read_bytes())
    at = 20 + 4 * 3 * N_CTX
    scale = np.frombuffer(raw, "<f4", 1, at)[0]
    raw[at : at + 4] = np.float32(scale * 1.5).tobytes()  # 24 nats
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="written by different programs"):
        open_logits(files / "p")


def test_dumps_among_other_files_are_refused(files):
    np.save(files / "p" / "logits_1.npy", P[:5])
    (files / "p" / "logits_1.npy").replace(files / "p" / "logits_1.kld")
    with pytest.raises(ValueError, match=r"logits_1\.kld is npy, .* expected one kind"):
        open_logits(files / "p")


def shards(folder, name, groups, cuts=(10, 20)):
    (folder / name).mkdir(parents=True)
    for i, part in enumerate(np.split(np.arange(len(P)), cuts)):
        columns = {} if groups is None or groups[i] is None else {"groups": np.asarray(groups[i])}
        safetensors.numpy.save_file({"logits": P[part]} | columns, folder / name / f"row_{i}.safetensors")
    return folder / name


TEN = [0] * 4 + [1] * 6


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([TEN, TEN, TEN], [0] * 4 + [1] * 6 + [2] * 4 + [3] * 6 + [4] * 4 + [5] * 6),  # each begins again
        ([[0] * 10, [0] * 10, [0] * 10], np.repeat([0, 1, 2], 10)),
        ([[3] * 4 + [5] * 6, [5] * 10, [5] * 9 + [9]], [3] * 4 + [5] * 25 + [9]),  # a document over three shards
        ([TEN, None, TEN], [0] * 4 + [1] * 6 + [2] * 10 + [3] * 4 + [4] * 6),
        (None, np.repeat([0, 1, 2], 10)),
    ],
)
def test_groups_of_shards(tmp_path, groups, expected):
    with open_logits(shards(tmp_path, "p", groups)) as source:
        np.testing.assert_array_equal(source.groups, expected)
        assert source.by_shard == (groups is None)


def test_sources_that_disagree_on_groups_are_told(tmp_path):
    stored = shards(tmp_path, "stored", [TEN, TEN, TEN])
    others = {
        "same": shards(tmp_path, "same", [[5] * 4 + [7] * 6] * 3),
        "layout": shards(tmp_path, "layout", None, (7, 13)),
        "other": shards(tmp_path, "other", [[0] * 3 + [1] * 7, TEN, TEN]),
    }
    for name, path in others.items():
        for first, second in ((stored, path), (path, stored)):
            found = compare_files(first, second)
            lines = [line for line in found.facts.get("warnings", []) if "divide the rows" in line]
            assert len(lines) == (name == "other")
            assert found.kl.groups == 6
    assert "from row 3 on; those of the latter are used" in lines[0]
    out = io.StringIO()
    print_summaries([found], out)
    assert "suspicious: " in out.getvalue()
    found = compare_files(others["layout"], shards(tmp_path, "third", None))
    assert "divide the rows" in found.facts["warnings"][0]
