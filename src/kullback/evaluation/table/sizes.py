"""How large a model is: bytes, parameters and bits per weight, from the headers of its files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kullback._engine import keywords, library
from kullback.comparison import json_number
from kullback.evaluation.sources.files import LocalFile
from kullback.evaluation.sources.safetensors import parse_header, recognised

__all__ = ["ModelSize", "amount", "by_candidate", "measured", "model_size", "size_of", "size_text"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_AMOUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*(?:([kmgt])(i?)b?|(b?))", re.IGNORECASE)
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.gguf|\.safetensors)")
_SUFFIXES = (".gguf", ".safetensors")
# entries that hold several weights each, or scales and places of them: how many weights cannot be counted
_PACKED = ("U8", "I32", "U32", "I64", "U64", "F4", "F8_E8M0")


class ModelSize(NamedTuple):
    """A model as it lies on disk.

    Attributes
    ----------
    bytes : int
        Of its files.
    parameters : int or None
        Elements of its tensors, where they tell.
    tensor_bytes : int or None
        What the tensors take of the bytes.
    """

    bytes: int
    parameters: int | None = None
    tensor_bytes: int | None = None

    @property
    def bits_per_weight(self) -> float:
        """Of the tensors, or of the whole files where these were not read; NaN without a number of parameters."""
        held = self.bytes if self.tensor_bytes is None else self.tensor_bytes
        return 8 * held / self.parameters if self.parameters else math.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `size_of` reads it."""
        return self._asdict() | {"bits_per_weight": json_number(self.bits_per_weight)}


def amount(text: str, b: int = 1) -> int | None:
    """A number such as 4100000000, 4.1GB or 3.9GiB; None where it is none. `b`: what a B alone counts for."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        return None
    unit, binary = (found[2] or "").lower(), found[3]
    scale = 1024 ** " kmgt".index(unit) if binary else b if found[4] else _UNITS[unit]
    return round(float(found[1]) * scale) if "." in found[1] else int(found[1]) * scale


def model_size(given: str, parameters: int | None = None) -> ModelSize:
    """Of a file, a folder of shards, or bytes in figures.

    Parameters
    ----------
    given : str
        A GGUF or safetensors file (of several shards any one), another file, a folder of them, or a number of bytes.
    parameters : int, optional
        How many the model has, where its files do not say.

    Returns
    -------
    ModelSize

    Raises
    ------
    ValueError
        If it is neither, a shard is missing, or a header cannot be read.
    ImportError
        For GGUF, without the package of that name.
    """
    if not os.path.exists(given):
        found = amount(given)
        if found is None:
            raise ValueError(f"{given}: no such file, and no number of bytes such as 4100000000, 4.1GB or 3.9GiB")
        return ModelSize(found, parameters)
    files = _folder(given) if os.path.isdir(given) else _shards(given)
    parts = [_of_file(path) for path in files]
    counts = [part.parameters for part in parts]
    held = [part.tensor_bytes for part in parts]
    total = parameters if None in counts else sum(filter(None, counts))
    return ModelSize(
        sum(part.bytes for part in parts), total, None if None in held else sum(filter(None, held))
    )  # fmt: skip


def _folder(path: str) -> list[str]:
    names = sorted(name for name in os.listdir(path) if name.endswith(_SUFFIXES) and not name.startswith("."))
    kinds = {name[name.rindex(".") :] for name in names}
    if len(kinds) != 1:
        what = "GGUF and safetensors files" if kinds else "no GGUF or safetensors file"
        raise ValueError(f"{path}: {what} in it, expected the files of one model")
    if kinds == {".gguf"} and len(names) > 1 and len({_stem(name) for name in names}) > 1:
        raise ValueError(f"{path}: several models in it ({', '.join(names[:3])}, ...), expected the file of one")
    return _complete([os.path.join(path, name) for name in names])


def _stem(name: str) -> str:
    found = _SHARD.fullmatch(name)
    return found[1] if found else name


def _shards(path: str) -> list[str]:
    """The file and, where its name says that it is one of several, those beside it."""
    folder, name = os.path.split(path)
    found = _SHARD.fullmatch(name)
    if found is None:
        return [path]
    return _complete([
        os.path.join(folder, other)
        for other in sorted(os.listdir(folder or "."))
        if (one := _SHARD.fullmatch(other)) and (one[1], one[3], one[4]) == (found[1], found[3], found[4])
    ])  # fmt: skip


def _complete(paths: Sequence[str]) -> list[str]:
    """The paths; ValueError where numbered shards are not all there."""
    numbered = [found for path in paths if (found := _SHARD.fullmatch(os.path.basename(path)))]
    wanted = {int(found[3]) for found in numbered}
    if len(wanted) == 1 and len(numbered) == len(paths) and len(paths) != min(wanted):
        raise ValueError(f"{paths[0]}: {len(paths)} of {min(wanted)} shards are there")
    return list(paths)


def _of_file(path: str) -> ModelSize:
    file = LocalFile(path)
    if file.read(4) == b"GGUF":
        return _of_gguf(path, file.size)
    if path.endswith(".gguf"):
        raise ValueError(f"{path}: does not begin as GGUF does")
    if not path.endswith(".safetensors") and not recognised(file):
        return ModelSize(file.size)
    tensors = parse_header(file).values()
    packed = any(tensor.dtype in _PACKED for tensor in tensors)
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    return ModelSize(file.size, None if packed else count, sum(tensor.stop - tensor.start for tensor in tensors))


def _of_gguf(path: str, size: int) -> ModelSize:
    gguf = library("gguf", "the size of a GGUF file")

    class Reader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        """That of the package, which takes what lies beyond the end of a damaged file for nothing, again and again."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *more: Any, **options: Any) -> Any:
            if int(offset) + int(count) > len(self.data):
                raise ValueError("the file ends before its header does")
            return super()._get(offset, dtype, count, *more, **options)

    try:
        tensors = Reader(path).tensors
        count = sum(int(tensor.n_elements) for tensor in tensors)
        held = sum(int(tensor.n_bytes) for tensor in tensors)
    except Exception as error:  # what its reader raises for a damaged file is not documented
        raise ValueError(f"{path}: no GGUF file that can be read ({str(error)[:120]})") from error
    return ModelSize(size, count, held)


