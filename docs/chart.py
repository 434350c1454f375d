"""Charts as SVG of our own: the same bytes on every machine, readable in both themes."""

import math

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 44
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-size: 15px; fill: #24292f }
.axis, .grid { stroke: #8c959f; stroke-width: 1; fill: none }
.grid { stroke-opacity: .3 }
.a { stroke: #0969da; fill: #0969da }
.b { stroke: #cf222e; fill: #cf222e }
.c { stroke: #8c959f; fill: #8c959f; fill-opacity: .25 }
.d { stroke: #8250df; fill: #8250df }
.line { fill: none; stroke-width: 2 }
.area { stroke: none; fill-opacity: .3 }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .title { fill: #e6edf3 } .a { stroke: #58a6ff; fill: #58a6ff }
  .b { stroke: #ff7b72; fill: #ff7b72 } .d { stroke: #d2a8ff; fill: #d2a8ff }
}
</style>"""


class Chart:
    """One pair of axes; points are given in data coordinates. `frame` is its left, right, top and bottom edge."""

    def __init__(self, title, x_range, y_range, *, log_y=False, frame=(LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM)):
        self.x_range, self.y_range, self.log_y = x_range, y_range, log_y
        self.left, self.right, self.top, self.bottom = frame
        self.parts = [f'<text class="title" x="{self.left}" y="{self.top - 16}">{title}</text>']

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value):
        low, high = self.y_range
        if self.log_y:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def horizontal(self, value, label, kind="grid"):
        y = self.y(value)
        self.parts.append(f'<path class="{kind}" d="M{self.left} {y:.1f}H{self.right}"/>')
        self.parts.append(f'<text x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')

    def ticks(self, values, label, names=None):
        self.parts.append(f'<path class="axis" d="M{self.left} {self.bottom}H{self.right}"/>')
        for value, name in zip(values, names or values, strict=True):
            x, y = self.x(value), self.bottom
            self.parts.append(f'<path class="axis" d="M{x:.1f} {y}v4"/>')
            self.parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{name}</text>')
        self.parts.append(f'<text x="{self.right}" y="{self.bottom + 36}" text-anchor="end">{label}</text>')

    def dots(self, xs, ys, kind, radius=4):
        for x, y in zip(xs, ys, strict=True):
            self.parts.append(f'<circle class="{kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}"/>')

    def curve(self, xs, ys, kind):
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self.parts.append(f'<polyline class="{kind}" points="{points}"/>')

    def bars(self, lefts, rights, heights, kind):
        for left, right, height in zip(lefts, rights, heights, strict=True):
            low, high = sorted((self.y(0), self.y(height)))
            x, width = self.x(left), self.x(right) - self.x(left)
            self.parts.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{low:.1f}" width="{width:.1f}" height="{high - low:.1f}"/>'
            )

    def note(self, x, y, text, kind="", anchor="start"):
        style = f' class="{kind}" style="stroke:none"' if kind else ""
        self.parts.append(f'<text{style} x="{self.x(x):.1f}" y="{self.y(y):.1f}" text-anchor="{anchor}">{text}</text>')

    def svg(self):
        return drawing(self)


def drawing(*charts, height=HEIGHT):
    """One SVG of charts that stand in frames of their own."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    return "\n".join([head, STYLE, *(part for chart in charts for part in chart.parts), "</svg>", ""])
