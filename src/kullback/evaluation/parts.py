"""The further statistics of a job: breakdowns, clipping, agreement, the worst tokens, llama.cpp's own.

Every class here is a part of `ComparisonSummary.parts`: `merge` gives the statistic of both sides' rows, in any order
to the same bits, and `to_dict` what goes into JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import Estimate, Mean, json_number
from kullback.evaluation import llama_cpp
from kullback.evaluation.columns import LLAMA_CPP_PREFIX

CONFIDENCE_EDGES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)  # of p's greatest probability
MOST_POSITIONS = 64
WORST = 20
CONTEXT = 12  # tokens shown before one of the worst
_BROKEN_DOWN = ("kl", "same_top1", "acceptance", "log_ratio", "delta_prob")
Columns = Mapping[str, NDArray[Any]]


@dataclass(eq=True)
class Breakdown:
    """KL, agreement, acceptance, log-ratio and Δp by bins of something else.

    Positions are binned by `width`, a power of two, so that bins of two widths nest and merge exactly; other keys
    have width 0 and the edges of `labels`.
    """

    bins: dict[int, dict[str, Mean]]
    labels: tuple[str, ...] = ()
    width: int = 0

    @classmethod
    def of(cls, keys: NDArray[np.int64], columns: Columns, labels: tuple[str, ...] = (), width: int = 0) -> Breakdown:
        """Rows with a negative key are left out."""
        bins = {}
        for key in np.unique(keys[keys >= 0]).tolist():
            inside = keys == key
            bins[key] = {name: Mean(columns[name][inside]) for name in _BROKEN_DOWN if name in columns}
        return cls(bins, labels, width)

    def merge(self, other: Breakdown) -> Breakdown:
        if self.labels != other.labels or bool(self.width) != bool(other.width):
            raise ValueError("`other` is broken down by other bins, expected the same")
        width = max(self.width, other.width)
        bins: dict[int, dict[str, Mean]] = {}
        for part in (self, other):
            for key, means in part.bins.items():
                into = bins.setdefault(key * part.width // width if width else key, {})
                for name, mean in means.items():
                    into[name] = into[name].merge(mean) if name in into else mean
        return Breakdown(bins, self.labels, width)

    def label(self, key: int) -> str:
        if self.labels:
            return self.labels[key]
        return f"{key * self.width}" if self.width == 1 else f"{key * self.width}-{(key + 1) * self.width - 1}"

    def to_dict(self) -> list[dict[str, Any]]:
        tree = []
        for key in sorted(self.bins):
            entry: dict[str, Any] = {"bin": self.label(key)}
            if self.width:
                entry["first"] = key * self.width
            tree.append(entry | {name: mean.to_dict() for name, mean in self.bins[key].items()})
        return tree


def position_width(longest: int) -> int:
    """The least power of two that cuts positions below `longest` into at most MOST_POSITIONS bins."""
    width = 1
    while width * MOST_POSITIONS < longest:
        width *= 2
    return width


@dataclass(eq=True)
class Clipping:
    """What the 16-bit codes of llama.cpp dumps do not tell: the mass below the window, and targets there."""

    rows: int
    mass_p: Mean
    mass_q: Mean
    targets_p: int
    targets_q: int

    @classmethod
    def of(cls, columns: Columns) -> Clipping:
        return cls(
            len(columns["kl"]),
            Mean(columns["clipped_mass_p"]),
            Mean(columns["clipped_mass_q"]),
            int(columns["clipped_target_p"].sum()),
            int(columns["clipped_target_q"].sum()),
        )

    def merge(self, other: Clipping) -> Clipping:
        return Clipping(
            self.rows + other.rows,
            self.mass_p.merge(other.mass_p),
            self.mass_q.merge(other.mass_q),
            self.targets_p + other.targets_p,
            self.targets_q + other.targets_q,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "mass_p": self.mass_p.to_dict(),
            "mass_q": self.mass_q.to_dict(),
            "targets_p": self.targets_p,
            "targets_q": self.targets_q,
        }


@dataclass(eq=True)
class Agreement:
    """How far the k likeliest tokens agree, for each k asked for; `holds`: whether p's likeliest is among q's k."""

    overlap: dict[int, Mean]
    ordered: dict[int, Mean]
    holds: dict[int, Mean]

    @classmethod
    def of(cls, columns: Columns) -> Agreement:
        ks = sorted(int(name[3:-8]) for name in columns if name.startswith("top") and name.endswith("_overlap"))
        return cls(*({k: Mean(columns[f"top{k}_{what}"]) for k in ks} for what in ("overlap", "ordered", "holds")))

    def merge(self, other: Agreement) -> Agreement:
        if self.overlap.keys() != other.overlap.keys():
            raise ValueError(f"`other` has top {sorted(other.overlap)}, expected {sorted(self.overlap)}")
        return Agreement(
            {k: mean.merge(other.overlap[k]) for k, mean in self.overlap.items()},
            {k: mean.merge(other.ordered[k]) for k, mean in self.ordered.items()},
            {k: mean.merge(other.holds[k]) for k, mean in self.holds.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            f"{k}": {
                "overlap": self.overlap[k].to_dict(),
                "same_order": self.ordered[k].to_dict(),
                "holds_top1": self.holds[k].to_dict(),
            }
            for k in self.overlap
        }


@dataclass(eq=True)
class WorstTokens:
    """The tokens with the greatest KL, with the tokens before them."""

    tokens: list[dict[str, Any]]

    @classmethod
    def of(cls, columns: Columns, targets: NDArray[np.int64] | None) -> WorstTokens:
        """`targets` are the tokens of all rows of the file, for context."""
        kl = columns["kl"]
        rows = columns["row"]
        order = np.lexsort((rows, -np.nan_to_num(kl, nan=-1.0, posinf=np.inf)))[:WORST]
        found = []
        for i in order.tolist():
            if math.isnan(kl[i]):
                continue
            entry: dict[str, Any] = {"row": int(rows[i]), "position": int(columns["position"][i])}
            if "group" in columns:
                entry["group"] = int(columns["group"][i])
            entry["kl"] = float(kl[i])
            entry["top1_p"], entry["top1_q"] = int(columns["top1_p"][i]), int(columns["top1_q"][i])
            if "log_prob_p" in columns:
                entry["token"] = int(columns["token"][i])
                entry["log_prob_p"], entry["log_prob_q"] = (float(columns[f"log_prob_{side}"][i]) for side in "pq")
            if targets is not None:
                first = entry["row"] - min(CONTEXT, entry["position"])
                entry["context"] = targets[first : entry["row"]].tolist()
            found.append(entry)
        return cls(found)

    def add_text(self, decode: Callable[[Sequence[int]], str]) -> None:
        """Put the tokens in words, for reports."""
        for entry in self.tokens:
            names = [name for name in ("token", "top1_p", "top1_q") if entry.get(name, -1) >= 0]
            entry["text"] = {name: decode([entry[name]]) for name in names}
            if "context" in entry:
                entry["text"]["context"] = decode([token for token in entry["context"] if token >= 0])

    def merge(self, other: WorstTokens) -> WorstTokens:
        both = sorted(self.tokens + other.tokens, key=lambda entry: (-entry["kl"], entry["row"]))
        return WorstTokens(both[:WORST])

    def to_dict(self) -> list[dict[str, Any]]:
        return [
            {name: json_number(x) if isinstance(x, float) else x for name, x in entry.items()} for entry in self.tokens
        ]


@dataclass
class Convention:
    """llama.cpp's own per-token values, and from them the statistics that it prints."""

    parts: dict[int, llama_cpp.LlamaCppTokens]  # by first row
    note: str = ""

    @classmethod
    def of(cls, columns: Columns) -> Convention:
        names = [f.name for f in fields(llama_cpp.LlamaCppTokens)]
        values = llama_cpp.LlamaCppTokens(*(columns[LLAMA_CPP_PREFIX + name] for name in names))
        return cls({int(columns["row"][0]) if len(values.kld) else -1: values})

    def merge(self, other: Convention) -> Convention:
        return Convention(self.parts | other.parts, self.note or other.note)

    @property
    def tokens(self) -> llama_cpp.LlamaCppTokens:
        return llama_cpp.concatenate([self.parts[row] for row in sorted(self.parts)])

    @property
    def statistics(self) -> llama_cpp.LlamaCppStatistics:
        return llama_cpp.statistics(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        found = self.statistics
        tree: dict[str, Any] = {"tokens": found.tokens, "note": self.note}
        for f in fields(found):
            value = getattr(found, f.name)
            if isinstance(value, Estimate):
                tree[f.name] = [json_number(float(value.mean)), json_number(float(value.standard_error))]
            elif isinstance(value, dict):
                tree[f.name] = {f"{level:g}": json_number(float(x)) for level, x in value.items()}
            elif isinstance(value, float):
                tree[f.name] = json_number(value)
        return tree

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Convention):
            return NotImplemented
        return self.note == other.note and all(
            np.array_equal(getattr(self.tokens, f.name), getattr(other.tokens, f.name), equal_nan=f.name != "same_top")
            for f in fields(llama_cpp.LlamaCppTokens)
        )

    __hash__ = None  # type: ignore[assignment]


def confidence_labels() -> tuple[str, ...]:
    edges = [f"{edge:g}" for edge in CONFIDENCE_EDGES]
    return tuple(f"{low}-{high}" for low, high in pairwise(edges))
