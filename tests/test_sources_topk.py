"""Top-k groups of arrays and HFKLDR read into sparse rows, as their writers lay them out."""

import json
import struct

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import zarr
from torch_writer import save

from kullback.cli import main
from kullback.evaluation.sources import open_logits, open_sparse

RNG = np.random.default_rng(4)
B, T, V, K = 3, 5, 40, 6
LOGITS = 3 * RNG.normal(size=(B, T, V))
LOG_PROBS = LOGITS - np.log(np.exp(LOGITS).sum(axis=2, keepdims=True))
READ = RNG.integers(0, V, (B, T))
IDS = np.argsort(-LOGITS, axis=2)[..., :K].copy()  # by falling probability, as some write them
UNSORTED = IDS[..., RNG.permutation(K)].copy(order="C")  # argpartition's order, as mlx-lm has it


def of(x, ids):
    return np.take_along_axis(x, ids, 2)


def check(rows, ids, log_probs, tokens, groups, tolerance=0.0):
    np.testing.assert_array_equal(rows.indptr, K * np.arange(len(tokens) + 1))
    np.testing.assert_array_equal(rows.ids, ids.ravel())
    np.testing.assert_allclose(rows.log_probs, log_probs.ravel(), rtol=tolerance, atol=0)
    np.testing.assert_array_equal(rows.tokens, tokens)
    np.testing.assert_array_equal(rows.groups, groups)
    for row, token in enumerate(tokens):
        at = np.flatnonzero(ids.reshape(-1, K)[row] == token)
        expected = log_probs.reshape(-1, K)[row, at[0]] if at.size else np.nan
        np.testing.assert_allclose(rows.target_log_probs[row], expected, rtol=tolerance)


FLAT = {"ids": IDS.reshape(-1, K), "log_probs": of(LOG_PROBS, IDS).reshape(-1, K), "tokens": READ.ravel(),
        "groups": np.repeat([7, 3, 5], T)}  # fmt: skip


def test_every_container(tmp_path):
    """One group under the names of ours, in each format."""
    safetensors.numpy.save_file(FLAT, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **FLAT)
    np.savez_compressed(tmp_path / "c.npz", **FLAT)
    save(tmp_path / "d.pt", FLAT)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for name, x in FLAT.items():
            file[name] = x
    group = zarr.create_group(tmp_path / "f")
    for name, x in FLAT.items():
        group.create_array(name, data=x, chunks=(4, *x.shape[1:]))
    for name in ("a.safetensors", "b.npz", "c.npz", "d.pt", "e.h5", "f"):
        rows = open_sparse(tmp_path / name, vocab_size=V)
        check(rows, IDS, FLAT["log_probs"], READ.ravel(), FLAT["groups"])
        assert (rows.vocab_size, rows.notes["normalised_over"]) == (V, "the vocabulary")
        with pytest.raises(ValueError, match="token ids up to 39, expected 0 to 38"):
            open_sparse(tmp_path / name, vocab_size=39)


def test_a_member_that_claims_more_than_its_file_has(tmp_path):
    """Python's zipfile would ask for all of it at once."""
    np.savez_compressed(tmp_path / "a.npz", **FLAT)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.index(b"PK\x01\x02")  # the entry of `ids` in the directory
    data[at + 20 : at + 24] = struct.pack("<I", 1 << 30)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="member 'ids' claims 1073741824 bytes of"):
        open_sparse(tmp_path / "a.npz", vocab_size=V)


