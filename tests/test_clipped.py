"""Dumps whose codes end some nats under a row's maximum, against float64 NumPy."""

import numpy as np
import pytest
import reference

from kullback.evaluation.clipped import compare_clipped
from kullback.evaluation.sources.llama_cpp import code_dtype, decode

WINDOW = 16.0
ROWS = 7


def encode(x, window=WINDOW):
    """Rows of logits as the writer of dumps stores them."""
    logs = reference.log_softmax(x).astype(np.float32)
    least = np.maximum(logs.min(-1), logs.max(-1) - np.float32(window))
    rows = np.zeros(len(x), code_dtype(x.shape[1]))
    rows["min"] = least
    rows["scale"] = (logs.max(-1) - least) / np.float32(65535)
    with np.errstate(invalid="ignore"):
        codes = (logs - least[:, None]) / rows["scale"][:, None]
    rows["code"][:, : x.shape[1]] = np.clip(np.nan_to_num(np.rint(codes)), 0, 65535)
    return rows


def side(block, vocab, window):
    """(log p, which entries are clipped, their bounds) in float64."""
    if block.dtype.names is None:
        logs = np.float64(reference.log_softmax(block[:, :vocab].astype(np.float64)))
        return logs, np.zeros(logs.shape, bool)
    logs = np.empty((len(block), vocab), np.float32)
    decode(block, logs)
    spans = block["scale"].astype(np.float64) * 65535 > window - 1e-3
    return logs.astype(np.float64), (block["code"][:, :vocab] == 0) & spans[:, None]


def expected(p, q, vocab, windows):
    """The columns by their definitions: a clipped entry counts with the least that the codes allow."""
    (a, clipped_p), (b, clipped_q) = side(p, vocab, windows[0]), side(q, vocab, windows[1])
    out = (clipped_p & (b <= a)) | (clipped_q & (a <= b))
    mass_p, mass_q = np.exp(a), np.exp(b)
    middle = np.logaddexp(a, b) - np.log(2)
    with np.errstate(invalid="ignore"):
        mixture = [np.where(log == -np.inf, 0, np.exp(log) * (log - middle)) for log in (a, b)]
    found = {
        "jensen_shannon": np.where(out, 0, sum(mixture) / 2).sum(-1),
        "kl": np.where(out, 0, mass_p * (a - b) - mass_p + mass_q).sum(-1),
        "reverse_kl": np.where(out, 0, mass_q * (b - a) - mass_q + mass_p).sum(-1),
        "acceptance": 1 - np.where(out, 0, np.abs(mass_p - mass_q)).sum(-1) / 2,
        "top1_p": np.where(clipped_p, -np.inf, a).argmax(-1),
        "top1_q": np.where(clipped_q, -np.inf, b).argmax(-1),
        "top_prob_p": mass_p.max(-1),
    }
    for name, block, logs, clipped in (("p", p, a, clipped_p), ("q", q, b, clipped_q)):
        found[f"entropy_{name}"] = -np.where(clipped, 0, np.exp(logs) * logs).sum(-1)
        coded = block.dtype.names is not None
        found[f"clipped_mass_{name}"] = 1 - np.where(clipped, 0, np.exp(logs)).sum(-1) if coded else np.zeros(len(p))
        found[f"log_prob_{name}"] = logs
        found[f"clipped_target_{name}"] = clipped
    return found


def logits(vocab, noise, seed=0):
    rng = np.random.default_rng(seed)
    x = 4 * rng.standard_normal((ROWS, vocab))
    x[3] *= 0.1  # spans less than the window: nothing is clipped
    x[4] = 0.0
    return x, x + noise * rng.standard_normal(x.shape)


