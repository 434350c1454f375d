"""`kullback merge`."""

from __future__ import annotations

import argparse

from kullback.cli.delivery import check_before, deliver, model_sizes


def merge(options: argparse.Namespace) -> int:
    from kullback.evaluation.merging import merge_logs, read_files
    from kullback.evaluation.table.sizes import by_candidate

    check_before(options, [*options.parts, *read_files(options.parts)])
    sizes = model_sizes(options)
    comparison = merge_logs(options.parts, partial=options.partial)
    return deliver(comparison, options, by_candidate(sizes, list(comparison)))
