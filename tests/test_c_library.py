"""The C library, called by a C program under sanitizers, between guard pages: same bits as this process's engine."""

import os
import re
import shutil
import struct
import subprocess
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from c_arguments import parameters, with_argument
from c_calls import (
    AFFINE16,
    CALLS,
    FLOAT32,
    FLOAT64,
    LOGS,
    MASSES,
    Buffer,
    Call,
    doubles,
    output,
    pointers_to,
    read_answers,
    rows,
    run_here,
    whole_numbers,
    written,
)
from kullback.kernels import build, contract
from kullback.kernels.kinds import KINDS

import kullback as kb
from kullback._engine import native

ROOT = Path(__file__).parent.parent
OK, NEGATIVE_P, NEGATIVE_Q, TOKEN, ARGUMENT, UNSUPPORTED = range(6)
STACK = int(re.search(r"#define KULLBACK_STACK (\d+)", contract.declarations())[1])
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
SPARSE = ("kullback_rest_mass", "kullback_softmax_gradient")
STRICT = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def compile_program(directory, *inputs, sanitizers=SANITIZERS):
    """replay.c under sanitizers, linked with `inputs`."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    assert compiler, "the C interface is tested with a C compiler, and there is none"
    cases = []
    for number, (name, kinds) in enumerate(contract.functions().items()):
        members = {"double": "real", "int64_t": "integer"}
        arguments = ", ".join(f"a[{i}].{members.get(kind, 'pointer')}" for i, kind in enumerate(kinds))
        cases.append(f"    case {number}: return {name}({arguments});")
    (directory / "dispatch.h").write_text(
        "static int64_t dispatch(int64_t function, const argument *a) {\n  switch (function) {\n"
        + "\n".join(cases)
        + "\n    default: return -1;\n  }\n}\n"
    )
    program = directory / "replay"
    command = [compiler, *STRICT, *sanitizers, f"-I{directory}", f"-I{native.get_include()}"]
    command += [str(ROOT / "tests" / "c" / "replay.c"), *map(str, inputs), "-lm", "-lpthread", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def replay(program, calls):
    """([(status, outputs)] of the calls, whether the library says it runs on this processor)."""
    (program.parent / "calls").write_bytes(written(calls))
    command = [str(program), str(program.parent / "calls"), str(program.parent / "answers")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    supported, stack = map(int, done.stdout.split())
    assert stack <= STACK
    return read_answers(calls, (program.parent / "answers").read_bytes()), supported == 1


def assert_same(calls, got, expected):
    """Equal statuses, equal bits (any NaN is a NaN), and what is not to be written is not written."""
    for call, (status, arrays), (expected_status, expected_arrays) in zip(calls, got, expected, strict=True):
        assert status == expected_status, (call.function, call.about)
        for array, other in zip(arrays, expected_arrays, strict=True):
            np.testing.assert_array_equal(array, other, err_msg=f"{call.function}: {call.about}")
            zeros = (array == 0) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
            np.testing.assert_array_equal(np.signbit(array[zeros]), np.signbit(other[zeros]), err_msg=call.about)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program with the installed library, found again at run time."""
    library = Path(native.get_library())
    directory = tmp_path_factory.mktemp("library")
    return compile_program(directory, library, f"-Wl,-rpath,{library.parent}")


def test_every_function_is_called():
    assert set(CALLS) == set(contract.functions())


@pytest.mark.parametrize("function", CALLS)
def test_same_bits_as_python(program, function):
    calls = list(CALLS[function]())
    answers, supported = replay(program, calls)
    assert supported
    statuses = [status for status, _ in answers]
    assert statuses.count(OK) > len(calls) / 2, "most calls are good ones"
    assert_same(calls, answers, [run_here(call) for call in calls])


@pytest.mark.slow
@pytest.mark.parametrize("target", build.targets())
def test_same_bits_from_every_instruction_set(tmp_path, target):
    """A library of one instruction set only: the same bits, or one clear status where the processor lacks it."""
    kernels = build.emit_objects(ROOT / "build" / "kernels")[target]
    shim = tmp_path / "shim.c"
    shim.write_text(build.shim_source({target: build.targets()[target]}))
    program = compile_program(tmp_path, shim, kernels)
    for function in CALLS:
        calls = list(CALLS[function]())
        answers, supported = replay(program, calls)
        if supported:
            assert_same(calls, answers, [run_here(call) for call in calls])
        else:
            assert {status for status, _ in answers} == {UNSUPPORTED}


