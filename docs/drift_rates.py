"""How often drift alarms with and without drift: `python docs/drift_rates.py` writes the tables of docs/drift.md.

Every case draws a reference and a batch, fits, updates and reports, as a user does, `--runs` times: 250 take two
minutes of one core (they took 16 of a busy one). `tests/test_drift_rates.py` runs a few, from the same functions.
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kullback import drift

Draw = Callable[[np.random.Generator, int], np.ndarray]
TARGET = Path(__file__).parent / "drift.md"


def zipf(categories: int, power: float = 1.0) -> Draw:
    weights = np.arange(1, categories + 1) ** -power
    weights /= weights.sum()
    return lambda rng, n: rng.choice(categories, n, p=weights).astype(str)


def missing(draw: Draw, share: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < share, np.nan, draw(rng, n))


def new_category(draw: Draw, share: float) -> Draw:
    return lambda rng, n: np.where(rng.random(n) < share, "new", draw(rng, n))


def normal(shift: float = 0.0, scale: float = 1.0) -> Draw:
    return lambda rng, n: rng.normal(shift, scale, n)


def dates(first: int, spread: int) -> Draw:
    day = np.datetime64("2026-01-01", "s")
    return lambda rng, n: day + rng.integers(first * 86_400, (first + spread) * 86_400, n).astype("m8[s]")


# name, reference, batch, values in the reference, in the batch
STILL = [
    ("normal, 10 bins", normal(), normal(), 10_000, 10_000),
    ("normal, 10 bins", normal(), normal(), 10_000, 50),
    ("normal, 10 bins", normal(), normal(), 100, 100),
    ("lognormal", lambda rng, n: rng.lognormal(0, 1, n), lambda rng, n: rng.lognormal(0, 1, n), 2000, 300),
    ("Poisson, mean 3", lambda rng, n: rng.poisson(3, n), lambda rng, n: rng.poisson(3, n), 5000, 500),
    ("normal, 5 % missing", missing(normal(), 0.05), missing(normal(), 0.05), 5000, 500),
    ("dates", dates(0, 100), dates(0, 100), 5000, 500),
    ("Zipf, 200 categories", zipf(200), zipf(200), 10_000, 1000),
    ("Zipf, 5,000 categories", zipf(5000), zipf(5000), 10_000, 1000),
    ("Zipf, 5,000 categories", zipf(5000), zipf(5000), 2000, 10_000),
    ("three categories", zipf(3), zipf(3), 300, 100),
]
MOVED = [
    ("normal, mean + 0.5 sd", normal(), normal(0.5), 10_000, 200),
    ("normal, mean + 0.1 sd", normal(), normal(0.1), 10_000, 10_000),
    ("normal, sd × 1.5", normal(), normal(0.0, 1.5), 10_000, 200),
    ("missing, 1 % to 5 %", missing(normal(), 0.01), missing(normal(), 0.05), 10_000, 1000),
    ("missing, 1 % to 50 %", missing(normal(), 0.01), missing(normal(), 0.5), 10_000, 200),
    ("dates, 30 days later", dates(0, 100), dates(30, 100), 10_000, 200),
    ("a new category, 2 %", zipf(200), new_category(zipf(200), 0.02), 10_000, 1000),
    ("Zipf, power 1 to 1.3", zipf(200), zipf(200, 1.3), 10_000, 500),
]
P_VALUES = ("psi_p_value", "g_test_p_value", "ks_p_value", "unseen_p_value", "missing_p_value", "p_value")


def usual_psi(reference: np.ndarray, current: np.ndarray) -> float:
    """PSI as it is usually taken, of ten bins of the reference or of every category; inf where one is empty."""
    if reference.dtype.kind == "U":
        names = np.union1d(reference, current)
        cells = [np.searchsorted(names, side) for side in (reference, current)]
        bins = names.size
    else:
        sides = [side.astype(np.float64) for side in (reference, current)]
        sides = [side[~np.isnan(side)] for side in sides]
        edges = np.unique(np.quantile(sides[0], np.linspace(0, 1, 11))[1:-1])
        cells, bins = [np.searchsorted(edges, side, "right") for side in sides], edges.size + 1
    r, c = (np.bincount(side, minlength=bins) / side.size for side in cells)
    used = (r > 0) | (c > 0)
    with np.errstate(divide="ignore"):
        return float(((r - c)[used] * np.log(r[used] / c[used])).sum())


def reported(case: tuple[str, Draw, Draw, int, int], runs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Fields of the reports of `runs` single columns."""
    _, reference, batch, n, m = case
    rows: dict[str, list[object]] = {name: [] for name in (*P_VALUES, "band", "psi", "usual")}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        sides = reference(rng, n), batch(rng, m)
        state = drift.fit({"x": sides[0]}, num_threads=1)
        state.update({"x": sides[1]})
        report = state.report(seed=run)
        for name, values in rows.items():
            values.append(usual_psi(*sides) if name == "usual" else getattr(report, name)[0])
    return {name: np.array(values) for name, values in rows.items()}


