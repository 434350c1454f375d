"""`kullback rollouts`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kullback.cli.delivery import ABOVE, DONE, check_before

# what the functions call it, and what it is called here
_OPTIONS = {
    "`fields={'rollout': FIELD, 'train': FIELD, 'mask': FIELD}`": "--map rollout=FIELD train=FIELD mask=FIELD",
    "`fields`": "--map",
    "`by`": "--by",
    "`part`": "--part",
    "`partial=True`": "--partial",
    "`processes`": "--processes",
    "`scheduler`": "--dask",
    "`path`": "--html",
}


def rollouts(options: argparse.Namespace) -> int:
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system
        text = str(error)
        for name, option in _OPTIONS.items():
            text = text.replace(name, option)
        raise (ValueError if isinstance(error, ValueError) else OSError)(text) from error


def _run(options: argparse.Namespace) -> int:
    from kullback.rollouts import audit_files, is_part, merge_parts

    check_before(options, options.files)
    if any(is_part(path) for path in options.files):
        report = merge_parts(options.files, partial=options.partial)
        return _deliver(report, options)
    common: dict[str, Any] = {
        "preset": options.preset, "fields": options.map, "by": options.by, "part": options.part,
    }  # fmt: skip
    if options.dask is not None:
        from kullback.rollouts import audit_on_cluster

        return _deliver(audit_on_cluster(options.files, scheduler=options.dask, **common), options)
    from kullback._engine import default_threads
    from kullback.evaluation.progress import progress

    with progress(options.quiet, unit="MiB") as shown:
        report = audit_files(
            options.files, processes=options.processes or default_threads(),
            progress=None if shown is None else lambda done, total: shown(done >> 20, total >> 20), **common,
        )  # fmt: skip
    return _deliver(report, options)


def _deliver(report: Any, options: argparse.Namespace) -> int:
    """Print and write the results."""
    from kullback.evaluation.outputs import atomic_file, show
    from kullback.evaluation.text import json_text
    from kullback.evaluation.tokens import decoder
    from kullback.rollouts import print_report, save_part

    report.show_tokens(decoder(options.tokenizer))
    if options.save:
        save_part(report, options.save)
    text = json_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"
    if options.json and options.json != "-":
        with atomic_file(options.json) as file:
            file.write(text.encode())
    if options.html:
        report.to_html(options.html)
    show(lambda: sys.stdout.write(text) if options.json == "-" else print_report(report))
    return _gate(report, options)


def _gate(report: Any, options: argparse.Namespace) -> int:
    """ABOVE if there is a finding so severe, or the KL is not shown to be small enough."""
    from kullback.evaluation.progress import say
    from kullback.rollouts import severe, too_far_apart, unseen

    why = [] if options.fail_on is None else severe(report, options.fail_on)
    if options.fail_above is not None:
        why += [line for line in [too_far_apart(report, options.fail_above)] if line]
    for line in why:
        say(line)
    beside = unseen(report)
    if not why and beside and (options.fail_on, options.fail_above) != (None, None):
        say(f"passes; {beside}")
    return ABOVE if why else DONE
