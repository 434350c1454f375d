"""Header, kernels, extension and library say the same; what a first call loads; addresses; workers of torch."""

import ast
import ctypes
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from kullback.kernels import contract

import kullback as kb
from kullback._engine import loading

TIMEOUT = 300


def run(script, tmp_path=None, **environment):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", script]
    settings = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ----------------------------------------------------------------------------------------------- one contract


def header_symbols():
    """Functions of the header by their plainest reading: a name before a bracket."""
    text = re.sub(r"/\*.*?\*/", "", contract.HEADER.read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"\b(kullback_\w+)\s*\(", text))


def test_the_contract_holds_every_function_of_the_header():
    assert header_symbols() == {*contract.functions(), "kullback_supported"}


def test_parameters_are_types_the_kernels_know():
    for name, kinds in contract.functions().items():
        assert kinds[-3:] == ["int64_t", "int64_t", "int64_t *"], f"{name} ends in start, stop, bad_row"
        plain = {"int64_t", "double", "const int64_t *", "const double *", "const uint8_t *", "float *"}
        structs = ("array", "comparison", "description", "token_description")
        structures = {f"const kullback_{struct} *" for struct in structs}
        assert set(kinds) <= plain | {"int64_t *", "double *", "void *"} | structures, name


def test_every_kernel_has_the_parameters_of_the_header():
    from kullback.kernels import entries

    text = re.sub(r"/\*.*?\*/", "", contract.declarations(), flags=re.DOTALL)
    kernels = {name for name in vars(entries) if name.startswith("kullback_")}
    assert kernels == set(contract.functions())
    for name in kernels:
        listed = re.search(rf"\b{name}\(([^)]*)\)", text)[1]
        header = [re.search(r"\w+$", parameter.strip())[0] for parameter in listed.split(",")]
        code = getattr(entries, name).py_func.__code__
        assert list(code.co_varnames[: code.co_argcount]) == header, name


def test_the_extension_has_every_function_of_the_header():
    from kullback import _compiled

    found = {name for name in dir(_compiled.lib) if name.startswith("kullback_")}
    assert found == header_symbols()
    for name, kinds in contract.functions().items():
        typed = _compiled.ffi.typeof(_compiled.ffi.addressof(_compiled.lib, name))
        expected = _compiled.ffi.typeof(f"int64_t (*)({', '.join(kinds)})")
        assert typed is expected, name


def test_the_extension_has_the_constants_of_the_header():
    from kullback import _compiled

    constants = dict(re.findall(r"#define (KULLBACK_\w+) (\d+)", contract.declarations()))
    assert len(constants) > 10
    assert {name: str(getattr(_compiled.lib, name)) for name in constants} == constants


def test_the_library_exports_the_header_and_nothing_else():
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", kb.get_library()], capture_output=True, text=True, check=True
    )
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == header_symbols()


def test_the_constants_of_the_package_are_the_header_s():
    from kullback.kernels import decode, status

    from kullback._engine import calls, keywords, views

    constants = dict(re.findall(r"#define KULLBACK_(\w+) (\d+)", contract.declarations()))
    shared = 0
    for module in (keywords, views, calls, decode, status):
        for name in set(constants) & set(vars(module)):
            assert getattr(module, name) == int(constants[name]), (module.__name__, name)
            shared += 1
    assert shared >= 15


# ---------------------------------------------------------------------------------------- header and pkg-config


@pytest.mark.parametrize(("compiler", "standard"), [("cc", "c99"), ("cc", "c17"), ("c++", "c++11"), ("c++", "c++20")])
def test_the_header_compiles_alone(tmp_path, compiler, standard):
    """In strict C and in C++, and links by what pkg-config says."""
    source = tmp_path / ("main.c" if compiler == "cc" else "main.cc")
    source.write_text("#include <kullback.h>\nint main(void) { return kullback_supported() ? 0 : 1; }\n")
    settings = os.environ | {"PKG_CONFIG_PATH": str(Path(kb.get_library()).parent / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "kullback"], capture_output=True, text=True, check=True, env=settings
    )
    program = tmp_path / "main"
    command = [
        compiler,
        f"-std={standard}",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        str(source),
        "-o",
        str(program),
    ]
    subprocess.run([*command, *flags.stdout.split()], check=True)
    settings["LD_LIBRARY_PATH"] = str(Path(kb.get_library()).parent)
    subprocess.run([str(program)], check=True, env=settings)


def test_the_header_is_where_get_include_says():
    assert (Path(kb.get_include()) / "kullback.h").read_bytes() == contract.HEADER.read_bytes()


# -------------------------------------------------------------------------------------------------- addresses


