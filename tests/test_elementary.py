"""The lanes' own exp2, φ and log against long double: the bounds their docstrings state."""

import math

import numpy as np
import pytest

pytest.importorskip("numba")  # the functions exist for Numba alone; their compiled form is judged through every kernel

from kullback.kernels import elementary, lanes, memory


def over(function, x, like):
    """Apply a lanes function to every element of x (whole registers) in the type of `like`."""
    from numba import njit

    width = 16 if isinstance(like, np.float32) else 8
    kind = np.float32 if width == 16 else np.float64

    @njit
    def run(source, target, n):
        a, b = memory.pointer_like(source, memory.stack(1, like)), memory.pointer_like(target, memory.stack(1, like))
        for i in range(0, n, width):
            memory.store(b, i, function(memory.load(a, i, like)))

    x = np.resize(np.asarray(x, kind), -(-len(x) // width) * width)
    out = np.empty_like(x)
    run(x.ctypes.data, out.ctypes.data, len(x))
    return x.astype(np.longdouble), out.astype(np.longdouble)


def relative(got, truth):
    return float(np.max(np.abs(got / truth - 1)))


def phi(y):
    """exp(y) - 1 - y: a Taylor series where the subtraction would cost digits."""
    series = sum(y**n / np.longdouble(math.factorial(n)) for n in range(2, 20))
    return np.where(np.abs(y) < 1, series, np.expm1(y) - y)


SINGLE, DOUBLE = np.float32(0), 0.0
TYPES = pytest.mark.parametrize(("like", "bound"), [(SINGLE, 1e-7), (DOUBLE, 3e-16)], ids=["float32", "float64"])


@TYPES
def test_exp2(like, bound):
    x, got = over(elementary.exp2, np.linspace(-120, 120, 20_000), like)
    assert relative(got, np.exp2(x)) < bound
    whole, exact = over(elementary.exp2, np.arange(-126.0, 127.0), like)
    np.testing.assert_array_equal(exact, np.exp2(whole))


@TYPES
def test_phi_near_zero(like, bound):
    y = np.concatenate([np.linspace(-0.35, 0.35, 20_001), np.logspace(-12, -1, 999), -np.logspace(-12, -1, 1000)])
    y, got = over(elementary.phi_near_zero, y[y != 0], like)
    assert relative(got, phi(y)) < 3 * bound


@TYPES
def test_phi_near_one(like, bound):
    y = np.concatenate([np.linspace(-2, 2, 20_001), np.logspace(-12, 0, 999), -np.logspace(-12, 0, 1000)])
    y, got = over(elementary.phi_near_one, y[y != 0], like)
    assert relative(got, phi(y)) < 8 * bound
    assert relative(got[y > -1], phi(y[y > -1])) < 3 * bound


@TYPES
def test_phi_and_exp(like, bound):
    y = np.linspace(-40, 40, 20_000)
    x, got = over(PHI, y, like)
    assert relative(got, phi(x)) < 12 * bound
    x, got = over(EXP, y, like)
    assert relative(got, np.exp(x)) < 12 * bound


@TYPES
def test_log(like, bound):
    least = 1e-44 if isinstance(like, np.float32) else 1e-320
    x = np.concatenate(
        [np.geomspace(least, 1e38, 20_000), 1 + np.linspace(-1e-3, 1e-3, 2001), np.linspace(0.5, 2, 2000)]
    )
    x, got = over(elementary.log, x[np.asarray(x, type(like)) != 1], like)
    assert relative(got, np.log(x)) < 3 * bound


@TYPES
@pytest.mark.parametrize("anchor", [-19.0, -3.0, -0.1, 0.0, 0.4, 2.0, 7.0, 19.5])
def test_tanh_rise(like, bound, anchor):
    """(tanh a - tanh b)/(1 - tanh b) for a and b = anchor from -20 to 20 times what `scale` is after rounding."""
    from numba import njit

    kind = type(like)
    scale = float(kind(2 / np.log(2)))
    anchor = float(kind(anchor))
    n = np.rint(anchor * scale)
    slope, floor = float(kind(scale * np.log(2))), 2.0**-n

    @njit
    def rise(x):
        origin = lanes.number(x, "round") - lanes.splat(n, like)
        b, s = lanes.splat(anchor, like), lanes.splat(slope, like)
        c, f = lanes.splat(scale, like), lanes.splat(floor, like)
        return elementary.tanh_rise(x, b, s, c, origin, elementary.scaled_exp2(b, c, origin), f)

    a = np.concatenate([np.linspace(-20, 20, 20_000), anchor + np.linspace(-0.4, 0.4, 2001)])
    a = a.astype(kind)
    x, got = over(rise, a[(np.abs(a) <= 20) & (a != anchor)], like)
    unit = np.longdouble(scale) * np.log(np.longdouble(2)) / 2
    x, b = unit * x, unit * np.longdouble(anchor)
    # tanh a - tanh b = sinh(a - b)/(cosh a·cosh b) and 1 - tanh b = exp(-b)/cosh b
    truth = np.sinh(x - b) / np.cosh(x) * np.exp(b)
    assert relative(got, truth) < 8 * bound


def _compiled_choices():
    from numba import njit

    @njit
    def phi_alone(y):
        return elementary.phi_and_exp(y)[0]

    @njit
    def exp_alone(y):
        return elementary.phi_and_exp(y)[1]

    return phi_alone, exp_alone


PHI, EXP = _compiled_choices()
