"""compare -> TokenComparison -> ComparisonSummary: every array, every statistic, any way of merging."""

import itertools
import json
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given, strategies as st
from strategies import STORAGES, bound, logit_rows, relative_error, stored

import kullback as kb

RNG = np.random.default_rng(0)
P, Q = logit_rows(40, 211, noise=0.8)
TOKENS = RNG.integers(0, 211, 40)
SPREADS = ("kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q", "log_ratio")
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0)


# ---- per token ----


def expected_arrays(p, q, tokens=None, **options):
    lp, lq = reference.token_log_probs(p, tokens, **options), reference.token_log_probs(q, tokens, **options)
    return {
        "kl": reference.kl_divergence(p, q, **options),
        "reverse_kl": reference.kl_divergence(q, p, **options),
        "cross_entropy": reference.cross_entropy(p, q, **options),
        "entropy_p": reference.entropy(p, **options),
        "entropy_q": reference.entropy(q, **options),
        "log_prob_p": lp,
        "log_prob_q": lq,
        "log_ratio": lp - lq,
        "acceptance": reference.acceptance(p, q, **options),
    }


@pytest.mark.parametrize("storage_p", STORAGES)
@pytest.mark.parametrize("storage_q", ["float64", "float32", "bfloat16"])
def test_every_array(storage_p, storage_q):
    p, q = stored(P, storage_p), stored(Q, storage_q)
    c = kb.compare(p, q, TOKENS)
    limit = bound(storage_p, storage_q)
    for name, truth in expected_arrays(p, q, TOKENS).items():
        got = getattr(c, name)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, truth.astype(float), rtol=limit, atol=limit, err_msg=name)
    assert relative_error(c.kl, reference.kl_divergence(p, q)) < limit
    assert relative_error(c.reverse_kl, reference.kl_divergence(q, p)) < limit
    np.testing.assert_array_equal(c.top1_p, reference.decode(p).argmax(-1))
    np.testing.assert_array_equal(c.top1_q, reference.decode(q).argmax(-1))
    np.testing.assert_array_equal(c.same_top1, c.top1_p == c.top1_q)
    assert c.same_top1.dtype == bool
    assert np.issubdtype(c.top1_p.dtype, np.integer)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature(temperature):
    c = kb.compare(P, Q, TOKENS, temperature=temperature)
    for name, truth in expected_arrays(P, Q, TOKENS, temperature=temperature).items():
        np.testing.assert_allclose(getattr(c, name), truth.astype(float), rtol=1e-11, atol=1e-13, err_msg=name)


def test_probabilities():
    p, q = np.exp(P), np.exp(Q)
    c, logs = kb.compare(p, q, TOKENS, given="probs"), kb.compare(P, Q, TOKENS)
    for name in (*SPREADS, "log_prob_p", "log_prob_q", "acceptance"):
        np.testing.assert_allclose(getattr(c, name), getattr(logs, name), rtol=1e-11, atol=1e-13, err_msg=name)
    np.testing.assert_array_equal(c.top1_p, logs.top1_p)


def test_base():
    nats, bits = kb.compare(P, Q, TOKENS), kb.compare(P, Q, TOKENS, base=2)
    for name in (*SPREADS, "log_prob_p", "log_prob_q"):
        np.testing.assert_allclose(
            getattr(bits, name), getattr(nats, name) / np.log(2), rtol=1e-15, atol=1e-14, err_msg=name
        )
    np.testing.assert_array_equal(bits.acceptance, nats.acceptance)


def test_without_tokens():
    c = kb.compare(P, Q)
    assert c.log_prob_p is None
    assert c.log_prob_q is None
    assert c.log_ratio is None
    np.testing.assert_array_equal(c.kl, kb.compare(P, Q, TOKENS).kl)


def test_leading_axes():
    c = kb.compare(P.reshape(5, 8, 211), Q.reshape(5, 8, 211), TOKENS.reshape(5, 8))
    flat = kb.compare(P, Q, TOKENS)
    for name in (*SPREADS, "top1_p", "same_top1", "log_prob_q", "acceptance"):
        assert getattr(c, name).shape == (5, 8)
        np.testing.assert_array_equal(getattr(c, name).ravel(), getattr(flat, name))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 16, 17, 4097])
