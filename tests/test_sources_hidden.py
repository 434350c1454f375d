"""Hidden states and the output layer: the logits they make, and what must be said before they are made."""

import h5py
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import zarr

from kullback.cli import main
from kullback.evaluation.sources import open_logits


class TestHiddenStates:
    @pytest.fixture
    def model(self, tmp_path):
        rng = np.random.default_rng(7)
        hidden = rng.normal(size=(70, 24)).astype(ml_dtypes.bfloat16)
        weights = rng.normal(size=(5000, 24)).astype(np.float16)  # more than one block of the vocabulary
        np.savez(tmp_path / "hidden.npz", hidden)
        path = tmp_path / "model.safetensors"
        tensors = {"lm_head.weight": weights, "model.embed_tokens.weight": weights + 1, "norm": weights[0]}
        safetensors.numpy.save_file(tensors, path)
        safetensors.numpy.save_file({"hidden_states": hidden, "tokens": np.arange(70)}, tmp_path / "h.safetensors")
        return tmp_path, hidden.astype(float) @ weights.astype(float).T

    def test_rows(self, model):
        folder, expected = model
        source = open_logits(folder / "h.safetensors", lm_head=folder / "model.safetensors", norm="applied")
        assert source.shape == (70, 5000)
        got = source.rows(0, 70)
        assert got.dtype == np.float32
        # float32 sums of 24 products of magnitude 1
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
        np.testing.assert_array_equal(source.tokens, np.arange(70))
        for start, stop in [(0, 1), (31, 33), (33, 70), (64, 65)]:
            np.testing.assert_array_equal(source.rows(start, stop), got[start:stop])

    def test_weights_as_a_source(self, model):
        folder, expected = model
        lm_head = open_logits(folder / "model.safetensors", tensor="model.embed_tokens.weight")
        source = open_logits(folder / "h.safetensors", lm_head=lm_head, norm="applied")
        hidden = safetensors.numpy.load_file(folder / "h.safetensors")["hidden_states"].astype(float)
        np.testing.assert_allclose(source.rows(0, 70), expected + hidden.sum(axis=1, keepdims=True), rtol=0, atol=2e-2)

    def test_widths_must_agree(self, model, tmp_path):
        folder, _ = model
        np.save(tmp_path / "w.npy", np.zeros((9, 23), np.float32))
        with pytest.raises(ValueError, match=r"shape \(9, 23\), expected \(V, 24\)"):
            open_logits(folder / "h.safetensors", lm_head=tmp_path / "w.npy", norm="applied")

    def test_layers(self, model, tmp_path):
        """(T, L, H) as vLLM writes it: the layer that is asked for, in every format, whole or in pieces."""
        folder, _ = model
        head = folder / "small.safetensors"
        safetensors.numpy.save_file({"lm_head.weight": np.eye(24, dtype=np.float32)[:9]}, head)
        states = np.random.default_rng(8).normal(size=(40, 3, 24)).astype(np.float32)
        (tmp_path / "many").mkdir()
        for i in range(4):
            part = {"hidden_states": states[10 * i : 10 * i + 10]}
            safetensors.numpy.save_file(part, tmp_path / "many" / f"{i}.safetensors")
        safetensors.numpy.save_file({"hidden_states": states}, tmp_path / "a.safetensors")
        np.save(tmp_path / "b.npy", states)
        np.savez_compressed(tmp_path / "c.npz", hidden_states=states)
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["hidden_states"] = states
        zarr.create_array(tmp_path / "e", data=states, chunks=(7, 2, 24))
        for layer in (1, -1):
            np.save(tmp_path / "one.npy", states[:, layer])
            expected = open_logits(tmp_path / "one.npy", lm_head=head, norm="applied").rows(0, 40)
            for name in ("a.safetensors", "b.npy", "c.npz", "d.h5", "e", "many"):
                with open_logits(tmp_path / name, lm_head=head, norm="applied", layer=layer) as source:
                    assert source.shape == (40, 9)
                    np.testing.assert_array_equal(source.rows(0, 40), expected)
                    np.testing.assert_array_equal(source.rows(9, 33), expected[9:33])
                    assert (source.facts()["norm"], source.facts()["layer"]) == ("applied", layer)

    def test_what_must_be_said(self, model, tmp_path):
        """Hidden states are no logits, and logits of them need the layer and the norm by name."""
        folder, _ = model
        head = folder / "model.safetensors"
        states = np.zeros((6, 3, 24), np.float32)
        safetensors.numpy.save_file({"hidden_states": states}, tmp_path / "a.safetensors")
        np.savez(tmp_path / "b.npz", last_hidden_state=states[:, 0])
        with h5py.File(tmp_path / "c.h5", "w") as file:
            file["run/hidden_states"] = states
        pq.write_table(pa.table({"hidden_states": [[1.0, 2.0]]}), tmp_path / "d.parquet")
        for name in ("a.safetensors", "b.npz", "c.h5", "d.parquet"):
            with pytest.raises(ValueError, match=r"are hidden states, not logits; lm_head \(--lm-head\)"):
                open_logits(tmp_path / name)
        with pytest.raises(ValueError, match="are hidden states, not logits"):
            open_logits(tmp_path / "a.safetensors", tensor="hidden_states")
        for norm in (None, "rms"):
            with pytest.raises(ValueError, match=r'`norm` is .*: say norm="applied"'):
                open_logits(tmp_path / "a.safetensors", lm_head=head, layer=0, norm=norm)
        for layer in (None, 3, -4):
            with pytest.raises(ValueError, match=rf"`layer` is {layer}, expected from 0 to 2, .* \(6, 3, 24\)"):
                open_logits(tmp_path / "a.safetensors", lm_head=head, norm="applied", layer=layer)
        with pytest.raises(ValueError, match=r"`layer` is 0, but .* states of one layer"):
            open_logits(folder / "h.safetensors", lm_head=head, norm="applied", layer=0)
        with pytest.raises(ValueError, match="they go with `lm_head`"):
            open_logits(folder / "hidden.npz", dtype="bfloat16", layer=0)
        command = ["info", str(tmp_path / "a.safetensors")]
        assert main(command) == 2
        assert main([*command, "--lm-head", str(head), "--norm", "applied", "--layer", "-1"]) == 0
