"""Sums without rounding, and means built on them: parts combine in any order to the same bits."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import views

__all__ = ["Estimate", "ExactSum", "Mean", "json_number"]

_LEAST = 1074  # every float64 is a whole number of 2⁻¹⁰⁷⁴, the least subnormal
LOW_BITS = 27
_CHUNK = 1 << 26  # this many 27-bit integers add up exactly in float64, which is what bincount adds in


class ExactSum:
    """The exact sum of every number added so far; merging is associative and commutative to the bit.

    The sum is one Python integer of 2⁻¹⁰⁷⁴ units, never longer than a few hundred bytes. ±inf and NaN are
    kept apart and win as in IEEE arithmetic.

    Parameters
    ----------
    values : array_like, optional
        Numbers to begin with.

    Examples
    --------
    >>> total = ExactSum([1e300, 1.0])
    >>> total.merge(ExactSum([-1e300]))
    >>> float(total)
    1.0
    """

    __slots__ = ("_special", "_units")

    def __init__(self, values: ArrayLike = ()) -> None:
        self._units = 0
        self._special = 0.0
        if not isinstance(values, tuple) or values:  # most sums begin with nothing: of many groups, labels and pairs
            self.add(values)

    def add(self, values: ArrayLike) -> None:
        """Add float64 numbers, any shape."""
        numbers = views.reals(values, "values").reshape(-1)
        finite = np.isfinite(numbers)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self._special += float(numbers[~finite].sum())
            numbers = numbers[finite]
        for start in range(0, numbers.size, _CHUNK):
            self._units += _units(numbers[start : start + _CHUNK])

    @classmethod
    def of_units(cls, units: int) -> ExactSum:
        """So many times 2⁻¹⁰⁷⁴."""
        new = cls()
        new._units = units
        return new

    def add_units(self, units: int) -> None:
        """Add so many times 2⁻¹⁰⁷⁴."""
        self._units += units

    def merge(self, other: ExactSum) -> None:
        """Add everything that `other` has seen."""
        self._units += other._units
        self._special += other._special

    def copy(self) -> ExactSum:
        """A sum that can grow on its own."""
        twin = ExactSum()
        twin.merge(self)
        return twin

    def negative(self) -> ExactSum:
        """The sum of the same numbers with the other sign."""
        twin = ExactSum()
        twin._units, twin._special = -self._units, -self._special
        return twin

    def exact(self) -> Fraction:
        """The finite part as an exact fraction."""
        return Fraction(self._units, 1 << _LEAST)

    def finite_part(self) -> ExactSum:
        """The sum of the finite numbers alone."""
        twin = ExactSum()
        twin._units = self._units
        return twin

    @property
    def finite(self) -> bool:
        """Whether no ±inf or NaN was added."""
        return self._special == 0.0

    def __float__(self) -> float:
        """The sum, rounded once."""
        if not self.finite:
            return self._special
        return _rounded(self.exact())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExactSum):
            return NotImplemented
        same_special = self._special == other._special or (math.isnan(self._special) and math.isnan(other._special))
        return self._units == other._units and same_special

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"ExactSum({float(self)!r})"


def significands(numbers: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each finite number n·2ᵉ⁻¹⁰⁷⁵ the whole number n, with its sign, and e, 1 at least."""
    bits = np.ascontiguousarray(numbers).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    integer = bits & ((1 << 52) - 1)
    integer |= (exponent > 0).astype(np.int64) << 52  # the leading 1 that normal numbers do not store
    np.negative(integer, out=integer, where=bits < 0)
    np.maximum(exponent, 1, out=exponent)
    return integer, exponent


def _units(numbers: NDArray[np.float64]) -> int:
    """The sum in units of 2⁻¹⁰⁷⁴: the 53-bit integers of each exponent add up apart, in two halves."""
    integer, exponent = significands(numbers)
    high = np.bincount(exponent, weights=integer >> LOW_BITS)
    low = np.bincount(exponent, weights=integer & ((1 << LOW_BITS) - 1))
    total = 0
    for place in np.flatnonzero((high != 0.0) | (low != 0.0)):
        total += ((int(high[place]) << LOW_BITS) + int(low[place])) << (int(place) - 1)
    return total


