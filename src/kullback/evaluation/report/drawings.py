"""The drawings of the report as SVG: plain strings, colours from the page's style sheet (classes c0, c1, ...)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from kullback.comparison import ComparisonSummary, Spread
from kullback.evaluation.parts import Breakdown

__all__ = ["agreement_by_confidence", "delta_distribution", "kl_by_position", "kl_distribution"]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 26, 12, 60
_MOST_CHARACTERS = 50  # on a line of ticks
_MOST_POWERS = 7  # of ten, that are written on a vertical axis
_STEPS = 8  # bars in each power of ten


class _Frame:
    """A plot area with axes: data coordinates in, pixels out."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], log_y: bool = False) -> None:
        self.x_range, self.y_range, self._log = x, y, log_y
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self._log:
            value, low, high = (math.log10(v) for v in (max(value, low), low, high))
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / ((high - low) or 1.0)

    def axes(
        self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> None:
        bottom = _HEIGHT - _BOTTOM
        for value, text in y_ticks:
            y = self.y(value)
            self.parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_superscript(text)}</text>')
        # neighbours that would touch on a narrow page stand on two lines
        crowded = sum(len(text.partition("^")[0]) + 2 for _, text in x_ticks) > _MOST_CHARACTERS
        for i, (value, text) in enumerate(x_ticks):
            x = self.x(value)
            down = bottom + (34 if crowded and i % 2 else 18)
            self.parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            self.parts.append(f'<text x="{x:.1f}" y="{down}" text-anchor="middle">{_superscript(text)}</text>')
        self.parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        self.parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        self.parts.append(
            f'<text transform="translate(13 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )

    def steps(self, edges: Sequence[float], values: Sequence[float], candidate: int, title: str) -> None:
        """A histogram's outline, filled."""
        bottom = self.y(self.y_range[0])
        points = [f"{self.x(edges[0]):.1f},{bottom:.1f}"]
        for left, right, value in zip(edges, edges[1:], values, strict=False):
            points += [f"{self.x(left):.1f},{self.y(value):.1f}", f"{self.x(right):.1f},{self.y(value):.1f}"]
        points.append(f"{self.x(edges[-1]):.1f},{bottom:.1f}")
        self.parts.append(
            f'<polygon class="area c{candidate % 6}" points="{" ".join(points)}">'
            f"<title>{escape(title)}</title></polygon>"
        )

    def line(
        self, points: Sequence[tuple[float, float, float]], candidate: int, titles: Sequence[str], shift: float = 0.0
    ) -> None:
        """Points (x, y, error) with their error bars, joined."""
        css = f"c{candidate % 6}"
        path = " ".join(f"{self.x(x) + shift:.1f},{self.y(y):.1f}" for x, y, _ in points)
        self.parts.append(f'<polyline class="line {css}" points="{path}"/>')
        for (x, y, error), title in zip(points, titles, strict=True):
            at = self.x(x) + shift
            if error > 0 and math.isfinite(error):
                low, high = self.y_range
                top, foot = self.y(min(y + error, high)), self.y(max(y - error, low))
                self.parts.append(
                    f'<line class="bar {css}" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>'
                )
            self.parts.append(
                f'<circle class="dot {css}" cx="{at:.1f}" cy="{self.y(y):.1f}" r="3.2">'
                f"<title>{escape(title)}</title></circle>"
            )

    def mark(self, x: float, text: str, candidate: int) -> None:
        """A vertical line at x, named above."""
        at = self.x(x)
        self.parts.append(
            f'<line class="mark c{candidate % 6}" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
            f"<title>{escape(text)}</title></line>"
        )

    def svg(self, label: str) -> str:
        body = "".join(self.parts)
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">{body}</svg>'


def _superscript(text: str) -> str:
    base, caret, power = text.partition("^")
    return f'{escape(base)}<tspan dy="-5" font-size="75%">{escape(power)}</tspan>' if caret else escape(text)


def _nice(top: float, count: int = 4) -> list[float]:
    """0 and a few round numbers up to at least `top`."""
    if not (top > 0 and math.isfinite(top)):
        return [0.0, 1.0]
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [step * i for i in range(math.ceil(top / step * 0.999) + 1)]


def _few(powers: range) -> range:
    """Every second, third, ... of them, so that what is written beside an axis does not touch."""
    return powers[:: max(1, -(-len(powers) // _MOST_POWERS))]


def _number(x: float) -> str:
    return f"{x:.3g}"


def kl_distribution(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens by KL on a logarithmic scale; what lies outside the scale is counted at its ends."""
    tops = [s.kl.max for s in summaries if s.kl.count and s.kl.max > 0]
    finite = [t for t in tops if math.isfinite(t)] or [1.0]
    lows = [s.kl.quantile(0.005) for s in summaries if s.kl.count]
    low = min([v for v in lows if 0 < v < math.inf] or [1e-6])
    first, last = max(math.floor(math.log10(max(low, 1e-12))), -12), math.ceil(math.log10(max(finite)) + 1e-9)
    last = max(last, first + 1)
    places = np.linspace(first, last, (last - first) * _STEPS + 1)
    edges = np.r_[-np.inf, 10.0 ** places[1:-1], np.inf]
    shares = [_shares(s.kl, edges) for s in summaries]
    ticks = _nice(100 * max(float(x.max(initial=0.0)) for x in shares))
    frame = _Frame((first, last), (0.0, ticks[-1]))
    every = max(1, -(-(last - first) // 7))
    frame.axes(
        "KL(p‖q) of a token, nats (logarithmic)", "% of tokens",
        [(e, f"10^{e}") for e in range(first, last + 1, every)], [(t, f"{t:g}") for t in ticks],
    )  # fmt: skip
    for i, (s, name, share) in enumerate(zip(summaries, names, shares, strict=True)):
        frame.steps(places.tolist(), (100 * share).tolist(), i, name)
        if s.kl.mean > 0 and first <= math.log10(s.kl.mean) <= last:
            frame.mark(math.log10(s.kl.mean), f"{name}: mean {_number(s.kl.mean)}", i)
    return frame.svg("Distribution of KL over tokens")


def _shares(spread: Spread, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    found = spread.histogram(edges)
    if spread.count and math.isinf(spread.max):  # the last interval includes its end
        found[-1] = max(0.0, 1.0 - float(found[:-1].sum()))
    return found


def delta_distribution(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens by Δp = q(token) - p(token), within the middle 99.8 %, on a logarithmic vertical axis."""
    kept = [(i, s, name) for i, (s, name) in enumerate(zip(summaries, names, strict=True)) if s.delta_prob.count]
    if not kept:
        return ""
    reach = max(abs(s.delta_prob.quantile(level)) for _, s, _ in kept for level in (0.001, 0.999))
    reach = _nice(100 * reach, 2)[-1] or 1.0
    places = np.linspace(-reach, reach, 42)
    edges = np.r_[-np.inf, places[1:-1] / 100, np.inf]
    shares = [np.maximum(100 * _shares(s.delta_prob, edges), 0) for _, s, _ in kept]
    least = 100 / max(s.delta_prob.count for _, s, _ in kept)
    low = 10.0 ** math.floor(math.log10(least))
    frame = _Frame((-reach, reach), (low, 100.0), log_y=True)
    powers = _few(range(round(math.log10(low)), 3))
    frame.axes(
        "Δp = q - p of the true token, percentage points", "% of tokens (logarithmic)",
        [(x, f"{x:+g}" if x else "0") for x in (-reach, -reach / 2, 0.0, reach / 2, reach)],
        [(10.0**e, f"{10.0**e:g}") for e in powers],
    )  # fmt: skip
    for (i, _, name), share in zip(kept, shares, strict=True):
        frame.steps(places.tolist(), share.tolist(), i, name)
    return frame.svg("Distribution of the change in probability of the true token")


def kl_by_position(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Mean KL by position in the chunk or document."""
    return _lines(
        summaries, names, "by_position", "kl", "position in the chunk or document", "mean KL(p‖q), nats", 1.0,
        lambda part, key: key * part.width + part.width / 2 - 0.5,
    )  # fmt: skip


def agreement_by_confidence(summaries: Sequence[ComparisonSummary], names: Sequence[str]) -> str:
    """Share of tokens with the same top token, by p's greatest probability."""
    return _lines(
        summaries, names, "by_confidence", "same_top1", "p's greatest probability", "% with the same top token",
        100.0, lambda part, key: float(key),
    )  # fmt: skip


def _lines(
    summaries: Sequence[ComparisonSummary], names: Sequence[str], part_name: str, statistic: str, x_label: str,
    y_label: str, scale: float, place: Callable[[Breakdown, int], float],
) -> str:  # fmt: skip
    parts = [p if isinstance(p := s.parts.get(part_name), Breakdown) else Breakdown({}) for s in summaries]
    keys = sorted({key for part in parts for key in part.bins})
    if len(keys) < 2:
        return ""
    lines = []
    for part in parts:
        points, titles = [], []
        for key in sorted(part.bins):
            mean = part.bins[key][statistic]
            if mean.count and math.isfinite(mean.mean):
                error = mean.standard_error
                points.append((place(part, key), scale * mean.mean, 0.0 if math.isnan(error) else scale * error))
                titles.append(f"{part.label(key)}: {_number(scale * mean.mean)} ({mean.count} tokens)")
        lines.append((points, titles))
    every = [point for points, _ in lines for point in points]
    if not every:
        return ""
    positive = [y for _, y, _ in every if y > 0]
    # of candidates that differ much the smaller ones would lie on the axis
    log_y = statistic == "kl" and len(summaries) > 1 and max(positive, default=1.0) > 30 * min(positive, default=1.0)
    if log_y:
        exponents = range(math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 1)
        limits = 10.0 ** exponents[0], 10.0 ** exponents[-1]
        exponents = _few(exponents)
        y_ticks = [10.0**e for e in exponents]
    elif statistic == "same_top1":
        low = max(0.0, math.floor(min(y - e for _, y, e in every) / 10) * 10)
        low = min(low, 90.0)
        y_ticks = [low + (100.0 - low) * i / 5 for i in range(6)]
    else:
        y_ticks = _nice(max(y + e for _, y, e in every))
    first = parts[0] if parts[0].bins else next(part for part in parts if part.bins)
    xs = [place(first, key) for key in keys]
    margin = 0.5 if first.labels else 0.0
    frame = _Frame((min(xs) - margin, max(xs) + margin), limits if log_y else (y_ticks[0], y_ticks[-1]), log_y)
    shown = keys if first.labels else keys[:: max(1, len(keys) // 8)]
    x_ticks = [(place(first, key), first.label(key) if first.labels else f"{key * first.width}") for key in shown]
    y_texts = [f"10^{e}" for e in exponents] if log_y else [f"{t:.4g}" for t in y_ticks]
    frame.axes(x_label, y_label, x_ticks, list(zip(y_ticks, y_texts, strict=True)))
    for i, ((points, titles), name) in enumerate(zip(lines, names, strict=True)):
        shift = 5.0 * (i - (len(lines) - 1) / 2) if first.labels else 0.0
        frame.line(points, i, [f"{name}, {title}" for title in titles], shift)
    return frame.svg(y_label)
