"""Sums without rounding, and means built on them: parts combine in any order to the same bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import views

__all__ = ["ClusteredMean", "Estimate", "ExactSum"]

_LEAST = 1074  # every float64 is a whole number of 2⁻¹⁰⁷⁴, the least subnormal
_LOW_BITS = 27
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

    def merge(self, other: ExactSum) -> None:
        """Add everything that `other` has seen."""
        self._units += other._units
        self._special += other._special

    def copy(self) -> ExactSum:
        """A sum that can grow on its own."""
        twin = ExactSum()
        twin.merge(self)
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


def _units(numbers: NDArray[np.float64]) -> int:
    """The sum in units of 2⁻¹⁰⁷⁴: the 53-bit integers of each exponent add up apart, in two halves."""
    bits = np.ascontiguousarray(numbers).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    integer = bits & ((1 << 52) - 1)
    integer |= (exponent > 0).astype(np.int64) << 52  # the leading 1 that normal numbers do not store
    np.negative(integer, out=integer, where=bits < 0)
    np.maximum(exponent, 1, out=exponent)
    high = np.bincount(exponent, weights=integer >> _LOW_BITS)
    low = np.bincount(exponent, weights=integer & ((1 << _LOW_BITS) - 1))
    total = 0
    for place in np.flatnonzero((high != 0.0) | (low != 0.0)):
        total += ((int(high[place]) << _LOW_BITS) + int(low[place])) << (int(place) - 1)
    return total


def _rounded(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


class Estimate(NamedTuple):
    """A mean and its standard error, which is NaN where fewer than two independent draws went in."""

    mean: float
    standard_error: float


@dataclass
class ClusteredMean:
    """A mean over tokens whose independent draws are clusters of tokens (sequences), mergeable exactly."""

    total: ExactSum = field(default_factory=ExactSum)
    squares: ExactSum = field(default_factory=ExactSum)
    times_tokens: ExactSum = field(default_factory=ExactSum)

    def add(self, sums: NDArray[np.float64], tokens: NDArray[np.float64]) -> None:
        """Add clusters: the sum over each one's tokens, and how many tokens it has."""
        with np.errstate(over="ignore", invalid="ignore"):
            self.total.add(sums)
            self.squares.add(sums * sums)
            self.times_tokens.add(sums * tokens)

    def merge(self, other: ClusteredMean) -> None:
        """Add everything that `other` has seen."""
        self.total.merge(other.total)
        self.squares.merge(other.squares)
        self.times_tokens.merge(other.times_tokens)

    def estimate(self, tokens: int, squared_tokens: int, clusters: int) -> Estimate:
        """Mean Σs/Σn over clusters; variance c/(c - 1)·Σ(s - mean·n)²/(Σn)², linearised for a ratio.

        `squared_tokens` is Σn². Cochran, Sampling Techniques, 3rd ed., section 6.3.
        """
        if not tokens:
            return Estimate(math.nan, math.nan)
        if not (self.total.finite and self.squares.finite and self.times_tokens.finite):
            return Estimate(float(self.total) / tokens, math.nan)
        mean = self.total.exact() / tokens
        if clusters < 2:
            return Estimate(float(mean), math.nan)
        spread = self.squares.exact() - 2 * mean * self.times_tokens.exact() + mean * mean * squared_tokens
        variance = _rounded(spread * Fraction(clusters, (clusters - 1) * tokens**2))
        return Estimate(float(mean), math.sqrt(max(variance, 0.0)))  # below 0 by the rounding of the squares
