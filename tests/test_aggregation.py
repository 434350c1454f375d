"""Sequence sums and aggregations against exact rational arithmetic and formulas written out by hand."""

import itertools
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from kullback.rlhf import AGGREGATION_MODES, aggregate, aggregation_parts
from kullback.tokens import sequence_sums


def ragged(rng, lengths, width):
    """The same tokens padded left, padded right and packed."""
    tokens = [rng.normal(size=n) for n in lengths]
    left, right = np.full((2, len(lengths), width), np.nan)
    left_mask, right_mask = np.zeros((2, len(lengths), width), bool)
    for b, x in enumerate(tokens):
        right[b, : x.size], right_mask[b, : x.size] = x, True
        left[b, width - x.size :], left_mask[b, width - x.size :] = x, True
    return tokens, (left, left_mask), (right, right_mask), (np.concatenate(tokens), np.cumsum([0, *lengths]))


def exact_sum(x):
    return float(sum(map(Fraction, np.asarray(x, np.float64).tolist()), Fraction(0)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_sums_of_every_layout_are_exact_but_for_one_rounding(dtype):
    rng = np.random.default_rng(1)
    lengths = [0, 1, 7, 0, 64, 200, 129, 0]
    tokens, left, right, (packed, offsets) = ragged(rng, lengths, 200)
    expected = [exact_sum(x.astype(dtype)) for x in tokens]
    for values, mask in (left, right):
        sums, counts = sequence_sums(values.astype(dtype), mask, return_counts=True)
        assert sums.dtype == np.float64
        assert counts.dtype == np.int64
        assert sums.tolist() == expected
        assert counts.tolist() == lengths
    sums, counts = sequence_sums(packed.astype(dtype), offsets=offsets, return_counts=True)
    assert sums.tolist() == expected
    assert counts.tolist() == lengths


def test_long_and_many_sequences():
    rng = np.random.default_rng(2)
    lengths = [150_000, 3, 0, 70_000, *rng.integers(0, 40, 5000)]
    values = rng.normal(size=sum(lengths)).astype(np.float32)
    offsets = np.cumsum([0, *lengths])
    mask = rng.random(values.size) < 0.7
    sums, counts = sequence_sums(values, mask, offsets, return_counts=True)
    for b in [*range(8), 4000, len(lengths) - 1]:
        own = slice(offsets[b], offsets[b + 1])
        assert sums[b] == exact_sum(values[own][mask[own]])
        assert counts[b] == mask[own].sum()
    assert np.array_equal(sums, sequence_sums(values, mask, offsets, num_threads=1))
    assert np.array_equal(sums, sequence_sums(values, mask.astype(np.float32), offsets, num_threads=3))
    assert np.array_equal(sums, sequence_sums(values, mask.astype(np.uint8), offsets))


def test_a_sum_depends_on_its_own_sequence_alone():
    rng = np.random.default_rng(3)
    lengths = rng.integers(0, 3000, 100)
    values = rng.normal(size=lengths.sum()).astype(np.float32)
    offsets = np.cumsum([0, *lengths])
    whole = sequence_sums(values, offsets=offsets)
    for pieces in (2, 7, 100):
        edges = np.linspace(0, 100, pieces + 1).astype(int)
        parts = [
            sequence_sums(values[offsets[i] : offsets[j]], offsets=offsets[i : j + 1] - offsets[i])
            for i, j in itertools.pairwise(edges)
        ]
        assert np.array_equal(np.concatenate(parts), whole)


def test_masked_tokens_are_skipped_and_nan_ones_stay_nan():
    values = np.array([[1.0, np.nan, np.inf], [2.0, 3.0, np.nan]])
    mask = np.array([[1, 1, 0], [1, 1, 0]])
    sums, counts = sequence_sums(values, mask, return_counts=True)
    assert np.array_equal(sums, [np.nan, 5.0], equal_nan=True)
    assert counts.tolist() == [2, 2]
    both = sequence_sums(np.array([[np.inf, -np.inf], [np.inf, 1.0]]))
    assert np.array_equal(both, [np.nan, np.inf], equal_nan=True)


def test_omitted_tokens_are_counted():
    values = np.array([[1.0, np.nan, np.inf], [2.0, 3.0, np.nan]])
    mask = np.array([[1, 1, 0], [1, 1, 0]])
    sums, omitted = sequence_sums(values, mask, nan_policy="omit")
    assert (sums.tolist(), omitted.tolist()) == ([1.0, 5.0], [1, 0])
    sums, counts, omitted = sequence_sums(values, mask, nan_policy="omit", return_counts=True)
    assert (sums.tolist(), counts.tolist(), omitted.tolist()) == ([1.0, 5.0], [1, 2], [1, 0])


@pytest.mark.parametrize("mode", AGGREGATION_MODES)
def test_a_dead_policy_is_not_healthy(mode):
    dead, scale = np.full((2, 3), np.nan), SCALES.get(mode)
    assert np.isnan(aggregate(dead, mode=mode, scale=scale))
    assert np.isnan(aggregate(dead, MASK[:2, :3], mode=mode, scale=scale))
    value, omitted = aggregate(dead, mode=mode, scale=scale, nan_policy="omit")
    assert np.isnan(value)
    assert omitted == 6
    assert aggregate(dead, np.zeros((2, 3)), mode=mode, scale=scale) == 0.0  # masked tokens are not read


def test_aggregates_say_how_many_nan_they_left_out():
    values, mask = np.array([[1.0, np.nan, 3.0], [5.0, np.nan, np.nan]]), np.array([[1, 1, 1], [1, 1, 0]])
    assert np.isnan(aggregate(values, mask))
    assert aggregate(values, mask, nan_policy="omit") == (3.0, 2)
    assert aggregate(values, mask, nan_policy="omit", denominator=6) == (1.5, 2)
    assert aggregate(values, mask, mode="token-sum", nan_policy="omit") == (9.0, 2)
    assert aggregation_parts(values, mask, nan_policy="omit") == (9.0, 3, 2)
    total, count = aggregation_parts(values, mask)
    assert np.isnan(total)
    assert count == 5


def test_shapes():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(sequence_sums(x), x.sum(-1))
    assert np.array_equal(sequence_sums(x[..., ::2]), x[..., ::2].sum(-1))
    assert np.array_equal(sequence_sums(x[:, :, 1:], mask=x[:, :, 1:] > 5), (x * (x > 5))[:, :, 1:].sum(-1))
    assert sequence_sums(np.empty((0, 5))).shape == (0,)
    assert np.array_equal(sequence_sums(np.empty((3, 0))), np.zeros(3))
    assert sequence_sums(np.empty(0), offsets=[0]).shape == (0,)
    assert np.array_equal(sequence_sums(np.empty(0), offsets=[0, 0]), [0.0])


# ------------------------------------------------------------------------------------------------ aggregation

VALUES = np.array([[1.0, 2.0, 4.0, 7.0], [9.0, 9.0, 9.0, 9.0], [3.0, 5.0, 9.0, 9.0]])
MASK = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]])  # sums 7, -, 8; means 7/3, -, 4; B = 3, T = 4
EXPECTED = {
    "token-mean": 15 / 5,
    "token-sum": 15.0,
    "token-sum-norm": 15 / 4,
    "seq-mean-token-mean": (7 / 3 + 4) / 2,
    "seq-mean-token-sum": 15 / 2,
    "seq-mean-token-sum-norm": 15 / 2 / 4,
    "bnpo": 3.0,
    "dapo": 3.0,
    "cispo": 3.0,
    "vespo": 3.0,
    "grpo": (7 / 3 + 4) / 3,
    "sapo": (7 / 3 + 4) / 3,
    "luspo": 15 / 3,
    "dr_grpo": 15 / (3 * 4),
    "sequence-mean-token-mean": (7 / 3 + 4) / 2,
    "sequence-mean-token-scale": 15 / 2 / 4,
    "sequence-mean-token-sum-norm": 15 / 4,
}
SCALES = {mode: 4.0 for mode, how in AGGREGATION_MODES.items() if how.scaled}


