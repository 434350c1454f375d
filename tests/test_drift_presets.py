"""Presets against the tools they are named after: the installed tool, and numbers it printed."""

import importlib
import itertools
import os
import warnings

import numpy as np
import pytest

from kullback.drift import PRESETS, reproduce


def samples(kind, seed=0):
    """Reference and current column of one kind."""
    rng = np.random.RandomState(seed)  # the legacy generator: its streams never change
    if kind == "normal":
        return rng.normal(0, 1, 1000), rng.normal(0.3, 1.2, 700)
    if kind == "disjoint":
        return rng.normal(0, 1, 500), rng.normal(12, 1, 400)
    if kind == "lognormal":
        return rng.lognormal(0, 1, 3000), rng.lognormal(0.1, 1, 3000)
    if kind == "large":
        return rng.normal(0, 1, 12_000), rng.normal(0.5, 1.5, 5000)
    if kind == "few values":
        return rng.randint(0, 8, 900).astype(float), rng.randint(2, 12, 800).astype(float)
    if kind == "many values":
        return rng.poisson(30, 2000).astype(float), rng.poisson(32, 1500).astype(float)
    if kind == "letters":
        return rng.choice(list("abcd"), 900, p=[0.5, 0.3, 0.15, 0.05]), rng.choice(list("abcx"), 800)
    if kind == "rare letters":
        weights = np.array([500, 300, 100, 50, 30, 15, 4, 1]) / 1000
        return rng.choice(list("abcdefgh"), 2000, p=weights), rng.choice(list("abcdefgh"), 1500, p=weights[::-1])
    raise ValueError(kind)


NUMBERS = ["normal", "disjoint", "lognormal", "few values", "many values"]
LETTERS = ["letters", "rare letters"]


def value(reference, current, preset, **options):
    return reproduce(reference, current, preset, **options)["0"].value


def close(ours, theirs):
    if np.isinf(theirs):
        return ours == theirs
    return ours == pytest.approx(theirs, rel=1e-11, abs=1e-13)


# ---------------------------------------------------------------------------------------- without the tools


def frouros_example():
    rng = np.random.RandomState(31)
    return rng.normal(loc=0, scale=1, size=100), rng.normal(loc=1, scale=1, size=100)


@pytest.mark.parametrize(
    ("preset", "printed"),
    [
        ("frouros.psi", 134.95409065116183),
        ("frouros.kl", np.inf),
        ("frouros.js", 0.41702877367162156),
        ("frouros.hellinger", 0.467129645775421),
        ("frouros.bhattacharyya", 0.2182101059622703),
        ("frouros.hi_normalized_complement", 0.53),
    ],
)
def test_frouros_prints_in_its_documentation(preset, printed):
    x, y = frouros_example()
    assert close(value(x, y, preset, num_bins=20), printed)


def test_frouros_earth_movers_distance_as_documented():
    x, y = frouros_example()
    assert close(value(x, y, "frouros.emd"), 1.0686078744674332)


# Printed by Evidently 0.7.23, NannyML 0.13.1, feature_engine 1.9.4 and deepchecks 0.19.1 for `samples(kind)`.
PRINTED = [
    ("evidently.psi", "normal", 0.25916142471719533),
    ("evidently.kl_div", "normal", 0.09558498524786493),
    ("evidently.jensenshannon", "normal", 0.1624312228725362),
    ("evidently.hellinger", "normal", 0.17257065409735323),
    ("evidently.wasserstein", "normal", 0.39977537908148186),
    ("evidently.psi", "few values", 4.2261410060552125),
    ("evidently.kl_div", "few values", 1.9366520428196248),
    ("evidently.jensenshannon", "few values", 0.46110117175149307),
    ("evidently.hellinger", "few values", 0.42097196340533116),
    ("evidently.wasserstein", "few values", 1.2363666215413998),
    ("evidently.psi", "letters", 2.7191335852049425),
    ("evidently.kl_div", "letters", 0.720830739533498),
    ("evidently.jensenshannon", "letters", 0.3782283482063136),
    ("evidently.hellinger", "letters", 0.43954808241561094),
    ("nannyml.jensen_shannon", "normal", 0.19195517325901376),
    ("nannyml.hellinger", "normal", 0.1714275957303095),
    ("nannyml.wasserstein", "normal", 0.39459155517290223),
    ("nannyml.jensen_shannon", "large", 0.28136319097623086),
    ("nannyml.hellinger", "large", 0.24589436984590105),
    ("nannyml.wasserstein", "large", 0.6134428757869039),
    ("nannyml.jensen_shannon", "letters", 0.4542985446688875),
    ("nannyml.hellinger", "letters", 0.43954808241561083),
    ("nannyml.l_infinity", "letters", 0.265),
    ("feature_engine.psi", "normal", 0.16879612689752888),
    ("feature_engine.psi", "few values", 2.5221480161398317),
    ("feature_engine.psi", "letters", 2.719133585204942),
    ("deepchecks.psi", "letters", 1.1731921571940298),
    ("deepchecks.psi", "rare letters", 6.099400932575811),
    ("deepchecks.earth_movers_distance", "normal", 0.08480184724643693),
    ("deepchecks.earth_movers_distance", "lognormal", 0.026678755598342017),
]