def test_a_processor_that_lacks_everything(tmp_path):
    """No fault: every function says so, and no kernel is entered (there is none to link)."""
    shim = tmp_path / "shim.c"
    shim.write_text(build.shim_source({"none": ("", "", ("avx5124fmaps", "sse4a"))}))  # no processor has both
    kernels = tmp_path / "kernels.c"
    entered = "\n".join(f"int {name}_none(void) {{ abort(); }}" for name in contract.functions())
    kernels.write_text(f"#include <stdlib.h>\n{entered}\n")
    program = compile_program(tmp_path, shim, kernels)
    calls = [next(make()) for make in CALLS.values()]
    answers, supported = replay(program, calls)
    assert not supported
    assert [status for status, _ in answers] == [UNSUPPORTED] * len(calls)
    untouched = output(1).data[:1]
    for call, (_, arrays) in zip(calls, answers, strict=True):
        for buffer, array in zip(call.outputs(), arrays, strict=True):
            assert array.tobytes() == buffer.data or not buffer.data.startswith(untouched)


# ------------------------------------------------------------------------------------------- what is refused


def with_storage(array, storage):
    words = list(struct.unpack("=5q", array.data))
    return Buffer(struct.pack("=5q", *words[:4], storage), array.pointers)


def good_call(function):
    """A call that gives every pointer, and asks for every output."""
    whole = (call for call in CALLS[function]() if None not in call.arguments and run_here(call)[0] == OK)
    return max(islice(whole, 8), key=lambda call: len(call.outputs()))


REFUSED = {
    "vocab": (0, -1, -(2**63)),
    "space": (2, -1, 2**62),
    "kind": (len(KINDS), -1),
    "storage": (4, 5, 6, 7, -1),
    "side": (2, -1),
    "slope": (0.0, -1.0, np.inf, np.nan),
    "inverse_temperature": (0.0, -1.0, np.inf, np.nan),
    "limit": (-1.0, np.inf, np.nan),
    "window_p": (-1.0, np.nan),
    "window_q": (-1.0, np.nan),
    "top_k": (-1,),
    "tokens_per_row": (-1, -(2**63)),
    "start": (-1, -(2**63)),
}
MAY_BE_NULL = {
    "bad_row": set(CALLS),
    "state": {"kullback_divergence"},
    "mask": {"kullback_divergence"},
    "jensen_shannon": {"kullback_compare_clipped"},
    "lengths": {"kullback_sum_segments"},
    "kept_offsets": {"kullback_describe_tokens"},
    "offsets": {"kullback_softmax_gradient"},
    "entropy_weights": {"kullback_softmax_gradient"},
}


def assert_refused(program, calls, status=ARGUMENT):
    """That status from this process's engine too, the first row, and nothing written."""
    answers, _ = replay(program, calls)
    for call, (found, arrays) in zip(calls, answers, strict=True):
        assert found == run_here(call)[0] == status, (call.function, call.about)
        *others, bad_row = arrays
        assert bad_row == [call.arguments[parameters(call.function).index("start")]], call.about
        for array, buffer in zip(others, call.outputs(), strict=False):
            assert array.tobytes() == buffer.data, call.about


@pytest.mark.parametrize("function", CALLS)
def test_refused_arguments(program, function):
    call = good_call(function)
    calls = []
    for name, kind in zip(parameters(function), contract.functions()[function], strict=True):
        calls += [with_argument(call, name, value) for value in REFUSED.get(name, ())]
        if "kullback_" in kind:
            calls.append(with_argument(call, name, None))
        if kind == "const kullback_array *" and name != "mask":
            array = call.arguments[parameters(function).index(name)]
            calls.append(with_argument(call, name, Buffer(array.data)))  # data is NULL
            calls += [with_argument(call, name, with_storage(array, storage)) for storage in (7, -1, 2**40)]
            if "space" in parameters(function):
                calls.append(with_argument(with_argument(call, name, with_storage(array, AFFINE16)), "space", MASSES))
    assert_refused(program, calls)


@pytest.mark.parametrize("function", CALLS)
def test_null_pointers(program, function):
    """Where the header says so nothing is read or written; elsewhere it is refused."""
    call = good_call(function)
    pointers = [
        name
        for name, kind in zip(parameters(function), contract.functions()[function], strict=True)
        if kind.endswith("*")
    ]
    may = {name for name in pointers if function in MAY_BE_NULL.get(name, ())}
    assert_refused(program, [with_argument(call, name, None) for name in pointers if name not in may])
    answers, _ = replay(program, [with_argument(call, name, None) for name in pointers if name in may])
    assert {status for status, _ in answers} == {OK}


