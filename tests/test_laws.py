"""Laws of information theory that hold whatever the rows are, on rows Hypothesis makes up."""

import numpy as np
import pytest
import reference
from hypothesis import assume, example, given, settings, strategies as st
from strategies import close_logits, logits, made_up_models, relative_error

import kullback as kb

# a law between two computed values may fail by their rounding, not by more
SLACK = 1e-11


def kl(p, q, kind="logits", **options):
    return float(kb.kl_divergence(p, q, given=kind, **options))


def probabilities(row):
    return np.exp(reference.log_softmax(row)).astype(np.float64)


PAIRS = st.one_of(logits(rows=2), close_logits())
PAIRS_WITH_ZEROS = logits(rows=2, minus_infinity=True)


@given(PAIRS_WITH_ZEROS)
def test_truth(pair):
    p, q = pair
    for single in (np.float64, np.float32):
        a, b = p.astype(single), q.astype(single)
        limit = 1e-11 if single is np.float64 else 1e-6
        assert relative_error(kb.kl_divergence(a, b, given="logits"), reference.kl_divergence(a, b)) < limit


@given(close_logits())
def test_truth_of_close_rows(pair):
    p, q = pair
    for single in (np.float64, np.float32):
        a, b = p.astype(single), q.astype(single)
        truth = reference.kl_divergence(a, b)
        got = kl(a, b)
        # below 1e-20 the stored numbers differ in their last bits alone; float64 rounds y = b - a itself
        limit = 1e-6 if single is np.float32 or truth < 1e-10 else 1e-9
        assert abs(got - truth) <= limit * truth + 1e-20


@settings(max_examples=150)
@given(made_up_models())
def test_truth_of_made_up_models(models):
    a, b = models
    for dtype in (np.float64, np.float32):
        p, q = a.astype(dtype), b.astype(dtype)
        both = kb.compare(p[None], q[None])
        forward, reverse = reference.kl_both_ways(p, q)
        # float64 rounds b - a by 1e-16 of its size; KL ≈ σ²/2, where σ is the spread of b - a under p
        spread = np.sqrt(2 * min(forward, reverse)) + 1e-30
        limit = 1e-6 if dtype is np.float32 else 1e-11 + 4e-16 * np.abs(b[b > -np.inf]).max() / spread
        for got, truth in (
            (kl(p, q), forward),
            (float(both.kl[0]), forward),
            (float(both.reverse_kl[0]), reverse),
        ):
            assert got >= 0
            assert abs(got - truth) <= limit * truth + 1e-25


@given(PAIRS_WITH_ZEROS)
@example((np.array([0.0]), np.array([7.0])))
def test_never_negative(pair):
    p, q = pair
    for kind in ("logits", "log_probs"):
        assert kl(p, q, kind) >= 0
    assert kl(p.astype(np.float32), q.astype(np.float32)) >= 0
    assert kl(np.exp(p), np.exp(q), "probs") >= 0


@given(logits(rows=1, minus_infinity=True), st.floats(-20, 20, width=16))
def test_zero_for_equal_rows(rows, shift):
    (p,) = rows
    for x in (p, p.astype(np.float32), p.astype(np.float16)):
        assert kl(x, x) == 0
        assert kl(x, x.copy()) == 0
    assert kl(np.exp(p), np.exp(p), "probs") == 0
    # a factor or a shift that rounds nothing away leaves the distribution exactly as it was
    assert kl(np.exp(p), 8 * np.exp(p), "probs") <= 1e-25
    grid = np.where(np.isinf(p), p, np.round(p * 64) / 64)
    assert kl(grid, grid + round(shift * 64) / 64) <= 1e-25


@given(logits(min_vocab=2, rows=1), st.data())
def test_positive_for_different_rows(rows, data):
    (p,) = rows
    place = data.draw(st.integers(0, len(p) - 1))
    q = p.copy()
    q[place] += data.draw(st.sampled_from([-1.0, 1e-3, 1.0]))
    prob = probabilities(p)
    assume(prob[place] > 1e-12 and 1 - prob[place] > 1e-12)
    assert kl(p, q) > 0
    assert kl(q, p) > 0


@given(PAIRS, st.floats(-50, 50), st.floats(-50, 50))
def test_shifting_logits_changes_nothing(pair, shift_p, shift_q):
    p, q = pair
    before = kl(p, q)
    # p + shift is rounded to its own grid: an absolute error ε in the logits moves KL by about ε·sqrt(2 KL)
    epsilon = 2.0**-52 * (max(np.abs(p).max(), np.abs(q).max()) + 50)
    moved = 8 * epsilon * np.sqrt(2 * before) + 8 * epsilon**2
    assert abs(kl(p + shift_p, q + shift_q) - before) <= moved + SLACK * before


@given(PAIRS_WITH_ZEROS, st.randoms(use_true_random=False))
def test_permuting_the_vocabulary_changes_nothing(pair, random):
    p, q = pair
    order = list(range(len(p)))
    random.shuffle(order)
    got, expected = kl(p[order], q[order]), kl(p, q)
    assert got == expected or abs(got - expected) <= SLACK * expected


