"""Log-probs, log-ratios and sequence sums of chosen tokens."""

import numpy as np
import pytest
import reference
from strategies import STORAGES, error, stored

import kullback as kb

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (4, 6, 503))
OTHERS = LOGITS + RNG.normal(0, 0.5, LOGITS.shape)
TOKENS = RNG.integers(0, 503, (4, 6))
TOKENS[1, 2] = TOKENS[3, 5] = -100
MASK = RNG.random((4, 6)) < 0.7


def nan_equal(got, truth, limit=1e-12):
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))
    assert error("log-probs", got, truth) < limit


# ---- token_log_probs ----


@pytest.mark.parametrize("storage", STORAGES)
def test_log_probs(storage):
    logits = stored(LOGITS, storage)
    got = kb.token_log_probs(logits, TOKENS)
    assert got.shape == (4, 6)
    assert got.dtype == np.float64
    nan_equal(got, reference.token_log_probs(logits, TOKENS), 1e-12 if storage == "float64" else 1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_several_tokens_a_row(k):
    tokens = RNG.integers(0, 503, (4, 6, k))
    tokens[0, 0, k - 1] = -100
    got = kb.token_log_probs(LOGITS, tokens)
    assert got.shape == (4, 6, k)
    nan_equal(got, reference.token_log_probs(LOGITS, tokens))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_token_dtypes(dtype):
    tokens = np.array([0, 100, 3])
    expected = reference.token_log_probs(LOGITS[0, :3], tokens)
    nan_equal(kb.token_log_probs(LOGITS[0, :3], tokens.astype(dtype)), expected)


def test_token_layouts():
    """Shifted, strided and read-only token arrays, as next-token code makes them."""
    tokens = np.ascontiguousarray(np.pad(TOKENS, [(0, 0), (1, 0)]))
    tokens.flags.writeable = False
    nan_equal(
        kb.token_log_probs(LOGITS[:, :-1], tokens[:, 2:]),
        reference.token_log_probs(LOGITS[:, :-1], TOKENS[:, 1:]),
    )
    nan_equal(
        kb.token_log_probs(LOGITS[:, ::-1], TOKENS[:, ::-1]),
        reference.token_log_probs(LOGITS, TOKENS)[:, ::-1],
    )
    nan_equal(
        kb.token_log_probs(LOGITS[0], np.asfortranarray(TOKENS)[0]),
        reference.token_log_probs(LOGITS[0], TOKENS[0]),
    )


def test_ignore_index():
    tokens = np.array([0, -1, 5])
    got = kb.token_log_probs(LOGITS[0, :3], tokens, ignore_index=-1)
    nan_equal(got, reference.token_log_probs(LOGITS[0, :3], tokens, ignore_index=-1))
    # an id inside the vocabulary can be the ignored one: padding token 0 in many a tokenizer
    assert np.isnan(kb.token_log_probs(LOGITS[0, :3], tokens.clip(0), ignore_index=0)[:2]).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature(temperature):
    got = kb.token_log_probs(LOGITS, TOKENS, temperature=temperature)
    nan_equal(got, reference.token_log_probs(LOGITS, TOKENS, temperature=temperature))
    got = kb.token_log_ratios(LOGITS, OTHERS, TOKENS, temperature=temperature)
    nan_equal(got, reference.token_log_ratios(LOGITS, OTHERS, TOKENS, temperature=temperature), 1e-10)


def test_impossible_tokens_and_bad_rows():
    logits = np.array([[0.0, -np.inf], [0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0], [1.0, 1.0]])
    got = kb.token_log_probs(logits, np.array([1, 0, 0, 1, 0]))
    assert got[0] == -np.inf
    assert np.isnan(got[1:4]).all()
    assert got[4] == pytest.approx(-np.log(2), rel=1e-15)


def test_vocab_size():
    padded = np.concatenate([LOGITS, np.full((4, 6, 9), np.nan)], -1)
    nan_equal(kb.token_log_probs(padded, TOKENS, vocab_size=503), reference.token_log_probs(LOGITS, TOKENS))


def test_empty():
    assert kb.token_log_probs(np.zeros((0, 5)), np.zeros(0, int)).shape == (0,)
    assert kb.token_log_ratios(np.zeros((2, 0, 5)), np.zeros((2, 0, 5)), np.zeros((2, 0), int)).shape == (
        2,
        0,
    )


def test_selective_log_softmax():
    """TRL's name and argument order for the same numbers."""
    np.testing.assert_array_equal(
        kb.selective_log_softmax(LOGITS, TOKENS.clip(0)), kb.token_log_probs(LOGITS, TOKENS.clip(0))
    )


# ---- token_log_ratios ----


@pytest.mark.parametrize("storage", STORAGES)
def test_log_ratios(storage):
    p, q = stored(LOGITS, storage), stored(OTHERS, storage)
    got = kb.token_log_ratios(p, q, TOKENS)
    truth = reference.token_log_ratios(p, q, TOKENS)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))
    # a ratio may be near 0 by chance: its error is absolute
    limit = 1e-13 if storage == "float64" else 1e-6
    np.testing.assert_allclose(got, truth.astype(float), rtol=0, atol=limit)