KINDS = {
    "two dumps": (encode, encode),
    "a dump and float32": (encode, lambda x: x.astype(np.float32)),
    "float64 and a dump": (lambda x: x, encode),
    "a dump and float16": (encode, lambda x: x.astype(np.float16)),
    "24 nats and 16": (lambda x: encode(x, 24.0), encode),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("vocab", [1, 15, 16, 33, 2049, 20_001])
def test_against_the_definition(kind, noise, vocab):
    p, q = (make(x) for make, x in zip(KINDS[kind], logits(vocab, noise), strict=True))
    windows = tuple(float(kind.startswith("24") and i == 0) * 8 + WINDOW for i in range(2))
    ids = np.random.default_rng(vocab).integers(0, vocab, ROWS)
    ids[1] = -1
    found, truth = compare_clipped(p, q, ids, vocab, windows, 2, True), expected(p, q, vocab, windows)
    at = np.arange(ROWS)
    for name in ("kl", "reverse_kl", "jensen_shannon"):
        # p is not normalised: each term has the rounding of float32 logs in it, where one side is live
        np.testing.assert_allclose(found[name], truth[name], rtol=3e-6, atol=3e-9 if kind == "two dumps" else 1e-6)
    for name in ("entropy_p", "entropy_q", "top_prob_p", "acceptance"):
        np.testing.assert_allclose(found[name], truth[name], rtol=2e-6, atol=1e-6)
    for name in ("p", "q"):
        np.testing.assert_array_equal(found[f"top1_{name}"], truth[f"top1_{name}"])
        np.testing.assert_allclose(found[f"clipped_mass_{name}"], truth[f"clipped_mass_{name}"], rtol=0, atol=1e-6)
        log_prob, hit = truth[f"log_prob_{name}"][at, ids], truth[f"clipped_target_{name}"][at, ids]
        log_prob[1], hit[1] = np.nan, False
        np.testing.assert_allclose(found[f"log_prob_{name}"], log_prob, rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(found[f"clipped_target_{name}"], hit)
    np.testing.assert_array_equal(found["log_ratio"], found["log_prob_p"] - found["log_prob_q"])


def test_impossible_under_one_of_the_models():
    x, y = logits(700, 0.3)
    y[:, ::3] = -np.inf
    y[2], y[2, 5] = -np.inf, 0.0
    p = encode(x)
    found = compare_clipped(p, y.astype(np.float32), None, 700, (WINDOW, 0.0), 1, True)
    with np.errstate(all="ignore"):
        truth = expected(p, y, 700, (WINDOW, 0.0))
    assert (found["kl"] == np.inf).all()
    np.testing.assert_allclose(found["jensen_shannon"], truth["jensen_shannon"], rtol=3e-6)
    np.testing.assert_allclose(found["jensen_shannon"][2], np.log(2), rtol=0.1)
    np.testing.assert_allclose(found["acceptance"], truth["acceptance"], rtol=3e-6, atol=1e-6)
    without = compare_clipped(p, y.astype(np.float32), None, 700, (WINDOW, 0.0), 1)
    np.testing.assert_array_equal(without["acceptance"], found["acceptance"])  # whatever else is asked for


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_result_depends_on_threads_chunks_or_the_columns_left_out(threads):
    x, y = logits(5001, 0.3)
    p, q = encode(np.tile(x, (9, 1))), encode(np.tile(y, (9, 1)))
    whole = compare_clipped(p, q, None, 5000, (WINDOW, WINDOW), 1)
    assert "log_ratio" not in whole
    for first, stop in ((0, 63), (5, 40), (62, 63)):
        part = compare_clipped(p[first:stop], q[first:stop], None, 5000, (WINDOW, WINDOW), threads)
        for name, column in part.items():
            np.testing.assert_array_equal(column, whole[name][first:stop])


def test_rows_without_a_distribution_and_no_rows():
    p, q = (encode(x) for x in logits(300, 0.3))
    p["scale"][1], q["min"][2] = np.nan, np.inf
    found = compare_clipped(p, q, None, 300, (WINDOW, WINDOW), 1)
    assert np.isnan(found["kl"]).tolist() == [False, True, True, False, False, False, False]
    assert (found["top1_p"][1], found["top1_q"][2]) == (-1, -1)
    assert np.isnan(found["top_prob_p"][[1, 2]]).all()
    none = compare_clipped(p[:0], q[:0], np.empty(0, np.int64), 300, (WINDOW, WINDOW), 1)
    assert all(column.shape == (0,) for column in none.values())
