"""Relative error against long double on rows as language models make them, and on rows made to hurt."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import reference
from space import FUNCTIONS
from space_words import STATED
from strategies import STORAGES, error, stored
from test_space import UNSETTLED

import kullback as kb

ROOT = Path(__file__).parent.parent
VOCAB = 131_072
NOISES = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 3.0]
LIMITS = {"float64": 1e-12, "float32": 1e-6, "float16": 1e-6, "bfloat16": 1e-6}


@functools.cache
def base_row():
    return 3 * np.random.default_rng(0).standard_normal(VOCAB).astype(np.float32)


def candidate(noise, shift=0.0, seed=1):
    """The base row as another model would give it; rounding to float32 is part of the data."""
    rng = np.random.default_rng(seed)
    return base_row() + np.float32(noise) * rng.standard_normal(VOCAB).astype(np.float32) + np.float32(shift)


def check(p, q, limit=1e-6, **options):
    """Both directions, by the single function and by the fused pass: never negative, within `limit`."""
    forward, reverse = reference.kl_both_ways(p, q, **options)
    fused = kb.compare(p[None], q[None], **{"given": "logits"} | options)
    options = {"given": "logits"} | options
    for got, truth in [
        (kb.kl_divergence(p, q, **options), forward),
        (kb.kl_divergence(q, p, **options), reverse),
        (fused.kl[0], forward),
        (fused.reverse_kl[0], reverse),
    ]:
        assert got >= 0
        # weights below 2^-126 of the greatest are taken as that: worth 1e-36 an outcome
        miss = abs(got - truth) / (truth + 1e-30)
        assert miss <= limit, f"relative error {miss:.2e} at KL {float(truth):.2e}"


# ---- rows of language models ----


@pytest.mark.parametrize("noise", NOISES)
def test_float32_logits(noise):
    check(base_row(), candidate(noise))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("shift", [5.0, -400.0])
def test_float32_logits_apart_by_a_constant(noise, shift):
    check(base_row(), candidate(noise, shift))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("noise", NOISES[::2])
def test_16_bit_logits(storage, noise):
    """Against the decoded values: rounding to 16 bits is the data's affair, not ours."""
    check(stored(base_row(), storage), stored(candidate(noise), storage))


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "affine"])
def test_a_model_against_its_own_16_bit_dump(storage):
    check(base_row(), stored(base_row(), storage))
    check(stored(candidate(1e-3), storage), base_row())


@pytest.mark.parametrize("noise", [1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1.0, 3.0])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_float64_logits(noise, shift):
    """1e-12, as far as a long double reference can tell: it rounds lq - lp by 1e-20 or so."""
    rng = np.random.default_rng(3)
    a = 3 * rng.standard_normal(VOCAB)
    b = a + noise * rng.standard_normal(VOCAB) + shift
    check(a, b, max(1e-12, 1e-20 / noise))


@pytest.mark.parametrize("temperature", [0.25, 0.7, 4.0])
@pytest.mark.parametrize("noise", [1e-4, 1e-1])
def test_temperatures(temperature, noise):
    check(base_row(), candidate(noise, 5.0), temperature=temperature)


@pytest.mark.parametrize("noise", NOISES[::2])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_probabilities(noise, dtype):
    """Rounded probabilities do not add up to 1; the truth is that of the rounded measures."""
    p, q = (np.exp(reference.log_softmax(row)).astype(dtype) for row in (base_row(), candidate(noise)))
    check(p, q, 1e-6 if dtype == "float32" else 1e-11, given="probs")


