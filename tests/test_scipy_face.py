"""SciPy's own tests run against our functions; then the inputs SciPy gets wrong, and all pairs."""

import itertools
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest
import scipy
from scipy import special, stats
from scipy.spatial import distance

import kullback as kb
from kullback.integrations import scipy as ours
from kullback.rows.elementwise import _BLOCK
from kullback.rows.matrix import METRICS

RNG = np.random.default_rng


# ---------------------------------------------------------------------------------------- SciPy's own tests


PLUGIN = """
import pytest
from scipy import special, stats
from kullback.integrations import scipy as ours

@pytest.fixture(autouse=True)
def substituted(monkeypatch, request):
    for name in ("entr", "rel_entr", "kl_div"):
        monkeypatch.setattr(special, name, getattr(ours, name))
    monkeypatch.setattr(stats, "entropy", ours.entropy)
    if hasattr(request.module, "jensenshannon"):
        monkeypatch.setattr(request.module, "jensenshannon", ours.jensenshannon)
"""
SCIPY_TESTS = {
    "scipy.special.tests.test_basic": ["test_entr", "test_kl_div", "test_rel_entr", "test_rel_entr_gh_20710_near_zero",
                                       "test_rel_entr_gh_20710_overflow"],
    "scipy.stats.tests.test_entropy": ["TestEntropy"],
    "scipy.spatial.tests.test_distance": ["test_jensenshannon"],
}  # fmt: skip


# Its parametrised tests hold SciPy's function itself: ours takes its place, but for the reference without SciPy's
# decorator that the tests ask for by a keyword of their own.
AXES_PLUGIN = """
import functools
import pytest
from scipy import stats
import kullback as kb
from kullback.integrations import scipy as ours

THEIRS = stats.entropy

@functools.wraps(THEIRS)
def entropy(*arguments, _no_deco=False, **keywords):
    return THEIRS(*arguments, _no_deco=True, **keywords) if _no_deco else ours.entropy(*arguments, **keywords)

def pytest_collection_modifyitems(items):
    kept = []
    for item in items:
        if item.module.__name__.endswith("test_axis_nan_policy"):
            parameters = item.callspec.params if hasattr(item, "callspec") else {}
            if parameters.get("hypotest") is not THEIRS:
                continue
            parameters["hypotest"] = entropy
            item.module.empty_special_case_funcs.add(entropy)
            item.module.too_small_special_case_funcs.add(entropy)
        kept.append(item)
    items[:] = kept

@pytest.fixture(autouse=True)
def substituted(monkeypatch):
    for name in ("wasserstein_distance", "energy_distance"):
        monkeypatch.setattr(stats, name, getattr(kb, name))
"""
# of those, what we do otherwise, and why
DISAGREEMENTS = {
    "test_axis_nan_policy_fast and mixed-1-omit and 2-1-True": "equal to 4e-15 of SciPy's own sum of signed terms; "
    "ours, of terms that are not negative, differs from it by 4e-14 where it cancels",
    "test_axis_nan_policy_decorated_pickled": "of the substitute, which no module has; ours is pickled below",
    "TestWassersteinDistance and test_inf_values": "expects NumPy's warning of inf - inf; the values agree",
    "TestEnergyDistance and test_inf_values": "likewise",
}


