"""Alarms without drift, and power: a few runs with fixed seeds of what `docs/drift_rates.py` runs by the thousand.

Tolerances are three binomial standard deviations and what discrete and binned tests lose: they may alarm less often.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
from drift_rates import MOVED, P_VALUES, STILL, reported, threshold_rate

from kullback import drift
from kullback.drift.significance import limit_threshold

RUNS = 60


@pytest.mark.parametrize("case", STILL, ids=lambda case: f"{case[0]} {case[3]} {case[4]}")
def test_p_values_keep_their_level(case):
    found = reported(case, RUNS, seed=7)
    for name in P_VALUES:
        if not np.isnan(found[name]).all():
            assert np.mean(found[name] <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / RUNS), name
    assert np.mean(found["band"] != "stable") <= 0.01 + 3 * np.sqrt(0.01 / RUNS)
    assert np.isfinite(found["psi"]).all()


@pytest.mark.parametrize("case", MOVED, ids=lambda case: case[0])
def test_drift_is_found(case):
    found = reported(case, 12, seed=7)
    assert ((found["band"] == "stable") <= (found["p_value"] > 0.01)).all()
    assert np.mean(found["p_value"] <= 0.01) >= (0.5 if "power" in case[0] else 0.9)


@pytest.mark.parametrize(("n", "m"), [(10_000, 50), (10_000, 500), (300, 300)])
def test_the_threshold_of_psi_keeps_its_level(n, m):
    """At 50 values the limit law let 5 % pass for 0.1 %: an empty bin was inf."""
    rate = threshold_rate(n, m, 10, 0.01, 3000)
    assert abs(rate - 0.01) <= 0.2 * 0.01 + 3 * np.sqrt(0.01 / 3000)
    assert threshold_rate(n, m, 10, 0.001, 3000) <= 0.0012 + 3 * np.sqrt(0.001 / 3000)


def test_the_limit_law_alarms_too_often_with_few_values():
    """As the notes of `psi_threshold` say."""
    limit = limit_threshold(1000, 50, 10, 0.01)
    assert 0.015 < threshold_rate(1000, 50, 10, 0.01, 5000, limit=limit) < 0.025
    limit = limit_threshold(1000, 50, 10, 0.001)
    assert 0.04 < threshold_rate(1000, 50, 10, 0.001, 5000, limit=limit, half=0.0) < 0.07


def test_the_threshold_meets_its_limit():
    drawn = drift.psi_threshold(9_999, 9_999, 10, 0.05)
    assert drawn == pytest.approx(drift.psi_threshold(10_000, 10_000, 10, 0.05), rel=0.02)
