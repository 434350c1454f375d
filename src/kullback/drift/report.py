"""From two sets of counts to divergences, p-values and bands, one row a column."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import choice, library, number, reals, share, shown, whole
from kullback.drift.cells import Cells, NumericCells
from kullback.drift.counting import Counts
from kullback.drift.tables import narwhals
from kullback.rows import relative_entropy_term
from kullback.samples import Smoothing, evaluate, integral_of_absolute, smooth, smoothing_parameters

Float64s = NDArray[np.float64]
METRICS = ("kl", "reverse_kl", "js", "js_distance", "psi", "hellinger", "tv")
_SHOWN = 30


@dataclass(frozen=True)
class DriftReport:
    """What changed, column by column; every attribute is an array (columns,) unless said otherwise.

    Attributes
    ----------
    column, kind : str
        Name, "numeric" or "categorical".
    band : str
        "stable", "watch" or "act"; "empty" where either side has no values.
    n_reference, n_current : int
        Values counted, without missing ones.
    missing_reference, missing_current : int
        NaN or null.
    below, above : int
        Current values beyond the reference's outermost edges (numeric).
    unseen : int
        Current values that are none of the categories kept (categorical).
    bins, empty_reference, empty_current : int
        Bins compared, and how many of them hold nothing on one side.
    kl, reverse_kl : float
        KL(reference‖current) and KL(current‖reference), nats.
    js, js_distance : float
        Jensen-Shannon divergence, nats, and its square root.
    psi : float
        Population stability index, Σ (r-c)·ln(r/c) = kl + reverse_kl.
    hellinger, tv : float
        In [0, 1].
    wasserstein, wasserstein_bound, wasserstein_scaled : float
        W1 in the unit of the column, from the fine cells; the most by which it can be off; W1 over the
        standard deviation of the reference `fit` saw. NaN for categories.
    psi_p_value : float
        Chance of a PSI at least this large without drift: PSI/(1/n + 1/m) ~ χ² with (bins in use - 1) degrees
        of freedom, before smoothing. 0 where PSI is inf, however few values that took: see the other.
    g_test_p_value : float
        The same for the likelihood-ratio statistic 2·(n·KL(r‖pooled) + m·KL(c‖pooled)), which is always
        finite.
    smoothing : str (one for all)
        The rule that was applied.

    Notes
    -----
    B. Yurdakul, "Statistical properties of population stability index", Western Michigan University, 2018;
    fixed thresholds raise too many alarms for few values and too few for many: R. Potgieter et al.,
    arXiv:2307.11878.
    """

    column: NDArray[Any]
    kind: NDArray[Any]
    band: NDArray[Any]
    n_reference: NDArray[np.int64]
    n_current: NDArray[np.int64]
    missing_reference: NDArray[np.int64]
    missing_current: NDArray[np.int64]
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    unseen: NDArray[np.int64]
    bins: NDArray[np.int64]
    empty_reference: NDArray[np.int64]
    empty_current: NDArray[np.int64]
    kl: Float64s
    reverse_kl: Float64s
    js: Float64s
    js_distance: Float64s
    psi: Float64s
    hellinger: Float64s
    tv: Float64s
    wasserstein: Float64s
    wasserstein_bound: Float64s
    wasserstein_scaled: Float64s
    psi_p_value: Float64s
    g_test_p_value: Float64s
    smoothing: str

    def to_dict(self) -> dict[str, list[Any]]:
        """One list a field, one entry a column: what any table or JSON writer takes."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "smoothing"}
        return {name: array.tolist() for name, array in named.items()}

    def to_table(self, backend: str) -> Any:
        """The report as a table of "pandas", "polars" or "pyarrow"."""
        return narwhals().from_dict(self.to_dict(), backend=backend).to_native()

    def __str__(self) -> str:
        """The columns with the largest PSI."""
        order = np.argsort(-np.nan_to_num(self.psi, nan=-1.0, posinf=np.inf), kind="stable")
        head = f"{'column':<20} {'band':<7} {'psi':>9} {'kl':>9} {'js':>9} {'W1/sd':>9} {'p':>8} {'missing':>8}"
        lines = [head]
        for j in order[:_SHOWN]:
            numbers = [self.psi[j], self.kl[j], self.js[j], self.wasserstein_scaled[j]]
            lines.append(
                f"{self.column[j]:<20} {self.band[j]:<7} "
                + " ".join(f"{number:9.4g}" for number in numbers)
                + f" {self.g_test_p_value[j]:8.2g} {self.missing_current[j]:8d}"
            )
        if order.size > _SHOWN:
            lines.append(f"... and {order.size - _SHOWN} more")
        lines.append(f"smoothing: {self.smoothing}; p: likelihood-ratio test; unseen: {self.unseen.sum()}")
        return "\n".join(lines)


