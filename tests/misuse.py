"""Random misuse of every public function: `python tests/misuse.py --calls 10000` (part of `make nightly`).

A call is drawn from a seed, the function's name and a number: right arguments, of which one, two or three are replaced
by wrong ones. What comes out must be an error of a documented type or a right answer, which is that of the same call on
plain copies of its arrays. Calls are made in a process of their own that says which one it is at, so that a crash or a
call without end is caught with its case, and the rest goes on.
"""

import argparse
import contextlib
import copy
import dataclasses
import inspect
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
from misuse_arguments import (
    ANYTHING,
    ARRAYS,
    FILES,
    METHODS,
    NUMBERS,
    OPTIONAL,
    OVERRIDES,
    RIGHT,
    WORK,
    LyingArray,
    Mine,
    public,
    rows,
)

import kullback as kb

NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # floats that NumPy takes for bytes

DOCUMENTED = (ValueError, TypeError, Mine)
# keywords of which most functions read a number, some nothing at all
NUMBERS_OF = ("rng", "confidence", "alpha", "nan_policy", "family_p", "family_q")
OUTPUTS = ("out", "student_out", "teacher_out")
PATIENCE = 60  # seconds a call may take on a busy machine
MEMORY = 8 << 30  # of address space: who asks for more gets a MemoryError


def names():
    return [*public(), *METHODS]


