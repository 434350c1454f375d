"""How a batch of sequences lies in memory: padded (B, T) with a mask, or packed (N,) with offsets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kullback._engine import ragged, views

BLOCK = 1 << 16  # elements of scratch: float64 values, mask and products of one block stay in the second-level cache


def as_floats(name: str, x: Any) -> NDArray[Any]:
    """`x` as an array of real numbers, viewed where NumPy can."""
    array = views.plain(x, name)
    if not views.is_real(array.dtype):
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected real numbers")
    return array


def as_mask(mask: ArrayLike, shape: tuple[int, ...], like: str) -> NDArray[np.bool_]:
    """`mask` as booleans of `shape`; numbers are taken when every one is 0 or 1."""
    array = views.plain(mask, "mask")
    if array.shape != shape:
        raise ValueError(f"`mask` has shape {array.shape}, expected {shape} to match `{like}`")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "fiu":
        raise TypeError(f"`mask` has dtype {array.dtype}, expected booleans or 0 and 1")
    if array.dtype == np.uint8 and array.max(initial=0) <= 1:
        return array.view(np.bool_)
    kept = array.astype(np.bool_)
    if not np.array_equal(kept, array):
        raise ValueError("`mask` holds values other than 0 and 1, expected 1 to keep a token and 0 to skip it")
    return kept


@dataclass(frozen=True)
class TokenBatch:
    """Sequences in either layout; `values`, `mask` and everything else per token share one shape."""

    shape: tuple[int, ...]
    mask: NDArray[np.bool_] | None
    offsets: NDArray[np.int64] | None

    @classmethod
    def of(cls, values: NDArray[Any], mask: ArrayLike | None, offsets: ArrayLike | None, name: str) -> TokenBatch:
        """Check `mask` and `offsets` against `values`, called `name` in messages."""
        if offsets is None and values.ndim < 2:
            raise ValueError(f"`{name}` has shape {values.shape}, expected (B, T), or (N,) with `offsets` (B + 1,)")
        if offsets is not None and values.ndim != 1:
            raise ValueError(f"`{name}` has shape {values.shape}, expected (N,) because `offsets` was given")
        kept = None if mask is None else as_mask(mask, values.shape, name)
        ends = None if offsets is None else ragged.offsets_within(offsets, "offsets", values.shape[0], name)
        return cls(values.shape, kept, ends)

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape of one value a sequence."""
        return self.shape[:-1] if self.offsets is None else (self.offsets.size - 1,)

    def expand(self, per_sequence: NDArray[Any]) -> NDArray[Any]:
        """One value a sequence -> the same value at each of its tokens."""
        if self.offsets is None:
            return np.broadcast_to(per_sequence[..., None], self.shape)
        return np.repeat(per_sequence, np.diff(self.offsets))

    def last_kept(self) -> NDArray[np.int64]:
        """Index of each sequence's last unmasked token in the flattened batch, -1 where there is none."""
        ends = self._ends()
        last = ends[1:] - 1
        if self.mask is not None:
            kept = np.flatnonzero(self.mask)
            before_end = np.searchsorted(kept, ends[1:]) - 1
            last = np.where(before_end >= 0, kept[before_end], -1) if kept.size else np.full(last.shape, -1)
        return np.where(last >= ends[:-1], last, -1)

    def _ends(self) -> NDArray[np.int64]:
        if self.offsets is not None:
            return self.offsets
        return np.arange(math.prod(self.leading) + 1, dtype=np.int64) * self.shape[-1]

    def blocks(self, *arrays: NDArray[Any]) -> Iterator[tuple[slice, list[NDArray[Any]], NDArray[np.int64]]]:
        """Groups of whole sequences, about BLOCK tokens each: (which, flat slices of `arrays`, ends)."""
        ends = self._ends()
        first, sequences = 0, ends.size - 1
        flat = [a.reshape(sequences, -1) if self.offsets is None and a.size else a for a in arrays]
        while first < sequences:
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + BLOCK, side="right")) - 1)
            if self.offsets is None:
                tokens = [a[first:last].reshape(-1) for a in flat]
            else:
                tokens = [a[ends[first] : ends[last]] for a in flat]
            yield slice(first, last), tokens, ends[first : last + 1] - ends[first]
            first = last