def test_ties_take_the_lowest_index(storage, vocab):
    rows = np.zeros((4, vocab))
    rows[1, vocab // 2 :] = 1
    rows[2, -1] = 1
    rows[3, :] = -1
    rows[3, vocab // 3 :: 2] = 5
    c = kb.compare(stored(rows, storage), stored(-rows, storage))
    np.testing.assert_array_equal(c.top1_p, rows.argmax(-1))
    np.testing.assert_array_equal(c.top1_q, (-rows).argmax(-1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_top1_beside_minus_infinity_and_signed_zeros(dtype):
    rows = np.array([[-np.inf, -3.0, -np.inf, -3.0], [-0.0, 0.0, -1.0, 0.0], [-np.inf, -np.inf, -60000, -np.inf]])
    rows = rows.astype(dtype)
    np.testing.assert_array_equal(kb.compare(rows, rows).top1_p, [1, 0, 2])
    np.testing.assert_array_equal(kb.compare(rows, rows).top1_q, [1, 0, 2])


def test_vocab_size_hides_the_padding_from_top1():
    padded = np.concatenate([P, np.full((40, 5), 1e4)], -1)
    c = kb.compare(padded, padded, vocab_size=211)
    np.testing.assert_array_equal(c.top1_p, P.argmax(-1))


def test_bad_rows_stay_alone():
    p, q = P.copy(), Q.copy()
    p[3, 100], q[5, 7], p[7] = np.nan, np.inf, -np.inf
    c, good = kb.compare(p, q, TOKENS), kb.compare(P, Q, TOKENS)
    bad = np.isin(np.arange(40), [3, 5, 7])
    for name in ("kl", "reverse_kl", "cross_entropy", "log_ratio", "acceptance"):
        np.testing.assert_array_equal(np.isnan(getattr(c, name)), bad, err_msg=name)
        np.testing.assert_array_equal(getattr(c, name)[~bad], getattr(good, name)[~bad])


# ---- summary ----


def summary_of(rows=slice(None)):
    return kb.compare(P[rows], Q[rows], TOKENS[rows]).summary()


def test_every_statistic():
    c, s = kb.compare(P, Q, TOKENS), summary_of()
    assert s.tokens == 40
    for name in ("kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q"):
        values, spread = getattr(c, name), getattr(s, name)
        assert spread.mean == pytest.approx(values.mean(), rel=1e-14)
        assert spread.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(40), rel=1e-12)
        assert spread.median == pytest.approx(np.median(values), rel=1e-15)
        assert spread.max == values.max()
        assert spread.min == values.min()
        for level in QUANTILES:
            assert spread.quantile(level) == pytest.approx(np.quantile(values, level), rel=1e-15), (
                name,
                level,
            )
    assert s.same_top1.mean == pytest.approx(c.same_top1.mean(), rel=1e-15)
    assert s.same_top1.standard_error == pytest.approx(c.same_top1.std(ddof=1) / np.sqrt(40), rel=1e-12)
    assert s.perplexity_p == pytest.approx(np.exp(-c.log_prob_p.mean()), rel=1e-14)
    assert s.perplexity_q == pytest.approx(np.exp(-c.log_prob_q.mean()), rel=1e-14)
    delta = np.exp(c.log_prob_q) - np.exp(c.log_prob_p)
    assert s.delta_prob.mean == pytest.approx(delta.mean(), rel=1e-12)
    assert s.delta_prob.rms == pytest.approx(np.sqrt((delta**2).mean()), rel=1e-12)


def test_quantile_levels_out_of_range():
    for level in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"quantile|level|`q`"):
            summary_of().kl.quantile(level)


def flatten(tree, path=()):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, (*path, key))
        else:
            yield "/".join((*path, key)), value


def assert_same(a, b):
    """Two summaries say the same: counts, extremes and quantiles to the bit, means to their rounding."""
    left, right = dict(flatten(a.to_dict())), dict(flatten(b.to_dict()))
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, float):
            assert value == pytest.approx(right[key], rel=1e-12, abs=1e-18, nan_ok=True), key
        else:
            assert value == right[key], key
    for level in QUANTILES:
        assert a.kl.quantile(level) == b.kl.quantile(level)


@given(st.lists(st.integers(0, 40), max_size=6), st.randoms(use_true_random=False))
def test_any_split_in_any_order_is_the_whole(cuts, random):
    edges = sorted({0, 40, *cuts})
    parts = [summary_of(slice(i, j)) for i, j in itertools.pairwise(edges)]
    random.shuffle(parts)
    # a random tree, not only a chain
    while len(parts) > 1:
        first = parts.pop(random.randrange(len(parts)))
        second = parts.pop(random.randrange(len(parts)))
        parts.append(first.merge(second))
    assert_same(parts[0], summary_of())


def test_merging_leaves_the_parts_alone():
    a, b = summary_of(slice(0, 15)), summary_of(slice(15, 40))
    before = a.to_dict(), b.to_dict()
    merged = a.merge(b)
    assert (a.to_dict(), b.to_dict()) == before
    assert merged.tokens == 40


def test_merge_is_equality_where_the_sums_are_exact():
    whole, merged = summary_of(), summary_of(slice(0, 15)).merge(summary_of(slice(15, 40)))
    assert whole == merged
    assert whole == summary_of()
    assert whole != summary_of(slice(0, 39))


