"""What torch's own TestKL holds: its pairs of distributions, as arguments here, with torch's numbers."""

import numpy as np
import pytest
from scipy.special import polygamma

from kullback.closed_form import closed_form_kl

# torch registers these from a Monte Carlo table of pairs (test_distributions.py, TestKL); the parameters are ours.
# What torch has no rule for and we have, or the other way round, is in the second test.
PAIRS = (
    *((name, name) for name in ("bernoulli", "beta", "binomial", "categorical", "cauchy", "continuous_bernoulli")),
    *((name, name) for name in ("dirichlet", "exponential", "gamma", "geometric", "gumbel", "half_normal", "laplace")),
    *((name, name) for name in ("log_normal", "low_rank", "full", "normal", "one_hot", "pareto", "poisson", "uniform")),
    *((name, name) for name in ("independent", "transformed", "inverse_gamma")),
    *(("beta", q) for q in ("exponential", "gamma", "normal", "uniform", "pareto")),
    *(("exponential", q) for q in ("beta", "gamma", "gumbel", "normal", "pareto", "uniform")),
    *(("gamma", q) for q in ("beta", "exponential", "gumbel", "normal", "pareto", "uniform")),
    *(("gumbel", q) for q in ("beta", "exponential", "gamma", "normal", "pareto", "uniform")),
    *(("laplace", q) for q in ("beta", "exponential", "gamma", "normal", "pareto", "uniform")),
    *(("normal", q) for q in ("beta", "exponential", "gamma", "gumbel", "laplace", "pareto", "uniform")),
    *(("pareto", q) for q in ("beta", "exponential", "gamma", "normal", "uniform")),
    *(("uniform", q) for q in ("beta", "exponential", "gamma", "gumbel", "normal", "pareto")),
    *(("poisson", q) for q in ("bernoulli", "binomial")),
    *(("continuous_bernoulli", q) for q in ("pareto", "uniform")),
    *(
        (p, "continuous_bernoulli")
        for p in ("exponential", "gamma", "gumbel", "laplace", "normal", "pareto", "uniform")
    ),
    *(("bernoulli", "poisson"), ("low_rank", "full"), ("full", "low_rank")),
)


def members():
    import torch
    from torch import distributions as d

    def t(*values):
        return torch.tensor(values, dtype=torch.float64)

    eye = torch.eye(3, dtype=torch.float64)
    factor = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(2, 3, 2)
    return {
        "bernoulli": d.Bernoulli(t(0.7, 0.2)),
        "beta": d.Beta(t(2.5, 1.5), t(1.2, 3.0)),
        "binomial": d.Binomial(30, t(0.7, 0.4)),
        "categorical": d.Categorical(torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=torch.float64)),
        "cauchy": d.Cauchy(t(0.0, 1.0), t(1.0, 2.0)),
        "continuous_bernoulli": d.ContinuousBernoulli(t(0.7, 0.2)),
        "dirichlet": d.Dirichlet(torch.tensor([[2.5, 1.5, 1.0], [1.2, 3.0, 0.5]], dtype=torch.float64)),
        "exponential": d.Exponential(t(1.0, 2.5)),
        "gamma": d.Gamma(t(2.0, 3.5), t(1.0, 2.0)),
        "geometric": d.Geometric(t(0.3, 0.8)),
        "gumbel": d.Gumbel(t(-1.0, 2.0), t(1.0, 1.5)),
        "half_normal": d.HalfNormal(t(1.0, 2.0)),
        "inverse_gamma": d.InverseGamma(t(2.0, 3.5), t(1.0, 2.0)),
        "laplace": d.Laplace(t(1.0, -2.0), t(3.0, 0.6)),
        "log_normal": d.LogNormal(t(-1.0, 2.0), t(1.0, 1.5)),
        "low_rank": d.LowRankMultivariateNormal(torch.zeros(2, 3, dtype=torch.float64), factor, t(1.0, 2.0, 3.0)),
        "full": d.MultivariateNormal(t(1.0, 0.0, -1.0), scale_tril=eye + 0.3 * torch.ones_like(eye).tril(-1)),
        "normal": d.Normal(t(-1.0, 2.0), t(1.0, 1.5)),
        "one_hot": d.OneHotCategorical(torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]], dtype=torch.float64)),
        "pareto": d.Pareto(t(0.1, 0.2), t(3.5, 2.5)),
        "poisson": d.Poisson(t(1.0, 3.0)),
        "uniform": d.Uniform(t(0.3, 0.25), t(0.8, 0.9)),
        "independent": d.Independent(d.Normal(t(-1.0, 2.0), t(1.0, 1.5)), 1),
        "transformed": d.TransformedDistribution(
            d.Gamma(t(2.0, 3.5), t(1.0, 2.0)), [d.transforms.AffineTransform(1, 2)]
        ),
    }


@pytest.mark.integration
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_torchs_pairs(pair):
    import torch

    found = members()
    p, q = found[pair[0]], found[pair[1]]
    expected = torch.distributions.kl_divergence(p, q).numpy()
    np.testing.assert_allclose(closed_form_kl(p, q), expected, rtol=1e-6, atol=1e-9)
    if p.batch_shape == (2,) == q.batch_shape:  # members of one family, and not the same ones
        p, q = p.expand((2, 2)), type(q).expand(q, (2, 2))
        assert closed_form_kl(p, q).shape == (2, 2)


@pytest.mark.integration
def test_where_torch_and_we_differ():
    """Disagreements, each with its reason."""
    import torch
    from torch import distributions as d

    # no rule of ours: one density on [0, 1] against a family without a closed form of the cross entropy here
    found = members()
    for q in ("exponential", "normal"):
        assert np.isfinite(torch.distributions.kl_divergence(found["continuous_bernoulli"], found[q]).numpy()).all()
        with pytest.raises(TypeError, match="no closed form for KL"):
            closed_form_kl(found["continuous_bernoulli"], found[q])
    # near equality torch's differences keep no digits
    steps = 1e-8 * torch.arange(1, 21, dtype=torch.float64)
    p, q = d.Gamma(torch.tensor(3.7, dtype=torch.float64), 1.0), d.Gamma(3.7 + steps, 1.0)
    moved = (q.concentration - 3.7).numpy()
    truth = 0.5 * polygamma(1, 3.7) * moved**2
    np.testing.assert_allclose(closed_form_kl(p, q), truth, rtol=1e-6)
    theirs = torch.distributions.kl_divergence(p, q).numpy()
    assert np.abs(theirs / truth - 1).max() > 0.01
    # a parameter that requires grad would lose it
    with pytest.raises(TypeError, match="requires grad"):
        closed_form_kl(d.Normal(torch.tensor(0.0, requires_grad=True), 1.0), d.Normal(0.0, 1.0))
