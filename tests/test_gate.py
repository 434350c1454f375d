"""Hostile arguments: every array whose address a kernel is given was checked, is what was checked, and is alone."""

import inspect
import types

import numpy as np
import pytest
from scipy import sparse

import kullback as kb
from kullback._engine import engine
from kullback.distillation import (
    cross_entropy_loss,
    distillation_loss,
    entropy_gradient,
    token_log_prob_gradient,
    topk_divergence,
)
from kullback.integrations import scipy as scipy_face
from kullback.rows import entr, kl_div, rel_entr

RNG = np.random.default_rng(7)
S, T = RNG.normal(0, 2, (2, 5, 13))
WRAPPING = np.array([0, 2**62, -(2**62) - 1, 1000])  # its differences wrap around and are all positive


# ------------------------------------------------------------------------------------------------- offsets and ids


@pytest.mark.parametrize(
    "offsets",
    [
        WRAPPING,
        np.array([0, 2**63 - 1, -(2**63), 1000]),
        np.array([0, -5, 1000]),
        np.array([0, 1001, 1000]),
        np.array([0, 2**64 - 8, 1000], np.uint64),
        np.array([0, 2**63, 1000], np.uint64),
    ],
    ids=["wraps", "extremes", "negative", "beyond", "unsigned", "unsigned half"],
)
def test_offsets_that_fall_or_wrap(offsets):
    values = np.ones(1000)
    for call in (
        lambda: kb.sequence_sums(values, offsets=offsets),
        lambda: kb.aggregate(values, offsets=offsets),
        lambda: kb.mismatch_report(values - 2, values - 2, offsets=offsets),
        lambda: kb.token_statistics(np.zeros((len(offsets) - 1, 4)), kept=(offsets, np.zeros(1000, int))),
    ):
        with pytest.raises(ValueError, match=r"`(offsets|kept\[0\])` (falls|holds)"):
            call()


def test_sparse_rows_with_offsets_that_lie():
    rows = types.SimpleNamespace(ids=np.zeros(4, int), log_probs=np.full(4, -2.0))
    for indptr in (np.array([0, 2**62, -(2**62) - 1, 4]), np.array([0, 5, 4]), np.array([0, 2, 3])):
        rows.indptr = indptr
        with pytest.raises(ValueError, match=r"`teacher.indptr` (falls|runs)"):
            topk_divergence(np.zeros((len(indptr) - 1, 4)), rows)


@pytest.mark.parametrize("value", [2**64 - 100, 2**63, 2**64 - 1])
def test_unsigned_ids_do_not_wrap(value):
    ids = np.array([1, value, 2, 3, 4], np.uint64)
    for call in (
        lambda: kb.token_log_probs(S, ids),
        lambda: kb.token_statistics(S, ids),
        lambda: kb.compare(S, T, ids),
        lambda: cross_entropy_loss(S, ids),
        lambda: token_log_prob_gradient(S, ids, np.ones(5)),
        lambda: distillation_loss(S, T, labels=ids),
        lambda: topk_divergence(S, (ids[:, None], np.full((5, 1), -1.0))),
    ):
        with pytest.raises(ValueError, match=rf"{value}, expected"):
            call()


def test_what_was_checked_is_what_is_used(monkeypatch):
    """Offsets and ids that change between the check and the kernel, as another thread may change them."""
    offsets, ids, tokens = np.array([0, 3, 5]), np.array([0, 1, 2, 0, 1]), np.array([1, 2])
    values, logits = np.arange(5.0), RNG.normal(size=(2, 4))
    calls = (
        lambda: kb.sequence_sums(values, offsets=offsets),
        lambda: kb.token_statistics(logits, kept=(offsets, ids)).logsumexp,
        lambda: kb.token_log_probs(logits, tokens),
    )
    expected = [call() for call in calls]
    true, before = engine.run, [array.copy() for array in (offsets, ids, tokens)]

    def late(*arguments, **keywords):
        for array in (offsets, ids, tokens):
            array[-2:] = 2**60
        return true(*arguments, **keywords)

    for room in ("calls", "segments"):
        monkeypatch.setattr(f"kullback._engine.{room}.run", late)
    for call, result in zip(calls, expected, strict=True):
        for array, as_it_was in zip((offsets, ids, tokens), before, strict=True):
            array[:] = as_it_was
        np.testing.assert_array_equal(call(), result)
        assert ids[-1] == 2**60


