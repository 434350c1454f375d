"""What vLLM says of prompts (`prompt_logprobs`): rows for a LiveComparison where it says all, else lines of JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["answer", "rows"]


def rows(output: Any, vocab_size: int) -> dict[str, Any]:
    """The log-probabilities of a prompt, as `LiveComparison(given="log_probs").update` takes them.

    Parameters
    ----------
    output : vllm.RequestOutput
        Of `LLM(..., max_logprobs=-1).generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=-1))`: log-probs of
        the whole vocabulary, in a list or, which is smaller, with `flat_logprobs=True`.
    vocab_size : int

    Returns
    -------
    dict
        `logits`, an array (T - 1, V) of float32, and `tokens`: row i is of the token after the i-th.

    Raises
    ------
    ValueError
        If a position has not all of the vocabulary: what is listed in part goes into a file (`answer`) for
        `open_sparse`.
    """
    found = np.full((len(output.prompt_token_ids) - 1, vocab_size), -np.inf, np.float32)
    for place, row in enumerate(found, 1):
        entries = output.prompt_logprobs[place]
        if entries is None or len(entries) != vocab_size:
            raise ValueError(
                f"position {place} has {len(entries or ())} log-probabilities, expected {vocab_size}: ask for "
                "prompt_logprobs=-1 (and max_logprobs=-1 of the engine), or write answers, which open_sparse reads"
            )
        ids = np.fromiter(entries, np.int64, vocab_size)
        if not 0 <= ids.min() <= ids.max() < vocab_size:
            raise ValueError(f"position {place} has ids {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}")
        row[ids] = [entry.logprob for entry in entries.values()]
    return {"logits": found, "tokens": np.asarray(output.prompt_token_ids[1:], np.int64)}


def answer(output: Any) -> dict[str, Any]:
    """A `RequestOutput` as vLLM's server answers it, for a line of JSON that `open_sparse` reads.

    Parameters
    ----------
    output : vllm.RequestOutput

    Returns
    -------
    dict
        Ready for `json.dumps`.
    """
    positions: list[Any] = []
    for entries in output.prompt_logprobs:
        positions.append(
            entries and {str(id): {"logprob": float(x.logprob), "rank": x.rank} for id, x in entries.items()}
        )
    return {"prompt_token_ids": list(output.prompt_token_ids), "prompt_logprobs": positions}
