"""Whether and how files can be compared, found out before any of the work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypedDict, Unpack

from kullback._engine import Given
from kullback.evaluation.candidates import names_of
from kullback.evaluation.layout import Output, Paragraph
from kullback.evaluation.own_options import resolved
from kullback.evaluation.plan import Job, Path
from kullback.evaluation.reading import CHUNK_BYTES
from kullback.evaluation.sources import Dump, Source, open_each
from kullback.evaluation.sources.base import ReaderOptions
from kullback.evaluation.sources.reference import Reference
from kullback.evaluation.sources.streams import refuse_streams
from kullback.evaluation.terminal import print_facts
from kullback.evaluation.tokens import common_rows, common_vocabulary

__all__ = ["FilesFit", "fit", "print_fit"]


class FilesFit(TypedDict):
    """What `fit` found, ready for JSON."""

    files: list[dict[str, Any]]  # facts about each that can be read
    comparable: bool  # as they are, with the options given
    problems: list[str]
    remarks: list[str]
    command: str | None  # that compares them, with what it needs; None where no option helps


def fit(
    paths: Sequence[Path],
    *,
    given: Given = "logits",
    tokens: Path | None = None,
    vocab_size: int | None = None,
    read: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Unpack[ReaderOptions],
) -> FilesFit:
    """Whether the first of some files can be compared with the others, and what stands in the way.

    Parameters
    ----------
    paths : sequence of path-like
        The base and its candidates.
    given, tokens, vocab_size, read, **options
        As in `compare_candidates`.

    Returns
    -------
    FilesFit

    Raises
    ------
    ValueError
        If one is a stream, whose first rows would be gone, or `read` names none of them.
    OSError
        If one cannot be read.
    """
    names = [os.fspath(path) for path in paths]
    refuse_streams(names, "its first rows would be gone; look at files")
    own = resolved(read, names_of(names[1:]))
    with ExitStack() as stack:
        sources, problems = _opened(stack, names, own, options)
        found = FilesFit(
            files=[s.facts() for s in sources], comparable=False, problems=problems, remarks=[], command=None
        )
        if problems:
            return found
        p, *qs = sources
        padded = [] if vocab_size is not None else _told(lambda: common_vocabulary(p, qs, None))
        width = min(source.shape[1] for source in sources) if padded else vocab_size
        jobs: list[Job] = []
        problems += _told(lambda: common_rows(p, qs)) or _told(
            lambda: jobs.append(Job.of(p, qs, given=given, tokens=tokens, vocab_size=width))
        )
        problems += padded
        for job in jobs:
            found["remarks"] = _remarks(job.looked_at(None, CHUNK_BYTES), sources)
            found["command"] = _command(names, {"given": given, "tokens": tokens, "vocab_size": width}, read, options)
        found["comparable"] = not problems
        return found


def _opened(
    stack: ExitStack, names: list[str], own: Sequence[ReaderOptions], options: ReaderOptions
) -> tuple[list[Source], list[str]]:
    """All files, or those that can be read and what is wrong with the others."""
    try:
        return open_each(stack, names, own, **options), []
    except (ValueError, ImportError) as error:
        together = str(error)
    sources: list[Source] = []
    problems: list[str] = []
    for name, mine in zip(names, own, strict=True):
        problems += _told(partial(_open_into, sources, stack, name, mine, options))
    return sources, problems or [together]


def _open_into(sources: list[Source], stack: ExitStack, name: str, own: ReaderOptions, options: ReaderOptions) -> None:
    try:
        sources += open_each(stack, [name], [own], **options)
    except ValueError:
        if not options.get("tensor"):
            raise
        # a name for all is for those that have names; with the others a file without names may stand
        others: Any = {option: x for option, x in options.items() if option != "tensor"}
        (source,) = open_each(stack, [name], [own], **others)
        if source.array is not None:
            raise
        sources.append(source)


def _told(check: Callable[[], object]) -> list[str]:
    """What an error says, if there is one."""
    try:
        check()
    except (ValueError, ImportError) as error:
        return [str(error)]
    return []


def _remarks(job: Job, sources: Sequence[Source]) -> list[str]:
    """What the figures will be of, what will be missing, and what looks wrong."""
    found = []
    told = [source.path for source in sources if source.tokens is not None]
    if job.tokens is None:
        found.append("no file has target tokens: without --tokens FILE no perplexities, Δp and log-ratios")
    else:
        found.append(f"target tokens: of {', '.join(told) or job.tokens_path}")
    known = [source for source in sources if source.groups is not None]
    if job.groups is None:
        found.append("no file knows documents: errors are those of independent tokens")
    else:
        least = sorted(known, key=lambda source: source.by_shard)[0]
        found.append(f"chunks or documents: {len(set(job.groups.tolist()))}, of {least.path}")
    dumps = [source.path for source in sources if isinstance(source, Dump)]
    if dumps:
        found.append(f"16-bit codes, which end 16 nats or so under a maximum: {', '.join(dumps)}; KL is a lower bound")
    if isinstance(sources[0], Dump) and len(dumps) == 1 and job.plan.vocab == sources[0].shape[1]:
        found.append("--convention llama.cpp gives what llama-perplexity --kl-divergence prints too")
    if isinstance(sources[0], Reference):
        kept = sources[0].facts()["top_k"]
        found.append(f"{sources[0].path} keeps the likeliest {kept} of a row: KL comes with bounds")
    return found + [f"suspicious: {line}" for line in dict.fromkeys(x for lines in job.remarks for x in lines)]


def _command(
    names: Sequence[str],
    chosen: Mapping[str, Any],
    read: Mapping[str, Mapping[str, Any]] | None,
    options: ReaderOptions,
) -> str:
    """The command line that compares them."""
    words = ["kullback", "compare", *names]
    for name, value in {**chosen, **options}.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False and (name, value) != ("given", "logits"):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for which, own in (read or {}).items():
        for name, value in own.items():
            words += ["--read", f"{which}:{name}" if value is True else f"{which}:{name}={value}"]
    return shlex.join(words)


def print_fit(found: FilesFit) -> None:
    """The files, whether they can be compared, and what is to be known before."""
    out = Output()
    for facts in found["files"]:
        print_facts({name: x for name, x in facts.items() if name not in ("rows_read", "clipped_targets")})
        out.print()
    if found["comparable"]:
        verdict = "They can be compared:"
    else:
        verdict = "They cannot be compared" + (", but parts of them can:" if found["command"] else ":")
    out.print(verdict, bold=True)
    for line in found["problems"] + found["remarks"]:
        out.print(Paragraph(f"- {line}"))
    if found["command"]:
        out.print()
        out.print(f"    {found['command']}")