class Liar(np.ndarray):
    """Says it has more rows than it has."""

    @property
    def shape(self):
        return (1_000_000, 13)

    @property
    def size(self):
        return 13_000_000

    @property
    def strides(self):
        return (104, 8)


def test_subclasses_do_not_speak_for_their_memory():
    liar = S.copy().view(Liar)
    np.testing.assert_array_equal(kb.entropy(liar, given="logits"), kb.entropy(S, given="logits"))
    np.testing.assert_array_equal(kb.kl_divergence(liar, T, given="logits"), kb.kl_divergence(S, T, given="logits"))
    got = distillation_loss(S, T, gradient="student", student_out=liar).student_gradient
    expected = distillation_loss(S, T, gradient="student").student_gradient
    assert got is liar
    np.testing.assert_array_equal(np.asarray(liar), expected)
    out = np.empty((5, 13)).view(Liar)
    np.testing.assert_array_equal(np.asarray(kb.log_softmax(S, out=out)), kb.log_softmax(S))
    with pytest.raises(ValueError, match=r"`mask` has shape \(5, 13\)"):
        kb.aggregate(np.ones((4, 13)), mask=np.ones((5, 13), bool).view(Liar))


# ------------------------------------------------------------------------------------------------- outs


class Dataset:
    """What an HDF5 or zarr dataset offers: a shape, and a copy of its contents for NumPy."""

    shape, dtype, strides, ndim = (5, 13), np.dtype(float), (104, 8), 2

    def __array__(self, dtype=None, copy=None):
        return np.zeros(self.shape)


def gradients(out):
    labels = np.arange(5)
    return (
        lambda: distillation_loss(S, T, gradient="student", student_out=out),
        lambda: distillation_loss(S, T, gradient="teacher", teacher_out=out),
        lambda: distillation_loss(S, T, gradient="student", student_out=out, softcap=5.0),
        lambda: cross_entropy_loss(S, labels, gradient=True, out=out),
        lambda: token_log_prob_gradient(S, labels, np.ones(5), out=out),
        lambda: entropy_gradient(S, out=out),
        lambda: topk_divergence(S, (labels[:, None], np.full((5, 1), -1.0)), gradient=True, out=out),
    )


def read_only():
    out = np.empty((5, 13))
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        (Dataset(), TypeError, "is Dataset, expected an ndarray or a tensor"),
        ([[0.0] * 13] * 5, TypeError, "is list, expected an ndarray"),
        (np.ma.zeros((5, 13)), TypeError, "is MaskedArray, expected an ndarray"),
        (read_only(), ValueError, "is read-only"),
        (np.empty((5, 13), int), TypeError, "has dtype int64"),
        (np.empty((5, 13), ">f8"), TypeError, "has dtype >f8"),
        (np.empty((5, 12)), ValueError, r"has shape \(5, 12\), expected \(5, 13\)"),
        (np.broadcast_to(np.empty(13), (5, 13)), ValueError, "is read-only"),
        (np.lib.stride_tricks.as_strided(np.empty(13), (5, 13), (0, 8)), ValueError, "has strides"),
        (np.lib.stride_tricks.as_strided(np.empty(17), (5, 13), (8, 8)), ValueError, "has strides"),
        (np.empty((13, 5)).T, ValueError, "has strides"),
        (S, ValueError, "overlaps"),
    ],
    ids=[
        "dataset",
        "list",
        "masked",
        "read-only",
        "int",
        "swapped",
        "shape",
        "broadcast",
        "zero stride",
        "rows that overlap",
        "transposed",
        "the logits themselves",
    ],
)
def test_gradients_go_only_where_they_arrive(out, kind, message):
    for call in gradients(out):
        with pytest.raises(kind, match=message):
            call()


