"""Divergences estimated from counts: plug-in, with smoothing, bias correction and bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import choice, flag, generator, share, shown, unit as nats_in, whole
from kullback.samples.labelled import Align, matched
from kullback.samples.shares import DIVERGENCES, evaluate
from kullback.samples.smoothing import Smoothing, as_counts, smooth

__all__ = ["CountEstimate", "divergence_from_counts"]

Float64s = NDArray[np.float64]
CountDivergence = Literal[
    "kl", "reverse_kl", "js", "js_distance", "psi", "hellinger", "tv", "chi2", "entropy"
]  # fmt: skip
_RESAMPLED_CELLS = 1 << 20  # of bootstrap replicates at a time: 8 MB an array


@dataclass(frozen=True)
class CountEstimate:
    """An estimate of a divergence from counts; arrays have the shape of the leading axes of the counts.

    Attributes
    ----------
    value : ndarray
        The estimate: plug_in - bias. A corrected estimate may be negative; it is not clipped.
    plug_in : ndarray
        The divergence of the smoothed shares themselves.
    bias : ndarray
        What the correction takes off; 0 without one.
    low, high : ndarray or None
        Bootstrap interval, if one was asked for.
    infinite_resamples : ndarray or None
        How many bootstrap replicates were inf or NaN; they count as +inf in the interval.
    empty_p, empty_q : ndarray of int
        Cells without a count on each side, before smoothing.
    divergence, smoothing : str
        What was estimated, and the rule that made shares of counts.
    labels : tuple or None
        Of the cells, in their order, where they were aligned by label.
    """

    value: Any
    plug_in: Any
    bias: Any
    low: Any
    high: Any
    infinite_resamples: Any
    empty_p: Any
    empty_q: Any
    divergence: str
    smoothing: str
    labels: tuple[Any, ...] | None = None


def divergence_from_counts(
    p_counts: ArrayLike | Mapping[Any, float],
    q_counts: ArrayLike | Mapping[Any, float] | None = None,
    divergence: CountDivergence = "kl",
    *,
    align: Align = None,
    smoothing: Smoothing = None,
    bias_correction: Literal["miller-madow", "jackknife"] | None = None,
    q_known: bool = False,
    resamples: int = 0,
    confidence: float = 0.95,
    interval: Literal["basic", "percentile"] = "basic",
    rng: np.random.Generator | int | None = None,
    base: float | None = None,
) -> CountEstimate:
    """Estimate a divergence of two categorical distributions from how often each category was seen.

    Parameters
    ----------
    p_counts, q_counts : array_like, (..., K)
        Counts of the same K categories, of any type of number (`np.bincount`, tensors). Leading axes broadcast.
        `q_counts` is left out for "entropy" only. With labels: a pandas Series (`value_counts()`), the frame of a
        Polars `value_counts()`, a dict or `Counter` of one count a label.
    divergence : str
        "kl" for KL(p‖q), "reverse_kl", "js" (divergence), "js_distance", "psi", "hellinger" (distance),
        "tv" (total variation), "chi2", or "entropy" of p.
    align : {"union"}, optional
        How labels meet. By default both sides must have the same ones in the same order, or ValueError says so;
        "union" matches them: the cells are all labels of either side, 0 where a side lacks one.
    smoothing : str, tuple or None
        A rule of `smooth`, applied to both sides.
    bias_correction : {"miller-madow", "jackknife"}, optional
        Not together with smoothing.

        "miller-madow": the second-order term of the expectation at the plug-in,
        ½·Σ_i f_pp·p_i(1-p_i)/N + ½·Σ_i f_qq·q_i(1-q_i)/M. For entropy -(K-1)/2N with K the categories seen;
        for KL (K-1)/2N + (Σ p_i/q_i - 1)/2M.

        "jackknife": (N-1)·(mean of the N estimates with one count left out - plug-in), added over both
        samples. NaN where leaving out one count makes an estimate infinite.
    q_known : bool
        `q_counts` holds known probabilities (normalised here): not smoothed, not resampled, no bias from
        them.
    resamples : int
        Bootstrap replicates; 0 for no interval.
    confidence : float
        Of the interval.
    interval : {"basic", "percentile"}
        "basic": 2·plug-in - quantiles, which corrects the plug-in's upward bias to first order (and may be
        negative); "percentile": quantiles of the replicates, which are biased twice.
    rng : numpy.random.Generator or seed
        For the replicates; needed for a repeatable interval.
    base : float, optional
        Base of the logarithm; nats by default.

    Returns
    -------
    CountEstimate

    Raises
    ------
    ValueError
        Shapes or labels that do not match, a label twice, counts that are negative or infinite, unknown names, a
        correction that does not exist for this divergence or with smoothing, fractions where counts are resampled.
    TypeError
        Counts that are not numbers.

    Notes
    -----
    G. Miller, "Note on the bias of information estimates", 1955; L. Paninski, Neural Computation 15, 2003
    (why no correction is enough when K is near N). Without smoothing an empty category of q makes KL inf:
    that is the estimate. A row without counts gives NaN. Cost of the bootstrap: resamples·K multinomial draws
    a row.

    Examples
    --------
    >>> estimate = divergence_from_counts([30, 50, 20], [25, 50, 25], bias_correction="miller-madow")
    >>> round(float(estimate.plug_in), 4), round(float(estimate.value), 4)
    (0.0101, -0.0099)
    >>> float(divergence_from_counts([1, 1], [1, 0]).value)
    inf
    >>> found = divergence_from_counts({"a": 3, "b": 1}, {"b": 2, "a": 2}, align="union", base=2)
    >>> found.labels, round(float(found.value), 4)
    (('a', 'b'), 0.1887)
    """
    choice(divergence, "divergence", DIVERGENCES)
    kind = DIVERGENCES[divergence]
    if kind.pairs == (q_counts is None):
        wanted = "counts" if kind.pairs else "None"
        raise ValueError(f"`q_counts` is {shown(q_counts)}, expected {wanted} for {divergence!r}")
    if kind.pairs:
        p_given, q_given, labels = matched(p_counts, q_counts, align)
    else:
        p_given, _, labels = matched(p_counts, p_counts, align)
        q_given = p_given
    p_n, q_n = as_counts("p_counts", p_given), as_counts("q_counts", q_given)
    if p_n.shape[-1] != q_n.shape[-1]:
        cells = p_n.shape[-1]
        raise ValueError(f"`q_counts` has shape {q_n.shape}, expected (..., {cells}) to match `p_counts`")
    q_known = flag(q_known, "q_known") or not kind.pairs
    choice(bias_correction, "bias_correction", ("miller-madow", "jackknife", None))
    if bias_correction and smoothing is not None:
        raise ValueError("`bias_correction` was given with `smoothing`, expected one of them")
    if bias_correction and (kind.curvature_p is None or kind.root):
        raise ValueError(f"`bias_correction` is {bias_correction!r}, expected None for {divergence!r}")
    choice(interval, "interval", ("basic", "percentile"))
    confidence = share(confidence, "confidence")
    nats = nats_in(base)
    p_n, q_n = np.broadcast_arrays(p_n, q_n)

    def shares(p: Float64s, q: Float64s) -> tuple[Float64s, Float64s]:
        return smooth(p, smoothing), smooth(q, None if q_known else smoothing)

    p, q = shares(p_n, q_n)
    plug_in = evaluate(divergence, p, q)
    bias: Float64s = np.zeros(plug_in.shape)
    if bias_correction == "miller-madow":
        bias = _second_order_bias(divergence, p, q, p_n.sum(-1), np.inf if q_known else q_n.sum(-1))
    elif bias_correction == "jackknife":
        bias = _jackknife_bias(divergence, p_n, q, plug_in, left=True)
        if not q_known:
            bias = bias + _jackknife_bias(divergence, q_n, p, plug_in, left=False)
    low = high = infinite = None
    draw = generator(rng, "rng")
    if whole(resamples, "resamples", 0):
        low, high, infinite = _bootstrap(
            p_n, None if q_known else q_n, q, lambda a, b: evaluate(divergence, *shares(a, b)),
            plug_in, resamples, confidence, interval, draw,
        )  # fmt: skip
    unit = 1.0 / nats if kind.in_nats else 1.0
    unit = math.sqrt(unit) if kind.root else unit
    return CountEstimate(
        value=((plug_in - bias) * unit)[()],
        plug_in=(plug_in * unit)[()],
        bias=(bias * unit)[()],
        low=None if low is None else (low * unit)[()],
        high=None if high is None else (high * unit)[()],
        infinite_resamples=infinite,
        empty_p=np.count_nonzero(p_n == 0, axis=-1),
        empty_q=np.count_nonzero(q_n == 0, axis=-1),
        divergence=divergence,
        smoothing=str(smoothing),
        labels=labels,
    )


def _second_order_bias(divergence: str, p: Float64s, q: Float64s, n: Any, m: Any) -> Float64s:
    """½·Σ f_pp·p(1-p)/N + ½·Σ f_qq·q(1-q)/M, each over the cells that were seen."""
    kind = DIVERGENCES[divergence]
    assert kind.curvature_p is not None and kind.curvature_q is not None
    with np.errstate(all="ignore"):
        of_p = np.where(p > 0, kind.curvature_p(p, q) * p * (1 - p), 0.0).sum(-1) / n
        of_q = np.where(q > 0, kind.curvature_q(p, q) * q * (1 - q), 0.0).sum(-1) / m
        return np.asarray(0.5 * (of_p + of_q))


def _jackknife_bias(divergence: str, counts: Float64s, other: Float64s, plug_in: Float64s, left: bool) -> Float64s:
    """(N-1)·(mean of the leave-one-out estimates - plug-in) in O(K): each cell's term changes alone."""
    terms = DIVERGENCES[divergence].terms
    total = counts.sum(-1, keepdims=True)

    def term(shares: Float64s) -> Float64s:
        return terms(shares, other) if left else terms(other, shares)

    with np.errstate(all="ignore"):
        kept, reduced = counts / (total - 1), np.maximum(counts - 1, 0) / (total - 1)
        without_one = term(kept).sum(-1, keepdims=True) - term(kept) + term(reduced)
        mean = np.where(counts > 0, counts / total * without_one, 0.0).sum(-1)
        bias = (total[..., 0] - 1) * (mean - plug_in)
    return np.where(np.isfinite(bias), bias, np.nan)


