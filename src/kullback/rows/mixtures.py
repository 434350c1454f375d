"""Divergences to a mixture: Jensen-Shannon, GKD's generalised form, skew KL; and the symmetric KL.

They take the arrays and keywords of `kl_divergence` (p and q are measures that get normalised). No result is negative,
none has an epsilon in it, and all keep their relative accuracy however close the rows are: 2e-6 for 32- and 16-bit
input (1e-6 but for two rows in a million); for float64 1e-11, 1e-9 where one outcome takes nearly all of a row of logs.
Masses and their totals may lie anywhere in the range of their type.
"""

from typing import Any, Literal

import numpy as np

from kullback._engine import FloatArray, Given, choice, number, reals
from kullback.rows.rowwise import Out, Rowwise

__all__ = [
    "generalized_jsd",
    "jensen_shannon_distance",
    "jensen_shannon_divergence",
    "skew_kl_divergence",
    "symmetric_kl_divergence",
]


def _mixture(weight: float, first: float, second: float) -> tuple[str, tuple[float, float, float]]:
    """KL to the mixture of that weight; at the ends of [0, 1] it is KL between the two or nothing."""
    if 0.0 < weight < 1.0:
        return "mixture", (weight, first, second)
    # m is q or p: KL(p‖m) is KL(p‖q) or 0, KL(q‖m) is 0 or KL(q‖p)
    return "linear", (0.5, first if weight == 0.0 else 0.0, second if weight == 1.0 else 0.0)


def _weights(weight: Any) -> Any:
    """`weight` as a float, or as an array of them where it has axes, each from 0 to 1."""
    if not isinstance(weight, (list, tuple)) and getattr(weight, "ndim", None) in (None, 0):
        return number(weight, "weight", 0.0, 1.0)
    values = reals(weight, "weight")
    outside = ~((values >= 0.0) & (values <= 1.0))
    if outside.any():
        raise ValueError(f"`weight` holds {values[outside][0]}, expected from 0 to 1")
    return values


def jensen_shannon_divergence(
    p: Any,
    q: Any,
    weight: Any = 0.5,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """w·KL(p‖m) + (1-w)·KL(q‖m) of each pair of rows, m = w·p + (1-w)·q and w = `weight`.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        As in `kl_divergence`, whose keywords apply too (`given`, `base`, `temperature`, `axis`, `vocab_size`, `out`,
        `num_threads`).
    weight : float or array_like of the leading shape
        Share of p in the mixture, from 0 to 1. At either end the divergence is 0; towards it the relative error grows
        to 1e-16 / weight for rows that differ by more than a factor of 2. An array has one weight a row (it
        broadcasts to the leading shape); each distinct weight is one call of the kernel over its rows, in place.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        From 0, exactly 0 for identical rows, to the entropy of (w, 1-w): ln 2 for disjoint rows at w = 1/2. NaN
        where `kl_divergence` gives NaN.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError, TypeError
        As `kl_divergence`; a weight outside [0, 1].

    Notes
    -----
    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991).

    Examples
    --------
    >>> import kullback as kb
    >>> print(kb.jensen_shannon_divergence([1.0, 0.0], [0.0, 1.0], base=2))
    1.0
    >>> print(kb.jensen_shannon_divergence([[1.0, 0.0]] * 3, [0.0, 1.0], [0.5, 0.25, 0.0], base=2).round(4))
    [1.     0.8113 0.    ]
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    weight = _weights(weight)

    def of(w: float) -> tuple[str, tuple[float, float, float]]:
        return _mixture(w, w, 1.0 - w)

    if isinstance(weight, np.ndarray):
        return rows.evaluate_each(("p", p), ("q", q), "weight", weight, of, out, base)
    return rows.evaluate(("p", p), ("q", q), *of(weight), out, base=base)


def jensen_shannon_distance(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """Square root of the Jensen-Shannon divergence of each pair of rows: a metric.

    Parameters, edge cases and errors are those of `jensen_shannon_divergence` at weight 1/2. The divergence is divided
    by ln(base) before the root is taken, as in `scipy.spatial.distance.jensenshannon`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    Endres and Schindelin, "A new metric for probability distributions", IEEE Trans. Inf. Theory 49 (2003).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.jensen_shannon_distance([0.75, 0.25], [0.25, 0.75]):.4f}")
    0.3617
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    return rows.evaluate(("p", p), ("q", q), "mixture", (0.5, 0.5, 0.5), out, np.sqrt, base)


