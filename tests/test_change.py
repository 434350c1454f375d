"""The test whether a served model has changed: its level is what it says, and it sees what it should."""

import json

import numpy as np
import pytest

from kullback.rlhf import change_test


def answers(rng, model, repeats, noise=0.01):
    return np.minimum(model + noise * rng.standard_normal((repeats, *model.shape)), 0.0)


@pytest.mark.parametrize("unit", ["answer", "round"])
@pytest.mark.parametrize("heavy", [False, True])
def test_level(unit, heavy):
    """Of 400 unchanged models as many are called changed as the level says, with noise of any kind."""
    rng, alarms = np.random.default_rng(3), 0
    for _ in range(400):
        model = -rng.exponential(1.0, 6) - 0.2
        a, b = (
            model - (0.001 * rng.exponential(1, (n, 6)) ** 3 if heavy else 0.01 * np.abs(rng.normal(size=(n, 6))))
            for n in (7, 4)
        )
        alarms += change_test(a, b, level=0.1, permutations=99, unit=unit, rng=rng).changed
    assert 20 <= alarms <= 60  # 40 expected, 3.3 standard deviations either way


def test_shared_noise_needs_rounds():
    """Where all answers of a round move together, single answers are not exchangeable: `unit="round"` is."""
    rng, alarms = np.random.default_rng(4), {"answer": 0, "round": 0}
    for _ in range(300):
        model = -rng.exponential(1.0, 20) - 0.5
        sides = [model + 0.01 * rng.standard_normal((n, 1)) + 0.001 * rng.standard_normal((n, 20)) for n in (8, 6)]
        for unit in alarms:
            alarms[unit] += change_test(*sides, level=0.1, permutations=99, unit=unit, rng=rng).changed
    assert alarms["answer"] > 47 >= alarms["round"]  # 30 expected, 3.3 standard deviations


def test_power_grows_with_prompts_and_change():
    rng = np.random.default_rng(5)
    found = {}
    for prompts, size in ((4, 0.0), (4, 0.01), (40, 0.01), (4, 0.1)):
        count = 0
        for _ in range(40):
            model = -rng.exponential(1.0, prompts) - 0.2
            updated = np.minimum(model + size * rng.standard_normal(prompts), 0)
            count += change_test(answers(rng, model, 10), answers(rng, updated, 5), permutations=199, rng=rng).changed
        found[prompts, size] = count
    assert found[4, 0.0] <= 3 < found[4, 0.01] < found[40, 0.01] and found[40, 0.01] >= 38
    assert found[4, 0.1] == 40


def test_a_server_without_noise():
    model = np.array([-1.0, -0.5, -2.0])
    same, other = np.tile(model, (5, 1)), np.tile(model - [0, 0.001, 0], (5, 1))
    assert change_test(same, same[:2]).p_value == 1.0
    # 5 of 10 answers of one prompt: two of 252 orders are as far apart
    assert change_test(same, other, rng=1).p_value == pytest.approx(2 / 252, abs=0.003)
    every = change_test(same, same - 0.001)
    assert every.p_value < 0.001 and every.changed


def test_what_it_says():
    rng = np.random.default_rng(6)
    model = -rng.exponential(1.0, (5, 8))
    a, b = answers(rng, model, 6), answers(rng, model - 0.1, 4)
    found = change_test(a, b, permutations=999)
    assert found == change_test(a, b, permutations=999) and found != change_test(a, a, permutations=999)
    means = [side.mean(axis=2) for side in (a, b)]
    np.testing.assert_allclose(found.differences, means[1].mean(0) - means[0].mean(0), rtol=1e-12)
    error = np.sqrt(means[0].var(0, ddof=1) / 6 + means[1].var(0, ddof=1) / 4)
    np.testing.assert_allclose(found.standard_errors, error, rtol=1e-12)
    together = np.concatenate([a, b])
    expected = ((b.mean(0) - a.mean(0)) ** 2 / together.var(axis=0)).sum()
    assert found.statistic == pytest.approx(expected, rel=1e-10)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["changed"] is True
    assert str(found).startswith("the model has changed: p = 0.001")


def test_wrong_arguments():
    x = np.full((4, 3), -1.0)
    for call, match in (
        (lambda: change_test(x, x[:, :2]), "`current` is of"),
        (lambda: change_test(x[:1], x[:1]), "3 at least together"),
        (lambda: change_test(x, x + np.nan), "`current` holds numbers that are no log-probs"),
        (lambda: change_test(-x, x), "`reference` holds numbers that are no log-probs"),
        (lambda: change_test(x[0], x), r"`reference` has shape \(3,\)"),
        (lambda: change_test(x, x, level=0.001, permutations=99), "`permutations` is 99, expected 999 at least"),
        (lambda: change_test(x[:2], x, unit="round"), "2 and 4 repeats come in 15 orders, expected 100 at least"),
        (lambda: change_test(x[:2, :1], x[:, :1]), "2 and 4 repeats come in 15 orders"),
        (lambda: change_test(x, x, level=1e-320), "expected inf at least"),
        (lambda: change_test(x, x, unit="day"), "`unit` is 'day'"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
