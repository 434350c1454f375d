"""Counts with labels meet by label if asked to, and never by position in silence."""

from collections import Counter

import numpy as np
import pytest

import kullback as kb

P, Q = Counter("aaabbbccd"), Counter("cbbbbbae")
ALIGNED = [3, 3, 2, 1, 0], [1, 5, 1, 0, 1]


def test_counters_are_aligned():
    found = kb.divergence_from_counts(P, Q, "js", align="union", smoothing="laplace")
    assert found.labels == ("a", "b", "c", "d", "e")
    assert found.value == kb.divergence_from_counts(*ALIGNED, "js", smoothing="laplace").value
    assert kb.divergence_from_counts(P, divergence="entropy", align="union").labels == ("a", "b", "c", "d")


def test_other_labels_are_refused_by_default():
    with pytest.raises(ValueError, match=r"`q_counts` has another index than `p_counts`.*align='union'"):
        kb.divergence_from_counts(P, Q)
    with pytest.raises(ValueError, match="has labels and the other none"):
        kb.divergence_from_counts(P, [1, 2, 3, 4])
    with pytest.raises(TypeError, match="`q_counts` is list, which has no labels to align by"):
        kb.divergence_from_counts(P, [1, 2, 3, 4], align="union")
    with pytest.raises(ValueError, match="`align` is 'outer', expected one of union, None"):
        kb.divergence_from_counts(P, Q, align="outer")
    with pytest.raises(TypeError, match="`p_counts` has dtype <U1"):
        kb.divergence_from_counts({"a": "x"}, {"a": 1}, align="union")
    assert kb.divergence_from_counts({"a": 3, "b": 1}, {"a": 3, "b": 1}).value == 0


def test_counts_of_any_type():
    expected = kb.divergence_from_counts([1.0, 2.0, 1.0], [2.0, 1.0, 1.0]).value
    bins = np.bincount([0, 1, 1, 2]), np.bincount([0, 0, 1, 2])
    assert kb.divergence_from_counts(*bins).value == expected
    for dtype in (np.uint8, np.int64, np.float32, np.float16):
        assert kb.divergence_from_counts(*(x.astype(dtype) for x in bins)).value == expected
    np.testing.assert_allclose(kb.kl_divergence(*bins), expected, rtol=1e-12)


@pytest.mark.integration
def test_value_counts_of_pandas_and_polars():
    import pandas as pd
    import polars as pl
    import torch

    p, q = "aaabbbccd", "cbbbbbae"
    expected = kb.divergence_from_counts(*ALIGNED, "js").value
    series = [pd.Series(list(x)).value_counts() for x in (p, q)]
    shares = [pd.Series(list(x)).value_counts(normalize=True) for x in (p, q)]
    frames = [pl.Series("x", list(x)).value_counts() for x in (p, q)]
    reset = [x.reset_index() for x in series]
    for pair in (series, shares, frames, reset, (series[0], frames[1])):
        np.testing.assert_allclose(kb.divergence_from_counts(*pair, "js", align="union").value, expected, rtol=1e-12)
        with pytest.raises(ValueError, match="`q_counts` has another index than `p_counts`"):
            kb.divergence_from_counts(*pair, "js")
    missing = (
        pd.Series([1.0, np.nan, 2.0]).value_counts(dropna=False),
        pd.Series([np.nan, 1.0]).value_counts(dropna=False),
    )
    assert len(kb.divergence_from_counts(*missing, "js", align="union").labels) == 3  # NaN is one label
    with pytest.raises(ValueError, match="a label twice"):
        kb.divergence_from_counts(pd.Series([1, 2], index=["a", "a"]), series[1], align="union")
    plain = [1, 2, 3], [2, 2, 3]
    whole = kb.divergence_from_counts(*plain).value
    for make in (torch.tensor, pl.Series, pd.Series):
        assert kb.divergence_from_counts(*map(make, plain)).value == whole
        np.testing.assert_allclose(kb.kl_divergence(*map(make, plain)), whole, rtol=1e-12)
    table = pd.crosstab(pd.Series(list("aabb")), pd.Series(list("xxyy")))
    np.testing.assert_allclose(kb.mutual_information(table), np.log(2), rtol=1e-15)
