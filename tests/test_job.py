"""compare_files: the same numbers as `compare` in memory, whatever the formats, chunks and threads; dumps; errors."""

import json
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy

import kullback as kb
from kullback.evaluation import llama_cpp
from kullback.evaluation.job import compare_candidates, compare_files
from kullback.evaluation.sources import open_logits
from kullback.evaluation.sources.convert import convert, encode

EXAMPLES = Path(__file__).parent.parent / "examples"
LIVE = Path(__file__).parent / "data" / "llama_cpp" / "q4_k_m_logits.npy"
T, V = 60, 301
RNG = np.random.default_rng(4)
P = RNG.normal(0, 3, (T, V)).astype(np.float32)
Q = (P + RNG.normal(0, 0.2, (T, V))).astype(np.float32)
TOKENS = RNG.integers(0, V, T)
GROUPS = np.repeat(np.arange(4), [20, 1, 30, 9])


@pytest.fixture
def files(tmp_path):
    """Writes arrays under their names: npy, or safetensors where there are tokens or groups beside them."""

    def write(name, logits, **columns):
        path = tmp_path / name
        if name.endswith(".npy"):
            np.save(path, logits)
        else:
            safetensors.numpy.save_file({"logits": logits} | columns, path)
        return path

    return write


STORED = {
    "float64.npy": np.float64,
    "float32.npy": np.float32,
    "float16.safetensors": np.float16,
    "bfloat16.safetensors": ml_dtypes.bfloat16,
}


@pytest.mark.parametrize("p_name", STORED)
@pytest.mark.parametrize("q_name", STORED)
def test_same_bits_as_in_memory(files, p_name, q_name):
    p, q = P.astype(STORED[p_name]), Q.astype(STORED[q_name])
    found = compare_files(files("p_" + p_name, p), files("q_" + q_name, q), tokens=TOKENS, chunk_bytes=7000)
    expected = kb.compare(p, q, TOKENS).summary()
    assert found.tokens == T
    for name in ("kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q", "log_ratio", "delta_prob", "same_top1"):
        assert getattr(found, name) == getattr(expected, name), name
    assert (found.perplexity_p, found.perplexity_q) == (expected.perplexity_p, expected.perplexity_q)


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 20])
@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_and_threads_change_nothing(files, chunk_bytes, threads):
    p, q = files("p.safetensors", P, tokens=TOKENS, groups=GROUPS), files("q.npy", Q)
    whole = compare_files(p, q, top_k=[1, 5])
    assert compare_files(p, q, top_k=[1, 5], chunk_bytes=chunk_bytes, num_threads=threads) == whole
    text = json.dumps(whole.to_dict(), allow_nan=False)
    assert {"kl", "p", "q", "by_confidence", "by_position", "worst_tokens", "null_control"} <= json.loads(text).keys()


@pytest.mark.parametrize("given", ["log_probs", "probs"])
def test_what_is_given(files, given):
    p, q = (np.exp(x.astype(np.float64)) if given == "probs" else x for x in (P, Q))
    found = compare_files(files("p.npy", p), files("q.npy", q), given=given, tokens=TOKENS)
    assert found.kl == kb.compare(p, q, given=given).summary().kl
    top = np.exp(P.astype(np.float64).max(1) - np.log(np.exp(P.astype(np.float64)).sum(1)))
    low, counts = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99], {}
    for x in top:
        counts[int(np.searchsorted(low, x, side="right")) - 1] = (
            counts.get(np.searchsorted(low, x, side="right") - 1, 0) + 1
        )
    assert {key: means["kl"].count for key, means in found.parts["by_confidence"].bins.items()} == counts


def test_groups_give_their_own_errors(files):
    p = files("p.safetensors", P, tokens=TOKENS, groups=GROUPS)
    found = compare_files(p, files("q.npy", Q))
    expected = kb.compare(P, Q, TOKENS).summary(groups=GROUPS)
    assert found.kl == expected.kl
    assert found.kl.group_means()[1].tolist() == expected.kl.group_means()[1].tolist()
    positions = found.parts["by_position"]
    assert positions.width == 1
    assert positions.bins[0]["kl"].count == 4
    kl = kb.kl_divergence(P, Q, given="logits")
    assert positions.bins[25]["kl"].mean == kl[21 + 25]  # only the third group is that long


