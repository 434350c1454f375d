"""Gradients of rows of logs of any size, at any distance, whatever the temperature.

With Q the softmax of k·y, P that of k·x, and g_i the slopes below, a gradient along y is

    k·(c·(Q - P) + Q·(m + e·(g - Σ Q·g)))

The g_i are differences to the one at Q's greatest outcome, which has the greatest part in Σ Q·g: it cancels to what the
others leave, not to the rounding of a log-ratio that may be 1e20, or of a logarithm that 1/temperature makes 1e100.
Q·(g - Σ Q·g) is formed before a weight meets it, and weights meet k first: neither Σ Q·g nor what remains of it may
leave the range of float64 on the way to a gradient that does not.

Those of Rényi's divergence are k·c·(t - Q) with t the normalised P^u·Q^(1-u), which may lie where neither P nor Q has
anything (`tilted_gradient`).
"""

import math

import numpy as np
from numba import types

from .cumulants import LOG2E
from .decode import NO_LOG, element, view
from .direct import apart_constants, apart_lanes
from .encode import write_block
from .far import apart, below, half_weight, normaliser, unit_of
from .lanes import equal, fma, inlined, kernel, select, splat, sum_lanes, width
from .memory import load, stack, store
from .pairs import PAIRS
from .scans import argmax, greatest_of
from .separate import separate

RATIO, PARTNER = 0, 1  # g is ln Q/P, or -ln P


@inlined
def slopes(a, b, slope, own, constants):
    """(√Q, g/scale) of logs a of P and b of Q."""
    _, root, ratio, _ = apart_lanes(a, b, constants)
    if slope == RATIO:
        return root, ratio
    return root, own - a * constants.unit


@kernel
def together(k, weight):
    """Whether k·weight is a normal number, or 0."""
    return weight == 0.0 or 1e-290 < abs(k * weight) < 1e300


