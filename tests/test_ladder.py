"""One ladder: whoever asks for the KL of a pair of rows has it from the same kernel (kernels/ladder.py)."""

import numpy as np
import pytest
import reference

import kullback as kb


def hard_rows():
    """Pairs that the fastest kernel cannot serve, a row of each sort: (name, given, p, q), float64."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 300))
    x[1] *= 40.0
    y = x + 0.1 * rng.normal(size=x.shape)
    gone = np.where(rng.random(x.shape) < 0.3, -np.inf, x)
    yield "a constant apart", "logits", x, x + 3e3 + 1e-6 * rng.normal(size=x.shape)
    yield "far apart", "logits", 9.0 * x, 9.0 * rng.normal(size=x.shape)
    yield "impossible under q", "logits", y, gone
    yield "of any size", "logits", 1e4 * x, 1e4 * y
    yield "one outcome", "logits", np.where(np.arange(300) == 7, 300.0, x), y
    p, q = np.exp(x / 8), np.exp(y / 8)
    yield "masses of any total", "probs", p, 1e3 * q
    yield "masses beside their greatest", "probs", np.where(np.arange(300) == 7, 3e30, p), q
    yield "masses next to nothing", "probs", 1e-36 * p, 1e-36 * q
    yield "masses that p alone has", "probs", p, np.where(gone == -np.inf, 0.0, q)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", [name for name, *_ in hard_rows()])
def test_kl_has_one_value(name, dtype):
    """Whoever is asked: kernels/ladder.py chooses what serves a pair of rows, once for all."""
    given, p, q = next(rest for other, *rest in hard_rows() if other == name)
    with np.errstate(over="ignore", under="ignore"):
        p, q = p.astype(dtype), q.astype(dtype)
    for temperature in (1.0, 1e-2) if given == "logits" else (1.0,):
        options = {"given": given, "temperature": temperature}
        forward = kb.kl_divergence(p, q, **options)
        reverse = kb.compare(p, q, **options).reverse_kl
        assert np.array_equal(kb.symmetric_kl_divergence(p, q, 1.0, **options), forward, equal_nan=True)
        assert np.array_equal(kb.symmetric_kl_divergence(p, q, 0.0, **options), reverse, equal_nan=True)
        assert np.array_equal(kb.cressie_read_divergence(p, q, 0.0, **options), 2 * forward, equal_nan=True)
        assert np.array_equal(kb.renyi_divergence(p, q, 1.0, **options), forward, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", [name for name, *_ in hard_rows()])
def test_acceptance_on_every_rung(name, dtype):
    """However a pair is served, what both have in common is right, and changes nothing else."""
    given, p, q = next(rest for other, *rest in hard_rows() if other == name)
    with np.errstate(over="ignore", under="ignore"):
        p, q = p.astype(dtype), q.astype(dtype)
    for temperature in (1.0, 1e-2) if given == "logits" else (1.0,):
        options = {"given": given, "temperature": temperature}
        c, without = kb.compare(p, q, **options), kb.compare(p, q, acceptance=False, **options)
        assert without.acceptance is None
        assert without.summary().acceptance.count == 0
        for field in ("kl", "reverse_kl", "entropy_p", "entropy_q", "top1_p", "top1_q"):
            np.testing.assert_array_equal(getattr(c, field), getattr(without, field))
        truth, variation = (getattr(reference, which)(p, q, **options) for which in ("acceptance", "total_variation"))
        bound = 1e-11 if dtype == "float64" else 1e-6
        defined = ~np.isnan(c.kl)
        with np.errstate(invalid="ignore"):  # what the bounds of distances are relative to, as in docs/accuracy.md
            size = np.abs(np.nan_to_num(p.astype(float) - q, nan=0, posinf=0, neginf=0)).max(-1) / temperature
        assert (np.isnan(c.acceptance) == ~defined).all()
        assert (np.abs(c.acceptance - truth) <= bound * truth + 1e-300)[defined].all()
        limit = 2 * bound * variation + 1e-14 * np.maximum(1, size)
        assert (np.abs(1 - c.acceptance - variation) <= limit)[defined].all()