def make_report(
    reference: Counts,
    current: Counts,
    smoothing: Smoothing,
    missing: str,
    bands: tuple[float, float],
    band_metric: str,
) -> DriftReport:
    """The report of two Counts with the same cells."""
    smoothing_parameters(smoothing)
    choice(missing, "missing", ("drop", "bin"))
    limits = reals(bands, "bands")
    if limits.shape != (2,) or not 0 <= limits[0] <= limits[1]:
        raise ValueError(f"`bands` is {shown(bands)}, expected two rising numbers")
    low, high = map(float, limits)
    choice(band_metric, "band_metric", (*METRICS, "wasserstein", "wasserstein_scaled"))
    rows = []
    for name, cells in reference.cells.items():
        r, c = reference.by_column[name], current.by_column[name]
        row = {"column": name} | _occupancy(cells, r, c)
        row |= _divergences(_binned(cells, r, missing), _binned(cells, c, missing), smoothing)
        row |= _wasserstein(name, cells, reference, current)
        row["band"] = _band(row[band_metric], (low, high))
        rows.append(row)
    table = {key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})}
    return DriftReport(**table, smoothing=str(smoothing))


def _occupancy(cells: Cells, r: NDArray[np.int64], c: NDArray[np.int64]) -> dict[str, Any]:
    """Counts of the special cells."""
    numeric = isinstance(cells, NumericCells)
    return {
        "kind": "numeric" if numeric else "categorical",
        "n_reference": r[:-1].sum(),
        "n_current": c[:-1].sum(),
        "missing_reference": r[-1],
        "missing_current": c[-1],
        "below": c[0] if numeric else 0,
        "above": c[-2] if numeric and c.size > 2 else 0,
        "unseen": 0 if numeric else c[-2],
    }


def _binned(cells: Cells, counts: NDArray[np.int64], missing: str) -> NDArray[np.int64]:
    """Cells added up to bins, with one for missing values if it was asked for."""
    present = counts[:-1]
    if isinstance(cells, NumericCells):
        bins = np.zeros(int(cells.bins.max()) + 1, np.int64)
        np.add.at(bins, cells.bins, present)
        present = bins
    return np.append(present, counts[-1]) if missing == "bin" else present


def _divergences(r: NDArray[np.int64], c: NDArray[np.int64], smoothing: Smoothing) -> dict[str, Any]:
    """Every metric of two rows of bins, and the p-values."""
    used = (r > 0) | (c > 0)
    n, m = r.sum(), c.sum()
    result: dict[str, Any] = {
        "bins": r.size,
        "empty_reference": np.count_nonzero(r == 0),
        "empty_current": np.count_nonzero(c == 0),
    }
    if n == 0 or m == 0:
        return result | dict.fromkeys((*METRICS, "psi_p_value", "g_test_p_value"), np.nan)
    p, q = smooth(r, smoothing), smooth(c, smoothing)
    result |= {metric: float(evaluate(metric, p, q)) for metric in METRICS}
    p, q, pooled = r[used] / n, c[used] / m, (r + c)[used] / (n + m)
    g = 2.0 * (n * relative_entropy_term(p, pooled).sum() + m * relative_entropy_term(q, pooled).sum())
    freedom = int(np.count_nonzero(used)) - 1
    result["psi_p_value"] = chi2_survival(float(evaluate("psi", p, q)) / (1 / n + 1 / m), freedom)
    result["g_test_p_value"] = chi2_survival(g, freedom)
    return result


