"""Rows of numbers nobody thought of: dtype, magnitude, structure, width, totals, layout, threads, all drawn.

`draw(rng, given)` gives an `Inputs`: one or two arrays, plain and as laid out, all of it from the generator alone.
"""

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from kullback.kernels.storage import FLOATS

NATIVE = {kind.name: np.dtype(kind.name if kind.numpy else getattr(ml_dtypes, kind.name)) for kind in FLOATS}
FLOAT8 = [kind.name for kind in FLOATS if kind.bytes == 1]
FINITE = {NATIVE[kind.name] for kind in FLOATS if not kind.infinities}  # in which -inf would be NaN
CONVERTED = ("int64", "int32", "uint8", "uint64", "bool", "longdouble")
RELATIONS = ("near", "offset", "astray", "apart", "equal", "permuted", "scaled", "one bit")
LAYOUTS = (
    "C",
    "rows apart",
    "columns apart",
    "reversed",
    "reversed rows",
    "Fortran",
    "unaligned",
    "read-only",
    "swapped",
)
LAYOUTS += ("still", "middle")
EDGES = (1024, 2048, 4096)
GREATEST = 262_208


def pick(rng, choices, shares=None):
    """One of the choices, weighted by shares."""
    shares = None if shares is None else np.array(shares, float) / sum(shares)
    return choices[int(rng.choice(len(choices), p=shares))]


def width(rng, most=GREATEST):
    """V: mostly small, every residue of 64, edges of blocks, now and then a whole vocabulary."""
    kind = rng.random()
    if kind < 0.72:
        v = int(rng.integers(1, 65))
    elif kind < 0.86:
        v = int(rng.integers(65, 600))
    elif kind < 0.97:
        v = int(pick(rng, EDGES) + rng.integers(-3, 4))
    elif kind < 0.995:
        v = int(rng.integers(4100, 40_000))
    else:
        v = int(pick(rng, (133_088, 151_936, 262_144, 262_208)) - rng.integers(0, 64))
    return max(1, min(v, most))


# ---- logs ----


def _log_values(rng, shape, unit):
    """Logits of some structure, in units of the temperature; float64."""
    rows, v = shape
    kind = pick(rng, ("normal", "uniform", "peaked", "two-level", "ties", "sorted", "wide"), (5, 1, 3, 1, 1, 1, 1))
    x = rng.standard_normal(shape) * 10 ** rng.uniform(-3, 1)
    if kind == "uniform":
        x = np.zeros(shape) + rng.standard_normal((rows, 1))
    elif kind == "peaked":
        x[np.arange(rows), rng.integers(0, v, rows)] += 10 ** rng.uniform(0.5, 2.9)
    elif kind == "two-level":
        x = np.where(rng.random(shape) < rng.random(), 0.0, -(10 ** rng.uniform(-6, 3)))
    elif kind == "ties":
        x = np.rint(x * 2)
    elif kind == "sorted":
        x = np.sort(x, -1)[:, :: 1 if rng.random() < 0.5 else -1]
    elif kind == "wide":
        x = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-20, 4, shape)
    return x * unit, kind


def _other_logs(rng, x, unit):
    """q's logits from p's."""
    shape = x.shape
    kind = pick(
        rng, ("near", "offset", "astray", "apart", "equal", "permuted", "scaled", "one bit"), (6, 3, 2, 3, 1, 1, 1, 1)
    )
    y = x.copy()
    noise = 10 ** rng.uniform(-12, 0.5)
    if kind in ("near", "offset", "astray"):
        y = x + unit * noise * rng.standard_normal(shape)
    if kind == "offset":
        y = y + unit * rng.choice([-1, 1]) * 10 ** rng.uniform(-2, 4)
    elif kind == "astray":
        away = unit * rng.choice([-1, 1]) * 10 ** rng.uniform(-1, 3)
        y[np.arange(len(y)), rng.integers(0, shape[1], len(y))] += away
    elif kind == "apart":
        y, _ = _log_values(rng, shape, unit)
    elif kind == "permuted":
        y = rng.permutation(x, axis=1)
    elif kind == "scaled":
        y = x * (1 + 10 ** rng.uniform(-10, 0))
    elif kind == "one bit":
        at = rng.integers(0, shape[1])
        y[:, at] = np.nextafter(y[:, at], np.inf)
    return y, kind


