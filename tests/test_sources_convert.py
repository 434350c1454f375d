"""Converting between formats: read back by the libraries, byte for byte where the format is llama.cpp's."""

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from kullback.kernels.storage import FLOATS

from kullback.cli import main
from kullback.evaluation.sources import open_logits
from kullback.evaluation.sources.convert import convert, encode

EXAMPLES = Path(__file__).parent.parent / "examples"
LIVE = Path(__file__).parent / "data" / "llama_cpp" / "q4_k_m_logits.npy"


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (12, 7)).astype(np.float32)


def stored(logits, kind):
    return logits.astype(kind.name if kind.numpy else getattr(ml_dtypes, kind.name))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("kullback.evaluation.sources.convert.BLOCK_BYTES", 150)


@pytest.mark.integration
@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_safetensors_is_read_by_its_library(tmp_path, logits, kind):
    from safetensors.torch import load_file

    np.savez(tmp_path / "a.npz", logits=logits)
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors", dtype=kind.name)
    tensor = load_file(tmp_path / "b.safetensors")["logits"]
    assert str(tensor.dtype) == f"torch.{kind.name}"
    np.testing.assert_array_equal(tensor.double().numpy(), stored(logits, kind).astype(np.float64))


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_safetensors_of_every_storage(tmp_path, logits, kind):
    np.savez(tmp_path / "a.npz", logits=logits, tokens=np.arange(12) % 7, groups=np.arange(12) // 5)
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors", dtype=kind.name)
    expected = stored(logits, kind)
    back = open_logits(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(back.tokens, np.arange(12) % 7)
    np.testing.assert_array_equal(back.groups, np.arange(12) // 5)
    np.testing.assert_array_equal(back.rows(3, 9), expected[3:9])


@pytest.mark.parametrize("dtype", [None, "float64", "float16"])
def test_npy_is_read_by_numpy(tmp_path, logits, dtype):
    safetensors.numpy.save_file({"logits": logits}, tmp_path / "a.safetensors")
    steps = []
    convert(tmp_path / "a.safetensors", tmp_path / "b.npy", dtype=dtype, progress=lambda *step: steps.append(step))
    array = np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(array, logits.astype(dtype or np.float32))
    assert array.dtype == (dtype or np.float32)
    assert steps == [(5, 12), (10, 12), (12, 12)]


def test_values_beyond_float16_become_infinite(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1e6, -1e6, 2.0]], np.float32))
    convert(tmp_path / "a.npy", tmp_path / "b.npy", dtype="float16")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), [[np.inf, -np.inf, 2.0]])


