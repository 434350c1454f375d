"""Logits that come through a pipe while they are written: the formats that can, and errors for what cannot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from kullback.evaluation.sources import arrow, hdf5, llama_cpp, npy, npz, parquet_footer, safetensors
from kullback.evaluation.sources.base import Source
from kullback.evaluation.sources.llama_cpp import LlamaCppLogits
from kullback.evaluation.sources.npy import open_npy
from kullback.evaluation.sources.pipes import STDIN, StreamFile, is_stream
from kullback.evaluation.sources.safetensors import open_safetensors

__all__ = ["STDIN", "StreamFile", "is_stream", "open_stream", "open_streams", "refuse_streams"]

# formats that are read from several places, or backwards
_SEEKING = {
    npz.MAGIC: "a zip archive (.npz)",
    hdf5.MAGIC: "HDF5",
    parquet_footer.MAGIC: "Parquet",
    arrow.IPC_MAGIC: "Arrow",
    arrow.STREAM_MAGIC: "Arrow",
}


def open_streams(stack: ExitStack, paths: Sequence[Any]) -> dict[int, StreamFile]:
    """The streams among `paths` by their places, all of them open before the first byte of one is waited for."""
    found: dict[int, StreamFile] = {}
    for i, path in enumerate(paths):
        if isinstance(path, Source) or not is_stream(os.fspath(path)):
            continue
        file = StreamFile(os.fspath(path))
        stack.callback(file.close)
        same = next((other.path for other in found.values() if other.identity == file.identity), None)
        if same is not None:
            raise ValueError(
                f"{file.path} and {same} are one stream, which is read once: write it to a file to use it twice"
            )
        found[i] = file
    return found


def open_stream(
    file: StreamFile, names: tuple[str, ...], tensor: str | None, dtype: str | None, salvage: bool
) -> Source:
    """The rows of a stream, as `open_logits` gives those of a file."""
    if salvage:
        raise ValueError(f"{file.path}: `salvage` (--salvage) works on files: a stream does not say what is to come")
    head = file.head(16)
    if head.startswith(npy.MAGIC):
        return open_npy(file, dtype)
    if head.startswith(llama_cpp.MAGIC):
        return LlamaCppLogits(file)
    if len(head) > 8 and safetensors.recognised(file):
        return open_safetensors(file, tensor, names)
    seeking = next((name for magic, name in _SEEKING.items() if head.startswith(magic)), None)
    if seeking is not None:
        raise ValueError(
            f"{file.path}: {seeking}, which is read from several places and cannot come through a pipe; write it to a "
            "file, or send .npy, safetensors or a llama.cpp dump"
        )
    raise ValueError(
        f"{file.path}: begins with {head[:8]!r}, which no reader of streams knows; expected .npy, safetensors or a "
        "llama.cpp dump"
    )


def refuse_streams(sources: Sequence[Any], why: str) -> None:
    """ValueError if one of the paths or sources is a stream: `why` names what needs a file."""
    for source in sources:
        if isinstance(source, Source):
            streaming = bool(source.streams())
        elif isinstance(source, (str, os.PathLike)):
            streaming = is_stream(os.fspath(source))
        else:  # an array, or nothing
            streaming = isinstance(source, StreamFile)
        if streaming:
            path = os.fspath(getattr(source, "path", source))
            raise ValueError(f"{path} is a stream, which is read once and in order: {why}")
