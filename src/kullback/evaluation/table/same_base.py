"""Whether results are of the same rows of the same base: only then do their figures stand in one table."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from kullback.evaluation.table.figures import Base, Figures

__all__ = ["check_comparable"]

_SAME = 1e-9  # relative, of figures of the base that two versions may have rounded differently


def check_comparable(candidates: Sequence[Figures], force: bool = False) -> list[str]:
    """ValueError that names the first two that cannot stand in one table; with `force` what is wrong, as warnings.

    Paths say little, for the same base lies elsewhere on other machines: its entropy and its perplexity over the rows
    compared tell whether it is the same, to the digit.
    """
    first, found = candidates[0], []
    for other in candidates[1:]:
        why = _difference(first, other)
        if why:
            line = f"{_whose(other)} {why}"
            if not force:
                raise ValueError(
                    f"{line}: figures of other rows or another base cannot be ranked together; --force does it all the "
                    "same"
                )
            found.append(f"FORCED: {line}")
    return found


def _whose(one: Figures) -> str:
    return one.result if os.path.basename(one.result) == one.name else f"{one.result} ({one.name})"


def _difference(a: Figures, b: Figures) -> str:
    """How b's base or rows are not a's; empty where they are."""
    mine, his = b.base, a.base
    if mine.convention != his.convention:
        return f"has the figures of {_tool(mine)}, {_whose(a)} those of {_tool(his)}, which leave out other terms of KL"
    for what in ("tokens", "vocab_size", "ignored", "unit"):
        x, y = getattr(mine, what), getattr(his, what)
        if x is not None and y is not None and x != y:
            words = {"tokens": "tokens", "vocab_size": "tokens of vocabulary", "ignored": "ignored tokens"}
            return f"is of {x} {words.get(what, '')}".rstrip() + f", {_whose(a)} of {y}"
    if mine.undefined != his.undefined:  # figures of the base are then of other rows too
        if a.result != b.result and os.path.basename(mine.path) != os.path.basename(his.path):
            return f"has the base {mine.path}, {_whose(a)} the base {his.path}"
        return ""
    if _differ(mine.entropy, his.entropy, _SAME * abs(his.entropy)):
        return f"has a base whose entropy is {mine.entropy:.10g}, that of {_whose(a)} {his.entropy:.10g}"
    if _differ(mine.perplexity, his.perplexity, _tolerance(mine, his)):
        return f"has a base of perplexity {mine.perplexity:.10g}, {_whose(a)} one of {his.perplexity:.10g}"
    return ""


def _differ(x: float, y: float, within: float) -> bool:
    """Of numbers that are both known."""
    return not (math.isnan(x) or math.isnan(y) or x == y or abs(x - y) <= within)


def _tolerance(a: Base, b: Base) -> float:
    """Of the perplexity: the digits that were printed, where they were."""
    printed = [base.decimals for base in (a, b) if base.decimals is not None]
    return 1.01 * 10.0 ** -min(printed) if printed else _SAME * abs(b.perplexity)


def _tool(base: Base) -> str:
    return "llama-perplexity" if base.convention == "llama.cpp" else "kullback"
