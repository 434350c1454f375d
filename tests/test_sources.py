"""Readers of flat files (.npy, safetensors, llama.cpp dumps), against files written by other means."""

import json
import os
import struct
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from kullback.evaluation.job import compare_files
from kullback.evaluation.sources import LlamaCppLogits, Source, open_logits

EXAMPLES = Path(__file__).parent.parent / "examples"
DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 3, (12, 7)).astype(np.float32)


def check_rows(source: Source, expected: np.ndarray) -> None:
    """Every range of rows, into a new array and into one that is given."""
    rows = len(expected)
    assert source.shape == expected.shape
    assert source.dtype == expected.dtype
    out = np.empty_like(expected)
    for start, stop in [(0, rows), (0, 1), (rows - 1, rows), (3, 8), (5, 5), (0, 4), (4, 9), (1, 3)]:
        got = source.rows(start, stop)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected[start:stop])
        assert source.rows(start, stop, out[start:stop]) is not None
        np.testing.assert_array_equal(out[start:stop], expected[start:stop])


def write_dump(path, tokens, vocab_size, rows) -> None:
    """A `_logits_` file from (scale, min, codes) rows, by the layout alone."""
    chunks, n_ctx = len(tokens), len(tokens[0])
    with open(path, "wb") as file:
        file.write(b"_logits_" + struct.pack("<3i", n_ctx, vocab_size, chunks))
        for chunk in tokens:
            file.write(struct.pack(f"<{n_ctx}i", *chunk))
        for scale, lowest, codes in rows:
            padded = [*codes, 0] if len(codes) % 2 else codes
            file.write(struct.pack("<2f", scale, lowest) + struct.pack(f"<{len(padded)}H", *padded))