def test_a_cache_of_mlx_kld(tmp_path):
    """Batches of bfloat16 log-softmax with the tokens read: the next one of a sequence is the target."""
    mask = np.ones((B, T), np.bool_)
    mask[2, 3:] = False
    for i, part in enumerate((slice(0, 2), slice(2, 3))):
        batch = {
            "top_k_log_softmax": of(LOG_PROBS, IDS)[part].astype(ml_dtypes.bfloat16),
            "top_k_indices": IDS[part].astype(np.int32),
            "token_ids": READ[part].astype(np.int32),
            "attention_mask": mask[part],
            "floor_kld": np.zeros((B, T), np.float32)[part],
        }
        safetensors.numpy.save_file(batch, tmp_path / f"batch-{i:05d}.safetensors")
    manifest = {"format_version": 1, "vocab_size": V, "num_batches": 2, "top_k": K, "teacher_path": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    rows = open_sparse(tmp_path)
    assert (rows.vocab_size, rows.notes["stored"], rows.notes["parts"]) == (V, "bfloat16", 2)
    targets = np.concatenate([READ[:, 1:], np.full((B, 1), -1)], axis=1)
    targets[2, 2] = -1  # the next token is padding
    kept = mask.ravel()
    stored = of(LOG_PROBS, IDS).astype(ml_dtypes.bfloat16).astype(float).reshape(-1, K)[kept]
    check(rows, IDS.reshape(-1, K)[kept], stored, targets.ravel()[kept], np.repeat(np.arange(B), T)[kept])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"num_batches": 3}))
    with pytest.raises(ValueError, match=r"2 shards, expected 3 as manifest\.json says"):
        open_sparse(tmp_path)
    for text in ("[]", "{", '{"vocab_size": "x"}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="not a manifest of shards"):
            open_sparse(tmp_path)


def test_targets_of_dwq(tmp_path, capsys):
    """Logits of the listed ids alone: nothing tells their mass, so that they are read only where that is accepted."""
    path = tmp_path / "0000000000.safetensors"
    batch = {"logits": of(LOGITS, UNSORTED).astype(np.float16), "indices": UNSORTED.astype(np.uint32)}
    safetensors.numpy.save_file(batch, path)
    with pytest.raises(ValueError, match="without what normalises them over the vocabulary; over_listed=True"):
        open_sparse(path)
    rows = open_sparse(path, over_listed=True)
    stored = batch["logits"].astype(float)
    expected = stored - np.log(np.exp(stored).sum(axis=2, keepdims=True))
    check(rows, UNSORTED, expected, np.full(B * T, -1), np.repeat(np.arange(B), T), tolerance=1e-12)
    np.testing.assert_allclose(rows.mass, 1)
    assert rows.notes["normalised_over"] == "the ids listed"
    with pytest.raises(ValueError, match=r"'logits' has the values of the ids in 'indices', not of a vocabulary"):
        open_logits(path)
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["normalised_over"] == "the ids listed"


def test_logits_with_their_normaliser(tmp_path):
    """NeMo-Aligner's names: log-probabilities over the vocabulary, whatever is listed."""
    arrays = {
        "target_topk_logits": of(LOGITS, IDS), "target_topk_token_ids": IDS,
        "target_log_sum_exp_logits": np.log(np.exp(LOGITS).sum(axis=2)),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    rows = open_sparse(tmp_path / "a.npz")
    check(rows, IDS, of(LOG_PROBS, IDS), np.full(B * T, -1), np.repeat(np.arange(B), T), tolerance=1e-12)
    np.savez(tmp_path / "a.npz", **arrays | {"target_log_sum_exp_logits": np.zeros(3)})
    with pytest.raises(ValueError, match="target_log_sum_exp_logits has 3 values, expected 15, one a row"):
        open_sparse(tmp_path / "a.npz")


def test_shards_keep_their_groups(tmp_path):
    for i in range(3):
        part = slice(T * i, T * (i + 1))
        shard = {name: x[part] for name, x in FLAT.items()} | {"groups": np.array([0, 0, 1, 1, 2])}
        np.savez(tmp_path / f"shard_{i}.npz", **shard)
    rows = open_sparse(tmp_path)
    groups = np.concatenate([np.array([0, 0, 1, 1, 2]) + 3 * i for i in range(3)])
    check(rows, IDS, FLAT["log_probs"], READ.ravel(), groups)
    assert rows.facts()["groups"] == 9


def test_what_is_left_out_and_counted(tmp_path):
    """Sentinels, padding of ids, and an id that a row lists twice."""
    ids = np.array([[3, 4, 5], [7, 7, 8], [9, -1, -1]])
    values = np.array([[-0.5, -np.inf, -9999.0], [-0.5, -0.7, -2.0], [-0.1, np.nan, -1.0]])
    np.savez(tmp_path / "a.npz", ids=ids, log_probs=values, tokens=np.array([4, 7, 9]))
    rows = open_sparse(tmp_path / "a.npz")
    np.testing.assert_array_equal(rows.ids, [3, 7, 8, 9])
    np.testing.assert_array_equal(rows.log_probs, [-0.5, -0.5, -2.0, -0.1])
    np.testing.assert_array_equal(rows.target_log_probs, [np.nan, -0.5, -0.1])
    assert (rows.notes["sentinels"], rows.notes["repeated"]) == (4, 1)


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.npz"

    def refused(message, **arrays):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            open_sparse(path)

    refused("no ids and log-probabilities of one shape", a=np.zeros((2, 3)))
    refused("no ids and log-probabilities of one shape", ids=IDS[0], log_probs=LOG_PROBS[0])
    refused("ids is float64, expected integers", ids=IDS[0] + 0.5, log_probs=LOG_PROBS[0, :, :K])
    refused("is no log-probability; are they logits", ids=IDS[0], log_probs=np.full((T, K), 2.0))
    refused("no position with log-probabilities", ids=IDS[0][:0], log_probs=LOG_PROBS[0, :0, :K])
    mask = np.ones(3)
    refused("attention_mask has 3 values", ids=IDS[0], log_probs=LOG_PROBS[0, :, :K], attention_mask=mask)
    refused("groups is int64 of shape", ids=IDS[0], log_probs=LOG_PROBS[0, :, :K], groups=READ)


def test_no_format_takes_them_for_a_vocabulary(tmp_path):
    """Beside ids of one shape, values are no rows of logits; a name that is asked for is no excuse."""
    arrays = {"logits": of(LOGITS, IDS).reshape(-1, K), "indices": IDS.reshape(-1, K)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    np.savez(tmp_path / "b.npz", **arrays)
    save(tmp_path / "c.pt", arrays)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name, x in arrays.items():
            file[name] = x
    group = zarr.create_group(tmp_path / "e")
    for name, x in arrays.items():
        group.create_array(name, data=x)
    for name in ("a.safetensors", "b.npz", "c.pt", "d.h5", "e"):
        for tensor in (None, "logits"):
            with pytest.raises(ValueError, match=r"'logits' has the values of the ids in 'indices'"):
                open_logits(tmp_path / name, tensor=tensor)
    np.savez(tmp_path / "f.npz", logits=arrays["logits"], indices=np.arange(B * T))  # numbers of rows
    assert open_logits(tmp_path / "f.npz").shape == (B * T, K)


class TestHfkldr:
    CONTEXT, CHUNKS = 9, 3  # scored: positions 4 to 7

    def data(self, tokens, ids, log_probs, version=1, top_k=K):
        rest = 1 - np.exp(log_probs).sum(axis=1)
        head = struct.pack("<8sIIIIHHI", b"HFKLDR\0\0", version, self.CONTEXT, V, self.CHUNKS, top_k, 0, 0)
        blocks = [
            i.astype("<u4").tobytes() + p.astype("<f4").tobytes() + struct.pack("<fI", r, 0)
            for i, p, r in zip(ids, log_probs, rest, strict=True)
        ]
        return head + tokens.astype("<u4").tobytes() + b"".join(blocks)

    def test_rows(self, tmp_path, capsys):
        tokens = RNG.integers(0, V, (self.CHUNKS, self.CONTEXT))
        ids, log_probs = IDS.reshape(-1, K)[:12], of(LOG_PROBS, IDS).reshape(-1, K)[:12].astype(np.float32)
        path = tmp_path / "a.kldref.bin"
        data = self.data(tokens, ids, log_probs)
        assert len(data) == 32 + 4 * 27 + 12 * (8 + 8 * K)  # 2,056 bytes a token of K = 256
        path.write_bytes(data)
        rows = open_sparse(path)
        check(rows, ids, log_probs.astype(float), tokens[:, 5:].ravel(), np.repeat([0, 1, 2], 4))
        assert rows.vocab_size == V and rows.notes["largest_gap"] < 1e-6
        assert main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["format"] == "hfkldr"
        with pytest.raises(ValueError, match="HFKLDR, which holds top-k log-probabilities"):
            open_logits(path)
        for wrong, message in [
            (data[:-1], "truncated, or of another layout"),
            (data + b"\0", "truncated, or of another layout"),
            (data[:20], "20 bytes of a header of 32"),
            (self.data(tokens, ids, log_probs, version=2), "of version 2, expected 1"),
            (self.data(tokens, ids, log_probs, top_k=0), "truncated, or of another layout"),
            (self.data(tokens, ids + V, log_probs), "expected 0 to 39"),
        ]:
            path.write_bytes(wrong)
            with pytest.raises(ValueError, match=message):
                open_sparse(path)