def test_every_mode_is_checked():
    assert set(EXPECTED) == set(AGGREGATION_MODES)


@pytest.mark.parametrize("mode", EXPECTED)
def test_modes(mode):
    got = aggregate(VALUES, MASK, mode=mode, scale=SCALES.get(mode))
    assert got == pytest.approx(EXPECTED[mode], rel=1e-15)


def test_the_padded_length_is_the_default_scale():
    for mode in set(SCALES) - {"sequence-mean-token-sum-norm"}:
        assert aggregate(VALUES, MASK, mode=mode) == aggregate(VALUES, MASK, mode=mode, scale=4.0)


@pytest.mark.parametrize("mode", EXPECTED)
def test_packed_equals_padded(mode):
    packed = VALUES[MASK == 1]
    got = aggregate(packed, offsets=[0, 3, 3, 5], mode=mode, scale=SCALES.get(mode))
    assert got == aggregate(VALUES, MASK, mode=mode, scale=SCALES.get(mode))


@pytest.mark.parametrize("mode", EXPECTED)
def test_parts_of_workers_add_up(mode):
    scale = SCALES.get(mode)
    whole = aggregate(VALUES, MASK, mode=mode, scale=scale)
    shares = [aggregation_parts(VALUES[i : i + 1], MASK[i : i + 1], mode=mode, scale=scale) for i in range(3)]
    total, count = map(sum, zip(*shares, strict=True))
    counted = AGGREGATION_MODES[mode].count != "none"
    assert whole == pytest.approx(total / count if counted else total, rel=1e-15)
    if counted:
        rows = range(3)
        by_share = [aggregate(VALUES[[i]], MASK[[i]], mode=mode, scale=scale, denominator=count) for i in rows]
        assert whole == pytest.approx(sum(by_share), rel=1e-15)


