"""scikit-learn's own tests of mutual information on ours, and what its tests of log_loss hold."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import kullback as kb

PLUGIN = """
import numpy as np
import pytest
import kullback as kb
from sklearn.metrics.cluster import contingency_matrix

def mutual_info_score(labels_true, labels_pred, *, contingency=None):
    table = contingency_matrix(labels_true, labels_pred) if contingency is None else contingency
    return float(kb.mutual_information(table.toarray() if hasattr(table, "toarray") else table))

@pytest.fixture(autouse=True)
def substituted(monkeypatch, request):
    if hasattr(request.module, "mutual_info_score"):
        monkeypatch.setattr(request.module, "mutual_info_score", mutual_info_score)
"""
TESTS = (
    "test_adjusted_mutual_info_score",
    "test_int_overflow_mutual_info_fowlkes_mallows_score",
    "test_exactly_zero_info_score",
    "test_v_measure_and_mutual_information",
    "test_mutual_info_score_positive_constant_label",
)


@pytest.mark.integration
def test_scikit_learns_tests_of_mutual_information_pass(tmp_path):
    (tmp_path / "substitute.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    names = [f"sklearn.metrics.cluster.tests.test_supervised::{name}" for name in TESTS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "substitute", "-p", "no:cacheprovider", "-q", "--pyargs", *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= len(TESTS)


@pytest.mark.integration
def test_log_loss_is_cross_entropy_to_the_labels():
    """Equal where no label has probability 0 and rows sum to one; the three disagreements are choices of its."""
    from sklearn.metrics import log_loss

    def ours(labels, probs):
        return float(kb.cross_entropy(np.eye(len(probs[0]))[labels], probs).mean())

    labels, probs = [1, 0, 2], [[0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.6, 0.1, 0.3]]
    assert ours(labels, probs) == pytest.approx(0.6904911, rel=1e-6)
    assert ours(labels, probs) == pytest.approx(log_loss(labels, probs), rel=1e-12)
    rng = np.random.default_rng(0)
    labels, probs = rng.integers(0, 6, 200), rng.dirichlet(np.ones(6), 200)
    assert ours(labels, probs) == pytest.approx(log_loss(labels, probs, labels=range(6)), rel=1e-12)
    assert ours([0, 1, 0], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]) == 0  # its clipping leaves 2e-16
    assert ours([0, 1], [[0.0, 1.0], [1.0, 0.0]]) == np.inf  # clipped to eps there: 36.04, whatever the model
    assert np.isfinite(log_loss([0, 1], [[0.0, 1.0], [1.0, 0.0]]))
    with pytest.warns(UserWarning, match="do not sum to one"):  # ours normalises, and does not say so
        log_loss([0, 1], [[0.2, 0.7], [0.6, 0.3]])
