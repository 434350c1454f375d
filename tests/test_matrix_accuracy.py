"""Matrices of all pairs have the accuracy of the functions of rows."""

import numpy as np
import pytest

import kullback as kb


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [1.0, 8.0, 30.0])
@pytest.mark.parametrize("given", ["logits", "probs"])
def test_jensen_shannon_of_all_pairs(dtype, spread, given):
    """Peaked rows have little entropy: their divergences are not left to differences of float32 entropies."""
    rng = np.random.default_rng(0)
    x = spread * rng.standard_normal((40, 50))
    x[3] = x[2] + 1e-3 * rng.standard_normal(50)
    x = (np.exp(x - x.max(-1, keepdims=True)) if given == "probs" else x).astype(dtype)
    matrix = kb.divergence_matrix(x, metric="js", given=given)
    rows = kb.jensen_shannon_divergence(x[:, None], x[None], given=given)
    np.testing.assert_allclose(matrix, rows, rtol=4e-6 if dtype == "float32" else 1e-9, atol=0)