def matrix(values, storage=FLOAT32):
    return rows(np.asarray(values, float), storage)


def sparse_call(function, top1=(1, 1), offsets=(0, 2, 4), ids=(0, 1, 0, 1), lse=(1.0, 1.0)):
    """The rest mass or the gradient of two rows of two logits."""
    known = [matrix(((1, 2), (3, 4))), doubles(lse)]
    lists = [whole_numbers(offsets), whole_numbers(ids)]
    if function == "kullback_rest_mass":
        given = [*known, whole_numbers(top1), *lists, 2, 1.0, output(2)]
    else:
        given = [*known, doubles((1, 1)), whole_numbers(top1), doubles((1, 1)), doubles((1, 1)), *lists]
        given += [doubles(np.ones(len(ids))), 0, 0, 2, 1.0, output(4), 16, FLOAT64]
    return Call(function, [*given, 0, 2, output(1, "i8")], f"{top1} {offsets} {ids} {lse}")


def segments(lengths):
    masked = Buffer(bytes(40))
    given = [matrix(((1, 2), (3, 4))), masked, whole_numbers(lengths), 2, output(2), output(2, "i8"), output(2, "i8")]
    return Call("kullback_sum_segments", [*given, 0, 2, output(1, "i8")], f"lengths {lengths}")


@pytest.mark.parametrize(
    ("call", "status"),
    [
        *((sparse_call(name), OK) for name in SPARSE),
        *((sparse_call(name, top1=(1, top)), ARGUMENT) for name in SPARSE for top in (2, -1, 2**62, -(2**63))),
        *((sparse_call(name, (1, 2**62), lse=(1.0, lse)), OK) for name in SPARSE for lse in (np.nan, np.inf, -np.inf)),
        *((sparse_call("kullback_rest_mass", ids=(0, 1, *ids)), TOKEN) for ids in ((1, 0), (1, 1), (0, 2), (-1, 0))),
        (sparse_call("kullback_rest_mass", offsets=(0, 2, 1)), TOKEN),
        (sparse_call("kullback_rest_mass", offsets=(2, 2, 2)), OK),
        (sparse_call("kullback_softmax_gradient", ids=(0, 1, 0, 2)), TOKEN),
        (sparse_call("kullback_softmax_gradient", ids=(1, 0, -1, -(2**63))), OK),
        (segments((1, 2)), OK),
        (segments((1, -1)), ARGUMENT),
        (segments((0, -(2**63))), ARGUMENT),
    ],
    ids=lambda value: f"{value.function[9:]} {value.about}" if isinstance(value, Call) else str(value),
)
def test_rows_whose_arguments_point_outside(program, call, status):
    """Greatest elements, lists of ids and lengths are checked before they are used as places."""
    ((found, arrays),), _ = replay(program, [call])
    assert found == run_here(call)[0] == status
    assert arrays[-1].tobytes() == output(1).data if status == OK else arrays[-1] == [1]


def comparison(tokens=None, space=MASSES, p=((1, 2), (3, 4)), q=((1, 1), (1, 1))):
    ids = None if tokens is None else whole_numbers(tokens)
    out = pointers_to([output(2)] + [None] * 11)
    return Call("kullback_compare", [matrix(p), matrix(q), ids, 2, space, 1.0, out, 0, 2, output(1, "i8")])


@pytest.mark.parametrize(
    ("call", "status"),
    [
        (comparison(), OK),
        (comparison(p=((1, 2), (3, -4))), NEGATIVE_P),
        (comparison(q=((1, 2), (-3, 4))), NEGATIVE_Q),
        (comparison(tokens=(1, 2)), TOKEN),
        (comparison(tokens=(0, 2**62)), TOKEN),
        (comparison(tokens=(-1, -(2**63))), OK),
    ],
    ids=["good", "negative p", "negative q", "token", "a far token", "ignored tokens"],
)
def test_statuses_name_the_row(program, call, status):
    ((got, (_, bad_row)),), _ = replay(program, [call])
    assert got == status
    assert bad_row.tobytes() == output(1).data if status == OK else bad_row == [1]


