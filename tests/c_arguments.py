"""The arguments of the functions of kullback.h by their names."""

import re
from dataclasses import replace

from kullback.kernels import contract


def parameters(function):
    """Names of a function's parameters."""
    text = re.sub(r"/\*.*?\*/", "", contract.declarations(), flags=re.DOTALL)
    listed = re.search(rf"\b{function}\(([^)]*)\)", text)[1]
    return [re.search(r"\w+$", parameter.strip())[0] for parameter in listed.split(",")]


def with_argument(call, name, value):
    """The call with one argument exchanged."""
    changed = list(call.arguments)
    changed[parameters(call.function).index(name)] = value
    return replace(call, arguments=changed, about=f"{name} = {value}")
