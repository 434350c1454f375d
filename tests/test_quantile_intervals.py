"""Intervals of quantiles: exact ranks for independent values, the groups' own error where groups are known."""

import math

import numpy as np
import pytest

import kullback as kb
from kullback.comparison import Spread
from kullback.comparison.batched import _binomial_ranks

LEVELS = (0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999)


def binomial(n, level):
    """P(X = k) of k = 0 ... n, by logarithms of factorials."""
    k = np.arange(n + 1)
    logs = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return np.exp(logs + k * math.log(level) + (n - k) * math.log1p(-level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n", [1, 5, 50, 500, 1500])
def test_ranks_are_those_of_the_binomial_law(n, level):
    chances, tail = binomial(n, level), 0.025
    low, high = _binomial_ranks(level, n, tail)
    assert chances[:low].sum() <= tail + 1e-12 < chances[: low + 1].sum()
    assert chances[high:].sum() <= tail + 1e-12
    assert chances[high - 1 :].sum() > tail - 1e-9


@pytest.mark.parametrize("level", LEVELS)
def test_ranks_of_many_cover(level):
    """From some size on they come from the normal law: a rank too far at most, never one too near."""
    n, tail = 6000, 0.025
    chances = binomial(n, level)
    low, high = _binomial_ranks(level, n, tail)
    assert chances[:low].sum() <= tail
    assert chances[high:].sum() <= tail
    assert chances[: low + 2].sum() > tail
    assert chances[max(high - 2, 0) :].sum() > tail


def test_ends_are_values():
    values = np.arange(1.0, 101.0)
    low, high = _binomial_ranks(0.5, 100, 0.025)
    assert Spread.of(values).quantile_interval(0.5) == (low, high)
    assert Spread.of(values).quantile_interval(0.999) == (99.0, math.inf)  # too few for an upper end
    assert Spread.of(values).quantile_interval(0.001) == (0.0, 2.0)
    assert Spread.of(-values).quantile_interval(0.001) == (-math.inf, -99.0)
    wide, narrow = (Spread.of(values).quantile_interval(0.5, confidence) for confidence in (0.99, 0.5))
    assert wide[0] < low < narrow[0] < narrow[1] < high < wide[1]


def documents(rng, groups, size, effect):
    """Values whose documents differ, and the document of each."""
    names = np.repeat(np.arange(groups), size)
    return np.exp(effect * rng.standard_normal(groups)[names] + rng.standard_normal(names.size)), names


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(("groups", "size", "effect"), [(10, 50, 0.5), (100, 30, 1.0), (40, 60, 0.0)])
def test_coverage_with_documents(groups, size, effect, level):
    """With a fixed seed; as if tokens were independent the same intervals hold 0.3 to 0.7 of the time."""
    rng = np.random.default_rng(int(1000 * level) + groups)
    scale = math.hypot(1.0, effect)
    truth = math.exp(scale * {0.5: 0.0, 0.9: 1.2815515655446004, 0.99: 2.3263478740408408}[level])
    held = 0
    for _ in range(100):
        low, high = Spread.of(*documents(rng, groups, size, effect)).quantile_interval(level)
        held += low <= truth <= high
    assert held >= 89  # 95 ± 2.2


def test_documents_make_them_wider():
    values, names = documents(np.random.default_rng(1), 50, 100, 1.0)
    low, high = Spread.of(values).quantile_interval(0.9)
    low_grouped, high_grouped = Spread.of(values, names).quantile_interval(0.9)
    assert high_grouped - low_grouped > 3 * (high - low)


def test_parts_in_any_order():
    values, names = documents(np.random.default_rng(2), 90, 40, 0.7)
    whole = Spread.of(values, names)
    parts = [Spread.of(values[i::3], names[i::3]) for i in (1, 2, 0)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged == whole == parts[2].merge(parts[0].merge(parts[1]))
    for level in LEVELS:
        assert merged.quantile_interval(level) == whole.quantile_interval(level)
    before = whole.quantile_interval(0.9)
    whole.compact(10)
    assert whole.quantile_interval(0.9) == pytest.approx(before, rel=2 * whole.quantile_error)


def test_too_few_documents_and_no_values():
    values, names = documents(np.random.default_rng(3), 4, 40, 0.7)
    assert np.isnan(Spread.of(values, names).quantile_interval(0.5)).all()
    assert np.isnan(Spread.of(np.array([])).quantile_interval(0.5)).all()
    assert np.isnan(Spread.of(np.array([np.nan])).quantile_interval(0.5)).all()
    grouped = Spread.of(*documents(np.random.default_rng(3), 6, 40, 0.7))
    assert np.isnan(grouped.merge(Spread.of(values)).quantile_interval(0.5)).all()  # some are in no document
    assert grouped.quantile_interval(0.5, 1.0) == (0.0, math.inf)
    low, high = grouped.quantile_interval(0.5, 0.0)
    assert low <= grouped.median <= high
    five = documents(np.random.default_rng(3), 5, 40, 0.7)
    infinite = Spread.of(np.append(five[0], np.inf), np.append(five[1], 4))
    assert infinite.finite.quantile_interval(0.5) == Spread.of(*five).quantile_interval(0.5)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="level"):
            Spread.of(values).quantile_interval(wrong)
        with pytest.raises(ValueError, match="confidence"):
            Spread.of(values).quantile_interval(0.5, wrong)


def test_in_the_summary():
    rng = np.random.default_rng(4)
    p = rng.standard_normal((600, 30))
    s = kb.compare(p, p + 0.1 * rng.standard_normal(p.shape)).summary(np.arange(600) // 20)
    tree = s.to_dict()
    for name in ("kl", "reverse_kl", "acceptance"):
        spread = getattr(s, name)
        low, high = spread.quantile_interval(0.9)
        assert tree[name]["quantile_intervals"]["0.9"] == [low, high]
        assert low <= spread.quantile(0.9) <= high
        assert tree[name]["quantile_intervals"]["0.999"][1] == "inf"
