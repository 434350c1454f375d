"""The rules of the house: who may import whom, how long a file may be, what an import loads."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback._engine import upstairs
from kullback._engine.optional import EXTRAS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "kullback"
PACKAGE_FILES = sorted(PACKAGE.rglob("*.py"))
KERNEL_FILES = sorted((ROOT / "kernels").rglob("*.py"))

LONGEST = 450
LONGEST_OF_PACKAGE = 300  # of a room of the package or of the kernels
LONGEST_FUNCTION = 60  # lines of a body, its docstring aside
MOST_PARAMETERS = 8  # of a kernel
MANY_PARAMETERS = {
    "generator.rows": "called from Python as entries are from C, a user's function in it: addresses and numbers alone",
}
# A longer file needs a reason here, and leaves the table when it has become shorter.
LONG_FILES = {
    "src/kullback/__init__.py": "the public names three times: for users, type checkers and lazy imports",
    "src/kullback/distillation/losses.py": "the losses by name and the function that takes them, half of it docstrings",
    "src/kullback/integrations/torch.py": "every face for autograd, which has operators of its own to register first",
    "src/kullback/parametric/cross_family.py": "a catalogue of closed forms, one pair of families after the other",
    "src/kullback/rlhf/estimators.py": "two tables of what six libraries do, in docstrings, are half of it",
    "tests/reference.py": "one formula after the other: a catalogue, read by looking up",
    "tests/test_samples.py": "one estimator after the other against the same simulated samples",
}


def module_name(path):
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE_FILES}


def imports(path):
    """Modules a file imports; lazy imports by a literal name and those for type checkers alone count too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            named = {f"{module}.{alias.name}" for alias in node.names}
            found |= named & MODULES.keys()
            if not named <= MODULES.keys():
                found.add(module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            literal = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
            if isinstance(literal, ast.Constant):
                found.add(literal.value.rstrip("."))
    return found


FLOORS = (
    {"kernels", "_compiled"},
    {"_engine"},
    {"rows", "tokens"},
    {"comparison", "rlhf", "distillation", "parametric", "closed_form", "samples"},
    {"drift", "evaluation", "rollouts"},
    {"integrations", "cli"},  # thin faces over everything; nobody imports them
)


# Packages whose rooms others enter directly, with the reason.
WITHOUT_DOOR = {
    "evaluation": "a command loads the rooms it needs: readers of formats nobody asked for cost nothing",
    "integrations": "each face needs a library of its own",
}


def package(module):
    """The package of a module, or the module of that name beside the packages; "" for kullback itself."""
    return (*module.split("."), "")[1]


def floor(module):
    """On which floor of the house a module lives; imports go down, or along the same floor."""
    return next(number for number, packages in enumerate(FLOORS) if package(module) in packages)


def test_every_package_has_a_floor():
    assert {package(module) for module in MODULES} - {""} == set.union(*FLOORS) - FLOORS[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    if module == "kullback":  # the list of public names reaches every floor
        return
    for imported in imports(MODULES[module]):
        if imported.startswith("kullback.") and package(imported) != package(module):
            assert floor(imported) <= floor(module), f"{module} imports {imported}"
            assert floor(imported) < len(FLOORS) - 1, f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_packages_are_entered_by_their_front_doors(module):
    """`from kullback.rows import kl_divergence`; of the engine also whole modules, as in `calls.compare`."""
    if module == "kullback":  # it knows which room a name is in that is loaded when first used
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("kullback."):
            continue
        entered = package(node.module)
        if entered in (package(module), *WITHOUT_DOOR, *FLOORS[0]):
            continue
        assert node.module == f"kullback.{entered}", f"{module} imports from {node.module}"
        rooms = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
        assert entered == "_engine" or not rooms, f"{module} imports {rooms}"


def test_only_the_engine_knows_the_kernels():
    knowing = {
        module
        for module, path in MODULES.items()
        for imported in imports(path)
        if package(imported) in FLOORS[0] and imported.startswith("kullback.")
    }
    # _engine.native hands the header and the addresses of the functions to C; it calls none
    tables = {"kullback._engine.views": "kullback.kernels.storage", "kullback._engine.calls": "kullback.kernels.kinds"}
    assert knowing - {"kullback._engine.native", *tables} == {"kullback._engine.loading"}
    # storage types and kinds of divergence are data, which the package has from the kernels
    for module, table in tables.items():
        assert {name for name in imports(MODULES[module]) if package(name) in FLOORS[0]} == {table}
    # contract.py has what it needs of both in functions
    plain = {"storage.py": set(), "kinds/__init__.py": {"..contract"}, "contract.py": {"numba", "numpy"}}
    for name, more in plain.items():
        assert imports(ROOT / "kernels" / name) - set(sys.stdlib_module_names) == more


@pytest.mark.parametrize("path", KERNEL_FILES, ids=lambda path: path.stem)
def test_kernels_import_nothing_of_ours(path):
    assert not any(name.startswith(("kullback", "kernels")) for name in imports(path))


def test_kernels_name_what_they_keep():
    """No numbered slots: what is kept of a row or a pair has fields (records.py). LANES is a distance, not a slot."""
    slots = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for path in KERNEL_FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and isinstance(node.value, ast.Name)
        if node.slice.id.isupper() and node.value.id.islower() and node.slice.id != "LANES"
    ]
    assert not slots


def test_what_is_made_upstairs_is_few_and_said_in_one_place():
    """Objects of lower floors offer pages and tables; no other call goes up, and `kullback` alone knows where to."""
    names, saying = set(), set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("made_upstairs", "say_where"):
                names |= {ast.literal_eval(node.args[0])} if ast.unparse(node.func) == "made_upstairs" else set()
                saying |= {module} if ast.unparse(node.func) == "say_where" else set()
    assert saying == {"kullback"}
    assert names == upstairs._HOMES.keys() == {"render_report", "write_report", "table_of"}
    assert all(callable(upstairs.made_upstairs(name)) for name in names)


def test_modules_do_not_import_each_other_in_circles():
    """Not in functions and not for types either; a front door stands for all that it hands out."""
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module} - {"kullback"}
        for module, path in MODULES.items()
        if module != "kullback"
    }
    graphlib.TopologicalSorter(graph).prepare()


