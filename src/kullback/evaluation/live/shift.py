"""From what a causal language model takes and gives to rows and their tokens: logits at t predict token t + 1."""

from __future__ import annotations

from typing import Any

__all__ = ["next_tokens"]


def next_tokens(logits: Any, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
    """The arguments `logits`, `tokens` and `mask` of `LiveComparison.update` from a batch and what a model made of it.

    Parameters
    ----------
    logits : array (B, T, V)
        Of any framework; the result has a view of it. The last place of each sequence predicts nothing that is there.
    input_ids : array of int (B, T)
    attention_mask : array (B, T), optional
        0 where a batch is padded, on either side: a place is a row where it and the next one are no padding.
    labels : array of int (B, T), optional
        As a model takes them, not shifted; -100 where a token is not asked for. Without it `input_ids`.

    Returns
    -------
    dict

    Examples
    --------
    >>> import numpy as np
    >>> ids = np.array([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    >>> padded = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    >>> found = next_tokens(np.zeros((2, 5, 9)), ids, padded)
    >>> found["logits"].shape, found["tokens"].tolist(), found["mask"].astype(int).tolist()
    ((2, 4, 9), [[0, 5, 6, 7], [2, 3, 4, 5]], [[0, 0, 1, 1], [1, 1, 1, 1]])
    """
    wanted = input_ids if labels is None else labels
    for name, x in (("input_ids", input_ids), ("attention_mask", attention_mask), ("labels", labels)):
        if x is not None and tuple(x.shape) != tuple(logits.shape[:2]):
            raise ValueError(f"`{name}` has shape {tuple(x.shape)}, expected {tuple(logits.shape[:2])} as the logits")
    mask = None
    if attention_mask is not None:
        there = attention_mask != 0
        mask = there[:, :-1] & there[:, 1:]
    return {"logits": logits[:, :-1], "tokens": wanted[:, 1:], "mask": mask}
