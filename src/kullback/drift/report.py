"""From two sets of counts to divergences, p-values and bands, one row a column."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, number, reals, shown
from kullback.drift.cells import CategoricalCells, Cells, NumericCells
from kullback.drift.counting import Counts
from kullback.drift.distances import NAMES, distances
from kullback.drift.results import NOISE, DriftReport
from kullback.drift.significance import (
    ValueTests,
    adjusted,
    missing_test,
    pooled_cells,
    smoothed_where_empty,
    unseen_test,
    value_tests,
)
from kullback.samples import Smoothing, evaluate, smooth, smoothing_parameters

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
Bands = tuple[float, float] | str
METRICS = ("kl", "reverse_kl", "js", "js_distance", "psi", "hellinger", "tv")
USUAL = (0.1, 0.25)  # of PSI


@dataclass(frozen=True)
class Settings:
    """What `DriftState.report` was asked for, checked."""

    smoothing: Smoothing
    missing: str
    bands: tuple[float, float] | None  # None: by the reference's own variation
    band_metric: str
    alpha: float
    seed: int


def settings(smoothing: Smoothing, missing: str, bands: Any, band_metric: str, alpha: float, seed: int) -> Settings:
    """Settings, or an error that names what is wrong."""
    if not (isinstance(smoothing, str) and smoothing == "auto"):
        smoothing_parameters(smoothing)
    choice(missing, "missing", ("drop", "bin"))
    choice(band_metric, "band_metric", (*METRICS, "wasserstein", "wasserstein_scaled", "energy", "ks"))
    own = isinstance(bands, str) and bands == "reference"
    limits = None
    if not own:
        given = reals(bands, "bands")
        if given.shape != (2,) or not 0 <= given[0] <= given[1]:
            raise ValueError(f"`bands` is {shown(bands)}, expected two rising numbers or 'reference'")
        limits = (float(given[0]), float(given[1]))
    return Settings(smoothing, missing, limits, band_metric, number(alpha, "alpha", 0.0, 1.0), seed)


def make_report(reference: Counts, current: Counts, chunks: Sequence[Counts], asked: Settings) -> DriftReport:
    """The report of two Counts with the same cells; `chunks` are those of the reference."""
    if asked.bands is None and len(chunks) < 2:
        raise ValueError("`bands` is 'reference', expected two numbers for a state fitted without `chunks`")
    rows = []
    others = [_merged(chunk, chunks) for chunk in chunks] if asked.bands is None else []
    for name, cells in reference.cells.items():
        row = _column(name, cells, reference, current, asked)
        row |= _tests(name, cells, reference, current, row, asked.seed)
        pairs = zip(others, chunks, strict=False)
        row["watch_from"], row["act_from"] = asked.bands or _own_limits(name, cells, pairs, asked)
        rows.append(row)
    q_values = adjusted(np.array([row["p_value"] for row in rows]))
    alarms = np.count_nonzero(q_values <= asked.alpha)
    allowed = asked.alpha * alarms / max(len(rows), 1) if alarms else -1.0  # where Benjamini and Hochberg's line ends
    for row, q in zip(rows, q_values, strict=True):
        tested = row.pop("tested")
        row["q_value"] = q
        row["alarm"] = ", ".join(test for test, p in tested.items() if min(p * len(tested), 1.0) <= allowed)
        row["band"] = _band(row, row.pop("effect"), q, asked)
    table = {key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})}
    return DriftReport(**table, smoothing=str(asked.smoothing), alpha=asked.alpha, band_metric=asked.band_metric)


def _column(name: str, cells: Cells, reference: Counts, current: Counts, asked: Settings) -> dict[str, Any]:
    """Counts, divergences and distances of one column."""
    r, c = reference.by_column[name], current.by_column[name]
    row = {"column": name} | _occupancy(cells, r, c)
    tests = _value_tests(name, cells, reference, current, asked.seed)
    row["psi_noise"] = tests.noise
    row |= {"psi_p_value": tests.psi, "g_test_p_value": tests.g, "ks_p_value": tests.ks}
    if cells.identifier:
        row |= {"bins": 0, "empty_reference": 0, "empty_current": 0} | dict.fromkeys((*METRICS, *NAMES), np.nan)
    else:
        row |= _divergences(*_bins(name, cells, reference, current, asked), asked.smoothing)
        row |= distances(name, cells, reference, current)
    row["missing_psi"], moved = _missing_effect(r, c, asked.band_metric)
    row["effect"] = np.fmax(_excess(asked.band_metric, row), moved)
    return row


def _occupancy(cells: Cells, r: Int64s, c: Int64s) -> dict[str, Any]:
    """Counts of the special cells."""
    numeric = isinstance(cells, NumericCells)
    kind = "categorical" if not isinstance(cells, NumericCells) else "datetime" if cells.temporal else "numeric"
    return {
        "kind": "identifier" if cells.identifier else kind,
        "n_reference": r[:-1].sum(),
        "n_current": c[:-1].sum(),
        "missing_reference": r[-1],
        "missing_current": c[-1],
        "below": c[0] if numeric else 0,
        "above": c[-2] if numeric and c.size > 2 else 0,
        "unseen": 0 if numeric else c[-2],
    }


def _by_value(name: str, reference: Counts, current: Counts) -> tuple[Int64s, Int64s] | None:
    """Counts of every category of either side; None where there were too many to count each."""
    ours, theirs = reference.others[name], current.others[name]
    if ours is None or theirs is None:
        return None
    keys = list(ours | theirs)
    rest = (np.fromiter((side.get(key, 0) for key in keys), np.int64, len(keys)) for side in (ours, theirs))
    known = (counts.by_column[name][:-2] for counts in (reference, current))
    r, c = (np.concatenate(pair) for pair in zip(known, rest, strict=True))
    return r, c


def _bins(name: str, cells: Cells, reference: Counts, current: Counts, asked: Settings) -> tuple[Int64s, Int64s]:
    """The bins that divergences are taken of."""
    r, c = reference.by_column[name], current.by_column[name]
    sides = (r[:-1], c[:-1])
    if isinstance(cells, NumericCells):
        width = int(cells.bins.max()) + 1
        sides = (_summed(cells.bins, sides[0], width), _summed(cells.bins, sides[1], width))
    elif asked.smoothing == "auto" and (each := _by_value(name, reference, current)) is not None:
        sides = pooled_cells(*each)
    if asked.missing == "bin":
        sides = (np.append(sides[0], r[-1]), np.append(sides[1], c[-1]))
    return sides


def _summed(bins: Int64s, counts: Int64s, width: int) -> Int64s:
    total = np.zeros(width, np.int64)
    np.add.at(total, bins, counts)
    return total


def _divergences(r: Int64s, c: Int64s, smoothing: Smoothing) -> dict[str, Any]:
    """Every metric of two rows of bins."""
    if isinstance(smoothing, str) and smoothing == "auto":
        used = (r > 0) | (c > 0)  # others have no part in it: the bin of rare categories where there are none
        r, c = r[used], c[used]
    empty = {"bins": r.size, "empty_reference": np.count_nonzero(r == 0), "empty_current": np.count_nonzero(c == 0)}
    if r.sum() == 0 or c.sum() == 0:
        return empty | dict.fromkeys(METRICS, np.nan)
    if isinstance(smoothing, str) and smoothing == "auto":
        p, q = smoothed_where_empty(r, c)
    else:
        p, q = smooth(r, smoothing), smooth(c, smoothing)
    return empty | {metric: float(evaluate(metric, p, q)) for metric in METRICS}


def _value_tests(name: str, cells: Cells, reference: Counts, current: Counts, seed: int) -> ValueTests:
    """Whether values differ; NaN for identifiers."""
    if cells.identifier:
        return ValueTests(np.nan, np.nan, np.nan, np.nan)
    stream = [seed, zlib.crc32(name.encode()), 0]
    r, c = reference.by_column[name][:-1], current.by_column[name][:-1]
    if isinstance(cells, NumericCells):
        return value_tests(r, c, cells.bins, stream)
    each = _by_value(name, reference, current)
    return value_tests(*(pooled_cells(*each) if each is not None else (r, c)), None, stream)


def _tests(
    name: str, cells: Cells, reference: Counts, current: Counts, row: dict[str, Any], seed: int
) -> dict[str, Any]:
    """p-values of missing and unseen values; and of the column, which is Bonferroni's of all its tests."""
    r, c = reference.by_column[name], current.by_column[name]
    n, m = int(r[:-1].sum()), int(c[:-1].sum())
    unseen = np.nan
    if isinstance(cells, CategoricalCells) and not cells.identifier and n and m:
        each = _by_value(name, reference, current)
        if each is not None:
            new = int(each[1][each[0] == 0].sum())
            unseen = unseen_test(new, each[0] + each[1], n, m, [seed, zlib.crc32(name.encode()), 1])
    missing = missing_test(int(r[-1]), int(r.sum()), int(c[-1]), int(c.sum()))
    tested = {"values": row["g_test_p_value"], "shape": row["ks_p_value"], "unseen": unseen, "missing": missing}
    tested = {test: p for test, p in tested.items() if not np.isnan(p)}
    return {
        "unseen_p_value": unseen,
        "missing_p_value": missing,
        "p_value": min(1.0, len(tested) * min(tested.values())),
        "tested": tested,
    }