def _rounded(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class Estimate(NamedTuple):
    """A mean, or what comes of one, and its standard error: NaN where fewer than two independent draws went in."""

    mean: float
    standard_error: float

    @property
    def value(self) -> float:
        """The mean, where it is called the estimate."""
        return self.mean


class Mean:
    """A mean over tokens whose independent draws are the tokens, or clusters of them (sequences); merges exactly.

    Parameters
    ----------
    values : array_like, optional
        One a token; those that are NaN are left out.
    """

    __slots__ = ("_times", "clusters", "count", "squared_counts", "squares", "total")

    def __init__(self, values: ArrayLike = ()) -> None:
        self.count = self.clusters = self.squared_counts = 0  # tokens, independent draws, Σ tokens² of the draws
        self.total, self.squares = ExactSum(), ExactSum()  # squares of finite values
        self._times: ExactSum | None = None  # Σ sum·tokens of the draws; None: each is one token, so it is the total
        numbers = np.asarray(values, np.float64)
        self.add(numbers[~np.isnan(numbers)])

    def add(self, sums: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> None:
        """Add draws: the sum over each one's tokens, and how many it has; None: one."""
        if counts is not None and self._times is None:
            self._times = self.total.copy()
        self.total.add(sums)
        finite = sums[np.isfinite(sums)]
        with np.errstate(over="ignore", invalid="ignore"):
            self.squares.add(finite * finite)
            if self._times is not None:
                self._times.add(sums if counts is None else sums * counts)
        self.clusters += sums.size
        self.count += sums.size if counts is None else int(counts.sum())
        self.squared_counts += sums.size if counts is None else int((counts * counts).sum())

    def merge(self, other: Mean) -> Mean:
        """The mean of both together."""
        new = Mean()
        if self._times is not None or other._times is not None:
            new._times = ExactSum()
        for part in (self, other):
            new.count += part.count
            new.clusters += part.clusters
            new.squared_counts += part.squared_counts
            new.total.merge(part.total)
            new.squares.merge(part.squares)
            if new._times is not None:
                new._times.merge(part.times)
        return new

    def finite_part(self, infinite: int) -> Mean:
        """The mean of single tokens without the infinite ones, of which there are so many."""
        new = Mean()
        new.count = new.clusters = new.squared_counts = self.count - infinite
        new.total, new.squares = self.total.finite_part(), self.squares.copy()
        return new

    @property
    def times(self) -> ExactSum:
        """Σ sum·tokens of the draws."""
        return self.total if self._times is None else self._times

    @property
    def mean(self) -> float:
        return float(self.total) / self.count if self.count else math.nan

    @property
    def standard_deviation(self) -> float:
        """Of single tokens, with n - 1 below the line."""
        variance = self._variance()
        return math.nan if variance is None else math.sqrt(max(0.0, float(variance * self.count)))

    @property
    def standard_error(self) -> float:
        """Variance c/(c - 1)·Σ(s - mean·n)²/(Σn)² over c draws of sum s and n tokens, linearised for a ratio.

        Cochran, Sampling Techniques, 3rd ed., section 6.3.
        """
        variance = self._variance()
        return math.nan if variance is None else math.sqrt(max(_rounded(variance), 0.0))  # below 0 by rounded squares

    def _variance(self) -> Fraction | None:
        if self.clusters < 2 or not (self.total.finite and self.squares.finite and self.times.finite):
            return None
        mean = self.total.exact() / self.count
        spread = self.squares.exact() - 2 * mean * self.times.exact() + mean * mean * self.squared_counts
        return spread * ratio_factor(self.clusters, self.count)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, self.standard_error)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": json_number(self.mean),
            "standard_error": json_number(self.standard_error),
            "count": self.count,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mean):
            return NotImplemented
        return (
            (self.count, self.clusters, self.squared_counts) == (other.count, other.clusters, other.squared_counts)
            and (self.total, self.squares) == (other.total, other.squares)
            and self.times == other.times
        )

    __hash__ = None  # type: ignore[assignment]


class Group(NamedTuple):
    """The values of one document or chunk."""

    size: int
    infinite: int
    total: ExactSum

    def merge(self, other: Group) -> Group:
        total = self.total.copy()
        total.merge(other.total)
        return Group(self.size + other.size, self.infinite + other.infinite, total)


def deviation(part: ExactSum, size: int, whole: ExactSum, count: int) -> float:
    """(part - whole·size/count)/count, rounded once: how far a group's sum moves the mean."""
    try:
        return (part._units * count - whole._units * size) / (count**2 << _LEAST)
    except OverflowError:
        return math.inf


def ratio_factor(clusters: int, tokens: int) -> Fraction:
    """c/(c - 1)/(Σn)²: what makes Σ(s - mean·n)² over clusters the variance of the mean."""
    return Fraction(clusters, (clusters - 1) * tokens**2)


def json_number(value: float) -> float | str | None:
    """null where undefined, "inf" and "-inf" where infinite."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
