"""Drift of one wide table against Evidently and NannyML: `python -m benchmarks.drift_tables --rows 1000000`.

30 columns of numbers, integers, categories, text, bools and dates, a twentieth of most missing. pandas, Polars and
Arrow must give the same report; then each is timed with what is done there: fit, update and report of all columns. The
tools are timed on the columns that they take, where they are installed (`make test-presets` installs them); NannyML's
Jensen-Shannon against the preset of that name.
"""

import argparse
import importlib
import time
from collections.abc import Callable

import numpy as np

from kullback import drift

Columns = dict[str, np.ndarray]


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


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    references, currents = frames(columns(rows, 0)), frames(columns(rows, 1, 0.3))
    whole(*(side["pandas"].head(1000) for side in (references, currents)))  # the first call loads the kernels
    texts = set()
    for library, reference in references.items():
        took, report = seconds(lambda r=reference, c=currents[library]: whole(r, c))
        texts.add(report.to_json())
        print(f"{rows:,} rows x 30 columns, fit, update, report, {library}: {took:.2f} s", flush=True)
    assert len(texts) == 1, "the libraries' reports differ"
    print("equal reports of all three; alarms:", ", ".join(report.column[report.alarm != ""]))
    names = [name for name in references["pandas"].columns if name.startswith(("float", "int", "text"))]
    r, c = (side["pandas"][names] for side in (references, currents))
    took, _ = seconds(lambda: drift.reproduce(r, c, "nannyml.jensen_shannon"))
    print(f"preset nannyml.jensen_shannon, {len(names)} columns: {took:.2f} s", flush=True)
    for tool, work in (
        ("nannyml", lambda: nannyml(r, c, names)),
        ("evidently", lambda: evidently(r, c)),
    ):
        try:
            importlib.import_module(tool)
        except ModuleNotFoundError:
            print(f"{tool} is not installed")
            continue
        print(f"{tool}, the same columns: {seconds(work)[0]:.2f} s", flush=True)


if __name__ == "__main__":
    main()
