"""The power divergences of Cressie and Read."""

from typing import Any

from kullback._engine import FloatArray, Given, keywords
from kullback.rows.rowwise import Out, Rowwise

__all__ = ["cressie_read_divergence"]


def cressie_read_divergence(
    p: Any,
    q: Any,
    lambda_: float = 2 / 3,
    *,
    given: Given = "probs",
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: Out = None,
    num_threads: int | None = None,
) -> FloatArray:
    """2/(λ(λ+1))·(Σ p·(p/q)^λ - 1) of each pair of rows: the power divergence of λ = `lambda_`.

    Parameters
    ----------
    p, q : array_like, shape (..., V)
        Observed and expected, as in `kl_divergence`, whose keywords apply too, but for `base`.
    lambda_ : float
        The power, any finite number: 1 is Pearson's χ², 0 the limit 2·KL(p‖q) (G), -1/2 Freeman and Tukey's,
        -1 the limit 2·KL(q‖p), -2 Neyman's χ²; 2/3 is Cressie's and Read's advice. One nearer to 0 or -1 than 1e-100
        counts as that.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        ≥ 0; inf for λ ≥ 0 where q = 0 < p, for λ ≤ -1 where p = 0 < q, and where it exceeds the float64 range. Times
        the number of observations it is the statistic of `scipy.stats.power_divergence`.
        Accuracy: 2e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Notes
    -----
    2/(λ(λ+1))·expm1(λ·D), D = D_(1+λ)(p‖q) of Rényi, which keeps its digits however close the rows are. Cressie and
    Read, "Multinomial goodness-of-fit tests", J. R. Statist. Soc. B 46 (1984).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.cressie_read_divergence([0.5, 0.5], [0.9, 0.1]):.4f}")
    1.4398
    """
    rows = Rowwise(given, temperature, axis, vocab_size, num_threads)
    return rows.evaluate(("p", p), ("q", q), "cressie_read", (keywords.finite(lambda_, "lambda_"), 0.0, 0.0), out)
