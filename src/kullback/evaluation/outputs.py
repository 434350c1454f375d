"""Files that are written: checked before the work, made under a name of their own, renamed when they are whole."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from kullback.evaluation.marks import is_table
from kullback.evaluation.sources import SHARD_SUFFIXES

__all__ = ["GENERATOR", "PART_MARK", "atomic_file", "check_outputs", "named_paths", "show"]

# what our HTML and Parquet files say of themselves
GENERATOR = "kullback"
# what files begin with (after a brace) in which `kullback rollouts --save` keeps a part of a job
PART_MARK = b'"kullback_rollouts_part"'
# names of what the shell has already opened
_STREAMS = ("/dev/std", "/dev/fd/", "/proc/")
_LOG = "the checkpoint"
_ROLLOUTS = {
    "rollouts", "missing_pieces", "left_out", "audit", "total", "by", "by_position", "what_if", "worst_sequences",
    "worst_tokens",
}  # fmt: skip
_LONGEST_HEADER = 1 << 20  # of a table of tokens, in bytes
# a result has some 100 kB a candidate; what is larger is not read to find out whether it is one
_LARGEST_RESULT = 64 << 20

Path = str | os.PathLike[str]


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Iterable[Path], force: bool = False, log: Path | None = None
) -> None:
    """Refuse, before hours of work, outputs that could not be written after them or would destroy something.

    Parameters
    ----------
    outputs : mapping of str to path
        By the option that names them; None is left out, and "-" of "--json", which alone goes to standard output.
    inputs : iterable of path
        Files, folders and URLs that are read. No output may be one of them or lie among the shards of a folder.
    force : bool
        Whether an existing file that kullback did not write may be replaced.
    log : path, optional
        A checkpoint: it may exist, but is neither an output nor an input.
    """
    given = [*outputs.items(), (_LOG, log)]
    named = [(option, os.fspath(path)) for option, path in given if path is not None]
    named = [(option, path) for option, path in named if (option, path) != ("--json", "-")]
    for option, path in named:
        if not path:
            raise ValueError(f"{option} is empty, expected the name of a file")
        if path == "-":
            raise ValueError(f"{option} is -, expected the name of a file; only --json goes to standard output")
    taken: dict[Any, str] = {}
    for option, path in named:
        if is_stream(path):
            continue
        if os.path.isdir(path):
            raise ValueError(f"{option} is {path}, a folder; expected the name of a file in it")
        real = os.path.realpath(path)
        for identity in _identities(real):
            if identity in taken:
                raise ValueError(f"{option} and {taken[identity]} are one file, {path}; expected two names")
            taken[identity] = option
    reading = [os.fspath(path) for path in inputs]
    for option, path in named:
        if is_stream(path):
            continue
        for source in reading:
            _refuse_input(option, path, source)
        if option != _LOG or not os.path.exists(path):
            _check_folder(path)
        if not force and option != _LOG and os.path.exists(path) and not is_ours(path):
            raise ValueError(
                f"{option}: {path} exists and is no output of kullback; give another name, or --force to replace it"
            )


def named_paths(facts: Any) -> list[str]:
    """The files that facts about sources, or all there is about a job, name as what was read."""
    if isinstance(facts, list):
        return [name for x in facts for name in named_paths(x)]
    if not isinstance(facts, dict):
        return []
    return [
        name for key, x in facts.items() for name in ([x] if key == "path" and isinstance(x, str) else named_paths(x))
    ]


def is_stream(path: str) -> bool:
    """Whether it is a device, a pipe or an open descriptor, written as it is."""
    if path.startswith(_STREAMS):
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _identities(path: str) -> list[Any]:
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, (status.st_dev, status.st_ino)]


def _refuse_input(option: str, path: str, source: str) -> None:
    """ValueError if writing `path` would replace the source, or a part of it."""
    source = source.removeprefix("file://").removeprefix("local://")  # to fsspec they are local files
    if "://" in source or not os.path.exists(source):
        return
    mine = set(_identities(os.path.realpath(path)))
    if mine & set(_identities(os.path.realpath(source))):
        raise ValueError(f"{option} is {path}, which is read as an input; an output never replaces one")
    if not os.path.isdir(source):
        return
    inside = os.path.realpath(path).startswith(os.path.join(os.path.realpath(source), ""))
    inside = inside or _holds(source, _identities(path)[1:])
    if inside and (path.endswith(SHARD_SUFFIXES) or (os.path.exists(path) and not is_ours(path))):
        raise ValueError(f"{option} is {path}, a part of the input {source}; an output never replaces one")


def _holds(folder: str, identities: list[Any]) -> bool:
    """Whether one of these files is in the folder, perhaps by a link."""
    if not identities:
        return False
    with os.scandir(folder) as members:
        for member in members:
            with suppress(OSError):  # a link to nowhere
                status = member.stat()
                if (status.st_dev, status.st_ino) in identities:
                    return True
    return False


def _check_folder(path: str) -> None:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ValueError(f"{path}: no file can have this name ({error.strerror})") from None
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: there is no folder {os.path.dirname(path) or folder}")
    try:  # permissions do not tell of read-only file systems, nor do they bind root
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{path}: the folder cannot be written to ({error.strerror})") from None


# what results and tables of tokens consist of: a file with anything else has been worked on
_RESULT = frozenset({
    "tokens", "undefined_rows", "ignored_tokens", "kl", "reverse_kl", "cross_entropy", "entropy_p", "entropy_q",
    "log_ratio", "delta_prob", "acceptance", "same_top1", "perplexity_p", "perplexity_q", "perplexity_ratio", "unit",
    "log_prob_correlation",
})  # fmt: skip
_RESULT_MAY_HAVE = frozenset({
    "without_infinite", "by_confidence", "by_position", "null_control", "worst_tokens", "clipping", "jensen_shannon",
    "top_k_agreement", "llama_cpp", "bounds", "p", "q", "vocab_size", "rows", "given", "method", "warnings",
    "missing_rows", "name", "by", "labels", "size",
})  # fmt: skip
_COLUMN = re.compile(
    "candidate|row|group|position|token|ignored|kl(_lower|_upper)?|reverse_kl|acceptance(_lower)?|rest_p|half_width|jensen_shannon|"
    r"entropy_[pq]|top1_[pq]|top_prob_p|label(\..*)?|log_prob_[pq]|log_ratio|clipped_(mass|target)_[pq]|top[0-9]+_(overlap|ordered|holds)|"
    "llama_cpp_(nll_q|nll_base|kld|delta_p|same_top)"
)


def is_ours(path: str) -> bool:
    """Whether the file is a result, a report or a table of tokens that kullback wrote, or is empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
            size = os.fstat(file.fileno()).st_size
            if not head:
                return True
            if head.startswith(b"PAR1"):
                return _is_our_parquet(path)
            if head.startswith(b"<!doctype html>"):
                return f'<meta name="generator" content="{GENERATOR}'.encode() in head
            if head.startswith(b"{" + PART_MARK) or is_table(path):
                return True
            if head.startswith(b"<?xml") and b'<testsuites name="kullback"' in head:
                return True
            if head.startswith(b'"candidate",'):
                header, _, rest = head.partition(b"\n")
                header += b"" if rest else file.readline(_LONGEST_HEADER)
                return _are_our_columns(next(csv.reader([header.decode()])))
            if head.startswith(b"{") and size <= _LARGEST_RESULT:
                return _is_our_result(json.loads(head + file.read()))
    except (OSError, ValueError, RecursionError):
        pass
    return False