def test_tokens_from_everywhere(files, tmp_path):
    plain_p, plain_q = files("p.npy", P), files("q.npy", Q)
    expected = compare_files(plain_p, plain_q, tokens=TOKENS).log_ratio
    np.save(tmp_path / "tokens.npy", TOKENS)
    (tmp_path / "tokens.json").write_text(json.dumps(TOKENS.tolist()))
    (tmp_path / "tokens.txt").write_text("\n".join(map(str, TOKENS)))
    for name in ("tokens.npy", "tokens.json", "tokens.txt"):
        assert compare_files(plain_p, plain_q, tokens=tmp_path / name).log_ratio == expected
    assert compare_files(plain_p, files("q.safetensors", Q, tokens=TOKENS)).log_ratio == expected
    assert compare_files(plain_p, plain_q).log_ratio.count == 0
    (tmp_path / "bad.txt").write_text("1 2 x")
    with pytest.raises(ValueError, match=r"bad\.txt: not a file of token ids"):
        compare_files(plain_p, plain_q, tokens=tmp_path / "bad.txt")


def test_tokens_must_agree_and_fit(files):
    p, q = files("p.safetensors", P, tokens=TOKENS), files("q.npy", Q)
    other = TOKENS.copy()
    other[17] = (other[17] + 1) % V
    with pytest.raises(ValueError, match=r"different tokens from row 17 on"):
        compare_files(p, files("q.safetensors", Q, tokens=other))
    with pytest.raises(ValueError, match=r"different tokens from row 17"):
        compare_files(p, q, tokens=other)
    with pytest.raises(ValueError, match=r"`tokens` has 3 token ids, expected 60"):
        compare_files(p, q, tokens=np.arange(3))
    other[17] = V
    with pytest.raises(ValueError, match=r"token 301 at row 17, expected from 0 to 300"):
        compare_files(files("p2.npy", P), q, tokens=other)


def test_ignored_and_undefined_rows_are_counted(files):
    p, tokens = P.copy(), TOKENS.copy()
    p[3, 5], p[9], tokens[20:22] = np.nan, -np.inf, -100
    q = Q.copy()
    q[30, :5] = -np.inf
    found = compare_files(files("p.npy", p), files("q.npy", q), tokens=tokens)
    assert (found.tokens, found.undefined, found.ignored) == (T - 2, 2, 2)
    assert found.kl.undefined == found.log_ratio.undefined == 2
    assert found.kl.infinite == 1
    assert found.facts["ignored_tokens"] == 2
    assert found.same_top1.undefined == 2
    tree = found.to_dict()
    assert (tree["kl"]["undefined"], tree["kl"]["infinite"], tree["kl"]["mean"]) == (2, 1, "inf")
    assert tree["worst_tokens"][0]["row"] == 30


def test_padded_vocabularies(files):
    p = files("p.npy", np.pad(P, ((0, 0), (0, 11))))
    q = files("q.npy", Q)
    with pytest.raises(ValueError, match=r"q\.npy has a vocabulary of 301, .*p\.npy one of 312; .*vocab_size=301"):
        compare_files(p, q)
    assert compare_files(p, q, vocab_size=301).kl == kb.compare(P, Q).summary().kl
    with pytest.raises(ValueError, match=r"`vocab_size` is 302, expected from 1 to 301, the vocabulary of .*q\.npy"):
        compare_files(p, q, vocab_size=302)
    with pytest.raises(ValueError, match=r"token of row \d+ is \d+, outside the vocabulary of 100"):
        compare_files(p, q, vocab_size=100, tokens=TOKENS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": "logit"}, "`given` is 'logit'"),
        ({"rows": (3, 61)}, r"`rows` is \(3, 61\), expected a range within 0 to 60"),
        ({"top_k": [0]}, "`top_k` is 0, expected at least 1"),
        ({"convention": "llama.cpp"}, "needs a llama.cpp dump"),
        ({"convention": "exllama"}, "`convention` is 'exllama'"),
        ({"resume": True}, "`resume` needs a `checkpoint`"),
        ({"chunk_bytes": 0}, "`chunk_bytes` is 0"),
    ],
)
def test_wrong_arguments(files, options, message):
    with pytest.raises(ValueError, match=message):
        compare_files(files("p.npy", P), files("q.npy", Q), **options)


def test_other_numbers_of_rows(files):
    with pytest.raises(ValueError, match=r"q\.npy has 59 rows, expected 60 as in .*p\.npy"):
        compare_files(files("p.npy", P), files("q.npy", Q[:-1]))