class TestNpy:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rows(self, tmp_path, logits, dtype):
        np.save(tmp_path / "a.npy", logits.astype(dtype))
        # NumPy writes bfloat16 and float8_e4m3fn as unnamed words, and float8_e5m2 by a name it does not read itself
        name = np.dtype(dtype).name
        named = name if name in ("bfloat16", "float8_e4m3fn") else None
        check_rows(open_logits(tmp_path / "a.npy", dtype=named), logits.astype(dtype))
        if name == "float8_e5m2":
            np.save(tmp_path / "a.npy", logits.astype(dtype).view("V1"))
            check_rows(open_logits(tmp_path / "a.npy", dtype=name), logits.astype(dtype))

    def test_three_dimensions_are_flattened(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits.reshape(3, 4, 7))
        check_rows(open_logits(tmp_path / "a.npy"), logits)

    def test_big_endian_is_swapped(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits.astype(">f4"))
        check_rows(open_logits(tmp_path / "a.npy"), logits)

    def test_version_2_and_suffix_does_not_matter(self, tmp_path, logits):
        with open(tmp_path / "a.bin", "wb") as file:
            np.lib.format.write_array(file, logits, version=(2, 0))
        check_rows(open_logits(tmp_path / "a.bin"), logits)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4), np.int32), "holds int32, expected one of float64, float32, float16, bfloat16"),
            (np.zeros((3, 4), np.complex64), "holds complex64"),
            (np.zeros((3, 4), np.uint16), 'holds 2-byte words .* say dtype="bfloat16"'),
            (
                np.zeros((3, 4), ml_dtypes.float8_e4m3fn),
                r'holds 1-byte words \(\|V1\); if they are float8_e4m3fn or float8_e5m2 say dtype="float8_e4m3fn" or',
            ),
            (np.zeros(4, np.float32), r"has shape \(4,\), expected \(T, V\) or \(B, T, V\)"),
            (np.zeros((3, 0), np.float32), "a vocabulary of 0 entries"),
            (np.asfortranarray(np.zeros((3, 4), np.float32)), "Fortran order"),
            (np.array([[None, 1]], object), "holds object"),
        ],
    )
    def test_refused_arrays(self, tmp_path, array, message):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=message):
            open_logits(tmp_path / "a.npy")

    def test_dtype_must_agree(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        with pytest.raises(ValueError, match="holds float32, but `dtype` says bfloat16"):
            open_logits(tmp_path / "a.npy", dtype="bfloat16")

    def test_truncated(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        os.truncate(tmp_path / "a.npy", 300)
        with pytest.raises(ValueError, match=r"300 bytes, but its header makes 464 \(12 x 7 float32\)"):
            open_logits(tmp_path / "a.npy")

    def test_no_rows(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((0, 5), np.float32))
        source = open_logits(tmp_path / "a.npy")
        assert source.rows(0, 0).shape == (0, 5)


class TestRows:
    def test_ranges_and_out_are_checked(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        source = open_logits(tmp_path / "a.npy")
        for start, stop in [(-1, 2), (0, 13), (5, 4)]:
            with pytest.raises(ValueError, match=f"rows {start} to {stop} asked for"):
                source.rows(start, stop)
        for out in [
            np.empty((2, 7), np.float64),
            np.empty((3, 7), np.float32),
            np.empty((2, 14), "f4")[:, ::2],
        ]:
            with pytest.raises(ValueError, match="`out` is"):
                source.rows(0, 2, out)

    def test_truncated_while_open(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        source = open_logits(tmp_path / "a.npy")
        os.truncate(tmp_path / "a.npy", 200)
        with pytest.raises(OSError, match="modified since it was opened"):
            source.rows(0, 1)

    def test_replaced_while_open(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        source = open_logits(tmp_path / "a.npy")
        np.save(tmp_path / "b.npy", logits)
        os.replace(tmp_path / "b.npy", tmp_path / "a.npy")
        with pytest.raises(OSError, match="replaced or modified"):
            source.rows(0, 1)
        os.unlink(tmp_path / "a.npy")
        with pytest.raises(FileNotFoundError):
            source.rows(0, 1)

    def test_shrinks_between_check_and_read(self, tmp_path, logits, monkeypatch):
        np.save(tmp_path / "a.npy", logits)
        source = open_logits(tmp_path / "a.npy")
        monkeypatch.setattr("kullback.evaluation.sources.files.LocalFile._check", lambda *_: None)
        os.truncate(tmp_path / "a.npy", 200)
        with pytest.raises(OSError, match="ended at byte 200, 464 were expected"):
            source.rows(0, 12)

    def test_threads_share_a_source(self, tmp_path):
        logits = np.random.default_rng(2).normal(size=(400, 50)).astype(np.float32)
        np.save(tmp_path / "a.npy", logits)
        source, wrong = open_logits(tmp_path / "a.npy"), []

        def read(seed: int) -> None:
            for start in np.random.default_rng(seed).integers(0, 390, 100).tolist():
                if not np.array_equal(source.rows(start, start + 10), logits[start : start + 10]):
                    wrong.append(start)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_thousands_of_sources_hold_no_descriptor(self, tmp_path, logits):
        np.save(tmp_path / "a.npy", logits)
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        sources = [open_logits(tmp_path / "a.npy") for _ in range(3000)]
        assert sources[0].rows(0, 1).shape == (1, 7)
        if before:
            assert len(os.listdir("/proc/self/fd")) <= before + 1

    def test_reads_only_what_is_asked_for(self, tmp_path, logits, monkeypatch):
        np.save(tmp_path / "a.npy", logits)
        safetensors.numpy.save_file({"logits": logits}, tmp_path / "b.safetensors")
        for name in ("a.npy", "b.safetensors"):
            source, asked = open_logits(tmp_path / name), []
            monkeypatch.setattr(
                "kullback.evaluation.sources.files.LocalFile.read_into",
                lambda self, out, offset, asked=asked: asked.append((out.nbytes, self.size - offset)),
            )
            source.rows(3, 5)
            assert asked == [(2 * 7 * 4, 9 * 7 * 4)]
            monkeypatch.undo()

    def test_foreign_files(self, tmp_path):
        for content, message in [
            (b"GGUF\3\0\0\0", "begins with b'GGUF"),
            (b"", "begins with b''"),
            (b'{"choices": []}', "`open_sparse` reads those"),
            (b"_logits2" + bytes(100), "begins with b'_logits2'"),
        ]:
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(ValueError, match=message):
                open_logits(tmp_path / "x")
        with pytest.raises(FileNotFoundError):
            open_logits(tmp_path / "nothing")


class TestSafetensors:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rows_tokens_groups(self, tmp_path, logits, dtype):
        path = tmp_path / "a.safetensors"
        tensors = {
            "other": np.zeros(3, np.float32),
            "logits": logits.astype(dtype),
            "tokens": np.arange(12, dtype=np.int32),
            "groups": np.arange(12) // 5,
        }
        safetensors.numpy.save_file(tensors, path, metadata={"made": "by a test"})
        source = open_logits(path)
        check_rows(source, logits.astype(dtype))
        np.testing.assert_array_equal(source.tokens, np.arange(12))
        np.testing.assert_array_equal(source.groups, np.arange(12) // 5)
        assert source.tokens.dtype == source.groups.dtype == np.int64
        assert source.facts()["groups"] == 3

    def test_which_tensor(self, tmp_path, logits):
        path = tmp_path / "a.safetensors"
        save = safetensors.numpy.save_file
        save({"x": logits.reshape(3, 4, 7), "bias": np.zeros(7, np.float32)}, path)
        check_rows(open_logits(path), logits)
        save({"x": logits, "y": logits + 1}, path)
        check_rows(open_logits(path, tensor="y"), logits + 1)
        with pytest.raises(ValueError, match="no array 'logits'; it holds x, y, see `tensor`"):
            open_logits(path)
        with pytest.raises(ValueError, match="no array 'z'; it holds x, y"):
            open_logits(path, tensor="z")
        save({"x": np.zeros((2, 2), np.int8)}, path)
        with pytest.raises(ValueError, match="tensor 'x': holds I8"):
            open_logits(path, tensor="x")

    def test_windows_of_one_file(self, tmp_path, logits):
        path = tmp_path / "a.safetensors"
        windows = {f"logits_{i}": logits[i : i + 1].reshape(1, 1, 7) for i in range(12)}
        safetensors.numpy.save_file(windows, path)
        source = open_logits(path)
        check_rows(source, logits)  # in numeric order: 2 before 10
        np.testing.assert_array_equal(source.groups, np.arange(12))
        assert source.facts()["parts"] == 12

    def test_truncated(self, tmp_path, logits):
        path = tmp_path / "a.safetensors"
        safetensors.numpy.save_file({"logits": logits}, path)
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(ValueError, match="the file is truncated"):
            open_logits(path)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"", "a safetensors header of 0 bytes"),
            (b"nonsense", "is not JSON"),
            (b"[1, 2]  ", "is list, expected an object"),
            (b"[" * 100_000, "is not JSON"),
            ({"logits": {"dtype": "F32", "shape": [2, 3]}}, "without a valid dtype, shape and data_offsets"),
            ({"logits": {"dtype": "F32", "shape": [2, -3], "data_offsets": [0, 24]}}, "without a valid"),
            ({"logits": {"dtype": "F32", "shape": [2, 3.0], "data_offsets": [0, 24]}}, "without a valid"),
            ({"logits": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}}, "truncated"),
            ({"logits": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 10**20]}}, "truncated"),
            (
                {"logits": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 24]}},
                "has 24 bytes of",
            ),
            (
                {"logits": {"dtype": "F32", "shape": [10**30, 3], "data_offsets": [0, 24]}},
                "than a file can hold",
            ),
            ({"logits": 3}, "without a valid"),
        ],
    )
    def test_damaged_headers(self, tmp_path, header, message):
        data = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(24))
        with pytest.raises(ValueError, match=message):
            open_logits(tmp_path / "a.safetensors")

    def test_header_length_beyond_the_file(self, tmp_path):
        for length in (2**63, 10**8 + 1, 50):
            (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
            with pytest.raises(ValueError, match=f"a safetensors header of {length} bytes in a file of 10 bytes"):
                open_logits(tmp_path / "a.safetensors")

    def test_columns_must_fit(self, tmp_path, logits):
        path = tmp_path / "a.safetensors"
        for tokens, message in [
            (np.arange(11), "tensor 'tokens' has 88 bytes of data, expected 96"),
            (np.zeros(12, np.float32), "tensor 'tokens' holds F32, expected integers"),
        ]:
            safetensors.numpy.save_file({"logits": logits, "tokens": tokens}, path)
            with pytest.raises(ValueError, match=message):
                open_logits(path)


class TestLlamaCpp:
    @pytest.mark.parametrize(("n_ctx", "first", "vocab_size"), [(6, 3, 4), (7, 3, 5), (4, 2, 1)])
    def test_layout(self, tmp_path, n_ctx, first, vocab_size):
        # odd and even contexts and vocabularies; codes count up so that a shift of a word would show
        scored, rng = n_ctx - 1 - first, np.random.default_rng(3)
        tokens = rng.integers(0, vocab_size, (2, n_ctx)).tolist()
        codes = (np.arange(2 * scored * vocab_size).reshape(-1, vocab_size) * 977 % 65536).tolist()
        rows = [(np.float32(1e-4 * (i + 1)), np.float32(-20 - i), row) for i, row in enumerate(codes)]
        write_dump(tmp_path / "a", tokens, vocab_size, rows)
        source = open_logits(tmp_path / "a")
        expected = np.array(
            [[np.float32(scale * np.float32(c)) + low for c in row] for scale, low, row in rows], np.float32
        )
        assert source.shape == (2 * scored, vocab_size)
        np.testing.assert_array_equal(source.rows(0, len(rows)), expected)
        np.testing.assert_array_equal(source.rows(1, 2), expected[1:2])
        np.testing.assert_array_equal(source.tokens, [t for chunk in tokens for t in chunk[first + 1 :]])
        np.testing.assert_array_equal(source.groups, np.repeat([0, 1], scored))
        np.testing.assert_array_equal(source.chunk_tokens, tokens)
        np.testing.assert_array_equal(source.codes(0, 2)["code"][:, :vocab_size], codes[:2])

    def test_example(self):
        source = open_logits(EXAMPLES / "f16.kld")
        assert isinstance(source, LlamaCppLogits)
        assert source.shape == (38, 50257)
        out = np.empty(5, source.codes(0, 0).dtype)
        assert source.codes(3, 8, out) is out
        rows = source.rows(0, 38)
        # the rows were normalised before the tail was clipped: they sum to 1 or a little more
        total = np.exp(rows.astype(float)).sum(axis=1)
        assert (total > 0.9999).all()
        assert (total < 1.02).all()
        facts = source.facts()
        assert facts["window"] == 16
        assert facts["rows_read"] == 38
        assert facts["clipped_targets"] == 1
        assert json.loads(json.dumps(facts)) == facts

    def test_facts_are_complete_after_check(self):
        fresh = open_logits(EXAMPLES / "q4_k_m.kld")
        assert fresh.facts()["rows_read"] == 0
        assert fresh.check() == {**fresh.facts(), "rows_read": 38, "clipped_targets": 1}

    def test_window_of_24_nats(self, tmp_path):
        for nats, window in [(11.0, 16.0), (16.0, 16.0), (16.3, 24.0), (24.0, 24.0), (30.0, 30.0)]:
            rows = [(nats / 65535, -nats, [0, 65535]), (5 / 65535, -5, [0, 65535])]
            write_dump(tmp_path / "a", [[0, 1, 1, 0]] * 2, 2, rows)
            assert open_logits(tmp_path / "a").facts()["window"] == pytest.approx(window)

    def test_truncated(self, tmp_path):
        rows = [(1e-4, -5, [i, 7, 9]) for i in range(6)]
        write_dump(tmp_path / "a", [[0, 1, 2, 0, 1, 2]] * 3, 3, rows)
        whole = open_logits(tmp_path / "a").rows(0, 6)
        size = (tmp_path / "a").stat().st_size
        os.truncate(tmp_path / "a", size - 1)
        with pytest.raises(ValueError, match="truncated, 2 of its 3 chunks are complete; salvage=True"):
            open_logits(tmp_path / "a")
        source = open_logits(tmp_path / "a", salvage=True)
        np.testing.assert_array_equal(source.rows(0, 4), whole[:4])
        assert source.shape == (4, 3)
        assert (source.facts()["chunks"], source.facts()["announced_chunks"]) == (2, 3)
        os.truncate(tmp_path / "a", size - 6 * 16 + 15)
        with pytest.raises(ValueError, match="none of its 3 chunks is complete"):
            open_logits(tmp_path / "a", salvage=True)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ((3, 5, 1), "llama.cpp does not write"),
            ((6, 0, 1), "llama.cpp does not write"),
            ((6, 5, -1), "llama.cpp does not write"),
            ((2**31 - 1, 2**31 - 1, 2**31 - 1), "truncated, 0 of its 2147483647 chunks"),
            ((6, 2, 1), "make 68 bytes, but it has 4020"),
        ],
    )
    def test_hostile_headers(self, tmp_path, header, message):
        (tmp_path / "a").write_bytes(b"_logits_" + struct.pack("<3i", *header) + bytes(4000))
        with pytest.raises(ValueError, match=message):
            open_logits(tmp_path / "a")

    def test_damaged_content(self, tmp_path):
        write_dump(tmp_path / "a", [[0, 1, 2, 3]], 3, [(1e-4, -5, [1, 2, 3])])
        with pytest.raises(ValueError, match="token ids from 0 to 3, expected 0 to 2"):
            open_logits(tmp_path / "a")
        write_dump(tmp_path / "a", [[0, 1, 2, 0]], 3, [(-1e-4, -5, [1, 2, 3])])
        with pytest.raises(ValueError, match="expected 0 or more; the file is damaged"):
            open_logits(tmp_path / "a")
        (tmp_path / "a").write_bytes(b"_logits_" + bytes(4))
        with pytest.raises(ValueError, match=r"12 bytes; a llama\.cpp dump has a header of 20"):
            open_logits(tmp_path / "a")

    def test_rows_of_nan_stay_nan(self, tmp_path):
        write_dump(tmp_path / "a", [[0, 1, 2, 0]], 3, [(float("nan"), float("nan"), [1, 2, 3])])
        source = open_logits(tmp_path / "a")
        assert np.isnan(source.rows(0, 1)).all()
        assert source.facts()["window"] == 16


def test_a_name_for_an_array_without_one_is_refused(tmp_path):
    """`tensor` was ignored there, so that a misspelt path read another array than the one that was meant."""
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "p.npy", rows)
    np.savez(tmp_path / "q.npz", logits=rows, other=rows + 1)
    (tmp_path / "short.kld").write_bytes((EXAMPLES / "f16.kld").read_bytes())
    (tmp_path / "shards").mkdir()
    np.save(tmp_path / "shards" / "logits_0.npy", rows)
    for name in ("p.npy", "short.kld", "shards"):
        with pytest.raises(
            ValueError, match=r"`tensor` .* is 'other', but .* without a name; \.npz, safetensors, HDF5"
        ):
            open_logits(tmp_path / name, tensor="other")
    with pytest.raises(ValueError, match="without a name"):
        compare_files(tmp_path / "p.npy", tmp_path / "p.npy", tensor="other")
    # beside a file that has names it is for that one
    found = compare_files(tmp_path / "p.npy", tmp_path / "q.npz", tensor="other")
    assert found.facts["q"]["shape"] == [3, 4]
    assert open_logits(tmp_path / "q.npz", tensor="other").array == "other"
