"""Sparse rows against dense ones; the energy distance against SciPy's and its definition."""

import numpy as np
import pytest
from scipy import sparse, stats

import kullback as kb
from kullback.samples.shares import DIVERGENCES

RNG = np.random.default_rng


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "lil"])
@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"entropy"}))
def test_sparse_rows_are_dense_rows(name, layout):
    p = sparse.random_array((30, 400), density=0.05, rng=RNG(1))
    q = p + sparse.random_array((30, 400), density=0.05, rng=RNG(2))  # covers p: KL is finite
    p, q = (np.array(x.toarray()) for x in (p, q))
    p[3] = q[5] = 0
    q[7, p[7] > 0] = 0  # disjoint
    stored = [sparse.csr_array(x).asformat(layout) for x in (p, q)]
    for a, b, c, d in ((*stored, p, q), (stored[0], sparse.csr_array(q[[0]]), p, q[0]), (*stored[::-1], q, p)):
        found, dense = kb.sparse_divergence(a, b, name), kb.divergence_from_counts(c, d, name).value
        np.testing.assert_allclose(found, dense, rtol=1e-12, atol=1e-15)
    if name in ("kl", "js"):
        of_rows = kb.kl_divergence if name == "kl" else kb.jensen_shannon_divergence
        np.testing.assert_allclose(kb.sparse_divergence(*stored, name, base=2), of_rows(p, q, base=2), rtol=1e-11)


def test_sparse_entropy_duplicates_and_explicit_zeros():
    twice = sparse.coo_array(([1.0, 1.0, 2.0, 0.0], ([0, 0, 0, 1], [3, 3, 9, 2])), (2, 10)).tocsr()
    plain = twice.toarray()
    np.testing.assert_allclose(kb.sparse_divergence(twice, divergence="entropy"), kb.entropy(plain), rtol=1e-14)
    raw = sparse.csr_array((np.array([1, 1, 2]), np.array([3, 3, 9]), np.array([0, 3])), shape=(1, 10))
    np.testing.assert_allclose(kb.sparse_divergence(raw, divergence="entropy", base=2), [1.0], rtol=1e-14)
    assert raw.nnz == 3  # the caller's is as it was
    assert np.isnan(kb.divergence_from_counts([0, 0], divergence="entropy").value)  # as every row without counts


def test_wide_sparse_rows_take_memory_for_what_is_stored():
    wide = sparse.csr_array(([1.0, 3.0], ([0, 0], [5, 2**40])), (1, 2**41))
    other = sparse.csr_array(([1.0, 1.0], ([0, 0], [5, 2**40])), (1, 2**41))
    np.testing.assert_allclose(kb.sparse_divergence(wide, other), kb.kl_divergence([[1, 3]], [[1, 1]]), rtol=1e-12)


def test_sparse_rows_refuse():
    x = sparse.csr_array(np.eye(3))
    with pytest.raises(TypeError, match="`p` is ndarray, expected a sparse matrix"):
        kb.sparse_divergence(np.eye(3), x)
    with pytest.raises(ValueError, match=r"`q` has shape \(2, 3\), expected \(3, 3\) or \(1, 3\)"):
        kb.sparse_divergence(x, x[:2])
    with pytest.raises(ValueError, match=r"`q` holds -1\.0, expected counts"):
        kb.sparse_divergence(x, -x)
    with pytest.raises(ValueError, match="`q` is None, expected a matrix"):
        kb.sparse_divergence(x)


def test_energy_distance_is_scipys():
    rng = RNG(0)
    for _ in range(50):
        x, y = rng.normal(size=rng.integers(1, 30)), rng.integers(-3, 3, rng.integers(1, 30))
        weights = rng.random(x.size)
        expected = stats.energy_distance(x, y, weights)
        np.testing.assert_allclose(kb.energy_distance(x, y, weights), expected, rtol=1e-12, atol=1e-15)
    assert kb.energy_distance([3.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == 0


def test_energy_distance_by_its_definition():
    rng = RNG(1)
    x, y = rng.normal(size=40), rng.normal(0.5, 2, 60)

    def mean(a, b):
        return np.abs(a[:, None] - b).mean()

    np.testing.assert_allclose(kb.energy_distance(x, y) ** 2, 2 * mean(x, y) - mean(x, x) - mean(y, y), rtol=1e-12)


def test_energy_distance_of_infinities():
    assert kb.energy_distance([1.0, np.inf], [1.0, 2.0]) == np.inf
    assert kb.energy_distance([1.0, np.inf], [1.0, np.inf]) == 0
    assert np.isnan(kb.energy_distance([np.nan], [1.0]))


def test_a_message_has_the_shape_of_a_matrix_and_not_its_numbers():
    for q in (sparse.csr_array(np.ones((40, 50))), np.ones((40, 50))):
        with pytest.raises(ValueError) as error:
            kb.sparse_divergence(sparse.csr_array(np.ones((40, 50))), q, "entropy")
        assert str(error.value) == f"`q` is of type {type(q).__name__} and shape (40, 50), expected None for 'entropy'"
    with pytest.raises(ValueError, match=r"^`divergence` is of type ndarray and shape \(9,\), expected one of kl"):
        kb.sparse_divergence(sparse.csr_array(np.ones((1, 9))), sparse.csr_array(np.ones((1, 9))), np.ones(9))
