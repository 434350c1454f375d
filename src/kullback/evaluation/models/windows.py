"""A text as documents, and their tokens as windows that a model reads at a time."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.files import LocalFile

__all__ = ["Window", "Windows", "batches", "first_row", "padded", "read_documents", "windows_of"]

Windows = Literal["overlapping", "llama.cpp"]
_LINES = (".jsonl", ".ndjson")


class Window(NamedTuple):
    """Tokens that are read together; those from `first` on are asked for, each by the row before it."""

    ids: NDArray[np.int64]
    first: int
    group: int

    @property
    def rows(self) -> int:
        return len(self.ids) - self.first


def read_documents(
    path: str | os.PathLike[str], field: str, split: bool, by: Sequence[str] = ()
) -> tuple[list[str], dict[str, list[Any]]]:
    """The documents of a text: a line each of JSON lines, what stands between blank lines, or all of it.

    With their labels, which are the fields `by` of the lines.

    Raises
    ------
    ValueError
        If it is no text, or lines of JSON have no such field.
    """
    file = LocalFile(path)
    try:
        text = file.read(file.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    found: list[tuple[str, dict[str, Any]]]
    if os.path.splitext(file.path)[1].lower() not in _LINES:
        if by:
            raise ValueError(f"{file.path}: `by_fields` (--by-field) are of JSON lines (.jsonl), this is plain text")
        found = [(document, {}) for document in (re.split(r"\n(?:[ \t\r]*\n)+", text) if split else [text])]
    elif split:
        raise ValueError(f"{file.path}: each of its lines is a document; blank lines divide plain text")
    else:
        found = [_entry(line, field, f"{file.path}:{number}") for number, line in _lines(text)]
    found = [document for document in found if document[0].strip()]
    if not found:
        raise ValueError(f"{file.path}: is empty, expected text")
    missing = next((name for name in by if all(name not in entry for _, entry in found)), None)
    if missing is not None:
        raise ValueError(f"{file.path}: none of its lines has the field {missing!r}")
    return [document for document, _ in found], {name: [entry.get(name) for _, entry in found] for name in by}


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _entry(line: str, field: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not a line of JSON ({str(error)[:80]})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        raise ValueError(f"{where}: has no text called {field!r}; see --field")
    return str(entry[field]), entry


def windows_of(
    documents: Sequence[NDArray[np.int64]], context: int, stride: int, how: Windows, begin: int | None
) -> list[Window]:
    """The windows of all documents, in order.

    Overlapping: each begins `stride` tokens after the one before, every token is asked for once, in the first window
    that has it: with `context - stride` tokens before it at least, but for the beginning of a document. As llama.cpp:
    all documents as one text, windows side by side, of each the second half asked for, its first token replaced by
    `begin` where the tokenizer puts one, the rest of the text that fills no window left out.

    Their groups are the documents, or the windows where there is one document.
    """
    if how == "llama.cpp":
        text = np.concatenate(documents)
        found = []
        for group in range(len(text) // context):
            ids = text[group * context : (group + 1) * context].copy()
            if begin is not None:
                ids[0] = begin
            found.append(Window(ids, context // 2 + 1, group))
        return found
    found = []
    for group, ids in enumerate(documents):
        asked = 1
        for start in range(0, len(ids), stride):
            window = Window(ids[start : start + context], max(asked - start, 1), group)
            if window.rows > 0:
                found.append(window)
            asked = start + len(window.ids)
            if asked == len(ids):
                break
    if len(documents) == 1:
        found = [window._replace(group=place) for place, window in enumerate(found)]
    return found


def batches(windows: Sequence[Window], size: int) -> Iterator[tuple[int, int, Sequence[Window]]]:
    """(first row, end, windows) of as many windows as a model reads at a time."""
    row = 0
    for place in range(0, len(windows), size):
        some = windows[place : place + size]
        stop = row + sum(window.rows for window in some)
        yield row, stop, some
        row = stop


def first_row(windows: Sequence[Window]) -> int:
    """The first place of any window that predicts a token asked for."""
    return min(window.first for window in windows) - 1


def padded(windows: Sequence[Window]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The ids of windows, (B, T), and which of them are tokens."""
    longest = max(len(window.ids) for window in windows)
    ids = np.zeros((len(windows), longest), np.int64)
    there = np.zeros(ids.shape, np.bool_)
    for row, known, window in zip(ids, there, windows, strict=True):
        row[: len(window.ids)] = window.ids
        known[: len(window.ids)] = True
    return ids, there
