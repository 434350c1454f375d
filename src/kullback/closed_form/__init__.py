"""KL between parametric distributions, from formulas that stay exact where the two nearly agree."""

from kullback.closed_form import cross_family as cross_family
from kullback.closed_form import dirichlet as dirichlet
from kullback.closed_form import same_family as same_family
from kullback.closed_form.families import (
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
from kullback.closed_form.gaussian import gaussian_kl, vae_kl, vae_kl_gradient
from kullback.closed_form.mixtures import Estimate, Mixture, mixture_kl
from kullback.closed_form.registry import closed_form_kl, register_kl, registered_pairs

__all__ = [
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Cauchy",
    "DiagonalNormal",
    "Dirichlet",
    "Distribution",
    "Estimate",
    "Exponential",
    "Gamma",
    "Geometric",
    "Gumbel",
    "Laplace",
    "LogNormal",
    "Mixture",
    "MultivariateNormal",
    "Normal",
    "Pareto",
    "Poisson",
    "Uniform",
    "VonMises",
    "Weibull",
    "closed_form_kl",
    "gaussian_kl",
    "mixture_kl",
    "register_kl",
    "registered_pairs",
    "vae_kl",
    "vae_kl_gradient",
]
