"""Spread: the distribution of one quantity over tokens, mergeable in any order to the same bits.

Sums are exact (exact.py), quantiles come from the values themselves, so that merging loses nothing. Jobs over more
tokens than they want to keep call `compact`: quantiles then come from a t-digest of the values (Apache DataSketches)
and depend, within its error, on the order of merging; everything else stays exact.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.exact import ExactSum

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_DIGEST_K = 500  # measured on lognormal values: ranks right to 3e-4 at the median, 3e-5 at 0.1 % and 99.9 %


class Spread:
    """The distribution of one quantity over tokens: exact moments, exact quantiles, mergeable.

    NaN values (rows without a distribution, ignored tokens) are counted in `undefined` and left out of the rest.
    """

    def __init__(self) -> None:
        self.undefined = 0
        self.count = 0  # values that are not NaN
        self.infinite = 0
        self._total, self._squares = ExactSum(), ExactSum()
        self._parts: list[NDArray[np.float64]] = []
        self._groups: dict[int, tuple[int, ExactSum]] = {}
        self._sketch: bytes | None = None  # a serialised t-digest of the finite values that `_parts` no longer has
        self._sketched = (0, 0, 0)  # values in it, and -inf and +inf beside it

    @classmethod
    def of(cls, values: NDArray[Any], groups: NDArray[Any] | None = None) -> Spread:
        """The spread of an array, each value in its group."""
        new = cls()
        flat = np.asarray(values, np.float64).ravel()
        defined = ~np.isnan(flat)
        new.undefined = int(flat.size - defined.sum())
        kept = np.sort(flat[defined])
        new._parts = [kept] if kept.size else []
        new.count = int(kept.size)
        new.infinite = int(np.isinf(kept).sum())
        new._total.add(kept)
        with np.errstate(over="ignore"):
            new._squares.add(kept * kept)
        if groups is not None and kept.size:
            inside = groups[defined]
            order = np.argsort(inside, kind="stable")
            names, starts = np.unique(inside[order], return_index=True)
            for name, members in zip(names, np.split(flat[defined][order], starts[1:]), strict=True):
                new._groups[int(name)] = (members.size, ExactSum(members))
        return new

    def merge(self, other: Spread) -> Spread:
        """The spread of both together."""
        new = Spread()
        new.undefined = self.undefined + other.undefined
        new.count = self.count + other.count
        new.infinite = self.infinite + other.infinite
        new._parts = self._parts + other._parts
        for part in (self, other):
            new._total.merge(part._total)
            new._squares.merge(part._squares)
        new._groups = dict(self._groups)  # the sums in it are never added to in place
        for name, (count, total) in other._groups.items():
            if name in new._groups:
                known_count, known = new._groups[name]
                known = known.copy()
                known.merge(total)
                new._groups[name] = (known_count + count, known)
            else:
                new._groups[name] = (count, total)
        new._sketch, new._sketched = self._sketch, self._sketched
        if other._sketch is not None:
            new._absorb(other._sketch, other._sketched)
        return new

    def compact(self, most: int) -> None:
        """Beyond `most` values, keep a t-digest of them instead."""
        values = self._sorted()
        if values.size <= most and (self._sketch is None or not values.size):
            return
        finite = values[np.isfinite(values)]
        below = int((values == -np.inf).sum())
        digest = _digest()
        digest.update(finite)
        self._absorb(digest.serialize(), (finite.size, below, values.size - finite.size - below))
        self._parts = []

    def _absorb(self, sketch: bytes, counts: tuple[int, int, int]) -> None:
        if self._sketch is None:
            self._sketch, self._sketched = sketch, counts
            return
        digest, other = _digest(self._sketch), _digest(sketch)
        if counts[0]:
            digest.merge(other)
        self._sketch = digest.serialize()
        a, b = self._sketched, counts
        self._sketched = (a[0] + b[0], a[1] + b[1], a[2] + b[2])

    def _sorted(self) -> NDArray[np.float64]:
        if len(self._parts) > 1:
            self._parts = [np.sort(np.concatenate(self._parts), kind="stable")]
        return self._parts[0] if self._parts else np.empty(0)

    @property
    def sketched(self) -> bool:
        """Whether quantiles come from a t-digest."""
        return self._sketch is not None

    @property
    def mean(self) -> float:
        return float(self._total) / self.count if self.count else math.nan

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return math.sqrt(float(self._squares) / self.count) if self.count else math.nan

    @property
    def standard_deviation(self) -> float:
        """With n - 1 below the line."""
        n = self.count
        if n < 2 or not (self._total.finite and self._squares.finite):
            return math.nan
        total, squares = self._total.exact(), self._squares.exact()
        return math.sqrt(max(0.0, float((squares - total * total / n) / (n - 1))))

    @property
    def standard_error(self) -> float:
        """Of the mean, as if tokens were independent."""
        return self.standard_deviation / math.sqrt(self.count) if self.count else math.nan

    @property
    def groups(self) -> int:
        return len(self._groups)

    @property
    def group_standard_error(self) -> float:
        """Of the mean, with groups as the independent draws: √(g/(g-1)·Σ(s - mean·n)²)/Σn. NaN without groups."""
        g = len(self._groups)
        if g < 2 or not self._total.finite:
            return math.nan
        mean = self._total.exact() / self.count
        squares = sum((total.exact() - mean * n) ** 2 for n, total in self._groups.values())
        return math.sqrt(float(squares) * g / (g - 1)) / self.count

    def group_means(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(group, values in it, their mean), by group."""
        names = sorted(self._groups)
        counts = np.array([self._groups[name][0] for name in names], np.int64)
        totals = np.array([float(self._groups[name][1]) for name in names])
        return np.array(names, np.int64), counts, totals / np.maximum(counts, 1)

    def group_interval(self, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """A bootstrap interval of the mean that draws whole groups; (NaN, NaN) with fewer than two.

        Percentile method (Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13); the draws are the same at
        every call. Above 10,000 groups the normal interval, which it then comes to.
        """
        _, counts, means = self.group_means()
        if counts.size < 2 or not self._total.finite:
            return math.nan, math.nan
        if counts.size > 10_000:
            reach = NormalDist().inv_cdf((1 + level) / 2) * self.group_standard_error
            return self.mean - reach, self.mean + reach
        rng = np.random.default_rng(seed)
        found = np.empty(draws)
        step = max(1, (1 << 20) // counts.size)
        for start in range(0, draws, step):
            n = min(step, draws - start)
            weights = rng.multinomial(counts.size, np.full(counts.size, 1.0 / counts.size), size=n) * counts
            found[start : start + n] = (weights * means).sum(1) / weights.sum(1)
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def min(self) -> float:
        return self._end(-1)

    @property
    def max(self) -> float:
        return self._end(1)

    def _end(self, sign: int) -> float:
        if not self.count:
            return math.nan
        values = self._sorted()
        ends = [float(values[-1 if sign > 0 else 0])] if values.size else []
        if self._sketch is not None:
            finite, below, above = self._sketched
            if finite:
                digest = _digest(self._sketch)
                ends.append(digest.get_max_value() if sign > 0 else digest.get_min_value())
            ends += [-math.inf] * bool(below) + [math.inf] * bool(above)
        return max(ends) if sign > 0 else min(ends)

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def quantile(self, level: float) -> float:
        """The value below which a share `level` of the tokens lies, linear between neighbours (NumPy's "linear")."""
        if not 0.0 <= level <= 1.0:
            raise ValueError(f"`level` is {level}, expected from 0 to 1")
        if self._sketch is not None:
            return self._sketched_quantile(level)
        values = self._sorted()
        if not values.size:
            return math.nan
        place = level * (values.size - 1)
        below = int(place)
        low, high = float(values[below]), float(values[min(below + 1, values.size - 1)])
        share = place - below
        if low == high or share == 0.0:
            return low
        return low + (high - low) * share if share < 0.5 else high - (high - low) * (1.0 - share)

    def _sketched_quantile(self, level: float) -> float:
        if self._parts:
            self.compact(0)
        assert self._sketch is not None
        finite, below, above = self._sketched
        place = level * (finite + below + above - 1)
        if place < below:
            return -math.inf
        if place > below + finite - 1:
            return math.inf if above else self.max
        return float(_digest(self._sketch).get_quantile((place - below) / max(finite - 1, 1)))

    def histogram(self, edges: NDArray[np.float64]) -> NDArray[np.float64]:
        """The share of values in each interval [edges[i], edges[i+1]); estimated where values are sketched."""
        if not self.count:
            return np.zeros(len(edges) - 1)
        if self._sketch is None:
            places = np.searchsorted(self._sorted(), edges, side="left")
            return np.diff(places) / self.count
        if self._parts:
            self.compact(0)
        finite, below, above = self._sketched
        digest = _digest(self._sketch)
        ranks = np.array([digest.get_rank(float(e)) if np.isfinite(e) else float(e > 0) for e in edges])
        shares = np.diff(ranks) * finite
        if edges[-1] == np.inf:
            shares[-1] += above
        if edges[0] == -np.inf:
            shares[0] += below
        return np.asarray(shares / self.count)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: null where undefined, "inf" and "-inf" where infinite."""
        tree: dict[str, Any] = {
            name: json_number(getattr(self, name)) for name in ("mean", "standard_error", "median", "max", "min")
        }
        if self._groups:
            tree["group_standard_error"] = json_number(self.group_standard_error)
            tree["group_interval"] = [json_number(end) for end in self.group_interval()]
        tree["undefined"] = self.undefined
        tree["infinite"] = self.infinite
        tree["quantiles"] = {f"{level:g}": json_number(self.quantile(level)) for level in QUANTILES}
        tree["quantiles_are"] = "t-digest" if self.sketched else "exact"
        return tree

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spread):
            return NotImplemented
        return (
            self.undefined == other.undefined
            and (self.count, self.infinite) == (other.count, other.infinite)
            and (self._sketch, self._sketched) == (other._sketch, other._sketched)
            and self._total == other._total
            and self._squares == other._squares
            and self._groups == other._groups
            and np.array_equal(self._sorted(), other._sorted())
        )

    __hash__ = None  # type: ignore[assignment]  # it is made of arrays


def _digest(sketch: bytes | None = None) -> Any:
    """A t-digest, new or from its serialised form, which is what merging starts from in every process alike."""
    try:
        from datasketches import tdigest_double
    except ImportError:
        raise ImportError("quantiles of so many values need datasketches: pip install kullback[eval]") from None
    return tdigest_double(_DIGEST_K) if sketch is None else tdigest_double.deserialize(sketch)


def json_number(value: float) -> float | str | None:
    """null where undefined, "inf" and "-inf" where infinite."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
