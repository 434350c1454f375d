"""What is said of single positions' logits, in one pass over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from kullback._engine import arrays, calls, keywords, labelling, outputs, ragged
from kullback.rows import entropy
from kullback.tokens.log_probs import IGNORE_INDEX

__all__ = ["TokenStatistics", "entropy_from_logits", "token_statistics"]


@dataclass(frozen=True)
class TokenStatistics:
    """Statistics of each position's distribution, in nats. What was not asked for is None.

    Attributes
    ----------
    entropy : float64 array, shape (...)
    logsumexp : float64 array, shape (...)
        Of the logits after scale, soft-cap and temperature; -inf for a row without mass.
    log_probs : float64 array, shape of tokens, or None
        As `token_log_probs`: NaN for an ignored id, -inf for one that is impossible or was not kept.
    rank : int64 array, shape of tokens, or None
        How many outcomes are at least as probable as the token, itself among them: 1 for the most probable one,
        n for each of n that share the first place, V for an impossible one. -1 where log_probs is NaN.
    top_ids : int64 array, shape (..., top_k), or None
        The most probable outcomes, best first, equal ones by rising id; -1 where there are fewer.
    top_log_probs : float64 array, shape (..., top_k), or None
        -inf beside an id of -1, NaN where the position has no distribution.
    """

    entropy: NDArray[np.float64]
    logsumexp: NDArray[np.float64]
    log_probs: Any = None
    rank: Any = None
    top_ids: Any = None
    top_log_probs: Any = None


def token_statistics(
    logits: Any,
    tokens: Any = None,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    vocab_size: int | None = None,
    top_k: int = 0,
    kept: Any = None,
    ignore_index: int = IGNORE_INDEX,
    num_threads: int | None = None,
) -> TokenStatistics:
    """Entropy, normaliser, log-probs and ranks of chosen tokens and the top k of each position, from one read.

    The distribution of a position is softmax(z/temperature) with z = scale·logits, or
    softcap·tanh(scale·logits/softcap).

    Parameters
    ----------
    logits : array_like, shape (..., V)
        float64, float32, float16, bfloat16, float8_e4m3fn or float8_e5m2, read in place.
    tokens : array_like of int, shape (...) or (..., K), optional
        One token a position, or K of them.
    temperature : float
    softcap : float, optional
        Bound of the scaled logits (Gemma's final_logit_softcapping). A logit of -inf becomes -softcap, as the
        formula says: ban outcomes with `kept` or `vocab_size`, not with -inf.
    scale : float
        Factor of the logits before the cap (Cohere's logit_scale).
    vocab_size : int, optional
        Use the first n columns alone (padded vocabularies).
    top_k : int
        How many of the most probable outcomes to name.
    kept : (offsets, ids), optional
        The outcomes each position's sampler kept (top-p, top-k), as servers return them: those of position t,
        counted in C order, are ids[offsets[t]:offsets[t + 1]]. Everything is then of the distribution over these
        alone, and nothing else is read. An object with `offsets` and `token_ids` does too. A position that kept
        nothing has no distribution: NaN.
    ignore_index : int
        Tokens with this id get NaN and rank -1.
    num_threads : int, optional

    Returns
    -------
    TokenStatistics
        Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Raises
    ------
    ValueError
        An id outside [0, V), or one that `kept` lists twice; shapes or offsets that do not match.

    Notes
    -----
    Ranks are those of vLLM: the number of outcomes whose probability is not below the token's. They and the top k
    compare the logits as given, so they owe nothing to rounding; a position with a NaN has rank and ids -1.
    Inputs below float64 are computed in float32 with sums in float64, but for `kept` lists: these in float64.

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> logits = np.log([[0.5, 0.25, 0.125, 0.125]])
    >>> s = kb.token_statistics(logits, [1], top_k=2)
    >>> print(np.exp(s.log_probs), s.rank, s.top_ids, np.exp(s.top_log_probs))
    [0.25] [2] [[0 1]] [[0.5  0.25]]
    >>> s = kb.token_statistics(logits, [1], kept=([0, 2], [0, 1]))  # the sampler's top 2
    >>> print(np.exp(s.log_probs).round(4))
    [0.3333]
    """
    slope_and_limit = keywords.slope_and_limit(temperature, scale, softcap)
    top_k, ignore_index = keywords.whole(top_k, "top_k", 0), keywords.integer(ignore_index, "ignore_index")
    single = calls.batch(("logits", logits), vocab_size=vocab_size)
    lists = None if kept is None else ragged.kept_lists(kept, "kept", single.rows, single.vocab)
    wanted: tuple[str, ...] = ("entropy", "lse")
    flat, shape = None, single.lead
    if tokens is not None:
        wanted += ("log_probs", "ranks")
        labelling.same_axis(0, ("logits", logits), ("tokens", tokens))
        checked = arrays.token_ids(tokens, "tokens", single.lead, single.vocab, ignore_index)
        shape = checked.shape
        flat = checked.reshape(single.rows, shape[-1] if len(shape) > len(single.lead) else 1)
    if top_k:
        wanted += ("top_ids", "top_log_probs")
    found = calls.describe_tokens(single, slope_and_limit, wanted, num_threads, flat, top_k, lists)
    shapes = dict.fromkeys(("log_probs", "ranks"), shape) | dict.fromkeys(
        ("top_ids", "top_log_probs"), (*single.lead, top_k)
    )
    done = {name: outputs.finish(values, shapes.get(name, single.lead)) for name, values in found.items()}
    return TokenStatistics(
        done["entropy"],
        done["lse"],
        done.get("log_probs"),
        done.get("ranks"),
        done.get("top_ids"),
        done.get("top_log_probs"),
    )


class EntropyOptions(TypedDict, total=False):
    """The keywords of `entropy` but `given`."""

    base: float | None
    temperature: float
    axis: int
    vocab_size: int | None
    normalize: bool
    out: NDArray[np.float64] | None
    num_threads: int | None


def entropy_from_logits(logits: Any, **options: Unpack[EntropyOptions]) -> NDArray[np.float64]:
    """`entropy` of softmax(logits), under the name of TRL and verl. Outcomes of -inf add nothing, where theirs are NaN.

    Accuracy: 1e-6 relative, 1e-11 for float64 input (the page of that name says of what).

    Examples
    --------
    >>> import numpy as np, kullback as kb
    >>> print(kb.entropy_from_logits([[0.0, 0.0, -np.inf]], base=2))
    [1.]
    """
    with keywords.renamed({"p": "logits"}):
        return entropy(logits, given="logits", **options)
