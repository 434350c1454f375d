"""Distributions of torch and of SciPy as families of ours: what `closed_form_kl` takes besides its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kullback.parametric import families as f, more_families as more
from kullback.parametric.families import Distribution

# torch.distributions: class name -> our distribution of the same law. Subclasses (Chi2 of Gamma) are found by ancestry.
_TORCH: dict[str, Callable[[Any], Distribution]] = {
    "Bernoulli": lambda d: f.Bernoulli(d.probs),
    "Beta": lambda d: f.Beta(d.concentration1, d.concentration0),
    "Binomial": lambda d: f.Binomial(d.total_count, d.probs),
    "Categorical": lambda d: f.Categorical(d.probs),
    "Cauchy": lambda d: f.Cauchy(d.loc, d.scale),
    "ContinuousBernoulli": lambda d: more.ContinuousBernoulli(d.probs),
    "Dirichlet": lambda d: f.Dirichlet(d.concentration),
    "Exponential": lambda d: f.Exponential(d.rate),
    "Gamma": lambda d: f.Gamma(d.concentration, d.rate),
    "Geometric": lambda d: f.Geometric(d.probs),
    "Gumbel": lambda d: f.Gumbel(d.loc, d.scale),
    "HalfNormal": lambda d: more.HalfNormal(d.scale),
    "Independent": lambda d: more.Independent(ours(d.base_dist), d.reinterpreted_batch_ndims),
    "InverseGamma": lambda d: more.InverseGamma(d.concentration, d.rate),
    "Laplace": lambda d: f.Laplace(d.loc, d.scale),
    "LogNormal": lambda d: f.LogNormal(d.loc, d.scale),
    "LowRankMultivariateNormal": lambda d: more.LowRankNormal(d.loc, d.cov_factor, d.cov_diag),
    "MultivariateNormal": lambda d: f.MultivariateNormal(d.loc, scale_tril=d.scale_tril),
    "Normal": lambda d: f.Normal(d.loc, d.scale),
    "OneHotCategorical": lambda d: f.Categorical(d.probs),
    "Pareto": lambda d: f.Pareto(d.scale, d.alpha),
    "Poisson": lambda d: f.Poisson(d.rate),
    "TransformedDistribution": lambda d: _image(d),
    "Uniform": lambda d: f.Uniform(d.low, d.high),
    "VonMises": lambda d: f.VonMises(d.loc, d.concentration),
    "Weibull": lambda d: f.Weibull(d.concentration, d.scale),
}

# scipy.stats, frozen: name -> (our distribution of shapes, location and scale, the location it must have if any)
_SCIPY: dict[str, tuple[Callable[..., Distribution], float | None]] = {
    "bernoulli": (lambda p, loc, scale: f.Bernoulli(p), 0.0),
    "beta": (lambda a, b, loc, scale: f.Beta(a, b), 0.0),
    "binom": (lambda n, p, loc, scale: f.Binomial(n, p), 0.0),
    "cauchy": (lambda loc, scale: f.Cauchy(loc, scale), None),
    "expon": (lambda loc, scale: f.Exponential(1 / np.asarray(scale)), 0.0),
    "gamma": (lambda a, loc, scale: f.Gamma(a, 1 / np.asarray(scale)), 0.0),
    "geom": (lambda p, loc, scale: f.Geometric(p), -1.0),
    "gumbel_r": (lambda loc, scale: f.Gumbel(loc, scale), None),
    "halfnorm": (lambda loc, scale: more.HalfNormal(scale), 0.0),
    "invgamma": (lambda a, loc, scale: more.InverseGamma(a, scale), 0.0),
    "laplace": (lambda loc, scale: f.Laplace(loc, scale), None),
    "lognorm": (lambda s, loc, scale: f.LogNormal(np.log(scale), s), 0.0),
    "norm": (lambda loc, scale: f.Normal(loc, scale), None),
    "pareto": (lambda b, loc, scale: f.Pareto(scale, b), 0.0),
    "poisson": (lambda mu, loc, scale: f.Poisson(mu), 0.0),
    "uniform": (lambda loc, scale: f.Uniform(loc, np.asarray(loc) + scale), None),
    "vonmises": (lambda kappa, loc, scale: f.VonMises(loc, kappa), None),
    "weibull_min": (lambda c, loc, scale: f.Weibull(c, scale), 0.0),
}
_WITHOUT_SCALE = ("bernoulli", "beta", "binom", "geom", "poisson", "vonmises")  # in ours: SciPy's must be 1


def ours(x: Any) -> Any:
    """`x` as a distribution of ours if it is one of torch or of SciPy, else as it is."""
    home = type(x).__module__
    if home.startswith("torch.distributions"):
        for ancestor in type(x).__mro__:
            if ancestor.__module__.startswith("torch.distributions") and ancestor.__name__ in _TORCH:
                return _TORCH[ancestor.__name__](x)
        raise TypeError(f"torch's {type(x).__name__} has no closed form here, expected one of {', '.join(_TORCH)}")
    if home.startswith("scipy.stats"):
        return _of_scipy(x)
    return x


def _image(d: Any) -> Distribution:
    base = ours(d.base_dist)
    extra = len(d.event_shape) - len(d.base_dist.event_shape)
    return more.Transformed(more.Independent(base, extra) if extra > 0 else base, tuple(d.transforms))


def _of_scipy(x: Any) -> Distribution:
    kind = type(x).__name__
    if kind == "multivariate_normal_frozen":
        return f.MultivariateNormal(x.mean, cov=x.cov)
    if kind == "dirichlet_frozen":
        return f.Dirichlet(x.alpha)
    name = getattr(getattr(x, "dist", None), "name", None)
    if name not in _SCIPY:
        raise TypeError(
            f"SciPy's {name or kind} has no closed form here, expected a frozen one of {', '.join(_SCIPY)}, "
            "multivariate_normal or dirichlet"
        )
    make, expected = _SCIPY[name]
    shapes, loc, scale = x.dist._parse_args(*x.args, **x.kwds)
    if expected is not None and not np.all(np.asarray(loc) == expected):
        raise ValueError(f"SciPy's {name} has `loc` {loc}, expected {expected:g}: the family here is not shifted")
    if name in _WITHOUT_SCALE and not np.all(np.asarray(scale) == 1):
        raise ValueError(f"SciPy's {name} has `scale` {scale}, expected 1")
    return make(*shapes, loc, scale)
