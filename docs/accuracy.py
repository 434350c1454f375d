"""Measures the worst relative error of every divergence against long double and writes docs/accuracy.md."""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from kullback.kernels.storage import FLOATS

import kullback as kb

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import reference  # noqa: E402
from space import FUNCTIONS  # noqa: E402
from space_words import STATED  # noqa: E402
from test_space import UNSETTLED  # noqa: E402

PAGE = ROOT / "docs" / "accuracy.md"
VOCAB, ROWS = 32_000, 4
NOISES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 3.0)
DTYPES = {kind.name: np.dtype(kind.name if kind.numpy else getattr(ml_dtypes, kind.name)) for kind in FLOATS}
ONE_ROW = ("entropy", "logsumexp")
PAIRS = {
    "kl_divergence": {},
    "cross_entropy": {},
    "jensen_shannon_divergence": {},
    "jensen_shannon_distance": {},
    "renyi_divergence": {"alpha": 0.5},
    "total_variation": {},
    "hellinger_distance": {},
    "chi2_divergence": {},
    "cressie_read_divergence": {"lambda_": 2 / 3},
    "itakura_saito_divergence": {},
}
HEAD = f"""# Accuracy

Worst relative error against long double (`tests/reference.py`, itself checked against 50-digit mpmath), over {ROWS}
rows of logits N(0, 3²) with V = {VOCAB:,} for each candidate row + noise · N(0, 1), noise from {NOISES[0]:g} to
{NOISES[-1]:g}: from nearly equal models to unrelated ones; masses exp(logits/3) of functions that take masses alone.
Inputs are rounded to the dtype first, so the error is that of the computation. Written by `make accuracy`; a test
measures some of it again.

"""

BOUNDS = """## Bounds

What `make test-space` holds every function of rows and tokens to: rows of any size the dtype has, any structure,
totals, temperature T, layout and number of threads, each case against long double. A result r̂ of truth r is right where

    |r̂ - r| ≤ bound · (what it is relative to) + what is added

P and Q are the normalised rows; d is the greatest |ln q/p| of the two as they are given, at least 1, at most a million:
float64 rounds such a difference to 1e-16 of itself. A result beyond the range of its type is inf of the right sign,
never NaN; one within it is a number, though what it is made of may lie beyond. Integers, bool and long double are
computed in float64.

"""

MISSED = "A few of a thousand such inputs still miss them in"


def rows(dtype):
    """Pairs of (ROWS, VOCAB) logits of that dtype, one pair a noise."""
    rng = np.random.default_rng(0)
    base = 3 * rng.standard_normal((ROWS, VOCAB))
    for noise in NOISES:
        yield base.astype(dtype), (base + noise * rng.standard_normal(base.shape)).astype(dtype)


def worst_error(name, dtype):
    """Greatest |got - truth| / |truth| over all rows; rows made identical by rounding must give exactly 0."""
    worst = 0.0
    for p, q in rows(dtype):
        if name in ONE_ROW:
            options = {} if name == "logsumexp" else {"given": "logits"}
            got, truth = getattr(kb, name)(q, **options), getattr(reference, name)(q)
        else:
            options, given = PAIRS[name], "logits"
            if name in kb.FAMILY and "logits" not in kb.FAMILY[name].given:
                given, (p, q) = "probs", (np.exp(x.astype(np.float64) / 3).astype(dtype) for x in (p, q))
            got = getattr(kb, name)(p, q, *options.values(), given=given)
            truth = getattr(reference, name)(p, q, *options.values(), given=given)
        differ = truth != 0
        assert np.all(np.asarray(got)[~differ] == 0)
        if differ.any():
            worst = max(worst, float(np.max(np.abs(got - truth)[differ] / np.abs(truth[differ]))))
    return worst


def bounds():
    """The bounds that tests/space.py holds every function to."""
    lines = ["| function | float64 | other dtypes | relative to | added |", "|---|---|---|---|---|"]
    for name, function in sorted(FUNCTIONS.items()):
        of, added = STATED[name]
        lines.append(f"| `{name}` | {function.bound.float64:.0e} | {function.bound.float32:.0e} | {of} | {added} |")
    named = ", ".join(f"`{name}`" for name in UNSETTLED)
    missed = f"{MISSED} {named}." if UNSETTLED else "No input is known that misses them."
    return BOUNDS + "\n".join(lines) + f"\n\n{missed}\n"


def page():
    lines = ["| function | " + " | ".join(DTYPES) + " |", "|---" * (len(DTYPES) + 1) + "|"]
    for name in (*PAIRS, *ONE_ROW):
        errors = " | ".join(f"{worst_error(name, dtype):.0e}" for dtype in DTYPES.values())
        lines.append(f"| `{name}` | {errors} |")
    return HEAD + "\n".join(lines) + "\n\n" + bounds()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
