"""Candidates of one base: paired differences against brute force, merges to the bit, what is not known is said."""

import itertools
import json
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from scipy import stats

import kullback as kb
from kullback.comparison.paired import holm, mcnemar
from kullback.comparison.paired_sums import PairedSums
from kullback.comparison.pairs import Pairs
from kullback.comparison.quantile_pairs import MOST, Batches
from kullback.comparison.student import binomial_below, student_tail

RNG = np.random.default_rng(17)
T, V = 480, 40
GROUPS = np.repeat(np.arange(16), np.r_[10:50:16j].astype(int))[:T]
GROUPS = np.concatenate([GROUPS, np.full(T - GROUPS.size, 15)])
BASE = RNG.normal(0, 2, (T, V)).astype(np.float32)
EFFECT = np.exp(RNG.normal(0, 0.4, 16))[GROUPS][:, None]
NOISES = {"q8": 0.05, "q6": 0.05, "q4": 0.3}
QS = {name: (BASE + noise * EFFECT * RNG.normal(size=BASE.shape)).astype(np.float32) for name, noise in NOISES.items()}
TOKENS = RNG.integers(0, V, T)


@pytest.fixture(scope="module")
def found():
    return kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=GROUPS)


@pytest.fixture(scope="module")
def alone():
    return kb.compare_candidates(BASE, QS, tokens=TOKENS)


def values(name, quantity):
    c = kb.compare(BASE, QS[name], TOKENS)
    return {
        "kl": c.kl, "reverse_kl": c.reverse_kl, "log_prob": c.log_prob_q, "same_top1": c.same_top1.astype(float),
        "delta_prob": np.exp(c.log_prob_q) - np.exp(c.log_prob_p), "acceptance": c.acceptance,
    }[quantity]  # fmt: skip


QUANTITIES = ("kl", "reverse_kl", "log_prob", "same_top1", "delta_prob", "acceptance")


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(("a", "b"), [("q4", "q8"), ("q8", "q4"), ("q6", "q8")])
def test_differences_are_those_of_brute_force(found, alone, a, b, quantity):
    d = values(a, quantity) - values(b, quantity)
    free = alone.difference(a, b).of(quantity)
    assert free.mean == pytest.approx(d.mean(), rel=1e-9, abs=1e-15)
    assert free.standard_error == pytest.approx(d.std(ddof=1) / math.sqrt(T), rel=1e-9)
    assert (free.above, free.below, free.ties) == ((d > 0).sum(), (d < 0).sum(), (d == 0).sum())
    grouped = found.difference(a, b).of(quantity)
    assert grouped.mean == free.mean
    sums, counts = np.bincount(GROUPS, d), np.bincount(GROUPS)
    left_out = (d.sum() - sums) / (T - counts)  # the jackknife, leaving a document out
    error = math.sqrt(15 / 16 * ((left_out - d.mean()) ** 2).sum())
    assert grouped.standard_error == pytest.approx(error, rel=1e-9)
    assert grouped.groups == 16 and 1 <= grouped.degrees_of_freedom <= 15
    if quantity != "same_top1":
        test = stats.ttest_rel(values(a, quantity), values(b, quantity))
        assert free.p_value == pytest.approx(test.pvalue, rel=1e-6)
        assert free.interval(0.9) == pytest.approx(tuple(test.confidence_interval(0.9)), rel=1e-6)


def test_a_minus_a_is_nothing():
    twin = kb.compare_candidates(BASE, {"x": QS["q4"], "y": QS["q4"]}, groups=GROUPS).difference("x", "y")
    assert twin.kl.mean == 0.0 and twin.kl.standard_error == 0.0 and twin.kl.p_value == 1.0
    assert twin.kl.interval() == (0.0, 0.0) and twin.kl.ties == T
    assert twin.kl_quantile(0.99).mean == 0.0 and twin.kl_quantile(0.99).p_value == 1.0
    assert twin.kl.equivalent(1e-9)
    assert twin.kl.interval(1.0) == twin.kl_quantile(0.9).interval(1.0) == (0.0, 0.0)


@pytest.mark.parametrize("split", [(0, 1), (1, 0)])
@pytest.mark.parametrize("at", [1, 131, 300, T - 1])
def test_parts_merge_to_the_bits_of_the_whole(found, at, split):
    parts = [
        kb.compare_candidates(BASE[s], {name: q[s] for name, q in QS.items()}, tokens=TOKENS[s], groups=GROUPS[s])
        for s in (slice(0, at), slice(at, T))
    ]
    merged = parts[split[0]].merge(parts[split[1]])
    for a, b in itertools.permutations(QS, 2):
        assert json.dumps(merged.difference(a, b).of("kl").to_dict()) == json.dumps(found.difference(a, b).kl.to_dict())
        assert merged.difference(a, b).kl_quantile(0.9) == found.difference(a, b).kl_quantile(0.9)
    assert merged._pairs == found._pairs
    assert all(merged[name]._spreads == found[name]._spreads for name in QS)  # positions begin anew in each part


