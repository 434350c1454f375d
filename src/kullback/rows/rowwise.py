"""What the functions of the family share: their keywords, checked once, and one kernel over all rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, calls, keywords, outputs

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