def test_scipys_own_tests_of_axes_and_of_distances_pass(tmp_path):
    (tmp_path / "substitute.py").write_text(AXES_PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = "scipy.stats.tests.test_stats::"
    names = ["scipy.stats.tests.test_axis_nan_policy"]
    names += [tests + name for name in ("TestWassersteinDistance", "TestEnergyDistance", "TestCdfDistanceValidation")]
    others = " and ".join(f"not ({name})" for name in DISAGREEMENTS)
    options = ["-p", "substitute", "-p", "no:cacheprovider", "-q", "-k", others]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--pyargs", *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 55
    assert pickle.loads(pickle.dumps(ours.entropy)) is ours.entropy


def test_scipys_own_tests_pass(tmp_path):
    """With SciPy's own settings, in a process of its own, on our functions in the place of SciPy's."""
    (tmp_path / "substitute.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    names = [f"{module}::{name}" for module, tests in SCIPY_TESTS.items() for name in tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "substitute", "-p", "no:cacheprovider", "-q", "--pyargs", *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("name", ["ml", "ml-iris"])
def test_all_pairs_as_scipy_tabulates_them(name):
    """The distances SciPy's tests of pdist expect, from the files it ships with them."""
    data = Path(scipy.__file__).parent / "spatial" / "tests" / "data"
    points = np.loadtxt(data / ("iris.txt" if name == "ml-iris" else "pdist-double-inp.txt"))
    expected = np.loadtxt(data / f"pdist-jensenshannon-{name}.txt")
    found = kb.divergence_matrix(points, metric="js_distance")
    np.testing.assert_allclose(distance.squareform(found, checks=False), expected, rtol=1e-11)


# ------------------------------------------------------------------------------------- the same, element by element


HOSTILE = np.array([0.0, 0.5, 1.0, 3.0, 1e4, 1e-7, 6e4, np.inf, np.nan])
EXTREME = np.array([5e-324, 1e-308, 1e308, 1.1e308, 1e-160, 1e160])


@pytest.mark.parametrize("name", ["entr", "rel_entr", "kl_div"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
def test_elementwise_equals_scipy_on_hostile_values(name, dtype):
    values = HOSTILE[:-2] if dtype == np.int64 else HOSTILE
    values = np.concatenate([values, -values]).astype(dtype)
    arguments = (values,) if name == "entr" else (values[:, None], values)
    with np.errstate(all="ignore"):
        expected = getattr(special, name)(*arguments)
    found = getattr(ours, name)(*arguments)
    assert found.dtype == expected.dtype
    if name == "kl_div":  # SciPy's NaN for one infinite argument
        infinite = np.isposinf(values)
        lopsided = (infinite[:, None] ^ infinite) & (values[:, None] > 0) & (values > 0)
        np.testing.assert_array_equal(found[lopsided], np.inf)
        expected[lopsided] = np.inf
    rtol = 4e-7 if expected.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", ["rel_entr", "kl_div"])
def test_elementwise_at_the_ends_of_float64(name):
    """Where x/y overflows or vanishes SciPy's kl_div gives ±inf; the truth is finite."""
    values = np.concatenate([EXTREME, [0.5, 3.0]])
    with mpmath.workdps(60):
        pairs = [(mpmath.mpf(x), mpmath.mpf(y)) for x in values for y in values]
        more = [y - x if name == "kl_div" else 0 for x, y in pairs]
        truth = [float(x * mpmath.log(x / y) + z) for (x, y), z in zip(pairs, more, strict=True)]
    found = getattr(ours, name)(values[:, None], values)
    np.testing.assert_allclose(found.ravel(), truth, rtol=1e-13, atol=5e-324)


@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7, 1e-9, 1e-12])
def test_kl_div_keeps_its_digits_near_equality(step):
    x = RNG(0).uniform(0.1, 10, 50)
    y = x * (1 + step * RNG(1).uniform(0.5, 1, 50))
    with mpmath.workdps(60):
        truth = [
            float(a * mpmath.log(a / b) - a + b) for a, b in zip(map(mpmath.mpf, x), map(mpmath.mpf, y), strict=True)
        ]
    np.testing.assert_allclose(ours.kl_div(x, y), truth, rtol=1e-14)


def test_kl_div_of_equal_arguments_is_zero():
    x = RNG(0).lognormal(0, 50, 1000)
    np.testing.assert_array_equal(ours.kl_div(x, x), 0.0)


@pytest.mark.parametrize("shape", [(3 * _BLOCK + 7,), (5, _BLOCK + 1), (7, 1, 9001), (2, 3, 5, 7)])
def test_elementwise_over_blocks_layouts_and_threads(shape):
    x, y = RNG(0).uniform(0, 1, shape), RNG(1).uniform(0, 1, shape[-1:])
    expected = special.rel_entr(x, y)
    np.testing.assert_allclose(ours.rel_entr(x, y), expected, rtol=1e-13)
    backwards = x[..., ::-1]
    np.testing.assert_allclose(ours.rel_entr(backwards, y[::-1]), expected[..., ::-1], rtol=1e-13)
    out = np.empty(shape)
    assert kb.rel_entr(x, y, out, num_threads=3) is not None
    kb.rel_entr(x, y, out, num_threads=3)
    np.testing.assert_array_equal(out, kb.rel_entr(x, y, num_threads=1))


def test_elementwise_refuses():
    with pytest.raises(TypeError, match="`x` has dtype complex128, expected real numbers"):
        ours.entr(1j)
    with pytest.raises(ValueError, match=r"`y` has shape \(2,\), expected one that broadcasts with \(3,\)"):
        ours.rel_entr(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match=r"`out` has shape \(2,\), expected \(3,\)"):
        ours.entr(np.ones(3), np.empty(2))


# ------------------------------------------------------------------------------------------- entropy, jensenshannon


ROWS = [[], [0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0], [-1.0, 2.0], [3.0, 0.0], [1.0, 2.0], [0.0, 5.0]]


def quiet(function, *arguments, **keywords):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*arguments, **keywords)


@pytest.mark.parametrize(("p", "q"), [(p, q) for p, q in itertools.product(ROWS, ROWS) if len(p) == len(q)])
def test_edge_cases_equal_scipy(p, q):
    for base in (None, 2.0):
        np.testing.assert_allclose(ours.entropy(p, base=base), quiet(stats.entropy, p, base=base), rtol=1e-14)
        np.testing.assert_allclose(ours.entropy(p, q, base), quiet(stats.entropy, p, q, base), rtol=1e-14)
        expected = quiet(distance.jensenshannon, p, q, base)
        np.testing.assert_allclose(ours.jensenshannon(p, q, base), expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1, None, (0, 2)])