# Rooms that a call goes through, in this order: from keywords and arrays to one error or the result.
STOPS = ("rows", "keywords", "arrays", "long_rows", "calls", "engine", "outputs")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: kb.kl_divergence(x, x[::-1], given="logits"),
        lambda x: kb.entropy(x, given="logits", base=2),
        lambda x: kb.jensen_shannon_divergence(x, x[::-1], given="logits", temperature=2.0),
    ],
    ids=["kl_divergence", "entropy", "jensen_shannon_divergence"],
)
def test_a_call_makes_its_stops_and_never_turns_back(call):
    """Keywords, one look at the arrays, the kernel, the result: no function calls into a room left before."""
    x = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    call(x)  # the first one loads the engine
    entered = ["rows"]

    def room(frame):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return path.stem if path.parent.name == "_engine" else path.parent.name
        return None

    def see(frame, event, _):
        if event == "call" and room(frame) not in (None, room(frame.f_back), entered[-1]):
            entered.append(room(frame))

    sys.setprofile(see)
    try:
        call(x)
    finally:
        sys.setprofile(None)
    assert entered == [room for room in STOPS if room in entered]
    assert {"rows", "keywords", "arrays", "engine", "outputs"} <= set(entered)


def test_a_class_has_a_name_of_its_own():
    """What two packages need is written once, in the lower one; but for the faces of libraries, which have theirs."""
    where = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and package(module) != "integrations":
                where.setdefault(node.name, []).append(module)
    assert not {name: modules for name, modules in where.items() if len(modules) > 1}


def test_the_reference_imports_numpy_only():
    standard = set(sys.stdlib_module_names)
    assert imports(ROOT / "tests" / "reference.py") - standard == {"numpy"}


def test_import_loads_numpy_only():
    program = "import sys; before = set(sys.modules); import numpy, kullback; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    tops = {name.partition(".")[0] for name in loaded.split()}
    allowed = {"numpy", "kullback"}
    third_party = {"numba", "llvmlite", "cffi", "scipy", "rich", "safetensors", "torch", "jax", "pandas", "pyarrow"}
    assert allowed <= tops
    assert not tops & (third_party | {"polars", "narwhals", "h5py", "zarr", "ml_dtypes", "fsspec", "yaml"})
    assert {
        name
        for name in loaded.split()
        if name.startswith(("kullback.evaluation", "kullback.kernels", "kullback._engine.native"))
    } == {
        "kullback.kernels",
        "kullback.kernels.contract",
        "kullback.kernels.kinds",
        "kullback.kernels.storage",
    }