@pytest.mark.parametrize("noise", [1e-5, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_log_ratios_of_close_models(noise, shift):
    """In one pass over both the normalisers cancel: the ratio is as good as the difference of the logits."""
    rng = np.random.default_rng(1)
    p = rng.normal(0, 3, (8, 32_000)).astype(np.float32)
    q = (p + noise * rng.standard_normal(p.shape) + shift).astype(np.float32)
    tokens = rng.integers(0, 32_000, 8)
    truth = reference.token_log_ratios(p, q, tokens).astype(float)
    np.testing.assert_allclose(kb.compare(p, q, tokens).log_ratio, truth, rtol=0, atol=1e-6 * noise + 1e-14)
    np.testing.assert_allclose(kb.token_log_ratios(p, q, tokens), truth, rtol=0, atol=1e-6 * noise + 1e-14)


def test_log_ratio_sign():
    p, q = np.log([[0.75, 0.25]]), np.log([[0.25, 0.75]])
    np.testing.assert_allclose(kb.token_log_ratios(p, q, np.array([0])), [np.log(3)], rtol=1e-15)
    one_sided = kb.token_log_ratios(np.array([[0.0, 0.0]]), np.array([[0.0, -np.inf]]), np.array([1]))
    assert one_sided[0] == np.inf
    assert kb.token_log_ratios(np.array([[0.0, -np.inf]]), np.array([[0.0, 0.0]]), np.array([1]))[0] == -np.inf


# ---- sequences ----

VALUES = RNG.normal(0, 1, (4, 6))
VALUES[2, 1] = np.nan


def test_sequence_sums():
    omitting = {"nan_policy": "omit"}
    nan_equal(kb.sequence_sums(VALUES, **omitting)[0], reference.sequence_sums(VALUES), 1e-14)
    nan_equal(kb.sequence_sums(VALUES, mask=MASK, **omitting)[0], reference.sequence_sums(VALUES, MASK), 1e-14)
    got = kb.sequence_sums(VALUES, MASK.astype(np.int64), **omitting)[0]
    nan_equal(got, reference.sequence_sums(VALUES, MASK), 1e-14)
    np.testing.assert_array_equal(np.isnan(kb.sequence_sums(VALUES)), [False, False, True, False])


def test_packed_sequences():
    offsets = np.array([0, 5, 5, 6, 20, 24])
    for mask in (None, MASK.ravel()):
        got, _ = kb.sequence_sums(VALUES.ravel(), mask=mask, offsets=offsets, nan_policy="omit")
        nan_equal(got, reference.sequence_sums(VALUES.ravel(), mask, offsets), 1e-14)


def test_masked_infinities_are_skipped_and_others_kept():
    values = np.array([[-np.inf, 1.0], [-np.inf, 2.0]])
    np.testing.assert_array_equal(kb.sequence_sums(values, mask=[[False, True], [True, True]]), [1, -np.inf])


def test_long_sequences_keep_their_digits():
    """A sum of a million float32 log-ratios is one of float64."""
    values = np.full((1, 1_000_000), 0.1, np.float32)
    assert kb.sequence_sums(values)[0] == pytest.approx(1e6 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("storage", ["float64", "float32", "bfloat16"])
def test_sequence_log_ratios(storage):
    p, q = stored(LOGITS, storage), stored(OTHERS, storage)
    truth = reference.token_log_ratios(p, q, TOKENS)
    limit = 1e-12 if storage == "float64" else 1e-5
    got = kb.sequence_log_ratios(p, q, TOKENS)
    np.testing.assert_allclose(got, reference.sequence_sums(truth).astype(float), rtol=0, atol=limit)
    got = kb.sequence_log_ratios(p, q, TOKENS, mask=MASK)
    np.testing.assert_allclose(got, reference.sequence_sums(truth, MASK).astype(float), rtol=0, atol=limit)
    offsets = np.array([0, 7, 24])
    flat = (x.reshape((24, *x.shape[2:])) for x in (p, q))
    got = kb.sequence_log_ratios(*flat, TOKENS.ravel(), offsets=offsets)
    truth = reference.sequence_sums(truth.ravel(), offsets=offsets).astype(float)
    np.testing.assert_allclose(got, truth, rtol=0, atol=limit)


def test_sequence_log_ratios_are_the_sums_of_token_log_ratios():
    got = kb.sequence_log_ratios(LOGITS, OTHERS, TOKENS, mask=MASK)
    sums, _ = kb.sequence_sums(kb.token_log_ratios(LOGITS, OTHERS, TOKENS), mask=MASK, nan_policy="omit")
    np.testing.assert_allclose(got, sums, rtol=1e-13)


def test_a_broken_row_makes_its_sequence_nan():
    broken = LOGITS.copy()
    broken[1, 2, 7] = np.nan
    tokens = TOKENS.clip(0)
    whole = kb.sequence_log_ratios(LOGITS, OTHERS, tokens)
    got = kb.sequence_log_ratios(broken, OTHERS, tokens)
    np.testing.assert_array_equal(np.isnan(got), [False, True, False, False])
    np.testing.assert_array_equal(got[[0, 2, 3]], whole[[0, 2, 3]])
    got, omitted = kb.sequence_log_ratios(broken, OTHERS, tokens, nan_policy="omit")
    assert omitted.tolist() == [0, 1, 0, 0]
    ratios = kb.token_log_ratios(LOGITS, OTHERS, tokens)[1]
    np.testing.assert_allclose(got[1], np.delete(ratios, 2).sum(), rtol=1e-12)


@pytest.mark.parametrize("vocab", [503, 300_000])
def test_masked_rows_are_not_read(vocab):
    rng = np.random.default_rng(3)
    p, q = rng.normal(size=(2, 1, 4, vocab)).astype(np.float32)
    tokens = np.array([[3, 500, 7, 1]])
    mask = np.array([[True, False, True, True]])
    expected = kb.token_log_ratios(p, q, tokens)[0]
    p[0, 1], q[0, 1] = np.nan, np.inf  # a masked row
    tokens[0, 1] = 10**9  # is no id, and is not looked at
    tokens[0, 3] = -100  # ignored is as good as masked
    p[0, 3] = np.nan
    got = kb.sequence_log_ratios(p, q, tokens, mask=mask)
    np.testing.assert_allclose(got, [expected[0] + expected[2]], rtol=1e-12)
    got = kb.sequence_log_ratios(p[0], q[0], tokens[0], mask=mask[0], offsets=[0, 2, 2, 4])
    np.testing.assert_allclose(got, [expected[0], 0.0, expected[2]], rtol=1e-12)
    with pytest.raises(ValueError, match=r"`tokens` holds the id 1000000000 at \(0, 1\)"):
        kb.sequence_log_ratios(p, q, tokens)


def test_errors_of_chosen_rows_name_the_rows_of_the_caller():
    p = np.full((1, 3, 4), 0.25)
    p[0, 2, 1] = -1.0
    with pytest.raises(ValueError, match=r"`p_logits` holds a negative value in row \(0, 2\)"):
        kb.sequence_log_ratios(p, p, [[0, -100, 1]], given="probs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.ones((4, 5), bool)}, r"`mask` has shape \(4, 5\), expected \(4, 6\)"),
        ({"offsets": np.array([0, 24])}, r"`values`.*\(4, 6\)"),
    ],
)
def test_sequence_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.sequence_sums(VALUES, **arguments)


@pytest.mark.parametrize("offsets", [[0, 30], [1, 24], [0, 12, 6, 24], [[0, 24]]])
def test_offsets_that_make_no_sense(offsets):
    with pytest.raises(ValueError, match="`offsets`"):
        kb.sequence_sums(VALUES.ravel(), offsets=np.array(offsets))
