"""Rows longer than any vocabulary are described part by part: the same statistics, whatever the cut and the threads."""

import numpy as np
import pytest
import reference
from strategies import STORAGES, bound, error, logit_rows, stored

import kullback as kb
from kullback._engine import long_rows

RNG = np.random.default_rng(7)
FIELDS = ("kl", "reverse_kl", "entropy_p", "entropy_q", "log_prob_p", "log_prob_q", "log_ratio", "cross_entropy")


@pytest.fixture
def short_parts(monkeypatch):
    """Rows of more than 40 outcomes are cut into parts of 16."""
    monkeypatch.setattr(long_rows, "LONGEST", 40)
    monkeypatch.setattr(long_rows, "PART", 16)


@pytest.mark.parametrize("storage", [storage for storage in STORAGES if storage != "affine16"])
@pytest.mark.parametrize("vocab", [41, 48, 211])
@pytest.mark.usefixtures("short_parts")
def test_parts_add_up(storage, vocab):
    p, q = (stored(x, storage) for x in logit_rows(7, vocab, noise=0.4))
    a, b = reference.decode(p), reference.decode(q)
    tokens = RNG.integers(0, vocab, 7)
    tokens[3] = -100
    found = kb.compare(p, q, tokens, ignore_index=-100)
    lp, lq = reference.token_log_probs(a, tokens), reference.token_log_probs(b, tokens)
    truth = {
        "kl": reference.kl_divergence(a, b),
        "reverse_kl": reference.kl_divergence(b, a),
        "cross_entropy": reference.cross_entropy(a, b),
        "entropy_p": reference.entropy(a),
        "entropy_q": reference.entropy(b),
        "log_prob_p": lp,
        "log_prob_q": lq,
        "log_ratio": lp - lq,
    }
    kept = tokens >= 0
    for name in FIELDS:
        assert error(name, getattr(found, name)[kept], truth[name][kept]) < bound(storage), name
        assert np.isnan(getattr(found, name)[~kept]).all(), name
    assert np.array_equal(found.top1_p, np.where(kept, a.argmax(-1), -1))
    assert np.array_equal(found.top1_q, np.where(kept, b.argmax(-1), -1))
    assert error("entropy", kb.entropy(p, given="logits"), truth["entropy_p"]) < bound(storage)
    assert error("logsumexp", kb.logsumexp(p), reference.logsumexp(a)) < bound(storage)
    several = RNG.integers(0, vocab, (7, 3))
    expected = np.stack([reference.token_log_probs(a, several[:, i]) for i in range(3)], -1)
    assert error("log_prob_p", kb.token_log_probs(p, several), expected) < bound(storage)


@pytest.mark.usefixtures("short_parts")
def test_close_rows_keep_their_relative_accuracy():
    p = RNG.normal(0, 3, (5, 100))
    for noise in (1e-9, 1e-5, 1e-2):
        q = p + RNG.normal(0, noise, p.shape)
        assert error("kl", kb.kl_divergence(p, q, given="logits"), reference.kl_divergence(p, q)) < 1e-11
    assert np.all(kb.kl_divergence(p, p, given="logits") == 0.0)


@pytest.mark.usefixtures("short_parts")
def test_hostile_rows():
    p, q = logit_rows(8, 60, noise=1.0)
    p[0, :16] = q[0, :16] = -np.inf  # a part without mass on both sides
    p[1, 16:32] = -np.inf  # under p alone
    q[2, 16:32] = -np.inf  # under q alone: infinite
    p[3, 50] = np.nan
    q[4, :] = -np.inf  # no mass at all
    p[5, :] = -np.inf
    p[5, 59] = 2.0  # one-hot in the last, short part
    p[6, 17] = q[6, 40] = np.inf
    p[7, [3, 20, 55]] = 30.0  # a tie over three parts: the first wins
    with np.errstate(all="ignore"):
        kl, reverse = reference.kl_divergence(p, q), reference.kl_divergence(q, p)
    found = kb.compare(p, q)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-12)
    np.testing.assert_allclose(found.reverse_kl, reverse, rtol=1e-12)
    assert found.top1_p[7] == 3 and found.top1_p[5] == 59 and found.top1_q[4] == -1
    masses = np.exp(p[[0, 1, 2, 5, 7]])
    other = np.exp(q[[0, 1, 2, 5, 7]])
    np.testing.assert_allclose(kb.kl_divergence(masses, other), kl[[0, 1, 2, 5, 7]], rtol=1e-9)
    masses[3, 41] = -1.0
    with pytest.raises(ValueError, match=r"`p` holds a negative value in row 3"):
        kb.kl_divergence(masses, other)


def test_a_long_row_uses_every_thread_and_gives_the_same_bits():
    vocab = long_rows.LONGEST + 12_345
    p, q = logit_rows(2, vocab, noise=0.3)
    p, q = p.astype(np.float32)[:, ::-1], q.astype(np.float32)[:, ::-1]  # strided backwards
    one = kb.compare(p, q, num_threads=1)
    for threads in (2, 3, 8):
        many = kb.compare(p, q, num_threads=threads)
        for name in ("kl", "reverse_kl", "entropy_p", "entropy_q", "top1_p", "top1_q"):
            assert np.array_equal(getattr(one, name), getattr(many, name)), name
    assert error("kl", one.kl, reference.kl_divergence(p, q)) < 1e-6
    assert error("entropy_p", one.entropy_p, reference.entropy(p)) < 1e-6
    assert np.array_equal(one.kl[:1], kb.compare(p[:1], q[:1]).kl)


def test_tokens_of_long_rows_in_any_leading_shape():
    rng = np.random.default_rng(2)
    p, q = rng.normal(size=(2, 2, 3, 300_000)).astype(np.float32)
    tokens = rng.integers(0, 300_000, (2, 3))
    flat = kb.compare(p.reshape(6, -1), q.reshape(6, -1), tokens.ravel())
    np.testing.assert_array_equal(kb.compare(p, q, tokens).log_ratio.ravel(), flat.log_ratio)
    np.testing.assert_array_equal(kb.token_log_ratios(p, q, tokens).ravel(), flat.log_ratio)
