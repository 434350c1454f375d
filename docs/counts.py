"""Rewrites the tables of docs/counts.md by simulation, in two to eight minutes: `python docs/counts.py`.

`--check` asserts what the page promises, on tables of another seed, and writes nothing.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

import kullback as kb

PAGE = Path(__file__).parent / "counts.md"
LEVELS = [((10, 10), n) for n in (50, 100, 200, 400)] + [((5, 20), 200), ((3, 3), 30), ((3, 3), 200)]
COVERAGE = [((2, 2), 100), ((3, 3), 200), ((5, 5), 500), ((10, 10), 2000), ((2, 10), 2000), ((3, 3), 1000)]
DEPENDENCE = (0.0, 0.05, 0.2, 0.5, 0.9, 1.0)


def table_of(shape, dependence, skew=1.0):
    """Probabilities of pairs: independent, mixed with what X decides alone."""
    rows, columns = shape
    x, y = skew ** np.arange(rows), skew ** np.arange(columns)
    decided = np.zeros(shape)
    decided[np.arange(rows), np.arange(rows) * columns // rows] = x / x.sum()
    return (1 - dependence) * np.outer(x / x.sum(), y / y.sum()) + dependence * decided


def drawn(rng, probabilities, total, size):
    return rng.multinomial(total, probabilities.ravel(), size=size).reshape(size, *probabilities.shape)


def levels(shape, total, tables, permutations, seed=0):
    """Shares of independent tables that G against χ², and the test by random tables, reject at 5 %."""
    rng = np.random.default_rng(seed)
    found = drawn(rng, table_of(shape, 0.0), total, tables)
    statistic = 2 * total * kb.mutual_information(found)
    chi2 = stats.chi2.sf(statistic, (shape[0] - 1) * (shape[1] - 1))
    exact = [kb.mutual_information_estimate(x, permutations=permutations, rng=rng).p_value for x in found]
    return float(np.mean(chi2 <= 0.05)), float(np.mean(np.array(exact) <= 0.05))


def coverage(shape, total, dependence, tables, skew=1.0, seed=0):
    """Share of tables whose interval at 95 % holds the information they were drawn with."""
    rng = np.random.default_rng(seed)
    probabilities = table_of(shape, dependence, skew)
    truth = float(kb.mutual_information(probabilities))
    hits = 0
    for table in drawn(rng, probabilities, total, tables):
        found = kb.mutual_information_estimate(table, permutations=0)
        hits += found.low <= truth + 1e-12 and truth <= found.high + 1e-12
    return hits / tables


def level_rows():
    yield "| table | counts | a cell | before: G against χ² | now: random tables |"
    yield "|---|---|---|---|---|"
    for shape, total in LEVELS:
        chi2, exact = levels(shape, total, 1000, 199)
        cells = shape[0] * shape[1]
        yield f"| {shape[0]} × {shape[1]} | {total} | {total / cells:.3g} | {chi2:.1%} | {exact:.1%} |"


def coverage_rows():
    yield "| table | counts | a cell | " + " | ".join(f"{d:g}" for d in DEPENDENCE) + " |"
    yield "|---|---|---|" + "---|" * len(DEPENDENCE)
    for shape, total in COVERAGE:
        for skew, name in ((1.0, ""), (0.6, ", skewed")):
            found = [coverage(shape, total, d, 1000, skew) for d in DEPENDENCE]
            head = f"| {shape[0]} × {shape[1]}{name} | {total} | {total / (shape[0] * shape[1]):.3g} | "
            yield head + " | ".join(f"{share:.3f}" for share in found) + " |"


def check(tables, seed):
    """`make nightly`: within three standard deviations of so many tables."""

    def slack(share):
        return 3 * np.sqrt(share * (1 - share) / tables)

    for shape, total in LEVELS:
        _, exact = levels(shape, total, tables, 99, seed)
        assert exact <= 0.05 + slack(0.05), (shape, total, exact)
    for shape, total in COVERAGE:
        promised = 0.90 if total < 50 * shape[0] * shape[1] else 0.93
        for skew in (1.0, 0.6):
            for dependence in DEPENDENCE:
                found = coverage(shape, total, dependence, tables, skew, seed)
                assert found >= promised - slack(promised), (shape, total, skew, dependence, found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="whether the promises hold, and no table")
    parser.add_argument("--tables", type=int, default=300, help="of --check")
    parser.add_argument("--seed", type=int, default=1, help="of --check")
    options = parser.parse_args()
    if options.check:
        check(options.tables, options.seed)
        return
    text = PAGE.read_text(encoding="utf-8")
    for name, rows in (("levels", level_rows), ("coverage", coverage_rows)):
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        text = f"{before}{start}" + "\n".join(rows()) + f"\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
