"""From the state of an audit to its findings: what was seen, how sure, where, what it does to the KL, what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import counted
from kullback.rlhf.auditing.catalogue import AUDIT_CHECKS, NAMES, TESTED, Severity
from kullback.rlhf.auditing.marks import SIDES
from kullback.rlhf.auditing.sources import source_name
from kullback.rlhf.auditing.state import State

__all__ = ["Finding", "from_marks", "from_rows", "mean_k3", "share_words", "threshold", "two_sided", "without_echoes"]

SHOWN = 5  # places named in a finding
UNLIKE = 2.0  # times the mean -log-prob of sampled tokens: what those of a prompt have


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Attributes
    ----------
    check : str
        A name of `AUDIT_CHECKS`.
    severity : {"error", "warning", "note"}
        An error makes the KL a number of something else; a warning makes it one of another policy; a note says how
        far it can be trusted.
    confidence : float
        1 less a bound on the chance of finding as much in a clean run of this size.
    tokens, sequences : int
        How many are concerned.
    share_of_tokens, share_of_sequences : float
        Of those audited.
    where : tuple of (int, int)
        The first few, as (sequence, position): from 0, from the first entry of the sequence, masked ones counted too.
    seen, advice : str
        What was seen; what to do.
    effect : tuple of float
        The mean of k3 per token, KL(rollout‖train), of the sound tokens with these and without them: broken tokens
        that other findings name are in neither. NaN where none are left.
    unsound : bool
        Whether these tokens are left out of `AuditReport.mismatch`, as no log-probs of their tokens.
    """

    check: str
    severity: Severity
    confidence: float
    tokens: int
    sequences: int
    share_of_tokens: float
    share_of_sequences: float
    where: tuple[tuple[int, int], ...]
    seen: str
    effect: tuple[float, float]
    advice: str
    unsound: bool = False

    def __str__(self) -> str:
        places = ", ".join(f"{sequence}:{position}" for sequence, position in self.where)
        more = ", ..." if self.sequences > len(self.where) else ""
        where = f"; at sequence:position {places}{more}" if places else ""
        return "\n".join([
            f"{self.severity}: {self.check}: {self.seen}",
            f"    {self.share}{where}",
            f"    KL (k3) {self.effect_in_words}; {_percent(self.confidence)} sure",
            f"    {self.advice}",
        ])  # fmt: skip

    @property
    def share(self) -> str:
        """How much of the run it concerns, in words."""
        tokens, sequences = counted(self.tokens, "token"), counted(self.sequences, "sequence")
        of_tokens, of_sequences = map(share_words, (self.share_of_tokens, self.share_of_sequences))
        return f"{tokens} ({of_tokens}) in {sequences} ({of_sequences})"

    @property
    def effect_in_words(self) -> str:
        """What these tokens do to the KL."""
        with_, without = self.effect
        what = "rounding" if self.check == "rounding" else "it" if self.tokens == 1 else "them"
        if math.isnan(with_):
            return "is not known of any token"
        if math.isnan(without):
            return f"is {with_:.4g} with {what}; no token is left without"
        return f"is {with_:.4g} with {what} and {without:.4g} without"


def share_words(share: float) -> str:
    """Three digits, and as many more as tell nearly all from all."""
    if share == 1.0:
        return "all"
    text = f"{100 * share:#.3g}".removesuffix(".")
    return f"{text if text != '100' else f'{100 * share:.8g}'} %"


def _percent(confidence: float) -> str:
    return "> 99.9 %" if confidence >= 0.999 else f"{100 * confidence:.4g} %"


def threshold(tests: int) -> float:
    """Of a normal number that is beyond it, either way, in TESTED of all runs at that many tests."""
    return -NormalDist().inv_cdf(TESTED / (2 * max(tests, 1)))


