"""Functions of other libraries, taken out of their released wheels.

Importing those libraries takes a GPU's worth of dependencies, so the released wheel is downloaded and the one
function, or the one statement of a trainer's method, is taken out of its syntax tree and run as it stands.
"""

import __future__

import ast
import math
import subprocess
import sys
import typing
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

WHEELS = {
    "verl": "verl==0.9.1",
    "trl": "trl==1.16.0",
    "old_trl": "trl==0.11.0",
    "openrlhf": "openrlhf==0.11.2",
    "tunix": "google-tunix==0.1.7",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """source(library, path) -> syntax tree of that file of the library's wheel."""
    wheels = {}

    def parse(library, path):
        if library not in wheels:
            folder = tmp_path_factory.mktemp(library)
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", str(folder), WHEELS[library]], check=True)
            wheels[library] = zipfile.ZipFile(next(folder.glob("*.whl")))
        name = next(n for n in wheels[library].namelist() if n.endswith(path))
        return ast.parse(wheels[library].read(name))

    yield parse
    for wheel in wheels.values():
        wheel.close()


def run(nodes, namespace):
    """Execute statements of a peer's file; annotations are left unevaluated."""
    for node in nodes:
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef | ast.ClassDef):
                part.decorator_list = []
    code = compile(ast.Module(nodes, []), "peer", "exec", __future__.annotations.compiler_flag)
    exec(code, namespace)
    return SimpleNamespace(**namespace)


def named(tree, *names):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name in names]


def statement(tree, kind, start):
    """The first statement whose source starts with `start`."""
    return next(n for n in ast.walk(tree) if isinstance(n, kind) and ast.unparse(n).startswith(start))


def torch_names():
    import torch

    return {"torch": torch, "F": torch.nn.functional, "math": math, "np": np, "Any": typing.Any}


def tensors(*arrays):
    import torch

    return [torch.tensor(a, dtype=torch.float64) for a in arrays]
