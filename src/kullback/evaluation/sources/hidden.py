"""Hidden states and the end of their model: logits rebuilt block by block, at a fraction of their size on disk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.output_layer import OutputLayer

# rows multiplied at a time, from a multiple of it, and kept: weights are converted, packed for the processor and, where
# they are too many to be held, read once for each block. The blocks of a file are always the same: BLAS may round a row
# differently in a matrix of another height, and a row must have the same bits whatever rows are asked for
ROW_BLOCK = 256

NORMS = ("applied", "model")


def refuse_hidden(source: Source) -> None:
    """ValueError if what is to be read as logits is called hidden states."""
    if source.array is not None and "hidden_state" in source.array.rpartition("/")[2].lower():
        raise ValueError(
            f"{source.path}: {source.array!r} of shape {source.stored or source.shape} are hidden states, not logits; "
            "lm_head (--lm-head), norm (--norm) and, for states (T, L, H) of several layers, layer (--layer) make "
            "logits of them"
        )


def hidden_states(source: Source, end: OutputLayer, norm: str | None, layer: int | None) -> Source:
    """The logits of hidden states of which it is said whether they are normalised, and of which layer."""
    if norm not in NORMS or (norm == "model" and end.norm is None):
        after = (
            "after the model's last normalisation, as transformers' last_hidden_state and hidden_states[-1] are"
            if end.norm is not None
            else "after the model's last normalisation; of others the output layer makes other logits"
        )
        before = (
            'norm="model" (--norm model) if they are those before it, as vLLM writes them'
            if end.norm is not None
            else 'norm="model" (--norm model), for those before it, needs the model\'s folder as lm_head (--lm-head)'
        )
        raise ValueError(
            f'`norm` is {norm!r}: say norm="applied" (--norm applied) if the hidden states in {source.path} are those '
            f"{after}; {before}"
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
    return HiddenStates(source, end, norm == "applied", {"norm": norm, "layer": layer})


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
    """Logits (T, V) in float32: what the end of a model makes of hidden states (T, H)."""

    def __init__(self, hidden: Source, end: OutputLayer, applied: bool, said: dict[str, Any]) -> None:
        if hidden.shape[1] != end.weights.shape[1]:
            raise ValueError(
                f"{end.weights.path}: weights of shape {end.weights.shape}, expected (V, {hidden.shape[1]}) to match "
                f"the hidden states in {hidden.path}"
            )
        shape = hidden.shape[0], end.weights.shape[0]
        super().__init__(hidden.path, "hidden states", shape, np.dtype(np.float32), hidden.tokens, hidden.groups)
        self.by_shard = hidden.by_shard
        self._hidden, self._end, self._applied, self._said = hidden, end, applied, said
        self._first = -1  # of the block of logits that is kept
        self._block = np.empty((0, shape[1]), np.float32)
        self._checked = end.norm is None

    def _read(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for first in range(start - start % ROW_BLOCK, stop, ROW_BLOCK):
            low, high = max(first, start), min(first + ROW_BLOCK, stop)
            out[low - start : high - start] = self._logits(first)[low - first : high - first]

    def _logits(self, first: int) -> NDArray[np.float32]:
        """The block of logits that begins at row `first`."""
        if self._first != first:
            self._first = -1
            last = min(first + ROW_BLOCK, self.shape[0])
            with np.errstate(all="ignore"):  # what is NaN or infinite stays so, and its rows are counted
                states = self._hidden.rows(first, last).astype(np.float32, copy=False)
                if self._end.norm is not None and not self._checked:
                    self._end.norm.check(states, self._applied, self.path)
                    self._checked = True
                if self._end.norm is not None and not self._applied:
                    states = self._end.norm.apply(states)
                if len(self._block) < last - first:
                    self._block = np.empty((last - first, self.shape[1]), np.float32)
                self._end.logits(states, self._block[: last - first])
            self._first = first
        return self._block

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"hidden": self._hidden.facts(), "lm_head": self._end.facts()} | self._said

    def stamp(self) -> list[Any]:
        return self._hidden.stamp() + self._end.stamp()

    def close(self) -> None:
        self._hidden.close()
        self._end.close()