def test_mcnemar_against_its_definition():
    for above, below in ((0, 0), (3, 3), (0, 1), (1, 9), (20, 3), (400, 480), (3, 90_000)):
        n, least = above + below, min(above, below)
        exact = 2 * (stats.binom.cdf(least, n, 0.5) - stats.binom.pmf(least, n, 0.5) / 2)
        truth = 1.0 if above == below else min(exact, 1.0)
        assert mcnemar(above, below) == pytest.approx(truth, rel=1e-8, abs=1e-300)
        assert mcnemar(above, below) == mcnemar(below, above)


@pytest.mark.parametrize("n", [1, 2, 17, 1000, 100_000])
def test_sums_of_coins_and_tails_of_t(n):
    for k in {0, n // 3, n // 2, n - 1, n}:
        assert binomial_below(k, n) == pytest.approx(stats.binom.cdf(k, n, 0.5), rel=1e-8, abs=1e-300)
    for t in (0.0, 0.1, 1.0, 3.0, 30.0):
        assert student_tail(t, float(n)) == pytest.approx(stats.t.sf(t, n), rel=1e-8, abs=1e-300)


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.005, math.nan]
    assert holm(p)[:4] == pytest.approx([0.04, 0.09, 0.09, 0.025])  # 5·0.005, 4·0.01, 3·0.03, and no less after it
    assert math.isnan(holm(p)[4])
    assert holm([]) == []
    verdicts = kb.compare_candidates(BASE, QS, groups=GROUPS).differences()
    assert [v.adjusted for v in verdicts] == holm([v.p_value for v in verdicts])
    assert [v.p_value for v in verdicts] == sorted(v.p_value for v in verdicts)


def test_what_differs_is_found_and_what_does_not_is_not(found):
    p = {frozenset((v.a, v.b)): v.adjusted for v in found.differences()}
    assert p[frozenset(("q8", "q6"))] > 0.05
    assert max(p[frozenset(("q4", other))] for other in ("q8", "q6")) < 0.01
    against = found.differences(against="q8")
    assert {v.a for v in against} == {"q6", "q4"} and {v.b for v in against} == {"q8"}
    d = found.difference("q6", "q8").kl
    assert d.equivalent(0.01) and not d.equivalent(1e-9) and not d.equivalent(1e-9, level=0.5)