def test_addresses_are_functions_of_the_header():
    addresses = {name: kb.function_address(name) for name in contract.functions()}
    assert len(set(addresses.values())) == len(addresses)
    with pytest.raises(ValueError, match="kullback_compare, "):
        kb.function_address("kullback_supported")


def test_an_address_can_be_called():
    class Array(ctypes.Structure):
        _fields_ = [
            ("data", ctypes.c_void_p), ("row_offsets", ctypes.c_void_p), ("row_stride", ctypes.c_int64),
            ("stride", ctypes.c_int64), ("storage", ctypes.c_int64),
        ]  # fmt: skip

    x = np.random.default_rng(0).normal(size=(3, 70))
    out, bad_row = np.empty_like(x), ctypes.c_int64()
    integer, address = ctypes.c_int64, ctypes.c_void_p
    kind = ctypes.CFUNCTYPE(integer, address, integer, ctypes.c_double, address, integer, integer, integer, address)
    function = kind(kb.function_address("kullback_log_softmax"))
    rows = Array(x.ctypes.data, None, x.strides[0], 8, 0)
    assert function(ctypes.addressof(rows), 70, 1.0, out.ctypes.data, 1, 0, 3, ctypes.addressof(bad_row)) == 0
    np.testing.assert_array_equal(out, kb.log_softmax(x))


# --------------------------------------------------------------------------------------------- a fresh process

FIRST_CALL = """
import sys, time
started = time.perf_counter()
import numpy as np
import kullback as kb
p = np.linspace(-5, 5, 8 * 32000).reshape(8, 32000).astype(np.float32)
kl = kb.kl_divergence(p, p[::-1], given="logits")
seconds = time.perf_counter() - started
assert kb.get_engine() == "compiled", kb.get_engine()
heavy = {"numba", "llvmlite", "scipy", "torch", "cffi", "pycparser"} & {name.partition(".")[0] for name in sys.modules}
print(sorted(heavy))
print(seconds, file=sys.stderr)
"""


def test_a_first_call_loads_no_compiler_and_writes_nothing(tmp_path):
    """Without a JIT: no numba, no cffi parser, no file left in the home, the cache or the working directory."""
    home = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
    }
    assert run(FIRST_CALL, tmp_path, KULLBACK_ENGINE="compiled", PYTHONDONTWRITEBYTECODE="1", **home) == "[]\n"
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_both_engines_give_the_same_bits():
    script = """
import numpy as np, kullback as kb
rng = np.random.default_rng(0)
for dtype in ("f4", "f8", "f2"):
    p, q = rng.normal(0, 3, (2, 5, 3001)).astype(dtype)
    c = kb.compare(p, q, np.arange(5))
    for name in ("kl", "reverse_kl", "entropy_p", "log_ratio"): print(getattr(c, name).tobytes().hex())
    print(kb.jensen_shannon_divergence(p, q, given="logits").tobytes().hex())
"""
    assert run(script, KULLBACK_ENGINE="compiled") == run(script, KULLBACK_ENGINE="jit")


def test_a_forced_engine_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "kullback._compiled", None)
    monkeypatch.setenv("KULLBACK_ENGINE", "compiled")
    with pytest.raises(ImportError, match="KULLBACK_ENGINE=compiled"):
        loading.choose()
    monkeypatch.setenv("KULLBACK_ENGINE", "")
    assert loading.choose().name == "jit"


def test_no_library_is_one_clear_error(monkeypatch, tmp_path):
    from kullback._engine import native

    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    with pytest.raises(FileNotFoundError, match="without a C compiler"):
        native.get_library()


# ----------------------------------------------------------------------------------------------- the JIT's cache

FIRST_CALL_OF_ALL = "import numpy as np; from kullback._engine import calls; print(calls.phi(np.zeros(3), 1))"


def cached(folder):
    """The files that a JIT process left under `folder`, after its call gave what it should."""
    assert run(FIRST_CALL_OF_ALL, KULLBACK_ENGINE="jit", NUMBA_CACHE_DIR=str(folder)) == "[0. 0. 0.]\n"
    return [path for path in folder.rglob("*") if path.is_file()]


def test_damaged_files_of_the_jit_s_cache_are_compiled_anew(tmp_path):
    """Empty, cut off, with one byte changed, with other contents, unreadable as what they claim to be."""
    (path,) = cached(tmp_path)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for damaged in (b"", whole[:-1], bytes(changed), b"\x80" * 4000):
        path.write_bytes(damaged)
        assert cached(tmp_path) == [path]
        assert path.read_bytes() != damaged
    modified = path.stat().st_mtime_ns
    assert cached(tmp_path) == [path]
    assert path.stat().st_mtime_ns == modified, "what is whole serves again"


