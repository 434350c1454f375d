"""Tables in a width given: what does not fit goes on further lines. No cell is ever cut, for its digits would lie."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from typing import IO

from kullback.evaluation.text import visible

__all__ = ["Output", "Paragraph", "PrintedTable"]

_GAP = "  "
_LEAST = 40  # columns to be laid out for, however narrow the terminal says it is


class Output:
    """Standard output, or a file, with its width: a terminal's own, and 80 columns elsewhere."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self.file = sys.stdout if file is None else file
        terminal = hasattr(self.file, "isatty") and self.file.isatty()
        columns = os.environ.get("COLUMNS", "")
        self.width = 80
        if terminal or columns.isdigit():
            self.width = max(_LEAST, shutil.get_terminal_size((80, 24)).columns)
        self.bold = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def print(self, what: str | Paragraph | PrintedTable = "", bold: bool = False) -> None:
        """A table, a paragraph, or a line: made printable, not wrapped."""
        lines = [(visible(what, "\n"), bold)] if isinstance(what, str) else what.lines(self.width)
        for line, strong in lines:
            print(f"\x1b[1m{line}\x1b[0m" if strong and self.bold and line else line, file=self.file)


class Paragraph:
    """Text that is wrapped between words."""

    def __init__(self, text: str) -> None:
        self._text = visible(text)

    def lines(self, width: int) -> list[tuple[str, bool]]:
        """Lines of at most `width` columns, unless one word alone is wider; none of them a heading."""
        return [(line, False) for line in _wrapped_text(self._text, width)]


class PrintedTable:
    """Rows of cells under headings: the first column is a label, the others are numbers, to the right.

    Where the columns do not fit side by side, the rest stands below, under the same labels. A label wider than half
    the space has a line of its own. With `text`, there are two columns without headings and the second is wrapped.
    """

    def __init__(self, *columns: str, title: str | None = None, text: bool = False) -> None:
        self._rows = [[visible(column) for column in columns]]
        self._title, self._text = title, text

    def add_row(self, *cells: str) -> None:
        if len(cells) != len(self._rows[0]):
            raise ValueError(f"`cells` has {len(cells)} entries, expected {len(self._rows[0])}")
        self._rows.append([visible(cell) for cell in cells])

    def lines(self, width: int) -> list[tuple[str, bool]]:
        """Lines of at most `width` columns, unless one cell alone is wider, and whether each is a heading."""
        if self._text:
            return self._wrapped(width)
        found = [(self._title, True)] if self._title else []
        widths = [max(map(columns_of, column)) for column in zip(*self._rows, strict=True)]
        narrow = [columns_of(row[0]) for row in self._rows if columns_of(row[0]) <= width // 2]
        label = max(narrow, default=0)
        first = 1
        while True:
            last, used = first, label
            while last < len(widths) and (last == first or used + len(_GAP) + widths[last] <= width):
                used += len(_GAP) + widths[last]
                last += 1
            for i, row in enumerate(self._rows):
                start = row[0]
                if columns_of(start) > label:
                    found.append((start, i == 0))
                    start = ""
                cells = [_padded(start, label)]
                cells += [_padded(row[c], widths[c], right=True) for c in range(first, last)]
                found.append((_GAP.join(cells).rstrip(), i == 0))
            if last >= len(widths):
                return found
            found.append(("", False))
            first = last

    def _wrapped(self, width: int) -> list[tuple[str, bool]]:
        label = max((columns_of(row[0]) for row in self._rows[1:]), default=0)
        space = max(width - label - len(_GAP), _LEAST // 2)
        found = []
        for name, text in self._rows[1:]:
            pieces = _wrapped_text(text, space)
            for i, piece in enumerate(pieces):
                found.append(((_padded(name if i == 0 else "", label) + _GAP + piece).rstrip(), False))
        return found


def _wrapped_text(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def columns_of(text: str) -> int:
    """Columns that `text` takes on a terminal: two for the wide characters of East Asia, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )  # fmt: skip


def _padded(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - columns_of(text))
    return space + text if right else text + space