def test_fewer_than_five_documents_give_no_error():
    few = kb.compare_candidates(BASE, QS, groups=np.arange(T) // 160).difference("q4", "q8")
    assert math.isnan(few.kl.standard_error) and math.isnan(few.kl.p_value)
    assert all(math.isnan(end) for end in few.kl.interval())
    assert not few.kl.equivalent(100.0)
    assert "3 groups: too few" in few.kl.group_note
    assert math.isnan(few.kl_quantile(0.9).standard_error)


def test_infinite_rows_make_differences_infinite_and_are_counted():
    worse = QS["q4"].copy()
    worse[7, 3] = -np.inf
    d = kb.compare_candidates(BASE, QS | {"q4": worse}, groups=GROUPS).difference("q4", "q8")
    assert d.kl.mean == math.inf and d.kl.infinite == (1, 0) and math.isnan(d.kl.p_value)
    finite = d.kl.finite
    assert finite.count == T - 1 and 0 < finite.mean < 1 and finite.p_value < 0.01
    assert d.reverse_kl.infinite == (0, 0)
    assert json.dumps(d.to_dict(), allow_nan=False)


def test_rows_that_some_candidate_has_no_distribution_in_are_left_out_of_all():
    broken = QS["q4"].copy()
    broken[[3, 9]] = np.nan
    r = kb.compare_candidates(BASE, QS | {"q4": broken}, groups=GROUPS)
    d = r.difference("q8", "q6")
    assert (d.rows, d.left_out) == (T - 2, 2)
    kept = np.delete(np.arange(T), [3, 9])
    assert d.kl.mean == pytest.approx((values("q8", "kl") - values("q6", "kl"))[kept].mean(), rel=1e-9)
    assert r["q8"].kl.count == T  # its own figures are of all its rows


def test_quantiles_of_differences(found):
    for level in (0.5, 0.9, 0.99):
        q = found.difference("q4", "q8").kl_quantile(level)
        exact = np.quantile(values("q4", "kl"), level) - np.quantile(values("q8", "kl"), level)
        assert q.mean == pytest.approx(exact, rel=1e-9)
        low, high = q.interval()
        assert low < q.mean < high and q.batches == 16
        low, high = q.interval(0.9)  # two one-sided tests at 5 %
        assert q.equivalent(1.001 * max(-low, high)) and not q.equivalent(0.999 * max(-low, high))


@pytest.mark.parametrize("stride", [64, 512, 1000, 4096, 1 << 40])
def test_documents_named_by_where_they_begin_do_not_fall_into_one_batch(stride):
    found = kb.compare_candidates(BASE, QS, groups=GROUPS * stride).difference("q4", "q8").kl_quantile(0.9)
    assert found.batches == 16 and found.standard_error > 0


def test_differences_beyond_float64_are_not_warned_about():
    rows = np.array([[0.0, 1e300], [0.0, 1.0]] * 6)
    d = kb.compare_candidates(rows, {"turned": rows[:, ::-1], "same": rows}).difference("turned", "same").kl
    assert d.mean == pytest.approx(5e299) and math.isnan(d.standard_error) and math.isnan(d.p_value)


def test_an_error_of_a_quantile_is_that_of_many_draws():
    """Medians of 40 documents of 50 rows with effects: the spread over draws is what the jackknife says, about."""
    rng = np.random.default_rng(3)
    found, said = [], []
    for _ in range(60):
        effect = np.repeat(np.exp(rng.normal(0, 0.5, 40)), 50)
        a, b = (effect * rng.exponential(s, 2000) for s in (1.0, 1.3))
        pairs = Pairs(2)
        columns = [{"kl": x, "row": np.arange(2000), "group": np.repeat(np.arange(40), 50)} for x in (a, b)]
        for one in columns:
            zeros = np.zeros(2000)
            one |= dict.fromkeys(("reverse_kl", "entropy_p", "entropy_q"), zeros)
            one |= {name: zeros.astype(int) for name in ("top1_p", "top1_q")}
        pairs.add(columns)
        q = pairs.quantile_difference(0, 1, 0.9)
        found.append(q.mean)
        said.append(q.standard_error)
    assert np.mean(said) == pytest.approx(np.std(found), rel=0.35)


def test_names(found):
    assert list(found) == ["q8", "q6", "q4"] and len(found) == 3 and found.ranking()[-1] == "q4"
    with pytest.raises(KeyError, match="the candidates are q8, q6, q4"):
        found["q5"]
    with pytest.raises(ValueError, match="`b` is 'q5', expected one of q8, q6, q4"):
        found.difference("q4", "q5")
    with pytest.raises(ValueError, match="`quantity` is 'loss', expected one of kl"):
        found.difference("q4", "q8").of("loss")
    with pytest.raises(ValueError, match="has the candidates"):
        found.merge(kb.compare_candidates(BASE, {"other": QS["q4"]}))


def test_what_is_no_candidate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match="`candidates` has the name 3, expected text"):
        kb.compare_candidates(BASE, {3: BASE})
    with pytest.raises(ValueError, match="`candidates` is empty"):
        kb.compare_candidates(BASE, {})
    with pytest.raises(TypeError, match="give arrays by name"):
        kb.compare_candidates(BASE, [BASE])
    with pytest.raises(ValueError, match=r"`q` has shape \(3,\), expected \(T, V\)"):
        kb.compare_candidates(BASE, {"q": np.zeros(3)})
    with pytest.raises(ValueError, match=r"`groups` has shape \(4,\), expected \(480,\)"):
        kb.compare_candidates(BASE, {"q": BASE}, groups=[1, 2, 3, 4])
    with pytest.raises(TypeError, match="`groups` has dtype float64, expected integers"):
        kb.compare_candidates(BASE, {"q": BASE}, groups=np.zeros(T))
    np.save("p.npy", BASE)
    with pytest.raises(ValueError, match="`groups` goes with an array"):
        kb.compare_candidates("p.npy", {"q": BASE}, groups=GROUPS)
    both = kb.compare_candidates("p.npy", {"file": "p.npy", "array": QS["q8"]})
    assert both["file"].kl.max == 0.0 and both["array"].kl == kb.compare(BASE, QS["q8"]).summary().kl
    assert list(kb.compare_candidates("p.npy", ["p.npy", "p.npy"])) == ["p.npy", "p.npy (2)"]


@pytest.mark.parametrize("dtype", ["int16", "uint8", "bool", ">i4", "longdouble", "object"])
def test_whole_numbers_are_as_float64(dtype):
    counts = RNG.integers(1, 2 if dtype == "bool" else 200, (30, 12)).astype(dtype)
    other = RNG.integers(1, 9, (30, 12)).astype(float)
    found = kb.compare_candidates(counts, {"q": other}, given="probs")
    assert found == kb.compare_candidates(counts.astype(np.float64), {"q": other}, given="probs")
    assert found["q"].facts["p"]["dtype"] == "float64"


