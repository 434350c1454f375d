"""The pictures of the lessons, drawn from what the blocks of their pages compute: a page and its pictures agree."""

import contextlib
import doctest
import functools
import io
import re
from pathlib import Path

import numpy as np
from chart import Chart, drawing

DOCS = Path(__file__).parent
HALVES = ((48, 344, 40, 236), (404, 704, 40, 236))  # two charts side by side
STACKED = ((64, 704, 40, 200), (64, 704, 256, 376))  # two charts with one axis


@functools.cache
def computed(page):
    """The names that the blocks of a page of docs/ leave behind."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples("\n".join(blocks)):
            exec(example.source, names)
    return names


def coins():
    page = computed("what_kl_says")
    heads, first, last = page["heads"], page["fair_first"], page["fair_last"]
    chart = Chart("A fair coin and one that shows heads more often", (0.5, 1.0), (0, 2.5))
    for value in (0, 1, 2):
        chart.horizontal(value, f"{value} bit" + "s" * (value != 1))
    shown = first < 2.5
    chart.curve(heads[shown], first[shown], "a line")
    chart.curve(heads, last, "b line")
    at = int(np.abs(heads - 0.9).argmin())
    for values, label, kind, place, anchor in (
        (first, "KL(fair ‖ biased)", "a", (0.885, 0.87), "end"),
        (last, "KL(biased ‖ fair)", "b", (0.93, 0.12), "middle"),
    ):
        chart.dots([0.9], [values[at]], kind)
        chart.note(*place, f"{label} = {values[at]:.3f}", kind, anchor)
    chart.ticks((0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "share of heads of the biased coin")
    return drawing(chart)


def contributions():
    page = computed("what_kl_says")
    x, width = page["x"], page["x"][1] - page["x"][0]
    above = Chart("Two densities", (-4.5, 6.5), (0, 0.45), frame=STACKED[0])
    for values, kind, name, place, anchor in (
        (page["p"], "a", "p", (-0.9, 0.33), "end"),
        (page["q"], "b", "q", (2.6, 0.26), "start"),
    ):
        inside = np.abs(x - 1) < 5.5
        above.curve(x[inside], (values / values.sum() / width)[inside], f"{kind} line")
        above.note(*place, name, kind, anchor)
    above.ticks(range(-4, 7, 2), "")
    density = page["by_place"] / width
    below = Chart("", (-4.5, 6.5), (0, 0.5), frame=STACKED[1])
    below.parts = []
    below.curve([-4.5, *x[inside], 6.5], [0, *density[inside], 0], "d area")
    below.curve(x[inside], density[inside], "d line")
    below.note(-4.3, 0.38, "p·log(p/q) - p + q", "d")
    below.note(2.4, 0.38, f"area: KL(p ‖ q) = {page['by_place'].sum():.3f} nats", "d")
    below.ticks(range(-4, 7, 2), "")
    return drawing(above, below, height=404)


def one_token():
    chart = Chart("The loss of one token", (0, 1), (0, 3.2))
    for value in range(4):
        chart.horizontal(value, value)
    share = np.linspace(0.042, 1, 240)
    chart.curve(share, -np.log(share), "a line")
    for at in (0.5, 0.9):
        chart.dots([at], [-np.log(at)], "b")
        chart.note(
            at + 0.012, -np.log(at) + 0.2, f"{at}: {-np.log(at):.3f} nats", "b", "start" if at < 0.9 else "middle"
        )
    nothing = np.log(computed("losses")["vocabulary"])
    chart.note(0.11, 2.75, f"1 / 50,000: {nothing:.1f} nats, far above this picture")
    chart.ticks((0, 0.2, 0.4, 0.6, 0.8, 1), "probability given to the token that came; nats")
    return drawing(chart)


def likelihood():
    page = computed("losses")
    theta, loss, kl = page["theta"], page["loss"], page["kl"]
    entropy = loss[0] - kl[0]
    title = f"Heads in four tosses: the curves differ by the entropy of the data, {entropy:.3f} nats"
    chart = Chart(title, (0, 1), (0, 4))
    for value in range(5):
        chart.horizontal(value, value)
    for values, kind in ((loss, "a"), (kl, "b")):
        shown = values < 4
        chart.curve(theta[shown], values[shown], f"{kind} line")
        chart.dots([theta[values.argmin()]], [values.min()], kind)
    best = theta[kl.argmin()]
    chart.note(best, 1.75, "mean of -log likelihood", "a", "middle")
    chart.note(best, 0.45, "KL(data ‖ model)", "b", "middle")
    chart.ticks((0, 0.2, 0.4, 0.6, 0.8, 1), "chance of heads in the model; nats")
    return drawing(chart)


def vae():
    page = computed("losses")
    chart = Chart("KL from N(μ, σ²) to N(0, 1)", (0, 3), (0, 5))
    for value in range(6):
        chart.horizontal(value, value)
    for (at, kl), kind in zip(page["widths"].items(), "abd", strict=True):
        shown = kl < 5
        chart.curve(page["sigma"][shown], kl[shown], f"{kind} line")
        place = (1, kl.min() + 0.25) if at else (2, 0.25)
        chart.note(*place, f"μ = {at:.0f}", kind, "middle")
    chart.ticks((0, 0.5, 1, 1.5, 2, 2.5, 3), "σ; nats")
    return drawing(chart)


def reward_and_kl():
    page = computed("losses")
    chart = Chart("The most reward for the KL spent", (0, 3.2), (0, 4.4))
    for value in range(5):
        chart.horizontal(value, value)
    betas = np.geomspace(0.08, 100, 300)
    policies = np.array([page["best"](beta) for beta in betas])
    spent, gained = page["kb"].kl_divergence(policies, page["ref"]), policies @ page["reward"]
    chart.curve(spent, gained, "a line")
    others = np.random.default_rng(1).dirichlet(np.ones(4), 150)
    spent_by_others = page["kb"].kl_divergence(others, page["ref"])
    chart.dots(spent_by_others, others @ page["reward"], "c", radius=2)
    for beta in (0.5, 1.0, 2.0):
        policy = page["best"](beta)
        at = float(page["kb"].kl_divergence(policy, page["ref"])), float(policy @ page["reward"])
        chart.dots([at[0]], [at[1]], "b")
        chart.note(at[0] - 0.03, at[1] + 0.2, f"β = {beta:g}", "b", "end")
    chart.note(2.1, 1.1, "dots: policies drawn at random", "", "start")
    chart.ticks((0, 1, 2, 3), "KL(policy ‖ ref), nats; upwards: mean reward")
    return drawing(chart)


def far_apart():
    page = computed("choosing")
    apart = page["apart"]
    chart = Chart("Two unit Gaussians move apart", (0, 8), (0, 8.6))
    for value in (0, 2, 4, 6, 8):
        chart.horizontal(value, value)
    shown = page["far_kl"] < 8.6
    chart.curve(apart[shown], page["far_kl"][shown], "b line")
    chart.curve(apart, page["far_w"], "d line")
    chart.curve(apart, page["far_js"], "a line")
    chart.note(3.3, 7.2, "KL, nats", "b", "end")
    chart.note(5.9, 5.0, "Wasserstein-1", "d")
    chart.note(7.9, 1.0, f"Jensen-Shannon: at most ln 2 = {np.log(2):.3f} nats", "a", "end")
    chart.ticks(range(0, 9, 2), "distance of the means")
    return drawing(chart)


def boxes():
    page = computed("choosing")
    moved = page["moved"] / 100
    chart = Chart("Two boxes one unit wide move apart: KL is infinite all the way", (0, 3), (0, 3.2))
    for value in range(4):
        chart.horizontal(value, value)
    chart.curve(moved, page["to_move"], "d line")
    chart.curve(moved, page["no_js"], "a line")
    chart.note(1.9, 2.4, "Wasserstein-1", "d", "end")
    chart.note(2.95, 0.8, f"Jensen-Shannon: ln 2 = {np.log(2):.3f} nats", "a", "end")
    chart.ticks(range(4), "by how much the second box is moved")
    return drawing(chart)


def drift():
    page = computed("from_data")
    before, after = (page[name] / page[name].sum() for name in ("before", "after"))
    above = Chart("Shares of the cells, last year and this", (0, 10), (0, 0.22), frame=STACKED[0])
    for value in (0, 0.1, 0.2):
        above.horizontal(value, f"{value:.0%}")
    cells = np.arange(10)
    above.bars(cells + 0.1, cells + 0.5, before, "c")
    above.bars(cells + 0.5, cells + 0.9, after, "a")
    above.note(0.1, 0.17, "grey: last year")
    above.note(2.1, 0.17, "blue: this year", "a")
    below = Chart("What each cell adds to PSI", (0, 10), (0, 0.1), frame=STACKED[1])
    for value in (0, 0.05, 0.1):
        below.horizontal(value, value)
    below.bars(cells + 0.2, cells + 0.8, page["where"], "d")
    below.note(8.9, 0.07, f"together {page['where'].sum():.3f}", "d", "end")
    names = ["lowest", *range(2, 10), "highest"]
    below.ticks(cells + 0.5, "tenths of last year's ages", names)
    return drawing(above, below, height=420)


def neighbours():
    page = computed("from_data")
    dimensions = page["dimensions"]
    chart = Chart("k-nearest-neighbour estimates of a KL of 1 nat, 500 points each", (0, 31), (0, 1.2))
    for value in (0, 0.5, 1):
        chart.horizontal(value, value)
    chart.note(30.8, 1.04, "the truth", "", "end")
    for (method, values), kind, place in zip(page["found"].items(), "ab", ((21, 0.68), (21, 0.24)), strict=True):
        chart.curve(dimensions, values, f"{kind} line")
        chart.dots(dimensions, values, kind)
        chart.note(*place, f"method “{method}”", kind)
    chart.ticks(dimensions, "dimensions; mean of eight trials")
    return drawing(chart)


def tsne():
    page = computed("from_data")
    values = (page["kb"].tsne_objective(page["neighbours"], page["start"])[0], page["value"])
    charts = []
    for name, place, value, frame in zip(
        ("The two widest directions", "The t-SNE map"), (page["start"], page["place"]), values, HALVES, strict=True
    ):
        low, high = place.min(axis=0) - 0.5, place.max(axis=0) + 0.5
        chart = Chart(f"{name}: KL {value:.2f}", (low[0], high[0]), (low[1], high[1]), frame=frame)
        left, right, top, bottom = frame
        chart.parts.append(f'<rect class="axis" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>')
        for group, kind in enumerate("abcd"):
            chart.dots(*place[page["group"] == group].T, kind, radius=3.5)
        charts.append(chart)
    return drawing(*charts, height=252)


LESSONS = {
    f"{draw.__name__}.svg": draw
    for draw in (
        coins,
        contributions,
        one_token,
        likelihood,
        vae,
        reward_and_kl,
        far_apart,
        boxes,
        drift,
        neighbours,
        tsne,
    )
}
