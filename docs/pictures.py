"""The pictures of README.md and docs/ by name."""

import math
from pathlib import Path

import numpy as np
from chart import Chart
from lesson_pictures import LESSONS

import kullback as kb
from kullback.evaluation.report.frontier import size_picture
from kullback.evaluation.table.sizes import ModelSize

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


# bits a weight of llama.cpp's formats, and errors of logits that were made up to go with them
QUANTS = {"q8_0": (8.5, 0.02), "q6_k": (6.6, 0.05), "q5_k_m": (5.7, 0.1), "q4_k_m": (4.85, 0.2), "iq4_xs": (4.3, 0.23),
          "q3_k_s": (3.5, 0.7), "iq3_s": (3.5, 0.45), "q2_k": (3.0, 1.0)}  # fmt: skip
SIZES_STYLE = (
    "text { font: 13px system-ui, sans-serif; fill: #57606a } .name { fill: #24292f } .grid { stroke: #8c959f; "
    "stroke-opacity: .3 } .axis { stroke: #8c959f } .line, .dot { stroke: #0969da } .line { fill: none; "
    "stroke-width: 2 } .dot { fill: #0969da } .frontier { fill: none; stroke: #8c959f } "
    "@media (prefers-color-scheme: dark) { text { fill: #8b949e } .name { fill: #e6edf3 } .line, .dot "
    "{ stroke: #58a6ff } .dot { fill: #58a6ff } }"
)


def sizes():
    """The mean KL of simulated candidates against the sizes that a model of 8 billion parameters would have."""
    rng = np.random.default_rng(3)
    base = rng.normal(0, 2.5, (1500, 40))
    hard = np.exp(rng.normal(0, 0.5, 30)).repeat(50)[:, None]
    found = kb.compare_candidates(
        base,
        {name: base + error * hard * rng.normal(size=base.shape) for name, (_, error) in QUANTS.items()},
        groups=np.arange(30).repeat(50),
    )
    models = {name: ModelSize(round(8e9 * bits / 8), 8 * 10**9) for name, (bits, _) in QUANTS.items()}
    drawing = size_picture(found, found.ranking(), models, "kl.mean").drawing
    head, body = drawing.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{SIZES_STYLE}</style>{body}'


PICTURES = {"sizes.svg": sizes, "kl_per_token.svg": kl_per_token, "two_directions.svg": two_directions, **LESSONS}
