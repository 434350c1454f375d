"""What the texts of arguments on the command line become, or why not."""

from __future__ import annotations

import argparse
import math
from typing import Any

__all__ = ["condition", "is_number", "limit", "numbers", "positive", "row_range"]


def positive(text: str) -> int:
    if not is_number(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r}, expected a whole number from 1")
    return int(text)


def is_number(text: str) -> bool:
    """Whether it is a whole number that is one of something; a digit may be `²`, and int() has its own limit."""
    return text.isdecimal() and len(text) <= 18


def numbers(text: str) -> list[int]:
    return [positive(word) for word in text.split(",")]


def limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 0: a KL divergence is never below it")
    return value


def condition(text: str) -> Any:
    from kullback.evaluation.gates import parse

    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def row_range(text: str) -> tuple[int, int]:
    first, colon, stop = text.partition(":")
    if not (colon and is_number(first) and is_number(stop) and int(first) < int(stop)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}, expected two row numbers A:B with A < B")
    return int(first), int(stop)
