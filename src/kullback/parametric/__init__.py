"""Parametric distributions: KL from formulas that stay exact where the two nearly agree, fits, t-SNE."""

# the formulas of pairs of families register themselves
from kullback.comparison import Estimate
from kullback.parametric import (
    cross_family as cross_family,
    dirichlet as dirichlet,
    more_pairs as more_pairs,
    same_family as same_family,
)
from kullback.parametric.families import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    DiagonalNormal,
    Dirichlet,
    Distribution,
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
)
from kullback.parametric.fits import fit_mixture, fit_normal
from kullback.parametric.gaussian import gaussian_kl, vae_kl, vae_kl_gradient
from kullback.parametric.mixtures import Mixture, mixture_kl
from kullback.parametric.more_families import (
    ContinuousBernoulli,
    HalfNormal,
    Independent,
    InverseGamma,
    LowRankNormal,
    Transformed,
)
from kullback.parametric.registry import closed_form_kl, register_kl, registered_pairs
from kullback.parametric.tsne import tsne_objective

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Cauchy",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "Dirichlet",
    "Distribution",
    "Estimate",
    "Exponential",
    "Gamma",
    "Geometric",
    "Gumbel",
    "HalfNormal",
    "Independent",
    "InverseGamma",
    "Laplace",
    "LogNormal",
    "LowRankNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "Pareto",
    "Poisson",
    "Transformed",
    "Uniform",
    "VonMises",
    "Weibull",
    "closed_form_kl",
    "fit_mixture",
    "fit_normal",
    "gaussian_kl",
    "mixture_kl",
    "register_kl",
    "registered_pairs",
    "tsne_objective",
    "vae_kl",
    "vae_kl_gradient",
]
