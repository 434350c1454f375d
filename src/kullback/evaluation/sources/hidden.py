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


class HiddenStates(Source):
    """Logits (T, V) in float32: hidden states (T, H) times the transposed weights (V, H) of the output layer.

    The hidden states are those after the last normalisation. Weights are read from their file for each call
    of `rows`, block by block, so a call should ask for as many rows as memory allows.
    """

    def __init__(self, hidden: Source, lm_head: Source) -> None:
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
        return super().facts() | {"hidden": self._hidden.facts(), "lm_head": self._lm_head.facts()}

    def stamp(self) -> list[Any]:
        return self._hidden.stamp() + self._lm_head.stamp()

    def close(self) -> None:
        self._hidden.close()
        self._lm_head.close()
