"""The drawings of a run: figures by step or another label with their intervals, by position, and the log-ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kullback.evaluation.report.frame import Frame, nice, number
from kullback.evaluation.text import visible
from kullback.rlhf import AuditReport
from kullback.rollouts.series import NO_LABEL, Point, Series, interval, position_range

__all__ = ["Drawing", "of_positions", "of_ratios", "of_series"]

_MOST_TICKS = 8
_MOST_CATEGORIES = 24
_DECADES = (-4, 2)  # of |log-ratio|, that are told apart
_STEPS = 4  # bars in each

# title, names of the lines with their headings, whether the axis begins at 0, caption
_FIGURES = (
    (
        "KL(rollout‖train), nats,", (("kl_k3", "k3"),), True,
        "k3 of the sound tokens. Bars: 95 % intervals over sequences.",
    ),
    (
        "Effective sample size and kept mass", (("ess", "ess"), ("kept_mass", "kept mass")), False,
        "Both are 1 where the two policies agree.",
    ),
    (
        "Entropy, nats,", (("rollout_entropy", "rollout"), ("train_entropy", "train")), True,
        "Mean entropy of the positions.",
    ),
    ("Reward", (("reward", "reward"),), False, "Mean over sequences. Bars: 95 % intervals."),
    ("Length", (("length", "tokens"),), True, "Counted tokens of a sequence. Bars: 95 % intervals."),
)  # fmt: skip


class Drawing(NamedTuple):
    """A picture with its title, its caption and the names of its lines."""

    title: str
    svg: str
    caption: str
    lines: tuple[str, ...] = ()


def of_series(series: Series, name: str) -> list[Drawing]:
    """Everything known by a label; by environment or worker the KL alone."""
    points = {label: point for label, point in series.points.items() if point.sequences and label != NO_LABEL}
    if len(points) < 2:
        return []
    numeric = name == "step" and all(not isinstance(label, str) for label in points)
    found = []
    for title, lines, from_zero, caption in _FIGURES if name == "step" else _FIGURES[:1]:
        known = [(key, text) for key, text in lines if any(key in p.estimates() for p in points.values())]
        if known:
            shown = points if numeric else _greatest(points)
            note = f" The {len(shown)} of the greatest KL, of {len(points)}." if len(shown) < len(points) else ""
            svg = _lines(shown, known, f"{title}, by {name}", name, numeric, from_zero)
            found.append(Drawing(f"{title} by {name}", svg, caption + note, tuple(text for _, text in known)))
    return found


def _greatest(points: dict[Any, Point]) -> dict[Any, Point]:
    """Categories that fit side by side: those of the greatest KL, in their order."""
    order = sorted(points, key=lambda label: -points[label].kl_k3.mean)[:_MOST_CATEGORIES]
    return {label: point for label, point in points.items() if label in order}


def of_positions(series: Series) -> list[Drawing]:
    """KL by place in the answer, in classes that double."""
    points = {label: point for label, point in series.points.items() if point.tokens}
    if len(points) < 2:
        return []
    names = {position_range(label): point for label, point in points.items()}
    svg = _lines(
        names, [("kl_k3", "k3")], "KL by position in the answer", "counted tokens before", False, True, joined=True
    )
    return [
        Drawing(
            "KL, nats, by position in the answer",
            svg,
            "By how many counted tokens of its sequence come before; classes double.",
        )
    ]


def _lines(
    points: dict[Any, Point], lines: Sequence[tuple[str, str]], label: str, x_label: str, numeric: bool,
    from_zero: bool, joined: bool = False,
) -> str:  # fmt: skip
    labels = list(points)
    places = [float(x) for x in labels] if numeric else [float(i) for i in range(len(labels))]
    drawn = []
    for key, text in lines:
        some, titles = [], []
        for place, name in zip(places, labels, strict=True):
            estimate = points[name].estimates().get(key)
            if estimate is None or not math.isfinite(estimate.mean):
                continue
            low, high = interval(estimate)
            reach = (high - low) / 2 if math.isfinite(high) else 0.0
            some.append((place, estimate.mean, reach))
            titles.append(f"{visible(name)}: {text} {number(estimate.mean)} ± {number(reach)}")
        drawn.append((some, titles))
    every = [point for some, _ in drawn for point in some]
    if not every:
        return ""
    low, high = min(y - e for _, y, e in every), max(y + e for _, y, e in every)
    ticks = nice(high) if from_zero and low >= 0 else _around(low, high)
    margin = 0.0 if numeric and len(places) > 1 else 0.5
    frame = Frame((min(places) - margin, max(places) + margin), (ticks[0], ticks[-1]))
    step = max(1, -(-len(labels) // _MOST_TICKS))
    frame.axes(
        x_label, "",
        [(places[i], _clipped(str(labels[i]))) for i in range(0, len(labels), step)],
        _texts(ticks),
    )  # fmt: skip
    for i, (some, titles) in enumerate(drawn):
        shift = 0.0 if numeric or joined or len(drawn) < 2 else 5.0 * (i - (len(drawn) - 1) / 2)
        frame.line(some, i, titles, shift, joined=numeric or joined)
    return frame.svg(label)


def _texts(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Alike, in six characters or so, for there is no room for more beside the axis of a narrow page; more only where
    the steps between them are smaller."""
    near = 0.01 * min(b - a for a, b in pairwise(ticks))
    digits = next(d for d in range(4, 18) if d == 17 or all(abs(float(f"{t:.{d}g}") - t) <= near for t in ticks))
    texts = [f"{t:.{digits}g}" for t in ticks]
    if max(map(len, texts)) > 6 and digits == 4:
        parts = [f"{t:.2e}".partition("e") for t in ticks]
        texts = [
            f"{float(mantissa):g}e{int(exponent)}" if t else "0"
            for t, (mantissa, _, exponent) in zip(ticks, parts, strict=True)
        ]
    return list(zip(ticks, texts, strict=True))


