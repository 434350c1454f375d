"""Calls of the functions of kullback.h, described once: for a C program between guard pages, and for this process."""

import re
import struct
from dataclasses import dataclass, field
from itertools import cycle

import kinds
import ml_dtypes
import numpy as np
from kullback.kernels import contract
from kullback.kernels.kinds import KINDS
from kullback.kernels.storage import (
    AFFINE16,
    BFLOAT16,
    FLOAT8_E4M3FN,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    STORAGES as STORED_KINDS,
)

from kullback._engine import engine

STORAGES = range(len(STORED_KINDS))
ITEM = [kind.bytes for kind in STORED_KINDS]
STORED = {kind.tag: getattr(ml_dtypes, kind.name) for kind in STORED_KINDS if kind.bytes == 1}
LOGS, MASSES = 0, 1
GIVEN = ("logits", "probs")
STATE = int(re.search(r"#define KULLBACK_STATE (\d+)", contract.declarations())[1])
UNTOUCHED = 0xA5  # what outputs hold before the call


@dataclass(eq=False)
class Buffer:
    """Memory of a call; `pointers` {word: (buffer, offset)} are filled in where it lies."""

    data: bytes
    pointers: dict = field(default_factory=dict)
    dtype: str = ""  # of an output; "" is an input
    at_start: bool = False  # of its pages, so that a read before it is caught


@dataclass(eq=False)
class Call:
    """A function and its arguments: whole numbers, floats, None for NULL, a buffer, or (buffer, offset)."""

    function: str
    arguments: list
    about: str = ""

    def buffers(self):
        """Every buffer the arguments reach, each after those it points to."""
        found = []

        def reach(buffer):
            for target, _ in buffer.pointers.values():
                reach(target)
            if buffer not in found:
                found.append(buffer)

        for argument in self.arguments:
            if isinstance(argument, (Buffer, tuple)):
                reach(_place(argument)[0])
        return found

    def outputs(self):
        return [buffer for buffer in self.buffers() if buffer.dtype]


def _place(argument):
    return (argument, 0) if isinstance(argument, Buffer) else argument


# --------------------------------------------------------------------------------------------- running them


def written(calls):
    """The calls as replay.c reads them."""
    names = list(contract.functions())
    out = [struct.pack("=q", len(calls))]
    for call in calls:
        buffers = call.buffers()
        out.append(struct.pack("=3q", names.index(call.function), len(buffers), len(call.arguments)))
        for buffer in buffers:
            out.append(struct.pack("=4q", len(buffer.data), buffer.at_start, bool(buffer.dtype), len(buffer.pointers)))
            for word, (target, offset) in buffer.pointers.items():
                out.append(struct.pack("=3q", word, buffers.index(target), offset))
            out.append(buffer.data + bytes(-len(buffer.data) % 8))
        for argument in call.arguments:
            if argument is None:
                out.append(struct.pack("=3q", 3, 0, 0))
            elif isinstance(argument, float):
                out.append(struct.pack("=qdq", 1, argument, 0))
            elif isinstance(argument, int):
                out.append(struct.pack("=3q", 0, argument, 0))
            else:
                buffer, offset = _place(argument)
                out.append(struct.pack("=3q", 2, buffers.index(buffer), offset))
    return b"".join(out)


def read_answers(calls, data):
    """[(status, output arrays)] from what replay.c wrote."""
    answers, at = [], 0
    for call in calls:
        (status,) = struct.unpack_from("=q", data, at)
        at += 8
        arrays = []
        for buffer in call.outputs():
            arrays.append(np.frombuffer(data[at : at + len(buffer.data)], buffer.dtype))
            at += len(buffer.data) + -len(buffer.data) % 8
        answers.append((status, arrays))
    assert at == len(data)
    return answers


def run_here(call):
    """(status, output arrays) of the call by this process's engine."""
    chosen = engine.current()
    memory = {}
    for buffer in call.buffers():
        memory[buffer] = np.frombuffer(buffer.data, np.uint8).copy()
        for word, (target, offset) in buffer.pointers.items():
            memory[buffer][8 * word : 8 * word + 8].view(np.int64)[0] = memory[target].ctypes.data + offset
    arguments = []
    for argument, kind in zip(call.arguments, contract.functions()[call.function], strict=True):
        if isinstance(argument, (Buffer, tuple)):
            buffer, offset = _place(argument)
            argument = chosen.ffi.cast(kind, memory[buffer].ctypes.data + offset)
        arguments.append(chosen.ffi.NULL if argument is None else argument)
    status = chosen.function(call.function)(*arguments)
    return status, [memory[buffer].view(buffer.dtype) for buffer in call.outputs()]


