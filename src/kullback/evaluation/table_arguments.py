"""The arguments of `kullback table`."""

from __future__ import annotations

import argparse

__all__ = ["STATISTICS", "size_arguments", "table_arguments"]

# those of `kullback.evaluation.table.STATISTICS`, which no other command needs to load
STATISTICS = ("kl.mean", "kl.median", "kl.p90", "kl.p95", "kl.p99", "kl.p99.9", "kl.max")


def table_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "results",
        metavar="RESULT",
        nargs="+",
        help="results of compare --json, of one candidate or several; logs of llama-perplexity --kl-divergence",
    )
    add("--sort", choices=STATISTICS, default="kl.mean", help="what ranks, and is drawn against size (kl.mean)")
    size_arguments(parser)
    add("--markdown", metavar="FILE", help="write the table in Markdown, for pull requests and model cards")
    add("--csv", metavar="FILE", help="write it as CSV, numbers in full")
    add("--json", metavar="FILE", help="write it as JSON; - for standard output, without the table")
    add("--svg", metavar="FILE", help="draw KL against size, with the frontier")
    add("--png", metavar="FILE", help="the same as PNG")
    add(
        "--force",
        action="store_true",
        help="put figures of other rows or another base into one table; let outputs replace files that kullback did "
        "not write (never an input)",
    )


def size_arguments(parser: argparse.ArgumentParser, frontier: bool = False) -> None:
    """How large the candidates are; with `frontier` what is drawn against it, where nothing is ranked by another."""
    add = parser.add_argument
    add(
        "--size",
        metavar="NAME=MODEL",
        type=_size,
        action="append",
        default=[],
        help="how large a candidate is: its GGUF or safetensors file or folder, or bytes (4100000000, 4.1GB, 3.9GiB)",
    )
    add("--parameters", metavar="N", type=_amount, help="parameters (7.6B) of models whose files do not tell")
    if frontier:
        add("--frontier", choices=STATISTICS, default="kl.mean", help="what the report draws against size (kl.mean)")


def _size(text: str) -> tuple[str, str]:
    name, equals, given = text.rpartition("=")
    if not (equals and name and given):
        raise argparse.ArgumentTypeError(f"{text[:80]!r}, expected NAME=FILE, NAME=FOLDER or NAME=BYTES")
    return name, given


def _amount(text: str) -> int:
    from kullback.evaluation.table.sizes import amount

    found = amount(text, 10**9)  # B is for billions here
    if not found:
        raise argparse.ArgumentTypeError(f"{text[:80]!r}, expected a number of parameters such as 7600000000 or 7.6B")
    return found
