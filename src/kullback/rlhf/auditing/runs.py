"""Checks of a run as a whole: what only many tokens can tell, from the table of sequences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import counted
from kullback.rlhf.auditing.catalogue import TESTED
from kullback.rlhf.auditing.distributions import ENOUGH, SOME, TAIL, another_temperature, other_distribution
from kullback.rlhf.auditing.findings import Finding, from_rows, threshold, two_sided
from kullback.rlhf.auditing.marks import SIDES
from kullback.rlhf.auditing.sources import source_name
from kullback.rlhf.auditing.state import State

__all__ = ["of_run"]

Rows = NDArray[np.bool_]
Float64s = NDArray[np.float64]

THETA = 0.5  # of the supermartingale of the first tokens
SURPRISE_EFFECT = {"rollout": 0.03, "train": 0.1}  # of the entropy
WORSE = 2.0  # times the differences of the other sources, from which on a source is called bad: 4 times their KL
FEW = 0.5  # of the sequences
LOGARITHMS, MEDIANS = 1.11, 1.25  # standard deviation of log |x| of a normal x; of a median over that of a mean


def of_run(state: State) -> list[tuple[Finding, Rows]]:
    """Findings, each with its sequences; every sequence goes to the first check that explains it."""
    free = state.table["sound"] > 0
    found: list[tuple[Finding, Rows]] = []
    for check in (another_temperature, _prompts, _identical, other_distribution, _surprise, _sources):
        for finding, rows in check(state, free):
            found.append((finding, rows))
            free = free & ~rows
    return _joined(state, found) + list(_duplicates(state))


def _joined(state: State, found: list[tuple[Finding, Rows]]) -> list[tuple[Finding, Rows]]:
    """One finding a check, that says all that was seen."""
    checks: dict[str, list[tuple[Finding, Rows]]] = {}
    for one in found:
        checks.setdefault(one[0].check, []).append(one)
    joined = []
    for check, several in checks.items():
        if len(several) == 1:
            joined += several
            continue
        several.sort(key=lambda one: -one[0].sequences)
        rows = np.logical_or.reduce([own for _, own in several])
        seen = "; ".join(f"in {counted(finding.sequences, 'sequence')} {finding.seen}" for finding, _ in several)
        p_value = 1.0 - max(finding.confidence for finding, _ in several)
        finding = from_rows(state, check, rows, p_value, "")
        joined.append((replace(finding, seen=seen), rows))
    return joined


def _prompts(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """Sequences whose first tokens are too improbable to have been drawn."""
    table = state.table
    least = math.log(max(table["sequence"].size, 1) / TESTED) / THETA
    rest = np.maximum(table["sound"] - table["start_tokens"], 1)
    late = (table["nll_rollout"] - table["start_nll"]) / rest
    early = table["start_nll"] / np.maximum(table["start_tokens"], 1)
    rows = free & (table["start_walk"] > least) & (table["start_tokens"] < 0.9 * table["sound"]) & (early > 2.0 * late)
    if not rows.any():
        return
    hot = _excess(table, "rollout", free & ~rows & (table["scored_rollout"] > 0), 2)
    if hot and hot[1] > 1.0 and np.count_nonzero(rows) < FEW * np.count_nonzero(free):
        return  # all of the run is drawn hotter than its entropies say, some at the start
    p_value = min(1.0, table["sequence"].size * math.exp(-THETA * float(table["start_walk"][rows].max())))
    seen = (
        f"the first {_range(table['start_tokens'][rows])} tokens have a mean log-prob of "
        f"{-np.mean(early[rows]):.3g}, those after them {-np.mean(late[rows]):.3g}: nobody draws them"
    )
    yield from_rows(state, "masked_prompt", rows, p_value, seen, table["start_tokens"], table["start_k3"]), rows


def _range(values: NDArray[np.int64]) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _identical(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """Sequences equal to the bit that would not be, were each token equal as often as in the others."""
    table = state.table
    told, equal = table["informative"], table["equal"]
    every = free & (told > 0) & (equal == told)
    others = free & ~every
    # as many tokens as in the others; where there are none, half
    share = (equal[others].sum() + 1.0) / (told[others].sum() + 2.0)
    share = max(float(share), 1e-3)
    if share >= 1.0:
        return
    log_p = told * math.log(share)
    rows = every & (log_p < math.log(TESTED / max(table["sequence"].size, 1)))
    if rows.any():
        seen = f"rollout and train are equal in all {int(told[rows].sum())} tokens that are not certain"
        yield from_rows(state, "identical", rows, 0.0, seen), rows


def _surprise(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """Drawn tokens have a mean -log-prob that is the mean entropy: else they were drawn from something else."""
    table = state.table
    for side in SIDES:
        rows, words = free & (table[f"scored_{side}"] > 0), ""
        kinds = {kind: _groups(labels, rows) for kind, labels in state.sources.items()}
        tests = 2 * (sum(map(len, kinds.values())) + 1)
        for groups in kinds.values():
            apart = [name for name, own in groups.items() if _excess(table, side, own, tests)]
            if not apart:
                continue
            # a few sources, if all is well without them
            some = np.logical_or.reduce([groups[name] for name in apart])
            if (rows & ~some).any() and not _excess(table, side, rows & ~some, tests):
                rows, words = some, f" ({', '.join(apart[:4])}{', ...' if len(apart) > 4 else ''})"
                break
        found = _excess(table, side, rows, tests)
        if found:
            z, ratio = found
            how = "colder, or from fewer tokens," if ratio < 1.0 else "hotter"
            seen = f"drawn tokens have {ratio:.3g} times the -log-prob that {side}'s entropy says{words}: they were "
            yield (
                from_rows(state, "temperature", rows, two_sided(z), f"{seen}sampled {how} than the log-probs say"),
                rows,
            )
            return


def _groups(labels: NDArray[np.str_], rows: Rows) -> dict[str, Rows]:
    """Which of these sequences have each label."""
    return {name: rows & (labels == name) for name in np.unique(labels[rows & (labels != "")]).tolist()}


def _excess(table: dict[str, NDArray[Any]], side: str, rows: Rows, tests: int) -> tuple[float, float] | None:
    """(standard deviations, -log-prob over entropy) where they are not 1 by more than chance and than matters."""
    own = table[f"surprise_{side}"][rows]
    if own.size < 2:
        return None
    z = float(own.sum()) / max(math.sqrt(float((own * own).sum())), 1e-30)
    nll = float(table[f"nll_{side}"][rows].sum())
    entropy = nll - float(own.sum())
    if abs(z) < threshold(tests) or abs(nll - entropy) < SURPRISE_EFFECT[side] * entropy:
        return None
    return z, nll / entropy


def _sources(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """Sources whose differences of log-odds are at least twice those of the other sources, and not by chance.

    Of each source the median over its sequences of the mean log |difference|, against the median of the other
    sources'; both have an error. One-sided tests at level TESTED over all sources together.
    """
    table = state.table
    told = table["high"] + table["low"]
    rows = free & (told >= ENOUGH)
    kinds = {kind: _groups(labels, rows) for kind, labels in state.sources.items()}
    tests = sum(map(len, kinds.values()))
    for kind, groups in kinds.items():
        for name, times, z in _compared(table, groups, told) if np.count_nonzero(rows) >= SOME else ():
            if z <= TAIL * threshold(tests) or times < WORSE:
                continue
            p_value = min(two_sided(z / TAIL) * tests, TESTED)
            others = [other for other in groups if other != name]
            whom = f"source, {source_name(kind, others[0])}" if len(others) == 1 else f"{len(others)} sources"
            count = counted(int(np.count_nonzero(groups[name])), "sequence")
            seen = (
                f"{source_name(kind, name)} has {times:.3g} times the differences of log-odds of the other {whom}, in "
                f"the median of {count}: a source is named from {WORSE:g} times on, if chance gives as much to any of "
                f"{tests} sources in less than {TESTED:g} of runs (here in less than {max(p_value, 1e-9):.1g})"
            )
            mine = free & (state.sources[kind] == name)
            if mine.any():
                free = free & ~mine
                yield from_rows(state, "bad_source", mine, p_value, seen), mine


def _compared(
    table: dict[str, NDArray[Any]], groups: dict[str, Rows], told: NDArray[np.int64]
) -> Iterator[tuple[str, float, float]]:
    """(label, times the differences of the others, standard errors by which that is more than once) of each source."""
    if len(groups) < 2:
        return
    rows = np.logical_or.reduce(list(groups.values()))
    size = table["change_size"] / np.maximum(told, 1)
    # medians: a few sequences with another fault are no fault of their source
    means, middle = {name: float(np.median(size[own])) for name, own in groups.items()}, float(np.median(size[rows]))
    # how far sequences are from the median of their source, or of all where it has few
    middles = {name: means[name] if np.count_nonzero(own) >= SOME else middle for name, own in groups.items()}
    apart = np.concatenate([np.abs(size[own] - middles[name]) for name, own in groups.items()])
    noise = float(np.median(apart)) / 0.6745
    # of one sequence what they differ by, but no less than logarithms of as many normal numbers do
    errors = {
        name: max(noise / math.sqrt(np.count_nonzero(own)), LOGARITHMS / math.sqrt(float(told[own].sum())))
        for name, own in groups.items()
    }
    for name in groups:
        others = [other for other in groups if other != name]
        more = means[name] - float(np.median([means[other] for other in others]))
        theirs = float(np.median([errors[other] for other in others])) * (MEDIANS if len(others) > 2 else 1.0)
        yield name, math.exp(more), more / (MEDIANS * math.hypot(errors[name], theirs / math.sqrt(len(others))))


def _duplicates(state: State) -> Iterator[tuple[Finding, Rows]]:
    """The same sequence twice, where -log-prob is more than the log of pairs there are: nobody draws it again."""
    table = state.table
    count = table["sequence"].size
    pairs = max(count * (count - 1) / 2, 1.0)
    likely = table["nll_rollout"] > math.log(pairs / TESTED)
    order = np.lexsort((table["sequence"], table["digest"]))
    again = np.zeros(count, np.bool_)
    same = np.diff(table["digest"][order].view(np.int64)) == 0
    same &= table["tokens"][order][1:] == table["tokens"][order][:-1]
    again[order[1:]] = same
    rows = again & likely
    if rows.any():
        p_value = pairs * math.exp(-float(table["nll_rollout"][rows].min()))
        yield from_rows(state, "duplicates", rows, p_value, "sequences that were there already"), rows
