"""Everything about one position at once: log-probs, entropy, ranks, top k; scale, soft-cap and kept lists."""

from types import SimpleNamespace

import numpy as np
import pytest
import reference
from hypothesis import given, settings, strategies as st
from strategies import STORAGES, error, stored

import kullback as kb

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 6, (7, 4501))
IDS = RNG.integers(0, 4501, (7, 3))
IDS[:, 0] = LOGITS.argmax(-1)
IDS[2, 1] = -100
SETTINGS = [
    {},
    {"temperature": 0.6},
    {"softcap": 30.0},
    {"softcap": 2.0, "scale": 0.5, "temperature": 1.7},
    {"softcap": 50.0, "scale": 3.0},
    {"scale": 0.0625},
]
BOUNDS = {"float64": 2e-14}
NAMES = ("log_probs", "entropy", "logsumexp", "rank", "top_ids", "top_log_probs")


def check(got, truth, limit):
    """All six against the reference: whole numbers the same, the others within `limit`."""
    for name, expected in zip(NAMES, truth, strict=True):
        value = getattr(got, name)
        if value is None:
            assert name.startswith("top")
            assert expected.shape[-1] == 0
        elif name in ("rank", "top_ids"):
            assert value.dtype == np.int64
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            assert value.dtype == np.float64
            np.testing.assert_array_equal(np.isnan(value), np.isnan(expected), err_msg=name)
            assert error(name, value, expected) < limit, name


def compare(logits, ids, top_k, limit, kept_mask=None, **options):
    kept = None if kept_mask is None else as_lists(kept_mask)
    got = kb.token_statistics(logits, np.where(ids < 0, -100, ids), top_k=top_k, kept=kept, **options)
    check(got, reference.token_statistics(logits, ids, top_k, kept=kept_mask, **options), limit)


def as_lists(mask):
    """A mask (T, V) as (offsets, ids)."""
    return np.r_[0, mask.sum(-1).cumsum()], np.nonzero(mask)[1]


