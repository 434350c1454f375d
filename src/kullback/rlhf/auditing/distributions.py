"""Temperatures and truncated supports, from the changes of log-odds between the two sides."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.auditing.findings import Finding, from_rows, threshold, two_sided
from kullback.rlhf.auditing.marks import SIDES
from kullback.rlhf.auditing.state import State

__all__ = ["ENOUGH", "TAIL", "other_distribution"]

Rows = NDArray[np.bool_]
Float64s = NDArray[np.float64]

ENOUGH = 4  # tokens of a sequence that make a mean
DIRECTED = 3.5  # times its own noise: what the mean of a sequence must be
TAIL = 1.4  # by how much the noise of one sequence is allowed to have longer tails than a normal one
SEQUENCE_EFFECT, RUN_EFFECT = 0.1, 0.04  # nats of log-odds, below which nothing is said of a sequence, of a run
CERTAIN = 4  # sequences of which it is enough that one side is certain of some tokens, as few others are unlikely
UNLIKELY = {29: 2.5, math.inf: 4.0}  # by that many sequences: standard deviations by which unlikely tokens have moved
TEMPERATURE_EFFECT = 0.02
KEPT = 0.995  # mean of train/rollout above which no support is called truncated


def other_distribution(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """Temperatures and truncated supports: single sequences that stand out, then what is left as a whole."""
    table = state.table
    changes = [table[f"{side}_change"] for side in ("high", "low")]
    counts = [table[side] for side in ("high", "low")]
    z_high, z_low = (_standardised(change, count, free) for change, count in zip(changes, counts, strict=True))
    limit = TAIL * threshold(2 * table["sequence"].size)
    beyond = np.maximum(np.abs(z_high + z_low), np.abs(z_high - z_low)) / math.sqrt(2.0) > limit
    # more than that: noise is greater in some sequences, but has no direction
    directed = np.maximum(np.abs(changes[0] + changes[1]), np.abs(changes[0] - changes[1]))
    beyond &= directed > DIRECTED * np.sqrt(table["change2"])
    beyond &= np.maximum(*(abs(a) / np.maximum(n, 1) for a, n in zip(changes, counts, strict=True))) > SEQUENCE_EFFECT
    certain, free = _certain(state, free)
    rows = free & (beyond | certain)
    names = _named(table, rows, z_high, z_low)
    left = free & ~rows
    whole = _whole(table, left)
    if whole:
        names[left] = whole
    for name in np.unique(names[names != ""]).tolist():
        own = names == name
        if not _holds(table, own, z_low, name):
            continue
        p_value = two_sided(float(np.abs(np.where(own, z_high, 0.0)).max() / TAIL)) * table["sequence"].size
        check, seen = _SEEN[name]
        yield from_rows(state, check, own, p_value, seen + _figures(table, own, name)), own


def _holds(table: dict[str, NDArray[np.float64]], rows: Rows, z_low: Float64s, name: str) -> bool:
    """Whether unlikely tokens say so too, and of a support the mean of train/rollout.

    Noise that is not that of logits (made up, or cut at 0) may move likely tokens alone; large noise of logits lowers
    all log-odds, but not the mean of train/rollout.
    """
    spikes = sum(int(table[f"spikes_{side}"][rows].sum()) for side in SIDES)
    count = int(np.count_nonzero(rows))
    least = next(z for most, z in UNLIKELY.items() if count <= most)
    told = abs(float(z_low[rows].sum())) > least * math.sqrt(count)
    if not name.endswith("truncated"):
        return told and abs(_slope(table, rows)) > TEMPERATURE_EFFECT
    kept = _kept_mass(table, rows)
    return (told or (count <= CERTAIN and spikes > 0)) and (
        kept < KEPT if name.startswith("rollout") else kept > 1.0 / KEPT
    )


def _certain(state: State, free: Rows) -> tuple[Rows, Rows]:
    """Sequences with tokens that one side alone is certain of, as after top-p; and those that are free still.

    Where a side has been filled with zeros, in more places than these, they are what is left of the fills.
    """
    certain = np.zeros(free.size, np.bool_)
    for side, name in enumerate(SIDES):
        spikes = state.table[f"spikes_{name}"]
        filled = (state.marks["side"] == side) & (state.marks["value"] == 0.0)
        if state.marks["tokens"][filled].sum() >= spikes[free].sum():
            free = free & (spikes == 0)
        else:
            certain |= spikes >= 2
    return certain, free


def _standardised(change: Float64s, count: NDArray[np.int64], free: Rows) -> Float64s:
    """Means over each sequence in units of their noise, which is that of most sequences."""
    z = change / np.sqrt(np.maximum(count, 1))
    usual = z[free & (count >= ENOUGH)]
    if usual.size < 8:
        return np.zeros(z.size)
    noise = float(np.median(np.abs(usual - np.median(usual)))) / 0.6745
    return np.where(count >= ENOUGH, z / max(noise, 1e-3), 0.0)


def _named(table: dict[str, NDArray[np.float64]], rows: Rows, z_high: Float64s, z_low: Float64s) -> NDArray[np.str_]:
    """ "rollout cold" and so on for each of the rows; those that could be two things are named as most are."""
    names = np.full(rows.size, "", dtype="<U20")
    sharp, spikes = z_high < 0.0, table["spikes_rollout"] + table["spikes_train"] > 0
    truncated = spikes | (np.sign(z_high) == np.sign(z_low))
    for group in (rows & sharp, rows & ~sharp):
        votes = group & (spikes | (np.abs(z_low) > 2.0))
        share = np.mean(truncated[votes]) if votes.any() else float(z_low[group].sum() * z_high[group].sum() > 0.0)
        if share < 0.2 or share > 0.8 or not votes.any():
            truncated[group] = share > 0.5
        else:  # two things at once
            truncated[group & ~votes] = share > 0.5
    side = np.where(spikes, table["spikes_rollout"] >= table["spikes_train"], sharp)
    names[rows & truncated & side] = "rollout truncated"
    names[rows & truncated & ~side] = "train truncated"
    names[rows & ~truncated & sharp] = "rollout sharper"
    names[rows & ~truncated & ~sharp] = "train sharper"
    return names


def _whole(table: dict[str, NDArray[np.float64]], rows: Rows) -> str:
    """What all these sequences together are, or ""."""
    z, mean = {}, {}
    for side in ("high", "low"):
        change = table[f"{side}_change"][rows]
        z[side] = float(change.sum() / max(math.sqrt(float((change * change).sum())), 1e-30))
        mean[side] = float(change.sum() / max(float(table[side][rows].sum()), 1.0))
    limit = threshold(4)
    if abs(z["high"]) < limit or abs(mean["high"]) < RUN_EFFECT or abs(z["low"]) < limit:
        return ""
    same = (mean["high"] < 0.0) == (mean["low"] < 0.0)
    rollout = mean["high"] < 0.0
    if same:
        return "rollout truncated" if rollout else "train truncated"
    return "rollout sharper" if rollout else "train sharper"


_SEEN = {
    "rollout truncated": ("truncated_support", "rollout's log-probs are above train's, of likely and unlikely tokens"),
    "train truncated": ("truncated_support", "train's log-probs are above rollout's, of likely and unlikely tokens"),
    "rollout sharper": ("temperature", "rollout is sharper than train: likely tokens likelier, unlikely ones less"),
    "train sharper": ("temperature", "train is sharper than rollout: likely tokens likelier, unlikely ones less"),
}


def _kept_mass(table: dict[str, NDArray[np.float64]], rows: Rows) -> float:
    """Mean of train/rollout."""
    return 1.0 + float(table["weight"][rows].sum() / max(table["sound"][rows].sum(), 1))


def _slope(table: dict[str, NDArray[np.float64]], rows: Rows) -> float:
    """By what share the log-odds of likely tokens are greater in train."""
    change, level = (float(table[f"high_{what}"][rows].sum()) for what in ("change", "level"))
    return change / max(level, 1e-30)


def _figures(table: dict[str, NDArray[np.float64]], rows: Rows, name: str) -> str:
    if name.endswith("truncated"):
        return f"; mean train/rollout {_kept_mass(table, rows):.4g}"
    return f"; log-odds of train are about {1.0 + _slope(table, rows):.3g} of rollout's (temperature)"
