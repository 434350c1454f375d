"""Which tokens a loss counts, and what its sum is divided by."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, views

Reduction = Literal["token-mean", "batchmean", "mean", "sum", "none"]
REDUCTIONS = ("token-mean", "batchmean", "mean", "sum", "none")


def _leading(x: Any, name: str, lead: tuple[int, ...]) -> NDArray[Any]:
    """`x` as an array of the leading shape."""
    array = views.plain(x, name)
    if array.shape != lead:
        raise ValueError(f"`{name}` has shape {array.shape}, expected {lead}, that of the rows")
    return array


def row_factors(x: Any, name: str, lead: tuple[int, ...]) -> NDArray[np.float64]:
    """`x` as finite float64 factors of the rows."""
    given = _leading(x, name, lead)
    if not views.is_real(given.dtype, "biuf"):
        raise TypeError(f"`{name}` has dtype {given.dtype}, expected real numbers")
    factors = given.astype(np.float64)
    if not np.isfinite(factors).all():
        raise ValueError(f"`{name}` holds values that are not finite")
    return factors


class Counted(NamedTuple):
    """The rows of a batch that count: their weights, 0 for the others, and how many they are."""

    weights: NDArray[np.float64]  # of the leading shape
    mask: NDArray[np.bool_] | None  # flat; None: all
    tokens: int

    def weigh(self, values: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.float64]:
        """values·weights·scale, 0 for a weight of 0 whatever the value, inf beyond float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.where(self.weights == 0.0, 0.0, values * self.weights * scale))

    @classmethod
    def of(cls, lead: tuple[int, ...], labels: Any, ignore_index: int, mask: Any, weights: Any) -> "Counted":
        """Labels that are `ignore_index` and a mask leave rows out; weights scale the others."""
        ignore_index = keywords.integer(ignore_index, "ignore_index")
        kept = np.ones(lead, np.bool_)
        if labels is not None:
            kept &= _leading(views.whole_numbers(labels, "labels"), "labels", lead) != ignore_index
        if mask is not None:
            rows = _leading(mask, "mask", lead)
            if rows.dtype.kind not in "biuf":
                raise TypeError(f"`mask` has dtype {rows.dtype}, expected bool or numbers that are 0 or 1")
            if rows.dtype != np.bool_ and not np.isin(rows, (0, 1)).all():
                raise ValueError("`mask` holds values other than 0 and 1, expected 1 for a row to count")
            kept &= rows.astype(np.bool_)
        factors = np.ones(lead) if weights is None else row_factors(weights, "weights", lead)
        everything = bool(kept.all())
        flat = None if everything else np.ascontiguousarray(kept).reshape(-1)
        return cls(np.where(kept, factors, 0.0), flat, int(kept.sum()))


class Reducer(NamedTuple):
    """A reduction with its divisor."""

    reduction: Reduction
    divisor: float

    def finish(self, weighted: NDArray[np.float64]) -> float | NDArray[np.float64]:
        """The weighted losses of the rows, reduced; NaN and inf of rows that do not count are no longer there."""
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64: inf
            if self.reduction == "none":
                return weighted / self.divisor
            return float(weighted.sum() / self.divisor)

    def row_weights(self, counted: Counted, scale: float = 1.0) -> NDArray[np.float64]:
        """What the gradients of the rows are multiplied by, (T,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            factors = np.ascontiguousarray(counted.weights.reshape(-1) * (scale / self.divisor))
        if not np.isfinite(factors).all():
            raise ValueError(
                f"`divisor` is {self.divisor}, expected a greater one: weights of rows (at their greatest "
                f"{np.abs(counted.weights).max() * scale:g}) divided by it are beyond the range of float64"
            )
        return factors


def reduce_tokens(
    reduction: Reduction, counted: Counted, lead: tuple[int, ...], vocab: int, divisor: float | None
) -> Reducer:
    """The reduction of that name; a divisor of 0, of a batch without tokens, becomes 1: its sum is 0."""
    keywords.choice(reduction, "reduction", REDUCTIONS)
    if divisor is not None:
        if not 0.0 < keywords.real(divisor, "divisor") < np.inf:
            raise ValueError(f"`divisor` is {divisor}, expected a finite number above 0")
        return Reducer(reduction, float(divisor))
    own = {
        "token-mean": float(counted.tokens),
        "batchmean": float(lead[0]) if lead else 1.0,
        "mean": float(counted.tokens * vocab),
    }.get(reduction, 1.0)
    return Reducer(reduction, own or 1.0)
