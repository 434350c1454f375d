"""The t-SNE objective: KL from the affinities of the data to those of an embedding, with its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import FloatArray, number, reals
from kullback.rows import relative_entropy_term

# Kernel entries held at a time: blocks of rows of about this many numbers, in two or three temporaries.
_BLOCK = 1 << 18


def tsne_objective(
    affinities: Any, embedding: ArrayLike, *, degrees_of_freedom: float = 1.0
) -> tuple[float, FloatArray]:
    """KL(P‖Q) of t-SNE and its gradient with respect to the embedding, with exact repulsion.

    Parameters
    ----------
    affinities : scipy.sparse matrix or array of shape (n, n), or a tuple (row, column, value)
        P: non-negative weights of ordered pairs i ≠ j; normalised to sum to 1 here, duplicates add up. Only
        the stored pairs are visited for the attraction, so nearest-neighbour affinities cost O(pairs).
    embedding : array_like, shape (n, d)
        Points y of the map.
    degrees_of_freedom : float
        Of the Student kernel (1 + |y_i - y_j|²/ν)^(-(ν+1)/2); 1 in van der Maaten & Hinton 2008.

    Returns
    -------
    (float, float64 array of shape (n, d))
        KL in nats, never negative, and dKL/dy.

    Raises
    ------
    ValueError
        For an affinity that is negative, on the diagonal or outside the embedding, no mass at all, an
        embedding that is not a finite (n, d) array with n >= 2, or degrees of freedom that are not positive.

    Notes
    -----
    Q is the kernel over all ordered pairs, normalised by Z. The stored pairs enter as P ln(P/Q) - P + Q, the
    others as their total mass in Q, which needs Z alone. Time O(n²d) in blocks of bounded memory: meant for
    checks and for up to some tens of thousands of points. The gradient for y_i is
    (ν+1)/ν Σ_j (P_ij + P_ji - 2 Q_ij)(y_i - y_j)/(1 + |y_i - y_j|²/ν).

    Examples
    --------
    >>> import numpy as np
    >>> pairs = (np.array([0, 1]), np.array([1, 0]), np.array([1.0, 1.0]))
    >>> value, gradient = tsne_objective(pairs, [[0.0], [1.0], [50.0]])
    >>> round(value, 4), bool(gradient[2, 0] < 0)
    (0.0016, True)
    """
    y = reals(embedding, "embedding")
    if y.ndim != 2 or y.shape[0] < 2 or not np.isfinite(y).all():
        raise ValueError(f"`embedding` has shape {y.shape}, expected a finite (n, d) with n >= 2")
    nu = number(degrees_of_freedom, "degrees_of_freedom", 1e-100, 1e100)  # squares over ν stay numbers
    row, column, p = _pairs(affinities, y.shape[0])
    total, repulsion = _repulsion(y, nu)

    difference = y[row] - y[column]
    heavy = 1 + (difference**2).sum(1) / nu
    q = heavy ** (-(nu + 1) / 2) / total
    # Σ over all pairs of P ln(P/Q) - P + Q: pairs without P contribute their Q.
    value = float(relative_entropy_term(p, q).sum() + max(1 - q.sum(), 0.0))

    pull = (p / heavy)[:, None] * difference
    gradient = np.empty_like(y)
    for axis in range(y.shape[1]):
        toward = np.bincount(row, pull[:, axis], y.shape[0]) - np.bincount(column, pull[:, axis], y.shape[0])
        gradient[:, axis] = (nu + 1) / nu * (toward - 2 * repulsion[:, axis] / total)
    return value, gradient


def _pairs(affinities: Any, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Rows, columns and normalised values of the stored pairs, each pair once."""
    if isinstance(affinities, tuple):
        row, column, value = (np.asarray(part) for part in affinities)
    elif hasattr(affinities, "tocoo"):
        if affinities.shape != (n, n):
            raise ValueError(f"`affinities` has shape {affinities.shape}, expected {(n, n)} to match `embedding`")
        coo = affinities.tocoo()
        row, column, value = coo.row, coo.col, coo.data
    else:
        raise TypeError(
            f"`affinities` is {type(affinities).__name__}, expected a sparse matrix or (row, column, value)"
        )
    if not row.shape == column.shape == value.shape or row.ndim != 1:
        raise ValueError(f"`affinities` has parts of shape {row.shape}, {column.shape}, {value.shape}, expected equal")
    if row.dtype.kind not in "iu" or column.dtype.kind not in "iu":
        raise TypeError(f"`affinities` has indices of dtype {row.dtype} and {column.dtype}, expected integers")
    value = value.astype(np.float64)
    if not (np.isfinite(value) & (value >= 0)).all() or not value.any():
        raise ValueError("`affinities` must be finite, non-negative and not all zero")
    if min(row.min(), column.min()) < 0 or max(row.max(), column.max()) >= n:
        raise ValueError(f"`affinities` has an index outside [0, {n})")
    if ((row == column) & (value > 0)).any():
        raise ValueError("`affinities` has weight on the diagonal, expected pairs of different points")
    pair, where = np.unique(row.astype(np.int64) * n + column, return_inverse=True)
    value = np.bincount(where, value)
    keep = value > 0
    return pair[keep] // n, pair[keep] % n, value[keep] / value.sum()


def _repulsion(y: FloatArray, nu: float) -> tuple[float, FloatArray]:
    """Z = Σ_{i≠j} kernel, and Σ_j kernel·(y_i - y_j)/(1 + |y_i - y_j|²/ν) for every i, in blocks of rows."""
    n = y.shape[0]
    total, force = 0.0, np.empty_like(y)
    rows = max(1, _BLOCK // n)
    for start in range(0, n, rows):
        block = y[start : start + rows]
        squared = np.zeros((block.shape[0], n))
        for axis in range(y.shape[1]):
            squared += (block[:, None, axis] - y[None, :, axis]) ** 2
        heavy = 1 + squared / nu
        kernel = heavy ** (-(nu + 1) / 2)
        kernel[np.arange(block.shape[0]), start + np.arange(block.shape[0])] = 0
        total += float(kernel.sum())
        kernel /= heavy
        force[start : start + rows] = kernel.sum(1, keepdims=True) * block - kernel @ y
    return total, force
