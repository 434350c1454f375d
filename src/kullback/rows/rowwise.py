"""What the functions of the family share: their keywords, checked once, and one kernel over all rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, calls, keywords, long_rows, outputs

Out = NDArray[np.float64] | None


@dataclass(frozen=True)
class Rowwise:
    """The keywords that all functions share, checked."""

    given: Given
    temperature: float
    axis: int
    vocab_size: int | None
    num_threads: int | None

    def evaluate(
        self,
        p: tuple[str, Any],
        q: tuple[str, Any],
        kind: str,
        parameters: tuple[float, float, float],
        out: Out,
        finish: Callable[[NDArray[np.float64]], Any] | None = None,
        base: float | None = None,
    ) -> FloatArray:
        """One kernel over all rows, then `finish` on its result, then the unit."""
        unit = keywords.unit(base)
        space, k = keywords.space(self.given), keywords.inverse_temperature(self.temperature, self.given)
        pair = calls.batch(p, q, axis=self.axis, vocab_size=self.vocab_size, out=out)
        value = calls.divergence(pair, space, k, kind, parameters, self.num_threads)
        if base is not None:
            value /= unit
        if finish is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                value = finish(value)
        return outputs.finish(value, pair.lead, out)

    def evaluate_each(
        self,
        p: tuple[str, Any],
        q: tuple[str, Any],
        name: str,
        values: NDArray[np.float64],
        of: Callable[[float], tuple[str, tuple[float, float, float]]],
        out: Out,
        base: float | None,
    ) -> FloatArray:
        """`evaluate` with one value of an argument a row: the kernel once a distinct value, over its rows in place."""
        unit = keywords.unit(base)
        space, k = keywords.space(self.given), keywords.inverse_temperature(self.temperature, self.given)
        pair = calls.batch(p, q, axis=self.axis, vocab_size=self.vocab_size, out=out)
        try:
            each = np.broadcast_to(values, pair.lead).ravel()
        except ValueError:
            raise ValueError(f"`{name}` has shape {values.shape}, expected {pair.lead}, one a row") from None
        found = np.empty(pair.rows)
        order = np.argsort(each, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(each[order])) + 1) if order.size else []
        for rows, part in zip(groups, long_rows.grouped(pair, groups), strict=True):
            found[rows] = calls.divergence(part, space, k, *of(float(each[rows[0]])), self.num_threads)
        return outputs.finish(found / unit, pair.lead, out)
