"""One case: make the inputs, check the result against long double, then time it beside its peers and the read roof.

All contestants of a case take turns, so whatever else the machine does meets all of them: a ratio comes from
measurements made within moments of each other.
"""

import gc
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np

from . import inputs as made, machine
from .operations import OPERATIONS, TOLERANCE
from .peers import SINGLE_THREADED

ROOF = "read"


class WrongResultError(AssertionError):
    """A result is not what it should be; its speed is of no interest."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    operation: str
    kind: str = "ordinary"
    dtype: str = "float32"
    rows: int = 256
    vocab: int = 131072
    threads: int = 1
    peers: tuple[str, ...] = ()  # of the operation's

    def alone(self):
        return replace(self, peers=())

    @property
    def name(self):
        unit = "thread" if self.threads == 1 else "threads"
        return f"{self.operation} {self.dtype} {self.kind} ({self.rows}, {self.vocab}) {self.threads} {unit}"


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    median: float
    least: float
    spread: float  # between the quartiles, as a share of the median
    samples: int


# ------------------------------------------------------------------------------------------------------- the check


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def relative_error(found, truth):
    """The greatest |found - truth|/|truth|; rows repeat those of the truth. inf for a wrong index, NaN or inf.

    Where a row of the result is an array (log_softmax, gradients), relative to the greatest in it.
    """
    found = np.asarray(found)
    worst = 0.0
    for start in range(0, len(found), len(truth)):
        part = found[start : start + len(truth)]
        expected = truth[: len(part)]
        if part.shape != expected.shape:
            return np.inf
        if expected.dtype.kind in "iu":
            worst = max(worst, 0.0 if np.array_equal(part, expected) else np.inf)
            continue
        part = part.astype(np.longdouble)
        same = (part == expected) | (np.isnan(part) & np.isnan(expected))
        with np.errstate(all="ignore"):
            scale = np.abs(expected) if expected.ndim == 1 else np.abs(expected).max(-1, keepdims=True)
            error = np.abs(part - expected) / scale
        error = np.where(same, 0.0, np.where(np.isfinite(part) & np.isfinite(expected), error, np.inf))
        worst = max(worst, float(error.max()))
    return worst


def verify(case, found, truth):
    """The worst relative error of all outputs; WrongResultError where it is beyond the operation's bound."""
    operation = OPERATIONS[case.operation]
    error = max(
        relative_error(f, t) if len(f) == case.rows else np.inf for f, t in zip(as_tuple(found), truth, strict=True)
    )
    bound = operation.tolerance.get(case.dtype, TOLERANCE[case.dtype])
    if not error <= bound:
        raise WrongResultError(f"{case.name}: relative error {error:.2g}, at most {bound:.0e} expected; not timed")
    return error


def peer_error(found, truth):
    """The worst relative error of a peer's first output; it is told, whatever it is."""
    return relative_error(np.asarray(as_tuple(found)[0], dtype=np.float64), truth[0])


# ------------------------------------------------------------------------------------------------------ the timing


PATIENCE = 2.0  # seconds


def timed(run):
    """(result, seconds) of one call."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def clock(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def in_turns(contestants, seconds, first, least_rounds=3, most_rounds=25):
    """{name: Timing}. Round after round in alternating order; who has used up `seconds` sits out further rounds.

    `first`: how long the first call of each took. Where that is longer than PATIENCE it counts as a sample, and one
    more is enough: nothing warms up in seconds of work.
    """
    calls = {name: max(1, int(2e-3 / max(first[name], 1e-7))) for name in contestants}
    samples = {name: [first[name]] if first[name] > PATIENCE else [] for name in contestants}
    order = list(contestants)
    gc.collect()
    gc.disable()
    try:
        for turn in range(most_rounds):
            for name in order if turn % 2 == 0 else reversed(order):
                done = samples[name]
                slow = first[name] > PATIENCE
                if turn < (1 if slow else least_rounds) or sum(done) * calls[name] < seconds:
                    time.sleep(1e-3)  # thread pools of torch spin a while after a call; not into our time
                    done.append(clock(contestants[name], calls[name]))
    finally:
        gc.enable()
    return {name: timing(done) for name, done in samples.items()}


def timing(samples):
    middle = statistics.median(samples)
    quarters = statistics.quantiles(samples, n=4) if len(samples) > 1 else [middle] * 3
    return Timing(middle, min(samples), (quarters[2] - quarters[0]) / middle, len(samples))


# --------------------------------------------------------------------------------------------------------- a case


def bytes_of(operation, inputs):
    """Bytes of all rows read once, and written where the operation writes rows."""
    return inputs.p.nbytes * (operation.arrays + operation.written)


@lru_cache(maxsize=8)
def truth_of(operation, kind, dtype, rows, vocab):
    """What the operation should give for one of each of the different rows; for "ragged" for all."""
    inputs = made.make(kind, dtype, rows, vocab)
    return as_tuple(OPERATIONS[operation].truth(made.reference(), inputs.head() if inputs.distinct else inputs))


def prepare(case):
    """(inputs, our call, the truth)."""
    what = (case.kind, case.dtype, case.rows, case.vocab)
    inputs = made.make(*what)
    return inputs, lambda: OPERATIONS[case.operation].ours(inputs, case.threads), truth_of(case.operation, *what)


def measure(case, seconds=0.5):
    """A row of results, as plain data."""
    operation = OPERATIONS[case.operation]
    inputs, ours, truth = prepare(case)
    error = verify(case, ours(), truth)
    arrays = (inputs.p, inputs.q)[: operation.arrays]
    contestants = {"ours": ours}
    if inputs.p.nbytes > 1 << 20:
        contestants[ROOF] = lambda: machine.read(arrays, case.threads)
        contestants[ROOF]()
    first = {name: timed(run)[1] for name, run in contestants.items()}
    errors, absent = {}, {}
    for name in case.peers:
        try:
            run = operation.peers[name](inputs, case.threads)
        except ImportError as missing:
            absent[name] = str(missing)
            continue
        found, first[name] = timed(run)
        if first[name] < PATIENCE or "compile" in name or "jit" in name:  # that call compiled
            found, first[name] = timed(run)
        errors[name], contestants[name] = peer_error(found, truth), run
    timings = in_turns(contestants, seconds, first)
    mine, size = timings["ours"], bytes_of(operation, inputs)
    elements = inputs.p.size
    row = {
        **asdict(case),
        "name": case.name,
        "seconds": asdict(mine),
        "error": error,
        "gb_per_s": size / mine.median / 1e9,
        "elements_per_s": elements / mine.median,
        "peers": {
            name: {
                "seconds": asdict(timings[name]),
                "error": errors[name],
                "threads": 1 if name in SINGLE_THREADED else case.threads,
                "ratio": timings[name].median / mine.median,
                "ratio_of_least": timings[name].least / mine.least,
            }
            for name in errors
        },
        "absent": absent,
    }
    if ROOF in timings:
        roof = sum(x.nbytes for x in arrays) / timings[ROOF].least / 1e9
        row["read_gb_per_s"] = roof
    return row
