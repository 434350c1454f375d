"""What makes logits of hidden states: the last normalisation of a model, its output weights and what follows them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source

# vocabulary entries multiplied at a time: 64 MiB of float32 weights at 4,096 hidden units
VOCAB_BLOCK = 4096
# weights of up to so many bytes stay in memory: as float32, else as they are stored; others are read for each block of
# rows
HELD_BYTES = 1 << 30
# how far from 1 the mean square of normalised rows may be, and how many of them are no accident
_NEAR, _FEW = 0.005, 4


@dataclass(frozen=True)
class Norm:
    """The last normalisation of a model.

    Attributes
    ----------
    kind : str
        As in `Family.norm`.
    weight, bias : ndarray of float64 (H,); the bias or None
        What rows are multiplied by (1 added where it belongs), and what is added.
    eps : float
    """

    kind: str
    weight: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    eps: float

    def apply(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states normalised, computed in float64."""
        x = states.astype(np.float64)
        if self.kind == "LayerNorm":
            x -= x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + self.eps)
        x *= self.weight
        if self.bias is not None:
            x += self.bias
        return x.astype(np.float32)

    def check(self, states: NDArray[np.float32], applied: bool, path: str) -> None:
        """ValueError if the states are plainly not what was said: normalised rows have mean square 1, or less by eps.

        Nothing is found where the bias is so much larger than a weight that rounding hides what went in.
        """
        bias = np.zeros(1) if self.bias is None else self.bias
        rows = states[np.isfinite(states).all(axis=1) & states.any(axis=1)].astype(np.float64)
        if len(rows) < _FEW or (np.abs(self.weight) <= 0.1 * np.abs(bias)).any():
            return
        spread = np.square((rows - bias) / self.weight).mean(axis=1)
        found = (
            f"this model's {self.kind}: divided by its weights they have mean squares of {spread.min():.4g} to "
            f"{spread.max():.4g}"
        )
        if applied and (spread.min() > 1.02 or spread.max() < 0.5):
            raise ValueError(
                f'`norm` is "applied", but the hidden states in {path} have not gone through {found}, not 1; '
                'norm="model" (--norm model) applies it'
            )
        if not applied and (np.abs(spread - 1) < _NEAR).all():
            raise ValueError(
                f'`norm` is "model", but the hidden states in {path} have gone through {found}; '
                'norm="applied" (--norm applied) says so'
            )


@dataclass
class OutputLayer:
    """Weights (V, H), and what the product with them still lacks; serves several threads.

    Attributes
    ----------
    weights : Source
    norm : Norm or None
        None where only weights are known.
    bias : ndarray of float32 (V,) or None
    scale : float
        What logits are multiplied by, or divided, if `divided`.
    cap : float or None
    known : dict
        Facts about the model, ready for JSON.
    stamps : list
        What tells the files that were read besides the weights from others.
    """

    weights: Source
    norm: Norm | None = None
    bias: NDArray[np.float32] | None = None
    scale: float = 1.0
    divided: bool = False
    cap: float | None = None
    known: dict[str, Any] = field(default_factory=dict)
    stamps: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._held: NDArray[Any] | None = None

    def logits(self, states: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Fill `out` (T, V) with the logits of normalised states (T, H)."""
        for v, weights in self._blocks():
            np.matmul(states, weights.T, out=out[:, v : v + len(weights)])
        if self.bias is not None:
            out += self.bias
        if self.divided:
            out /= np.float32(self.scale)
        elif self.scale != 1:
            out *= np.float32(self.scale)
        if self.cap is not None:
            out /= np.float32(self.cap)
            np.tanh(out, out=out)
            out *= np.float32(self.cap)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first vocabulary entry, weights in float32) of each block."""
        vocab, width = self.weights.shape
        block = np.empty((min(VOCAB_BLOCK, vocab), width), np.float32)
        held = self._hold()
        for v in range(0, vocab, VOCAB_BLOCK):
            end = min(v + VOCAB_BLOCK, vocab)
            if held is None:
                with self._lock:  # no source serves two threads
                    read = self.weights.rows(v, end)
            else:
                read = held[v:end]
            if read.dtype != np.float32:
                np.copyto(block[: end - v], read, casting="same_kind")
                read = block[: end - v]
            yield v, read

    def _hold(self) -> NDArray[Any] | None:
        """The weights in memory, if they fit."""
        entries = self.weights.shape[0] * self.weights.shape[1]
        dtype = self.weights.dtype
        if 4 * entries <= HELD_BYTES:
            dtype = np.dtype(np.float32)
        if dtype.itemsize * entries > HELD_BYTES:
            return None
        with self._lock:
            if self._held is None:
                held = np.empty(self.weights.shape, dtype)
                for v in range(0, len(held), VOCAB_BLOCK):
                    end = min(v + VOCAB_BLOCK, len(held))
                    held[v:end] = self.weights.rows(v, end)
                self._held = held
            return self._held

    def facts(self) -> dict[str, Any]:
        return self.weights.facts() | self.known

    def stamp(self) -> list[Any]:
        return self.weights.stamp() + self.stamps

    def close(self) -> None:
        self.weights.close()
