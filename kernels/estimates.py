"""The estimator k3 of KL, φ(-d), of many numbers."""

from numba import types

from .elementary import phi_anywhere
from .lanes import kernel, width
from .memory import load, pointer, stack, store


@kernel
def write_phi(x, out, start, stop):
    """φ of elements start <= t < stop of x into out."""
    source, target = pointer(x, types.float64), pointer(out, types.float64)
    lanes = width(0.0)
    whole = start + (stop - start) // lanes * lanes if stop > start else start
    for i in range(start, whole, lanes):
        store(target, i, phi_anywhere(load(source, i, 0.0)))
    if whole < stop:
        room = stack(8, 0.0)
        for i in range(lanes):
            room[i] = source[whole + i] if whole + i < stop else 0.0
        store(room, 0, phi_anywhere(load(room, 0, 0.0)))
        for i in range(stop - whole):
            target[whole + i] = room[i]
