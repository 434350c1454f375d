"""One word for a divergence everywhere, and types that know the names that tables have."""

import inspect
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

import kullback as kb
from kullback._engine import keywords
from kullback._engine.names import DIVERGENCES, LOSSES
from kullback.distillation import losses, reduction
from kullback.drift import presets, report
from kullback.evaluation.sources import base, convert
from kullback.rlhf import aggregation, estimators
from kullback.rows import family, matrix
from kullback.samples import counts, shares
from kullback.tokens import log_probs, statistics

P, Q = np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.3, 0.4])


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (keywords.Given, keywords._SPACES),
        (presets.PresetName, presets.PRESETS),
        (matrix.Metric, matrix.METRICS),
        (family.Generator, family._GENERATORS),
        (counts.CountDivergence, shares.DIVERGENCES),
        (losses.LossName, losses.DISTILLATION_LOSSES),
        (reduction.Reduction, reduction.REDUCTIONS),
        (aggregation.AggregationMode, aggregation.AGGREGATION_MODES),
        (estimators.EstimatorPreset, estimators.ESTIMATOR_PRESETS),
        (estimators.EstimatorKind, [kind + plus for plus in ("", "+") for kind in estimators._ESTIMATORS]),
    ],
    ids=lambda x: None,
)
def test_types_list_what_tables_have(literal, table):
    assert sorted(get_args(literal)) == sorted(table)


@pytest.mark.parametrize(
    "table", [matrix.METRICS, family._GENERATORS, shares.DIVERGENCES, report.METRICS, losses.DISTILLATION_LOSSES]
)
def test_a_divergence_has_one_name(table):
    assert set(table) <= DIVERGENCES.keys() | LOSSES.keys()


def test_names_mean_the_same_everywhere():
    of_rows = {name: function(P, Q) for name, (function, _) in matrix.METRICS.items()}
    for name in family._GENERATORS.keys() & of_rows.keys():
        assert kb.f_divergence(P, Q, name) == pytest.approx(of_rows[name], rel=1e-12), name
    for name in shares.DIVERGENCES.keys() & of_rows.keys():
        assert shares.evaluate(name, P, Q) == pytest.approx(of_rows[name], rel=1e-12), name
    for name in losses.DISTILLATION_LOSSES.keys() & of_rows.keys() - {"symmetric_kl"}:
        loss = kb.distillation_loss(np.log(Q), np.log(P), name).loss
        assert loss == pytest.approx(of_rows[name], rel=1e-12), name


def test_a_distance_has_a_name_of_its_own():
    assert of_root("js_distance") == pytest.approx(shares.evaluate("js", P, Q))
    assert of_root("hellinger") == pytest.approx(kb.f_divergence(P, Q, "squared_hellinger"))


def of_root(name):
    return float(kb.divergence_matrix(P, Q, name)) ** 2


OPTIONS = [
    (base.ReaderOptions, kb.open_logits, set()),
    (convert.OtherOptions, kb.open_logits, {"dtype"}),
    (log_probs.LogProbOptions, kb.token_log_probs, set()),
    (statistics.EntropyOptions, kb.entropy, {"given"}),
]


@pytest.mark.parametrize(("options", "function", "others"), OPTIONS, ids=lambda x: getattr(x, "__name__", ""))
def test_options_that_are_handed_on_are_those_of_the_function(options, function, others):
    parameters = inspect.signature(function).parameters.values()
    own = {parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY}
    assert get_type_hints(options).keys() == own - others


@pytest.mark.parametrize("module", [kb, kb.rlhf, kb.distillation, kb.closed_form, kb.samples, kb.drift])
def test_no_public_function_returns_anything(module):
    functions = [getattr(module, name) for name in module.__all__]
    for function in filter(inspect.isfunction, functions):
        assert inspect.signature(function).return_annotation not in (Any, "Any", inspect.Parameter.empty), function
