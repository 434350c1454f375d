"""llama.cpp's statistics, against what the tool itself printed and kept per token."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import logsumexp

from kullback.evaluation.llama_cpp import LlamaCppTokens, concatenate, statistics, token_values
from kullback.evaluation.sources import LlamaCppLogits, open_logits

EXAMPLES = Path(__file__).parent.parent / "examples"
DATA = Path(__file__).parent / "data" / "llama_cpp"
# rows of the example dumps whose live logits are in DATA, and the same tokens in the whole run
ROWS, TOKENS_OF_RUN = [0, 1, 18, 19], [6, 7, 24, 68]


@pytest.fixture
def base() -> LlamaCppLogits:
    source = open_logits(EXAMPLES / "f16.kld")
    assert isinstance(source, LlamaCppLogits)
    return source


@pytest.fixture
def run() -> LlamaCppTokens:
    with np.load(DATA / "q4_k_m_tokens.npz") as file:
        return LlamaCppTokens(
            file["nll_q"], file["nll_base"], file["kld"].astype(float), file["delta_p"], file["same_top"]
        )


def test_prints_what_the_tool_printed(run):
    # every digit agrees: these sums in float64 differ from the tool's sequential ones in the 15th digit only
    assert str(statistics(run)) + "\n" == (DATA / "compare_q4_k_m.txt").read_text()


def test_token_values_are_those_of_the_tool(base, run):
    codes = base.codes(0, 38)[ROWS]
    values = token_values(codes, np.load(DATA / "q4_k_m_logits.npy"), base.tokens[ROWS])
    # the tool's libm rounds a few exponentials to the other neighbour: over the whole run 6 of 126 tokens
    # differ, by at most 1.9e-9
    np.testing.assert_allclose(values.kld, run.kld[TOKENS_OF_RUN], rtol=0, atol=4e-9)
    for name in ("nll_q", "nll_base", "delta_p", "same_top"):
        np.testing.assert_array_equal(getattr(values, name), getattr(run, name)[TOKENS_OF_RUN], err_msg=name)
    assert values.nll_base[1] == pytest.approx(-base.rows(1, 2).min())  # this target lies below the window


def test_a_dump_as_candidate_comes_close(base, run):
    candidate = open_logits(EXAMPLES / "q4_k_m.kld")
    values = token_values(base.codes(0, 38), candidate.rows(0, 38), base.tokens, given="log_probs")
    of_run = np.r_[6:25, 68:87]
    # entries that only the candidate clips are off; each step of the codes is 2.4e-4 nats
    np.testing.assert_allclose(values.kld, run.kld[of_run], rtol=0, atol=5e-4)
    assert values.kld.mean() == pytest.approx(run.kld[of_run].mean(), abs=3e-6)
    unclipped = np.arange(38) != 1
    np.testing.assert_allclose(values.nll_q[unclipped], run.nll_q[of_run][unclipped], rtol=0, atol=1.3e-4)


def test_blocks_do_not_change_values(base, monkeypatch):
    logits = open_logits(EXAMPLES / "q4_k_m.kld").rows(0, 7)
    whole = token_values(base.codes(0, 7), logits, base.tokens[:7])
    monkeypatch.setattr("kullback.evaluation.llama_cpp.BLOCK_ELEMENTS", 3 * logits.shape[1])
    blocks = token_values(base.codes(0, 7), logits, base.tokens[:7])
    parts = [token_values(base.codes(i, i + 1), logits[i : i + 1], base.tokens[i : i + 1]) for i in range(7)]
    for name in ("nll_q", "nll_base", "kld", "delta_p", "same_top"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(blocks, name))
        np.testing.assert_array_equal(getattr(whole, name), getattr(concatenate(parts), name))


def test_negative_log_likelihood_against_scipy(base):
    logits = np.load(DATA / "q4_k_m_logits.npy")
    values = token_values(base.codes(0, 38)[ROWS], logits, base.tokens[ROWS])
    exact = logsumexp(logits.astype(float), axis=1) - logits[range(4), base.tokens[ROWS]]
    np.testing.assert_allclose(values.nll_q, exact, rtol=0, atol=2e-6)  # float32 of logits around 10


def test_entries_outside_the_cutoff_and_infinities():
    codes = np.zeros(4, [("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (4,))])
    codes["scale"] = 20 / 65535
    codes["min"] = -20 - np.log1p(3 * np.exp(-20))
    codes["code"][:, 0] = 65535
    logits = np.zeros((4, 4), np.float32)
    logits[0] = [0, -20, -20, -20]
    logits[1] = [0, -np.inf, -20, -20]  # below the cutoff of the base: contributes nothing
    logits[2] = [-np.inf, 0, 0, 0]
    logits[3] = [np.nan, 0, 0, 0]
    values = token_values(codes, logits, np.zeros(4, int))
    np.testing.assert_allclose(values.kld[:2], 0, atol=1e-8)
    assert values.kld[2] == np.inf
    assert values.nll_q[2] == np.inf
    assert np.isnan(values.kld[3])
    np.testing.assert_array_equal(values.same_top, [True, True, False, True])


def test_few_or_equal_tokens():
    nll = np.array([1.0, 2.0, 4.0], np.float32)
    zeros = np.zeros(3, np.float32)
    few = statistics(LlamaCppTokens(nll, nll, zeros.astype(float), zeros, np.array([True, False, True])))
    assert few.ppl_q.value == pytest.approx(np.exp(7 / 3))
    assert few.ppl_q.standard_error == 0  # the tool gives none for 10 tokens or fewer
    assert few.same_top.value == pytest.approx(2 / 3)
    assert few.same_top.standard_error == pytest.approx(np.sqrt(2 / 9 / 2))
    assert few.kld_percentiles[0.5] == 0
    assert few.tokens == 3


def test_percentiles_against_numpy(run):
    result = statistics(run)
    for fraction, value in result.kld_percentiles.items():
        expected = np.quantile(run.kld.astype(np.float32), fraction)
        assert value == pytest.approx(expected, rel=1e-5), fraction
    assert len(result.delta_p_percentiles) == 13


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((2, 9), np.float32)}, r"`logits` has shape \(2, 9\), expected 2 rows"),
        ({"logits": np.zeros((3, 4), np.float32)}, r"`logits` has shape \(3, 4\), expected 2 rows"),
        ({"tokens": np.zeros(3, int)}, r"`tokens` has shape \(3,\), expected \(2,\)"),
        ({"given": "probs"}, r"`given` is 'probs', expected \"logits\" or \"log_probs\""),
    ],
)
def test_wrong_arguments(change, message):
    codes = np.zeros(2, [("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (4,))])
    arguments = {"base_codes": codes, "logits": np.zeros((2, 4), np.float32), "tokens": np.zeros(2, int)}
    with pytest.raises(ValueError, match=message):
        token_values(**(arguments | change))


def test_no_tokens():
    empty = np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="no tokens"):
        statistics(LlamaCppTokens(empty, empty, empty.astype(float), empty, empty.astype(bool)))
