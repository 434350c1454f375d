"""What an audit found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import keywords, library
from kullback.comparison import counted, json_number
from kullback.rlhf.auditing.catalogue import AUDIT_CHECKS, NAMES
from kullback.rlhf.auditing.findings import Finding, from_marks, mean_k3, without_echoes
from kullback.rlhf.auditing.runs import of_run
from kullback.rlhf.auditing.sources import source_texts
from kullback.rlhf.auditing.state import State, histogram_edges
from kullback.rlhf.mismatch import MismatchReport

__all__ = ["AuditReport"]

SEVERITIES = ("error", "warning", "note")
_SUMS = ("nll_rollout", "nll_train", "k1", "k3", "weight")


class AuditReport:
    """What `audit` found; parts of a run combine by `merge`.

    Attributes
    ----------
    findings : list of Finding
        Errors first, then warnings and notes, in each the greatest shares first.
    mismatch : MismatchReport
        Of the sound tokens: those that have a log-prob of that very token on both sides, as far as can be told. The
        tokens of a finding whose `unsound` is true are left out, as what stands there is none: infinite, missing,
        sentinel, probabilities, positive, zero_filled, constant, length, shift, unrelated, and a masked_prompt that
        was filled. Those of all other findings (temperature, truncated_support, identical, duplicates, bad_source,
        rounding, a masked_prompt of improbable tokens) stay in: their log-probs are what the loss is made of.
    unsound : dict of str to int
        How many tokens each check left out of `mismatch`, the greatest first. A check without a finding of its own
        is what the one that has it looks like in a few sequences.
    sequences : dict of arrays
        One entry a sequence, in the order of their ids: sequence, source, tokens, sound (tokens), nll_rollout,
        nll_train, kl_k1, kl_k3, kept_mass (means over sound tokens), max_difference, reward, lag, check (the
        first that found something in it, "" where none did).
    worst_tokens : dict of arrays
        The sound tokens of the greatest |train - rollout|: sequence, position, token (-1 where not known), rollout,
        train, difference.
    sound : ndarray of bool, optional
        For each place of the arrays given to `audit`, whether its token is one of `mismatch`; None in a report that
        was merged of several.
    tokens : int
        Unmasked tokens.
    kl : float
        Mean k3 of all tokens that have a log-ratio, broken ones included: what a training log shows.
    """

    def __init__(self, state: State, mismatch: MismatchReport, sound: NDArray[np.bool_] | None = None) -> None:
        self._state = state
        self.mismatch = mismatch
        self.sound = sound

    @cached_property
    def findings(self) -> list[Finding]:
        found = [*from_marks(self._state), *(finding for finding, _ in self._of_run), *self._rounding()]
        found = without_echoes(found)
        found.sort(key=lambda f: (SEVERITIES.index(f.severity), -f.share_of_sequences, NAMES.index(f.check)))
        return found

    @cached_property
    def _of_run(self) -> list[tuple[Finding, NDArray[np.bool_]]]:
        with np.errstate(over="ignore", invalid="ignore"):  # entropies may be anything
            return of_run(self._state)

    def _rounding(self) -> list[Finding]:
        found, state = [], self._state
        check = AUDIT_CHECKS["rounding"]
        for (side, name), units in state.floor.items():
            values = state.values[side]
            if values < 64 or (name == "float16" and (side, "bfloat16") in state.floor):
                continue
            floor, now = math.ldexp(units, -40) / self.mismatch.tokens, self.mismatch.kl_k3.mean
            seen = f"{side} is kept in {name}: rounding alone gives a KL of {floor:.3g} (k3), measured {now:.3g}"
            found.append(
                Finding(
                    "rounding", check.severity, 1.0 - check.false_alarm_rate, self.tokens,
                    state.table["sequence"].size, 1.0, 1.0, (), seen, (now, max(now - floor, 0.0)), check.advice,
                )
            )  # fmt: skip
        return found

    @property
    def tokens(self) -> int:
        return int(self._state.table["tokens"].sum())

    @cached_property
    def unsound(self) -> dict[str, int]:
        marks = self._state.marks
        tokens = {NAMES[code]: int(marks["tokens"][marks["check"] == code].sum()) for code in np.unique(marks["check"])}
        return dict(sorted(tokens.items(), key=lambda item: (-item[1], NAMES.index(item[0]))))

    @property
    def sound_in_words(self) -> str:
        """How many tokens are sound, and what the others are."""
        named = {finding.check for finding in self.findings if finding.unsound}
        left = ", ".join(
            f"{check} ({count}{'' if check in named else ', too few for a finding'})"
            for check, count in self.unsound.items()
        )
        stay = ", ".join(dict.fromkeys(f.check for f in self.findings if not f.unsound and f.severity != "note"))
        sound, every = self.mismatch.tokens, counted(self.tokens, "token")
        head = f"{sound} of {every} {'is' if sound == 1 else 'are'} sound" if left else "all tokens are sound"
        return f"{head}{left and f', without those of {left}'}{stay and f'; those of {stay} are among them'}"

    @property
    def kl(self) -> float:
        return mean_k3(self._state)

    @cached_property
    def sequences(self) -> dict[str, NDArray[Any]]:
        table, marks = self._state.table, self._state.marks
        sound = table["sound"]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = {name: table[name] / np.where(sound > 0, sound, np.nan) for name in _SUMS}
        names = np.full(sound.size, "", dtype="<U20")
        for finding, rows in self._of_run[::-1]:
            if finding in self.findings:
                names[rows] = finding.check
        places = np.searchsorted(table["sequence"], marks["sequence"])
        names[places[::-1]] = np.array(NAMES)[marks["check"][::-1]]  # the first of several stays
        return {
            "sequence": table["sequence"],
            "source": source_texts(table["source"]),
            "tokens": table["tokens"],
            "sound": sound,
            "nll_rollout": mean["nll_rollout"],
            "nll_train": mean["nll_train"],
            "kl_k1": mean["k1"],
            "kl_k3": mean["k3"],
            "kept_mass": 1.0 + mean["weight"],
            "max_difference": np.where(sound > 0, table["max_difference"], np.nan),
            "reward": table["reward"],
            "lag": table["lag"],
            "check": names,
        }

    @property
    def worst_tokens(self) -> dict[str, NDArray[Any]]:
        worst = self._state.worst
        return {name: worst[name] for name in ("sequence", "position", "token", "rollout", "train")} | {
            "difference": worst["train"] - worst["rollout"]
        }

    def quantile(self, level: float) -> float:
        """The |train - rollout| below which a share `level` of the sound tokens lies, within 1/32 of its value."""
        level = keywords.number(level, "level", 0.0, 1.0)
        cells = self._state.cells.reshape(2, -1).sum(axis=0)
        count = int(cells.sum())
        if not count:
            return math.nan
        place = int(np.searchsorted(np.cumsum(cells), max(level * count, 1), side="left"))
        return float(histogram_edges()[place]) if place else 0.0

    def histogram(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges of log-ratio train - rollout in rising order, and how many sound tokens lie between each two.

        Cells have 1/32 of their lower end's magnitude, in all octaves from 2⁻⁴⁰ to 2²⁰; the middle one holds 0.
        """
        edges = np.append(histogram_edges(), np.inf)
        below, above = self._state.cells.reshape(2, -1)
        return (
            np.concatenate([-edges[:0:-1], edges[1:]]),
            np.concatenate([below[:0:-1], [below[0] + above[0]], above[1:]]),
        )

    def merge(self, *others: AuditReport | Iterable[AuditReport]) -> AuditReport:
        """The report of all parts together, in any order to the same bits; none is changed.

        Sequences are told apart by the ids given to `audit`: parts need different ones.
        """
        reports = [self]
        for other in others:
            reports += [other] if isinstance(other, AuditReport) else list(other)
        for one in reports:
            if not isinstance(one, AuditReport):
                raise TypeError(f"`others` holds {type(one).__name__}, expected AuditReport")
        return AuditReport(
            State.merged([one._state for one in reports]),
            reduce(MismatchReport.merge, (one.mismatch for one in reports)),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AuditReport):
            return NotImplemented
        return self._state == other._state and self.mismatch == other.mismatch

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: null where undefined, "inf" where infinite."""
        return {
            "tokens": self.tokens,
            "sequences": int(self._state.table["sequence"].size),
            "sound_tokens": self.mismatch.tokens,
            "unsound": self.unsound,
            "kl_k3": json_number(self.kl),
            "findings": [_plain(finding) for finding in self.findings],
            "mismatch": _numbers(self.mismatch.to_dict()),
            "quantiles": {f"{level:g}": json_number(self.quantile(level)) for level in (0.5, 0.9, 0.99, 0.999, 1.0)},
            "worst_tokens": [
                dict(zip(self.worst_tokens, map(_number, row), strict=True))
                for row in zip(*(values.tolist() for values in self.worst_tokens.values()), strict=True)
            ],
        }

    def to_pandas(self, what: str = "sequences") -> Any:
        """A table of "sequences", "findings" or "worst_tokens"."""
        keywords.choice(what, "what", ("sequences", "findings", "worst_tokens"))
        frame = library("pandas", "to_pandas").DataFrame
        return frame([vars(f) for f in self.findings]) if what == "findings" else frame(getattr(self, what))

    def __str__(self) -> str:
        count = self._state.table["sequence"].size
        size = f"{counted(self.tokens, 'token')} in {counted(count, 'sequence')}"
        head = f"{size}; KL(rollout‖train) {self.kl:.4g} a token (k3)"
        if not self.tokens:
            return f"{size}: nothing was checked"
        if not self.findings:
            return f"{head}\nnothing found"
        sound = f"of the sound ones {self.mismatch.kl_k3.mean:.4g}"
        return "\n".join([f"{head}, {sound}", *map(str, self.findings), self.sound_in_words])

    def __repr__(self) -> str:
        return f"<AuditReport of {counted(self.tokens, 'token')}: {counted(len(self.findings), 'finding')}>"


def _number(value: Any) -> Any:
    return json_number(value) if isinstance(value, float) else value


def _numbers(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _numbers(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_numbers(value) for value in tree]
    return _number(tree)


def _plain(finding: Finding) -> dict[str, Any]:
    return {name: _numbers(value) for name, value in vars(finding).items()}
