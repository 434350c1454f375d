"""The power series in d = ln q/p of a mixture of p and q (kinds/mixture.py), without cancellation."""

from .lanes import kernel
from .memory import stack


@kernel
def mixture_series(weight, first, second, value, moment):
    """Coefficients of f(d)/d² and of exp(d)·r(d)/d for MIXTURE, c₁·G + c₂·exp(d)·G', r below.

    With u = (1-w)·expm1(d) = m/p - 1:  G = u - log1p(u), and (log1p u)'·(1 + u) = u' gives the coefficients
    n·Gₙ = Σ j·Lⱼ·uₙ₋ⱼ without cancellation. G' is the same from v = w·expm1(-d) = m/q - 1.
    r = -c₂·log1p(v) + κ·expm1(d)/(1 + u), κ = (1-w)·((1-w)·c₁ - w·c₂).
    """
    u = stack(32, 0.0)
    log_u = stack(32, 0.0)
    gap_u = stack(32, 0.0)
    v = stack(32, 0.0)
    log_v = stack(32, 0.0)
    gap_v = stack(32, 0.0)
    slope = stack(32, 0.0)
    ratio = stack(32, 0.0)
    inverse = stack(32, 0.0)
    factorial, sign = 1.0, 1.0
    inverse[0] = 1.0
    for n in range(1, 32):
        factorial *= n
        sign = -sign
        inverse[n] = 1.0 / factorial
        u[n] = (1.0 - weight) / factorial
        v[n] = weight * sign / factorial
        sum_u, sum_v = 0.0, 0.0
        for j in range(1, n):
            sum_u += j * log_u[j] * u[n - j]
            sum_v += j * log_v[j] * v[n - j]
        gap_u[n] = sum_u / n
        gap_v[n] = sum_v / n
        log_u[n] = u[n] - gap_u[n]
        log_v[n] = v[n] - gap_v[n]
        # expm1(d)/(1 + u)
        total = inverse[n]
        for j in range(1, n):
            total -= ratio[j] * u[n - j]
        ratio[n] = total
        slope[n] = (1.0 - weight) * ((1.0 - weight) * first - weight * second) * ratio[n] - second * log_v[n]
    for n in range(1, 31):
        total, total_slope = 0.0, 0.0
        for j in range(1, n + 1):
            total += gap_v[j] * inverse[n - j]
            total_slope += slope[j] * inverse[n - j]
        if n > 1:
            value[n - 2] = first * gap_u[n] + second * total
        moment[n - 1] = total_slope