@pytest.mark.parametrize("factor", [1 / 3, 50.0, 1e6])
@pytest.mark.parametrize("noise", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_masses_of_different_totals(factor, noise, dtype):
    """Counts and unnormalised weights: the totals cancel without costing the digits of a small divergence."""
    p, q = (np.exp(reference.log_softmax(row[:5000])) for row in (base_row(), candidate(noise)))
    check(p.astype(dtype), (q * factor).astype(dtype), 1e-6 if dtype == "float32" else 1e-11, given="probs")


@pytest.mark.parametrize("noise", NOISES[::3])
def test_log_probs(noise):
    p, q = (reference.log_softmax(row).astype(np.float32) for row in (base_row(), candidate(noise)))
    check(p, q, given="log_probs")


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("vocab", [1, 2, 31, 2048, 2049, 32_000, VOCAB])
def test_identical_rows_are_exactly_zero(storage, vocab):
    row = stored(base_row()[:vocab].astype(np.float64), storage)
    for other in (row, row.copy()):
        assert kb.kl_divergence(row, other, given="logits") == 0
        both = kb.compare(row[None], other[None])
        assert both.kl[0] == 0
        assert both.reverse_kl[0] == 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_one_row_functions(dtype):
    x = stored(base_row().astype(np.float64), dtype)
    rows = np.stack([x, np.sort(x), np.sort(x)[::-1]])
    limit = LIMITS[dtype]
    assert error("logsumexp", kb.logsumexp(rows), reference.logsumexp(rows)) < limit
    assert error("entropy", kb.entropy(rows, given="logits"), reference.entropy(rows)) < limit
    other = stored(candidate(1.0).astype(np.float64), dtype)
    got = kb.cross_entropy(rows, other[None], given="logits")
    assert error("cross_entropy", got, reference.cross_entropy(rows, other[None])) < limit


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("lead", [5.0, 20.0, 40.0])
def test_entropy_of_a_confident_row(dtype, lead):
    """One token takes nearly all: the entropy is small and the normaliser is 1 + little."""
    x = np.random.default_rng(0).normal(0, 1, 5000).astype(dtype)
    x[1234] = x.max() + np.log(5000) + lead
    limit = 1e-15 if dtype == "float64" else 1e-6
    assert error("entropy", kb.entropy(x, given="logits"), reference.entropy(x)) < limit
    assert error("entropy", kb.compare(x[None], x[None]).entropy_p[0], reference.entropy(x)) < limit


# ---- rows made to hurt ----


def misleading_start(dtype, vocab=40_000):
    """The first blocks carry almost no mass and another offset than the rest."""
    rng = np.random.default_rng(5)
    a = rng.normal(0, 3, vocab)
    a[:5000] -= 60
    b = a + 1e-3 * rng.standard_normal(vocab)
    b[:5000] += 9
    return a.astype(dtype), b.astype(dtype)


def sorted_rows(dtype, vocab=40_000):
    """The maximum grows with every block."""
    rng = np.random.default_rng(6)
    a = np.sort(rng.normal(0, 20, vocab))
    return a.astype(dtype), (a + 1e-3 * rng.standard_normal(vocab)).astype(dtype)


def late_peak(dtype, vocab=40_000):
    rng = np.random.default_rng(7)
    a = rng.normal(0, 1, vocab)
    a[-3] = 90.0
    return a.astype(dtype), (a + 1e-2 * rng.standard_normal(vocab)).astype(dtype)


def empty_start(dtype, vocab=40_000):
    """The first blocks are banned in both rows."""
    rng = np.random.default_rng(8)
    a = rng.normal(0, 3, vocab)
    b = a + 1e-3 * rng.standard_normal(vocab)
    a[:7000] = b[:7000] = -np.inf
    return a.astype(dtype), b.astype(dtype)


def padded_with_the_least_float(dtype, vocab=40_000):
    """Banned tokens as many codes write them: the most negative number, here of float16."""
    a, b = empty_start(dtype, vocab)
    a[:7000] = b[:7000] = -65504.0
    return a, b


def a_few_far_outliers(dtype, vocab=40_000):
    """Nearly equal but for some outcomes rare under p and common under q."""
    rng = np.random.default_rng(9)
    a = rng.normal(0, 1, vocab)
    b = a + 1e-4 * rng.standard_normal(vocab)
    a[::4000] -= 30
    b[::4000] += 5
    return a.astype(dtype), b.astype(dtype)


def rare_spikes_of_q(dtype, vocab=40_000):
    """exp(y) beyond float32: outcomes p all but excludes take all of q."""
    rng = np.random.default_rng(10)
    a = rng.normal(0, 1, vocab)
    b = a.copy()
    a[17], b[17] = -90.0, 60.0
    return a.astype(dtype), b.astype(dtype)


def far_from_the_origin(dtype, vocab=40_000):
    rng = np.random.default_rng(11)
    a = 1000 + rng.normal(0, 3, vocab)
    return a.astype(dtype), (a + 1e-2 * rng.standard_normal(vocab)).astype(dtype)


def two_offsets(dtype, vocab=40_000):
    """Half of the mass moved by +2, half by -2: no centre is good."""
    rng = np.random.default_rng(12)
    a = rng.normal(0, 3, vocab)
    return a.astype(dtype), (a + np.where(np.arange(vocab) % 2, 2.0, -2.0)).astype(dtype)


def confident_and_close(dtype, vocab=40_000):
    """One token has all but 1e-9 of the mass: KL lives in the rest."""
    rng = np.random.default_rng(13)
    a = rng.normal(0, 1, vocab)
    a[20_000] = 32.0
    return a.astype(dtype), (a + 1e-2 * rng.standard_normal(vocab)).astype(dtype)


def blocks_of_opposite_offsets(dtype, vocab=40_000):
    """Equal rows but for one late heavy block that is moved by 1e-3."""
    rng = np.random.default_rng(14)
    a = rng.normal(0, 1, vocab)
    a[30_000:32_000] += 12
    b = a.copy()
    b[30_000:31_000] += 1e-3
    return a.astype(dtype), b.astype(dtype)


def only_a_rare_outcome_differs(dtype, vocab=40_000):
    rng = np.random.default_rng(15)
    a = rng.normal(0, 1, vocab)
    a[5] = -12.0
    b = a.copy()
    b[5] += 0.5
    return a.astype(dtype), b.astype(dtype)


def few_values(dtype, vocab=40_000):
    """Long runs of one and the same term: rounding errors of a running sum all go one way."""
    a = np.repeat([0.0, 1.0, -1.0, 0.3], vocab // 4)
    return a.astype(dtype), (-1.3 * a).astype(dtype)


def uniform_and_not(dtype, vocab=40_000):
    """An untrained model against a trained one."""
    return np.zeros(vocab, dtype), np.random.default_rng(16).normal(0, 3, vocab).astype(dtype)


def weightless_start(dtype, vocab=40_000):
    """A first block that is nowhere near the rest: its exponents must not set the scale."""
    rng = np.random.default_rng(18)
    a = rng.normal(0, 3, vocab)
    a[:3000] = -1000
    return a.astype(dtype), (a + 1e-2 * rng.standard_normal(vocab)).astype(dtype)


HARD = [
    weightless_start,
    few_values,
    uniform_and_not,
    misleading_start,
    sorted_rows,
    late_peak,
    empty_start,
    padded_with_the_least_float,
    a_few_far_outliers,
    rare_spikes_of_q,
    far_from_the_origin,
    two_offsets,
    confident_and_close,
    blocks_of_opposite_offsets,
    only_a_rare_outcome_differs,
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", HARD, ids=lambda f: f.__name__)
def test_hard_rows(rows, dtype):
    p, q = rows(dtype)
    check(p, q, 1e-11 if dtype == "float64" else 1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", HARD, ids=lambda f: f.__name__)
def test_entropies_of_hard_rows(rows, dtype):
    p, q = rows(dtype)
    limit = 1e-11 if dtype == "float64" else 1e-6
    both = kb.compare(p[None], q[None])
    for fused, row in ((both.entropy_p[0], p), (both.entropy_q[0], q)):
        truth = reference.entropy(row)
        assert error("entropy", fused, truth) < limit
        assert error("entropy", kb.entropy(row, given="logits"), truth) < limit
        assert error("logsumexp", kb.logsumexp(row), reference.logsumexp(row)) < limit


@pytest.mark.parametrize(
    "rows", [misleading_start, sorted_rows, two_offsets, a_few_far_outliers], ids=lambda f: f.__name__
)
def test_hard_rows_of_16_bits(rows):
    p, q = rows(np.float64)
    for storage in ("float16", "bfloat16"):
        check(stored(p, storage), stored(q, storage))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_one_outcome_astray(dtype, sign):
    """Close rows but for one outcome, common or rare, that q favours or all but excludes by 1 to 25 nats."""
    rng = np.random.default_rng(17)
    a = 0.4 * rng.standard_normal((120, 100))
    a[:, 7] += rng.uniform(-12, 2, 120)
    b = a + 1e-3 * rng.standard_normal(a.shape)
    b[:, 7] += sign * np.linspace(1, 25, 120)
    p, q = a.astype(dtype), b.astype(dtype)
    c = kb.compare(p, q)
    limit = 1e-11 if dtype == "float64" else 1e-6
    for got, truth in zip((c.kl, c.reverse_kl), reference.kl_both_ways(p, q), strict=True):
        miss = np.abs(got / truth - 1).astype(float)
        assert miss.max() <= limit, f"relative error {miss.max():.2e}, {(miss > limit).sum()} rows above {limit}"


def test_the_page_states_the_bounds_that_are_enforced():
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8").partition("## Bounds")[2]
    stated = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert {name: (float(a), float(b), *words) for name, a, b, *words in stated} == {
        name: (*f.bound, *STATED[name]) for name, f in FUNCTIONS.items()
    }
    missed = page.strip().splitlines()[-1]
    assert set(re.findall(r"`(\w+)`", missed)) == set(UNSETTLED)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"topk_kl_interval"}))  # an interval has no error
def test_docstrings_state_them_too(name):
    text = getattr(kb, name).__doc__
    for bound in FUNCTIONS[name].bound:
        assert f"{bound:.0e}".replace("e-0", "e-") in text
