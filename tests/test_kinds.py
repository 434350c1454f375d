"""The registry of kinds: each file is known to C, the tests, a public function and a loss; nothing else is."""

import kinds
import numpy as np
import pytest
from c_arguments import with_argument
from c_calls import LOGS, MASSES, divergence_calls, divergence_gradient_calls, run_here
from kullback.kernels.kinds import KINDS

import kullback as kb
from kullback._engine import calls

ARGUMENT = 4


def test_every_kind_is_tested():
    assert list(kinds.KINDS) == list(KINDS)
    assert list(KINDS.values()) == list(range(len(KINDS)))


def test_every_kind_has_its_file():
    from kullback.kernels.kinds import registry

    for name, module in registry.MODULES.items():
        kind = kinds.KINDS[name]
        assert hasattr(module, "value") == hasattr(module, "valid") == bool(kind.given), name
        assert hasattr(module, "gradient") == kind.gradient, name


def test_every_kind_has_a_public_function(monkeypatch):
    asked = set()
    divergence = calls.divergence

    def noted(pair, space, k, kind, *rest, **keywords):
        asked.add(kind)
        return divergence(pair, space, k, kind, *rest, **keywords)

    monkeypatch.setattr(calls, "divergence", noted)
    for member in kb.FAMILY.values():
        for parameters in member.samples:
            member.function([0.3, 0.7], [0.6, 0.4], **({"given": "probs"} | parameters))
    assert asked == {name for name, kind in kinds.KINDS.items() if kind.given}


def test_every_gradient_has_a_loss():
    losses = kb.DISTILLATION_LOSSES.values()
    asked = {loss.kernel(x).kind for loss in losses for x in (loss.default, 0.5)}
    assert asked | {"cross_entropy"} == {name for name, kind in kinds.KINDS.items() if kind.gradient}


def asked(call, **arguments):
    for name, value in arguments.items():
        call = with_argument(call, name, value)
    return run_here(call)[0]


@pytest.mark.parametrize("call", [divergence_calls, divergence_gradient_calls], ids=lambda call: call.__name__)
def test_other_kinds_are_refused(call):
    call = next(call())
    for number in (-1, len(KINDS), 99, 2**62, -(2**63)):
        assert asked(call, kind=number) == ARGUMENT


@pytest.mark.parametrize("name", KINDS)
def test_parameters_and_spaces_outside_the_range_of_a_kind_are_refused(name):
    kind = kinds.KINDS[name]
    for of, spaces in ((divergence_calls, kind.given), (divergence_gradient_calls, ("logits",) * kind.gradient)):
        for given, number in {"logits": LOGS, "probs": MASSES}.items():
            if of is divergence_gradient_calls and given == "probs":
                continue
            call = next(call for call in of() if of is divergence_gradient_calls or call.arguments[4] == number)
            for setting in (*kind.refused, *kind.taken):
                found = asked(call, kind=KINDS[name], **dict(zip(("weight", "first", "second"), setting, strict=True)))
                good = given in spaces and setting in kind.taken
                assert found == (0 if good else ARGUMENT), (of.__name__, given, setting)


@pytest.mark.parametrize("name", [name for name, kind in kinds.KINDS.items() if kind.given])
def test_it_says_nothing_of_rows_that_are_undefined(name):
    for setting in kinds.KINDS[name].settings:
        for given in kinds.KINDS[name].given:
            pair = calls.batch(("p", np.array([[0.5, 0.5], [np.nan, 0.5]])), ("q", np.array([[0.5, 0.5], [0.5, 0.5]])))
            space = LOGS if given == "logits" else MASSES
            found = calls.divergence(pair, space, 1.0, name, setting.parameters, None)
            assert found[0] == 0.0 and np.isnan(found[1])