def generalized_jsd(
    student: Any,
    teacher: Any,
    beta: float = 0.5,
    *,
    endpoint: Literal["kl", "limit"] = "kl",
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """β·KL(T‖M) + (1-β)·KL(S‖M) of each pair of rows, M = β·T + (1-β)·S: the loss of GKD.

    Parameters
    ----------
    student, teacher : array_like, shape (..., V)
        Logits by default; the arrays and keywords of `kl_divergence`.
    beta : float
        From 0 to 1.
    endpoint : {"kl", "limit"}
        What β = 0 and β = 1 mean. "kl", as GKD and TRL have it: KL(T‖S) at 0 (forward KL) and KL(S‖T) at 1 (reverse
        KL), a jump, since the formula itself falls to 0 there; "limit": that 0.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        In [0, ln 2] for 0 < β < 1.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    Agarwal et al., "On-policy distillation of language models", ICLR 2024. For β → 0, J/β → KL(T‖S); for β → 1,
    J/(1-β) → KL(S‖T). Note the order of the arguments: the student comes first, as in TRL.

    Examples
    --------
    >>> import kullback as kb
    >>> student, teacher = [0.0, 1.0, 2.0], [2.0, 1.0, 0.0]
    >>> bool(kb.generalized_jsd(student, teacher, 0) == kb.kl_divergence(teacher, student, given="logits"))
    True
    >>> print(f"{kb.generalized_jsd(student, teacher, 0.5):.4f}")
    0.2476
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    beta = number(beta, "beta", 0.0, 1.0)
    choice(endpoint, "endpoint", ("kl", "limit"))
    kind, parameters = _mixture(beta, beta, 1.0 - beta)
    if kind == "linear":
        ends = (1.0 - beta, beta) if endpoint == "kl" else (0.0, 0.0)
        parameters = (0.5, *ends)
    return rows.evaluate(("teacher", teacher), ("student", student), kind, parameters, out, base=base)


def skew_kl_divergence(
    p: Any,
    q: Any,
    weight: float = 0.1,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """KL(p‖w·p + (1-w)·q) of each pair of rows, w = `weight`: KL to q with some of p mixed in, which keeps it finite.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        As in `kl_divergence`, whose keywords apply too.
    weight : float
        Share of p in the mixture, from 0 (KL itself) to 1 (nothing is left). DistiLLM's skewed forward KL is
        (teacher, student) at 0.1, its skewed reverse KL is (student, teacher).

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        From 0 to ln(1/w).
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    Lee, "On the effectiveness of the skew divergence for statistical language analysis", AISTATS 2001; Ko et al.,
    "DistiLLM", ICML 2024.

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.skew_kl_divergence([1.0, 0.0], [0.0, 1.0], 0.1):.4f}")
    2.3026
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    kind, parameters = _mixture(number(weight, "weight", 0.0, 1.0), 1.0, 0.0)
    return rows.evaluate(("p", p), ("q", q), kind, parameters, out, base=base)


def symmetric_kl_divergence(
    p: Any,
    q: Any,
    weight: float = 0.5,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """w·KL(p‖q) + (1-w)·KL(q‖p) of each pair of rows, w = `weight`: half of Jeffreys' divergence at 1/2.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        As in `kl_divergence`, whose keywords apply too.
    weight : float
        Weight of KL(p‖q), from 0 to 1. A weight of 0 drops its term even where that is infinite.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        A number wherever the mean itself is within the range of float64, though one of the two may not be.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.symmetric_kl_divergence([0.5, 0.5], [0.9, 0.1], base=2):.3f} bits")
    0.634 bits
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    weight = number(weight, "weight", 0.0, 1.0)
    return rows.evaluate(("p", p), ("q", q), "linear", (0.5, weight, 1.0 - weight), out, base=base)