class TestDumps:
    def test_encoding_is_the_tools(self):
        # rows 0, 1, 18 and 19 of the dump that llama.cpp itself wrote from these very logits
        expected = open_logits(EXAMPLES / "q4_k_m.kld").codes(0, 38)[[0, 1, 18, 19]]
        got = encode(np.load(LIVE))
        for name in ("scale", "min", "code"):
            np.testing.assert_array_equal(got[name], expected[name])

    def test_a_dump_keeps_its_bytes(self, tmp_path):
        convert(EXAMPLES / "f16.kld", tmp_path / "b.kld")
        assert (tmp_path / "b.kld").read_bytes() == (EXAMPLES / "f16.kld").read_bytes()

    def test_a_truncated_dump_is_made_whole(self, tmp_path):
        data = (EXAMPLES / "f16.kld").read_bytes()
        (tmp_path / "a.kld").write_bytes(data[:-10])
        convert(tmp_path / "a.kld", tmp_path / "b.kld", salvage=True)
        whole, salvaged = open_logits(EXAMPLES / "f16.kld"), open_logits(tmp_path / "b.kld")
        assert salvaged.shape == (19, 50257)
        np.testing.assert_array_equal(salvaged.chunk_tokens, whole.chunk_tokens[:1])
        np.testing.assert_array_equal(salvaged.codes(0, 19)["code"], whole.codes(0, 19)["code"])

    def test_from_logits(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        chunks = np.random.default_rng(2).integers(0, 7, (4, 8))  # 3 scored tokens a chunk
        convert(tmp_path / "a.npy", tmp_path / "b.kld", chunk_tokens=chunks)
        back = open_logits(tmp_path / "b.kld")
        np.testing.assert_array_equal(back.chunk_tokens, chunks)
        np.testing.assert_array_equal(back.tokens.reshape(4, 3), chunks[:, 5:])
        exact = logits - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
        # half a code of at most 16/65535 nats, and float32
        assert abs(back.rows(0, 12) - exact).max() < 16 / 65535 / 2 + 2e-6

    @pytest.mark.parametrize("kind", ["npy", "json", "txt", "kld"])
    def test_chunks_on_the_command_line(self, tmp_path, logits, kind):
        np.save(tmp_path / "a.npy", logits)
        chunks = np.random.default_rng(2).integers(0, 7, (4, 8))
        convert(tmp_path / "a.npy", tmp_path / "b.kld", chunk_tokens=chunks)
        path = tmp_path / f"chunks.{kind}"
        if kind == "npy":
            np.save(path, np.asfortranarray(chunks))
        elif kind == "kld":
            path.write_bytes((tmp_path / "b.kld").read_bytes())
        else:
            lines = "\n".join(" ".join(map(str, chunk)) for chunk in chunks)
            path.write_text(json.dumps(chunks.tolist()) if kind == "json" else f"{lines}\n\n")
        names = [str(tmp_path / name) for name in ("a.npy", "c.kld")]
        assert main(["convert", *names, "--chunk-tokens", str(path), "--quiet"]) == 0
        assert (tmp_path / "c.kld").read_bytes() == (tmp_path / "b.kld").read_bytes()

    @pytest.mark.parametrize(
        ("text", "target", "message"),
        [
            ("1 2 3 4\n1 2 3\n", "b.kld", "not a file of token ids"),
            ("", "b.kld", "chunks of tokens have shape (0,), expected (C, n_ctx)"),
            ("1 2 x\n", "b.kld", "not a file of token ids"),
            ("1 2 3 4 5 6 6 6\n" * 3, "b.kld", "scores 9 tokens, expected 12"),
            ("1 2 3 4 5 6 6 6\n" * 4, "b.npy", "--chunk-tokens goes into a llama.cpp dump (.kld)"),
            (None, "b.kld", "`chunk_tokens` (--chunk-tokens) is missing"),
        ],
    )
    def test_chunks_that_do_not_fit(self, tmp_path, logits, capsys, text, target, message):
        np.save(tmp_path / "a.npy", logits)
        given = [] if text is None else ["--chunk-tokens", str(tmp_path / "t.txt")]
        (tmp_path / "t.txt").write_text(text or "")
        assert main(["convert", str(tmp_path / "a.npy"), str(tmp_path / target), *given, "--quiet"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / target).exists()

    def test_special_rows(self):
        x = np.full((6, 3), -1.0, np.float32)
        x[1] = 0  # all equal: no scale
        x[2] = [0, -np.inf, -40]
        x[3, 1] = np.nan
        x[4, 1] = np.inf
        x[5] = -np.inf
        codes = encode(x)
        assert codes["scale"][1] == 0
        np.testing.assert_allclose(codes["min"][1], -np.log(3), rtol=1e-6)
        assert codes["code"][2].tolist() == [65535, 0, 0, 0]
        np.testing.assert_allclose(codes["min"][2], -16, rtol=1e-6)
        assert np.isnan(codes["min"][3:]).all()
        assert np.isnan(codes["scale"][3:]).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, r"`chunk_tokens` \(--chunk-tokens\) is missing"),
            (
                {"chunk_tokens": np.zeros((4, 8))},
                r"`chunk_tokens` is float64 of shape \(4, 8\), expected integers",
            ),
            ({"chunk_tokens": np.zeros((3, 8), int)}, "scores 9 tokens, expected 12"),
            ({"chunk_tokens": np.full((4, 8), 7)}, "has ids from 7 to 7, expected 0 to 6"),
            ({"chunk_tokens": np.ones((4, 8), int)}, "has other scored tokens than the source"),
            ({"dtype": "float16"}, "`dtype` is 'float16'; a llama.cpp dump has 16-bit codes"),
        ],
    )
    def test_wrong_tokens(self, tmp_path, logits, options, message):
        np.savez(tmp_path / "a.npz", logits=logits, tokens=np.zeros(12, int))
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "a.npz", tmp_path / "b.kld", **options)
        with pytest.raises(ValueError, match="a dump that has its own"):
            convert(EXAMPLES / "f16.kld", tmp_path / "b.kld", chunk_tokens=np.zeros((4, 8), int))
        assert os.listdir(tmp_path) == ["a.npz"]


class TestAtomic:
    def test_a_failure_leaves_the_old_file(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        (tmp_path / "b.npy").write_text("old")
        source = open_logits(tmp_path / "a.npy")

        def interrupt(done: int, _total: int) -> None:
            if done > 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "b.npy", progress=interrupt)
        assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy"]
        assert (tmp_path / "b.npy").read_text() == "old"
        convert(source, tmp_path / "b.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), logits)

    def test_onto_itself(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        with pytest.raises(ValueError, match="an output never replaces one"):
            convert(tmp_path / "a.npy", tmp_path / "a.npy", dtype="float16")
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), logits)

    def test_unknown_targets(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        with pytest.raises(ValueError, match="its suffix says no format that is written"):
            convert(tmp_path / "a.npy", tmp_path / "b.txt")
        for dtype in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            with pytest.raises(ValueError, match=rf"{dtype}, which \.npy cannot name"):
                convert(tmp_path / "a.npy", tmp_path / "b.npy", dtype=dtype)
        with pytest.raises(ValueError, match="holds int8, expected one of"):
            convert(tmp_path / "a.npy", tmp_path / "b.npy", dtype="int8")
        with pytest.raises(FileNotFoundError):
            convert(tmp_path / "a.npy", tmp_path / "none" / "b.npy")
