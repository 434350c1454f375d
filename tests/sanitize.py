"""Every C function with a page that may not be touched behind, then in front of, every row and every array.

    python tests/sanitize.py [--rounds N]

Calls are those of c_calls.py, over many vocabularies; each row has pages of its own, reached by row_offsets, and so has
every other array. Each instruction set that this processor has is tried, in a process that says before a call which one
it is: a fault names its call. Results must have the bits that the package computes from rows in one piece. Where
valgrind is installed, it looks at the kernels of the plainest instruction set for values that were never written.
Exits with 1 if anything was found.
"""

import argparse
import ctypes
import mmap
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import c_calls
import numpy as np
from c_calls import CALLS, ITEM, Buffer, run_here, written
from kullback.kernels import build, contract

from kullback._engine import native

ROOT = Path(__file__).parent.parent
PAGE = mmap.PAGESIZE
VOCABULARIES = (*range(1, 71), *(n + i for n in (1024, 2048, 4096) for i in (-9, -3, -1, 0, 1, 2, 7, 17)))
PLACES = ("behind", "in front")  # of every row: the page that may not be touched
MOST_FAULTS = 5  # of one function: then it is given up
_libc = ctypes.CDLL(None)
_C_TYPES = {"double": ctypes.c_double, "int64_t": ctypes.c_int64}


class Rooms:
    """Pages for one array each, between two that may not be touched; used again and again."""

    def __init__(self):
        self.free, self.used, self.maps = {}, [], []

    def place(self, data, where):
        """The address of a copy of `data`, hard against the page behind or in front of it."""
        pages = max(1, -(-len(data) // PAGE))
        start = self.free.get(pages, []).pop() if self.free.get(pages) else self.made(pages)
        self.used.append((pages, start))
        address = start if where == "in front" else start + pages * PAGE - len(data)
        ctypes.memmove(address, data, len(data))
        return address

    def made(self, pages):
        size = (pages + 2) * PAGE
        self.maps.append(mmap.mmap(-1, size))
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.maps[-1]))
        for guard in (start, start + size - PAGE):
            assert _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
        return start + PAGE

    def give_back(self):
        for pages, start in self.used:
            self.free.setdefault(pages, []).append(start)
        self.used.clear()


def place_rows(rooms, array, vocab, count, where):
    """A kullback_array whose rows lie in rooms of their own; the address of the structure."""
    _, _, row_stride, stride, storage = struct.unpack("=5q", array.data)
    if 0 not in array.pointers:
        return rooms.place(array.data, where)
    data, first = array.pointers[0]
    offsets = range(0, row_stride * count, row_stride) if row_stride else [0] * count
    if 1 in array.pointers:
        offsets = np.frombuffer(array.pointers[1][0].data, np.int64)
    item, lead = (1, 0) if stride == 1 else (ITEM[storage], 8 if storage == c_calls.AFFINE16 else 0)
    length = lead + (vocab - 1) * stride + item
    starts = [first + int(offset) - lead for offset in offsets]
    assert min(starts) >= 0 and max(starts) + length <= len(data.data), "a row of the call lies outside its buffer"
    places = [lead + rooms.place(data.data[start : start + length], where) for start in starts]
    row_offsets = rooms.place(np.subtract(places, places[0]).tobytes(), where)
    return rooms.place(struct.pack("=5q", places[0], row_offsets, 0, stride, storage), where)


def guarded(rooms, call, where):
    """(C arguments, [(address, buffer)] of the outputs) of a call, every row and array in a room of its own."""
    kinds = contract.functions()[call.function]
    names = parameter_names(call.function)
    size = next((name for name in ("vocab", "length") if name in names), None)
    vocab = call.arguments[names.index(size)] if size else 0
    arguments, outputs, placed = [], [], {}

    def lay(buffer):
        if buffer not in placed:
            data = bytearray(buffer.data)
            for word, (target, offset) in buffer.pointers.items():
                struct.pack_into("=q", data, 8 * word, lay(target) + offset)
            placed[buffer] = rooms.place(bytes(data), where)
            if buffer.dtype:
                outputs.append((placed[buffer], buffer))
        return placed[buffer]

    for argument, kind in zip(call.arguments, kinds, strict=True):
        if kind == "const kullback_array *" and isinstance(argument, Buffer):
            value = place_rows(rooms, argument, vocab, 12, where)
        elif isinstance(argument, Buffer):
            value = lay(argument)
        else:
            value = argument
        arguments.append(_C_TYPES.get(kind, ctypes.c_void_p)(value))
    return arguments, outputs


def parameter_names(function):
    text = contract.declarations()
    listed = text[text.index(f" {function}(") :].split("(", 1)[1].split(")", 1)[0]
    return [parameter.split()[-1].lstrip("*") for parameter in listed.split(",")]