@separate(types.none)
@kernel
def far_gradient(pair, slope, gap_weight, slope_weight, mass_weight, target):
    """c, e and m of the formula above are gap_weight, slope_weight and mass_weight. NaN where a row is undefined."""
    p, q, vocab, _, k = pair
    like = 0.0
    room_p = stack(2048, like)
    room_q = stack(2048, like)
    block = stack(1024, like)
    zero = splat(0.0, like)
    top, at, beside, _ = normaliser(q, vocab, k, None, room_q)
    top_p, beside_p = -np.inf, 0.0
    if gap_weight != 0.0:
        top_p, _, beside_p, _ = normaliser(p, vocab, k, None, room_p)
    else:
        for start in range(0, vocab, PAIRS):
            n = min(PAIRS, vocab - start)
            top_p = max(top_p, greatest_of(view(p, start, n, room_p, NO_LOG), n, like))
    own = element(p, np.int64(argmax(q, vocab, at, top, room_q))) if at >= 0 else np.nan
    unit, scale = unit_of(max(abs(top), abs(top_p)), k)
    constants = apart_constants(unit, scale, own, top, 0.0, beside, beside, like)
    # a fourth of what is summed and subtracted, so that a KL beyond float64 has a mean of its slopes
    own_lanes, scales = splat(unit * own, like), splat(0.25 * scale, like)
    units, minus_top_p = splat(unit, like), splat(-unit * top_p, like)
    half_scale, half_beside_p = splat(0.5 * LOG2E * scale, like), splat(-0.5 * LOG2E * beside_p, like)
    mean = 0.0
    for start in range(0, vocab if slope_weight != 0.0 else 0, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        y = view(q, start, n, room_q, NO_LOG)
        part = zero
        for i in range(0, n, width(like)):
            root, g = slopes(load(x, i, like), load(y, i, like), slope, own_lanes, constants)
            part = part + select(equal(root, zero), zero, (root * scales) * (root * g))
        mean += sum_lanes(part)
    times = 1.0 if together(k, gap_weight) and together(k, slope_weight) and together(k, mass_weight) else k
    at_once = k / times
    c, m = splat(at_once * gap_weight, like), splat(at_once * mass_weight, like)
    e = splat(4.0 * at_once * slope_weight, like)
    minus_mean, last = splat(-mean, like), splat(times, like)
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        x = view(p, start, n, room_p, NO_LOG)
        y = view(q, start, n, room_q, NO_LOG)
        for i in range(0, n, width(like)):
            a = load(x, i, like)
            root, g = slopes(a, load(y, i, like), slope, own_lanes, constants)
            mass = root * root
            value = mass * m
            if slope_weight != 0.0:
                value = fma(e, fma(mass, minus_mean, (root * scales) * (root * g)), value)
            value = select(equal(root, zero), zero, value)
            if gap_weight != 0.0:
                root_p, _ = half_weight(fma(a, units, minus_top_p), half_scale, half_beside_p)
                value = fma(c, mass - root_p * root_p, value)
            store(block, i, last * value)
        write_block(block, n, start, target)


@kernel
def tilt(x, y, top_p, top_q, u):
    """A fourth of u·ln P + (1-u)·ln Q but for a constant, before k makes anything of it: its terms may cancel."""
    if x == -np.inf or y == -np.inf:
        return -np.inf
    if u < 0.0:
        return below(y, top_q, 0.25) - u * apart(x, y, top_p, top_q, 0.25)
    if u > 1.0:
        return below(x, top_p, 0.25) + (1.0 - u) * apart(x, y, top_p, top_q, 0.25)
    return u * below(x, top_p, 0.25) + (1.0 - u) * below(y, top_q, 0.25)


@separate(types.none)
@kernel
def tilted_gradient(pair, u, weight, target):
    """k·weight·(t - Q) of rows whose divergence is finite.

    With m the greatest outcome of t, g_i = ln (Q/P)_i - ln (Q/P)_m and S = Σ Q·expm1(-u·g), ln t/Q = -u·g - log1p(S):
    near equality nothing cancels, and elsewhere Q·exp(-u·g) is Q_m·(t/t_m), however little Q is.
    """
    p, q, vocab, _, k = pair
    room = stack(2048, 0.0)
    block = stack(1024, 0.0)
    top_q, _, beside, _ = normaliser(q, vocab, k, None, room)
    top_p = -np.inf
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        top_p = max(top_p, greatest_of(view(p, start, n, room, NO_LOG), n, 0.0))
    most, at = -np.inf, 0
    for v in range(vocab):
        height = tilt(element(p, v), element(q, v), top_p, top_q, u)
        if height > most:
            most, at = height, v
    x_at, y_at = element(p, at), element(q, at)
    log_q_at = below(y_at, top_q, k) - beside
    q_at = math.exp(log_q_at)
    mass, excess = 0.0, 0.0
    for v in range(vocab):
        x, y = element(p, v), element(q, v)
        own = math.exp(below(y, top_q, k) - beside)
        if x == -np.inf or y == -np.inf:
            excess -= own
            continue
        t = math.exp(4.0 * (k * (tilt(x, y, top_p, top_q, u) - most)))
        mass += t
        rise = -u * apart(x, y, x_at, y_at, k)
        excess += own * math.expm1(rise) if abs(rise) < 1.0 else q_at * t - own
    shift = math.log1p(excess) if excess > -0.5 else log_q_at + math.log(mass)
    for start in range(0, vocab, PAIRS):
        n = min(PAIRS, vocab - start)
        for i in range(n):
            x, y = element(p, start + i), element(q, start + i)
            own = math.exp(below(y, top_q, k) - beside)
            value = -own
            if x > -np.inf and y > -np.inf:
                rise = -u * apart(x, y, x_at, y_at, k) - shift
                if abs(rise) < 1.0 and abs(shift) < 100.0:
                    value = own * math.expm1(rise)
                else:
                    value = math.exp(4.0 * (k * (tilt(x, y, top_p, top_q, u) - most))) / mass - own
            block[i] = k * (weight * value)
        write_block(block, n, start, target)
