"""Losses of one model's logits with their gradients: cross-entropy, token log-probabilities, entropy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, keywords, labelling, views
from kullback.distillation.losses import gradient_array, no_idle_out, target_of
from kullback.distillation.reduction import Counted, Reduction, reduce_tokens, row_factors

__all__ = ["TokenLoss", "cross_entropy_loss", "entropy_gradient", "token_log_prob_gradient"]


@dataclass(frozen=True)
class TokenLoss:
    """A reduced loss of single rows of logits.

    Attributes
    ----------
    loss : float, or ndarray of the leading shape for reduction "none"
    gradient : ndarray or None
        d loss / d logits, of the logits' shape and dtype (float32 for float8); of the sum of all losses for
        reduction "none".
    per_token : ndarray of float64, leading shape
        The loss of each row before weights and reduction, 0 where it is not counted.
    tokens : int
        Rows counted.
    divisor : float
        What the sum was divided by.
    """

    loss: float | NDArray[np.float64]
    gradient: Any
    per_token: NDArray[np.float64]
    tokens: int
    divisor: float


def cross_entropy_loss(
    logits: Any,
    labels: Any,
    *,
    gradient: bool = False,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    ignore_index: int = -100,
    mask: Any = None,
    weights: Any = None,
    reduction: Reduction = "token-mean",
    divisor: float | None = None,
    vocab_size: int | None = None,
    out: Any = None,
    num_threads: int | None = None,
) -> TokenLoss:
    """-ln softmax(logits)[label], plus z_loss·lse², of each row, with its gradient if wanted.

    Parameters
    ----------
    logits : array_like, shape (..., V)
        float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2.
    labels : array_like of int, shape (...)
        Token ids; rows whose label is `ignore_index` are not counted.
    gradient : bool
        Whether to return d loss / d logits, into `out` where that is given.
    z_loss : float
        Factor of the squared log-normaliser that keeps it near 0.
    temperature, mask, weights, reduction, divisor, vocab_size, num_threads
        As in `distillation_loss`.

    Returns
    -------
    TokenLoss
        Accuracy: 2e-6 relative, 1e-10 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import cross_entropy_loss
    >>> result = cross_entropy_loss(np.array([[0.0, 0.0]]), [1], gradient=True)
    >>> print(f"{result.loss:.4f}", result.gradient)
    0.6931 [[ 0.5 -0.5]]
    """
    k, z_loss = keywords.inverse_temperature(temperature, "logits"), keywords.finite(z_loss, "z_loss")
    no_idle_out(out, "out", keywords.flag(gradient, "gradient"))
    single = calls.batch(("logits", logits), vocab_size=vocab_size)
    labelling.same_axis(0, ("logits", logits), ("labels", labels), ("mask", mask), ("weights", weights))
    ids = arrays.token_ids(labels, "labels", single.lead, single.vocab, ignore_index)
    if ids.shape != single.lead:
        raise ValueError(f"`labels` has shape {ids.shape}, expected {single.lead}")
    counted = Counted.of(single.lead, ids, -1, mask, weights)
    reducer = reduce_tokens(reduction, counted, single.lead, single.vocab, divisor)
    flat = ids.reshape(-1, 1)
    described = calls.describe(single, keywords.LOGS, k, ("lse", "top1"), num_threads, flat)
    lse, log_probs = described["lse"], described["log_probs"][:, 0]
    with np.errstate(over="ignore"):  # beyond the range of float64 a loss is inf
        values = (z_loss * lse) * lse - log_probs if z_loss != 0.0 else 0.0 - log_probs  # lse may be inf
    values[flat[:, 0] < 0] = 0.0
    if counted.mask is not None:
        values[~counted.mask] = 0.0
    row_weights = reducer.row_weights(counted)
    if gradient:
        out = gradient_array(logits, out, single)
        at_ids = _rest(log_probs, -row_weights)
        with np.errstate(over="ignore", invalid="ignore"):  # lse may be inf
            pull = row_weights * (2.0 * z_loss * lse) if z_loss != 0.0 else np.zeros_like(lse)
            pull[row_weights == 0.0] = 0.0
            at_ids += np.where(pull == 0.0, 0.0, pull * np.exp(log_probs))
        scatter = calls.Scatter(np.arange(single.rows + 1), flat[:, 0].copy(), _times(k, at_ids), True)
        target = target_of(out, single)
        calls.softmax_gradient(single, k, described, row_weights + pull, None, scatter, target, num_threads)
    per_token = values.reshape(single.lead)
    return TokenLoss(
        reducer.finish(counted.weigh(per_token)),
        out if gradient else None,
        per_token,
        counted.tokens,
        reducer.divisor,
    )


def _times(k: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """k·values, inf beyond the range of float64."""
    with np.errstate(over="ignore"):
        return k * values


def _at_tokens(
    ids: NDArray[np.int64], log_probs: NDArray[np.float64], factors: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Σ factors·(1[token] - probability) at each of a row's tokens, (T, K); equal tokens get the same number.

    The token's own part is by the probability of all others, so that one of nearly 1 leaves what they do.
    """
    own = factors
    if ids.shape[1] > 1:
        order = np.argsort(ids, -1, kind="stable")
        rising = np.take_along_axis(ids, order, -1)
        first = np.concatenate([np.ones((len(ids), 1), np.bool_), rising[:, 1:] != rising[:, :-1]], -1)
        group = np.cumsum(first.reshape(-1)) - 1
        sums = np.bincount(group, np.take_along_axis(factors, order, -1).reshape(-1))[group]
        own = np.empty_like(factors)
        np.put_along_axis(own, order, sums.reshape(ids.shape), -1)
    others = factors.sum(-1, keepdims=True) - own
    return np.where(ids < 0, 0.0, _rest(log_probs, own) - np.where(others == 0.0, 0.0, others * np.exp(log_probs)))


