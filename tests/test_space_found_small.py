"""More of what the space of inputs found: what weighs next to nothing, or differs by next to nothing."""

import ml_dtypes
import numpy as np
import pytest
from space_truth import close, truth

import kullback as kb

BFLOAT16, F64 = np.dtype(ml_dtypes.bfloat16), np.finfo(np.float64)


@pytest.mark.parametrize("alpha", [70.0, 1e9, 1e300, np.inf])
@pytest.mark.parametrize("low", [1e-202, 5e-324])
def test_renyi_of_masses_that_differ_where_next_to_nothing_is(low, alpha):
    """Both KLs are 0, the greatest ratio is not; rows that are proportional have none, at any order."""
    p = np.array([5 * low, 0.7698704049271466])
    q = 2.0**20 * p / np.array([1.001, 1.0])
    expected = truth(p, q, given="probs").renyi(alpha)[0]
    assert abs(kb.renyi_divergence(p, q, alpha) - expected) <= 1e-11 * expected + 1e-14
    assert kb.renyi_divergence(p, 4 * p, alpha) == 0.0
    p, q = np.array([5.014715197871701e-202, 0.7698704049271466]), np.array([5.251342385236705e-196, 806199.1692483556])
    assert abs(kb.renyi_divergence(p, q, np.inf) - truth(p, q, given="probs").renyi(np.inf)[0]) <= 1e-14


@pytest.mark.parametrize("alpha", [0.5, 0.6, 0.9, 0.3])
@pytest.mark.parametrize("lost", [1e-8, 2.233968400857636e-16, 1e-30])
def test_renyi_of_float32_masses_that_lose_an_outcome(lost, alpha):
    """Terms of two φ that are nearly -ln(q/p) both: 2e-6 of what is left of them."""
    p = np.array([0.0309204, 0.0329471, 0.0338363, 0.0321171, 0.0322526, 0.0337517, 0.0319642, 0.0325932], np.float32)
    q = np.float32(1.035) * p
    q[5] = lost
    for a, b in ((p, q), (q, p)):
        assert close(kb.renyi_divergence(a, b, alpha), truth(a, b, given="probs").renyi(alpha)[0], 6e-7)