def a_mask(shape, seed=0):
    """Lists of very different lengths, one empty, one of a single id, one whole."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.random((shape[0], 1)) ** 3
    mask[0] = False
    mask[1] = np.arange(shape[1]) == shape[1] // 2
    mask[2] = True
    return mask


# ---- against the reference ----


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("storage", STORAGES)
def test_everything(storage, options):
    compare(stored(LOGITS, storage), IDS, 9, BOUNDS.get(storage, 1e-6), **options)


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("storage", ["float64", "float32", "bfloat16", "affine"])
def test_kept_lists(storage, options):
    """In float64 whatever the storage: lists are short."""
    compare(stored(LOGITS, storage), IDS, 9, 2e-14, a_mask(LOGITS.shape), **options)


@pytest.mark.parametrize("vocab", [1, 2, 7, 8, 9, 15, 16, 17, 33, 2047, 2048, 2049, 4096, 4097])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("softcap", [None, 1.0])
def test_every_width(vocab, dtype, softcap):
    """Padding of the last register neither weighs nor counts; k may be greater than the vocabulary."""
    logits = RNG.normal(0, 2, (4, vocab)).astype(dtype)
    ids = RNG.integers(-1, vocab, (4, 2))
    limit = BOUNDS.get(dtype, 1e-6)
    compare(logits, ids, min(vocab + 3, 60), limit, softcap=softcap)
    compare(logits, ids, 3, limit, a_mask((4, vocab)), softcap=softcap)


@pytest.mark.parametrize("spread", [1e-4, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("softcap", [0.5, 5.0, 30.0, 1000.0])
def test_soft_caps_near_and_far_from_saturation(softcap, spread):
    logits = RNG.normal(0, spread, (6, 3001))
    logits[1, 1500] = 40 * softcap  # saturated, all others far below
    logits[2] = np.sort(logits[2])  # the greatest grows from block to block
    logits[3] -= 30 * softcap
    compare(logits, logits.argmax(-1)[:, None], 4, 1e-15 * max(softcap, 100), softcap=softcap)
    compare(logits.astype(np.float32), logits.argmax(-1)[:, None], 4, 1e-6, softcap=softcap)


def test_nearly_certain_tokens_keep_their_digits():
    """-ln(1 - ε) is about ε: from the other outcomes, not from 1 - (1 - ε)."""
    logits = np.zeros((1, 4000))
    logits[0, 7] = 30.0
    for options in ({}, {"softcap": 100.0}):
        truth = reference.token_statistics(logits, np.array([[7]]), 0, **options)
        for dtype in (np.float64, np.float32):
            got = kb.token_statistics(logits.astype(dtype), [7], **options)
            # without a cap float32 lanes carry a rest of the heaviest element's own term: 1e-11 nats
            atol = 1e-11 if dtype is np.float32 and not options else 0.0
            np.testing.assert_allclose(got.entropy, truth[1].astype(float), rtol=5e-6, atol=atol)


hostile = st.sampled_from([0.0, -0.0, 1.0, -np.inf, np.inf, np.nan, 60000.0, -60000.0, 1e-30]) | st.floats(
    -9, 9, width=16
)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.lists(hostile, min_size=21, max_size=21), min_size=3, max_size=3),
    vocab=st.integers(1, 21),
    dtype=st.sampled_from(["float64", "float32"]),
    softcap=st.sampled_from([None, 1.0, 30.0]),
    lists=st.booleans(),
    top_k=st.integers(0, 25),
    seed=st.integers(0, 9),
)
def test_hostile_rows(rows, vocab, dtype, softcap, lists, top_k, seed):
    """Ties, NaN, infinities, numbers of every size: undefined where the reference is and right elsewhere."""
    logits = np.array(rows)[:, :vocab].astype(dtype)
    ids = np.random.default_rng(seed).integers(-1, vocab, (3, 2))
    mask = a_mask((3, vocab), seed)[::-1] if lists else None
    compare(logits, ids, top_k, 1e-13 if dtype == "float64" else 2e-6, mask, softcap=softcap)


# ---- what is said of it ----


def test_ranks_count_ties_as_at_least_as_probable():
    s = kb.token_statistics([3.0, 5.0, 3.0, 1.0, 3.0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(s.rank, [4, 1, 4, 5, 4])


def test_equal_outcomes_are_listed_by_rising_id():
    logits = np.tile([1.0, 2.0, 2.0], 3000)
    s = kb.token_statistics(logits, top_k=3500)
    np.testing.assert_array_equal(s.top_ids, np.flatnonzero(logits == 2.0)[:3500])
    assert s.log_probs is None
    assert s.rank is None


@pytest.mark.parametrize("order", ["rising", "falling", "random"])
@pytest.mark.parametrize("top_k", [1, 2, 17, 300])
def test_top_k_in_any_order(order, top_k):
    x = np.random.default_rng(1).permutation(7001).astype(np.float32) / 100
    x = {"rising": np.sort(x), "falling": np.sort(x)[::-1].copy(), "random": x}[order]
    s = kb.token_statistics(x, top_k=top_k)
    np.testing.assert_array_equal(s.top_ids, np.argsort(-x, kind="stable")[:top_k])


def test_same_bits_as_the_functions_of_one_thing():
    for dtype in (np.float32, np.float64):
        x = LOGITS.astype(dtype)
        s = kb.token_statistics(x, IDS, temperature=0.7)
        np.testing.assert_array_equal(s.logsumexp, kb.logsumexp(x, temperature=0.7))
        np.testing.assert_array_equal(s.entropy, kb.entropy_from_logits(x, temperature=0.7))
        np.testing.assert_array_equal(s.log_probs, kb.token_log_probs(x, IDS, temperature=0.7))


def test_token_log_probs_takes_the_same_options():
    kept = as_lists(a_mask(LOGITS.shape))
    for options in (
        {"softcap": 30.0},
        {"scale": 0.5, "temperature": 2.0},
        {"kept": kept},
        {"softcap": 9.0, "kept": kept},
    ):
        expected = kb.token_statistics(LOGITS, IDS, **options).log_probs
        np.testing.assert_array_equal(kb.token_log_probs(LOGITS, IDS, **options), expected)
        np.testing.assert_array_equal(kb.selective_log_softmax(LOGITS, IDS, base=2, **options), expected / np.log(2))
    with pytest.raises(ValueError, match="`given` is 'probs', expected 'logits' with `softcap`"):
        kb.token_log_probs(np.exp(LOGITS), IDS, given="probs", softcap=30.0)


def test_truncated_samplers():
    """The mean ratio of train to rollout probabilities is the kept mass over the whole vocabulary, 1 over the lists."""
    logits = np.random.default_rng(2).normal(0, 2, (4000, 50))
    mask = logits > np.sort(logits, -1)[:, -6:-5]
    kept = as_lists(mask)
    draws = np.where(mask, logits + np.random.default_rng(3).gumbel(size=logits.shape), -np.inf).argmax(-1)
    rollout = kb.token_log_probs(logits, draws, kept=kept)
    p = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    np.testing.assert_allclose(np.exp(kb.token_log_probs(logits, draws) - rollout), (p * mask).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 5])
def test_same_bits_from_any_number_of_threads(num_threads):
    x = RNG.normal(0, 5, (300, 3001)).astype(np.float32)
    kept = as_lists(a_mask(x.shape))
    for options in ({}, {"softcap": 30.0}, {"kept": kept}):
        one = kb.token_statistics(x, x.argmax(-1), top_k=5, num_threads=1, **options)
        many = kb.token_statistics(x, x.argmax(-1), top_k=5, num_threads=num_threads, **options)
        for name in NAMES:
            np.testing.assert_array_equal(getattr(one, name), getattr(many, name))


def test_layouts():
    """Shifted positions, strided vocabularies, read-only memory, a broadcast row, one row of its own."""
    x = RNG.normal(0, 3, (3, 5, 400)).astype(np.float32)
    x.flags.writeable = False
    ids = RNG.integers(0, 200, (3, 5))
    for view in (x[:, :-1], x[:, ::-1, ::2], np.broadcast_to(x[:1], x.shape), x[..., :200]):
        lead = view.shape[:-1]
        got = kb.token_statistics(view, ids[:, : lead[1]], softcap=9.0, top_k=3)
        flat = np.ascontiguousarray(view).reshape(-1, view.shape[-1])
        truth = reference.token_statistics(flat, ids[:, : lead[1]].reshape(-1, 1), 3, softcap=9.0)
        assert got.rank.shape == got.log_probs.shape == got.entropy.shape == lead
        assert got.top_ids.shape == (*lead, 3)
        np.testing.assert_array_equal(got.rank.ravel(), truth[3].ravel())
        np.testing.assert_array_equal(got.top_ids.reshape(-1, 3), truth[4])
        np.testing.assert_allclose(got.log_probs.ravel(), truth[0].ravel().astype(float), rtol=1e-6)
    alone = kb.token_statistics(x[0, 0], 7, top_k=2)
    assert np.ndim(alone.rank) == np.ndim(alone.entropy) == 0
    assert alone.top_ids.shape == (2,)


def test_vocab_size():
    padded = np.concatenate([LOGITS, np.full((7, 9), np.nan)], -1)
    got = kb.token_statistics(padded, IDS, vocab_size=4501, top_k=4)
    check(got, reference.token_statistics(LOGITS, np.where(IDS < 0, -1, IDS), 4), 2e-14)


def test_no_positions():
    s = kb.token_statistics(np.zeros((0, 5)), np.zeros((0, 2), int), top_k=3, kept=([0], []))
    assert s.log_probs.shape == s.rank.shape == (0, 2)
    assert s.top_ids.shape == (0, 3)
    assert s.entropy.shape == (0,)


def test_kept_lists_in_other_forms():
    """As vLLM's object, as int32, in no order; what is not kept may be anything."""
    logits = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 1.0, np.nan, np.inf]])
    expected = kb.token_statistics(logits, [2, 0], kept=([0, 2, 4], [1, 2, 0, 1]))
    np.testing.assert_allclose(expected.log_probs, [-np.log1p(np.exp(-1)), -np.log(2)], rtol=1e-15)
    offsets = np.array([0, 2, 4], np.int32)
    for kept in (
        SimpleNamespace(offsets=[0, 2, 4], token_ids=[1, 2, 0, 1]),
        (offsets, np.array([2, 1, 1, 0], np.int32)),
        [offsets, np.array([1, 2, 0, 1], np.uint16)],
    ):
        np.testing.assert_array_equal(kb.token_statistics(logits, [2, 0], kept=kept).log_probs, expected.log_probs)