def _masked(rng, arrays, dtypes):
    """Banned outcomes: the same in all arrays or not, by one of the numbers people use."""
    shape = arrays[0].shape
    banned = rng.random(shape) < rng.uniform(0, 1)
    if rng.random() < 0.2:
        banned[:] = True
    banned[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = False
    mark = pick(rng, ("-inf", "-1e9", "finfo.min", "-65504", "-1e30"), (4, 1, 2, 1, 1))
    sides = pick(rng, ("both", "one", "apart"), (4, 1, 1))
    for side, (x, dtype) in enumerate(zip(arrays, dtypes, strict=True)):
        low = float(ml_dtypes.finfo(dtype).min)
        value = {"-inf": -np.inf, "finfo.min": low}.get(mark) or max(float(mark), low)
        if sides == "both" or side == 0:
            x[banned] = value
        elif sides == "apart":
            x[~banned] = value
    return f"masked by {mark} on {sides}"


def logs(rng, dtypes, shape):
    """(arrays of float64, temperature, words) for one or two arrays of logits."""
    with np.errstate(all="ignore"):
        return _logs(rng, dtypes, shape)


def _logs(rng, dtypes, shape):
    words = []
    widest = min(float(ml_dtypes.finfo(d).max) for d in dtypes)
    temperature = 1.0
    if rng.random() < 0.4:
        temperature = float(10 ** (rng.uniform(-2, 2) if rng.random() < 0.6 else rng.uniform(-300, 6)))
    # units of the temperature are where softmax is ordinary; any other unit is a flat or a greedy row
    unit = temperature if rng.random() < 0.7 else 1.0
    if rng.random() < 0.2:
        unit *= 10 ** rng.uniform(-30, 30)
    elif rng.random() < 0.06:
        unit = widest / 8 * 10 ** -rng.uniform(0, 2)
    elif rng.random() < 0.04:
        unit = float(ml_dtypes.finfo(dtypes[0]).smallest_subnormal) * 10 ** rng.uniform(0, 3)
    p, kind = _log_values(rng, shape, unit)
    words.append(kind)
    if rng.random() < 0.2:
        p += unit * 10 ** rng.uniform(0, 4) * rng.choice([-1, 1])
        words.append("offset of both")
    arrays = [p]
    if len(dtypes) == 2:
        q, kind = _other_logs(rng, p, unit)
        arrays.append(q)
        words.append(kind)
    for x, dtype in zip(arrays, dtypes, strict=True):
        np.clip(np.nan_to_num(x), float(ml_dtypes.finfo(dtype).min), float(ml_dtypes.finfo(dtype).max), out=x)
    if rng.random() < 0.25:
        words.append(_masked(rng, arrays, dtypes))
    return arrays, temperature, words


# ---- masses ----


def masses(rng, dtypes, shape):
    """(arrays of long double, words) for one or two arrays of masses."""
    words = []
    p, kind = _log_values(rng, shape, 1.0)
    words.append(kind)
    logs_of = [p]
    if len(dtypes) == 2:
        q, kind = _other_logs(rng, p, 1.0)
        logs_of.append(q)
        words.append(kind)
    sharp = 1 if rng.random() < 0.8 else 10 ** rng.uniform(-2, 1)
    arrays, total = [], np.longdouble(1)
    extreme = rng.random()
    for side, (x, dtype) in enumerate(zip(logs_of, dtypes, strict=True)):
        x = np.asarray(x, np.longdouble) * sharp
        x = np.exp(x - x.max(-1, keepdims=True))
        info = ml_dtypes.finfo(dtype)
        low, high = float(np.log10(float(info.smallest_subnormal))), float(np.log10(float(info.max)))
        if extreme < 0.5:  # totals alike, nearly alike, or apart
            totals = (
                np.longdouble(1) if side == 0 else pick(rng, (1, 1, 1 + 1e-12, 1 + 1e-7, 3, 10 ** rng.uniform(-3, 3)))
            )
            x = x / x.sum(-1, keepdims=True) * totals
        elif extreme < 0.75:
            x = x * np.longdouble(10) ** rng.uniform(max(low, -6), min(high, 6))
        elif extreme < 0.9 and side == 1:
            x = x * total
        else:
            total = np.longdouble(10) ** rng.uniform(low, high)
            x = x * total if rng.random() < 0.8 else x * np.longdouble(float(info.max))
        arrays.append(np.minimum(x, np.longdouble(float(info.max))))
    zeros = rng.random()
    if zeros < 0.25:
        gone = rng.random(shape) < rng.random()
        gone[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = False
        kind = pick(rng, ("both", "p", "q", "disjoint"))
        words.append(f"zeros on {kind}")
        for side, x in enumerate(arrays):
            if kind == "both" or ((kind == "p") == (side == 0) and kind != "disjoint"):
                x[gone] = 0
            elif kind == "disjoint":
                x[gone if side == 0 else ~gone] = 0
    return arrays, words


# ---- layouts ----


def _garbage(shape, dtype):
    """Memory that must not be read: NaN where the dtype has one."""
    full = np.zeros(shape, dtype)
    full[...] = np.nan if dtype.kind not in "iub" else 1
    return full


def laid_out(rng, x):
    """(an array of the same values in another layout, its name)."""
    rows, v = x.shape
    x = np.ascontiguousarray(x)
    kind = pick(rng, LAYOUTS, (6,) + (2,) * 2 + (1,) * (len(LAYOUTS) - 3))
    if kind == "rows apart":
        wide = _garbage((rows, v + 5), x.dtype)
        wide[:, :v] = x
        return wide[:, :v], kind
    if kind == "columns apart":
        wide = _garbage((rows, 3 * v), x.dtype)
        wide[:, 1::3] = x
        return wide[:, 1::3], kind
    if kind == "reversed":
        return np.ascontiguousarray(x[:, ::-1])[:, ::-1], kind
    if kind == "reversed rows":
        return np.ascontiguousarray(x[::-1])[::-1], kind
    if kind == "Fortran":
        return np.asfortranarray(x), kind
    if kind == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        raw[1:] = np.ascontiguousarray(x).view(np.uint8).ravel()
        return raw[1:].view(x.dtype).reshape(x.shape), kind
    if kind == "read-only":
        y = x.copy()
        y.flags.writeable = False
        return y, kind
    if kind == "swapped" and x.dtype.kind in "fiu" and x.dtype.itemsize in (2, 4, 8):
        return x.astype(x.dtype.newbyteorder()), kind
    if kind == "still" and rows > 1 and (x.view(np.uint8) == x[:1].view(np.uint8)).all():
        return np.broadcast_to(x[:1], x.shape), kind
    if kind == "middle":
        wide = _garbage((rows + 2, 2, v + 3), x.dtype)
        wide[1:-1, 1, 2 : v + 2] = x
        return wide[1:-1, 1, 2 : v + 2], kind
    return x, "C"


@dataclass
class Inputs:
    """One drawn case: `plain` arrays, the same `laid` out, and everything else a call needs."""

    given: str
    plain: list[Any]
    laid: list[Any]
    temperature: float
    threads: int
    words: list[str] = field(default_factory=list)
    style: str = "plain"  # how the call is said again

    @property
    def exact(self):
        """Whether all arithmetic is float64's."""
        return all(x.dtype.kind in "iub" or x.dtype in (np.float64, np.longdouble) for x in self.plain)


def draw(rng, given, count, most=GREATEST, converted=0.06, float8=0.12):
    """Inputs of `count` arrays for what takes `given`; `float8`: the share of those that hold it."""
    names = [name for name in NATIVE if name not in FLOAT8]
    first = pick(rng, names, (4, 4, 1, 2))
    second = first if rng.random() < 0.8 else pick(rng, names)
    apart = rng.spawn(1)[0]  # so that cases of other dtypes are those they were before there was float8
    if apart.random() < float8:
        first, second = pick(apart, FLOAT8), pick(apart, [*FLOAT8, "float64"])
        if count == 2 and apart.random() < 0.5:
            first, second = second, first
    dtypes = [NATIVE[first], NATIVE[second]][:count]
    v = width(rng, most)
    rows = 1 if v > 5000 else int(rng.integers(1, 4))
    if given == "probs":
        arrays, words = masses(rng, dtypes, (rows, v))
        temperature = 1.0
    else:
        arrays, temperature, words = logs(rng, dtypes, (rows, v))
    plain = []
    for x, dtype in zip(arrays, dtypes, strict=True):
        with np.errstate(over="ignore", under="ignore"):
            info = ml_dtypes.finfo(dtype)
            kept = np.isfinite(x) | (dtype in FINITE)
            bounded = np.where(kept, np.clip(x, float(info.min), float(info.max)), x)
            plain.append((bounded if dtype.isbuiltin == 1 else bounded.astype(np.float32)).astype(dtype))
    if rng.random() < 0.06:
        side, row = int(rng.integers(0, count)), int(rng.integers(0, rows))
        bad = pick(rng, (np.nan, np.inf, "empty"))
        if bad == "empty":
            plain[side][row] = 0 if given == "probs" else -np.inf
        else:
            plain[side][row, rng.integers(0, v)] = bad
        words.append(f"{bad} in a row")
    if rng.random() < converted:
        side, name = int(rng.integers(0, count)), pick(rng, CONVERTED)
        x = np.asarray(plain[side], np.longdouble)
        if name == "longdouble" or (given != "probs" and name.startswith(("u", "b"))):
            plain[side] = np.asarray(np.asarray(x, np.float64), np.longdouble)
        else:
            most_of = 1 if name == "bool" else 200 if name == "uint8" else 2**31 - 1 if name == "int32" else 2**53
            x = np.where(np.isfinite(x), x, 0)
            scale = np.abs(x).max() or 1
            x = np.rint(x / scale * pick(rng, (min(9, most_of), min(1000, most_of), most_of)))
            x[:, 0] += x.sum(-1) == 0
            plain[side] = np.clip(x, -most_of, most_of).astype(name)
    words.extend(str(x.dtype) for x in plain)
    laid = []
    for x in plain:
        y, kind = laid_out(rng, x)
        laid.append(y)
        words.append(kind)
    return Inputs(given, plain, laid, temperature, int(rng.integers(1, 4)), [f"V={v}", f"rows={rows}", *words])