# ------------------------------------------------------------------------------------- rows of hostile values


def hostile_rows(vocab, space, seed, negative=False):
    """(rows, vocab) float64: ordinary rows and those with what breaks arithmetic, at either end and inside."""
    rng = np.random.default_rng(seed)
    x = 3 * rng.standard_normal((12, vocab))
    if space == MASSES:
        x = np.exp(x)
        x[1] = 0.0  # no mass
        x[2] *= rng.random(vocab) < 0.5  # impossible outcomes
        x[3] *= 1e-30
        x[4, -1] = 60000.0  # float16's largest values
        x[5, -1] = np.nan
        x[6, 0] = np.inf
        x[7] = 1.0
        x[8, : vocab // 2] = 0.0
        if negative:
            x[9, -1] = -1.0
    else:
        x[1] = -np.inf  # no mass
        x[2, rng.random(vocab) < 0.5] = -np.inf
        x[3] *= 1e-6
        x[4] *= 300.0
        x[5, -1] = np.nan
        x[6, 0] = np.inf
        x[7] = 0.0
        x[8, : vocab // 2] = -np.inf
        x[9, vocab // 2] = -60000.0
    x[10] = x[0]
    return x


def encoded(x, storage):
    """float64 rows -> bytes of rows; AFFINE16 rows have the 8 bytes of their scale and minimum in front."""
    with np.errstate(all="ignore"):
        if storage == AFFINE16:
            finite = np.where(np.isfinite(x), x, 0.0)
            row = np.zeros(x.shape[0], [("scale", "f4"), ("min", "f4"), ("code", "u2", (x.shape[1],))])
            row["min"] = finite.min(-1)
            row["scale"] = (finite.max(-1) - finite.min(-1)) / 65535
            row["scale"][5 % x.shape[0]], row["min"][6 % x.shape[0]] = np.nan, np.inf
            row["code"] = np.random.default_rng(x.shape[1]).integers(0, 65536, x.shape)
            row["code"][:, ::5] = 0  # clipped, where that is asked for
            return row.view(np.uint8).reshape(x.shape[0], -1)
        if storage == BFLOAT16:
            words = (x.astype("f4").view("u4") >> 16).astype("u2")
        elif ITEM[storage] == 1:
            x = np.clip(x, -448, 448) if storage == FLOAT8_E4M3FN else x  # beyond and infinite would be NaN
            words = x.astype("f4").astype(STORED[storage])
        else:
            words = x.astype((">f8", "f8", "f4", "f2")[storage + 1])
        return np.ascontiguousarray(words).view(np.uint8).reshape(x.shape[0], -1)


LAYOUTS = ("packed", "at the start", "gaps", "backwards", "offsets", "every third", "one row for all")


def rows(x, storage, layout="packed"):
    """A kullback_array of the rows `x`, laid out in its own buffer."""
    count, vocab = x.shape
    item, lead = ITEM[storage], 8 if storage == AFFINE16 else 0
    raw = encoded(x, storage)
    row_bytes, stride, offsets = raw.shape[1], item, None
    step, first = row_bytes, lead
    if layout == "gaps":  # an odd number of bytes: rows of every alignment
        step = row_bytes + 5
        raw = np.concatenate([raw, np.full((count, 5), 0x5A, np.uint8)], axis=1).reshape(-1)[:-5]
    elif layout == "backwards":
        raw, first, step = raw[::-1], lead + (count - 1) * row_bytes, -row_bytes
    elif layout == "offsets":
        order = np.random.default_rng(count).permutation(count)
        raw = raw[order]
        offsets = np.argsort(order) * row_bytes
    elif layout == "every third" and storage != AFFINE16:
        wide = np.full((count, vocab, 3 * item), 0x5A, np.uint8)
        wide[:, :, :item] = raw.reshape(count, vocab, item)
        raw, stride, step = wide.reshape(-1)[: -2 * item], 3 * item, 3 * item * vocab
    elif layout == "one row for all":
        raw, step = raw[:1], 0
    data = Buffer(raw.tobytes(), at_start=layout == "at the start")
    pointers = {0: (data, first)}
    if offsets is not None:
        pointers[1] = (Buffer(offsets.astype("i8").tobytes()), 0)
    return Buffer(struct.pack("=5q", 0, 0, step, stride, storage), pointers)


def output(count, dtype="f8"):
    return Buffer(bytes([UNTOUCHED]) * (np.dtype(dtype).itemsize * count), dtype=dtype)


def whole_numbers(values):
    return Buffer(np.asarray(values, "i8").tobytes())


def doubles(values):
    return Buffer(np.asarray(values, "f8").tobytes())


def pointers_to(buffers):
    """A structure of pointers; None is NULL."""
    return Buffer(bytes(8 * len(buffers)), {i: (b, 0) for i, b in enumerate(buffers) if b is not None})


# ----------------------------------------------------------------------------------- the calls of each function

COMPARISON = ["f8"] * 6 + ["i8"] * 2 + ["f8"] * 4  # what kullback_compare writes
VOCABULARIES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1023, 2047, 2048, 2049, 4101)
_layouts = None


def _pairs(seed=0):
    """(about, p, q, count, vocab, space) over storages, vocabularies, layouts and spaces, each in every company."""
    layouts = cycle(LAYOUTS)
    vocabularies = cycle(VOCABULARIES)
    for round_ in range(5):
        for storage_p in STORAGES:
            for storage_q in STORAGES:
                for space in (LOGS, MASSES):
                    if space == MASSES and AFFINE16 in (storage_p, storage_q):
                        continue
                    vocab = next(vocabularies)
                    x = hostile_rows(vocab, space, seed + round_, negative=round_ == 4)
                    y = hostile_rows(vocab, space, seed + round_ + 100)[::-1].copy()
                    if round_ % 2:  # close rows take kernels of their own
                        y = np.where(np.isfinite(x), x * (1 + 1e-4 * np.sin(np.arange(vocab))), x)
                    if round_ == 4:
                        y = np.abs(y) if space == MASSES else y
                    layout_p, layout_q = next(layouts), next(layouts)
                    about = f"storage {storage_p} {storage_q}, V {vocab}, space {space}, {layout_p}, {layout_q}"
                    yield about, rows(x, storage_p, layout_p), rows(y, storage_q, layout_q), 12, vocab, space


def compare_calls():
    for number, (about, p, q, count, vocab, space) in enumerate(_pairs()):
        tokens = np.arange(count) * 7 % vocab
        tokens[3] = -1
        wanted = {i for i in range(11 if number % 4 else 8) if number % 3 == 0 or (number >> i) & 1} | {11 + number % 3}
        out = pointers_to([output(count, kind) if i in wanted else None for i, kind in enumerate(COMPARISON)])
        ids = whole_numbers(tokens) if number % 4 else None
        k = (1.0, 0.5, 3.0)[number % 3]
        start, stop = ((0, count), (2, count), (0, 0), (11, 12))[number % 4]
        yield Call("kullback_compare", [p, q, ids, vocab, space, k, out, start, stop, output(1, "i8")], about)


def describe_calls():
    for number, (about, x, _, count, vocab, space) in enumerate(_pairs(seed=1)):
        per_row = (number + 1) % 4
        tokens = np.arange(count * per_row) * 5 % vocab
        tokens[1::6] = -100
        out = [output(count, kind) if number % 5 != i else None for i, kind in enumerate(("f8", "f8", "i8"))]
        with_tokens = [whole_numbers(tokens) if per_row else None, per_row, vocab, space, 0.75, pointers_to(out)]
        log_probs = output(count * per_row) if per_row else None
        yield Call("kullback_describe", [x, *with_tokens, log_probs, 0, count, output(1, "i8")], about)


def describe_tokens_calls():
    for number, (about, x, _, count, vocab, space) in enumerate(_pairs(seed=8)):
        if space == LOGS:
            rng = np.random.default_rng(number)
            per_row, top_k, limit = number // 2 % 4, (0, 1, 3, 40)[number // 4 % 4], (0.0, 30.0, 2.5)[number // 2 % 3]
            tokens = rng.integers(-1, vocab, count * per_row)
            chosen = [np.flatnonzero(rng.random(vocab) < rng.random() / 2) for _ in range(count)]
            kept = [whole_numbers(np.cumsum([0] + [ids.size for ids in chosen])), whole_numbers(np.concatenate(chosen))]
            sizes = [(count, "f8")] * 2 + [(count * per_row, "f8"), (count * per_row, "i8")]
            sizes += [(count * top_k, "i8"), (count * top_k, "f8")]
            out = [output(*size) if i > 3 or number % 5 != i else None for i, size in enumerate(sizes)]
            given = [x, whole_numbers(tokens) if per_row else None, per_row, *(kept if number % 3 else [None, None])]
            given += [top_k, vocab, 0.75, limit, pointers_to(out), 0, count, output(1, "i8")]
            yield Call("kullback_describe_tokens", given, f"{about}, K {per_row}, top {top_k}, limit {limit}")


def log_softmax_calls():
    for number, (about, x, _, count, vocab, space) in enumerate(_pairs(seed=2)):
        if space == LOGS:
            wide = number % 2
            out = output(count * vocab, "f8" if wide else "f4")
            yield Call("kullback_log_softmax", [x, vocab, 1.5, out, wide, 0, count, output(1, "i8")], about)


def sum_segments_calls():
    for number, (about, x, _y, count, length, _space) in enumerate(_pairs(seed=3)):
        rng = np.random.default_rng(number)
        empty = Buffer(bytes(40))
        mask = empty
        if number % 3:
            step = length + number % 2
            keep = Buffer((rng.random(count * step - number % 2) < 0.7).astype("u1").tobytes())
            mask = Buffer(struct.pack("=5q", 0, 0, step, 1, FLOAT64), {0: (keep, 0)})
        lengths = whole_numbers(rng.integers(0, length + 1, count)) if number % 2 else None
        outputs = [output(count), output(count, "i8"), output(count, "i8")]
        yield Call("kullback_sum_segments", [x, mask, lengths, length, *outputs, 0, count, output(1, "i8")], about)


def settings_of(wanted):
    """((kind, weight, first, second), given) of what tests try of the kinds that are `wanted`."""
    asked = {name: kind for name, kind in kinds.KINDS.items() if wanted(kind)}
    return [((KINDS[name], *each.parameters), kind.given) for name, kind in asked.items() for each in kind.settings]


def divergence_calls():
    settings = cycle(settings_of(lambda kind: kind.given))
    for number, (about, p, q, count, vocab, space) in enumerate(_pairs(seed=4)):
        kind, *parameters = next(each for each, given in settings if GIVEN[space] in given)
        mask = Buffer(bytes(t % 3 != 1 for t in range(count))) if number % 2 else None
        state = output(STATE * count) if number % 3 else None
        yield Call(
            "kullback_divergence",
            [p, q, mask, vocab, space, 1.25, kind, *parameters, output(count), state, 0, count, output(1, "i8")],
            f"{about}, kind {kind} {parameters}",
        )


def divergence_gradient_calls():
    settings = cycle(settings_of(lambda kind: kind.gradient))
    for number, (about, p, q, count, vocab, space) in enumerate(_pairs(seed=5)):
        if space == LOGS:
            kind, *parameters = next(settings)[0]
            weights = doubles(np.where(np.arange(count) % 4 == 3, 0.0, 1.0 + np.arange(count)))
            storage = (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)[number // 2 % 4]
            step = vocab * ITEM[storage] + (number % 2) * 16
            gradient = output(count * step - (number % 2) * 16, "u1")
            outputs = [output(count), output(STATE * count), gradient, step, storage]
            yield Call(
                "kullback_divergence_gradient",
                [p, q, weights, vocab, 0.8, kind, *parameters, number // 3 % 2, 0, *outputs, 0, count, output(1, "i8")],
                f"{about}, kind {kind} {parameters}, into storage {storage}",
            )


def described(x, count, vocab, k):
    """What kullback_describe says of logs, as inputs: lse, entropy, top1."""
    out = [output(count), output(count), output(count, "i8")]
    _, found = run_here(Call("kullback_describe", [x, None, 0, vocab, LOGS, k, pointers_to(out), None, 0, count, None]))
    return doubles(found[0]), doubles(found[1]), whole_numbers(found[2])


def softmax_gradient_calls():
    for number, (about, x, _, count, vocab, space) in enumerate(_pairs(seed=6)):
        if space == LOGS:
            k = 1.25
            rng = np.random.default_rng(number)
            per_row = rng.integers(0, 4, count)
            ids = rng.integers(-1, vocab, per_row.sum())
            with_ids = [
                whole_numbers(np.r_[0, per_row.cumsum()]),
                whole_numbers(ids),
                doubles(rng.normal(size=ids.size)),
            ]
            storage = (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)[number // 2 % 4]
            gradient = rng.normal(size=(count, vocab)).astype("f4")
            gradient = Buffer(encoded(gradient.astype("f8"), storage).tobytes(), dtype="u1")
            yield Call(
                "kullback_softmax_gradient",
                [
                    x, *described(x, count, vocab, k), doubles(rng.normal(size=count)),
                    doubles(rng.normal(size=count)) if number % 3 else None,
                    *(with_ids if number % 4 else [None, None, None]), number // 2 % 2, number // 3 % 2, vocab, k,
                    gradient, vocab * ITEM[storage], storage, 0, count, output(1, "i8"),
                ],
                f"{about}, into storage {storage}",
            )  # fmt: skip


def rest_mass_calls():
    for number, (about, x, _, count, vocab, space) in enumerate(_pairs(seed=7)):
        if space == LOGS:
            rng = np.random.default_rng(number)
            chosen = [np.flatnonzero(rng.random(vocab) < rng.random()) for _ in range(count)]
            offsets = whole_numbers(np.cumsum([0] + [ids.size for ids in chosen]))
            lse, _entropy, top1 = described(x, count, vocab, 0.9)
            given = [x, lse, top1, offsets, whole_numbers(np.concatenate(chosen)), vocab, 0.9]
            yield Call("kullback_rest_mass", [*given, output(count), 0, count, output(1, "i8")], about)


def phi_calls():
    for number in range(60):
        count = VOCABULARIES[number % len(VOCABULARIES)]
        rng = np.random.default_rng(number)
        x = rng.normal(0, 10.0 ** (number % 6 - 2), count)
        some = rng.random(count) < 0.1
        x[some] = rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan, 709.9, -800.0, 1e-300, 1.6, 5e-324], some.sum())
        start = number % 3 if count > 9 else 0
        given = [doubles(x), output(count), start, count - start, output(1, "i8")]
        yield Call("kullback_phi", given, f"{count} numbers from {start}")


def compare_clipped_calls():
    windows = cycle([(16.0, 16.0), (4.0, 24.0), (0.0, 0.0), (1e9, 8.0)])
    for number, (about, p, q, count, vocab, space) in enumerate(_pairs(seed=8)):
        if space == LOGS:
            tokens = np.arange(count) * 7 % vocab
            tokens[3] = -1
            wanted = {*range(11 if number % 4 else 8), 11 + number % 3}
            out = pointers_to([output(count, kind) if i in wanted else None for i, kind in enumerate(COMPARISON)])
            ids = whole_numbers(tokens) if number % 4 else None
            mixture = output(count) if number % 3 else None
            given = [p, q, ids, vocab, *next(windows), output(2 * vocab, "f4"), out, mixture]
            yield Call("kullback_compare_clipped", [*given, 0, count, output(1, "i8")], about)


CALLS = {
    "kullback_compare": compare_calls,
    "kullback_describe": describe_calls,
    "kullback_describe_tokens": describe_tokens_calls,
    "kullback_log_softmax": log_softmax_calls,
    "kullback_sum_segments": sum_segments_calls,
    "kullback_divergence": divergence_calls,
    "kullback_divergence_gradient": divergence_gradient_calls,
    "kullback_softmax_gradient": softmax_gradient_calls,
    "kullback_rest_mass": rest_mass_calls,
    "kullback_phi": phi_calls,
    "kullback_compare_clipped": compare_clipped_calls,
}
