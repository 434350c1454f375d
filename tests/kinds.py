"""Every kind of divergence of kernels/kinds as tests need to know it; test_kinds.py fails where one is missing."""

import math
from typing import NamedTuple

INFINITE = (math.inf, -math.inf, math.nan)


class Setting(NamedTuple):
    """Parameters of a kind (weight, first, second), and what tests/reference.py calls the same."""

    parameters: tuple[float, float, float]
    reference: str
    parameter: float | None = None


class Kind(NamedTuple):
    settings: tuple[Setting, ...]
    refused: tuple[tuple[float, float, float], ...] = ()  # parameters for which it is not defined
    taken: tuple[tuple[float, float, float], ...] = ()  # and the last for which it is
    given: tuple[str, ...] = ("logits", "probs")
    gradient: bool = True


KINDS = {
    "linear": Kind(
        (Setting((0.5, 1.0, 0.0), "kl"), Setting((0.5, 0.0, 1.0), "reverse_kl")),
        tuple((0.5, *both) for x in INFINITE for both in ((x, 0.0), (0.0, x))),
        ((math.nan, 0.0, 1.0),),
    ),
    "mixture": Kind(
        (Setting((0.5, 0.5, 0.5), "jensen_shannon", 0.5), Setting((0.1, 0.1, 0.9), "jensen_shannon", 0.1)),
        (
            *((weight, 0.5, 0.5) for weight in (0.0, 1.0, -0.5, 1.5, *INFINITE)),
            *((0.5, *both) for x in INFINITE for both in ((x, 0.0), (0.0, x))),
        ),
        ((5e-324, 0.5, 0.5),),
    ),
    "variation": Kind((Setting((0.0, 0.0, 0.0), "total_variation"),), (), ((math.nan, math.nan, math.nan),)),
    "renyi": Kind(
        tuple(Setting((alpha, 0.0, 0.0), "renyi", alpha) for alpha in (0.3, 0.5, 2.0)),
        ((1.0, 0.0, 0.0), (-1e-300, 0.0, 0.0), (math.nan, 0.0, 0.0)),
        ((0.0, math.nan, math.nan), (math.inf, 0.0, 0.0)),
    ),
    # of known values alone: tests of the losses have them
    "cross_entropy": Kind((), ((0.5, 1.0, 0.0),), (), ()),
    "itakura_saito": Kind((Setting((0.0, 0.0, 0.0), "itakura_saito"),), (), ((math.nan, 0.0, 0.0),), ("probs",), False),
    "cressie_read": Kind(
        tuple(Setting((power, 0.0, 0.0), "cressie_read", power) for power in (2 / 3, 1.0, 0.0, -0.5, -1.0, -2.0)),
        tuple((power, 0.0, 0.0) for power in INFINITE),
        ((1e300, math.nan, math.nan), (5e-324, 0.0, 0.0)),
    ),
}
