"""Models and tokenizers from folders, by transformers: nothing is downloaded, no code of a folder is run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.models.windows import Window, first_row, padded

__all__ = ["DTYPES", "Model", "check_folder", "check_same", "encoded", "is_model", "load_tokenizer"]

DTYPES = ("auto", "float32", "bfloat16", "float16")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


def is_model(path: str) -> bool:
    return os.path.exists(os.path.join(path, "config.json"))


def check_folder(path: str) -> None:
    """Refuse what is no folder of a model: its name would be looked for on a hub."""
    if not os.path.isdir(path):
        raise ValueError(f"{path}: is no folder; expected one with a model's config.json (nothing is downloaded)")
    if not is_model(path):
        raise ValueError(f"{path}: has no config.json; expected the folder of a transformers model")


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a folder; None where it has none."""
    if not any(os.path.exists(os.path.join(path, name)) for name in _TOKENIZERS):
        return None
    return _loaded("AutoTokenizer", path)


def _loaded(kind: str, path: str, **options: Any) -> Any:
    transformers = library("transformers", path)
    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(
            path, local_files_only=True, trust_remote_code=False, **options
        )
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: transformers does not load it ({str(error).splitlines()[0][:160]})") from None
    except (KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: transformers does not load it ({str(error)[:160]})") from None


def encoded(tokenizer: Any, documents: Sequence[str]) -> list[NDArray[np.int64]]:
    """The tokens of each document, with those that the tokenizer puts before and after."""
    return [np.asarray(tokenizer(text, verbose=False)["input_ids"], np.int64) for text in documents]


def check_same(
    names: tuple[str, str], tokenizers: tuple[Any, Any], documents: Sequence[str], ids: Sequence[NDArray[np.int64]]
) -> None:
    """ValueError where two tokenizers give other ids, or the same ids mean other tokens."""
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    by_id = {place: token for token, place in sorted(ours.items(), key=lambda entry: entry[1])}
    other = next((token for place, token in by_id.items() if theirs.get(token, place) != place), None)
    if other is not None:
        raise ValueError(
            f"the tokenizers of {names[0]} and {names[1]} differ: {other!r} is {ours[other]} in one, {theirs[other]} "
            "in the other; their rows cannot be compared"
        )
    changed = min(((n, token) for token, n in theirs.items() if by_id.get(n, token) != token), default=None)
    if changed is not None:
        raise ValueError(
            f"the tokenizers of {names[0]} and {names[1]} differ: {changed[0]} is {by_id[changed[0]]!r} in one, "
            f"{changed[1]!r} in the other; their rows cannot be compared"
        )
    for number, (mine, its) in enumerate(zip(ids, encoded(tokenizers[1], documents), strict=True)):
        if not np.array_equal(mine, its):
            raise ValueError(
                f"the tokenizers of {names[0]} and {names[1]} differ: document {number} has {len(mine)} tokens by one, "
                f"{len(its)} by the other, or other ones; their rows cannot be compared"
            )


class Model:
    """A causal language model that gives the logits of windows."""

    def __init__(self, path: str, dtype: str, device: str) -> None:
        self.path = path
        self._torch = library("torch", path)
        kind = "auto" if dtype == "auto" else getattr(self._torch, dtype)
        self._model = _loaded("AutoModelForCausalLM", path, dtype=kind).eval().to(device)
        self._device = device
        self.vocab = int(self._model.get_output_embeddings().weight.shape[0])
        self.dtype = str(self._model.dtype).removeprefix("torch.")
        self._keeps = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def logits(self, windows: Sequence[Window]) -> Any:
        """(B, T, V) of the last T places of the windows, padded on the right: from the first row that is asked for."""
        ids, there = padded(windows)
        rows = ids.shape[1] - first_row(windows)
        torch = self._torch
        with torch.inference_mode():
            found = self._model(
                input_ids=torch.from_numpy(ids).to(self._device),
                attention_mask=torch.from_numpy(there.astype(np.int64)).to(self._device),
                use_cache=False, **({"logits_to_keep": rows} if self._keeps else {}),
            ).logits  # fmt: skip
        return found[:, -rows:].cpu()
