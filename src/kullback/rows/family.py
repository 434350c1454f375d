"""f-divergences by name or from a function of the user's own, and the list of the whole family."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kullback._engine import FloatArray, Given, calls, import_whole, keywords, outputs
from kullback.rows.cressie_read import cressie_read_divergence
from kullback.rows.itakura_saito import itakura_saito_divergence
from kullback.rows.mixtures import (
    generalized_jsd,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    skew_kl_divergence,
    symmetric_kl_divergence,
)
from kullback.rows.renyi import chi2_divergence, hellinger_distance, renyi_divergence, total_variation
from kullback.rows.rowwise import Out, Rowwise

__all__ = ["FAMILY", "Member", "f_divergence"]


def _squared_hellinger(p: Any, q: Any, out: Out = None, **keywords: Any) -> FloatArray:
    return Rowwise(**keywords).evaluate(
        ("p", p), ("q", q), "renyi", (0.5, 0.0, 0.0), out, lambda renyi: -np.expm1(-0.5 * renyi)
    )


def _jeffreys(p: Any, q: Any, out: Out = None, **keywords: Any) -> FloatArray:
    return Rowwise(**keywords).evaluate(("p", p), ("q", q), "linear", (0.5, 1.0, 1.0), out)


def _kl(p: Any, q: Any, **keywords: Any) -> FloatArray:
    return symmetric_kl_divergence(p, q, 1.0, **keywords)


Generator = Literal["kl", "reverse_kl", "jeffreys", "js", "tv", "squared_hellinger", "chi2", "neyman_chi2"]
_GENERATORS: dict[str, Callable[..., Any]] = {
    "kl": _kl,  # u·ln u
    "reverse_kl": lambda p, q, **keywords: _kl(q, p, **keywords),  # -ln u
    "jeffreys": _jeffreys,  # (u - 1)·ln u
    "js": jensen_shannon_divergence,
    "tv": total_variation,  # |u - 1|/2
    "squared_hellinger": _squared_hellinger,  # (√u - 1)²/2
    "chi2": chi2_divergence,  # (u - 1)²
    "neyman_chi2": lambda p, q, **keywords: chi2_divergence(q, p, **keywords),  # (u - 1)²/u
}


@functools.lru_cache(maxsize=32)
def _ieee(generator: Any) -> Any:
    """`generator` where 1/0 is inf, unless it says otherwise.

    Numba compiles a function so within our loop, but takes it as it is, with an exception, where it was called before.
    """
    options = {"error_model": "numpy"} | generator.targetoptions
    return import_whole("numba").jit(**options)(generator.py_func)


def f_divergence(
    p: Any,
    q: Any,
    generator: Generator | Callable[[float], float],
    *,
    slope_at_infinity: float | None = None,
    given: Given = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """Σ q·f(p/q) of each pair of rows: Csiszár's divergence of a convex f with f(1) = 0.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        As in `kl_divergence`, whose keywords apply too, except `base`.
    generator : str or function
        "kl", "reverse_kl", "jeffreys", "js", "tv", "squared_hellinger", "chi2" or
        "neyman_chi2"; or f itself, a scalar function compiled with `numba.njit`. Its values are used as they come, in
        float64, one outcome at a time: a generator with f'(1) = 0 keeps the digits of close rows. It divides as IEEE
        says, 1/0 is inf, unless it was compiled with `error_model="python"`.
    slope_at_infinity : float, optional
        lim f(u)/u for u → ∞, what an outcome with q = 0 < p contributes a unit of p; may be inf. Needed for a
        function of your own where there is such an outcome; f(0) is asked of the function.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError
        An unknown name; q = 0 < p without `slope_at_infinity`; else as `kl_divergence`.
    TypeError
        A function that Numba has not compiled, or that is not one of a float.

    Notes
    -----
    Csiszár, "Information-type measures of difference of probability distributions", Studia Sci. Math. Hungar. 2 (1967).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.f_divergence([0.5, 0.5], [0.9, 0.1], 'tv'):.3f}")
    0.400
    >>> import numba
    >>> triangular = numba.njit(lambda u: (u - 1) ** 2 / (u + 1))
    >>> print(f"{kb.f_divergence([0.5, 0.5], [0.9, 0.1], triangular):.3f}")
    0.381
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    if isinstance(generator, str):
        keywords.choice(generator, "generator", _GENERATORS)
        if slope_at_infinity is not None:
            raise ValueError("`slope_at_infinity` belongs to a generator of your own, not to one with a name")
        named: FloatArray = _GENERATORS[generator](p, q, out=out, **vars(rows))
        return named
    if not (hasattr(generator, "py_func") and hasattr(generator, "targetoptions")):
        raise TypeError(
            f"`generator` is {keywords.shown(generator)}, expected a name or a function compiled with numba.njit"
        )
    space, k = keywords.space(given), keywords.inverse_temperature(temperature, given)
    pair = calls.batch(("p", p), ("q", q), axis=axis, vocab_size=vocab_size, out=out)
    slope = math.nan if slope_at_infinity is None else keywords.real(slope_at_infinity, "slope_at_infinity")
    try:
        value = calls.generated(pair, space, k, _ieee(generator), slope, num_threads)
    except import_whole("numba.core.errors").NumbaError:  # whose message is pages about our loop
        raise TypeError(
            f"`generator` is {keywords.shown(generator)}, which Numba cannot compile into the loop over outcomes, "
            f"expected a function of one float that gives a float: generator(0.5) shows what is wrong"
        ) from None
    except ZeroDivisionError:
        raise ValueError(
            "`generator` raises ZeroDivisionError, expected a number: numba.njit(error_model='numpy') makes 1/0 inf"
        ) from None
    return outputs.finish(value, pair.lead, out)


