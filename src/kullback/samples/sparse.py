"""Divergences of rows that are mostly zeros: sparse matrices, of which only what is stored is read."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, shown, unit
from kullback.samples.shares import DIVERGENCES
from kullback.samples.smoothing import as_counts

__all__ = ["sparse_divergence"]

Float64s = NDArray[np.float64]
SparseDivergence = Literal["kl", "reverse_kl", "js", "js_distance", "psi", "hellinger", "tv", "chi2", "entropy"]


def sparse_divergence(
    p: Any, q: Any = None, divergence: SparseDivergence = "kl", *, base: float | None = None
) -> Float64s:
    """Divergence of each pair of rows of two sparse matrices: counts of words, say, in a large vocabulary.

    Parameters
    ----------
    p, q : sparse matrix or array of SciPy, (T, V)
        Rows of probabilities, counts or masses, normalised here; what is not stored is 0, entries of one cell add up.
        q may have one row, which meets each of p. It is left out for "entropy" alone.
    divergence : str
        A name of `divergence_from_counts`.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    ndarray, (T,)
        float64; inf and NaN as dense rows have them: NaN for a row without mass.

    Raises
    ------
    TypeError
        No sparse matrix.
    ValueError
        Shapes that do not match, negative or infinite values, an unknown name.

    Notes
    -----
    Memory and time go by what is stored, not by V: one sort of the stored cells, in NumPy on one thread, in float64;
    the kernels for dense rows are not called. Rows more than some 10 % full are served better dense.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> p, q = csr_array([[2, 0, 0, 2], [0, 0, 3, 1]]), csr_array([[1, 0, 0, 3]])
    >>> print(sparse_divergence(p, q).round(4), sparse_divergence(p, q, "tv"))
    [0.1438    inf] [0.25 0.75]
    """
    choice(divergence, "divergence", DIVERGENCES)
    kind = DIVERGENCES[divergence]
    if kind.pairs == (q is None):
        raise ValueError(f"`q` is {shown(q)}, expected {'a matrix' if kind.pairs else 'None'} for {divergence!r}")
    nats = unit(base)
    rows, vocab, p_cells, p_shares = _stored("p", p)
    if q is None:
        q_cells, q_shares = p_cells, p_shares
    else:
        q_rows, q_vocab, q_cells, q_shares = _stored("q", q)
        if q_vocab != vocab or q_rows not in (rows, 1):
            raise ValueError(
                f"`q` has shape {(q_rows, q_vocab)}, expected {(rows, vocab)} or {(1, vocab)} to match `p`"
            )
        if q_rows == 1 != rows:
            q_cells = (q_cells + np.arange(rows)[:, None] * vocab).ravel()
            q_shares = np.tile(q_shares, rows)
    cells = np.union1d(p_cells, q_cells)
    both = (_spread(*side, cells) for side in ((p_cells, p_shares), (q_cells, q_shares)))
    terms = kind.terms(*both)
    value: Float64s = np.bincount(cells // vocab, terms, minlength=rows).astype(np.float64)
    value[np.setdiff1d(np.arange(rows), p_cells // vocab)] = np.nan  # without mass; NaN shares are in the sum already
    value[np.setdiff1d(np.arange(rows), q_cells // vocab)] = np.nan
    value = value / nats if kind.in_nats else value
    return np.asarray(np.sqrt(value)) if kind.root else value


def _stored(name: str, x: Any) -> tuple[int, int, NDArray[np.int64], Float64s]:
    """(T, V, numbers of the cells that are not 0 in rising order, their shares of their rows)."""
    if not (hasattr(x, "tocsr") and hasattr(x, "shape")):
        raise TypeError(f"`{name}` is {type(x).__name__}, expected a sparse matrix of SciPy")
    if len(x.shape) != 2 or 0 in x.shape:
        raise ValueError(f"`{name}` has shape {x.shape}, expected (T, V), neither of them 0")
    rows = x.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    mass = as_counts(name, rows.data) if rows.nnz else np.empty(0)
    owner = np.repeat(np.arange(x.shape[0], dtype=np.int64), np.diff(rows.indptr))
    kept = mass > 0
    owner, mass = owner[kept], mass[kept]
    cells = owner * x.shape[1] + rows.indices[kept].astype(np.int64)
    return x.shape[0], x.shape[1], cells, mass / np.bincount(owner, mass, minlength=x.shape[0])[owner]


def _spread(cells: NDArray[np.int64], shares: Float64s, onto: NDArray[np.int64]) -> Float64s:
    """Shares of cells at their places among more cells, 0 elsewhere."""
    found = np.zeros(onto.size)
    found[np.searchsorted(onto, cells)] = shares
    return found