def test_gradients_apart_from_the_inputs_and_each_other():
    both, half = np.empty((9, 13)), np.empty((5, 13))
    s, t = both[:5], T.copy()
    s[...] = S
    for overlapping in (both[1:6], both[4:], t, t[::-1]):
        with pytest.raises(ValueError, match=r"`student_out` overlaps `(student|teacher)_logits` in memory"):
            distillation_loss(s, t, gradient="student", student_out=overlapping)
    with pytest.raises(ValueError, match="`student_out` overlaps `teacher_out`"):
        distillation_loss(S, T, gradient="both", student_out=half, teacher_out=half)
    buffer = np.empty((10, 13))
    result = distillation_loss(S, T, gradient="both", student_out=buffer[::2], teacher_out=buffer[1::2])  # interleaved
    expected = distillation_loss(S, T, gradient="both")
    np.testing.assert_array_equal(result.student_gradient, expected.student_gradient)
    np.testing.assert_array_equal(result.teacher_gradient, expected.teacher_gradient)


@pytest.mark.parametrize("vocab", [1, 3, 13, 64, 67, 1024, 2048, 2055, 5001])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softmax_in_place_or_apart(vocab, dtype):
    x = RNG.normal(0, 3, (6, vocab)).astype(dtype)
    expected = kb.log_softmax(x)
    buffer = x.copy()
    assert kb.log_softmax(buffer, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, expected)
    buffer = x.copy()
    with pytest.raises(ValueError, match="`out` overlaps `x` in memory"):
        kb.log_softmax(buffer[:5], out=buffer[1:])
    with pytest.raises(ValueError, match="`out` overlaps `x` in memory"):
        kb.log_softmax(buffer[::-1], out=buffer)
    np.testing.assert_array_equal(buffer, x)


