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
}
HEAD = f"""# Accuracy

Worst relative error against long double (`tests/reference.py`, itself checked against 50-digit mpmath), over {ROWS}
rows of logits N(0, 3²) with V = {VOCAB:,} for each candidate row + noise · N(0, 1), noise from {NOISES[0]:g} to
{NOISES[-1]:g}: from nearly equal models to unrelated ones. Inputs are rounded to the dtype first, so the error is that
of the computation. Written by `make accuracy`; a test measures some of it again.

"""

BOUNDS = """## Bounds

What `make test-space` holds every function of rows and tokens to: rows of any size the dtype has, any structure,
totals, temperature, layout and number of threads, each case against long double. Errors are relative. Below that count

- 1e-30 nats of a divergence, times d² where the logs of the rows, as they are given, are up to d > 1 apart: float64
  rounds such a difference to 1e-16 of itself; 1e-14 times d of a distance and of total variation; 1e-15 times d of a
  log-ratio;
- 1e-15 of an entropy, a cross-entropy and a log-probability, where one outcome takes nearly all of a row;
- 1 nat in place of a normaliser that is smaller; in place of a derivative that is smaller the greatest one of its row,
  and the greatest of the terms that one is a difference of: P·(|ln P| + H) of an entropy, u·P of a token's
  log-probability, and P·|d| of a loss of two rows below float64, whose log-ratios d count up to 8;
- 1e-14 over the temperature of a derivative, times d as above of a loss of two rows. What is beyond the type of the
  gradient is an infinity, and so may be what is beyond it but for this;
- 1e-15/|α - 1| of a Rényi divergence whose order α is near 1;
- 1e-14 of an outcome's probability in what it contributes to KL (`kl_contributions`), times |ln P/Q| in a generalized
  term.

A result beyond the range of its type is inf of the right sign, never NaN; one within it is a number, though what it is
made of may lie beyond.

Integers, bool and long double are computed in float64.

"""


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
            options = PAIRS[name]
            got = getattr(kb, name)(p, q, *options.values(), given="logits")
            truth = getattr(reference, name)(p, q, *options.values())
        differ = truth != 0
        assert np.all(np.asarray(got)[~differ] == 0)
        if differ.any():
            worst = max(worst, float(np.max(np.abs(got - truth)[differ] / np.abs(truth[differ]))))
    return worst


def bounds():
    """The bounds that tests/space.py holds every function to."""
    lines = ["| function | float64 | other dtypes |", "|---|---|---|"]
    lines += [f"| `{name}` | {f.bound.float64:.0e} | {f.bound.float32:.0e} |" for name, f in sorted(FUNCTIONS.items())]
    return BOUNDS + "\n".join(lines) + "\n"


def page():
    lines = ["| function | " + " | ".join(DTYPES) + " |", "|---" * (len(DTYPES) + 1) + "|"]
    for name in (*PAIRS, *ONE_ROW):
        errors = " | ".join(f"{worst_error(name, dtype):.0e}" for dtype in DTYPES.values())
        lines.append(f"| `{name}` | {errors} |")
    return HEAD + "\n".join(lines) + "\n\n" + bounds()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