def source_files():
    folders = ("src", "kernels", "tests", "benchmarks", "docs")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_files_stay_short():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()
    }
    limits = {name: LONGEST_OF_PACKAGE if name.startswith(("src/", "kernels/")) else LONGEST for name in lengths}
    long = {name for name, length in lengths.items() if length > limits[name]}
    assert not long - LONG_FILES.keys(), "split the file, or say in LONG_FILES why it should be long"
    assert not LONG_FILES.keys() - long, "LONG_FILES names files that are short again"


def statements(function):
    """Lines of a function's body without its docstring: a signature and its documentation are read apart."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_stay_short():
    long = [
        f"{module}.{node.name}: {statements(node)}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and statements(node) > LONGEST_FUNCTION
    ]
    assert not long


def kernel_functions():
    """(where it stands, the function) of each kernel, those that are written inside another too."""
    for path in KERNEL_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT / 'kernels').with_suffix('').as_posix()}.{node.name}", node


def by_c(name):
    """Whether a kernel takes what a function of kullback.h takes: an entry and the check of its arguments."""
    return name.startswith(("entries.kullback_", "checks.check_"))


def test_kernels_take_few_parameters():
    """What travels together is one argument: a named tuple or a record (records.py)."""
    many = {
        name: parameters
        for name, node in kernel_functions()
        if (parameters := len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])) > MOST_PARAMETERS
        and not by_c(name)
    }
    assert not many.keys() - MANY_PARAMETERS.keys()
    assert not MANY_PARAMETERS.keys() - many.keys(), "MANY_PARAMETERS names kernels that take fewer now"


def test_kernels_stay_short():
    assert not [name for name, node in kernel_functions() if statements(node) > LONGEST_FUNCTION]


# What serves a row or a pair in lanes that it is told, or says that it cannot, and who may choose it: the ladder; and
# what needs one row in the very lanes that it works in itself.
SERVING = {
    "cumulant_row": set(),
    "normalised_row": set(),
    "direct_row": set(),
    "mass_row": set(),
    "mass_statistics": set(),
    "ordered_log_row": set(),
    "capped_row": set(),
    "far_row": set(),
    "log_row": {"kernels/normalised.py", "kernels/kinds/cross_entropy.py"},
}


def test_one_place_chooses_the_kernel_of_a_row():
    """Two that chose would have two rules, and one divergence two values."""
    for name, told in SERVING.items():
        importing = {
            path.relative_to(ROOT).as_posix()
            for path in KERNEL_FILES
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
        }
        assert importing == (told or {"kernels/ladder.py"}), name


def test_every_package_is_installed():
    """setuptools takes the packages pyproject.toml lists and no other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert found | {"kullback.kernels", "kullback.kernels.kinds"} == set(settings["packages"])


def test_all_is_every_extra_that_users_want():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")
    named = everything.removeprefix("kullback[").removesuffix("]").split(",")
    # torch, which `hf` brings, is larger than all the rest: who runs models asks for it
    assert set(named) == extras.keys() - {"test", "lint", "docs", "bench", "hf"}


def test_optional_libraries_are_those_of_the_extras():
    """One table says which extra brings what; else only the choice of the engine and the
    faces of torch and JAX, which are nothing without theirs, catch an ImportError."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    brought = {extra: {re.split(r"[\[<>=]", need)[0] for need in needs} for extra, needs in extras.items()}
    for module, extra in EXTRAS.items():
        assert {"yaml": "pyyaml"}.get(module, module) in brought[extra], module
    catching = {path.stem for path in PACKAGE_FILES if "except ImportError" in path.read_text(encoding="utf-8")}
    assert catching == {"loading", "optional", "torch", "jax"}


def test_nothing_is_left_unfinished():
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in source_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(f"{mark}:" in line or f"# {mark}" in line for mark in ("TO" + "DO", "FIX" + "ME", "XX" + "X"))
    ]
    assert not left
