"""Every public name resolves, says what it takes and gives, and its example runs."""

import ast
import doctest
import importlib.metadata
import inspect
import re
import types
from pathlib import Path

import pytest

import kullback as kb
from kullback import rlhf

PACKAGE = Path(kb.__file__).parent
NAMES = {name: getattr(kb, name) for name in kb.__all__} | {name: getattr(rlhf, name) for name in rlhf.__all__}
FUNCTIONS = {name: value for name, value in NAMES.items() if inspect.isfunction(value)}
# Public functions whose use no short example can show.
WITHOUT_EXAMPLE = {"merge_logs": "it needs the checkpoints of several jobs"}
# Documented as another function under another library's name and argument order.
ALIASES = {"selective_log_softmax"}


# Examples that need what `make test` does not install.
NEEDS_MORE = (
    "kullback.evaluation.distributed",
    "kullback.integrations.jax",
    "kullback.integrations.torch",
    "kullback.integrations.tensors",
    "kullback.integrations.torch_ratios",
    "kullback.integrations.transformers",
)


def public_modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield pytest.param(name, marks=pytest.mark.integration if name in NEEDS_MORE else ())


def sections(function):
    """Title -> text of the sections of a numpydoc docstring."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(function) or "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_name_resolves_and_is_listed():
    assert list(kb.__all__) == sorted(kb.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert set(kb.__all__) <= set(dir(kb))
    with pytest.raises(AttributeError, match="no attribute 'kl_divergenze'"):
        kb.kl_divergenze  # noqa: B018


def test_the_version_is_that_of_the_package():
    assert kb.__version__ == importlib.metadata.version("kullback")


def test_type_checkers_see_the_same_names():
    """The imports for type checkers and the table of lazy names say the same."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {}
    for node in (n for n in block.body if isinstance(n, ast.ImportFrom)):
        seen.setdefault(node.module, []).extend(alias.name for alias in node.names)
    assert sorted(seen.pop("kullback")) == sorted(kb._SUBMODULES)
    assert {home: sorted(names) for home, names in seen.items()} == {
        home: sorted(names) for home, names in kb._HOMES.items()
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_and_signature_agree(name):
    function = FUNCTIONS[name]
    signature, found = inspect.signature(function), sections(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    documented = re.findall(r"^\*{0,2}(\w[\w, *]*?)(?: :.*)?$", found.get("Parameters", ""), re.MULTILINE)
    documented = [part.strip("* ") for line in documented for part in line.split(",")]
    unknown = [part for part in documented if part not in signature.parameters]
    assert not unknown, f"{name} documents {unknown}, which it does not take"
    text = inspect.getdoc(function) or ""
    refers = any(f"`{other}`" in text for other in FUNCTIONS if other != name)
    explained = [part.strip("`") for part in re.findall(r"`\w+`", found.get("Parameters", ""))]  # with a neighbour
    missing = [p.name for p in parameters if p.name not in (*documented, *explained)]
    assert not missing or refers, f"{name} neither documents {missing} nor names the function that does"
    if signature.return_annotation not in (None, "None", inspect.Signature.empty) and name not in ALIASES:
        assert parameters == [] or refers or {"Returns", "Yields"} & found.keys(), (
            f"{name} does not say what it returns"
        )
    if name not in WITHOUT_EXAMPLE and parameters:
        assert ">>>" in found.get("Examples", ""), f"{name} has no example"


@pytest.mark.parametrize("name", list(public_modules()))
def test_examples_run(name):
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True, recurse=True)
    runner = doctest.DocTestRunner(verbose=False)
    report = []
    for example in finder.find(module, name):
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_constants_cannot_be_changed_by_accident():
    for name in ("AGGREGATION_MODES", "ESTIMATOR_PRESETS", "RATIO_LEVELS", "REJECTION_KINDS", "WEIGHT_KINDS"):
        assert isinstance(getattr(rlhf, name), types.MappingProxyType)
