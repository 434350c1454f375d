"""Rows of a model that llama-cpp-python runs, for a LiveComparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["rows"]


def rows(llm: Any, tokens: Sequence[int]) -> dict[str, Any]:
    """Let a model read tokens from an empty context; its `logits` and `tokens` as `LiveComparison.update` takes them.

    Parameters
    ----------
    llm : llama_cpp.Llama
        Made with `logits_all=True`, and `n_ctx` of at least as many tokens.
    tokens : sequence of int
        One document, or a window of one, with the BOS token where the model wants one: `llm.tokenize(text)`.

    Returns
    -------
    dict
        The logits are a view of `llm.scores`, valid until the model reads something else.

    Raises
    ------
    ValueError
        If there are too many tokens, or the model keeps the logits of the last one only.
    """
    ids = [int(token) for token in tokens]
    most = len(llm.scores)  # n_ctx as it was asked for; n_ctx() may be more
    if not 1 <= len(ids) <= most:
        raise ValueError(f"`tokens` has {len(ids)} ids, expected from 1 to {most}, the context of the model")
    llm.reset()
    llm.eval(ids)
    scores = np.asarray(llm.scores)[: len(ids) - 1]
    if len(scores) < len(ids) - 1 or not scores.any(axis=1).all():
        raise ValueError("`llm` keeps no logits but the last token's: make it with logits_all=True")
    return {"logits": scores, "tokens": np.asarray(ids[1:], np.int64)}
