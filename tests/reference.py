"""The truth the package is judged by: plain NumPy in long double, one readable formula each.

Nothing here imports the package. Every function takes rows on the last axis, broadcasts the leading axes and
returns ``np.longdouble`` (80 bits on x86; plain double where the platform has nothing wider). p comes first.

Close rows are where textbook sums lose their digits: signed terms ``p (log p - log q)`` cancel.
The sums below therefore run over terms of one sign. With ``δ = log q - log p`` of two *normalised* rows,
``Σ p δ = -KL`` and ``Σ p expm1(δ) = 0``, so

    KL(p‖q) = Σ p φ(δ),          φ(y) = expm1(y) - y >= 0,

and an error in a normaliser enters only squared. ``tests/test_reference.py`` checks it all against mpmath.
"""

from itertools import pairwise

import numpy as np

REAL = np.longdouble
LN2 = np.log(REAL(2))


# ---- storage ----


def decode(x):
    """Stored values as long doubles: floats, those of ml_dtypes too, or affine rows (scale, min, codes)."""
    x = np.asarray(x)
    if x.dtype.names:
        # float32(scale * code) + min in float32, as llama.cpp, which writes such rows, reads them back
        return (x["scale"][..., None] * x["code"].astype(np.float32) + x["min"][..., None]).astype(REAL)
    if x.dtype.name == "bfloat16":
        return decode_bfloat16(x.view(np.uint16))
    if x.dtype.itemsize == 1 and x.dtype.name.startswith("float8"):  # as ml_dtypes itself decodes them
        with np.errstate(invalid="ignore"):
            return x.astype(np.float32).astype(REAL)
    return x.astype(REAL)


def decode_bfloat16(words):
    """A bfloat16 is the upper half of a float32."""
    return (words.astype(np.uint32) << 16).view(np.float32).astype(REAL)


# ---- pieces ----


def phi(y):
    """expm1(y) - y, by its series where the difference would cancel."""
    y = np.asarray(y, REAL)
    small = np.abs(y) < 0.5
    t = np.where(small, y, 0)
    series = np.zeros_like(t)
    for k in range(24, 1, -1):  # Horner for t²(1/2! + t/3! + ... ); 0.5^24/24! is below 1e-30
        series = (series + 1) * t / k
    # φ = t (t/2 (1 + t/3 (1 + ...)))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(small, t * series, np.expm1(y) - y)


def log_measure(x, given="logits", temperature=1.0):
    """Logs of the measure as given: log(x) for "probs", else x / temperature; a bad row becomes all NaN."""
    x = decode(x)
    bad = np.isnan(x).any(-1, keepdims=True) | (x == np.inf).any(-1, keepdims=True)
    if given == "probs":
        with np.errstate(divide="ignore"):
            x = np.log(np.where(bad, 1, x))
    else:
        x = x / REAL(temperature)
    return np.where(bad, REAL(np.nan), x)


def _from_the_top(logs):
    """(greatest element, logs - that, log Σ exp of these); NaN for a row without mass."""
    top = logs.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # -inf - -inf is NaN on purpose
        logs = logs - top
    return top, logs, np.log(np.exp(logs).sum(-1, keepdims=True))


def log_normalize(x, given="logits", temperature=1.0):
    """Log-probabilities of the rows of x."""
    _, logs, log_sum = _from_the_top(log_measure(x, given, temperature))
    return logs - log_sum


def _difference(lp, lq):
    """log q - log p, 0 where neither has mass."""
    with np.errstate(invalid="ignore"):
        return np.where((lp == -np.inf) & (lq == -np.inf), 0, lq - lp)


def _raw_difference(p, q, given, temperature):
    """log q - log p of the measures as given, rounded once."""
    p, q = decode(p), decode(q)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if given == "probs":
            return np.where((p < 2 * q) & (q < 2 * p), np.log1p((q - p) / p), np.log(q) - np.log(p))
        return (q - p) / REAL(temperature)


