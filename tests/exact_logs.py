"""Truth for a few logs of any size, by mpmath with 400 digits: nothing cancels, nothing overflows."""

import mpmath
import numpy as np

MP = mpmath.mp.clone()
MP.dps = 400
NOTHING = MP.mpf("-inf")


def log_probs(x, temperature=1.0):
    """(log-probabilities, log of the mass) of one row; the temperature's inverse is a float64, as for the kernels."""
    k = MP.mpf(1.0 / float(temperature))
    z = [k * MP.mpf(float(value)) if value > -np.inf else NOTHING for value in np.asarray(x, np.float64)]
    top = max(z)
    weights = [_probability(value - top) for value in z]
    first = z.index(top)
    beside = MP.log1p(MP.fsum(weights[:first] + weights[first + 1 :]))
    return [value - top - beside if value != NOTHING else NOTHING for value in z], top + beside


def _probability(log_p):
    """exp(log_p): 0 below 1e-40000, which no difference of floats makes up for, and which takes mpmath for ever."""
    return MP.mpf(0) if log_p < -1e5 else MP.exp(log_p)


def entropy(x, temperature=1.0):
    return MP.fsum(-_probability(lp) * lp for lp in log_probs(x, temperature)[0] if lp != NOTHING)


def kl_divergence(p, q, temperature=1.0):
    terms = []
    for lp, lq in zip(log_probs(p, temperature)[0], log_probs(q, temperature)[0], strict=True):
        if lp != NOTHING:
            terms.append(MP.inf if lq == NOTHING else _probability(lp) * (lp - lq))
    return MP.fsum(terms)


def jensen_shannon_divergence(p, q, temperature=1.0):
    total = MP.mpf(0)
    for lp, lq in zip(log_probs(p, temperature)[0], log_probs(q, temperature)[0], strict=True):
        a, b = _probability(lp), _probability(lq)
        for share in (a, b):
            total += share * MP.log(2 * share / (a + b)) / 2 if share else 0
    return total


def total_variation(p, q, temperature=1.0):
    pairs = zip(log_probs(p, temperature)[0], log_probs(q, temperature)[0], strict=True)
    return MP.fsum(abs(_probability(lp) - _probability(lq)) for lp, lq in pairs) / 2


def renyi_divergence(p, q, alpha, temperature=1.0):
    powers, order = [], MP.mpf(alpha)
    for lp, lq in zip(log_probs(p, temperature)[0], log_probs(q, temperature)[0], strict=True):
        if lp != NOTHING and lq != NOTHING:
            powers.append(order * lp + (1 - order) * lq)
        elif lp != NOTHING and alpha > 1:
            return MP.inf
    if not powers:
        return MP.inf
    most = max(powers)
    return (most + MP.log(MP.fsum(_probability(power - most) for power in powers))) / (order - 1)


def relative_error(got, truth):
    """|got - truth|/|truth|; an infinity is right where the truth is beyond a float64."""
    got = float(got)
    if np.isinf(got):
        return 0.0 if abs(truth) > 1.7976931e308 and (truth > 0) == (got > 0) else np.inf
    if np.isnan(got):
        return np.inf
    return 0.0 if got == truth else float(abs(got - truth) / max(abs(truth), MP.mpf(1e-300)))
