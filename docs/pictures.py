"""The pictures of README.md and docs/ by name."""

import math
from pathlib import Path

import numpy as np
from chart import Chart
from lesson_pictures import LESSONS

import kullback as kb

ROOT = Path(__file__).parent.parent


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
    for direction, kind, place in (("forward", "a line", (-8, 0.25)), ("reverse", "b line", (5.2, 0.3))):
        fit = kb.fit_normal(target, direction)
        mean, std = abs(float(fit.distribution.loc)), float(fit.distribution.scale)
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        chart.curve(x, density, kind)
        order = "target ‖ fit" if direction == "forward" else "fit ‖ target"
        chart.note(*place, f"least KL({order}) = {fit.divergence:.3f}", kind[0])
    chart.note(-6, 0.06, "target", anchor="end")
    chart.ticks(range(-12, 13, 4), "")
    return chart.svg()


PICTURES = {"kl_per_token.svg": kl_per_token, "two_directions.svg": two_directions, **LESSONS}
