"""Divergences, entropies and normalisers of rows: kl_divergence and its family.

p and q are measures that get normalised, so counts and unnormalised log-probs work as they are; `normalize=False`
computes the plain sums instead. Every function takes arrays of any leading shape, with the vocabulary along `axis`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, calls, keywords, long_rows, outputs


def _pair_statistic(
    statistic: str, p: Any, q: Any, given: Given, base: float | None, temperature: float, axis: int,
    vocab_size: int | None, normalize: bool, out: Any, num_threads: int | None,
) -> FloatArray:  # fmt: skip
    """kl or cross_entropy of two arrays."""
    space, k = keywords.space(given), keywords.inverse_temperature(temperature, given)
    unit, normalize = keywords.unit(base), keywords.flag(normalize, "normalize")
    pair = calls.batch(("p", p), ("q", q), axis=axis, vocab_size=vocab_size, out=out)
    wanted: tuple[str, ...] = ("kl",) if statistic == "kl" else ("kl", "entropy_p")
    if not normalize:
        wanted += ("lse_p", "lse_q")
    found = long_rows.compare(pair, space, k, wanted, num_threads)
    value = found["kl"] if statistic == "kl" else found["kl"] + found["entropy_p"]
    if not normalize:
        with np.errstate(all="ignore"):
            offset = found["lse_p"] - found["lse_q"] if statistic == "kl" else -found["lse_q"]
            value = np.exp(found["lse_p"]) * (value + offset)
        value = _without_mass(value, pair, space, k, num_threads)
    return outputs.finish(value / unit if base is not None else value, pair.lead, out)


def _without_mass(
    value: NDArray[np.float64], pair: calls.Batch, space: int, k: float, num_threads: int | None
) -> NDArray[np.float64]:
    """Plain sums of rows without mass, which normalised statistics call undefined: 0 over no p, inf over no q."""
    undefined = np.isnan(value)
    if undefined.any():
        lse = [long_rows.describe(pair.side(index), space, k, ("lse",), num_threads)["lse"] for index in range(2)]
        value[undefined & (lse[1] == -np.inf) & ~np.isnan(lse[0])] = np.inf
        value[undefined & (lse[0] == -np.inf) & ~np.isnan(lse[1])] = 0.0
    return value


def kl_divergence(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    normalize: bool = True,
    out: NDArray[np.float64] | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """KL(p‖q) of each pair of rows: how much p, the reference, is misdescribed by q.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        float64, float32, float16, bfloat16, float8_e4m3fn, float8_e5m2 or 16-bit affine codes, which may differ between
        the two; leading axes broadcast. Anything NumPy or DLPack can view in place; never copied, never written to.
        Integers and bool
        (counts, exact up to 2⁵³), long double, foreign byte order and unaligned arrays are converted a few rows at a
        time. Masked arrays, tensors that require grad and pandas objects whose labels differ are refused.
    given : {"probs", "log_probs", "logits"}
        What the elements are. Rows are normalised, so probabilities may be counts and logs may be unnormalised;
        masses and their totals may lie anywhere in the range of their type.
    base : float, optional
        Unit of the result: nats by default, bits for 2.
    temperature : float
        Logs are divided by it first.
    axis : int
        The vocabulary axis of both arrays.
    vocab_size : int, optional
        Use the first `vocab_size` columns only, for vocabularies padded differently.
    normalize : bool
        False: the plain sum Σ p·(ln p - ln q), which may be negative.
    out : ndarray of float64, optional
        Where to put the result, apart from p and q in memory.
    num_threads : int, optional
        Threads at most. The result does not depend on it.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        ≥ 0, exactly 0 for identical rows; relative error below 1e-6 for 32- and 16-bit input and 1e-11 for
        float64, however small the divergence. An outcome with p = 0 contributes 0; q = 0 where p > 0 gives inf,
        as does what is beyond the range of float64; NaN or +inf (of logs) in a row, and rows without mass, give NaN.

    Raises
    ------
    ValueError
        Shapes that do not match, an empty vocabulary, a negative probability, a bad keyword; a long double beyond the
        range of float64, in which it is computed.
    TypeError
        A dtype that is not supported.

    Notes
    -----
    Logs are served by the cumulant generating function K(s) = ln E_p[exp(s·y)] of y = ln q - ln p: KL = K(1) - K'(0),
    summed as non-negative terms φ(y) = exp(y) - 1 - y, in one read of memory.

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.kl_divergence([0.5, 0.5], [0.9, 0.1], base=2):.3f} bits")
    0.737 bits
    >>> print(f"{kb.kl_divergence([0.9, 0.1], [0.5, 0.5], base=2):.3f} bits")
    0.531 bits
    """
    return _pair_statistic("kl", p, q, given, base, temperature, axis, vocab_size, normalize, out, num_threads)


def cross_entropy(
    p: Any,
    q: Any,
    *,
    given: Given = "probs",
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    normalize: bool = True,
    out: NDArray[np.float64] | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """-Σ p·ln q of each pair of rows = entropy(p) + KL(p‖q).

    Parameters, edge cases and errors are those of `kl_divergence`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.cross_entropy([0.5, 0.5], [0.9, 0.1], base=2):.3f} bits")
    1.737 bits
    """
    return _pair_statistic(
        "cross_entropy", p, q, given, base, temperature, axis, vocab_size, normalize, out, num_threads
    )
