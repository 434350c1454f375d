"""Drift of one wide table against Evidently and NannyML: `python -m benchmarks.drift_tables --rows 1000000 --write`.

30 columns of numbers, integers, categories, text, bools and dates, a twentieth of most missing. pandas, Polars and
Arrow must give the same report; then each is timed with what is done there: fit, update and report of all columns. The
tools are timed on the columns that they take, where they are installed (`make test-presets` installs them); NannyML's
Jensen-Shannon against the preset of that name. `--write` puts the table into docs/drift.md.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from kullback import drift

Columns = dict[str, np.ndarray]
PAGE = Path(__file__).parent.parent / "docs" / "drift.md"


def columns(rows: int, seed: int, shift: float = 0.0) -> Columns:
    """Ten columns of floats, five of integers, five of categories, four of text, three of bools, three of dates."""
    rng = np.random.default_rng(seed)
    table: Columns = {}
    for j in range(10):
        values = rng.normal(shift * (j == 0), 1 + j, rows)
        values[rng.random(rows) < 0.05] = np.nan
        table[f"float{j}"] = values
    for j in range(5):
        table[f"int{j}"] = rng.poisson(3 + 10 * j, rows)
    for j in range(9):
        size = 3 * 4 ** (j % 5)
        words = np.array([f"{'category' if j < 5 else 'text'} {k}" for k in range(size)] + [None], dtype=object)
        weights = 1.0 / np.arange(1, size + 2)
        table[f"{'category' if j < 5 else 'text'}{j}"] = words[rng.choice(size + 1, rows, p=weights / weights.sum())]
    for j in range(3):
        table[f"bool{j}"] = rng.random(rows) < 0.3 + 0.2 * j
    start = np.datetime64("2026-01-01T00:00:00", "us")
    for j in range(3):
        when = start + rng.integers(0, 30 * 86_400 * 10**6, rows).astype("m8[us]")
        when[rng.random(rows) < 0.05] = np.datetime64("NaT")
        table[f"date{j}"] = when
    return table


def frames(table: Columns) -> dict[str, object]:
    """The table in each library."""
    pandas, polars, pyarrow = (importlib.import_module(name) for name in ("pandas", "polars", "pyarrow"))
    frame = pandas.DataFrame(table)
    for name in frame.columns:
        if name.startswith("category"):
            frame[name] = frame[name].astype("category")
    arrow = pyarrow.table({name: pyarrow.array(column, from_pandas=True) for name, column in table.items()})
    return {"pandas": frame, "polars": polars.from_arrow(arrow), "pyarrow": arrow}


def seconds(work: Callable[[], object]) -> tuple[tuple[float, float], object]:
    """By the clock, and of all threads on a processor, which other work on the machine changes less."""
    begin, used = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - begin, time.process_time() - used), result


def whole(reference: object, current: object) -> drift.DriftReport:
    state = drift.fit(reference)
    state.update(current)
    return state.report()


def evidently(reference: object, current: object) -> object:
    module = importlib.import_module("evidently")
    presets = importlib.import_module("evidently.presets")
    return module.Report([presets.DataDriftPreset()]).run(current, reference)


def nannyml(reference: object, current: object, names: list[str]) -> object:
    module = importlib.import_module("nannyml")
    calculator = module.UnivariateDriftCalculator(
        column_names=names,
        continuous_methods=["jensen_shannon"],
        categorical_methods=["jensen_shannon"],
        chunk_number=10,
    )
    return calculator.fit(reference).calculate(current)


def timed(rows: int) -> list[str]:
    """The table; every report of ours must be the same."""
    references, currents = frames(columns(rows, 0)), frames(columns(rows, 1, 0.3))
    whole(*(side["pandas"].head(1000) for side in (references, currents)))  # the first call loads the kernels
    lines = [f"| {rows:,} rows, all 30 columns: fit, update, report | processor seconds |", "|---|---|"]

    def add(name: str, took: tuple[float, float]) -> None:
        lines.append(f"| {name} | {took[1]:.1f} |")
        print(f"{lines[-1]} {took[0]:.1f} by the clock", flush=True)

    texts = set()
    for library, reference in references.items():
        took, report = seconds(lambda r=reference, c=currents[library]: whole(r, c))
        texts.add(report.to_json())
        add(f"kullback, {library}", took)
    assert len(texts) == 1, "the libraries' reports differ"
    print("equal reports of all three; alarms:", ", ".join(report.column[report.alarm != ""]))
    names = [name for name in references["pandas"].columns if name.startswith(("float", "int", "text"))]
    r, c = (side["pandas"][names] for side in (references, currents))
    add(
        f"kullback, preset nannyml.jensen_shannon, {len(names)} columns, pandas",
        seconds(lambda: drift.reproduce(r, c, "nannyml.jensen_shannon"))[0],
    )
    for tool, what, work in (
        ("nannyml", "Jensen-Shannon", lambda: nannyml(r, c, names)),
        ("evidently", "DataDriftPreset", lambda: evidently(r, c)),
    ):
        try:
            version = metadata.version(tool)
            importlib.import_module(tool)
        except ModuleNotFoundError:
            print(f"{tool} is not installed")
            continue
        add(f"{tool} {version}, {what}, the same {len(names)} columns", seconds(work)[0])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="into docs/drift.md")
    options = parser.parse_args()
    lines = timed(options.rows)
    if options.write:
        before, start, rest = PAGE.read_text(encoding="utf-8").partition("<!-- million -->\n")
        after = rest[rest.index("<!-- end -->") :]
        PAGE.write_text(before + start + "\n".join(lines) + "\n" + after, encoding="utf-8")


if __name__ == "__main__":
    main()