def test_the_order_of_sequences_does_not_change_a_bit():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(500, 7)) * 10.0 ** rng.uniform(-6, 6, (500, 1))
    order = rng.permutation(500)
    for mode in AGGREGATION_MODES:
        scale = SCALES.get(mode)
        assert aggregate(values, mode=mode, scale=scale) == aggregate(values[order], mode=mode, scale=scale)


@pytest.mark.parametrize("mode", EXPECTED)
def test_nothing_to_count_gives_zero(mode):
    assert aggregate(VALUES, np.zeros_like(MASK), mode=mode, scale=SCALES.get(mode)) == 0.0


def test_infinities_propagate():
    assert aggregate([[1.0, np.inf]]) == np.inf
    assert np.isnan(aggregate([[-np.inf], [np.inf]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_sums(np.zeros(3)), r"`values` has shape \(3,\), expected \(B, T\), or \(N,\)"),
        (lambda: sequence_sums(np.zeros((2, 3)), offsets=[0, 3]), r"expected \(N,\) because `offsets`"),
        (lambda: sequence_sums(np.zeros(3), offsets=[0, 2]), "`offsets` runs from 0 to 2, expected 0 to 3"),
        (lambda: sequence_sums(np.zeros(3), offsets=[1, 3]), "`offsets` runs from 1 to 3, expected 0 to 3"),
        (
            lambda: sequence_sums(np.zeros(3), offsets=[0, 2, 1, 3]),
            "`offsets` falls from 2 to 1 at sequence 1",
        ),
        (lambda: sequence_sums(np.zeros(3), offsets=[]), r"`offsets` has shape \(0,\)"),
        (lambda: sequence_sums(np.zeros((2, 3)), np.ones((2, 2))), r"`mask` has shape \(2, 2\)"),
        (lambda: sequence_sums(np.zeros((2, 3)), np.full((2, 3), 0.5)), "`mask` holds values other"),
        (lambda: sequence_sums(np.zeros((2, 3)), nan_policy="raise"), "`nan_policy` is 'raise'"),
        (lambda: aggregate(VALUES, mode="mean"), "`mode` is 'mean', expected one of token-mean"),
        (lambda: aggregate(np.zeros(3), offsets=[0, 3], mode="dr_grpo"), r"`scale` is None.* packed tokens"),
        (
            lambda: aggregate(VALUES, mode="sequence-mean-token-sum-norm"),
            "`scale` is None, expected a number",
        ),
        (lambda: aggregate(VALUES, mode="dr_grpo", scale=0.0), "`scale` is 0.0, expected a positive"),
        (lambda: aggregate(VALUES, mode="grpo", scale=2.0), "`scale` is 2.0, expected None"),
        (lambda: aggregate(VALUES, mode="grpo", denominator=0), "`denominator` is 0.0, expected a positive"),
        (lambda: aggregate(VALUES, mode="token-sum", denominator=3), "`denominator` is 3, expected None"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_type_errors():
    with pytest.raises(TypeError, match="`offsets` has dtype float64, expected integers"):
        sequence_sums(np.zeros(3), offsets=[0.0, 3.0])
    with pytest.raises(TypeError, match="`mask` has dtype <U1"):
        sequence_sums(np.zeros((1, 2)), mask=[["a", "b"]])
    with pytest.raises(TypeError, match="`values` has dtype object"):
        sequence_sums(np.array([[None, 1]]))


def test_masked_arrays_would_lose_their_mask():
    values = np.ma.masked_invalid([[1.0, np.nan]])
    with pytest.raises(TypeError, match="`values` is a masked array, expected a plain one"):
        sequence_sums(values)
    with pytest.raises(TypeError, match="`values` is a masked array"):
        aggregate(values)
    with pytest.raises(TypeError, match="`mask` is a masked array"):
        aggregate(values.data, values)
    with pytest.raises(TypeError, match="`offsets` is a masked array"):
        sequence_sums(np.zeros(3), offsets=np.ma.array([0, 3]))
