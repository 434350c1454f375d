"""The edge-case table of the API, row function by row function: zeros, infinities, NaN, and clear errors."""

import re

import numpy as np
import pytest
import reference
from strategies import BFLOAT16, PAIR_FUNCTIONS, ROW_FUNCTIONS, error

import kullback as kb

INF = np.inf
NAN = np.nan
ALL = PAIR_FUNCTIONS | ROW_FUNCTIONS
ONE_OF_PROBS = {name: pair for name, pair in ALL.items() if name != "logsumexp"}
DTYPES = ["float64", "float32", "float16", BFLOAT16]


def arguments(name, rows=3, vocab=5, dtype="float64", **fill):
    """Arrays for the named function: (p, q), or (x,), all close to uniform."""
    rng = np.random.default_rng(1)
    count = 2 if name in PAIR_FUNCTIONS else 1
    return [rng.uniform(0.5, 1.0, (rows, vocab)).astype(dtype) for _ in range(count)]


def first_name(name):
    return "x" if name == "logsumexp" else "p"


# ---- zeros and infinities of p and q ----

PAIRS_OF_ROWS = {
    "p zero": ([0.0, 0.25, 0.75], [0.5, 0.25, 0.25]),
    "q zero": ([0.5, 0.25, 0.25], [0.0, 0.25, 0.75]),
    "both zero": ([0.0, 0.25, 0.75], [0.0, 0.75, 0.25]),
    "minus zero": ([-0.0, 0.25, 0.75], [-0.0, 0.75, 0.25]),
    "p one-hot": ([0.0, 1.0, 0.0], [0.25, 0.25, 0.5]),
    "q one-hot": ([0.25, 0.25, 0.5], [0.0, 1.0, 0.0]),
    "equal one-hot": ([0.0, 1.0, 0.0], [0.0, 1.0, 0.0]),
    "different one-hot": ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]),
    "disjoint": ([0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]),
    "partly disjoint": ([0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.25, 0.25]),
    "equal": ([0.125, 0.5, 0.375], [0.125, 0.5, 0.375]),
    "one outcome": ([1.0], [1.0]),
    "counts": ([9.0, 12.0, 4.0], [1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given", ["probs", "log_probs", "logits"])
@pytest.mark.parametrize("case", PAIRS_OF_ROWS)
@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
def test_zeros_of_either_row(name, case, given, dtype):
    ours, truth = PAIR_FUNCTIONS[name]
    p, q = (np.array(row) for row in PAIRS_OF_ROWS[case])
    if given != "probs":
        with np.errstate(divide="ignore"):
            p, q = np.log(p), np.log(q)
    p, q = p.astype(dtype), q.astype(dtype)
    got, expected = ours(p, q, given=given), truth(p, q, given=given)
    assert error(name, got, expected) < 1e-6


@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("depth", [50.0, 100.0, 300.0, 2000.0])
def test_a_vanishing_p_still_meets_a_zero_q(name, dtype, depth):
    """p = exp(-depth) is not zero, even where it underflows: q = 0 there is infinite."""
    ours, _ = PAIR_FUNCTIONS[name]
    p, q = np.array([0.0, -depth, 0.0], dtype), np.array([0.0, -INF, 1.0], dtype)
    assert ours(p, q, given="logits") == INF


@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("vocab", [3, 33, 5000])
def test_huge_differences(name, dtype, vocab):
    """Logits at the ends of float32's range: finite answers where they are finite, no overflow on the way."""
    ours, truth = PAIR_FUNCTIONS[name]
    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 3, (2, 6, vocab)).astype(dtype)
    p[0, 1], q[1, 1], p[2, 2], q[2, 2] = -1e30, -1e30, -200.0, 200.0
    p[3, :2], q[4, :2] = 3e38, 3e38
    p[5, 1], q[5, 1] = 80.0, -80.0
    assert error(name, ours(p, q, given="logits"), truth(p, q)) < 1e-6


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_masked_vocabularies(dtype):
    """-inf at the same places in both rows (banned tokens) contributes nothing, wherever the places are."""
    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 3, (2, 4, 7000)).astype(dtype)
    for row, banned in enumerate([slice(0, 2500), slice(3000, None), slice(None, None, 2), slice(1, None)]):
        p[row, banned] = q[row, banned] = -INF
    for name, (ours, truth) in PAIR_FUNCTIONS.items():
        assert error(name, ours(p, q, given="logits"), truth(p, q)) < 1e-6
    assert error("entropy", kb.compare(p, q).entropy_q, reference.entropy(q)) < 1e-6
    assert error("entropy", kb.entropy(p, given="logits"), reference.entropy(p)) < 1e-6
    reverse = reference.kl_divergence(q, p).astype(float)
    np.testing.assert_allclose(kb.compare(p, q).reverse_kl, reverse, rtol=1e-6, atol=1e-25)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", BFLOAT16], ids=str)