def _bootstrap(
    p_n: Float64s,
    q_n: Float64s | None,
    q: Float64s,
    statistic: Callable[[Float64s, Float64s], Float64s],
    plug_in: Float64s,
    resamples: int,
    confidence: float,
    interval: str,
    rng: np.random.Generator,
) -> tuple[Float64s, Float64s, Any]:
    """Interval ends and the number of infinite replicates of every row."""
    for name, counts in (("p_counts", p_n), ("q_counts", q_n)):
        if counts is not None and (np.any(counts != np.floor(counts)) or np.any(counts.sum(-1) == 0)):
            raise ValueError(f"`{name}` has fractions or a row without counts, expected counts to resample")
    cells = p_n.shape[-1]
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    ends = np.empty((math.prod(plug_in.shape), 2))
    infinite = np.zeros(ends.shape[0], np.int64)
    rows = (p_n.reshape(-1, cells), None if q_n is None else q_n.reshape(-1, cells), q.reshape(-1, cells))
    step = max(_RESAMPLED_CELLS // cells, 1)
    for row in range(ends.shape[0]):
        replicates = []
        for start in range(0, resamples, step):
            size = min(step, resamples - start)
            q_row = rows[2][row] if rows[1] is None else _resampled(rows[1][row], size, rng)
            replicates.append(statistic(_resampled(rows[0][row], size, rng), q_row))
        values = np.concatenate(replicates)
        infinite[row] = np.count_nonzero(~np.isfinite(values))
        ends[row] = np.quantile(np.where(np.isfinite(values), values, np.inf), tails, method="inverted_cdf")
    if interval == "basic":
        with np.errstate(invalid="ignore"):
            ends = 2 * plug_in.reshape(-1, 1) - ends[:, ::-1]
    ends = ends.reshape(*plug_in.shape, 2)
    return ends[..., 0], ends[..., 1], infinite.reshape(plug_in.shape)[()]


def _resampled(counts: Float64s, size: int, rng: np.random.Generator) -> Float64s:
    total = counts.sum()
    return rng.multinomial(int(total), counts / total, size=size).astype(np.float64)
