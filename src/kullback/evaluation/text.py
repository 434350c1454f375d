"""Text that comes from files (names, tokens, messages): shown as it is, never obeyed."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

__all__ = ["json_text", "labels", "short", "unlike", "visible"]


def visible(text: object, keep: str = "") -> str:
    r"""`text` with everything that does not print written out: a file cannot move the cursor, colour a line or turn it.

    Bytes of a file name that are not UTF-8 and ASCII controls become \xNN; other controls, directional marks,
    line separators and unassigned characters become \uNNNN. The characters of `keep` stay.
    """
    found = str(text)
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in found)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries the byte `code - 0xDC00` of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_text(text: str) -> str:
    r"""JSON as it may go to a terminal or a file: what does not print becomes \uNNNN, which every parser undoes.

    So do the lone surrogates \udc80 to \udcff that stand for bytes of a path that are not UTF-8.
    """

    def escaped(character: str) -> str:
        if character.isprintable() or character == "\n":
            return character
        units = character.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2))

    return text if text.isascii() else "".join(map(escaped, text))


def labels(paths: Sequence[str]) -> list[str]:
    """File names, preceded by as many of their folders as tell different paths apart; printable."""
    parts = [path.rstrip("/").split("/") or [path] for path in map(os.fspath, paths)]
    depths = [1] * len(parts)
    while True:
        tails = [tuple(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        clashing = [
            i
            for i, tail in enumerate(tails)
            if depths[i] < len(parts[i]) and any(tail == tails[j] and parts[i] != parts[j] for j in range(len(tails)))
        ]
        if not clashing:
            return [visible("/".join(tail)) or "/" for tail in tails]
        for i in clashing:
            depths[i] += 1


def unlike(names: Sequence[str]) -> list[str]:
    """The same names, numbered where one comes again."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def short(x: float | None, digits: int = 4) -> str:
    """A number in few characters: 4 significant digits, an exponent where zeros would hide them."""
    if x is None or math.isnan(x):
        return "-"
    if x == 0 or math.isinf(x):
        return f"{x:g}"
    if 1e-4 <= abs(x) < 1e5:
        text = f"{x:#.{digits}g}".removesuffix(".")
        return text if "e" not in text else f"{x:.0f}"
    mantissa, _, exponent = f"{x:.{max(digits - 2, 1)}e}".partition("e")
    return f"{mantissa}e{int(exponent)}"