@pytest.mark.parametrize(("preset", "kind", "printed"), PRINTED)
def test_numbers_the_tools_printed(preset, kind, printed):
    assert close(value(*samples(kind), preset), printed)


def test_great_expectations_table():
    """Cases of expect_column_kl_divergence_to_be_less_than.json."""
    fixed = np.array(["A"] * 540 + ["B"] * 320 + ["C"] * 140)
    assert close(value(np.array(list("ABC")), fixed, "great_expectations.kl_divergence"), 0.12599700286677529)
    assert value(fixed, fixed, "great_expectations.kl_divergence") == 0.0
    expected, observed = np.array(list("aaabb")), np.array(list("aabc"))
    for holdout, printed in ((0.1, 0.099431384003497381), (0.05, 0.23216776319077681), (0.0, np.inf)):
        ours = value(expected, observed, "great_expectations.kl_divergence", tail_weight_holdout=holdout)
        assert close(ours, printed)


def test_thresholds_decide_as_the_tools_do():
    reference, current = samples("normal")
    same = reproduce(reference, reference, "evidently.psi")["0"]
    moved = reproduce(reference, current, "evidently.psi")["0"]
    assert (same.value, same.threshold, same.drifted) == (0.0, 0.1, False)
    assert moved.threshold == 0.1 and moved.drifted == (moved.value >= 0.1)
    assert reproduce(reference, current, "frouros.psi")["0"].threshold is None
    assert reproduce(reference, current, "evidently.psi", threshold=moved.value)["0"].drifted
    assert not reproduce(reference, current, "feature_engine.psi", threshold=moved.value * 10)["0"].drifted


def test_evidently_fill_depends_on_the_smallest_share():
    """A share of 1e-4 or less makes the fill a millionth of it (reference values by hand)."""
    reference, current = np.array(["a"] * 20_000 + ["b"]), np.array(["a"] * 50 + ["c"] * 50)
    r = np.array([20_000 / 20_001, 1 / 20_001, 1 / 20_001 / 1e6])
    c = np.array([0.5, 1e-4, 0.5])
    assert close(value(reference, current, "evidently.psi"), ((r - c) * np.log(r / c)).sum())


def test_tables_and_options():
    reference, current = samples("normal")
    letters = samples("letters")
    size = min(len(current), len(letters[1]))
    ours = {"x": reference[:size], "y": letters[0][:size]}
    theirs = {"y": letters[1][:size], "x": current[:size]}
    results = reproduce(ours, theirs, "evidently.jensenshannon", num_threads=2)
    assert list(results) == ["x", "y"]
    assert results["x"].value == value(ours["x"], theirs["x"], "evidently.jensenshannon")
    assert results["y"].value == value(ours["y"], theirs["y"], "evidently.jensenshannon")
    with pytest.raises(ValueError, match=r"column 'y' is categorical, expected numbers for 'frouros.psi'"):
        reproduce(ours, theirs, "frouros.psi")
    with pytest.raises(ValueError, match=r"`preset` is 'evidently', expected one of evidently.psi, "):
        reproduce(ours, theirs, "evidently")
    with pytest.raises(ValueError, match="no column 'y' in both tables"):
        reproduce(ours, {"x": current}, "evidently.psi")
    with pytest.raises(ValueError, match="column '0' of `current` has no values"):
        reproduce(reference, np.full(3, np.nan), "evidently.psi")


def test_every_preset_runs_and_is_zero_or_finite_for_equal_columns():
    numbers, letters = samples("normal")[0], samples("letters")[0]
    for name, preset in PRESETS.items():
        column = letters if "numeric" not in preset.kinds else numbers
        assert value(column, column, name) == pytest.approx(0.0, abs=1e-12), name


# ------------------------------------------------------------------------------------------- with the tools


def tool(name):
    """A module of a tool; without it the test is skipped, except where all must be there (`make test-presets`)."""
    if os.environ.get("KULLBACK_ALL_TOOLS"):
        return importlib.import_module(name)
    return pytest.importorskip(name, exc_type=ImportError)


@pytest.fixture
def pandas():
    return tool("pandas")