def test_what_is_no_number_is_refused_before_the_work():
    for wrong in (np.full((3, 4), "a"), np.ones((3, 4), complex), np.array([[1, "a"]], object)):
        with pytest.raises(TypeError, match="`p`"):
            kb.compare_candidates(wrong, {"q": np.ones(wrong.shape)})


def test_whole_numbers_are_converted_by_the_block(tmp_path):
    """A file of counts that is mapped, and an array: float64 of all of it would be eight times as large."""
    counts = np.memmap(tmp_path / "counts", np.int8, "w+", shape=(2000, 2000))
    counts[...] = RNG.integers(1, 100, (1, 2000), dtype=np.int8)
    kb.compare_candidates(counts[:20], {"q": np.asarray(counts[:20])}, given="probs")  # loads what is loaded once
    tracemalloc.start()
    found = kb.compare_candidates(counts, {"q": np.asarray(counts)}, given="probs", chunk_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["q"].tokens == 2000 and found["q"].kl.max == 0.0
    assert peak < 20e6 < counts.size * 8


def test_fifty_candidates():
    """Of more than 190 pairs JSON and tables have neighbours in the ranking; any other is there when asked for."""
    rng = np.random.default_rng(5)
    base = rng.normal(0, 2, (300, 8))
    many = {f"q{i}": base + 0.01 * (i + 1) * rng.normal(size=base.shape) for i in range(50)}
    r = kb.compare_candidates(base, many, groups=np.arange(300) // 30)
    assert len(r.listed_pairs()) == 49
    tree = r.to_dict()
    assert len(tree["candidates"]) == 50 and len(tree["differences"]) == 49
    assert len(r.differences()) == 1225
    lines = str(r).splitlines()
    assert len(lines) == 2 + 50 + 2 + 49 + 1 and max(map(len, lines)) <= 80


def test_fifty_candidates_in_bounded_memory():
    """1,225 pairs keep sums and histograms of so many cells, not rows: no more for ten times the rows."""
    rng = np.random.default_rng(6)
    sizes = []
    for rows in (3000, 30_000):
        x = np.exp(rng.normal(0, 3, (50, rows)))
        groups = np.arange(rows) % 8
        sums, batches = PairedSums(50), Batches(50)
        sums.add(x, groups)
        batches.add(x, groups, True)
        sizes.append(len(pickle.dumps(sums)))
        cells = [binned.values.size for kept in batches._kept.values() for binned in kept]
        assert len(cells) == 8 * 50 and max(cells) <= MOST
    assert sizes[1] < 1.02 * sizes[0]


def test_pairs_are_summed_up_some_thousand_rows_at_a_time(found, monkeypatch):
    """Of 50 candidates a chunk has a row or two, and 1,225 pairs took longer than reading it."""
    rows, add = [], Pairs.add
    monkeypatch.setattr(
        Pairs, "add", lambda self, columns, sets: (rows.append(len(columns[0]["kl"])), add(self, columns, sets))
    )
    again = kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=GROUPS, chunk_bytes=BASE[:2].nbytes * 4)
    assert rows == [T] and again == found
    monkeypatch.setattr("kullback.evaluation.candidates.PAIRED", 100)
    again = kb.compare_candidates(BASE, QS, tokens=TOKENS, groups=GROUPS, chunk_bytes=BASE[:2].nbytes * 4)
    assert len(rows) == 1 + 5 and sum(rows) == 2 * T and again == found


def test_printed_in_eighty_columns(found, alone):
    text = str(found)
    assert "3 candidates, 480 tokens in 16 groups, nats" in text and "between 16 groups; p for 3 pairs" in text
    at = [text.index(f"\n{name} ") for name in found.ranking()]
    assert at == sorted(at)
    worst = found.difference("q4", found.ranking()[0]).kl
    assert f"{worst.mean:.3g}" in text and "{:.3g} to {:.3g}".format(*worst.interval()) in text
    assert "tokens as independent; p for 3 pairs" in str(alone)
    few = str(kb.compare_candidates(BASE, QS, groups=np.arange(T) // 160))
    assert few.endswith("3 groups: too few for an error between them, 5 at least") and "nan" not in few
    worse, broken = QS["q4"].copy(), QS["q8"].copy()
    worse[7, 3], broken[5] = -np.inf, np.nan
    odd = str(kb.compare_candidates(BASE, {"a" * 100 + "1": worse, "a" * 100 + "2": broken, "\x1b[31m": QS["q6"]}))
    assert "KL is infinite in some rows of 2 pairs" in odd and "left out of differences: 1" in odd
    assert "nan" not in odd and "\x1b" not in odd and max(map(len, odd.splitlines())) <= 80
    assert str(kb.compare_candidates(BASE, {"q8": QS["q8"]})).startswith("1 candidate, ")
