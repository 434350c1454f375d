"""Which kernel serves a row or a pair of rows: the one place that picks lanes and what stands in for them.

Rows are tried from the fastest kernel to the one that serves any, each of which says itself whether it served:

    a row of logs       float32 lanes, or float64 ones where it is stored so; relative to its greatest element (far.py)
    a row of masses     float32 lanes, float64 lanes, float64 lanes of the row times a power of two
    a pair of logs      cumulant sums (rows.py) in float32 lanes, in float64 lanes; both rows normalised first
                        (normalised.py) in float32 lanes, in float64 lanes; as they stand to the greatest (direct.py)
    a pair of masses    as they are in float32 lanes, in float64 lanes; brought to one total in float64 lanes

What is asked for decides which of them are good enough: two divergences that ask for the same have the same KL. Loops
over the outcomes of a pair, gradients too, read it as it was served; those of one row are told its statistics, and have
`far_gradient` where their own weights leave the lanes.
"""

import math

import numpy as np
from numba import types

from .capped import SATURATED, capped_row
from .cumulants import LOG2E
from .decode import FLOAT64, element
from .direct import direct_row
from .far import far_row
from .lanes import kernel
from .masses import DONE as SERVED, NEGATIVE, OUT_OF_RANGE, greatest_mass, mass_statistics, split_power
from .memory import stack
from .normalised import normalised_row
from .probabilities import mass_row, scale_rows, undefined
from .records import RowStatistics, record
from .rows import DONE, TOO_CLOSE, TOO_FAR, cumulant_row
from .separate import separate
from .single import ordered_log_row
from .status import LOGS, NEGATIVE_P, NEGATIVE_Q

# What is asked for: the statistics alone; p and q of each outcome too; and what is made of exp(d) or of a gradient,
# where float32 would round a large d, or a normaliser, to too much of what is wanted.
STATISTICS, OUTCOMES, RATIOS = 0, 1, 2

# How a pair of rows is read: float32 lanes, float64 lanes, or float64 lanes with zeros on one side and any exponents;
# not at all.
SINGLE, DOUBLE, DISTANT, UNDEFINED, NEGATIVE_MASS = 0, 1, 2, 3, 4

# DOUBLE, of which the statistics are known, not each outcome.
SUMS = 6

# SINGLE, and so far apart that q is normalised by itself before its outcomes are looked at: found from p's weights and
# exp(d), whose d is rounded, its mass is off by 1e-5 at a KL of 10. That is nothing to the KL, but something to a
# gradient.
JOINT = 5
DISTINCT = 1.0
APART = 0.05  # from which on rounding of the normalisers, 1e-7, is as good as nothing to a mixture's divergence


@kernel
def serve_row(row, vocab, k, entropy, order, result):
    """The statistics of one row of logs; `entropy` None: it may be NaN; `order`: see order.py, None: nobody looks."""
    if row.storage == FLOAT64:
        served = ordered_log_row(row, vocab, k, 0.0, entropy, order, result)
    else:
        served = ordered_log_row(row, vocab, k, np.float32(0.0), entropy, order, result)
    if not served:
        far_row(row, vocab, k, order, result)


@kernel
def serve_capped_row(row, vocab, slope, limit, order, result):
    """`serve_row` of a row of logs under a soft-cap, with the entropy."""
    reach = SATURATED * limit / slope
    if row.storage != FLOAT64 and 1e-30 < reach < 1e30 and 1e-30 < limit < 1e30:
        capped_row(row, vocab, slope, limit, np.float32(0.0), order, result)
    else:
        capped_row(row, vocab, slope, limit, 0.0, order, result)


@separate(types.boolean)
@kernel
def serve_mass_row(row, vocab, result):
    """lse (log of the total), entropy, argmax and beside of a row of masses; False where one is negative. Of a row
    without a mass lse is -inf."""
    outcome = OUT_OF_RANGE
    if row.storage != FLOAT64:
        outcome = mass_statistics(row, vocab, np.float32(0.0), None, result)
    if outcome == OUT_OF_RANGE:
        outcome = mass_statistics(row, vocab, 0.0, None, result)
    if outcome == OUT_OF_RANGE:
        top = greatest_mass(row, vocab, stack(2048, 0.0))
        exponent = np.rint(math.log(top) * LOG2E)
        outcome = mass_statistics(row, vocab, 0.0, split_power(-exponent), result)
        result.lse = math.log(top) + result.beside
    return outcome != NEGATIVE


@kernel
def negative_side(pair):
    """Which row of a pair of masses, one of which has a negative one, that is."""
    return NEGATIVE_Q if serve_mass_row(pair.p, pair.vocab, record(RowStatistics)) else NEGATIVE_P


@kernel
def narrow(pair):
    """Whether float32 lanes hold the rows of a pair as they are stored."""
    return pair.p.storage != FLOAT64 and pair.q.storage != FLOAT64


@kernel
def fine_normalisers(pair, result):
    """Whether the rounding of the normalisers is worth nothing to a probability."""
    return abs(result.lse_p) + abs(result.lse_q) < (1e6 if narrow(pair) else 1e3)


