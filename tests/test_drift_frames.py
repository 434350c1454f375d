"""Drift of tables of other libraries, and what is refused."""

import numpy as np
import pytest
from test_drift import bits, mixed_table

from kullback import drift


def frames(name, table):
    """The same table in a data frame library."""
    module = pytest.importorskip({"pyarrow batch": "pyarrow"}.get(name, name))
    if name == "pandas":
        return module.DataFrame(table)
    if name == "polars":
        return module.DataFrame(table, strict=False, nan_to_null=True)
    if name == "pyarrow batch":
        return module.RecordBatch.from_pydict({k: module.array(v, from_pandas=True) for k, v in table.items()})
    return module.table({k: module.array(v, from_pandas=True) for k, v in table.items()})


@pytest.mark.integration
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "pyarrow batch"])
def test_data_frames_in(library):
    reference, current = mixed_table(1000, 1), mixed_table(900, 2, 0.4)
    plain = drift.fit(reference)
    plain.update(current)
    state = drift.fit(frames(library, reference))
    state.update(frames(library, current))
    assert bits(state) == bits(plain)
    assert state.report().missing_current[0] == np.isnan(current["normal"]).sum() > 0
    assert state.report().missing_current[3] == sum(v is None for v in current["letter"]) > 0


@pytest.mark.integration
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_data_frames_out(library):
    module = pytest.importorskip(library)
    report = drift.fit(mixed_table(100, 1)).report()
    table = report.to_table(library)
    assert isinstance(table, module.Table if library == "pyarrow" else module.DataFrame)
    assert list(table["column"].to_pylist() if library == "pyarrow" else table["column"]) == report.column.tolist()


@pytest.mark.integration
def test_categorical_nullable_and_integer_columns():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    values = ["a", "b", None, "a"]
    numbers = [1, None, 3, 4]
    expected = drift.fit({"c": np.array(values, dtype=object), "n": np.array([1, np.nan, 3, 4])})
    of_pandas = pandas.DataFrame({"c": pandas.Categorical(values), "n": pandas.array(numbers, dtype="Int64")})
    of_polars = polars.DataFrame({"c": polars.Series(values, dtype=polars.Categorical), "n": numbers})
    of_enum = of_polars.with_columns(polars.col("c").cast(polars.Enum(["a", "b"])))
    for table in (of_pandas, of_polars, of_enum):
        assert bits(drift.fit(table)) == bits(expected)
    with pytest.raises(TypeError, match=r"`reference` is a polars.*LazyFrame, expected a pandas, Polars or"):
        drift.fit(of_polars.lazy())
    with pytest.raises(TypeError, match="column 'd' has type Time"):
        drift.fit(polars.DataFrame({"d": [None]}, schema={"d": polars.Time}))


def test_masked_columns_are_refused():
    table = np.arange(6.0).reshape(3, 2)
    masked = np.ma.masked_array(table, np.eye(3, 2))
    state = drift.fit(table)
    for call, named in (
        (lambda: drift.fit(masked), "reference"),
        (lambda: drift.fit({"a": masked[:, 0]}), r"reference\['a'\]"),
        (lambda: state.update(masked), "batch"),
        (lambda: state.extend_reference({"0": table[:, 0], "1": masked[:, 1]}), r"batch\['1'\]"),
        (lambda: drift.reproduce(table, masked, "frouros.psi"), "current"),
    ):
        with pytest.raises(TypeError, match=f"`{named}` is a masked array"):
            call()


@pytest.mark.integration
def test_columns_of_pandas_have_any_names_but_not_twice():
    pandas = pytest.importorskip("pandas")
    table = np.arange(6.0).reshape(3, 2)
    by_number = drift.fit(pandas.DataFrame(table))
    for name, counts in drift.fit(table).reference.by_column.items():
        np.testing.assert_array_equal(by_number.reference.by_column[name], counts)
    for columns in (["a", "a"], ["1", 1]):
        with pytest.raises(ValueError, match="`reference` has two columns of the same name"):
            drift.fit(pandas.DataFrame(table, columns=columns))


def test_parameters_of_drift_are_checked():
    x = np.arange(40.0)
    text = np.array(["a", "b"] * 20)
    state = drift.fit(x)
    for error, call, named in (
        (ValueError, lambda: drift.reproduce(x, x, "feature_engine.psi", bins=-1), "`bins` is -1"),
        (ValueError, lambda: drift.reproduce(x, x, "frouros.psi", num_bins=2.5), "`num_bins` is 2.5"),
        (ValueError, lambda: drift.reproduce(x, x, "evidently.psi", threshold=np.nan), "`threshold` is nan"),
        (TypeError, lambda: drift.reproduce(x, x, "evidently.psi", threshold="x"), "`threshold` is 'x'"),
        (
            ValueError,
            lambda: drift.reproduce(text, text, "great_expectations.kl_divergence", tail_weight_holdout=-3),
            "`tail_weight_holdout` is -3",
        ),
        (TypeError, lambda: drift.reproduce(x, x, "evidently.psi", categorical="0"), "`categorical` is '0'"),
        (TypeError, lambda: drift.fit(x, categorical="0"), "`categorical` is '0'"),
        (TypeError, lambda: drift.fit(x, resolution=2.5), "`resolution` is 2.5"),
        (ValueError, lambda: state.report(smoothing="foo"), "`smoothing` is 'foo'"),
        (TypeError, lambda: drift.psi_threshold(100, 100, 2.5), "`bins` is 2.5"),
        (ValueError, lambda: drift.psi_threshold(np.nan, 100, 5), "`n_reference` is nan"),
        (ValueError, lambda: drift.psi_threshold(100, 100, 5, np.nan), "`p_value` is nan"),
    ):
        with pytest.raises(error, match=named):
            call()
