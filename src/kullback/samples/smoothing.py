"""From counts to shares: the named smoothing rules, all of which give shares that sum to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import choice, plain, real, same_axis, shown

Float64s = NDArray[np.float64]
Smoothing = str | tuple[str, float] | tuple[str, float, ArrayLike] | None

_PSEUDO_COUNTS: dict[str, Callable[[Float64s, int], Any]] = {
    "laplace": lambda total, cells: 1.0,
    "jeffreys": lambda total, cells: 0.5,
    "perks": lambda total, cells: 1.0 / cells,
    "minimax": lambda total, cells: np.sqrt(total) / cells,
}
_GREATEST = 1e140  # products of two sums of such stay in float64's range
_WITH_NUMBER = ("additive", "floor", "jelinek")
RULES = (*_PSEUDO_COUNTS, *_WITH_NUMBER, "james-stein", "good-turing")


def as_counts(name: str, counts: ArrayLike) -> Float64s:
    """`counts` as float64 (..., K), checked to be finite and not negative."""
    array = plain(counts, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected counts: numbers, none negative")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected (..., K) with at least one cell")
    values = array.astype(np.float64)
    bad = ~((values >= 0) & (values <= _GREATEST))
    if bad.any():
        raise ValueError(f"`{name}` holds {values[bad][0]}, expected counts: numbers from 0 to {_GREATEST:g}")
    return values


def smooth(counts: ArrayLike, smoothing: Smoothing = None) -> Float64s:
    """Shares of cells from their counts, by a named rule; always normalised.

    With counts n_i in K cells, N = Σ n_i and plain shares s_i = n_i/N:

    ====================  ===================================================================================
    smoothing             share of cell i
    ====================  ===================================================================================
    None                  s_i
    ("additive", α)       (n_i + α)/(N + Kα)
    "laplace"             additive with α = 1
    "jeffreys"            additive with α = 1/2
    "perks"               additive with α = 1/K
    "minimax"             additive with α = √N/K
    ("floor", ε)          max(s_i, ε), divided by their sum
    ("jelinek", λ)        (1-λ)·s_i + λ/K
    ("jelinek", λ, b)     (1-λ)·s_i + λ·b_i, where b is a background distribution (K,), normalised
    "james-stein"         λ/K + (1-λ)·s_i with λ = (1 - Σ s_i²)/((N-1)·Σ (1/K - s_i)²), limited to [0, 1]
    "good-turing"         simple Good-Turing: N_1/N shared equally by the empty cells, r* for the others
    ====================  ===================================================================================

    Parameters
    ----------
    counts : array_like, (..., K)
        Counts (or weights) of the cells, finite and not negative.
    smoothing : str, tuple or None
        The rule, see the table.

    Returns
    -------
    ndarray, (..., K)
        Shares, float64, each row summing to one. A row without a single count gives NaN where the rule leaves
        it undefined (None, jelinek, floor), else the rule's prior.

    Raises
    ------
    ValueError
        Negative or infinite counts, an unknown rule, a parameter out of range, with "good-turing" counts that
        are not whole numbers.
    TypeError
        Counts that are not numbers, a rule that is neither a name nor a tuple.

    Notes
    -----
    Good-Turing: W. Gale & G. Sampson, "Good-Turing frequency estimation without tears", J. Quantitative
    Linguistics 2(3), 1995: counts of counts averaged over gaps, a log-log line through them, and the raw
    estimate (r+1)·N_{r+1}/N_r as long as it differs from the line's by more than 1.65 standard deviations.
    With fewer than two distinct counts there is no line: r* = r. Without empty cells nothing is reserved.
    N_1 = N (every count is 1) leaves nothing to the seen cells and is rejected. James-Stein: J. Hausser &
    K. Strimmer, J. Machine Learning Research 10, 2009.

    Examples
    --------
    >>> smooth([3, 1, 0], "laplace")
    array([0.57142857, 0.28571429, 0.14285714])
    >>> smooth([3, 1, 0], ("floor", 0.25))
    array([0.6, 0.2, 0.2])
    """
    if isinstance(smoothing, tuple) and len(smoothing) == 3:
        same_axis(-1, ("counts", counts), ("smoothing", smoothing[2]))
    values = as_counts("counts", counts)
    rule, number, background = _settle(smoothing, values.shape[-1])
    total = values.sum(axis=-1, keepdims=True)
    cells = values.shape[-1]
    if rule == "good-turing":
        rows = values.reshape(-1, cells)
        return np.stack([_good_turing(row) for row in rows]).reshape(values.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        if rule in _PSEUDO_COUNTS:
            number = _PSEUDO_COUNTS[rule](total, cells)
        if rule in _PSEUDO_COUNTS or rule == "additive":
            return np.asarray((values + number) / (total + cells * number))
        shares = values / total
        if rule == "floor":
            raised = np.maximum(shares, number)
            return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
        if rule == "jelinek":
            return np.asarray((1 - number) * shares + number * background)
        if rule == "james-stein":
            spread = ((1.0 / cells - shares) ** 2).sum(axis=-1, keepdims=True)
            weight = (1 - (shares**2).sum(axis=-1, keepdims=True)) / ((total - 1) * spread)
            weight = np.where((total > 1) & (spread > 0), np.clip(weight, 0.0, 1.0), 1.0)
            return np.asarray(weight / cells + np.where(weight < 1, (1 - weight) * shares, 0.0))
    return np.asarray(shares)


def _settle(smoothing: Smoothing, cells: int) -> tuple[str | None, Any, Float64s | float]:
    """Rule, its number and the background, checked."""
    background: Float64s | float = 1.0 / cells
    rule, parameters = smoothing_parameters(smoothing)
    if not parameters:
        return rule, 0.0, background
    number = real(parameters[0], "smoothing")
    limit = {"additive": np.inf, "floor": 1.0 / cells, "jelinek": 1.0}[str(rule)]
    if not 0 <= number <= limit or number == np.inf:
        raise ValueError(f"`smoothing` is ({rule!r}, {number}), expected a number from 0 to {limit:g}")
    if len(parameters) == 2:
        weights = as_counts("smoothing", parameters[1])
        if weights.shape != (cells,) or weights.sum() == 0:
            raise ValueError(f"the background of `smoothing` has shape {weights.shape}, expected ({cells},)")
        background = weights / weights.sum()
    return rule, number, background


def smoothing_parameters(smoothing: Smoothing) -> tuple[str | None, tuple[Any, ...]]:
    """The rule of that name and what comes with it, as far as they can be checked without counts."""
    if smoothing is None:
        return None, ()
    if not isinstance(smoothing, str | tuple) or not smoothing:
        raise TypeError(f"`smoothing` is {shown(smoothing)}, expected a name, (name, number) or None")
    rule, *parameters = (smoothing,) if isinstance(smoothing, str) else smoothing
    choice(rule, "smoothing", RULES)
    expected = (rule in _WITH_NUMBER) + (rule == "jelinek" and len(parameters) == 2)
    if len(parameters) != expected:
        raise ValueError(f"`smoothing` is {smoothing!r}, expected {expected} number(s) after {rule!r}")
    return rule, tuple(parameters)


def _good_turing(counts: Float64s) -> Float64s:
    """Simple Good-Turing shares of one row."""
    total = counts.sum()
    if np.any(counts != np.floor(counts)):
        raise ValueError("`counts` holds fractions, expected whole numbers with smoothing 'good-turing'")
    if total == 0:
        return np.full(counts.shape, 1.0 / counts.size)
    r, count_of_counts = np.unique(counts[counts > 0], return_counts=True)
    empty = np.flatnonzero(counts == 0)
    unseen = float(count_of_counts[0]) / total if r[0] == 1 and empty.size else 0.0
    if unseen == 1.0:
        raise ValueError("every count is 1: 'good-turing' leaves nothing to the cells that were seen")
    expected = _expected_counts(r, count_of_counts.astype(np.float64))
    shares = np.zeros(counts.shape)
    shares[counts > 0] = expected[np.searchsorted(r, counts[counts > 0])]
    shares *= (1.0 - unseen) / shares.sum()
    shares[empty] = unseen / empty.size if empty.size else 0.0
    return shares


def _expected_counts(r: Float64s, count_of_counts: Float64s) -> Float64s:
    """Gale & Sampson's r* for each distinct count r."""
    if r.size < 2:
        return r
    below = np.concatenate([[0.0], r[:-1]])
    above = np.concatenate([r[1:], [2 * r[-1] - below[-1]]])
    averaged = count_of_counts / (0.5 * (above - below))
    slope, _ = np.polyfit(np.log(r), np.log(averaged), 1)
    line = r * (1 + 1 / r) ** (slope + 1)
    following = np.concatenate([np.where(np.diff(r) == 1, count_of_counts[1:], 0.0), [0.0]])
    turing = (r + 1) * following / count_of_counts
    deviation = (r + 1) * np.sqrt(following / count_of_counts**2 * (1 + following / count_of_counts))
    on_line = (following == 0) | (np.abs(turing - line) <= 1.65 * deviation)
    first = int(np.argmax(on_line)) if on_line.any() else r.size
    return np.asarray(np.where(np.arange(r.size) < first, turing, line))