def two_sided(z: float) -> float:
    """The chance of a normal number as far from 0."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def total(values: NDArray[Any]) -> float:
    """Rounded once, in any order; inf where one is."""
    return math.inf if np.isposinf(values).any() else math.fsum(values.tolist())


def mean_k3(
    state: State,
    marks: NDArray[np.bool_] | None = None,
    rows: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
) -> float:
    """Over all tokens with a log-ratio; or over the sound ones, with those of some marks, or without
    (tokens, their sum of k3) of each row.
    """
    table, known, k3 = state.table, state.marks["known"], state.marks["k3"]
    own_known, own_k3 = table["sound"], table["k3"]
    if marks is not None:
        known, k3 = known[marks], k3[marks]
    if rows is not None:
        own_known, own_k3 = own_known - rows[0], own_k3 - rows[1]
    count = int(known.sum() + own_known.sum())
    return max(total(np.concatenate([k3, own_k3])), 0.0) / count if count else math.nan


def _finding(
    state: State, check: str, confidence: float, tokens: int, sequences: int,
    where: list[tuple[int, int]], seen: str, effect: tuple[float, float], unsound: bool = False,
) -> Finding:  # fmt: skip
    table = state.table
    known = AUDIT_CHECKS[check]
    every = max(int(table["tokens"].sum()), 1)
    return Finding(
        check, known.severity, confidence, tokens, sequences, tokens / every,
        sequences / max(table["sequence"].size, 1), tuple(where), seen, effect, known.advice, unsound,
    )  # fmt: skip


def from_marks(state: State) -> list[Finding]:
    """What broken tokens say: one finding a check."""
    marks = state.marks
    found = []
    for code in np.unique(marks["check"]).tolist():
        own, check = marks["check"] == code, NAMES[code]
        part = {name: values[own] for name, values in marks.items()}
        sequences, first = np.unique(part["sequence"], return_index=True)
        where = [(int(part["sequence"][i]), int(part["position"][i])) for i in first[:SHOWN]]
        seen = _SEEN[check](part) + (_at_start(state, part) if check == "masked_prompt" else "")
        found.append(
            _finding(
                state, check, 1.0 - AUDIT_CHECKS[check].false_alarm_rate, int(part["tokens"].sum()), sequences.size,
                where, seen + concentrated(state, np.isin(state.table["sequence"], sequences)),
                (mean_k3(state, own), mean_k3(state, np.zeros(own.size, np.bool_))), unsound=True,
            )
        )  # fmt: skip
    return found


def from_rows(
    state: State, check: str, rows: NDArray[np.bool_], p_value: float, seen: str,
    tokens: NDArray[np.int64] | None = None, k3: NDArray[np.float64] | None = None,
    positions: NDArray[np.int64] | None = None,
) -> Finding:  # fmt: skip
    """What is wrong with some sequences of the table, or with so many `tokens` of each that add `k3`."""
    table = state.table
    mine = np.where(rows, table["sound"] if tokens is None else tokens, 0)
    added = np.where(rows, table["k3"] if k3 is None else k3, 0.0)
    which = np.flatnonzero(rows)[:SHOWN]
    none = np.zeros(state.marks["known"].size, np.bool_)
    where = [(int(table["sequence"][i]), 0 if positions is None else int(positions[i])) for i in which]
    return _finding(
        state, check, 1.0 - min(p_value, AUDIT_CHECKS[check].false_alarm_rate), int(mine.sum()),
        int(np.count_nonzero(rows)), where, seen + concentrated(state, rows),
        (mean_k3(state, none), mean_k3(state, none, (mine, added))),
    )  # fmt: skip


# what a fault looks like in the few sequences in which it is not recognised
_ECHOES = {
    "zero_filled": ("shift", "unrelated", "truncated_support"),
    "truncated_support": ("shift", "unrelated", "bad_source", "length", "temperature"),
    "temperature": ("shift", "unrelated", "bad_source", "length", "truncated_support"),
}


def without_echoes(found: list[Finding]) -> list[Finding]:
    """Leave out what is a few sequences beside many of a fault that looks like it."""
    most: dict[str, int] = {}
    for one in found:
        most[one.check] = max(most.get(one.check, 0), one.sequences)
    return [
        one
        for one in found
        if not any(one.sequences <= 0.15 * most.get(check, 0) for check in _ECHOES.get(one.check, ()))
    ]


def concentrated(state: State, rows: NDArray[np.bool_]) -> str:
    """Whether the sequences have a source in common that few others have."""
    found = ""
    for kind, labels in state.sources.items():
        named, count = np.unique(labels[rows & (labels != "")], return_counts=True)
        if not named.size:
            continue
        top = str(named[np.argmax(count)])
        share = count.max() / np.count_nonzero(rows)
        elsewhere = np.mean(labels == top)
        if count.max() >= 3 and share >= 0.9 and elsewhere <= 0.5:
            which = "all" if share == 1.0 else f"{100 * share:.0f} % of them"
            found += f"; {which} of {source_name(kind, top)}, which has {100 * elsewhere:.0f} % of all sequences"
    return found


def _sides(part: dict[str, NDArray[Any]], verb: str) -> str:
    """The sides that a mark is of, with the verb of one of them in the form that fits."""
    named = [SIDES[side] for side in (0, 1) if (part["side"] == side).any()]
    many = {"has": "have", "is": "are", "lies": "lie"}
    return f"{' and '.join(named) or 'one side'} {verb if len(named) < 2 else many[verb]}"


def _values(part: dict[str, NDArray[Any]]) -> str:
    values = np.unique(part["value"])
    return ", ".join(f"{value:.7g}" for value in values[:4].tolist()) + (", ..." if values.size > 4 else "")


def _at_start(state: State, part: dict[str, NDArray[Any]]) -> str:
    """Of zeros for the first tokens, whether the other side finds these as likely as those after them."""
    told = ""
    for side, other in enumerate(SIDES[::-1]):
        own = (part["value"] == 0.0) & (part["side"] == side)
        if not own.any():
            continue
        rows = np.isin(state.table["sequence"], part["sequence"][own])
        # beside a 0, k1 is what the other side's log-probs add up to; nobody marks tokens that it is certain of
        first = abs(float(part["k1"][own].sum())) / max(float(part["known"][own].sum()), 1.0)
        after = float(state.table[f"nll_{other}"][rows].sum()) / max(float(state.table["informative"][rows].sum()), 1.0)
        what = (
            "as likely as sampled tokens, so they may be the answer's own first ones"
            if first < UNLIKE * after
            else "less likely than sampled tokens, as those of a prompt are"
        )
        told += f"; {other} has a mean log-prob of {-first:.3g} there and {-after:.3g} after them: {what}"
    return told


def _lags(part: dict[str, NDArray[Any]]) -> str:
    lags, count = np.unique(part["lag"], return_counts=True)
    told = (
        f"{counted(n, 'sequence')} {'agrees' if n == 1 else 'agree'} at lag {lag:+d}"
        for lag, n in zip(lags.tolist(), count.tolist(), strict=True)
        if lag
    )
    return ", ".join(told)


def _seen_shift(part: dict[str, NDArray[Any]]) -> str:
    return f"rollout at t goes with train at t + lag, not with train at t: {_lags(part)}"


def _seen_length(part: dict[str, NDArray[Any]]) -> str:
    lags = _lags(part)
    ends = f"{_sides(part, 'has')} no log-probs to the end, but {_values(part)}"
    return f"the sides differ in length: {lags}" if lags else ends


_SEEN: dict[str, Callable[[dict[str, NDArray[Any]]], str]] = {
    "missing": lambda part: f"{_sides(part, 'has')} NaN where the mask keeps a token",
    "infinite": lambda part: f"{_sides(part, 'has')} {_values(part)} where the mask keeps a token",
    "sentinel": lambda part: f"{_sides(part, 'has')} {_values(part)}, which no sampled token has",
    "probabilities": lambda part: f"{_sides(part, 'lies')} between 0 and 1, as exp of the other side does",
    "positive": lambda part: f"{_sides(part, 'has')} values above 0, such as {_values(part)}",
    "zero_filled": lambda part: f"{_sides(part, 'is')} exactly 0 where the other side is not",
    "constant": lambda part: f"{_sides(part, 'has')} one number for all tokens of a sequence: {_values(part)}",
    "length": _seen_length,
    "shift": _seen_shift,
    "unrelated": lambda part: "the probabilities of the two sides do not go together at any lag from -2 to 2",
    "masked_prompt": lambda part: (
        f"{_sides(part, 'has')} {_values(part)} for the first tokens, as engines have of prompts, "
        "or where they gave none"
    ),
}