@pytest.mark.parametrize("weight", [0.9, 0.99, 0.999])
def test_skew_kl_to_nearly_p_far_from_0(weight):
    """ln m/p was made of ln m/q and a difference of logs that is rounded to 3e-14."""
    p = np.array([2.2782525480382994, 2.6983977512156434, 2.7962408028536347])
    q = np.array([2.2782525460727747, 2.698397750305222, 293.1044676438002])
    pair = truth(p, q)
    assert close(kb.skew_kl_divergence(p, q, weight, given="logits"), pair.skew_kl(weight)[0], 1e-12)
    for x, y, mixed in ((p, q, pair), (q, p, pair.swapped())):
        assert close(kb.generalized_jsd(x, y, weight), mixed.swapped().jensen_shannon(weight)[0], 1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_log_ratio_of_a_token_one_side_never_gives_about_the_end(sign):
    """-inf beside greatest elements whose own difference is beyond float64."""
    p, q = np.array([-1.3e306 * sign, -np.inf]), np.array([F64.max * sign, F64.max * sign])
    assert kb.token_log_ratios([p], [q], [1]) == kb.sequence_log_ratios([[p]], [[q]], [[1]]) == -np.inf
    assert kb.token_log_ratios([q], [p], [1]) == kb.sequence_log_ratios([[q]], [[p]], [[1]]) == np.inf
    assert kb.token_log_ratios([p], [q], [0]) == pytest.approx(np.log(2.0), rel=1e-15)


@pytest.mark.parametrize("apart", [1e-12, 1e-9, 1e-4])
def test_long_rows_that_are_nearly_equal(apart):
    """The normalisers of their parts are rounded to more than the rows differ by: those rows stay whole."""
    rng = np.random.default_rng(3)
    p = rng.standard_normal((2, (1 << 18) + 20)) + np.array([[300.0], [0.0]])
    q = p + apart * rng.standard_normal(p.shape)
    q[1] = rng.permutation(p[1])
    pair, tokens = truth(p, q), np.array([70_000, 7])
    found = kb.compare(p, q, tokens, given="logits")
    assert close(found.kl, pair.kl, 1e-11).all()
    assert close(found.reverse_kl, pair.reverse_kl, 1e-11).all()
    expected = pair.log_ratio[[0, 1], tokens]
    assert (abs(found.log_ratio - expected) <= 1e-11 * abs(expected) + 1e-13).all()
    assert (found.kl[1:] == kb.compare(p[1:], q[1:], given="logits").kl).all()
    assert (kb.kl_divergence(p, q, given="logits") == found.kl).all()


def test_log_ratios_of_many_small_outcomes():
    """What float32 lanes know of them is relative to the sum over the row, not to its greatest term."""
    rng = np.random.default_rng(4)
    p, q = (rng.permuted(np.tile([0.0, -1.25], (40, 1024)), axis=1) for _ in range(2))
    tokens = rng.integers(0, p.shape[1], len(p))
    pair = truth(p, q)
    expected = pair.log_ratio[np.arange(len(p)), tokens]
    share = np.maximum(pair.p.share, pair.q.share)
    size = np.minimum((share * abs(pair.delta)).sum(-1), 1.0)
    for dtype in (np.float32, BFLOAT16):
        got = kb.token_log_ratios(p.astype(dtype), q.astype(dtype), tokens)
        assert (abs(got - expected) <= 1e-6 * np.maximum(abs(expected), size)).all()


def test_gradients_of_half_a_divergence_beyond_float64():
    """KL(q‖p) is 2e308 nats, and half of it, which is what the loss takes, within float64: no NaN along q's logits."""
    p, q = np.array([[1e308, -1e308]]), np.array([[-700.0, 0.0]])
    result = kb.distillation.distillation_loss(q, p, "symmetric_kl", weight=0.5, gradient="student", reduction="none")
    half = float(1e308 * np.exp(np.longdouble(-700)))  # ½·Q₀·(ln Q₁/P₁ - ln Q₀/P₀) for Q₁ = 1 - 1e-304
    assert result.loss[0] == pytest.approx(1e308, rel=1e-11)
    np.testing.assert_allclose(result.student_gradient, [[-0.5 - half, 0.5 + half]], rtol=1e-11)


@pytest.mark.parametrize("moved", [-0.9225, 0.95, 1.3, 5.0])
def test_one_token_moved_beside_many_that_are_alike(moved):
    """A lane added 64 small terms to one that is nearly all: each was rounded, and all the same way. Of total variation
    those many are half, to the relative accuracy of the difference of the normalisers, 2e-6."""
    p, q = np.zeros((1, 1946), np.float32), np.zeros((1, 1946), np.float32)
    p[0, ::2], q[0, 5] = -1.45e-5, moved
    for x, y in ((p, q), (q, p)):
        pair = truth(x, y, given="log_probs")
        for weight in (0.5, 0.3, 0.9):
            got = kb.generalized_jsd(y, x, weight, given="log_probs")
            assert close(got, pair.jensen_shannon(weight), 2e-6).all()
        assert close(kb.total_variation(x, y, given="log_probs"), pair.total_variation, 5e-7).all()
        assert close(kb.renyi_divergence(x, y, 0.5, given="log_probs"), pair.renyi(0.5), 2e-6).all()


@pytest.mark.parametrize("weight", [0.1, 0.3, 0.9])
def test_mixtures_just_beyond_the_series(weight):
    """What is left of such a term is a seventh of what it was made of, where m lies near the lesser of p and q."""
    p = np.zeros((400, 2), np.float32)
    p[:, 1] = -7.58
    moved = np.random.default_rng(5).uniform(0.9, 1.5, (400, 1)).astype(np.float32)
    for q in (p + moved * [[0.0, 1.0]], p - moved * [[0.0, 1.0]]):
        q = q.astype(np.float32)
        got = kb.generalized_jsd(q, p, weight, given="logits")
        assert close(got, truth(p, q).jensen_shannon(weight), 2e-6).all()


def test_contributions_of_outcomes_that_are_equal_beside_one_that_is_not():
    """The outcome that all log-ratios are taken against had one of 99 nats, rounded to 1e-14 of itself."""
    p = np.array([686.85944, 5.9688308e-41] + [686.85944] * 23 + [5.9688308e-41] * 18, np.float32)
    q = np.array([9.6450813e-40, 11099.132] + [11099.132] * 23 + [9.6450813e-40] * 18, np.float32)
    assert (abs(kb.kl_contributions(p, q, kind="plain")[2:25]) <= 1e-17).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_huge_logit_of_q_after_the_first_block(dtype):
    """Its binary logarithm, rounded to float32, was found to rise again and again: the call never returned."""
    p, q = np.full(5000, -65504.0, dtype), np.full(5000, -65504.0, dtype)
    p[3311], q[2877] = -2.5867353e12, 7.5049374e12
    found = kb.compare(p, q, given="logits")
    assert found.kl == pytest.approx(7.5049374e12 * (4998 / 4999), rel=1e-6)
    assert found.reverse_kl == pytest.approx(np.log(4999.0), rel=1e-6)


def test_a_contribution_of_next_to_nothing_is_not_negative():
    """q's share was 0, scaled with p's greatest element: P·φ(t) came to -3e-323 (1900460607:kl_contributions:186)."""
    p, q = [2.8133019779038605e-202, 1.9419596781196902e121], [1.844437143083514e-213, 4.170352689279183e109]
    for x, y in ((p, q), (q, p)):
        assert (kb.kl_contributions(x, y) >= 0).all()
    assert kb.kl_contributions(p, q)[0] == pytest.approx(1.5e-323, abs=1e-323)
