"""Mutual information from counts: the conditional one, the level of the test, the coverage of the interval."""

import sys
from pathlib import Path

import numpy as np
import pytest

import kullback as kb

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
import counts as simulation

RNG = np.random.default_rng


def test_conditional_information_is_the_chain_rule():
    """I(X; Y, Z) = I(X; Z) + I(X; Y | Z)."""
    counts = RNG(0).integers(0, 9, (4, 3, 5))
    whole = kb.mutual_information(counts.transpose(1, 2, 0).reshape(3, 20))
    apart = kb.mutual_information(counts.sum(axis=2)) + kb.conditional_mutual_information(counts)
    np.testing.assert_allclose(whole, apart, rtol=1e-12)
    batch = RNG(1).integers(0, 9, (2, 7, 4, 3, 5))
    np.testing.assert_allclose(
        kb.conditional_mutual_information(batch)[1, 3], kb.conditional_mutual_information(batch[1, 3]), rtol=1e-14
    )
    one = counts[:1]
    for correction in (None, "miller-madow"):
        assert kb.conditional_mutual_information(one, bias_correction=correction) == kb.mutual_information(
            one[0], bias_correction=correction
        )
    empty = np.concatenate([counts, np.zeros_like(one)])
    for correction in (None, "miller-madow"):
        np.testing.assert_array_equal(
            kb.conditional_mutual_information(empty, bias_correction=correction),
            kb.conditional_mutual_information(counts, bias_correction=correction),
        )
    assert np.isnan(kb.conditional_mutual_information(0 * counts)) and np.isnan(kb.mutual_information(0 * counts[0]))


@pytest.mark.parametrize(("shape", "total"), [((10, 10), 200), ((3, 3), 30)])
def test_level_of_g_and_of_random_tables(shape, total):
    """Few counts a cell: χ² rejects too often, as the docstring says (26.5 % of 10 × 10 in docs/counts.md); random
    tables at most 5 %, and 300 tables are within 3.8 points of that 3 times in 1000."""
    chi2, exact = simulation.levels(shape, total, 300, 99)
    assert exact <= 0.05 + 0.038
    if shape == (10, 10):
        assert chi2 > 0.2


def test_test_of_independence_has_power_and_is_repeatable():
    table = [[60, 20], [25, 55]]
    found = kb.mutual_information_estimate(table, rng=0)
    assert found == kb.mutual_information_estimate(table, rng=0)
    assert found.p_value == 0.001 and found.low > 0
    within = np.array([[[40, 10], [8, 2]], [[2, 8], [10, 40]]])
    assert kb.mutual_information_estimate(within.sum(axis=0), rng=0).p_value < 0.01
    assert kb.mutual_information_estimate(within, conditional=True, rng=0).p_value > 0.5


@pytest.mark.parametrize("dependence", simulation.DEPENDENCE)
@pytest.mark.parametrize(("shape", "total", "skew"), [((2, 2), 100, 1.0), ((5, 5), 500, 0.6), ((3, 3), 1000, 0.6)])
def test_coverage_of_the_interval(shape, total, skew, dependence):
    """0.90 from 20 counts a cell, 0.93 from 100, less 3 standard deviations of 300 tables; docs/counts.py has more."""
    promised = 0.90 if total < 50 * shape[0] * shape[1] else 0.93
    found = simulation.coverage(shape, total, dependence, 300, skew)
    assert found >= promised - 3 * np.sqrt(promised * (1 - promised) / 300)


def test_coverage_given_a_third_variable():
    rng = RNG(5)
    layers = np.array([[[0.2, 0.05], [0.05, 0.1]], [[0.1, 0.2], [0.1, 0.2]]])
    truth = float(kb.conditional_mutual_information(layers))
    tables = rng.multinomial(400, layers.ravel(), size=300).reshape(-1, 2, 2, 2)
    found = [kb.mutual_information_estimate(t, conditional=True, permutations=0) for t in tables]
    covered = np.mean([f.low <= truth <= f.high for f in found])
    assert 0.91 <= covered <= 0.99
    assert abs(np.mean([f.value for f in found]) - truth) < 0.003


def test_no_interval_below_twenty_counts_a_cell():
    few = kb.mutual_information_estimate([[5, 2], [2, 9]], rng=0)
    assert np.isnan([few.low, few.high]).all() and few.counts_per_cell == 4.5
    enough = kb.mutual_information_estimate([[50, 0], [0, 50]], permutations=0, base=2)
    assert enough.high == 1.0 and enough.low > 0.9 and np.isnan(enough.p_value)  # no information exceeds one bit
    halves = kb.mutual_information_estimate([[60, 20], [25, 55]], permutations=0, base=0.5)
    assert halves.low < halves.value < halves.high < 0


def test_estimates_refuse():
    with pytest.raises(ValueError, match="`counts` has fractions or no counts"):
        kb.mutual_information_estimate([[0.5, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"`counts` has shape \(2, 2\), expected \(S, R, C\)"):
        kb.mutual_information_estimate([[1, 1], [1, 1]], conditional=True)
    with pytest.raises(ValueError, match=r"`counts` has shape \(2, 2\), expected \(..., S, R, C\)"):
        kb.conditional_mutual_information([[1, 1], [1, 1]])
