"""Logits of a transformers model as it runs, for a LiveComparison: whatever loop calls it stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kullback.evaluation.live import next_tokens

__all__ = ["collecting", "next_tokens"]


@contextmanager
def collecting(model: Any, take: Callable[..., None]) -> Iterator[None]:
    """While it lasts, hand the rows of every forward call of a causal language model to `take`.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Called with `input_ids` (by name or first), and `attention_mask` and `labels` where there are any.
    take : callable
        `LiveComparison.update`, or what takes `logits`, `tokens` and `mask` as it does: logits at t with the token at
        t + 1, places that are padding masked. Labels of -100 are passed over.

    Notes
    -----
    Calls that go on from a cache of keys and values (generation) are refused: they lack the rows before. Logits are
    handed on without a copy where they lie on the CPU, and copied from elsewhere. They are float32, or what the model
    computes in: bfloat16 and float16 are compared as they are.

    Examples
    --------
    >>> import torch, transformers
    >>> from kullback.evaluation import LiveComparison
    >>> sizes = dict(vocab_size=300, hidden_size=64, intermediate_size=128, num_attention_heads=4)
    >>> config = transformers.LlamaConfig(num_hidden_layers=2, num_key_value_heads=4, **sizes)
    >>> _ = torch.manual_seed(0)
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> ids = torch.randint(0, 300, (2, 16))
    >>> with torch.inference_mode():
    ...     reference = model(ids).logits[:, :-1].reshape(-1, 300).clone()
    ...     live = LiveComparison(reference)
    ...     with collecting(model.bfloat16(), live.update):
    ...         _ = model(input_ids=ids)
    >>> live.rows, live.summary().kl.mean < 1e-3
    (30, True)
    """

    def hook(module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if ids is None:
            raise ValueError("the model was called without `input_ids`: which tokens its rows predict is not known")
        cache = named.get("cache", named.get("past_key_values"))  # the older name
        if cache is not None and cache.get_seq_length() > ids.shape[1]:
            raise ValueError("the model was called with tokens in its cache: its rows are not those of whole sequences")
        mask = named.get("attention_mask", arguments[1] if len(arguments) > 1 else None)
        logits = output.logits if hasattr(output, "logits") else output[0]
        inputs = [None if x is None else x.detach().cpu() for x in (logits, ids, mask, named.get("labels"))]
        take(**next_tokens(*inputs))

    handle = model.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
