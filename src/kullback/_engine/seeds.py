"""Generators of random numbers, from what callers give."""

from typing import Any

import numpy as np

from kullback._engine.keywords import whole


def generator(seed: Any, name: str) -> np.random.Generator:
    """A generator of random numbers, or one of that seed; NumPy itself has no end with a matrix."""
    known = (np.random.Generator, np.random.BitGenerator, np.random.SeedSequence)
    if seed is None or isinstance(seed, known):
        return np.random.default_rng(seed)
    return np.random.default_rng(whole(seed, name, 0))
