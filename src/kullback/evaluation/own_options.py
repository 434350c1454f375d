"""How one file of a job is read where the others are read otherwise: `read=` and `--read FILE:OPTION=VALUE`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from kullback._engine import keywords
from kullback.evaluation.sources.base import ReaderOptions

__all__ = ["collected", "heads", "parse", "resolved"]

BASE, CANDIDATES = "p", "q"
_FORM = "expected FILE:OPTION=VALUE, as in p:tensor=logits or q4.npy:lm-head=models/base"


def parse(text: str) -> tuple[str, str, Any]:
    """(file, option, value) of `FILE:OPTION=VALUE`; a flag goes without its value."""
    named, equals, given = text.partition("=")
    which, colon, word = named.rpartition(":")
    option = word.replace("-", "_")
    if not (colon and which and option in ReaderOptions.__annotations__):
        words = ", ".join(name.replace("_", "-") for name in ReaderOptions.__annotations__)
        raise ValueError(f"{text[:80]!r}: {_FORM}; options are {words}")
    if option == "salvage":
        if equals:
            raise ValueError(f"{text[:80]!r}: salvage takes no value")
        return which, option, True
    if not given:
        raise ValueError(f"{text[:80]!r}: {_FORM}")
    if option == "layer":
        try:
            return which, option, int(given)
        except ValueError:
            raise ValueError(f"{text[:80]!r}: layer takes a whole number") from None
    return which, option, given


def collected(options: Iterable[tuple[str, str, Any]]) -> dict[str, ReaderOptions]:
    """Options parsed, by file; ValueError for one that is given twice."""
    found: dict[str, dict[str, Any]] = {}
    for which, option, value in options:
        if option in found.setdefault(which, {}):
            raise ValueError(f"--read {which}:{option.replace('_', '-')} is given twice")
        found[which][option] = value
    return cast(dict[str, ReaderOptions], found)


def resolved(read: Any, names: Sequence[str]) -> list[ReaderOptions]:
    """The options of the base and of each candidate; what is said of one goes before what is said of all candidates."""
    if read is None:
        return [{}] * (1 + len(names))
    if not isinstance(read, Mapping) or not all(isinstance(x, Mapping) for x in read.values()):
        raise TypeError(f"`read` is {keywords.shown(read)}, expected options of open_logits in a mapping, by file")
    known = (BASE, CANDIDATES, *names)
    for which, options in read.items():
        if which not in known:
            raise ValueError(f"`read` (--read) names {which!r}, expected one of {', '.join(known)}")
        if which in (BASE, CANDIDATES) and which in names:
            raise ValueError(f"`read` (--read) names {which!r}, which a candidate is called too; give it another name")
        unknown = [name for name in options if name not in ReaderOptions.__annotations__]
        if unknown:
            expected = ", ".join(ReaderOptions.__annotations__)
            raise TypeError(f"`read` has the option {unknown[0]!r} for {which!r}, expected of {expected}")
    of_all = read.get(CANDIDATES, {})
    return [read.get(BASE, {}), *(cast(ReaderOptions, {**of_all, **read.get(name, {})}) for name in names)]


def heads(options: Mapping[str, Any]) -> list[Any]:
    """What else than the files themselves the options name as read."""
    read = options.get("read")
    own = [one.get("lm_head") for one in read.values() if isinstance(one, Mapping)] if isinstance(read, Mapping) else []
    return [x for x in (options.get("lm_head"), *own) if x is not None and not isinstance(x, bytes)]