def _missing_effect(r: Int64s, c: Int64s, metric: str) -> tuple[float, float]:
    """PSI of missing and present, less its noise, and the same of the metric that bands are of."""
    n, m = r.sum(), c.sum()
    if n == 0 or m == 0:
        return np.nan, np.nan
    sides = (np.array([side[-1], side[:-1].sum()]) for side in (r, c))
    p, q = smoothed_where_empty(*sides)
    noise = (1 / n + 1 / m) if 0 < r[-1] + c[-1] < n + m else 0.0
    psi = float(evaluate("psi", p, q))
    name = metric if metric in METRICS else "psi"
    return psi, max(float(evaluate(name, p, q)) - NOISE.get(name, 0.0) * noise, 0.0)


def _excess(metric: str, row: dict[str, Any]) -> float:
    """A metric less what it is on average without drift."""
    return float(row[metric] - NOISE.get(metric, 0.0) * row["psi_noise"])


def _merged(chunk: Counts, chunks: Sequence[Counts]) -> Counts:
    """All chunks but one."""
    rest = Counts(chunk.cells)
    for other in chunks:
        if other is not chunk:
            rest.merge(other)
    return rest


def _own_limits(
    name: str, cells: Cells, pairs: Iterable[tuple[Counts, Counts]], asked: Settings
) -> tuple[float, float]:
    """Mean + 3 standard deviations of each chunk of the reference against the others, and 2.5 times that."""
    effects = [_column(name, cells, rest, chunk, asked)["effect"] for rest, chunk in pairs]
    known = np.array([effect for effect in effects if np.isfinite(effect)])
    limit = float(max(known.mean() + 3.0 * known.std(ddof=1), 0.0)) if known.size > 1 else np.inf
    return limit, USUAL[1] / USUAL[0] * limit


def _band(row: dict[str, Any], effect: float, q_value: float, asked: Settings) -> str:
    """Whether chance explains it, and if not, how large it is as far as that is known."""
    if np.isnan(effect) or (row["n_reference"] == 0 and row["n_current"] == 0):
        return "empty"
    if q_value > asked.alpha:
        return "stable"
    if effect >= row["watch_from"]:
        return "watch" if effect < row["act_from"] else "act"
    if asked.bands is None or asked.alpha == 1.0:
        return "stable"  # as the reference varies by itself, or no test was asked for
    values = set(row["alarm"].split(", ")) - {"missing", ""}
    unknown = NOISE.get(asked.band_metric, 0.0) * row["psi_noise"] >= row["watch_from"]
    return "watch" if values and unknown else "shifted"
