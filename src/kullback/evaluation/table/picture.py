"""KL against size, drawn with matplotlib: intervals where known, the frontier, labels that stand free or not at all."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback._engine import library
from kullback.evaluation.marks import PICTURE_CREATOR
from kullback.evaluation.outputs import atomic_file
from kullback.evaluation.table.rows import CandidateRow, RankedCandidates
from kullback.evaluation.table.words import statistic_text
from kullback.evaluation.text import visible

__all__ = ["check_picture", "free_places", "write_picture"]

_KINDS = (".svg", ".png")
_MOST_LABELS = 60
_LONGEST_LABEL = 40
_STEP = 2.0  # pixels between the points of a line that labels keep off
_DISTANCES = (7.0, 12.0, 20.0, 32.0)  # pixels from a point to its label
_TOWARDS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
_SETTINGS = {"svg.hashsalt": "kullback", "svg.fonttype": "path", "text.usetex": False}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))

Box = tuple[float, float, float, float]  # left, bottom, right, top


def check_picture(path: str, *kinds: str) -> None:
    """ValueError for a name of another kind of picture, ImportError without the library; before any work."""
    if os.path.splitext(path)[1].lower() not in (kinds or _KINDS):
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(kinds or _KINDS)}")
    library("matplotlib", "a picture")


def write_picture(table: RankedCandidates, path: str) -> list[str]:
    """Draw the table as a file; returns what is not on it, in words."""
    check_picture(path)
    matplotlib = library("matplotlib", "a picture")
    shown = [row for row in table.rows if row.size is not None and row.size.bytes and 0 < row.value < math.inf]
    if not shown:
        raise ValueError("a picture needs candidates with a size and a KL above 0, and there is none; see --size")
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that its font does not have
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure, left_out = _drawn(table, shown)
        kind = os.path.splitext(path)[1].lower()[1:]
        metadata = {"Software": PICTURE_CREATOR} if kind == "png" else {"Title": PICTURE_CREATOR, "Date": None}
        with atomic_file(path) as file:
            figure.savefig(file, format=kind, metadata=metadata)
    found = []
    missing = len(table.rows) - len(shown)
    if missing:
        found.append(f"{path}: {missing} of {len(table.rows)} candidates are not drawn, without a size or a KL above 0")
    if left_out:
        found.append(f"{path}: {left_out} of {len(shown)} points are without a label, for which there is no room")
    return found


def _drawn(table: RankedCandidates, shown: Sequence[CandidateRow]) -> tuple[Any, int]:
    agg = library("matplotlib.backends.backend_agg", "a picture")
    figure = library("matplotlib.figure", "a picture").Figure(figsize=(8, 5), layout="constrained")
    agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = np.array([row.size.bytes for row in shown if row.size is not None], np.float64)
    values = np.array([row.value for row in shown])
    scale, unit = next((one for one in _UNITS if sizes.max() >= one[0]), _UNITS[-1])
    sizes /= scale
    lows, highs = _ends(table, shown)
    bottom = min(float(values.min()), float(lows[lows > 0].min(initial=math.inf))) / 1.6
    lows = np.maximum(lows, bottom)
    axes.set_yscale("log")
    if sizes.max() > 20 * sizes.min():
        axes.set_xscale("log")
    known = highs > lows
    axes.vlines(sizes[known], lows[known], highs[known], color="#8c959f", linewidth=1)
    best = sorted((sizes[i], values[i]) for i, row in enumerate(shown) if row.frontier)
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color="#0969da", linewidth=1)
    on = np.array([row.frontier for row in shown])
    axes.plot(sizes[~on], values[~on], "o", color="#57606a", markersize=5)
    axes.plot(sizes[on], values[on], "o", color="#0969da", markersize=6)
    axes.margins(x=0.12, y=0.12)
    axes.set_ylim(bottom=bottom)
    axes.set_xlabel(f"size, {unit}")
    axes.set_ylabel(f"{statistic_text(table.figure)}(p‖q), {shown[0].figures.base.unit}")
    about = ["line: frontier, nothing is smaller and nearer"] if len(best) > 1 else []
    if known.any():
        about.append("bars: 95 % intervals, each alone")
    axes.set_title("; ".join(about), fontsize=9, loc="left", color="#57606a")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # places of labels hold for these axes
    lines = [((s, low), (s, high)) for s, low, high in zip(sizes[known], lows[known], highs[known], strict=True)]
    lines += list(pairwise(best))
    return figure, _label(axes, shown, np.stack([sizes, values], axis=1), lines)


def _ends(table: RankedCandidates, shown: Sequence[CandidateRow]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the intervals; where there is none, or one without end, both are the value."""
    ends = [row.figures.intervals.get(table.figure, (row.value, row.value)) for row in shown]
    usable = [all(map(math.isfinite, pair)) for pair in ends]
    pairs = [pair if ok else (row.value, row.value) for pair, ok, row in zip(ends, usable, shown, strict=True)]
    return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])