def test_no_rows(files):
    found = compare_files(files("p.npy", P[:0]), files("q.npy", Q[:0]))
    assert found.tokens == 0
    assert np.isnan(found.kl.mean)
    json.dumps(found.to_dict(), allow_nan=False)


def test_no_rows_of_a_dump():
    found = compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", rows=(5, 5), top_k=[2])
    assert found.tokens == 0
    with pytest.raises(ValueError, match="no rows for the statistics"):
        compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", rows=(5, 5), convention="llama.cpp")


def test_parts_of_the_rows_merge(files):
    p, q = files("p.safetensors", P, tokens=TOKENS, groups=GROUPS), files("q.npy", Q)
    parts = [compare_files(p, q, rows=rows) for rows in ((0, 13), (13, 14), (14, 60))]
    whole = compare_files(p, q)
    assert parts[2].merge(parts[0]).merge(parts[1]) == whole
    assert parts[1].merge(parts[2]).merge(parts[0]).to_dict() == whole.to_dict()
    other = compare_files(p, p)
    assert "q" not in whole.merge(other).facts
    assert whole.merge(other).facts["p"] == whole.facts["p"]


def test_several_candidates_read_the_base_once(files):
    p, names = files("p.npy", P), ["a.npy", "b.safetensors", "c.npy"]
    qs = [files(name, (P + i * Q).astype(np.float16 if i else np.float32)) for i, name in enumerate(names)]
    reads = []
    with open_logits(p) as source:
        inner = source.rows

        def rows(start, stop, out=None):
            if out is not None:  # of a chunk: those looked at beforehand come in an array of their own
                reads.append((start, stop))
            return inner(start, stop, out)

        source.rows = rows
        found = compare_candidates(source, qs, tokens=TOKENS, chunk_bytes=20_000).summaries
    assert reads == sorted(set(reads))
    assert sum(stop - start for start, stop in reads) == T
    for summary, q in zip(found, qs, strict=True):
        assert summary == compare_files(p, q, tokens=TOKENS)
    assert found[0].kl.mean == 0.0


def test_progress(files):
    steps = []
    compare_files(files("p.npy", P), files("q.npy", Q), progress=lambda *s: steps.append(s), chunk_bytes=60_000)
    assert steps[0] == (0, T)
    assert steps[-1] == (T, T)
    assert steps == sorted(steps)


def test_memory_is_that_of_four_chunks(files):
    wide = np.zeros((400, 5000), np.float32)  # 8 MB a file
    p, q = files("p.npy", wide), files("q.npy", wide + 1)
    chunk = 200_000
    compare_files(p, q, chunk_bytes=chunk)
    tracemalloc.start()
    try:
        compare_files(p, q, chunk_bytes=chunk)
        assert tracemalloc.get_traced_memory()[1] < 4 * chunk + 600_000
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_meanwhile(files):
    p, q = files("p.npy", P), files("q.npy", Q)

    def meddle(done, total):
        if 0 < done < 20:
            q.write_bytes(q.read_bytes()[:-1])

    with pytest.raises(OSError, match=r"replaced or modified|truncated while"):  # as the reader meets it
        compare_files(p, q, progress=meddle, chunk_bytes=3000)


def test_per_token_file(files, tmp_path):
    p, q = files("p.safetensors", P, tokens=TOKENS, groups=GROUPS), files("q.npy", Q)
    compare_candidates(p, [q, p], per_token=tmp_path / "t.parquet", chunk_bytes=20_000)
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    mine = np.array([name == str(q) for name in table["candidate"]])
    assert mine.sum() == T == len(mine) - T
    rows = np.array(table["row"])[mine]
    np.testing.assert_array_equal(rows, np.arange(T))
    np.testing.assert_array_equal(np.array(table["kl"])[mine], kb.kl_divergence(P, Q, given="logits"))
    np.testing.assert_array_equal(np.array(table["token"])[mine], TOKENS)
    np.testing.assert_array_equal(np.array(table["group"])[mine], GROUPS)
    with pytest.raises(RuntimeError, match="stop"):
        compare_files(p, q, per_token=tmp_path / "half.parquet", progress=stop_at_once, chunk_bytes=20_000)
    assert [path.name for path in tmp_path.iterdir() if "half" in path.name] == []


def stop_at_once(done, total):
    if done:
        raise RuntimeError("stop")


