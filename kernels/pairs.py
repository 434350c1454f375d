"""Blocks of a pair of rows as normalised pairs: p, q and d = ln q - ln p, whatever the rows were given as.

The second pass of everything that needs normalised terms. `d` comes from the difference of the inputs and the
difference of the normalisers, never from two rounded logs, so it keeps its relative accuracy near equality. Outcomes
impossible under both have p = q = 0 and d = 0; those impossible under one have a d as great as it gets, but finite, so
that 0·d is 0.
"""

import math

import numpy as np

from .cumulants import LOG2E
from .decode import NO_LOG, view
from .ladder import DISTANT, SINGLE
from .lanes import inlined, kernel
from .log_pairs import distant_log_pairs, fill_partners, log_pairs
from .mass_pairs import read_masses
from .records import Pair
from .scans import LN2
from .status import MASSES

PAIRS = 1024  # outcomes a block: p, q, d and the decoded rows in float32 take 20 KiB of first-level cache
NEAR = 0.9  # |d| up to which power series serve; beyond, what is subtracted is below 6 times the result


@inlined
def turned(pair):
    """The pair with its rows exchanged."""
    return Pair(pair.q, pair.p, pair.vocab, pair.space, pair.k)


@kernel
def scale_pair(pair, facts):
    """Fill the scales with the constants of a pair of rows of logs that turn stored elements into p, q and d."""
    if pair.space == MASSES:
        return
    k, state, scales = pair.k, facts.state, facts.scales
    log_mass_p, log_mass_q = state.log_mass_p, state.log_mass_q
    if state.path == DISTANT:
        scales.top_p, scales.log_rest_p = state.greatest_p, state.log_mass_p
        scales.top_q, scales.log_rest_q = state.greatest_q, state.log_mass_q
        scales.rest_gap = state.gap
    else:
        # in the lanes k·log2(e) is rounded; the greatest element, which weighs most, is given its own probability
        scale = np.float64(np.float32(k * LOG2E)) if state.path == SINGLE else k * LOG2E
        top, top_q = state.greatest_p, state.greatest_q
        scales.shift = np.rint((k * top + log_mass_p) * LOG2E)
        scales.shift_q = np.rint((k * top_q + log_mass_q) * LOG2E)
        scales.factor = math.exp(-log_mass_p - LN2 * (scale * top - scales.shift))
        scales.factor_q = math.exp(-log_mass_q - LN2 * (scale * top_q - scales.shift_q))
        scales.minus_gap = -state.gap


@kernel
def read_pairs(pair, start, path, limit, near, scales, rooms, outcomes):
    """Fill a block of p, d and, unless every |d| ≤ limit, of q. True where that was so: q was not needed.

    `near`: the blocks before were so, which is worth a try with masses.
    """
    if pair.space == MASSES:
        return read_masses(pair, start, limit, near, scales, rooms, outcomes)
    x = view(pair.p, start, outcomes.n, rooms.p, NO_LOG)
    y = view(pair.q, start, outcomes.n, rooms.q, NO_LOG)
    if path == DISTANT:
        distant_log_pairs(x, y, pair.k, scales, outcomes)
        return False
    if log_pairs(x, y, pair.k, scales, outcomes) <= limit:
        return True
    fill_partners(y, pair.k, scales, outcomes)
    return False


@kernel
def is_identical(space, state):
    """True for rows of masses that are the same as far as KL can tell."""
    return space == MASSES and state.forward == 0.0 and state.reverse == 0.0
