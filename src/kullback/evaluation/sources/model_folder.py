"""The end of a model as its folder has it: config.json and safetensors, whole or in shards with an index."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kullback.evaluation.sources.base import Source, float_dtype
from kullback.evaluation.sources.families import FAMILIES, HEADS, PREFIXES, Family
from kullback.evaluation.sources.files import ByteReader
from kullback.evaluation.sources.output_layer import Norm, OutputLayer
from kullback.evaluation.sources.places import file_at, names_in
from kullback.evaluation.sources.safetensors import DTYPES, Tensor, open_safetensors, parse_header

_LONGEST_JSON = 1 << 26
_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
# what lies beside weights that are no plain numbers
_QUANTISED = ("weight_scale", "weight_scale_inv", "scales", "qweight", "weight_packed")


def read_model(path: str) -> OutputLayer | None:
    """The end of the model in a folder; None if the folder has no config.json, or it is a file."""
    names = names_in(path)
    if names is None or _CONFIG not in names:
        return None
    path = path.rstrip("/")
    config = file_at(f"{path}/{_CONFIG}")
    settings = _settings(config)
    family = FAMILIES.get(settings["model_type"])
    if family is None:
        raise ValueError(
            f"{config.path}: of model_type {settings['model_type']!r}, whose end is not known; known are "
            f"{', '.join(FAMILIES)}. If its logits are normalised states times its output weights and no more, give a "
            'file that holds these weights alone as lm_head (--lm-head), and norm="applied" (--norm applied)'
        )
    tensors = _Tensors(path, names)
    name = next((f"{head}.weight" for head in HEADS if f"{head}.weight" in tensors.where), None)
    tied = name is None
    if name is None:
        if not settings.get("tie_word_embeddings", family.tied):
            raise ValueError(f"{path}: no tensor {HEADS[0]}.weight, and its embeddings are not the output weights")
        name = tensors.only(family.embeddings)
    weights = tensors.matrix(name)
    bias = tensors.vector(f"{HEADS[0]}.bias" if tied else name.removesuffix("weight") + "bias", weights.shape[0])
    norm = _norm(family, tensors, settings, weights.shape[1], config.path)
    cap = settings.get("final_logit_softcapping", family.cap) if family.softcap else None
    cap = None if cap is None else _number(cap, f"{config.path}: final_logit_softcapping")
    scale, divided = 1.0, False
    known: dict[str, Any] = {"model": path, "model_type": settings["model_type"], "normalisation": norm.kind}
    known |= {"eps": norm.eps, "tied": tied, "bias": bias is not None, "final_logit_softcapping": cap}
    if family.scale is not None:
        key, default, divided = family.scale
        scale = known[key] = _number(settings.get(key, default), f"{config.path}: {key}")
    added = None if bias is None else bias.astype(np.float32)
    return OutputLayer(weights, norm, added, scale, divided, cap, known, [config.stamp(), *tensors.stamps()])


def refuse_part_of_model(path: str) -> None:
    """ValueError if a file of weights lies beside a config.json that says that they alone do not make the logits."""
    folder = path.rpartition("/")[0] or "."
    if "://" in path or _CONFIG not in (names_in(folder) or ()):
        return
    try:
        settings = _settings(file_at(f"{folder}/{_CONFIG}"))
    except (ValueError, OSError):
        return
    family = FAMILIES.get(settings["model_type"])
    if family is None:
        return
    more = {"final_logit_softcapping": settings.get("final_logit_softcapping", family.cap) if family.softcap else None}
    if family.scale is not None:
        key, default, _ = family.scale
        more[key] = None if settings.get(key, default) == 1 else settings.get(key, default)
    said = [f"{name} {value}" for name, value in more.items() if value is not None]
    if said:
        raise ValueError(
            f"{path}: weights of a {settings['model_type']} model, whose logits are more than the product with them "
            f"({', '.join(said)} in {folder}/{_CONFIG}): give the folder as lm_head (--lm-head)"
        )


def _settings(file: ByteReader) -> dict[str, Any]:
    """config.json, for models of text and images the part about text; `model_type` is that of the whole."""
    try:
        if file.size > _LONGEST_JSON:
            raise ValueError(f"{file.size} bytes")
        found = json.loads(file.read(file.size))
        found = {**(found.get("text_config") or {}), **found}
        if not isinstance(found.get("model_type"), str):
            raise ValueError("it names no model_type")
        return found
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{file.path}: not a model's config.json ({str(error)[:80]})") from None


def _norm(family: Family, tensors: _Tensors, settings: dict[str, Any], width: int, config: str) -> Norm:
    name = tensors.only(family.norm_names)
    weight = tensors.vector(name, width)
    assert weight is not None
    key, default = family.eps
    if family.norm == "RMSNorm (1 + w)":
        weight = 1 + weight
    bias = tensors.vector(name.removesuffix("weight") + "bias", width)
    return Norm(family.norm, weight, bias, _number(settings.get(key, default), f"{config}: {key}"))


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} is {value!r}, expected a number above 0")
    return float(value)


class _Tensors:
    """The tensors of a model by name, and the file that each lies in; only files that are asked for are opened."""

    def __init__(self, folder: str, names: list[str]) -> None:
        self._folder = folder
        self._opened: dict[str, tuple[ByteReader, dict[str, Tensor]]] = {}
        if _INDEX in names:
            self.where = self._index(file_at(f"{folder}/{_INDEX}"))
            return
        files = [name for name in names if name.endswith(".safetensors")]
        if "model.safetensors" in files:
            files = ["model.safetensors"]
        if len(files) != 1:
            raise ValueError(f"{folder}: {len(files)} files of weights; expected model.safetensors, or {_INDEX}")
        self.where = dict.fromkeys(self._open(files[0])[1], files[0])

    def _index(self, file: ByteReader) -> dict[str, str]:
        try:
            if file.size > _LONGEST_JSON:
                raise ValueError(f"{file.size} bytes")
            found = json.loads(file.read(file.size))["weight_map"]
            if not all(isinstance(x, str) and "/" not in x for x in found.values()):
                raise ValueError("names of files expected in its weight_map")
            return dict(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file.path}: not an index of weights ({str(error)[:80]})") from None

    def _open(self, name: str) -> tuple[ByteReader, dict[str, Tensor]]:
        if name not in self._opened:
            file = file_at(f"{self._folder}/{name}")
            self._opened[name] = file, parse_header(file)
        return self._opened[name]

    def only(self, modules: tuple[str, ...]) -> str:
        """The one tensor `weight` of these modules under a prefix."""
        found = [name for p in PREFIXES for m in modules if (name := f"{p}{m}.weight") in self.where]
        if len(found) != 1:
            raise ValueError(f"{self._folder}: {len(found)} tensors called {' or '.join(modules)}.weight, expected one")
        return found[0]

    def matrix(self, name: str) -> Source:
        """Rows of the output weights."""
        beside = [x for s in _QUANTISED if (x := name.removesuffix("weight") + s) in self.where]
        if beside:
            raise ValueError(f"{self._folder}: {name!r} is quantised ({beside[0]!r} lies beside it); expected numbers")
        return open_safetensors(self._open(self.where[name])[0], name)

    def vector(self, name: str, length: int) -> NDArray[np.float64] | None:
        """A tensor (length,), or None if there is none of that name."""
        if name not in self.where:
            return None
        file, tensors = self._open(self.where[name])
        what = f"{file.path}: tensor {name!r}"
        tensor = tensors.get(name)
        if tensor is None or tensor.shape != (length,):
            raise ValueError(f"{what} has shape {tensor and tensor.shape}, expected ({length},)")
        dtype = float_dtype(DTYPES.get(tensor.dtype, tensor.dtype), what)
        if tensor.stop - tensor.start != length * dtype.itemsize:
            raise ValueError(f"{what} has {tensor.stop - tensor.start} bytes, expected {length * dtype.itemsize}")
        data = file.read(tensor.stop - tensor.start, tensor.start)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(np.float64)

    def stamps(self) -> list[Any]:
        """What tells the files opened from others."""
        return [file.stamp() for file, _ in self._opened.values()]
