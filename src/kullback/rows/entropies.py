"""Statistics of one row: its entropy, its normaliser and its normalised log-probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, calls, keywords, long_rows, outputs, views


def entropy(
    p: Any,
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
    """-Σ p·ln p of each row. Parameters, edge cases and errors are those of `kl_divergence`.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        Between 0 and ln V, exactly 0 where there is one outcome; of masses with the relative error of `kl_divergence`
        however small it is.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(kb.entropy([0.25, 0.25, 0.25, 0.25], base=2))
    2.0
    """
    space, k = keywords.space(given), keywords.inverse_temperature(temperature, given)
    unit, normalize = keywords.unit(base), keywords.flag(normalize, "normalize")
    single = calls.batch(("p", p), axis=axis, vocab_size=vocab_size, out=out)
    found = long_rows.describe(single, space, k, ("entropy", "lse"), num_threads)
    value = found["entropy"]
    if not normalize:
        lse = found["lse"]
        with np.errstate(all="ignore"):
            value = np.where(lse == -np.inf, 0.0, np.exp(lse) * (value - lse))
    return outputs.finish(value / unit if base is not None else value, single.lead, out)


def logsumexp(
    x: Any,
    *,
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: NDArray[np.float64] | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """ln Σ exp(x/temperature) of each row of logits: the log of the normaliser.

    Parameters
    ----------
    x : array_like, shape (..., V)
        Logits, as in `kl_divergence`, whose other parameters and errors apply.

    Returns
    -------
    float64 array of the leading shape (a scalar for 1-D input)
        NaN for a row with NaN or +inf and for a row that is all -inf, which has no mass to normalise.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import kullback as kb
    >>> print(f"{kb.logsumexp([0.0, 0.0]):.6f}")
    0.693147
    """
    k, unit = keywords.inverse_temperature(temperature, "logits"), keywords.unit(base)
    single = calls.batch(("x", x), axis=axis, vocab_size=vocab_size, out=out)
    found = long_rows.describe(single, keywords.LOGS, k, ("lse", "top1"), num_threads)
    value = found["lse"]
    value[found["top1"] < 0] = np.nan  # no mass; -inf itself may be what a finite row comes to
    return outputs.finish(value / unit if base is not None else value, single.lead, out)


def log_softmax(
    x: Any,
    *,
    base: float | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    vocab_size: int | None = None,
    out: NDArray[Any] | None = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """x/temperature - logsumexp(x/temperature): normalised log-probabilities of rows of logits.

    Parameters
    ----------
    x : array_like, shape (..., V)
        Logits, as in `kl_divergence`, whose other parameters and errors apply.
    out : ndarray, optional
        Of the result's shape and dtype. It may be x itself, but not overlap it otherwise.

    Returns
    -------
    array of the shape of x (with `vocab_size` columns where that is given)
        float64 for float64 input, else float32.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> print(np.exp(kb.log_softmax([0.0, 0.0])))
    [0.5 0.5]
    """
    k, unit = keywords.inverse_temperature(temperature, "logits"), keywords.unit(base)
    single = calls.batch(("x", x), axis=axis, vocab_size=vocab_size)
    dtype = np.dtype(np.float64 if single.views[0].storage == views.FLOAT64 else np.float32)
    shape = (*single.lead, single.vocab)
    last = axis in (-1, len(single.lead))
    outputs.check_out(out, shape if last else np.moveaxis(np.empty(shape, "V0"), -1, axis).shape, dtype)
    memory = None if out is None else np.asarray(out)
    in_place = memory is not None and last and memory.flags.c_contiguous and memory.flags.aligned
    if memory is not None:
        own = memory if last else np.moveaxis(memory, axis, -1)
        calls.keep_apart(own, "out", single.memory, in_place=True)
    result = memory if memory is not None and in_place else np.empty(shape, dtype)
    calls.log_softmax(single, k, result, num_threads)
    if base is not None:
        result /= unit
    if not last:
        result = np.moveaxis(result, -1, axis)
    if memory is None or out is None:
        return result
    if not in_place:
        memory[...] = result
    return out
