"""One set of rows for everything that is compared: ignored rows are not read, undefined ones count nowhere."""

import io
import json

import numpy as np
import pytest
import reference
from strategies import logit_rows

import kullback as kb
from kullback.evaluation import columns
from kullback.evaluation.terminal import print_summaries

P, Q = logit_rows(40, 211, noise=0.8)
TOKENS = np.random.default_rng(1).integers(0, 211, 40)


def table(summary):
    out = io.StringIO()
    print_summaries([summary], out)
    return " ".join(out.getvalue().split())


@pytest.fixture
def compare_saved(tmp_path):
    def compare(p, q, tokens, **options):
        np.save(tmp_path / "p.npy", p)
        np.save(tmp_path / "q.npy", q)
        return kb.compare_files(tmp_path / "p.npy", tmp_path / "q.npy", tokens=tokens, **options)

    return compare


# ---- ignored rows ----


def ignoring():
    """Rows to ignore that would spoil every figure, and those to keep."""
    p, q, tokens = P.copy(), Q.copy(), TOKENS.copy()
    p[:10:3], q[1:10:3] = np.nan, -np.inf
    q[20, ::2], p[21] = -np.inf, 50 * np.arange(211.0)
    tokens[:10] = tokens[20:22] = -100
    return p, q, tokens, tokens >= 0


def test_ignored_rows_are_not_in_any_array():
    p, q, tokens, kept = ignoring()
    c, expected = kb.compare(p, q, tokens), kb.compare(P[kept], Q[kept], TOKENS[kept])
    np.testing.assert_array_equal(c.ignored, ~kept)
    for name in (
        "kl",
        "reverse_kl",
        "cross_entropy",
        "entropy_p",
        "entropy_q",
        "log_prob_p",
        "log_prob_q",
        "log_ratio",
    ):
        np.testing.assert_array_equal(getattr(c, name)[kept], getattr(expected, name), err_msg=name)
        assert np.isnan(getattr(c, name)[~kept]).all(), name
    for name in ("top1_p", "top1_q", "same_top1"):
        np.testing.assert_array_equal(getattr(c, name)[kept], getattr(expected, name), err_msg=name)
    assert (c.top1_p[~kept] == -1).all()
    assert not c.same_top1[~kept].any()