def _is_our_result(tree: Any) -> bool:
    several = tree.keys() - {"differences_by", "verdict"}
    if several == {"p", "candidates", "differences"} and isinstance(tree["candidates"], list):
        return all(isinstance(one, dict) and _is_our_result(one) for one in tree["candidates"])
    if tree.keys() == _ROLLOUTS:
        return True
    return bool(_RESULT <= tree.keys() <= _RESULT | _RESULT_MAY_HAVE)


def _are_our_columns(names: list[str]) -> bool:
    return names[:2] == ["candidate", "row"] and all(_COLUMN.fullmatch(name) for name in names)


def _is_our_parquet(path: str) -> bool:
    try:
        from pyarrow import parquet

        schema = parquet.read_schema(path)
        return GENERATOR.encode() in (schema.metadata or {}) and _are_our_columns(schema.names)
    except Exception:  # whatever it is, it is no table of ours
        return False


class _Named(io.FileIO):
    """A file whose errors name the path it will have: a full disk is told by its file."""

    def __init__(self, descriptor: int, path: str) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        with naming(self._path):
            return super().write(data)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Let errors of the system name this path."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = path
        raise


def show(write: Callable[[], object]) -> None:
    """Write to standard output; whoever closes a pipe has read enough, and what follows goes on.

    One that was closed from the beginning is an error, as a full disk is: that is an accident more often than a wish,
    for which there is /dev/null.
    """
    if sys.__stdout__ is None:
        raise OSError("standard output is closed: what goes there was not written (> /dev/null if nobody wants it)")
    try:
        with naming("standard output"):
            write()
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def atomic_file(path: str) -> Iterator[BinaryIO]:
    """A file to write that takes its name when all is on disk, or is removed.

    Until then it has a name that nothing else has, so that what a killed process left stands in nobody's way. A
    device or pipe (`/dev/stdout`, `/dev/null`) is written as it is, and a symbolic link keeps leading where it did.
    """
    if os.path.exists(path) and is_stream(path):
        with io.BufferedWriter(_Named(os.open(path, os.O_WRONLY | os.O_TRUNC), path)) as stream:
            yield stream
        return
    path = os.path.realpath(path)
    partial = os.path.join(os.path.dirname(path), f".kullback-{secrets.token_hex(8)}.part")
    with naming(path):
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with io.BufferedWriter(_Named(descriptor, path)) as file:
            yield file
            file.flush()
            with naming(path):
                if os.path.exists(path):  # what replaces a file has its permissions
                    os.fchmod(descriptor, stat.S_IMODE(os.stat(path).st_mode))
                os.fsync(descriptor)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            os.remove(partial)
        raise
