"""Rows of logs that were left out, or read without a part of them: how many for each reason, and the first."""

from __future__ import annotations

__all__ = ["DAMAGED", "Skipped", "in_figures"]

# of a file from a row on: how many rows came after it nobody knows
DAMAGED = "compressed data that end too early or are damaged"

# what is said of rows that lack an optional part, and are read without it
_PARTLY = ("no mask, ", "tokens: ", "rollout entropy: ", "train entropy: ")


def in_figures(reason: str) -> bool:
    """Whether rows that `Skipped` counts under this reason are in the figures, but for a part of them."""
    return reason.startswith(_PARTLY)


class Skipped:
    """ParsedRows, or optional parts of rows, that were left out: how many for each reason, and the first of them.

    Attributes
    ----------
    reasons : dict of str to (count, file, row)
        `file` is the number of the file, `row` that of the row in it, from 0.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, int, int]] = {}

    def add(self, reason: str, file: int, row: int, count: int = 1) -> None:
        """Count rows; `row` is the first of them."""
        seen, *first = self.reasons.get(reason, (0, file, row))
        file, row = min((first[0], first[1]), (file, row))
        self.reasons[reason] = seen + count, file, row

    def taken(self) -> Skipped:
        """What has been counted so far; this one begins again."""
        found = Skipped()
        found.reasons, self.reasons = self.reasons, {}
        return found

    def merge(self, other: Skipped) -> None:
        """Count what `other` has counted too."""
        for reason, (count, file, row) in other.reasons.items():
            self.add(reason, file, row, count)

    def __eq__(self, other: object) -> bool:
        return self.reasons == other.reasons if isinstance(other, Skipped) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