def test_nan_with_any_bits_is_nan():
    """Whatever lies in a NaN's lower bits, its row is undefined."""
    for bits in (0x7FC00000, 0x7FC00001, 0xFFC00003, 0x7F800001):
        x = np.ones((1, 64), np.float32)
        x.view(np.uint32)[0, 5] = bits
        for options in ({}, {"softcap": 2.0}, {"kept": ([0, 2], [5, 6])}):
            s = kb.token_statistics(x, [0], top_k=1, **options)
            assert np.isnan([s.logsumexp, s.entropy, s.log_probs, s.top_log_probs[:, 0]]).all(), (hex(bits), options)
            assert s.rank == s.top_ids == -1
        assert np.isnan(kb.logsumexp(x))
        assert np.isnan(kb.token_log_probs(x, [0]))


# ---- refused ----


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"tokens": [5]}, ValueError, "`tokens` holds the id 5"),
        ({"tokens": [[[0]]]}, ValueError, "`tokens` has shape"),
        ({"tokens": [0.5]}, TypeError, "`tokens` has dtype"),
        ({"top_k": -1}, ValueError, "`top_k` is -1, expected at least 0"),
        ({"top_k": 1.5}, TypeError, "`top_k` is 1.5"),
        ({"softcap": 0.0}, ValueError, "`softcap` is 0.0, expected from 1e-06"),
        ({"softcap": np.nan}, ValueError, "`softcap` is nan"),
        ({"softcap": [1, 2]}, TypeError, "`softcap` is"),
        ({"scale": -1.0}, ValueError, "`scale` is -1.0"),
        ({"temperature": 0.0}, ValueError, "`temperature` is 0.0"),
        ({"temperature": 1e-308, "softcap": 1e6}, ValueError, "`temperature` is 1e-308, too small"),
        ({"vocab_size": 6}, ValueError, "`vocab_size` is 6"),
        ({"kept": 3}, TypeError, r"`kept` is int, expected \(offsets, ids\)"),
        ({"kept": ([0, 1, 2], [0, 1])}, ValueError, "`kept` has 3 offsets, expected 2"),
        (
            {"kept": ([0, 3], [0, 1])},
            ValueError,
            r"`kept\[0\]` runs from 0 to 3, expected 0 to 2, the length of `kept\[1\]`",
        ),
        ({"kept": ([1, 2], [0, 1])}, ValueError, r"`kept\[0\]` runs from 1"),
        ({"kept": ([0, 2], [0, 4])}, ValueError, "`kept` holds the id 4, expected from 0 to 3"),
        ({"kept": ([0, 2], [-1, 0])}, ValueError, "`kept` holds the id -1"),
        ({"kept": ([0, 3], [1, 0, 1])}, ValueError, "`kept` lists the id 1 twice in row 0"),
        ({"kept": ([0.0, 2.0], [0, 1])}, TypeError, r"`kept\[0\]` has dtype float64"),
        ({"kept": ([[0, 2]], [0, 1])}, ValueError, r"`kept\[0\]` has shape"),
        ({"num_threads": 0}, ValueError, "`num_threads` is 0"),
    ],
)
def test_errors(options, kind, message):
    with pytest.raises(kind, match=message):
        kb.token_statistics(np.zeros((1, 4)), **options)