def _special() -> Any:
    return library("scipy.special", "a p-value")


def chi2_survival(statistic: float, freedom: int) -> float:
    """P(χ² > statistic); 1 without degrees of freedom."""
    return float(_special().chdtrc(freedom, statistic)) if freedom > 0 else 1.0


def psi_threshold(n_reference: int, n_current: int, bins: int, p_value: float = 0.001) -> float:
    """The PSI that two samples of one distribution exceed with probability `p_value`.

    χ²(1 - p_value, bins - 1)·(1/n_reference + 1/n_current): B. Yurdakul, 2018, equation 5.2.

    Parameters
    ----------
    n_reference, n_current : int
        Values on either side.
    bins : int
        Bins, at least two.
    p_value : float
        Between 0 and 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        A parameter out of its range.

    Examples
    --------
    >>> round(psi_threshold(1000, 1000, 10), 4)
    0.0558
    """
    freedom = number(whole(bins, "bins", 2) - 1, "bins", 1, 2.0**53)
    n, m = (number(x, name, 1, np.inf) for x, name in ((n_reference, "n_reference"), (n_current, "n_current")))
    chance = share(p_value, "p_value")
    return float(_special().chdtri(freedom, chance) * (1 / n + 1 / m))


def _wasserstein(name: str, cells: Cells, reference: Counts, current: Counts) -> dict[str, float]:
    """W1 and how far it can be off.

    Between the outermost edges mass is spread evenly within its cell, which moves it by half the cell's width
    h at most: Σ (r + c)·h/2. Outside, where all but one of the distribution functions are usually constant,
    the area between them is the difference of the summed distances a and b to the edge; it is a + b at most.
    """
    r, c = reference.by_column[name][:-1], current.by_column[name][:-1]
    n, m = r.sum(), c.sum()
    if not isinstance(cells, NumericCells) or cells.edges.size == 0 or n == 0 or m == 0:
        return dict.fromkeys(("wasserstein", "wasserstein_bound", "wasserstein_scaled"), np.nan)
    width = np.diff(cells.edges)
    distance = float(integral_of_absolute(np.cumsum(r)[:-1] / n - np.cumsum(c)[:-1] / m, width))
    bound = float(((r / n + c / m)[1:-1] * width).sum() / 2)
    for side in (0, 1):
        a, b = (_mean_excess(name, cells, counts, side) for counts in (reference, current))
        if a == b == np.inf:
            return dict.fromkeys(("wasserstein", "wasserstein_bound", "wasserstein_scaled"), np.nan)
        distance += abs(a - b)
        bound += 2 * min(a, b) + cells.unit
    scaled = distance / cells.scale if cells.scale > 0 else np.inf
    return {
        "wasserstein": distance,
        "wasserstein_bound": bound,
        "wasserstein_scaled": scaled if distance > 0 else distance,
    }


def _mean_excess(name: str, cells: NumericCells, counts: Counts, side: int) -> float:
    """How far values lie beyond an edge, averaged over all values; inf if one is beyond what can be counted."""
    least, greatest = counts.extremes[name]
    farthest = cells.edges[0] - least if side == 0 else greatest - cells.edges[-1]
    if farthest >= 2.0**62 * cells.unit:
        return float("inf")
    low, rest = (int(word) for word in counts.excess[name][side])
    return (low + (rest << 31)) / int(counts.by_column[name][:-1].sum()) * cells.unit


def _band(value: float, bands: tuple[float, float]) -> str:
    if np.isnan(value):
        return "empty"
    return "stable" if value < bands[0] else "watch" if value < bands[1] else "act"
