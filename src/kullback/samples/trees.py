"""Points and the trees that find their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import default_threads, library, plain, thread_count

Float64s = NDArray[np.float64]


def tree_workers(num_threads: int | None) -> int:
    """Threads of SciPy's trees, which start as many as they are told."""
    return -1 if num_threads is None else min(thread_count(num_threads), default_threads())


def scipy_modules() -> tuple[Any, Any]:
    """scipy.spatial and scipy.special."""
    what = "an estimate from nearest neighbours"
    return library("scipy.spatial", what), library("scipy.special", what)


def as_points(name: str, sample: ArrayLike) -> Float64s:
    """(n, d) float64, finite."""
    array = plain(sample, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected real numbers")
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected (n, d) or (n,)")
    points = array.astype(np.float64).reshape(array.shape[0], -1)
    if not np.isfinite(points).all():
        raise ValueError(f"`{name}` holds NaN or infinity, expected finite coordinates")
    return points


def check_repeats(radius: Float64s, name: str) -> None:
    repeated = int(np.count_nonzero(radius == 0))
    if repeated:
        raise ValueError(
            f"{repeated} points have a k-th neighbour in `{name}` at distance 0: repeated values have no "
            "density. Use counts (divergence_from_counts), a k above the number of repeats or, for rounded "
            "values, add uniform noise as wide as the rounding"
        )


def distance_of_rank(tree: Any, points: Float64s, ranks: NDArray[Any], workers: int) -> Float64s:
    """Distance of each point to its neighbour of its own rank (1: the nearest); one query a power of two."""
    distances = np.empty(len(points))
    for level in np.unique(np.ceil(np.log2(ranks)).astype(np.int64)):
        which = np.flatnonzero(np.ceil(np.log2(ranks)).astype(np.int64) == level)
        wanted = np.unique(ranks[which])
        found = tree.query(points[which], wanted, workers=workers)[0]
        distances[which] = found[np.arange(which.size), np.searchsorted(wanted, ranks[which])]
    return distances
