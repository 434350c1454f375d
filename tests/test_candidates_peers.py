"""Paired figures of candidates are statsmodels', where both have them."""

import math

import numpy as np
import pytest
from scipy import stats

import kullback as kb
from kullback.comparison import holm
from kullback.comparison.paired import mcnemar

pytestmark = pytest.mark.integration

RNG = np.random.default_rng(23)
DOCUMENTS, LENGTH, V = 12, 30, 25
GROUPS = np.repeat(np.arange(DOCUMENTS), LENGTH)
BASE = RNG.normal(0, 2, (GROUPS.size, V))
EFFECT = np.exp(RNG.normal(0, 0.5, DOCUMENTS))[GROUPS][:, None]
QS = {name: BASE + noise * EFFECT * RNG.normal(size=BASE.shape) for name, noise in (("q8", 0.3), ("q4", 0.4))}
TOKENS = RNG.integers(0, V, GROUPS.size)
QUANTITIES = ("kl", "reverse_kl", "log_prob", "delta_prob", "acceptance")


def values(name, quantity):
    c = kb.compare(BASE, QS[name], TOKENS)
    return {
        "kl": c.kl, "reverse_kl": c.reverse_kl, "log_prob": c.log_prob_q, "same_top1": c.same_top1.astype(float),
        "delta_prob": np.exp(c.log_prob_q) - np.exp(c.log_prob_p), "acceptance": c.acceptance,
    }[quantity]  # fmt: skip


def found(groups=None):
    return kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=groups).difference("q4", "q8")


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_without_documents_they_are_those_of_a_paired_t_test(quantity):
    from statsmodels.stats.weightstats import DescrStatsW

    ours, theirs = found().of(quantity), DescrStatsW(values("q4", quantity) - values("q8", quantity))
    assert ours.mean == pytest.approx(theirs.mean, rel=1e-9)
    assert ours.standard_error == pytest.approx(theirs.std_mean, rel=1e-9)
    assert ours.p_value == pytest.approx(theirs.ttest_mean()[1], rel=1e-6)
    assert ours.interval(0.9) == pytest.approx(theirs.tconfint_mean(0.1), rel=1e-6)


@pytest.mark.parametrize("quantity", (*QUANTITIES, "same_top1"))
def test_by_document_they_are_those_of_least_squares_with_clusters(quantity):
    """Of documents of one length, for which the jackknife is the linearised error with G/(G - 1)."""
    import statsmodels.api as sm

    d = values("q4", quantity) - values("q8", quantity)
    theirs = sm.OLS(d, np.ones(d.size)).fit(cov_type="cluster", cov_kwds={"groups": GROUPS}, use_t=True)
    ours = found(GROUPS).of(quantity)
    assert ours.mean == pytest.approx(theirs.params[0], rel=1e-9)
    assert ours.standard_error == pytest.approx(theirs.bse[0], rel=1e-9)
    assert ours.degrees_of_freedom == pytest.approx(DOCUMENTS - 1)
    assert ours.p_value == pytest.approx(theirs.pvalues[0], rel=1e-6)
    assert ours.interval() == pytest.approx(tuple(theirs.conf_int(0.05)[0]), rel=1e-6)


def test_documents_of_unequal_length_have_the_jackknifes_error_which_is_the_larger_one():
    import statsmodels.api as sm

    groups = np.searchsorted(np.cumsum([5, 120, 8, 40, 12, 30, 60]), np.arange(GROUPS.size), side="right")
    d = values("q4", "kl") - values("q8", "kl")
    ours = found(groups).kl
    theirs = sm.OLS(d, np.ones(d.size)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    left_out = [
        sm.OLS(d[groups != g], np.ones(np.count_nonzero(groups != g))).fit().params[0] for g in np.unique(groups)
    ]
    n = len(left_out)
    assert ours.standard_error == pytest.approx(math.sqrt((n - 1) / n * np.sum((left_out - d.mean()) ** 2)), rel=1e-9)
    assert theirs.bse[0] < ours.standard_error
    assert ours.degrees_of_freedom < n - 1


def test_mcnemar_is_the_exact_test_less_half_of_what_was_found():
    from statsmodels.stats.contingency_tables import mcnemar as exact

    a, b = (values(name, "same_top1") for name in ("q4", "q8"))
    table = [[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)]
    least, n = min(table[0][1], table[1][0]), table[0][1] + table[1][0]
    expected = exact(table, exact=True).pvalue - stats.binom.pmf(least, n, 0.5)
    ours = found().same_top1
    assert n > 20 and least != n - least
    assert ours.p_value == pytest.approx(expected, rel=1e-9)
    assert mcnemar(int(least), int(n - least)) == ours.p_value
    assert (ours.above, ours.below) == (table[1][0], table[0][1])


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("margin", np.linspace(0.0, 0.2, 15)[1:])
def test_equivalence_is_two_one_sided_t_tests(margin, level):
    from statsmodels.stats.weightstats import ttost_paired

    p_value = ttost_paired(values("q4", "kl"), values("q8", "kl"), -margin, margin)[0]
    assert abs(p_value - (1 - level)) > 1e-6
    assert found().kl.equivalent(margin, level) == (p_value < 1 - level)


def test_holm_is_holms():
    from statsmodels.stats.multitest import multipletests

    for size in (1, 2, 15, 1225):
        p = RNG.random(size) ** 3
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)
