"""Every function with a `base` refuses what is no base of a logarithm."""

import inspect
import math

import pytest
from misuse import Call
from misuse_arguments import public

WITH_BASE = [name for name, f in public().items() if "base" in inspect.signature(f).parameters]
WRONG = [(base, ValueError) for base in (1, 0, -2, math.nan, math.inf)] + [("2", TypeError), (True, TypeError)]


@pytest.mark.parametrize("name", [n for n in WITH_BASE if "Independent" not in n and "Transformed" not in n])
def test_no_base_of_a_logarithm(name):
    call = Call(0, name, 0, wrong=False)
    for base, kind in WRONG:
        with pytest.raises(kind, match="`base`"):
            call.make({**call.arguments, "base": base})
    call.make({**call.arguments, "base": 2})


def test_all_that_take_a_base_are_known():
    assert len(WITH_BASE) >= 20