def _pair(p, q, given, temperature):
    """(log p, log q, δ = log q - log p), normalised, broadcast; a bad row spoils the pair."""
    top_p, lp, sum_p = _from_the_top(log_measure(p, given, temperature))
    top_q, lq, sum_q = _from_the_top(log_measure(q, given, temperature))
    lp, lq = np.broadcast_arrays(lp - sum_p, lq - sum_q)
    bad = np.isnan(lp).any(-1, keepdims=True) | np.isnan(lq).any(-1, keepdims=True)
    lp, lq = np.where(bad, np.nan, lp), np.where(bad, np.nan, lq)
    d = _difference(lp, lq)
    # lp and lq are rounded; close logits differ by a number that is not, and the normalisers by a constant
    with np.errstate(invalid="ignore"):
        exact = _raw_difference(p, q, given, temperature) - (top_q - top_p) - (sum_q - sum_p)
        near = (np.abs(d) < 1) & (lp > -np.inf) & (np.abs(top_q - top_p) < 1e6)
    return lp, lq, np.where(near, exact, d)


def _bregman_terms(lp, lq, d):
    """p φ(δ) = q - p - p δ per outcome: q where p = 0, +inf where only q = 0 (however small p is)."""
    p, q = np.exp(lp), np.exp(lq)
    with np.errstate(invalid="ignore", over="ignore"):
        near = p * phi(d)
        far = q - p - p * d
    terms = np.where(lp == -np.inf, q, np.where(np.abs(d) < 1, near, far))
    return np.where((lp > -np.inf) & (lq == -np.inf), np.inf, terms)


# ---- one row ----


def logsumexp(x, temperature=1.0):
    top, _, log_sum = _from_the_top(log_measure(x, "logits", temperature))
    return (top + log_sum)[..., 0]


def log_softmax(x, temperature=1.0):
    return log_normalize(x, "logits", temperature)


def _weighted(lp, values):
    """Σ p · values: 0 where p = 0, infinite where p > 0 (however small) meets an infinite value."""
    with np.errstate(invalid="ignore"):
        terms = np.where(lp == -np.inf, 0, np.where(np.isinf(values), values, np.exp(lp) * values))
    return terms.sum(-1)


def entropy(p, given="logits", temperature=1.0, normalize=True):
    """-Σ p log p."""
    lp = (log_normalize if normalize else log_measure)(p, given, temperature)
    return -_weighted(lp, lp)


# ---- two rows ----


def cross_entropy(p, q, given="logits", temperature=1.0, normalize=True):
    """-Σ p log q."""
    if normalize:
        lp, lq, _ = _pair(p, q, given, temperature)
    else:
        lp, lq = np.broadcast_arrays(log_measure(p, given, temperature), log_measure(q, given, temperature))
    return -_weighted(lp, lq)


def kl_divergence(p, q, given="logits", temperature=1.0, normalize=True):
    """Σ p (log p - log q); with normalize=False the sum of the measures as given, which may be negative."""
    if normalize:
        return _bregman_terms(*_pair(p, q, given, temperature)).sum(-1)
    lp, lq = np.broadcast_arrays(log_measure(p, given, temperature), log_measure(q, given, temperature))
    return -_weighted(lp, _difference(lp, lq))


def reverse_kl(p, q, given="logits", temperature=1.0):
    """KL(q‖p)."""
    return kl_divergence(q, p, given, temperature)


def kl_both_ways(p, q, given="logits", temperature=1.0):
    """(KL(p‖q), KL(q‖p)) for the price of one normalisation."""
    lp, lq, d = _pair(p, q, given, temperature)
    return _bregman_terms(lp, lq, d).sum(-1), _bregman_terms(lq, lp, -d).sum(-1)