def _label(axes: Any, shown: Sequence[CandidateRow], points: NDArray[np.float64], lines: list[Any]) -> int:
    """Names beside their points, those of the frontier first; how many found no place."""
    to_pixels = axes.transData.transform
    marks = to_pixels(points)
    taken = [marks]
    for ends in lines:
        start, stop = to_pixels(np.array(ends))
        steps = 2 + int(np.abs(stop - start).max() / _STEP)
        taken.append(np.linspace(start, stop, steps))
    order = sorted(range(len(shown)), key=lambda i: not shown[i].frontier)[:_MOST_LABELS]
    texts = []
    for i in order:
        name = visible(shown[i].name)
        name = name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
        texts.append(axes.text(0, 0, name, fontsize=9, transform=None, parse_math=False, va="bottom", ha="left"))
    extents = [text.get_window_extent() for text in texts]
    frame = axes.get_window_extent()
    places = free_places(
        marks, order, [(e.width, e.height) for e in extents], np.concatenate(taken),
        (frame.x0, frame.y0, frame.x1, frame.y1),
    )  # fmt: skip
    for text, place in zip(texts, places, strict=True):
        if place is None:
            text.remove()
        else:
            # pixels of this canvas become those of any other by way of the figure
            text.set_transform(axes.figure.transFigure)
            text.set_position(axes.figure.transFigure.inverted().transform(place[:2]))
    return len(shown) - sum(place is not None for place in places)


def free_places(
    marks: NDArray[np.float64],
    order: Sequence[int],
    extents: Sequence[tuple[float, float]],
    taken: NDArray[np.float64],
    frame: Box,
) -> list[Box | None]:
    """A box for the label of each point in this order, or None: nearest to its point, in the frame, on nothing taken,
    that is taken, on no other label; None where there is none."""
    boxes: list[Box | None] = []
    for i, (width, height) in zip(order, extents, strict=True):
        x, y = (float(z) for z in marks[i])
        tried = (_box(x, y, width, height, towards, distance) for distance in _DISTANCES for towards in _TOWARDS)
        good = (box for box in tried if _is_free(box, taken, frame, boxes) and _is_nearest(box, marks, i))
        boxes.append(next(good, None))
    return boxes


def _is_nearest(box: Box, marks: NDArray[np.float64], i: int) -> bool:
    """Whether no other point is nearer to the box: a reader would take the label for that one's."""
    across = np.maximum(0.0, np.maximum(box[0] - marks[:, 0], marks[:, 0] - box[2]))
    up = np.maximum(0.0, np.maximum(box[1] - marks[:, 1], marks[:, 1] - box[3]))
    far = np.hypot(across, up)
    return bool(far[i] <= far.min() + 1e-9)


def _box(x: float, y: float, width: float, height: float, towards: tuple[int, int], distance: float) -> Box:
    across, up = towards
    left = x - width / 2 + across * (width / 2 + distance * (0.8 if up else 1.0))
    bottom = y - height / 2 + up * (height / 2 + distance * (0.8 if across else 1.0))
    return left, bottom, left + width, bottom + height


def _is_free(box: Box, taken: NDArray[np.float64], frame: Box, boxes: Sequence[Box | None]) -> bool:
    left, bottom, right, top = box
    if left < frame[0] or bottom < frame[1] or right > frame[2] or top > frame[3]:
        return False
    room = 4.0  # half a point's size, and a little
    x, y = taken[:, 0], taken[:, 1]
    if np.any((x > left - room) & (x < right + room) & (y > bottom - room) & (y < top + room)):
        return False
    for other in boxes:
        if other is not None and other[0] < right and left < other[2] and other[1] < top and bottom < other[3]:
            return False
    return True
