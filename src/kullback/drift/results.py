"""The report of drift, and how it is written: text, tables, JSON, HTML."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.drift.tables import narwhals

Float64s = NDArray[np.float64]
NOISE = {"psi": 1.0, "kl": 0.5, "reverse_kl": 0.5, "js": 0.125}  # of PSI's without drift: all four are like Σ (r-c)²/r
_SHOWN = 30
_BANDS = ("act", "watch", "shifted", "stable", "empty")
_OF_ALL = ("smoothing", "alpha", "band_metric")  # fields with one value for all columns


@dataclass(frozen=True)
class DriftReport:
    """What changed, column by column; every attribute is an array (columns,) unless said otherwise.

    Attributes
    ----------
    column, kind : str
        Name, "numeric", "datetime", "categorical" or "identifier" (row numbers, clocks, columns whose values mostly
        occur once: their values are not compared, only missing ones).
    n_reference, n_current : int
        Values counted, without missing ones.
    missing_reference, missing_current : int
        NaN or null.
    below, above : int
        Current values beyond the reference's outermost edges (numeric).
    unseen : int
        Current values that are none of the categories kept (categorical).
    bins, empty_reference, empty_current : int
        Bins compared, and how many of them hold nothing on one side. Categories are a bin each, and so are together
        those of fewer than five values on both sides, or with a rule of smoothing those that the reference lacks;
        missing values are one with `missing="bin"`.
    kl, reverse_kl : float
        KL(reference‖current) and KL(current‖reference), nats.
    js, js_distance : float
        Jensen-Shannon divergence, nats, and its square root.
    psi : float
        Population stability index, Σ (r-c)·ln(r/c) = kl + reverse_kl.
    psi_noise : float
        What PSI is on average without drift, at these numbers of values.
    hellinger, tv : float
        In [0, 1].
    wasserstein, wasserstein_bound, wasserstein_scaled : float
        W1 in the unit of the column (seconds of dates), from the fine cells; the most by which it can be off; W1
        over the standard deviation of the reference `fit` saw. NaN for categories.
    energy, energy_bound : float
        Energy distance √(2·∫ (F - G)²), and the most by which it can be off.
    ks, ks_bound : float
        Largest difference of the distribution functions at the edges of the cells, and by how much it can be larger
        in between.
    missing_psi : float
        PSI of missing against present values.
    psi_p_value, g_test_p_value, ks_p_value : float
        Chance of a PSI, a likelihood ratio 2·(n·KL(r‖pooled) + m·KL(c‖pooled)), a Kolmogorov-Smirnov distance at least
        this large without drift. Where fewer than fifty values are expected in a bin, by drawing which of the values
        are the reference, with a gamma law beyond 2,000 draws; else by the limit laws. Categories of fewer than five
        values on both sides together are one bin.
    unseen_p_value, missing_p_value : float
        The same for as many values of categories that the reference lacks (one-sided, from how often rare categories
        are to be expected in one sample alone), and for the shares of missing values.
    p_value : float
        Of the column: its least p-value times their number. PSI's is not among them.
    q_value : float
        The share of false alarms if columns alarm up to this one (Benjamini & Hochberg).
    alarm : str
        Which tests alarm: "values" (likelihood ratio), "shape" (Kolmogorov-Smirnov), "unseen", "missing".
    watch_from, act_from : float
        Where the bands begin.
    band : str
        "stable" where chance explains it: `q_value` is above `alpha`. Else by the excess of the band metric over its
        noise, of the values or of missing against present, whichever is larger: "act" from `act_from` on, "watch" from
        `watch_from` on, or where values alarm and the noise itself is that large, so that the size is not known to be
        less; "shifted" where it is small. "empty" where there is nothing to compare. With the reference's own
        variation as bands, what stays within it is "stable".
    smoothing : str (one for all)
        The rule that was applied.
    alpha : float (one for all)
        The share of false alarms that was asked for.
    band_metric : str (one for all)
        The metric whose size decides.

    Notes
    -----
    B. Yurdakul, "Statistical properties of population stability index", Western Michigan University, 2018;
    fixed thresholds raise too many alarms for few values and too few for many: R. Potgieter et al.,
    arXiv:2307.11878.
    """

    column: NDArray[Any]
    kind: NDArray[Any]
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
    psi_noise: Float64s
    hellinger: Float64s
    tv: Float64s
    wasserstein: Float64s
    wasserstein_bound: Float64s
    wasserstein_scaled: Float64s
    energy: Float64s
    energy_bound: Float64s
    ks: Float64s
    ks_bound: Float64s
    missing_psi: Float64s
    psi_p_value: Float64s
    g_test_p_value: Float64s
    ks_p_value: Float64s
    unseen_p_value: Float64s
    missing_p_value: Float64s
    p_value: Float64s
    q_value: Float64s
    alarm: NDArray[Any]
    watch_from: Float64s
    act_from: Float64s
    band: NDArray[Any]
    smoothing: str
    alpha: float
    band_metric: str = "psi"

    def to_dict(self) -> dict[str, list[Any]]:
        """One list a field, one entry a column: what any table or JSON writer takes."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _OF_ALL}
        return {name: array.tolist() for name, array in named.items()}

    def to_table(self, backend: str) -> Any:
        """The report as a table of "pandas", "polars" or "pyarrow"."""
        return narwhals().from_dict(self.to_dict(), backend=backend).to_native()

    def to_json(self) -> str:
        """The report as JSON: `smoothing`, `alpha`, `band_metric`, and one object a column. NaN is null, infinity
        "inf"."""
        lists = self.to_dict()
        rows = [
            {name: _plain(value) for name, value in zip(lists, row, strict=True)}
            for row in zip(*lists.values(), strict=True)
        ]
        return json.dumps({name: getattr(self, name) for name in _OF_ALL} | {"columns": rows}, allow_nan=False)

    def to_html(self) -> str:
        """The report as a page of its own, the columns that drift most first; nothing is loaded from elsewhere."""
        body = "\n".join(self._html_row(j) for j in self._order())
        bands = ", ".join(f"{np.count_nonzero(self.band == band)} {band}" for band in _BANDS[:-1])
        return _PAGE.format(
            legend=html.escape(" ".join(self._legend())),
            summary=bands,
            alpha=f"{self.alpha:g}",
            rows=body,
            smoothing=html.escape(self.smoothing),
        )

    def _html_row(self, j: int) -> str:
        share = np.array([self.missing_reference[j], self.missing_current[j]]) / np.maximum(
            [self.n_reference[j] + self.missing_reference[j], self.n_current[j] + self.missing_current[j]], 1
        )
        numbers = [self.psi[j], self.psi_noise[j], self.ks[j], self.wasserstein_scaled[j], self.q_value[j]]
        cells = [
            f'<th scope="row">{html.escape(str(self.column[j]))}</th>',
            f"<td>{self.kind[j]}</td>",
            f'<td class="{self.band[j]}">{self.band[j]}</td>',
            f"<td>{self.alarm[j]}</td>",
            *(f'<td class="number">{"" if np.isnan(x) else f"{x:.3g}"}</td>' for x in numbers),
            f'<td class="number">{share[0]:.2%} → {share[1]:.2%}</td>',
            f'<td class="number">{self.unseen[j]}</td>',
        ]
        return "<tr>" + "".join(cells) + "</tr>"

    def _order(self) -> NDArray[np.int64]:
        """Columns by band, then by the larger of their PSIs."""
        bands = np.array([_BANDS.index(band) for band in self.band], dtype=np.int64)
        return np.lexsort((-np.nan_to_num(np.fmax(self.psi, self.missing_psi), nan=-1.0, posinf=np.inf), bands))

    def _legend(self) -> list[str]:
        """What the bands say."""
        limits = {(float(w), float(a)) for w, a in zip(self.watch_from, self.act_from, strict=True)}
        watch, act = (f"{x:.3g}" for x in limits.pop()) if len(limits) == 1 else ("watch_from", "act_from")
        size = f"{self.band_metric} less noise" if self.band_metric in NOISE else self.band_metric
        return [
            f"act: beyond chance, {size} is {act} or more. watch: {watch} or more, or too noisy to be known.",
            "shifted: beyond chance, and smaller. stable: as chance, or the reference itself, has it.",
        ]

    def __str__(self) -> str:
        """The columns that drift most."""
        order = self._order()
        head = (
            f"{'column':<20} {'band':<7} {'psi':>9} {'noise':>9} {'ks':>9} {'W1/sd':>9} {'q':>8} {'missing':>8} alarm"
        )
        lines = [head]
        for j in order[:_SHOWN]:
            numbers = [self.psi[j], self.psi_noise[j], self.ks[j], self.wasserstein_scaled[j]]
            lines.append(
                f"{self.column[j]:<20} {self.band[j]:<7} "
                + " ".join(f"{number:9.4g}" for number in numbers)
                + f" {self.q_value[j]:8.2g} {self.missing_current[j]:8d} {self.alarm[j]}".rstrip()
            )
        if order.size > _SHOWN:
            lines.append(f"... and {order.size - _SHOWN} more")
        lines += self._legend()
        lines.append(
            f"smoothing: {self.smoothing}; false alarms among alarms: {self.alpha:g}; unseen: {self.unseen.sum()}"
        )
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A value that JSON has."""
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "inf" if value > 0 else "-inf"
    return value


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Drift</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ padding: 0.3rem 0.6rem; text-align: left; border-bottom: 1px solid #8884; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.act {{ background: #d6455044; font-weight: 600; }} .watch {{ background: #e0a80044; }}
.shifted {{ background: #5b8def33; }}
</style></head><body><h1>Drift</h1>
<p>{summary}. {legend} Of the columns with an alarm, a share of {alpha} is false on average. Smoothing: {smoothing}.</p>
<table><thead><tr><th>column</th><th>kind</th><th>band</th><th>alarm</th><th>PSI</th><th>without drift</th><th>KS</th>
<th>W1/sd</th><th>q</th><th>missing</th><th>unseen</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
