"""What is claimed of candidates is true: a few runs with fixed seeds of what `docs/verdicts.py` runs by the hundred."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
import verdicts

RUNS = 60
SLACK = 3 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("world", verdicts.WORLDS)
def test_intervals_of_differences_hold_and_claims_keep_their_level(world):
    ours, alone, naive = verdicts.rates(world, 10, 1.0, RUNS, seed=7)
    assert ours[0] == 1 - ours[1] and ours[1] <= 0.05 + SLACK  # without a difference the two are one question
    assert alone[1] == 0.0
    if world == "strong":
        assert naive[1] > 0.2  # tokens of a document are no independent draws
    ours, alone, naive = verdicts.rates(world, 10, verdicts.WORSE, RUNS, seed=7)
    assert ours[0] >= 0.95 - SLACK
    assert ours[1] > alone[1] + 0.1


def test_errors_that_are_paired_find_what_errors_of_each_alone_do_not():
    ours, alone, _ = verdicts.rates("mild", 50, verdicts.WORSE, 30, seed=7)
    assert ours[1] >= 0.95 and alone[1] <= 0.6


def test_of_many_pairs_holm_keeps_the_level_and_single_tests_do_not():
    plain, _, holm, _ = verdicts.family_rates("strong", 20, verdicts.FAMILY, RUNS, seed=7)
    assert holm <= 0.05 + SLACK < plain
    _, _, holm, power = verdicts.family_rates("strong", 50, verdicts.MIXED, 30, seed=7)
    assert holm <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 30) and power >= 0.6


def test_quantiles_and_agreement():
    held, claimed = verdicts.tail_rates("strong", 50, verdicts.WORSE, 0.9, 40, seed=7)
    assert held >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 40) and claimed >= 0.5
    assert verdicts.tail_rates("strong", 50, 1.0, 0.9, 40, seed=7)[1] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)
    assert max(verdicts.share_rates("strong", 20, RUNS, seed=7)) <= 0.05 + SLACK
