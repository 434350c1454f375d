"""Where sequences come from: a label each, or several by what they tell of it, as worker and environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords

__all__ = ["kinds_of", "packed", "source_name", "source_texts"]

Texts = NDArray[np.str_]

# several labels of a sequence are kept as one text, so that parts have the same columns whatever they know
_OF, _NEXT = "\x1f", "\x1e"


def packed(sources: Any, count: int) -> Texts:
    """The column of labels, "" where there is none."""
    if sources is None:
        return np.full(count, "", dtype="<U1")
    if not isinstance(sources, Mapping):
        return np.array([str(label) for label in _labels(sources, "sources", count)], dtype=np.str_).reshape(count)
    columns = {str(kind): _labels(labels, f"sources[{kind!r}]", count) for kind, labels in sources.items()}
    texts = [
        _NEXT.join(f"{kind}{_OF}{_plain(labels[i])}" for kind, labels in columns.items() if labels[i] is not None)
        for i in range(count)
    ]
    return np.array(texts, dtype=np.str_).reshape(count)


def _labels(x: Any, name: str, count: int) -> tuple[Any, ...]:
    labels = keywords.several(x, name, "one label a sequence")
    if any(np.ndim(label) for label in labels):
        raise TypeError(f"`{name}` holds arrays, expected one label a sequence")
    if len(labels) != count:
        raise ValueError(f"`{name}` has {len(labels)} labels, expected {count}: one a sequence")
    return labels


def _plain(label: Any) -> str:
    return str(label).replace(_OF, " ").replace(_NEXT, " ")


def _split(text: str) -> dict[str, str]:
    """Labels by kind; that of one kind alone has the kind ""."""
    if _OF not in text:
        return {"": text} if text else {}
    return dict(part.split(_OF, 1) for part in text.split(_NEXT))


def kinds_of(column: Texts) -> dict[str, Texts]:
    """The labels of all sequences by kind, "" where a sequence has none."""
    texts, which = np.unique(column, return_inverse=True)
    parts = [_split(text) for text in texts.tolist()]
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    return {kind: np.array([part.get(kind, "") for part in parts], dtype=np.str_)[which] for kind in kinds}


def source_name(kind: str, label: str) -> str:
    """As a finding names it: text in quotes, a number as it is."""
    if label.isdecimal():
        return f"{kind or 'source'} {label}"
    return f"{kind} {label!r}" if kind else repr(label)


def source_texts(column: Texts) -> Texts:
    """As a table shows it."""
    texts, which = np.unique(column, return_inverse=True)
    words = [
        ", ".join(f"{kind} {label}" if kind else label for kind, label in _split(t).items()) for t in texts.tolist()
    ]
    return np.array(words, dtype=np.str_)[which] if words else column
