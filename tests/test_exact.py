"""Exact sums against rational arithmetic."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies as st

from kullback.comparison import ExactSum, Mean
from kullback.comparison.short_sums import sums_of_groups

floats = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40)


def truth(numbers):
    total = sum(map(Fraction, numbers), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf


@given(floats)
def test_the_sum_is_rounded_once(numbers):
    assert float(ExactSum(numbers)) == truth(numbers)


@given(floats, floats, floats)
def test_merging_in_any_order_gives_the_same_bits(a, b, c):
    left, right = ExactSum(a), ExactSum(c)
    left.merge(ExactSum(b))
    left.merge(ExactSum(c))
    right.merge(ExactSum(b + a))
    assert left == right == ExactSum(a + b + c)
    assert float(left) == truth(a + b + c)


def test_many_numbers_of_every_size():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 50)) * 10.0 ** rng.uniform(-320, 300, (200, 50))
    assert float(ExactSum(x)) == truth(x.ravel().tolist()) == math.fsum(x.ravel())
    assert float(ExactSum([5e-324] * 7)) == 7 * 5e-324
    assert float(ExactSum([1.7e308, 1.7e308])) == math.inf
    assert float(ExactSum([1.7e308, 1.7e308, -1.7e308])) == 1.7e308


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(allow_nan=False)), min_size=1, max_size=60))
def test_the_sums_of_groups_are_those_of_each(pairs):
    groups, values = (np.array(x) for x in zip(*pairs, strict=True))
    found = sums_of_groups(values, groups)
    assert list(found) == sorted(set(groups.tolist()))
    for name, (size, infinite, total) in found.items():
        own = values[groups == name]
        assert (size, infinite) == (own.size, np.isinf(own).sum()) and total == ExactSum(own)


def test_the_sums_of_many_groups_of_values_of_any_size(monkeypatch):
    monkeypatch.setattr("kullback.comparison.short_sums._SUMMED", 700)
    rng = np.random.default_rng(3)
    x = rng.normal(size=3000) * 10.0 ** rng.uniform(-320, 300, 3000)
    groups = rng.integers(0, 1000, 3000)
    for name, group in sums_of_groups(x, groups).items():
        assert float(group.total) == math.fsum(x[groups == name])


def test_infinities_and_nan():
    assert float(ExactSum([1.0, math.inf])) == math.inf
    mixed = ExactSum([math.inf])
    mixed.merge(ExactSum([-math.inf]))
    assert math.isnan(float(mixed))
    assert mixed == ExactSum([math.nan])
    assert not mixed.finite


def test_copy_and_pickle():
    one = ExactSum([0.1, 1e200])
    twin = one.copy()
    twin.add(1.0)
    assert twin != one
    assert pickle.loads(pickle.dumps(twin)) == twin
    assert repr(ExactSum([0.5])) == "ExactSum(0.5)"


def test_clustered_mean():
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 9, 50)
    sums = rng.normal(size=50) * tokens
    mean = Mean()
    mean.add(sums, tokens)
    got = mean.estimate
    m = sums.sum() / tokens.sum()
    assert got.mean == pytest.approx(m, rel=1e-15)
    variance = 50 / 49 * np.sum((sums - m * tokens) ** 2) / tokens.sum() ** 2
    assert got.standard_error == pytest.approx(np.sqrt(variance), rel=1e-12)
    huge = Mean()
    huge.add(np.array([1e154, -1e154, 1e154]), np.ones(3, int))
    assert huge.estimate.standard_error == pytest.approx(2e154 / 3, rel=1e-12)


def test_what_is_no_number_is_refused():
    for values in (np.ma.masked_array([1.0, 2.0], [True, False]), ["1.5"], [1j]):
        with pytest.raises(TypeError, match="`values`"):
            ExactSum(values)