def test_the_jit_s_cache_is_its_owner_s(tmp_path):
    (path,) = cached(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent.parent)} == {0o700}


# ------------------------------------------------------------------------------------------ what the JIT compiles

FIRST_KL = """
import numpy as np, kullback as kb
from numba.core import event
p = np.random.default_rng(0).normal(0, 3, (2, 1024)).astype(np.float32)
with event.install_recorder("numba:compile") as recorder:
    kb.kl_divergence(p, p + p % np.float32(0.125), given="logits")
from kullback.kernels import jit
print(*sorted(name for name, types in jit._addresses))
print(sum(one.is_start for _, one in recorder.buffer))
"""


@pytest.mark.slow
def test_a_first_call_compiles_what_it_needs(tmp_path):
    """KL of float32 logits nearly alike: no other storage, space, tier or lanes. And nothing where it is cached."""
    settings = {"KULLBACK_ENGINE": "jit", "NUMBA_CACHE_DIR": str(tmp_path)}
    kernels, compiled = run(FIRST_KL, **settings).splitlines()
    assert kernels == "cumulants.cumulants_near decode.view rows.cumulant_row"
    assert int(compiled) <= 100  # functions; the whole entry point has more than 400
    assert run(FIRST_KL, **settings).splitlines() == [kernels, "0"]


INTERRUPTED = """
import numpy as np, kullback as kb
from kullback.kernels import jit
compiling, errors = jit._compile_separate, [ERROR("not now")]

def failing(*wanted):
    if errors:
        raise errors.pop()
    return compiling(*wanted)

jit._compile_separate = failing
try:
    kb.log_softmax(np.zeros((600, 1000)), num_threads=2)
except ERROR as error:
    print(error)
print(np.exp(kb.log_softmax(np.zeros(4))))
"""


@pytest.mark.parametrize("error", ["MemoryError", "KeyboardInterrupt"])
def test_what_ends_the_compiling_of_a_kernel_is_raised_by_the_call(error):
    """And the next call compiles it."""
    assert run(INTERRUPTED.replace("ERROR", error), KULLBACK_ENGINE="jit") == "not now\n[0.25 0.25 0.25 0.25]\n"


FORKED = """
import faulthandler, os, threading, time, warnings
import numpy as np, kullback as kb
from kullback.kernels import jit
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork in a process with threads
compiling, begun = jit._compile_separate, threading.Event()

def slow(*wanted):
    begun.set()
    time.sleep(0.2)
    return compiling(*wanted)

def call():
    assert np.allclose(np.exp(kb.log_softmax(np.zeros(4))), 0.25)

jit._compile_separate = slow
thread = threading.Thread(target=call)
thread.start()
assert begun.wait(60)
pid = os.fork()
if pid == 0:
    faulthandler.dump_traceback_later(100, exit=True)
    call()
    os._exit(7)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_a_kernel_is_compiled():
    assert run(FORKED, KULLBACK_ENGINE="jit") == "7\n"


def test_kernels_compiled_for_themselves_return_what_they_say():
    """Of others Numba finds the type of the result; of these it is told, before it sees them."""
    from kullback.kernels import entries  # noqa: F401 (which imports all)
    from kullback.kernels.separate import UNITS
    from numba import types

    assert len(UNITS) > 50
    for name, (function, result) in UNITS.items():
        code = ast.parse(textwrap.dedent(inspect.getsource(function)))
        returns = [node for node in ast.walk(code) if isinstance(node, ast.Return) and node.value is not None]
        assert (result is types.none) == (not returns), name


# ------------------------------------------------------------------------------------------------------ workers


@pytest.mark.integration
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_the_workers_of_a_torch_data_loader(tmp_path, method):
    """Used in the parent first, then in two workers, then in the parent again."""
    script = tmp_path / "load.py"
    script.write_text(f"""
import warnings
import numpy as np, torch
import kullback as kb
warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, on any fork with threads

def row(index):
    return torch.from_numpy(np.random.default_rng(index).normal(size=(2, 40, 5000)))

class Divergences(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        p, q = row(index)
        return torch.as_tensor(kb.kl_divergence(p, q, given="logits", num_threads=2))

if __name__ == "__main__":
    expected = [Divergences()[index] for index in range(8)]
    loader = torch.utils.data.DataLoader(Divergences(), batch_size=2, num_workers=2, multiprocessing_context="{method}")
    got = torch.cat(list(loader))
    assert torch.equal(got, torch.stack(expected))
    assert torch.equal(Divergences()[3], expected[3])
    print("done")
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout == "done\n", done.stderr