class Call:
    """One call, drawn from its name."""

    def __init__(self, seed, name, number, wrong=True):
        """All right with `wrong` False."""
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        self.case = f"{seed}:{name}:{number}"
        self.name = name
        self.function = METHODS[name](rng) if name in METHODS else public()[name]
        short = name.split(".")[-1]
        own = OVERRIDES.get(short if not name.startswith("scipy.") else "", {})
        taken = inspect.signature(self.function).parameters.values()
        parameters = [p for p in taken if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self.arguments, self.wrong = {}, []
        for p in parameters:
            right = own.get(p.name) or RIGHT.get(p.name)
            if p.default is p.empty or p.name in own:
                self.arguments[p.name] = right(rng) if right else None
            elif wrong and p.name in OPTIONAL and rng.random() < 0.1:
                self.arguments[p.name] = OPTIONAL[p.name](rng)
            elif p.name == "rng":
                self.arguments["rng"] = 0
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        known = [p.name for p in parameters]
        if not wrong:
            return
        for name_of in rng.permutation(known)[: int(rng.choice([1, 1, 1, 2, 2, 3]))]:
            self.wrong.append(str(name_of))
            self.arguments[str(name_of)] = self._wrong(rng, str(name_of))
        if rng.random() < 0.02:
            self.arguments["nonsense"] = 1
        if rng.random() < 0.02 and self.arguments:
            self.arguments.pop(next(iter(self.arguments)))

    def _wrong(self, rng, name):
        kind = rng.random()
        if name in OUTPUTS and kind < 0.5:
            return self._out(rng)
        if kind < 0.3:
            return ANYTHING[rng.integers(len(ANYTHING))](rng)
        if kind < 0.55:
            fitting = [n for n in NUMBERS if not (name in WORK and isinstance(n, (int, np.integer)) and n > 1000)]
            fitting = [n for n in fitting if not (name in WORK and isinstance(n, float) and n > 1000)]
            return fitting[rng.integers(len(fitting))]
        return ARRAYS[rng.integers(len(ARRAYS))](rng)

    def _out(self, rng):
        """Arrays for a result: right ones, and such as overlap an argument."""
        inputs = [x for x in self.arguments.values() if type(x) is np.ndarray and x.ndim == 2 and x.size]
        if inputs and rng.random() < 0.6:
            x = inputs[rng.integers(len(inputs))]
            return (x, x[::-1], x.T, x[:, 0], x[:, ::-1], x.ravel()[: len(x)])[rng.integers(6)]
        return (np.empty(3), np.empty((3, 5)), np.empty((3, 5), "f4"), np.empty(6)[::2], np.empty((5, 3)).T)[
            rng.integers(5)
        ]

    def __str__(self):
        return f"{self.case} {self.name}({', '.join(f'{k}={_short(v)}' for k, v in self.arguments.items())})"

    def make(self, arguments):
        positional = [arguments[name] for name in self.positional if name in arguments]
        return self.function(*positional, **{k: v for k, v in arguments.items() if k not in self.positional})


def _short(x):
    if isinstance(x, np.ndarray) and not isinstance(x, LyingArray):
        return f"<{type(x).__name__} {x.dtype} {x.shape}{'' if x.flags.writeable else ' read-only'}>"
    text = repr(x) if not isinstance(x, int) or abs(x) < 10**30 else "a huge int"
    return text if len(text) < 60 else text[:57] + "..."


def _plain(x):
    """The same values in memory of their own."""
    if isinstance(x, np.ndarray):
        x = x.view(np.ndarray) if isinstance(x, LyingArray) else np.asarray(x)
        return np.array(x, dtype=x.dtype.newbyteorder("=") if x.dtype.kind in "fiu" else x.dtype, order="C", copy=True)
    return copy.copy(x) if isinstance(x, type(iter([]))) else x  # which reading uses up


def numbers_in(x):
    """The numbers of a result, whatever it is."""
    if isinstance(x, (int, float, np.number, np.bool_)):
        return [np.asarray(x)]
    if isinstance(x, np.ndarray):
        return [x] if x.dtype.kind in "fiub" or x.dtype.name in NARROW else []
    if isinstance(x, (tuple, list)):
        return [n for part in x for n in numbers_in(part)]
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return [n for f in dataclasses.fields(x) for n in numbers_in(getattr(x, f.name))]
    return []


def same(got, expected):
    """Whether two results are one, to the rounding of float32 lanes, or to that of a narrower `out` that was given."""
    a, b = numbers_in(got), numbers_in(expected)
    if len(a) != len(b):
        return False
    with np.errstate(all="ignore"):
        return all(
            x.shape == y.shape and np.allclose(x.astype(float), y.astype(float), *_rounding(x), equal_nan=True)
            for x, y in zip(a, b, strict=True)
        )


def _rounding(x):
    """Relative and absolute: of narrow types what one rounding takes, of their subnormal numbers one step."""
    if x.dtype.itemsize > 2 or x.dtype.kind in "iub":
        return 2e-6, 1e-12
    info = ml_dtypes.finfo(x.dtype)
    return float(info.eps), float(info.smallest_subnormal)


def outcome(call):
    """ "refused", "answered", or what is wrong."""
    before = {name: _plain(x) for name, x in call.arguments.items()}
    allowed = DOCUMENTED + ((OSError, ImportError) if call.name in FILES else ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "with .* neighbours are .* width away")  # an answer with a caution
        try:
            got = call.make(call.arguments)
        except allowed as error:
            wrong = isinstance(error, UnicodeError) or not str(error)
            return f"{type(error).__name__} without a word" if wrong else "refused"
        except BaseException as error:  # whatever else comes out is the finding
            return f"{type(error).__name__}: {str(error)[:150]}"
    taken = [name for name, x in call.arguments.items() if isinstance(x, np.ma.MaskedArray) and name not in NUMBERS_OF]
    if taken and got is not None:
        return f"`{taken[0]}`, a masked array, was taken"
    if any(isinstance(before.get(name), np.ndarray) for name in call.wrong) and call.name not in (*METHODS, *FILES):
        return _differs(call, got, before)
    return "answered"


def _differs(call, got, before):
    plain = {name: x for name, x in before.items() if name not in OUTPUTS}
    kept = [np.array(n) for n in numbers_in(got)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            expected = call.make(plain)
        except DOCUMENTED as error:
            return f"answered, but with plain copies {type(error).__name__}: {str(error)[:120]}"
    return (
        "answered"
        if same(kept, numbers_in(expected))
        else f"{str(got)[:60]} for {str(expected)[:60]} with plain copies"
    )


# ---- the process that makes the calls ----


def save_rows():
    """The files that right arguments name."""
    rng = np.random.default_rng(0)
    np.save("rows.npy", rows(rng))
    np.save("other.npy", rows(rng))
    kb.drift.fit({"a": rng.normal(size=50)}).save("state.json")


def work():
    """Makes the calls named on standard input, one line each, and answers each on the first descriptor."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    tasks = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    save_rows()
    for task in tasks:
        seed, name, first, last = json.loads(task)
        for number in range(first, last):
            call = Call(seed, name, number)
            words = str(call)
            print(json.dumps([name, number, words]), file=answers, flush=True)
            print(json.dumps([name, number, outcome(call), words]), file=answers, flush=True)
        print(json.dumps([name, last]), file=answers, flush=True)


class Worker:
    """A process that makes calls, and another one when it dies."""

    def __init__(self, folder):
        self.folder = folder
        self.start()

    def start(self):
        program = [sys.executable, str(Path(__file__).resolve()), "--work"]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self.process = subprocess.Popen(
            program, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.read = b""

    def line(self):
        """The next answer, or what ended the process."""
        end = time.monotonic() + PATIENCE
        while b"\n" not in self.read:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))
            piece = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                self.process.kill() if not ready else None
                code = self.process.wait()
                self.errors.seek(0)
                last = self.errors.read()[-300:].decode(errors="replace").strip().replace("\n", " | ")
                return "no end" if not ready else f"the process ended with {code}: {last}"
            self.read += piece
        line, _, self.read = self.read.partition(b"\n")
        return json.loads(line)

    def calls(self, seed, name, count):
        """[(number, outcome, words)] of one function."""
        found, first = [], 0
        while first < count:
            self.process.stdin.write(json.dumps([seed, name, first, count]).encode() + b"\n")
            at, words = first, f"{seed}:{name}:{first}"
            while True:
                answer = self.line()
                if isinstance(answer, str):
                    found.append((at, answer, words))
                    self.stop()
                    self.start()
                    first = at + 1
                    break
                at = answer[1]
                if len(answer) == 3:
                    words = answer[2]
                elif len(answer) == 4:
                    found.append(tuple(answer[1:]))
                elif at == count:
                    return found
        return found

    def stop(self):
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(OSError):
                stream.close()
        self.process.wait()


def run(seed, count, only=()):
    """{name: [(number, outcome, words)]} of `count` calls of each function."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(folder)
        found = {name: worker.calls(seed, name, count) for name in only or names()}
        worker.stop()
    return found


def table(found):
    lines = [f"{'function':40}{'calls':>8}{'refused':>9}{'answered':>10}{'wrong':>7}"]
    total = [0, 0, 0, 0]
    for name, calls in found.items():
        told = [outcome for _, outcome, _ in calls]
        counts = [len(told), told.count("refused"), told.count("answered")]
        counts.append(counts[0] - counts[1] - counts[2])
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(f"{name:40}{counts[0]:>8}{counts[1]:>9}{counts[2]:>10}{counts[3] or '':>7}")
    lines.append(f"{'all':40}{total[0]:>8}{total[1]:>9}{total[2]:>10}{total[3]:>7}")
    return "\n".join(lines)


def failures(found):
    told = ((words, outcome) for calls in found.values() for _, outcome, words in calls)
    return [(words, outcome) for words, outcome in told if outcome not in ("refused", "answered")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="of each function")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="FUNCTION")
    parser.add_argument("--case", metavar="SEED:NAME:NUMBER", help="make one call here and show what comes out")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work()
    if options.case:
        seed, name, number = options.case.split(":")
        call = Call(int(seed), name, int(number))
        print(call)
        print(call.make(call.arguments))
        return 0
    print(f"seed {options.seed}, {kb.get_engine()} engine", flush=True)
    found = run(options.seed, options.calls, options.only)
    print(table(found))
    shown = {}
    for words, what in failures(found):
        key = words.split(":")[1], what[:25]
        shown[key] = shown.get(key, 0) + 1
        if shown[key] <= 3:
            print(f"{what}\n    {words}")
    return int(bool(failures(found)))


if __name__ == "__main__":
    sys.exit(main())
