"""Points and the trees that find their neighbours."""

from __future__ import annotations

import warnings
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


_FAR = 0.1  # of the width of a sample; measured biases are a tenth of KL and more from here on
_TOO_FAR = 0.4


def local_dimension(points: Float64s, k: int, workers: int) -> float | None:
    """(ψ(2k) - ψ(k))/mean log(r₂ₖ/rₖ), at most the coordinates; None where it is not known.

    After E. Levina & P. Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004.
    """
    if len(points) <= 2 * k:
        return None
    spatial, special = scipy_modules()
    near, far = spatial.cKDTree(points).query(points, [k + 1, 2 * k + 1], workers=workers)[0].T
    growth = float(np.mean(np.log(far) - np.log(near)))
    if not growth > 0:
        return None
    return min(float(special.digamma(2 * k) - special.digamma(k)) / growth, float(points.shape[1]))


def _reach(points: Float64s, k: int, dimension: float | None) -> float:
    """How far neighbours are, as a share of the sample's width."""
    return float((k / len(points)) ** (1 / (dimension or points.shape[1])))


def far_neighbours(points: Float64s, k: int, dimension: float | None) -> str:
    """Why neighbours are too far for a density to be flat among them; empty if they are not."""
    reach = _reach(points, k, dimension)
    if reach < _FAR:
        return ""
    shown = f"about {dimension:.1f}" if dimension else f"{points.shape[1]}"
    return (
        f"with {len(points)} points in `x`, {shown} dimensions locally and k = {k}, neighbours are {reach:.2g} of the "
        "sample's width away: the bias may be larger than the standard error (more points, fewer dimensions or, to "
        "have it estimated, `resamples`)"
    )


def extrapolates(points: Float64s, k: int, dimension: float | None) -> bool:
    """Whether the bias of fewer points says what that of all is: beyond it may first rise, then fall."""
    return _reach(points, k, dimension) < _TOO_FAR


def warn(caution: str) -> None:
    """From a public function to its caller."""
    if caution:
        warnings.warn(caution, UserWarning, stacklevel=3)
