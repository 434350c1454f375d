"""The package on inputs nobody thought of, against long double: `python tests/space.py --minutes 5`, `make test-space`.

Each case is a seed, a function and a number, and is drawn from these alone: dtype, magnitude, structure, width, totals,
temperature, layout, threads and keywords. It is called on plain arrays with one thread, whose results must be true, and
in the drawn layout on the drawn number of threads, whose results must have the same bits. What fails is named by its
case, so that `python tests/space.py --case SEED:NAME:NUMBER` shows it again, with fewer columns if it can.
"""

import argparse
import dataclasses
import itertools
import secrets
import sys
import time
import warnings
import zlib
from typing import NamedTuple

import ml_dtypes
import numpy as np
import space_functions
import space_gradients
import space_tokens
from space_inputs import draw, pick
from space_truth import Row

import kullback as kb

FUNCTIONS = space_functions.FUNCTIONS | space_gradients.FUNCTIONS | space_tokens.FUNCTIONS


class Case(NamedTuple):
    """One call, drawn from its name."""

    seed: int
    name: str
    number: int

    def __str__(self):
        return f"{self.seed}:{self.name}:{self.number}"

    def inputs(self):
        """(Function, Inputs, options) of this case."""
        function = FUNCTIONS[self.name]
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), self.number])
        inputs = draw(rng, pick(rng, function.given), function.count, function.most)
        inputs.style = pick(rng, ("plain", "plain", *function.styles))
        return function, inputs, function.options(rng, inputs)


def keywords_of(function, inputs):
    keywords = {}
    if function.takes_given:
        keywords["given"] = inputs.given
    if inputs.temperature != 1.0:
        keywords["temperature"] = inputs.temperature
    return keywords


def errors_of(got, claim, bound):
    """(worst error / bound, words of what is wrong or "")."""
    got = np.asarray(got)
    value = np.asarray(claim.value)
    if got.shape != value.shape:
        return np.inf, f"has shape {got.shape}, the truth {value.shape}"
    if claim.exact:
        wrong = (got != value) & claim.where
        return (np.inf, _words(got, value, wrong)) if wrong.any() else (0.0, "")
    most = np.longdouble(float(ml_dtypes.finfo(got.dtype).max))
    got = got.astype(np.float32) if got.dtype.name == "bfloat16" else got
    got = got.astype(np.longdouble)
    with np.errstate(invalid="ignore", over="ignore"):
        # beyond the range inf is right; about its end so is what is within the bound, on either side
        beyond = np.isinf(got) & (np.abs(value) > most * (1 - 1e-5)) & (np.sign(got) == np.sign(value))
        scale = np.abs(value) if claim.scale is None else np.abs(claim.scale)
        allowed = bound * np.where(np.isfinite(scale), scale, 0) + claim.slack
        # what is beyond the type is an infinity, that of a number within the bound too
        low, high = (_rounded_out(value + side * allowed, most) for side in (-1, 1))
        value = _rounded_out(value, most)
        greatest = _rounded_out(np.asarray(claim.greatest, np.longdouble), most)
        miss = np.abs(got - value)
        same = (got == value) | (np.isnan(got) & np.isnan(value))
        same |= np.isinf(got) & (low <= got) & (got <= high) | (np.isinf(value) & (low <= got) & (got <= high))
        right = (got >= claim.least) & (got <= greatest)
        same = same if claim.whole else right
        error = np.where(
            same | beyond | ~np.asarray(claim.where),
            0,
            np.where(np.isfinite(miss) & (allowed > 0), miss / np.where(allowed > 0, allowed, 1), np.inf),
        )
        outside = ((got < claim.least) | (got > greatest)) & claim.where
    worst = float(error.max(initial=0))
    if outside.any():
        return np.inf, _words(got, value, outside) + " is out of range"
    return worst, _words(got, value, error > 1) if worst > 1 else ""


def _rounded_out(value, most):
    return np.where(np.abs(value) > most, np.copysign(np.inf, value), value)


def _words(got, value, wrong):
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"at {at} is {got[at]:.20g}, truth {value[at]:.20g}"


def said_otherwise(function, inputs, options, keywords, plain):
    """The results of the same call in another style: they are those of the plain one."""
    arrays = inputs.plain
    if inputs.style == "axis":
        found = function.call([np.moveaxis(x, -1, 0) for x in arrays], options, keywords | {"axis": 0})
        return {name: np.moveaxis(x, 0, -1) if np.ndim(x) > 1 else x for name, x in found.items()}
    if inputs.style == "vocab_size":
        columns = arrays[0].shape[1]
        wide = [
            np.concatenate([x, np.full((len(x), 3), 1 if x.dtype.kind in "iub" else np.nan, x.dtype)], 1)
            for x in arrays
        ]
        found = function.call(wide, options, keywords | {"vocab_size": columns})
        return {name: x[:, :columns] if x.shape != plain[name].shape else x for name, x in found.items()}
    if inputs.style == "out":
        out = np.full((*plain["value"].shape, 2), np.nan, plain["value"].dtype)[..., 0]
        found = function.call(arrays, options, keywords | {"out": out})
        return found if found["value"] is out else {"value": np.array(np.nan)}
    return function.call(arrays, options, keywords | {"base": 2}) if inputs.style == "base" else plain


