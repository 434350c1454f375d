"""Where the numbers lie must not matter: dtypes, strides, broadcasting, memory maps, odd sizes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import reference
from kullback.kernels.storage import FLOATS as FLOAT_KINDS
from strategies import (
    BFLOAT16,
    OF_ML_DTYPES,
    PAIR_FUNCTIONS,
    ROW_FUNCTIONS,
    STORAGES,
    affine_dtype,
    bound,
    error,
    logit_rows,
    relative_error,
    stored,
)

import kullback as kb

SIZES = [
    1,
    2,
    3,
    5,
    7,
    8,
    15,
    16,
    17,
    31,
    33,
    127,
    997,
    1024,
    1025,
    2047,
    2048,
    2049,
    4096,
    6143,
    50_257,
    128_256,
]
FLOATS = [storage for storage in STORAGES if storage != "affine"]


def kl(p, q, **options):
    return kb.kl_divergence(p, q, given="logits", **options)


# ---- dtypes and sizes ----


@pytest.mark.parametrize("storage_p", STORAGES)
@pytest.mark.parametrize("storage_q", STORAGES)
def test_every_pair_of_dtypes(storage_p, storage_q):
    for vocab in (1, 6, 301, 4999):
        a, b = logit_rows(3, vocab, noise=0.3)
        p, q = stored(a, storage_p), stored(b, storage_q)
        limit = bound(storage_p, storage_q)
        for name, (ours, truth) in PAIR_FUNCTIONS.items():
            assert error(name, ours(p, q, given="logits"), truth(p, q)) < limit


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("vocab", [*SIZES, 262_144])
def test_every_size(storage, vocab):
    a, b = logit_rows(2, vocab, noise=0.1)
    p, q = stored(a, storage), stored(b, storage)
    assert relative_error(kl(p, q), reference.kl_divergence(p, q)) < bound(storage)


def test_the_mixed_pair_of_float64_and_float32_is_computed_in_float64():
    a, b = logit_rows(3, 4999, noise=1e-4)
    p = a.astype(np.float32)
    for x, y in ((p, b), (b, p)):
        assert relative_error(kl(x, y), reference.kl_divergence(x, y)) < 1e-11


@pytest.mark.parametrize("storage", [kind.name for kind in FLOAT_KINDS if kind.bytes <= 2])
def test_every_16_and_8_bit_value_is_read_exactly(storage):
    """All finite patterns, zeros and subnormals with them, against what NumPy and ml_dtypes make of them."""
    dtype = np.dtype(OF_ML_DTYPES.get(storage, storage))
    patterns = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    with np.errstate(invalid="ignore"):
        values = patterns.astype(np.float32).astype(np.float64)
    usable = np.isfinite(values) & (np.abs(values) < 1e5)
    got = kb.logsumexp(patterns[usable][:, None])
    np.testing.assert_array_equal(got, values[usable])


def test_affine_rows_decode_as_written():
    """float32(scale · code) + min, the rounding of the readers of such dumps."""
    rng = np.random.default_rng(0)
    rows = np.zeros(5, affine_dtype(998))
    rows["scale"] = rng.uniform(1e-5, 3e-4, 5)
    rows["min"] = rng.uniform(-30, -16, 5)
    rows["code"] = rng.integers(0, 65536, (5, 998))
    plain = reference.decode(rows).astype(np.float32)
    np.testing.assert_array_equal(kl(rows, plain, vocab_size=997), np.zeros(5))
    np.testing.assert_array_equal(kb.compare(rows, plain).top1_p, plain.argmax(-1))
    assert error("logsumexp", kb.logsumexp(rows), reference.logsumexp(plain)) < 1e-6


@pytest.mark.integration
def test_torch_shares_its_memory():
    torch = pytest.importorskip("torch")
    a, b = (torch.from_numpy(x) for x in logit_rows(4, 997))
    np.testing.assert_array_equal(kl(a, b), kl(a.numpy(), b.numpy()))
    np.testing.assert_array_equal(kl(a[:, :-1], b[:, :-1]), kl(a.numpy()[:, :-1], b.numpy()[:, :-1]))
    for dtype in (getattr(torch, kind.name) for kind in FLOAT_KINDS if kind.bytes < 8):
        p, q = a.to(dtype), b.to(dtype)
        for part in ((slice(None), slice(None)), (slice(1, None), slice(None, None, 2))):
            truth = reference.kl_divergence(p[part].double().numpy(), q[part].double().numpy())
            assert relative_error(kl(p[part], q[part]), truth) < 1e-6


class OnlyDLPack:
    """An array known by the DLPack protocol alone."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_protocols():
    a, b = logit_rows(3, 101)
    expected = kl(a, b)
    np.testing.assert_array_equal(kl(OnlyDLPack(a), OnlyDLPack(b)), expected)
    np.testing.assert_array_equal(kl(memoryview(a), b), expected)