@pytest.mark.parametrize("factor", [1.0, 1 / 64, 64.0])
def test_the_smallest_probabilities_are_not_zero(dtype, factor):
    """A float32 softmax is full of subnormals. They count, whatever the totals of the two rows."""
    tiny = {"float64": 5e-324, "float32": 1.4e-45, "float16": 6e-8}.get(dtype, 9.2e-41)
    p, q = np.array([0.75, tiny, 0.25], dtype), np.array([0.5 * factor, tiny, 0.5 * factor], dtype)
    zero = np.array([0.5 * factor, 0.0, 0.5 * factor], dtype)
    for name, (ours, truth) in PAIR_FUNCTIONS.items():
        assert error(name, ours(p, q, given="probs"), truth(p, q, given="probs")) < 1e-6
        assert error(name, ours(q, p, given="probs"), truth(q, p, given="probs")) < 1e-6
        assert ours(p, zero, given="probs") == INF
        assert error(name, ours(zero, p, given="probs"), truth(zero, p, given="probs")) < 1e-6


# ---- rows that are not distributions ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("vocab", [1, 5, 3001])
@pytest.mark.parametrize("name", ALL)
def test_nan_and_plus_infinity_spoil_their_row_alone(name, vocab, value, dtype):
    ours, truth = ALL[name]
    count = 2 if name in PAIR_FUNCTIONS else 1
    rng = np.random.default_rng(2)
    # one bad row in each argument, at the first, a middle and the last column
    rows = [rng.normal(size=(7, vocab)).astype(dtype) for _ in range(count)]
    for side, x in enumerate(rows):
        for row, column in enumerate([0, vocab // 2, vocab - 1]):
            x[1 + row + 3 * side - side, column] = value
    got, expected = ours(*rows, **logits_of(name)), truth(*rows)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert error(name, got, expected) < 1e-6


def logits_of(name):
    """`given` is an argument of what takes more than logits."""
    return {} if name == "logsumexp" else {"given": "logits"}


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", ONE_OF_PROBS)
def test_nan_and_plus_infinity_among_probabilities(name, value):
    ours, _ = ONE_OF_PROBS[name]
    for side in range(2 if name in PAIR_FUNCTIONS else 1):
        rows = arguments(name)
        rows[side][1, 3] = value
        np.testing.assert_array_equal(np.isnan(ours(*rows, given="probs")), [False, True, False])


@pytest.mark.parametrize("other", [0.0, -INF])
def test_nan_spoils_the_row_even_where_p_is_zero(other):
    p, q = np.array([1.0, 2.0, -INF]), np.array([1.0, 2.0, NAN])
    assert np.isnan(kb.kl_divergence(p, q, given="logits"))
    assert np.isnan(kb.kl_divergence(q, p, given="logits"))
    assert np.isnan(kb.kl_divergence([0.5, 0.5, 0.0], [0.5, 0.5, NAN], given="probs"))
    p[0] = other  # and where q = 0 < p would have said infinite
    assert np.isnan(kb.kl_divergence(np.array([1.0, 2.0]), np.array([-INF, NAN]), given="logits"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 5, 3001])
@pytest.mark.parametrize("name", ALL)
def test_rows_without_mass_are_nan(name, vocab, dtype):
    ours, _ = ALL[name]
    for side in range(2 if name in PAIR_FUNCTIONS else 1):
        rows = arguments(name, vocab=vocab, dtype=dtype)
        rows[side][1] = -INF
        np.testing.assert_array_equal(np.isnan(ours(*rows, **logits_of(name))), [False, True, False])
        if name in ONE_OF_PROBS:
            rows[side][1] = 0
            np.testing.assert_array_equal(np.isnan(ours(*rows, given="probs")), [False, True, False])


# ---- shapes ----


@pytest.mark.parametrize("name", ALL)
def test_no_rows_give_an_empty_result(name):
    ours, _ = ALL[name]
    got = ours(*arguments(name, rows=0))
    assert got.shape == (0,)
    assert got.dtype == np.float64


@pytest.mark.parametrize("name", ALL)
def test_an_empty_vocabulary_raises(name):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match=rf"`{first_name(name)}`.*\(3, 0\)"):
        ours(*arguments(name, vocab=0))


@pytest.mark.parametrize("name", ALL)
def test_a_scalar_raises(name):
    ours, _ = ALL[name]
    scalars = [np.array(1.0)] * (2 if name in PAIR_FUNCTIONS else 1)
    with pytest.raises(ValueError, match=f"`{first_name(name)}`"):
        ours(*scalars)


@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
def test_one_row_gives_one_number(name):
    ours, truth = PAIR_FUNCTIONS[name]
    p, q = arguments(name, rows=1)
    got = ours(p[0], q[0], given="logits")
    assert np.shape(got) == ()
    assert float(got) == pytest.approx(float(truth(p[0], q[0])), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_vocabulary_of_one(dtype):
    p, q = np.array([[0.5], [-3.0]], dtype), np.array([[2.0], [-3.0]], dtype)
    np.testing.assert_array_equal(kb.kl_divergence(p, q, given="logits"), [0, 0])
    limit = 1e-15 if dtype == "float64" else 1e-7
    np.testing.assert_allclose(kb.cross_entropy(p, q, given="logits"), [0, 0], atol=limit)
    np.testing.assert_allclose(kb.entropy(p, given="logits"), [0, 0], atol=limit)
    np.testing.assert_allclose(kb.logsumexp(p), [0.5, -3.0], atol=limit)
    np.testing.assert_allclose(kb.log_softmax(p), [[0], [0]], atol=limit)


@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
@pytest.mark.parametrize(
    ("p_shape", "q_shape"), [((3, 5), (3, 7)), ((3, 5), (4, 5)), ((2, 3, 5), (3, 3, 5)), ((5,), (4,))]
)
def test_shapes_that_do_not_match(name, p_shape, q_shape):
    ours, _ = PAIR_FUNCTIONS[name]
    with pytest.raises(ValueError, match="`q`") as raised:
        ours(np.ones(p_shape), np.ones(q_shape))
    assert re.search(rf"{re.escape(str(q_shape))}|leading shape {re.escape(str(q_shape[:-1]))}", str(raised.value))
    assert "expected" in str(raised.value)


# ---- values and types that are refused ----


@pytest.mark.parametrize("name", ONE_OF_PROBS)
@pytest.mark.parametrize("value", [-0.25, -1e-30, -INF])
@pytest.mark.parametrize("vocab", [5, 3001])
def test_a_negative_probability_raises(name, value, vocab):
    ours, _ = ONE_OF_PROBS[name]
    for side in range(2 if name in PAIR_FUNCTIONS else 1):
        rows = arguments(name, vocab=vocab)
        rows[side][1, vocab - 2] = value
        with pytest.raises(ValueError, match=f"`{'pq'[side]}`.*negative"):
            ours(*rows, given="probs")


def test_a_negative_probability_beyond_vocab_size_is_not_read():
    p = np.array([[0.5, 0.5, -1.0]])
    assert kb.kl_divergence(p, p, given="probs", vocab_size=2)[0] == 0


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["complex128", "object", "U3", "M8[s]"])
def test_unsupported_dtypes(name, dtype):
    ours, _ = ALL[name]
    rows = [np.ones((2, 3)).astype("int64").astype(dtype) for _ in arguments(name)]
    with pytest.raises(TypeError, match=f"`{first_name(name)}`") as raised:
        ours(*rows)
    assert str(np.dtype(dtype)) in str(raised.value)
    assert "float32" in str(raised.value)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN, INF])
