"""Closed forms: laws, errors, the registry and the VAE term."""

import doctest
import math
from dataclasses import dataclass

import numpy as np
import pytest
from space_truth import Pair

from kullback import kl_contributions
from kullback.closed_form import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    DiagonalNormal,
    Dirichlet,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    Poisson,
    Uniform,
    VonMises,
    Weibull,
    closed_form_kl,
    gaussian_kl,
    register_kl,
    vae_kl,
    vae_kl_gradient,
)
from kullback.parametric import gaussian, mixtures, registry


def random_members(generator, size):
    def draw():
        return np.exp(generator.uniform(-12, 12, size))

    share = generator.uniform(0, 1, size)
    return [
        Normal(draw(), draw()),
        DiagonalNormal(draw().reshape(-1, 2), draw().reshape(-1, 2)),
        MultivariateNormal(np.zeros(2), scale_tril=np.exp(generator.uniform(-3, 3, (size, 1, 1))) * np.eye(2)),
        Bernoulli(share),
        Binomial(12, share),
        Categorical(draw().reshape(-1, 4)),
        Poisson(draw()),
        Geometric(1 - share),
        Exponential(draw()),
        Gamma(draw(), draw()),
        Beta(draw(), draw()),
        Dirichlet(draw().reshape(-1, 4)),
        Laplace(draw(), draw()),
        LogNormal(draw(), draw()),
        Uniform(-draw(), draw()),
        Pareto(draw(), draw()),
        Weibull(draw(), draw()),
        Gumbel(draw(), draw()),
        Cauchy(draw(), draw()),
        VonMises(draw(), draw()),
    ]


def test_never_negative_never_nan_and_zero_for_itself():
    generator = np.random.default_rng(11)
    for p, q in zip(random_members(generator, 400), random_members(generator, 400), strict=True):
        value = closed_form_kl(p, q)
        assert (value >= 0).all(), p  # NaN fails too
        assert (closed_form_kl(p, p) == 0).all(), p


def test_never_negative_when_almost_equal():
    generator = np.random.default_rng(12)
    for p in random_members(generator, 400):
        near = {}
        for name in vars(p):
            value = np.asarray(getattr(p, name)) if getattr(p, name) is not None else None
            if name in ("cholesky",) or value is None:
                continue
            near[name] = value if name == "count" else np.nextafter(value, value / 2)
        assert (closed_form_kl(p, type(p)(**near)) >= 0).all(), p