def token_description(offsets=(0, 2, 3), ids=(0, 1, 1), tokens=(0, 1), top_k=1, top=(0, 1)):
    """A call about two rows, with two lists of kept ids."""
    outputs = [output(2), output(2), output(2), output(2, "i8"), output(2, "i8"), output(2)]
    outputs[4:] = [out if i in top else None for i, out in enumerate(outputs[4:])]
    lists = [None, None] if offsets is None else [whole_numbers(offsets), None if ids is None else whole_numbers(ids)]
    given = [matrix(((1, 2), (3, 4))), whole_numbers(tokens), 1, *lists, top_k, 2, 1.0, 0.0, pointers_to(outputs)]
    return Call("kullback_describe_tokens", [*given, 0, 2, output(1, "i8")])


@pytest.mark.parametrize(
    ("call", "status", "row"),
    [
        (token_description(), OK, None),
        (token_description(offsets=None), OK, None),
        (token_description(offsets=(0, 0, 0)), OK, None),
        (token_description(top_k=0, top=()), OK, None),
        (token_description(tokens=(0, 2)), TOKEN, 1),
        (token_description(tokens=(-1, -(2**63))), OK, None),
        (token_description(ids=(1, 0, 1)), TOKEN, 0),
        (token_description(ids=(0, 1, 2)), TOKEN, 1),
        (token_description(ids=(-1, 0, 1)), TOKEN, 0),
        (token_description(offsets=(0, 2, 1)), TOKEN, 1),
        (token_description(ids=None), ARGUMENT, 0),
        (token_description(top=(0,)), ARGUMENT, 0),
        (token_description(top=(1,)), ARGUMENT, 0),
    ],
)
def test_statuses_of_token_descriptions(program, call, status, row):
    ((got, arrays),), _ = replay(program, [call])
    assert got == status
    assert arrays[-1].tobytes() == output(1).data if row is None else arrays[-1] == [row]


def test_rows_outside_the_range_are_left_alone(program):
    call = comparison()
    call.arguments[7:9] = [1, 2]
    ((status, (kl, _)),), _ = replay(program, [call])
    assert status == OK
    assert kl[:1].tobytes() == output(1).data
    np.testing.assert_array_equal(kl[1], kb.kl_divergence(np.float32([3, 4]), np.float32([1, 1])))


def test_reading_past_a_row_ends_the_program(program):
    """The guard pages see what they are there for: one element more than there is."""
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        replay(program, [with_argument(comparison(), "vocab", 3)])


# ------------------------------------------------------------------------------------------ the public functions


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_package_gives_the_same_bits(program, dtype):
    """What `compare` and its companions return is what the library writes."""
    rng = np.random.default_rng(0)
    p, q = (rng.normal(0, 3, (9, 1001)).astype(dtype) for _ in "pq")
    tokens = rng.integers(0, 1001, 9)
    storage = 1 if dtype == "float32" else 0
    wanted = [output(9, "i8" if field in (6, 7) else "f8") for field in range(12)]
    compared = Call(
        "kullback_compare",
        [rows(p, storage), rows(q, storage), whole_numbers(tokens), 1001, LOGS, 1.0, pointers_to(wanted), 0, 9, None],
    )
    described = Call(
        "kullback_describe",
        [
            rows(p, storage), whole_numbers(tokens), 1, 1001, LOGS, 1.0, pointers_to([output(9)] + [None] * 2),
            output(9), 0, 9, None,
        ],
    )  # fmt: skip
    softmax = Call(
        "kullback_log_softmax", [rows(p, storage), 1001, 1.0, output(9 * 1001, p.dtype.str), 1 - storage, 0, 9, None]
    )
    ((_, pair), (_, (lse, log_probs)), (_, (logs,))), _ = replay(program, [compared, described, softmax])
    c = kb.compare(p, q, tokens)
    fields = (
        "kl",
        "reverse_kl",
        "entropy_p",
        "entropy_q",
        None,
        None,
        "top1_p",
        "top1_q",
        "log_prob_p",
        "log_prob_q",
        "log_ratio",
        "acceptance",
    )
    for name, array in zip(fields, pair, strict=True):
        if name:
            np.testing.assert_array_equal(array, getattr(c, name), err_msg=name)
    np.testing.assert_array_equal(lse, kb.logsumexp(p))
    np.testing.assert_array_equal(log_probs, kb.token_log_probs(p, tokens))
    np.testing.assert_array_equal(logs.reshape(p.shape), kb.log_softmax(p))
