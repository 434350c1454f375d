"""Log-probabilities and log-ratios of chosen tokens, straight from logits."""

from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from kullback._engine import FloatArray, Given, arrays, calls, keywords, labelling, long_rows, outputs, ragged

IGNORE_INDEX = -100


def token_log_probs(
    logits: Any,
    tokens: Any,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    vocab_size: int | None = None,
    kept: Any = None,
    ignore_index: int = IGNORE_INDEX,
    out: NDArray[np.float64] | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """log p(token) of each position: logits[token]/temperature - logsumexp(logits/temperature).

    Parameters
    ----------
    logits : array_like, shape (..., T, V)
        Logits (or, by `given`, log-probs or probabilities), as in `kl_divergence`.
    tokens : array_like of int, shape (..., T) or (..., T, K)
        One id a position, or K of them.
    softcap, scale, kept
        As in `token_statistics`; for logits alone.
    ignore_index : int
        Tokens with this id get NaN.

    Returns
    -------
    float64 array of the shape of tokens, nats unless `base` says otherwise
        -inf for an impossible token or one not kept; NaN for ignored ones and for rows that have no distribution.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError
        A token id outside [0, V), or shapes that do not match.

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    >>> print(np.exp(kb.token_log_probs(logits, [1, 2])))
    [0.25 0.8 ]
    """
    space, k, unit = keywords.space(given), keywords.inverse_temperature(temperature, given), keywords.unit(base)
    single = calls.batch(("logits", logits), vocab_size=vocab_size)
    labelling.same_axis(0, ("logits", logits), ("tokens", tokens))
    ids = arrays.token_ids(tokens, "tokens", single.lead, single.vocab, ignore_index)
    outputs.check_out(out, ids.shape)
    if out is not None:
        calls.keep_apart(np.asarray(out), "out", single.memory)
    per_row = ids.shape[-1] if ids.ndim > len(single.lead) else 1
    flat = ids.reshape(single.rows, per_row)
    scale = keywords.real(scale, "scale")
    if softcap is None and scale == 1.0 and kept is None:
        value = long_rows.describe(single, space, k, (), num_threads, flat)["log_probs"]
    else:
        if given != "logits":
            raise ValueError(f"`given` is {given!r}, expected 'logits' with `softcap`, `scale` or `kept`")
        lists = None if kept is None else ragged.kept_lists(kept, "kept", single.rows, single.vocab)
        slope_and_limit = keywords.slope_and_limit(temperature, scale, softcap)
        value = calls.describe_tokens(single, slope_and_limit, ("log_probs",), num_threads, flat, kept=lists)[
            "log_probs"
        ]
    return outputs.finish(value / unit if base is not None else value, ids.shape, out)


class LogProbOptions(TypedDict, total=False):
    """The keywords of `token_log_probs`."""

    given: Given
    base: float | None
    temperature: float
    softcap: float | None
    scale: float
    vocab_size: int | None
    kept: Any
    ignore_index: int
    out: NDArray[np.float64] | None
    num_threads: int | None


def selective_log_softmax(logits: Any, index: Any, **options: Unpack[LogProbOptions]) -> FloatArray:
    """`token_log_probs` under the name and argument order of TRL.

    Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> print(np.exp(kb.selective_log_softmax(np.log([[0.5, 0.5]]), [0])))
    [0.5]
    """
    with keywords.renamed({"tokens": "index"}):
        return token_log_probs(logits, index, **options)


def token_log_ratios(
    p_logits: Any,
    q_logits: Any,
    tokens: Any,
    *,
    given: Given = "logits",
    base: float | None = None,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    out: NDArray[np.float64] | None = None,
    num_threads: int | None = None,
) -> FloatArray:
    """log p(token) - log q(token) of each position.

    Parameters
    ----------
    p_logits, q_logits : array_like, shape (..., T, V)
        As in `kl_divergence`.
    tokens : array_like of int, shape (..., T)

    Returns
    -------
    float64 array, shape (..., T)
        NaN for ignored tokens, for rows without a distribution, and where both probabilities are 0.
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> print(kb.token_log_ratios(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]), [0], base=2))
    [1.]
    """
    space, k, unit = keywords.space(given), keywords.inverse_temperature(temperature, given), keywords.unit(base)
    pair = calls.batch(("p_logits", p_logits), ("q_logits", q_logits), vocab_size=vocab_size, out=out)
    labelling.same_axis(0, ("p_logits", p_logits), ("tokens", tokens))
    ids = arrays.token_ids(tokens, "tokens", pair.lead, pair.vocab, ignore_index)
    if ids.shape != pair.lead:
        raise ValueError(f"`tokens` has shape {ids.shape}, expected {pair.lead}")
    value = long_rows.compare(pair, space, k, ("log_ratio",), num_threads, ids)["log_ratio"]
    return outputs.finish(value / unit if base is not None else value, pair.lead, out)