@pytest.mark.parametrize("shape", [(40,), (4, 10), (2, 2, 10)])
def test_ignored_rows_are_in_no_statistic(shape):
    p, q, tokens, kept = ignoring()
    c = kb.compare(p.reshape(*shape, -1), q.reshape(*shape, -1), tokens.reshape(shape), base=2)
    s = c.summary(np.arange(40) // 4)
    expected = kb.compare(P[kept], Q[kept], TOKENS[kept], base=2).summary((np.arange(40) // 4)[kept])
    assert (s.tokens, s.ignored, s.undefined) == (28, 12, 0)
    assert (s.kl, s.same_top1, s.perplexity_q) == (expected.kl, expected.same_top1, expected.perplexity_q)
    tree = s.to_dict()
    assert (tree["tokens"], tree["ignored_tokens"], tree["undefined_rows"]) == (28, 12, 0)
    assert "12 further rows are ignored" in str(s)


def test_ignored_rows_of_long_vocabularies():
    p, q = np.random.default_rng(2).normal(size=(2, 3, 300_000)).astype(np.float32)
    whole = kb.compare(p, q, [5, 299_999, 7])
    p[0] = np.nan
    c = kb.compare(p, q, [-100, 299_999, 7])
    np.testing.assert_array_equal(c.kl[1:], whole.kl[1:])
    np.testing.assert_array_equal(c.log_ratio[1:], whole.log_ratio[1:])
    assert np.isnan(c.kl[0])


def test_all_rows_ignored():
    s = kb.compare(P, Q, np.full(40, -100)).summary()
    assert (s.tokens, s.ignored, s.kl.count) == (0, 40, 0)
    assert np.isnan([s.kl.mean, s.perplexity_p, s.perplexity_ratio]).all()
    json.dumps(s.to_dict(), allow_nan=False)


def test_errors_name_the_rows_of_the_caller():
    p = np.full((4, 5), 0.2)
    p[3, 1] = -1.0
    with pytest.raises(ValueError, match="`p` holds a negative value in row 3"):
        kb.compare(p, p, [-100, 1, -100, 0], given="probs")


@pytest.mark.parametrize("chunk_bytes", [2000, 1 << 20])
@pytest.mark.parametrize("scattered", [False, True])
def test_jobs_leave_ignored_rows_out_of_everything(compare_saved, chunk_bytes, scattered):
    p, q, tokens, kept = ignoring()
    if scattered:
        p, q, tokens, kept = (np.concatenate([x[::2], x[1::2]]) for x in (p, q, tokens, kept))
        first, second = (np.concatenate([x[::2], x[1::2]]) for x in (P, Q))
        ids = np.concatenate([TOKENS[::2], TOKENS[1::2]])
    else:
        first, second, ids = P, Q, TOKENS
    options = {"chunk_bytes": chunk_bytes, "jensen_shannon": True, "top_k": (1, 5)}
    s = compare_saved(p, q, tokens, **options)
    expected = kb.compare(first[kept], second[kept], ids[kept]).summary()
    assert (s.tokens, s.ignored, s.undefined) == (28, 12, 0)
    assert (s.kl, s.entropy_q, s.perplexity_p) == (expected.kl, expected.entropy_q, expected.perplexity_p)
    assert s.parts["jensen_shannon"].count == s.parts["top_k_agreement"].overlap[5].count == 28
    assert s.parts["jensen_shannon"].undefined == 0
    for part in ("by_confidence", "by_position"):
        assert sum(means["kl"].count for means in s.parts[part].bins.values()) == 28
    rows = {entry["row"] for entry in s.to_dict()["worst_tokens"]}
    assert rows <= set(np.flatnonzero(kept).tolist())
    assert "ignored rows 12" in table(s)


def test_ignored_rows_of_dumps():
    """Codes go the same way."""
    code = np.dtype([("scale", "f4"), ("min", "f4"), ("code", "u2", (7,))])
    rng = np.random.default_rng(3)
    rows = np.zeros(6, code)
    rows["scale"], rows["min"], rows["code"] = 1e-4, -7.0, rng.integers(1, 60_000, (6, 7))
    plan = columns.Plan("logits", 7, 6)
    tokens = np.array([1, -100, 2, -100, -100, 3])
    every = columns.compare_rows(plan, rows, rows, (16.0, 16.0), 0, tokens.clip(0), 1)
    found = columns.compare_rows(plan, rows, rows, (16.0, 16.0), 0, tokens, 1)
    assert found.keys() == every.keys()
    kept = tokens >= 0
    for name, values in found.items():
        np.testing.assert_array_equal(values[kept], every[name][kept], err_msg=name)
        assert values.dtype == every[name].dtype
    assert np.isnan(found["kl"][~kept]).all()


# ---- undefined rows ----


@pytest.fixture(params=["memory", "files"])
def broken(request, compare_saved):
    """A summary of rows of which q has broken ones, p another, and the rows that are whole."""
    p, q = P.copy(), Q.copy()
    q[3, 7], q[11], q[12, 0], p[30] = np.nan, -np.inf, np.inf, np.nan
    kept = ~np.isin(np.arange(40), (3, 11, 12, 30))
    if request.param == "memory":
        return kb.compare(p, q, TOKENS).summary(), kept
    return compare_saved(p, q, TOKENS, chunk_bytes=5000), kept


def test_everything_is_of_the_same_rows(broken):
    s, kept = broken
    assert (s.tokens, s.undefined, s.ignored) == (40, 4, 0)
    log_p, log_q = (np.asarray(reference.token_log_probs(x, TOKENS), float)[kept] for x in (P, Q))
    assert s.perplexity_p == pytest.approx(np.exp(-log_p.mean()), rel=1e-12)
    assert s.perplexity_q == pytest.approx(np.exp(-log_q.mean()), rel=1e-12)
    assert s.perplexity_ratio == pytest.approx(s.perplexity_q / s.perplexity_p, rel=1e-12)
    for name, rows in (("entropy_p", P), ("entropy_q", Q)):
        spread = getattr(s, name)
        assert (spread.count, spread.undefined) == (36, 4), name
        assert spread.mean == pytest.approx(float(reference.entropy(rows[kept]).mean()), rel=1e-12), name
    agree = (P.argmax(1) == Q.argmax(1))[kept]
    assert (s.same_top1.count, s.same_top1.mean) == (36, pytest.approx(agree.mean(), rel=1e-15))
    assert s.delta_prob.mean == pytest.approx((np.exp(log_q) - np.exp(log_p)).mean(), rel=1e-9)


def test_how_many_rows_are_left_out_is_told_everywhere(broken):
    s, _ = broken
    assert s.to_dict()["undefined_rows"] == 4
    assert "4 rows have no distribution" in str(s)
    assert "rows without a distribution in p or q: 4 (NaN, +inf or no mass) of 40" in table(s)
    merged = s.merge(s)
    assert (merged.tokens, merged.undefined) == (80, 8)
    assert merged.perplexity_p == pytest.approx(s.perplexity_p, rel=1e-14)


def test_printed_perplexities_have_the_printed_ratio(broken):
    words = table(broken[0]).partition("perplexity p ")[2].replace(",", "").split()
    p, q, ratio = float(words[0]), float(words[2]), float(words[4])
    assert ratio == pytest.approx(q / p, abs=1e-5)


# ---- infinite values ----


@pytest.mark.parametrize("grouped", [False, True])
def test_an_impossible_row_stays_in_the_headline_and_the_rest_is_told(compare_saved, grouped):
    q, groups = Q.copy(), np.arange(40) // 5 if grouped else None
    rest = np.arange(40) != 8
    q[8, TOKENS[8]] = -np.inf
    s = kb.compare(P, q, TOKENS).summary(groups)
    expected = kb.compare(P[rest], Q[rest], TOKENS[rest]).summary(None if groups is None else groups[rest])
    assert s.kl.mean == s.perplexity_q == s.perplexity_ratio == np.inf
    assert np.isfinite(s.perplexity_p)
    assert (s.finite.kl, s.finite.log_ratio) == (expected.kl, expected.log_ratio)
    for name in ("perplexity_p", "perplexity_q", "perplexity_ratio"):
        assert getattr(s.finite, name) == getattr(expected, name), name
    tree = s.to_dict()
    assert tree["kl"]["mean"] == tree["perplexity_q"] == "inf"
    assert tree["without_infinite"]["kl"]["mean"] == expected.kl.mean
    assert tree["without_infinite"]["perplexity_q"] == expected.perplexity_q
    assert "without_infinite" not in expected.to_dict()
    json.dumps(tree, allow_nan=False)
    assert "without the 1 infinite" in str(s)
    text = table(compare_saved(P, q, TOKENS))
    assert f"infinite in 1 rows: q is 0 where p is not; without these rows: {expected.kl.mean:.4g}" in text
    assert f"perplexity p {expected.perplexity_p:.6g}, q {expected.perplexity_q:.6g}, ratio" in text


def test_a_token_that_neither_can_give_makes_no_ratio():
    p, q = P.copy(), Q.copy()
    p[4, TOKENS[4]] = q[4, TOKENS[4]] = -np.inf
    s = kb.compare(p, q, TOKENS).summary()
    assert s.perplexity_p == s.perplexity_q == np.inf
    assert np.isnan(s.perplexity_ratio)  # as inf/inf is, not the ratio of the other rows
    assert s.impossible == 1
    assert s.finite.perplexity_ratio == pytest.approx(s.finite.perplexity_q / s.finite.perplexity_p, rel=1e-12)


def test_equal_files_agree_within_an_interval(compare_saved):
    s = compare_saved(P, P, TOKENS)
    text = table(s)
    assert "same top token 100.000 % (95 % interval 91.238 to 100.000)" in text
    assert "± 0.000" not in text
    assert s.to_dict()["same_top1"]["interval"] == [pytest.approx(40 / (40 + 1.959964**2), rel=1e-6), 1.0]


def test_masked_arrays_would_lose_their_mask(compare_saved):
    tokens = np.ma.array(TOKENS, mask=TOKENS < 9)
    with pytest.raises(TypeError, match="`groups` is a masked array, expected a plain one"):
        kb.compare(P, Q).summary(tokens)
    with pytest.raises(TypeError, match="`tokens` is a masked array"):
        compare_saved(P, Q, tokens)
    with pytest.raises(TypeError, match="`tokens` is a masked array"):
        kb.compare(P, Q, tokens)
    with pytest.raises(TypeError, match="`tokens` is a masked array"):
        kb.sequence_log_ratios(P[None], Q[None], tokens[None])


@pytest.mark.parametrize("dtype", [np.int32, np.longdouble, ">f4"])
def test_ignored_rows_of_arrays_that_are_converted(dtype):
    p, q, tokens = np.rint(4 * P).astype(dtype), np.rint(4 * Q).astype(dtype), TOKENS.copy()
    tokens[::3] = -100
    expected = kb.compare(p.astype(np.float32), q.astype(np.float32), tokens)
    c = kb.compare(p, q, tokens)
    np.testing.assert_allclose(c.log_ratio, expected.log_ratio, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.isnan(c.kl), tokens < 0)
    got = kb.sequence_log_ratios(p[None], q[None], tokens[None])
    np.testing.assert_allclose(got, [np.nansum(expected.log_ratio)], rtol=1e-4)
