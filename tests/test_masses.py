"""Rows of masses (probabilities, counts) over the whole range of their types, against mpmath."""

import mpmath as mp
import numpy as np
import pytest
import reference

import kullback as kb
from kullback._engine import calls, keywords

F4, F8 = np.float32, np.float64
BOUNDS = {"float32": 1e-6, "float64": 1e-11}


# ---- the truth, in as many digits as the rows are apart ----


def digits(*rows):
    values = np.concatenate([row[row > 0] for row in rows]).astype(F8)
    return int(120 + 2.2 * np.log10(values.max()) - 2.2 * np.log10(values.min()))


def shares(row):
    masses = [mp.mpf(float(x)) for x in row]
    return [x / mp.fsum(masses) for x in masses]


def entropy(p):
    return -mp.fsum(x * mp.log(x) for x in p if x)


def kl(p, q):
    if any(x and not y for x, y in zip(p, q, strict=True)):
        return mp.inf
    return mp.fsum(x * mp.log(x / y) for x, y in zip(p, q, strict=True) if x)


def mixture(p, q, weight):
    m = [weight * x + (1 - weight) * y for x, y in zip(p, q, strict=True)]
    return weight * kl(p, m) + (1 - weight) * kl(q, m)


def renyi(p, q, order):
    if order > 1 and kl(p, q) == mp.inf:
        return mp.inf
    power = mp.fsum(x**order * y ** (1 - order) for x, y in zip(p, q, strict=True) if x and y)
    return mp.log(power) / (order - 1) if power else mp.inf


def chi2(p, q):
    return mp.inf if kl(p, q) == mp.inf else mp.fsum((x - y) ** 2 / y for x, y in zip(p, q, strict=True) if y)


def hellinger(p, q):
    return mp.sqrt(mp.fsum((mp.sqrt(x) - mp.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True)) / 2)


# name: (the package's, mpmath's), of two rows
FUNCTIONS = {
    "kl_divergence": (kb.kl_divergence, kl),
    "reverse KL": (lambda p, q: kb.compare(p, q, given="probs").reverse_kl, lambda p, q: kl(q, p)),
    "entropy": (lambda p, q: kb.entropy(p), lambda p, q: entropy(p)),
    "entropy_q": (lambda p, q: kb.compare(p, q, given="probs").entropy_q, lambda p, q: entropy(q)),
    "cross_entropy": (kb.cross_entropy, lambda p, q: entropy(p) + kl(p, q)),
    "jensen_shannon": (kb.jensen_shannon_divergence, lambda p, q: mixture(p, q, mp.mpf(1) / 2)),
    "jensen_shannon 1/64": (
        lambda p, q: kb.jensen_shannon_divergence(p, q, 1 / 64),
        lambda p, q: mixture(p, q, mp.mpf(1) / 64),
    ),
    "total_variation": (
        kb.total_variation,
        lambda p, q: mp.fsum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2,
    ),
    "hellinger": (kb.hellinger_distance, hellinger),
    "chi2": (kb.chi2_divergence, chi2),
} | {
    f"renyi {order}": (
        lambda p, q, order=order: kb.renyi_divergence(p, q, order),
        lambda p, q, order=order: renyi(p, q, mp.mpf(order)),
    )
    for order in (0.1, 0.5, 1 + 2**-40, 2, 10)
}


def check(p, q, name):
    ours, truth = FUNCTIONS[name]
    bound = BOUNDS[p.dtype.name]
    got = float(ours(p, q))
    with mp.workdps(digits(p, q)):
        expected = truth(shares(p), shares(q))
        if abs(expected) < mp.mpf(10) ** -(mp.mp.dps - 20):
            expected = mp.mpf(0)
        if expected > mp.mpf(np.finfo(F8).max):
            assert got == np.inf
        else:
            # what is below float64's normal numbers has no relative accuracy, nor has a divergence below 1e-60 (1e-30
            # if it is of first order) where totals differ: these are known to 2^-100
            order = 1 if name in ("total_variation", "hellinger") else 2
            floor = 0 if name.startswith("entropy") else mp.mpf(10) ** (-30 * order)
            slack = mp.mpf(2) ** -1022 + floor + bound * abs(expected)
            assert abs(mp.mpf(got) - expected) <= slack, (got, mp.nstr(expected, 17))
            assert got >= 0


# ---- rows whose totals or elements lie anywhere ----

