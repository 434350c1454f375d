"""Hidden states and the output layer: logits rebuilt block by block, at a fraction of their size on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source

# vocabulary entries multiplied at a time: 64 MiB of float32 weights at 4,096 hidden units
VOCAB_BLOCK = 4096
# rows multiplied at a time. Always this many, from a multiple of it: BLAS may round a row differently in a
# matrix of another height, and the same row must give the same bits whatever rows are asked for
ROW_BLOCK = 32


def refuse_hidden(source: Source) -> None:
    """ValueError if what is to be read as logits is called hidden states."""
    if source.array is not None and "hidden_state" in source.array.rpartition("/")[2].lower():
        raise ValueError(
            f"{source.path}: {source.array!r} of shape {source.stored or source.shape} are hidden states, not logits; "
            "lm_head (--lm-head), norm (--norm) and, for states (T, L, H) of several layers, layer (--layer) make "
            "logits of them"
        )


def hidden_states(source: Source, lm_head: Source, norm: str | None, layer: int | None) -> Source:
    """The logits of hidden states of which it is said that they are normalised, and of which layer."""
    if norm != "applied":
        raise ValueError(
            f'`norm` is {norm!r}: say norm="applied" (--norm applied) if the hidden states in {source.path} are those '
            "after the model's last normalisation; of others the output layer makes other logits: normalise them first"
        )
    shape = source.stored or source.shape
    if len(shape) == 3:
        if layer is None or not -shape[1] <= layer < shape[1]:
            raise ValueError(
                f"`layer` is {layer}, expected from 0 to {shape[1] - 1}, or -1 for the last (--layer): {source.path} "
                f"has hidden states of shape {tuple(shape)}, read as (T, L, H); those of a batch are (B*T, H)"
            )
        source = Layer(source, shape[1], layer % shape[1])
    elif layer is not None:
        raise ValueError(f"`layer` is {layer}, but {source.path} has states of one layer, of shape {tuple(shape)}")
    return HiddenStates(source, lm_head, {"norm": norm, "layer": layer})


class Layer(Source):
    """The states (T, H) of one of `count` layers, from an array (T, count, H)."""

    def __init__(self, states: Source, count: int, layer: int) -> None:
        super().__init__(states.path, states.format, (states.shape[0] // count, states.shape[1]), states.dtype)
        self._states, self._count, self._layer = states, count, layer
        self.tokens, self.groups = (None if x is None else x[layer::count] for x in (states.tokens, states.groups))
        self.by_shard = states.by_shard

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for i in range(start, stop):
            row = i * self._count + self._layer
            self._states.rows(row, row + 1, out[i - start : i - start + 1])

    def facts(self) -> dict[str, Any]:
        return self._states.facts()

    def stamp(self) -> list[Any]:
        return self._states.stamp()

    def close(self) -> None:
        self._states.close()


class HiddenStates(Source):
    """Logits (T, V) in float32: hidden states (T, H) times the transposed weights (V, H) of the output layer.

    The hidden states are those after the last normalisation. Weights are read from their file for each call
    of `rows`, block by block, so a call should ask for as many rows as memory allows.
    """

    def __init__(self, hidden: Source, lm_head: Source, said: dict[str, Any]) -> None:
        if hidden.shape[1] != lm_head.shape[1]:
            raise ValueError(
                f"{lm_head.path}: weights of shape {lm_head.shape}, expected (V, {hidden.shape[1]}) to match "
                f"the hidden states in {hidden.path}"
            )
        shape = hidden.shape[0], lm_head.shape[0]
        super().__init__(hidden.path, "hidden states", shape, np.dtype(np.float32), hidden.tokens, hidden.groups)
        self.by_shard = hidden.by_shard
        self._hidden = hidden
        self._lm_head = lm_head
        self._said = said

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        first = start - start % ROW_BLOCK
        width = self._hidden.shape[1]
        blocks = -(-(stop - first) // ROW_BLOCK)
        states = np.zeros((blocks * ROW_BLOCK, width), np.float32)
        last = min(first + len(states), self.shape[0])
        states[: last - first] = self._hidden.rows(first, last)
        product = np.empty((ROW_BLOCK, VOCAB_BLOCK), np.float32)
        for v in range(0, self.shape[1], VOCAB_BLOCK):
            end = min(v + VOCAB_BLOCK, self.shape[1])
            weights = self._lm_head.rows(v, end).astype(np.float32, copy=False).T
            for block in range(blocks):
                row = first + block * ROW_BLOCK
                result = product[:, : end - v]
                np.matmul(states[row - first : row - first + ROW_BLOCK], weights, out=result)
                low, high = max(row, start), min(row + ROW_BLOCK, stop)
                out[low - start : high - start, v:end] = result[low - row : high - row]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"hidden": self._hidden.facts(), "lm_head": self._lm_head.facts()} | self._said

    def stamp(self) -> list[Any]:
        return self._hidden.stamp() + self._lm_head.stamp()

    def close(self) -> None:
        self._hidden.close()
        self._lm_head.close()
