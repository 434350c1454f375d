"""Tensors that torch.save wrote, read in place, without torch and without running anything of the file."""

import contextlib
import os

import ml_dtypes
import numpy as np
import pytest
from torch_writer import save, text

import kullback as kb
from kullback.evaluation.sources.base import FlatRows

RNG = np.random.default_rng(2)
LOGITS = RNG.normal(size=(4, 6, 9)).astype(np.float32)
TOKENS = RNG.integers(0, 9, 24)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_rows(dtype, tmp_path):
    """A tensor alone, and one of several by name, with columns; only the rows asked for are read."""
    x = LOGITS.astype(dtype)
    save(tmp_path / "a.pt", x.reshape(24, 9))
    save(tmp_path / "b.pt", {"logits": x, "tokens": TOKENS, "other": x, "groups": TOKENS // 2})
    for name in ("a.pt", "b.pt"):
        with kb.open_logits(tmp_path / name) as source:
            assert isinstance(source, FlatRows) and source.dtype == dtype
            np.testing.assert_array_equal(source.rows(5, 17), x.reshape(24, 9)[5:17])
            assert source.facts()["format"] == "torch"
    with kb.open_logits(tmp_path / "b.pt", tensor="other") as source:
        np.testing.assert_array_equal(source.tokens, TOKENS)
        np.testing.assert_array_equal(source.groups, TOKENS // 2)
        assert source.stored == (4, 6, 9)


def test_hidden_states_and_a_folder(tmp_path):
    weights = RNG.normal(size=(11, 9)).astype(np.float32)
    save(tmp_path / "w.pt", {"norm": weights[0], "lm_head.weight": weights})
    (tmp_path / "many").mkdir()
    for i in range(4):
        save(tmp_path / "many" / f"{i}.pt", {"hidden_states": LOGITS[i], "extra": LOGITS[i]})
    with kb.open_logits(tmp_path / "many", lm_head=tmp_path / "w.pt", norm="applied") as source:
        np.testing.assert_allclose(source.rows(0, 24), LOGITS.reshape(24, 9) @ weights.T, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(source.groups, np.repeat(np.arange(4), 6))
    with pytest.raises(ValueError, match="are hidden states, not logits"):
        kb.open_logits(tmp_path / "many", tensor="hidden_states")


def test_nothing_of_the_file_is_run(tmp_path):
    """A pickle may name any function: beside tensors it stands for nothing."""
    mark = tmp_path / "mark"
    command = f"touch {mark}"
    call = text("run") + b"cposix\nsystem\n(" + text(command) + b"tR"
    save(tmp_path / "a.pt", {"logits": LOGITS}, more=call)
    with kb.open_logits(tmp_path / "a.pt") as source:
        np.testing.assert_array_equal(source.rows(0, 1), LOGITS[0, :1])
    assert not os.path.exists(mark)


def test_what_is_refused(tmp_path):
    path, x = tmp_path / "a.pt", LOGITS.reshape(24, 9)

    def refused(message):
        with pytest.raises(ValueError, match=message):
            kb.open_logits(path)

    save(path, x, strides=[1, 24])
    refused(r"of shape \(24, 9\) is not contiguous; save it after .contiguous\(\)")
    for offset in (-1, 1, 1 << 30):
        save(path, x, offset=offset)
        refused("reaches beyond its storage")
    save(path, x, compressed=True)
    refused("is compressed, which torch.save does not do")
    save(path, TOKENS.reshape(4, 6))
    refused("no array 'logits'")
    save(path, {"a": x, "b": x})
    refused("no array 'logits'; it holds a, b")
    put = b"r" + (1 << 28).to_bytes(4, "little")  # remembers the dict at a place for which there would be a table
    save(path, {"a": x}, more=text("b") + b"}" + put)
    refused("a place in memory beyond the pickle's length")
    save(path, {"a": x, "b": x})
    data = path.read_bytes()
    for i in range(60, len(data), 37):  # a byte damaged: an error of ours, or other numbers
        path.write_bytes(data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :])
        with contextlib.suppress(ValueError, OSError):
            kb.open_logits(path, tensor="a").rows(0, 24)
    path.write_bytes(data[:-30])
    refused("not a readable")


@pytest.mark.integration
def test_as_torch_writes_it(tmp_path):
    import torch

    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        x = torch.from_numpy(LOGITS).to(dtype)
        for what in (x, {"logits": x[1:], "tokens": torch.arange(18)}, {"logits": torch.nn.Parameter(x)}):
            torch.save(what, tmp_path / "a.pt")
            expected = what if what is x else what["logits"].detach()
            with kb.open_logits(tmp_path / "a.pt") as source:
                got = source.rows(0, source.shape[0]).astype(np.float64)
            np.testing.assert_array_equal(got, expected.double().numpy().reshape(-1, 9))
    torch.save({"logits": x.transpose(1, 2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is not contiguous"):
        kb.open_logits(tmp_path / "a.pt")


def test_a_member_that_claims_to_be_encrypted(tmp_path):
    path = tmp_path / "a.pt"
    save(path, {"logits": np.ones((3, 4), np.float32)})
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a member that is encrypted"):
        kb.open_logits(path)