def test_base_and_broadcasting():
    p, q = Normal(np.zeros((3, 1)), 1.0), Normal(np.arange(4.0), 2.0)
    nats = closed_form_kl(p, q)
    assert nats.shape == (3, 4) and nats.dtype == np.float64
    np.testing.assert_allclose(closed_form_kl(p, q, base=2), nats / math.log(2), rtol=1e-15)
    assert isinstance(closed_form_kl(Normal(0, 1), Normal(1, 1)), np.float64)
    assert closed_form_kl(Normal(np.zeros((0, 2)), 1.0), Normal(0.0, 1.0)).shape == (0, 2)
    assert closed_form_kl(Normal(np.float32(0.1), 1), Normal(0.1, 1)) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Normal(0.0, [1.0, -1.0]),
            r"`Normal.scale` is -1.0 at index \(1,\), expected a finite number > 0",
        ),
        (lambda: Normal(np.nan, 1.0), "`Normal.loc` is nan"),
        (lambda: Bernoulli(1.5), r"`Bernoulli.prob` is 1.5, expected a probability in \[0, 1\]"),
        (lambda: Geometric(0.0), "`Geometric.prob`"),
        (lambda: Binomial(2.5, 0.1), "`Binomial.count` is 2.5, expected a whole number"),
        (lambda: Categorical([0.5, -0.1]), "`Categorical.probs`"),
        (lambda: Categorical([0.0, 0.0]), "`Categorical.probs` has a row that sums to 0"),
        (lambda: Categorical(0.5), "`Categorical.probs` has shape"),
        (lambda: Uniform(1.0, 1.0), "`Uniform.high`"),
        (lambda: Gamma(np.ones(2), np.ones(3)), "do not broadcast"),
        (lambda: DiagonalNormal([0.0, 1.0], [1.0]), "`DiagonalNormal.scale` has shape"),
        (lambda: MultivariateNormal([0.0]), "one of `cov` and `scale_tril`"),
        (lambda: MultivariateNormal([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: MultivariateNormal([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: MultivariateNormal([0.0, 0.0], [[1.0]]), "`MultivariateNormal.cov` has shape"),
        (lambda: MultivariateNormal([0.0, 0.0], scale_tril=[[1.0, 1.0], [0.0, 1.0]]), "lower triangular"),
        (lambda: closed_form_kl(Normal(np.zeros(2), 1.0), Normal(np.zeros(3), 1.0)), "`q` has batch shape"),
        (lambda: closed_form_kl(Normal(0, 1), Normal(0, 1), base=1), "`base` is 1"),
        (
            lambda: closed_form_kl(MultivariateNormal([0.0], [[1.0]]), MultivariateNormal([0.0] * 2, np.eye(2))),
            "`q` has 2 components, expected 1",
        ),
        (lambda: closed_form_kl(Categorical([1, 1]), Categorical([1, 1, 1])), "`q` has 3"),
        (lambda: closed_form_kl(Dirichlet([1.0]), Dirichlet([1, 1, 1])), "`q` has 3"),
        (lambda: closed_form_kl(DiagonalNormal([0.0], [1.0]), DiagonalNormal([0, 0], [1, 1])), "`q` has 2"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_are_checked_views_and_frozen():
    scale = np.ones(3)
    p = Normal(0.0, scale)
    assert np.shares_memory(p.scale, scale) and not p.scale.flags.writeable and scale.flags.writeable
    with pytest.raises(AttributeError):
        p.scale = 2.0
    with pytest.raises(TypeError, match=r"`Normal.loc` has dtype <U1, expected real numbers"):
        Normal("x", 1.0)


@pytest.mark.parametrize(
    "value",
    [1 + 2j, np.array([1j]), "2", 10**400, np.ma.masked_array([1.0, 2.0], [0, 1]), np.ones((1,) * 40), [None, 1.0]],
    ids=lambda value: str(value)[:12],
)
def test_parameters_are_real_numbers(value):
    """Never the real part, the text's number or what a mask hides."""
    for make in (lambda: Normal(value, 1.0), lambda: Normal(0.0, value), lambda: Categorical(value)):
        with pytest.raises((TypeError, ValueError), match=r"`(Normal|Categorical)\.\w+` (has|holds|is)"):
            make()


def test_a_share_that_underflows_still_meets_a_zero():
    p, q = np.array([1e308, 5e-324]), np.array([1.0, 0.0])
    assert closed_form_kl(Categorical(p), Categorical(q)) == np.inf
    assert kl_contributions(p, q)[1] == np.inf
    assert kl_contributions(p, q, kind="plain")[1] == np.inf


@pytest.mark.parametrize("total", [1.0, 3.0, 1 + 1e-12, 1e-300])
@pytest.mark.parametrize("noise", [1e-12, 1e-8, 1e-3, 1.0])
def test_categorical_measures_of_any_totals(noise, total):
    """The totals cancel without costing digits, and need not be sums that float64 holds."""
    rng = np.random.default_rng(4)
    p = rng.uniform(0.1, 1, (3, 40))
    q = p * (1 + noise * rng.uniform(-1, 1, p.shape)) * total
    for scale in (1.0, 1e307):
        truth = Pair(p * scale, q * scale, "probs").kl
        got = closed_form_kl(Categorical(p * scale), Categorical(q * scale))
        assert np.all(np.abs(got - truth) <= 1e-13 * truth + 1e-30)


def test_unknown_pairs_list_the_known_ones():
    with pytest.raises(
        TypeError, match=r"no closed form for KL\(Normal‖Cauchy\); KL\(Normal‖·\) is known for .*Gumbel"
    ):
        closed_form_kl(Normal(0, 1), Cauchy(0, 1))
    with pytest.raises(TypeError, match=r"KL\(float‖Normal\); known pairs: .*Beta‖Beta"):
        closed_form_kl(1.0, Normal(0, 1))


def test_registration_and_subclasses():
    @dataclass(frozen=True, eq=False)
    class Standard(Normal):
        pass

    p = Standard(0.0, 1.0)
    assert closed_form_kl(p, Normal(1.0, 1.0)) == 0.5

    @register_kl(Standard, Normal)
    def closer(p, q):
        return 42.0

    assert closed_form_kl(p, Normal(1.0, 1.0)) == 42.0
    assert closed_form_kl(Normal(1.0, 1.0), p) == 0.5
    with pytest.raises(ValueError, match="registered already"):
        register_kl(Standard, Normal)(closer)


def test_vae_term_in_blocks_dtypes_and_edge_cases(monkeypatch):
    generator = np.random.default_rng(4)
    mean = generator.normal(size=(37, 3, 20)).astype(np.float32)
    log_variance = generator.normal(size=(3, 20)).astype(np.float32)
    want = gaussian_kl(mean, np.exp(0.5 * log_variance.astype(float)), 0.0, 1.0).sum(-1)
    monkeypatch.setattr(gaussian, "_BLOCK", 200)
    got = vae_kl(mean, log_variance)
    assert got.shape == (37, 3) and got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12)
    rows = vae_kl(np.zeros((4, 2)), [[-np.inf, 0.0], [np.inf, 0.0], [np.nan, 0.0], [1000.0, 0.0]])
    assert rows.tolist()[:2] == [np.inf, np.inf] and np.isnan(rows[2]) and rows[3] == np.inf
    assert vae_kl(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0,)
    with pytest.raises(ValueError, match="`log_variance` has shape"):
        vae_kl(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="no axis"):
        vae_kl(0.0, 0.0)


def test_vae_gradient_by_differences():
    generator = np.random.default_rng(9)
    mean, log_variance = generator.normal(size=(2, 6))
    by_mean, by_log_variance = vae_kl_gradient(mean, log_variance)
    h = 1e-5
    for i in range(6):
        step = h * np.eye(6)[i]
        slope = (vae_kl(mean + step, log_variance) - vae_kl(mean - step, log_variance)) / (2 * h)
        assert by_mean[i] == pytest.approx(slope, abs=1e-8)
        slope = (vae_kl(mean, log_variance + step) - vae_kl(mean, log_variance - step)) / (2 * h)
        assert by_log_variance[i] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("module", [registry, gaussian, mixtures], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
