"""KL controllers against the published rule, penalised rewards against plain loops."""

import numpy as np
import pytest

import kullback as kb
from kullback.rlhf import AdaptiveKLController, FixedKLController, kl_penalized_rewards


def test_adaptive_controller_follows_the_rule():
    controller = AdaptiveKLController(0.1, target=2.0, horizon=1000)
    controller.update(2.2, 100)  # 10 % above: + 10 % · 100/1000
    assert controller.value == pytest.approx(0.101, rel=1e-12)
    controller.update(50.0, 500)  # far above counts as 20 %
    assert controller.value == pytest.approx(0.101 * 1.1, rel=1e-12)
    controller.update(-3.0, 500)  # a sampled KL may be negative
    assert controller.value == pytest.approx(0.101 * 1.1 * 0.9, rel=1e-12)
    controller.update(np.inf, 1000)
    assert controller.value == pytest.approx(0.101 * 1.1 * 0.9 * 1.2, rel=1e-12)


def test_fixed_controller_stays():
    controller = FixedKLController(0.3)
    controller.update(50.0, 500)
    assert controller.value == 0.3
    assert repr(controller) == "FixedKLController(kl_coef=0.3)"


def batch(rng):
    kl, mask = rng.normal(size=(5, 7)), rng.random((5, 7)) < 0.6
    mask[2] = False
    kl[~mask] = np.nan
    return kl, mask


def test_token_rewards_match_a_loop():
    rng = np.random.default_rng(1)
    kl, mask = batch(rng)
    scores = np.array([1.0, -2.0, 0.0, 3.0, 4.0])
    expected = np.zeros((5, 7))
    for b in range(5):
        kept = np.flatnonzero(mask[b])
        expected[b, kept] = -0.2 * kl[b, kept]
        if kept.size:
            expected[b, kept[-1]] += scores[b]
    assert np.allclose(kl_penalized_rewards(scores, kl, 0.2, mask), expected, rtol=1e-15)
    packed = kl_penalized_rewards(scores, kl.reshape(-1), 0.2, mask.reshape(-1), np.arange(6) * 7)
    assert np.array_equal(packed.reshape(5, 7), kl_penalized_rewards(scores, kl, 0.2, mask))
    assert kl_penalized_rewards([1.0], [[0.0, 0.0]], 0.2).tolist() == [[0.0, 1.0]]
    assert kl_penalized_rewards([1.0, 2.0], [0.0, 0.0], 0.2, offsets=[0, 1, 2]).tolist() == [1.0, 2.0]


def test_token_scores_and_sequence_rewards():
    kl, mask = np.array([[1.0, 2.0, 5.0]]), np.array([[1, 1, 0]])
    got = kl_penalized_rewards([[0.0, 1.0, 9.0]], kl, 0.5, mask)
    assert got.tolist() == [[-0.5, 0.0, 0.0]]
    assert kl_penalized_rewards([4.0], kl, 0.5, mask, level="sequence").tolist() == [2.5]


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda x: x[:, ::-1].copy()[:, ::-1], lambda x: x.T.copy().T])
def test_scores_reach_their_tokens_in_every_layout(layout):
    """They were added to a copy of rows that are not contiguous: the rewards held the penalty alone."""
    kl, scores = np.random.default_rng(0).random((3, 5)), np.array([1.0, -2.0, 3.0])
    expected = -0.1 * kl
    expected[:, -1] += scores
    np.testing.assert_array_equal(kb.kl_penalized_rewards(scores, layout(kl), 0.1), expected)


def test_a_coefficient_of_zero_switches_the_penalty_off():
    got = kl_penalized_rewards([4.0], [[np.inf, 1.0]], 0.0)
    assert got.tolist() == [[0.0, 4.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: AdaptiveKLController(-0.1, 1.0, 10),
            "`init_kl_coef` is -0.1, expected a number that is not neg",
        ),
        (lambda: AdaptiveKLController(0.1, 0.0, 10), "`target` is 0.0, expected a positive number"),
        (lambda: AdaptiveKLController(0.1, 1.0, 0), "`horizon` is 0.0, expected a positive number"),
        (
            lambda: AdaptiveKLController(0.1, 1.0, 9).update(np.nan, 1),
            "`current_kl` is nan, expected a number",
        ),
        (lambda: FixedKLController(np.nan), "`kl_coef` is nan, expected a number"),
        (lambda: kl_penalized_rewards([1.0], [[1.0]], np.inf), "`kl_coef` is inf, expected a number"),
        (lambda: AdaptiveKLController(0.1, 1.0, 9).update(0.0, 46), r"`n_steps` is 46.* at most 45\.0"),
        (
            lambda: kl_penalized_rewards([1.0], [[1.0], [1.0]], 0.1),
            r"`scores` has shape \(1,\), expected \(2,\)",
        ),
        (lambda: kl_penalized_rewards([1.0], [[1.0]], 0.1, level="batch"), "`level` is 'batch'"),
        (
            lambda: kl_penalized_rewards([1.0], [[1.0]], 0.1, [[0]]),
            "`scores` has 1.0 for sequence 0, expected 0",
        ),
        (
            lambda: kl_penalized_rewards([[1.0]], [[1.0]], 0.1, level="sequence"),
            r"`scores` has shape \(1, 1\), expected \(1,\), one a sequence",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nan_is_a_reward_of_no_coefficient():
    rewards = kl_penalized_rewards([1.0], [[np.nan, np.inf, 0.5]], 0.0)
    np.testing.assert_array_equal(rewards, [[np.nan, 0.0, 1.0]])
    assert np.isnan(kl_penalized_rewards([1.0], [[np.nan, 0.5]], 0.0, level="sequence"))
    np.testing.assert_array_equal(kl_penalized_rewards([1.0], [[np.nan, 0.5]], 0.0, mask=[[0, 1]]), [[0.0, 1.0]])
    with pytest.raises(ValueError, match="`n_steps` is nan, expected a number of samples"):
        AdaptiveKLController(0.1, 1.0, 9).update(1.0, np.nan)
