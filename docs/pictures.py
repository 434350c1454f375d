"""The pictures of README.md and docs/, as SVG of our own: the same bytes on every machine, readable in both themes."""

import math
from pathlib import Path

import numpy as np

import kullback as kb

ROOT = Path(__file__).parent.parent
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
.line { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #8b949e } .title { fill: #e6edf3 } .a { stroke: #58a6ff; fill: #58a6ff }
  .b { stroke: #ff7b72; fill: #ff7b72 }
}
</style>"""


class Chart:
    """One pair of axes; points are given in data coordinates."""

    def __init__(self, title, x_range, y_range, *, log_y=False):
        self.x_range, self.y_range, self.log_y = x_range, y_range, log_y
        self.parts = [f'<text class="title" x="{LEFT}" y="24">{title}</text>']

    def x(self, value):
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        low, high = self.y_range
        if self.log_y:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def horizontal(self, value, label, kind="grid"):
        y = self.y(value)
        self.parts.append(f'<path class="{kind}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        self.parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')

    def ticks(self, values, label):
        self.parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        for value in values:
            x, y = self.x(value), HEIGHT - BOTTOM
            self.parts.append(f'<path class="axis" d="M{x:.1f} {y}v4"/>')
            self.parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{value}</text>')
        self.parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{label}</text>')

    def dots(self, xs, ys, kind):
        for x, y in zip(xs, ys, strict=True):
            self.parts.append(f'<circle class="{kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4"/>')

    def curve(self, xs, ys, kind):
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self.parts.append(f'<polyline class="{kind}" points="{points}"/>')

    def note(self, x, y, text, kind="", anchor="start"):
        style = f' class="{kind}" style="stroke:none"' if kind else ""
        self.parts.append(f'<text{style} x="{self.x(x):.1f}" y="{self.y(y):.1f}" text-anchor="{anchor}">{text}</text>')

    def svg(self):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        return "\n".join([head, STYLE, *self.parts, "</svg>", ""])


def kl_per_token():
    """KL(f16 ‖ Q4_K_M) of each row of the example dumps."""
    p, q = (kb.open_logits(ROOT / "examples" / name) for name in ("f16.kld", "q4_k_m.kld"))
    kl = kb.compare(p.rows(0, p.shape[0]), q.rows(0, q.shape[0])).kl
    rows = np.arange(kl.size)
    chart = Chart(
        "What quantising to 4 bits changed: KL(f16 ‖ Q4_K_M) of each token", (-1, 42), (4e-5, 3e-2), log_y=True
    )
    for value, label in ((1e-4, "0.0001"), (1e-3, "0.001"), (1e-2, "0.01")):
        chart.horizontal(value, label)
    chart.ticks(range(0, 38, 5), "row of the dump; nats, log scale")
    worst = int(kl.argmax())
    mean, median = float(kl.mean()), float(np.median(kl))
    for value, name in ((mean, "mean"), (median, "median")):
        chart.curve((-1, 38), (value, value), "c line")
        chart.note(38.3, value * 0.93, name)
    usual = rows != worst
    chart.dots(rows[usual], kl[usual], "a")
    chart.dots([worst], [kl[worst]], "b")
    chart.note(worst + 0.7, kl[worst] * 0.93, f"{kl[worst]:.4f}, {kl[worst] / median:.0f} times the median")
    return chart.svg()


def two_directions():
    """One Gaussian fitted to two far modes, by forward and by reverse KL."""
    target = kb.closed_form.Mixture([0.5, 0.5], kb.closed_form.Normal([-4.0, 4.0], 1.0))
    x = np.linspace(-12, 12, 241)
    chart = Chart("One Gaussian fitted to two modes", (-12, 12), (0, 0.44))
    chart.curve([-12, *x, 12], [0, *np.exp(target.log_density(x)), 0], "c")
    for direction, kind, place in (("forward", "a line", (-2.6, 0.15)), ("reverse", "b line", (5.2, 0.3))):
        fit = kb.fit_normal(target, direction)
        mean, std = abs(float(fit.distribution.loc)), float(fit.distribution.scale)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        chart.curve(x, density, kind)
        order = "target ‖ fit" if direction == "forward" else "fit ‖ target"
        chart.note(*place, f"least KL({order}) = {fit.divergence:.3f}", kind[0])
    chart.note(-6, 0.06, "target", anchor="end")
    chart.ticks(range(-12, 13, 4), "")
    return chart.svg()


PICTURES = {"kl_per_token.svg": kl_per_token, "two_directions.svg": two_directions}
