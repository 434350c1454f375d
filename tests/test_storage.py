"""The table of storage types: every entry is known to C, to every reader and to the kernels, and is read exactly."""

import re

import ml_dtypes
import numpy as np
import pytest
from kullback.kernels import contract
from kullback.kernels.storage import AFFINE16, FLOATS, STORAGES
from numba import njit, types

import kullback as kb
from kullback.distillation import distillation_loss, softcap
from kullback.evaluation.sources.safetensors import DTYPES

NAMES = [kind.name for kind in FLOATS]
NARROW = [kind for kind in FLOATS if kind.bytes <= 2]


def dtype_of(kind):
    return np.dtype(kind.name if kind.numpy else getattr(ml_dtypes, kind.name))


def every_pattern(kind):
    """(all values of a storage type, the same as float64)."""
    values = np.arange(256**kind.bytes, dtype=f"u{kind.bytes}").view(dtype_of(kind))
    with np.errstate(invalid="ignore"):
        return values, values.astype(np.float32).astype(np.float64)


def test_the_header_has_the_tags_of_the_table():
    defined = dict(re.findall(r"#define KULLBACK_((?:B?FLOAT|AFFINE)\w+) (\d+)", contract.declarations()))
    assert defined == {kind.name.upper(): str(kind.tag) for kind in STORAGES}
    assert STORAGES[AFFINE16].name == "affine16" and [kind.tag for kind in STORAGES] == list(range(len(STORAGES)))


def test_no_two_entries_are_taken_for_each_other():
    for field in ("name", "words", "safetensors"):
        assert len({getattr(kind, field) for kind in FLOATS}) == len(FLOATS), field
    assert [DTYPES[kind.safetensors] for kind in FLOATS] == NAMES


@pytest.mark.parametrize("kind", FLOATS, ids=NAMES)
def test_bytes_and_bits_are_those_of_the_dtype(kind):
    info = ml_dtypes.finfo(dtype_of(kind))
    assert (info.bits, info.nmant, info.nexp) == (8 * kind.bytes, kind.mantissa, kind.exponent)
    assert float(info.smallest_subnormal) == kind.least
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isinf(np.float32(np.inf).astype(dtype_of(kind)).astype(np.float32)) == kind.infinities


@pytest.mark.parametrize("kind", NARROW, ids=[kind.name for kind in NARROW])
def test_every_pattern_is_decoded_exactly(kind):
    """By the registers and the scalar of the kernels, and by the blocks that NumPy decodes."""
    from kullback.kernels.decode import element, view
    from kullback.kernels.memory import pointer, stack

    tag, size = kind.tag, kind.bytes

    @njit
    def decode(address, count, wide, out, one):
        room, wide_room = stack(2048, np.float32(0.0)), stack(2048, 0.0)
        to, single = pointer(out, types.float64), pointer(one, types.float64)
        for start in range(0, count, 256):
            row = (address, size, tag)
            if wide:
                x = view(row, start, 256, wide_room, 0.0)
                for i in range(256):
                    to[start + i] = x[i]
            else:
                y = view(row, start, 256, room, 0.0)
                for i in range(256):
                    to[start + i] = y[i]
        for i in range(count):
            single[i] = element((address, size, tag), i)

    values, truth = every_pattern(kind)
    for wide in (False, True):
        out, one = np.empty(values.size), np.empty(values.size)
        decode(values.ctypes.data, values.size, wide, out.ctypes.data, one.ctypes.data)
        np.testing.assert_array_equal(out, truth)
        np.testing.assert_array_equal(one, truth)
        np.testing.assert_array_equal(np.signbit(out[truth == 0]), np.signbit(truth[truth == 0]))
    np.testing.assert_array_equal(softcap.decoded(values, kind.tag), truth)


@pytest.mark.parametrize("kind", FLOATS, ids=NAMES)
def test_gradients_are_written_as_the_table_says(kind):
    p, q = np.random.default_rng(0).normal(size=(2, 3, 37))
    out = np.zeros((3, 37), dtype_of(kind))

    def loss(student, **options):
        return distillation_loss(student, p, gradient="student", **options).student_gradient

    if kind.gradients:
        loss(q, student_out=out)
        np.testing.assert_array_equal(out, loss(q).astype(np.float32).astype(out.dtype) if kind.bytes < 8 else loss(q))
        assert loss(q.astype(np.float32).astype(out.dtype)).dtype == out.dtype
    else:
        with pytest.raises(TypeError, match=f"has dtype {kind.name}, expected float64, float32, float16 or bfloat16"):
            loss(q, student_out=out)
        stored = q.astype(np.float32).astype(out.dtype)
        np.testing.assert_array_equal(loss(stored), loss(stored.astype(np.float32)))
        assert loss(stored).dtype == np.float32


@pytest.mark.integration
@pytest.mark.parametrize("kind", FLOATS, ids=NAMES)
def test_tensors_are_read_as_arrays_are(kind):
    torch = pytest.importorskip("torch")
    assert getattr(torch, kind.name).itemsize == kind.bytes
    p, q = (torch.from_numpy(x).to(getattr(torch, kind.name)) for x in np.random.default_rng(1).normal(size=(2, 4, 51)))
    for part in ((slice(None), slice(None)), (slice(1, None), slice(None, None, 2))):
        expected = kb.kl_divergence(p.double().numpy()[part], q.double().numpy()[part], given="logits")
        np.testing.assert_allclose(kb.kl_divergence(p[part], q[part], given="logits"), expected, rtol=1e-6)
    loss = distillation_loss(q, p, gradient="student")
    assert loss.student_gradient.dtype == (getattr(torch, kind.name) if kind.gradients else torch.float32)


def test_other_floats_of_a_byte_are_refused_by_name():
    for name in ("float8_e4m3", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"):
        x = np.ones((2, 3), getattr(ml_dtypes, name))
        with pytest.raises(
            TypeError, match=f"`p` has dtype {name}, expected float64, .*, float8_e4m3fn or float8_e5m2"
        ):
            kb.kl_divergence(x, x)