@pytest.fixture
def quiet():
    """The tools' imports and calls warn of their own affairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.integration
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *itertools.product(["psi", "kl_div", "jensenshannon", "hellinger"], NUMBERS + LETTERS),
        *itertools.product(["wasserstein"], NUMBERS),
    ],
)
def test_evidently(quiet, pandas, kind, method):
    registry = tool("evidently.legacy.calculations.stattests.registry")
    core = tool("evidently.legacy.core")
    tool("evidently.legacy.calculations.stattests")  # fills the registry
    reference, current = samples(kind)
    feature = core.ColumnType.Categorical if kind in LETTERS else core.ColumnType.Numerical
    columns = pandas.Series(reference), pandas.Series(current)
    theirs = registry.get_stattest(*columns, feature, method)(*columns, feature, None)
    ours = reproduce(reference, current, f"evidently.{method}")["0"]
    assert close(ours.value, float(theirs.drift_score))
    assert ours.drifted == bool(theirs.drifted)
    assert ours.threshold == theirs.actual_threshold


@pytest.mark.integration
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *itertools.product(["jensen_shannon", "hellinger"], [*NUMBERS, "large", *LETTERS]),
        *itertools.product(["wasserstein"], [*NUMBERS, "large"]),
        *itertools.product(["l_infinity"], LETTERS),
    ],
)
def test_nannyml(quiet, pandas, kind, method):
    nannyml = tool("nannyml")
    reference, current = samples(kind)
    calculator = nannyml.UnivariateDriftCalculator(
        column_names=["x"], continuous_methods=[method], categorical_methods=[method], chunk_number=1
    )
    method_class = nannyml.drift.univariate.methods.MethodFactory.create(
        key=method,
        feature_type=nannyml.drift.univariate.methods.FeatureType("categorical" if kind in LETTERS else "continuous"),
        chunker=nannyml.chunk.DefaultChunker(),
        threshold=calculator.thresholds[method],
    )
    method_class.fit(pandas.Series(reference, name="x"))
    theirs = float(method_class.calculate(pandas.Series(current, name="x")))
    ours = reproduce(reference, current, f"nannyml.{method}")["0"]
    assert close(ours.value, theirs)
    assert close(ours.threshold, float(method_class.upper_threshold_value))
    assert ours.drifted == bool(method_class.alert(theirs))


@pytest.mark.integration
@pytest.mark.parametrize("kind", [*NUMBERS, *LETTERS])
@pytest.mark.parametrize("strategy", ["equal_frequency", "equal_width"])
@pytest.mark.parametrize("threshold", [0.25, "auto"])
def test_feature_engine(quiet, pandas, kind, strategy, threshold):
    selection = tool("feature_engine.selection")
    reference, current = samples(kind)
    x = np.concatenate([reference, current])
    frame = pandas.DataFrame({"x": x, "other": np.arange(len(x)), "side": [0] * len(reference) + [1] * len(current)})
    selector = selection.DropHighPSIFeatures(
        split_col="side", cut_off=0.5, variables=["x"], strategy=strategy, threshold=threshold
    )
    selector.fit(frame)
    ours = reproduce(reference, current, "feature_engine.psi", threshold=threshold, strategy=strategy)["0"]
    assert close(ours.value, float(selector.psi_values_["x"]))
    assert ours.drifted == ("x" in selector.features_to_drop_)


@pytest.mark.integration
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("PSI", "psi"),
        ("KL", "kl"),
        ("JS", "js"),
        ("HellingerDistance", "hellinger"),
        ("BhattacharyyaDistance", "bhattacharyya"),
        ("HINormalizedComplement", "hi_normalized_complement"),
        ("EMD", "emd"),
    ],
)
def test_frouros(quiet, kind, method, name):
    detectors = tool("frouros.detectors.data_drift")
    reference, current = samples(kind)
    detector = getattr(detectors, method)()
    detector.fit(X=reference)
    assert close(value(reference, current, f"frouros.{name}"), float(detector.compare(X=current)[0].distance))


@pytest.mark.integration
@pytest.mark.parametrize("kind", LETTERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"min_category_size_ratio": 0.01}, {"max_num_categories": 3}, {"max_num_categories": 2}],
)
def test_deepchecks_psi(quiet, kind, options):
    drift = tool("deepchecks.utils.distribution.drift")
    reference, current = samples(kind)
    assert close(value(reference, current, "deepchecks.psi", **options), drift.psi(reference, current, **options))


@pytest.mark.integration
@pytest.mark.parametrize("kind", NUMBERS)
def test_deepchecks_earth_movers_distance(quiet, kind):
    drift = tool("deepchecks.utils.distribution.drift")
    reference, current = samples(kind)
    theirs = drift.earth_movers_distance(reference, current, 0.025)
    assert close(value(reference, current, "deepchecks.earth_movers_distance"), theirs)
