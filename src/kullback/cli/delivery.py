"""What the commands share: outputs checked before the work, results delivered after it, exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

DONE, ABOVE, UNUSABLE, FAILED = 0, 1, 2, 3


def reader_options(options: argparse.Namespace) -> dict[str, Any]:
    from kullback.evaluation.arguments import READER_OPTIONS

    return {name: getattr(options, name) for name in READER_OPTIONS}


def check_before(options: argparse.Namespace, inputs: list[str | None]) -> None:
    """Refuse before hours of work what would fail after them."""
    from kullback.evaluation.outputs import check_outputs
    from kullback.evaluation.tokens import decoder

    names = {
        f"--{name.replace('_', '-')}": getattr(options, name, None) for name in ("json", "html", "per_token", "save")
    }
    log = getattr(options, "checkpoint", None)
    check_outputs(names, [path for path in (*inputs, options.tokenizer) if path], options.force, log)
    if options.json == "-" and sys.__stdout__ is None:
        raise ValueError("--json - needs standard output, which is closed")
    decoder(options.tokenizer)
    if options.html:
        from kullback.evaluation.report import check_library

        check_library()


def deliver(summaries: list[Any], options: argparse.Namespace) -> int:
    """Print and write the results."""
    from kullback.evaluation.outputs import atomic_file, show
    from kullback.evaluation.parts import WorstTokens
    from kullback.evaluation.terminal import print_summaries
    from kullback.evaluation.text import json_text
    from kullback.evaluation.tokens import decoder

    decode = decoder(options.tokenizer)
    for summary in summaries:
        worst_tokens = summary.parts.get("worst_tokens")
        if decode is not None and isinstance(worst_tokens, WorstTokens):
            worst_tokens.add_text(decode)
    trees = [summary.to_dict() for summary in summaries]
    tree = trees[0] if len(trees) == 1 else {"p": trees[0].get("p"), "candidates": trees}
    text = json_text(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if options.json and options.json != "-":
        with atomic_file(options.json) as file:
            file.write(text.encode())
    if options.html:
        from kullback.evaluation.report import write_report

        write_report(summaries, options.html)
    show(lambda: sys.stdout.write(text) if options.json == "-" else print_summaries(summaries))
    return DONE if options.fail_above is None else _gate(summaries, options.fail_above)


def _gate(summaries: list[Any], most: float) -> int:
    """ABOVE unless KL(p‖q) of every candidate is known for every row and at most `most`."""
    from kullback.evaluation.progress import say
    from kullback.evaluation.terminal import side_labels

    code = DONE
    for summary, name in zip(summaries, side_labels(summaries)[1], strict=True):
        whose = f"{name}: " if len(summaries) > 1 else ""
        mean, undefined = summary.kl.mean, summary.kl.undefined
        if mean > most:
            say(f"{whose}KL(p‖q) is {mean:.6g}, above {most:g}")
        elif undefined or not mean <= most:
            rows = f"{undefined} of {summary.tokens} rows have no distribution" if undefined else "there are no rows"
            say(f"{whose}KL(p‖q) is not known to be at most {most:g}: {rows}")
        else:
            continue
        code = ABOVE
    return code