def test_axes_dtypes_and_shapes_equal_scipy(axis, keepdims, dtype):
    p, q = (RNG(seed).uniform(1, 50, (4, 3, 5)).astype(dtype) for seed in (0, 1))
    rtol = 1e-13 if dtype in (np.float64, np.int32) else 2e-5
    wide = [x.astype(np.float64) for x in (p, q)] if dtype == np.float16 else [p, q]  # SciPy adds up in float16
    keywords = {"axis": axis, "keepdims": keepdims}
    pairs = [
        (ours.entropy(p, **keywords), stats.entropy(wide[0], **keywords)),
        (ours.entropy(p, q, **keywords), stats.entropy(*wide, **keywords)),
    ]
    if isinstance(axis, int):
        pairs.append((ours.jensenshannon(p, q, **keywords), distance.jensenshannon(*wide, **keywords)))
    for found, expected in pairs:
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(found, expected, rtol=rtol)
        assert np.asarray(found).dtype == (np.float32 if dtype in (np.float32, np.float16) else np.float64)


@pytest.mark.parametrize("nan_policy", ["propagate", "omit"])
def test_nan_policies_equal_scipy(nan_policy):
    p = RNG(0).uniform(0, 1, (6, 5))
    q = RNG(1).uniform(0, 1, (6, 5))
    p[0, 1] = q[0, 2] = p[3] = np.nan
    for arguments in ((p,), (p, q)):
        found = ours.entropy(*arguments, axis=1, nan_policy=nan_policy)
        expected = quiet(stats.entropy, *arguments, axis=1, nan_policy=nan_policy)
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    with pytest.raises(ValueError, match="contains nan"):
        ours.entropy(p, nan_policy="raise")
    with pytest.raises(ValueError, match="`nan_policy` is 'ignore', expected"):
        ours.entropy(p, nan_policy="ignore")


