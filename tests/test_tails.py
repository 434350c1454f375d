"""What a mean hides: how heavy its tail is, what the worst tokens bring, how the log-probs of both go together."""

import math

import numpy as np
import pytest
from strategies import logit_rows

import kullback as kb
from kullback.comparison import Spread

RNG = np.random.default_rng(5)


def brute_share(values, share):
    """The greatest first, the last of them in part."""
    falling = np.sort(values)[::-1]
    whole = int(share * falling.size)
    rest = share * falling.size - whole
    return (falling[:whole].sum() + (rest * falling[whole] if rest else 0.0)) / falling.sum()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.33, 1.0])
@pytest.mark.parametrize("values", [RNG.lognormal(0, 2, 1503), RNG.lognormal(0, 2, 7), np.array([3.0])])
def test_what_the_worst_bring(values, share):
    found = Spread.of(values).worst_share(share)
    assert found == pytest.approx(brute_share(values, share), rel=1e-12, abs=1e-15)
    parts = [Spread.of(values[i::3]) for i in (2, 0, 1)]
    assert parts[0].merge(parts[1]).merge(parts[2]).worst_share(share) == found


def test_of_cut_values():
    values = RNG.lognormal(0, 2, 40_000)
    s = Spread.of(values)
    s.compact(1000)
    assert s.sketched
    assert s.worst_share(0.01) == pytest.approx(brute_share(values, 0.01), rel=2 * s.quantile_error)
    assert s.over_mean(0.99) == pytest.approx(np.quantile(values, 0.99) / values.mean(), rel=2 * s.quantile_error)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [-1.0, 2.0], [1.0, np.inf], [np.nan]])
def test_where_there_is_no_share(values):
    s = Spread.of(np.array(values))
    assert math.isnan(s.worst_share(0.01))
    assert math.isnan(s.over_mean(0.99)) or values == [-1.0, 2.0]


@pytest.mark.parametrize("base", [None, 2])
def test_log_probs_go_together(base):
    p, q = logit_rows(200, 50, noise=0.5)
    tokens = RNG.integers(0, 50, 200)
    s = kb.compare(p, q, tokens, base=base).summary()
    nats = kb.compare(p, q, tokens)
    truth = np.corrcoef(nats.log_prob_p, nats.log_prob_q)[0, 1]
    assert s.log_prob_correlation == pytest.approx(truth, rel=1e-12)
    tree = s.to_dict()
    assert tree["log_prob_correlation"] == s.log_prob_correlation
    assert tree["kl"]["worst_percent_share"] == s.kl.worst_share(0.01)
    assert tree["kl"]["p99_over_mean"] == s.kl.quantile(0.99) / s.kl.mean
    parts = [kb.compare(p[i], q[i], tokens[i], base=base).summary() for i in (slice(90, 200), slice(0, 90))]
    assert parts[0].merge(parts[1]).log_prob_correlation == s.log_prob_correlation


def test_no_correlation():
    p, q = logit_rows(20, 50, noise=0.5)
    assert math.isnan(kb.compare(p, q).summary().log_prob_correlation)
    assert math.isnan(kb.compare(p[:1], q[:1], [3]).summary().log_prob_correlation)
    assert kb.compare(p, p, np.arange(20)).summary().log_prob_correlation == pytest.approx(1.0, rel=1e-15)
    q[4, 4] = -np.inf
    s = kb.compare(p, q, np.arange(20)).summary()
    assert math.isnan(s.log_prob_correlation)
    assert 0 < s.finite.log_prob_correlation < 1
    assert s.to_dict()["log_prob_correlation"] is None
