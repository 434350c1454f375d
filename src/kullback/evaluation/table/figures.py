"""What a table shows of a candidate, out of the JSON of `kullback compare` or what llama-perplexity printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kullback._engine import keywords
from kullback.evaluation.table.sizes import ModelSize, size_of

__all__ = ["Base", "Figures", "candidate_trees", "figures_of"]

_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Base:
    """What two results must share to be of the same rows of the same base; None or NaN where a result does not say."""

    tokens: int | None
    vocab_size: int | None
    undefined: int
    ignored: int
    unit: str
    convention: str
    perplexity: float
    entropy: float
    path: str
    decimals: int | None = None  # to which the perplexity is printed


@dataclass(frozen=True)
class Figures:
    """Of one candidate; NaN where they are not known.

    Attributes
    ----------
    name, result : str
        The candidate, and the file that has its figures.
    base : Base
    kl : mapping of str to float
        "mean", "median", "max", and quantiles as "p99" and "p99.9".
    error : float
        Of the mean; `grouped` says whether documents are its independent draws.
    intervals : mapping of str to (float, float)
        95 %, by the names of `kl`, where known.
    same_top1, perplexity_ratio, perplexity_ratio_error, acceptance : float
    remarks : tuple of str
        What a reader must know before the figures.
    size : ModelSize or None
        Where the result says it.
    """

    name: str
    result: str
    base: Base
    kl: Mapping[str, float]
    error: float = math.nan
    grouped: bool = False
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    same_top1: float = math.nan
    perplexity_ratio: float = math.nan
    perplexity_ratio_error: float = math.nan
    acceptance: float = math.nan
    remarks: tuple[str, ...] = ()
    size: ModelSize | None = None


def with_normal_interval(mean: float, error: float) -> tuple[float, float]:
    """95 %, as of a mean of many independent draws."""
    return mean - _Z * error, mean + _Z * error


def candidate_trees(tree: Any, path: str) -> list[dict[str, Any]]:
    """The candidates in a result of `kullback compare`; ValueError for anything else."""
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds {type(tree).__name__}, expected a result of `kullback compare --json`")
    if {"rollouts", "audit"} <= tree.keys() or "kullback_rollouts_part" in tree:
        raise ValueError(f"{path}: a result of `kullback rollouts`, expected one of `kullback compare --json`")
    if "kullback_table" in tree:
        raise ValueError(f"{path}: a table, expected the results that it was made of")
    found = tree.get("candidates", [tree])
    if not isinstance(found, list) or not all(isinstance(one, dict) and "kl" in one for one in found):
        raise ValueError(f"{path}: expected a result of `kullback compare --json`, with KL divergences")
    if not found:
        raise ValueError(f"{path}: no candidates in it")
    return found


def figures_of(tree: Mapping[str, Any], name: str, path: str) -> Figures:
    """The figures of one candidate's tree."""
    read = _Reader(tree, f"{path}: {name}")
    kl = {figure: read.number("kl", figure) for figure in ("mean", "median", "max")}
    quantiles = read.get("kl", "quantiles")
    if isinstance(quantiles, dict):
        for level in filter(_level, quantiles):
            kl[f"p{100 * float(level):g}"] = read.number("kl", "quantiles", level)
    error, grouped = read.error("kl")
    ratio, (ratio_error, _) = read.number("perplexity_ratio"), read.error("log_ratio")
    return Figures(
        name, path, _base(read), kl, error, grouped, _intervals(read, kl["mean"], error),
        read.number("same_top1", "mean"), ratio, ratio * ratio_error, read.number("acceptance", "mean"), _remarks(read),
        size_of(tree.get("size")),
    )  # fmt: skip


class _Reader:
    """Values of a tree by their path; what is there must be what is expected."""

    def __init__(self, tree: Mapping[str, Any], where: str) -> None:
        self._tree, self._where = tree, where

    def get(self, *keys: str) -> Any:
        found: Any = self._tree
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def number(self, *keys: str) -> float:
        """NaN where there is none; "inf" and "-inf" as kullback writes them."""
        found = self.get(*keys)
        if found is None:
            return math.nan
        try:
            if isinstance(found, bool) or (isinstance(found, str) and found not in ("inf", "-inf")):
                raise TypeError
            return float(found)
        except (TypeError, OverflowError):
            raise ValueError(f"{self._where}: {'.'.join(keys)} is {keywords.shown(found)}, expected a number") from None

    def whole(self, *keys: str) -> int | None:
        found = self.get(*keys)
        if found is not None and (type(found) is not int or found < 0):
            raise ValueError(f"{self._where}: {'.'.join(keys)} is {keywords.shown(found)}, expected a whole number")
        return found

    def text(self, *keys: str) -> str:
        found = self.get(*keys)
        return found if isinstance(found, str) else ""

    def error(self, quantity: str) -> tuple[float, bool]:
        """Of the mean: between documents where known, else of tokens as if independent."""
        grouped = self.number(quantity, "group_standard_error")
        return (self.number(quantity, "standard_error"), False) if math.isnan(grouped) else (grouped, True)

    def pair(self, *keys: str) -> tuple[float, float] | None:
        found = self.get(*keys)
        if not isinstance(found, list) or len(found) != 2 or None in found:
            return None
        low, high = (_Reader({"end": end}, f"{self._where}: {'.'.join(keys)}").number("end") for end in found)
        return low, high


def _level(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _intervals(read: _Reader, mean: float, error: float) -> dict[str, tuple[float, float]]:
    found = {}
    whole = read.pair("kl", "interval") or read.pair("kl", "group_interval")
    if whole is None and not math.isnan(error):
        whole = with_normal_interval(mean, error)
    if whole is not None:
        found["mean"] = whole
    levels = read.get("kl", "quantile_intervals")
    for level in levels if isinstance(levels, dict) else ():
        ends = read.pair("kl", "quantile_intervals", level)
        if ends is not None and _level(level):
            found[f"p{100 * float(level):g}"] = ends
    return found


def _base(read: _Reader) -> Base:
    tokens = read.whole("tokens")
    if tokens is None:
        raise ValueError(f"{read._where}: without the number of tokens, which `kullback compare --json` writes")
    return Base(
        tokens, read.whole("vocab_size"), read.whole("undefined_rows") or 0, read.whole("ignored_tokens") or 0,
        read.text("unit") or "nats", "kullback", read.number("perplexity_p"), read.number("entropy_p", "mean"),
        read.text("p", "path"),
    )  # fmt: skip


def _remarks(read: _Reader) -> tuple[str, ...]:
    found = []
    if read.get("missing_rows"):
        found.append("INCOMPLETE: rows are missing")
    warnings = read.get("warnings")
    if isinstance(warnings, list):
        found += [f"suspicious: {line}" for line in warnings]
    undefined, infinite = read.whole("undefined_rows"), read.whole("kl", "infinite")
    if undefined:
        found.append(f"{undefined} of {read.whole('tokens')} rows have no distribution: figures are without them")
    if infinite:
        rest = read.number("without_infinite", "kl", "mean")
        found.append(
            f"KL is infinite in {infinite} rows: q is 0 where p is not; the mean without them is {rest:.4g}"
            if not math.isnan(rest)
            else f"KL is infinite in {infinite} rows: q is 0 where p is not"
        )
    return tuple(found)