def _alike(got, plain, style="plain", name="", scale=None):
    if np.shape(got) != np.shape(plain) or got.dtype != plain.dtype:
        return False
    if style != "base" or plain.dtype.kind == "i":
        return bool(((got == plain) | ((got != got) & (plain != plain))).all())
    unit = np.sqrt(np.log(2)) if name == "jensen_shannon_distance" else np.log(2)
    with np.errstate(over="ignore"):
        expected = (plain / unit).astype(plain.dtype)  # in another unit a float32 may be beyond the range
    # below float64's normal numbers digits are lost; a distance is the root of such a number
    floor = 1e-150 if name == "jensen_shannon_distance" else 1e-300
    if scale is not None:  # terms that cancel are converted and rounded one by one
        floor = np.maximum(floor, 1e-15 * np.where(scale < 1e300, scale, 0).astype(float))
    with np.errstate(invalid="ignore"):
        close = np.abs(got - expected) <= (3e-7 if plain.dtype == np.float32 else 1e-15) * np.abs(expected) + floor
    return bool((close | (got == expected) | (np.isnan(got) & np.isnan(expected))).all())


def _apart(got, plain):
    """Words for where two results that should be one differ."""
    if np.shape(got) != np.shape(plain) or got.dtype != plain.dtype:
        return f"{got.dtype} {np.shape(got)} for {plain.dtype} {np.shape(plain)}"
    wrong = (got != plain) & ~((got != got) & (plain != plain))
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return f"at {at} {got[at]} for {plain[at]}"