ROWS = {
    "totals beyond float32": (np.array([2e38, 2e38], F4), np.array([2.5e38, 1.5e38], F4)),
    "32 times float32's greatest": (np.full(32, 3e38, F4), np.linspace(1e38, 3e38, 32).astype(F4)),
    "float32 totals of 1e-34": (np.array([1e-34, 3e-34, 2e-34], F4), np.array([2e-34, 2e-34, 2e-34], F4)),
    "float32 subnormals": (np.array([1e-44, 3e-44], F4), np.array([3e-44, 1e-44], F4)),
    "totals beyond float64": (np.array([1e308, 1.5e308, 1e308]), np.array([1.2e308, 1.1e308, 1.7e308])),
    "float64 subnormals": (np.array([5e-324, 2e-323]), np.array([2e-323, 5e-324])),
    "all of float64 in a row": (np.array([1.0, 1.0, 2.0]), np.array([1.7e308, 5e-324, 1.6e308])),
    "tiny and huge": (np.array([3e-320, 6e-304]), np.array([1.7e204, 9e213])),
    "totals 1e-7 apart": (np.array([3.0, 7.0]), np.array([3.0, 7.000001])),
    "shares of one rounding": (np.array([0.3, 0.7]), np.array([3.0, 7.0])),
    "shares of one rounding, far": (np.array([0.3, 0.7, 1e-9]), np.array([3e100, 7e100, 1e92])),
    "float32 counts": (np.array([3, 7, 11, 200], F4), np.array([30, 71, 112, 1999], F4)),
    "one outcome": (np.array([0.3, 0, 0]), np.array([0.3, 0.1, 0])),
    "nearly one outcome": (np.array([1.0, 1e-12, 3e-13]), np.array([1.0, 2e-12, 1e-13])),
    "nearly one outcome, float32": (np.array([1.0, 1e-12, 3e-13], F4), np.array([1.0, 2e-12, 1e-13], F4)),
    "zeros on both sides": (np.array([1.0, 0, 2.0, 0, 3.0]), np.array([0, 1.0, 5.0, 0, 1e-300])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rows", ROWS)
def test_masses_of_any_size(rows, name):
    check(*ROWS[rows], name)


def made_up(rng):
    """Rows of a type's whole range: near, far, with zeros, of totals apart by any factor."""
    vocab, dtype = int(rng.choice([1, 2, 2, 3, 5, 16, 17, 33])), rng.choice([F4, F8])
    low, high = np.log10(float(np.finfo(dtype).smallest_subnormal)), np.log10(float(np.finfo(dtype).max))
    p = rng.dirichlet(np.full(vocab, rng.choice([0.3, 1.0, 10.0])))
    kind = rng.integers(5)
    if kind == 0:
        p, q = (10.0 ** rng.uniform(low, high - 0.01, vocab) for _ in range(2))
    elif kind == 1:
        q = rng.dirichlet(np.full(vocab, 0.3))
    else:
        q = p * np.exp(10.0 ** rng.uniform(-15, 1) * rng.standard_normal(vocab))
    if kind in (3, 4):
        q *= 10.0 ** rng.uniform(-14, 2) + 1
    if kind == 4:
        p, q = p / p.max() * 10.0 ** rng.uniform(low + 8, high), q / q.max() * 10.0 ** rng.uniform(low + 8, high)
    for row in (p, q):
        if rng.random() < 0.2:
            row[rng.random(vocab) < 0.3] = 0
    with np.errstate(all="ignore"):
        p, q = p.astype(dtype), q.astype(dtype)
    usable = p.any() and q.any() and np.isfinite(p).all() and np.isfinite(q).all()
    return (p, q) if usable else made_up(rng)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_made_up_masses(name):
    rng = np.random.default_rng(5)
    for _ in range(60):
        check(*made_up(rng), name)


@pytest.mark.parametrize("name", ["kl_divergence", "jensen_shannon", "total_variation", "renyi 2", "renyi 10"])
def test_proportional_rows_are_one_distribution(name):
    p = np.random.default_rng(0).dirichlet(np.ones(300)) + 0.5
    whole = np.rint(1e6 * p)
    for factor in (3.0, 7.0, 1e5, 2.0**-900, 2.0**1000):
        assert FUNCTIONS[name][0](whole, whole * factor) == 0.0
    assert FUNCTIONS[name][0](whole.astype(F4), (whole * 3.0).astype(F4)) == 0.0


# ---- long rows ----


@pytest.mark.parametrize("vocab", [33_272, 133_088])
def test_long_uniform_rows(vocab):
    """Thousands of like additions a lane round the same way: they are summed in blocks."""
    p = np.full(vocab, 1 / vocab, F4)
    assert kb.entropy(p) == pytest.approx(np.log(vocab), rel=1e-7)
    q = (p * np.exp(0.1 * np.random.default_rng(0).standard_normal(vocab))).astype(F4)
    for name, bound in {"kl_divergence": 6e-7, "jensen_shannon_divergence": 1e-6, "total_variation": 1e-6}.items():
        truth = getattr(reference, name)(p, q, given="probs")
        assert getattr(kb, name)(p, q) == pytest.approx(float(truth), rel=bound)


# ---- rows nearly all of which is one outcome ----


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("beside", [1e-3, 1e-7, 1e-12, 1e-30])
@pytest.mark.parametrize("vocab", [2, 50, 2500])
def test_peaked_rows(vocab, beside, dtype):
    """Entropy and log-probabilities keep their digits, wherever the heavy outcome lies."""
    rng = np.random.default_rng(1)
    for scale in (1.0, 0.3, 1e30):
        p = (scale * beside * rng.random(vocab) / vocab).astype(dtype)
        top = int(rng.integers(vocab))
        p[top] = scale
        bound = BOUNDS[np.dtype(dtype).name]
        shares_beside = np.delete(p, top).astype(np.longdouble) / np.longdouble(p[top])
        beside = np.log1p(shares_beside.sum())
        shares_beside = shares_beside[shares_beside > 0]
        expected = beside - (shares_beside * np.log(shares_beside)).sum() / (1 + shares_beside.sum())
        got = kb.compare(p[None], p[None], tokens=[top], given="probs")
        assert kb.entropy(p) == pytest.approx(float(expected), rel=bound)
        assert got.entropy_p[0] == pytest.approx(float(expected), rel=bound)
        assert got.log_prob_p[0] == pytest.approx(float(-beside), rel=bound)


def test_one_outcome_has_no_entropy():
    for dtype in (F4, F8):
        assert kb.entropy(np.array([0.3, 0, 0], dtype)) == 0.0
        assert kb.entropy(np.array([0, 3e38], dtype)) == 0.0
        assert kb.entropy(np.array([0.1], dtype)) == 0.0


# ---- orders ----


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("order", [5e-324, 1e-300, 1e-20, 1e-9, 1 - 2**-53, 1 + 2**-52, 1e6, 1e300])
def test_orders_of_renyi(order, dtype):
    """Near 0 and 1 they tend to multiples of KL, or to what is lost of q; towards inf to the greatest ratio."""
    cases = [
        ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]),
        ([0.5, 0.5, 0.0], [0.2, 0.5, 0.3]),
        ([0.4, 0.6, 0.0], [0.4, 0.6, 0.0]),
        ([0.1, 0.9, 0.0], [0.0, 0.9, 0.1]),
    ]
    for case in cases:
        p, q = (np.array(row, dtype) for row in case)
        with mp.workdps(700 if order < 1 else 60):
            a = mp.mpf(order)
            expected = renyi(shares(p), shares(q), a) if order < 1e100 else None
            if expected is None:
                ratios = [x / y if y else mp.inf for x, y in zip(shares(p), shares(q), strict=True) if x]
                expected = mp.log(max(ratios))
        got = float(kb.renyi_divergence(p, q, order))
        assert got == pytest.approx(float(expected), rel=1e-6 if dtype is F4 else 1e-11, abs=1e-307)


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("renyi", 1.0),
        ("renyi", -0.5),
        ("renyi", np.nan),
        ("mixture", 0.0),
        ("mixture", 1.0),
        ("mixture", np.nan),
        ("cross_entropy", 0.5),
    ],
)
def test_kinds_and_weights_without_a_meaning_are_refused(kind, weight):
    pair = calls.batch(("p", np.ones(3)), ("q", np.ones(3)))
    with pytest.raises(RuntimeError, match="status 4"):
        calls.divergence(pair, keywords.MASSES, 1.0, kind, (weight, 0.5, 0.5), None)


def test_a_mass_that_is_infinite_or_missing():
    for row in ([np.inf, 1.0], [0.0, 0.0], [np.nan, 1.0]):
        for dtype in (F4, F8):
            bad, good = np.array(row, dtype), np.array([2.0, 1.0], dtype)
            assert np.isnan(kb.kl_divergence(bad, good))
            assert np.isnan(kb.jensen_shannon_divergence(good, bad))
            assert np.isnan(kb.entropy(bad))