def cases(function, rounds):
    """The calls of a function, every round over the vocabularies in another order."""
    for number in range(rounds):
        c_calls.VOCABULARIES = tuple(np.random.default_rng(number).permutation(VOCABULARIES).tolist())
        yield from CALLS[function]()


def same(array, other):
    return np.array_equal(array, other, equal_nan=array.dtype.kind == "f")


def try_calls(library, function, rounds, first, note):
    """The child: call after call, the number of each written to `note` before it; what differs on standard output."""
    entry = getattr(ctypes.CDLL(library), function)
    entry.restype = ctypes.c_int64
    rooms, wrong = Rooms(), 0
    with open(note, "r+b") as file:
        told = mmap.mmap(file.fileno(), 16)
        for number, call in enumerate(cases(function, rounds)):
            if number < first:
                continue
            status, expected = run_here(call)
            for place, where in enumerate(PLACES):
                told[:] = struct.pack("=2q", number, place)
                arguments, outputs = guarded(rooms, call, where)
                found = entry(*arguments)
                got = [np.frombuffer(ctypes.string_at(at, len(b.data)), b.dtype) for at, b in outputs]
                rooms.give_back()
                order = [buffer for _, buffer in outputs]
                wanted = {id(b): array for b, array in zip(call.outputs(), expected, strict=True)}
                if found != status or not all(same(a, wanted[id(b)]) for a, b in zip(got, order, strict=True)):
                    print(f"other bits, nothing {where}: {function}, {call.about}")
                    wrong += 1
        told[:] = struct.pack("=2q", number + 1, 0)
    return wrong


def supervised(library, function, rounds):
    """(calls made, complaints): children until one comes through."""
    complaints, first = [], 0
    with tempfile.NamedTemporaryFile() as note:
        note.write(bytes(16))
        note.flush()
        while True:
            command = [sys.executable, __file__, "--child", str(library), function, str(rounds), str(first), note.name]
            child = subprocess.run(command, capture_output=True, text=True)
            number, place = struct.unpack("=2q", Path(note.name).read_bytes())
            complaints += child.stdout.splitlines()
            if child.returncode >= 0:
                if child.returncode:
                    complaints.append(child.stderr.strip() or f"exit status {child.returncode}")
                return number, complaints
            about = next(call for i, call in enumerate(cases(function, rounds)) if i == number).about
            name = signal.Signals(-child.returncode).name
            complaints.append(f"{name}, nothing {PLACES[place]}: {function}, call {number}: {about}")
            first = number + 1
            if len(complaints) >= MOST_FAULTS:
                return number, complaints


def library_of(directory, target):
    """A library of one instruction set; None where this processor lacks it."""
    kernels = build.emit_objects(ROOT / "build" / "kernels")[target]
    shim, library = directory / f"{target}.c", directory / f"lib{target}.so"
    shim.write_text(build.shim_source({target: build.targets()[target]}))
    include = f"-I{native.get_include()}"
    subprocess.run(["cc", "-O1", "-g", "-shared", "-fPIC", include, shim, kernels, "-lm", "-o", library], check=True)
    return library if ctypes.CDLL(str(library)).kullback_supported() else None


def valgrind(directory, library):
    """What valgrind complains of in the calls of every function; None where it is not installed."""
    if not shutil.which("valgrind"):
        return None
    from test_c_library import compile_program

    program = compile_program(directory, library, f"-Wl,-rpath,{directory}", sanitizers=["-O1", "-g"])
    complaints = []
    for function, make in CALLS.items():
        (directory / "calls").write_bytes(written(list(make())[::5]))
        command = [
            "valgrind",
            "--quiet",
            "--error-exitcode=9",
            program,
            directory / "calls",
            directory / "answers",
            "here",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            complaints.append(f"valgrind, {function}: {done.stderr[:2000]}")
    return complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="times over all vocabularies")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        library, function, rounds, first, note = options.child
        return 1 if try_calls(library, function, int(rounds), int(first), note) else 0
    everything, last = [], None
    with tempfile.TemporaryDirectory() as name:
        for target in build.targets():
            library = library_of(Path(name), target)
            if library is None:
                print(f"{target}: this processor lacks it")
                continue
            last = library
            for function in CALLS:
                started = time.perf_counter()
                calls, complaints = supervised(library, function, options.rounds)
                print(f"{target} {function:29} {calls:6,} calls {time.perf_counter() - started:6.1f} s", flush=True)
                print(*complaints, sep="\n", end="\n" if complaints else "")
                everything += complaints
        found = valgrind(Path(name), last)
        print("valgrind is not installed" if found is None else f"valgrind: {len(found)} complaints")
        everything += found or []
        print(*(found or []), sep="\n", end="\n" if found else "")
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