def _clipped(text: str) -> str:
    text = visible(text).replace("^", "ˆ")  # which a frame would raise
    return text if len(text) <= 12 else text[:11] + "…"


def _around(low: float, high: float) -> list[float]:
    """A few round numbers from below `low` to above `high`."""
    width = (high - low) or abs(high) * 0.01 or 1.0
    step = nice(width)[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def of_ratios(audit: AuditReport) -> list[Drawing]:
    """Share of the sound tokens by log-ratio, both axes logarithmic, the horizontal one to both sides of 0."""
    edges, counts = audit.histogram()
    total = int(counts.sum())
    if not total:
        return []
    powers = 10.0 ** (np.arange(_DECADES[0] * _STEPS, _DECADES[1] * _STEPS + 1) / _STEPS)
    wanted = np.concatenate([-powers[::-1], powers])
    below = np.concatenate([[0], np.cumsum(counts)])[np.searchsorted(edges, wanted)]
    bars = np.diff(np.concatenate([[0], below[1:-1], [total]]))  # what is beyond counts at the ends
    shares = 100.0 * bars / total
    middle = len(powers) - 1
    least = 10.0 ** math.floor(math.log10(100.0 / total))
    frame = Frame((0.0, float(len(bars))), (least, 100.0), log_y=True)
    ticks = [(float(middle) + 0.5, "0")]
    for i in range(2 * _STEPS, len(powers), 2 * _STEPS):  # those next to 0 have no room
        text = f"{powers[i]:g}"
        ticks += [(middle + 1.0 + i, text), (float(middle - i), f"-{text}")]
    exponents = range(round(math.log10(least)), 3)
    few = exponents[:: max(1, -(-len(exponents) // 7))]
    frame.axes(
        "log-ratio, ln train/rollout",
        "",
        sorted(ticks),
        [(10.0**e, f"{10.0**e:g}") for e in few],
    )
    frame.steps([float(i) for i in range(len(bars) + 1)], shares.tolist(), 0, "sound tokens")
    quantiles = ", ".join(f"{100 * level:g} %: {number(audit.quantile(level))}" for level in (0.5, 0.99, 0.999))
    caption = f"Sound tokens, on logarithmic scales; the end bars hold everything beyond. |log-ratio|, {quantiles}."
    return [Drawing("Log-ratios, % of tokens", frame.svg("Distribution of log-ratios"), caption)]