def _log_mixture(lp, lq, weight):
    """log(weight p + (1 - weight) q)."""
    with np.errstate(invalid="ignore"):
        return np.logaddexp(np.log(REAL(weight)) + lp, np.log1p(-REAL(weight)) + lq)


def _mixture_differences(lp, lq, d, weight):
    """(log m - log p, log m - log q), m = weight p + (1 - weight) q."""
    w = REAL(weight)
    lm = _log_mixture(lp, lq, weight)
    near = np.abs(d) < 1
    t = np.where(near, d, 0)
    to_p = np.where(near, np.log1p((1 - w) * np.expm1(t)), _difference(lp, lm))
    to_q = np.where(near, np.log1p(w * np.expm1(-t)), _difference(lq, lm))
    return to_p, to_q


def jensen_shannon_divergence(p, q, weight=0.5, given="logits", temperature=1.0):
    """w KL(p‖m) + (1-w) KL(q‖m), m = w p + (1-w) q (Lin 1991)."""
    lp, lq, d = _pair(p, q, given, temperature)
    w = REAL(weight)
    if w in (0, 1):
        return np.where(np.isnan(lp).any(-1), np.nan, REAL(0))
    to_p, to_q = _mixture_differences(lp, lq, d, weight)
    m = np.exp(_log_mixture(lp, lq, weight))
    # KL(x‖m) = Σ x φ(log m - log x), and m where x has no mass
    with np.errstate(invalid="ignore"):
        kl_p = np.where(lp == -np.inf, m, np.exp(lp) * phi(to_p))
        kl_q = np.where(lq == -np.inf, m, np.exp(lq) * phi(to_q))
    return w * kl_p.sum(-1) + (1 - w) * kl_q.sum(-1)


def jensen_shannon_distance(p, q, given="logits", temperature=1.0):
    return np.sqrt(jensen_shannon_divergence(p, q, 0.5, given, temperature))


def generalized_jsd(student, teacher, beta, given="logits", temperature=1.0):
    """β KL(T‖M) + (1-β) KL(S‖M), M = β T + (1-β) S; β = 0: KL(T‖S), β = 1: KL(S‖T) (Agarwal 2024)."""
    if beta == 0:
        return kl_divergence(teacher, student, given, temperature)
    if beta == 1:
        return kl_divergence(student, teacher, given, temperature)
    return jensen_shannon_divergence(teacher, student, beta, given, temperature)


def renyi_divergence(p, q, alpha, given="logits", temperature=1.0):
    """log(Σ p^α q^(1-α)) / (α-1); α = 0, 1 and inf are the limits (van Erven & Harremoës 2014)."""
    lp, lq, d = _pair(p, q, given, temperature)
    bad = np.isnan(lp).any(-1)
    if alpha == 1:
        return kl_divergence(p, q, given, temperature)
    if alpha == 0:
        with np.errstate(divide="ignore"):
            return np.where(bad, np.nan, -np.log(np.minimum(np.where(lp > -np.inf, np.exp(lq), 0).sum(-1), 1)))
    if alpha == np.inf:
        return np.where(bad, np.nan, np.where(lp > -np.inf, -d, -np.inf).max(-1))
    a = REAL(alpha)
    p, q = np.exp(lp), np.exp(lq)
    near = np.abs(d) < 1
    disjoint = ~((lp > -np.inf) & (lq > -np.inf)).any(-1) & ~bad
    t = np.where(near, d, 0)
    # Σ p^α q^(1-α) - 1 as a sum of one sign: p^α q^(1-α) - α p - (1-α) q = p (φ((1-α)δ) - (1-α) φ(δ))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        power = np.where(lp == -np.inf, 0, np.exp(lp + (1 - a) * d))
        far = power - a * p - (1 - a) * q
        terms = np.where(near, p * (phi((1 - a) * t) - (1 - a) * phi(t)), far)
        return np.where(disjoint, np.inf, np.log1p(terms.sum(-1)) / (a - 1))