@given(PAIRS_WITH_ZEROS)
def test_base_is_a_scale(pair):
    p, q = pair
    nats = kl(p, q)
    assert kl(p, q, base=2) == pytest.approx(nats / np.log(2), rel=1e-15)
    assert kl(p, q, base=10) == pytest.approx(nats / np.log(10), rel=1e-15)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_chain_rule(m, n, data):
    """KL(p(x,y)‖q(x,y)) = KL(p(x)‖q(x)) + Σ p(x) KL(p(y|x)‖q(y|x))."""
    p, q = (np.exp(row).reshape(m, n) for row in data.draw(logits(m * n, m * n, rows=2, low=-6, high=6)))
    joint = kl(p.ravel(), q.ravel(), "probs")
    marginal = kl(p.sum(1), q.sum(1), "probs")
    conditional = kb.kl_divergence(p, q, given="probs")
    weights = p.sum(1) / p.sum()
    assert joint == pytest.approx(marginal + weights @ conditional, rel=1e-10, abs=1e-14)


@given(logits(min_vocab=2, rows=2, low=-10, high=10), st.integers(2, 6))
def test_merging_cells_never_raises_kl(pair, groups):
    """The data-processing inequality: what is told apart less well differs less."""
    p, q = (np.exp(row) for row in pair)
    cells = np.arange(len(p)) % groups
    merged_p, merged_q = (np.bincount(cells, x) for x in (p, q))
    assert kl(merged_p[merged_p > 0], merged_q[merged_p > 0], "probs") <= kl(p, q, "probs") * (1 + SLACK) + 1e-14


@given(logits(rows=2, low=-10, high=10), st.integers(2, 5))
def test_splitting_cells_evenly_changes_nothing(pair, parts):
    p, q = (np.exp(row) for row in pair)
    split = kl(np.repeat(p, parts), np.repeat(q, parts), "probs")
    assert split == pytest.approx(kl(p, q, "probs"), rel=1e-11, abs=1e-25)


@given(PAIRS)
def test_inequalities(pair):
    """Pinsker: KL >= 2 TV². KL <= log(1 + χ²). KL >= -2 log(1 - H²) (Rényi's order 1/2)."""
    p, q = pair
    value = kl(p, q)
    assert value * (1 + SLACK) >= 2 * reference.total_variation(p, q) ** 2
    assert value <= np.log1p(reference.chi2_divergence(p, q)) * (1 + SLACK)
    assert value * (1 + SLACK) >= -2 * np.log1p(-(reference.hellinger_distance(p, q) ** 2)) - 1e-17


@given(PAIRS)
def test_cross_entropy_is_entropy_plus_divergence(pair):
    p, q = pair
    total = float(kb.entropy(p, given="logits")) + kl(p, q)
    assert float(kb.cross_entropy(p, q, given="logits")) == pytest.approx(total, rel=1e-11, abs=1e-13)


@given(logits(rows=1))
def test_entropy_bounds(rows):
    (p,) = rows
    value = float(kb.entropy(p, given="logits"))
    assert 0 <= value <= np.log(len(p)) * (1 + SLACK)
    # KL(p‖uniform) = log V - H(p)
    uniform = kl(p, np.zeros_like(p))
    assert uniform == pytest.approx(np.log(len(p)) - value, rel=1e-11, abs=1e-13)


@given(PAIRS)
def test_compare_is_the_functions(pair):
    """One pass gives what the single functions give, in both directions."""
    p, q = (row[None] for row in pair)
    both, swapped = kb.compare(p, q), kb.compare(q, p)
    np.testing.assert_allclose(both.reverse_kl, swapped.kl, rtol=SLACK, atol=1e-25)
    np.testing.assert_allclose(both.kl, kb.kl_divergence(p, q, given="logits"), rtol=SLACK, atol=1e-25)
    np.testing.assert_allclose(both.reverse_kl, kb.kl_divergence(q, p, given="logits"), rtol=SLACK, atol=1e-25)
    np.testing.assert_allclose(both.acceptance, swapped.acceptance, rtol=SLACK, atol=1e-300)
    np.testing.assert_allclose(1 - both.acceptance, kb.total_variation(p, q, given="logits"), rtol=SLACK, atol=1e-14)
    np.testing.assert_allclose(both.cross_entropy, kb.cross_entropy(p, q, given="logits"), rtol=SLACK, atol=1e-13)
    np.testing.assert_allclose(both.entropy_p, kb.entropy(p, given="logits"), rtol=SLACK, atol=1e-13)
    np.testing.assert_allclose(both.entropy_q, kb.entropy(q, given="logits"), rtol=SLACK, atol=1e-13)


@given(logits(min_vocab=2, rows=1, low=-8, high=8), st.data())
def test_logsumexp_laws(rows, data):
    (x,) = rows
    shift = data.draw(st.floats(-100, 100))
    whole = float(kb.logsumexp(x))
    assert float(kb.logsumexp(x + shift)) == pytest.approx(whole + shift, rel=1e-14, abs=1e-13)
    cut = data.draw(st.integers(1, len(x) - 1))
    parts = np.array([float(kb.logsumexp(x[:cut])), float(kb.logsumexp(x[cut:]))])
    assert float(kb.logsumexp(parts)) == pytest.approx(whole, rel=1e-14, abs=1e-14)
    assert x.max() <= whole <= x.max() + np.log(len(x)) * (1 + SLACK)
    np.testing.assert_allclose(kb.log_softmax(x), x - whole, rtol=1e-13, atol=1e-14)
