"""Temperatures and truncated supports, from the changes of log-odds between the two sides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kullback.rlhf.auditing.findings import Finding, from_rows, threshold, two_sided
from kullback.rlhf.auditing.marks import SIDES
from kullback.rlhf.auditing.state import State

__all__ = ["ENOUGH", "SOME", "TAIL", "another_temperature", "other_distribution"]

Rows = NDArray[np.bool_]
Float64s = NDArray[np.float64]

ENOUGH = 4  # tokens of a sequence that make a mean
DIRECTED = 3.5  # times its own noise: what the mean of a sequence must be
TAIL = 1.4  # by how much the noise of one sequence is allowed to have longer tails than a normal one
SEQUENCE_EFFECT, RUN_EFFECT = 0.1, 0.04  # nats of log-odds, below which nothing is said of a sequence, of a run
UNLIKELY = {29: 3.5, math.inf: 4.0}  # by that many sequences: standard deviations by which unlikely tokens have moved
KEPT = 0.995  # mean of train/rollout above which no support is called truncated
LOST = 0.35  # of the mean log-ratio: what the mean ratio must differ from 1 by to be that of a truncated support
CERTAIN, LEAST_MOVED = 4, 2.0  # sequences, and such deviations, where one side alone is certain of some tokens
SURE_LOSS = 6.0  # standard deviations of the mean log-ratio: the same, where nothing else tells of a support
EXPLAINED = 0.15  # of the variance of changes, by the slope on how unlikely tokens are; updates of a policy have 0.06
LEAST_SLOPE = 0.02  # of log-odds: about that much of a temperature
ALIKE = 0.2  # of log-ratios to log-odds, both slopes: 0.4 to 1.3 of temperatures, up to 0 of truncated supports
SCATTER = 6.0  # of the slope squared: variance of changes that is more noise than shape
CONFIRMED = 4.0  # standard deviations of the slope of a group of sequences, or of a mean ratio beside a temperature
MOST = 0.8  # of the tokens are in sequences that go with the whole
SOME, MANY = 8, 64  # sequences that make a spread; of which the spread makes a standard deviation


def another_temperature(state: State, free: Rows) -> Iterator[tuple[Finding, Rows]]:
    """A temperature of all sequences, which has none to compare with: the slope of the changes on how unlikely tokens
    are.

    Log-odds that are scaled change in proportion to themselves. What noise and updates of a policy change has no such
    slope, or one that explains next to nothing of it.
    """
    table = state.table
    rows = free & (table["high"] + table["low"] > 0)
    trend, z = _trend(table, rows), _certainty(table, rows)
    if not _is_temperature(trend) or z < TAIL * threshold(1):
        return
    told = (table["high"] + table["low"])[rows]
    if told[_trend(table, rows, each=True).slope * trend.slope > 0.0].sum() < MOST * told.sum():
        return
    name = "rollout sharper" if trend.slope > 0.0 else "train sharper"
    check, seen = _SEEN[name]
    yield from_rows(state, check, free, two_sided(z / TAIL), seen + _figures(table, free, name)), free


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
    names = _named(table, rows, z_high)
    left = free & ~rows
    whole = _whole(table, left)
    if whole:
        names[left] = whole
    for name in np.unique(names[names != ""]).tolist():
        own = names == name
        # what is too little for a slope may be enough for a support
        others = (f"{side} truncated" for side in SIDES)
        name = next((n for n in (name, *others) if _holds(table, own, z_low, n)), None)
        if name is None:
            continue
        p_value = two_sided(float(np.abs(np.where(own, z_high, 0.0)).max() / TAIL)) * table["sequence"].size
        rest = free & (names == "")
        if name.endswith("truncated") and own.sum() > MOST * free.sum() and _is_truncated(table, rest, name.split()[0]):
            own = own | rest  # what nearly all have, these have as well
        check, seen = _SEEN[name]
        yield from_rows(state, check, own, p_value, seen + _figures(table, own, name)), own


class _Trend(NamedTuple):
    """How the changes of log-odds, train - rollout, go with how unlikely tokens are; of one or of each of many."""

    slope: Any
    explained: Any  # share of the variance of the changes
    scatter: Any  # the variance that is left
    alike: Any  # the slope of log-ratios on -log-probs over that of the log-odds: of a truncated support not above 0


def _trend(table: dict[str, NDArray[np.float64]], rows: Rows, each: bool = False) -> _Trend:
    """Of these sequences together, or of each of them."""
    names = ("depth", "depth2", "depth_change", "change2", "told_d", "told_nll", "told_nll2", "told_nll_d")
    sums = {name: table[name][rows] for name in (*names, "high", "low", "high_change", "low_change")}
    if not each:
        sums = {name: values.sum() for name, values in sums.items()}
    count = np.maximum(sums["high"] + sums["low"], 1)
    change = sums["high_change"] + sums["low_change"]
    both = sums["depth_change"] - sums["depth"] * change / count
    xx = np.maximum(sums["depth2"] - sums["depth"] ** 2 / count, 1e-30)
    yy = np.maximum(sums["change2"] - change**2 / count, 1e-30)
    plain = sums["told_nll_d"] - sums["told_nll"] * sums["told_d"] / count
    plain = plain / np.maximum(sums["told_nll2"] - sums["told_nll"] ** 2 / count, 1e-30)
    slope = both / xx
    explained = both * both / (xx * yy)
    return _Trend(slope, explained, (1.0 - explained) * yy / count, plain / np.where(slope == 0.0, np.inf, slope))


def _scores(table: dict[str, NDArray[np.float64]], rows: Rows) -> Float64s:
    """What each sequence adds to the covariance of changes and depths."""
    change = (table["high_change"] + table["low_change"])[rows]
    count, depth = (table["high"] + table["low"])[rows], table["depth"][rows]
    x, y = (float(sums.sum()) / max(float(count.sum()), 1.0) for sums in (depth, change))
    return np.asarray(table["depth_change"][rows] - x * change - y * depth + count * x * y)


def _certainty(table: dict[str, NDArray[np.float64]], rows: Rows) -> float:
    """Standard deviations by which the slope is not 0: by the spread of many sequences; of few, by their tokens."""
    scores = _scores(table, rows)
    if scores.size >= MANY:
        return abs(float(scores.sum())) / max(math.sqrt(float((scores * scores).sum())), 1e-30)
    told = float((table["high"] + table["low"])[rows].sum())
    return math.sqrt(float(_trend(table, rows).explained) * told / 2.0)  # as if half of them were of one piece


def _is_temperature(trend: _Trend) -> Any:
    return (trend.explained > EXPLAINED) & (np.abs(trend.slope) > LEAST_SLOPE) & (trend.alike > ALIKE)


def _holds(table: dict[str, NDArray[np.float64]], rows: Rows, z_low: Float64s, name: str) -> bool:
    """Whether all tokens say so too: of a temperature the slope, of a support the mean of train/rollout.

    Noise that is not that of logits (made up, or cut at 0) may move likely tokens alone; large noise of logits lowers
    all log-odds, but not the mean of train/rollout.
    """
    if not name.endswith("truncated"):
        return _is_temperature(_trend(table, rows)) and _certainty(table, rows) > CONFIRMED
    spikes = _spikes(table, rows, name.split()[0])
    count = int(np.count_nonzero(rows))
    moved = abs(float(z_low[rows].sum())) / math.sqrt(max(count, 1))
    told = moved > next(z for most, z in UNLIKELY.items() if count <= most)
    told |= spikes > 0 and count <= CERTAIN  # few others are unlikely
    told |= spikes >= count and moved > LEAST_MOVED
    return told and _is_truncated(table, rows, name.split()[0])


def _is_truncated(table: dict[str, NDArray[np.float64]], rows: Rows, side: str) -> bool:
    """Whether the mean ratio of the other side to this one is what a support keeps, and not that of a temperature.

    All log-ratios are those of what is kept, so that their mean and that of the ratios are about the same; noise and
    temperatures that move the first by as much leave the second at 0.
    """
    count = max(float(table["sound"][rows].sum()), 1.0)
    lost = -float(table["weight" if side == "rollout" else "pull_train"][rows].sum()) / count
    mean = float(table["k1"][rows].sum()) / count * (1.0 if side == "rollout" else -1.0)
    # tokens that one side alone is certain of are no noise
    noise = 0.0 if _spikes(table, rows, side) else math.sqrt(2.0 * float(table["k3"][rows].sum())) / count
    return lost > max(1.0 - KEPT, LOST * mean, SURE_LOSS * noise)


def _spikes(table: dict[str, NDArray[np.float64]], rows: Rows, side: str) -> int:
    """Tokens that this side alone is certain of; 0 where the other side has them too, as of noise cut at 0."""
    own, other = (int(table[f"spikes_{name}"][rows].sum()) for name in (SIDES if side == SIDES[0] else SIDES[::-1]))
    return own if other < 0.1 * own else 0


def _certain(state: State, free: Rows) -> tuple[Rows, Rows]:
    """Sequences with tokens that one side alone is certain of, as after top-p; and those that are free still.

    Where a side has been filled with zeros, in more places than these, they are what is left of the fills; where both
    sides have them, noise that is not that of logits.
    """
    certain = np.zeros(free.size, np.bool_)
    told = [_spikes(state.table, free, name) > 0 for name in SIDES]
    for side, name in enumerate(SIDES):
        spikes = state.table[f"spikes_{name}"]
        filled = (state.marks["side"] == side) & (state.marks["value"] == 0.0)
        if state.marks["tokens"][filled].sum() >= spikes[free].sum():
            free = free & (spikes == 0)
        elif told[side]:
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


def _named(table: dict[str, NDArray[np.float64]], rows: Rows, z_high: Float64s) -> NDArray[np.str_]:
    """ "rollout cold" and so on for each of the rows; those that could be two things are named as most are."""
    names = np.full(rows.size, "", dtype="<U20")
    sharp, told = z_high < 0.0, table["high"] + table["low"]
    each = _trend(table, np.ones(rows.size, np.bool_), each=True)
    truncated = ~(_is_temperature(each) & (told >= ENOUGH) & ((each.slope > 0.0) == sharp))
    for group in (rows & sharp, rows & ~sharp):
        votes = group & (told >= SOME)
        together = _trend(table, group)
        share = np.mean(truncated[votes]) if votes.any() else 1.0 - float(_is_temperature(together))
        clear = share < 0.5 and _is_temperature(together) and together.explained > 2.0 * EXPLAINED
        if clear or share < 0.3 or share > 0.7 or not votes.any():
            truncated[group] = share > 0.5
        else:  # two things at once
            truncated[group & ~votes] = share > 0.5
    spikes = table["spikes_rollout"] - table["spikes_train"]
    side = np.where(spikes != 0, spikes > 0, sharp)
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
    if same and not _is_temperature(_trend(table, rows)):
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


def _temperature(table: dict[str, NDArray[np.float64]], rows: Rows) -> tuple[float, str, bool]:
    """(T at which train's logits give rollout's log-probs, the side tokens were drawn from, whether of a support too).

    Two estimates: one is exact without noise (see `_pulls`), where nothing is cut that weighs most in it: unlikely
    tokens, where T < 1. The other, by the slope of log-odds, is as if all mass beside a token were that of one other
    token, but noise does not move it. Changes scatter about the slope, in proportion to it if noise adds nothing.
    """
    trend = _trend(table, rows)
    by_slope = math.log((2.0 - trend.slope) / (2.0 + trend.slope)) if abs(trend.slope) < 2.0 else 0.0
    count = max(float(table["sound"][rows].sum()), 1.0)
    sums = {name: float(table[name][rows].sum()) for name in ("nll_rollout", "nll_train", "k1")}
    # of drawn tokens, the mean log-ratio of what they were not drawn from is below 0
    side, d = ("rollout", -sums["k1"]) if sums["k1"] > 0.0 else ("train", sums["k1"])
    ratios = table["weight" if side == "rollout" else "pull_train"][rows]
    # a few unlikely tokens hold much of the mean ratio, where T < 1: what it lacks without them is no support
    noise = float(ratios.std()) * math.sqrt(ratios.size) if ratios.size >= SOME else math.inf
    cut = _is_truncated(table, rows, side) and -float(ratios.sum()) > CONFIRMED * noise
    pull, pull_d, pull_nll = (float(table[f"pull_{side}{what}"][rows].sum()) for what in ("", "_d", "_nll"))
    share = (pull_d - pull * d / count) / ((pull_nll - pull * sums[f"nll_{side}"] / count) or math.inf)
    exact = math.log1p(-share) * (1.0 if side == "rollout" else -1.0) if share < 1.0 else 0.0
    if exact * by_slope <= 0.0 or (cut and by_slope < 0.0):
        exact = by_slope
    noise = trend.scatter / trend.slope**2 / SCATTER if trend.slope else math.inf
    return math.exp((exact + noise * by_slope) / (1.0 + noise)), side, cut


def _figures(table: dict[str, NDArray[np.float64]], rows: Rows, name: str) -> str:
    kept = _kept_mass(table, rows)
    if name.endswith("truncated"):
        return f"; mean train/rollout {kept:.4g}"
    value, side, cut = _temperature(table, rows)
    seen = f", as train's logits at a temperature of about {value:.2f}; drawn as {side} says"
    return f"{seen}, from a truncated support too (mean train/rollout {kept:.4g})" if cut else seen
