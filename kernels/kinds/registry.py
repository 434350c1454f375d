"""The kinds by their numbers: if-chains over literal numbers, made of the files of this folder.

A file holds what is to be known of its kind; what it lacks is refused, in C by KULLBACK_ARGUMENT (checks.py):

    valid(space, weight, first, second)       whether it is defined for rows of that space and for those parameters
    value(pair, divergence, with_moment, facts)
                                              the divergence of one pair of rows; fills the state. NaN where a row is
                                              undefined or negative. What of it only gradients need: if `with_moment`
    gradient(pair, divergence, own_weight, side, value, own_moment, facts, target)
                                              own_weight times that along the logits of q, the state being known, for
                                              side 1; for side 0 the rows have been exchanged, and the divergence and
                                              own_moment, its moment, are those of before
    exchanged(weight, first, second)          the Divergence whose value on the exchanged rows fills the state for side
                                              0; where there is none, it is itself with 1 - weight, second and first
    valid_gradient(side, known, weight, first, second)
                                              where it is another than `valid`
"""

from importlib import import_module
from pathlib import Path

import numpy as np
from numba import types

from ..ladder import UNDEFINED
from ..lanes import kernel
from ..records import Divergence
from ..separate import separate
from ..status import LOGS
from . import KINDS

_FILES = {path.stem for path in Path(__file__).parent.glob("*.py")} - {"__init__", "registry"}
if set(KINDS) != _FILES:
    raise ImportError(f"kullback.h and the files of kernels/kinds differ in {sorted(_FILES ^ set(KINDS))}")
MODULES = {name: import_module(f".{name}", __package__) for name in KINDS}


def _chain(name, parameters, function, otherwise):
    """A kernel that calls `function(name, module)` of the kind with the parameters, or answers `otherwise`.

    The kind is that of the divergence among the parameters, or comes before them.

    One function with all branches: of functions that call each other in a chain Numba compiles each with all that
    follow in it.
    """
    own = {f"of_{name}": function(name, module) for name, module in MODULES.items()}
    own = {run: kernel for run, kernel in own.items() if kernel is not None}
    kind, before = ("divergence.kind", "") if "divergence" in parameters else ("kind", "kind, ")
    lines = [f"def {name}({before}{parameters}):"]
    for run in own:
        lines += [f"    if {kind} == {KINDS[run.removeprefix('of_')]}:", f"        return {run}({parameters})"]
    names = {"__name__": __name__, "UNDEFINED": UNDEFINED, "nan": np.nan, "Divergence": Divergence} | own
    exec("\n".join([*lines, *(f"    {line}" for line in otherwise.split("; "))]), names)
    return kernel(names[name])


def _own(function):
    return lambda name, module: getattr(module, function, None)


def _separate(function, result):
    """The same, each compiled when a row of its kind is first met."""
    return lambda name, module: separate(result)(getattr(module, function)) if hasattr(module, function) else None


def _gradient_check(name, module):
    if not hasattr(module, "gradient") or hasattr(module, "valid_gradient"):
        return getattr(module, "valid_gradient", None)
    valid = module.valid

    @kernel
    def valid_gradient(side, known, weight, first, second):
        return valid(LOGS, weight, first, second)

    return valid_gradient


def _exchange(name, module):
    number = KINDS[name]

    @kernel
    def exchanged(weight, first, second):
        return Divergence(number, 1.0 - weight, second, first)

    return getattr(module, "exchanged", exchanged)


# True for a kind that is defined for rows of this space and these parameters; of which a gradient can be asked
is_valid = _chain("is_valid", "space, weight, first, second", _own("valid"), "return False")
has_gradient = _chain("has_gradient", "side, known, weight, first, second", _gradient_check, "return False")
exchanged = _chain("exchanged", "weight, first, second", _exchange, "return Divergence(kind, weight, first, second)")
divergence_row = _chain(
    "divergence_row",
    "pair, divergence, with_moment, facts",
    _separate("value", types.float64),
    "facts.state.path = UNDEFINED; return nan",
)
gradient_row = _chain(
    "gradient_row",
    "pair, divergence, own_weight, side, value, own_moment, facts, target",
    _separate("gradient", types.none),
    "return",
)