def test_nearly_equal_rows_have_a_distance():
    """SciPy sums signed terms, so that the sum may come out negative and its root NaN (reported to it in 2024)."""
    rng = RNG(0)
    p = rng.dirichlet(np.ones(1000), 200)
    q = p * (1 + 1e-9 * rng.standard_normal(p.shape))
    found = ours.jensenshannon(p, q, axis=1)
    assert np.isnan(quiet(distance.jensenshannon, p, q, axis=1)).any()
    with mpmath.workdps(40):
        for row in (0, 1):
            a, b = ([mpmath.mpf(float(v)) for v in x[row]] for x in (p, q))
            a, b = ([v / sum(x) for v in x] for x in (a, b))
            terms = [
                u * mpmath.log(2 * u / (u + v)) + v * mpmath.log(2 * v / (u + v)) for u, v in zip(a, b, strict=True)
            ]
            np.testing.assert_allclose(found[row], float(mpmath.sqrt(sum(terms) / 2)), rtol=1e-7)


# ------------------------------------------------------------------------------------------------------- all pairs


@pytest.mark.parametrize("given", ["probs", "logits"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", METRICS)
def test_matrix_equals_the_function_of_rows(metric, dtype, given):
    rng = RNG(0)
    x = rng.dirichlet(np.full(257, 0.3), 70)
    x[3] = x[2] * (1 + 1e-7 * rng.standard_normal(257))  # a close pair
    x[5] = x[4]
    x[6], x[7] = np.eye(257)[3], np.eye(257)[9]  # disjoint
    x[8, ::2] = 0
    x[9] = 0 if given == "probs" else np.nan
    if given == "logits":
        with np.errstate(divide="ignore"):
            x = np.log(x)
    x = x.astype(dtype)
    y = x[::3]
    function, symmetric = METRICS[metric]
    expected = np.array([[function(a, b, given=given) for b in y] for a in x])
    found = kb.divergence_matrix(x, y, metric, given=given)
    # of float32 rows the functions round in float32 lanes
    np.testing.assert_allclose(found, expected, rtol=1e-12 if dtype == np.float64 else 1e-6, atol=1e-30)
    square = kb.divergence_matrix(x, metric=metric, given=given, num_threads=2)
    np.testing.assert_allclose(square[:, ::3], expected, rtol=1e-12 if dtype == np.float64 else 1e-6, atol=1e-30)
    if symmetric:
        np.testing.assert_array_equal(square, square.T)
    np.testing.assert_array_equal(np.delete(np.diag(square), 9), 0.0)
    np.testing.assert_array_equal(square, kb.divergence_matrix(x, metric=metric, given=given, num_threads=1))


def test_matrix_of_one_and_many():
    x = RNG(0).dirichlet(np.ones(6), 4)
    whole = kb.divergence_matrix(x, metric="js_distance", base=2)
    np.testing.assert_array_equal(kb.divergence_matrix(x[1], x, "js_distance", base=2), whole[1])
    np.testing.assert_array_equal(kb.divergence_matrix(x, x[1], "js_distance", base=2), whole[:, 1])
    np.testing.assert_allclose(whole[0, 1] ** 2, kb.jensen_shannon_divergence(x[0], x[1], base=2), rtol=1e-12)
    assert kb.divergence_matrix(np.empty((0, 6)), x).shape == (0, 4)
    assert kb.divergence_matrix(np.empty((0, 6)), x, "js_distance").shape == (0, 4)


def test_matrix_refuses():
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="`metric` is 'jensen_shannon', expected one of kl, "):
        kb.divergence_matrix(x, metric="jensen_shannon")
    with pytest.raises(ValueError, match="`base` is 2, expected None"):
        kb.divergence_matrix(x, metric="hellinger", base=2)
    with pytest.raises(ValueError, match=r"`y` has shape \(1, 2, 3\), expected \(N, V\) or \(V,\)"):
        kb.divergence_matrix(x, x[None])
    with pytest.raises(ValueError, match="expected"):
        kb.divergence_matrix(x, np.ones((2, 4)), "js_distance")
    with pytest.raises(ValueError, match="negative"):
        kb.divergence_matrix(-x, metric="js_distance")


def test_keepdims_is_a_flag():
    for wrong in ("no", 1, None):
        with pytest.raises(TypeError, match=r"`keepdims` is .*, expected True or False"):
            ours.entropy([0.5, 0.5], keepdims=wrong)
        with pytest.raises(TypeError, match=r"`keepdims` is .*, expected True or False"):
            ours.jensenshannon([1.0], [1.0], keepdims=wrong)
