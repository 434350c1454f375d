"""SciPy's functions under their own names and signatures, on the kernels: for code written for SciPy.

``from kullback.integrations.scipy import entropy, jensenshannon, rel_entr, kl_div, entr``. The default axis is SciPy's
(0). Results differ from SciPy's only where those are wrong: `jensenshannon` of nearly equal rows, for which SciPy may
give NaN; `kl_div` near equality, where SciPy's loses all digits; `kl_div` of one infinite argument, which is inf.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, flag, integer, plain, real, same_labels, unit
from kullback.rows import entr, entropy as _entropy, jensen_shannon_divergence, kl_div, kl_divergence, rel_entr

__all__ = ["entr", "entropy", "jensenshannon", "kl_div", "rel_entr"]


def entropy(
    pk: Any,
    qk: Any = None,
    base: float | None = None,
    axis: int | tuple[int, ...] | None = 0,
    *,
    nan_policy: Literal["propagate", "omit", "raise"] = "propagate",
    keepdims: bool = False,
) -> NDArray[np.float64]:
    """`scipy.stats.entropy`: entropy of pk, or KL(pk‖qk), of slices along `axis`, each normalised.

    Parameters
    ----------
    pk, qk : array_like
        Weights of any real dtype; they broadcast.
    base : float, optional
        Unit: nats by default, bits for 2.
    axis : int, tuple of int or None
        Along which the outcomes lie; None: all axes.
    nan_policy : {"propagate", "omit", "raise"}
        NaN makes its slice NaN, is left out (of both), or raises ValueError.
    keepdims : bool
        Keep the axes of the outcomes with length 1.

    Returns
    -------
    float32 for float32 and float16 input, else float64
        inf where qk = 0 < pk; NaN for slices without mass or with an infinity. Negative weights give -inf for an
        entropy and inf for a KL, as in SciPy; an empty slice gives 0.

    Raises
    ------
    ValueError
        Shapes that do not broadcast, a `base` that is not positive, another `nan_policy`.

    Examples
    --------
    >>> print(f"{entropy([0.5, 0.5], [0.9, 0.1], base=2):.4f}")
    0.7370
    >>> print(entropy([[1, 2], [1, 2]]))
    [0.69314718 0.69314718]
    """
    choice(nan_policy, "nan_policy", ("propagate", "omit", "raise"))
    keepdims = flag(keepdims, "keepdims")
    rows, shape = _rows(("pk", "qk")[: 1 if qk is None else 2], (pk,) if qk is None else (pk, qk), axis)
    missing = [np.isnan(row) for row in rows] if nan_policy != "propagate" else []
    if any(mask.any() for mask in missing):
        if nan_policy == "raise":
            raise ValueError("The input contains nan values")
        either = missing[0] | missing[-1]
        rows = [np.where(either, row.dtype.type(0), row) for row in rows]
    if rows[0].shape[-1] == 0:
        value = np.zeros(rows[0].shape[:-1])
    elif qk is None:
        value = _defined(_entropy, rows, lambda p: entr(p).sum(-1))
    else:
        value = _defined(kl_divergence, rows, lambda p, q: rel_entr(p, q).sum(-1))
    if missing:  # a slice of nothing but NaN is empty
        value = np.where(np.all(missing[0] | missing[-1], axis=-1), 0.0, value)
    return _finished(value, base, rows, shape if keepdims else None)


def jensenshannon(
    p: Any, q: Any, base: float | None = None, *, axis: int = 0, keepdims: bool = False
) -> NDArray[np.float64]:
    """`scipy.spatial.distance.jensenshannon`: the distance, the square root of the divergence.

    Parameters
    ----------
    p, q : array_like
        Weights of any real dtype, normalised along `axis`; they broadcast.
    base : float, optional
        Unit of the divergence under the root: nats by default, bits for 2.
    axis : int
        Along which the outcomes lie.
    keepdims : bool
        Keep that axis with length 1.

    Returns
    -------
    float32 for float32 and float16 input, else float64
        0 for equal slices, never NaN for slices with a mass; inf for negative weights, as in SciPy.

    Examples
    --------
    >>> print(jensenshannon([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], 2.0))
    1.0
    """
    keepdims = flag(keepdims, "keepdims")
    rows, shape = _rows(("p", "q"), (p, q), axis)
    if rows[0].shape[-1] == 0:
        value = np.zeros(rows[0].shape[:-1])
    else:
        value = _defined(
            jensen_shannon_divergence, rows, lambda a, b: (rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2)).sum(-1)
        )
    with np.errstate(invalid="ignore"):  # a base below 1 makes divergences negative
        return np.sqrt(_finished(value, base, rows, shape if keepdims else None))


def _rows(names: tuple[str, ...], inputs: tuple[Any, ...], axis: Any) -> tuple[list[Any], tuple[int, ...]]:
    """Broadcast inputs with the outcomes on the last axis, and the shape of a result that keeps its axes."""
    same_labels(*zip(names, inputs, strict=True))
    arrays = [np.atleast_1d(plain(x, name)) for x, name in zip(inputs, names, strict=True)]
    for a, name in zip(arrays, names, strict=True):
        if a.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` has dtype {a.dtype}, expected real numbers")
    arrays = [a if a.dtype.kind == "f" and a.dtype.itemsize <= 8 else a.astype(np.float64) for a in arrays]
    try:
        arrays = list(np.broadcast_arrays(*arrays))
    except (ValueError, RuntimeError):
        raise ValueError("Array shapes are incompatible for broadcasting.") from None
    ndim = arrays[0].ndim
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(integer(i, "axis") for i in axes)
    for i in axes:
        if not -ndim <= i < ndim:
            raise np.exceptions.AxisError(i, ndim)
    axes = tuple(i % ndim for i in axes)
    kept = tuple(1 if i in axes else n for i, n in enumerate(arrays[0].shape))
    if len(axes) == 1:
        return [np.moveaxis(a, axes[0], -1) for a in arrays], kept
    moved = [np.moveaxis(a, axes, range(-len(axes), 0)) for a in arrays]
    return [a.reshape(*a.shape[: ndim - len(axes)], -1) for a in moved], kept


def _defined(function: Any, rows: list[Any], extended: Any) -> NDArray[np.float64]:
    """The kernel's result; where it refuses negative weights, SciPy's extension beyond the natural domain."""
    try:
        return function(*rows)
    except ValueError:
        if not any((row < 0).any() for row in rows):
            raise
    with np.errstate(all="ignore"):
        return extended(*(row / row.sum(-1, keepdims=True) for row in rows))


def _finished(value: Any, base: float | None, rows: list[Any], kept: tuple[int, ...] | None) -> NDArray[np.float64]:
    if base is not None:
        if real(base, "base") <= 0:
            raise ValueError("`base` must be a positive number or `None`.")  # in SciPy's words
        value = value / unit(base)
    narrow = all(row.dtype in (np.float32, np.float16) for row in rows)
    value = np.asarray(value, np.float32 if narrow else np.float64)
    return (value if kept is None else value.reshape(kept))[()]
