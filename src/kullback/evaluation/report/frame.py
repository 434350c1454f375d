"""A plot area with axes as SVG: plain strings, colours from the page's style sheet (classes c0, c1, ...)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["Frame", "few", "log_ticks", "nice", "number"]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 26, 12, 60
_MOST_CHARACTERS = 50  # on a line of ticks
_MOST_POWERS = 7  # of ten, that are written on a vertical axis


class Frame:
    """A plot area with axes: data coordinates in, pixels out."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], log_y: bool = False, height: int = _HEIGHT,
        left: int = _LEFT,
    ) -> None:  # fmt: skip
        self.x_range, self.y_range, self._log, self._height, self._left = x, y, log_y, height, left
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self._left + (_WIDTH - self._left - _RIGHT) * (value - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        low, high = self.y_range
        if self._log:
            value, low, high = (math.log10(v) for v in (max(value, low), low, high))
        return self._height - _BOTTOM - (self._height - _TOP - _BOTTOM) * (value - low) / ((high - low) or 1.0)

    def axes(
        self, x_label: str, y_label: str, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
    ) -> None:
        bottom = self._height - _BOTTOM
        for value, text in y_ticks:
            y = self.y(value)
            self.parts.append(
                f'<line class="grid" x1="{self._left}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            self.parts.append(
                f'<text x="{self._left - 7}" y="{y + 4:.1f}" text-anchor="end">{_superscript(text)}</text>'
            )
        # neighbours that would touch on a narrow page stand on two lines
        crowded = sum(len(text.partition("^")[0]) + 2 for _, text in x_ticks) > _MOST_CHARACTERS
        for i, (value, text) in enumerate(x_ticks):
            x = self.x(value)
            down = bottom + (34 if crowded and i % 2 else 18)
            self.parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
            self.parts.append(f'<text x="{x:.1f}" y="{down}" text-anchor="middle">{_superscript(text)}</text>')
        self.parts.append(f'<line class="axis" x1="{self._left}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
        middle = (self._left + _WIDTH - _RIGHT) / 2
        self.parts.append(f'<text x="{middle}" y="{self._height - 6}" text-anchor="middle">{escape(x_label)}</text>')
        if not y_label:
            return
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
        self, points: Sequence[tuple[float, float, float]], candidate: int, titles: Sequence[str], shift: float = 0.0,
        joined: bool = True,
    ) -> None:  # fmt: skip
        """Points (x, y, error) with their error bars, joined by a line or not."""
        css = f"c{candidate % 6}"
        path = " ".join(f"{self.x(x) + shift:.1f},{self.y(y):.1f}" for x, y, _ in points)
        if joined:
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

    def span(self, ends: tuple[float, float], middle: float, y: float, candidate: int, title: str) -> None:
        """A point with its interval along x."""
        css, low, high, at, center = f"c{candidate % 6}", *(self.x(x) for x in ends), self.y(y), self.x(middle)
        self.parts.append(f'<line class="line {css}" x1="{low:.1f}" x2="{high:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        self.parts.append(
            f'<circle class="dot {css}" cx="{center:.1f}" cy="{at:.1f}" r="5"><title>{escape(title)}</title></circle>'
        )

    def bar(self, x: float, y: float, ends: tuple[float, float], candidate: int, title: str) -> None:
        """A point with its interval along y, where that is known; of the candidates without a colour in grey."""
        css, at = f"c{candidate}" if candidate < 6 else "rest", self.x(x)
        low, high = self.y_range
        if ends[0] < ends[1]:
            top, foot = self.y(min(ends[1], high)), self.y(max(ends[0], low))
            self.parts.append(f'<line class="line {css}" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>')
        self.parts.append(
            f'<circle class="dot {css}" cx="{at:.1f}" cy="{self.y(y):.1f}" r="5">'
            f"<title>{escape(title)}</title></circle>"
        )

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The plot area: left, top, right, bottom."""
        return self._left, _TOP, _WIDTH - _RIGHT, self._height - _BOTTOM

    def mark(self, x: float, text: str, candidate: int) -> None:
        """A vertical line at x, named above."""
        at = self.x(x)
        self.parts.append(
            f'<line class="mark c{candidate % 6}" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" '
            f'y2="{self._height - _BOTTOM}">'
            f"<title>{escape(text)}</title></line>"
        )

    def svg(self, label: str) -> str:
        head = f'<svg viewBox="0 0 {_WIDTH} {self._height}" role="img" aria-label="{escape(label, quote=True)}">'
        return f"{head}{''.join(self.parts)}</svg>"


def _superscript(text: str) -> str:
    base, caret, power = text.partition("^")
    return f'{escape(base)}<tspan dy="-5" font-size="75%">{escape(power)}</tspan>' if caret else escape(text)


def nice(top: float, count: int = 4) -> list[float]:
    """0 and a few round numbers up to at least `top`."""
    if not (top > 0 and math.isfinite(top)):
        return [0.0, 1.0]
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [step * i for i in range(math.ceil(top / step * 0.999) + 1)]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers from at most `low` to at least `high`, with their texts: 1, 2, 5, ..., or of many powers some."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    values = [float(f"{m}e{e}") for e in exponents for m in (1, 2, 5)]
    first = max(i for i, value in enumerate(values) if value <= low)
    last = max(first + 1, min(i for i, value in enumerate(values) if value >= high))
    if last - first < _MOST_POWERS:
        return [(value, _log_text(value)) for value in values[first : last + 1]]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    step = -(-(len(powers) - 1) // (_MOST_POWERS - 1))
    whole = range(powers[0], powers[0] + step * -(-(len(powers) - 1) // step) + 1, step)
    return [(float(f"1e{e}"), _log_text(float(f"1e{e}"))) for e in whole]


def _log_text(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{'' if mantissa == '1' else mantissa + '·'}10^{int(exponent)}"


def few(powers: range) -> range:
    """Every second, third, ... of them, so that what is written beside an axis does not touch."""
    return powers[:: max(1, -(-len(powers) // _MOST_POWERS))]


def number(x: float) -> str:
    return f"{x:.3g}"
