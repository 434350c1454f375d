"""What the commands share: outputs checked before the work, results delivered after it, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

DONE, ABOVE, UNUSABLE, FAILED = 0, 1, 2, 3


def reader_options(options: argparse.Namespace) -> dict[str, Any]:
    from kullback.evaluation.arguments import READER_OPTIONS

    return {name: getattr(options, name) for name in READER_OPTIONS}


def labels_of(options: argparse.Namespace) -> Any:
    """--by and --by-column as functions take them."""
    if options.by_column and options.by is None:
        raise ValueError("--by-column needs --by")
    return dict.fromkeys(options.by_column, options.by) if options.by_column else options.by


def check_before(options: argparse.Namespace, inputs: list[str | None]) -> None:
    """Refuse before hours of work what would fail after them."""
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.tokens import decoder

    names = {
        f"--{name.replace('_', '-')}": getattr(options, name, None)
        for name in ("json", "html", "markdown", "per_token", "junit", "save")
    }
    log = getattr(options, "checkpoint", None)
    models = model_files(getattr(options, "size", []))
    check_outputs(names, [path for path in (*inputs, options.tokenizer, *models) if path], options.force, log)
    wished = [f"--{name}" for name in ("junit", "annotate") if getattr(options, name, None)]
    if wished and not _conditions(options):
        raise ValueError(f"{wished[0]} needs --fail-above or --fail-if")
    if options.json == "-" and sys.__stdout__ is None:
        raise ValueError("--json - needs standard output, which is closed")
    decoder(options.tokenizer)
    if options.html:
        from kullback.evaluation.report import check_library

        check_library()


def model_files(sizes: list[tuple[str, str]]) -> list[str]:
    """The files among the sizes given, which are no outputs; a candidate has one size."""
    if len(dict(sizes)) < len(sizes):
        raise ValueError("--size is given twice for one candidate")
    return [path for _, path in sizes if os.path.exists(path)]


def model_sizes(options: argparse.Namespace, names: list[str] | None = None) -> dict[str, Any]:
    """Of candidates by name; those that are of none are an error where names are known."""
    from kullback.evaluation.table.sizes import by_candidate, measured

    found = measured(dict(options.size), options.parameters)
    return found if names is None else by_candidate(found, names)


def deliver(comparison: Any, options: argparse.Namespace, sizes: dict[str, Any]) -> int:
    """Print and write the results."""
    from kullback.evaluation.outputs import atomic_file, show
    from kullback.evaluation.parts import WorstTokens
    from kullback.evaluation.terminal import print_comparison
    from kullback.evaluation.text import json_text
    from kullback.evaluation.tokens import decoder

    decode = decoder(options.tokenizer)
    summaries = comparison.summaries
    for summary in summaries:
        worst_tokens = summary.parts.get("worst_tokens")
        if decode is not None and isinstance(worst_tokens, WorstTokens):
            worst_tokens.add_text(decode)
    tree = comparison.to_dict() | _verdict(comparison, sizes, options.margin)
    for name, one in zip(comparison, tree.get("candidates", [tree]), strict=True):
        if name in sizes:
            one["size"] = sizes[name].to_dict()
    text = json_text(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if options.json and options.json != "-":
        with atomic_file(options.json) as file:
            file.write(text.encode())
    if options.html:
        from kullback.evaluation.report import write_report

        write_report(comparison, options.html, sizes=sizes, frontier=options.frontier, margin=options.margin)
    if options.markdown:
        with atomic_file(options.markdown) as file:
            file.write(_markdown(comparison, sizes, options.margin).encode())
    show(
        lambda: (
            sys.stdout.write(text) if options.json == "-" else print_comparison(comparison, None, sizes, options.margin)
        )
    )
    return _gate(comparison, options)


def _verdict(comparison: Any, sizes: dict[str, Any], margin: float | None) -> dict[str, Any]:
    """What the JSON has more by the rule with a margin."""
    from kullback.evaluation.ranking import rank
    from kullback.evaluation.verdict import verdict_tree

    if margin is None or len(comparison) < 2:
        return {}
    bytes_of = {name: size.bytes for name, size in sizes.items()}
    return {"verdict": verdict_tree(comparison, rank(comparison, margin), bytes_of)}


def _markdown(comparison: Any, sizes: dict[str, Any], margin: float | None) -> str:
    """Several candidates as `kullback table` shows them; of a single one the figures of its summary."""
    from kullback.evaluation.marks import marked
    from kullback.evaluation.table import table_of

    if len(comparison) > 1:
        return table_of(comparison, sizes=sizes, margin=margin).to_markdown()
    return marked(comparison.summaries[0].to_markdown())


def _gate(comparison: Any, options: argparse.Namespace) -> int:
    """ABOVE unless every figure that a condition names is known, and none meets it."""
    from kullback.evaluation import gate_verdicts as gates
    from kullback.evaluation.gates import check_names
    from kullback.evaluation.outputs import atomic_file
    from kullback.evaluation.progress import say
    from kullback.evaluation.terminal import side_labels

    check_names(options.fail_if, list(comparison))
    found = gates.verdicts(_conditions(options), comparison)
    base, _ = side_labels(comparison.summaries)
    if options.junit:
        with atomic_file(options.junit) as file:
            file.write(gates.junit(found, f"kullback compare {base}"))
    failed = [verdict for verdict in found if not verdict.passed]
    for verdict in failed:
        say(verdict.message)
    for line in gates.github_lines(failed) if options.annotate else ():
        print(line, file=sys.stderr)
    return ABOVE if failed else DONE


def _conditions(options: argparse.Namespace) -> list[Any]:
    from kullback.evaluation.gates import Condition

    if options.fail_above is None:
        return list(options.fail_if)
    most = options.fail_above
    return [Condition(f"kl.mean > {most:g}", "", "kl", "mean", "", ">", most), *options.fail_if]
