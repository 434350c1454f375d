"""What a lower floor offers and a higher one makes, such as the page of a summary.

A method cannot import what is above it. `kullback`, which knows every floor, says at import where such a thing is made;
it is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import Any

from kullback._engine.first_use import import_whole

__all__ = ["made_upstairs", "say_where"]

_HOMES: dict[str, str] = {}


def say_where(homes: dict[str, str]) -> None:
    """Name the module of each function that is made above."""
    _HOMES.update(homes)


def made_upstairs(name: str) -> Any:
    """A function of a higher floor, by its name."""
    return getattr(import_whole(_HOMES[name]), name)
