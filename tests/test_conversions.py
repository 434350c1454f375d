"""Arrays that the kernels do not read as they lie: converted some rows at a time, never whole, never refused."""

import tracemalloc

import numpy as np
import pytest
from test_edge_cases import ALL, ONE_OF_PROBS, arguments

import kullback as kb
from kullback.distillation import (
    cross_entropy_loss,
    distillation_loss,
    entropy_gradient,
    linear_distillation_loss,
    token_log_prob_gradient,
    topk_divergence,
    topk_kl_interval,
)

RNG = np.random.default_rng(11)


def unaligned(x):
    """The same numbers one byte off."""
    x = np.ascontiguousarray(x)
    return np.ndarray(x.shape, x.dtype, b"x" + x.tobytes(), 1)


def swapped(x):
    return x.astype(x.dtype.newbyteorder(">"))


def struct_member(x):
    """A field of packed records: no stride is a multiple of the item's size."""
    records = np.zeros(x.shape, [("tag", "u1"), ("x", x.dtype)])
    records["x"] = x
    return records["x"]


FOREIGN = {"unaligned": unaligned, "swapped": swapped, "records": struct_member}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_layouts_that_are_not_native(name, dtype, foreign):
    ours, _ = ALL[name]
    rows = arguments(name, rows=4, vocab=37, dtype=dtype)
    expected = ours(*rows)
    assert expected.dtype == ours(*[FOREIGN[foreign](x) for x in rows]).dtype
    np.testing.assert_array_equal(ours(*[FOREIGN[foreign](x) for x in rows]), expected)
    np.testing.assert_array_equal(ours(FOREIGN[foreign](rows[0]), *rows[1:]), expected)  # beside one read in place