def test_top_k_against_sorting(files):
    p = RNG.integers(0, 40, (30, 3000)).astype(np.float32)  # many ties
    q = p + RNG.integers(0, 2, p.shape)
    found = compare_files(files("p.npy", p), files("q.npy", q), top_k=[1, 7, 4000]).parts["top_k_agreement"]
    first, second = (np.argsort(-x, axis=1, kind="stable") for x in (p, q))
    for k in (1, 7):
        shared = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(first, second, strict=True)]
        assert found.overlap[k].mean == pytest.approx(np.mean(shared), abs=1e-15)
        assert found.ordered[k].mean == pytest.approx((first[:, :k] == second[:, :k]).all(1).mean(), abs=1e-15)
        assert found.holds[k].mean == np.mean([a[0] in b[:k] for a, b in zip(first, second, strict=True)])
    assert found.overlap[4000].mean == found.holds[4000].mean == 1.0
    assert found.to_dict()["7"]["holds_top1"]["mean"] == found.holds[7].mean


@pytest.mark.parametrize(
    ("dtype", "unit"), [(np.float16, 2.0**-11), (ml_dtypes.bfloat16, 2.0**-8), (np.float32, 2.0**-24)]
)
def test_null_control_is_what_rounding_gives(files, dtype, unit):
    exact = np.random.default_rng(1).normal(0, 3, (400, 2000))
    rounded = exact.astype(dtype)
    measured = kb.kl_divergence(exact, rounded.astype(np.float64), given="logits").mean()
    path = files("p.safetensors", rounded)
    predicted = compare_files(path, path).parts["null_control"]
    assert predicted.count == 31  # every thirteenth row
    assert predicted.mean / 2 == pytest.approx(measured, rel=0.1)
    assert 0.01 * unit**2 < measured < 10 * unit**2


# ---------------------------------------------------------------------------------------------- llama.cpp dumps


def dump(tmp_path, name, logits, tokens):
    """A dump of one chunk whose scored tokens are `tokens`."""
    table = np.concatenate([np.zeros((1, len(tokens) + 1), int), tokens[None]], 1)
    np.save(tmp_path / "whole.npy", logits)
    convert(tmp_path / "whole.npy", tmp_path / name, chunk_tokens=table)
    return tmp_path / name


@pytest.fixture
def live():
    """Real logits, and others close to them, in float64."""
    q = np.repeat(np.load(LIVE), 3, 0).astype(np.float64)
    return q + np.random.default_rng(0).normal(0, 0.04, q.shape), q, np.arange(len(q)) * 40 % q.shape[1]


@pytest.mark.parametrize("both", [False, True])
def test_clipping_does_not_bias_the_divergence(tmp_path, live, both):
    p, q, tokens = live
    truth, reverse = kb.kl_divergence(p, q, given="logits"), kb.kl_divergence(q, p, given="logits")
    first = dump(tmp_path, "p.kld", p, tokens)
    if both:
        second = dump(tmp_path, "q.kld", q, tokens)
    else:
        second = tmp_path / "q.npy"
        np.save(second, q.astype(np.float32))
    found = compare_files(first, second)
    # normalising the decoded rows is off by 2e-4 and more
    assert found.kl.mean == pytest.approx(truth.mean(), abs=1e-6)
    assert found.reverse_kl.mean == pytest.approx(reverse.mean(), abs=1e-6)
    assert found.kl.min >= 0
    assert found.kl.mean <= truth.mean() + 1e-8
    assert "16-bit codes" in found.facts["method"]
    exact = kb.compare(p, q, tokens)
    assert found.perplexity_q == pytest.approx(exact.summary().perplexity_q, rel=1e-3) or both
    known = encode(p)["code"][:, : p.shape[1]] > 0
    clipped = (np.exp(kb.log_softmax(p)) * ~known).sum(1)
    assert found.parts["clipping"].mass_p.mean == pytest.approx(clipped.mean(), abs=1e-5)
    assert found.parts["clipping"].targets_p == (~known)[np.arange(len(p)), tokens].sum()


@pytest.mark.parametrize("both", [False, True])
def test_jensen_shannon_and_top_k_of_dumps(tmp_path, live, both):
    p, q, tokens = live
    first = dump(tmp_path, "p.kld", p, tokens)
    second = dump(tmp_path, "q.kld", q, tokens) if both else tmp_path / "q.npy"
    if not both:
        np.save(second, q.astype(np.float32))
    found = compare_files(first, second, jensen_shannon=True, top_k=[5, 10])
    truth = kb.jensen_shannon_divergence(p, q, given="logits")
    # normalising the decoded rows is off by 4e-4 where one side is live
    assert found.parts["jensen_shannon"].mean == pytest.approx(truth.mean(), abs=1e-6)
    agreement = found.parts["top_k_agreement"]
    for k in (5, 10):
        leaders = [np.argsort(-x, axis=1)[:, :k] for x in (p, q)]
        overlap = [np.intersect1d(a, b).size / k for a, b in zip(*leaders, strict=True)]
        # 16 bits may not tell apart what float64 does
        assert agreement.overlap[k].mean == pytest.approx(np.mean(overlap), abs=0.02)


