"""What a parameter may be: float64 arrays of parameters, checked against their domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import views
from kullback._engine.keywords import unit
from kullback._engine.views import reals

FloatArray = NDArray[np.float64]


class Domain(NamedTuple):
    """What a parameter may be: words for the error message, and the test."""

    description: str
    accepts: Callable[[FloatArray], NDArray[np.bool_]]


REAL = Domain("a finite number", np.isfinite)


POSITIVE = Domain("a finite number > 0", lambda x: np.isfinite(x) & (x > 0))


NON_NEGATIVE = Domain("a finite number >= 0", lambda x: np.isfinite(x) & (x >= 0))


PROBABILITY = Domain("a probability in [0, 1]", lambda x: (x >= 0) & (x <= 1))


POSITIVE_PROBABILITY = Domain("a probability in (0, 1]", lambda x: (x > 0) & (x <= 1))


COUNT = Domain("a whole number >= 0", lambda x: np.isfinite(x) & (x >= 0) & (x == np.floor(x)))


def checked(where: str, value: ArrayLike | None, domain: Domain, event_ndim: int) -> FloatArray:
    """Return `value` as a read-only float64 array, or raise an error that names the field."""
    if isinstance(value, np.ma.MaskedArray) or views.is_tensor(value):
        value = views.plain(value, where)
    array = reals(value, where).view()
    if array.ndim < event_ndim or 0 in array.shape[array.ndim - event_ndim :]:
        raise ValueError(f"`{where}` has shape {array.shape}, expected {event_ndim} or more non-empty axes")
    bad = ~domain.accepts(array)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f" at index {index}" if index else ""
        raise ValueError(f"`{where}` is {float(array[index])!r}{place}, expected {domain.description}")
    array.flags.writeable = False
    return array


def in_base(nats: FloatArray, base: float | None) -> FloatArray:
    """Convert nats to the unit of `base`; 0-d arrays become NumPy scalars."""
    found: FloatArray = (np.asarray(nats, np.float64) / unit(base))[()]
    return found