@pytest.mark.parametrize("name", ONE_OF_PROBS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", ">i4", "int64", "uint64", "bool", "longdouble"])
def test_counts(name, dtype):
    ours, _ = ALL[name]
    rows = [RNG.integers(0, 2 if dtype == "bool" else 100, (3, 29)) + (dtype != "bool") for _ in arguments(name)]
    for x in rows:
        x[:, 5] = 1
    got = ours(*[x.astype(dtype) for x in rows], given="probs")
    np.testing.assert_array_equal(got, ours(*[x.astype(float) for x in rows], given="probs"))


def test_integer_logits():
    x = RNG.integers(-9, 9, (3, 29))
    np.testing.assert_array_equal(kb.log_softmax(x), kb.log_softmax(x.astype(float)))
    assert kb.log_softmax(x).dtype == np.float64


@pytest.mark.parametrize("lead", [(), (2300,), (46, 50), (23, 1, 100)])
def test_more_rows_than_the_scratch_holds(lead):
    """Blocks end in the middle of leading axes, which broadcast; any number of threads gives the same."""
    p = RNG.integers(1, 1000, (*lead, 257))
    q = RNG.integers(1, 1000, (*lead[:1], *(7,) * (len(lead) == 3), *lead[2:], 257)) if len(lead) != 2 else p[0]
    expected = kb.kl_divergence(p.astype(float), q.astype(float))
    for threads in (1, 3):
        np.testing.assert_array_equal(kb.kl_divergence(p, q, num_threads=threads), expected)
    np.testing.assert_array_equal(
        kb.kl_divergence(p[..., 10:], q[..., 10:], vocab_size=100),
        kb.kl_divergence(p[..., 10:110].astype(float), q[..., 10:110].astype(float)),
    )
    moved = np.moveaxis(p, -1, 0)
    np.testing.assert_array_equal(kb.entropy(moved, axis=0), kb.entropy(moved.astype(float), axis=0))


def test_no_copy_of_the_whole():
    counts = RNG.integers(0, 50, (4000, 1024), dtype=np.int16)
    kb.entropy(counts[:2])
    tracemalloc.start()
    kb.entropy(counts, num_threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # float64 copies would be 32 MiB


def test_numbers_that_float64_has_not():
    if np.finfo(np.longdouble).max == np.finfo(np.float64).max:
        pytest.skip("long double is float64 here")
    q = np.ones((3, 4), np.longdouble)
    q[2, 1] = np.longdouble(10) ** 4000
    with pytest.raises(ValueError, match=r"`q` holds 1e\+4000, beyond the range of float64"):
        kb.kl_divergence(np.ones((3, 4)), q)
    q[2, 1] = np.inf
    assert np.isnan(kb.kl_divergence(np.ones((3, 4)), q)).tolist() == [False, False, True]


def test_errors_name_the_row():
    counts = np.ones((3000, 300), np.int32)
    counts[2345, 7] = -1
    with pytest.raises(ValueError, match=r"`q` holds a negative value in row 2345"):
        kb.kl_divergence(np.ones((3000, 300)), counts)


@pytest.mark.parametrize("foreign", FOREIGN)
def test_tokens_and_gradients(foreign):
    other = FOREIGN[foreign]
    s, t = RNG.normal(0, 2, (2, 6, 17)).astype(np.float32)
    ids, upstream = RNG.integers(0, 17, 6), RNG.normal(size=6)
    top = (np.tile([2, 5], (6, 1)), np.log(np.full((6, 2), 0.25)))
    for call in (
        lambda s, t: kb.token_log_probs(s, ids),
        lambda s, t: kb.token_statistics(s, ids, top_k=3).top_log_probs,
        lambda s, t: kb.token_log_ratios(s, t, ids),
        lambda s, t: kb.sequence_log_ratios(s[None], t[None], ids[None], mask=[[1, 0, 1, 1, 0, 1]]),
        lambda s, t: kb.compare(s, t, ids).log_ratio,
        lambda s, t: kb.divergence_matrix(s, t, given="logits"),
        lambda s, t: kb.f_divergence(np.exp(s), np.exp(t), "kl"),
        lambda s, t: distillation_loss(s, t, "jsd", gradient="student").student_gradient,
        lambda s, t: distillation_loss(s, t, gradient="teacher", softcap=9.0).teacher_gradient,
        lambda s, t: cross_entropy_loss(s, ids, gradient=True).gradient,
        lambda s, t: token_log_prob_gradient(s, ids, upstream),
        lambda s, t: entropy_gradient(s),
        lambda s, t: linear_distillation_loss(s, t, t, s, gradient=True).weight_gradient,
        lambda s, t: topk_divergence(s, top, gradient=True, overlap=True).gradient,
        lambda s, t: topk_kl_interval(s, top)[1],
    ):
        got, expected = call(other(s), other(t)), call(s, t)
        assert got.dtype.newbyteorder("=") == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("vocab", [17, (1 << 18) + 5])
def test_rows_of_any_length(vocab):
    counts = RNG.integers(0, 9, (2, vocab)).astype(np.uint8)
    expected = kb.kl_divergence(counts[:1] + 1.0, counts[1:] + 1.0)
    np.testing.assert_allclose(kb.kl_divergence(counts[:1] + 1, counts[1:] + 1), expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------- labels


@pytest.mark.integration
def test_series_meet_by_position_only_where_their_labels_agree():
    pandas = pytest.importorskip("pandas")
    values = RNG.random(5)
    p, q = pandas.Series(values, index=list("abcde")), pandas.Series(values[::-1], index=list("edcba"))
    for call in (
        lambda: kb.kl_divergence(p, q),
        lambda: kb.rel_entr(p, q),
        lambda: kb.kl_contributions(p, q),
        lambda: kb.kl_divergence(pandas.DataFrame([p]), pandas.DataFrame([q])),
        lambda: kb.aggregate(p, q > 0, offsets=[0, 5]),
        lambda: kb.kl_estimate(p, mask=q > 0),
    ):
        with pytest.raises(ValueError, match=r"has another (index|columns) than `"):
            call()
    assert kb.kl_divergence(p, q.reindex_like(p)) == 0
    assert kb.kl_divergence(p, q.to_numpy()) == kb.kl_divergence(values, values[::-1])
    assert kb.kl_divergence(p, values) == 0