def test_results_of_rows_stay_out_of_the_inputs():
    p, q = np.exp(S), np.exp(T)
    for call in (
        lambda out: kb.kl_divergence(p, q, out=out),
        lambda out: kb.entropy(p, out=out),
        lambda out: kb.logsumexp(p, out=out),
        lambda out: kb.jensen_shannon_divergence(p, q, out=out),
        lambda out: kb.token_log_probs(p, [0] * 5, out=out),
        lambda out: kb.token_log_ratios(p, q, [0] * 5, out=out),
    ):
        with pytest.raises(ValueError, match="`out` overlaps `p"):
            try:
                call(p[:, 3])
            except ValueError as error:  # of token_log_probs
                raise ValueError(str(error).replace("`logits`", "`p`").replace("`x`", "`p`")) from None
        np.testing.assert_array_equal(p, np.exp(S))
    x = S[:, :5].copy()
    for given in (x.T, x[::-1]):
        with pytest.raises(ValueError, match="`out` overlaps `x`"):
            kb.log_softmax(x, out=given)
    expected = kb.log_softmax(x, axis=0)
    assert kb.log_softmax(x, axis=0, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("shape", [(7, 7), (300, 300)])
def test_elementwise_in_place_or_apart(shape):
    a, b = RNG.random((2, *shape))
    for function, arguments in ((entr, ()), (rel_entr, (b,)), (kl_div, (b,)), (kb.kl_estimate, ())):
        expected = function(a, *arguments)
        x = a.copy()
        assert function(x, *arguments, out=x) is x
        np.testing.assert_array_equal(x, expected)
        x = a.copy()
        for out in (x, x[::-1, ::-1]):
            given = x.T if out is x else x
            with pytest.raises(ValueError, match="`out` overlaps `"):
                function(given, *arguments, out=out)
        np.testing.assert_array_equal(x, a)
    with pytest.raises(ValueError, match="`out` overlaps `y`"):
        rel_entr(a, b.T, out=b)
    with pytest.raises(TypeError, match="`out` has dtype int64"):
        entr(a, out=np.empty(shape, int))
    with pytest.raises(ValueError, match="`out` is read-only"):
        out = np.empty(shape)
        out.flags.writeable = False
        entr(a, out=out)


@pytest.mark.parametrize("shape", [(0, 13), (0, 4, 13), (3, 0, 13)])
def test_gradients_of_an_empty_batch(shape):
    logits, lead = np.empty(shape), np.empty(shape[:-1], int)
    for strides in (None, (0,) * len(shape)):
        x = logits if strides is None else np.lib.stride_tricks.as_strided(logits, shape, strides)
        assert distillation_loss(x, x, gradient="both").student_gradient.shape == shape
        assert cross_entropy_loss(x, lead, gradient=True).gradient.shape == shape
        assert entropy_gradient(x, out=x.copy()).shape == shape
        assert token_log_prob_gradient(x, lead, lead.astype(float)).shape == shape


# ------------------------------------------------------------------------------------------------- masks and weights


@pytest.mark.parametrize("shape", [(1,), (), (5, 1), (1, 5), (4,), (5, 13), (3_000_000, 1)])
def test_one_value_a_row_means_one(shape):
    teacher = (np.zeros((5, 1), int), np.full((5, 1), -1.0))
    mask, weights = np.ones(shape, bool), np.ones(shape)
    for call in (
        lambda: distillation_loss(S, T, mask=mask),
        lambda: distillation_loss(S, T, weights=weights),
        lambda: distillation_loss(S, T, labels=mask.astype(int)),
        lambda: cross_entropy_loss(S, np.zeros(5, int), weights=weights),
        lambda: entropy_gradient(S, weights),
        lambda: topk_divergence(S, teacher, gradient=True, weights=weights),
    ):
        with pytest.raises(ValueError, match=r"has shape .*, expected \(5,\)"):
            call()


MASKED = np.ma.masked_array(np.ones((5, 13)) / 13, mask=np.eye(5, 13))
PLAIN = np.ones((5, 13)) / 13


@pytest.mark.parametrize(
    "call",
    [
        lambda: kb.kl_divergence(MASKED, PLAIN),
        lambda: kb.entropy(MASKED),
        lambda: kb.compare(S, S, np.ma.masked_array(np.zeros(5, int))),
        lambda: kb.token_log_probs(S, np.ma.masked_array(np.zeros(5, int))),
        lambda: kb.sequence_sums(MASKED),
        lambda: kb.sequence_sums(PLAIN, mask=np.ma.masked_array(np.ones((5, 13), bool))),
        lambda: kb.sequence_sums(np.ones(3), offsets=np.ma.masked_array([0, 3])),
        lambda: kb.aggregate(MASKED),
        lambda: kb.kl_estimate(MASKED),
        lambda: entr(MASKED),
        lambda: rel_entr(PLAIN, MASKED),
        lambda: kb.kl_contributions(MASKED, PLAIN),
        lambda: distillation_loss(S, T, mask=np.ma.masked_array(np.ones(5, bool))),
        lambda: distillation_loss(S, T, weights=np.ma.masked_array(np.ones(5))),
        lambda: distillation_loss(S, T, labels=np.ma.masked_array(np.ones(5, int))),
        lambda: token_log_prob_gradient(S, np.zeros(5, int), np.ma.masked_array(np.ones(5))),
        lambda: kb.kl_divergence(PLAIN, PLAIN, out=np.ma.zeros(5)),
        lambda: topk_divergence(S, (np.zeros((5, 1), int), np.ma.masked_array(np.full((5, 1), -1.0)))),
    ],
)
def test_masked_arrays_keep_their_mask_or_are_refused(call):
    with pytest.raises(TypeError, match=r"(is a masked array, expected a plain one|is MaskedArray)"):
        call()


# ------------------------------------------------------------------------------------------------- numbers


def with_base():
    """Every public function that has a unit, called with arguments that suit it."""
    p, q, counts = np.exp(S), np.exp(T), RNG.integers(1, 9, (3, 4))
    arguments = {
        "closed_form_kl": None,  # needs distributions: gaussian_kl goes through it
        "mixture_kl": None,
        "register_kl": None,
        "log_softmax": (S,), "logsumexp": (S,), "entropy": (p,), "entropy_from_logits": (S,),
        "token_log_probs": (S, np.zeros(5, int)), "token_log_ratios": (S, T, np.zeros(5, int)),
        "selective_log_softmax": (S, np.zeros(5, int)), "compare": (S, T),
        "sequence_log_ratios": (S[None], T[None], np.zeros((1, 5), int)),
        "gaussian_kl": (0.0, 1.0, 1.0, 1.0), "vae_kl": (p, q), "vae_kl_gradient": None,
        "renyi_divergence": (p, q, 0.5), "mutual_information": (counts,),
        "divergence_from_counts": (counts, counts), "likelihood_parts": (counts, np.ones(4)),
        "knn_kl_divergence": (S, T, 2), "knn_mutual_information": (S, T),
        "knn_kl_divergence_from_density": (S, np.zeros(5), 2), "generalized_jsd": (S, T),
        "mutual_information_estimate": (counts,), "conditional_mutual_information": (np.stack([counts, counts]),),
        "sparse_divergence": (sparse.csr_array(p), sparse.csr_array(q)),
    }  # fmt: skip
    for name in sorted(kb.__all__):
        function = getattr(kb, name)
        if callable(function) and not isinstance(function, type):
            parameters = inspect.signature(function).parameters
            if "base" in parameters and (given := arguments.get(name, (p, q))) is not None:
                yield pytest.param(function, given, id=name)
    yield pytest.param(kb.entropy_from_logits, (S,), id="entropy_from_logits")
    yield pytest.param(scipy_face.entropy, (p, q), id="scipy.entropy")
    yield pytest.param(scipy_face.jensenshannon, (p, q), id="scipy.jensenshannon")


@pytest.mark.parametrize(("function", "arguments"), list(with_base()))
def test_one_check_of_every_base(function, arguments):
    function(*arguments, base=2)
    for base in (1, 1.0, 0, -2, np.inf, np.nan, 10**400):
        with pytest.raises(ValueError, match="`base`"):
            function(*arguments, base=base)
    for base in ("2", b"2", [2.0], np.array([2.0]), 2j, np.ma.masked_array(2.0)):
        with pytest.raises(TypeError, match=r"(?s)`base` is .*, expected a number"):
            function(*arguments, base=base)


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")


def test_messages_do_not_fail_at_what_they_are_about():
    for keywords in ({"temperature": Unspeakable()}, {"given": Unspeakable()}, {"axis": Unspeakable()}):
        with pytest.raises((TypeError, ValueError), match="of type Unspeakable"):
            kb.kl_divergence(S, T, **keywords)
    with pytest.raises(ValueError, match="`p` holds a number beyond the range of float64"):
        kb.entropy([10**400, 1])
    for temperature in ("1", 1e-310, 10**400):
        with pytest.raises((TypeError, ValueError), match="`temperature`"):
            kb.entropy(S, given="logits", temperature=temperature)


@pytest.mark.parametrize("strides", [(0, 8), (8, 8), (0, 0), (-8, 8)])
def test_outs_whose_elements_share_memory(strides):
    out = np.lib.stride_tricks.as_strided(np.empty(40)[20:], (5, 13), strides)
    for call in (
        lambda: entr(np.exp(S), out=out),
        lambda: kb.kl_estimate(S, out=out),
        lambda: kb.log_softmax(S, out=out),
    ):
        with pytest.raises(ValueError, match="elements share memory"):
            call()
    for step in (1, 4, 7, -4):
        out = np.lib.stride_tricks.as_strided(np.empty(40)[20:], (5,), (step,))
        with pytest.raises(ValueError, match="elements share memory"):
            kb.entropy(S, given="logits", out=out)
    for fine in (np.empty((13, 5)).T, np.empty((10, 26))[::2, ::2], np.empty((5, 13))[::-1, ::-1]):
        np.testing.assert_array_equal(kb.log_softmax(S, out=fine), kb.log_softmax(S))
