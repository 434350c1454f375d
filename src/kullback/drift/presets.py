"""Other tools' drift rules by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from kullback._engine import choice, real
from kullback.drift import chunk_rules, rules
from kullback.drift.counting import in_parallel
from kullback.drift.significance import limit_threshold
from kullback.drift.tables import CATEGORICAL, NUMERIC, TEMPORAL, as_table, category_counts, kind_of, names_of, numbers

__all__ = ["PRESETS", "PresetResult", "reproduce"]

BOTH = (NUMERIC, CATEGORICAL)
_NANNYML_CHUNKS = 10
_RANGES = {  # of the tools' parameters: least, greatest, whether whole
    "bins": (1, 1e9, True),
    "num_bins": (1, 1e9, True),
    "max_num_categories": (1, 1e9, True),
    "min_pct_empty_bins": (0, 1, False),
    "min_category_size_ratio": (0, 1, False),
    "margin_quantile_filter": (0, 0.5, False),
    "tail_weight_holdout": (0, 1, False),
    "p_value": (0, 1, False),
}


@dataclass(frozen=True)
class Preset:
    """A rule, the kinds of column it takes, its default threshold and whether meeting it is drift already.

    A rule with a threshold from chunks takes the reference, and returns what takes a chunk.
    """

    rule: Callable[..., Any]
    kinds: tuple[str, ...]
    threshold: float | str | None = None
    inclusive: bool = True
    finite_only: bool = False


PresetName = Literal[
    "evidently.psi",
    "evidently.kl_div",
    "evidently.jensenshannon",
    "evidently.hellinger",
    "evidently.wasserstein",
    "nannyml.jensen_shannon",
    "nannyml.hellinger",
    "nannyml.wasserstein",
    "nannyml.l_infinity",
    "feature_engine.psi",
    "frouros.psi",
    "frouros.kl",
    "frouros.js",
    "frouros.hellinger",
    "frouros.bhattacharyya",
    "frouros.hi_normalized_complement",
    "frouros.emd",
    "deepchecks.psi",
    "deepchecks.earth_movers_distance",
    "great_expectations.kl_divergence",
]

#: Every preset: the tool's name and its name for the method.
PRESETS: MappingProxyType[str, Preset] = MappingProxyType(
    {
        "evidently.psi": Preset(rules.evidently_psi, BOTH, 0.1, finite_only=True),
        "evidently.kl_div": Preset(rules.evidently_kl, BOTH, 0.1, finite_only=True),
        "evidently.jensenshannon": Preset(rules.evidently_js, BOTH, 0.1, finite_only=True),
        "evidently.hellinger": Preset(rules.evidently_hellinger, BOTH, 0.1, finite_only=True),
        "evidently.wasserstein": Preset(rules.evidently_wasserstein, (NUMERIC,), 0.1, finite_only=True),
        "nannyml.jensen_shannon": Preset(chunk_rules.nannyml_js, BOTH, "chunks", inclusive=False),
        "nannyml.hellinger": Preset(chunk_rules.nannyml_hellinger, BOTH, "chunks", inclusive=False),
        "nannyml.wasserstein": Preset(chunk_rules.nannyml_wasserstein, (NUMERIC,), "chunks", inclusive=False),
        "nannyml.l_infinity": Preset(chunk_rules.nannyml_l_infinity, (CATEGORICAL,), "chunks", inclusive=False),
        "feature_engine.psi": Preset(rules.feature_engine_psi, BOTH, 0.25, inclusive=False),
        "frouros.psi": Preset(rules.frouros_psi, (NUMERIC,)),
        "frouros.kl": Preset(rules.frouros_kl, (NUMERIC,)),
        "frouros.js": Preset(rules.frouros_js, (NUMERIC,)),
        "frouros.hellinger": Preset(rules.frouros_hellinger, (NUMERIC,)),
        "frouros.bhattacharyya": Preset(rules.frouros_bhattacharyya, (NUMERIC,)),
        "frouros.hi_normalized_complement": Preset(rules.frouros_histogram_intersection, (NUMERIC,)),
        "frouros.emd": Preset(rules.frouros_emd, (NUMERIC,)),
        "deepchecks.psi": Preset(rules.deepchecks_psi, (CATEGORICAL,), 0.2),
        "deepchecks.earth_movers_distance": Preset(rules.deepchecks_earth_movers, (NUMERIC,), 0.2),
        "great_expectations.kl_divergence": Preset(rules.great_expectations_kl, (CATEGORICAL,)),
    }
)


@dataclass(frozen=True)
class PresetResult:
    """What the tool would say of one column; `threshold` and `drifted` are None where it has no default."""

    value: float
    threshold: float | None
    drifted: bool | None


def reproduce(
    reference: Any,
    current: Any,
    preset: PresetName,
    *,
    categorical: Iterable[str] = (),
    threshold: float | str | None = None,
    num_threads: int | None = None,
    **options: Any,
) -> dict[str, PresetResult]:
    """What another drift tool reports for two tables, computed here: same bins, same fills, same direction.

    Parameters
    ----------
    reference, current : pandas, Polars or Arrow table, ndarray or dict of 1-D arrays
        With the same columns; those of `reference` are compared. Missing values are left out.
    preset : str
        A key of `PRESETS`:

        ===================================  ===================================================================
        preset                               what is computed
        ===================================  ===================================================================
        evidently.psi                        Sturges bins of both sides together (values, if the reference has
                                             20 or fewer), empty bins 1e-4; drift from 0.1
        evidently.kl_div                     KL(reference‖current) of the same, normalised; from 0.1
        evidently.jensenshannon              distance, nats, nothing filled; from 0.1
        evidently.hellinger                  bins by the distinct values of both sides; from 0.1
        evidently.wasserstein                W1/max(sd of the reference, 0.001); from 0.1
        nannyml.jensen_shannon               Doane bins of the reference, one more for the rest; base 2; above
                                             mean + 3 sd of ten chunks of the reference
        nannyml.hellinger, .wasserstein,     the same alarm; W1 from 10,000 bins for 10,000 values or more
        nannyml.l_infinity
        feature_engine.psi                   `bins`=10 by `strategy`="equal_frequency", empty bins 1e-4; above
                                             0.25, or threshold="auto" (χ², `p_value`=0.001)
        frouros.psi                          `num_bins`=10 equal bins of both sides, empty ones 2.2e-308
        frouros.kl, .js                      KL(current‖reference); masses interpolated at `num_bins` edges
        frouros.hellinger, .bhattacharyya,   `num_bins` equal bins of both sides
        .hi_normalized_complement, .emd
        deepchecks.psi                       shares raised to 0.01 (`min_category_size_ratio`=0,
                                             `max_num_categories`=None); from 0.2
        deepchecks.earth_movers_distance     W1 scaled to [0, 1] within `margin_quantile_filter`=0.025; from 0.2
        great_expectations.kl_divergence     KL(current‖reference), `tail_weight_holdout`=0 for the unseen
        ===================================  ===================================================================
    categorical : iterable of str
        Numeric columns to treat as categories. With presets for categories only, all are.
    threshold : float or "auto", optional
        Instead of the tool's default. "auto" is feature_engine's.
    num_threads : int, optional
        Columns compared at a time.
    **options
        Parameters of the tool, named in the table.

    Returns
    -------
    dict of PresetResult
        By column name.

    Raises
    ------
    ValueError
        An unknown preset, a column that `current` lacks or that holds no values, a preset for numbers with
        categories.
    TypeError
        An option that the preset does not take.

    Notes
    -----
    Formulas as of Evidently 0.7, NannyML 0.13, feature_engine 1.9, frouros 0.9, deepchecks 0.19 and Great
    Expectations 1.x. Terms are summed without cancellation, so a value below about 1e-8 can differ from the
    tool's.

    Examples
    --------
    >>> import numpy as np
    >>> np.random.seed(31)
    >>> x, y = np.random.normal(0, 1, 100), np.random.normal(1, 1, 100)
    >>> round(reproduce(x, y, "frouros.psi", num_bins=20)["0"].value, 6)
    134.954091
    """
    choice(preset, "preset", PRESETS)
    chosen = PRESETS[preset]
    by_value = set(names_of("categorical", categorical))
    _check_options(options)
    automatic = threshold is None or (isinstance(threshold, str) and threshold == "auto")
    if not automatic and np.isnan(real(threshold, "threshold")):
        raise ValueError("`threshold` is nan, expected a number")
    ours, theirs = as_table("reference", reference), as_table("current", current)
    for name in [*ours.names, *by_value]:
        if name not in theirs.columns or name not in ours.columns:
            raise ValueError(f"no column {name!r} in both tables, expected the columns of `reference`")
    p_value = options.pop("p_value", 0.001) if threshold == "auto" else None

    def compare(name: str) -> PresetResult:
        kind = CATEGORICAL if name in by_value else kind_of(name, ours.columns[name])
        kind = NUMERIC if kind == TEMPORAL else kind  # seconds
        if kind not in chosen.kinds:
            if kind == CATEGORICAL:
                raise ValueError(f"column {name!r} is categorical, expected numbers for {preset!r}")
            kind = CATEGORICAL
        sides = []
        for table, side in ((ours, "reference"), (theirs, "current")):
            data = _prepared(name, table.columns[name], kind, chosen.finite_only)
            if len(data) == 0:
                raise ValueError(f"column {name!r} of `{side}` has no values, expected at least one")
            sides.append(data)
        chunked = chosen.threshold == "chunks"
        measure = chosen.rule(sides[0], **options) if chunked else partial(chosen.rule, sides[0], **options)
        value = measure(sides[1])
        limit = chosen.threshold if threshold is None else threshold
        if limit == "chunks":
            limit = _nannyml_threshold(measure, name, ours.columns[name], kind)
        elif limit == "auto":
            cells = options.get("bins", 10) if kind == NUMERIC else len({*sides[0], *sides[1]})
            limit = limit_threshold(ours.rows, theirs.rows, cells, p_value or 0.001)
        if limit is None or isinstance(limit, str):
            return PresetResult(value, None, None)
        return PresetResult(value, limit, bool(value >= limit if chosen.inclusive else value > limit))

    results = in_parallel(compare, ours.names, num_threads)
    return dict(zip(ours.names, results, strict=True))


def _check_options(options: dict[str, Any]) -> None:
    """Refuse parameters of a tool beyond their range; names that its rule does not know are refused by it."""
    for name, (least, greatest, whole) in _RANGES.items():
        value = options.get(name)
        if value is None:
            continue
        if not least <= real(value, name) <= greatest or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"`{name}` is {value}, expected {kind} from {least:g} to {greatest:g}")


def _prepared(name: str, column: Any, kind: str, finite_only: bool) -> Any:
    """Values without missing ones, or counts by category."""
    if kind == CATEGORICAL:
        return category_counts(column)[0]
    values = numbers(name, column, kind_of(name, column)).astype(np.float64)
    return values[np.isfinite(values) if finite_only else ~np.isnan(values)]


def _nannyml_threshold(measure: chunk_rules.Measure, name: str, column: Any, kind: str) -> float:
    """Mean + 3 standard deviations of the values of the reference's own chunks."""
    rows = len(column)
    step = max(rows // _NANNYML_CHUNKS, 1)
    values = []
    for start in range(0, rows, step):
        chunk = _prepared(name, column[start : start + step], kind, finite_only=False)
        values.append(measure(chunk) if len(chunk) else np.nan)
    return float(np.nanmean(values) + 3.0 * np.nanstd(values))
