"""What is compared with what: storages, row functions and their references, Hypothesis strategies."""

import ml_dtypes
import numpy as np
import reference
from hypothesis import strategies as st
from kullback.kernels.storage import FLOATS

import kullback as kb

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# relative error every divergence keeps, by the arithmetic of its inputs
BOUNDS = {"float64": 1e-12, "float32": 1e-6}

STORAGES = (*[kind.name for kind in FLOATS], "affine")
OF_ML_DTYPES = {kind.name: np.dtype(getattr(ml_dtypes, kind.name)) for kind in FLOATS if not kind.numpy}

# name: (the package's function of p and q, the reference)
PAIR_FUNCTIONS = {
    "kl_divergence": (kb.kl_divergence, reference.kl_divergence),
    "cross_entropy": (kb.cross_entropy, reference.cross_entropy),
}
# name: (the package's function of one array, the reference)
ROW_FUNCTIONS = {
    "entropy": (kb.entropy, reference.entropy),
    "logsumexp": (kb.logsumexp, reference.logsumexp),
}


def affine_dtype(vocab):
    """A row of 16-bit codes with its own scale and minimum; rows are padded to an even number of codes."""
    return np.dtype([("scale", "<f4"), ("min", "<f4"), ("code", "<u2", (vocab,))])


def stored(x, storage):
    """The float64 array x in one of STORAGES; `reference.decode` gives the exact values back."""
    if storage in OF_ML_DTYPES:
        return x.astype(np.float32).astype(OF_ML_DTYPES[storage])
    if storage != "affine":
        return x.astype(storage)
    rows = np.zeros(x.shape[:-1], affine_dtype(x.shape[-1]))
    low, high = x.min(-1), x.max(-1)
    rows["min"] = low
    rows["scale"] = np.maximum(high - low, 1e-3) / 65535
    rows["code"] = np.rint((x - low[..., None]) / rows["scale"][..., None].astype(np.float64)).clip(0, 65535)
    return rows


def bound(*storages):
    """float64 inputs are computed in float64 throughout; any 32- or 16-bit input brings float32's bound."""
    return BOUNDS["float64"] if set(storages) == {"float64"} else BOUNDS["float32"]


def logit_rows(rows, vocab, noise=0.3, seed=0, spread=3.0):
    """(a, b): N(0, spread²) logits and the same with noise, float64."""
    rng = np.random.default_rng(seed)
    a = spread * rng.standard_normal((rows, vocab))
    return a, a + noise * rng.standard_normal((rows, vocab))


def error(name, got, truth):
    """Largest error of the named function; infinities and NaN must be the same in both.

    A divergence keeps its relative error however small it is, and is 0 where the truth is; below 1 nat the
    error of entropies and normalisers is absolute.
    """
    got, truth = np.asarray(got, np.longdouble), np.asarray(truth, np.longdouble)
    assert got.shape == truth.shape
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(got[~finite], truth[~finite])
    got, truth = got[finite], truth[finite]
    if "divergence" not in name:
        return float(np.max(np.abs(got - truth) / np.maximum(np.abs(truth), 1), initial=0))
    np.testing.assert_array_equal(got[truth == 0], 0)
    return float(np.max(np.abs(got / np.where(truth == 0, 1, truth) - (truth != 0)), initial=0))


def relative_error(got, truth):
    return error("divergence", got, truth)


@st.composite
def logits(draw, min_vocab=1, max_vocab=40, rows=1, low=-30.0, high=30.0, minus_infinity=False):
    """Rows of finite float64 logits of one width; with `minus_infinity` some are -inf, never all of a row."""
    vocab = draw(st.integers(min_vocab, max_vocab))
    values = st.floats(low, high, allow_nan=False, width=32)
    if minus_infinity:
        values = st.one_of(values, st.just(-np.inf))
    drawn = [draw(st.lists(values, min_size=vocab, max_size=vocab)) for _ in range(rows)]
    array = np.array(drawn, np.float64)
    array[np.isneginf(array).all(-1), 0] = 0.0
    return tuple(array)


@st.composite
def close_logits(draw, min_vocab=2, max_vocab=40):
    """Two rows apart by noise of a drawn size, 1e-7 to 10, and by a constant."""
    (a, noise) = draw(logits(min_vocab, max_vocab, rows=2, low=-8.0, high=8.0))
    size = 10.0 ** draw(st.floats(-7, 1))
    shift = draw(st.sampled_from([0.0, 0.0, -3.0, 5.0, 100.0]))
    return a, a + size * noise / 8 + shift


@st.composite
def made_up_models(draw):
    """(a, b): rows of up to 6000 outcomes as two models might give them, drawn from a seed, float64.

    Peaked or flat, close or far, apart by a constant, with banned tokens and with a few outcomes gone astray.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vocab = draw(st.sampled_from([1, 2, 5, 16, 100, 1000, 2047, 2049, 4500, 6000]))
    spread, noise = 10.0 ** draw(st.floats(-1, 1.5)), 10.0 ** draw(st.floats(-6, 1))
    shift = draw(st.sampled_from([0.0, 0.0, 1.0, -7.7, 50.0, 3000.0]))
    a = spread * rng.standard_normal(vocab)
    b = a + noise * rng.standard_normal(vocab) + shift
    for _ in range(draw(st.sampled_from([0, 0, 1, 5]))):
        b[rng.integers(vocab)] += 20 * rng.standard_normal()
    banned = rng.random(vocab) < draw(st.sampled_from([0.0, 0.0, 0.1, 0.9]))
    if not banned.all():
        a[banned] = b[banned] = -np.inf
    return a, b
