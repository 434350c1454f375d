"""Itakura's and Saito's divergence of rows of masses."""

from typing import Any, Literal

from kullback._engine import FloatArray, choice
from kullback.rows.rowwise import Out, Rowwise

__all__ = ["itakura_saito_divergence"]


def itakura_saito_divergence(
    p: Any,
    q: Any,
    *,
    given: Literal["probs"] = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """Σ p/q - ln(p/q) - 1 of each pair of rows, whose least outcomes count as much as their greatest.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        Probabilities, counts or power spectra: masses, which get normalised. Else as in `kl_divergence`, whose keywords
        apply too, but for `base`; `given` is "probs" and `temperature` 1.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        From 0 to inf. An outcome with p = q = 0 contributes nothing, one with p = 0 < q or q = 0 < p makes it inf.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError, TypeError
        As `kl_divergence`; logs.

    Notes
    -----
    Not Σ p·f(q/p), so no f-divergence: a change of an outcome counts by its ratio alone. Summed as φ(ln p/q) ≥ 0,
    φ(y) = exp(y) - 1 - y. Itakura and Saito, "Analysis synthesis telephony based on the maximum likelihood method",
    6th International Congress on Acoustics (1968).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.itakura_saito_divergence([0.5, 0.5], [0.9, 0.1]):.4f}")
    2.5339
    """
    choice(given, "given", ("probs",))
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    return rows.evaluate(("p", p), ("q", q), "itakura_saito", (0.0, 0.0, 0.0), out)