def _power_difference(lp, lq, d, power):
    """q^power - p^power."""
    near = np.abs(d) < 1
    from_p = np.exp(power * lp) * np.expm1(power * np.where(near, d, 0))
    return np.where(near, from_p, np.exp(power * lq) - np.exp(power * lp))


def total_variation(p, q, given="logits", temperature=1.0):
    """½ Σ |p - q|."""
    lp, lq, d = _pair(p, q, given, temperature)
    return np.abs(_power_difference(lp, lq, d, 1)).sum(-1) / 2


def acceptance(p, q, given="logits", temperature=1.0):
    """Σ min(p, q)."""
    lp, lq, _ = _pair(p, q, given, temperature)
    return np.minimum(np.exp(lp), np.exp(lq)).sum(-1)


def hellinger_distance(p, q, given="logits", temperature=1.0):
    """sqrt(½ Σ (√p - √q)²)."""
    lp, lq, d = _pair(p, q, given, temperature)
    return np.sqrt((_power_difference(lp, lq, d, REAL(0.5)) ** 2).sum(-1) / 2)


def chi2_divergence(p, q, given="logits", temperature=1.0):
    """Σ (p - q)² / q, Pearson's."""
    lp, lq, d = _pair(p, q, given, temperature)
    gap = _power_difference(lp, lq, d, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(gap == 0, 0, gap**2 / np.exp(lq)).sum(-1)


def cressie_read_divergence(p, q, lambda_=2 / 3, given="logits", temperature=1.0):
    """2/(λ(λ+1)) (Σ p (p/q)^λ - 1); λ = 0 and -1 are the limits 2 KL(p‖q) and 2 KL(q‖p) (Cressie & Read 1984)."""
    if lambda_ < -0.5:
        return cressie_read_divergence(q, p, -1 - lambda_, given, temperature)
    if lambda_ == 0:
        return 2 * kl_divergence(p, q, given, temperature)
    lp, lq, d = _pair(p, q, given, temperature)
    power = REAL(lambda_)
    p, q = np.exp(lp), np.exp(lq)
    near = np.abs(d) < 1
    t = np.where(near, d, 0)
    # p^(1+λ) q^-λ - (1+λ) p + λ q = p (φ(-λδ) + λ φ(δ)), of one sign
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        far = np.where(lp == -np.inf, 0, np.exp(lp - power * d)) - (1 + power) * p + power * q
        terms = np.where(near, p * (phi(-power * t) + power * phi(t)), far)
    return 2 * terms.sum(-1) / (power * (1 + power))


def itakura_saito_divergence(p, q, given="probs", temperature=1.0):
    """Σ p/q - ln(p/q) - 1, inf where only one of the two is 0 (Itakura & Saito 1968)."""
    lp, lq, d = _pair(p, q, given, temperature)
    no_p, no_q = lp == -np.inf, lq == -np.inf
    terms = np.where(no_p & no_q, 0, np.where(no_p | no_q, np.inf, phi(np.where(no_p | no_q, 0, -d))))
    return np.where(np.isnan(lp).any(-1), np.nan, terms.sum(-1))


def f_divergence(p, q, f, f_at_zero, slope_at_infinity, given="logits", temperature=1.0):
    """Σ q f(p/q) with f(0) where only p = 0 and p f'(∞) where only q = 0 (Csiszár 1967)."""
    lp, lq, d = _pair(p, q, given, temperature)
    p, q = np.exp(lp), np.exp(lq)
    both = (p > 0) & (q > 0)
    values = np.where(both, q * f(np.exp(np.where(both, -d, 0))), 0)
    with np.errstate(invalid="ignore"):
        values = np.where((p == 0) & (q > 0), q * f_at_zero, values)
        values = np.where((p > 0) & (q == 0), p * slope_at_infinity, values)
    return np.where(np.isnan(lp).any(-1), np.nan, values.sum(-1))


# name: (f, f(0), f'(∞)) of D = Σ q f(p/q)
GENERATORS = {
    "kl": (lambda u: u * np.log(u) - u + 1, 1, np.inf),
    "reverse_kl": (lambda u: -np.log(u) + u - 1, np.inf, 1),
    "chi2": (lambda u: (u - 1) ** 2, 1, np.inf),
    "total_variation": (lambda u: np.abs(u - 1) / 2, REAL(0.5), REAL(0.5)),
    "squared_hellinger": (lambda u: (np.sqrt(u) - 1) ** 2 / 2, REAL(0.5), REAL(0.5)),
    "jensen_shannon": (lambda u: (u * np.log(u) - (1 + u) * np.log((1 + u) / 2)) / 2, LN2 / 2, LN2 / 2),
}


# ---- tokens and sequences ----


def token_log_probs(logits, tokens, ignore_index=-100, temperature=1.0):
    """log softmax(logits)[token]; tokens are (..., T) or (..., T, K); NaN at ignore_index."""
    lp = log_softmax(logits, temperature)
    tokens = np.asarray(tokens)
    single = tokens.ndim == lp.ndim - 1
    index = tokens[..., None] if single else tokens
    kept = np.take_along_axis(lp, np.where(index == ignore_index, 0, index), -1)
    kept = np.where(index == ignore_index, np.nan, kept)
    return kept[..., 0] if single else kept


def token_statistics(logits, ids, top_k, temperature=1.0, softcap=None, scale=1.0, kept=None):
    """(log-probs, entropy, lse, ranks, top ids, top log-probs) of rows (T, V) and ids (T, K), -1 to ignore.

    ``kept`` is a mask (T, V); all is of softmax(z / temperature) over it, z = softcap tanh(scale logits / softcap).
    """
    stored = decode(logits)
    with np.errstate(all="ignore"):
        z = REAL(scale) * stored if softcap is None else REAL(softcap) * np.tanh(REAL(scale) * stored / REAL(softcap))
        if kept is not None:
            z, stored = np.where(kept, z, -np.inf), np.where(kept, stored, -np.inf)
        kept = np.full(z.shape, True) if kept is None else kept
        lp, lse = log_softmax(z, temperature), logsumexp(z, temperature)
    bad = np.isnan(lp).any(-1)
    nowhere = (np.where(kept, z, -np.inf) == -np.inf).all(-1)
    at = np.where(ids < 0, 0, ids)
    undefined = (ids < 0) | bad[:, None]
    log_probs = np.where(undefined, np.nan, np.take_along_axis(lp, at, -1))
    chosen = np.take_along_axis(stored, at, -1)
    ranks = (stored[:, None, :] >= chosen[:, :, None]).sum(-1)
    if softcap is not None:  # a logit of -inf is an outcome like others, then
        ranks = np.where(
            np.take_along_axis(kept, at, -1), (kept[:, None] & (stored[:, None] >= chosen[:, :, None])).sum(-1), ranks
        )
    ranks = np.where(undefined, -1, ranks)
    top_ids = np.full((len(z), top_k), -1)
    top = np.where(bad[:, None], np.nan, np.full(top_ids.shape, -np.inf))
    for t in np.flatnonzero(~bad):
        best = sorted(np.flatnonzero(kept[t]), key=lambda v: (-stored[t, v], v))[:top_k]
        top_ids[t, : len(best)], top[t, : len(best)] = best, lp[t, best]
    return (
        log_probs,
        np.where(bad, np.nan, entropy(z, "logits", temperature)),
        np.where(nowhere, -np.inf, lse),
        ranks,
        top_ids,
        top,
    )


def token_log_ratios(p_logits, q_logits, tokens, ignore_index=-100, temperature=1.0):
    """log p(token) - log q(token)."""
    p = token_log_probs(p_logits, tokens, ignore_index, temperature)
    return p - token_log_probs(q_logits, tokens, ignore_index, temperature)


def sequence_sums(values, mask=None, offsets=None):
    """Sum of the values of each sequence, without masked and NaN ones."""
    values = np.asarray(values, REAL)
    kept = ~np.isnan(values) if mask is None else ~np.isnan(values) & np.asarray(mask, bool)
    values = np.where(kept, values, 0)
    if offsets is None:
        return values.sum(-1)
    return np.array([values[i:j].sum() for i, j in pairwise(offsets)], REAL)


# ---- gradients with respect to logits ----


def _through_log_softmax(h, lp, temperature):
    """dL/dlogits from h = dL/dlog p: (h - p Σh) / T."""
    return (h - np.exp(lp) * h.sum(-1, keepdims=True)) / REAL(temperature)


def _log_prob_slopes(name, lp, lq, d, parameter):
    """(dD/dlog p, dD/dlog q) of each divergence, both taken as free variables."""
    p, q = np.exp(lp), np.exp(lq)
    if name == "kl":
        return -p * d, -p
    if name == "reverse_kl":
        return -q, q * d
    if name == "cross_entropy":
        return -p * lq, -p
    if name == "jensen_shannon":
        w = REAL(parameter)
        to_p, to_q = _mixture_differences(lp, lq, d, w)
        return -w * p * to_p, -(1 - w) * q * to_q
    if name == "renyi":
        a = REAL(parameter)
        tilted = np.exp(log_normalize(a * lp + (1 - a) * lq))
        return a / (a - 1) * tilted, -tilted
    if name == "cressie_read" and parameter in (0, -1):
        return (-2 * p * d, -2 * p) if parameter == 0 else (-2 * q, 2 * q * d)
    if name == "cressie_read":
        power = REAL(parameter)
        tilted = np.exp(lp - power * d)
        return 2 / power * tilted, -2 / (1 + power) * tilted
    if name == "total_variation":
        return p * np.sign(p - q) / 2, q * np.sign(q - p) / 2
    if name == "hellinger":
        root = np.exp((lp + lq) / 2)
        distance = np.sqrt(1 - root.sum(-1, keepdims=True))
        return -root / (4 * distance), -root / (4 * distance)
    if name == "chi2":
        return 2 * p * np.exp(-d), -p * np.exp(-d)
    raise ValueError(f"no gradient for {name!r}")


def gradients(name, p_logits, q_logits, parameter=None, temperature=1.0):
    """(dD/dp_logits, dD/dq_logits) of one of the divergences above for finite logits.

    ``parameter`` is the weight of "jensen_shannon", the order of "renyi" or the power of "cressie_read".
    """
    lp, lq, d = _pair(p_logits, q_logits, "logits", temperature)
    h_p, h_q = _log_prob_slopes(name, lp, lq, d, parameter)
    return _through_log_softmax(h_p, lp, temperature), _through_log_softmax(h_q, lq, temperature)


def generalized_jsd_gradients(student, teacher, beta, temperature=1.0):
    """(d/dstudent, d/dteacher) of generalized_jsd."""
    name = {0: "kl", 1: "reverse_kl"}.get(beta, "jensen_shannon")
    d_teacher, d_student = gradients(name, teacher, student, beta, temperature)
    return d_student, d_teacher


def entropy_gradient(logits, temperature=1.0):
    lp = log_softmax(logits, temperature)
    return _through_log_softmax(-np.exp(lp) * lp, lp, temperature)


def logsumexp_gradient(logits, temperature=1.0):
    return np.exp(log_softmax(logits, temperature)) / REAL(temperature)


def token_log_prob_gradient(logits, tokens, temperature=1.0):
    """d log p(token) / dlogits."""
    lp = log_softmax(logits, temperature)
    one_hot = (np.arange(lp.shape[-1]) == np.asarray(tokens)[..., None]).astype(REAL)
    return _through_log_softmax(one_hot, lp, temperature)
