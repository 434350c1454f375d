"""KL against size: which candidates nothing beats that is at most as large, as a drawing of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kullback.comparison import ComparisonSummary, Spread
from kullback.evaluation.report.frame import Frame, log_ticks, nice, number
from kullback.evaluation.table import statistic_text
from kullback.evaluation.table.picture import free_places
from kullback.evaluation.table.rows import frontier
from kullback.evaluation.table.sizes import ModelSize, size_text

__all__ = ["SizePicture", "size_picture"]

_LEVELS = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_LETTER, _LINE = 9.6, 19.0  # of a label on a narrow page, in the units of the drawing
_LONGEST = 24


class SizePicture(NamedTuple):
    """The drawing (empty with fewer than two candidates on it), what it shows, who is on the frontier, who is not
    drawn, whose points have no label."""

    drawing: str = ""
    statistic: str = ""
    best: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()


def size_picture(
    found: Mapping[str, ComparisonSummary], order: list[str], sizes: Mapping[str, ModelSize], statistic: str
) -> SizePicture:
    """Of candidates in the order of the ranking, whose places give their colours; `statistic` as in a table."""
    figures = {name: _figure(found[name].kl, statistic.removeprefix("kl.")) for name in order}
    shown = [name for name in order if name in sizes and sizes[name].bytes and 0 < figures[name][0] < math.inf]
    if len(shown) < 2:
        return SizePicture()
    points = [(float(sizes[name].bytes), figures[name][0]) for name in shown]
    best = sorted(frontier(points), key=lambda i: points[i])
    scale, unit = next((one for one in _UNITS if max(size for size, _ in points) >= one[0]), _UNITS[-1])
    points = [(size / scale, value) for size, value in points]
    frame, wide = _axes(points, [figures[name][1] for name in shown], unit, statistic, found[shown[0]].unit)
    places = [math.log10(size) if wide else size for size, _ in points]
    line = [(frame.x(places[i]), frame.y(points[i][1])) for i in best]
    taken = [(frame.x(x), frame.y(value)) for x, (_, value) in zip(places, points, strict=True)]
    marks = np.array(taken)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
    frame.parts.append(f'<polyline class="frontier" points="{path}"/>')
    for start, stop in pairwise(line):
        taken += [tuple(point) for point in np.linspace(start, stop, 2 + int(abs(stop[0] - start[0]) / 4))]
    for i, name in enumerate(shown):
        low, high = figures[name][1]
        if low < high < math.inf:
            ends = frame.y(high), frame.y(max(low, frame.y_range[0]))
            taken += [(marks[i][0], y) for y in np.arange(*ends, 4.0)]
        frame.bar(places[i], points[i][1], (low, high), order.index(name), _title(name, sizes[name], *figures[name]))
    unlabelled = _label(frame, shown, marks, best, np.array(taken))
    named = tuple(shown[i] for i in best)
    what = f"{statistic_text(statistic.removeprefix('kl.'))}(p‖q)"
    drawing = frame.svg(f"{what} against size; on the frontier {', '.join(named)}")
    return SizePicture(drawing, what, named, tuple(name for name in order if name not in shown), unlabelled)


def _figure(kl: Spread, figure: str) -> tuple[float, tuple[float, float]]:
    """A statistic of KL and its interval, NaN where there is none."""
    if figure == "mean":
        return kl.mean, kl.interval()
    if figure == "max":
        return kl.max, (math.nan, math.nan)
    return kl.quantile(_LEVELS[figure]), kl.quantile_interval(_LEVELS[figure])


def _title(name: str, size: ModelSize, value: float, ends: tuple[float, float]) -> str:
    text = f"{name}, {size_text(size.bytes)}: {number(value)}"
    return text if math.isnan(ends[0]) else f"{text} ({number(ends[0])} to {number(ends[1])})"


def _axes(
    points: list[tuple[float, float]], intervals: list[tuple[float, float]], unit: str, statistic: str, measure: str
) -> tuple[Frame, bool]:
    """The empty frame, and whether sizes are on a logarithmic scale in it."""
    sizes, values = zip(*points, strict=True)
    # an interval may reach to 0, where a logarithmic scale has no end: it goes to the edge
    lows = [low for low, _ in intervals if low > min(values) / 30]
    highs = [high for _, high in intervals if high < math.inf]
    y_ticks = log_ticks(min([*values, *lows]) / 1.1, max([*values, *highs]) * 1.1)
    wide = max(sizes) > 20 * min(sizes)
    if wide:
        found = [(math.log10(value), text) for value, text in log_ticks(min(sizes) / 1.2, max(sizes) * 1.2)]
        x_ticks, ends = found, (found[0][0], found[-1][0])
    else:
        margin = 0.12 * (max(sizes) - min(sizes) or max(sizes))
        ends = max(0.0, min(sizes) - margin), max(sizes) + margin
        step = nice(ends[1] - ends[0], 5)[1]
        first = math.ceil(ends[0] / step)
        x_ticks = [(step * i, f"{step * i:g}") for i in range(first, math.floor(ends[1] / step) + 1)]
    frame = Frame(ends, (y_ticks[0][0], y_ticks[-1][0]), log_y=True, height=340)
    label = f"{statistic_text(statistic.removeprefix('kl.'))}(p‖q), {measure}"
    frame.axes(f"size, {unit}", label, x_ticks, y_ticks)
    return frame, wide


def _label(
    frame: Frame, shown: list[str], marks: np.ndarray, best: list[int], taken: np.ndarray
) -> tuple[str, ...]:  # fmt: skip
    """Names beside their points, those of the frontier first; returns those for which there is no room."""
    order = sorted(range(len(shown)), key=lambda i: i not in best)
    texts = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in shown]
    extents = [(_LETTER * len(texts[i]), _LINE) for i in order]
    missing = []
    for i, box in zip(order, free_places(marks, order, extents, taken, frame.box), strict=True):
        if box is None:
            missing.append(shown[i])
            continue
        middle = (box[0] + box[2]) / 2
        side = "end" if middle < marks[i][0] - 1 else "start" if middle > marks[i][0] + 1 else "middle"
        x = {"end": box[2], "start": box[0], "middle": middle}[side]
        at = f'x="{x:.1f}" y="{box[3] - 5:.1f}" text-anchor="{side}"'
        frame.parts.append(f'<text class="name" {at}>{escape(texts[i])}</text>')
    return tuple(missing)