def rate(values: np.ndarray, level: float) -> str:
    """The share of values at or below a level; nothing where the test does not apply."""
    return "" if np.isnan(values).all() else f"{np.mean(values <= level):.1%}"


def still_rows(runs: int) -> list[str]:
    lines = [
        "| no drift | n, m | before | PSI | ratio | KS | unseen | missing | column | not stable |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in STILL:
        found = reported(case, runs)
        cells = [f"{np.mean(found['usual'] >= 0.1):.1%}"]
        cells += [rate(found[name], 0.05) for name in P_VALUES] + [f"{np.mean(found['band'] != 'stable'):.1%}"]
        lines.append(f"| {case[0]} | {case[3]:,}, {case[4]:,} | " + " | ".join(cells) + " |")
    return lines


def moved_rows(runs: int) -> list[str]:
    lines = ["| drift | n, m | before | significant at 1 % | shifted | watch | act |", "|---|---|---|---|---|---|---|"]
    for case in MOVED:
        found = reported(case, runs)
        cells = [f"{np.mean(found['usual'] >= 0.1):.0%}", f"{np.mean(found['p_value'] <= 0.01):.0%}"]
        cells += [f"{np.mean(found['band'] == band):.0%}" for band in ("shifted", "watch", "act")]
        lines.append(f"| {case[0]} | {case[3]:,}, {case[4]:,} | " + " | ".join(cells) + " |")
    return lines


def threshold_rate(
    n: int, m: int, bins: int, level: float, runs: int, seed: int = 1, limit: float | None = None, half: float = 0.5
) -> float:
    """How often PSI in quantile bins of the reference goes beyond `psi_threshold`, or `limit`, without drift."""
    rng = np.random.default_rng(seed)
    limit = drift.psi_threshold(n, m, bins, level) if limit is None else limit
    beyond = 0
    for _ in range(runs):
        reference = np.sort(rng.random(n))
        edges = np.quantile(reference, np.linspace(0, 1, bins + 1))[1:-1]
        r, c = (np.bincount(np.searchsorted(edges, x, "right"), minlength=bins) for x in (reference, rng.random(m)))
        if np.any(r == 0) or np.any(c == 0):
            r, c = r + half, c + half  # as the report does
        p, q = r / r.sum(), c / c.sum()
        with np.errstate(divide="ignore"):
            beyond += ((p - q) * np.log(p / q)).sum() > limit
    return beyond / runs


def threshold_rows(runs: int) -> list[str]:
    lines = ["| n, m, bins | nominal | beyond `psi_threshold` |", "|---|---|---|"]
    for n, m, bins in ((10_000, 50, 10), (10_000, 500, 10), (300, 300, 10), (100_000, 20_000, 10)):
        for level in (0.01, 0.001):
            found = threshold_rate(n, m, bins, level, runs)
            lines.append(f"| {n:,}, {m:,}, {bins} | {level:.1%} | {found:.2%} |")
    return lines


def check(runs: int, seed: int) -> None:
    """`make nightly`: what the page says, within three standard deviations of so many runs of another seed."""

    def most(share: float) -> float:
        return float(share + 3 * np.sqrt(share * (1 - share) / runs))

    for case in STILL:
        found = reported(case, runs, seed)
        for name in P_VALUES:
            assert not np.mean(found[name] <= 0.05) > most(0.05), (case[0], case[4], name)
        assert np.mean(found["band"] != "stable") <= most(0.01), (case[0], case[4])
    fewer = max(runs // 4, 1)
    for case in MOVED:
        found = reported(case, fewer, seed)
        assert np.mean(found["p_value"] <= 0.01) >= 0.85 - 3 * np.sqrt(0.85 * 0.15 / fewer), case[0]
        assert not np.any((found["band"] == "stable") & (found["p_value"] <= 0.01)), case[0]
    for n, m in ((10_000, 50), (300, 300)):
        assert threshold_rate(n, m, 10, 0.01, 10 * runs, seed) <= 0.012 + 3 * np.sqrt(0.01 / (10 * runs)), (n, m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=250)
    parser.add_argument("--print", action="store_true", help="print the tables and leave the page alone")
    parser.add_argument("--check", action="store_true", help="whether the promises hold, and no table")
    parser.add_argument("--seed", type=int, default=11, help="of --check")
    options = parser.parse_args()
    if options.check:
        check(options.runs, options.seed)
        return
    begin = time.perf_counter()
    tables = {
        "still": still_rows(options.runs),
        "moved": moved_rows(max(options.runs // 4, 1)),
        "threshold": threshold_rows(10 * options.runs),
    }
    print(f"{options.runs} runs: {time.perf_counter() - begin:.0f} s")
    page = TARGET.read_text(encoding="utf-8")
    for name, lines in tables.items():
        text = "\n".join(lines)
        if options.print:
            print(text)
        page = re.sub(
            rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", lambda m, t=text: m[1] + t + m[2], page, flags=re.DOTALL
        )
    if not options.print:
        TARGET.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