@dataclass(frozen=True)
class Member:
    """One divergence of the family, as tests and benchmarks need to know it."""

    function: Callable[..., Any]
    samples: tuple[dict[str, Any], ...] = ({},)  # parameters worth trying
    symmetric: bool = False  # in p and q, at those parameters
    has_base: bool = True
    given: tuple[str, ...] = ("probs", "log_probs", "logits")
    greatest: float = math.inf  # for disjoint rows, in nats
    extra: dict[str, Any] = field(default_factory=dict)  # keywords to reach the common defaults


#: The divergences of rows by name, each with parameters worth trying, the `given` it takes and its greatest value: for
#: programs that offer a choice, and for tests.
FAMILY: dict[str, Member] = {
    "jensen_shannon_divergence": Member(jensen_shannon_divergence, ({}, {"weight": 0.2}, {"weight": 0.999})),
    "jensen_shannon_distance": Member(jensen_shannon_distance, symmetric=True, greatest=math.sqrt(math.log(2))),
    "generalized_jsd": Member(
        generalized_jsd, ({}, {"beta": 0.1}, {"beta": 0.0}, {"beta": 1.0}), extra={"given": "probs"}
    ),
    "skew_kl_divergence": Member(skew_kl_divergence, ({}, {"weight": 0.5}, {"weight": 0.9})),
    "symmetric_kl_divergence": Member(symmetric_kl_divergence, ({}, {"weight": 0.3})),
    "renyi_divergence": Member(
        renyi_divergence,
        tuple({"alpha": alpha} for alpha in (0.0, 0.1, 0.5, 0.999, 1.0, 1.5, 2.0, 10.0, math.inf)),
    ),
    "total_variation": Member(total_variation, symmetric=True, has_base=False, greatest=1.0),
    "hellinger_distance": Member(hellinger_distance, symmetric=True, has_base=False, greatest=1.0),
    "chi2_divergence": Member(chi2_divergence, has_base=False),
    "cressie_read_divergence": Member(
        cressie_read_divergence,
        ({}, *({"lambda_": power} for power in (1.0, 0.0, -0.5, -1.0, -2.0, 1e-9, 3.0))),
        has_base=False,
    ),
    "itakura_saito_divergence": Member(itakura_saito_divergence, has_base=False, given=("probs",)),
    "f_divergence": Member(f_divergence, tuple({"generator": name} for name in _GENERATORS), has_base=False),
}
