"""-Σ p·ln q, of gradients along p alone: that of the KL and of the entropy may be nothing but each other's rest.

Its values are known, whatever the `state` holds; the gradient is NaN where one is not finite.
"""

import math

import numpy as np

from ..encode import fill
from ..far_gradients import PARTNER, far_gradient
from ..lanes import kernel


@kernel
def valid_gradient(side, known, weight, first, second):
    return side == 0 and known != 0


@kernel
def gradient(
    p, q, vocab, k, own_weight, weight, first, second, side, value, own_moment, state, scales, address, storage
):
    if math.isfinite(value):
        far_gradient(p, q, vocab, k, PARTNER, 0.0, own_weight, 0.0, 0, address, storage)
    else:
        fill(np.nan, vocab, address, storage)
