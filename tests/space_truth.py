"""The truth over the whole space of inputs: long double over NumPy, written so that nothing cancels.

`Row` and `Pair` take rows as the package is given them, of any magnitude, and know every quantity the package computes.
All comes from three things that keep their relative accuracy whatever the inputs are:

    t_i = (ln q_i/p_i) - (ln q_r/p_r)     from exact differences of logs or exact products of masses, r a common outcome
    P_i = p_i / Σp,   ln P_i              from the greatest element, whose own logarithm is -log1p(the rest)
    δ_i = ln Q_i/P_i = t_i - log1p(Σ P expm1(t))

An error of δ's constant enters a divergence only squared, and all sums are of one sign. Rows hold an explicit range
far beyond float64's (10^±4932), so neither totals nor 1/temperature overflow. tests/test_space.py checks this file
against mpmath at 60 digits.
"""

import functools

import numpy as np
from reference import decode, phi

REAL = np.longdouble
SPLIT = REAL(2**32 + 1)
FAR = 1000  # beyond this exp(x) is left to logarithms


def two_sum(a, b):
    """a + b as the rounded sum and its error (Knuth)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def two_product(a, b):
    """a·b as the rounded product and its error (Dekker; no long double overflows or underflows here)."""
    p = a * b
    parts = []
    for x in (a, b):
        high = SPLIT * x
        high = high - (high - x)
        parts.append((high, x - high))
    (ah, al), (bh, bl) = parts
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def _at(x, index):
    return np.take_along_axis(x, index, -1)


class Row:
    """Normalised rows of one array: P, ln P, entropy, normaliser. Rows that are no distribution are `undefined`."""

    def __init__(self, x, given="logits", temperature=1.0):
        self.given_rows, self.dtype = x, np.asarray(x).dtype
        x = decode(x)
        self.given, self.temperature = given, REAL(temperature)
        self.bad = np.isnan(x).any(-1) | (x == np.inf).any(-1)
        self.x = x = np.where(self.bad[..., None], REAL(0), x)
        zero = REAL(0) if given == "probs" else -np.inf
        self.zero = x == zero
        self.empty = self.zero.all(-1) & ~self.bad
        self.undefined = self.bad | self.empty
        safe = np.where(self.empty[..., None], REAL(1), x)
        self.top = safe.argmax(-1)[..., None]
        greatest = _at(safe, self.top)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            if given == "probs":
                weights = safe / greatest
                logs = np.where(weights > 0.5, np.log1p((safe - greatest) / greatest), np.log(weights))
                self.greatest = np.log(greatest[..., 0])
            else:
                logs = (safe - greatest) / self.temperature
                weights = np.exp(logs)
                self.greatest = greatest[..., 0] / self.temperature
        self.rise = logs  # ln p_i/p_top
        others = weights.copy()
        np.put_along_axis(others, self.top, 0, -1)
        self.others = others.sum(-1, keepdims=True)
        self.log_sum = np.log1p(self.others)
        self.log = logs - self.log_sum
        self.share = weights / (1 + self.others)

    def _spoilt(self, value):
        return np.where(self.undefined, np.nan, value)

    @functools.cached_property
    def lse(self):
        """NaN for a bad row, -inf for one without mass."""
        return np.where(self.bad, np.nan, np.where(self.empty, -np.inf, self.greatest + self.log_sum[..., 0]))

    @functools.cached_property
    def entropy(self):
        return self._spoilt(np.where(self.share > 0, -self.share * np.where(self.zero, 0, self.log), 0).sum(-1))

    @functools.cached_property
    def log_probs(self):
        return np.where(self.undefined[..., None], np.nan, self.log)

    @functools.cached_property
    def top1(self):
        return np.where(self.undefined, -1, self.top[..., 0])


class Pair:
    """Two arrays of rows, already of one shape; every divergence of theirs."""

    def __init__(self, p, q, given="logits", temperature=1.0):
        self.given = p, q
        self.p, self.q = p, q = Row(p, given, temperature), Row(q, given, temperature)
        self.undefined = p.undefined | q.undefined
        self.both = ~p.zero & ~q.zero
        self.common = self.both.any(-1) & ~self.undefined
        self.only_p, self.only_q = ~p.zero & q.zero, p.zero & ~q.zero
        at = np.where(self.both, p.share, -1).argmax(-1)[..., None]
        t = self.ratios(at)
        self.apart = self._apart()
        self.delta = self._deltas(t, at)

    def ratios(self, at):
        """ln q/p of each common outcome, less that at the outcome `at`; 0 elsewhere."""
        a, b = (np.where(self.both, side.x, 1) for side in (self.p, self.q))
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            if self.p.given == "probs":
                a_r, b_r = _at(a, at), _at(b, at)
                forward, backward = two_product(b, a_r), two_product(a, b_r)
                gap, lost = two_sum(forward[0], -backward[0])
                rise = (gap + (lost + (forward[1] - backward[1]))) / backward[0]
                far = np.log(b) - np.log(a) - (np.log(b_r) - np.log(a_r))
                return np.where(self.both, np.where(np.abs(rise) < 0.75, np.log1p(np.maximum(rise, -0.9)), far), 0)
            gap, lost = two_sum(b, -a)
            apart, lost_too = two_sum(gap, -_at(gap, at))
            t = (apart + (lost_too + (lost - _at(lost, at)))) / self.p.temperature
            return np.where(self.both, t, 0)

    def _apart(self):
        """The greatest ln q/p before anything is normalised, from 1 to a million: float64 rounds it to 1e-16 of it."""
        a, b = (np.where(self.both, side.x, 1) for side in (self.p, self.q))
        with np.errstate(over="ignore", invalid="ignore"):
            raw = np.log(b) - np.log(a) if self.p.given == "probs" else (b - a) / self.p.temperature
        return np.clip(np.where(self.both, np.abs(raw), 0).max(-1), 1, 1e6)

    def _deltas(self, t, at):
        """ln Q/P: ±inf where one side has nothing, 0 where neither has."""
        p, q = self.p, self.q
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            rise = np.where(self.both, p.share * np.expm1(np.minimum(t, FAR)), 0).sum(-1, keepdims=True)
            scale_q = p.share[..., :] * 0 + np.exp(q.log - _at(q.log, at)) * _at(p.share, at)
            rise += np.where(self.only_q, scale_q, 0).sum(-1, keepdims=True)
            rise -= np.where(self.only_p, p.share, 0).sum(-1, keepdims=True)
            near = (rise > -0.5) & (rise < 1) & (np.where(self.both, t, 0).max(-1, keepdims=True) < FAR)
            direct, size = self._direct()
            at_r = np.where(near, -np.log1p(np.where(near, rise, 0)), _at(direct, at))
            certain = np.abs(t) + np.abs(at_r) <= size  # which has the smaller parts
            delta = np.where(self.both, np.where(certain, t + at_r, direct), 0)
        return np.where(self.only_p, -np.inf, np.where(self.only_q, np.inf, delta))

    def _direct(self):
        """(ln Q/P from the greatest elements and the sums beside them, the size of the parts it is made of)."""
        p, q = self.p, self.q
        if p.given == "probs":
            direct = np.where(self.both, q.log, 0) - np.where(self.both, p.log, 0)
            return direct, np.abs(q.log) + np.abs(p.log)
        a, b = (np.where(self.both, side.x, 1) for side in (p, q))
        gap, lost = two_sum(b, -a)
        tops, lost_of_tops = two_sum(_at(q.x, q.top), -_at(p.x, p.top))
        apart, lost_too = two_sum(gap, -tops)
        rise = (apart + (lost_too + (lost - lost_of_tops))) / p.temperature
        return rise - (q.log_sum - p.log_sum), np.abs(rise) + q.log_sum + p.log_sum

    def swapped(self):
        other = object.__new__(Pair)
        vars(other).update({k: v for k, v in vars(self).items() if k not in ("kl",)})
        other.p, other.q, other.only_p, other.only_q = self.q, self.p, self.only_q, self.only_p
        other.delta = -self.delta
        return other

    def _spoilt(self, value):
        return np.where(self.undefined, np.nan, value)

    def _near(self):
        near = np.abs(self.delta) < 1
        return near, np.where(near, self.delta, 0)

    @functools.cached_property
    def kl(self):
        near, t = self._near()
        p, q = self.p.share, self.q.share
        with np.errstate(invalid="ignore", over="ignore"):
            far = q - p - np.where(self.both, p * np.where(self.both, self.delta, 0), 0)
        terms = np.where(near, p * phi(t), far)
        terms = np.where(self.only_q, q, np.where(self.only_p, np.inf, terms))
        return self._spoilt(np.where(self.both | self.only_p | self.only_q, terms, 0).sum(-1))

    @property
    def reverse_kl(self):
        return self.swapped().kl

    @property
    def cross_entropy(self):
        return self.p.entropy + self.kl

    @property
    def log_ratio(self):
        """ln P/Q of each outcome; NaN where neither has mass."""
        with np.errstate(invalid="ignore"):
            value = np.where(self.p.zero & self.q.zero, np.nan, -self.delta)
        return np.where(self.undefined[..., None], np.nan, value)

    def to_mixture(self, w):
        """(ln M/P, ln M/Q) with M = wP + (1-w)Q, 0 < w < 1; +inf where P, or Q, has nothing."""
        w = REAL(w)
        d = np.where(self.both, self.delta, 0)
        found = []
        for lone, absent, to, share in ((self.only_p, self.only_q, d, 1 - w), (self.only_q, self.only_p, -d, w)):
            with np.errstate(over="ignore", invalid="ignore"):
                close = np.log1p(share * np.expm1(np.minimum(to, FAR)))
                beyond = to + np.log(share) + np.log1p((1 - share) / share * np.exp(-np.maximum(to, FAR)))
            log_m = np.where(lone, np.log1p(-share), np.where(to < FAR, close, beyond))
            found.append(np.where(absent, np.inf, log_m))
        return found

    def mixed(self, w):
        """(KL(P‖M), KL(Q‖M)) with M = wP + (1-w)Q, 0 < w < 1."""
        p, q = self.p.share, self.q.share
        m = REAL(w) * p + (1 - REAL(w)) * q
        found = []
        for x, log_m in zip((p, q), self.to_mixture(w), strict=True):
            here = log_m < np.inf
            small = np.abs(log_m) < 0.5
            with np.errstate(over="ignore", invalid="ignore"):
                terms = np.where(small, x * phi(np.where(small, log_m, 0)), m - x - x * np.where(here, log_m, 0))
            found.append(self._spoilt(np.where(here, terms, m).sum(-1)))  # X has nothing: M itself
        return found

    def jensen_shannon(self, w=0.5):
        if w in (0, 1):
            return self._spoilt(REAL(0) * self.p.entropy)
        to_p, to_q = self.mixed(w)
        return REAL(w) * to_p + (1 - REAL(w)) * to_q

    def skew_kl(self, w):
        if w == 0:
            return self.kl
        return self._spoilt(REAL(0) * self.p.entropy) if w == 1 else self.mixed(w)[0]

    def symmetric_kl(self, w=0.5):
        """A weight of 0 drops its term even where that is infinite."""
        w = REAL(w)
        return self._spoilt((w * self.kl if w > 0 else 0) + ((1 - w) * self.reverse_kl if w < 1 else 0))

    def renyi(self, alpha):
        if alpha == 1:
            return self.kl
        p, q, a = self.p, self.q, REAL(alpha)
        d = np.where(self.both, self.delta, 0)
        if alpha == 0:
            lost = np.where(self.only_q, q.share, 0).sum(-1)
            logs = np.where(self.both, q.log, -np.inf)  # of shares that may be beyond the range of long double
            top = np.where(self.common, logs.max(-1), 0)
            with np.errstate(divide="ignore"):
                kept = top + np.log(np.exp(logs - top[..., None]).sum(-1))
                value = np.where(lost < 0.5, -np.log1p(-np.minimum(lost, 0.75)), -kept)
            return self._spoilt(np.where(self.common, value, np.inf))
        if alpha == np.inf:
            value = np.maximum(np.where(self.both, -d, -np.inf).max(-1), 0)
            return self._spoilt(np.where(self.only_p.any(-1), np.inf, value))
        near, t = self._near()
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            # Σ P^α Q^(1-α) - 1 as a sum of one sign, seen from the nearer end
            from_q = alpha < 0.5
            x, log_x, power, toward = (q.share, q.log, a, -d) if from_q else (p.share, p.log, 1 - a, d)
            gap, t = (q.share - p.share, -t) if from_q else (p.share - q.share, t)
            close = x * (phi(power * t) - power * phi(t))
            inside = np.abs(power * toward) < 1
            far = np.where(inside, x * np.expm1(np.where(inside, power * toward, 0)) + power * gap, 0)
            far = np.where(inside, far, np.exp(log_x + power * toward) - x + power * gap)
            terms = np.where(near, close, far)
            terms = np.where(self.only_p, -a * p.share, np.where(self.only_q, (a - 1) * q.share, terms))
            terms = np.where(self.both | self.only_p | self.only_q, terms, 0)
            rise = terms.sum(-1)
            powers = np.where(self.both, log_x + power * toward, -np.inf)
            top = np.where(self.common, powers.max(-1), 0)
            log_sum = top + np.log(np.exp(powers - top[..., None]).sum(-1))
            small = np.abs(rise) < 0.5
            value = np.where(small, np.log1p(np.where(small, rise, 0)), log_sum) / (a - 1)
        value = np.where(self.common, value, np.inf)
        return self._spoilt(np.where(self.only_p.any(-1) & (alpha > 1), np.inf, value))

    def loose(self, alpha):
        """What long double itself does not know of ln Σ P^α Q^(1-α): logs far from 0 cancel in its greatest terms."""
        with np.errstate(over="ignore", invalid="ignore"):
            delta = (1 - REAL(alpha)) * np.where(self.both, self.delta, 0)
            powers = np.where(self.both, self.p.log + delta, -np.inf)
            counts = powers > powers.max(-1, keepdims=True) - 100
            size = np.where(counts, np.abs(np.where(self.both, self.p.log, 0)) + np.abs(delta), 0).max(-1)
        return np.where((size > 1e6) & (size < np.inf), 4 * np.finfo(REAL).eps * size, 0)

    @property
    def total_variation(self):
        near, t = self._near()
        p, q = self.p.share, self.q.share
        return self._spoilt(np.where(near, p * np.abs(np.expm1(t)), np.abs(q - p)).sum(-1) / 2)

    @property
    def acceptance(self):
        return self._spoilt(np.minimum(self.p.share, self.q.share).sum(-1))

    def cressie_read(self, power):
        if power < -0.5:
            return self.swapped().cressie_read(-1 - REAL(power))
        order = 1 + REAL(power)
        if order == 1:
            return 2 * self.kl
        with np.errstate(over="ignore", invalid="ignore"):
            return 2 * np.expm1((order - 1) * self.renyi(order)) / ((order - 1) * order)

    @property
    def itakura_saito(self):
        near, t = self._near()
        with np.errstate(over="ignore", invalid="ignore"):
            far = np.exp(np.where(self.both, -self.delta, 0)) - 1 + np.where(self.both, self.delta, 0)
            terms = np.where(near, phi(-t), np.where(self.both, far, 0))
        return self._spoilt(np.where(self.only_p | self.only_q, np.inf, terms).sum(-1))

    @property
    def squared_hellinger(self):
        near, t = self._near()
        p, q = self.p.share, self.q.share
        return self._spoilt(np.where(near, p * np.expm1(t / 2) ** 2, (np.sqrt(q) - np.sqrt(p)) ** 2).sum(-1) / 2)

    @property
    def chi2(self):
        near, t = self._near()
        p, q = self.p.share, self.q.share
        with np.errstate(over="ignore", invalid="ignore"):
            far = np.where(self.both, np.exp(self.p.log - np.where(self.both, self.delta, 0)) - 2 * p + q, 0)
            terms = np.where(near, p * np.expm1(t) ** 2 * np.exp(-t), far)
        terms = np.where(self.only_q, q, np.where(self.only_p, np.inf, terms))
        return self._spoilt(terms.sum(-1))


def truth(p, q, temperature=1.0, given="logits"):
    """Of one row a side, or of several."""
    with np.errstate(all="ignore"):
        return Pair(np.atleast_2d(p), np.atleast_2d(q), given, temperature)


def close(got, expected, bound):
    """Whether `got` is `expected` up to a share of it."""
    return abs(np.longdouble(got) - expected) <= bound * abs(expected)