def measured(sizes: Mapping[str, Any] | None, parameters: int | None = None) -> dict[str, ModelSize]:
    """Sizes as they are given by name: each a ModelSize, bytes, or what `model_size` takes."""
    return {
        name: given
        if isinstance(given, ModelSize)
        else model_size(str(int(given)) if isinstance(given, int | float) else os.fspath(given), parameters)
        for name, given in (sizes or {}).items()
    }


def size_of(tree: Any) -> ModelSize | None:
    """What a result says of a candidate's size; None where it says nothing that holds."""
    if not isinstance(tree, dict):
        return None
    found: list[Any] = [tree.get(name) for name in ModelSize._fields]
    whole = [isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in found]
    if not whole[0] or not all(ok or x is None for ok, x in zip(whole, found, strict=True)):
        return None
    return ModelSize(*found)


def by_candidate(sizes: Mapping[str, ModelSize], names: list[str]) -> dict[str, ModelSize]:
    """By the full names; one may be given without suffix where that tells."""
    found = {}
    for given, size in sizes.items():
        fitting = [name for name in names if name == given] or [
            name for name in names if os.path.splitext(name)[0] == given
        ]
        if len(fitting) != 1:
            raise ValueError(
                f"a size is given for {keywords.shown(given)}, which "
                f"{'may be any of ' if fitting else 'is none of the candidates '}{', '.join(fitting or names)}"
            )
        found[fitting[0]] = size
    return found


def size_text(count: float) -> str:
    """Bytes with three digits, in powers of a thousand: 4.37 GB."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 99.95 else f"{value:#.3g} {units[0]}"