def _rest(log_probs: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """factors·(1 - probability), to relative accuracy where the probability is nearly 1; 0 where the factor is."""
    return np.where(factors == 0.0, 0.0, -factors * np.expm1(log_probs))


def token_log_prob_gradient(
    logits: Any,
    tokens: Any,
    upstream: Any,
    *,
    temperature: float = 1.0,
    ignore_index: int = -100,
    vocab_size: int | None = None,
    out: Any = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """Σ upstream·d ln softmax(logits)[token] / d logits, for one token a row or K of them.

    Parameters
    ----------
    logits : array_like, shape (..., V)
    tokens : array_like of int, shape (...) or (..., K)
        As in `token_log_probs`; tokens that are `ignore_index` have no part.
    upstream : array_like, shape of tokens
        Derivative of the objective by each log-probability.
    temperature, vocab_size, out, num_threads
        As in `distillation_loss`.

    Returns
    -------
    array of the shape and dtype of the logits (float32 for float8), or `out`
        Accuracy: 2e-6 relative, 1e-10 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import token_log_prob_gradient
    >>> print(token_log_prob_gradient(np.array([[0.0, 0.0]]), [1], [2.0]))
    [[-1.  1.]]
    """
    k = keywords.inverse_temperature(temperature, "logits")
    single = calls.batch(("logits", logits), vocab_size=vocab_size)
    labelling.same_axis(0, ("logits", logits), ("tokens", tokens), ("upstream", upstream))
    ids = arrays.token_ids(tokens, "tokens", single.lead, single.vocab, ignore_index)
    factors = views.reals(upstream, "upstream")
    if factors.shape != ids.shape:
        raise ValueError(f"`upstream` has shape {factors.shape}, expected {ids.shape} to match `tokens`")
    per_row = ids.size // single.rows if single.rows else 1
    factors = np.where(ids < 0, 0.0, factors).reshape(single.rows, per_row)
    flat = np.ascontiguousarray(ids).reshape(single.rows, per_row)
    described = calls.describe(single, keywords.LOGS, k, ("lse", "top1"), num_threads, flat)
    result: NDArray[Any] = gradient_array(logits, out, single)
    at_ids = _times(k, _at_tokens(flat, described["log_probs"], factors)).reshape(-1)
    scatter = calls.Scatter(np.arange(single.rows + 1) * per_row, flat.reshape(-1), at_ids, True)
    sums = -factors.sum(-1)
    calls.softmax_gradient(single, k, described, sums, None, scatter, target_of(result, single), num_threads)
    return result


def entropy_gradient(
    logits: Any,
    upstream: Any = None,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
    out: Any = None,
    num_threads: int | None = None,
) -> NDArray[Any]:
    """upstream·d entropy(softmax(logits)) / d logits of each row.

    Parameters
    ----------
    logits : array_like, shape (..., V)
    upstream : array_like, shape (...), optional
        Derivative of the objective by each entropy; 1 by default.
    temperature, vocab_size, out, num_threads
        As in `distillation_loss`.

    Returns
    -------
    array of the shape and dtype of the logits (float32 for float8), or `out`
        Accuracy: 2e-6 relative, 1e-10 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np
    >>> from kullback.distillation import entropy_gradient
    >>> print(entropy_gradient(np.array([[0.0, 1.0]])).round(4))
    [[ 0.1966 -0.1966]]
    """
    k = keywords.inverse_temperature(temperature, "logits")
    single = calls.batch(("logits", logits), vocab_size=vocab_size)
    labelling.same_axis(0, ("logits", logits), ("upstream", upstream))
    factors = np.ones(single.lead) if upstream is None else row_factors(upstream, "upstream", single.lead)
    described = calls.describe(single, keywords.LOGS, k, ("lse", "entropy", "top1"), num_threads)
    result: NDArray[Any] = gradient_array(logits, out, single)
    weights = np.ascontiguousarray(factors.reshape(-1))
    calls.softmax_gradient(
        single, k, described, np.zeros(single.rows), weights, None, target_of(result, single), num_threads
    )
    return result
