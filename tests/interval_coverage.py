"""How often intervals hold the truth: documents of unequal length and effect, few of them.

`make coverage` writes the table of docs/intervals.md: five minutes of one core.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np

import kullback as kb
from kullback.comparison.clusters import Clusters
from kullback.samples.neighbours import _two_sample

# (spread of log lengths, of log effects, and the power of the length that the effect grows with)
ROWS = {
    "iid": (0.8, 0.0, 0.0),
    "mild": (0.8, 0.3, 0.0),
    "strong": (0.8, 0.8, 0.0),
    "longer documents are worse": (0.5, 0.5, 0.5),
    "much worse": (0.8, 0.5, 0.5),
}
GROUPS = (2, 5, 10, 20, 50, 100)
PAGE = Path(__file__).parent.parent / "docs" / "intervals.md"
LENGTH = 200  # median tokens of a document


def documents(row, groups, rng):
    """(tokens, sums, sums of squares) of documents: tokens are their document's effect times a gamma(½) of mean 1."""
    lengths, effects, power = ROWS[row]
    z = rng.standard_normal(groups)
    counts = np.maximum(2, np.round(LENGTH * np.exp(lengths * z))).astype(np.int64)
    effect = np.exp(effects * rng.standard_normal(groups) - effects**2 / 2 + power * lengths * z)
    tokens = 2 * rng.standard_gamma(0.5, counts.sum())
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return counts, effect * np.add.reduceat(tokens, starts), effect**2 * np.add.reduceat(tokens**2, starts)


def truth(row):
    """E[sum]/E[tokens] over documents."""
    lengths, _, power = ROWS[row]
    return np.exp(power * lengths**2 + (power * lengths) ** 2 / 2)


def clusters(counts, sums, squares):
    """As a Spread makes them."""
    mean = sums.sum() / counts.sum()
    moved = (sums - mean * counts) / counts.sum()
    return Clusters(mean, counts.astype(np.float64), moved, float(squares.sum() - mean**2 * counts.sum()), 1)


def old_intervals(counts, sums, rng, draws=500):
    """What stood here before: the linearised error by the normal quantile, and a percentile bootstrap of groups."""
    g, mean = counts.size, sums.sum() / counts.sum()
    reach = 1.96 * np.sqrt(g / (g - 1) * np.sum((sums - mean * counts) ** 2)) / counts.sum()
    times = rng.multinomial(g, np.full(g, 1 / g), size=draws).astype(float)
    return (mean - reach, mean + reach), tuple(np.quantile((times @ sums) / (times @ counts), [0.025, 0.975]))


def coverage(row, groups, repeats, seed=0, draws=2000, old=False):
    """Shares of intervals that hold the truth: of ours, or of (normal, percentile)."""
    held = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        counts, sums, squares = documents(row, groups, rng)
        if old:
            found = old_intervals(counts, sums, rng)
        else:
            found = [clusters(counts, sums, squares).interval(0.95, draws, rng)]
        held.append([low <= truth(row) <= high for low, high in found])
    return np.mean(held, axis=0)


def table(repeats):
    lines = [f"| documents | interval | {' | '.join(str(g) for g in GROUPS)} |", "|---|---|" + "---|" * len(GROUPS)]
    for row in ROWS:
        old = np.array([coverage(row, g, repeats, old=True) for g in GROUPS])
        new = [f"{coverage(row, g, repeats)[0]:.3f}" if g >= 5 else "none" for g in GROUPS]
        for name, cells in zip(("normal", "percentile bootstrap"), old.T, strict=True):
            lines.append(f"| {row} | before: {name} | {' | '.join(f'{x:.3f}' for x in cells)} |")
        lines.append(f"| {row} | **now** | {' | '.join(new)} |")
    return "\n".join(lines)


# (densities, dimensions, method); nothing of 10 dimensions, where there is no interval
NEIGHBOURS = [
    (densities, d, method)
    for d in (1, 2, 5)
    for densities in ("shift", "wide", "same")
    for method in ("nearest", "bias-reduced")
]


def samples(case, seed, points=500):
    """x, y and KL: of N(0, I) and N(μ, I) with |μ|² = 2.5, N(0, 1.5²·I), or N(0, I) again."""
    densities, d, _ = case
    x, y = np.random.default_rng([d, seed]).standard_normal((2, points, d))
    if densities == "shift":
        return x, y + np.sqrt(2.5 / d), 1.25
    return (x, 1.5 * y, d * (np.log(1.5) + 0.5 / 1.5**2 - 0.5)) if densities == "wide" else (x, y, 0.0)


def neighbour_coverage(case, repeats, resamples=40):
    """The share of intervals that hold KL."""
    held = []
    for seed in range(repeats):
        x, y, truth = samples(case, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kb.knn_kl_divergence(x, y, method=case[2], resamples=resamples, rng=seed, num_threads=1)
        held.append(found.low <= truth <= found.high)
    return np.mean(held)


def old_neighbour_coverage(case, repeats, resamples=40, k=5):
    """Of what stood here before: subsamples of n^(2/3) points about the estimate, whose bias is not theirs."""
    held = []
    for seed in range(repeats):
        x, y, truth = samples(case, seed)
        rng = np.random.default_rng(seed)
        size = round(len(x) ** (2 / 3))
        value, *found = (
            _two_sample(a, b, k, case[2], 1)
            for a, b in [(x, y)] + [(rng.permutation(x)[:size], rng.permutation(y)[:size]) for _ in range(resamples)]
        )
        ends = value - np.quantile(np.array(found) - value, [0.975, 0.025]) * np.sqrt(size / len(x))
        held.append(ends[0] <= truth <= ends[1])
    return np.mean(held)


def neighbour_table(repeats=60):
    lines = ["| x and y | dimensions | method | before | now |", "|---|---|---|---|---|"]
    none = [(densities, 10, method) for densities in ("shift", "wide") for method in ("nearest", "bias-reduced")]
    for case in NEIGHBOURS + none:
        now = "none" if case in none else f"{neighbour_coverage(case, repeats):.2f}"
        lines.append(f"| {' | '.join(str(x) for x in case)} | {old_neighbour_coverage(case, repeats):.2f} | {now} |")
    return "\n".join(lines)


def check(repeats):
    """`make nightly`: what the page promises, within the error of so many draws."""
    slack = 3 * np.sqrt(0.05 * 0.95 / repeats)
    for row in ROWS:
        for g in (10, 20, 50):
            share = coverage(row, g, repeats, seed=1)[0]
            least = 0.915 if row == "much worse" else 0.94
            assert least - slack <= share <= 0.985 + slack, (row, g, share)
    for case in NEIGHBOURS:
        share = neighbour_coverage(case, max(repeats // 10, 20))
        assert share >= 0.85, (case, share)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="into docs/intervals.md")
    parser.add_argument("--check", action="store_true", help="whether the promises hold, and no table")
    options = parser.parse_args()
    if options.check:
        check(options.repeats)
        raise SystemExit
    for name, made in (
        ("neighbours", neighbour_table()),
        ("groups", table(options.repeats)),
    ):
        print(made, flush=True)
        if options.write:
            before, start, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
            PAGE.write_text(f"{before}{start}{made}\n{rest[rest.index(f'<!-- /{name} -->') :]}", encoding="utf-8")