# ---- strides ----


def layouts(x):
    """The (4, 300) values of x lying in memory in other ways: name, array."""
    wide = np.zeros((4, 340), x.dtype)
    wide[:, 20:320] = x
    sparse = np.zeros((8, 900), x.dtype)
    sparse[::2, ::3] = x
    raw = bytearray(x.nbytes + 1)
    unaligned = np.frombuffer(raw, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    record = np.zeros(4, [("flag", "u1"), ("logits", x.dtype, (300,))])
    record["logits"] = x
    return {
        "fortran": np.asfortranarray(x),
        "column slice": wide[:, 20:320],
        "every second row, every third column": sparse[::2, ::3],
        "negative columns": x[:, ::-1].copy()[:, ::-1],
        "negative rows": x[::-1].copy()[::-1],
        "negative both": x[::-1, ::-1].copy()[::-1, ::-1],
        "unaligned": unaligned,
        "field of packed records": record["logits"],
    }


@pytest.mark.parametrize("storage", FLOATS)
@pytest.mark.parametrize("layout", list(layouts(np.zeros((4, 300)))))
def test_strides(layout, storage):
    a, b = (stored(x, storage) for x in logit_rows(4, 300))
    p, q = layouts(a)[layout], layouts(b)[layout]
    np.testing.assert_array_equal(p, a)
    for ours, _ in PAIR_FUNCTIONS.values():
        expected = ours(a, b, given="logits")
        np.testing.assert_array_equal(ours(p, q, given="logits"), expected)
        np.testing.assert_array_equal(ours(p, b, given="logits"), expected)
        np.testing.assert_array_equal(ours(a, q, given="logits"), expected)
    np.testing.assert_array_equal(kb.logsumexp(p), kb.logsumexp(a))
    np.testing.assert_array_equal(kb.entropy(p, given="logits"), kb.entropy(a, given="logits"))
    np.testing.assert_array_equal(kb.log_softmax(p), kb.log_softmax(a))
    np.testing.assert_array_equal(kb.compare(p, q).top1_q, kb.compare(a, b).top1_q)
    tokens = np.array([0, 299, 7, 150])
    np.testing.assert_array_equal(kb.token_log_probs(p, tokens), kb.token_log_probs(a, tokens))


def test_shifted_logits():
    """`logits[:, :-1]` of (B, T, V): the everyday slice of next-token code."""
    a, b = (x.reshape(3, 8, 101).astype(np.float32) for x in logit_rows(24, 101))
    got = kl(a[:, :-1], b[:, 1:])
    assert got.shape == (3, 7)
    np.testing.assert_array_equal(got, kl(a[:, :-1].copy(), b[:, 1:].copy()))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_axes_of_views(axis):
    a, b = (x.reshape(4, 5, 60)[::2, :, ::-1] for x in logit_rows(20, 60))
    expected = kl(np.moveaxis(a, axis, -1).copy(), np.moveaxis(b, axis, -1).copy())
    np.testing.assert_array_equal(kl(a, b, axis=axis), expected)


def test_swapped_bytes_are_read_right_or_refused():
    a, b = logit_rows(3, 50)
    swapped = a.astype(">f8")
    try:
        got = kl(swapped, b)
    except TypeError as error:
        assert "`p`" in str(error)
    else:
        np.testing.assert_array_equal(got, kl(a, b))


def test_overlapping_windows():
    """Leading axes that step over the same rows, as sliding windows do."""
    a, b = logit_rows(9, 50)
    windows = np.lib.stride_tricks.sliding_window_view(a, 4, axis=0).swapaxes(1, 2)
    assert windows.strides[0] == windows.strides[1]
    np.testing.assert_array_equal(kl(windows, b[:4]), kl(windows.copy(), b[:4]))
    np.testing.assert_array_equal(kl(b[:4], windows[::2]), kl(b[:4], windows[::2].copy()))


# ---- broadcasting ----


@pytest.mark.parametrize(
    ("p_shape", "q_shape"),
    [
        ((40,), (3, 40)),
        ((3, 40), (40,)),
        ((3, 1, 40), (5, 40)),
        ((1, 40), (6, 40)),
        ((2, 1, 3, 40), (4, 1, 40)),
        ((2, 3, 40), (2, 3, 40)),
        ((0, 40), (1, 40)),
        ((1, 1, 40), (40,)),
    ],
)
@pytest.mark.parametrize("storage", ["float64", "bfloat16", "affine"])
def test_broadcasting(p_shape, q_shape, storage):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=p_shape), rng.normal(size=q_shape)
    p, q = (stored(x, storage) if x.size else x for x in (a, b))
    expected = np.broadcast_shapes(p_shape[:-1], q_shape[:-1])
    for name, (ours, truth) in PAIR_FUNCTIONS.items():
        got = ours(p, q, given="logits")
        assert got.shape == expected
        assert error(name, got, truth(p, q)) < bound(storage)


