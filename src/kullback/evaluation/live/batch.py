"""What one update brings: logits of any framework seen as rows, with their tokens and groups; padding left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import as_mask, keywords, views
from kullback.evaluation.reading import CHUNK_BYTES
from kullback.evaluation.sources.base import float_dtype

__all__ = ["Incoming", "viewed"]

_SHORT = 16  # rows: where runs are shorter in the mean they are copied together, a call each would cost more


def viewed(x: Any, name: str) -> NDArray[Any]:
    """Logits as an array (T, V) or (B, T, V) where they lie; one row (V,) is (1, V)."""
    array, _ = views.stored(x, name)
    if views.is_tensor(x):
        kind = next((kind for kind in views.FLOATS if not kind.numpy and str(x.dtype) == f"torch.{kind.name}"), None)
        array = array if kind is None else array.view(float_dtype(kind.name, f"`{name}`"))
    if array.dtype.names is not None or array.ndim not in (1, 2, 3):
        raise ValueError(f"`{name}` has shape {array.shape}, expected (T, V), (B, T, V) or one row (V,)")
    if array.shape[-1] == 0:
        raise ValueError(f"`{name}` has shape {array.shape}, expected a vocabulary of at least 1")
    return array[None] if array.ndim == 1 else array


class Incoming:
    """The rows of an update: which of the leading places (T,) or (B, T) are rows, their tokens and groups.

    Parameters
    ----------
    lead : tuple of int
        (T,) or (B, T) of the logits.
    mask : array_like of bool, optional
        Places that are rows; the others are padding and never read.
    tokens : array_like of int, optional
    groups : array_like of int, optional
        One a row, one a sequence (B,), or one for all.
    """

    def __init__(self, lead: tuple[int, ...], mask: Any, tokens: Any, groups: Any) -> None:
        self.lead = lead
        count = int(np.prod(lead, dtype=np.int64))
        kept = None if mask is None else as_mask(mask, lead, "logits").reshape(-1)
        self.places = np.arange(count) if kept is None else np.flatnonzero(kept)
        self.tokens = None if tokens is None else self._of_rows(tokens, "tokens", (lead,))
        whole = (lead, lead[:1], ()) if len(lead) == 2 else (lead, ())
        self.groups = None if groups is None else self._of_rows(groups, "groups", whole)

    @property
    def sequences(self) -> NDArray[np.int64]:
        """Of each row the place of its sequence in the batch."""
        return self.places // self.lead[-1] if len(self.lead) == 2 else np.zeros_like(self.places)

    def _of_rows(self, values: Any, name: str, shapes: tuple[tuple[int, ...], ...]) -> NDArray[np.int64]:
        found = views.whole_numbers(values, name)
        if self.lead == (1,) and found.shape == ():
            found = found[None]
        if found.shape not in shapes:
            listed = " or ".join(map(str, dict.fromkeys(shapes)))
            raise ValueError(f"`{name}` has shape {found.shape}, expected {listed}, as the rows of the logits")
        if found.ndim < len(self.lead):
            found = np.broadcast_to(found[..., None], self.lead)
        return np.ascontiguousarray(found.reshape(-1)[self.places])

    def spans(self, arrays: list[NDArray[Any]], most: int) -> Iterator[tuple[int, int]]:
        """(first, end) of rows that are looked at together, `most` at a time; where it pays, such as lie together."""
        ends = np.flatnonzero(np.diff(self.places) != 1) + 1
        if not all(flat(array) for array in arrays):
            ends = np.union1d(ends, np.flatnonzero(np.diff(self.sequences)) + 1)
        count = len(self.places)
        if len(ends) and count < _SHORT * len(ends):
            ends = ends[:0]
        for begin, end in zip([0, *ends.tolist()], [*ends.tolist(), count], strict=True):
            for first in range(begin, end, most):
                yield first, min(first + most, end)

    def rows(self, array: NDArray[Any], name: str, first: int, end: int) -> NDArray[Any]:
        """Some rows as (n, V): a view where they lie side by side, else a copy of these."""
        places = self.places[first:end]
        together = places[-1] - places[0] == len(places) - 1
        if array.ndim == 3:
            (sequence, place), length = divmod(int(places[0]), array.shape[1]), array.shape[1]
            if together and flat(array):
                array = array.reshape(-1, array.shape[2])
            elif together and place + len(places) <= length:
                array, places = array[sequence], places - sequence * length
            else:
                return kernels(array[places // length, places % length], name)
        return kernels(array[places[0] : places[-1] + 1] if together else array[places], name)


def flat(array: NDArray[Any]) -> bool:
    """Whether the sequences lie behind each other, so that they are rows of one matrix."""
    return array.ndim == 2 or array.strides[0] == array.shape[1] * array.strides[1]


def kernels(rows: NDArray[Any], name: str) -> NDArray[Any]:
    """As one of the float types; integers and other numbers become float64, a span at a time."""
    known = rows.dtype.isnative and rows.dtype.name in (kind.name for kind in views.FLOATS)
    return rows if known else views.reals(rows, name)


def same_lead(array: NDArray[Any], lead: tuple[int, ...], name: str) -> None:
    if array.shape[:-1] != lead:
        expected = ", ".join(map(str, lead))
        raise ValueError(f"`{name}` has shape {array.shape}, expected ({expected}, V): rows of the same tokens")


def names_of_candidates(x: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Logits by candidate: a mapping, or those of the only one."""
    found = dict(x) if isinstance(x, dict) else {known[0] if known else "q": x}
    wrong = next((name for name in found if not isinstance(name, str)), None)
    if wrong is not None:
        raise TypeError(f"the candidates have the name {keywords.shown(wrong)}, expected text")
    if not found:
        raise ValueError("no candidate, expected the logits of one at least")
    if known and set(found) != set(known):
        raise ValueError(f"the candidates are {', '.join(found)}, expected {', '.join(known)} as in the first update")
    return {name: found[name] for name in known or found}


def rows_together(arrays: Sequence[NDArray[Any]]) -> int:
    """Rows of all of them, and of a reference, that are looked at together."""
    row: int = 2 * sum(x.dtype.itemsize * x.shape[-1] for x in arrays)
    return max(1, CHUNK_BYTES // row)


def common_vocabulary(sizes: Mapping[str, int], asked: int | None) -> int:
    """The vocabulary compared; ValueError where those of the base, which comes first, and a candidate differ."""
    least = min(sizes.values())
    if asked is not None:
        if asked > least:
            raise ValueError(f"`vocab_size` is {asked}, expected from 1 to {least}")
        return asked
    (base, first), *others = sizes.items()
    for name, size in others:
        if size != first:
            raise ValueError(
                f"{name} has a vocabulary of {size}, {base} one of {first}; if the further columns are padding, "
                f"compare the first {least}: vocab_size={least}"
            )
    return first