@kernel
def normalise_partner(pair, result):
    """The normaliser of q by itself."""
    alone = record(RowStatistics)
    serve_row(pair.q, pair.vocab, pair.k, None, None, alone)
    result.lse_q, result.beside_q = alone.lse, alone.beside
    result.lse_gap = alone.lse - result.lse_p


@kernel
def serve_logs(pair, asked, single, result):
    """The statistics of a pair of rows of logs: SINGLE, JOINT, DOUBLE, SUMS or DISTANT. `single`: float32 lanes are
    good for rows of 32 bits."""
    p, q, vocab, _, k = pair
    outcome = TOO_CLOSE
    if single and narrow(pair):
        outcome = cumulant_row(p, q, vocab, k, np.float32(0.0), result)
        if outcome == DONE:
            return JOINT if max(result.kl, result.reverse_kl) > DISTINCT else SINGLE
        if outcome == TOO_FAR and asked != RATIOS and normalised_row(p, q, vocab, k, np.float32(0.0), result):
            # of outcomes float32 serves rows far apart on the whole of which nothing is possible under one alone
            known = min(result.kl, result.reverse_kl) > APART and max(result.kl, result.reverse_kl) < np.inf
            if asked == STATISTICS or known:
                return SINGLE
    if outcome == TOO_CLOSE or asked != STATISTICS:
        outcome = cumulant_row(p, q, vocab, k, 0.0, result)
        if outcome == DONE and fine_normalisers(pair, result):
            return DOUBLE
        if outcome == DONE and asked == STATISTICS:
            return SUMS
    if asked == STATISTICS and normalised_row(p, q, vocab, k, 0.0, result):
        return SUMS
    direct_row(p, q, vocab, k, result)
    return DISTANT


@separate(types.int64)
@kernel
def serve_masses(pair, asked, single, result, scales):
    """The statistics of a pair of rows of masses and their `scales`: SINGLE, DOUBLE or NEGATIVE_MASS. entropy_p and
    entropy_q are NaN, `beside` is untouched."""
    outcome = OUT_OF_RANGE
    if single and narrow(pair):
        outcome = mass_row(pair, np.float32(0.0), None, scales, result)
        if outcome == SERVED:
            if asked == STATISTICS or max(result.kl, result.reverse_kl) < np.inf or result.kl != result.kl:
                return SINGLE
            outcome = OUT_OF_RANGE  # what else is different may be as little as the rounding of float32 masses
    if outcome == OUT_OF_RANGE:
        outcome = mass_row(pair, 0.0, None, scales, result)
    if outcome == NEGATIVE:
        return NEGATIVE_MASS
    if outcome != SERVED:
        undefined(result)
        if scale_rows(pair.p, pair.q, pair.vocab, scales):
            mass_row(pair, 0.0, (scales.excess, scales.excess_low), scales, result)
    return DOUBLE


@kernel
def alone_too(pair, result):
    """The entropies of a pair of rows of masses, and `lse` and `beside` that keep their digits where one outcome takes
    nearly all."""
    alone = record(RowStatistics)
    defined = result.kl == result.kl
    serve_mass_row(pair.p, pair.vocab, alone)
    result.entropy_p = alone.entropy if defined else np.nan
    result.lse_p = alone.lse if defined else np.nan
    result.beside_p = alone.beside
    serve_mass_row(pair.q, pair.vocab, alone)
    result.entropy_q = alone.entropy if defined else np.nan
    result.lse_q = result.lse_p + result.lse_gap
    result.beside_q = alone.beside


@kernel
def serve_pair(pair, asked, single, result, scales):
    """The statistics of a pair of rows, and the `scales` of masses; how it is read."""
    if pair.space == LOGS:
        return serve_logs(pair, asked, single, result)
    return serve_masses(pair, asked, single, result, scales)


@separate(types.none)
@kernel
def normalise_pair(pair, asked, single, facts):
    """Fill the state, and the scales of masses, from the first pass over a pair of rows."""
    keep_state(pair, serve_pair(pair, asked, single, facts.statistics, facts.scales), asked, facts)


@kernel
def good_for_outcomes(path, result):
    """Whether a pair that was served for its statistics would be served for its outcomes in the same way."""
    infinite = max(result.kl, result.reverse_kl) == np.inf
    return path != SUMS and not (path == SINGLE and infinite)


@kernel
def keep_state(pair, path, asked, facts):
    """Fill the state of a pair whose statistics are known."""
    result, state, _ = facts
    if path == SUMS:
        path = DOUBLE
    if path == JOINT:
        path = SINGLE
        if asked != STATISTICS:
            normalise_partner(pair, result)
    if path != NEGATIVE_MASS and result.kl != result.kl:
        path = UNDEFINED
    state.path = path
    state.log_mass_p = result.beside_p if pair.space == LOGS else result.lse_p
    state.log_mass_q = result.beside_q if pair.space == LOGS else result.lse_q
    state.gap = result.beside_gap if path == DISTANT else result.lse_gap
    state.greatest_p = element(pair.p, np.int64(result.argmax_p)) if result.argmax_p >= 0.0 else np.nan
    state.greatest_q = element(pair.q, np.int64(result.argmax_q)) if result.argmax_q >= 0.0 else np.nan
    state.forward = result.kl
    state.reverse = result.reverse_kl