def test_broadcast_views_have_no_rows_of_their_own():
    a, b = logit_rows(1, 77)
    np.testing.assert_array_equal(kl(np.broadcast_to(a, (1000, 77)), b), np.full(1000, kl(a, b)[0]))


def test_broadcast_in_the_vocabulary():
    """A stride of zero along the vocabulary is a uniform row."""
    uniform = np.broadcast_to(np.float64(0.25), (3, 55))
    p, _ = logit_rows(3, 55)
    assert relative_error(kl(p, uniform), reference.kl_divergence(p, uniform)) < 1e-12


# ---- splitting a batch ----


@pytest.mark.parametrize("storage", STORAGES)
def test_rows_do_not_depend_on_their_batch(storage):
    a, b = logit_rows(23, 3001)
    p, q = stored(a, storage), stored(b, storage)
    tokens = np.arange(23)
    whole = kb.compare(p, q, tokens)
    for step in (1, 2, 7, 22):
        parts = [kb.compare(p[i : i + step], q[i : i + step], tokens[i : i + step]) for i in range(0, 23, step)]
        for name in (
            "kl",
            "reverse_kl",
            "cross_entropy",
            "entropy_p",
            "entropy_q",
            "log_prob_p",
            "log_ratio",
        ):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name), err_msg=name)
    for name, (ours, _) in (PAIR_FUNCTIONS | ROW_FUNCTIONS).items():
        rows = (p, q) if name in PAIR_FUNCTIONS else (p,)
        options = {} if name == "logsumexp" else {"given": "logits"}
        single = [ours(*[row[i] for row in rows], **options) for i in range(23)]
        np.testing.assert_array_equal(ours(*rows, **options), single)


# ---- files ----


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_read_only_memory_maps(tmp_path, dtype):
    a, b = (x.astype(np.float32) for x in logit_rows(5, 1003))
    if dtype == "uint16":  # bfloat16, which .npy files cannot name
        a, b = a.astype(BFLOAT16), b.astype(BFLOAT16)
        expected = kl(a, b)
        a, b = a.view(np.uint16), b.view(np.uint16)
    else:
        a, b = a.astype(dtype), b.astype(dtype)
        expected = kl(a, b)
    np.save(tmp_path / "p.npy", a)
    np.save(tmp_path / "q.npy", b)
    p, q = (np.load(tmp_path / name, mmap_mode="r") for name in ("p.npy", "q.npy"))
    if dtype == "uint16":
        p, q = p.view(BFLOAT16), q.view(BFLOAT16)
    assert not p.flags.writeable
    np.testing.assert_array_equal(kl(p, q), expected)
    np.testing.assert_array_equal(kl(p[1::2, 3:], q[1::2, 3:]), kl(np.array(p[1::2, 3:]), np.array(q[1::2, 3:])))


def test_rows_gigabytes_apart(tmp_path):
    """Strides beyond 32 bits, in a sparse file that takes no disk."""
    path = tmp_path / "wide.f32"
    with path.open("wb") as file:
        file.truncate(3 * (5 << 30))
    wide = np.memmap(path, np.float32, "r+", shape=(3, (5 << 30) // 4))
    a, b = (x.astype(np.float32) for x in logit_rows(3, 997))
    wide[:, -997:] = a
    np.testing.assert_array_equal(kl(wide[:, -997:], b), kl(a, b))
    np.testing.assert_array_equal(kl(wide[::-1, -997:], b), kl(a[::-1], b))
    np.testing.assert_array_equal(kb.logsumexp(wide[:, -997:]), kb.logsumexp(a))


def test_the_last_row_of_a_page_is_not_overrun():
    """Rows that end where the mapped memory ends: one element further would be a crash."""
    script = """
import mmap, numpy as np, kullback as kb
page = mmap.PAGESIZE
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def fenced(x):
    room = mmap.mmap(-1, 4 * page)
    bytes_ = np.frombuffer(room, np.uint8)
    assert libc.mprotect(bytes_.ctypes.data + 3 * page, page, 0) == 0
    view = bytes_[3 * page - x.nbytes : 3 * page].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view
rng = np.random.default_rng(0)
for dtype in ("f8", "f4", "f2"):
    for vocab in (1, 3, 17, 100, 333):
        a, b = rng.normal(size=(2, 3, vocab)).astype(dtype)
        p, q = fenced(a), fenced(b)
        np.testing.assert_array_equal(kb.compare(p, q).kl, kb.compare(a, b).kl)
        np.testing.assert_array_equal(kb.logsumexp(p), kb.logsumexp(a))
        np.testing.assert_array_equal(kb.compare(p, q).entropy_q, kb.compare(a, b).entropy_q)
        kb.log_softmax(p), kb.token_log_probs(p, np.zeros(3, int))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.stdout == "done\n", done.stderr