def test_merging_what_does_not_fit():
    with pytest.raises((TypeError, ValueError)):
        summary_of().merge({"tokens": 3})


def test_json():
    s = summary_of()
    tree = json.loads(json.dumps(s.to_dict()))
    assert tree["tokens"] == 40
    for name in ("kl", "reverse_kl"):
        assert {"mean", "standard_error", "median", "max", "min", "quantiles"} <= tree[name].keys()
        for level, value in tree[name]["quantiles"].items():
            assert value == pytest.approx(getattr(s, name).quantile(float(level)))
        assert "0.999" in tree[name]["quantiles"]
        assert tree[name]["mean"] == getattr(s, name).mean
    assert {"mean", "standard_error"} <= tree["same_top1"].keys()
    assert {"mean", "rms"} <= tree["delta_prob"].keys()
    assert tree["perplexity_p"] == s.perplexity_p
    assert tree["perplexity_q"] == s.perplexity_q


def test_json_without_tokens_and_with_infinities():
    """Standard JSON has no Infinity and no NaN; a summary must still be writable by a strict writer."""
    p, q = P.copy(), Q.copy()
    q[0, :100] = -np.inf
    s = kb.compare(p, q).summary()
    assert s.kl.max == np.inf
    assert s.kl.mean == np.inf
    assert np.isfinite(s.kl.median)
    json.dumps(s.to_dict(), allow_nan=False)


def test_undefined_and_infinite_rows():
    """Rows without a distribution are counted and left out; infinities are values."""
    p, q = P.copy(), Q.copy()
    p[3], q[8, 5], q[9, 5] = np.nan, -np.inf, -np.inf
    s = kb.compare(p, q, TOKENS).summary()
    kl = reference.kl_divergence(p, q)
    assert s.tokens == 40
    assert s.kl.undefined == 1
    assert s.kl.mean == np.inf
    assert s.kl.median == pytest.approx(float(np.nanmedian(kl)), rel=1e-12)
    assert s.reverse_kl.mean == pytest.approx(float(np.nanmean(reference.kl_divergence(q, p))), rel=1e-12)
    first, rest = (kb.compare(p[i], q[i], TOKENS[i]).summary() for i in (slice(0, 5), slice(5, 40)))
    assert_same(first.merge(rest), s)
    assert_same(rest.merge(first), s)


def test_impossible_tokens():
    """A token q gives no mass: infinite perplexity, infinite log-ratio; with one each way their mean is undefined."""
    p, q, tokens = P.copy(), Q.copy(), np.full(40, 5)
    q[0, 5] = -np.inf
    s = kb.compare(p, q, tokens).summary()
    assert s.perplexity_q == np.inf
    assert np.isfinite(s.perplexity_p)
    assert s.log_ratio.max == s.log_ratio.mean == np.inf
    assert np.isfinite(s.delta_prob.rms)
    p[1, 5] = -np.inf
    s = kb.compare(p, q, tokens).summary()
    assert s.log_ratio.min == -np.inf
    assert np.isnan(s.log_ratio.mean)


def test_groups_give_the_error_of_clustered_tokens():
    """The jackknife's: √((g-1)/g Σ_g (mean without g - mean)²), also when a merge cuts through a group."""
    names = [5, -2, 9, 7, 0]
    groups = np.repeat(names, [3, 13, 8, 12, 4])
    c = kb.compare(P, Q, TOKENS)
    s = c.summary(groups)
    for name in ("kl", "entropy_p", "cross_entropy"):
        values = getattr(c, name)
        moves = [values[groups != g].mean() - values.mean() for g in names]
        expected = np.sqrt(4 / 5 * np.square(moves).sum())
        assert getattr(s, name).group_standard_error == pytest.approx(expected, rel=1e-11)
    halves = [kb.compare(P[i], Q[i], TOKENS[i]).summary(groups[i]) for i in (slice(0, 25), slice(25, 40))]
    assert halves[1].merge(halves[0]) == s
    assert np.isnan(c.summary().kl.group_standard_error)
    with pytest.raises(ValueError, match=r"`groups`.*40"):
        c.summary(groups[:-1])


def test_summaries_travel_between_processes():
    s = summary_of()
    assert pickle.loads(pickle.dumps(s)) == s
    assert pickle.loads(pickle.dumps(summary_of(slice(0, 7)))).merge(summary_of(slice(7, 40))) == s


def test_one_token():
    s = summary_of(slice(0, 1))
    assert s.tokens == 1
    assert s.kl.mean == s.kl.median == s.kl.max == s.kl.quantile(0.99)
    assert np.isnan(s.kl.standard_error)


def test_the_table_is_text():
    text = str(summary_of())
    assert f"{summary_of().kl.mean:.3g}"[:4] in text
    assert "40" in text
