"""Beta and Dirichlet: KL(p‖q) without the cancellation between the components and their sum."""

from __future__ import annotations

import numpy as np

from kullback._engine import FloatArray
from kullback.parametric.families import Beta, Dirichlet
from kullback.parametric.registry import register_kl
from kullback.parametric.special import STIRLING, STIRLING_FROM, power_bregman, stirling_bregman
from kullback.rows import log_ratio, measure_kl, phi


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> FloatArray:
    return _dirichlet_kl(p.concentration, q.concentration)


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> FloatArray:
    parameters = np.broadcast_arrays(p.alpha, p.beta, q.alpha, q.beta)
    return _dirichlet_kl(np.stack(parameters[:2], -1), np.stack(parameters[2:], -1))


def _dirichlet_kl(a: FloatArray, b: FloatArray) -> FloatArray:
    """Σ D(a_i, b_i) - D(Σa, Σb), D the Bregman divergence of ln Γ, over the last axis.

    The largest component x stands against the sum x + s, where the subtraction cancels if s is small. Its D
    and that of the sum are taken together, piece by piece as in `stirling_bregman`: the x ln x parts make the
    KL between two categorical distributions, the logarithms of the recurrence have their difference in closed
    form, and the parts of the smaller components add terms >= 0. Measured: 1e-12 down to s/x = 1e-6.
    """
    a, b = np.broadcast_arrays(a, b)
    if a.shape[-1] == 1:
        return np.zeros(a.shape[:-1])
    order = np.argsort(a, axis=-1)
    a, b = np.take_along_axis(a, order, -1), np.take_along_axis(b, order, -1)
    d = b - a
    x, y, dx = a[..., -1], b[..., -1], d[..., -1]
    rest_a, rest_b, rest_d = a[..., :-1], b[..., :-1], d[..., :-1]
    s, t, ds = rest_a.sum(-1), rest_b.sum(-1), rest_d.sum(-1)
    small = np.minimum(x, y) < STIRLING_FROM
    shift = np.where(small, float(STIRLING_FROM), 0.0)
    x_up, y_up = x + shift, y + shift

    total = stirling_bregman(rest_a, rest_b, rest_d).sum(-1) + t * measure_kl(rest_b, rest_a, -rest_d)
    pair_a, pair_b, pair_d = np.stack([x_up, s], -1), np.stack([y_up, t], -1), np.stack([dx, ds], -1)
    total = total + (y_up + t) * measure_kl(pair_b, pair_a, -pair_d)
    total = total + 0.5 * _log_bregman_change(x_up, y_up, dx, s, t, ds)
    ratio, ratio_sum = log_ratio(x_up, y_up, dx), log_ratio(x_up + s, y_up + t, dx + ds)
    for m, c in STIRLING.items():
        alone, with_rest = (
            power_bregman(m, x_up, y_up, ratio),
            power_bregman(m, x_up + s, y_up + t, ratio_sum),
        )
        total = total + c * (alone - with_rest)
    if small.any():
        steps = sum(_log_bregman_change(x + k, y + k, dx, s, t, ds) for k in range(STIRLING_FROM))
        total = np.where(small, total + steps, total)
    return np.asarray(total)


def _log_bregman_change(
    x: FloatArray, y: FloatArray, dx: FloatArray, s: FloatArray, t: FloatArray, ds: FloatArray
) -> FloatArray:
    """h(dx/x) - h((dx+ds)/(x+s)) for h(u) = u - ln(1+u), where y = x + dx and t = s + ds.

    With (1+u) = (1+v)(1+e): h(u) - h(v) = e v + h(e).
    """
    v = (dx + ds) / (x + s)
    e = (dx * s - ds * x) / (x * (y + t))
    log_1p_e = np.where(np.abs(e) <= 0.5, np.log1p(e), log_ratio(x, y, dx) - log_ratio(x + s, y + t, dx + ds))
    return np.asarray(e * v + np.where(np.abs(e) <= 0.5, phi(log_1p_e), e - log_1p_e))
