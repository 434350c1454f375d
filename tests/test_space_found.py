"""Rows that the space of inputs (space.py) has found something wrong with, each as small as it got."""

import ml_dtypes
import numpy as np
import pytest
from space_truth import close, truth

import kullback as kb

F32, F64 = np.finfo(np.float32), np.finfo(np.float64)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


# ---- what is as small as rounding


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
@pytest.mark.parametrize("temperature", [0.3036293940525935, 0.7, 1.0])
@pytest.mark.parametrize("depth", [12.0, 25.0, 50.0])
@pytest.mark.parametrize("vocab", [3, 5000])
def test_what_lies_deep_below_a_peak(vocab, depth, temperature, dtype):
    """float32 lanes round log2(e)/temperature, which is worth 2e-6 of a weight 50 nats below the greatest."""
    rng = np.random.default_rng(2)
    p = (temperature * rng.standard_normal((3, vocab))).astype(dtype)
    q = (p.astype(float) + 0.05 * temperature * rng.standard_normal(p.shape)).astype(dtype)
    p[:, vocab // 2] = q[:, vocab // 2] = depth * temperature
    keywords = {"given": "logits", "temperature": temperature}
    pair, tokens = truth(p, q, temperature), np.full(3, vocab // 2)
    found = kb.compare(p, q, tokens, **keywords)
    for got, expected in ((found.kl, pair.kl), (found.reverse_kl, pair.reverse_kl)):
        assert close(got, expected, 1e-6).all()
    for got, side in ((found.entropy_p, pair.p), (found.entropy_q, pair.q), (kb.entropy(p, **keywords), pair.p)):
        assert close(got, side.entropy, 4e-7).all()
    for got, side in ((found.log_prob_p, pair.p), (found.log_prob_q, pair.q)):
        assert close(got, side.log_probs[:, vocab // 2], 4e-7).all()
    got = kb.log_softmax(p, temperature=temperature)[:, vocab // 2]
    assert close(got, pair.p.log_probs[:, vocab // 2], 4e-7).all()


@pytest.mark.parametrize("mask", [-1e30, F64.min])
@pytest.mark.parametrize("apart", [1e-3, 1e-5, 1e-7])
def test_rows_a_constant_apart_under_masks(apart, mask):
    """The difference of each pair of logs is rounded to 1e-16 of that constant: direct sums keep it."""
    p = np.array([-1.8961870741304583, 1.5496123085739928, mask])
    q = np.array([105.54275709824662, 108.98855630287902 + apart, mask])
    pair, found = truth(p, q), kb.compare(p, q, given="logits")
    assert close(found.kl, pair.kl[0], 1e-11)
    assert close(found.reverse_kl, pair.reverse_kl[0], 1e-11)


def test_entropy_of_a_row_far_from_0():
    """The anchor of the sums is a product that is rounded, to 1e-10 here."""
    for value in (29978391.26964548, -3e6 / 7):
        row = np.full(4, value)
        assert close(kb.entropy(row, given="logits", temperature=24.985432765780008), np.log(np.longdouble(4)), 1e-15)
        found = kb.compare(row, row, given="logits", temperature=24.985432765780008)
        assert close(found.entropy_p, np.log(np.longdouble(4)), 1e-15)


@pytest.mark.parametrize("total", [1.0, 1e-24, 3e20])
def test_log_ratios_of_masses_at_other_totals(total):
    p = np.array([0.7, 0.2, 0.1]) * total
    q = np.array([0.7, 0.2 * (1 + 1e-9), 0.1]) * (3 * total)
    pair = truth(p, q, given="probs")
    for token in range(3):
        got = kb.compare(p, q, token, given="probs").log_ratio
        assert close(got, pair.log_ratio[0, token], 1e-7)
    assert abs(kb.compare(p[:1], 3.0 * p[:1], 0, given="probs").log_ratio) < 1e-30


@pytest.mark.parametrize("vocab", [7, 2045])
@pytest.mark.parametrize("far", [0.0, 40.0, 1e4])
def test_rows_that_differ_by_rounding_under_masks(far, vocab):
    """The normalisers are rounded to 1e-15, more than the rows differ by; their difference is not."""
    rng = np.random.default_rng(3)
    p = np.rint(rng.standard_normal(vocab)) + far
    q = p + 1e-13 * (far + 1) * rng.standard_normal(vocab)
    p[3] = q[3] = -65504.0
    pair, keywords = truth(p, q), {"given": "logits"}
    assert close(kb.hellinger_distance(p, q, **keywords) ** 2, pair.squared_hellinger[0], 1e-8)
    assert close(kb.jensen_shannon_divergence(p, q, **keywords), pair.jensen_shannon()[0], 1e-8)
    for alpha in (0.2, 0.8, 2.0, 27.0):
        assert close(kb.renyi_divergence(p, q, alpha, **keywords), pair.renyi(alpha)[0], 1e-8)


def test_powers_that_cancel_far_from_0():
    """p²/q of the first outcomes is 1: e to the difference of two logs of 1e11."""
    p = np.array([889058230272.0, 889058230272.0, 889058230272.0, 893353197568.0]).astype(BFLOAT16)
    q = np.array([1769526525952.0, 1778116460544.0, 1778116460544.0, 1778116460544.0]).astype(BFLOAT16)
    for dtype in (BFLOAT16, np.float32, np.float64):
        got = kb.chi2_divergence(p.astype(dtype), q.astype(dtype), given="logits", temperature=0.05028265920060433)
        assert close(got, 5.0, 1e-14)  # exactly: p is the last outcome, q any of the last three


def test_contributions_of_masses_at_both_ends():
    """A share below float64's numbers has a logarithm."""
    p, q = np.array([4.610596118373328e297, 4.5986169164244946e297]), np.array([4.615429108946735e158, 2.1e-265])
    pair = truth(p, q, given="probs")
    for x, y, expected in ((p, q, -pair.p.share * pair.delta), (q, p, pair.q.share * pair.delta)):
        got = kb.kl_contributions(x, y, kind="plain")
        assert (abs(got - expected[0]) <= 1e-13 * abs(expected[0]) + 1e-300).all()
        assert np.isfinite(kb.kl_contributions(x, y)).all()


def test_contributions_of_long_rows_in_any_layout():
    """NumPy adds along an axis that is not the innermost in memory one by one: 1e-14 of the total."""
    rng = np.random.default_rng(0)
    p = np.where(rng.random((2049, 3)) < 0.5, 1e-3, 0.1834)
    q = rng.permutation(p)
    for x, y in ((p.T, q.T), (p.T[:, ::-1], q.T[:, ::-1])):
        same = np.sort(x, -1) == np.sort(y, -1)
        assert same.all()
        got = kb.kl_contributions(x, y, kind="plain")
        pair = truth(x, y, given="probs")
        assert (abs(got + pair.p.share * pair.delta) <= 2e-15 * pair.p.share).all()


# ---- what is not there


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.float64])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("low", [0.0, -800.0])
def test_nan_beside_what_has_no_weight(low, side, dtype):
    """A NaN whose partner lies as far below the greatest as weights go."""
    rows = np.array([[0.5, 632.94287109375, -0.25], [0.5, 632.94287109375, -0.25]])
    rows[:, 0] += low
    rows[side, 0] = np.nan
    p, q = rows.astype(dtype)
    for function in (kb.kl_divergence, kb.symmetric_kl_divergence, kb.jensen_shannon_divergence, kb.total_variation):
        assert np.isnan(function(p, q, given="logits")), function
    assert np.isnan(kb.compare(p, q, given="logits").reverse_kl)


# ---- what is as great as float64 goes, or greater


def test_a_mean_of_divergences_of_which_one_is_beyond_float64():
    p, q = np.array([-4.657162849245096e306, F64.max]), np.array([0.0, -1.6937148148049146e308])
    assert kb.kl_divergence(q, p, given="logits") == np.inf
    pair = truth(p, q)
    assert close(kb.symmetric_kl_divergence(p, q, given="logits"), pair.symmetric_kl()[0], 1e-14)
    assert close(kb.symmetric_kl_divergence(q, p, 0.6, given="logits"), pair.symmetric_kl(0.4)[0], 1e-14)
    assert kb.symmetric_kl_divergence(p, q, given="logits", temperature=0.5) == np.inf
    q[0] = -np.inf  # one outcome is left
    assert kb.symmetric_kl_divergence(p, q, given="logits") == np.inf


@pytest.mark.parametrize(
    ("p", "q", "temperature"),
    [
        ([3.4230757772000576e303, -np.inf], [3.4230909927098704e303, F64.max], 0.0673130936479712),
        ([-5e-323, F64.min], [F64.min, 5e-323], 0.08897634574337134),
        ([2.709729923047863e34, 5.939987606163843e36], [6.437288204283977e28, -1.5845632502852868e32], 2.3e-299),
        ([F64.max, F64.min, 0.0], [F64.min, F64.max, -3.0], 2.0),
        ([F64.max, F64.min, 0.0], [F64.min, F64.max, -3.0], 1e-308),
        ([0.0, 5e307, -1e308], [1e308, 0.0, 9e307], 1.0),
        ([1.0648605723015938e36, 4.692387752392073e35], [1.0648602553889438e36, F32.min], 3.3729984914262676e-274),
    ],
)
def test_renyi_beyond_float64(p, q, temperature):
    """The number, or inf: never NaN, whatever the logs come to on the way."""
    p, q = np.array(p), np.array(q)
    keywords = {"given": "logits", "temperature": temperature}
    for a, b in ((p, q), (q, p)):
        pair = truth(a, b, temperature)
        for alpha in (1e-300, 1e-3, 0.3, 0.5, 0.84, 1 - 1e-10, 1 + 1e-10, 2.0, 70.0, np.inf):
            with np.errstate(all="ignore"):
                expected = pair.renyi(alpha)[0]
            got = kb.renyi_divergence(a, b, alpha, **keywords)
            at_end = got == np.inf and expected > F64.max * (1 - 1e-11)
            assert at_end or close(got, expected, 1e-11), (alpha, got, expected)
        assert close(kb.hellinger_distance(a, b, **keywords), np.sqrt(pair.squared_hellinger[0]), 1e-11)
        negative(a, b, pair, keywords)


def negative(a, b, pair, keywords):
    """Orders below 0: α/(1-α) times a divergence that may be beyond the range where this is not."""
    for alpha in (-5e-324, -1e-300, -2e-181, -1e-60, -1e-12, -0.3, -1.0, -70.0, -np.inf):
        order = 1 - np.longdouble(alpha)
        factor = 1.0 if alpha == -np.inf else np.longdouble(alpha) / (np.longdouble(alpha) - 1)
        with np.errstate(all="ignore"):
            expected = -factor * pair.swapped().renyi(order)[0]
        got = kb.renyi_divergence(a, b, alpha, **keywords)
        at_end = got == -np.inf and expected < -F64.max * (1 - 1e-11)
        assert at_end or close(got, expected, 1e-11) or abs(expected) < 1e-307, (alpha, got, expected)


@pytest.mark.parametrize(
    ("p", "q", "temperature"),
    [
        (
            [-1.2636108651050383e308, -1.2636115254897994e308],
            [-1.260701070741775e308, -1.2590935033806451e308],
            2.2e-75,
        ),
        ([-1.1865388483200454e39, -1.2082537937924666e39], [-9007199254740992, -9007199254740992], 7.9e-299),
        ([1e300, 0.0, -np.inf], [0.0, 1e300, 0.0], 1e-100),
        ([1e300, 0.0, 0.0], [0.0, 1e300, -np.inf], 1e-100),
        ([1e300, 1e300, -1e300, 3.0], [-1e300, 1e300, 1e300, -np.inf], 1e-20),
    ],
)
def test_negative_orders_where_kl_is_beyond_float64(p, q, temperature):
    """Once -inf, the factor times that."""
    p, q, keywords = np.array(p), np.array(q), {"given": "logits", "temperature": temperature}
    for a, b in ((p, q), (q, p)):
        negative(a, b, truth(a, b, temperature), keywords)
        found = kb.renyi_divergence(a, b, -1e-12, out=np.empty(()), **keywords)
        assert found == kb.renyi_divergence(a, b, -1e-12, **keywords)
        assert kb.renyi_divergence([a, b], [b, b], -1e-12, **keywords).tolist() == [found, 0.0]


@pytest.mark.parametrize("temperature", [1e-2, 1.0, 1e10])
def test_logs_beside_the_least_float64_whose_greatest_are_not(temperature):
    """What the difference of such logs has lost to rounding is itself beyond the range: NaN for 0."""
    p = np.array([-0.578490255021442, F64.min])
    q = np.array([-1e30, -4.80344699618413e307])
    keywords = {"given": "logits", "temperature": temperature}
    for a, b in ((p, q), (q, p)):
        assert kb.kl_divergence(a, b, **keywords) == 0.0
        assert kb.jensen_shannon_divergence(a, b, **keywords) == 0.0
        pair = truth(a, b, temperature)
        for alpha in (1e-3, 0.3, 0.5, 0.9, 2.0, 5.0):
            found = kb.distillation_loss(b[None], a[None], "renyi", alpha=alpha, temperature=temperature)
            with np.errstate(all="ignore"):
                expected = pair.renyi(alpha)[0]
            at_end = found.loss == np.inf and expected > F64.max
            assert at_end or close(found.loss, expected, 1e-11), (alpha, found.loss, expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_long_rows_whose_normalisers_are_beyond_float64(sign):
    """Rows above 2^18 are cut into parts, which are put together by their normalisers: not those."""
    far = sign * 1.5 * 2.0**1021
    p = np.full((1, (1 << 18) + 20), far)
    q = p.copy()
    q[:, :7] = 0.75 * far
    found = kb.compare(p, q, [9], given="logits", temperature=0.1)
    kept = p.size - 7 if sign > 0 else 7  # outcomes that q leaves
    assert found.entropy_p == pytest.approx(np.log(p.size), rel=1e-12)
    assert found.entropy_q == pytest.approx(np.log(kept), rel=1e-12)
    assert found.top1_q == (7 if sign > 0 else 0)
    assert found.kl == pytest.approx((1 - kept / p.size) * 2.5 * abs(far), rel=1e-11)
    assert found.reverse_kl == pytest.approx(np.log(p.size / kept), rel=1e-11)
    assert kb.entropy(q, given="logits", temperature=0.1) == pytest.approx(np.log(kept), rel=1e-12)


# ---- what one row has far below the least weight of the lanes, and the other just about there


@pytest.mark.parametrize("vocab", [6, 5000])
@pytest.mark.parametrize(
    ("dtype", "low", "other"),
    [
        (np.float64, -np.inf, -708.0),
        (np.float64, -np.inf, -800.0),
        (np.float64, -1e306, -707.0),
        (np.float32, -1e30, -80.0),
        (np.float32, -1e30, -86.0),
        (np.float32, -1e34, -92.0),
        (np.float32, -np.inf, -86.0),
        (BFLOAT16, -1e30, -84.0),
        (np.float16, -np.inf, -86.0),
        (np.dtype(ml_dtypes.float8_e5m2), -np.inf, -80.0),
        (np.dtype(ml_dtypes.float8_e5m2), -57344.0, -80.0),
    ],
)
def test_what_only_one_row_has_below_the_least_weight(dtype, low, other, vocab):
    """p's log used to be held at that weight before it was compared with q's: it passed for q's own."""
    p, q = np.tile([0.015625, -0.015625], (2, vocab))[:, :vocab]
    q = 0.0 * q
    p[1], q[1] = low, other
    p, q = p.astype(dtype), q.astype(dtype)
    pair = truth(p, q)
    bound = 1e-11 if dtype == np.float64 else 1e-6
    found, mirrored = kb.compare(p, q, given="logits"), kb.compare(q, p, given="logits")
    forward, reverse = float(pair.kl[0]), float(pair.reverse_kl[0])
    for got, expected in (
        (found.kl, forward),
        (found.reverse_kl, reverse),
        (mirrored.kl, reverse),
        (mirrored.reverse_kl, forward),
        (kb.kl_divergence(q, p, given="logits"), reverse),
        (kb.kl_divergence(p, q, given="logits"), forward),
        (kb.symmetric_kl_divergence(p, q, given="logits"), 0.5 * (forward + reverse)),
        (kb.divergence_matrix(q[None], p[None], given="logits")[0, 0], reverse),
    ):
        assert got == expected or abs(got - expected) <= bound * expected < np.inf


def test_what_only_one_row_has_of_three_far_from_0():
    p, q = np.array([-np.inf, 352.335, 352.326]), np.array([-448.0, 352.0, 352.0])
    assert kb.compare(p, q, given="logits").reverse_kl == np.inf
    assert kb.compare(q, p, given="logits").kl == np.inf


@pytest.mark.parametrize("vocab", [3, 5000])
@pytest.mark.parametrize("other", [-425.0, -450.0, -590.0, -640.0])
def test_deep_on_one_side_and_deeper_on_the_other(other, vocab):
    """q/p = exp(300) of a p that the lanes hold at 2^-1021: neither q's weight nor ln q/p may be made of that."""
    p, q = np.zeros(vocab), np.zeros(vocab)
    p[1], q[1] = other / 2.0, other / 2.0 - 290.0
    p[2:], q[2:] = other - 290.0, other
    pair, found = truth(p, q), kb.compare(p, q, given="logits")
    assert close(found.kl, pair.kl[0], 1e-11)
    assert close(found.reverse_kl, pair.reverse_kl[0], 1e-11)
    assert close(found.entropy_q, pair.q.entropy[0], 1e-11)


def test_masks_on_both_sides_far_below_the_least_weight():
    """They weigh nothing, in q's entropy too, which is made of q's own logs."""
    rng = np.random.default_rng(5)
    for dtype, mask in ((np.float32, F32.min), (np.float32, -1e30), (np.float64, F64.min), (BFLOAT16, -1e9)):
        p, q = (rng.standard_normal((2, 3000)) * [[1.0], [1.5]]).astype(dtype)
        p[::3] = q[::3] = mask
        pair, found = truth(p, q), kb.compare(p, q, given="logits")
        for got, expected in (
            (found.kl, pair.kl[0]),
            (found.reverse_kl, pair.reverse_kl[0]),
            (found.entropy_p, pair.p.entropy[0]),
            (found.entropy_q, pair.q.entropy[0]),
        ):
            assert close(got, expected, 1e-6 if dtype != np.float64 else 1e-11)


@pytest.mark.parametrize("far", [F64.min, -1e300])
@pytest.mark.parametrize("deep", [-448.0, -700.0, -740.0])
def test_mixtures_of_what_is_lost_on_one_side(deep, far):
    """The least weight of the lanes times 1.8e308 is a whole number of nats."""
    p, q = np.array([deep, 0.0, -0.0039]), np.array([far, -0.053, -0.022])
    bound = kb.generalized_jsd(p[1:], q[1:], 0.01)
    for got in (kb.generalized_jsd(p, q, 0.01), kb.generalized_jsd(q, p, 0.99)):
        assert close(got, bound, 1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("temperature", [1e-20, 2e-151, 1e-300])
def test_entropy_gradient_of_ties_beside_nothing(temperature, dtype):
    """ln s + H was the rounding of the normalisers of both, of which 1/temperature makes anything, inf too."""
    for ties in (2, 3, 5, 8, 17):
        row = np.full(ties + 3, -5.0, dtype)
        row[:ties] = 1.0
        assert (kb.entropy_gradient(row, temperature=temperature) == 0.0).all()
