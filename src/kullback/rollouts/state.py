"""What a report consists of, as JSON: parts of a job that ran apart are brought together from such files.

Only data goes through: objects of the classes named here, arrays, numbers and text. Nothing of a file is run.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["classes_in", "decoded", "encoded"]


def encoded(value: Any, classes: Iterable[type]) -> Any:
    """`value` as what JSON can hold; TypeError for an object of another class than these."""
    return _encode(value, {kind: kind.__name__ for kind in classes})


def _encode(value: Any, names: dict[type, str]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, np.generic):
        value, kind = value.item(), type(value.item())
        return _encode(value, names)
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [_encode(x, names) for x in value]
    if kind is np.ndarray:
        if value.dtype == object:
            return {"objects": [_encode(x, names) for x in value.tolist()]}
        data = b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    if kind in names:
        fields = list(value) if isinstance(value, tuple) else _attributes(value)
        return {"of": names[kind], "fields": _encode(fields, names)}
    if kind in (tuple, set, frozenset):
        members = sorted(value) if kind is not tuple else value
        return {kind.__name__: [_encode(x, names) for x in members]}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, names), _encode(x, names)] for k, x in value.items()]}
    raise TypeError(f"an object of {kind.__module__}.{kind.__qualname__} cannot be saved")


def _attributes(value: Any) -> dict[str, Any]:
    kind = type(value)
    slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
    return {name: x for name, x in found.items() if not isinstance(getattr(kind, name, None), cached_property)}


def classes_in(value: Any) -> set[type]:
    """The classes of this package that a value consists of."""
    kind, inside = type(value), []
    if isinstance(value, dict):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = list(value)
    ours = kind.__module__.startswith("kullback.")
    if ours and not isinstance(value, tuple):
        inside = list(_attributes(value).values())
    return {found for x in inside for found in classes_in(x)} | ({kind} if ours else set())


def decoded(tree: Any, classes: Iterable[type]) -> Any:
    """What `encoded` was given; ValueError, TypeError or KeyError where it was not."""
    return _decode(tree, {kind.__name__: kind for kind in classes})


def _decode(tree: Any, classes: dict[str, type]) -> Any:
    if isinstance(tree, list):
        return [_decode(x, classes) for x in tree]
    if not isinstance(tree, dict):
        return tree
    if "of" in tree:
        kind, fields = classes[tree["of"]], _decode(tree["fields"], classes)
        if issubclass(kind, tuple):
            return kind(*fields)
        made = kind.__new__(kind)
        for name, x in fields.items():
            object.__setattr__(made, name, x)
        return made
    ((tag, body),) = tree.items()
    if tag == "dict":
        return {_decode(k, classes): _decode(x, classes) for k, x in body}
    if tag == "float":
        return float(body)
    if tag == "array":
        dtype = np.dtype(body[0])
        if dtype.hasobject:
            raise ValueError("an array of objects")
        return np.frombuffer(b64decode(body[2], validate=True), dtype).reshape(body[1]).copy()
    members = [_decode(x, classes) for x in body]
    if tag == "objects":
        found = np.empty(len(members), object)
        found[:] = members
        return found
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[tag](members)