def test_temperatures_that_make_no_sense(name, temperature):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match="`temperature`"):
        ours(*arguments(name), **logits_of(name), temperature=temperature)


@pytest.mark.parametrize("base", [0.0, 1.0, -2.0, NAN])
@pytest.mark.parametrize("name", ALL)
def test_bases_that_make_no_sense(name, base):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match="`base`"):
        ours(*arguments(name), base=base)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("vocab_size", [0, -1, 6])
def test_vocab_sizes_out_of_range(name, vocab_size):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match=f"`vocab_size`.*{vocab_size}"):
        ours(*arguments(name), vocab_size=vocab_size)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threads", [0, -2])
def test_thread_counts_out_of_range(name, threads):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match=f"`num_threads`.*{threads}"):
        ours(*arguments(name), num_threads=threads)


@pytest.mark.parametrize("name", ONE_OF_PROBS)
def test_an_unknown_kind_of_input(name):
    ours, _ = ONE_OF_PROBS[name]
    with pytest.raises(ValueError, match=r"`given`.*'percent'") as raised:
        ours(*arguments(name), given="percent")
    for known in ("probs", "log_probs", "logits"):
        assert known in str(raised.value)


@pytest.mark.parametrize("name", ONE_OF_PROBS)
def test_probabilities_have_no_temperature(name):
    ours, _ = ONE_OF_PROBS[name]
    with pytest.raises(ValueError, match="`temperature`"):
        ours(*arguments(name), given="probs", temperature=2.0)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_out_of_range(name, axis):
    ours, _ = ALL[name]
    with pytest.raises(ValueError, match=f"`axis`.*{axis}"):
        ours(*arguments(name), axis=axis)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("out", [np.empty(4), np.empty((3, 1)), np.empty(3, np.float16)], ids=["4", "3x1", "f2"])