def test_a_dump_against_itself_and_its_live_logits(tmp_path, live):
    _, q, tokens = live
    q = q.astype(np.float32)
    first = dump(tmp_path, "p.kld", q, tokens)
    assert compare_files(first, first).kl.max == 0.0
    np.save(tmp_path / "q.npy", q)
    found = compare_files(first, tmp_path / "q.npy")
    assert 0 <= found.kl.min <= found.kl.max < 4e-9
    null = found.parts["null_control"].mean
    assert found.kl.mean < null < 4 * found.kl.mean  # every row has its own step; the greatest is stored exactly


def test_each_clipped_entry_counts_with_the_least_possible(tmp_path):
    p = np.log(np.array([[0.6, 0.3, 0.1 - 1e-8, 1e-8], [0.5, 0.5 - 2e-9, 1e-9, 1e-9]]))
    q = np.log(np.array([[0.6, 0.3, 1e-9, 0.1 - 1e-9], [0.6, 0.3, 0.1 - 1e-12, 1e-12]]))
    found = compare_files(dump(tmp_path, "p.kld", p, np.array([0, 1])), dump(tmp_path, "q.kld", q, np.array([0, 1])))
    lowest_p, lowest_q = np.exp(p.max(1) - 16), np.exp(q.max(1) - 16)

    def term(a, b):
        return a * np.log(a / b) - a + b

    first = term(0.1, lowest_q[0]) + term(lowest_p[0], 0.1)
    second = term(0.5, 0.6) + term(0.5, 0.3) + term(lowest_p[1], 0.1)
    assert found.kl.max == pytest.approx(max(first, second), rel=1e-4)
    assert found.kl.min == pytest.approx(min(first, second), rel=1e-4)


def test_rows_without_a_distribution_in_dumps(tmp_path):
    p = np.random.default_rng(0).normal(0, 4, (3, 50)).astype(np.float32)
    p[1, 4] = np.nan
    q = p[:, ::-1].copy()
    q[1] = 0.0
    found = compare_files(dump(tmp_path, "p.kld", p, np.arange(3)), dump(tmp_path, "q.kld", q, np.arange(3)))
    assert found.kl.undefined == 1
    assert found.same_top1.undefined == 1


def test_constant_rows_are_not_clipped(tmp_path):
    p = np.zeros((2, 50), np.float32)
    path = dump(tmp_path, "p.kld", p, np.arange(2))
    found = compare_files(path, path)
    assert found.entropy_p.mean == pytest.approx(np.log(50), rel=1e-6)
    assert found.parts["clipping"].targets_p == 0


def test_the_convention_of_llama_cpp(tmp_path):
    base = open_logits(EXAMPLES / "f16.kld")
    rows = [0, 1, 18, 19]
    logits = np.load(LIVE)
    whole = open_logits(EXAMPLES / "q4_k_m.kld").rows(0, 38)
    whole[rows] = logits
    np.save(tmp_path / "q.npy", whole)
    found = compare_files(EXAMPLES / "f16.kld", tmp_path / "q.npy", convention="llama.cpp", chunk_bytes=1 << 20)
    expected = llama_cpp.statistics(llama_cpp.token_values(base.codes(0, 38), whole, base.tokens))
    assert str(found.parts["llama_cpp"].statistics) == str(expected)
    assert found.parts["llama_cpp"].note == ""
    assert found.to_dict()["llama_cpp"]["kld"][0] == expected.kld.value
    dumps = compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", convention="llama.cpp")
    assert "16-bit dump" in dumps.parts["llama_cpp"].note
    with pytest.raises(ValueError, match=r"needs a llama\.cpp dump with its whole vocabulary"):
        compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", convention="llama.cpp", vocab_size=50_256)
    with pytest.raises(ValueError, match=r"'probs', but .* holds log-probabilities"):
        compare_files(EXAMPLES / "f16.kld", EXAMPLES / "q4_k_m.kld", given="probs")