def check(case, function, inputs, options):
    """[(quantity, error / bound, what is wrong or "")] of one case."""
    bound = function.bound.float64 if inputs.exact else function.bound.float32
    keywords = keywords_of(function, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            plain = function.call(inputs.plain, options, keywords | {"num_threads": 1})
            laid = function.call(inputs.laid, options, keywords | {"num_threads": inputs.threads})
            with np.errstate(over="ignore"):  # another unit may be beyond the range
                said = said_otherwise(function, inputs, options, keywords, plain)
        except ValueError as error:
            refused = function.refuses and any(Row(x, inputs.given).undefined.any() for x in inputs.plain)
            return [] if refused else [("call", np.inf, f"ValueError: {error}")]
        except Exception as error:
            return [("call", np.inf, f"{type(error).__name__}: {error}")]
    with np.errstate(all="ignore"):
        claims = function.truth(space_functions.truth_of(function, inputs), options)
    found = []
    for quantity, claim in claims.items():
        error, words = errors_of(plain[quantity], claim, bound)
        # rows above 2^18 are cut into parts, but for those that are converted on the way: other sums, other bits
        if (
            not words
            and function.bits
            and inputs.plain[0].shape[-1] <= 1 << 18
            and not _alike(laid[quantity], plain[quantity])
        ):
            error, words = np.inf, "laid out otherwise: " + _apart(laid[quantity], plain[quantity])
        scale = claim.scale if case.name == "sequence_log_ratios" else None
        style = "plain" if quantity in function.unitless else inputs.style
        if not words and function.bits and not _alike(said[quantity], plain[quantity], style, case.name, scale):
            error, words = np.inf, f"said with `{inputs.style}`: " + _apart(said[quantity], plain[quantity])
        found.append((quantity, error, words))
    return found


def shrunk(case):
    """(Function, Inputs, options) of a failing case with as few rows and columns as keep it failing."""
    function, inputs, options = case.inputs()

    def fails(rows, columns):
        small, kept = _part(inputs, options, rows, columns)
        return kept is not None and any(words for *_, words in check(case, function, small, kept))

    rows, columns = np.arange(inputs.plain[0].shape[0]), np.arange(inputs.plain[0].shape[1])
    for row in rows:
        if len(rows) > 1 and fails([row], columns):
            rows = np.array([row])
            break
    size = len(columns) // 2
    while size:
        start = 0
        while start < len(columns) and len(columns) > size:
            fewer = np.delete(columns, slice(start, start + size))
            if len(fewer) and fails(rows, fewer):
                columns = fewer
            else:
                start += size
            if len(columns) > 3000:
                break
        size //= 2
    return function, *_part(inputs, options, rows, columns)


def _part(inputs, options, rows, columns):
    plain = [np.ascontiguousarray(x[np.ix_(rows, columns)]) for x in inputs.plain]
    kept = dict(options)
    for name, value in options.items():
        if isinstance(value, np.ndarray) and value.dtype.kind != "i":  # of rows, or of elements
            kept[name] = value[rows] if value.shape != inputs.plain[0].shape else value[np.ix_(rows, columns)]
        elif isinstance(value, np.ndarray):
            at = np.searchsorted(columns, np.where(value < 0, columns[0], value))
            known = (at < len(columns)) & (
                columns[np.minimum(at, len(columns) - 1)] == np.where(value < 0, columns[0], value)
            )
            if not known[rows].all():
                return None, None
            kept[name] = np.where(value < 0, value, at)[rows]
    return dataclasses.replace(inputs, plain=plain, laid=plain), kept


class Table:
    """Inputs tried, worst error / bound and failures of each function."""

    def __init__(self):
        self.tried, self.worst, self.failures = {}, {}, {}

    def add(self, case, found):
        self.tried[case.name] = self.tried.get(case.name, 0) + 1
        for quantity, error, words in found:
            key = case.name, quantity
            self.worst[key] = max(self.worst.get(key, 0.0), 0.0 if words else error)
            if words:
                self.failures.setdefault(key, []).append((case, words))

    def __str__(self):
        lines = [f"{'function':42}{'inputs':>8}{'worst error / bound':>21}{'failures':>10}"]
        for (name, quantity), worst in self.worst.items():
            label = name if quantity == "value" else f"{name}.{quantity}"
            failures = len(self.failures.get((name, quantity), ()))
            lines.append(f"{label:42}{self.tried[name]:>8}{worst:>21.2g}{failures or '':>10}")
        return "\n".join(lines)


def run(seed, names, cases=None, seconds=None, given=None):
    """`cases` of each function, or as many as there is time for, by turns."""
    table, began = Table(), time.monotonic()
    for number in itertools.count() if cases is None else range(cases):
        for name in names:
            case = Case(seed, name, number)
            function, inputs, options = case.inputs()
            if given is None or given == inputs.given:
                table.add(case, check(case, function, inputs, options))
            if seconds is not None and time.monotonic() - began > seconds:
                return table
    return table


def explain(case):
    """One failing case in full, as small as it gets."""
    function, inputs, options = case.inputs()
    print(case, *inputs.words, f"given={inputs.given} T={inputs.temperature!r} {inputs.style} {options}")
    found = check(case, function, inputs, options)
    for quantity, error, words in found:
        print(f"  {quantity}: {error:.3g} of the bound {words}")
    if any(words for *_, words in found):
        function, small, kept = shrunk(case)
        print("smallest:", kept, keywords_of(function, small))
        for x in small.plain:  # printed exactly
            print(f"  {x.dtype} {x.astype(object).tolist() if x.size < 40 else x.shape}")
        for quantity, error, words in check(case, function, small, kept):
            print(f"  {quantity}: {error:.3g} of the bound {words}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="a fresh one by default")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--cases", type=int, help="of each function, instead of a time")
    parser.add_argument("--only", nargs="*", default=[], metavar="FUNCTION")
    parser.add_argument("--settled", action="store_true", help="only what tests/test_space.py asserts")
    parser.add_argument("--given", choices=["probs", "log_probs", "logits"], help="only of these")
    parser.add_argument("--case", nargs="*", default=[], metavar="SEED:NAME:NUMBER")
    parser.add_argument("--show", type=int, default=3, help="failures shown of each result")
    options = parser.parse_args()
    for text in options.case:
        seed, name, number = text.split(":")
        explain(Case(int(seed), name, int(number)))
    if options.case:
        return 0
    seed = secrets.randbelow(10**9) if options.seed is None else options.seed
    print(f"seed {seed}, {kb.get_engine()} engine", flush=True)
    unknown = set(options.only) - FUNCTIONS.keys()
    if unknown:
        parser.error(f"no such function: {', '.join(sorted(unknown))}")
    seconds = None if options.cases else options.seconds or 60 * options.minutes
    names = options.only or list(FUNCTIONS)
    if options.settled:
        from test_space import UNSETTLED  # which imports this file

        names = [name for name in names if name not in UNSETTLED]
    table = run(seed, names, options.cases, seconds, options.given)
    print(table)
    for (name, quantity), failures in table.failures.items():
        for case, words in failures[: options.show]:
            print(f"{name}.{quantity} {case}: {words}")
    return int(bool(table.failures))


if __name__ == "__main__":
    sys.exit(main())