def test_an_out_that_does_not_fit(name, out):
    ours, _ = ALL[name]
    with pytest.raises((ValueError, TypeError), match="`out`"):
        ours(*arguments(name), out=out)


def test_a_read_only_out_raises():
    out = np.empty(3)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="`out`"):
        kb.kl_divergence(*arguments("kl_divergence"), out=out)


@pytest.mark.parametrize("token", [5, -1, 10**6, -101])
def test_token_ids_out_of_range(token):
    logits = np.zeros((3, 5))
    tokens = np.array([0, token, 4])
    for call in (
        lambda: kb.token_log_probs(logits, tokens),
        lambda: kb.token_log_ratios(logits, logits, tokens),
        lambda: kb.sequence_log_ratios(logits[None], logits[None], tokens[None]),
        lambda: kb.compare(logits, logits, tokens),
    ):
        with pytest.raises(ValueError, match=f"`tokens`.*{token}") as raised:
            call()
        assert "from 0 to 4" in str(raised.value)


def test_tokens_of_the_wrong_kind():
    logits = np.zeros((3, 5))
    with pytest.raises(TypeError, match=r"`tokens`.*float64"):
        kb.token_log_probs(logits, np.zeros(3))
    with pytest.raises(ValueError, match=r"`tokens`.*\(2,\)"):
        kb.token_log_probs(logits, np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`tokens`.*4"):  # the padding is not part of the vocabulary
        kb.token_log_probs(logits, np.array([0, 1, 4]), vocab_size=4)


def test_inputs_are_left_alone():
    for given in ("probs", "logits"):
        p, q = arguments("kl_divergence", vocab=3001)
        before = p.copy(), q.copy()
        kb.kl_divergence(p, q, given=given)
        kb.compare(p, q, given=given)
        np.testing.assert_array_equal(p, before[0])
        np.testing.assert_array_equal(q, before[1])


def test_reference_and_package_name_the_same_functions():
    """Every public function of one or two rows has a reference of its name."""
    for name in ALL:
        assert hasattr(reference, name)


@pytest.mark.parametrize("top", [470.0, 477.0, 484.0])
@pytest.mark.parametrize("side", [0, 1])
def test_a_nan_beside_a_peak_of_477_is_not_passed_over(top, side):
    """The least argument of an exponential lies there within reach of the others: it took the place of the NaN."""
    rows = np.zeros((2, 1, 4))
    rows[:, 0, 1] = top
    rows[side, 0, 3] = np.nan
    for function in (kb.kl_divergence, kb.symmetric_kl_divergence):
        assert np.isnan(function(*rows, given="logits")).all()
    assert np.isnan(kb.token_log_ratios(*rows, [2])).all()
